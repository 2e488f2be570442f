"""Simulated detections as a training leaves them, written without Spark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from make_review import write_part

from nalspark.emission.inject import parametric_frame
from nalspark.emission.stages import simulate_columns
from nalspark.emission.tables import CLASSIFIED, DETECTIONS
from nalspark.tables.arrow import objects
from nalspark.tables.manifest import Manifest, write_manifest


def write_detections(folder: Path, n: int) -> Path:
    """Simulated detections with scores drawn by chance."""
    part, rng = "held_out-00000", np.random.default_rng(1)
    names = {"detection_id": objects([f"{part}-{row}" for row in range(n)]), "part": objects([part] * n)}
    detections = {**simulate_columns(names, {"simulated": parametric_frame(90, 300)}, 1)} | names
    said = {"score": rng.random(n), "accepted": rng.random(n) > 0.5, "band": objects(["keep"] * n)}
    written = {table.name: {part: write_part(folder, table, part, detections | said)} for table in (DETECTIONS, CLASSIFIED)}
    write_manifest(Manifest(tables=written), folder / "manifest.json")
    return folder
