"""What simulated surveys share, whatever the format of their files: the job, the absorbers of a block, and the columns of ``truth``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from nalspark.lines import LineSpecies, with_all_lines
from nalspark.mocks import inject

#: What a block adds to the tables: columns of truth, rows of the quasars, pairs of a spectrum's name and that of its source.
Block = tuple[dict[str, Any], NDArray[Any], list[tuple[str, str]]]


@dataclass(frozen=True)
class Job:
    """What a worker must know.

    Attributes
    ----------
    spectra : Path
        The folder to write to.
    seed : int
    population : Population
    species : LineSpecies
    sources : tuple of Path
        The usable real files; empty where all is parametric.
    per_file : int
        Targets in a file, where a file holds several.
    """

    spectra: Path
    seed: int
    population: inject.Population
    species: LineSpecies
    sources: tuple[Path, ...] = ()
    per_file: int = 1

    def generator(self, *key: int | str) -> np.random.Generator:
        """Make the random generator of a thing, by its names."""
        return inject.seeded_generator(self.seed, *key)


@dataclass(frozen=True)
class Layout:
    """How a survey lays out its files.

    Attributes
    ----------
    files : str
        Pattern of its files below ``spectra``.
    quasars : str
        Name of the table in ``quasars.fits``.
    population : Population
        From what absorbers are drawn by default where real files are given.
    per_file : int
        Targets in a file by default.
    most : callable
        Targets in a file → the largest number of quasars.
    find_sources : callable
        Folder and species → the real files in it that can be used, and why how many of the others cannot.
    tasks : callable
        Job and number of quasars → blocks, each as first and last + 1 of whatever the survey counts: what is held in memory together.
    make : callable
        Job, first, last + 1 → what is to be told of the spectra that it wrote.
    """

    files: str
    quasars: str
    population: inject.Population
    per_file: int
    most: Callable[[int], int]
    find_sources: Callable[[Path, LineSpecies], tuple[tuple[Path, ...], Counter[str]]]
    tasks: Callable[[Job, int], list[tuple[int, int]]]
    make: Callable[[Job, int, int], Block]


def draw_absorbers(job: Job, generators: Sequence[np.random.Generator], z_qso: Sequence[float], ends: ArrayLike) -> inject.Absorbers:
    """Draw the absorbers of n spectra.

    Parameters
    ----------
    generators : sequence of Generator, length n
        One a spectrum.
    z_qso : sequence of float, length n
    ends : array_like, shape (2,) or (n, 2)
        First and last wavelength, Å.
    """
    system = with_all_lines(job.species)
    size = inject.uniforms_per_spectrum(system, job.population)
    uniforms = np.stack([generator.random(size) for generator in generators])
    limits = inject.redshift_limits(job.species, z_qso, ends, job.population)
    return inject.draw(system, job.population, uniforms, limits)


def truth_columns(species: LineSpecies, absorbers: inject.Absorbers, spectra: Mapping[str, Sequence[Any] | NDArray[Any]]) -> dict[str, Any]:
    """Give the columns of TRUTH, a row for every absorber, from those that describe its spectrum."""
    return {
        **{name: [values[row] for row in absorbers.spectrum] for name, values in spectra.items()},
        "species": [species.name] * len(absorbers),
        "z_abs": absorbers.z,
        **{name: getattr(absorbers, name) for name in ("ew_primary", "ew_secondary", "sigma_kms")},
    }


def padded(piece: bytes) -> bytes:
    """Fill a header or a data unit up to whole blocks of FITS."""
    return piece.ljust(-(-len(piece) // 2880) * 2880, b"\0")


def table_hdu(table: NDArray[Any], name: str) -> bytes:
    """Give the bytes of a table extension; astropy would take 10 ms for them."""
    big = table.astype(table.dtype.newbyteorder(">"))
    return _table_header(big.dtype, name, len(big)) + padded(big.tobytes())


@lru_cache(maxsize=256)
def _table_header(dtype: np.dtype[Any], name: str, n_rows: int) -> bytes:
    return fits.BinTableHDU(np.zeros(n_rows, dtype), name=name).header.tostring().encode("ascii")
