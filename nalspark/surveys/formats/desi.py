"""DESI spectra: ``coadd-*.fits`` of HEALPix pixels and of tiles, one file with some hundred targets.

A file is read in batches of targets; one bad target costs one row. The arms lie on one lattice of 0.8 Å and overlap: they are added,
weighted by inverse variance, and rebinned to the log-λ lattice. What the files hide:

* The same target is in several surveys and programs: each is a spectrum of its own.
* Files of single exposures (``spectra-*``) look the same, but have several rows of one target: they are refused.
* A file has no redshifts: they come from a quasar catalogue, by TARGETID, or from the ``redrock-*`` (or ``zbest-*``) file beside it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import UnusableSpectrum
from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.regrid import Rebinning, sample_resolution
from nalspark.surveys.fits_table import FitsFile, Hdu, printable
from nalspark.surveys.spectrum import SKY_FIBER, RejectedSpectrum, SurveySpectrum, angle, real, short_text, whole

ORDER = 1
FORMAT = "desi_coadd"
#: Targets that are in memory at a time.
_BATCH = 25
#: COADD_FIBERSTATUS bits that do no harm: RESTRICTED, a positioner that cannot reach everywhere.
_HARMLESS = 8
#: Bits of DESI_TARGET that mark standard stars: STD_FAINT, STD_WD, STD_BRIGHT.
_STANDARDS = 2**33 | 2**34 | 2**35
#: By how much wavelengths may be off a regular lattice, pixels: those of old simulations are float32.
_IRREGULAR = 0.01
_ALL_ARMS = ({"B", "R", "Z"}, {"BRZ"})
_REDROCK = ("redrock-", "zbest-")
_OF_HEALPIX = re.compile(r"(?:coadd|spectra|redrock)-([a-z0-9]+)-([a-z]+)-(\d+)\.")
_OF_TILE = re.compile(r"(?:coadd|spectra)-(\d)-(\d+)-(?:thru)?(\d{8})\.")


@dataclass(frozen=True)
class _Arm:
    """One arm of the spectrograph: where its pixels lie, and the HDUs of its images."""

    name: str
    start: float
    step: float
    pixels: int
    images: Mapping[str, Hdu]


@dataclass(frozen=True)
class _Coadd:
    """A coadd file.

    Attributes
    ----------
    table : dict of ndarray, shape (n,)
        What FIBERMAP says of the targets, by lower-case column.
    naming : dict
        Native columns that all targets share.
    prefix : str
        What their names begin with.
    arms : list of _Arm
    whole : int
        So many targets lie in the file before it is cut.
    cut : UnusableSpectrum or None
        What is wrong with its end.
    """

    fits: FitsFile
    table: dict[str, NDArray[Any]]
    naming: dict[str, int | str]
    prefix: str
    arms: list[_Arm]
    whole: int
    cut: UnusableSpectrum | None

    def native(self, row: int) -> dict[str, int | str]:
        return {**self.naming, "targetid": int(self.table["targetid"][row])}

    def rejected(self, row: int, reason: str, detail: str) -> RejectedSpectrum:
        target = int(self.table["targetid"][row])
        named = f"{self.fits.name}, target {target}: {detail}"
        return RejectedSpectrum(reason, named, f"{self.prefix}-{target}", FORMAT, self.native(row))

    def value(self, row: int, *columns: str) -> Any:
        """The first of some columns that FIBERMAP has, or None."""
        return next((self.table[name][row].item() for name in columns if name in self.table), None)

    @cached_property
    def covered(self) -> slice:
        """The pixels of the lattice that the arms cover."""
        ends = [LATTICE.pixel(arm.start + np.array([0.0, (arm.pixels - 1) * arm.step])) for arm in self.arms]
        low, high = math.floor(min(end[0] for end in ends)), math.ceil(max(end[1] for end in ends)) + 1
        return slice(max(low, 0), min(high, LATTICE.n_pixels))

    @cached_property
    def redshifts(self) -> dict[int, tuple[float, int, str]]:
        """Redshift, ZWARN and class by TARGETID, from the file of the pipeline's redshifts beside this one; empty where there is none."""
        folder, name = os.path.split(self.fits.path)
        kind, _, rest = name.partition("-")
        for other in (f"{first}{rest}" for first in _REDROCK) if folder and kind in ("coadd", "spectra") else ():
            with suppress(OSError, UnusableSpectrum), open(os.path.join(folder, other), "rb") as stream:
                return _read_redshifts(FitsFile(stream, other))
        return {}


def read(fits: FitsFile) -> Iterator[SurveySpectrum | RejectedSpectrum] | None:
    """Read the spectra of a file whose HDUs are called ``…_WAVELENGTH``; None where there are none.

    Raises
    ------
    UnusableSpectrum
        Where no target can be read: with the reasons of :mod:`nalspark.surveys.fits_table`; ``desi_redrock``, ``desi_uncoadded``,
        ``missing_hdu``, ``bad_image``, ``wavelength_invalid``, ``duplicate_targets``. Of single targets ``truncated``,
        ``unassigned_fiber``, ``bad_fiber``, ``flux_all_nan``, ``ivar_all_zero``.
    """
    coadd = _opened(fits)
    if coadd is None:
        return None
    return (one for first in range(0, len(coadd.table["targetid"]), _BATCH) for one in _batch(coadd, first))


def identify(fits: FitsFile) -> dict[str, int | str] | None:
    """Tell what all spectra of a whole file are named by, or of one of redshifts; None where it is of another survey.

    Raises
    ------
    UnusableSpectrum
        As :func:`read`, also where only some targets or arms could be read; ``missing_hdu`` where a file that is called ``redrock-*`` has
        no redshifts.
    """
    if fits.name.startswith(_REDROCK):
        hdus, cut = _hdus(fits)
        if cut:
            raise cut
        if not {"REDSHIFTS", "ZBEST"} & {hdu.layout.name for hdu in hdus}:
            raise UnusableSpectrum("missing_hdu", f"{fits.name} has no REDSHIFTS: found {fits.contents()}.")
        return _naming(fits, {}, {})[0]
    coadd = _opened(fits)
    if coadd is None:
        return None
    if coadd.cut:
        raise coadd.cut
    if {arm.name for arm in coadd.arms} not in _ALL_ARMS:
        names = ", ".join(arm.name for arm in coadd.arms)
        raise UnusableSpectrum("truncated", f"{fits.name} has flux and inverse variance of the arms {names}; expected B, R and Z, or BRZ.")
    return coadd.naming


def _opened(fits: FitsFile) -> _Coadd | None:
    """The file without its pixels; None where no HDU is called ``…_WAVELENGTH``."""
    hdus, cut = _hdus(fits)
    names = [hdu.layout.name for hdu in hdus]
    if {"REDSHIFTS", "ZBEST"} & set(names) and not any(name.endswith("_WAVELENGTH") for name in names):
        raise UnusableSpectrum("desi_redrock", f"{fits.name} is a DESI redrock file: it has redshifts and no spectra.")
    if not any(name.endswith("_WAVELENGTH") for name in names):
        return None
    return _coadd(fits, {hdu.layout.name: hdu for hdu in reversed(hdus)}, cut)


def _hdus(fits: FitsFile) -> tuple[list[Hdu], UnusableSpectrum | None]:
    """The HDUs, as far as the file goes; none where the first table is a spectrum's."""
    hdus: list[Hdu] = []
    try:
        for hdu in fits.hdus():
            columns = hdu.layout.columns or {}
            if "loglam" in columns or (not hdu.number and hdu.layout.data_bytes):
                return [], None
            hdus.append(hdu)
    except UnusableSpectrum as fault:
        return hdus, fault
    return hdus, None


def _coadd(fits: FitsFile, hdus: Mapping[str, Hdu], cut: UnusableSpectrum | None) -> _Coadd:
    if "FIBERMAP" not in hdus:
        raise UnusableSpectrum("missing_hdu", f"{fits.name} has arms of DESI and no FIBERMAP, so nobody knows whose the spectra are.")
    columns = hdus["FIBERMAP"].layout.columns or {}
    wanted = ("ra_target", "dec_target", "target_ra", "target_dec", "objtype", "coadd_fiberstatus", "fiberstatus", "tileid", "petal_loc")
    present = [name for name in columns if name in wanted or name.endswith("desi_target")]
    table = {name: np.ma.getdata(values) for name, values in fits.columns(hdus["FIBERMAP"], ["targetid", *present]).items()}
    if table["targetid"].dtype.kind not in "iu":
        raise UnusableSpectrum("bad_column_type", f"{fits.name}: TARGETID is no column of 64-bit integers, which alone hold it.")
    if len(np.unique(table["targetid"])) < len(table["targetid"]):
        raise UnusableSpectrum("desi_uncoadded", f"{fits.name} has several rows of a target: single exposures. Give the coadd-* file.")
    arms = [_arm(fits, hdus, name.removesuffix("_WAVELENGTH")) for name in hdus if name.endswith("_WAVELENGTH")]
    found = [arm for arm in arms if arm is not None]
    n, read = len(table["targetid"]), len(table["targetid"])
    for arm in found:
        for kind, hdu in arm.images.items():
            if fits.image_shape(hdu)[0] != n:
                raise UnusableSpectrum(
                    "bad_image", f"{fits.name}: {hdu.layout.name} has {fits.image_shape(hdu)[0]} rows, FIBERMAP has {n}."
                )
            if kind != "RESOLUTION":
                read = min(read, fits.whole_rows(hdu))
    if not found or (cut and len(found) < len(arms)) or (cut and {arm.name for arm in found} not in _ALL_ARMS):
        read = 0
    naming, prefix = _naming(fits, hdus, table)
    return _Coadd(fits, table, naming, prefix, sorted(found, key=lambda arm: arm.start), read, cut)


def _arm(fits: FitsFile, hdus: Mapping[str, Hdu], name: str) -> _Arm | None:
    """An arm of which flux and inverse variance are there."""
    images = {kind: hdus[f"{name}_{kind}"] for kind in ("FLUX", "IVAR", "MASK", "RESOLUTION") if f"{name}_{kind}" in hdus}
    if not {"FLUX", "IVAR"} <= images.keys():
        return None
    wave = fits.image(hdus[f"{name}_WAVELENGTH"]).astype(float).ravel()
    if len(wave) < 2 or not np.isfinite(wave).all() or wave[0] <= 0 or wave[-1] <= wave[0]:
        raise UnusableSpectrum("wavelength_invalid", f"{fits.name}: {name}_WAVELENGTH holds no ascending wavelengths.")
    step = (wave[-1] - wave[0]) / (len(wave) - 1)
    if np.abs(wave - wave[0] - step * np.arange(len(wave))).max() > max(_IRREGULAR * step, np.spacing(np.float32(wave[-1]))):
        raise UnusableSpectrum("wavelength_invalid", f"{fits.name}: the steps of {name}_WAVELENGTH differ; expected those of a lattice.")
    for kind, hdu in images.items():
        shape = fits.image_shape(hdu)
        if len(shape) != (3 if kind == "RESOLUTION" else 2) or shape[-1] != len(wave):
            found = " × ".join(map(str, shape))
            raise UnusableSpectrum("bad_image", f"{fits.name}: {name}_{kind} has shape {found}; {name}_WAVELENGTH has {len(wave)} pixels.")
    return _Arm(name, wave[0], step, len(wave), images)


def _naming(fits: FitsFile, hdus: Mapping[str, Hdu], table: dict[str, NDArray[Any]]) -> tuple[dict[str, int | str], str]:
    """What all spectra of the file are called: from its header, else from FIBERMAP, else from its name."""
    header, name = next(fits.hdus()).header, fits.name
    tile = header.get("TILEID", table["tileid"][0].item() if "tileid" in table and len(table["tileid"]) else None)
    if header.get("HPXPIXEL") is None and isinstance(tile, int) and not _OF_HEALPIX.match(name):
        of_name = _OF_TILE.match(name)
        petal = header.get("PETAL", table["petal_loc"][0].item() if "petal_loc" in table else of_name and int(of_name[1]))
        night = header.get("NIGHT", int(of_name[3]) if of_name else None)
        pieces = [tile, night, petal]
        return {"tile": tile}, "-".join(printable(str(piece), 20) for piece in pieces if piece is not None)
    of_name = _OF_HEALPIX.match(name)
    survey, program, pixel = of_name.groups() if of_name else (None, None, None)
    found = {"survey": header.get("SURVEY", survey), "program": header.get("PROGRAM", program), "healpix": header.get("HPXPIXEL", pixel)}
    known = {key: printable(str(value), 20) for key, value in found.items() if value is not None}
    native: dict[str, int | str] = {key: value for key, value in known.items() if key != "healpix"}
    if known.get("healpix", "").isdecimal():
        native["healpix"] = int(known["healpix"])
    return native, "-".join(known.values())


def _read_redshifts(fits: FitsFile) -> dict[int, tuple[float, int, str]]:
    table = next(hdu for hdu in fits.hdus() if hdu.layout.name in ("REDSHIFTS", "ZBEST"))
    columns = fits.columns(table, ("targetid", "z", "zwarn", "spectype"))
    rows = zip(*(columns[name].tolist() for name in ("targetid", "z", "zwarn", "spectype")), strict=True)
    return {target: (real(z), whole(warning) & 0x7FFFFFFF, short_text(kind)) for target, z, warning, kind in rows}


# ---- pixels


def _batch(coadd: _Coadd, first: int) -> Iterator[SurveySpectrum | RejectedSpectrum]:
    """The targets of a batch, those that cannot be used with their reason."""
    rows = range(first, min(first + _BATCH, len(coadd.table["targetid"])))
    faults = {row: fault for row in rows if (fault := _fault(coadd, row))}
    if len(faults) < len(rows):
        last = min(rows.stop, coadd.whole)
        try:
            spectra = _on_lattice(coadd, first, last)
        except UnusableSpectrum as fault:  # a damaged piece costs these targets, not those of other batches
            faults = dict.fromkeys(rows, (fault.reason, fault.detail.removeprefix(f"{coadd.fits.name}: "))) | faults
    for row in rows:
        if row in faults:
            yield coadd.rejected(row, *faults[row])
        elif not (spectra.mask[row - first] == 0).any():
            yield coadd.rejected(row, "ivar_all_zero", "no pixel has a finite flux and an inverse variance above 0.")
        else:
            yield _spectrum(coadd, row, spectra.take(np.array([row - first])))


def _fault(coadd: _Coadd, row: int) -> tuple[str, str] | None:
    """Why a target cannot be used, before its pixels are read."""
    if row >= coadd.whole:
        end = coadd.cut.detail.removeprefix(f"{coadd.fits.name}: ") if coadd.cut else "no arm has both flux and inverse variance."
        return "truncated", f"its pixels are not all there: {end}"
    kind = short_text(coadd.value(row, "objtype") or "")
    if coadd.table["targetid"][row] < 0 and kind != "SKY":
        return "unassigned_fiber", "TARGETID is negative: the fiber was on no target."
    if kind not in ("", "TGT", "SKY"):
        return "unassigned_fiber", f"OBJTYPE is {kind}; expected TGT."
    status = whole(coadd.value(row, "coadd_fiberstatus", "fiberstatus"))
    if status & ~_HARMLESS:
        return "bad_fiber", f"COADD_FIBERSTATUS is {status}; expected 0."
    return None


def _spectrum(coadd: _Coadd, row: int, pixels: Spectra) -> SurveySpectrum:
    """A target with its pixels, one spectrum on the lattice."""
    target = int(coadd.table["targetid"][row])
    z, warning, kind = coadd.redshifts.get(target, (math.nan, 0, ""))
    if short_text(coadd.value(row, "objtype") or "") == "SKY":
        warning, kind = warning | SKY_FIBER, "SKY"
    elif not kind and any(int(coadd.table[name][row]) & _STANDARDS for name in coadd.table if name.endswith("desi_target")):
        kind = "STAR"
    assert pixels.resolution is not None and pixels.scatter is not None
    return SurveySpectrum(
        spectrum_id=f"{coadd.prefix}-{target}",
        format=FORMAT,
        native=coadd.native(row),
        ra=angle(coadd.value(row, "target_ra", "ra_target"), 0.0, 360.0),
        dec=angle(coadd.value(row, "target_dec", "dec_target"), -90.0, 90.0),
        z_pipeline=z,
        z_warning=warning,
        object_class=kind,
        first_pixel=LATTICE.first + coadd.covered.start,
        loglam=None,
        flux=pixels.flux[0, coadd.covered],
        ivar=pixels.ivar[0, coadd.covered],
        mask=pixels.mask[0, coadd.covered],
        resolution=pixels.resolution[0],
        scatter=pixels.scatter[0],
    )


def _on_lattice(coadd: _Coadd, first: int, stop: int) -> Spectra:
    """The pixels of some targets on the lattice."""
    groups: dict[tuple[float, float], list[_Arm]] = {}
    for arm in coadd.arms:
        groups.setdefault((round(arm.start / arm.step % 1.0, 2) % 1.0, round(arm.step, 4)), []).append(arm)
    parts = [_rebin_group(coadd, arms, first, stop) for arms in groups.values()]
    flux, ivar, mask, scatter = parts[0]
    if len(parts) > 1:  # arms of old simulations lie on lattices of their own
        ivar = np.sum([weight for _, weight, _, _ in parts], axis=0)
        flux = np.sum([values * weight for values, weight, _, _ in parts], axis=0) / np.where(ivar > 0, ivar, 1.0)
        mask = np.where(ivar > 0, 0, PixelFlag.NO_DATA).astype(np.uint8)
        scatter = np.min([one for *_, one in parts], axis=0)
    return Spectra(flux, ivar, mask, LATTICE, _resolution(coadd, first, stop), np.tile(scatter, (stop - first, 1)))


def _rebin_group(
    coadd: _Coadd, arms: Sequence[_Arm], first: int, stop: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Add arms that share a lattice, and rebin the sum."""
    start, step = min(arm.start for arm in arms), arms[0].step
    pixels = max(round((arm.start - start) / step) + arm.pixels for arm in arms)
    flux, ivar = np.zeros((stop - first, pixels)), np.zeros((stop - first, pixels))
    for arm in arms:
        here = slice(at := round((arm.start - start) / step), at + arm.pixels)
        values, weight = _pixels(coadd.fits, arm, first, stop)
        flux[:, here] += values * weight
        ivar[:, here] += weight
    flux /= np.where(ivar > 0, ivar, 1.0)
    rebin = _rebinning(start, step, pixels)
    return *rebin(flux, ivar), rebin.scatter


@lru_cache(maxsize=8)
def _rebinning(start: float, step: float, pixels: int) -> Rebinning:
    begin = start + step * (np.arange(pixels, dtype=np.float64) - 0.5)
    return Rebinning(begin, begin + step, LATTICE)


def _pixels(fits: FitsFile, arm: _Arm, first: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Flux and inverse variance of an arm; both 0 where there is no data."""
    flux, ivar = (fits.image(arm.images[kind], first, stop).astype(float) for kind in ("FLUX", "IVAR"))
    with np.errstate(invalid="ignore"):
        good = np.isfinite(flux) & (ivar > 0) & (ivar < np.inf)
    if "MASK" in arm.images:
        good &= fits.image(arm.images["MASK"], first, stop) == 0
    return np.where(good, flux, 0.0), np.where(good, ivar, 0.0)


def _resolution(coadd: _Coadd, first: int, stop: int) -> NDArray[np.float32]:
    """Gaussian σ of the line-spread function of some targets, shape (n, r), lattice pixels; NaN where not all arms say it.

    The second moment of the resolution matrix's columns; of the native pixel twice, because the matrix acts on means over pixels, and
    because a mean stands for its whole pixel when it is rebinned; and of the lattice's pixel.
    """
    at, sigma = [], []
    known = [arm.images.get("RESOLUTION") for arm in coadd.arms]
    if any(hdu is None or coadd.fits.whole_rows(hdu) < stop for hdu in known):
        return np.full((stop - first, len(LATTICE.resolution_pixels)), np.nan, np.float32)
    for arm in coadd.arms:
        wave = LATTICE.wavelength_at(LATTICE.resolution_pixels - LATTICE.first)
        column = np.rint((wave - arm.start) / arm.step).astype(int)
        inside = (column >= 0) & (column < arm.pixels)
        matrix = coadd.fits.image(arm.images["RESOLUTION"], first, stop)[:, :, column[inside]].astype(float)
        offset = (np.arange(matrix.shape[1]) - (matrix.shape[1] - 1) / 2)[None, :, None]
        with np.errstate(all="ignore"):
            total = matrix.sum(axis=1)
            centre = (matrix * offset).sum(axis=1) / total
            variance = (matrix * offset**2).sum(axis=1) / total - centre**2
            pixel = wave[inside] * (10 ** (0.5 * LATTICE.step) - 10 ** (-0.5 * LATTICE.step)) / arm.step
            sigma.append(np.sqrt((variance + 2.0 / 12.0) / pixel**2 + 1.0 / 12.0))
        at.append(LATTICE.resolution_pixels[inside] * LATTICE.step)
    order = np.argsort(np.concatenate(at), kind="stable")
    place, widths = np.concatenate(at)[order], np.concatenate(sigma, axis=1)[:, order]
    return np.stack([sample_resolution(row, place, LATTICE) for row in widths])
