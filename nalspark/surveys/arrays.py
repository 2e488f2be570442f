"""Spectra that somebody has in memory, as arrays or as objects: for data that are in no survey's file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import SettingsError
from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import WavelengthGrid, lattice_pixels
from nalspark.spectra.regrid import fill_gaps, place_on_grid
from nalspark.surveys.spectrum import WAVELENGTH_RANGE, times_power, unit_power


@dataclass(frozen=True)
class GivenSpectra:
    """n spectra as somebody has them in memory, checked, each on its own pixels.

    Attributes
    ----------
    origin : list of int or ndarray
        As :func:`place_on_grid` takes it.
    flux, ivar : lists of ndarray
    mask : list of ndarray of bool
    resolution, scatter : lists of ndarray or None
    z : ndarray, shape (n,)
    z_err : ndarray, shape (n,)
        Standard error of `z`; NaN where it is not known.
    """

    origin: list[int | NDArray[np.float64]]
    flux: list[NDArray[Any]]
    ivar: list[NDArray[Any]]
    mask: list[NDArray[np.bool_]]
    resolution: list[NDArray[np.float32] | None]
    scatter: list[NDArray[np.float32] | None]
    z: NDArray[np.float64]
    z_err: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.z)

    def on_grid(self, rows: range, grid: WavelengthGrid) -> Spectra:
        """Bring some of the spectra to a common grid; each in a unit of its own."""
        pixels = [_in_single_precision(self.flux[row], self.ivar[row], self.mask[row]) for row in rows]
        flux, ivar, mask = zip(*pixels, strict=True) if pixels else ((), (), ())
        here = slice(rows.start, rows.stop)
        return place_on_grid(flux, ivar, mask, self.origin[here], grid, resolution=self.resolution[here], scatter=self.scatter[here])


def _in_single_precision(
    flux: NDArray[Any], ivar: NDArray[Any], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Bring pixels to a unit in which float32 holds them, by a power of two, which changes no digit of a result; 0 where there are none."""
    flux, ivar = np.asarray(flux, dtype=float), np.asarray(ivar, dtype=float)
    wide, weight = times_power(flux, ivar, -unit_power(flux, np.where(mask, 0.0, ivar)))
    with np.errstate(all="ignore"):
        single, single_weight = wide.astype(np.float32), weight.astype(np.float32)
        good = np.isfinite(single) & (single_weight > 0) & (single_weight < np.inf)
    bits = np.where(good & ~mask, 0, PixelFlag.NO_DATA).astype(np.uint8)
    return np.where(good, single, np.float32(0)), np.where(good, single_weight, np.float32(0)), bits


def given_spectra(wave: Any, flux: Any, ivar: Any, z: Any, mask: Any, *, z_err: Any = None) -> GivenSpectra:
    """Check what :func:`nalspark.find` is given; the arguments are described there.

    Raises
    ------
    SettingsError
        Where shapes, wavelengths or units cannot be right, or something is missing.
    """
    if isinstance(wave, (list, tuple)) and not wave and flux is None:
        raise SettingsError("The list of spectra is empty; expected at least one spectrum.")
    if isinstance(wave, Sequence) and len(wave) and all(hasattr(spectrum, "flux") for spectrum in wave):
        _no_arrays(flux, ivar, mask)
        redshifts = [None] * len(wave) if z is None else _redshifts(z, len(wave)).tolist()
        errors = [None] * len(wave) if z_err is None else _redshift_errors(z_err, len(wave)).tolist()
        parts = [_of_object(*spectrum) for spectrum in zip(wave, redshifts, errors, strict=True)]
        names = ("origin", "flux", "ivar", "mask", "resolution", "scatter")
        rows: dict[str, list[Any]] = {name: [row for part in parts for row in getattr(part, name)] for name in names}
        return GivenSpectra(**rows, z=np.concatenate([part.z for part in parts]), z_err=np.concatenate([part.z_err for part in parts]))
    if hasattr(wave, "flux"):
        _no_arrays(flux, ivar, mask)
        return _of_object(wave, z, z_err)
    if flux is None or ivar is None:
        raise SettingsError("Give wave, flux and ivar (inverse variance), or one object that has a flux.")
    return _of_arrays(_plain(wave, "Angstrom"), flux, ivar, z, mask, z_err=z_err)


def _no_arrays(*arrays: Any) -> None:
    if any(array is not None for array in arrays):
        raise SettingsError("A spectrum that is an object has its own flux, errors and mask: give only z with it.")


def _plain(values: Any, unit: Any) -> Any:
    """Numbers of a quantity in a unit; what is no quantity is taken as it is."""
    if getattr(values, "unit", None) is None:
        return values
    from astropy import units as u

    try:
        return values.to_value(unit, equivalencies=u.spectral())
    except u.UnitsError as error:
        raise SettingsError(f"A quantity has a wrong unit: {error}.") from None


def _of_arrays(
    wave: Any, flux: Any, ivar: Any, z: Any, mask: Any, *, z_err: Any = None, loglam: Any = None, **sampled: Any
) -> GivenSpectra:
    unit = getattr(flux, "unit", None)
    if unit is not None:
        ivar = _plain(ivar, unit**-2)
        flux = flux.value
    flux, ivar = np.asarray(flux), np.asarray(_plain(ivar, "") if unit is None else ivar)
    if flux.ndim not in (1, 2):
        raise SettingsError(f"flux has shape {flux.shape}; expected (pixels,) for one spectrum or (spectra, pixels) for several.")
    masked = np.zeros(flux.shape, dtype=bool) if mask is None else np.asarray(mask) != 0
    for name, array in (("ivar", ivar), ("mask", masked)):
        if array.shape != flux.shape:
            raise SettingsError(f"{name} has shape {array.shape}; expected that of flux, {flux.shape}.")
    n, pixels = np.atleast_2d(flux).shape
    axis = np.asarray(wave, dtype=float)
    if axis.shape not in ((pixels,), flux.shape):
        raise SettingsError(f"wave has shape {axis.shape}; expected ({pixels},), or that of flux, {flux.shape}.")
    places = [_places(axis, loglam)] * n if axis.ndim == 1 else [_places(row, None) for row in axis]
    rows = [_placed(place, *columns) for place, *columns in zip(places, *map(np.atleast_2d, (flux, ivar, masked)), strict=True)]
    names = ("origin", "flux", "ivar", "mask")
    placed: dict[str, list[Any]] = {name: [row[column] for row in rows] for column, name in enumerate(names)}
    placed |= {name: [sampled.get(name)] * n for name in ("resolution", "scatter")}
    return GivenSpectra(**placed, z=_redshifts(z, n), z_err=_redshift_errors(z_err, n))


def _placed(place: NDArray[Any], *columns: NDArray[Any]) -> tuple[Any, ...]:
    """Origin and columns of a spectrum: on the lattice, consecutive pixels, without inverse variance where the spectrum has none."""
    return (int(place[0]), *fill_gaps(place, *columns)) if place.dtype.kind == "i" else (place, *columns)


def _redshifts(z: Any, n: int) -> NDArray[np.float64]:
    if z is None:
        raise SettingsError("z, the redshift of the quasar, is missing: it says where lines can be searched.")
    return _one_each(z, n, "z", "redshift")


def _redshift_errors(z_err: Any, n: int) -> NDArray[np.float64]:
    """Errors of n redshifts; NaN where none above 0 is given."""
    errors = _one_each(np.nan if z_err is None else z_err, n, "z_err", "standard error of z")
    return np.where((errors > 0) & np.isfinite(errors), errors, np.nan)


def _one_each(values: Any, n: int, name: str, what: str) -> NDArray[np.float64]:
    """A number for each of n spectra, or one for all of them."""
    try:
        numbers = np.asarray(_plain(values, ""), dtype=float)
    except (TypeError, ValueError):
        raise SettingsError(f"{name} must be numbers, one {what} for each of the {n} spectra; found {str(values)[:80]!r}.") from None
    if numbers.shape not in ((), (1,), (n,)):
        raise SettingsError(f"{name} has shape {numbers.shape}; expected one {what} for each of the {n} spectra.")
    return np.broadcast_to(numbers, n).copy()


def _places(wave: NDArray[np.float64], loglam: NDArray[np.float64] | None) -> NDArray[Any]:
    """Where pixels lie: their indices on the lattice, or log10 λ of each.

    Raises
    ------
    SettingsError
        Where they cannot be wavelengths in Å.
    """
    low, high = WAVELENGTH_RANGE
    if len(wave) < 2:
        raise SettingsError(f"A spectrum has {len(wave)} pixels; expected at least 2.")
    if not (np.isfinite(wave).all() and (np.diff(wave) > 0).all()):
        where = int(np.argmax(~(np.diff(wave, prepend=-np.inf) > 0)))
        raise SettingsError(f"Wavelengths must ascend; pixel {where} has {wave[where]:g} after {wave[max(where - 1, 0)]:g}.")
    if wave[0] < low or wave[-1] > high:
        hint = ""
        if wave[0] > low / 10 and wave[-1] < high / 10:
            hint = " In nm? Then multiply by 10."
        elif low < 10.0 ** wave[-1] < high:
            hint = " log10 of them? Then give 10 ** wave."
        raise SettingsError(f"Wavelengths must lie between {low:.0f} and {high:.0f} Å; found {wave[0]:g} to {wave[-1]:g}.{hint}")
    logarithm = np.log10(wave) if loglam is None else loglam
    pixels = lattice_pixels(logarithm)
    return np.asarray(logarithm) if pixels is None else pixels


def _of_object(spectrum: Any, z: Any, z_err: Any) -> GivenSpectra:
    """A survey's spectrum, or one with a spectral axis."""
    if hasattr(spectrum, "wave"):
        redshift = spectrum.z if z is None else z
        known = {name: getattr(spectrum, name, None) for name in ("loglam", "resolution", "scatter")}
        # The spectrum's own error is that of its own redshift.
        known["z_err"] = getattr(spectrum, "z_err", None) if z is None and z_err is None else z_err
        return _of_arrays(spectrum.wave, spectrum.flux, spectrum.ivar, redshift, spectrum.mask, **known)
    if not hasattr(spectrum, "spectral_axis"):
        raise SettingsError(f"A {type(spectrum).__name__} has neither `wave` nor `spectral_axis`: give wave, flux and ivar as arrays.")
    wave, flux, mask = _plain(spectrum.spectral_axis, "Angstrom"), spectrum.flux, getattr(spectrum, "mask", None)
    values, ivar = np.asarray(getattr(flux, "value", flux)), _inverse_variance(spectrum)
    if z is None and np.any(known := _plain(getattr(spectrum, "redshift", 0.0), "")):  # specutils has 0 where nobody said one
        z = known
    if len(wave) > 1 and wave[0] > wave[-1]:  # frequencies, or energies
        wave, values, ivar = wave[::-1], values[..., ::-1], ivar[..., ::-1]
        mask = None if mask is None else np.asarray(mask)[..., ::-1]
    return _of_arrays(np.asarray(wave), values, ivar, z, mask, z_err=z_err)


def _inverse_variance(spectrum: Any) -> NDArray[np.float64]:
    """Inverse variances in the inverse square of the flux's unit, from any uncertainty that astropy knows."""
    from astropy import units as u
    from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty

    uncertainty: Any = getattr(spectrum, "uncertainty", None)
    unit = getattr(spectrum.flux, "unit", None) or u.dimensionless_unscaled
    powers = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}
    power = next((power for kind, power in powers.items() if isinstance(uncertainty, kind)), None)
    if power is None:
        raise SettingsError(
            f"The spectrum's uncertainty is {type(uncertainty).__name__}; "
            "expected StdDevUncertainty, VarianceUncertainty or InverseVariance."
        )
    values = _plain(u.Quantity(uncertainty.array, uncertainty.unit or unit**power), unit**power)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(values ** (-2.0 / power), dtype=float)
