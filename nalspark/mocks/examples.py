"""Examples to learn from: mock spectra taken through the same preparation and search as real ones, with labels from what was put in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption.chain import Searchable, prepare, propose, spectrum_inputs
from nalspark.absorption.measure import STRONG_EW, STRONG_SIGNIFICANCE
from nalspark.absorption.systems import match_radius
from nalspark.absorption.windows import zhao_window
from nalspark.mocks.inject import seeded_generator
from nalspark.mocks.recipes import Mocks, Recipe, make_mocks
from nalspark.settings import Settings
from nalspark.spectra.grid import ZHAO_GRID

#: Nearer than this, and not one system with it, a candidate is neither: the flank of an absorber.
FLANK_PIXELS = 8.0


def nearest_absorbers(mocks: Mocks, row: NDArray[np.int64], pixel: NDArray[np.int64], settings: Settings) -> tuple[NDArray, NDArray]:
    """Find for each candidate the nearest absorber of its spectrum: its number (-1: none) and the distance in pixels (∞).

    Parameters
    ----------
    row, pixel : ndarray of int, shape (m,)
    """
    place = mocks.spectra.grid.pixel(settings.line_species.primary.wavelength * (1.0 + mocks.z_abs))
    number, distance = np.full(len(row), -1), np.full(len(row), np.inf)
    for k, (spectrum, where) in enumerate(zip(row, pixel, strict=True)):
        mine = np.flatnonzero(mocks.row == spectrum)
        if len(mine):
            away = np.abs(place[mine] - where)
            number[k], distance[k] = mine[away.argmin()], away.min()
    return number, distance


def label_candidates(mocks: Mocks, row: NDArray[np.int64], pixel: NDArray[np.int64], settings: Settings) -> tuple[NDArray, NDArray]:
    """Label each candidate: 1 an absorber, 0 none, NaN the flank of one; and the number of the nearest absorber, -1 for none."""
    number, distance = nearest_absorbers(mocks, row, pixel, settings)
    ew = np.where(number >= 0, mocks.ew_primary[number] if len(mocks.ew_primary) else 0.0, 0.0)
    return np.where(distance <= match_radius(ew), 1.0, np.where(distance <= FLANK_PIXELS, np.nan, 0.0)), number


def strong(mocks: Mocks) -> NDArray[np.bool_]:
    """Tell which of the absorbers are strong, shape (k,)."""
    return (mocks.line_snr >= STRONG_SIGNIFICANCE).all(axis=1) & (mocks.ew_primary >= STRONG_EW)


def draws(names: list[str]) -> NDArray[np.float64]:
    """Draw a uniform number for each name, in [0, 1)."""
    return np.array([seeded_generator("draw", name).random() for name in names])


def candidate_examples(names: list[str], recipe: Recipe, settings: Settings) -> dict[str, NDArray]:
    """Make the candidates of the named mock spectra with their labels: columns of TRAINING but for ``part`` and ``split``."""
    mocks = make_mocks(names, recipe)
    settings = settings.model_copy(update={"preprocess": recipe.window})
    ready = prepare(mocks.spectra, mocks.z_qso, settings)
    candidates = propose(Searchable.of(ready, mocks.z_qso), settings)
    label, number = label_candidates(mocks, candidates.row, candidates.pixel, settings)
    keep = np.isfinite(label)
    candidates, number = candidates.take(keep), number[keep]
    row, at = candidates.row, np.maximum(number, 0)
    identifier = candidates.names(names)
    return {
        "example_id": np.array(identifier, dtype=object),
        "quasar_id": np.array([names[k] for k in row], dtype=object),
        "label": label[keep].astype(np.float32),
        "draw": draws(identifier),
        "kind": np.array([mocks.kind[k] for k in row], dtype=object),
        "z_qso": mocks.z_qso[row],
        "snr": ready.snr[row],
        "z_abs": np.where(number >= 0, mocks.z_abs[at] if len(mocks.z_abs) else np.nan, np.nan),
        "ew_primary": np.where(number >= 0, mocks.ew_primary[at] if len(mocks.z_abs) else np.nan, np.nan),
        "significance": candidates.significance,
        "image_residual": candidates.image_residual,
        "image_inverse_error": candidates.image_inverse_error,
    }


def spectrum_examples(names: list[str], recipe: Recipe, settings: Settings) -> dict[str, NDArray]:
    """Make the named mock spectra as a whole: columns of TRAINING_SPECTRA but for ``part`` and ``split``.

    A spectrum with a strong absorber is positive. One whose absorbers are all weaker is left out: it is neither. Absorbers that the
    network cannot see, outside the paper's window, do not count.
    """
    mocks = make_mocks(names, recipe)
    settings = settings.model_copy(update={"preprocess": recipe.window})
    ready = prepare(mocks.spectra, mocks.z_qso, settings)
    inputs = spectrum_inputs(ready.spectra, mocks.z_qso, settings)
    place = np.rint(ZHAO_GRID.pixel(settings.line_species.primary.wavelength * (1.0 + mocks.z_abs))).astype(np.int64)
    window = zhao_window(ZHAO_GRID, settings.line_species, mocks.z_qso, settings.preprocess)
    seen = (place >= 0) & (place < ZHAO_GRID.n_pixels)
    seen &= window[mocks.row, np.clip(place, 0, ZHAO_GRID.n_pixels - 1)]
    n_absorbers, n_strong = (np.bincount(mocks.row[which], minlength=len(names)) for which in (seen, seen & strong(mocks)))
    searched = np.array([reason is None for reason in ready.reason])
    rows = np.flatnonzero(searched & ((n_absorbers == 0) | (n_strong > 0)))
    nearest = np.array([np.flatnonzero(seen & (mocks.row == row))[0] if n_absorbers[row] else -1 for row in rows], dtype=np.int64)
    has = nearest >= 0
    kept = [names[row] for row in rows]
    return {
        "example_id": np.array(kept, dtype=object),
        "quasar_id": np.array(kept, dtype=object),
        "label": (n_strong[rows] > 0).astype(np.float32),
        "draw": draws(kept),
        "kind": np.array([mocks.kind[row] for row in rows], dtype=object),
        "z_qso": mocks.z_qso[rows],
        "snr": ready.snr[rows],
        "z_abs": np.where(has, mocks.z_abs[nearest] if has.any() else np.nan, np.nan),
        "ew_primary": np.where(has, mocks.ew_primary[nearest] if has.any() else np.nan, np.nan),
        "flux": inputs[rows],
    }
