"""Broad C IV absorption of quasars: balnicity index BI, absorption index AI, and the velocity ranges of the troughs.

BI (Weymann et al. 1991, ApJ 373, 23, appendix A): ``∫ (1 - f/0.9) C dv`` from 3000 to 25,000 km/s. C is 1 from where the bracket has been
positive for 2000 km/s, coming from low velocities, to where it no longer is: the first 2000 km/s of a trough do not count.

AI (Trump et al. 2006, ApJS 165, 1): ``∫ (1 - f) C dv`` from 0 to 29,000 km/s. C is 1 in all of a trough in which f < 0.9 for 1000 km/s or
more.

f is flux over the continuum of :mod:`nalspark.absorption.unabsorbed`. v grows bluewards from C IV 1549.06 Å, the mean of the doublet by its
strengths, at the quasar's redshift; relativistic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.absorption.unabsorbed import Unabsorbed, rest_frame, unabsorbed_continuum
from nalspark.lines import C_IV_1548, C_IV_1550, SPEED_OF_LIGHT_KMS
from nalspark.spectra.batch import Spectra

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Rest wavelength (Å) of velocity 0.
ORIGIN = (C_IV_1548.strength * C_IV_1548.wavelength + C_IV_1550.strength * C_IV_1550.wavelength) / (C_IV_1548.strength + C_IV_1550.strength)


@dataclass(frozen=True)
class Index:
    """An integral over troughs: ∫ (1 - f/`level`) dv between the velocities `first` and `last` (km/s), where f < 0.9 for `least` km/s.

    `late`: the first `least` km/s of a trough do not count.
    """

    first: float
    last: float
    level: float
    least: float
    late: bool


BI = Index(first=3000.0, last=25_000.0, level=0.9, least=2000.0, late=True)
AI = Index(first=0.0, last=29_000.0, level=1.0, least=1000.0, late=False)
#: f below which there is absorption, in both indices.
DEPRESSED = 0.9
#: Fraction of an index's range that must have data, and the longest gap (km/s) that is bridged.
_COVERED, _GAP = 0.9, 1000.0
#: S/N per pixel below which nothing is told.
_LEAST_SNR = 1.0
#: Velocities (km/s) beyond the ranges that smoothing sees.
_MARGIN = 500.0
_NO_TROUGHS: Array = np.empty((0, 2))


@dataclass(frozen=True)
class Balnicity:
    """Broad absorption of n spectra.

    Attributes
    ----------
    bi, bi_err, ai, ai_err : ndarray, shape (n,), km/s
        Indices and standard errors by the errors of the flux, with those of the continuum that follow from them. How well the continuum's
        form suits a quasar is not in them: in mocks the scatter is two to four times as large (benchmarks/balnicity.py). NaN where the
        spectrum does not cover the range of the index, or has no continuum, or an S/N below 1 per pixel. An index of 0 has an error of 0.
    bi_troughs, ai_troughs : lists of n ndarrays, shape (k, 2), km/s
        Where f < 0.9 for long enough: smaller and larger velocity of each trough, from its very beginning.
    """

    bi: Array
    bi_err: Array
    ai: Array
    ai_err: Array
    bi_troughs: list[Array]
    ai_troughs: list[Array]


def velocity(wavelength: ArrayLike, origin: float = ORIGIN) -> Array:
    """Give the outflow velocity (km/s) at which a line of `origin` (Å) is seen at `wavelength` (Å) in the quasar's rest frame."""
    squared = (np.asarray(wavelength, dtype=float) / origin) ** 2
    return SPEED_OF_LIGHT_KMS * (1.0 - squared) / (1.0 + squared)


def absorption_redshift(v: ArrayLike, z_qso: ArrayLike) -> Array:
    """Give the redshift of gas that leaves a quasar with `v` km/s: the inverse of :func:`velocity`, for the ends of troughs."""
    beta = np.asarray(v, dtype=float) / SPEED_OF_LIGHT_KMS
    return (1.0 + np.asarray(z_qso, dtype=float)) * np.sqrt((1.0 - beta) / (1.0 + beta)) - 1.0


def observed_wavelength(v: ArrayLike, z_qso: ArrayLike) -> Array:
    """Give the observed wavelength (Å) of C IV in gas that leaves a quasar with `v` km/s."""
    return ORIGIN * (1.0 + absorption_redshift(v, z_qso))


def measure_balnicity(spectra: Spectra, z_qso: NDArray[np.float64], smoothing: int = 5) -> Balnicity:
    """Measure BI and AI of each spectrum; the result for one does not depend on the others.

    Parameters
    ----------
    spectra : Spectra, n of them
        In any unit of flux. Best those of :class:`~nalspark.absorption.chain.Searchable`, whose errors are honest; rows that
        :func:`~nalspark.absorption.chain.prepare` gives a reason against hold no spectrum.
    z_qso : ndarray, shape (n,)
    smoothing : int, optional
        Odd number of pixels of 69 km/s over which f is averaged before it is compared with 0.9: noise would else end a trough wherever one
        pixel scatters above, and a real trough of a faint quasar would be lost. 1: none.

    Returns
    -------
    Balnicity
    """
    fitted = unabsorbed_continuum(spectra, z_qso)
    edges = _edges(fitted.wavelength, spectra.grid.step)
    near = np.flatnonzero((edges[1:] <= AI.last + _MARGIN) & (edges[:-1] >= AI.first - _MARGIN))
    edges, n = edges[near[0] : near[-1] + 2], len(z_qso)
    values, troughs = np.full((2, 2, n), np.nan), ([_NO_TROUGHS] * n, [_NO_TROUGHS] * n)
    for row in range(n):
        f, variance, known, relative = _ratio(spectra, fitted, row, near)
        if not known.any() or np.median(variance[known]) > _LEAST_SNR**-2:
            continue
        smooth = smoothed(f, known, smoothing)
        for which, index in enumerate((BI, AI)):
            value, weight, ranges = integrate(smooth, known, edges, index)
            if np.isfinite(value):
                # d(index)/d(amplitudes of the continuum), through the triangle of their inverse covariance.
                slope = np.linalg.solve(fitted.root[row], ((weight * smooth)[:, None] * relative).sum(axis=0))
                error = np.sqrt(np.sum(weight**2 * variance) + np.sum(slope**2))
                values[:, which, row], troughs[which][row] = (value, error), ranges
    (bi, ai), (bi_err, ai_err) = values
    return Balnicity(bi, bi_err, ai, ai_err, *troughs)


def _ratio(spectra: Spectra, fitted: Unabsorbed, row: int, near: NDArray[np.int64]) -> tuple[Array, Array, Flags, Array]:
    """Flux over continuum of a spectrum at some pixels of the rest frame, its variance, which have data; components over continuum."""
    pixel, continuum = fitted.pixel[row, near], fitted.continuum[row, near]
    here = np.clip(pixel, 0, spectra.grid.n_pixels - 1)
    known = (spectra.mask[row, here] == 0) & (spectra.ivar[row, here] > 0) & (here == pixel) & (continuum > 0)
    f, variance = np.ones(len(near)), np.zeros(len(near))
    f[known] = spectra.flux[row, here[known]] / continuum[known]
    variance[known] = 1.0 / (spectra.ivar[row, here[known]] * continuum[known] ** 2)
    components = rest_frame(spectra.grid.step)[2]
    return f, variance, known, np.where(fitted.active[row], components[near], 0.0) / continuum[:, None]


def _edges(wavelength: Array, step: float) -> Array:
    """Velocities of the borders between pixels, (q + 1,), km/s, falling."""
    half = 10.0 ** (0.5 * step)
    return velocity(np.append(wavelength / half, wavelength[-1] * half))


def smoothed(f: Array, known: Flags, pixels: int) -> Array:
    """Average f over a box of `pixels` of those that are known; between the nearest known ones on a straight line where there is none."""
    box = np.ones(pixels)
    count = np.convolve(known, box, mode="same")
    filled = count > 0
    place = np.arange(len(f))
    mean = np.convolve(np.where(known, f, 0.0), box, mode="same")[filled] / count[filled]
    return np.interp(place, place[filled], mean)


def integrate(f: Array, known: Flags, edges: Array, index: Index) -> tuple[float, Array, Array]:
    """Integrate an index over a spectrum.

    Parameters
    ----------
    f : ndarray, shape (q,)
        Flux over continuum.
    known : ndarray of bool, shape (q,)
        Which pixels have data.
    edges : ndarray, shape (q + 1,), km/s
        Velocities of the borders of the pixels, falling.
    index : Index

    Returns
    -------
    value : float, km/s
        NaN where too little is known.
    weight : ndarray, shape (q,), km/s
        - d(value)/d(f): the counted width of each pixel over the index's level.
    troughs : ndarray, shape (k, 2), km/s
    """
    high, low = np.clip(edges[:-1], index.first, index.last), np.clip(edges[1:], index.first, index.last)
    weight, troughs = np.zeros(len(f)), []
    width = high - low
    if not (edges[0] >= index.last and edges[-1] <= index.first and _is_covered(known, width)):
        return np.nan, weight, _NO_TROUGHS
    inside = (width > 0) & (f < DEPRESSED)
    turns = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
    for blue, red in turns.reshape(-1, 2)[::-1]:  # from low velocities
        start, stop = low[red - 1], high[blue]
        if stop - start >= index.least:
            counts_from = start + index.least if index.late else start
            some = slice(blue, red)
            weight[some] = np.maximum(high[some] - np.maximum(low[some], counts_from), 0.0) / index.level
            troughs.append((start, stop))
    return float(np.sum(weight * (index.level - f))), weight, np.array(troughs).reshape(-1, 2)


def _is_covered(known: Flags, width: Array) -> bool:
    """Whether enough of the range has data, and no gap is long."""
    total = width.sum()
    if (width * known).sum() < _COVERED * total:
        return False
    passed = np.concatenate([[0.0], np.cumsum(width * ~known)])
    last_known = np.maximum.accumulate(np.concatenate([[0.0], np.where(known, passed[1:], 0.0)]))
    return bool((passed - last_known).max() <= _GAP)
