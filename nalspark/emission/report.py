"""What a selection did, as text: its result as Sakai (2020) shows it, and what it found."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nalspark.emission.frames import CLASSES, FIRST_REAL_CLASS
from nalspark.emission.stages import FOUND
from nalspark.emission.tables import CLASSIFIED, DETECTIONS
from nalspark.learning.ensemble import BANDS, selection_quality
from nalspark.metrics import bootstrap_errors
from nalspark.plots.evaluation import Sheet, as_text
from nalspark.tables.manifest import Part
from nalspark.tables.store import Store

#: The same rows in Sakai (2020): detections and fraction of fakes of each band.
_SLIDES_BANDS = {"discard": (18200, 0.9884), "reclassify": (17448, 0.7740), "keep": (35029, 0.0485), "all": (70677, 0.4696)}
#: Completeness, contamination and figure of merit of the selections there.
_SLIDES = {"all": "100.00% / 46.96% / 0.530", "both": "91.48% / 5.73% / 0.862"}
#: What the survey's cosmology asks for.
GOAL = 0.94


def result_text(table: pd.DataFrame, threshold: float, draws: int = 200) -> str:
    """Write bands, classes, selections and their figures of merit, with bootstrap errors, as text.

    Parameters
    ----------
    table : DataFrame of CLASSIFIED
        Of detections whose classes are known.
    threshold : float
        The network's best single threshold, chosen on other detections.
    draws : int
        Of the bootstrap.
    """
    return "\n\n".join(as_text(sheet) for sheet in (_bands(table), _classes(table, threshold), _selections(table, threshold, draws)))


def _bands(table: pd.DataFrame) -> Sheet:
    rows = []
    for band, (number, fakes) in _SLIDES_BANDS.items():
        mine = table["class"] if band == "all" else table.loc[table["band"] == band, "class"]
        ours = f"{100 * (mine < FIRST_REAL_CLASS).mean():.2f}%" if len(mine) else ""
        rows.append([band, str(len(mine)), ours, str(number), f"{100 * fakes:.2f}%", *(str((mine == value).sum()) for value in CLASSES)])
    return Sheet("Bands", ["band", "#number", "#fakes", "#slides", "#fakes", *(f"#class {value}" for value in CLASSES)], rows)


def _classes(table: pd.DataFrame, threshold: float) -> Sheet:
    rows = []
    for value, meaning in CLASSES.items():
        mine = table[table["class"] == value]
        if len(mine):
            accepted = [f"{100 * part.mean():.1f}%" for part in (mine["score"] >= threshold, mine["accepted"])]
            rows.append([str(value), meaning, str(len(mine)), *accepted])
    return Sheet("Classes", ["#class", "", "#number", "#accepted by the network", "#after both stages"], rows)


def _selections(table: pd.DataFrame, threshold: float, draws: int) -> Sheet:
    def qualities(label: NDArray, network: NDArray, both: NDArray) -> dict[str, float]:
        """Of all detections, of the network alone, of both stages, and what the second-stage classifier gains."""
        chosen = {"all": np.ones(len(label), dtype=bool), "network": network, "both": both}
        found = {f"{name} {key}": value for name, which in chosen.items() for key, value in selection_quality(label, which).items()}
        return {**found, "gain": found["both figure_of_merit"] - found["network figure_of_merit"]}

    decided = (table["class"] >= FIRST_REAL_CLASS, table["score"] >= threshold, table["accepted"])
    columns = [column.to_numpy(dtype=bool) for column in decided]
    values, errors = qualities(*columns), bootstrap_errors(qualities, *columns, draws=draws)
    names = {"all": "detections as they come", "network": f"network, score above {threshold:.3f}", "both": "network + UMAP + SVM"}
    rows = []
    for name, title in names.items():
        rates = [f"{100 * values[key]:.2f} ± {100 * errors[key]:.2f}%" for key in (f"{name} completeness", f"{name} contamination")]
        merit = f"{values[f'{name} figure_of_merit']:.4f} ± {errors[f'{name} figure_of_merit']:.4f}"
        rows.append([title, *rates, merit, _SLIDES.get(name, "")])
    met = "reached" if values["both figure_of_merit"] >= GOAL else "not reached"
    note = (
        f"The second-stage classifier changes the figure of merit by {values['gain']:+.4f} ± {errors['gain']:.4f}. Figure of merit: "
        "completeness x (1 - contamination), what is left of the clustering signal and of the number of galaxies. "
        f"The survey's cosmology asks for {GOAL}: {met}."
    )
    return Sheet("Selections", ["selection", "#completeness", "#contamination", "#figure of merit", "#slides"], rows, note)


def found_text(store: Store) -> str:
    """Tell what was found of the detections that a run names, what was rejected and why, and where it lies."""
    manifest = store.manifest()
    detections, classified = (manifest.parts(table.name)[FOUND] for table in (DETECTIONS, CLASSIFIED))
    counts = _count(store, classified, "band", "accepted")
    bands = {name: sum(count for (band, _), count in counts.items() if band == name) for name in BANDS}
    accepted = sum(count for (_, yes), count in counts.items() if yes)
    reasons = _count(store, detections, "reason")
    return "\n".join(
        [
            f"{counts.total()} detections: " + ", ".join(f"{count} {band}" for band, count in bands.items()),
            f"{accepted} accepted; {detections.rejected} rejected:",
            *(f"  {count} {reason}" for (reason,), count in sorted(reasons.items(), key=str) if reason),
            f"catalogue   {store.published('classified.fits')}",
            f"rejected    {store.published('rejected_detections.parquet')}, with reasons",
        ]
    )


def _count(store: Store, part: Part, *columns: str) -> Counter[tuple[Any, ...]]:
    """Count the combinations of values of some columns in a part, a batch of rows at a time."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for file in store.files(part) if part.path else ():
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(columns=list(columns)):
                counts.update(zip(*(batch.column(name).to_pylist() for name in columns), strict=True))
    return counts
