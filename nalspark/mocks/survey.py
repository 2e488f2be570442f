"""A simulated survey: spectra in SDSS's own file format with absorbers whose redshifts and strengths are known.

``DIR/spectra/PPPP/spec-PPPP-MJD-FFFFF.fits`` like SDSS's lite files, ``DIR/quasars.fits`` with true redshifts, ``DIR/truth.parquet`` with
every absorber put in. The quasars are parametric (``nalspark.mocks.quasars``), or taken from real files: then only the absorbers are
artificial, flux and noise are the survey's, and ``DIR/sources.csv`` says which file each spectrum came from. Real spectra bring absorbers
of their own, which ``truth`` does not list; injected ones do not avoid them.

Spectrum number i is always the same for a seed: everything random about it comes from a generator seeded with its plate, mjd and fiber.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from nalspark.errors import NalsparkError, UnusableSpectrum
from nalspark.lines import MG_II, LineSpecies, with_all_lines
from nalspark.mocks import inject, quasars
from nalspark.spectra.grid import LATTICE, WavelengthGrid

MARKER = "simulation.json"  #: marks a folder as a simulated survey, which may be replaced
BLOCK = 100  #: spectra made together: the unit of work, and what is held in memory
INSTRUMENT_SIGMA_KMS = 69.03
MOST_SPECTRA = 2 * 640 * 2510  #: there are 2510 plate numbers from 1000 until BOSS's begin

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
#: What a block of spectra adds to the tables: columns of truth, rows of quasars, names of the files that they were made from.
_Block = tuple[dict[str, Any], NDArray[Any], list[str]]


@dataclass(frozen=True)
class SurveySummary:
    """What :func:`simulate_survey` wrote.

    Attributes
    ----------
    out : Path
    n_spectra, n_absorbers : int
    n_sources : int
        Real spectra it was made from; 0: none.
    skipped_sources : dict
        Reason → how many files of the source folder could not be used.
    """

    out: Path
    n_spectra: int
    n_absorbers: int
    n_sources: int = 0
    skipped_sources: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """What a worker must know. `sources` are the usable real files, empty for parametric quasars."""

    spectra: Path
    seed: int
    population: inject.Population
    species: LineSpecies
    sources: tuple[Path, ...] = ()


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


def simulate_survey(
    out: str | Path,
    n: int,
    seed: int,
    source: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    population: inject.Population | None = None,
    species: LineSpecies = MG_II,
    workers: int | None = None,
) -> SurveySummary:
    """Write a simulated survey.

    Parameters
    ----------
    out : path
        A new or empty folder, or an earlier simulated survey, which is replaced.
    n : int
        Number of spectra.
    seed : int
        The same seed gives the same files, whatever n and workers are.
    source : path, optional
        Folder of real SDSS spectra to put absorbers into.
    progress : callable, optional
        Called with (spectra written, n).
    population : Population, optional
        By default half of the spectra have absorbers; of spectra made from real ones, all that can.
    workers : int, optional
        Processes; by default one per core, and one for fewer than 1000 spectra.

    Raises
    ------
    NalsparkError
        Where n or workers is out of range, `out` holds something else or cannot be written, or `source` holds no usable quasar spectrum.
    """
    out = Path(out)
    _check_counts(n, workers)
    if source is not None:
        _check_apart(out, Path(source))
    sources, skipped = usable_sources(Path(source), species) if source is not None else ((), Counter())
    if population is None:
        population = inject.Population(counts=(0.0, 0.8, 0.15, 0.05)) if sources else inject.Population()
    _prepare(out, {"n": n, "seed": seed, "source": str(source or ""), "species": species.name, "population": asdict(population)})
    job = _Job(out / "spectra", seed, population, species, sources)
    try:
        blocks = _blocks(job, n, workers or (1 if n < 1000 else os.cpu_count() or 1))
        n_absorbers = _write_tables(out, blocks, lambda done: progress(done, n) if progress else None)
    except OSError as error:
        raise NalsparkError(f"The simulated survey cannot be written to '{out}': {error.strerror}.") from None
    return SurveySummary(out, n, n_absorbers, len(sources), dict(skipped))


def _check_counts(n: int, workers: int | None) -> None:
    if not 1 <= n <= MOST_SPECTRA:
        raise NalsparkError(f"A survey of {n} spectra cannot be simulated; --n must be between 1 and {MOST_SPECTRA}.")
    if workers is not None and workers < 1:
        raise NalsparkError(f"{workers} workers can do nothing; give 1 or more.")


def _check_apart(out: Path, source: Path) -> None:
    """Neither folder may hold the other: replacing a survey must not remove its sources, nor may it become its own source."""
    new, old = out.resolve(), source.resolve()
    if new.is_relative_to(old) or old.is_relative_to(new):
        raise NalsparkError(f"'{out}' and '{source}' lie one in the other; --out must be apart from --from.")


def _prepare(out: Path, description: dict[str, Any]) -> None:
    """An empty folder with its marker. Of an earlier simulation only what it wrote is removed."""
    if out.exists() and not out.is_dir():
        raise NalsparkError(f"'{out}' is a file; --out must name a folder.")
    ours = (out / MARKER).is_file()
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise NalsparkError(f"'{out}' is not empty and is no simulated survey (it has no {MARKER}); choose another folder.")
    try:
        if ours:
            for path in (out / "quasars.fits", out / "truth.parquet", out / "sources.csv", *(out / "spectra").glob("*/spec-*.fits")):
                path.unlink(missing_ok=True)
        (out / "spectra").mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise NalsparkError(f"The simulated survey cannot be written to '{out}': {error.strerror}.") from None


def _blocks(job: _Job, n: int, workers: int) -> Iterator[_Block]:
    """What is written beside the spectra, block by block and in order."""
    tasks = [(job, start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    if workers == 1 or len(tasks) == 1:
        yield from map(_make_block, tasks)
        return
    # Not fork: it copies the threads' locks of whatever else the caller runs, Spark's gateway for one.
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks))) as pool:
        yield from pool.imap(_make_block, tasks)


def _make_block(task: tuple[_Job, int, int]) -> _Block:
    """Make and write the spectra start … stop-1."""
    job, start, stop = task
    make = _real_spectrum if job.sources else _parametric_spectrum
    absorbers, transmission, spectra = _absorbers_of(job, [make(job, _identity(number)) for number in range(start, stop)])
    for row, spectrum in enumerate(spectra):
        first = spectrum.grid.first - _LATTICE.first
        _absorb(job, spectrum, transmission[row, first : first + spectrum.grid.n_pixels])
        folder = job.spectra / f"{spectrum.identity.plate:04d}"
        folder.mkdir(exist_ok=True)
        (folder / f"spec-{spectrum.identity.spectrum_id}.fits").write_bytes(_file_bytes(spectrum))
    known = [(s.identity.plate, s.identity.mjd, s.identity.fiber, s.ra, s.dec, s.z) for s in spectra]
    quasars = np.array(known, dtype=_QUASAR_TYPE)
    return _truth(job.species, absorbers, spectra, quasars), quasars, [spectrum.source for spectrum in spectra]


def _absorbers_of(job: _Job, spectra: list[_Spectrum]) -> tuple[inject.Absorbers, NDArray[np.float64], list[_Spectrum]]:
    """Absorbers of a block and what they leave of the light on the common lattice."""
    system = with_all_lines(job.species)
    size = inject.uniforms_per_spectrum(system, job.population)
    uniforms = np.stack([_generator(job, spectrum.identity, "absorbers").random(size) for spectrum in spectra])
    limits = inject.redshift_limits(job.species, [s.z for s in spectra], [_ends(s.grid) for s in spectra], job.population)
    absorbers = inject.draw(system, job.population, uniforms, limits)
    return absorbers, inject.transmission(absorbers, system, _LATTICE, len(spectra), INSTRUMENT_SIGMA_KMS), spectra


def _ends(grid: WavelengthGrid) -> tuple[float, float]:
    """First and last wavelength, Å, of the pixels that are both in a spectrum and on the grid that is searched."""
    first, last = max(grid.first, LATTICE.first), min(grid.first + grid.n_pixels, LATTICE.first + LATTICE.n_pixels) - 1
    return float(10.0 ** (first * grid.step)), float(10.0 ** (last * grid.step))


def _generator(job: _Job, identity: _Identity, purpose: str) -> np.random.Generator:
    return inject.seeded_generator(job.seed, identity.plate, identity.mjd, identity.fiber, purpose)


def _identity(number: int) -> _Identity:
    """Plate, mjd and fiber of the `number`-th spectrum: SDSS plates of 640 fibers from 1000 on, BOSS plates of 1000 fibers from 4000 on,
    in turn.
    """
    index, boss = divmod(number, 2)
    plate, fiber = divmod(index, 1000 if boss else 640)
    # Plates 1000-3509 and mjd below 55170 belong to the SDSS spectrograph, later ones to BOSS.
    return _Identity(_FIRST_BOSS_PLATE + plate, 55500 + plate, fiber + 1) if boss else _Identity(1000 + plate, 52000 + plate, fiber + 1)


def _plate_centre(job: _Job, identity: _Identity) -> tuple[float, float]:
    """Where the telescope points, degrees."""
    rng = inject.seeded_generator(job.seed, identity.plate, "centre")
    return round(360.0 * rng.random(), 6), round(float(np.degrees(np.arcsin(rng.uniform(-0.2, 0.9)))), 6)


def _position(job: _Job, identity: _Identity) -> tuple[float, float]:
    """Right ascension and declination in degrees: fibers in a sunflower pattern on a plate of 1.49° radius, so that no two come near."""
    ra, dec = _plate_centre(job, identity)
    radius, angle = 1.49 * np.sqrt((identity.fiber - 0.5) / (1000 if identity.boss else 640)), 2.39996323 * identity.fiber
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    # Six decimals, as SDSS writes positions; headers, tables and truth then agree exactly.
    return round(float((ra + x / np.cos(np.radians(dec + y))) % 360.0), 6), round(dec + y, 6)


def _parametric_spectrum(job: _Job, identity: _Identity) -> _Spectrum:
    rng = _generator(job, identity, "quasar")
    spectrograph = quasars.BOSS if identity.boss else quasars.SDSS
    shift, cut = inject.seeded_generator(job.seed, identity.plate, "grid").integers(0, 12, size=2)
    grid = replace(spectrograph.grid, first=spectrograph.grid.first + int(shift), n_pixels=spectrograph.grid.n_pixels - int(cut))
    z, snr = quasars.draw_redshift(rng), quasars.draw_snr(rng)
    z_err = 2e-4 * (1 + z)
    # The pipeline is wrong altogether for one quasar in a hundred, by taking one line for another.
    z_pipeline = z + z_err * rng.standard_normal() if rng.random() > 0.01 else rng.uniform(0.3, 3.5)
    flux = quasars.quasar_flux(grid, z, rng) * quasars.flux_for_snr(snr, spectrograph)
    ra, dec = _position(job, identity)
    return _Spectrum(identity, ra, dec, z, z_pipeline, z_err, grid, spectrograph, {"flux": flux}, _plate_centre(job, identity))


def _absorb(job: _Job, spectrum: _Spectrum, transmission: NDArray[np.float64]) -> None:
    """Multiply the absorbers in; a parametric quasar is observed only now, a real one keeps its noise."""
    columns = spectrum.columns
    columns["flux"] = columns["flux"] * transmission
    if job.sources:
        return
    seen = quasars.observe(columns["flux"], spectrum.spectrograph, spectrum.grid, _generator(job, spectrum.identity, "noise"))
    columns["model"] = columns["flux"] / transmission.clip(min=1e-3)
    columns.update(flux=seen.flux, ivar=seen.ivar, and_mask=seen.and_mask, or_mask=seen.and_mask, sky=seen.sky)
    columns["wdisp"] = np.full(len(seen.flux), INSTRUMENT_SIGMA_KMS / spectrum.grid.pixel_kms)


def _truth(species: LineSpecies, absorbers: inject.Absorbers, spectra: list[_Spectrum], quasars: NDArray[Any]) -> dict[str, Any]:
    """Columns of TRUTH: a row for every absorber."""
    theirs = quasars[absorbers.spectrum]
    names = {"plate": "PLATE", "mjd": "MJD", "fiber": "FIBERID", "ra": "RA", "dec": "DEC", "z_qso": "Z"}
    return {
        "spectrum_id": [spectra[row].identity.spectrum_id for row in absorbers.spectrum],
        **{column: theirs[name] for column, name in names.items()},
        "species": [species.name] * len(absorbers),
        "z_abs": absorbers.z,
        **{name: getattr(absorbers, name) for name in ("ew_primary", "ew_secondary", "sigma_kms")},
    }


def _write_tables(out: Path, blocks: Iterator[_Block], progress: Callable[[int], None]) -> int:
    """Write truth as blocks come, the quasars (56 bytes each) and the names of their sources at the end; give the number of absorbers."""
    import pyarrow.parquet as pq

    from nalspark.tables.arrow import encode
    from nalspark.tables.schemas import TRUTH  # here, not above: its pyspark types would slow down every worker's start

    known, sources, n_spectra, n_absorbers = list[NDArray[Any]](), list[str](), 0, 0
    with pq.ParquetWriter(out / "truth.parquet", TRUTH.arrow_schema, compression="zstd") as writer:
        for truth, of_block, names in blocks:
            writer.write_batch(encode(truth, TRUTH))
            known.append(of_block)
            sources += names
            n_spectra, n_absorbers = n_spectra + len(of_block), n_absorbers + len(truth["z_abs"])
            progress(n_spectra)
    quasars = np.concatenate(known)
    fits.BinTableHDU(quasars, name="QUASARS").writeto(out / "quasars.fits", overwrite=True)
    if any(sources):
        with (out / "sources.csv").open("w", newline="", encoding="utf-8") as file:
            ids = (_Identity(*map(int, row)).spectrum_id for row in quasars[["PLATE", "MJD", "FIBERID"]])
            csv.writer(file).writerows([("spectrum_id", "source"), *zip(ids, sources, strict=True)])
    return n_absorbers


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
    tables = ((_table_header(table.dtype, name, len(table)), table.tobytes()) for name, table in (("COADD", pixels), ("SPECOBJ", row)))
    pieces = [_primary_header(spectrum), *(piece for table in tables for piece in table)]
    return b"".join(piece.ljust(-(-len(piece) // 2880) * 2880, b"\0") for piece in pieces)


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


@lru_cache(maxsize=256)
def _table_header(dtype: np.dtype[Any], name: str, n_rows: int) -> bytes:
    return fits.BinTableHDU(np.zeros(n_rows, dtype), name=name).header.tostring().encode("ascii")


# --- real spectra -------------------------------------------------------------------------------------------------------------------------


def usable_sources(folder: Path, species: LineSpecies) -> tuple[tuple[Path, ...], Counter[str]]:
    """Find the files below a folder in which absorbers of the species can be put, sorted by name, and why the others cannot."""
    if not folder.is_dir():
        raise NalsparkError(f"There is no folder '{folder}'; --from must name a folder of real SDSS spectra.")
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


def _real_spectrum(job: _Job, identity: _Identity) -> _Spectrum:
    """A real spectrum under a new name. Which one depends on the name alone."""
    path = job.sources[int(_generator(job, identity, "source").integers(len(job.sources)))]
    real = _read_real(path)
    return replace(real, identity=identity, columns=dict(real.columns))
