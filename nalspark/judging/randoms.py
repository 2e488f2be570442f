"""Random absorbers: places, redshifts and equivalent widths where the catalogue might have had one, for cross-correlations.

The mean number in a place is ``n ∫ f(W, z) C(W, σ_W, z) dW Δz``, with the fitted f and the completeness. How many there are in a sightline,
and which, follows from a hash of the spectrum's name alone: in whatever order, and however many at a time, the sightlines are read.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from scipy.stats import poisson

from nalspark.errors import NalsparkError
from nalspark.judging.path import Batches, Bins, Cells, Columns, Completeness, Regions, cells_of, in_memory, slices
from nalspark.judging.statistics import (
    law_of,
    no_correction,
    read_absorbers,
    read_completeness,
    read_sensitivity,
    result_statistics,
    select_absorbers,
)
from nalspark.lines import LineSpecies
from nalspark.settings import Statistics
from nalspark.tables.arrow import encode
from nalspark.tables.atomic import replacing
from nalspark.tables.fits import write_fits
from nalspark.tables.result import Result
from nalspark.tables.schemas import randoms_table

Array = NDArray[np.float64]
Keys = NDArray[np.uint64]

#: Nodes of log10 σ_W (Å), of redshift, and of W up to the greatest (Å) at which a density is tabulated.
_LOG_SIGMA, _Z_STEP, _EW_NODES, _GREATEST_EW = np.arange(-2.7, 1.5001, 0.01), 0.05, 200, 12.0
#: Digits of what is summed over sightlines: their order must not show.
_DIGITS = 6
_COPIED = ("spectrum_id", "object_id", "ra", "dec", "z_qso")
_NAMES = (*_COPIED, "primary", "first_bin", "sigma_ew", "n_searched")


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


@dataclass(frozen=True)
class Density:
    """How many absorbers a place may show, and of which W.

    Attributes
    ----------
    species : LineSpecies
    z : ndarray, shape (z,)
        Nodes of redshift.
    ew : ndarray, shape (w,), Å
        Nodes of W.
    rate : ndarray, shape (z, s)
        ∫ f C dW at nodes of redshift and of log σ_W.
    below : ndarray, shape (z, s, w)
        The fraction of it below each W.
    """

    species: LineSpecies
    z: Array
    ew: Array
    rate: Array
    below: Array

    @classmethod
    def of(cls, law: Columns, completeness: Completeness, species: LineSpecies, settings: Statistics) -> Density:
        """Tabulate a law.

        Parameters
        ----------
        law : mapping of ndarray, shape (k,)
            Exponentials at redshifts `z`: `n_star`, and `w_star` in Å; between them they are interpolated.
        completeness : callable
        species : LineSpecies
        settings : Statistics
            Its `z_bins` and the least of its `ew_limits` bound the randoms.
        """
        z = np.arange(settings.z_bins[0], settings.z_bins[-1] + _Z_STEP, _Z_STEP)
        ew = np.geomspace(min(settings.ew_limits), _GREATEST_EW, _EW_NODES)
        values = {name: np.array([_rounded(value) for value in law[name]]) for name in ("z", "n_star", "w_star")}
        n_star, w_star = (np.interp(z, values["z"], values[name])[:, None] for name in ("n_star", "w_star"))
        frequency = n_star / w_star * np.exp(-ew / w_star)
        seen = frequency[:, None, :] * completeness(ew, 10.0 ** _LOG_SIGMA[:, None], z[:, None, None])
        steps = 0.5 * (seen[..., 1:] + seen[..., :-1]) * np.diff(ew)
        total = np.concatenate([np.zeros((*steps.shape[:2], 1)), np.cumsum(steps, axis=2)], axis=2)
        rate = total[..., -1]
        return cls(species, z, ew, rate, total / np.maximum(rate, 1e-300)[..., None])

    def _nodes(self, z: Array, sigma_ew: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The nearest nodes."""
        place = np.round((np.log10(sigma_ew) - _LOG_SIGMA[0]) / (_LOG_SIGMA[1] - _LOG_SIGMA[0])).astype(np.int64)
        return np.clip(np.round((z - self.z[0]) / _Z_STEP).astype(np.int64), 0, len(self.z) - 1), np.clip(place, 0, len(_LOG_SIGMA) - 1)

    def mean(self, z: Array, sigma_ew: Array) -> Array:
        """Give the absorbers per unit redshift that would be found, shape (m,)."""
        return self.rate[self._nodes(z, sigma_ew)]

    def widths(self, z: Array, sigma_ew: Array, u: Array) -> Array:
        """Give the W (Å) below which a fraction u of them lies, shape (m,)."""
        below = self.below[self._nodes(z, sigma_ew)]
        rows = np.arange(len(u))
        right = np.clip((below <= u[:, None]).sum(axis=1), 1, below.shape[1] - 1)
        low, high = below[rows, right - 1], below[rows, right]
        part = np.clip((u - low) / np.maximum(high - low, 1e-300), 0.0, 1.0)
        return self.ew[right - 1] + part * (self.ew[right] - self.ew[right - 1])


def name_keys(names: ArrayLike, seed: int) -> Keys:
    """Hash the names of spectra to 64 bits, shape (n,)."""
    hashed = (hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in np.asarray(names, dtype=object))
    return np.frombuffer(b"".join(hashed), np.uint64)


def uniforms(keys: Keys, number: ArrayLike) -> Array:
    """Give uniform numbers in [0, 1): the draw of a number from each key's own sequence (SplitMix64, Steele et al. 2014).

    Parameters
    ----------
    keys : ndarray of uint64, shape (m,)
    number : array_like of int, shape (m,) or one
        Which draw of the sequence.
    """
    with np.errstate(over="ignore"):
        x = keys + (np.asarray(number, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return np.asarray((x >> np.uint64(11)) * 2.0**-53, dtype=float)


def _inside(sensitivity: Columns, density: Density, settings: Statistics) -> Cells:
    """Searched places within the redshifts of the settings."""
    cells = cells_of(sensitivity, density.species, settings.min_velocity_kms)
    cells = cells._replace(z_low=np.maximum(cells.z_low, settings.z_bins[0]), z_high=np.minimum(cells.z_high, settings.z_bins[-1]))
    return cells.take(cells.z_high > cells.z_low)


def _means(cells: Cells, density: Density) -> Array:
    return density.mean(0.5 * (cells.z_low + cells.z_high), cells.sigma_ew) * cells.path


def expected_number(sensitivity: Columns | Batches, density: Density, settings: Statistics) -> float:
    """Compute how many absorbers the catalogue should have.

    Parameters
    ----------
    sensitivity : mapping, astropy table, or callable
        As for :func:`nalspark.judging.statistics.measure_rates`.
    density : Density
    settings : Statistics
    """
    batches = sensitivity if callable(sensitivity) else in_memory(sensitivity)
    return float(sum(_means(_inside(some, density, settings), density).sum() for whole in batches(_NAMES) for some in slices(whole)))


def draw_randoms(sensitivity: Columns, density: Density, factor: float, settings: Statistics, seed: int = 1) -> dict[str, NDArray[Any]]:
    """Draw random absorbers of some sightlines.

    Parameters
    ----------
    sensitivity : mapping or astropy table, n rows
        `spectrum_id`, `object_id`, `ra`, `dec`, and what :func:`~nalspark.judging.path.cells_of` needs.
    density : Density
    factor : float
        How many randoms for each absorber that is expected.
    settings : Statistics
    seed : int

    Returns
    -------
    dict of ndarray, shape (m,)
        Columns of :func:`nalspark.tables.schemas.randoms_table`; the rows of a sightline stand together, in the order of the sightlines.
    """
    cells = _inside(sensitivity, density, settings)
    rows, first, n = np.unique(cells.row, return_index=True, return_counts=True)
    below = np.zeros((len(rows), int(n.max(initial=1))))
    own = np.repeat(np.arange(len(rows)), n)
    below[own, np.arange(len(cells.row)) - first[own]] = factor * _means(cells, density)
    below = np.cumsum(below, axis=1)
    keys = name_keys(np.asarray(sensitivity["spectrum_id"], dtype=object)[rows], seed)
    count = poisson.ppf(uniforms(keys, 0), below[:, -1]).astype(np.int64)
    of = np.repeat(np.arange(len(rows)), count)
    draw = 3 * (np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count))
    place, within, width = (uniforms(keys[of], draw + number) for number in (1, 2, 3))
    place = np.minimum((below[of] <= (place * below[of, -1])[:, None]).sum(axis=1), n[of] - 1) + first[of]
    z = cells.z_low[place] + within * (cells.z_high[place] - cells.z_low[place])
    middle = 0.5 * (cells.z_low[place] + cells.z_high[place])
    copied = {name: np.asarray(sensitivity[name])[rows[of]] for name in _COPIED}
    ew = density.widths(middle, cells.sigma_ew[place], width)
    line = density.species.primary.label
    return copied | {"z_abs": z, f"ew_{line}": ew, "sigma_ew": cells.sigma_ew[place].astype(np.float32)}


def write_randoms(
    result: Result,
    out: str | Path | None,
    n: float,
    settings: Statistics | None = None,
    *,
    expected: bool = False,
    uncorrected: bool = False,
    seed: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Path, str]:
    """Write random absorbers of a result, in memory that does not grow with the number of sightlines.

    Parameters
    ----------
    result : Result
    out : path, optional
        FITS or Parquet, as its name ends; by default `randoms.fits` in the result.
    n : float
        How many times as many randoms as absorbers.
    settings : Statistics, optional
        By default those of the run.
    expected : bool
        Count the absorbers that the fitted law expects, not those of the catalogue.
    uncorrected : bool
        Take the completeness as 1.
    seed : int
    say : callable
        Is told what is done.

    Returns
    -------
    path : Path
    summary : str

    Raises
    ------
    NalsparkError
        Where the name of the file or `n` is no good, there are too few absorbers, or a file of the result is not there.
    """
    settings, path = settings or result.settings.statistics, Path(out or result.root / "randoms.fits").expanduser()
    if path.suffix not in (".fits", ".parquet"):
        raise NalsparkError(f"Randoms are written as FITS or Parquet, by the end of the name; '{path}' ends in neither .fits nor .parquet.")
    if path.is_dir():
        raise NalsparkError(f"'{path}' is a folder, and stays as it is; --out must name a file.")
    if not (0 < n <= 10_000):
        raise NalsparkError(f"There can be up to 10000 randoms for each absorber, and more than none; {n:g} were asked for with --n.")
    say("fitting f(W)")
    law = law_of(result_statistics(result, settings, uncorrected=uncorrected))
    density = Density.of(law, no_correction if uncorrected else read_completeness(result), result.species, settings)
    sensitivity = read_sensitivity(result, settings)
    wanted = expected_number(sensitivity, density, settings)
    absorbers = _absorbers_counted(result, settings)
    factor = n if expected else _rounded(n * absorbers / max(wanted, 1e-300))
    say(f"{absorbers} absorbers, {wanted:.1f} expected: drawing {factor:.3g} times as many as expected")
    pieces = (draw_randoms(some, density, factor, settings, seed) for whole in sensitivity(_NAMES) for some in slices(whole))
    rows = _write(pieces, result.species, path)
    return path, f"{rows} random absorbers with W >= {density.ew[0]:g} Å at z {settings.z_bins[0]:g} to {settings.z_bins[-1]:g}"


def _absorbers_counted(result: Result, settings: Statistics) -> int:
    """Absorbers of the catalogue that the randoms stand beside."""
    nowhere = Regions(1, np.zeros(0, np.int64), np.zeros(0, np.int64))
    bins = Bins.of(settings)
    chosen, _ = select_absorbers(read_absorbers(result, settings), result.species, bins, nowhere, settings.min_velocity_kms)
    return int((chosen.ew >= min(settings.ew_limits)).sum())


def _write(pieces: Iterator[dict[str, NDArray[Any]]], species: LineSpecies, path: Path) -> int:
    """Write pieces as they come; FITS goes through a Parquet file elsewhere on this machine."""
    table = randoms_table(species)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="nalspark-") as scratch, replacing(path) as new:
            rows = new if path.suffix == ".parquet" else Path(scratch) / "rows.parquet"
            with pq.ParquetWriter(rows, table.arrow_schema) as writer:
                for piece in pieces:
                    writer.write_batch(encode(piece, table))
            if rows != new:
                write_fits([rows], table, new)
            return int(pq.read_metadata(rows).num_rows)
    except OSError as error:
        raise NalsparkError(f"The randoms cannot be written to '{path}': {error.strerror}. Give another file with --out.") from None
