"""SDSS's own files, simulated: ``PPPP/spec-PPPP-MJD-FFFFF.fits`` like SDSS's lite files, ``quasars.fits`` by plate, mjd and fiber.

The quasars are parametric (``nalspark.mocks.quasars``), or taken from real files: then only the absorbers are artificial, flux and noise
are the survey's, and ``sources.csv`` says which file each spectrum came from. Real spectra bring absorbers of their own, which ``truth``
does not list; injected ones do not avoid them. Everything random about a spectrum comes from a generator seeded with its plate, mjd, fiber.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from nalspark.errors import NalsparkError, UnusableSpectrum
from nalspark.lines import LineSpecies, with_all_lines
from nalspark.mocks import inject, quasars
from nalspark.mocks.layout import Block, Job, Layout, draw_absorbers, padded, table_hdu, truth_columns
from nalspark.spectra.grid import LATTICE, WavelengthGrid

BLOCK = 100  #: spectra made together: the unit of work, and what is held in memory
INSTRUMENT_SIGMA_KMS = 69.03

_FIRST_BOSS_PLATE = 4000
#: One lattice for every spectrum of a simulation, so that an absorber is computed alike in all of them.
_LATTICE = WavelengthGrid(first=35400, n_pixels=4900)
_PIXEL_TYPE = np.dtype(
    [
        ("flux", ">f4"),
        ("loglam", ">f4"),
        ("ivar", ">f4"),
        ("and_mask", ">i4"),
        ("or_mask", ">i4"),
        ("wdisp", ">f4"),
        ("sky", ">f4"),
        ("model", ">f4"),
    ]
)
_QUASAR_TYPE = np.dtype([("PLATE", "i4"), ("MJD", "i4"), ("FIBERID", "i4"), ("RA", "f8"), ("DEC", "f8"), ("Z", "f8")])
_TRUTH_COLUMNS = {"plate": "PLATE", "mjd": "MJD", "fiber": "FIBERID", "ra": "RA", "dec": "DEC", "z_qso": "Z"}


@dataclass(frozen=True)
class _Identity:
    """A spectrum's place in the survey."""

    plate: int
    mjd: int
    fiber: int

    @property
    def boss(self) -> bool:
        return self.plate >= _FIRST_BOSS_PLATE

    @property
    def spectrum_id(self) -> str:
        return f"{self.plate:04d}-{self.mjd}-{self.fiber:04d}"


@dataclass
class _Spectrum:
    """One spectrum on its way to a file; arrays of shape (p,). `flux` is before absorption until :func:`_absorb`."""

    identity: _Identity
    ra: float
    dec: float
    z: float
    z_pipeline: float
    z_err: float
    grid: WavelengthGrid
    spectrograph: quasars.Spectrograph
    columns: dict[str, NDArray[Any]]
    boresight: tuple[float, float]
    source: str = ""


def _tasks(job: Job, n: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def _make_block(job: Job, start: int, stop: int) -> Block:
    """Make and write the spectra start … stop-1."""
    make = _real_spectrum if job.sources else _parametric_spectrum
    spectra = [make(job, _identity(number)) for number in range(start, stop)]
    generators = [_generator(job, spectrum.identity, "absorbers") for spectrum in spectra]
    absorbers = draw_absorbers(job, generators, [spectrum.z for spectrum in spectra], [_ends(spectrum.grid) for spectrum in spectra])
    transmission = inject.transmission(absorbers, with_all_lines(job.species), _LATTICE, len(spectra), INSTRUMENT_SIGMA_KMS)
    for row, spectrum in enumerate(spectra):
        first = spectrum.grid.first - _LATTICE.first
        _absorb(job, spectrum, transmission[row, first : first + spectrum.grid.n_pixels])
        folder = job.spectra / f"{spectrum.identity.plate:04d}"
        folder.mkdir(exist_ok=True)
        (folder / f"spec-{spectrum.identity.spectrum_id}.fits").write_bytes(_file_bytes(spectrum))
    known = [(s.identity.plate, s.identity.mjd, s.identity.fiber, s.ra, s.dec, s.z) for s in spectra]
    quasars = np.array(known, dtype=_QUASAR_TYPE)
    columns = {column: quasars[name] for column, name in _TRUTH_COLUMNS.items()}
    names = [spectrum.identity.spectrum_id for spectrum in spectra]
    sources = [(name, spectrum.source) for name, spectrum in zip(names, spectra, strict=True) if spectrum.source]
    return truth_columns(job.species, absorbers, {"spectrum_id": names, **columns}), quasars, sources


def _ends(grid: WavelengthGrid) -> tuple[float, float]:
    """First and last wavelength, Å, of the pixels that are both in a spectrum and on the grid that is searched."""
    first, last = max(grid.first, LATTICE.first), min(grid.first + grid.n_pixels, LATTICE.first + LATTICE.n_pixels) - 1
    return float(10.0 ** (first * grid.step)), float(10.0 ** (last * grid.step))


def _generator(job: Job, identity: _Identity, purpose: str) -> np.random.Generator:
    return job.generator(identity.plate, identity.mjd, identity.fiber, purpose)


def _identity(number: int) -> _Identity:
    """Plate, mjd and fiber of the `number`-th spectrum: SDSS plates of 640 fibers from 1000 on, BOSS plates of 1000 fibers from 4000 on,
    in turn.
    """
    index, boss = divmod(number, 2)
    plate, fiber = divmod(index, 1000 if boss else 640)
    # Plates 1000-3509 and mjd below 55170 belong to the SDSS spectrograph, later ones to BOSS.
    return _Identity(_FIRST_BOSS_PLATE + plate, 55500 + plate, fiber + 1) if boss else _Identity(1000 + plate, 52000 + plate, fiber + 1)


def _plate_centre(job: Job, identity: _Identity) -> tuple[float, float]:
    """Where the telescope points, degrees."""
    rng = job.generator(identity.plate, "centre")
    return round(360.0 * rng.random(), 6), round(float(np.degrees(np.arcsin(rng.uniform(-0.2, 0.9)))), 6)


def _position(job: Job, identity: _Identity) -> tuple[float, float]:
    """Right ascension and declination in degrees: fibers in a sunflower pattern on a plate of 1.49° radius, so that no two come near."""
    ra, dec = _plate_centre(job, identity)
    radius, angle = 1.49 * np.sqrt((identity.fiber - 0.5) / (1000 if identity.boss else 640)), 2.39996323 * identity.fiber
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    # Six decimals, as SDSS writes positions; headers, tables and truth then agree exactly.
    return round(float((ra + x / np.cos(np.radians(dec + y))) % 360.0), 6), round(dec + y, 6)


def _parametric_spectrum(job: Job, identity: _Identity) -> _Spectrum:
    rng = _generator(job, identity, "quasar")
    spectrograph = quasars.BOSS if identity.boss else quasars.SDSS
    shift, cut = job.generator(identity.plate, "grid").integers(0, 12, size=2)
    grid = replace(spectrograph.grid, first=spectrograph.grid.first + int(shift), n_pixels=spectrograph.grid.n_pixels - int(cut))
    z, snr = quasars.draw_redshift(rng), quasars.draw_snr(rng)
    z_err = 2e-4 * (1 + z)
    # The pipeline is wrong altogether for one quasar in a hundred, by taking one line for another.
    z_pipeline = z + z_err * rng.standard_normal() if rng.random() > 0.01 else rng.uniform(0.3, 3.5)
    flux = quasars.quasar_flux(grid, z, rng) * quasars.flux_for_snr(snr, spectrograph)
    ra, dec = _position(job, identity)
    return _Spectrum(identity, ra, dec, z, z_pipeline, z_err, grid, spectrograph, {"flux": flux}, _plate_centre(job, identity))


def _absorb(job: Job, spectrum: _Spectrum, transmission: NDArray[np.float64]) -> None:
    """Multiply the absorbers in; a parametric quasar is observed only now, a real one keeps its noise."""
    columns = spectrum.columns
    columns["flux"] = columns["flux"] * transmission
    if job.sources:
        return
    seen = quasars.observe(columns["flux"], spectrum.spectrograph, spectrum.grid, _generator(job, spectrum.identity, "noise"))
    columns["model"] = columns["flux"] / transmission.clip(min=1e-3)
    columns.update(flux=seen.flux, ivar=seen.ivar, and_mask=seen.and_mask, or_mask=seen.and_mask, sky=seen.sky)
    columns["wdisp"] = np.full(len(seen.flux), INSTRUMENT_SIGMA_KMS / spectrum.grid.pixel_kms)


# --- files --------------------------------------------------------------------------------------------------------------------------------


def _file_bytes(spectrum: _Spectrum) -> bytes:
    """The file of one spectrum, put together of its pieces; astropy would take 20 ms to write it."""
    identity, n = spectrum.identity, spectrum.grid.n_pixels
    pixels = np.zeros(n, _PIXEL_TYPE)
    pixels["loglam"] = (spectrum.grid.first + np.arange(n)) * spectrum.grid.step
    for name, values in spectrum.columns.items():
        pixels[name] = values
    used = pixels["ivar"] > 0
    snr = float(np.median((pixels["flux"] * np.sqrt(pixels["ivar"]))[used])) if used.any() else 0.0
    #: The columns of SPECOBJ that readers use, as SDSS types them.
    known: list[tuple[str, str, Any]] = [
        ("SURVEY", "S6", spectrum.spectrograph.survey), ("INSTRUMENT", "S4", spectrum.spectrograph.name),
        ("PROGRAMNAME", "S27", "simulated"), ("PLATEQUALITY", "S8", "good"), ("RUN2D", "S6", "nal"),
        ("PLATE", ">i4", identity.plate), ("MJD", ">i4", identity.mjd), ("FIBERID", ">i4", identity.fiber),
        ("PLUG_RA", ">f8", spectrum.ra), ("PLUG_DEC", ">f8", spectrum.dec), ("CLASS", "S6", "QSO"), ("SUBCLASS", "S21", "BROADLINE"),
        ("Z", ">f4", spectrum.z_pipeline), ("Z_ERR", ">f4", spectrum.z_err), ("ZWARNING", ">i4", 0),
        ("WAVEMIN", ">f4", spectrum.grid.wavelength_at(0)), ("WAVEMAX", ">f4", spectrum.grid.wavelength_at(n - 1)),
        ("SN_MEDIAN_ALL", ">f4", snr),
    ]  # fmt: skip
    row = np.array([tuple(value for _, _, value in known)], dtype=[(name, kind) for name, kind, _ in known])
    return padded(_primary_header(spectrum)) + table_hdu(pixels, "COADD") + table_hdu(row, "SPECOBJ")


def _primary_header(spectrum: _Spectrum) -> bytes:
    identity = spectrum.identity
    cards = [
        ("SIMPLE", True, "conforms to FITS standard"), ("BITPIX", 8, "array data type"), ("NAXIS", 0, "number of array dimensions"),
        ("EXTEND", True), ("TELESCOP", "simulation", "no telescope saw this: nalspark simulate survey"),
        ("RA", spectrum.boresight[0], "RA of telescope boresight (deg)"),
        ("DEC", spectrum.boresight[1], "DEC of telescope boresight (deg)"),
        ("PLATEID", identity.plate, "Plate Id"), ("MJD", identity.mjd, "MJD of observation"), ("VACUUM", True, "Wavelengths are in vacuum"),
        ("COEFF0", round(spectrum.grid.first * spectrum.grid.step, 4), "Central wavelength (log10) of first pixel"),
        ("COEFF1", 0.0001, "Log10 dispersion per pixel"), ("BUNIT", "1E-17 erg/cm^2/s/Ang", ""),
        ("PLUG_RA", spectrum.ra, "RA of object [deg]"), ("PLUG_DEC", spectrum.dec, "dec of object [deg]"),
        ("FIBERID", identity.fiber, f"Fiber number (1-{1000 if spectrum.spectrograph is quasars.BOSS else 640})"),
    ]  # fmt: skip
    return fits.Header(cards).tostring().encode("ascii")


# --- real spectra -------------------------------------------------------------------------------------------------------------------------


def usable_sources(folder: Path, species: LineSpecies) -> tuple[tuple[Path, ...], Counter[str]]:
    """Find the files below a folder in which absorbers of the species can be put, sorted by name, and why the others cannot."""
    usable, skipped = [], Counter[str]()
    for path in sorted(folder.rglob("*.fit*")):
        try:
            real = _read_real(path)
            low, high = inject.redshift_limits(species, real.z, _ends(real.grid), inject.Population())
            if not high > low:
                raise UnusableSpectrum("no_window", f"at z = {real.z} no {species.name} can be seen")
            usable.append(path)
        except UnusableSpectrum as fault:
            skipped[fault.reason] += 1
    if not usable:
        why = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "no FITS file"
        raise NalsparkError(f"'{folder}' holds no SDSS quasar spectrum into which {species.name} absorbers can be put ({why}).")
    return tuple(usable), skipped


@lru_cache(maxsize=256)
def _read_real(path: Path) -> _Spectrum:
    """A real lite file, as yet without a name in the survey.

    Raises
    ------
    UnusableSpectrum
        Where it is no table of a quasar on SDSS's lattice.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old headers break many rules; the data are judged below
            with fits.open(path, memmap=False) as hdus:
                pixels, row = np.array(hdus[1].data), hdus[2].data[0]
                values = {name: row[name] for name in ("CLASS", "Z", "Z_ERR", "ZWARNING", "PLUG_RA", "PLUG_DEC")}
                # Lower case in DR8 to DR12, upper case in some of BOSS's own reductions.
                table = {name.lower(): pixels[name] for name in pixels.dtype.names or ()}
                lattice = table.pop("loglam").astype(float) / _LATTICE.step
                columns = {name: table[name] for name in _PIXEL_TYPE.names or () if name != "loglam"}
    except (OSError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise UnusableSpectrum("not_a_coadd_table", f"{path.name}: {error}") from None
    if str(values["CLASS"]).strip() != "QSO" or int(values["ZWARNING"]) & 1:
        raise UnusableSpectrum("not_a_quasar", f"{path.name} is of class {values['CLASS']}, ZWARNING {values['ZWARNING']}")
    first = int(np.rint(lattice[0]))
    if np.abs(lattice - first - np.arange(len(lattice))).max() > 0.05:
        raise UnusableSpectrum("off_lattice", f"{path.name} is not on SDSS's lattice")
    if first < _LATTICE.first or first + len(lattice) > _LATTICE.first + _LATTICE.n_pixels:
        raise UnusableSpectrum("wavelength_range", f"{path.name} reaches beyond what SDSS covers")
    columns["flux"] = np.where(np.isfinite(columns["flux"]), columns["flux"], 0.0)
    ra, dec = (round(float(values[name]), 6) for name in ("PLUG_RA", "PLUG_DEC"))
    z, z_err, grid = float(values["Z"]), float(values["Z_ERR"]), WavelengthGrid(first, len(lattice))
    spectrograph = quasars.BOSS if grid.n_pixels > 4200 else quasars.SDSS
    return _Spectrum(_Identity(0, 0, 0), ra, dec, z, z, z_err, grid, spectrograph, columns, (ra, dec), path.name)


def _real_spectrum(job: Job, identity: _Identity) -> _Spectrum:
    """A real spectrum under a new name. Which one depends on the name alone."""
    path = job.sources[int(_generator(job, identity, "source").integers(len(job.sources)))]
    real = _read_real(path)
    return replace(real, identity=identity, columns=dict(real.columns))


#: There are 2510 plate numbers from 1000 until BOSS's begin. Spectra made from real ones have absorbers where they can.
LAYOUT = Layout(
    files="*/spec-*.fits",
    quasars="QUASARS",
    population=inject.Population(counts=(0.0, 0.8, 0.15, 0.05)),
    per_file=1,
    most=lambda _: 2 * 640 * 2510,
    find_sources=usable_sources,
    tasks=_tasks,
    make=_make_block,
)
