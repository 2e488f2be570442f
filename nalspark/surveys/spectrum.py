"""A spectrum as a survey published it, and what all readers do with the pixels and the words of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import UnusableSpectrum
from nalspark.spectra.batch import PixelFlag
from nalspark.spectra.grid import LATTICE_STEP, lattice_pixels
from nalspark.spectra.regrid import fill_gaps
from nalspark.surveys.fits_table import printable

#: Observed wavelengths that an optical spectrograph can have, Å.
WAVELENGTH_RANGE = (1000.0, 30000.0)
MIN_PIXELS = 100
#: Inverse variances, and the largest power of two of a flux, that are taken as they are: float32 holds them, and their products.
_ORDINARY, _ORDINARY_POWER = (1e-12, 1e12), 20
#: Bit 0 of ZWARNING.
SKY_FIBER = 1


@dataclass(frozen=True, slots=True, repr=False)
class SurveySpectrum:
    """One spectrum as the survey published it, on its own pixels or brought to the lattice.

    Attributes
    ----------
    spectrum_id : str
        Unique in a survey: SDSS ``PPPP-MJD-FFFF`` (plates above 9999 have five digits), SDSS-V ``FIELD-MJD-CATALOGID``, DESI
        ``SURVEY-PROGRAM-HEALPIX-TARGETID`` or ``TILE-NIGHT-PETAL-TARGETID``.
    format : str
        Of the file: ``sdss_spec``, ``sdss_spspec``, ``sdssv_spec``, ``desi_coadd``.
    native : mapping of str to int or str
        What the survey itself calls it, by column: those of :data:`nalspark.tables.schemas.NATIVE_IDS` that it has.
    ra, dec : float, degrees
        Of the fiber; nan where the file has none.
    z_pipeline : float
        Redshift of the survey's pipeline, as it is; nan where the file has none.
    z_pipeline_err : float
        Its standard error as the pipeline states it; nan where it states none, or none above 0: -1 and the like say that a fit failed.
    z_warning : int
        ZWARNING bits; bit 0 is a sky fiber. Of spSpec files bit 0 only: DR7's own bits mean other things.
    object_class : str
        QSO, GALAXY, STAR, SKY or empty, in upper case; REDROCK DAMAGED where there is a file of redshifts that cannot be used.
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
    scatter : ndarray of float32, shape (r,), or None
        How much single pixels scatter over their errors, as :class:`~nalspark.spectra.batch.Spectra` has it; None where nobody rebinned.
    """

    spectrum_id: str
    format: str
    native: Mapping[str, int | str]
    ra: float
    dec: float
    z_pipeline: float
    z_pipeline_err: float
    z_warning: int
    object_class: str
    first_pixel: int | None
    loglam: NDArray[np.float64] | None
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.uint8]
    resolution: NDArray[np.float32] | None
    scatter: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        known = ", ".join([f"z = {self.z_pipeline:.4f}"] * (self.z is not None) + [self.object_class or "class unknown"])
        return f"<SurveySpectrum {self.spectrum_id}: {known}, {len(self.flux)} pixels>"

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

    @property
    def z_err(self) -> float | None:
        """The error of that redshift as the pipeline states it; None where it states none."""
        return None if math.isnan(self.z_pipeline_err) else self.z_pipeline_err


@dataclass(frozen=True, slots=True)
class RejectedSpectrum:
    """A spectrum of a file that cannot be used; others of the file may.

    Attributes
    ----------
    reason, detail : str
        As of :class:`~nalspark.errors.UnusableSpectrum`.
    spectrum_id, format : str or None
    native : mapping
        As of :class:`SurveySpectrum`; None and empty where the whole file cannot be used.
    """

    reason: str
    detail: str
    spectrum_id: str | None = None
    format: str | None = None
    native: Mapping[str, int | str] = field(default_factory=dict)


def _lattice(name: str, loglam: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Where the pixels, log10 of Å, lie on the lattice; None where they are off it."""
    if len(loglam) < MIN_PIXELS:
        raise UnusableSpectrum("too_few_pixels", f"{name} has {len(loglam)} pixels; expected at least {MIN_PIXELS}.")
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
        raise UnusableSpectrum("wavelength_invalid", f"{name}: wavelengths must lie between {limits}; {found}.")
    steps = np.diff(loglam)
    if (steps < 0).all():
        raise UnusableSpectrum("wavelength_descending", f"{name}: wavelengths descend; expected ascending.")
    if not (steps > 0).all():
        where = int((steps <= 0).argmax())
        raise UnusableSpectrum("wavelength_not_monotonic", f"{name}: wavelengths must ascend, but do not after pixel {where}.")
    return None


def clean_pixels(name: str, loglam: NDArray[np.float64], flux: NDArray[Any], ivar: NDArray[Any]) -> dict[str, Any]:
    """Bring pixels to the form in which they are kept: 0 where there is no data, pixels that the file left out among them."""
    pixels = _lattice(name, loglam)
    if pixels is not None:
        flux, ivar = fill_gaps(pixels, flux, ivar)
    if not _ORDINARY[0] < ivar.max() < _ORDINARY[1]:
        flux, ivar = _in_ordinary_units(flux, ivar)
    with np.errstate(over="ignore", under="ignore"):
        flux, ivar = flux.astype(np.float32, copy=False), ivar.astype(np.float32, copy=False)
    good = np.isfinite(flux) & (ivar > 0) & (ivar < np.inf)
    if not good.any():
        _refuse_pixels(name, flux, ivar)
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


def _refuse_pixels(name: str, flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> NoReturn:
    if not np.isfinite(flux).any():
        raise UnusableSpectrum("flux_all_nan", f"{name}: no pixel of {len(flux)} has a finite flux.")
    positive = np.count_nonzero(ivar > 0)
    found = f"{positive} have an inverse variance above 0, none of these a finite flux"
    raise UnusableSpectrum("ivar_all_zero", f"{name}: no pixel of {len(flux)} can be used; {found}.")


def whole(value: object, default: int = 0) -> int:
    """Give a whole number of a card or a table, which may write it as a real one; `default` where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value != int(value):
        return default
    return int(value)


def real(value: object) -> float:
    """Give a number of a card or a table as a real one; nan where it is none."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def positive(value: object) -> float:
    """Give a number of a card or a table that is above 0 and finite, as a standard error is; nan where it is not."""
    number = real(value)
    return number if 0.0 < number < math.inf else math.nan


def angle(value: object, low: float, high: float) -> float:
    """Give an angle in degrees; nan where it is none from `low` to `high`."""
    degrees = real(value)
    return degrees if low <= degrees <= high else math.nan


def short_text(value: object) -> str:
    """Give a text of a file, short, stripped and in upper case."""
    text = value.split(b"\0")[0].decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return printable(text.strip().upper(), 16)
