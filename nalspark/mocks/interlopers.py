"""What is mistaken for an absorber of the species searched: other ions, lone lines, chance pairs, sky residuals, broad troughs.

One interloper per spectrum, of a kind that the caller names, placed anywhere in the search window, whether or not nature would put it
there: the point is what a detector does with it. Everything random about a spectrum's interloper comes from that spectrum's generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nalspark.lines import INTERLOPERS, LineSpecies, interlopers_of
from nalspark.mocks.inject import Absorbers, Clouds, make_absorbers, transmission
from nalspark.mocks.quasars import SKY_LINES
from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

#: Doublets and pairs of other ions by name.
OTHER_SPECIES = {species.name: species for species in INTERLOPERS}
#: Every kind: the species; one line alone; two unrelated lines whose distance is not quite the doublet's; one or more dipoles or
#: spikes on sky lines; a broad absorption trough with structure; many lines at no certain place, and the lines of a star or a galaxy that
#: was taken for a quasar.
_OTHERS = ("lone", "pair", "sky", "BAL", "stellar", "host")
KINDS = (*OTHER_SPECIES, *_OTHERS)

#: Absorption lines and blends of stars and old galaxies: vacuum wavelength (Å), equivalent width (Å) in a galaxy of old stars, width (Å) of
#: what is a blend. Worthey et al. 1994 (ApJS 94, 687), Trager et al. 1998 (ApJS 116, 1), rounded.
_STARS = (
    (3750.2, 0.8, 0.0), (3770.6, 1.0, 0.0), (3798.0, 1.2, 0.0), (3835.4, 2.0, 4.0), (3889.1, 2.0, 0.0), (3934.8, 6.0, 3.0),
    (3969.6, 6.0, 3.0), (4046.9, 0.8, 0.0), (4072.9, 0.8, 0.0), (4102.9, 1.5, 0.0), (4144.9, 0.8, 0.0), (4228.0, 1.2, 0.0),
    (4272.0, 0.8, 0.0), (4305.6, 6.0, 8.0), (4341.7, 1.5, 0.0), (4384.6, 1.5, 2.0), (4456.0, 0.8, 2.0), (4532.0, 1.5, 6.0),
    (4669.0, 1.5, 8.0), (4862.7, 1.6, 0.0), (5016.0, 1.0, 3.0), (5168.8, 1.2, 0.0), (5174.1, 1.6, 0.0), (5185.0, 1.9, 0.0),
    (5271.0, 2.2, 2.0), (5329.5, 1.5, 1.0), (5341.5, 1.0, 0.0), (5407.3, 1.2, 2.0), (5711.0, 0.8, 0.0), (5783.0, 0.6, 0.0),
    (5891.6, 1.8, 0.0), (5897.6, 1.5, 0.0), (6163.8, 0.8, 0.0), (6496.7, 0.8, 2.0), (6564.6, 1.5, 0.0), (7667.0, 0.6, 0.0),
    (7701.1, 0.6, 0.0), (8500.4, 1.3, 0.0), (8544.4, 3.0, 0.0), (8664.5, 2.5, 0.0),
)  # fmt: skip
#: Narrow emission lines of galaxies: vacuum wavelength (Å), typical equivalent width (Å).
_NEBULAE = (
    (3727.1, 5.0), (3729.9, 7.0), (3869.8, 1.5), (4341.7, 2.0), (4862.7, 4.0), (4960.3, 3.0), (5008.2, 9.0), (6302.1, 1.5), (6549.9, 3.0),
    (6564.6, 15.0), (6585.3, 8.0), (6718.3, 4.0), (6732.7, 3.0),
)  # fmt: skip

#: Equivalent widths, as W·2796/λ in Å, between which interlopers are drawn log-uniformly.
EW_RANGE = (0.3, 4.0)
#: By how many pixels (69 km/s) a chance pair misses the doublet's distance.
PAIR_MISS = (3.0, 8.0)


def kinds_of(species: LineSpecies) -> tuple[str, ...]:
    """Give the kinds that can be mistaken for a species: all but those of its own ion."""
    return (*(other.name for other in interlopers_of(species)), *_OTHERS)


@dataclass(frozen=True)
class Interlopers:
    """What :func:`make_interlopers` gives for n spectra of p pixels.

    Attributes
    ----------
    transmission : ndarray, shape (n, p)
        Factor on the flux.
    residual : ndarray, shape (n, p)
        What the sky subtraction leaves, in standard errors of the noise.
    pixel : ndarray, shape (n,)
        Where it was put: the first line, or the trough's middle; NaN where there is none.
    """

    transmission: Array
    residual: Array
    pixel: Array


def make_interlopers(
    kinds: list[str], rngs: list[np.random.Generator], window: NDArray[np.bool_], species: LineSpecies, grid: WavelengthGrid
) -> Interlopers:
    """Make interlopers for a batch of spectra.

    Parameters
    ----------
    kinds : list of n str
        Of :data:`KINDS`; "" for none.
    rngs : list of n Generator
    window : ndarray of bool, shape (n, p)
        Where the species is searched; a spectrum without such a pixel gets nothing.
    species : LineSpecies
        What is searched: its doublet gives a chance pair its distance.
    grid : WavelengthGrid
    """
    n = len(kinds)
    result = Interlopers(np.ones((n, grid.n_pixels)), np.zeros((n, grid.n_pixels)), np.full(n, np.nan))
    for kind in sorted(set(kinds) & set(KINDS)):
        rows = np.array([row for row in range(n) if kinds[row] == kind and window[row].any()], dtype=np.int64)
        if not len(rows):
            continue
        chosen = [rngs[row] for row in rows]
        place = np.array([rng.choice(np.flatnonzero(window[row])) for row, rng in zip(rows, chosen, strict=True)]) + 0.0
        result.pixel[rows] = place
        if kind == "sky":
            result.residual[rows] = [_sky_residual(rng, pixel, grid) for rng, pixel in zip(chosen, place, strict=True)]
        elif kind in ("BAL", "stellar", "host"):
            absorb = {"BAL": _trough, "stellar": _crowd, "host": _host}[kind]
            result.transmission[rows] = [absorb(rng, pixel, grid) for rng, pixel in zip(chosen, place, strict=True)]
        else:
            result.transmission[rows] = _lines(kind, chosen, place, species, grid)
    return result


def _lines(kind: str, rngs: list[np.random.Generator], place: Array, species: LineSpecies, grid: WavelengthGrid) -> Array:
    """Transmission of another species, of one line, or of two lines that do not belong together."""
    other = next((one for one in interlopers_of(species) if one.name == kind), None)
    if other is not None:
        return transmission(_absorbers(other, rngs, place, grid), other, grid, len(rngs))
    single = LineSpecies("line", species.primary, species.secondary, (), species.window_rest)
    first = transmission(_absorbers(single, rngs, place, grid, alone=True), single, grid, len(rngs))
    if kind == "lone":
        return first
    side = np.array([rng.choice((-1.0, 1.0)) for rng in rngs])
    miss = side * np.array([rng.uniform(*PAIR_MISS) for rng in rngs])
    second = place + species.offset_pixels(species.secondary, grid.step) + miss
    return first * transmission(_absorbers(single, rngs, second, grid, alone=True), single, grid, len(rngs))


def _absorbers(
    species: LineSpecies, rngs: list[np.random.Generator], place: Array, grid: WavelengthGrid, *, alone: bool = False
) -> Absorbers:
    """One absorber per spectrum with its first line at `place`; `alone`: no other line of it."""
    low, high = np.log(EW_RANGE)
    drawn = np.array([(rng.uniform(low, high), rng.uniform(20.0, 60.0), rng.normal(), rng.uniform(0.5, 2.0)) for rng in rngs])
    ew = np.exp(drawn[:, 0]) * species.primary.wavelength / 2796.35
    # Two clouds, stretched so that no line is saturated beyond reason: its width in velocity grows with its equivalent width.
    spread = np.maximum(drawn[:, 3] * 25.0, 55.0 * np.exp(drawn[:, 0]))
    clouds = Clouds(
        np.maximum(drawn[:, 1], 0.5 * spread)[:, None].repeat(2, axis=1),
        np.stack([-0.5 * spread, 0.5 * spread], axis=1),
        np.stack([np.ones(len(rngs)), np.exp(0.5 * drawn[:, 2]).clip(0.2, 1.0)], axis=1),
    )
    lines = np.array([line.strength * line.wavelength for line in species.transitions])
    relative = np.repeat(lines[None] / (species.primary.strength * species.primary.wavelength), len(rngs), axis=0)
    ions = np.array([line.ion for line in species.transitions])
    for row, rng in enumerate(rngs):
        for ion in sorted(set(ions) - {species.primary.ion}):
            relative[row, ions == ion] *= 10.0 ** rng.normal(-0.8, 0.4)
    if alone:
        relative[:, species.transitions.index(species.secondary)] = 0.0
    z = grid.wavelength_at(place) / species.primary.wavelength - 1.0
    return make_absorbers(species, z, ew, clouds, relative_tau=relative)


def _sky_residual(rng: np.random.Generator, pixel: float, grid: WavelengthGrid) -> Array:
    """Badly subtracted sky lines: spikes and dipoles on the lines nearest to `pixel`, in standard errors."""
    residual, x = np.zeros(grid.n_pixels), np.arange(grid.n_pixels)
    lines = grid.pixel(np.array([wave for wave, _ in SKY_LINES]))
    lines = lines[(lines > 0) & (lines < grid.n_pixels - 1)]
    nearest = lines[np.argsort(np.abs(lines - pixel))[: rng.integers(1, 5)]]
    if rng.random() < 0.3:  # a stretch without catalogued lines has weak ones, and charge traps
        nearest = np.array([pixel])
    for centre in nearest:
        width, height, tilt = rng.uniform(0.6, 1.6), rng.uniform(3.0, 12.0) * rng.choice((-1.0, -1.0, 1.0)), rng.normal()
        u = (x - centre - rng.normal(0.0, 0.5)) / width
        residual += height * (np.cos(tilt) - np.sin(tilt) * u) * np.exp(-0.5 * u * u)
    return residual


def _trough(rng: np.random.Generator, pixel: float, grid: WavelengthGrid) -> Array:
    """A broad absorption trough, 1000 to 12,000 km/s wide, of overlapping components (Weymann et al. 1991)."""
    width = np.exp(rng.uniform(np.log(1000.0), np.log(12000.0))) / grid.pixel_kms
    x = np.arange(grid.n_pixels) - pixel
    depth = np.zeros(grid.n_pixels)
    for _ in range(rng.integers(2, 10)):
        sigma = width * rng.uniform(0.05, 0.4)
        depth += rng.exponential(0.6) * np.exp(-0.5 * ((x - width * rng.uniform(-0.5, 0.5)) / sigma) ** 2)
    return np.exp(-depth)


def _crowd(rng: np.random.Generator, pixel: float, grid: WavelengthGrid) -> Array:
    """Lines everywhere, of one width but for some scatter, their strengths exponentially distributed; the strongest at `pixel`."""
    x, depth = np.arange(grid.n_pixels), np.zeros(grid.n_pixels)
    n_lines = int(np.exp(rng.uniform(np.log(20.0), np.log(200.0))))
    width, strength = np.exp(rng.uniform(np.log(1.2), np.log(7.0))), np.exp(rng.uniform(np.log(0.02), np.log(0.5)))
    strengths = np.sort(rng.exponential(strength, n_lines))[::-1]
    centres = np.concatenate([[pixel], rng.uniform(0, grid.n_pixels, n_lines - 1)])
    for centre, height, sigma in zip(centres, strengths, width * np.exp(0.3 * rng.standard_normal(n_lines)), strict=True):
        low, high = max(int(centre - 5 * sigma), 0), min(int(centre + 5 * sigma) + 2, grid.n_pixels)
        depth[low:high] += height * np.exp(-0.5 * ((x[low:high] - centre) / sigma) ** 2)
    return np.exp(-depth)


def _host(rng: np.random.Generator, pixel: float, grid: WavelengthGrid) -> Array:
    """A star at redshift 0, or a galaxy below 0.8 with or without emission lines; many weak lines beside. `pixel` is not used."""
    galaxy = rng.random() < 0.5
    z = rng.uniform(0.02, 0.8) if galaxy else 5e-4 * rng.standard_normal()
    strength, width_kms = np.exp(0.6 * rng.standard_normal()), rng.uniform(100.0, 280.0) if galaxy else rng.uniform(69.0, 110.0)
    lines = [(wave, -ew * strength * np.exp(0.4 * rng.standard_normal()), blend) for wave, ew, blend in _STARS]
    if galaxy and rng.random() < 0.6:
        brightness = np.exp(1.2 * rng.standard_normal())
        lines += [(wave, ew * brightness * np.exp(0.3 * rng.standard_normal()), 0.0) for wave, ew in _NEBULAE]
    x, light = np.arange(grid.n_pixels), np.zeros(grid.n_pixels)
    for wave, ew, blend in lines:
        sigma = np.hypot(width_kms / grid.pixel_kms, blend / wave / (np.log(10.0) * grid.step))
        height = ew / (wave * np.log(10.0) * grid.step * sigma * np.sqrt(2.0 * np.pi))
        light += height * np.exp(-0.5 * ((x - grid.pixel(wave * (1.0 + z))) / sigma) ** 2)
    weak = _crowd(rng, rng.uniform(0, grid.n_pixels), grid) if rng.random() < 0.7 else 1.0
    return np.where(light < 0, np.exp(np.minimum(light, 0.0)), 1.0 + light) * weak
