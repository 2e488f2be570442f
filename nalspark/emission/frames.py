"""HETDEX: VIRUS fiber-spectra frames, lists of emission-line detections, and ready cut-outs with their visual classes.

A frame is one exposure of one channel: a row per fiber, a column per wavelength, beside it a file ``e.<name>`` with the standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet as pq
from astropy.io import fits
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, median_filter

from nalspark.errors import CatalogError, UnusableSpectrum
from nalspark.tables.given import fits_table, read_table

Floats = NDArray[np.float32]

#: The grid of HETDEX's public tools: first and last wavelength, Å, and the width of a pixel.
FIRST_WAVELENGTH, LAST_WAVELENGTH, STEP = 3500.0, 5500.0, 2.0
#: Full width at half maximum of the instrument's lines, Å (Hill et al. 2021).
INSTRUMENT_FWHM = 5.6
#: Planes of a cut-out, rows and columns: the weighted sum and the four fibers nearest the source; 9 rows; 64 Å.
PLANES = ("weighted_sum", "fiber_1", "fiber_2", "fiber_3", "fiber_4")
CUTOUT_SHAPE = (9, 32)
#: Visual classes (Sakai 2020).
CLASSES = {
    -2: "bad amplifier",
    -1: "bad pixel",
    0: "spurious",
    1: "likely spurious",
    2: "possibly spurious",
    3: "possibly real",
    4: "likely real",
    5: "confidently real",
}
#: From here on a class says that the line is real.
FIRST_REAL_CLASS = 3
#: Pixels of 2 Å over which a fiber's own level, against the mean sky, is a constant.
_CONTINUUM_WINDOW = 51
_LEAST_PIXELS, _LEAST_FIBERS = 64, 9


@dataclass(frozen=True)
class Frame:
    """Fiber spectra of one exposure.

    Attributes
    ----------
    flux, error : ndarray, shape (f, p), counts
        A row per fiber. ``error`` is 0, and the flux too, where there is no usable value.
    wavelength : ndarray, shape (p,), Å
        Of the pixels' middles, ascending in equal steps.
    """

    flux: Floats
    error: Floats
    wavelength: NDArray[np.float64]


def error_frame_of(path: str | Path) -> Path:
    """Give where the errors of a frame lie: ``e.<name>`` in the same folder."""
    return Path(path).with_name(f"e.{Path(path).name}")


def read_frame(path: str | Path) -> Frame:
    """Read a frame with its errors.

    Raises
    ------
    UnusableSpectrum
        ``not_readable``, ``wrong_shape``, ``no_wavelengths``, ``no_error_frame``, ``error_frame_differs``, ``no_usable_pixel``.
    """
    path, errors = Path(path), error_frame_of(path)
    flux, header = _image(path)
    if flux.ndim != 2 or flux.shape[0] < _LEAST_FIBERS or flux.shape[1] < _LEAST_PIXELS:
        raise UnusableSpectrum(
            "wrong_shape", f"'{path}' has shape {flux.shape}; expected fibers x pixels, at least {_LEAST_FIBERS} x {_LEAST_PIXELS}."
        )
    if not errors.is_file():
        raise UnusableSpectrum("no_error_frame", f"'{path}' has no error frame; expected it as '{errors}'.")
    sigma, _ = _image(errors)
    if sigma.shape != flux.shape:
        raise UnusableSpectrum("error_frame_differs", f"'{errors}' has shape {sigma.shape}, and its frame {flux.shape}.")
    good = np.isfinite(flux) & np.isfinite(sigma) & (sigma > 0)
    if not good.any():
        raise UnusableSpectrum("no_usable_pixel", f"'{path}' has no pixel with a finite value and a positive error.")
    return Frame(np.where(good, flux, 0.0), np.where(good, sigma, 0.0), _wavelengths(header, flux.shape[1], path))


def _image(path: Path) -> tuple[Floats, fits.Header]:
    """The image of the first HDU that has one, as float32."""
    try:
        with fits.open(path, memmap=False) as hdus:
            for hdu in hdus:
                if hdu.is_image and hdu.data is not None:
                    return np.asarray(hdu.data, dtype=np.float32), hdu.header
    except (OSError, TypeError, ValueError, IndexError, KeyError) as error:
        raise UnusableSpectrum("not_readable", f"'{path}' cannot be read as FITS: {' '.join(str(error).split())}.") from None
    raise UnusableSpectrum("not_readable", f"'{path}' holds no image.")


def _wavelengths(header: fits.Header, pixels: int, path: Path) -> NDArray[np.float64]:
    try:
        start, step = float(header["CRVAL1"]), float(header.get("CDELT1", header.get("CD1_1", 0.0)))
        reference = float(header.get("CRPIX1", 1.0))
    except (KeyError, TypeError, ValueError):
        start = step = reference = 0.0
    if not (np.isfinite([start, step, reference]).all() and start > 0 and step > 0):
        raise UnusableSpectrum("no_wavelengths", f"The header of '{path}' gives no rising wavelengths (CRVAL1, CDELT1, CRPIX1).")
    return start + step * (np.arange(pixels, dtype=np.float64) + 1.0 - reference)


def on_grid(frame: Frame) -> Frame:
    """Bring the frame to the 2 Å grid: old pixels are averaged with their overlap, errors as those of the weighted mean.

    A new pixel of which less than half is covered by usable ones is dead. Neighbours share old pixels, so their noise is correlated.
    """
    new = np.arange(FIRST_WAVELENGTH, LAST_WAVELENGTH + STEP / 2, STEP)
    old_step = frame.wavelength[1] - frame.wavelength[0]
    low = np.maximum(new[:, None] - STEP / 2, frame.wavelength - old_step / 2)
    high = np.minimum(new[:, None] + STEP / 2, frame.wavelength + old_step / 2)
    overlap = np.clip(high - low, 0.0, None).T  # (p old, p new)
    covered = (frame.error > 0) @ overlap
    usable = covered > STEP / 2
    total = np.where(usable, covered, 1.0)
    flux = np.where(usable, (frame.flux @ overlap) / total, 0.0)
    error = np.where(usable, np.sqrt(frame.error.astype(float) ** 2 @ overlap**2) / total, 0.0)
    return Frame(flux.astype(np.float32), error.astype(np.float32), new)


def subtract_sky(frame: Frame) -> Frame:
    """Subtract sky and continua from a frame.

    The sky is the median spectrum of the fibers; each fiber's ratio to it, smoothed by a running median, takes its throughput and its
    continuum. Errors are scaled so that a filter of the instrument's width has unit scatter in each fiber: neighbouring pixels are
    correlated, and what a line's significance is measured against is the scatter of lines.
    """
    good = frame.error > 0
    alive = good.any(axis=0)
    sky = np.zeros(len(frame.wavelength))
    sky[alive] = np.ma.median(np.ma.masked_array(frame.flux, ~good)[:, alive], axis=0).filled(0.0)
    ratio = np.where(good & (sky > 0), frame.flux / np.where(sky > 0, sky, 1.0), np.nan)
    known = np.isfinite(ratio)
    level = np.ma.median(np.ma.masked_array(np.nan_to_num(ratio), ~known), axis=1).filled(0.0)[:, None]
    smooth = median_filter(np.where(known, ratio, level), size=(1, _CONTINUUM_WINDOW), mode="nearest")
    residual = np.where(good, frame.flux - smooth * sky, 0.0)
    filtered = correlate1d(residual / np.where(good, frame.error, 1.0), _line_filter(), axis=1)
    spread = np.array([np.median(np.abs(row[use])) if use.any() else 0.0 for row, use in zip(filtered, good, strict=True)])
    error = frame.error * np.where(spread > 0, spread / 0.6745, 0.0)[:, None]
    return replace(frame, flux=np.where(error > 0, residual, 0.0).astype(np.float32), error=error.astype(np.float32))


def _line_filter() -> NDArray[np.float64]:
    """A line of the instrument's width, of unit square sum."""
    away = np.arange(-6, 7) * STEP * 2.3548 / INSTRUMENT_FWHM
    profile = np.exp(-0.5 * away**2)
    return profile / np.sqrt((profile**2).sum())


def significance_frame(path: str | Path) -> tuple[Floats, NDArray[np.float64]]:
    """Compute the significance per pixel, (f, p), of a sky-subtracted frame on the 2 Å grid, NaN where dead, and its wavelengths, Å."""
    frame = subtract_sky(on_grid(read_frame(path)))
    dead = frame.error <= 0
    return np.where(dead, np.nan, frame.flux / np.where(dead, 1.0, frame.error)).astype(np.float32), frame.wavelength


# ---- detections


def _numbers(column: Any) -> pd.Series:
    """What is no number is NaN."""
    return pd.to_numeric(pd.Series(column), errors="coerce").astype(float)


def read_detections(path: str | Path) -> pd.DataFrame:
    """Read a list of detections: CSV, Parquet or a FITS table.

    Returns
    -------
    DataFrame
        ``detection_id`` (text; by default the row's number), ``frame``, ``fiber`` (row of the frame, from 0), ``wavelength`` (Å), and
        ``class``, NaN where there is none.

    Raises
    ------
    CatalogError
        Where the list cannot be read or lacks a column.
    """
    table = read_table(path, "list of detections", ("frame", "fiber", "wavelength"))
    names = table.get("detection_id", [f"{Path(path).stem}-{row}" for row in range(len(table))])
    numbers = {name: _numbers(table.get(name, np.full(len(table), np.nan))) for name in ("fiber", "wavelength", "class")}
    return pd.DataFrame({"detection_id": names, "frame": table["frame"]}).astype(str).assign(**numbers)


def read_cutouts(path: str | Path) -> tuple[list[str], Floats, NDArray[np.float64]]:
    """Read cut-outs that somebody else made, with their labels: Parquet, HDF5 or a FITS cube.

    Parquet has the columns ``detection_id``, ``class`` and either the five planes or ``image``, lists or float32 bytes. HDF5 has data
    sets of these names. A FITS cube has the images in its first HDU that has any, and the other columns in a table.

    Returns
    -------
    names : list of n str
    images : ndarray, shape (n, 4 or 5, 9, 32)
        The four fibers, or the weighted sum and the four fibers; in any unit.
    classes : ndarray, shape (n,)
        Visual classes; NaN where there is none.

    Raises
    ------
    CatalogError
        Where the file cannot be read, or its arrays do not have the shape of cut-outs.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Mapping[str, Any]]] = {".parquet": _parquet, ".h5": _hdf5, ".hdf5": _hdf5}
    try:
        columns = readers.get(path.suffix, _cube)(path)
        images: Floats = np.asarray(columns.get("image", ()), dtype=np.float32)
    except (OSError, ValueError, TypeError, KeyError, IndexError, pyarrow.ArrowException, UnusableSpectrum) as error:
        raise CatalogError(f"The cut-outs '{path}' cannot be read: {' '.join(str(error).split())}.") from None
    if images.ndim != 4 or images.shape[1] not in (4, 5) or images.shape[2:] != CUTOUT_SHAPE:
        raise CatalogError(f"The cut-outs '{path}' have shape {images.shape}; expected (n, 4 or 5, {CUTOUT_SHAPE[0]}, {CUTOUT_SHAPE[1]}).")
    names = columns.get("detection_id", [f"{path.stem}-{row}" for row in range(len(images))])
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    classes = _numbers(columns.get("class", np.full(len(images), np.nan))).to_numpy()
    if not len(names) == len(classes) == len(images):
        raise CatalogError(f"'{path}' has {len(images)} cut-outs, {len(names)} names and {len(classes)} classes.")
    return names, images, classes


def _parquet(path: Path) -> dict[str, Any]:
    table = pq.read_table(path).to_pydict()
    planes = PLANES if set(PLANES) <= set(table) else ("image",)
    if not set(planes) <= set(table):
        return table
    cells = [[_pixels(cell) for cell in row] for row in zip(*(table[name] for name in planes), strict=True)]
    return {**table, "image": np.array(cells).reshape(len(cells), -1, *CUTOUT_SHAPE)}


def _pixels(cell: Any) -> NDArray[Any]:
    """A cell of bytes or of a list, as numbers in a row."""
    return np.frombuffer(cell, "<f4") if isinstance(cell, bytes) else np.asarray(cell, dtype=np.float32).ravel()


def _hdf5(path: Path) -> dict[str, Any]:
    import h5py  # keras brings it

    with h5py.File(path, "r") as file:
        return {name: file[name][()] for name in ("image", "class", "detection_id") if name in file}


def _cube(path: Path) -> dict[str, Any]:
    return {**fits_table(path), "image": _image(path)[0]}
