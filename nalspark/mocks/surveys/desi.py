"""DESI's own files, simulated: ``healpix/main/dark/PIX//100/PIX/coadd-main-dark-PIX.fits`` of some hundred targets, and the ``QSO_CAT``.

Quasars and absorbers are those of every simulated survey; the spectrograph is DESI's: three arms on one lattice of 0.8 Å, each with its
own Gaussian line-spread function. Absorption is computed on pixels of 14 km/s, spread by that function and integrated over the pixels, so
that equivalent widths are exact. The noise is independent in every pixel and as large as IVAR says.

The noise levels are those of real coadds where a folder of them is given. Else they are those of ``noise_desi.csv``: the standard error of
a pixel as function of wavelength, the median of public coadds (see ``benchmarks/noise_desi.py``), with sky lines and the drops at the ends
of the arms. They do not grow with the light of the quasar; residuals of the sky that IVAR does not know are missing.

One target in 25 is no quasar with a good spectrum: sky, a star, a galaxy, a fiber on no target, a bad fiber; the ``QSO_CAT`` lists none of
them. TARGETID has the bit that DESI sets for simulated targets. Everything random about a target comes from a generator seeded with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy_healpix import HEALPix
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from scipy.special import ndtr

from nalspark.errors import NalsparkError, UnusableSpectrum
from nalspark.lines import LineSpecies, with_all_lines
from nalspark.mocks import inject, quasars
from nalspark.mocks.layout import Block, Job, Layout, draw_absorbers, table_hdu, truth_columns
from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

SURVEY, PROGRAM = "main", "dark"
STEP = 0.8  #: Å per pixel
DIAGONALS = 11  #: of the resolution matrix
BAD_PIXEL = 1  #: MASK of a pixel without data
_BATCH = 50  #: targets whose spectra are computed together: what is held in memory beside a file
_NSIDE = 64
_FIRST_PIXEL = 9152  #: HEALPix pixel of the first file
_FINE = WavelengthGrid(first=177700, n_pixels=22000, step=2e-5)  #: in pixels of 13.8 km/s, before the spectrograph: 3581–9863 Å
_COARSE = WavelengthGrid(first=35540, n_pixels=4400)  #: what quasars are drawn on
_REACH = 6  #: pixels to both sides over which light is spread
_MOCK_BIT = 1 << 58  #: of TARGETID
_RELEASE = 9010  #: of the imaging, in TARGETID
_BRICK = 500  #: targets that share a number of the brick in TARGETID
_OTHERS_EVERY = 25  #: one target in so many is none of the quasars
_NEIGHBOURS = 25  #: targets whose noise comes from one real file, so that files are read few times
_DEPTH_SCATTER = 0.15  #: by which errors differ between targets, natural logarithm


@dataclass(frozen=True)
class Arm:
    """One arm of the spectrograph.

    Attributes
    ----------
    name : str
    start : float
        Wavelength of the first pixel's centre, Å.
    pixels : int
    sigma : tuple of (wavelength in Å, σ in pixels)
        Gaussian σ of the line-spread function: medians of 13 public spectra (DESI EDR, tiles 80613 and 80693, HEALPix pixel 9144), the
        root of the second moment of their resolution matrices' columns. Fibers differ by 4 %, which is left out.
    tsnr2_lya, tsnr2_qso : float
        TSNR2 over the median inverse variance of the arm, of tile 80613.
    """

    name: str
    start: float
    pixels: int
    sigma: tuple[tuple[float, float], ...]
    tsnr2_lya: float
    tsnr2_qso: float

    @property
    def wavelength(self) -> Array:
        """Vacuum wavelengths of the pixels' centres, Å, shape (p,)."""
        return np.round(self.start + STEP * np.arange(self.pixels), 1)

    def sigma_pixels(self, wavelength: Array) -> Array:
        """Compute σ in pixels at some wavelengths."""
        return np.interp(wavelength, *np.transpose(self.sigma))


ARMS = (
    Arm("B", 3600.0, 2751, ((3600, 0.847), (4000, 0.851), (4600, 0.855), (5200, 0.846), (5800, 0.834)), 22.8, 0.876),
    Arm("R", 5760.0, 2326, ((5760, 0.789), (6100, 0.790), (6600, 0.801), (7100, 0.799), (7620, 0.795)), 0.005, 0.553),
    Arm("Z", 7520.0, 2881, ((7520, 0.922), (8150, 0.923), (8570, 0.912), (9200, 0.912), (9600, 0.937), (9824, 0.980)), 0.0, 0.768),
)
WAVELENGTH = np.concatenate([arm.wavelength for arm in ARMS])  #: of the pixels of all arms, one after the other, Å
_ENDS = (WAVELENGTH[0], WAVELENGTH[-1])


@dataclass(frozen=True)
class _Kind:
    """What a fiber is on: as FIBERMAP says it."""

    name: str
    objtype: str = "TGT"
    desi_target: int = 0
    fiber_status: int = 0
    assigned: bool = True


_QUASAR = _Kind("quasar", desi_target=1 << 2)
_OTHERS = (
    _Kind("sky", "SKY", 1 << 32, assigned=False),
    _Kind("star", desi_target=1 << 33),
    _Kind("galaxy", desi_target=1 << 0),
    _Kind("unassigned", "BAD", assigned=False),
    _Kind("bad fiber", desi_target=1 << 2, fiber_status=1 << 16),
)


@dataclass(frozen=True)
class Target:
    """A target of the survey; `z` is NaN where it is none of the listed quasars."""

    number: int
    kind: _Kind
    targetid: int
    healpix: int
    ra: float
    dec: float
    z: float

    @property
    def listed(self) -> bool:
        return self.kind is _QUASAR

    @property
    def spectrum_id(self) -> str:
        return f"{SURVEY}-{PROGRAM}-{self.healpix}-{self.targetid}"


@dataclass(frozen=True)
class Expected:
    """What the spectrograph would record of n targets without noise: arrays of shape (n, p), p being the pixels of all arms.

    Attributes
    ----------
    absorbers : Absorbers
        Their `spectrum` is the row here.
    flux, error : ndarray, shape (n, p)
        1e-17 erg/s/cm²/Å; the error is infinite where there is no data.
    sources : list of str
        The real files that gave the errors; empty names where none did.
    """

    absorbers: inject.Absorbers
    flux: Array
    error: Array
    sources: list[str]


# ---- who is in the survey


def tasks(job: Job, n: int) -> list[tuple[int, int]]:
    """Give the targets of each file, as first and last + 1: n quasars and the others among them."""
    total = n + -(-n // (_OTHERS_EVERY - 1))
    return [(start, min(start + job.per_file, total)) for start in range(0, total, job.per_file)]


def targets(job: Job, start: int, stop: int) -> list[Target]:
    """Give the targets of one file, numbered start … stop-1.

    What a target is depends on its number and the seed; where it lies on the sky, and the HEALPix pixel in its name, on `per_file` too.
    """
    file, place = divmod(start, job.per_file)
    healpix = (_FIRST_PIXEL + file) % (12 * _NSIDE**2)
    # Additive recurrence of the plastic number: points spread evenly over the pixel, so that no two come near.
    x, y = (0.5 + np.outer([0.7548776662466927, 0.5698402909980532], np.arange(place, place + stop - start))) % 1.0
    longitude, latitude = HEALPix(_NSIDE, order="nested").healpix_to_lonlat(np.full(len(x), healpix), x, y)
    places = zip(longitude.to_value(u.deg).round(6), latitude.to_value(u.deg).round(6), strict=True)
    return [_target(job, number, healpix, (float(ra), float(dec))) for number, (ra, dec) in zip(range(start, stop), places, strict=True)]


def _target(job: Job, number: int, healpix: int, place: tuple[float, float]) -> Target:
    turn, rest = divmod(number, _OTHERS_EVERY)
    kind = _QUASAR if rest else _OTHERS[turn % len(_OTHERS)]
    brick, row = divmod(number, _BRICK)
    targetid = _MOCK_BIT | _RELEASE << 42 | (330_000 + brick) << 22 | row if kind.assigned else -(100_000_000 + number)
    z = quasars.draw_redshift(job.generator(targetid, "redshift")) if kind is _QUASAR else np.nan
    return Target(number, kind, targetid, healpix, *place, z)


# ---- light


def expected(job: Job, batch: Sequence[Target]) -> Expected:
    """Compute the spectra of some targets before noise."""
    generators = [job.generator(target.targetid, "absorbers") for target in batch]
    # At z = 0 nothing can be drawn.
    absorbers = draw_absorbers(job, generators, [target.z if target.listed else 0.0 for target in batch], _ENDS)
    flux = transmission(absorbers, job.species, len(batch))
    levels = [noise_level(job, target) for target in batch]
    for row, (target, (level, _)) in enumerate(zip(batch, levels, strict=True)):
        flux[row] *= _light(job, target, level)
    depth = [np.exp(_DEPTH_SCATTER * job.generator(target.targetid, "depth").standard_normal()) for target in batch]
    error = np.stack([level * factor for (level, _), factor in zip(levels, depth, strict=True)])
    return Expected(absorbers, flux, error, [source for _, source in levels])


def transmission(absorbers: inject.Absorbers, species: LineSpecies, n: int) -> Array:
    """Compute what absorbers leave of the light of n spectra in the pixels of all arms, shape (n, p)."""
    absorbed = 1.0 - inject.transmission(absorbers, with_all_lines(species), _FINE, n, instrument_sigma_kms=0.0)
    return np.ascontiguousarray(1.0 - (_projection() @ np.ascontiguousarray(absorbed.T)).T)


@lru_cache(maxsize=1)
def _projection() -> csr_array:
    """What part of the light in a fine pixel is found in a pixel of 0.8 Å, and how much wider it is: shape (p, fine pixels)."""
    return vstack([_projection_of(arm) for arm in ARMS], format="csr")


def _projection_of(arm: Arm) -> csr_array:
    edges, centre = _FINE.wavelength_at(np.arange(_FINE.n_pixels + 1) - 0.5), _FINE.wavelength
    width = np.diff(edges)
    sigma = np.sqrt((arm.sigma_pixels(centre) * STEP) ** 2 - width**2 / 12.0)  # a fine pixel has a width of its own
    nearest = np.rint((centre - arm.start) / STEP).astype(np.int64)
    pixel = nearest[:, None] + np.arange(-_REACH, _REACH + 1)
    borders = arm.start + STEP * (nearest[:, None] + np.arange(-_REACH, _REACH + 2) - 0.5)
    part = np.diff(ndtr((borders - centre[:, None]) / sigma[:, None]), axis=1) * width[:, None] / STEP
    inside = (pixel >= 0) & (pixel < arm.pixels)
    fine = np.broadcast_to(np.arange(_FINE.n_pixels)[:, None], pixel.shape)
    return csr_array((part[inside], (pixel[inside], fine[inside])), shape=(arm.pixels, _FINE.n_pixels))


def _light(job: Job, target: Target, level: Array) -> Array:
    """Flux of a target without absorbers, shape (p,), such that its median signal-to-noise ratio in pixels of 69 km/s is the drawn one."""
    rng = job.generator(target.targetid, "light")
    if target.kind.name == "quasar":
        flux = np.interp(WAVELENGTH, _COARSE.wavelength, quasars.quasar_flux(_COARSE, target.z, rng))
    elif target.kind.name in ("star", "galaxy"):
        flux = _thermal(WAVELENGTH, rng.uniform(4000.0, 9000.0) if target.kind.name == "star" else 3500.0)
    else:
        return np.zeros(len(WAVELENGTH))
    ratio = flux / level * np.sqrt(WAVELENGTH * np.log(10.0) * _COARSE.step / STEP)
    return flux * quasars.draw_snr(rng) / np.median(ratio[np.isfinite(level)])


def _thermal(wavelength: Array, kelvin: float) -> Array:
    """Planck's law, in a unit of its own: enough for what is not to be searched."""
    x = 1.43877688e8 / (wavelength * kelvin)  # Å K: the second radiation constant
    return (5000.0 / wavelength) ** 5 / np.expm1(x)


def observe(flux: Array, error: Array, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Add noise to a spectrum: flux, inverse variance and mask, shape (p,), as they are written. Few pixels have no data."""
    observed, ivar = flux + np.where(np.isfinite(error), error, 0.0) * rng.standard_normal(len(flux)), error**-2.0
    ivar[quasars.bad_pixels(len(flux), rng)] = 0.0
    good = ivar > 0
    return np.where(good, observed, 0.0).astype(">f4"), ivar.astype(">f4"), np.where(good, 0, BAD_PIXEL).astype(">i4")


# ---- noise


def noise_level(job: Job, target: Target) -> tuple[Array, str]:
    """Give the standard error of every pixel of a target, shape (p,), and the real file that it is taken from."""
    if not job.sources:
        return _typical_error(), ""
    path = job.sources[int(job.generator(target.number // _NEIGHBOURS, "source").integers(len(job.sources)))]
    errors = read_errors(path)
    return errors[int(job.generator(target.targetid, "source").integers(len(errors)))].astype(float), path.name


@lru_cache(maxsize=1)
def _typical_error() -> Array:
    with files("nalspark.mocks.surveys").joinpath("noise_desi.csv").open(encoding="utf-8") as text:
        return np.loadtxt(text)


@lru_cache(maxsize=2)
def read_errors(path: Path) -> NDArray[np.float32]:
    """Read the standard errors of all good targets of a real coadd, shape (n, p); infinite where there is no data.

    Raises
    ------
    UnusableSpectrum
        ``not_a_coadd``; ``no_data`` where no target has data in half of the pixels.
    """
    try:
        with fits.open(path, memmap=False) as hdus:
            arms = [np.where(hdus[f"{arm.name}_MASK"].data == 0, hdus[f"{arm.name}_IVAR"].data, 0.0) for arm in ARMS]
            table = hdus["FIBERMAP"].data
            good = table["COADD_FIBERSTATUS"] == 0 if "COADD_FIBERSTATUS" in table.names else np.ones(len(table), dtype=bool)
        ivar = np.concatenate(arms, axis=1)[good]
    except (OSError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise UnusableSpectrum("not_a_coadd", f"{path.name}: {error}") from None
    if ivar.shape[1] != len(WAVELENGTH):
        raise UnusableSpectrum("not_a_coadd", f"{path.name} has {ivar.shape[1]} pixels; expected {len(WAVELENGTH)}.")
    ivar = ivar[(ivar > 0).mean(axis=1) > 0.5]
    if not len(ivar):
        raise UnusableSpectrum("no_data", f"{path.name} has no target with data.")
    return np.where(ivar > 0, 1.0 / np.sqrt(np.where(ivar > 0, ivar, 1.0)), np.inf).astype(np.float32)


def find_coadds(folder: Path, species: LineSpecies) -> tuple[tuple[Path, ...], Counter[str]]:
    """Find the coadds below a folder whose noise can be taken, sorted by name, and why the others cannot be used."""
    usable, skipped = [], Counter[str]()
    for path in sorted(folder.rglob("coadd-*.fits*")):
        try:
            read_errors(path)
            usable.append(path)
        except UnusableSpectrum as fault:
            skipped[fault.reason] += 1
    if not usable:
        why = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "no coadd-*.fits"
        raise NalsparkError(f"'{folder}' holds no DESI coadd whose noise could be taken ({why}).")
    return tuple(usable), skipped


# ---- files


def make_file(job: Job, start: int, stop: int) -> Block:
    """Make and write the file with the targets start … stop-1."""
    everyone = targets(job, start, stop)
    seen = [np.empty((len(everyone), len(WAVELENGTH)), kind) for kind in (">f4", ">f4", ">i4")]
    truth: dict[str, list[Any]] = {}
    sources: list[tuple[str, str]] = []
    for first in range(0, len(everyone), _BATCH):
        batch = everyone[first : first + _BATCH]
        light = expected(job, batch)
        for row, target in enumerate(batch):
            pixels = observe(light.flux[row], light.error[row], job.generator(target.targetid, "noise"))
            for image, values in zip(seen, pixels, strict=True):
                image[first + row] = values
        for name, column in truth_columns(job.species, light.absorbers, _described(batch)).items():
            truth.setdefault(name, []).extend(column)
        sources += [(target.spectrum_id, source) for target, source in zip(batch, light.sources, strict=True) if source]
    path = job.spectra / "healpix" / SURVEY / PROGRAM / str(everyone[0].healpix // 100) / str(everyone[0].healpix)
    path.mkdir(parents=True, exist_ok=True)
    with (path / f"coadd-{SURVEY}-{PROGRAM}-{everyone[0].healpix}.fits").open("wb") as file:
        file.writelines(_pieces(everyone, *seen))
    return truth, _catalogue(everyone, seen[1]), sources


def _described(batch: Sequence[Target]) -> dict[str, list[Any]]:
    """Columns of TRUTH that say whose an absorber is."""
    columns: dict[str, list[Any]] = {"survey": [SURVEY] * len(batch), "program": [PROGRAM] * len(batch)}
    columns["z_qso"] = [target.z for target in batch]
    for name in ("spectrum_id", "targetid", "healpix", "ra", "dec"):
        columns[name] = [getattr(target, name) for target in batch]
    return columns


def _pieces(everyone: Sequence[Target], flux: NDArray[Any], ivar: NDArray[Any], mask: NDArray[Any]) -> Iterator[bytes]:
    """The file, piece by piece."""
    yield _primary_header(everyone[0].healpix)
    yield table_hdu(_fibermap(everyone), "FIBERMAP")
    first = 0
    for arm in ARMS:
        here = np.s_[:, first : first + arm.pixels]
        first += arm.pixels
        yield from _image(f"{arm.name}_WAVELENGTH", [arm.wavelength.astype(">f8")], arm.wavelength.shape, "Angstrom")
        yield from _image(f"{arm.name}_FLUX", flux[here], flux[here].shape, "10**-17 erg/(s cm2 Angstrom)")
        yield from _image(f"{arm.name}_IVAR", ivar[here], ivar[here].shape, "10**+34 (s2 cm4 Angstrom2) / erg2")
        yield from _image(f"{arm.name}_MASK", mask[here], mask[here].shape)
        matrix = resolution_matrix(arm)
        yield from _image(f"{arm.name}_RESOLUTION", [matrix] * len(everyone), (len(everyone), *matrix.shape))
    yield table_hdu(_scores(everyone, ivar), "SCORES")


def resolution_matrix(arm: Arm) -> NDArray[Any]:
    """Compute the diagonals of an arm's resolution matrix, shape (11, p): a column says where the light of a pixel is found."""
    offset = np.arange(DIAGONALS)[::-1, None] - DIAGONALS // 2
    column = np.exp(-0.5 * (offset / arm.sigma_pixels(arm.wavelength)) ** 2)
    return (column / column.sum(axis=0)).astype(">f4")


def _primary_header(healpix: int) -> bytes:
    cards = [
        ("SIMPLE", True, "conforms to FITS standard"), ("BITPIX", 8, "array data type"), ("NAXIS", 0, "number of array dimensions"),
        ("EXTEND", True), ("TELESCOP", "simulation", "no telescope saw this: nalspark simulate survey"), ("SPGRP", "healpix"),
        ("SPGRPVAL", healpix), ("HPXPIXEL", healpix), ("HPXNSIDE", _NSIDE), ("HPXNEST", True), ("SURVEY", SURVEY), ("PROGRAM", PROGRAM),
    ]  # fmt: skip
    return fits.Header(cards).tostring().encode("ascii")


_BITPIX = {"f4": -32, "f8": -64, "i4": 32}


def _image(name: str, rows: Any, shape: tuple[int, ...], unit: str = "") -> Iterator[bytes]:
    """An image extension, row by row."""
    axes = [(f"NAXIS{number + 1}", length) for number, length in enumerate(reversed(shape))]
    cards = [
        ("XTENSION", "IMAGE", "Image extension"), ("BITPIX", _BITPIX[rows[0].dtype.str[1:]], "array data type"), ("NAXIS", len(shape)),
        *axes, ("PCOUNT", 0), ("GCOUNT", 1), ("EXTNAME", name, "extension name"), *([("BUNIT", unit)] if unit else []),
    ]  # fmt: skip
    yield fits.Header(cards).tostring().encode("ascii")
    size = 0
    for row in rows:
        yield (piece := row.tobytes())
        size += len(piece)
    yield bytes(-size % 2880)


def _fibermap(everyone: Sequence[Target]) -> NDArray[Any]:
    kinds = [
        ("TARGETID", ">i8"), ("PETAL_LOC", ">i2"), ("FIBER", ">i4"), ("COADD_FIBERSTATUS", ">i4"), ("TARGET_RA", ">f8"),
        ("TARGET_DEC", ">f8"), ("OBJTYPE", "S3"), ("DESI_TARGET", ">i8"), ("TILEID", ">i4"),
    ]  # fmt: skip
    rows = []
    for target in everyone:
        fiber, tile = target.number % 5000, 1000 + target.number // 5000
        kind = target.kind
        rows.append((target.targetid, fiber // 500, fiber, kind.fiber_status, target.ra, target.dec, kind.objtype, kind.desi_target, tile))
    return np.array(rows, dtype=kinds)


def _tsnr2(ivar: NDArray[Any]) -> dict[str, Array]:
    """TSNR2 of every target, shape (n,): proportional to the median inverse variance of the arms."""
    result, first = {"TSNR2_LYA": np.zeros(len(ivar)), "TSNR2_QSO": np.zeros(len(ivar))}, 0
    for arm in ARMS:
        median = np.median(ivar[:, first : first + arm.pixels], axis=1)
        first += arm.pixels
        for name, factor in (("TSNR2_LYA", arm.tsnr2_lya), ("TSNR2_QSO", arm.tsnr2_qso)):
            result[f"{name}_{arm.name}"] = median * factor
            result[name] += median * factor
    return result


def _scores(everyone: Sequence[Target], ivar: NDArray[Any]) -> NDArray[Any]:
    scores = _tsnr2(ivar)
    table = np.empty(len(everyone), [("TARGETID", ">i8"), *((name, ">f4") for name in scores)])
    table["TARGETID"] = [target.targetid for target in everyone]
    for name, values in scores.items():
        table[name] = values
    return table


def _catalogue(everyone: Sequence[Target], ivar: NDArray[Any]) -> NDArray[Any]:
    """Rows of ``QSO_CAT``, with true redshifts."""
    kinds = [
        ("TARGETID", ">i8"), ("Z", ">f8"), ("TARGET_RA", ">f8"), ("TARGET_DEC", ">f8"), ("DESI_TARGET", ">i8"), ("SURVEY", "S4"),
        ("PROGRAM", "S4"), ("HPXPIXEL", ">i4"), ("TSNR2_LYA", ">f4"), ("TSNR2_QSO", ">f4"),
    ]  # fmt: skip
    scores = _tsnr2(ivar)
    rows = [
        (target.targetid, target.z, target.ra, target.dec, target.kind.desi_target, SURVEY, PROGRAM, target.healpix, lya, qso)
        for target, lya, qso in zip(everyone, scores["TSNR2_LYA"], scores["TSNR2_QSO"], strict=True)
        if target.listed
    ]
    return np.array(rows, dtype=kinds)


def _most(per_file: int) -> int:
    """Each file has a HEALPix pixel of its own."""
    return 12 * _NSIDE**2 * per_file * (_OTHERS_EVERY - 1) // _OTHERS_EVERY


LAYOUT = Layout(
    files="healpix/*/*/*/*/coadd-*.fits",
    quasars="QSO_CAT",
    population=inject.Population(),
    per_file=500,
    most=_most,
    find_sources=find_coadds,
    tasks=tasks,
    make=make_file,
)
