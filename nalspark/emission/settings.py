"""The settings of the emission programme, beside those that it shares."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from nalspark.settings import Section, Settings, load


class Emission(Section):
    """Detections of emission lines (HETDEX)."""

    frames: tuple[str, ...] = ()
    """VIRUS fiber-spectra frames, each with its error frame `e.<name>` beside it. Noise to simulate on, and what detections lie in; empty
    for parametric noise."""
    detections: tuple[str, ...] = ()
    """Lists of detections in these frames: frame, fiber (row, from 0), wavelength (Å)."""
    cutouts: tuple[str, ...] = ()
    """Ready cut-outs to classify: Parquet, HDF5 or FITS cubes."""
    labels: str = ""
    """Visual classes: a table of detection_id, reviewer, class, time, or a folder of reviewers' journals."""
    consensus: Literal["median", "majority", "unanimous"] = "median"
    """Class of a detection that several people looked at: the median, the most frequent, or only one that all agree on."""
    n_train: Annotated[int, Field(ge=100)] = 24_000
    """Simulated detections of classes 0, 1, 4, 5 to train the network on, half of them real; a quarter more to stop by and to calibrate."""
    n_reference: Annotated[int, Field(ge=100)] = 20_000
    """Simulated detections of all classes to choose the bands by and to fit the second-stage classifier to."""
    n_held_out: Annotated[int, Field(ge=100)] = 24_000
    """Simulated detections of all classes that judge the selection."""
    rows_per_part: Annotated[int, Field(ge=50)] = 3_000
    """Detections that are simulated and recorded together."""
    seed: int = 1
    """Random seed of the simulated detections."""
    model: str = ""
    """Directory of a trained selection to classify with; empty for the one in this run's own directory."""


class EmissionSettings(Settings):
    """One run of the emission programme."""

    emission: Emission = Emission()


def load_run(path: str | Path | None = None, overrides: Iterable[str] = (), **values: Any) -> EmissionSettings:
    """Read the settings of a run of this programme, as :func:`nalspark.settings.load` does."""
    return cast(EmissionSettings, load(path, overrides, EmissionSettings, **values))
