"""Synthetic SDSS files, written with astropy: valid ones, from which tests make broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from nalspark.surveys import reader
from nalspark.surveys.spectrum import SurveySpectrum

FIRST_PIXEL = 35_800
BRIGHT_SKY = 1 << 23


def parse_spectrum(content: bytes, name: str) -> SurveySpectrum:
    """The spectrum in the bytes of a file that holds one; raises as `open_spectrum`."""
    return reader._only(reader.parse_spectra(content, name), name)


def default_pixels(n_pixels: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    """A quasar-like flux, its inverse variance (two pixels without data), and an and_mask (one pixel of bright sky), each shape (p,)."""
    rng = np.random.default_rng(seed)
    error = rng.uniform(0.5, 1.5, n_pixels)
    flux = 10 + 3 * np.sin(np.arange(n_pixels) / 50) + error * rng.standard_normal(n_pixels)
    ivar = error**-2
    ivar[3:5] = 0
    and_mask = np.zeros(n_pixels, np.int32)
    and_mask[10:11] = BRIGHT_SKY
    and_mask[11:12] = 1 << 16
    return {"flux": flux, "ivar": ivar, "and_mask": and_mask}


def spec_hdus(
    plate: int = 3655,
    mjd: int = 55240,
    fiber: int = 26,
    z: float = 1.5,
    flux: np.ndarray | None = None,
    ivar: np.ndarray | None = None,
    and_mask: np.ndarray | None = None,
    loglam: np.ndarray | None = None,
    n_pixels: int = 400,
    first_pixel: int = FIRST_PIXEL,
    object_class: str = "QSO",
    z_warning: int = 0,
    ra: float = 150.25,
    dec: float = -1.5,
    object_table: str = "SPECOBJ",
    wdisp: np.ndarray | None = None,
    z_err: tuple[str, Any] | None = None,
) -> fits.HDUList:
    """The HDUs of a lite spec file: primary, COADD, SPECOBJ (or SPALL), SPZLINE. Pixels that are not given are :func:`default_pixels`.

    `z_err` is the format and the value of a column Z_ERR.
    """
    given = next((pixels for pixels in (flux, ivar, and_mask, loglam) if pixels is not None), None)
    n_pixels = n_pixels if given is None else len(given)
    pixels = default_pixels(n_pixels, seed=fiber)
    flux = pixels["flux"] if flux is None else flux
    loglam = (first_pixel + np.arange(n_pixels)) * 1e-4 if loglam is None else loglam
    wdisp = np.ones(n_pixels) if wdisp is None else wdisp
    coadd: dict[str, tuple[str, Any]] = {
        "flux": ("E", flux),
        "loglam": ("E", loglam),
        "ivar": ("E", pixels["ivar"] if ivar is None else ivar),
        "and_mask": ("J", pixels["and_mask"] if and_mask is None else and_mask),
        "or_mask": ("J", np.zeros(n_pixels, np.int32)),
        "wdisp": ("E", wdisp),
        "sky": ("E", np.full(n_pixels, 5.0)),
        "model": ("E", np.asarray(flux)),
    }
    row: dict[str, tuple[str, Any]] = {
        "SURVEY": ("6A", ["boss"]),
        "PLATE": ("J", [plate]),
        "MJD": ("J", [mjd]),
        "FIBERID": ("J", [fiber]),
        "PLUG_RA": ("D", [ra]),
        "PLUG_DEC": ("D", [dec]),
        "CLASS": ("6A", [object_class]),
        "SUBCLASS": ("21A", ["BROADLINE"]),
        "Z": ("E", [z]),
        "ZWARNING": ("J", [z_warning]),
        "THETA": ("10E", [np.arange(10.0)]),
    }
    if z_err is not None:
        row["Z_ERR"] = (z_err[0], [z_err[1]])
    names = ["Ly_alpha", "C_IV", "Mg_II"]
    lines: dict[str, tuple[str, Any]] = {"PLATE": ("J", [plate] * 3), "LINENAME": ("13A", names), "LINEZ": ("E", [z] * 3)}
    primary = fits.PrimaryHDU()
    # RA and DEC are the plate's centre, as in the survey's own files.
    primary.header.update({"RA": 151.0, "DEC": -2.0, "PLATEID": plate, "MJD": mjd, "FIBERID": fiber, "PLUG_RA": ra, "PLUG_DEC": dec})
    primary.header.update({"COEFF0": first_pixel / 10_000, "COEFF1": 1e-4})
    return fits.HDUList([primary, table("COADD", coadd), table(object_table, row), table("SPZLINE", lines)])


def table(name: str, columns: dict[str, tuple[str, Any]]) -> fits.BinTableHDU:
    """A binary table from {column: (format, values)}."""
    return fits.BinTableHDU.from_columns([fits.Column(key, form, array=values) for key, (form, values) in columns.items()], name=name)


def write_spec(path: str | Path, plate: int = 3655, mjd: int = 55240, fiber: int = 26, z: float = 1.5, **settings: Any) -> Path:
    """Write a valid lite ``spec`` file; further settings are those of :func:`spec_hdus`."""
    spec_hdus(plate, mjd, fiber, z, **settings).writeto(path, overwrite=True)
    return Path(path)


def spspec_hdus(
    plate: int = 266,
    mjd: int = 51630,
    fiber: int = 53,
    z: float = 1.5,
    n_pixels: int = 400,
    first_pixel: int = FIRST_PIXEL,
    object_class: int = 3,
    z_status: int = 3,
    z_warning: int = 528,
    object_type: str = "QSO",
    rows: int = 5,
    **cards: Any,
) -> fits.HDUList:
    """The HDUs of an ``spSpec`` file; further keywords are cards of the primary header, None removes one."""
    pixels = default_pixels(n_pixels, seed=fiber)
    with np.errstate(divide="ignore"):
        error = np.where(pixels["ivar"] > 0, pixels["ivar"] ** -0.5, 0)
    image = np.stack([pixels["flux"], pixels["flux"] - 10, error, pixels["and_mask"] | 1 << 30, np.full(n_pixels, 7.5)])[:rows]
    primary = fits.PrimaryHDU(image.astype(np.float32))
    header: dict[str, Any] = {"RA": 151.0, "DEC": -2.0, "RAOBJ": 150.25, "DECOBJ": -1.5}
    header |= {"PLATEID": plate, "MJD": mjd, "FIBERID": fiber}
    header |= {"COEFF0": first_pixel / 10_000, "COEFF1": 1e-4, "Z": z, "Z_STATUS": z_status, "Z_WARNIN": z_warning}
    header |= {"SPEC_CLN": object_class, "OBJTYPE": object_type} | {card.upper(): value for card, value in cards.items()}
    primary.header.update({card: value for card, value in header.items() if value is not None})
    return fits.HDUList([primary, table("", {"wave": ("E", [2796.0]), "ew": ("E", [1.0])})])


def write_spspec(path: str | Path, plate: int = 266, mjd: int = 51630, fiber: int = 53, z: float = 1.5, **settings: Any) -> Path:
    """Write a valid ``spSpec`` file; further settings are those of :func:`spspec_hdus`."""
    spspec_hdus(plate, mjd, fiber, z, **settings).writeto(path, overwrite=True)
    return Path(path)


#: First wavelength in Å and number of pixels of 0.8 Å of DESI's arms.
DESI_ARMS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}


def desi_hdus(
    survey: str = "main", program: str = "dark", healpix: int = 9144, n_targets: int = 2, arms: str = "BRZ", seed: int = 0
) -> fits.HDUList:
    """The HDUs of a coadd file of a HEALPix pixel, without masks and resolution."""
    rng = np.random.default_rng(seed)
    primary = fits.PrimaryHDU()
    primary.header.update({"HPXPIXEL": healpix, "HPXNSIDE": 64, "HPXNEST": "True", "SURVEY": survey, "PROGRAM": program})
    targets: dict[str, tuple[str, Any]] = {
        "TARGETID": ("K", 39_627_000_000_000_000 + np.arange(n_targets) + 1000 * healpix),
        "TARGET_RA": ("D", np.full(n_targets, 150.0)),
        "TARGET_DEC": ("D", np.full(n_targets, 2.0)),
        "COADD_FIBERSTATUS": ("J", np.zeros(n_targets)),
        "OBJTYPE": ("3A", ["TGT"] * n_targets),
    }
    hdus: list[Any] = [primary, table("FIBERMAP", targets)]
    for arm in arms:
        start, pixels = DESI_ARMS[arm]
        hdus.append(fits.ImageHDU(start + 0.8 * np.arange(pixels), name=f"{arm}_WAVELENGTH"))
        hdus.append(fits.ImageHDU(rng.normal(5.0, 1.0, (n_targets, pixels)).astype(np.float32), name=f"{arm}_FLUX"))
        hdus.append(fits.ImageHDU(np.ones((n_targets, pixels), np.float32), name=f"{arm}_IVAR"))
    return fits.HDUList(hdus)


def redrock_hdus(survey: str = "main", program: str = "dark", healpix: int = 9144, n_targets: int = 2, z: float = 1.5) -> fits.HDUList:
    """The HDUs of the file of redshifts beside that of :func:`desi_hdus`."""
    coadd = desi_hdus(survey, program, healpix, n_targets, arms="B")
    redshifts: dict[str, tuple[str, Any]] = {
        "TARGETID": ("K", coadd["FIBERMAP"].data["TARGETID"]),
        "Z": ("D", np.full(n_targets, z)),
        "ZWARN": ("K", np.zeros(n_targets)),
        "SPECTYPE": ("6A", ["QSO"] * n_targets),
    }
    return fits.HDUList([coadd[0], table("REDSHIFTS", redshifts)])


def sdssv_hdus(field: int = 15000, mjd: int = 59146, catalogid: int = 4375924756) -> fits.HDUList:
    """The HDUs of a lite spec file of SDSS-V."""
    hdus = spec_hdus(mjd=mjd)
    primary = hdus[0]
    for card in ("PLATEID", "FIBERID"):
        del primary.header[card]
    row: dict[str, tuple[str, Any]] = {
        "FIELD": ("J", [field]),
        "MJD": ("J", [mjd]),
        "CATALOGID": ("K", [catalogid]),
        "CLASS": ("6A", ["QSO"]),
        "Z": ("E", [1.5]),
        "ZWARNING": ("J", [0]),
    }
    return fits.HDUList([primary, hdus["COADD"], table("SPALL", row)])
