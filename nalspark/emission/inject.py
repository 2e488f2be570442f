"""Simulated detections: emission lines and what is mistaken for them, in the noise of a real frame.

Every random number of a detection comes from a generator that its name seeds, so it does not depend on an order of work. Classes and their
numbers are those of Sakai (2020).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nalspark.emission.cutouts import COLUMNS, FIBERS, PITCH, ROWS, Cutouts, assemble, cut, line_profile
from nalspark.emission.frames import INSTRUMENT_FWHM

Array = NDArray[np.float64]

#: Examples of each visual class that the people of HETDEX had sorted by 2020.
CLASS_COUNTS = {-2: 20640, -1: 843, 0: 9195, 1: 1343, 2: 651, 3: 755, 4: 3240, 5: 34252}
#: Signal-to-noise ratios between which a real line has its class; the brightest fall off as the -2.5th power.
_SNR_OF_CLASS = {3: (4.8, 5.5), 4: (5.5, 6.5), 5: (6.5, 80.0)}
_SNR_SLOPE = 2.5
#: Width of a point source on the fibers, arcsec: 1.8 arcsec of seeing and the fiber's own 0.75 arcsec radius, as Gaussian σ.
_SPREAD = 0.85
#: Where the fibers of three dithers lie round a source's nearest: a hexagonal pattern, pitch / √3 apart.
_FINE = PITCH / np.sqrt(3.0) * np.array([[0.0, 0.0], *[[np.cos(a), np.sin(a)] for a in np.deg2rad(30.0 + 60.0 * np.arange(6))]])
#: Fractions of the frame's fibers, in their order, whose noise is for learning, for choosing, and for judging: none is in two.
_BLOCKS = {"learn": (0.0, 0.5), "choose": (0.5, 0.74), "judge": (0.74, 1.0)}
BLOCK_OF_SPLIT = {
    "train": "learn", "validation": "learn", "calibration": "choose", "reference": "choose", "test": "judge", "held_out": "judge",
}  # fmt: skip
#: The network learns to tell classes 4 and 5 from 0 and 1 (Sakai 2020); all classes are in the splits that judge.
LEARNED_CLASSES, ALL_CLASSES = (0, 1, 4, 5), tuple(CLASS_COUNTS)
_UNIFORMS = 64
_DEAD_FRACTION = 0.03
#: What the search lists: a detection is drawn again, at most so often, until its filter sees this; the draw in which it sees most stays.
DETECTED_SNR, _ATTEMPTS = 4.0, 10


def generator(*key: int | str) -> np.random.Generator:
    """Make a random generator that depends on `key` alone."""
    return np.random.default_rng(np.frombuffer(hashlib.sha256(repr(key).encode()).digest(), dtype="<u4"))


class _Draws:
    """Uniform numbers of n detections, handed out column by column."""

    def __init__(self, uniforms: Array) -> None:
        self._uniforms, self._next = uniforms, 0

    def __len__(self) -> int:
        return len(self._uniforms)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Array:
        self._next += 1
        return low + (high - low) * self._uniforms[:, self._next - 1]

    def log_uniform(self, low: float, high: float) -> Array:
        return np.exp(self.uniform(np.log(low), np.log(high)))

    def sign(self) -> Array:
        return np.where(self.uniform() < 0.5, -1.0, 1.0)

    def normal(self) -> Array:
        """Box & Muller (1958)."""
        return np.sqrt(-2.0 * np.log1p(-self.uniform())) * np.cos(2.0 * np.pi * self.uniform())

    def whole(self, n: int) -> NDArray[np.int64]:
        return (self.uniform() * n).astype(np.int64)


def _fiber_profile(draws: _Draws) -> Array:
    """A point source in the rows of the four nearest fibers, shape (n, 4, 9); the middle rows are the fibers themselves."""
    radius, angle = 0.5 * PITCH / np.sqrt(3.0) * np.sqrt(draws.uniform()), draws.uniform(0.0, 2.0 * np.pi)
    source = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    away = np.hypot(*np.moveaxis(_FINE[None] - source[:, None], 2, 0))
    place = _FINE[np.argsort(away, axis=1)[:, :FIBERS]]
    x = place[:, :, None, 0] + PITCH * (np.arange(ROWS) - ROWS // 2) - source[:, None, None, 0]
    y = place[:, :, None, 1] - source[:, None, None, 1]
    return np.exp(-0.5 * (x**2 + y**2) / _SPREAD**2)


def _of_snr(image: Array, snr: Array) -> Array:
    """An image (n, 4, 9, 32) scaled so that an ideal filter over its fibers' own rows finds it at `snr`."""
    size = np.sqrt((image[:, :, ROWS // 2] ** 2).sum(axis=(1, 2)))
    return image * (snr / size)[:, None, None, None]


def _line(draws: _Draws, classes: NDArray[np.int64]) -> Array:
    """A real line, a seventh of them on a faint continuum."""
    low, high = (np.array([_SNR_OF_CLASS[c][k] for c in classes]) for k in (0, 1))
    power = 1.0 - _SNR_SLOPE
    snr = (low**power + draws.uniform() * (high**power - low**power)) ** (1.0 / power)
    width = np.hypot(INSTRUMENT_FWHM, 4.5 * np.exp(0.5 * draws.normal()))
    fibers = _fiber_profile(draws)
    image = _of_snr(fibers[..., None] * line_profile(width, 0.6 * draws.normal())[:, None, None], snr)
    continuum = np.where(draws.uniform() < 1.0 / 7.0, draws.log_uniform(0.1, 0.8), 0.0)
    return image + (continuum[:, None, None] * fibers)[..., None]


def _noise_peak(draws: _Draws, classes: NDArray[np.int64]) -> Array:
    """A fluctuation that a search took for a line: in one fiber, or in two; the likelier real, the more like the instrument's lines.

    Noise whose filtered value is known is other noise plus the filter's own shape: so it is made.
    """
    snr = 4.5 - 0.35 * np.log1p(-draws.uniform())
    width = np.where(classes == 2, draws.uniform(4.0, 8.0), draws.uniform(1.5, 6.0))
    second = np.where(draws.uniform() < np.where(classes == 2, 0.6, 0.25), draws.uniform(0.3, 1.0), 0.0)
    fibers = np.zeros((len(draws), FIBERS, ROWS))
    fibers[:, 0, ROWS // 2], fibers[:, 1, ROWS // 2] = 1.0, second
    return _of_snr(fibers[..., None] * line_profile(width, 0.6 * draws.normal())[:, None, None], snr)


def _sky_residual(draws: _Draws, classes: NDArray[np.int64]) -> Array:
    """A sky line that was not all taken off: in all rows of all fibers, more or less."""
    height = draws.log_uniform(1.0, 6.0) * np.where(classes > 0, 0.6, 1.0)
    tilt, waves = draws.uniform(-0.15, 0.15), draws.uniform(0.5, 3.0)
    phase = draws.uniform(0.0, 2.0 * np.pi)
    row = np.arange(ROWS) - ROWS // 2
    rows = 1.0 + tilt[:, None] * row + 0.3 * np.sin(waves[:, None] * row + phase[:, None])
    fiber = np.stack([draws.uniform(0.5, 1.3) for _ in range(FIBERS)], axis=1)
    profile = line_profile(INSTRUMENT_FWHM, 0.7 * draws.normal())
    dipole = np.where(draws.uniform() < 0.4, 1.0, 0.0)[:, None] * np.gradient(profile, axis=1) * 2.0
    return height[:, None, None, None] * fiber[:, :, None, None] * rows[:, None, :, None] * (profile + dipole)[:, None, None]


def _continuum_edge(draws: _Draws, classes: NDArray[np.int64]) -> Array:
    """A star or galaxy whose continuum rises, or comes out of an absorption band, where the line was seen."""
    height = draws.log_uniform(1.0, 8.0)
    away = (np.arange(COLUMNS) - COLUMNS // 2 - 2.0 * draws.normal()[:, None]) * draws.sign()[:, None]
    step = 1.0 / (1.0 + np.exp(-away / draws.log_uniform(0.6, 3.0)[:, None]))
    bump = draws.uniform(0.0, 0.6)[:, None] * np.exp(-0.5 * ((away - 3.0) / 2.5) ** 2)
    floor = draws.uniform(0.0, 0.6)[:, None]
    fibers = _fiber_profile(draws)
    return height[:, None, None, None] * fibers[..., None] * (floor + (1.0 - floor) * step + bump)[:, None, None]


def _cosmic_ray(draws: _Draws, classes: NDArray[np.int64]) -> Array:
    """A track through one fiber, or through two."""
    angle, height = draws.uniform(0.0, np.pi), draws.log_uniform(5.0, 60.0)
    row, column = np.arange(ROWS)[:, None] - ROWS // 2, np.arange(COLUMNS) - COLUMNS // 2
    x, y = column - 0.8 * draws.normal()[:, None, None], row - 0.5 * draws.normal()[:, None, None]
    cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    along, across = x * cosine + y * sine, -x * sine + y * cosine
    length = draws.log_uniform(0.5, 4.0)[:, None, None]
    track = np.exp(-0.5 * (across / 0.45) ** 2) / (1.0 + np.exp(3.0 * (np.abs(along) - length)))
    image = np.zeros((len(draws), FIBERS, ROWS, COLUMNS))
    image[:, 0] = height[:, None, None] * track
    image[:, 1] = np.where(draws.uniform() < 0.1, 0.5 * height, 0.0)[:, None, None] * track
    return image


def _bad_pixel(draws: _Draws, classes: NDArray[np.int64]) -> Array:
    """A hot pixel or a short piece of a hot column, and what of it the extraction smears."""
    image = np.zeros((len(draws), FIBERS, ROWS, COLUMNS))
    width = draws.uniform(1.2, 2.6)
    rows = np.abs(np.arange(ROWS) - ROWS // 2) <= draws.whole(4)[:, None] * (draws.uniform() < 0.5)[:, None]
    spot = rows[:, :, None] * line_profile(width, 0.7 * draws.normal())[:, None] * draws.log_uniform(5.0, 50.0)[:, None, None]
    image[:, 0] = spot
    image[:, 1] = spot * np.where(draws.uniform() < 0.5, draws.uniform(0.0, 1.0), 0.0)[:, None, None]
    return image


def _bad_amplifier(draws: _Draws, classes: NDArray[np.int64]) -> Array:
    """Interference, steps between rows, a bright block or band: one or several patterns in all fibers alike."""
    row, column = np.arange(ROWS)[:, None] - ROWS // 2, np.arange(COLUMNS) - COLUMNS // 2
    period, drift, phase = draws.log_uniform(2.5, 25.0), draws.uniform(-1.5, 1.5), draws.uniform(0.0, 2.0 * np.pi)
    stripes = np.cos(2.0 * np.pi * column / period[:, None, None] + drift[:, None, None] * row + phase[:, None, None])
    edge = draws.whole(ROWS)[:, None, None] - ROWS // 2
    step = np.where(row >= edge, 1.0, -0.3) * draws.sign()[:, None, None] * np.ones(COLUMNS)
    left, wide = 10.0 * draws.normal(), draws.log_uniform(1.0, 12.0)
    block = (np.abs(column - left[:, None, None]) < wide[:, None, None]) * np.where(row >= edge, 1.0, 0.2)
    ramp = (column * draws.uniform(-1.0, 1.0)[:, None, None] + 3.0 * row * draws.uniform(-1.0, 1.0)[:, None, None]) / 12.0
    height = draws.log_uniform(1.0, 9.0)
    image = np.zeros((len(draws), ROWS, COLUMNS))
    for pattern, share in ((stripes, 0.6), (step, 0.35), (block, 0.45), (ramp, 0.4)):
        image += np.where(draws.uniform() < share, draws.uniform(0.4, 1.2), 0.0)[:, None, None] * pattern
    fiber = np.stack([draws.uniform(0.5, 1.2) for _ in range(FIBERS)], axis=1)
    return height[:, None, None, None] * fiber[:, :, None, None] * image[:, None]


_Maker = Callable[[_Draws, NDArray[np.int64]], Array]
#: Kind → what it adds to the noise.
_MAKERS: dict[str, _Maker] = {
    "line": _line,
    "bad amplifier": _bad_amplifier,
    "bad pixel": _bad_pixel,
    "cosmic ray": _cosmic_ray,
    "sky residual": _sky_residual,
    "continuum edge": _continuum_edge,
    "noise peak": _noise_peak,
}
#: Class → its kinds and their shares.
_KINDS: dict[int, tuple[tuple[str, float], ...]] = {
    -2: (("bad amplifier", 1.0),),
    -1: (("bad pixel", 1.0),),
    0: (("cosmic ray", 0.25), ("sky residual", 0.25), ("continuum edge", 0.25), ("noise peak", 0.25)),
    1: (("noise peak", 0.7), ("sky residual", 0.3)),
    2: (("noise peak", 0.85), ("sky residual", 0.15)),
    **dict.fromkeys((3, 4, 5), (("line", 1.0),)),
}


@dataclass(frozen=True)
class Simulated(Cutouts):
    """Simulated detections.

    Attributes
    ----------
    classes : ndarray of int, shape (n,)
    kinds : ndarray of str, shape (n,)
    fiber, column : ndarray of int, shape (n,)
        Where the noise of the brightest fiber comes from.
    """

    classes: NDArray[np.int64]
    kinds: NDArray[np.object_]
    fiber: NDArray[np.int64]
    column: NDArray[np.int64]


def draw_classes(uniform: Array, allowed: tuple[int, ...]) -> NDArray[np.int64]:
    """Draw classes with the frequencies of :data:`CLASS_COUNTS`, as many real as not where only those to learn from are allowed."""
    count = np.array([CLASS_COUNTS[c] for c in allowed], dtype=float)
    if allowed == LEARNED_CLASSES:
        real = np.array(allowed) >= 3
        count /= np.where(real, count[real].sum(), count[~real].sum())
    edges = np.cumsum(count) / count.sum()
    return np.array(allowed)[np.minimum(np.searchsorted(edges, uniform, side="right"), len(allowed) - 1)]


def _choose_kinds(classes: NDArray[np.int64], uniform: Array) -> NDArray[np.object_]:
    chosen = []
    for value, u in zip(classes, uniform, strict=True):
        names, shares = zip(*_KINDS[int(value)], strict=True)
        chosen.append(names[min(int(np.searchsorted(np.cumsum(shares), u, side="right")), len(names) - 1)])
    return np.array(chosen, dtype=object)


def simulate(
    names: list[str], significance: NDArray[np.float32], block: str, allowed: tuple[int, ...] = ALL_CLASSES, seed: int = 1
) -> Simulated:
    """Simulate detections of the given names.

    Parameters
    ----------
    names : list of n str
    significance : ndarray, shape (f, p); NaN where dead
        A frame without sky: :func:`nalspark.emission.frames.significance_frame`.
    block : str
        Whose fibers give the noise: ``learn``, ``choose`` or ``judge``.
    allowed : tuple of int
        Classes.
    seed : int
    """
    result = _attempt([(seed, name, 0) for name in names], significance, block, allowed)
    for attempt in range(1, _ATTEMPTS):
        again = np.flatnonzero(result.snr < DETECTED_SNR)
        if not len(again):
            break
        new = _attempt([(seed, names[k], attempt) for k in again], significance, block, result.classes[again])
        better = new.snr > result.snr[again]
        for name, values in vars(result).items():
            values[again[better]] = getattr(new, name)[better]
    return result


def _attempt(keys: list[tuple], significance: NDArray[np.float32], block: str, classes: tuple[int, ...] | NDArray[np.int64]) -> Simulated:
    """One draw of each detection; its class is given, or drawn from those allowed."""
    uniforms = np.array([generator(*key).random(_UNIFORMS) for key in keys]).reshape(len(keys), _UNIFORMS)
    place, what = _Draws(uniforms[:, :16]), uniforms[:, 16:]
    first, kind = place.uniform(), place.uniform()
    classes = draw_classes(first, classes) if isinstance(classes, tuple) else classes
    kinds = _choose_kinds(classes, kind)
    noise, fiber, column = _noise(place, significance, block)
    for kind in sorted(set(kinds)):
        rows = np.flatnonzero(kinds == kind)
        if kind == "bad amplifier":  # it is noisier, too
            noise[rows] *= (0.6 + 2.4 * what[rows, -1, None, None, None] ** 2).astype(np.float32)
        noise[rows] += _MAKERS[kind](_Draws(what[rows]), classes[rows]).astype(np.float32)
    dead = np.flatnonzero(place.uniform() < _DEAD_FRACTION)
    noise[dead, place.whole(FIBERS)[dead], place.whole(ROWS)[dead]] = np.nan
    return Simulated(**vars(assemble(noise)), classes=classes, kinds=kinds, fiber=fiber, column=column)


def _noise(draws: _Draws, significance: NDArray[np.float32], block: str) -> tuple[NDArray[np.float32], NDArray, NDArray]:
    """Windows (n, 4, 9, 32) of the frame: the four fibers from anywhere in the block, at nearly the same wavelength."""
    first, last = (round(edge * len(significance)) for edge in _BLOCKS[block])
    low, high = first + ROWS // 2, last - ROWS // 2
    fibers = np.stack([low + draws.whole(high - low) for _ in range(FIBERS)], axis=1)
    margin = COLUMNS + 16
    column = margin + draws.whole(significance.shape[1] - 2 * margin)
    columns = column[:, None] + np.stack([draws.whole(33) - 16 for _ in range(FIBERS)], axis=1)
    windows, _ = cut(significance, fibers, columns)
    return windows, fibers[:, 0], columns[:, 0]


def parametric_frame(fibers: int = 224, pixels: int = 1001, seed: int = 1) -> NDArray[np.float32]:
    """Simulate the noise of no real instrument: Gaussian, correlated between neighbouring columns as resampling leaves it."""
    white = generator("parametric frame", seed).standard_normal((fibers, pixels + 1))
    return ((white[:, 1:] + 0.3 * white[:, :-1]) / np.hypot(1.0, 0.3)).astype(np.float32)
