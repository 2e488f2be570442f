"""The emission programme as Spark stages: simulate, cut out, classify. Each is a function of data frames and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nalspark.emission import inject
from nalspark.emission.cutouts import FIBERS, Cutouts, assemble, brightest_fibers, cut, faults, standardize
from nalspark.emission.frames import (
    CUTOUT_SHAPE,
    FIRST_REAL_CLASS,
    FIRST_WAVELENGTH,
    LAST_WAVELENGTH,
    PLANES,
    STEP,
    read_cutouts,
    read_detections,
    significance_frame,
)
from nalspark.emission.settings import EmissionSettings
from nalspark.emission.tables import CLASSIFIED, DETECTIONS
from nalspark.errors import UnusableSpectrum, internal_error
from nalspark.learning.ensemble import FittedSecondStage
from nalspark.learning.inference import score, second_stage_columns
from nalspark.learning.models import PackedModel
from nalspark.tables.arrow import Columns, map_arrays, numbered
from nalspark.tables.table import Column, Table

Frames = Mapping[str, np.ndarray]
#: Reason and sentence; None for a usable row.
Fault = tuple[str, str] | None

#: Detections that a task simulates.
_ROWS_PER_TASK = 1000
#: What a simulated detection is made from.
_NAMES = Table("detection_names", "Names of simulated detections.", DETECTIONS.select("detection_id", "part"))
#: What is looked for in a frame.
_PLACES = Table(
    "places",
    "Detections to cut out, as their lists have them.",
    (
        *DETECTIONS.select("detection_id", "part", "frame", "wavelength"),
        Column("fiber", "double", "Row of the frame; what is no whole number is none"),
        Column("class", "double", "Visual class; what is none of them is a fault"),
    ),
)
_FILES = Table("files", "Lists of detections, or files of ready cut-outs.", (Column("path", "string", "The file"),))
#: The part of real detections; those of simulated ones are called ``<split>-<number>``.
FOUND = "found"


def split_of(part: str) -> str:
    """Give the split of a part of simulated detections; of the part :data:`FOUND` it is its name."""
    return part.partition("-")[0]


# ---- simulate


def parts_of(settings: EmissionSettings) -> dict[str, int]:
    """Give part (``<split>-<number>``) → its rows."""
    chosen = settings.emission
    share, size = chosen.n_train // 8, chosen.rows_per_part
    rows = {"train": chosen.n_train, "validation": share, "calibration": share, "test": share}
    rows |= {"reference": chosen.n_reference, "held_out": chosen.n_held_out}
    return {f"{split}-{start // size:05d}": min(size, n - start) for split, n in rows.items() for start in range(0, n, size)}


def _cutout_columns(names: np.ndarray, cutouts: Cutouts) -> Columns:
    planes = {name: cutouts.images[:, k].reshape(len(names), -1) for k, name in enumerate(PLANES)}
    draws = np.array([inject.generator("draw", name).random() for name in names])
    return {"detection_id": names, "draw": draws, "snr": cutouts.snr, "cutout_flags": cutouts.flags, **planes}


def _labels(classes: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(classes), np.nan, classes >= FIRST_REAL_CLASS)


def simulate_columns(columns: Columns, frames: Frames, seed: int) -> Columns:
    """Names → rows of DETECTIONS; a detection's frame and all else follow from its name."""
    names, parts = columns["detection_id"], columns["part"]
    frame = np.array([sorted(frames)[int(inject.generator("frame", name).integers(len(frames)))] for name in names], dtype=object)
    split = np.array([split_of(part) for part in parts], dtype=object)
    made = []
    for which, where in sorted(set(zip(split, frame, strict=True))):
        rows = np.flatnonzero((split == which) & (frame == where))
        block = inject.BLOCK_OF_SPLIT[which]
        classes = inject.ALL_CLASSES if which in ("reference", "held_out") else inject.LEARNED_CLASSES
        found = inject.simulate(list(names[rows]), frames[where], block, classes, seed)
        made.append(
            {
                **{"part": parts[rows], "frame": frame[rows], "fiber": found.fiber},
                "wavelength": FIRST_WAVELENGTH + STEP * found.column,
                "class": found.classes,
                "label": _labels(found.classes.astype(float)),
                "kind": found.kinds,
                **_cutout_columns(names[rows], found),
            }
        )
    return {name: np.concatenate([some[name] for some in made]) for name in made[0]}


def simulate(spark: SparkSession, parts: Mapping[str, int], frames: Frames, seed: int) -> DataFrame:
    """Simulate detections: part → how many; rows of DETECTIONS."""
    names = numbered(spark, {part: range(n) for part, n in parts.items()}, _ROWS_PER_TASK)
    names = names.select(F.concat_ws("-", "part", "number").alias("detection_id"), "part")
    return map_arrays(names, partial(simulate_columns, frames=frames, seed=seed), _NAMES, DETECTIONS)


# ---- cut out


def cut_columns(columns: Columns, root: Mapping[str, str]) -> Columns:
    """Rows of a list of detections → rows of DETECTIONS, with a reason where there is nothing to cut."""
    n = len(columns["detection_id"])
    fibers = np.full((n, FIBERS, *CUTOUT_SHAPE), np.nan, np.float32)
    flags, reasons = np.zeros(n, np.int32), list[Fault](None for _ in range(n))
    for name in sorted(set(columns["frame"])):
        rows = np.flatnonzero(columns["frame"] == name)
        try:
            frame = _significances(name, root)
        except UnusableSpectrum as error:
            for row in rows:
                reasons[row] = (error.reason, error.detail)
            continue
        fiber, wavelength = columns["fiber"][rows].astype(float), columns["wavelength"][rows].astype(float)
        inside = (fiber >= 0) & (fiber < len(frame)) & (fiber % 1 == 0) & (wavelength >= FIRST_WAVELENGTH) & (wavelength <= LAST_WAVELENGTH)
        for row in rows[~inside]:
            reasons[row] = ("outside_frame", f"Fiber {columns['fiber'][row]}, {columns['wavelength'][row]} Å is not in '{name}'.")
        own, column = fiber[inside].astype(np.int64), np.rint((wavelength[inside] - FIRST_WAVELENGTH) / STEP).astype(np.int64)
        fibers[rows[inside]], flags[rows[inside]] = cut(frame, brightest_fibers(frame, own, column), column)
    return _rows(columns, assemble(fibers, flags), reasons)


def _significances(name: str, root: Mapping[str, str]) -> np.ndarray:
    """Read a frame of a run by its name; what nobody foresaw is a fault of nalspark, and no end of the run."""
    if name not in root:
        raise UnusableSpectrum("frame_unknown", f"No frame '{name}' is among emission.frames.")
    try:
        return significance_frame(root[name])[0]
    except UnusableSpectrum:
        raise
    except Exception as error:
        raise internal_error(name, error) from error


def _rows(columns: Columns, cutouts: Cutouts, reasons: list[Fault]) -> Columns:
    """Rows of DETECTIONS with what is wrong with them."""
    classes = np.asarray(columns["class"], dtype=float)
    for row, fault in enumerate(faults(cutouts.images, classes)):
        reasons[row] = reasons[row] or fault
    usable = np.array([reason is None for reason in reasons], dtype=bool)
    found = _cutout_columns(columns["detection_id"], cutouts)
    for name in PLANES:
        found[name] = [plane if keep else None for plane, keep in zip(found[name], usable, strict=True)]
    return {
        **{name: columns[name] for name in ("part", "frame", "fiber", "wavelength") if name in columns},
        "class": np.where(np.isin(classes, list(inject.ALL_CLASSES)), classes, np.nan),
        "label": np.where(usable, _labels(classes), np.nan),
        "kind": np.full(len(classes), "", dtype=object),
        **found,
        "reason": np.array([reason and reason[0] for reason in reasons], dtype=object),
        "detail": np.array([reason and reason[1] for reason in reasons], dtype=object),
    }


def _place_columns(columns: Columns) -> Columns:
    places = pd.concat([read_detections(path) for path in columns["path"]])
    return {"part": np.full(len(places), FOUND, object), **{name: places[name].to_numpy() for name in places}}


def cut_detections(spark: SparkSession, settings: EmissionSettings) -> DataFrame:
    """Cut the detections of a run's lists out of its frames: every row comes back, some with a reason."""
    root = {path.rpartition("/")[2]: path for path in settings.emission.frames}
    places = map_arrays(_files(spark, settings.emission.detections), _place_columns, _FILES, _PLACES)
    # A frame is read once: its detections come together.
    return map_arrays(places.repartition(F.col("frame")), partial(cut_columns, root=root), _PLACES, DETECTIONS)


def _files(spark: SparkSession, paths: Sequence[str]) -> DataFrame:
    return spark.createDataFrame([(path,) for path in paths], _FILES.spark_schema)


def _ready_columns(columns: Columns) -> Columns:
    made = []
    for path in columns["path"]:
        names, images, classes = read_cutouts(path)
        own = images[:, -FIBERS:]
        cutouts = assemble(standardize(np.nan_to_num(own, posinf=0.0, neginf=0.0)))
        carried = {"part": FOUND, "frame": path.rpartition("/")[2]}
        rows = {name: np.full(len(names), value, object) for name, value in carried.items()}
        made.append(_rows({"detection_id": np.array(names, dtype=object), **rows, "class": classes}, cutouts, faults(own, classes)))
    return {name: [cell for some in made for cell in some[name]] for name in made[0]}


def found_detections(spark: SparkSession, settings: EmissionSettings) -> DataFrame:
    """Give all detections that a run names, from lists and ready cut-outs, as DETECTIONS: in our unit, some with a reason."""
    ready = map_arrays(_files(spark, settings.emission.cutouts), _ready_columns, _FILES, DETECTIONS)
    return cut_detections(spark, settings).unionByName(ready)


# ---- classify


def classify_columns(columns: Columns, packed: PackedModel, second: FittedSecondStage, batch_size: int) -> Columns:
    """Scored rows of DETECTIONS → rows of CLASSIFIED."""
    carried = {name: columns[name] for name in CLASSIFIED.names if name in columns}
    return {**carried, **second_stage_columns(columns, packed, second, batch_size)}


def classify(detections: DataFrame, packed: PackedModel, second: FittedSecondStage, settings: EmissionSettings) -> DataFrame:
    """Let both stages of the selection decide on detections.

    Parameters
    ----------
    detections : DataFrame of DETECTIONS, usable rows only
    packed : PackedModel
    second : FittedSecondStage
    settings : EmissionSettings

    Returns
    -------
    DataFrame of CLASSIFIED, as many rows
    """
    scored = score(detections, packed, settings.infer)
    work: Any = partial(classify_columns, packed=packed, second=second, batch_size=settings.infer.batch_size)
    return map_arrays(scored, work, DETECTIONS, CLASSIFIED)
