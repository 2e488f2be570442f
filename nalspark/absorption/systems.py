"""What "the same system" and "in the searched path" mean: the one definition, for labels, evaluations and comparisons.

Two redshifts are those of one system where they lie within a few pixels of the log-λ lattice (1e-4 dex, 69 km/s), and a little more for a
wide one: many clouds have no sharp middle. A redshift is in the path where a searched interval holds it, ends included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Pixels of the lattice, dex of wavelength.
STEP = 1e-4
#: Two redshifts are one system within this many pixels (276 km/s; Δz = 0.0018 at z = 1), and half a pixel more for every Å above 1.
MATCH_PIXELS, MATCH_PIXELS_PER_ANGSTROM = 4.0, 0.5


def match_radius(ew: ArrayLike) -> Array:
    """Give how far from a system another redshift is still the same system, lattice pixels.

    Parameters
    ----------
    ew : array, any shape, Å
        Rest equivalent width of the system's first line; where it is not known, NaN.
    """
    return MATCH_PIXELS + MATCH_PIXELS_PER_ANGSTROM * np.maximum(np.nan_to_num(np.asarray(ew, dtype=float)) - 1.0, 0.0)


def separation_pixels(z: ArrayLike, other: ArrayLike) -> Array:
    """Give the distance of two redshifts on the lattice, pixels: the same for every line of a system."""
    return np.abs(np.log10(1.0 + np.asarray(z, dtype=float)) - np.log10(1.0 + np.asarray(other, dtype=float))) / STEP


def same_system(z: ArrayLike, other: ArrayLike, ew: ArrayLike, rounding: ArrayLike = 0.0) -> NDArray[np.bool_]:
    """Say whether two redshifts are those of one system.

    Parameters
    ----------
    z, other : array
        Redshifts; they broadcast.
    ew : array, Å
        Rest equivalent width of the first line, of the system that is the reference; NaN where it is not known.
    rounding : float, or array
        Steps of redshift in which the reference is written (0.001 in Raghunathan et al. 2016): half a step is added.
    """
    steps = 0.5 * np.asarray(rounding, dtype=float) / ((1.0 + np.asarray(z, dtype=float)) * np.log(10.0) * STEP)
    return separation_pixels(z, other) <= match_radius(ew) + steps


def system_names(object_id: ArrayLike, z: ArrayLike, ew: ArrayLike) -> NDArray[np.object_]:
    """Name the systems of absorbers: those of one object of which each is one system with the next share a name.

    Parameters
    ----------
    object_id : array of str, shape (m,)
    z, ew : array, shape (m,)
        Redshift, and rest equivalent width of the first line, Å.

    Returns
    -------
    ndarray of str, shape (m,)
        The object's name and the least redshift of the system: ``J120000.00+000000.0-z1.2345``.
    """
    names, z, ew = np.asarray(object_id, dtype=object), np.asarray(z, dtype=float), np.asarray(ew, dtype=float)
    order = np.lexsort((z, names.astype(str)))
    before, here = order[:-1], order[1:]
    joined = (names[before] == names[here]) & same_system(z[before], z[here], np.fmax(ew[before], ew[here]))
    system = np.concatenate([[0], np.cumsum(~joined)]) if len(order) else np.zeros(0, np.int64)
    lowest = z[order][np.searchsorted(system, system, "left")]
    result = np.empty(len(order), dtype=object)
    result[order] = [f"{name}-z{redshift:.4f}" for name, redshift in zip(names[order], lowest, strict=True)]
    return result


def in_path(z: ArrayLike, z_start: ArrayLike, z_stop: ArrayLike) -> NDArray[np.bool_]:
    """Say whether redshifts lie in searched intervals, ends included.

    Parameters
    ----------
    z : array, shape (...)
    z_start, z_stop : array, shape (k,) or (..., k)
        The k intervals of one spectrum, or of each redshift's own.

    Returns
    -------
    ndarray of bool, shape (...)
    """
    z = np.asarray(z, dtype=float)[..., None]
    return np.asarray(np.any((np.asarray(z_start) <= z) & (z <= np.asarray(z_stop)), axis=-1), dtype=bool)


def count_in_path(z: ArrayLike, z_start: ArrayLike, z_stop: ArrayLike) -> NDArray[np.int64]:
    """Count the intervals that hold each of some ascending redshifts, shape (n,): the sum of :func:`in_path` over spectra, faster.

    Parameters
    ----------
    z : array, shape (n,)
    z_start, z_stop : array, shape (k,)
        Of all spectra together; those of one spectrum do not overlap.
    """
    z, bins = np.asarray(z, dtype=float), np.size(z) + 1
    first, beyond = np.searchsorted(z, z_start, "left"), np.searchsorted(z, z_stop, "right")
    return np.cumsum(np.bincount(first, minlength=bins) - np.bincount(beyond, minlength=bins))[:-1]
