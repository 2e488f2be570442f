"""The matched filter: doublets as peaks along the redshift axis, which on a log-λ grid is the pixel axis.

For a Gaussian profile g of width s the amplitude of a line at pixel x is ``A = Σ w r g / Σ w g²`` with variance ``1 / Σ w g²``, where
r = 1 - flux/continuum and w its inverse variance. A doublet has two amplitudes a constant number of pixels apart. Their significance is
the χ² gained by the best pair of amplitudes that atomic physics allows: ratio between 1 (saturated) and f₁λ₁²/f₂λ₂² (optically thin).
The strongest peak of a spectrum is taken, its lines are subtracted, and the search goes on in what is left (Högbom 1974, CLEAN), so that a
2803 line cannot return as a 2796 line.

The filters run in compiled loops over the searched window of each row; what comes after them looks only at the few pixels that pass the
thresholds, and a subtraction makes only its surroundings be filtered again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption.images import HALF_WIDTH
from nalspark.compiled import compiled
from nalspark.lines import METALS, LineSpecies, interlopers_of

Floats = NDArray[np.float32]
#: In the precision of what is given.
Reals = NDArray[Any]

#: Gaussian σ in pixels of the filter that counts narrow features, and the S/N above which one counts.
_FEATURE_WIDTH, _FEATURE_SNR = 1.8, 4.0
#: Filters end at this many σ; two parts in 10⁵ of the power lie beyond. Lines that are subtracted end later.
_FILTER_END, _LINE_END = 3.0, 5.0
#: Significance from which an absorber's other lines are seen too, and would be taken for doublets.
_SHOWS_METALS = 8.0
#: It counts as an absorber where this many of them reach this many σ. A lookalike without them must not hide another absorber.
_METALS_SHOWN, _METAL_SNR = 3, 4.0
#: A candidate whose second line is below this many σ is dropped where another ion's doublet gains more χ², by this much.
_RIVAL_SNR, _RIVAL_GAIN = 3.0, 4.0
#: Pixels and filters of a segment that may hold a doublet, for which there is room at first: more of them cost a second scan.
_ROOM = 128
#: Added to powers that may be 0.
_TINY = np.float32(1e-30)


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
    rivals : tuple of (float, float)
        Offset and largest ratio of other ions' doublets, wider than half an image: who learns from images may not see their partner.
    """

    offset: float
    thin_ratio: float
    metals: tuple[float, ...]
    rivals: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, species: LineSpecies, step_dex: float) -> Doublet:
        """Give the doublet of a species on a grid of steps of `step_dex` in log10 λ."""
        doublet = (species.primary, species.secondary)
        others = [line for line in dict.fromkeys((*METALS, *species.companions)) if line not in doublet]
        return cls(
            offset=species.offset_pixels(species.secondary, step_dex),
            thin_ratio=species.optically_thin_ratio,
            metals=tuple(species.offset_pixels(line, step_dex) for line in others),
            rivals=tuple(
                (offset, other.optically_thin_ratio)
                for other in interlopers_of(species)
                if (offset := other.offset_pixels(other.secondary, step_dex)) > HALF_WIDTH
            ),
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


def joint_amplitudes(
    first: Reals, first_power: Reals, second: Reals, second_power: Reals, overlap: Reals
) -> tuple[Reals, Reals, Reals, Reals]:
    """Compute the amplitudes of two overlapping lines from those of each alone, and the inverse variance of each with the other free."""
    ours, theirs = first * first_power, second * second_power
    # Overlap is at most the geometric mean of the powers; masks can bring it there, and then the two lines cannot be separated.
    overlap = np.minimum(overlap, 0.95 * np.sqrt(first_power * second_power))
    determinant = np.maximum(first_power * second_power - overlap**2, 1e-30)
    primary, secondary = (second_power * ours - overlap * theirs) / determinant, (first_power * theirs - overlap * ours) / determinant
    return primary, determinant / np.maximum(second_power, 1e-30), secondary, determinant / np.maximum(first_power, 1e-30)


def constrained_gain(
    first: Reals, first_power: Reals, second: Reals, second_power: Reals, thin_ratio: float, overlap: Reals | float = 0.0
) -> tuple[Reals, Reals]:
    """Compute the χ² gained by the best physical pair of amplitudes, and the χ² by which the free pair is better still.

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

    def along(ratio: float) -> Reals:
        amplitude = np.maximum(ratio * ours + theirs, 0.0)
        return amplitude**2 / np.maximum(ratio**2 * first_power + second_power + 2.0 * ratio * overlap, 1e-30)

    inside = (first >= second) & (first <= thin_ratio * second)
    gain = np.where(inside, free, np.where(first < second, along(1.0), along(thin_ratio)))
    return gain, np.maximum(free - gain, 0.0)


class _Filters(NamedTuple):
    """Gaussians of `widths` σ: `taps` (k, 2, 2 reach + 1) are g and g², centred, and 0 beyond `halves` pixels of the centre."""

    widths: Floats
    halves: NDArray[np.int64]
    taps: Floats
    reach: int


class _Pool(NamedTuple):
    """Possible doublets, many at each true one: arrays of one length. `amplitude` and `snr` are (m, 2), of both lines."""

    row: NDArray[np.int64]
    pixel: NDArray[np.int64]
    width: Floats
    significance: Reals
    snr: Reals
    amplitude: Reals

    def where(self, keep: NDArray) -> _Pool:
        return _Pool(*(values[keep] for values in self))

    @classmethod
    def joined(cls, pools: Sequence[_Pool]) -> _Pool:
        return cls(*(np.concatenate([pool[field] for pool in pools]) for field in range(len(cls._fields))))


@lru_cache(maxsize=32)
def _filters(widths: tuple[float, ...]) -> _Filters:
    halves = np.ceil(_FILTER_END * np.array(widths)).astype(np.int64)
    distance = np.abs(np.arange(-halves.max(), halves.max() + 1))
    profiles = np.where(distance <= halves[:, None], np.exp(-0.5 * (distance / np.array(widths)[:, None]) ** 2), 0.0)
    taps = np.stack([profiles, profiles**2], axis=1).astype(np.float32)
    return _Filters(np.array(widths, np.float32), halves, taps, int(halves.max()))


@compiled
def _correlate(values: Floats, taps: Floats, half: int, out: Floats) -> None:
    """``out[i] = Σ taps[centre + u] values[i + half + u]`` over |u| ≤ half; each pair of taps is one pass, done in vectors."""
    n, centre = len(out), len(taps) // 2
    middle, factor = values[half : half + n], taps[centre]
    for i in range(n):
        out[i] = factor * middle[i]
    for u in range(1, half + 1):
        factor, left, right = taps[centre + u], values[half - u : half - u + n], values[half + u : half + u + n]
        for i in range(n):
            out[i] += factor * (left[i] + right[i])


@compiled
def _filter(light: Floats, weight: Floats, taps: Floats, half: int, signal: Floats, power: Floats, snr: Floats) -> None:
    """Σ w r g, Σ w g² and the S/N of a line, from w r and w of `half` pixels more on either side."""
    _correlate(light, taps[0], half, signal)
    _correlate(weight, taps[1], half, power)
    for i in range(len(snr)):
        snr[i] = signal[i] / np.sqrt(power[i] + _TINY)


@compiled
def _scan(
    light: Floats,
    weight: Floats,
    searched: NDArray[np.bool_],
    segments: NDArray[np.int64],
    taps: Floats,
    halves: NDArray[np.int64],
    shift: int,
    least: Floats,
    room: Floats,
    seen: NDArray[np.float64],
) -> int:
    """Pixels that pass the thresholds `least` (both lines together, first, second), in segments (row, start, stop) of first lines.

    `light` and `weight` have one margin at either end of the grid, at least as wide as the widest filter. Writes to `seen` (m, 8) what
    there is place for: row, pixel, filter, signal and power of both lines, overlap. Returns how many there are.
    """
    reach, count, n_pixels = taps.shape[2] // 2, 0, searched.shape[1]
    margin, least_gain = (light.shape[1] - n_pixels) // 2, least[0] * least[0]
    signal, power, snr = room[0], room[1], room[2]
    for s in range(len(segments)):
        row, start, n = segments[s, 0], segments[s, 1], segments[s, 2] - segments[s, 1] + shift
        for k in range(len(halves)):
            half = halves[k]
            low, high = start + margin - half, start + margin + half + n
            _filter(light[row][low:high], weight[row][low:high], taps[k], half, signal[:n], power[:n], snr[:n])
            for i in range(n - shift):
                first, second = snr[i], snr[i + shift]
                # No pair of amplitudes that physics allows gains more than the two lines do alone.
                if first < least[1] or second < least[2] or first * first + second * second < least_gain or not searched[row, start + i]:
                    continue
                if count < len(seen):
                    overlap = 0.0
                    for u in range(shift - half, half + 1):
                        overlap += weight[row, start + i + margin + u] * taps[k, 0, reach + u] * taps[k, 0, reach + u - shift]
                    seen[count, 0], seen[count, 1], seen[count, 2] = row, start + i, k
                    seen[count, 3], seen[count, 4] = signal[i], signal[i + shift]
                    seen[count, 5], seen[count, 6], seen[count, 7] = power[i], power[i + shift], overlap
                count += 1
    return count


@compiled
def _scan_features(
    light: Floats,
    weight: Floats,
    searched: NDArray[np.bool_],
    segments: NDArray[np.int64],
    taps: Floats,
    room: Floats,
    seen: NDArray[np.int64],
) -> int:
    """Peaks of the S/N of a line, of either sign, in segments (row, start, stop); arguments and result as in :func:`_scan`."""
    half, count, n_pixels = taps.shape[2] // 2, 0, searched.shape[1]
    signal, power, snr = room[0], room[1], room[2]
    margin = (light.shape[1] - n_pixels) // 2
    for s in range(len(segments)):
        # Three pixels more, to see whether a feature is a peak.
        row, start, stop = segments[s, 0], max(segments[s, 1] - 3, 0), min(segments[s, 2] + 3, n_pixels)
        low, high, n = start + margin - half, stop + margin + half, stop - start
        _filter(light[row][low:high], weight[row][low:high], taps[0], half, signal[:n], power[:n], snr[:n])
        for i in range(n):
            height = abs(snr[i])
            peak = height > _FEATURE_SNR and searched[row, start + i]
            if peak:
                for other in range(max(i - 3, 0), min(i + 4, n)):
                    peak = peak and height >= abs(snr[other])
            if peak:
                if count < len(seen):
                    seen[count, 0], seen[count, 1] = row, start + i
                count += 1
    return count


class _Left(NamedTuple):
    """What is left to search: w r and w with a margin of zeros at either end, and the pixels of first lines; `room` is work space.

    Where lines were `subtracted` something of them stays.
    """

    light: Floats
    weight: Floats
    searched: NDArray[np.bool_]
    subtracted: NDArray[np.bool_]
    room: Floats

    @classmethod
    def of(cls, residual: Floats, weight: Floats, searched: NDArray[np.bool_], margin: int) -> _Left:
        n, n_pixels = residual.shape
        padded = np.zeros((2, n, n_pixels + 2 * margin), np.float32)
        light, copy = padded
        copy[:, margin : margin + n_pixels] = weight
        np.multiply(residual, copy[:, margin : margin + n_pixels], out=light[:, margin : margin + n_pixels], dtype=np.float32)
        return cls(light, copy, np.array(searched, dtype=bool), np.zeros((n, n_pixels), bool), np.empty((3, n_pixels), np.float32))

    def windows(self, shift: int) -> NDArray[np.int64]:
        """Segments (row, start, stop) of the searched pixels at which the second line is on the grid; rows without any have none."""
        n_pixels = self.searched.shape[1]
        start, stop = self.searched.argmax(axis=1), n_pixels - self.searched[:, ::-1].argmax(axis=1)
        segments = np.stack([np.arange(len(start)), start, np.minimum(stop, n_pixels - shift)], axis=1)
        return segments[(segments[:, 2] > segments[:, 1]) & self.searched.any(axis=1)]

    def possible(self, segments: NDArray[np.int64], filters: _Filters, doublet: Doublet, limits: Thresholds) -> _Pool:
        """The doublets in some segments that fulfil all conditions."""
        least = np.array([limits.significance, limits.snr_primary, limits.snr_secondary], np.float32)
        seen = np.empty((64 + _ROOM * len(segments), 8))
        arguments = self.light, self.weight, self.searched, segments, filters.taps, filters.halves, round(doublet.offset), least, self.room
        while (count := _scan(*arguments, seen)) > len(seen):
            seen = np.empty((count, 8))
        return _judge(seen[:count], filters, doublet, limits)

    def features(self, segments: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row and pixel, shape (m, 2), of narrow absorption and emission: a quasar has little, a star or galaxy under its redshift much."""
        seen = np.empty((64 + 16 * len(segments), 2), np.int64)
        arguments = self.light, self.weight, self.searched, segments, _filters((_FEATURE_WIDTH,)).taps, self.room
        while (count := _scan_features(*arguments, seen)) > len(seen):
            seen = np.empty((count, 2), np.int64)
        return seen[:count]


@compiled
def _subtract(light: Floats, weight: Floats, centre: float, amplitude: float, width: float) -> None:
    """Take a Gaussian line out of one row."""
    reach, middle = int(np.ceil(_LINE_END * width)), int(np.round(centre))
    for pixel in range(max(middle - reach, 0), min(middle + reach + 1, len(light))):
        distance = pixel - centre
        if abs(distance) <= _LINE_END * width:
            light[pixel] -= weight[pixel] * np.float32(amplitude * np.exp(-0.5 * (distance / width) ** 2))


@compiled
def _explain_metals(light: Floats, weight: Floats, pixel: int, width: float, metals: NDArray[np.float64]) -> bool:
    """Blind one row where other lines of an absorber just found lie, if it shows them; whether it does."""
    half, shown = int(np.ceil(2.0 * width)), 0
    for blind in (False, True):
        for offset in metals:
            middle = int(np.round(pixel + offset))
            low, high = max(middle - half, 0), min(middle + half + 1, len(light))
            if high <= low:  # beyond an end of the grid
                continue
            if blind:
                light[low:high] = weight[low:high] = 0.0
            else:
                shown += light[low:high].sum() > _METAL_SNR * np.sqrt(weight[low:high].sum())
        if shown < _METALS_SHOWN:
            return False
    return True


@compiled
def _erase(
    light: Floats,
    weight: Floats,
    searched: NDArray[np.bool_],
    subtracted: NDArray[np.bool_],
    rows: NDArray[np.int64],
    pixels: NDArray[np.int64],
    widths: Floats,
    amplitudes: NDArray[np.float64],
    strong: NDArray[np.bool_],
    doublet: tuple[float, NDArray[np.float64]],
    separation: float,
    reach: int,
) -> NDArray[np.int64]:
    """Subtract doublets, one a row; the segments (row, start, stop) in which this can have changed anything."""
    n_pixels, (offset, metals) = searched.shape[1], doublet
    margin, shift = (light.shape[1] - n_pixels) // 2, int(np.round(offset))
    segments, inside = np.empty((len(rows), 3), np.int64), slice(margin, margin + n_pixels)
    for k in range(len(rows)):
        row, pixel, width = rows[k], pixels[k], float(widths[k])
        left, sharp = light[row][inside], weight[row][inside]
        for line in range(2):
            centre, amplitude = pixel + line * offset, amplitudes[k, line]
            _subtract(left, sharp, centre, amplitude, width)
            if amplitude > 0.0:
                subtracted[row, max(int(centre - _LINE_END * width), 0) : int(centre + _LINE_END * width) + 2] = True
        apart = max(separation, 1.5 * width)
        searched[row, max(int(np.ceil(pixel - apart)), 0) : int(pixel + apart) + 1] = False
        touched = int(np.ceil(max(_LINE_END * width, apart))) + reach + 1
        start, stop = max(pixel - touched - shift, 0), min(pixel + touched + shift + 1, n_pixels - shift)
        if strong[k] and _explain_metals(left, sharp, pixel, width, metals):
            start, stop = 0, n_pixels - shift
        segments[k, 0], segments[k, 1], segments[k, 2] = row, start, max(start, stop)
    return segments


def _physical(gain: NDArray[Any], misfit: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether two amplitudes can be a doublet's: real profiles are not Gaussian, so a strong one may miss the cone by a part of itself."""
    return misfit <= np.maximum(3.5**2, 0.2**2 * gain)


def _judge(seen: NDArray[np.float64], filters: _Filters, doublet: Doublet, limits: Thresholds) -> _Pool:
    """What :func:`_scan` saw, where it can be a doublet."""
    ours, theirs, first_power, second_power, overlap = seen[:, 3:].T
    first, first_free, second, second_free = joint_amplitudes(ours / first_power, first_power, theirs / second_power, second_power, overlap)
    gain, misfit = constrained_gain(first, first_power, second, second_power, doublet.thin_ratio, overlap)
    snr = np.stack([first * np.sqrt(first_free), second * np.sqrt(second_free)], axis=1)
    pool = _Pool(
        seen[:, 0].astype(np.int64), seen[:, 1].astype(np.int64), filters.widths[seen[:, 2].astype(np.int64)], np.sqrt(gain), snr,
        np.stack([first, second], axis=1),
    )  # fmt: skip
    physical = _physical(gain, misfit)
    # Nothing absorbs more than all the light.
    possible = (first - 1.0) * np.sqrt(first_free) < 3.0
    strong = (snr[:, 0] >= limits.snr_primary) & (snr[:, 1] >= limits.snr_secondary) & (pool.significance >= limits.significance)
    return pool.where(physical & possible & strong)


@compiled
def _best_of_rows(
    row: NDArray[np.int64], pixel: NDArray[np.int64], width: Floats, significance: NDArray[np.float64], best: NDArray[np.int64]
) -> None:  # fmt: skip
    """Write the number of the strongest of each row to `best` (rows), which begins with -1 in each."""
    for i in range(len(row)):
        k = best[row[i]]
        better = k < 0 or significance[i] > significance[k]
        if not better and significance[i] == significance[k]:
            better = pixel[i] < pixel[k] or (pixel[i] == pixel[k] and width[i] < width[k])
        if better:
            best[row[i]] = i


def _strongest(pool: _Pool) -> _Pool:
    """The strongest of each row, by row; the first one of equals."""
    best = np.full(pool.row.max() + 1, -1)
    _best_of_rows(pool.row, pool.pixel, pool.width, pool.significance, best)
    return pool.where(best[best >= 0])


def _take_away(left: _Left, best: _Pool, filters: _Filters, doublet: Doublet, limits: Thresholds) -> NDArray[np.int64]:
    """Subtract the strongest doublets; the segments (row, start, stop) in which this can have changed anything."""
    strong, lines = best.significance >= _SHOWS_METALS, (doublet.offset, np.array(doublet.metals))
    places = best.row, best.pixel, best.width, best.amplitude, strong
    return _erase(left.light, left.weight, left.searched, left.subtracted, *places, lines, float(limits.separation), filters.reach)


def _untouched(pool: _Pool, segments: NDArray[np.int64], n_rows: int) -> _Pool:
    start, stop = np.zeros((2, n_rows), np.int64)
    start[segments[:, 0]], stop[segments[:, 0]] = segments[:, 1], segments[:, 2]
    return pool.where((pool.pixel < start[pool.row]) | (pool.pixel >= stop[pool.row]))


def find_doublets(
    residual: Floats, weight: Floats, searched: NDArray[np.bool_], doublet: Doublet, widths: tuple[float, ...], limits: Thresholds
) -> Peaks:
    """Find all doublets of a batch of spectra, strongest first within each spectrum.

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
    filters = _filters(tuple(widths))
    left = _Left.of(residual, weight, searched, max(filters.reach, _filters((_FEATURE_WIDTH,)).reach))
    windows = left.windows(round(doublet.offset))
    pool = left.possible(windows, filters, doublet, limits)
    features = left.features(windows[np.isin(windows[:, 0], pool.row)])
    taken_away = []
    for _ in range(limits.max_per_spectrum):
        if not len(pool.row):
            break
        best = _strongest(pool)
        rivals = _explained_by_rivals(best, left, filters, doublet)
        taken_away.append(best.where(~rivals))
        # What is not the doublet is passed over, but not subtracted.
        taken = best._replace(
            amplitude=np.where(rivals[:, None], 0.0, best.amplitude), significance=np.where(rivals, 0.0, best.significance)
        )
        segments = _take_away(left, taken, filters, doublet, limits)
        new = left.possible(segments, filters, doublet, limits)
        pool = _Pool.joined([_untouched(pool, segments, len(residual)), new])
    return _in_order(_Pool.joined(taken_away or [pool]), features, np.sum(searched, axis=1), doublet)


@compiled
def _weigh(light: Floats, weight: Floats, row: NDArray[np.int64], pixel: NDArray[np.int64], taps: Floats, sums: Floats) -> None:
    """Write Σ w r g and Σ w g² of a line at each pixel of w r and w to `sums` (2, m); `taps` (m, 2, 2 reach + 1) are g and g²."""
    reach, n_pixels = taps.shape[2] // 2, weight.shape[1]
    for k in range(len(row)):
        for i in range(max(pixel[k] - reach, 0), min(pixel[k] + reach + 1, n_pixels)):
            sums[0, k] += light[row[k], i] * taps[k, 0, i - pixel[k] + reach]
            sums[1, k] += weight[row[k], i] * taps[k, 1, i - pixel[k] + reach]


def _explained_by_rivals(best: _Pool, left: _Left, filters: _Filters, doublet: Doublet) -> NDArray[np.bool_]:
    """Which candidates to drop: another ion's doublet fits better and its second line falls outside the image."""
    taps = filters.taps[(best.width[:, None] == filters.widths).argmax(axis=1)]
    margin = (left.light.shape[1] - left.searched.shape[1]) // 2

    def line(shift: int) -> tuple[Floats, Floats]:
        sums = np.zeros((2, len(best.row)), np.float32)
        _weigh(left.light, left.weight, best.row, best.pixel + margin + shift, taps, sums)
        if shift:  # the residual of a subtracted line is no partner
            pixel = np.clip(best.pixel + shift, 0, left.searched.shape[1] - 1)
            sums[:, left.subtracted[best.row, pixel]] = 0.0
        return sums[0] / (sums[1] + _TINY), sums[1]

    here, most = line(0), np.zeros(len(best.row))
    for offset, thin_ratio in doublet.rivals:
        for first, second in ((here, line(round(offset))), (line(-round(offset)), here)):
            gain, misfit = constrained_gain(*first, *second, thin_ratio)
            most = np.maximum(most, np.where(_physical(gain, misfit), gain, 0.0))
    return (most > best.significance**2 + _RIVAL_GAIN) & (best.snr[:, 1] < _RIVAL_SNR)


def _in_order(pool: _Pool, features: NDArray[np.int64], length: NDArray[np.int64], doublet: Doublet) -> Peaks:
    pool = pool.where(np.argsort(pool.row, kind="stable"))
    crowding = _unexplained(pool, features, doublet) / (length[pool.row] / 1000.0 + 0.5)
    single = (values.astype(np.float32) for values in (pool.significance, *pool.snr.T, crowding))
    return Peaks(pool.row, pool.pixel, pool.width, *single)


def _unexplained(pool: _Pool, features: NDArray[np.int64], doublet: Doublet) -> NDArray[np.int64]:
    """Of each candidate, the features of its spectrum that are none of its lines."""
    start, stop = (np.searchsorted(features[:, 0], pool.row, side) for side in ("left", "right"))
    candidate = np.repeat(np.arange(len(start)), stop - start)
    feature = np.arange(len(candidate)) - np.repeat(np.cumsum(stop - start) - stop, stop - start)
    distance = (features[feature, 1] - pool.pixel[candidate])[:, None] - np.array([0.0, doublet.offset, *doublet.metals])
    reach = 3.0 * np.maximum(pool.width, _FEATURE_WIDTH)[candidate]
    return np.bincount(candidate[(np.abs(distance) > reach[:, None]).all(axis=1)], minlength=len(start))
