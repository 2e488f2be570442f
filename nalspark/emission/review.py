"""Detections as they are reviewed: which, what may be said of them, and the pictures that the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nalspark.emission.cutouts import CutoutFlag
from nalspark.emission.frames import CLASSES, CUTOUT_SHAPE, FIRST_REAL_CLASS, PLANES, STEP
from nalspark.emission.tables import CLASSIFIED, DETECTIONS
from nalspark.errors import StoreError
from nalspark.review.choose import choose, present
from nalspark.review.exhibits import Choice, Exhibits
from nalspark.review.journal import Subject
from nalspark.review.rows import Rows
from nalspark.tables.result import open_parquet
from nalspark.tables.store import Store

#: Negative classes have no digit of their own on a keyboard.
_KEYS = {-2: "q", -1: "w"}
#: What the selection says of a detection, what it was simulated as, the class that somebody gave it, and remarks on its pixels.
HIDDEN = frozenset({"score", "band", "umap_x", "umap_y", "svm_margin", "accepted", "kind", "class", "cutout_flags"})
_NAMES = ("weighted sum", "fiber 1, the brightest", "fiber 2", "fiber 3", "fiber 4")
_SCRIPT = Path(__file__).parent / "static" / "emission.js"


def _tone(value: int) -> str:
    return "no" if value <= 0 else "yes" if value >= FIRST_REAL_CLASS else "doubt"


CHOICES = tuple(
    Choice(str(value), _KEYS.get(value, str(value)), f"{value} {text}".replace("-", "−"), _tone(value)) for value, text in CLASSES.items()
)


def detection_exhibits(folder: str | Path, select: str = "", sample: int | None = None, by_score: bool = False) -> Exhibits:
    """Open the detections of a result for a review.

    Parameters
    ----------
    folder : path
        The output directory of ``nalspark emission run``, ``train`` or ``demo``.
    select, sample, by_score
        As :func:`nalspark.review.choose.choose` takes them; columns are those of CLASSIFIED.

    Raises
    ------
    StoreError
        Where nothing was classified there.
    SettingsError
        Where `select` is no condition.
    NalsparkError
        Where no row is left, or too many are.
    """
    store = Store(folder)
    manifest = store.manifest()
    parts = [part for _, part in sorted(manifest.parts(CLASSIFIED.name).items()) if part.path]
    if not parts:
        raise StoreError(f"{store.root} has no classified detections. Name the `out` of `nalspark emission run` or `train`.")
    dataset = open_parquet([file for part in parts for file in store.files(part)])
    pixels = Rows(store, manifest, DETECTIONS, ("detection_id",), ("detection_id", *PLANES))
    return Exhibits(
        programme="emission",
        title=f"detections of {store.root.name}",
        classes=CHOICES,
        rows=choose(dataset, CLASSIFIED, ("detection_id",), select, sample, "score" if by_score else ""),
        columns=present(dataset, CLASSIFIED),
        first=("wavelength", "frame", "fiber", "snr", "score", "band", "accepted", "class", "kind"),
        hidden=HIDDEN,
        bits={"cutout_flags": CutoutFlag},
        identity=("detection_id",),
        subject=lambda row: Subject(row["detection_id"]),
        draw=lambda row: drawn(pixels.one(row["part"], row["detection_id"]).to_pylist()[0]),
        script=_SCRIPT,
    )


def drawn(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the page draws of a row of DETECTIONS: its planes, significances row by row from below, and the columns' places (Å)."""
    planes = [np.frombuffer(row[name], "<f4").reshape(CUTOUT_SHAPE) for name in PLANES]
    offset = STEP * (np.arange(CUTOUT_SHAPE[1]) - CUTOUT_SHAPE[1] // 2)
    return {
        "planes": [{"name": name, "rows": _rounded(plane)} for name, plane in zip(_NAMES, planes, strict=True)],
        "offset": offset.tolist(),
    }


def _rounded(plane: np.ndarray) -> list[list[float]]:
    return np.round(np.nan_to_num(plane.astype(float), posinf=0.0, neginf=0.0), 2).tolist()
