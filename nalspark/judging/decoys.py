"""Doublets of a wrong separation: what chance, sky and continuum give, without knowing any truth.

The spectra are searched once more for pairs of lines that no atom has, everything else the same. So that the network cannot tell by their
place which pairs these are, the pixels between the two lines that are too many are left out of the image: the second line then lies where
that of a doublet would. Pairs with a line of a known absorber are left out, as the search takes known absorbers away, and the others count
for the path that is lost so. What is not seen are the pieces into which wide systems may fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption import chain
from nalspark.absorption.chain import Candidates, Light, Scorer, Searchable
from nalspark.absorption.images import HALF_WIDTH, ImageGeometry
from nalspark.lines import ALL_LINES, METALS, LineSpecies
from nalspark.settings import Settings
from nalspark.spectra.grid import WavelengthGrid

#: How many wrong separations are searched.
N_SEPARATIONS = 4
#: Pixels by which they differ from each other, and from the doublet's at least, and from any real pair of lines.
_STEP, _APART = 6, 2.3
#: Pixels from a line of a known absorber within which a decoy's line is taken to be that.
_KNOWN = 10


@lru_cache(maxsize=8)
def extra_pixels(species: LineSpecies, step_dex: float) -> tuple[int, ...]:
    """Give the whole pixels by which decoys' lines are farther apart than the doublet's: far from any separation of two known lines."""
    lines = np.log10([line.wavelength for line in ALL_LINES]) / step_dex
    real = np.abs(lines[:, None] - lines).ravel()
    own, chosen = species.offset_pixels(species.secondary, step_dex), list[int]()
    for extra in range(2 * _STEP, 10 * _STEP):
        far = np.abs(real - own - extra).min() >= _APART
        if far and (not chosen or extra - chosen[-1] >= _STEP):
            chosen.append(extra)
    return tuple(chosen[:N_SEPARATIONS])


def find_decoys(
    searchable: Searchable, light: Light, known: Sequence[NDArray[np.float64]], score: Scorer, settings: Settings
) -> dict[str, NDArray[Any]]:
    """Find and measure decoys in spectra that can be searched.

    Parameters
    ----------
    searchable : Searchable, m spectra
    light : Light
    known : sequence of ndarray
        Redshifts of the absorbers that the catalogue has, of every spectrum of the batch: :attr:`Searchable.row` are their places.
    score : callable
        See :func:`nalspark.absorption.chain.scorer`.
    settings : Settings

    Returns
    -------
    dict of ndarray, shape (k,)
        Columns of DECOYS but for the names, and ``row``.
    """
    species, grid, found = settings.line_species, searchable.spectra.grid, []
    for extra in extra_pixels(species, grid.step):
        wide = with_separation(species, extra, grid.step)
        candidates = chain.propose(searchable, settings, light, wide)
        free, weight = _free(searchable, light, known, extra + round(species.offset_pixels(species.secondary, grid.step)), species)
        candidates = candidates.take(free[np.searchsorted(searchable.row, candidates.row), candidates.pixel])
        candidates = _spliced(candidates, searchable, light, extra, species)
        scores = score(searchable, candidates)
        worth = np.flatnonzero(chain.worth_measuring(scores, settings))
        measured = chain.measure(candidates.take(worth), scores[worth], settings)
        names = {name: name for name in ("row", "z_abs", "significance", "score", "accepted")}
        names["ew_primary"] = f"ew_{species.primary.label}"
        separation = (species.offset_pixels(species.secondary, grid.step) + extra) * grid.pixel_kms
        columns = {name: measured[column] for name, column in names.items()}
        columns["weight"] = weight[np.searchsorted(searchable.row, measured["row"])]
        found.append(columns | {"separation_kms": np.full(len(worth), separation)})
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def with_separation(species: LineSpecies, extra: int, step_dex: float) -> LineSpecies:
    """Give a species whose second line lies some pixels farther away: a doublet that no atom has."""
    line = species.secondary
    return replace(species, secondary=replace(line, wavelength=line.wavelength * 10.0 ** (extra * step_dex)))


def _lines_of_known(known: NDArray[np.float64], species: LineSpecies, grid: WavelengthGrid) -> NDArray[np.bool_]:
    """Mark the pixels near a line of an absorber that a spectrum is known to have, shape (p,)."""
    offsets = np.array([species.offset_pixels(line, grid.step) for line in dict.fromkeys((*METALS, *species.transitions))])
    places = (grid.pixel(species.primary.wavelength * (1.0 + known))[:, None] + offsets).ravel()
    near = np.rint(places).astype(np.int64)[:, None] + np.arange(-_KNOWN, _KNOWN + 1)
    marked = np.zeros(grid.n_pixels, dtype=bool)
    marked[near[(near >= 0) & (near < grid.n_pixels)]] = True
    return marked


def _free(
    searchable: Searchable, light: Light, known: Sequence[NDArray[np.float64]], shift: int, species: LineSpecies
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Searched pixels, (m, p), at which neither line of a decoy lies on one of a known absorber; and searched over such pixels, (m,)."""
    free, grid = np.array(light.searched), searchable.spectra.grid
    for number, row in enumerate(searchable.row):
        if len(known[row]):
            taken = _lines_of_known(np.asarray(known[row], dtype=float), species, grid)
            taken[: grid.n_pixels - shift] |= taken[shift:]
            free[number] &= ~taken
    return free, light.searched.sum(axis=1) / np.maximum(free.sum(axis=1), 1)


def _spliced(candidates: Candidates, searchable: Searchable, light: Light, extra: int, species: LineSpecies) -> Candidates:
    """The candidates with images in which the pixels that are too many between the two lines are left out."""
    grid = candidates.grid
    geometry = ImageGeometry.of(species, grid.step)
    gap = int(geometry.offsets[geometry.secondary])
    of_batch = np.searchsorted(searchable.row, candidates.row)
    columns = np.arange(-HALF_WIDTH, HALF_WIDTH + 1)
    images = np.array(candidates.image_residual), np.array(candidates.image_inverse_error)
    for line, place in ((geometry.primary, columns), (geometry.secondary, columns + gap)):
        pixel = candidates.pixel[:, None] + place + np.where(place > gap // 2, extra, 0)
        inside = (pixel >= 0) & (pixel < grid.n_pixels)
        at = of_batch[:, None], np.clip(pixel, 0, grid.n_pixels - 1)
        for image, values in zip(images, (light.residual, np.sqrt(light.weight)), strict=True):
            image[:, line] = np.where(inside, values[at], 0.0)
    return replace(candidates, image_residual=images[0], image_inverse_error=images[1])
