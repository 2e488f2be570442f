"""The tables of the emission programme."""

from __future__ import annotations

from nalspark.tables.schemas import PART as _PART
from nalspark.tables.schemas import SECOND_STAGE_COLUMNS
from nalspark.tables.table import Column, Table

_DETECTION_ID = Column("detection_id", "string", "Name of the detection", ucd="meta.id;meta.main")
_CLASS = Column("class", "int", "Visual class: -2 bad amplifier … 2 possibly spurious, 3 possibly real … 5 confidently real; null for none")
_PLANE = "significance per pixel; 9 neighbouring fibers, one row each, and 32 columns of 2 Å"
DETECTIONS = Table(
    "detections",
    "One row per detection of an emission line: where it is, and its cut-outs.",
    (
        _DETECTION_ID,
        _PART,
        Column("frame", "string", "The frame or file it comes from", ucd="meta.file"),
        Column("fiber", "int", "Row of its brightest fiber in the frame, from 0; null for a ready cut-out", ucd="meta.number"),
        Column("wavelength", "double", "Where the line was found, observed; null for a ready cut-out", "Angstrom", "em.wl"),
        _CLASS,
        Column("label", "float", "1: the class says real; 0: it says fake", ucd="meta.code"),
        Column("draw", "double", "Uniform in [0, 1), a function of detection_id: bootstrap draws choose negatives by it"),
        Column("kind", "string", "What was simulated; empty for a real detection", ucd="meta.code"),
        Column("snr", "float", "Signal-to-noise ratio of a line of the instrument's width in the weighted sum", ucd="stat.snr"),
        Column("cutout_flags", "int", "Bits of CutoutFlag; 0: nothing to remark", ucd="meta.code.qual"),
        Column("weighted_sum", "pixels<f4>", f"Sum of the fibers weighted with their signal: {_PLANE}"),
        *(Column(f"fiber_{k}", "pixels<f4>", f"The fiber that is {k}. in brightness: {_PLANE}") for k in (1, 2, 3, 4)),
    ),
).rejectable()

REJECTED = Table(
    "rejected_detections",
    "One row per detection that could not be classified, with the reason.",
    DETECTIONS.select("detection_id", "frame", "fiber", "wavelength", "reason", "detail"),
)

CLASSIFIED = Table(
    "classified",
    "One row per detection of an emission line: what both stages of the selection say of it.",
    (
        _DETECTION_ID,
        _PART,
        *DETECTIONS.select("frame", "fiber", "wavelength", "class", "kind", "snr", "cutout_flags"),
        Column("score", "float", "Calibrated probability, from the network, that the line is real", ucd="stat.probability"),
        *SECOND_STAGE_COLUMNS,
    ),
)
