"""The completeness function: which fraction of the absorbers of an equivalent width, in a place of a sensitivity, the catalogue has.

It is measured with absorbers put into the run's own spectra (:mod:`nalspark.judging.injections`). What matters most is W / σ_W, the
strength over the error of the sightline there. Strong absorbers are wider than the line that σ_W is given for, so the function is measured
in classes of W, in each of which it is made monotone in W / σ_W (pool adjacent violators), and interpolated between their middles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.isotonic import IsotonicRegression

from nalspark import metrics
from nalspark.errors import NalsparkError

Array = NDArray[np.float64]
Columns = Mapping[str, Any]

#: Classes of W (Å) in which the function is measured, and the one class of what is told besides.
EW_CLASSES, ONE_CLASS = (0.0, 0.4, 0.8, 1.5, np.inf), (0.0, np.inf)
#: Bins of W / σ_W, and of what it is told by besides: W (Å), redshift, S/N of the spectrum.
BINS = {
    "significance": np.concatenate([[0.0], np.geomspace(1.5, 60.0, 19), [np.inf]]),
    "ew": np.array([0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, np.inf]),
    "z": np.round(np.arange(0.2, 2.81, 0.2), 1),
    "snr": np.array([0.0, 2.0, 4.0, 6.0, 10.0, 20.0, np.inf]),
}
#: Columns of INJECTIONS that are counted.
COUNTED = ("ew_primary", "sigma_ew", "z_abs", "snr", "blended", "found")
#: In which sums are kept, and the greatest W / σ_W that is told apart.
_UNIT, _MOST = 1e-6, 1e4
#: Absorbers that a class of W must have got to be measured.
_LEAST = 50


@dataclass(frozen=True)
class CompletenessFunction:
    """C(W, σ_W): call it.

    Attributes
    ----------
    curves : tuple of (float, ndarray, ndarray)
        Of each class of W, in their order: the mean log W, and nodes of log W / σ_W with the completeness there.
    """

    curves: tuple[tuple[float, Array, Array], ...]

    @classmethod
    def of(cls, table: Columns) -> CompletenessFunction:
        """Make the function of columns of COMPLETENESS, their rows in any order.

        Raises
        ------
        NalsparkError
            Where they hold no function: too few absorbers were put in.
        """
        by, value = np.asarray(table["by"], dtype=object), np.asarray(table["completeness"], dtype=float)
        low, middle, n = (np.asarray(table[name], dtype=float) for name in ("ew_low", "middle", "n_injected"))
        mean_ew = np.asarray(table["mean_ew"], dtype=float)
        curves = []
        for start in np.unique(low[by == "significance"]):
            rows = np.flatnonzero((by == "significance") & (low == start) & np.isfinite(value) & (n > 0))
            rows = rows[np.argsort(middle[rows], kind="stable")]
            if n[rows].sum() >= _LEAST:
                curves.append((float(np.log(np.average(mean_ew[rows], weights=n[rows]))), np.log(middle[rows]), value[rows]))
        if not curves:
            raise NalsparkError(
                f"The completeness cannot be told: no class of equivalent widths has {_LEAST} absorbers that were put in. "
                "Set completeness.per_sightline higher, and run `nalspark completeness` again."
            )
        return cls(tuple(curves))

    def __call__(self, ew: ArrayLike, sigma_ew: ArrayLike) -> Array:
        """Give the completeness at equivalent widths and errors, rest Å; they broadcast. NaN where the error is none.

        Parameters
        ----------
        ew, sigma_ew : array_like, any shape
        """
        width, error = np.broadcast_arrays(np.asarray(ew, dtype=float), np.asarray(sigma_ew, dtype=float))
        usable = (error > 0) & np.isfinite(width)
        log_ew = np.log(np.where(usable, np.maximum(width, 1e-6), 1.0))
        log_x = log_ew - np.log(np.where(usable, error, 1.0))
        centres = np.array([curve[0] for curve in self.curves])
        values = np.stack([_along(nodes, value, log_x) for _, nodes, value in self.curves])
        place = np.interp(log_ew, centres, np.arange(len(centres)))
        left = np.minimum(place.astype(np.int64), max(len(centres) - 2, 0))
        right, part = np.minimum(left + 1, len(centres) - 1), place - left
        blend = np.take_along_axis(values, left[None], 0)[0] * (1 - part) + np.take_along_axis(values, right[None], 0)[0] * part
        return np.where(usable, blend, np.nan)


def _along(nodes: Array, value: Array, log_x: Array) -> Array:
    """A curve between its nodes; below the first it falls to 0 with W / σ_W."""
    inside = np.interp(log_x, nodes, value)
    return np.asarray(np.where(log_x < nodes[0], value[0] * np.exp(np.minimum(log_x - nodes[0], 0.0)), inside), dtype=float)


def count(injections: Columns) -> dict[str, NDArray[np.int64]]:
    """Count what was put in and what was found, bin by bin; counts of several batches add up.

    Parameters
    ----------
    injections : mapping of ndarray, shape (m,)
        The columns :data:`COUNTED`; rows that are ``blended`` do not count.

    Returns
    -------
    dict of ndarray of int, shape (classes, bins, 4)
        ``significance``, in classes of W; ``ew``, ``z``, ``snr``, in one. Of each bin the number put in, the number found, and the sums of
        what the bins are bins of, and of W, in units of 1e-6: whole numbers add up to the same in any order.
    """
    use = ~np.asarray(injections["blended"], dtype=bool)
    columns = {name: np.asarray(injections[name])[use].astype(float) for name in COUNTED if name != "blended"}
    ew = columns["ew_primary"]
    values = {"significance": np.minimum(ew / columns["sigma_ew"], _MOST), "ew": ew, "z": columns["z_abs"], "snr": columns["snr"]}
    result = {}
    for by, edges in BINS.items():
        classes = EW_CLASSES if by == "significance" else ONE_CLASS
        shape = len(classes) - 1, len(edges) - 1
        place = [np.searchsorted(cuts, value, "right") - 1 for cuts, value in ((classes, ew), (edges, values[by]))]
        inside = np.all([(at >= 0) & (at < length) for at, length in zip(place, shape, strict=True)], axis=0)
        weights = np.stack([np.ones(len(ew)), columns["found"], values[by] / _UNIT, ew / _UNIT], axis=-1)
        result[by] = np.zeros((*shape, 4), np.int64)
        np.add.at(result[by], (place[0][inside], place[1][inside]), np.rint(weights[inside]).astype(np.int64))
    return result


def tabulate(counts: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """Make columns of COMPLETENESS, but for ``part``, of what :func:`count` gives."""
    tables = []
    for by, edges in BINS.items():
        classes = EW_CLASSES if by == "significance" else ONE_CLASS
        for number in range(len(classes) - 1):
            counted = _rows(counts[by][number], edges)
            n = len(counted["low"])
            complete = _monotone(counted) if by == "significance" else np.full(n, np.nan)
            named = {"by": np.full(n, by, dtype=object), "ew_low": np.full(n, classes[number]), "ew_high": np.full(n, classes[number + 1])}
            tables.append({**named, **counted, "completeness": complete})
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _rows(counts: NDArray[np.int64], edges: Array) -> dict[str, NDArray[Any]]:
    """Rows of the bins that hold anything."""
    some = np.flatnonzero(counts[:, 0] > 0)
    n, hits, total, widths = counts[some].T
    lower, upper = metrics.binomial_interval(hits, n)
    return {
        "low": edges[some],
        "high": edges[some + 1],
        "middle": total * _UNIT / n,
        "mean_ew": widths * _UNIT / n,
        "n_injected": n,
        "n_found": hits,
        "fraction": hits / n,
        "lower": lower,
        "upper": upper,
    }


def _monotone(counted: dict[str, NDArray[Any]]) -> Array:
    """The fractions as near as they can be, weighted by how many they are of, to what grows with W / σ_W."""
    if not len(counted["middle"]):
        return np.zeros(0)
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0)
    return np.asarray(fitted.fit_transform(counted["middle"], counted["fraction"], sample_weight=counted["n_injected"]), dtype=float)
