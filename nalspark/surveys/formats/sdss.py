"""SDSS, BOSS and eBOSS spectra: ``spec-PLATE-MJD-FIBER.fits``, and ``spSpec-MJD-PLATE-FIBER.fit`` of DR7 and before.

What a file is follows from what it holds, never from its name. What the formats hide:

* The RA and DEC cards of both primary headers are the telescope's, that is the plate's. The object's are PLUG_RA, PLUG_DEC; RAOBJ, DECOBJ.
* A pixel counts by its inverse variance alone. The masks are not read: OR is set on most blue pixels, and what AND's bit 23 (BRIGHTSKY)
  marks, a fifth of all redshifts, is noisier, as its errors say, and not useless.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nalspark.errors import UnusableSpectrum
from nalspark.surveys.fits_table import FitsFile, Hdu, Header
from nalspark.surveys.spec_files import Naming, find_tables, read_spec
from nalspark.surveys.spectrum import SKY_FIBER, SurveySpectrum, angle, clean_pixels, positive, real, short_text, whole

#: Readers are asked in this order: this one takes any file of one spectrum that no other one knows.
ORDER = 9
_PLATES = Naming(
    format="sdss_spec",
    template="{plate:04d}-{mjd}-{fiber:04d}",
    columns=("plate", "mjd", "fiberid"),
    cards=("PLATEID", "MJD", "FIBERID"),
    native=("plate", "mjd", "fiber"),
    largest=(99_999, 99_999, 9_999),
)
#: Tables that only files of SDSS have.
_TABLES = ("SPECOBJ", "SPALL", "SPZLINE")
#: SPEC_CLN of spectro1d: unknown, star, galaxy, quasar, quasar beyond z = 2.3, sky, late star, emission-line galaxy.
_SPECTRO1D_CLASS = {0: "", 1: "STAR", 2: "GALAXY", 3: "QSO", 4: "QSO", 5: "SKY", 6: "STAR", 7: "GALAXY"}


def read(fits: FitsFile) -> Iterator[SurveySpectrum] | None:
    """Read the spectrum of a file of either format; None where it is of neither.

    A ``spec`` file without SPECOBJ or SPALL is used where its primary header has plate, mjd and fiber; its redshift is nan then.

    Raises
    ------
    UnusableSpectrum
        With the reasons of :func:`~nalspark.surveys.spec_files.read_spec`; of spSpec files ``bad_image``, ``missing_keyword``;
        ``wrong_hdu`` where the table of the coadded spectrum is missing.
    """
    primary = next(fits.hdus())
    if _is_spspec(primary):
        return iter([_spspec(fits, primary)])
    tables = find_tables(fits)
    if tables.coadd:
        return iter([read_spec(fits, tables, _PLATES)])
    named = any(hdu.layout.name in _TABLES for hdu in fits.hdus())
    if named or (primary.header.get("PLATEID") is not None and primary.header.get("FIBERID") is not None):
        expected = "expected a COADD table with flux and loglam"
        raise UnusableSpectrum("wrong_hdu", f"{fits.name} looks like an SDSS spectrum, but {expected}; found {fits.contents()}.")
    return None


def identify(fits: FitsFile) -> dict[str, int | str] | None:
    """Tell plate, mjd and fiber of a file that can be read; None, and raises, as :func:`read`."""
    spectra = read(fits)
    return None if spectra is None else dict(next(spectra).native)


def _is_spspec(primary: Hdu) -> bool:
    if not primary.layout.data_bytes:
        return False
    header = primary.header
    return header.get("SPEC_CLN") is not None or (header.get("COEFF0") is not None and header.get("FIBERID") is not None)


def _spspec(fits: FitsFile, primary: Hdu) -> SurveySpectrum:
    header = primary.header
    pixels = _spspec_pixels(fits, primary)
    object_class = _SPECTRO1D_CLASS.get(whole(header.get("SPEC_CLN")), "")
    is_sky = object_class == "SKY" or short_text(header.get("OBJTYPE")) == "SKY"
    # 0: the redshift was not measured, 1: this failed.
    measured = whole(header.get("Z_STATUS"), default=-1) not in (0, 1)
    return SurveySpectrum(
        **_PLATES.identity(fits.name, [header.get(card) for card in _PLATES.cards], "sdss_spspec"),
        ra=angle(header.get("RAOBJ"), 0.0, 360.0),
        dec=angle(header.get("DECOBJ"), -90.0, 90.0),
        z_pipeline=real(header.get("Z")) if measured else math.nan,
        z_pipeline_err=positive(header.get("Z_ERR")) if measured else math.nan,
        # Of spectro1d's Z_WARNIN none is carried over: its bit 0 says that there is no spectrum, that of ZWARNING a sky fiber.
        z_warning=SKY_FIBER if is_sky else 0,
        object_class=object_class,
        **pixels,
        resolution=None,
    )


def _spspec_pixels(fits: FitsFile, primary: Hdu) -> dict[str, Any]:
    shape = primary.layout.shape
    if len(shape) != 2 or not 4 <= shape[0] <= 6:
        found = " × ".join(str(length) for length in shape[:4])
        expected = "4 or 5 rows: flux, flux less continuum, error, mask"
        raise UnusableSpectrum("bad_image", f"{fits.name}: the primary image has shape {found}; expected {expected}.")
    flux, _, error = fits.image(primary)[:3]
    start, step = (real(_either(primary.header, card, other)) for card, other in (("COEFF0", "CRVAL1"), ("COEFF1", "CD1_1")))
    if math.isnan(start) or math.isnan(step):
        missing = "COEFF0" if math.isnan(start) else "COEFF1"
        raise UnusableSpectrum("missing_keyword", f"{fits.name}: the header has no number {missing}, so the wavelengths are not known.")
    with np.errstate(all="ignore"):
        # Pixels without data have error 0.
        ivar = np.where(error > 0, np.square(error, dtype=np.float64), np.inf) ** -1
        return clean_pixels(fits.name, start + step * np.arange(shape[1], dtype=np.float64), flux, ivar)


def _either(header: Header, card: str, other: str) -> object:
    value = header.get(card)
    return header.get(other) if value is None else value
