"""Absorbers put into the spectra of a run, and looked for with the chain that made its catalogue: what it finds is its completeness.

A spectrum is multiplied by what an absorber leaves of the light, in all lines that the network sees, through the spectrum's own resolution.
That takes more noise away than absorption does: the quasar's photons become fewer, those of the sky do not. What is lacking is drawn anew.
Redshifts are drawn from the path that was searched, uniformly; equivalent widths are flat in log W. Everything random about a spectrum
comes from its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption import chain
from nalspark.absorption.chain import Scorer, Searchable
from nalspark.absorption.systems import match_radius, same_system, separation_pixels
from nalspark.lines import LineSpecies
from nalspark.mocks import inject
from nalspark.settings import Completeness, Settings
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

#: Absorbers that are drawn for a run, to choose from.
_ABSORBERS = 2048
#: Pixels beyond the radius of a system within which a candidate is scored and measured: a fit moves by 6 at most.
_AROUND = 8.0
#: Pixels beyond that radius from an absorber that the spectrum has of its own, within which nothing is learned.
_APART = 8.0
#: Pixels beyond the outermost lines of an absorber on which its light is computed.
_MARGIN = 40
#: S/N per pixel at which half of the variance is photon noise of the quasar. Variances in and beside 88 strong lines of real SDSS and BOSS
#: spectra: 0.25, 0.27, 0.35, 0.46, 0.49 of it at S/N 2.9, 5.3, 7.6, 11, 17.
_HALF = 15.0
#: Steps, in lattice pixels, in which a spectrum's resolution counts, and what it is at least and at most.
_RESOLUTION_STEP, _RESOLUTIONS = 0.1, (0.6, 2.5)


@dataclass(frozen=True)
class Sightlines:
    """n spectra of a run that absorbers are put into.

    Attributes
    ----------
    names : sequence of str, length n
    spectra : Spectra
        On the lattice, as the survey published them.
    z_qso : ndarray, shape (n,)
    z_start, z_stop : sequences of n ndarrays
        The searched redshift intervals.
    known : sequence of n ndarrays
        Redshifts of the absorbers that the catalogue has.
    """

    names: Sequence[str]
    spectra: Spectra
    z_qso: Array
    z_start: Sequence[Array]
    z_stop: Sequence[Array]
    known: Sequence[Array]

    def __len__(self) -> int:
        return len(self.names)


def in_path_at(z_start: Array, z_stop: Array, part: float) -> float:
    """Give the redshift below which lies a part, in [0, 1], of the path of some intervals."""
    ends = np.cumsum(z_stop - z_start)
    number = min(int(np.searchsorted(ends, part * ends[-1], "right")), len(ends) - 1)
    return float(z_stop[number] - (ends[number] - part * ends[-1]))


@lru_cache(maxsize=4)
def _drawn(species: LineSpecies, how: Completeness) -> inject.Absorbers:
    """Absorbers of a run, to choose from: to draw each anew would take as long as to search for it."""
    population = inject.Population(counts=(0.0, 1.0), ew_law="log-uniform", ew_min=how.ew_min, ew_max=how.ew_max)
    size = inject.uniforms_per_spectrum(species, population)
    uniforms = np.stack([inject.seeded_generator(how.seed, "absorber", k).random(size) for k in range(_ABSORBERS)])
    order = np.random.Generator(np.random.Philox(key=how.seed % 2**64)).permutation(_ABSORBERS)
    uniforms[:, 1] = (order + uniforms[:, 1]) / _ABSORBERS  # of the equivalent width: one in each step
    return inject.draw(species, population, uniforms, (np.zeros(_ABSORBERS), np.zeros(_ABSORBERS) + 1.0))


def draw_absorbers(sightlines: Sightlines, number: int, settings: Settings) -> inject.Absorbers:
    """Draw one absorber for every spectrum; `number` tells those of one spectrum apart."""
    how = settings.completeness
    uniforms = [inject.seeded_generator(how.seed, name, "injection", number).random(2) for name in sightlines.names]
    which = np.array([int(u[0] * _ABSORBERS) for u in uniforms], dtype=np.int64)
    path = zip(sightlines.z_start, sightlines.z_stop, uniforms, strict=True)
    z = np.array([in_path_at(start, stop, float(u[1])) for start, stop, u in path])
    return replace(_drawn(settings.line_species, how).take(which, np.arange(len(which))), z=z)


def put_in(sightlines: Sightlines, absorbers: inject.Absorbers, number: int, settings: Settings) -> Spectra:
    """Put one absorber into every spectrum.

    Parameters
    ----------
    sightlines : Sightlines
    absorbers : Absorbers
        From :func:`draw_absorbers`.
    number : int
        As there: the noise that is drawn anew depends on it.
    settings : Settings

    Returns
    -------
    Spectra
        Their inverse variances are larger in the lines, where the quasar's own noise is lacking.
    """
    spectra, n_pixels = sightlines.spectra, sightlines.spectra.grid.n_pixels
    passed, first = _passed(spectra, absorbers, settings)
    flux, ivar = np.array(spectra.flux), np.array(spectra.ivar)
    for row, name in enumerate(sightlines.names):
        dark = np.flatnonzero(passed[row] < 1.0)
        dark = dark[(dark + first[row] >= 0) & (dark + first[row] < n_pixels)]
        left, pixel = passed[row, dark], dark + first[row]
        noise = inject.seeded_generator(settings.completeness.seed, name, "noise", number).standard_normal(len(dark))
        kept = 1.0 - _own_share(flux[row, pixel], ivar[row, pixel]) * (1.0 - left)
        lost = np.sqrt((kept - left**2).clip(0.0) / np.where(ivar[row, pixel] > 0, ivar[row, pixel], np.inf))
        flux[row, pixel] = flux[row, pixel] * left + lost * noise
        ivar[row, pixel] /= kept
    return replace(spectra, flux=flux, ivar=ivar)


def _own_share(flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> float:
    """Which part of the variance of some pixels is the quasar's photon noise; 0 where it is not seen."""
    good = ivar > 0
    snr = max(float(np.median(flux[good] * np.sqrt(ivar[good]))), 0.0) if good.any() else 0.0
    return snr / (snr + _HALF)


def _passed(spectra: Spectra, absorbers: inject.Absorbers, settings: Settings) -> tuple[Array, NDArray[np.int64]]:
    """What one absorber leaves of the light of each spectrum, around its lines only: (n, q), and the grid pixel of the first column.

    Lines lie at constant distances on the lattice, so all absorbers are moved by whole pixels to where one short grid holds them.
    """
    species, grid = settings.line_species, spectra.grid
    offsets = [species.offset_pixels(line, grid.step) for line in species.transitions]
    bluest = int(np.floor(min(offsets))) - _MARGIN
    place = np.rint(grid.pixel(species.primary.wavelength * (1.0 + absorbers.z))).astype(np.int64)
    short = WavelengthGrid(grid.first, int(np.ceil(max(offsets))) + _MARGIN - bluest, grid.step)
    moved = replace(absorbers, z=(1.0 + absorbers.z) * 10.0 ** (-(place + bluest) * grid.step) - 1.0)
    known = spectra.resolution_at(np.arange(len(place)), np.clip(place, 0, grid.n_pixels - 1))
    width = np.where(np.isfinite(known), known, settings.measure.instrument_sigma_kms / grid.pixel_kms)
    step = np.round(np.clip(width, *_RESOLUTIONS) / _RESOLUTION_STEP).astype(np.int64)
    passed = np.ones((len(place), short.n_pixels))
    for one in np.unique(step):
        rows = np.flatnonzero(step == one)
        some = moved.take(rows, np.arange(len(rows)))
        passed[rows] = inject.transmission(some, species, short, len(rows), one * _RESOLUTION_STEP * grid.pixel_kms)
    return passed, place + bluest


def find_again(spectra: Spectra, z_qso: Array, absorbers: inject.Absorbers, score: Scorer, settings: Settings) -> dict[str, NDArray[Any]]:
    """Look for absorbers that were put in, one a spectrum, as the run does.

    Parameters
    ----------
    spectra : Spectra, n of them
    z_qso : ndarray, shape (n,)
    absorbers : Absorbers, n of them
    score : callable
        See :func:`nalspark.absorption.chain.scorer`.
    settings : Settings

    Returns
    -------
    dict of ndarray, shape (n,)
        ``sigma_ew``, ``snr``, ``found``, ``score``, ``z_found``, ``ew_found``, ``ew_found_err`` of INJECTIONS.
    """
    species, n = settings.line_species, len(absorbers)
    ready = chain.prepare(spectra, z_qso, settings)
    searchable = Searchable.of(ready, z_qso)
    light = chain.light_of(searchable, settings)
    candidates = chain.propose(searchable, settings, light)
    z, ew = absorbers.z[candidates.row], absorbers.ew_primary[candidates.row]
    candidates = candidates.take(separation_pixels(candidates.z_search, z) <= match_radius(ew) + _AROUND)
    scores = score(searchable, candidates)
    worth = np.flatnonzero(chain.worth_measuring(scores, settings))
    candidates, scores = candidates.take(worth), scores[worth]
    measured, row = chain.measure(candidates, scores, settings), candidates.row
    there = same_system(measured["z_abs"], absorbers.z[row], absorbers.ew_primary[row])
    names = {"score": scores, "z_found": measured["z_abs"], "ew_found": measured[f"ew_{species.primary.label}"]}
    names["ew_found_err"] = measured[f"ew_{species.primary.label}_err"]
    result: dict[str, NDArray[Any]] = {name: np.full(n, np.nan) for name in names}
    result["found"] = np.zeros(n, dtype=bool)
    order = np.flatnonzero(there)[np.argsort(scores[there], kind="stable")]  # the best one last: it stays
    for name, values in names.items():
        result[name][row[order]] = values[order]
    result["found"][row[order]] = measured["accepted"][order]
    pixel = np.rint(spectra.grid.pixel(species.primary.wavelength * (1.0 + absorbers.z))).astype(np.int64)
    result["sigma_ew"] = np.full(n, np.nan, np.float32)
    place = np.clip(pixel[searchable.row], 0, spectra.grid.n_pixels - 1)
    result["sigma_ew"][searchable.row] = light.sensitivity.at(np.arange(len(place)), place, spectra.grid)
    return {**result, "snr": ready.snr}


def inject_and_find(sightlines: Sightlines, score: Scorer, settings: Settings) -> dict[str, NDArray[Any]]:
    """Put absorbers into spectra, ``completeness.per_sightline`` into each, one at a time, and look for them.

    Parameters
    ----------
    sightlines : Sightlines
        Of spectra that were searched.
    score : callable
    settings : Settings

    Returns
    -------
    dict of ndarray, shape (m,)
        Columns of INJECTIONS but for the names, and ``row``, the spectrum of each.
    """
    found = []
    for number in range(settings.completeness.per_sightline):
        absorbers = draw_absorbers(sightlines, number, settings)
        spectra = put_in(sightlines, absorbers, number, settings)
        columns = find_again(spectra, sightlines.z_qso, absorbers, score, settings)
        truth = {"z_abs": absorbers.z, **{name: getattr(absorbers, name) for name in ("ew_primary", "ew_secondary", "sigma_kms")}}
        blended = [
            bool(np.any(separation_pixels(z, own) <= match_radius(ew) + _APART))
            for z, ew, own in zip(absorbers.z, absorbers.ew_primary, sightlines.known, strict=True)
        ]
        columns |= {**truth, "blended": np.array(blended), "row": np.arange(len(sightlines)), "z_qso": sightlines.z_qso}
        use = np.isfinite(columns["sigma_ew"])
        found.append({name: values[use] for name, values in columns.items()})
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}
