"""The matched filter: doublets as peaks along the redshift axis, which on a log-λ grid is the pixel axis.

For a Gaussian profile g of width s the amplitude of a line at pixel x is ``A = Σ w r g / Σ w g²`` with variance ``1 / Σ w g²``, where
r = 1 - flux/continuum and w its inverse variance. A doublet has two amplitudes a constant number of pixels apart. Their significance is
the χ² gained by the best pair of amplitudes that atomic physics allows: ratio between 1 (saturated) and f₁λ₁²/f₂λ₂² (optically thin).
The strongest peak of a spectrum is taken, its lines are subtracted, and the search goes on in what is left (Högbom 1974, CLEAN), so that a
2803 line cannot return as a 2796 line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import maximum_filter1d

from nalspark.lines import METALS, LineSpecies

Floats = NDArray[np.float32]

#: Gaussian σ in pixels of the filter that counts narrow features.
_FEATURE_WIDTH = 1.8


@dataclass(frozen=True)
class Doublet:
    """Geometry of a species on a log-λ grid.

    Attributes
    ----------
    offset : float
        Pixels from the first line to the second.
    thin_ratio : float
        Largest ratio of the two amplitudes.
    metals : tuple of float
        Pixel offsets of other lines that a found absorber may show.
    """

    offset: float
    thin_ratio: float
    metals: tuple[float, ...]

    @classmethod
    def of(cls, species: LineSpecies, step_dex: float) -> Doublet:
        known = {species.primary, species.secondary}
        return cls(
            offset=species.offset_pixels(species.secondary, step_dex),
            thin_ratio=species.optically_thin_ratio,
            metals=tuple(species.offset_pixels(line, step_dex) for line in METALS if line not in known),
        )


@dataclass(frozen=True)
class Thresholds:
    """What a candidate must reach, and how many are kept: see :class:`nalspark.settings.Search`."""

    significance: float
    snr_primary: float
    snr_secondary: float
    separation: float
    max_per_spectrum: int


@dataclass(frozen=True)
class Peaks:
    """One entry per candidate, in order of spectrum, then of significance.

    Attributes
    ----------
    row : ndarray of int
        Spectrum of the batch.
    pixel : ndarray of int
        Grid pixel of the first line.
    width : ndarray
        Gaussian σ of the filter, pixels.
    significance, snr_primary, snr_secondary : ndarray
    crowding : ndarray
        Narrow features of the spectrum that this candidate's lines do not explain, per 1000 searched pixels.
    """

    row: NDArray[np.int64]
    pixel: NDArray[np.int64]
    width: Floats
    significance: Floats
    snr_primary: Floats
    snr_secondary: Floats
    crowding: Floats


@lru_cache(maxsize=32)
def _kernels(width: float, length: int) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Fourier transforms of g and g², centred on pixel 0 of a circle of `length` pixels."""
    distance = np.minimum(np.arange(length), length - np.arange(length))
    profile = np.exp(-0.5 * (distance / width) ** 2)
    profile[distance > 4.0 * width] = 0.0
    return fft.rfft(profile.astype(np.float32)), fft.rfft((profile**2).astype(np.float32))


def line_amplitudes(residual: Floats, weight: Floats, width: float) -> tuple[Floats, Floats]:
    """Best amplitude of a line at every pixel, and its inverse variance, both of shape (n, p).

    Parameters
    ----------
    residual : ndarray, shape (n, p)
        1 - flux/continuum.
    weight : ndarray, shape (n, p)
        Inverse variance of `residual`; 0 where masked.
    width : float
        Gaussian σ of the line in pixels.
    """
    n_pixels = residual.shape[1]
    length = fft.next_fast_len(n_pixels + int(8 * width), real=True)
    profile, square = _kernels(float(width), length)
    signal = fft.irfft(fft.rfft(residual * weight, length, axis=1) * profile, length, axis=1)[:, :n_pixels]
    power = fft.irfft(fft.rfft(weight, length, axis=1) * square, length, axis=1)[:, :n_pixels]
    # Fourier noise of masked stretches must not become tiny positive weights.
    power = np.where(power > 1e-4 * power.max(axis=1, keepdims=True), power, 0.0)
    return signal / np.where(power > 0, power, 1.0), power


def overlap_power(weight: Floats, width: float, offset: int) -> Floats:
    """``Σ w g(x) g(x - offset)`` at every pixel, shape (n, p): the light that both lines of a wide doublet take."""
    if np.exp(-0.25 * (offset / width) ** 2) < 0.01:
        return np.zeros_like(weight)
    n_pixels = weight.shape[1]
    length = fft.next_fast_len(n_pixels + offset + int(8 * width), real=True)
    u = np.arange(-int(4 * width), offset + int(4 * width) + 1)
    product = np.zeros(length, dtype=np.float32)
    product[u % length] = np.exp(-0.5 * (u / width) ** 2 - 0.5 * ((u - offset) / width) ** 2)
    overlap = fft.irfft(fft.rfft(weight, length, axis=1) * fft.rfft(product).conj(), length, axis=1)
    return np.maximum(overlap[:, :n_pixels], 0.0)


def joint_amplitudes(
    first: Floats, first_power: Floats, second: Floats, second_power: Floats, overlap: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Amplitudes of two overlapping lines from those of each alone, and the inverse variance of each with the other free."""
    ours, theirs = first * first_power, second * second_power
    # Overlap is at most the geometric mean of the powers; masks can bring it there, where the two cannot be told apart.
    overlap = np.minimum(overlap, 0.95 * np.sqrt(first_power * second_power))
    determinant = np.maximum(first_power * second_power - overlap**2, 1e-30)
    primary, secondary = (second_power * ours - overlap * theirs) / determinant, (first_power * theirs - overlap * ours) / determinant
    return primary, determinant / np.maximum(second_power, 1e-30), secondary, determinant / np.maximum(first_power, 1e-30)


def constrained_gain(
    first: Floats, first_power: Floats, second: Floats, second_power: Floats, thin_ratio: float, overlap: Floats | float = 0.0
) -> tuple[Floats, Floats]:
    """χ² gained by the best physical pair of amplitudes, and the χ² by which the free pair is better still.

    The free pair (A₁, A₂) is projected, in the metric of its errors, on the cone ``1 ≤ A₁/A₂ ≤ thin_ratio``.

    Parameters
    ----------
    first, second : ndarray
        Amplitudes of the free pair.
    first_power, second_power : ndarray
        ``Σ w g²`` of each line.
    thin_ratio : float
    overlap : ndarray, optional
        ``Σ w g₁ g₂``.

    Returns
    -------
    gain, misfit : ndarrays of the common shape
    """
    ours, theirs = first * first_power + second * overlap, second * second_power + first * overlap
    free = first * ours + second * theirs

    def along(ratio: float) -> Floats:
        amplitude = np.maximum(ratio * ours + theirs, 0.0)
        return amplitude**2 / np.maximum(ratio**2 * first_power + second_power + 2.0 * ratio * overlap, 1e-30)

    inside = (first >= second) & (first <= thin_ratio * second)
    gain = np.where(inside, free, np.where(first < second, along(1.0), along(thin_ratio)))
    return gain, np.maximum(free - gain, 0.0)


def _filter_bank(
    residual: Floats, weight: Floats, searched: NDArray[np.bool_], doublet: Doublet, widths: tuple[float, ...], limits: Thresholds
) -> dict[str, Floats]:
    """The best width at every pixel: significance (0 where a condition fails), line S/N, width, amplitudes."""
    names = ("significance", "snr_primary", "snr_secondary", "width", "amplitude_primary", "amplitude_secondary")
    best = {name: np.zeros(residual.shape, dtype=np.float32) for name in names}
    offset = round(doublet.offset)
    for width in widths:
        amplitude, power = line_amplitudes(residual, weight, width)
        snr = amplitude * np.sqrt(power)
        seen = np.zeros_like(searched)
        seen[:, :-offset] = searched[:, :-offset] & (snr[:, :-offset] >= limits.snr_primary) & (snr[:, offset:] >= limits.snr_secondary)
        # Both teeth are seen at few pixels; only there is the rest looked at.
        row, pixel = np.nonzero(seen)
        overlap = overlap_power(weight, width, offset)[row, pixel]
        first_power, second_power = power[row, pixel], power[row, pixel + offset]
        first, first_free, second, second_free = joint_amplitudes(
            amplitude[row, pixel], first_power, amplitude[row, pixel + offset], second_power, overlap
        )
        snr_primary, snr_secondary = first * np.sqrt(first_free), second * np.sqrt(second_free)
        gain, misfit = constrained_gain(first, first_power, second, second_power, doublet.thin_ratio, overlap)
        # Real profiles are not Gaussian: a strong doublet may miss the cone by a part of its own strength.
        physical = misfit <= np.maximum(3.5**2, 0.2**2 * gain)
        both = (snr_primary >= limits.snr_primary) & (snr_secondary >= limits.snr_secondary)
        # Nothing absorbs more than all the light.
        possible = (first - 1.0) * np.sqrt(first_free) < 3.0
        significance = np.sqrt(gain)
        better = both & physical & possible & (significance > best["significance"][row, pixel])
        at = row[better], pixel[better]
        sizes = np.full(len(row), width, dtype=np.float32)
        values = (significance, snr_primary, snr_secondary, sizes, first, second)
        for name, value in zip(names, values, strict=True):
            best[name][at] = value[better]
    return best


def _subtract(residual: Floats, rows: NDArray[np.int64], centre: Floats, amplitude: Floats, width: Floats) -> None:
    """Take one Gaussian line out of each of the given rows, in place."""
    reach = 40
    pixel = np.round(centre).astype(int)[:, None] + np.arange(-reach, reach + 1)
    profile = amplitude[:, None] * np.exp(-0.5 * ((pixel - centre[:, None]) / width[:, None]) ** 2)
    inside = (pixel >= 0) & (pixel < residual.shape[1])
    which = np.broadcast_to(rows[:, None], pixel.shape)[inside]
    residual[which, pixel[inside]] -= profile[inside].astype(residual.dtype)


def _explain_metals(weight: Floats, rows: NDArray[np.int64], pixel: NDArray[np.int64], width: Floats, metals: tuple[float, ...]) -> None:
    """Blind the rows, in place, where other lines of an absorber just found may lie."""
    for offset in metals:
        centre = np.round(pixel + offset).astype(int)
        reach = np.ceil(2.0 * width).astype(int)
        for row, middle, half in zip(rows, centre, reach, strict=True):
            weight[row, max(middle - half, 0) : max(middle + half + 1, 0)] = 0.0


def find_doublets(
    residual: Floats, weight: Floats, searched: NDArray[np.bool_], doublet: Doublet, widths: tuple[float, ...], limits: Thresholds
) -> Peaks:
    """All doublets of a batch of spectra, strongest first within each spectrum.

    Parameters
    ----------
    residual : ndarray, shape (n, p)
        1 - flux/continuum; any finite number where masked.
    weight : ndarray, shape (n, p)
        Inverse variance of `residual`; 0 where masked.
    searched : ndarray of bool, shape (n, p)
        Pixels at which the first line may lie.
    doublet : Doublet
    widths : tuple of float
        Gaussian σ of the filters, pixels.
    limits : Thresholds
    """
    residual, weight = residual.astype(np.float32), weight.astype(np.float32)
    features, window = narrow_features(residual, weight) & searched, searched.sum(axis=1)
    active = np.arange(len(residual))
    found: list[tuple[NDArray, ...]] = []
    searched = searched.copy()
    for turn in range(limits.max_per_spectrum):
        bank = _filter_bank(residual[active], weight[active], searched[active], doublet, widths, limits)
        pixel = bank["significance"].argmax(axis=1)
        here = np.arange(len(active))
        at = {name: values[here, pixel] for name, values in bank.items()}
        hit = at["significance"] >= limits.significance
        active, pixel = active[hit], pixel[hit]
        if not len(active):
            break
        at = {name: values[hit] for name, values in at.items()}
        found.append((active, np.full(len(active), turn), pixel, *at.values()))
        _subtract(residual, active, pixel.astype(np.float32), at["amplitude_primary"], at["width"])
        _subtract(residual, active, pixel + np.float32(doublet.offset), at["amplitude_secondary"], at["width"])
        _explain_metals(weight, active, pixel, at["width"], doublet.metals)
        for row, centre, half in zip(active, pixel, np.maximum(limits.separation, 2.5 * at["width"]), strict=True):
            searched[row, max(int(np.ceil(centre - half)), 0) : int(centre + half) + 1] = False
    return _in_order(found, features, window, doublet)


def narrow_features(residual: Floats, weight: Floats) -> NDArray[np.bool_]:
    """Peaks of narrow absorption or emission above 4 σ, shape (n, p).

    A quasar has few; a star or a galaxy under a quasar's redshift has many.
    """
    amplitude, power = line_amplitudes(residual, weight, _FEATURE_WIDTH)
    height = np.abs(amplitude) * np.sqrt(power)
    return (height == maximum_filter1d(height, 7, axis=1)) & (height > 4.0)


def _crowding(
    row: NDArray[np.int64],
    pixel: NDArray[np.int64],
    width: Floats,
    features: NDArray[np.bool_],
    window: NDArray[np.int64],
    doublet: Doublet,
) -> Floats:
    """Unexplained features per 1000 pixels, with half a thousand pixels added so that two features in a short window are not a crowd."""
    crowding = np.zeros(len(row), dtype=np.float32)
    lines = np.array([0.0, doublet.offset, *doublet.metals])
    for k, (spectrum, centre, reach) in enumerate(zip(row, pixel, 3.0 * np.maximum(width, _FEATURE_WIDTH), strict=True)):
        at = np.flatnonzero(features[spectrum])
        unexplained = (np.abs(at[:, None] - centre - lines) > reach).all(axis=1).sum()
        crowding[k] = unexplained / (window[spectrum] / 1000.0 + 0.5)
    return crowding


def _in_order(found: list[tuple[NDArray, ...]], features: NDArray[np.bool_], window: NDArray[np.int64], doublet: Doublet) -> Peaks:
    if not found:
        empty = np.zeros(0, dtype=np.float32)
        return Peaks(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), empty, empty, empty, empty, empty)
    row, turn, pixel, significance, snr_primary, snr_secondary, width, *_ = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((turn, row))
    row, pixel, width = row[order], pixel[order], width[order]
    crowding = _crowding(row, pixel, width, features, window, doublet)
    return Peaks(row, pixel, width, significance[order], snr_primary[order], snr_secondary[order], crowding)
