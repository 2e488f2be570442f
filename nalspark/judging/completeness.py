"""The completeness function: which fraction of the absorbers of an equivalent width, in a place of a sensitivity, the catalogue has.

It is measured with absorbers put into the run's own spectra (:mod:`nalspark.judging.injections`). What matters most is x = W / σ_W, the
strength over the error of the sightline there. Strong absorbers are wider than the line that σ_W is given for, so the function is measured
in classes of W, in each of which it is made monotone in x (pool adjacent violators), and interpolated between their middles. What else
matters, the noise of the night sky and the lines of Fe II that come with an absorber, changes with redshift: each bin of redshift has a
shift of log x, with which the same function holds there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.isotonic import IsotonicRegression

from nalspark import metrics
from nalspark.errors import NalsparkError

Array = NDArray[np.float64]
Columns = Mapping[str, Any]

#: Classes of W (Å) and bins of redshift in which absorbers are counted; neighbouring classes are joined where there are few absorbers.
EW_CLASSES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, np.inf)
Z_BINS = (0.0, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.6, 3.0, 3.5, 4.0, np.inf)
#: Bins of W / σ_W, in each of those, and of what is told by itself: W (Å), redshift, S/N of the spectrum.
BINS = {
    "significance": np.concatenate([[0.0], np.geomspace(1.0, 60.0, 29), [np.inf]]),
    "ew": np.array([0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, np.inf]),
    "z": np.round(np.arange(0.0, 6.01, 0.2), 1),
    "snr": np.array([0.0, 2.0, 4.0, 6.0, 10.0, 20.0, np.inf]),
}
#: Columns of INJECTIONS that are counted.
COUNTED = ("ew_primary", "sigma_ew", "z_abs", "snr", "blended", "found")
#: In which sums are kept, and the greatest W / σ_W that is told apart.
_UNIT, _MOST = 1e-6, 1e4
#: Absorbers that a class of W must have got to be measured; least and most nodes of its curve, and absorbers for each.
_LEAST, _NODES, _OF_NODE = 50, (8, 40), 100
#: Classes that the function has where there are few absorbers and where there are many, and absorbers for each further one. These
#: numbers give the best likelihood of absorbers that were put in and not used for the function, from 300 to 70,000 used.
_CLASSES, _ENOUGH = (4, 8), 400
#: Shifts of log x that are tried, the standard deviation they are expected to have, and rounds of fitting curves and shifts in turn.
_SHIFTS, _USUAL_SHIFT, _ROUNDS = np.linspace(-0.6, 0.6, 61), 0.15, 4


@dataclass(frozen=True)
class Curve:
    """The function in one class of W: its mean log W, and nodes of log x with the completeness there."""

    log_ew: float
    nodes: Array
    value: Array

    def __call__(self, log_x: Array) -> Array:
        """Give the completeness at log x; below the first node it falls to 0 with x."""
        below = self.value[0] * np.exp(np.minimum(log_x - self.nodes[0], 0.0))
        return np.asarray(np.where(log_x < self.nodes[0], below, np.interp(log_x, self.nodes, self.value)), dtype=float)


@dataclass(frozen=True)
class CompletenessFunction:
    """C(W, σ_W, z): call it.

    Attributes
    ----------
    curves : tuple of Curve
        Of the classes of W, in their order.
    z, shift : ndarray, shape (b,)
        Mean redshift of each bin that has any, and its shift of log x.
    """

    curves: tuple[Curve, ...]
    z: Array
    shift: Array

    @classmethod
    def of(cls, table: Columns) -> CompletenessFunction:
        """Make the function of the counts in columns of COMPLETENESS, their rows in any order.

        Raises
        ------
        NalsparkError
            Where they hold no function: too few absorbers were put in.
        """
        use = np.asarray(table["by"], dtype=object) == "significance"
        names = ("ew_low", "z_low", "low", "middle", "mean_ew", "mean_z", "n_injected", "n_found")
        cells = {name: np.asarray(table[name], dtype=float)[use] for name in names}
        order = np.lexsort((cells["low"], cells["z_low"], cells["ew_low"]))
        cells = {name: values[order] for name, values in cells.items()}
        bins, of_bin = np.unique(cells["z_low"], return_inverse=True)
        shift, n = np.zeros(len(bins)), cells["n_injected"]
        for _ in range(_ROUNDS):
            function = cls(_curves(cells, shift[of_bin]), np.arange(float(len(bins))), shift)
            each = ({name: values[of_bin == number] for name, values in cells.items()} for number in range(len(bins)))
            shift = np.array([_best_shift(function, one) for one in each])
        mean = np.bincount(of_bin, cells["mean_z"] * n) / np.bincount(of_bin, n)
        return cls(_curves(cells, shift[of_bin]), mean, shift)

    def __call__(self, ew: ArrayLike, sigma_ew: ArrayLike, z: ArrayLike) -> Array:
        """Give the completeness at equivalent widths and errors, rest Å, and redshifts; they broadcast. NaN where the error is none.

        Parameters
        ----------
        ew, sigma_ew, z : array_like, any shape
        """
        width, error, redshift = np.broadcast_arrays(*(np.asarray(values, dtype=float) for values in (ew, sigma_ew, z)))
        usable = (error > 0) & np.isfinite(width)
        log_ew = np.log(np.where(usable, np.maximum(width, 1e-6), 1.0))
        log_x = log_ew - np.log(np.where(usable, error, 1.0)) + np.interp(redshift, self.z, self.shift)
        return np.where(usable, self.along(log_ew, log_x), np.nan)

    def along(self, log_ew: Array, log_x: Array) -> Array:
        """Give the completeness at log W and shifted log x, of one shape."""
        centres = np.array([curve.log_ew for curve in self.curves])
        place = np.interp(log_ew, centres, np.arange(len(centres)))
        left = np.minimum(place.astype(np.int64), max(len(centres) - 2, 0))
        part, result = place - left, np.zeros(np.shape(log_x))
        for number, curve in enumerate(self.curves):
            weight = np.where(left == number, 1.0 - part, np.where(left + 1 == number, part, 0.0))
            result += weight * curve(log_x)
        return result


def _classes_of(cells: dict[str, Array]) -> list[NDArray[np.int64]]:
    """The cells of every class of W: neighbouring ones are joined until each has its share of the absorbers."""
    total = cells["n_injected"].sum()
    share = max(total / np.clip(total / _ENOUGH, *_CLASSES), _LEAST)
    classes, mine, held = list[NDArray[np.int64]](), list[NDArray[np.int64]](), 0.0
    for low in np.unique(cells["ew_low"]):
        mine.append(np.flatnonzero(cells["ew_low"] == low))
        held += cells["n_injected"][mine[-1]].sum()
        if held >= max(0.7 * share, _LEAST):
            classes.append(np.concatenate(mine))
            mine, held = [], 0.0
    if mine and classes:  # too few for a class of their own
        classes[-1] = np.concatenate([classes[-1], *mine])
    return classes


def _curves(cells: dict[str, Array], shift: Array) -> tuple[Curve, ...]:
    """The curve of every class of W that has absorbers enough, from cells whose log x is shifted."""
    curves = []
    for mine in _classes_of(cells):
        n = cells["n_injected"][mine]
        if n.sum() < _LEAST:
            continue
        log_x = np.log(np.maximum(cells["middle"][mine], 1e-3)) + shift[mine]
        order = np.argsort(log_x, kind="stable")
        n, hits, log_x = n[order], cells["n_found"][mine][order], log_x[order]
        # Nodes of about equal numbers: a step function of single cells would be noise.
        most = int(np.clip(n.sum() / _OF_NODE, *_NODES))
        node = np.minimum(((np.cumsum(n) - 0.5 * n) * most / n.sum()).astype(np.int64), most - 1)
        total, found, sums = (np.bincount(node, weights, most) for weights in (n, hits, n * log_x))
        some = total > 0
        nodes, rates = sums[some] / total[some], found[some] / total[some]
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(nodes, rates, sample_weight=total[some])
        mean_log_ew = np.average(np.log(cells["mean_ew"][mine]), weights=cells["n_injected"][mine])
        curves.append(Curve(float(mean_log_ew), nodes, np.asarray(fitted, dtype=float)))
    if not curves:
        raise NalsparkError(
            f"The completeness cannot be told: no class of equivalent widths has {_LEAST} absorbers that were put in. "
            "Set completeness.per_sightline higher, and run `nalspark completeness` again."
        )
    return tuple(curves)


def _best_shift(function: CompletenessFunction, cells: dict[str, Array]) -> float:
    """The most probable shift of log x of one bin of redshift: binomial likelihood, and the usual size of a shift."""
    log_ew, log_x = (np.log(np.maximum(cells[name], 1e-3)) for name in ("mean_ew", "middle"))
    n, hits = cells["n_injected"], cells["n_found"]
    expected = function.along(np.broadcast_to(log_ew, (len(_SHIFTS), len(n))), log_x + _SHIFTS[:, None]).clip(1e-3, 1 - 1e-3)
    likelihood = (hits * np.log(expected) + (n - hits) * np.log(1.0 - expected)).sum(axis=1) - 0.5 * (_SHIFTS / _USUAL_SHIFT) ** 2
    return float(_SHIFTS[likelihood.argmax()])


def count(injections: Columns) -> dict[str, NDArray[np.int64]]:
    """Count what was put in and what was found, bin by bin; counts of several batches add up.

    Parameters
    ----------
    injections : mapping of ndarray, shape (m,)
        The columns :data:`COUNTED`; rows that are ``blended`` do not count.

    Returns
    -------
    dict of ndarray of int, shape (classes of W, bins of redshift, bins, 5)
        ``significance``; and ``ew``, ``z``, ``snr``, in one class and one bin. Of each the number put in, the number found, and the sums of
        what the bins are bins of, of W and of redshift, in units of 1e-6: whole numbers add up to the same in any order.
    """
    use = ~np.asarray(injections["blended"], dtype=bool)
    columns = {name: np.asarray(injections[name])[use].astype(float) for name in COUNTED if name != "blended"}
    ew, z = columns["ew_primary"], columns["z_abs"]
    values = {"significance": np.minimum(ew / columns["sigma_ew"], _MOST), "ew": ew, "z": z, "snr": columns["snr"]}
    result = {}
    for by, edges in BINS.items():
        cuts = [np.asarray(ends, dtype=float) for ends in (*_classes(by), edges)]
        shape = tuple(len(ends) - 1 for ends in cuts)
        place = [np.searchsorted(ends, value, "right") - 1 for ends, value in zip(cuts, (ew, z, values[by]), strict=True)]
        inside = np.all([(at >= 0) & (at < length) for at, length in zip(place, shape, strict=True)], axis=0)
        weights = np.stack([np.ones(len(ew)), columns["found"], values[by] / _UNIT, ew / _UNIT, z / _UNIT], axis=-1)
        result[by] = np.zeros((*shape, weights.shape[1]), np.int64)
        np.add.at(result[by], tuple(at[inside] for at in place), np.rint(weights[inside]).astype(np.int64))
    return result


def _classes(by: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The classes of W and of redshift in which is counted by something."""
    return (EW_CLASSES, Z_BINS) if by == "significance" else ((0.0, np.inf), (0.0, np.inf))


def tabulate(counts: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """Make columns of COMPLETENESS, but for ``part``, of what :func:`count` gives."""
    tables = []
    for by, edges in BINS.items():
        widths, redshifts = _classes(by)
        for a, b in np.ndindex(len(widths) - 1, len(redshifts) - 1):
            counted = _rows(counts[by][a, b], edges)
            ends = {"ew_low": widths[a], "ew_high": widths[a + 1], "z_low": redshifts[b], "z_high": redshifts[b + 1]}
            n = len(counted["low"])
            tables.append({"by": np.full(n, by, dtype=object), **{name: np.full(n, end) for name, end in ends.items()}, **counted})
    table = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    mine, complete = table["by"] == "significance", np.full(len(table["by"]), np.nan)
    with suppress(NalsparkError):  # too few: then there are counts, and no function
        function = CompletenessFunction.of(table)
        complete[mine] = function(table["mean_ew"], table["mean_ew"] / np.maximum(table["middle"], 1e-3), table["mean_z"])[mine]
    return {**table, "completeness": complete}


def _rows(counts: NDArray[np.int64], edges: Array) -> dict[str, NDArray[Any]]:
    """Rows of the bins that hold anything."""
    some = np.flatnonzero(counts[:, 0] > 0)
    n, hits, total, widths, redshifts = counts[some].T
    lower, upper = metrics.binomial_interval(hits, n)
    return {
        "low": edges[some],
        "high": edges[some + 1],
        "middle": total * _UNIT / n,
        "mean_ew": widths * _UNIT / n,
        "mean_z": redshifts * _UNIT / n,
        "n_injected": n,
        "n_found": hits,
        "fraction": hits / n,
        "lower": lower,
        "upper": upper,
    }
