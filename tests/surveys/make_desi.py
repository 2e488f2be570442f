"""Small DESI coadd files, written with astropy: valid ones, from which tests make broken ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits

#: First wavelength and number of pixels of each arm, Å; a step of 0.8.
ARMS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}
STEP = 0.8
TARGETS = (39627835576420000, 39627835576420001, 39627835576420002)


def wave(arm: str, arms: Mapping[str, tuple[float, int]] = ARMS) -> np.ndarray:
    """Wavelengths of an arm, shape (p,), Å."""
    start, pixels = arms[arm]
    return start + STEP * np.arange(pixels)


def resolution(n: int, pixels: int, sigma: float = 0.9, diagonals: int = 11) -> np.ndarray:
    """A Gaussian resolution matrix, shape (n, diagonals, p)."""
    offset = np.arange(diagonals) - (diagonals - 1) / 2
    column = np.exp(-0.5 * (offset / sigma) ** 2)
    return np.tile((column / column.sum())[None, :, None], (n, 1, pixels)).astype("f4")


def coadd(
    targets: Sequence[int] = TARGETS,
    *,
    arms: Mapping[str, tuple[float, int]] = ARMS,
    header: Mapping[str, Any] | None = None,
    fibermap: Mapping[str, tuple[str, Any]] | None = None,
    flux: float = 5.0,
    sigma: float = 0.9,
    noise: np.random.Generator | None = None,
    compressed: Sequence[str] = (),
) -> fits.HDUList:
    """A coadd file of a HEALPix pixel: constant flux, inverse variance 4, noise where it is asked for."""
    n = len(targets)
    primary = fits.PrimaryHDU()
    primary.header.update({"SURVEY": "main", "PROGRAM": "dark", "HPXPIXEL": 9144, "HPXNSIDE": 64} if header is None else header)
    columns = {
        "TARGETID": ("K", list(targets)), "TARGET_RA": ("D", 150.0 + 0.01 * np.arange(n)), "TARGET_DEC": ("D", np.full(n, 2.0)),
        "OBJTYPE": ("3A", ["TGT"] * n), "COADD_FIBERSTATUS": ("J", np.zeros(n, int)), "DESI_TARGET": ("K", np.full(n, 4)),
        **(fibermap or {}),
    }  # fmt: skip
    table = fits.BinTableHDU.from_columns([fits.Column(name, form, array=values) for name, (form, values) in columns.items()])
    table.name = "FIBERMAP"
    hdus: list[Any] = [primary, table]
    for arm, (_, pixels) in arms.items():
        values = np.full((n, pixels), flux, "f4")
        if noise is not None:
            values += (0.5 * noise.standard_normal(values.shape)).astype("f4")
        images = {
            "WAVELENGTH": wave(arm, arms), "FLUX": values, "IVAR": np.full((n, pixels), 4.0, "f4"),
            "MASK": np.zeros((n, pixels), "i4"), "RESOLUTION": resolution(n, pixels, sigma),
        }  # fmt: skip
        for kind, data in images.items():
            packed = f"{arm}_{kind}" in compressed
            hdus.append((fits.CompImageHDU if packed else fits.ImageHDU)(data, name=f"{arm}_{kind}"))
    return fits.HDUList(hdus)


def redrock(
    targets: Sequence[int],
    z: Sequence[float],
    kinds: Sequence[str],
    warnings: Sequence[int] | None = None,
    *,
    errors: tuple[str, Any] | None = None,
) -> fits.HDUList:
    """The file of the pipeline's redshifts; `errors` are format and values of a column ZERR."""
    columns = {
        "TARGETID": ("K", list(targets)), "Z": ("D", list(z)), "SPECTYPE": ("6A", list(kinds)),
        "ZWARN": ("K", [0] * len(targets) if warnings is None else list(warnings)),
        **({} if errors is None else {"ZERR": errors}),
    }  # fmt: skip
    table = fits.BinTableHDU.from_columns([fits.Column(name, form, array=values) for name, (form, values) in columns.items()])
    table.name = "REDSHIFTS"
    return fits.HDUList([fits.PrimaryHDU(), table])
