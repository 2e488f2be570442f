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
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import UnusableSpectrum
from nalspark.settings import PLAIN_WORD
from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.regrid import Rebinning, sample_resolution
from nalspark.surveys.fits_table import FitsFile, Hdu, Header, printable
from nalspark.surveys.packed import decompressed
from nalspark.surveys.spectrum import (
    MIN_PIXELS,
    SKY_FIBER,
    WAVELENGTH_RANGE,
    RejectedSpectrum,
    SurveySpectrum,
    angle,
    positive,
    real,
    short_text,
    whole,
)

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
_TABLES_OF_REDSHIFTS = {"REDSHIFTS", "ZBEST"}
#: The class of a target whose file of redshifts is there and cannot be used.
_NO_REDSHIFTS = "REDROCK DAMAGED"
#: Columns of FIBERMAP that have one number.
_NUMBERS = ("target_ra", "target_dec", "ra_target", "dec_target", "coadd_fiberstatus", "fiberstatus", "tileid", "petal_loc")
#: An arm has some 3000 pixels of 0.8 Å, and its resolution matrix 11 diagonals; more is no spectrograph's.
_MOST_PIXELS, _MOST_DIAGONALS = 20_000, 64
#: HEALPix order of the pixels that files are of.
_ORDER_OF_FILES = 6
_OF_HEALPIX = re.compile(r"(?:coadd|spectra|redrock)-([a-z0-9]+)-([a-z]+)-(\d+)\.")
_OF_TILE = re.compile(r"(?:coadd|spectra|redrock|zbest)-(\d)-(\d+)-([a-z0-9]*?)(\d{8})\.")


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

    def is_standard(self, row: int) -> bool:
        """Whether any survey took the target for a standard star."""
        return any(int(values[row]) & _STANDARDS for name, values in self.table.items() if name.endswith("desi_target"))

    @cached_property
    def covered(self) -> slice:
        """The pixels of the lattice that the arms cover."""
        ends = [LATTICE.pixel(arm.start + np.array([0.0, (arm.pixels - 1) * arm.step])) for arm in self.arms]
        low, high = math.floor(min(end[0] for end in ends)), math.ceil(max(end[1] for end in ends)) + 1
        return slice(max(low, 0), min(high, LATTICE.n_pixels))

    @cached_property
    def redshifts(self) -> dict[int, tuple[float, float, int, str]]:
        """Redshift, its error, ZWARN and class by TARGETID, from the pipeline's file beside this one; empty where there is none.

        What cannot be read, or is of another file, has :data:`_NO_REDSHIFTS` for the class of every target.
        """
        folder, name = os.path.split(self.fits.path)
        kind, _, rest = name.partition("-")
        rest = rest.removesuffix(".gz")
        others = [f"{first}{rest}{end}" for first in _REDROCK for end in ("", ".gz")] if folder and kind in ("coadd", "spectra") else []
        for other in others:
            path = os.path.join(folder, other)
            if os.path.isfile(path):
                try:
                    with open(path, "rb") as stream, decompressed(stream, other) as content:
                        return _read_redshifts(FitsFile(content, other), self)
                except (OSError, UnusableSpectrum):
                    return dict.fromkeys(self.table["targetid"].tolist(), (math.nan, math.nan, 0, _NO_REDSHIFTS))
        return {}


def read(fits: FitsFile) -> Iterator[SurveySpectrum | RejectedSpectrum] | None:
    """Read the spectra of a file whose HDUs are called ``…_WAVELENGTH``; None where there are none.

    Raises
    ------
    UnusableSpectrum
        Where no target can be read: with the reasons of :mod:`nalspark.surveys.fits_table`; ``desi_redrock``, ``desi_uncoadded``,
        ``missing_hdu``, ``no_targets``, ``missing_id``, ``bad_id``, ``bad_column_type``, ``bad_image``, ``wavelength_invalid``. Of single
        targets ``truncated``, ``unassigned_fiber``, ``bad_fiber``, ``ivar_all_zero``.
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
        named = {hdu.layout.name: hdu for hdu in hdus}
        if not _TABLES_OF_REDSHIFTS & named.keys():
            raise UnusableSpectrum("missing_hdu", f"{fits.name} has no REDSHIFTS: found {fits.contents()}.")
        return _placed(fits, _fibermap(fits, named["FIBERMAP"]) if "FIBERMAP" in named else {})
    coadd = _opened(fits)
    if coadd is None:
        return None
    if coadd.cut:
        raise coadd.cut
    if {arm.name for arm in coadd.arms} not in _ALL_ARMS:
        names = ", ".join(arm.name for arm in coadd.arms)
        raise UnusableSpectrum("truncated", f"{fits.name} has flux and inverse variance of the arms {names}; expected B, R and Z, or BRZ.")
    return _placed(fits, coadd.table)


def _placed(fits: FitsFile, table: dict[str, NDArray[Any]]) -> dict[str, int | str]:
    """What the file is named by; where its header has no pixel, that of its first target: its own name proves nothing."""
    from nalspark.surveys.crossmatch.sky import fine_pixels, is_position  # for who fetches files; who reads them does without

    naming = _naming(fits, table)[0]
    if "healpix" in naming and next(fits.hdus()).header.get("HPXPIXEL") is None and {"target_ra", "target_dec"} <= table.keys():
        ra, dec = (table[name][:1] for name in ("target_ra", "target_dec"))
        if is_position(ra, dec).all() and int(naming["healpix"]) < 12 * 4**_ORDER_OF_FILES:
            naming = {**naming, "healpix": int(fine_pixels(ra, dec, _ORDER_OF_FILES)[0])}
    return naming


def _opened(fits: FitsFile) -> _Coadd | None:
    """The file without its pixels; None where no HDU is called ``…_WAVELENGTH``."""
    hdus, cut = _hdus(fits)
    names = [hdu.layout.name for hdu in hdus]
    if _TABLES_OF_REDSHIFTS & set(names) and not any(name.endswith("_WAVELENGTH") for name in names):
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


def _fibermap(fits: FitsFile, hdu: Hdu) -> dict[str, NDArray[Any]]:
    """What FIBERMAP says of the targets, by lower-case column: those that we know and that have one value of the right type."""
    columns = hdu.layout.columns
    if columns is None:
        raise UnusableSpectrum("bad_column_type", f"{fits.name}: FIBERMAP is no table.")
    target = columns.get("targetid")
    if target is not None and not (target.is_number and target.code in "BIJK" and target.scale == 1):
        raise UnusableSpectrum("bad_column_type", f"{fits.name}: TARGETID is no column of 64-bit integers, which alone hold it.")
    present = ["targetid"]
    for name, column in columns.items():
        known = column.is_number and (name in _NUMBERS or (name.endswith("desi_target") and column.code in "BIJK"))
        present += [name] if known or (name == "objtype" and column.is_text) else []
    table = {name: np.ma.getdata(values) for name, values in fits.columns(hdu, present).items()}
    if not len(table["targetid"]):
        raise UnusableSpectrum("no_targets", f"{fits.name} has no targets: FIBERMAP has no rows.")
    if table["targetid"].dtype.kind == "u" and table["targetid"].max() >= 2**63:
        raise UnusableSpectrum("bad_id", f"{fits.name}: TARGETID is {table['targetid'].max()}; expected less than 2^63.")
    return {**table, "targetid": table["targetid"].astype(np.int64)}


def _coadd(fits: FitsFile, hdus: Mapping[str, Hdu], cut: UnusableSpectrum | None) -> _Coadd:
    if "FIBERMAP" not in hdus:
        raise UnusableSpectrum("missing_hdu", f"{fits.name} has arms of DESI and no FIBERMAP, so nobody knows whose the spectra are.")
    table = _fibermap(fits, hdus["FIBERMAP"])
    n = read = len(table["targetid"])
    if len(np.unique(table["targetid"])) < n:
        raise UnusableSpectrum("desi_uncoadded", f"{fits.name} has several rows of a target: single exposures. Give the coadd-* file.")
    arms = [_arm(fits, hdus, name.removesuffix("_WAVELENGTH")) for name in hdus if name.endswith("_WAVELENGTH")]
    found = [arm for arm in arms if arm is not None]
    for kind, hdu in ((kind, hdu) for arm in found for kind, hdu in arm.images.items()):
        if fits.image_shape(hdu)[0] != n:
            raise UnusableSpectrum("bad_image", f"{fits.name}: {hdu.layout.name} has {fits.image_shape(hdu)[0]} rows, FIBERMAP has {n}.")
        if kind != "RESOLUTION":
            read = min(read, fits.whole_rows(hdu))
    if not found or (cut and len(found) < len(arms)) or (cut and {arm.name for arm in found} not in _ALL_ARMS):
        read = 0
    naming, prefix = _naming(fits, table)
    return _Coadd(fits, table, naming, prefix, sorted(found, key=lambda arm: arm.start), read, cut)


def _arm(fits: FitsFile, hdus: Mapping[str, Hdu], name: str) -> _Arm | None:
    """An arm of which flux and inverse variance are there."""
    images = {kind: hdus[f"{name}_{kind}"] for kind in ("FLUX", "IVAR", "MASK", "RESOLUTION") if f"{name}_{kind}" in hdus}
    if not {"FLUX", "IVAR"} <= images.keys():
        return None
    pixels = fits.image_shape(hdus[f"{name}_WAVELENGTH"])
    if len(pixels) != 1 or not MIN_PIXELS <= pixels[0] <= _MOST_PIXELS:
        found, expected = " × ".join(map(str, pixels[:4])) or "none", f"{MIN_PIXELS} to {_MOST_PIXELS} in a row"
        raise UnusableSpectrum("wavelength_invalid", f"{fits.name}: {name}_WAVELENGTH has pixels {found}; expected {expected}.")
    wave = fits.image(hdus[f"{name}_WAVELENGTH"]).astype(float)
    low, high = WAVELENGTH_RANGE
    if not np.isfinite(wave).all() or wave[0] < low or wave[-1] > high or wave[-1] <= wave[0]:
        limits = f"{low:.0f} to {high:.0f} Å"
        raise UnusableSpectrum("wavelength_invalid", f"{fits.name}: {name}_WAVELENGTH holds no ascending wavelengths of {limits}.")
    step = (wave[-1] - wave[0]) / (len(wave) - 1)
    if np.abs(wave - wave[0] - step * np.arange(len(wave))).max() > max(_IRREGULAR * step, np.spacing(np.float32(wave[-1]))):
        raise UnusableSpectrum("wavelength_invalid", f"{fits.name}: the steps of {name}_WAVELENGTH differ; expected those of a lattice.")
    for kind, hdu in images.items():
        _check_image(fits, hdu, kind == "RESOLUTION", len(wave))
    return _Arm(name, wave[0], step, len(wave), images)


def _check_image(fits: FitsFile, hdu: Hdu, matrix: bool, pixels: int) -> None:
    shape = fits.image_shape(hdu)
    if len(shape) != (3 if matrix else 2) or shape[-1] != pixels or (matrix and not 0 < shape[1] <= _MOST_DIAGONALS):
        found, expected = " × ".join(map(str, shape[:4])), f"n {'× up to ' + str(_MOST_DIAGONALS) + ' ' if matrix else ''}× {pixels}"
        raise UnusableSpectrum("bad_image", f"{fits.name}: {hdu.layout.name} has shape {found}; expected {expected}.")


# ---- what the spectra of a file are called


def _naming(fits: FitsFile, table: dict[str, NDArray[Any]]) -> tuple[dict[str, int | str], str]:
    """What all spectra of the file are called: from its header, else from FIBERMAP, else from its name."""
    header = next(fits.hdus()).header
    tile = _whole_number(header.get("TILEID"), table, "tileid")
    if header.get("HPXPIXEL") is None and tile is not None and not _OF_HEALPIX.match(fits.name):
        return _naming_of_tile(fits, header, tile, table)
    of_name = _OF_HEALPIX.match(fits.name)
    survey, program, pixel = of_name.groups() if of_name else (None, None, None)
    found = {"survey": header.get("SURVEY", survey), "program": header.get("PROGRAM", program)}
    words = {name: str(word).strip().lower() for name, word in found.items() if word is not None}
    number = whole(header.get("HPXPIXEL", int(pixel) if pixel else None), default=-1)
    if number < 0 or len(words) == 1:
        expected = "SURVEY, PROGRAM and HPXPIXEL, or TILEID, NIGHT and PETAL, in its header or its name"
        raise UnusableSpectrum("missing_id", f"{fits.name} does not say what it holds; expected {expected}.")
    for name, word in words.items():
        if not re.fullmatch(PLAIN_WORD, word):
            raise UnusableSpectrum("bad_id", f"{fits.name}: {name.upper()} is {printable(word, 40)!r}; expected letters and digits.")
    _check_id(fits, "HPXPIXEL", number)
    return {**words, "healpix": number}, "-".join([*words.values(), str(number)])


def _naming_of_tile(fits: FitsFile, header: Header, tile: int, table: dict[str, NDArray[Any]]) -> tuple[dict[str, int | str], str]:
    """Of a tile's file: one of all nights until one, of one night, or of one exposure."""
    of_name = _OF_TILE.match(fits.name)
    petal = _whole_number(header.get("PETAL", int(of_name[1]) if of_name else None), table, "petal_loc")
    kind = str(header.get("SPGRP", "")).strip().lower()
    if kind:
        night = header.get("NIGHT", header.get("SPGRPVAL")) if kind == "cumulative" else header.get("SPGRPVAL")
    else:
        kind, night = ("cumulative" if not of_name or of_name[3] == "thru" else of_name[3] or "pernight"), header.get("NIGHT")
        night = int(of_name[4]) if night is None and of_name else night
    number = whole(night, default=-1)
    if petal is None or number < 0 or not re.fullmatch(PLAIN_WORD, kind):
        expected = "PETAL and NIGHT in its header, or a name like coadd-PETAL-TILE-thruNIGHT.fits"
        raise UnusableSpectrum("missing_id", f"{fits.name} does not say which part of tile {tile} it holds; expected {expected}.")
    _check_id(fits, "TILEID", tile)
    return {"tile": tile}, f"{tile}-{'' if kind == 'cumulative' else kind}{number}-{petal}"


def _whole_number(value: object, table: dict[str, NDArray[Any]], column: str) -> int | None:
    """A number of the header, else of the first target."""
    found = whole(table[column][0].item() if value is None and column in table else value, default=-1)
    return found if found >= 0 else None


def _check_id(fits: FitsFile, card: str, number: int) -> None:
    if number >= 2**31:
        raise UnusableSpectrum("bad_id", f"{fits.name}: {card} is {number}; expected a number below 2^31.")


def _read_redshifts(fits: FitsFile, coadd: _Coadd) -> dict[int, tuple[float, float, int, str]]:
    """What the pipeline says of every target; of one with several rows the first counts."""
    hdus = list(fits.hdus())
    table = next((hdu for hdu in hdus if hdu.layout.name in _TABLES_OF_REDSHIFTS and hdu.layout.columns), None)
    known = (table.layout.columns or {}) if table else {}
    if table is None or not all(name in known and known[name].is_number for name in ("targetid", "z", "zwarn")):
        raise UnusableSpectrum("missing_hdu", f"{fits.name} has no table of redshifts.")
    pixel = hdus[0].header.get("HPXPIXEL")
    if pixel is not None and "healpix" in coadd.naming and whole(pixel) != coadd.naming["healpix"]:
        raise UnusableSpectrum("wrong_file", f"{fits.name} is of HEALPix pixel {pixel}, {coadd.fits.name} is not.")
    usable = {name: column.is_text if name == "spectype" else column.is_number for name, column in known.items()}
    names = [name for name in ("targetid", "z", "zwarn", "zerr", "spectype") if usable.get(name)]
    read = {name: np.ma.getdata(values).tolist() for name, values in fits.columns(table, names).items()}
    nothing = [None] * len(read["targetid"])
    columns = [read.get(name, nothing) for name in ("targetid", "z", "zerr", "zwarn", "spectype")]
    return {
        int(target): (real(z), positive(z_err), whole(warning) & 0x7FFFFFFF, short_text(kind))
        for target, z, z_err, warning, kind in reversed(list(zip(*columns, strict=True)))
    }


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
    z, z_err, warning, kind = coadd.redshifts.get(target, (math.nan, math.nan, 0, ""))
    if short_text(coadd.value(row, "objtype") or "") == "SKY":
        warning, kind = warning | SKY_FIBER, "SKY"
    elif kind in ("", _NO_REDSHIFTS) and coadd.is_standard(row):
        kind = "STAR"
    assert pixels.resolution is not None and pixels.scatter is not None
    return SurveySpectrum(
        spectrum_id=f"{coadd.prefix}-{target}",
        format=FORMAT,
        native=coadd.native(row),
        ra=angle(coadd.value(row, "target_ra", "ra_target"), 0.0, 360.0),
        dec=angle(coadd.value(row, "target_dec", "dec_target"), -90.0, 90.0),
        z_pipeline=z,
        z_pipeline_err=z_err,
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
    if pixels > _MOST_PIXELS:
        raise UnusableSpectrum("wavelength_invalid", f"{coadd.fits.name}: its arms lie {pixels} pixels apart, at most.")
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
