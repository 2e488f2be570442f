"""Absorbers put into the spectra of a run, and looked for with the chain that made its catalogue: what it finds is its completeness.

A spectrum is multiplied by what an absorber leaves of the light, all its lines included, seen through the spectrum's own resolution. In the
lines that takes noise away too, so as much is drawn anew: the variance stays what it was. Redshifts are drawn from the path that was
searched, uniformly; equivalent widths are flat in log W. Everything random about a spectrum comes from its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption import chain
from nalspark.absorption.chain import Scorer, Searchable
from nalspark.absorption.systems import match_radius, same_system, separation_pixels
from nalspark.lines import with_all_lines
from nalspark.mocks import inject
from nalspark.settings import Settings
from nalspark.spectra.batch import Spectra

Array = NDArray[np.float64]

#: Pixels beyond the radius of a system within which a candidate is scored and measured: a fit moves by 6 at most.
_AROUND = 8.0
#: Pixels beyond that radius from an absorber that the spectrum has of its own, within which nothing is learned.
_APART = 8.0
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


def draw_absorbers(sightlines: Sightlines, number: int, settings: Settings) -> inject.Absorbers:
    """Draw one absorber for every spectrum; `number` tells those of one spectrum apart."""
    system, how = with_all_lines(settings.line_species), settings.completeness
    population = inject.Population(counts=(0.0, 1.0), ew_law="log-uniform", ew_min=how.ew_min, ew_max=how.ew_max)
    size = inject.uniforms_per_spectrum(system, population)
    uniforms = np.stack([inject.seeded_generator(how.seed, name, "injection", number).random(size) for name in sightlines.names])
    drawn = inject.draw(system, population, uniforms, (np.zeros(len(sightlines)), np.ones(len(sightlines))))
    z = [in_path_at(a, b, part) for a, b, part in zip(sightlines.z_start, sightlines.z_stop, drawn.z, strict=True)]
    return replace(drawn, z=np.array(z))


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
        Their inverse variances are those of the spectra.
    """
    system, spectra = with_all_lines(settings.line_species), sightlines.spectra
    place = np.rint(spectra.grid.pixel(settings.line_species.primary.wavelength * (1.0 + absorbers.z))).astype(np.int64)
    known = spectra.resolution_at(np.arange(len(place)), np.clip(place, 0, spectra.grid.n_pixels - 1))
    usual = settings.measure.instrument_sigma_kms / spectra.grid.pixel_kms
    width = np.clip(np.where(np.isfinite(known), known, usual), *_RESOLUTIONS)
    step = np.round(width / _RESOLUTION_STEP).astype(np.int64)
    passed = np.ones(spectra.flux.shape)
    for one in np.unique(step):
        rows = np.flatnonzero(step == one)
        some = absorbers.take(rows, np.arange(len(rows)))
        passed[rows] = inject.transmission(some, system, spectra.grid, len(rows), one * _RESOLUTION_STEP * spectra.grid.pixel_kms)
    flux = np.array(spectra.flux)
    for row, name in enumerate(sightlines.names):
        dark = np.flatnonzero((passed[row] < 1.0) & (spectra.ivar[row] > 0))
        noise = inject.seeded_generator(settings.completeness.seed, name, "noise", number).standard_normal(len(dark))
        lost = np.sqrt((1.0 - passed[row, dark] ** 2) / spectra.ivar[row, dark])
        flux[row, dark] = flux[row, dark] * passed[row, dark] + lost * noise
    return replace(spectra, flux=flux)


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
