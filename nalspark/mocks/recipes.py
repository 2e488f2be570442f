"""Artificial spectra whose absorbers are known: what a detector is trained on, and what it is tested on.

A quasar (parametric, or drawn from eigenspectra), absorbers of a population with all their lines, sometimes an interloper, seen through a
spectrograph with its noise (parametric, or the residuals of real sky fibers). Everything random about a spectrum comes from generators
seeded with the seed and its name, so that a spectrum is the same in whatever batch or partition it is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption.windows import search_window
from nalspark.lines import LineSpecies, with_all_lines
from nalspark.mocks import inject, quasars
from nalspark.mocks.families import draw_families
from nalspark.mocks.interlopers import kinds_of, make_interlopers
from nalspark.settings import Preprocess
from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import LATTICE

Array = NDArray[np.float64]
#: A generator and a redshift to a quasar's flux on the common grid, shape (p,), with median 1.
Continuum = Callable[[np.random.Generator, float], Array]

#: Gaussian σ of the instrument in km/s; real spectra vary about one pixel. A spectrum has one of these.
INSTRUMENT_SIGMAS = (58.0, 64.0, 69.03, 75.0, 82.0)


@dataclass(frozen=True)
class SkyNoise:
    """Residuals of real sky fibers on the common grid, for noise as it is.

    Attributes
    ----------
    residual, ivar : ndarray, shape (k, p), 1e-17 erg/s/cm²/Å and its inverse square
    mask : ndarray of uint8, shape (k, p), bits of PixelFlag
    """

    residual: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.uint8]

    def take(self, which: slice) -> SkyNoise:
        """Take some of the fibers."""
        return SkyNoise(self.residual[which], self.ivar[which], self.mask[which])

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.residual.tobytes() + self.ivar.tobytes() + self.mask.tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Recipe:
    """How mock spectra are made.

    Attributes
    ----------
    species : LineSpecies
        What is searched, and what the absorbers are.
    populations : tuple of Population
        Every spectrum takes one of them, each as often as the others.
    seed : int
    contaminated : float
        Fraction of the spectra that get an interloper.
    kinds : tuple of str, optional
        Interlopers to choose from; by default all that are not the species.
    snr_min : float
        Median signal-to-noise ratio per pixel that a spectrum has at least.
    most_correlated : float
        Largest weight with which a pixel shares its neighbour's noise, as resampling makes it; a spectrum has any up to this.
    sky : SkyNoise, optional
        Noise of real sky fibers in the place of the parametric spectrograph's.
    continuum : callable, optional
        ``(rng, z_qso) -> flux (p,)`` with median 1 in the place of the parametric quasar.
    window : Preprocess
        Where the species is searched: absorbers and interlopers lie there.
    families : float
        How many times as frequent as in nature systems of other species are, with all their lines (:mod:`nalspark.mocks.families`).
    """

    species: LineSpecies
    populations: tuple[inject.Population, ...]
    seed: int = 1
    contaminated: float = 0.5
    kinds: tuple[str, ...] | None = None
    snr_min: float = 1.0
    most_correlated: float = 0.25
    sky: SkyNoise | None = None
    continuum: Continuum | None = None
    window: Preprocess = Preprocess()
    families: float = 0.0


@dataclass(frozen=True)
class Mocks:
    """`n` mock spectra on the common grid with their truth.

    Attributes
    ----------
    spectra : Spectra
    z_qso : ndarray, shape (n,)
    row : ndarray of int, shape (k,)
        The spectrum of each absorber; sorted.
    z_abs, ew_primary, ew_secondary : ndarray, shape (k,)
        Redshift, and rest equivalent widths in Å.
    line_snr : ndarray, shape (k, 2)
        With which signal-to-noise ratio each line of the doublet can be measured at best; masked pixels count nothing.
    kind : list of n str
        The interloper; "" for none.
    interloper_pixel : ndarray, shape (n,)
        Where it is; NaN for none.
    expected : ndarray, shape (n, p)
        The flux without absorbers and noise, interloper included.
    sigma : ndarray, shape (n, p)
        The standard deviation of the noise; where real sky residuals were used, the error that their pipeline claims.
    """

    spectra: Spectra
    z_qso: Array
    row: NDArray[np.int64]
    z_abs: Array
    ew_primary: Array
    ew_secondary: Array
    line_snr: Array
    kind: list[str]
    interloper_pixel: Array
    expected: Array
    sigma: Array


def make_mocks(names: list[str], recipe: Recipe) -> Mocks:
    """Make the mock spectra of the given names.

    Parameters
    ----------
    names : list of n str
        A spectrum is a function of its name and the recipe.
    recipe : Recipe
    """
    grid = LATTICE
    rngs = [inject.seeded_generator(recipe.seed, name, "quasar") for name in names]
    kind = [_interloper(rng, recipe) for rng in rngs]
    z_qso = np.array([_redshift(rng, recipe.species) for rng in rngs])
    instrument = np.array([rng.choice(INSTRUMENT_SIGMAS) for rng in rngs])
    quiet = np.array([_unabsorbed(rng, z, recipe) for rng, z in zip(rngs, z_qso, strict=True)])
    drawn = _absorbers(names, z_qso, recipe)
    passed = _transmission(drawn, instrument, with_all_lines(recipe.species))
    window = search_window(grid, recipe.species, z_qso, recipe.window)
    interlopers = make_interlopers(kind, rngs, window, recipe.species, grid)
    expected = quiet * interlopers.transmission * _of_families(names, z_qso, instrument, recipe)
    see = _with_sky if recipe.sky is not None else _with_spectrograph
    seen = [see(rng, flux, recipe) for rng, flux in zip(rngs, expected * passed, strict=True)]
    level, flux, ivar, mask, sigma = (np.array(part) for part in zip(*seen, strict=True))
    flux = flux + interlopers.residual * np.where(ivar > 0, sigma, 0.0)
    resolution = np.repeat(instrument[:, None] / grid.pixel_kms, len(grid.resolution_pixels), axis=1).astype(np.float32)
    spectra = Spectra(flux.astype(np.float32), ivar.astype(np.float32), mask.astype(np.uint8), grid, resolution)
    expected *= level[:, None]
    row, z_abs, primary, secondary, snr = _truth(drawn, np.where(spectra.good, (expected / sigma) ** 2, 0.0), recipe)
    return Mocks(spectra, z_qso, row, z_abs, primary, secondary, snr, kind, interlopers.pixel, expected, sigma)


def _interloper(rng: np.random.Generator, recipe: Recipe) -> str:
    kinds = kinds_of(recipe.species) if recipe.kinds is None else recipe.kinds
    return str(rng.choice(kinds)) if kinds and rng.random() < recipe.contaminated else ""


def _redshift(rng: np.random.Generator, species: LineSpecies) -> float:
    """A redshift at which part of the search window lies on the grid."""
    lowest = 10.0 ** ((LATTICE.first + 200) * LATTICE.step) / species.window_rest[1] - 1.0
    while True:
        z = quasars.draw_redshift(rng)
        if z > lowest:
            return z


def _spectrograph(rng: np.random.Generator) -> quasars.Spectrograph:
    return quasars.BOSS if rng.random() < 0.5 else quasars.SDSS


def _unabsorbed(rng: np.random.Generator, z: float, recipe: Recipe) -> Array:
    """A quasar's flux relative to its median, shape (p,)."""
    if recipe.continuum is not None:
        return recipe.continuum(rng, z)
    return quasars.quasar_flux(LATTICE, z, rng)


def _snr(rng: np.random.Generator, recipe: Recipe) -> float:
    while True:
        snr = quasars.draw_snr(rng)
        if snr > recipe.snr_min:
            return snr


def _absorbers(names: list[str], z_qso: Array, recipe: Recipe) -> list[tuple[NDArray[np.int64], inject.Absorbers]]:
    """For every population the rows that take it and their absorbers, whose spectra are numbered within these rows."""
    system = with_all_lines(recipe.species)
    species = recipe.species
    if recipe.window.window_rest_blue:
        species = replace(species, window_rest=(recipe.window.window_rest_blue, species.window_rest[1]))
    first, last = LATTICE.wavelength_at(np.array([0, LATTICE.n_pixels - 1]))
    which = np.array([int(inject.seeded_generator(recipe.seed, name, "population").integers(len(recipe.populations))) for name in names])
    drawn = []
    for number, population in enumerate(recipe.populations):
        rows = np.flatnonzero(which == number)
        if len(rows):
            size = inject.uniforms_per_spectrum(system, population)
            uniforms = np.stack([inject.seeded_generator(recipe.seed, names[row], "absorbers").random(size) for row in rows])
            limits = inject.redshift_limits(species, z_qso[rows], (first, last), population)
            drawn.append((rows, inject.draw(system, population, uniforms, limits)))
    return drawn


def _truth(drawn: list[tuple[NDArray[np.int64], inject.Absorbers]], weight: Array, recipe: Recipe) -> list[NDArray]:
    """Row, redshift, equivalent widths and line signal-to-noise ratios of all absorbers, in order of the row."""
    system = with_all_lines(recipe.species)
    parts = [
        (rows[found.spectrum], found.z, found.ew_primary, found.ew_secondary, inject.line_snr(found, system, LATTICE, weight[rows]))
        for rows, found in drawn
    ]
    columns = [np.concatenate(part) for part in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return [column[order] for column in columns]


def _of_families(names: list[str], z_qso: Array, instrument: Array, recipe: Recipe) -> Array | float:
    """What absorbers of other species leave of the light; (n, p)."""
    if not recipe.families:
        return 1.0
    rngs = [inject.seeded_generator(recipe.seed, name, "families") for name in names]
    rows, passed = np.arange(len(names)), np.ones((len(names), LATTICE.n_pixels))
    for system, absorbers in draw_families(recipe.species, z_qso, rngs, recipe.families):
        passed *= _transmission([(rows, absorbers)], instrument, system)
    return passed


def _transmission(drawn: list[tuple[NDArray[np.int64], inject.Absorbers]], instrument: Array, system: LineSpecies) -> Array:
    """What the absorbers leave of the light of every spectrum, each seen through its own instrument; (n, p)."""
    passed = np.ones((len(instrument), LATTICE.n_pixels))
    for rows, absorbers in drawn:
        for sigma in INSTRUMENT_SIGMAS:
            mine = np.flatnonzero(instrument[rows] == sigma)
            number = np.full(len(rows), -1)
            number[mine] = np.arange(len(mine))
            some = number[absorbers.spectrum] >= 0
            passed[rows[mine]] = inject.transmission(
                absorbers.take(some, number[absorbers.spectrum[some]]), system, LATTICE, len(mine), sigma
            )
    return passed


def _with_spectrograph(rng: np.random.Generator, flux: Array, recipe: Recipe) -> tuple[float, Array, Array, NDArray[Any], Array]:
    """Scale of the flux, flux, inverse variance, mask and σ as a spectrograph records them; neighbours share some of their noise."""
    spectrograph = _spectrograph(rng)
    level = quasars.flux_for_snr(_snr(rng, recipe), spectrograph)
    seen = quasars.observe(flux * level, spectrograph, LATTICE, rng)
    recorded = np.zeros(len(flux), dtype=bool)
    recorded[max(spectrograph.grid.first - LATTICE.first, 0) : spectrograph.grid.first + spectrograph.grid.n_pixels - LATTICE.first] = True
    good = (seen.ivar > 0) & recorded
    noise = np.where(good, (seen.flux - flux * level) / seen.sigma, 0.0)
    correlation = rng.uniform(0.0, recipe.most_correlated)
    noise = (noise + correlation * np.roll(noise, 1)) / np.sqrt(1.0 + correlation**2)
    mask: NDArray[np.int64] = np.where(good, 0, int(PixelFlag.NO_DATA))
    return level, np.where(good, flux * level + seen.sigma * noise, 0.0), np.where(good, seen.ivar, 0.0), mask, seen.sigma


def _with_sky(rng: np.random.Generator, flux: Array, recipe: Recipe) -> tuple[float, Array, Array, NDArray[Any], Array]:
    """The same with the residuals of a real sky fiber, to which the quasar's own photons add noise."""
    assert recipe.sky is not None
    number, sign = int(rng.integers(len(recipe.sky.residual))), rng.choice((-1.0, 1.0))
    residual, ivar, mask = (np.asarray(part[number], dtype=float) for part in (recipe.sky.residual, recipe.sky.ivar, recipe.sky.mask))
    good = ivar > 0
    variance = 1.0 / np.where(good, ivar, 1.0)
    typical, snr = float(np.median(variance[good])), _snr(rng, recipe)
    # With own photons of variance shot · flux, the level at which the typical pixel has this signal-to-noise ratio.
    shot = 0.04 * np.sqrt(typical)
    level = 0.5 * (snr**2 * shot + np.sqrt(snr**4 * shot**2 + 4.0 * snr**2 * typical))
    own = shot * np.maximum(flux * level, 0.0)
    sigma = np.sqrt(variance + own)
    seen = flux * level + sign * residual + np.sqrt(own) * rng.standard_normal(len(flux))
    return level, np.where(good, seen, 0.0), np.where(good, 1.0 / sigma**2, 0.0), mask, sigma
