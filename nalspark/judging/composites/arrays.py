"""Sums over spectra in a rest frame, and what follows from them: composites, their errors, their lines, and dust.

All sums are of whole numbers: fluxes are counted in steps of 2^-20. So they come out the same to the last bit in whatever order, batches
and partitions spectra are added up, and their size does not depend on how many there are. That holds for products of matrices too, which
are made in double precision: every partial sum is a whole number below 2^53.

A spectrum is shifted by the nearest whole number of pixels of the log λ lattice. Linear interpolation would conserve equivalent widths as
well, but broadens lines twice as much (by a variance of 1/6 of a squared pixel, against 1/12), ties the noise of neighbouring pixels
together, and loses two pixels for each one that is masked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.judging.composites.dust import LAW_RANGE, smc_law
from nalspark.lines import ALL_LINES, SPEED_OF_LIGHT_KMS
from nalspark.spectra.grid import LATTICE, WavelengthGrid

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: 1200-6500 Å in the rest frame.
REST = WavelengthGrid(first=30792, n_pixels=7338)
#: Bootstrap samples of quasars.
REPLICATES = 50
#: Steps of flux per unit, and the farthest from 1 that a normalised flux may lie: what is farther carries no information.
_SCALE, _FARTHEST = float(2**20), 30.0
#: The histogram that medians are read from: the middle of its first bin, the bins' width, and how many; one more at either end.
_LOWEST, _WIDTH, _BINS = -0.5, 0.01, 301
#: Pixels that are taken together to see dust: the continuum is smooth. A bin counts where at least half of them are good.
DUST_PIXELS = 20
#: Bins that touch a line within these velocities (km/s) tell nothing of dust.
_LINE_KMS = 600.0
#: |ln| of a rescaled continuum above which it is none.
_DARKEST = 6.0
#: Spectra that are added up at a time.
_CHUNK = 128
_DUST_BINS = -(-REST.n_pixels // DUST_PIXELS)
_SHAPES = {
    "count": (1, REST.n_pixels), "total": (1, REST.n_pixels), "square": (1, REST.n_pixels), "histogram": (_BINS + 2, REST.n_pixels),
    "boot_count": (REPLICATES, REST.n_pixels), "boot_total": (REPLICATES, REST.n_pixels),
    "dust_count": (REPLICATES + 1, _DUST_BINS), "dust_log": (REPLICATES + 1, _DUST_BINS), "dust_law": (REPLICATES + 1, _DUST_BINS),
    "spectra": (1, 2),
}  # fmt: skip
#: Numbers in a piece of the sums on its way through Spark: 128 kB.
_PIECE = 2**14


def dust_wavelength() -> Array:
    """Give the middles of the bins in which dust is seen, shape (d,), rest-frame Å."""
    return REST.wavelength_at((np.arange(_DUST_BINS) + 0.5) * DUST_PIXELS - 0.5)


def _dust_allowed() -> Flags:
    """Bins that hold no line and are whole, (d,)."""
    wave, reach = dust_wavelength(), _LINE_KMS + 0.5 * DUST_PIXELS * REST.pixel_kms
    lines = np.array([line.wavelength for line in ALL_LINES])
    near = (np.abs(SPEED_OF_LIGHT_KMS * np.log(wave / lines[:, None])) < reach).any(axis=0)
    whole = (np.arange(_DUST_BINS) + 1) * DUST_PIXELS <= REST.n_pixels
    return ~near & whole & (wave >= LAW_RANGE[0]) & (wave <= LAW_RANGE[1])


_ALLOWED = _dust_allowed()
_LAW = np.rint(smc_law(dust_wavelength()) * _SCALE).astype(np.int64)


@dataclass
class Sums:
    """What was added up of some spectra; whole numbers.

    Attributes
    ----------
    values : dict of ndarray of int64
        ``count``, ``total``, ``square`` (1, p): spectra that have a rest-frame pixel, sums of their normalised fluxes and of the squares;
        ``boot_count``, ``boot_total`` (b, p): the same with the weights of b bootstrap samples; ``histogram`` (h, p): of the fluxes;
        ``dust_count``, ``dust_log``, ``dust_law`` (b + 1, d): first of all spectra, then of the bootstrap samples, in d bins: how many have
        a bin, ln of their continua less each one's mean, and these means of the extinction law; ``spectra`` (1, 2): spectra, and those of
        them that count for dust.
    """

    values: dict[str, Whole] = field(default_factory=lambda: {name: np.zeros(shape, np.int64) for name, shape in _SHAPES.items()})

    def __getitem__(self, name: str) -> Whole:
        return self.values[name]

    def __iadd__(self, other: Sums) -> Sums:
        for name, values in self.values.items():
            values += other[name]
        return self

    @property
    def n_spectra(self) -> int:
        return int(self["spectra"][0, 0])

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Cut the sums into numbered pieces, without those that are all zeros."""
        flat = np.concatenate([values.ravel() for values in self.values.values()])
        for number, start in enumerate(range(0, len(flat), _PIECE)):
            if flat[start : start + _PIECE].any():
                yield number, flat[start : start + _PIECE].astype("<i8").tobytes()

    @classmethod
    def of_pieces(cls, pieces: Mapping[int, bytes]) -> Sums:
        """Put pieces together again."""
        flat = np.zeros(sum(rows * columns for rows, columns in _SHAPES.values()), np.int64)
        for number, piece in pieces.items():
            flat[number * _PIECE :][: len(piece) // 8] = np.frombuffer(piece, "<i8")
        ends = np.cumsum([rows * columns for rows, columns in _SHAPES.values()])
        parts = np.split(flat, ends[:-1])
        return cls({name: part.reshape(shape) for (name, shape), part in zip(_SHAPES.items(), parts, strict=True)})


def object_weights(objects: Sequence[str], seed: int) -> Array:
    """Give how often each object is in each bootstrap sample: Poisson numbers of mean 1 that depend on its name and the seed alone.

    Parameters
    ----------
    objects : sequence of m str
        Spectra of one object have the same numbers: the bootstrap is over quasars.
    seed : int

    Returns
    -------
    ndarray, shape (m, b), whole numbers
    """
    names, number = np.unique(np.asarray(objects, dtype=str), return_inverse=True)
    digests = [hashlib.shake_128(f"{seed}:{name}".encode()).digest(4 * REPLICATES) for name in names]
    uniform = (np.frombuffer(b"".join(digests), "<u4").reshape(len(names), REPLICATES) + 0.5) / 2.0**32
    return np.searchsorted(_POISSON, uniform, side="right").astype(float)[number]


#: P(N ≤ k) of a Poisson number of mean 1, k = 0 … 15; 1/k! by multiplication, the same everywhere.
_POISSON = np.exp(-1.0) * np.cumsum(1.0 / np.cumprod(np.r_[1.0, np.arange(1.0, 16.0)]))


def to_rest(values: NDArray[Any], z: ArrayLike, grid: WavelengthGrid = LATTICE) -> tuple[NDArray[Any], Flags]:
    """Shift spectra to the rest frame, by the nearest whole number of pixels.

    Parameters
    ----------
    values : ndarray, shape (m, g)
        On `grid`.
    z : array_like, shape (m,)
        Redshift that becomes 0.
    grid : WavelengthGrid

    Returns
    -------
    values : ndarray, shape (m, p)
        On :data:`REST`.
    covered : ndarray of bool, shape (m, p)
    """
    shift = np.rint(np.log10(1.0 + np.asarray(z, dtype=float)) / grid.step).astype(np.int64)
    pixel = REST.first - grid.first + np.arange(REST.n_pixels) + shift[:, None]
    covered = (pixel >= 0) & (pixel < grid.n_pixels)
    return np.take_along_axis(values, np.clip(pixel, 0, grid.n_pixels - 1), axis=1), covered


def add_spectra(
    sums: Sums,
    light: tuple[NDArray[np.floating], NDArray[np.floating], Flags],
    z: ArrayLike,
    objects: Sequence[str],
    *,
    for_dust: ArrayLike = True,
    grid: WavelengthGrid = LATTICE,
    seed: int = 1,
) -> None:
    """Add spectra to sums.

    Parameters
    ----------
    sums : Sums
        Changed in place.
    light : tuple of three ndarray, shape (m, g)
        Flux; continuum, in the same unit; and which pixels may be used.
    z : array_like, shape (m,)
        Redshift of the rest frame.
    objects : sequence of m str
        Whose spectrum each is: what the bootstrap draws.
    for_dust : array_like of bool, shape (m,), optional
        Which of them have controls, or are controls.
    grid : WavelengthGrid
        g pixels.
    seed : int
        Of the bootstrap.
    """
    redshift = np.asarray(z, dtype=float)
    dusty = np.broadcast_to(np.asarray(for_dust, dtype=bool), redshift.shape)
    for start in range(0, len(redshift), _CHUNK):
        rows = slice(start, start + _CHUNK)
        (flux, covered), (continuum, _), (good, _) = (to_rest(values[rows], redshift[rows], grid) for values in light)
        weights = object_weights(objects[rows], seed)
        used = covered & good & (continuum > 0)
        _add_flux(sums, flux.astype(float), continuum.astype(float), used, weights)
        _add_dust(sums, continuum.astype(float), used & dusty[rows, None], weights)
        sums.values["spectra"][0] += len(flux), int(dusty[rows].sum())


def _add_flux(sums: Sums, flux: Array, continuum: Array, used: Flags, weights: Array) -> None:
    ratio = flux / np.where(used, continuum, 1.0)
    known = used & (np.abs(ratio - 1.0) <= _FARTHEST)
    fixed = np.where(known, np.rint(ratio * _SCALE), 0.0)
    squares = np.where(known, np.rint((fixed / _SCALE) ** 2 * _SCALE), 0.0)
    sums.values["count"][0] += known.sum(axis=0)
    sums.values["total"][0] += fixed.sum(axis=0).astype(np.int64)
    sums.values["square"][0] += squares.sum(axis=0).astype(np.int64)
    sums.values["boot_count"] += (weights.T @ known.astype(float)).astype(np.int64)
    sums.values["boot_total"] += (weights.T @ fixed).astype(np.int64)
    place = np.clip(np.rint((fixed / _SCALE - _LOWEST) / _WIDTH), -1, _BINS).astype(np.int64) + 1
    cell = place * REST.n_pixels + np.arange(REST.n_pixels)
    sums.values["histogram"] += np.bincount(cell[known], minlength=(_BINS + 2) * REST.n_pixels).reshape(_BINS + 2, REST.n_pixels)


def _add_dust(sums: Sums, continuum: Array, used: Flags, weights: Array) -> None:
    """Bins of ln continuum less its mean over the bins that a spectrum has."""
    log = np.log(np.where(used, continuum, 1.0))
    known = used & (np.abs(log) < _DARKEST)
    starts = np.arange(0, REST.n_pixels, DUST_PIXELS)
    number = np.add.reduceat(known.astype(np.int64), starts, axis=1)
    total = np.add.reduceat(np.where(known, np.rint(log * _SCALE), 0.0).astype(np.int64), starts, axis=1)
    present = (2 * number >= DUST_PIXELS) & _ALLOWED
    mean = np.where(present, np.rint(total / np.maximum(number, 1)), 0.0)
    bins = np.maximum(present.sum(axis=1), 1)[:, None]
    less = np.where(present, mean - np.rint(mean.sum(axis=1)[:, None] / bins), 0.0)
    law = np.where(present, np.rint(np.where(present, _LAW, 0).sum(axis=1)[:, None] / bins), 0.0)
    for name, values in (("dust_count", present.astype(float)), ("dust_log", less), ("dust_law", law)):
        sums.values[name][0] += values.sum(axis=0).astype(np.int64)
        sums.values[name][1:] += (weights.T @ values).astype(np.int64)


# ---- what the sums give


def _ratio(total: Whole, count: Whole, fewest: int = 1) -> Array:
    return np.where(count >= fewest, total / np.maximum(count, 1) / _SCALE, np.nan)


def mean_flux(sums: Sums) -> tuple[Array, Array]:
    """Compute the mean normalised flux, shape (p,), and that of each bootstrap sample, shape (b, p); NaN where there is none."""
    return _ratio(sums["total"], sums["count"])[0], _ratio(sums["boot_total"], sums["boot_count"])


def scatter_flux(sums: Sums) -> Array:
    """Compute the standard deviation of single spectra around the mean, shape (p,)."""
    mean = _ratio(sums["total"], sums["count"], 2)[0]
    return np.sqrt(np.maximum(_ratio(sums["square"], sums["count"], 2)[0] - mean**2, 0.0))


def spread(samples: Array) -> Array:
    """Compute the standard deviation over bootstrap samples, the first axis; NaN where fewer than half of them have a value."""
    known = np.isfinite(samples)
    number = known.sum(axis=0)
    mean = np.where(known, samples, 0.0).sum(axis=0) / np.maximum(number, 1)
    square = (np.where(known, samples - mean, 0.0) ** 2).sum(axis=0)
    return np.where(2 * number >= len(samples), np.sqrt(square / np.maximum(number - 1, 1)), np.nan)


def median_flux(sums: Sums, n_objects: int) -> tuple[Array, Array]:
    """Read the median normalised flux and its standard error from the histogram, shape (p,) each.

    The median is exact to 0.005, half a bin. Its error is half the distance of the order statistics of ranks n/2 ± √n/2, n being the number
    of independent quasars, in the mean over pixels: 68 % of samples have the true median between them.

    Parameters
    ----------
    sums : Sums
    n_objects : int
        Quasars that the spectra are of.
    """
    count = sums["count"][0]
    independent = np.maximum(count * (n_objects / max(sums.n_spectra, 1)), 1.0)
    reach = 0.5 / np.sqrt(independent)
    below, middle, above = (_quantile(sums["histogram"], count, 0.5 + side * reach) for side in (-1, 0, 1))
    return middle, np.where(count > 1, 0.5 * (above - below), np.nan)


def _quantile(histogram: Whole, count: Whole, part: ArrayLike) -> Array:
    """Where a part of the counts lies below, linear within a bin, (p,); NaN where there are none, or it lies at an end."""
    cumulative = np.cumsum(histogram, axis=0)
    wanted = np.clip(part, 0.0, 1.0) * count
    place = (cumulative < wanted).sum(axis=0)
    inside = (count > 0) & (place > 0) & (place <= _BINS)
    held = np.clip(place, 1, _BINS)
    column = np.arange(len(count))
    before, own = cumulative[held - 1, column], np.maximum(histogram[held, column], 1)
    return np.where(inside, _LOWEST + _WIDTH * (held - 1.5 + (wanted - before) / own), np.nan)


def reddening_curves(absorbers: Sums, controls: Sums) -> tuple[Array, Array, Array]:
    """Compute what :func:`nalspark.judging.composites.dust.fit_reddening` takes: of all spectra first, then of the bootstrap samples.

    Returns
    -------
    difference, law, weight : ndarray, shape (b + 1, d)
    """
    count = np.minimum(absorbers["dust_count"], controls["dust_count"])
    difference = _ratio(absorbers["dust_log"], absorbers["dust_count"]) - _ratio(controls["dust_log"], controls["dust_count"])
    law = _LAW / _SCALE - _ratio(absorbers["dust_law"], absorbers["dust_count"])
    return difference, law, count.astype(float)
