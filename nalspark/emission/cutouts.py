"""One detection as an image: the weighted sum of its four fibers and the fibers themselves, each 9 rows of 32 pixels of 2 Å.

A row is a neighbour on the detector, a column a wavelength; the line is in the middle. All values are significances: flux over its error, 0
where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from nalspark.emission.frames import CLASSES, CUTOUT_SHAPE, INSTRUMENT_FWHM, STEP

Floats = NDArray[np.float32]

ROWS, COLUMNS = CUTOUT_SHAPE
FIBERS = 4
#: Distance of neighbouring fibers, arcsec. A channel's fibers lie in rows of 20 and 19, one row set half a fiber off the next.
PITCH, _ROW_LENGTHS = 2.2, (20, 19)
#: Neighbours are nearer than this times the pitch.
_NEIGHBOUR = 1.2
_MAD_TO_SIGMA = 1.4826


class CutoutFlag(IntFlag):
    """What is to be said of a cut-out."""

    EDGE_OF_WAVELENGTHS = 1  #: columns lie outside the frame
    EDGE_OF_FIBERS = 2  #: rows lie outside the frame
    DEAD_PIXELS = 4  #: pixels inside the frame have no value
    DEAD_CENTRE = 8  #: the brightest fiber has no value at the line itself
    FEW_FIBERS = 16  #: fewer than four fibers have any value


@dataclass(frozen=True)
class Cutouts:
    """Cut-outs of n detections.

    Attributes
    ----------
    images : ndarray, shape (n, 5, 9, 32), significance
        The weighted sum, then the fibers, the brightest first.
    snr : ndarray, shape (n,)
        Of the line in the weighted sum, by a filter of the instrument's width.
    flags : ndarray of int, shape (n,)
        Bits of :class:`CutoutFlag`.
    """

    images: Floats
    snr: Floats
    flags: NDArray[np.int32]


def line_profile(fwhm: NDArray[np.float64] | float, shift: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """Compute a Gaussian line in the columns of a cut-out, height 1.

    Parameters
    ----------
    fwhm : array, shape (n,), Å
    shift : array, shape (n,), pixels
        From the middle.

    Returns
    -------
    ndarray, shape (n, 32)
    """
    sigma = np.atleast_1d(np.asarray(fwhm, dtype=float))[:, None] / (2.3548 * STEP)
    away = np.arange(COLUMNS) - COLUMNS // 2 - np.atleast_1d(np.asarray(shift, dtype=float))[:, None]
    return np.exp(-0.5 * (away / sigma) ** 2)


def _line_snr(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Matched-filter signal-to-noise ratio of a line in the middle of rows (…, 32) of significances."""
    profile = line_profile(INSTRUMENT_FWHM)[0]
    return (rows * profile).sum(axis=-1) / np.sqrt((profile**2 * (rows != 0)).sum(axis=-1) + 1e-9)


def assemble(fibers: NDArray[np.floating], flags: NDArray[np.int32] | None = None) -> Cutouts:
    """Order fibers by their signal, and add them up with its weights.

    The weighted sum is Σ w S / √(Σ w²) over the fibers that have a value there, so its noise has unit width as theirs has.

    Parameters
    ----------
    fibers : ndarray, shape (n, 4, 9, 32), significance; NaN where there is no value
    flags : ndarray of int, shape (n,), optional
        From :func:`cut`; by default all that has no value is dead.
    """
    dead = ~np.isfinite(fibers)
    values = np.where(dead, 0.0, fibers)
    signal = _line_snr(values[:, :, ROWS // 2])
    order = np.argsort(-signal, axis=1, kind="stable")[:, :, None, None]
    values, dead = (np.take_along_axis(array, order, axis=1) for array in (values, dead))
    weight = np.clip(np.take_along_axis(signal, order[:, :, 0, 0], axis=1), 0.3, 1e3)[:, :, None, None] * ~dead
    norm = np.sqrt((weight**2).sum(axis=1))
    total = np.where(norm > 0, (weight * values).sum(axis=1) / np.where(norm > 0, norm, 1.0), 0.0)
    bits = np.where(dead.any(axis=(1, 2, 3)), CutoutFlag.DEAD_PIXELS, 0) if flags is None else flags.copy()
    bits |= np.where(dead[:, 0, ROWS // 2, COLUMNS // 2 - 1 : COLUMNS // 2 + 2].any(axis=1), CutoutFlag.DEAD_CENTRE, 0)
    bits |= np.where((~dead).any(axis=(2, 3)).sum(axis=1) < FIBERS, CutoutFlag.FEW_FIBERS, 0)
    images = np.concatenate([total[:, None], values], axis=1).astype(np.float32)
    return Cutouts(images, _line_snr(images[:, 0, ROWS // 2]).astype(np.float32), bits.astype(np.int32))


def cut(significance: Floats, fibers: NDArray[np.int64], column: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Cut windows around fibers and columns out of a frame.

    Parameters
    ----------
    significance : ndarray, shape (f, p); NaN where dead
    fibers : ndarray of int, shape (n, 4)
        Rows of the frame; negative for a fiber that is missing.
    column : ndarray of int, shape (n,) or (n, 4)

    Returns
    -------
    windows : ndarray, shape (n, 4, 9, 32)
        NaN outside the frame.
    flags : ndarray of int, shape (n,)
    """
    fibers = np.asarray(fibers)
    column = np.broadcast_to(np.asarray(column).reshape(len(fibers), -1), fibers.shape)
    row = fibers[..., None] + np.arange(ROWS) - ROWS // 2
    pixel = column[..., None] + np.arange(COLUMNS) - COLUMNS // 2
    n_fibers, n_pixels = significance.shape
    row_inside, pixel_inside = (row >= 0) & (row < n_fibers) & (fibers >= 0)[..., None], (pixel >= 0) & (pixel < n_pixels)
    taken = significance[np.clip(row, 0, n_fibers - 1)[..., None], np.clip(pixel, 0, n_pixels - 1)[..., None, :]]
    windows = np.where(row_inside[..., None] & pixel_inside[..., None, :], taken, np.nan).astype(np.float32)
    off_rows = (~row_inside & (fibers >= 0)[..., None]).any(axis=(1, 2))
    dead = (np.isnan(taken) & row_inside[..., None] & pixel_inside[..., None, :]).any(axis=(1, 2, 3))
    flags = np.where((~pixel_inside).any(axis=(1, 2)), CutoutFlag.EDGE_OF_WAVELENGTHS, 0)
    flags |= np.where(off_rows, CutoutFlag.EDGE_OF_FIBERS, 0) | np.where(dead, CutoutFlag.DEAD_PIXELS, 0)
    return windows, flags.astype(np.int32)


def fiber_positions(n: int) -> NDArray[np.float64]:
    """Tell where the fibers of a channel lie, arcsec, shape (n, 2): a hexagonal pattern of rows of 20 and 19."""
    lengths = np.resize(_ROW_LENGTHS, n)
    row = np.repeat(np.arange(n), lengths)[:n]
    place = np.arange(n) - (np.cumsum(lengths) - lengths)[row]
    return np.stack([PITCH * (place + 0.5 * (row % 2)), PITCH * np.sqrt(0.75) * row], axis=1)


def brightest_fibers(significance: Floats, fiber: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose a detection's fiber and the three of its neighbours in which the line is brightest; -1 where there are fewer. Shape (n, 4)."""
    place = fiber_positions(len(significance))
    chosen = np.full((len(fiber), FIBERS), -1, dtype=np.int64)
    for k, (own, middle) in enumerate(zip(fiber, column, strict=True)):
        near = np.flatnonzero(np.hypot(*(place - place[own]).T) < _NEIGHBOUR * PITCH)
        others = near[near != own]
        windows, _ = cut(significance, others[:, None], np.full(len(others), middle))
        signal = _line_snr(np.nan_to_num(windows[:, 0, ROWS // 2]))
        best = others[np.argsort(-signal, kind="stable")][: FIBERS - 1]
        chosen[k, : 1 + len(best)] = [own, *best]
    return chosen


def standardize(images: NDArray[np.floating]) -> NDArray[np.float32]:
    """Bring ready cut-outs to our unit: each plane over 1.48 times the median of its absolute values, the width of its noise.

    Parameters
    ----------
    images : ndarray, shape (n, k, 9, 32)
    """
    values = np.asarray(images, dtype=float)
    width = _MAD_TO_SIGMA * np.nanmedian(np.where(values == 0, np.nan, np.abs(values)), axis=(2, 3), keepdims=True)
    return np.where(width > 0, values / np.where(width > 0, width, 1.0), 0.0).astype(np.float32)


def faults(images: NDArray[np.floating], classes: NDArray[np.float64]) -> list[tuple[str, str] | None]:
    """Tell why cut-outs cannot be used: reason and sentence of each, or None.

    Parameters
    ----------
    images : ndarray, shape (n, k, 9, 32)
    classes : ndarray, shape (n,); NaN for no class
    """
    not_finite = (~np.isfinite(images)).sum(axis=(1, 2, 3))
    found: list[tuple[str, str] | None] = []
    for broken, image, value in zip(not_finite, images, classes, strict=True):
        if broken:
            found.append(("not_finite", f"{broken} of its pixels are not finite numbers."))
        elif not image.any():
            found.append(("no_data", "All of its pixels are 0: there is nothing to classify."))
        elif np.isfinite(value) and value not in CLASSES:
            found.append(("class_out_of_range", f"Its class is {value:g}; classes are the whole numbers from -2 to 5."))
        else:
            found.append(None)
    return found
