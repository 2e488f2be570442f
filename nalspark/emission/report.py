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
from nalspark.tables.manifest import Part
from nalspark.tables.store import Store

#: The same rows in Sakai (2020): detections and fraction of fakes of each band; completeness and contamination of the selections.
_SLIDES_BANDS = {"discard": (18200, 0.9884), "reclassify": (17448, 0.7740), "keep": (35029, 0.0485)}
_SLIDES = {"all": (1.0, 0.4696), "both": (0.9148, 0.0573)}
#: What the survey's cosmology asks for.
GOAL = 0.94


def _qualities(label: NDArray, score: NDArray, accepted: NDArray, threshold: float) -> dict[str, float]:
    """Of all detections, of the network alone, of both stages, and what the second-stage classifier gains."""
    chosen = {"all": np.ones(len(label), dtype=bool), "network": score >= threshold, "both": accepted}
    found = {f"{name} {key}": value for name, which in chosen.items() for key, value in selection_quality(label, which).items()}
    return {**found, "gain": found["both figure_of_merit"] - found["network figure_of_merit"]}


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
    label = (table["class"] >= FIRST_REAL_CLASS).to_numpy()
    columns = label, table["score"].to_numpy(dtype=float), table["accepted"].to_numpy(dtype=bool)
    values = _qualities(*columns, threshold)
    errors = bootstrap_errors(lambda y, score, chosen: _qualities(y, score, chosen, threshold), *columns, draws=draws)
    lines = [*_band_lines(table, label), "", *_class_lines(table, threshold), "", *_selection_lines(values, errors, threshold)]
    return "\n".join(lines)


def _band_lines(table: pd.DataFrame, label: NDArray[np.bool_]) -> list[str]:
    heads = "".join(f"{number:>7}" for number in CLASSES)
    lines = [f"{'band':<12}{'number':>8}{'fakes':>9}   {'slides':>16}   class:{heads}"]
    for band in (*BANDS, "all"):
        mine = np.ones(len(table), dtype=bool) if band == "all" else (table["band"] == band).to_numpy()
        fakes = f"{100 * (1 - label[mine].mean()):8.2f}%" if mine.any() else f"{'':>9}"
        number, contamination = _SLIDES_BANDS.get(band, (70677, 0.4696))
        counts = "".join(f"{((table['class'] == value).to_numpy() & mine).sum():>7}" for value in CLASSES)
        lines.append(f"{band:<12}{mine.sum():>8}{fakes}   {number:>8}{100 * contamination:7.2f}%         {counts}")
    return lines


def _class_lines(table: pd.DataFrame, threshold: float) -> list[str]:
    lines = [f"{'class':<24}{'number':>8}{'accepted by the network':>26}{'by both rounds':>18}"]
    for value, meaning in CLASSES.items():
        mine = table[table["class"] == value]
        if len(mine):
            alone, both = (mine["score"] >= threshold).mean(), mine["accepted"].mean()
            lines.append(f"{value:>3} {meaning:<20}{len(mine):>8}{100 * alone:>25.1f}%{100 * both:>17.1f}%")
    return lines


def _selection_lines(values: dict[str, float], errors: dict[str, float], threshold: float) -> list[str]:
    names = {"all": "detections as they come", "network": f"network, score above {threshold:.3f}", "both": "network + UMAP + SVM"}
    lines = [f"{'selection':<30}{'completeness':>18}{'contamination':>18}{'figure of merit':>20}{'slides':>26}"]
    for name, title in names.items():
        cells = [
            f"{100 * values[f'{name} {key}']:8.2f} ± {100 * errors[f'{name} {key}']:.2f}%" for key in ("completeness", "contamination")
        ]
        merit = f"{values[f'{name} figure_of_merit']:.4f} ± {errors[f'{name} figure_of_merit']:.4f}"
        known = _SLIDES.get(name)
        slides = f"{100 * known[0]:.2f}% / {100 * known[1]:.2f}% / {known[0] * (1 - known[1]):.3f}" if known else ""
        lines.append(f"{title:<30}{cells[0]:>18}{cells[1]:>18}{merit:>20}{slides:>26}")
    lines.append(f"the second-stage classifier changes the figure of merit by {values['gain']:+.4f} ± {errors['gain']:.4f}")
    lines.append(
        "figure of merit: completeness x (1 - contamination), what is left of the clustering signal and of the number of galaxies;"
    )
    met = "reached" if values["both figure_of_merit"] >= GOAL else "not reached"
    lines.append(f"the survey's cosmology asks for {GOAL}: {met}")
    return lines


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
            f"classified  {store.root / classified.path}",
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
