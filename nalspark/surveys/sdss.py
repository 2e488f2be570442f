"""SDSS, BOSS and eBOSS spectra: ``spec-PLATE-MJD-FIBER.fits``, and ``spSpec-MJD-PLATE-FIBER.fit`` of DR7 and before.

What a file is follows from what it holds, never from its name. What the two formats hide:

* The RA and DEC cards of both primary headers are the telescope's, that is the plate's. The object's are PLUG_RA, PLUG_DEC; RAOBJ, DECOBJ.
* Many eBOSS files name none of their HDUs: there the tables are known by their columns, else by their names. Their order says nothing.
* A pixel counts by its inverse variance alone. The masks are not read: OR is set on most blue pixels, and what AND's bit 23 (BRIGHTSKY)
  marks, a fifth of all redshifts, is noisier, as its errors say, and not useless.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import UnusableSpectrum
from nalspark.spectra.batch import PixelFlag
from nalspark.spectra.grid import LATTICE, LATTICE_STEP, lattice_pixels
from nalspark.spectra.regrid import fill_gaps, sample_resolution
from nalspark.surveys.fits_table import BLOCK, Column, FitsFile, Hdu, Header, printable, shown_list

#: Observed wavelengths that an optical spectrograph can have, Å.
WAVELENGTH_RANGE = (1000.0, 30000.0)
MIN_PIXELS = 100
#: Inverse variances, and the largest power of two of a flux, that are taken as they are: float32 holds them, and their products.
_ORDINARY, _ORDINARY_POWER = (1e-12, 1e12), 20
_SKY_FIBER = 1  # bit 0 of ZWARNING

_PIXEL_COLUMNS = ("flux", "loglam", "ivar")
_OBJECT_TABLES = ("SPECOBJ", "SPALL")
_IDENTITY = {"plate": "PLATEID", "mjd": "MJD", "fiberid": "FIBERID"}  # column of SPECOBJ or SPALL -> card of the primary header
_LARGEST = {"PLATEID": 99_999, "MJD": 99_999, "FIBERID": 9_999}

#: SPEC_CLN of spectro1d: unknown, star, galaxy, quasar, quasar beyond z = 2.3, sky, late star, emission-line galaxy.
_SPECTRO1D_CLASS = {0: "", 1: "STAR", 2: "GALAXY", 3: "QSO", 4: "QSO", 5: "SKY", 6: "STAR", 7: "GALAXY"}


@dataclass(frozen=True, slots=True)
class SurveySpectrum:
    """One spectrum as the survey published it, on its own pixels.

    Attributes
    ----------
    spectrum_id : str
        ``PPPP-MJD-FFFF``; plates above 9999 have five digits.
    survey : str
        ``sdss_spec`` or ``sdss_spspec``.
    plate, mjd, fiber : int
    ra, dec : float, degrees
        Of the fiber; nan where the file has none.
    z_pipeline : float
        Redshift of the survey's pipeline, as it is; nan where the file has none.
    z_warning : int
        ZWARNING bits; bit 0 is a sky fiber. Of spSpec files bit 0 only: DR7's own bits mean other things.
    object_class : str
        QSO, GALAXY, STAR, SKY or empty, in upper case.
    first_pixel : int or None
        Index of the first pixel on the 1e-4 dex lattice; None where the wavelengths are off it.
    loglam : ndarray of float64, shape (p,), or None
        log10 of the vacuum wavelength in Å, where they are.
    flux : ndarray of float32, shape (p,), 1e-17 erg/s/cm²/Å
        0 where there is no data. Of a file in a unit in which float32 does not hold it: times a power of two.
    ivar : ndarray of float32, shape (p,), inverse variance of flux
        0 where there is no data.
    mask : ndarray of uint8, shape (p,)
        NO_DATA of :class:`~nalspark.spectra.batch.PixelFlag`.
    resolution : ndarray of float32, shape (r,), or None
        Gaussian σ of the line-spread function, as :class:`~nalspark.spectra.batch.Spectra` has it; None where the file does not say.
    """

    spectrum_id: str
    survey: str
    plate: int
    mjd: int
    fiber: int
    ra: float
    dec: float
    z_pipeline: float
    z_warning: int
    object_class: str
    first_pixel: int | None
    loglam: NDArray[np.float64] | None
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.uint8]
    resolution: NDArray[np.float32] | None

    @property
    def name(self) -> str:
        """What the spectrum is called."""
        return self.spectrum_id

    @property
    def wave(self) -> NDArray[np.float64]:
        """Vacuum wavelength of every pixel, shape (p,), Å."""
        if self.loglam is not None:
            return np.asarray(10.0**self.loglam)
        assert self.first_pixel is not None  # one of the two says where the pixels lie
        return np.asarray(10.0 ** ((self.first_pixel + np.arange(len(self.flux))) * LATTICE_STEP))

    @property
    def z(self) -> float | None:
        """The pipeline's redshift; None where the file has none."""
        return None if math.isnan(self.z_pipeline) else self.z_pipeline


def read_sdss(stream: BinaryIO, name: str) -> SurveySpectrum:
    """Read a spectrum from a file of either format.

    Of a ``spec`` file the coadded spectrum is read, and redshift and class from SPECOBJ or SPALL. A file without these is used where its
    primary header has plate, mjd and fiber; its redshift is nan then.

    Parameters
    ----------
    stream : binary file, seekable
    name : str
        What messages call it.

    Raises
    ------
    UnusableSpectrum
        With the reasons of :mod:`nalspark.surveys.fits_table`; for FITS files that are no SDSS spectra ``desi_coadd``, ``desi_redrock``,
        ``wrong_hdu`` or ``not_a_spectrum``; for spectra ``missing_column``, ``bad_column_type``, ``bad_image``, ``missing_keyword``,
        ``too_few_pixels``, ``wavelength_invalid``, ``wavelength_descending``, ``wavelength_not_monotonic``, ``flux_all_nan``,
        ``ivar_all_zero``, ``missing_id``, ``bad_id``.
    """
    fits = FitsFile(stream, name)
    hdus = fits.hdus()
    primary = next(hdus)
    return _spspec(fits, primary) if _is_spspec(primary) else _spec(fits, primary, hdus)


# ---- spec ------------------------------------------------------------------------------------------------------------------------------


def _spec(fits: FitsFile, primary: Hdu, following: Iterator[Hdu]) -> SurveySpectrum:
    coadd, objects = _find_tables(fits, following)
    pixels = _spec_pixels(fits, coadd)
    row = _object_row(fits, primary.header, objects) if objects else {}

    def known(column: str, card: str) -> Any:
        return primary.header.get(card) if row.get(column) is None else row[column]

    return SurveySpectrum(
        *_identity(fits, [known(column, card) for column, card in _IDENTITY.items()], "sdss_spec"),
        ra=_angle(known("plug_ra" if "plug_ra" in row else "ra", "PLUG_RA"), 0.0, 360.0),
        dec=_angle(known("plug_dec" if "plug_dec" in row else "dec", "PLUG_DEC"), -90.0, 90.0),
        z_pipeline=_real(row.get("z")),
        z_warning=_whole(row.get("zwarning")) & 0x7FFFFFFF,
        object_class=_text(row.get("class")),
        **pixels,
    )


def _find_tables(fits: FitsFile, hdus: Iterator[Hdu]) -> tuple[Hdu, Hdu | None]:
    """The table of the coadded spectrum, and that of the object: by name, else the first that has the columns."""
    coadd: Hdu | None = None
    objects: Hdu | None = None
    try:
        for hdu in hdus:
            name, columns = hdu.layout.name, hdu.layout.columns or {}
            if columns and (name == "COADD" or ("loglam" in columns and ("flux" in columns or "ivar" in columns))):
                coadd = _first_named(coadd, hdu, ("COADD",))
            elif columns and hdu.layout.shape[0] and (name in _OBJECT_TABLES or {"z", "class", "fiberid"} <= columns.keys()):
                objects = _first_named(objects, hdu, _OBJECT_TABLES)
            if coadd and objects and coadd.layout.name == "COADD" and objects.layout.name in _OBJECT_TABLES:
                break
    except UnusableSpectrum:
        if not (coadd and objects):  # else nothing is amiss with what is needed
            raise
    if coadd is None:
        _refuse(fits)
    if objects is None and fits.size % BLOCK:
        raise UnusableSpectrum("truncated", f"{fits.name} ends at byte {fits.size}, inside a block, and has no table of the object.")
    return coadd, objects


def _first_named(best: Hdu | None, other: Hdu, names: tuple[str, ...]) -> Hdu:
    return other if best is None or (best.layout.name not in names and other.layout.name in names) else best


def _refuse(fits: FitsFile) -> NoReturn:
    """Say what a FITS file is that has no coadded spectrum."""
    hdus = list(fits.hdus())
    names = {hdu.layout.name for hdu in hdus}
    if "FIBERMAP" in names and any(name.endswith("_WAVELENGTH") for name in names):
        raise UnusableSpectrum("desi_coadd", f"{fits.name} is a DESI coadd file: DESI spectra are not read yet, only those of SDSS.")
    if names & {"REDSHIFTS", "ZBEST"}:
        raise UnusableSpectrum("desi_redrock", f"{fits.name} is a DESI redrock file: it has redshifts and no spectra.")
    header = hdus[0].header
    if len(hdus) == 1 and not hdus[0].layout.shape and header.get("EXTEND") is True:
        raise UnusableSpectrum("truncated", f"{fits.name} ends after its primary header, which says that extensions follow.")
    found = "; ".join(map(_described, hdus[:5])) + ("; …" if len(hdus) > 5 else "")
    if names & {*_OBJECT_TABLES, "SPZLINE"} or (header.get("PLATEID") is not None and header.get("FIBERID") is not None):
        expected = "expected a COADD table with flux and loglam"
        raise UnusableSpectrum("wrong_hdu", f"{fits.name} looks like an SDSS spectrum, but {expected}; found {found}.")
    expected = "expected an SDSS spec file (COADD table with flux, loglam, ivar) or spSpec file (image with COEFF0)"
    raise UnusableSpectrum("not_a_spectrum", f"{fits.name} is FITS but holds no spectrum: found {found}; {expected}.")


def _described(hdu: Hdu) -> str:
    title = f"HDU {hdu.number}" + (f" '{hdu.layout.name}'" if hdu.layout.name else "")
    if hdu.layout.columns is not None:
        return f"{title} with columns {shown_list([column.name for column in hdu.layout.columns.values()], 6)}"
    shape = " × ".join(str(length) for length in reversed(hdu.layout.shape[:4]))
    return f"{title} with an image of {shape} pixels" if shape else f"{title} without data"


def _spec_pixels(fits: FitsFile, coadd: Hdu) -> dict[str, Any]:
    columns = coadd.layout.columns or {}
    for name in _PIXEL_COLUMNS:
        if name in columns and not columns[name].is_number:
            raise _bad_type(fits, columns[name], "one number")
    has_resolution = "wdisp" in columns and columns["wdisp"].is_number
    wanted = (*_PIXEL_COLUMNS, *(("wdisp",) if has_resolution else ()))
    values = {name: _reals(column) for name, column in fits.columns(coadd, wanted).items()}
    loglam = values["loglam"].astype(np.float64)
    pixels = _clean(fits, loglam, values["flux"], values["ivar"])
    if not has_resolution or pixels["first_pixel"] is None:  # off the lattice `wdisp` counts other pixels
        return pixels | {"resolution": None}
    values["wdisp"][~(values["ivar"] > 0)] = 0.0
    return pixels | {"resolution": sample_resolution(values["wdisp"], loglam, LATTICE)}


def _reals(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers as real ones; NaN where a row has none."""
    return values if values.dtype.kind == "f" and type(values) is np.ndarray else np.ma.filled(values.astype(np.float64), np.nan)


def _bad_type(fits: FitsFile, column: Column, expected: str) -> UnusableSpectrum:
    shape = f" and {' × '.join(map(str, column.shape))} values a row" if column.shape else ""
    return UnusableSpectrum(
        "bad_column_type", f"{fits.name}: column '{column.name}' has format '{column.form}'{shape}; expected {expected} per row."
    )


_ROW_COLUMNS = (*_IDENTITY, "plug_ra", "plug_dec", "ra", "dec", "z", "zwarning", "class")


def _object_row(fits: FitsFile, header: Header, objects: Hdu) -> dict[str, Any]:
    """What SPECOBJ or SPALL knows of the object, by lower-case column; of several rows that of the spectrum which the header names."""
    columns = objects.layout.columns or {}
    present = [name for name in _ROW_COLUMNS if name in columns]
    for name in present:
        if not (columns[name].is_text if name == "class" else columns[name].is_number):
            raise _bad_type(fits, columns[name], "one text" if name == "class" else "one number")
    rows = {name: values.tolist() for name, values in fits.columns(objects, present).items()}
    n_rows, chosen = objects.layout.shape[0], 0
    if n_rows > 1:
        named = {column: header.get(card) for column, card in _IDENTITY.items()}
        fitting = [row for row in range(n_rows) if all(rows[column][row] == named[column] for column in named if column in rows)]
        if len(fitting) != 1 or not named.keys() <= rows.keys():
            found = f"{len(fitting)} of the {n_rows} rows of HDU {objects.number} have PLATEID, MJD and FIBERID of the primary header"
            raise UnusableSpectrum("missing_id", f"{fits.name} does not say which object it shows: {found}; expected one.")
        chosen = fitting[0]
    return {name: values[chosen] for name, values in rows.items()}


# ---- spSpec ----------------------------------------------------------------------------------------------------------------------------


def _is_spspec(primary: Hdu) -> bool:
    if not primary.layout.data_bytes:
        return False
    header = primary.header
    return header.get("SPEC_CLN") is not None or (header.get("COEFF0") is not None and header.get("FIBERID") is not None)


def _spspec(fits: FitsFile, primary: Hdu) -> SurveySpectrum:
    header = primary.header
    pixels = _spspec_pixels(fits, primary)
    object_class = _SPECTRO1D_CLASS.get(_whole(header.get("SPEC_CLN")), "")
    is_sky = object_class == "SKY" or _text(header.get("OBJTYPE")) == "SKY"
    # 0: the redshift was not measured, 1: this failed.
    measured = _whole(header.get("Z_STATUS"), default=-1) not in (0, 1)
    return SurveySpectrum(
        *_identity(fits, [header.get(card) for card in _IDENTITY.values()], "sdss_spspec"),
        ra=_angle(header.get("RAOBJ"), 0.0, 360.0),
        dec=_angle(header.get("DECOBJ"), -90.0, 90.0),
        z_pipeline=_real(header.get("Z")) if measured else math.nan,
        # Of spectro1d's Z_WARNIN none is carried over: its bit 0 says that there is no spectrum, that of ZWARNING a sky fiber.
        z_warning=_SKY_FIBER if is_sky else 0,
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
    start, step = (_real(_either(primary.header, card, other)) for card, other in (("COEFF0", "CRVAL1"), ("COEFF1", "CD1_1")))
    if math.isnan(start) or math.isnan(step):
        missing = "COEFF0" if math.isnan(start) else "COEFF1"
        raise UnusableSpectrum("missing_keyword", f"{fits.name}: the header has no number {missing}, so the wavelengths are not known.")
    with np.errstate(all="ignore"):
        # Pixels without data have error 0.
        ivar = np.where(error > 0, np.square(error, dtype=np.float64), np.inf) ** -1
        return _clean(fits, start + step * np.arange(shape[1], dtype=np.float64), flux, ivar)


def _either(header: Header, card: str, other: str) -> object:
    value = header.get(card)
    return header.get(other) if value is None else value


# ---- both ------------------------------------------------------------------------------------------------------------------------------


def _lattice(fits: FitsFile, loglam: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Where the pixels, log10 of Å, lie on the lattice; None where they are off it."""
    if len(loglam) < MIN_PIXELS:
        raise UnusableSpectrum("too_few_pixels", f"{fits.name} has {len(loglam)} pixels; expected at least {MIN_PIXELS}.")
    low, high = np.log10(WAVELENGTH_RANGE)
    if low <= loglam[0] <= high and low <= loglam[-1] <= high:
        pixels = lattice_pixels(loglam)
        if pixels is not None:
            return pixels
    outside = ~((loglam >= low) & (loglam <= high))
    if outside.any():
        where = int(outside.argmax())
        found = f"{outside.sum()} of {len(loglam)} pixels are not, the first is pixel {where} with log10 λ = {loglam[where]:.6g}"
        limits = "{:.0f} and {:.0f} Å".format(*WAVELENGTH_RANGE)
        raise UnusableSpectrum("wavelength_invalid", f"{fits.name}: wavelengths must lie between {limits}; {found}.")
    steps = np.diff(loglam)
    if (steps < 0).all():
        raise UnusableSpectrum("wavelength_descending", f"{fits.name}: wavelengths descend; expected ascending.")
    if not (steps > 0).all():
        where = int((steps <= 0).argmax())
        raise UnusableSpectrum("wavelength_not_monotonic", f"{fits.name}: wavelengths must ascend, but do not after pixel {where}.")
    return None


def _clean(fits: FitsFile, loglam: NDArray[np.float64], flux: NDArray[Any], ivar: NDArray[Any]) -> dict[str, Any]:
    """The pixels as nalspark keeps them: 0 where there is no data, pixels that the file left out among them."""
    pixels = _lattice(fits, loglam)
    if pixels is not None:
        flux, ivar = fill_gaps(pixels, flux, ivar)
    if not _ORDINARY[0] < ivar.max() < _ORDINARY[1]:
        flux, ivar = _in_ordinary_units(flux, ivar)
    with np.errstate(over="ignore", under="ignore"):
        flux, ivar = flux.astype(np.float32, copy=False), ivar.astype(np.float32, copy=False)
    good = np.isfinite(flux) & (ivar > 0) & (ivar < np.inf)
    if not good.any():
        _refuse_pixels(fits, flux, ivar)
    bad = ~good
    flux[bad] = 0
    ivar[bad] = 0
    mask = bad * np.uint8(PixelFlag.NO_DATA)
    first, off = (None, loglam) if pixels is None else (int(pixels[0]), None)
    return {"first_pixel": first, "loglam": off, "flux": flux, "ivar": ivar, "mask": mask}


def unit_power(flux: NDArray[Any], ivar: NDArray[Any]) -> int:
    """Give the power of two nearest to the typical flux of the pixels with data; 0 where there is none."""
    with np.errstate(all="ignore"):
        known = np.isfinite(flux) & (ivar > 0) & (ivar < np.inf)
        typical = float(np.median(np.abs(flux[known]))) if known.any() else 0.0
    return round(math.log2(typical)) if 0.0 < typical < math.inf else 0


def times_power(flux: NDArray[Any], ivar: NDArray[Any], power: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give a flux times a power of two, which changes no digit of it, and the inverse variance of that."""
    with np.errstate(all="ignore"):
        return np.ldexp(flux.astype(np.float64), power), np.ldexp(ivar.astype(np.float64), -2 * power)


def _in_ordinary_units(flux: NDArray[Any], ivar: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bring a flux in W/m²/m, say, to a unit in which float32 holds it and its inverse variance; the search knows no unit."""
    power = unit_power(flux, ivar)
    return times_power(flux, ivar, -power) if abs(power) > _ORDINARY_POWER else (flux, ivar)


def _refuse_pixels(fits: FitsFile, flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> NoReturn:
    if not np.isfinite(flux).any():
        raise UnusableSpectrum("flux_all_nan", f"{fits.name}: no pixel of {len(flux)} has a finite flux.")
    positive = np.count_nonzero(ivar > 0)
    found = f"{positive} have an inverse variance above 0, none of these a finite flux"
    raise UnusableSpectrum("ivar_all_zero", f"{fits.name}: no pixel of {len(flux)} can be used; {found}.")


def _identity(fits: FitsFile, values: list[object], survey: str) -> tuple[str, str, int, int, int]:
    """The spectrum's name, the survey, plate, mjd and fiber."""
    numbers = []
    for value, (card, largest) in zip(values, _LARGEST.items(), strict=True):
        if value is None:
            needed = "PLATE, MJD and FIBERID in SPECOBJ, or PLATEID, MJD and FIBERID in the primary header"
            raise UnusableSpectrum("missing_id", f"{fits.name} does not say its {card}; expected {needed}.")
        number = _whole(value)
        if not 0 < number <= largest:
            shown = printable(str(value), 40)
            raise UnusableSpectrum("bad_id", f"{fits.name}: {card} is {shown}; expected a whole number from 1 to {largest}.")
        numbers.append(number)
    plate, mjd, fiber = numbers
    return f"{plate:04d}-{mjd}-{fiber:04d}", survey, plate, mjd, fiber


def _whole(value: object, default: int = 0) -> int:
    """A whole number from a card or a table, which may write it as a real number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value != int(value):
        return default
    return int(value)


def _real(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _angle(value: object, low: float, high: float) -> float:
    degrees = _real(value)
    return degrees if low <= degrees <= high else math.nan


def _text(value: object) -> str:
    """A short string from a file: stripped, in upper case, bounded."""
    text = value.split(b"\0")[0].decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return printable(text.strip().upper(), 16)
