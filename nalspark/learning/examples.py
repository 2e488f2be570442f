"""What a network learns from: a description of a training table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Examples:
    """A training table.

    Attributes
    ----------
    files : mapping
        Split → its Parquet files.
    columns : tuple of str
        Binary float32 columns, in the order of the network's channels.
    shape : tuple of int
        Of one column's value.
    grid, species : str
        What the examples are on, and of; a model is refused for anything else.
    digest : str
        Of the table.
    revisions : mapping
        Stage → its revision, of every stage that the examples went through.
    overrepresented : float
        How many times as frequent as in what is to be scored positives are among the examples to calibrate and test with.
    least_to_calibrate : int
        Positives, and negatives, that the examples to calibrate with must have. With fewer the calibration is that of the model that was
        started from, else none.
    sections : tuple of str
        Settings that the examples and the model come from: what its card says of them.
    """

    files: Mapping[str, tuple[str, ...]]
    columns: tuple[str, ...]
    shape: tuple[int, ...]
    grid: str
    species: str
    digest: str
    revisions: Mapping[str, int] = field(default_factory=dict)
    overrepresented: float = 1.0
    least_to_calibrate: int = 0
    sections: tuple[str, ...] = ("simulate", "train", "search", "preprocess")
