"""A simulated survey: spectra in a survey's own file format with absorbers whose redshifts and strengths are known.

``DIR/spectra`` holds files as SDSS or DESI write them (``nalspark.mocks.surveys``), ``DIR/quasars.fits`` true
redshifts, ``DIR/truth.parquet`` every absorber put in; ``DIR/sources.csv`` says of spectra that were made with real files from which.

Spectrum number i is always the same for a seed: everything random about it comes from a generator seeded with its identity.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from nalspark.errors import NalsparkError
from nalspark.lines import MG_II, LineSpecies
from nalspark.mocks import inject, surveys
from nalspark.mocks.layout import Block, Job, Layout

MARKER = "simulation.json"  #: marks a folder as a simulated survey, which may be replaced
#: The surveys that can be simulated.
LAYOUTS: dict[str, Layout] = {
    module.name: import_module(f"{surveys.__name__}.{module.name}").LAYOUT for module in iter_modules(surveys.__path__)
}
_MOST_PER_FILE = 2000  #: 900 MB: larger files are not read


@dataclass(frozen=True)
class SurveySummary:
    """What :func:`simulate_survey` wrote.

    Attributes
    ----------
    out : Path
    n_spectra, n_absorbers : int
        Spectra of quasars, and absorbers in them.
    n_sources : int
        Real files it was made with; 0: none.
    skipped_sources : dict
        Reason → how many files of the source folder could not be used.
    """

    out: Path
    n_spectra: int
    n_absorbers: int
    n_sources: int = 0
    skipped_sources: dict[str, int] = field(default_factory=dict)


def simulate_survey(
    out: str | Path,
    n: int,
    seed: int,
    source: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    like: str = "sdss",
    population: inject.Population | None = None,
    species: LineSpecies = MG_II,
    workers: int | None = None,
    per_file: int | None = None,
) -> SurveySummary:
    """Write a simulated survey.

    Parameters
    ----------
    out : path
        A new or empty folder, or an earlier simulated survey, which is replaced.
    n : int
        Number of quasars.
    seed : int
        The same seed gives the same spectra, whatever n and workers are.
    source : path, optional
        Folder of real files: of SDSS, spectra to put absorbers into; of DESI, coadds whose noise levels are taken.
    progress : callable, optional
        Called with (quasars written, n).
    like : {"sdss", "desi"}
        The survey whose files are imitated.
    population : Population, optional
        By default half of the spectra have absorbers; of spectra made from real ones, all that can.
    workers : int, optional
        Processes; by default one per core, and one for fewer than 1000 quasars.
    per_file : int, optional
        Targets in a file, where files hold several; by default 500.

    Raises
    ------
    NalsparkError
        Where n, workers or per_file is out of range, `like` is no survey that can be imitated, `out` holds something else or cannot be
        written, or `source` holds nothing that can be used.
    """
    out = Path(out)
    if like not in LAYOUTS:
        raise NalsparkError(f"A survey like '{like}' cannot be simulated; choose {' or '.join(LAYOUTS)}.")
    layout = LAYOUTS[like]
    per_file = _checked_per_file(layout, like, per_file)
    _check_counts(n, workers, layout.most(per_file))
    if source is not None:
        if not Path(source).is_dir():
            raise NalsparkError(f"There is no folder '{source}'; --from must name a folder of real files of the survey that is imitated.")
        _check_apart(out, Path(source))
    sources, skipped = layout.find_sources(Path(source), species) if source is not None else ((), Counter())
    if population is None:
        population = layout.population if sources else inject.Population()
    job = Job(out / "spectra", seed, population, species, sources, per_file)
    _prepare(out, {"like": like, "n": n, "source": str(source or ""), **_described(job)})
    try:
        blocks = _blocks(layout, job, n, workers or (1 if n < 1000 else os.cpu_count() or 1))
        n_absorbers = _write_tables(out, layout.quasars, blocks, lambda done: progress(done, n) if progress else None)
    except OSError as error:
        raise NalsparkError(f"The simulated survey cannot be written to '{out}': {error.strerror}.") from None
    return SurveySummary(out, n, n_absorbers, len(sources), dict(skipped))


def _checked_per_file(layout: Layout, like: str, per_file: int | None) -> int:
    if per_file is None:
        return layout.per_file
    if layout.per_file == 1 and per_file != 1:
        raise NalsparkError(f"A file of {like} holds one spectrum; leave --per-file out.")
    if not 1 <= per_file <= _MOST_PER_FILE:
        raise NalsparkError(f"{per_file} targets in a file cannot be simulated; --per-file must be between 1 and {_MOST_PER_FILE}.")
    return per_file


def _check_counts(n: int, workers: int | None, most: int) -> None:
    if not 1 <= n <= most:
        raise NalsparkError(f"A survey of {n} spectra cannot be simulated; --n must be between 1 and {most}.")
    if workers is not None and workers < 1:
        raise NalsparkError(f"{workers} workers can do nothing; give 1 or more.")


def _check_apart(out: Path, source: Path) -> None:
    """Neither folder may hold the other: replacing a survey must not remove its sources, nor may it become its own source."""
    new, old = out.resolve(), source.resolve()
    if new.is_relative_to(old) or old.is_relative_to(new):
        raise NalsparkError(f"'{out}' and '{source}' lie one in the other; --out must be apart from --from.")


def _described(job: Job) -> dict[str, Any]:
    return {"seed": job.seed, "species": job.species.name, "population": asdict(job.population), "per_file": job.per_file}


def _prepare(out: Path, description: dict[str, Any]) -> None:
    """An empty folder with its marker. Of an earlier simulation only what it wrote is removed."""
    if out.exists() and not out.is_dir():
        raise NalsparkError(f"'{out}' is a file; --out must name a folder.")
    ours = (out / MARKER).is_file()
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise NalsparkError(f"'{out}' is not empty and is no simulated survey (it has no {MARKER}); choose another folder.")
    try:
        if ours:
            written = [path for layout in LAYOUTS.values() for path in (out / "spectra").glob(layout.files)]
            for path in (out / "quasars.fits", out / "truth.parquet", out / "sources.csv", *written):
                path.unlink(missing_ok=True)
        (out / "spectra").mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise NalsparkError(f"The simulated survey cannot be written to '{out}': {error.strerror}.") from None


def _blocks(layout: Layout, job: Job, n: int, workers: int) -> Iterator[Block]:
    """What is written beside the spectra, block by block and in order."""
    tasks = [(layout.make, job, start, stop) for start, stop in layout.tasks(job, n)]
    if workers == 1 or len(tasks) == 1:
        yield from map(_make_block, tasks)
        return
    # Not fork: it copies the threads' locks of whatever else the caller runs, Spark's gateway for one.
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks))) as pool:
        yield from pool.imap(_make_block, tasks)


def _make_block(task: tuple[Callable[[Job, int, int], Block], Job, int, int]) -> Block:
    make, job, start, stop = task
    return make(job, start, stop)


def _write_tables(out: Path, name: str, blocks: Iterator[Block], progress: Callable[[int], None]) -> int:
    """Write truth as blocks come, the quasars (some 60 bytes each) and the names of their sources at the end; give the number of
    absorbers.
    """
    import pyarrow.parquet as pq

    from nalspark.tables.arrow import encode
    from nalspark.tables.schemas import TRUTH  # here, not above: its pyspark types would slow down every worker's start

    known, sources, n_spectra, n_absorbers = list[NDArray[Any]](), list[tuple[str, str]](), 0, 0
    with pq.ParquetWriter(out / "truth.parquet", TRUTH.arrow_schema, compression="zstd") as writer:
        for truth, of_block, names in blocks:
            writer.write_batch(encode(truth, TRUTH))
            known.append(of_block)
            sources += names
            n_spectra, n_absorbers = n_spectra + len(of_block), n_absorbers + len(truth["z_abs"])
            progress(n_spectra)
    fits.BinTableHDU(np.concatenate(known), name=name).writeto(out / "quasars.fits", overwrite=True)
    if sources:
        with (out / "sources.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("spectrum_id", "source"), *sources])
    return n_absorbers
