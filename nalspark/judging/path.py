"""Where absorbers of an equivalent width would be seen: the redshift path of all sightlines, summed in one pass.

The published table `sensitivity` has σ_W of every sightline in bins of redshift. A place counts for absorbers of W where ``W ≥ n σ_W``, n
the detection threshold (`statistics.min_significance`). So all that rates need is how much path has its n σ_W where: a histogram over W for
each redshift bin and each region of the sky, whose sums from below are ΔZ(W). Its size does not depend on the number of sightlines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from astropy.cosmology import FlatLambdaCDM
from numpy.typing import ArrayLike, NDArray

from nalspark.absorption.sensitivity import BIN_COLUMNS, MOST_BINS, bin_edges, flat_bins
from nalspark.lines import SPEED_OF_LIGHT_KMS, LineSpecies
from nalspark.settings import Statistics

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Columns = Mapping[str, Any]
#: A function of column names that gives a table batch by batch, as often as it is asked.
Batches = Callable[[Sequence[str]], Iterator[Columns]]
#: C(W, σ_W, z), broadcasting.
Completeness = Callable[[ArrayLike, ArrayLike, ArrayLike], Array]

#: Rows of the sensitivity that are worked on together.
_ROWS = 4096
#: log10 W (Å) of the histogram's edges, those of the settings aside.
_LOG_EW = np.arange(-2.3, 1.7001, 0.005)
#: Those of g(W, z).
G_EW = 10.0 ** np.arange(-1.5, 1.0001, 0.05)
#: The Hubble constant drops out of dX/dz.
_ANY_H0 = 70.0


def in_memory(table: Columns) -> Batches:
    """Give a table that is in memory as a function of batches: a dictionary of arrays, an astropy table, or columns of the like."""
    return lambda names: iter([{name: table[name] for name in names}])


def absorption_distance(z: ArrayLike, om0: float) -> Array:
    """Compute dX/dz = (1 + z)² H₀ / H(z) of a flat ΛCDM cosmology (Bahcall & Peebles 1969, ApJ 156, L7).

    Parameters
    ----------
    z : array_like, any shape
    om0 : float
        Matter density.
    """
    z = np.asarray(z, dtype=float)
    return np.asarray((1.0 + z) ** 2 * _cosmology(om0).inv_efunc(z), dtype=float)


@lru_cache(maxsize=8)
def _cosmology(om0: float) -> FlatLambdaCDM:
    return FlatLambdaCDM(_ANY_H0, om0)


def redshift_at(z_qso: ArrayLike, velocity_kms: float) -> Array:
    """Compute the absorption redshift at a velocity towards us with respect to the quasar; the inverse of `velocity_from_quasar`."""
    beta = velocity_kms / SPEED_OF_LIGHT_KMS
    return (1.0 + np.asarray(z_qso, dtype=float)) * np.sqrt((1.0 - beta) / (1.0 + beta)) - 1.0


@dataclass(frozen=True)
class Bins:
    """The bins in which path and absorbers are summed.

    Attributes
    ----------
    z : ndarray, shape (b + 1,)
        Edges of the redshift bins.
    ew : ndarray, shape (w + 1,), Å
        Edges of the fine bins of W; all limits and edges of the settings are among them.
    significance : float
        The detection threshold n.
    om0 : float
        Matter density.
    """

    z: Array
    ew: Array
    significance: float
    om0: float

    @classmethod
    def of(cls, settings: Statistics) -> Bins:
        """Make the bins of the settings."""
        own = np.array([*settings.ew_limits, *settings.ew_bins, *settings.fit_ew])
        fine = 10.0**_LOG_EW
        fine = fine[np.abs(np.log(fine[:, None] / own)).min(axis=1) > 1e-6]
        return cls(np.array(settings.z_bins), np.unique([*fine, *own]), settings.min_significance, settings.om0)

    @cached_property
    def middle(self) -> Array:
        """Middles of the fine bins of W, shape (w,), Å."""
        return 0.5 * (self.ew[1:] + self.ew[:-1])

    @property
    def shape(self) -> tuple[int, int]:
        """Redshift bins and fine bins of W."""
        return len(self.z) - 1, len(self.ew) - 1

    def z_bin(self, z: ArrayLike) -> Index:
        """Give the redshift bin of each redshift; -1 or b outside. A bin has its lower edge and not its upper one."""
        return np.searchsorted(self.z, np.asarray(z, dtype=float), side="right") - 1

    def ew_bin(self, ew: ArrayLike) -> Index:
        """Give the fine bin of each W: 0 below the first edge, w from the last edge on."""
        return np.maximum(np.searchsorted(self.ew, np.asarray(ew, dtype=float), side="right") - 1, 0)

    def between(self, low: float, high: float = np.inf) -> slice:
        """Give the fine bins between two of the settings' equivalent widths."""
        start, stop = np.searchsorted(self.ew * (1 + 1e-9), [low, high])
        return slice(int(start), min(int(stop), len(self.ew) - 1))


# ---- the sky


class Regions(NamedTuple):
    """The regions of the jackknife: neighbouring HEALPix cells with about as many sightlines each.

    Attributes
    ----------
    nside : int
    cells : ndarray of int, shape (c,)
        Cells (nested) that hold sightlines, ascending; -1 stands for sightlines without a position.
    region : ndarray of int, shape (c,)
    """

    nside: int
    cells: Index
    region: Index

    @property
    def n(self) -> int:
        """Number of regions."""
        return int(self.region.max(initial=0)) + 1

    def of(self, ra: ArrayLike, dec: ArrayLike) -> Index:
        """Give the region of positions, shape (m,), degrees; 0 in a cell without any sightline."""
        cell = healpix_cells(ra, dec, self.nside)
        place = np.minimum(np.searchsorted(self.cells, cell), max(len(self.cells) - 1, 0))
        return np.where(self.cells[place] == cell, self.region[place], 0) if len(self.cells) else np.zeros(len(cell), np.int64)


def healpix_cells(ra: ArrayLike, dec: ArrayLike, nside: int) -> Index:
    """Give the nested HEALPix cell of positions in degrees; -1 where there is none."""
    from astropy import units as u
    from astropy_healpix import lonlat_to_healpix

    lon, lat = np.asarray(ra, dtype=float), np.asarray(dec, dtype=float)
    known = np.isfinite(lon) & (np.abs(lat) <= 90.0)
    cell = np.full(len(lon), -1, np.int64)
    cell[known] = lonlat_to_healpix(lon[known] * u.deg, lat[known] * u.deg, nside, order="nested")
    return cell


def find_regions(sensitivity: Batches, nside: int, regions: int) -> Regions:
    """Merge HEALPix cells, in the order of the nested scheme in which neighbours stand together, to regions of similar path.

    Parameters
    ----------
    sensitivity : callable
        Gives `ra`, `dec`, `primary` of PUBLISHED_SENSITIVITY, see :data:`Batches`.
    nside : int
    regions : int
        How many, at most.
    """
    counts = np.zeros(12 * nside**2 + 1, np.int64)
    for batch in sensitivity(("ra", "dec", "primary")):
        primary = np.asarray(batch["primary"], dtype=bool)
        cell = healpix_cells(np.asarray(batch["ra"], float)[primary], np.asarray(batch["dec"], float)[primary], nside)
        counts += np.bincount(cell + 1, minlength=len(counts))
    cells = np.flatnonzero(counts)
    below = np.cumsum(counts[cells]) - 0.5 * counts[cells]
    region = np.unique(np.floor(regions * below / max(counts.sum(), 1)), return_inverse=True)[1]
    return Regions(nside, cells - 1, region.astype(np.int64))


# ---- the path


class Cells(NamedTuple):
    """Searched places of sightlines one after the other: a bin of the sensitivity each, cut at the velocity.

    Attributes
    ----------
    row : ndarray of int, shape (m,)
        The sightline among those of the batch.
    bin : ndarray of int, shape (m,)
        The bin of the sensitivity.
    z_low, z_high : ndarray, shape (m,)
    searched : ndarray, shape (m,)
        The fraction of the bin's pixels that was searched.
    sigma_ew : ndarray, shape (m,), rest Å
    """

    row: Index
    bin: Index
    z_low: Array
    z_high: Array
    searched: Array
    sigma_ew: Array

    def take(self, use: NDArray[np.bool_]) -> Cells:
        """Choose places."""
        return Cells(self.row[use], self.bin[use], self.z_low[use], self.z_high[use], self.searched[use], self.sigma_ew[use])

    @property
    def path(self) -> Array:
        """Searched Δz of each place."""
        return (self.z_high - self.z_low) * self.searched


def cells_of(sensitivity: Columns, species: LineSpecies, min_velocity_kms: float) -> Cells:
    """List the searched places of primary sightlines.

    Parameters
    ----------
    sensitivity : mapping
        `primary`, `z_qso`, `first_bin`, shape (n,); `sigma_ew` and `n_searched`, n arrays.
    species : LineSpecies
    min_velocity_kms : float
        Least velocity with respect to the quasar; a bin across the limit counts in part.
    """
    primary = np.flatnonzero(np.asarray(sensitivity["primary"], dtype=bool))
    number, bins, sigma, searched = flat_bins({name: [sensitivity[name][i] for i in primary] for name in BIN_COLUMNS})
    row, edges = primary[number], bin_edges(species, np.arange(MOST_BINS + 1))
    limit = redshift_at(np.asarray(sensitivity["z_qso"], dtype=float)[row], min_velocity_kms)
    low, high = edges[bins], np.minimum(edges[bins + 1], limit)
    return Cells(row, bins, low, high, searched, sigma).take((sigma > 0) & (high > low))


def slices(batch: Columns, rows: int = _ROWS) -> Iterator[Columns]:
    """Cut a batch into smaller ones."""
    n = len(next(iter(batch.values())))
    for start in range(0, n, rows):
        yield {name: values[start : start + rows] for name, values in batch.items()}


@dataclass(frozen=True)
class Path:
    """The summed path of primary sightlines.

    Attributes
    ----------
    bins : Bins
    delta_z, delta_x : ndarray, shape (r, b, w + 1)
        Path in z and in X, by region, redshift bin and the bin of W in which n σ_W lies; the last one is beyond all.
    g : ndarray, shape (k, v)
        Sightlines by bin of the sensitivity and bin of :data:`G_EW` in which n σ_W lies, the first one below all; the last beyond all.
    n_sightlines : int
        Primary ones, those without any path included.
    """

    bins: Bins
    delta_z: Array
    delta_x: Array
    g: Array
    n_sightlines: int

    def seen(self, of: Array) -> Array:
        """Sum a histogram from below: the path at the middle of each fine bin of W, shape (..., w)."""
        inside = of[..., :-1]
        return np.asarray(np.cumsum(inside, axis=-1) - 0.5 * inside)

    def at(self, of: Array, ew: float) -> Array:
        """Sum a histogram up to one of the settings' equivalent widths."""
        return np.asarray(of[..., : self.bins.between(ew).start].sum(axis=-1))

    def folded(self, completeness: Completeness) -> Array:
        """Compute ∫ C(W, σ_W, z) dZ over the places with W ≥ n σ_W, shape (r, b, w), at the middle of each fine bin of W, and of z."""
        middle, result = self.bins.middle, np.empty((*self.delta_z.shape[:2], len(self.bins.middle)))
        for number, z in enumerate(0.5 * (np.array(self.bins.z[:-1]) + np.array(self.bins.z[1:]))):
            table = completeness(middle[:, None], middle[None, :] / self.bins.significance, z)
            result[:, number] = self.delta_z[:, number, :-1] @ (np.tril(table, -1) + 0.5 * np.diag(np.diag(table))).T
        return result

    def sightlines_at(self, ew: float) -> Array:
        """Give the number of sightlines in which an absorber of W (Å) would be seen, shape (k,), by bin of the sensitivity."""
        below = np.cumsum(self.g[:, :-1], axis=1)
        log = np.log(G_EW)
        place = np.clip((np.log(ew) - log[0]) / (log[1] - log[0]), 0.0, len(log) - 1.0)
        left = min(int(place), len(log) - 2)
        return np.asarray(below[:, left] + (place - left) * (below[:, left + 1] - below[:, left]))


def measure_path(sensitivity: Batches, species: LineSpecies, bins: Bins, regions: Regions, min_velocity_kms: float) -> Path:
    """Sum the path of all primary sightlines.

    Parameters
    ----------
    sensitivity : callable
        Gives columns of PUBLISHED_SENSITIVITY, see :data:`Batches`.
    species : LineSpecies
    bins : Bins
    regions : Regions
        As :func:`find_regions` gives them.
    min_velocity_kms : float
    """
    n_z, n_ew = bins.shape
    shape, n_g = (regions.n, n_z, n_ew + 1), len(G_EW) + 1
    path = Path(bins, np.zeros(shape), np.zeros(shape), np.zeros((MOST_BINS, n_g)), 0)
    edges = bin_edges(species, np.arange(MOST_BINS + 1))
    lattice = np.diff(edges), absorption_distance(0.5 * (edges[1:] + edges[:-1]), bins.om0)
    names = ("primary", "ra", "dec", "z_qso", "first_bin", "sigma_ew", "n_searched")
    for whole in sensitivity(names):
        for batch in slices(whole):
            path = replace(path, n_sightlines=path.n_sightlines + int(np.asarray(batch["primary"], dtype=bool).sum()))
            cells = cells_of(batch, species, min_velocity_kms)
            region = regions.of(batch["ra"], batch["dec"])[cells.row]
            _add_path(path, cells, region, lattice)
    return path


def _add_path(path: Path, cells: Cells, region: Index, lattice: tuple[Array, Array]) -> None:
    """Add places to the histograms; a bin of the sensitivity reaches into at most two redshift bins. `lattice`: its Δz and dX/dz."""
    bins, (n_z, n_ew) = path.bins, path.bins.shape
    limit = bins.significance * cells.sigma_ew
    column, first = bins.ew_bin(limit), bins.z_bin(cells.z_low)
    for shift in (0, 1):
        z_bin = first + shift
        inside = (z_bin >= 0) & (z_bin < n_z)
        known = np.clip(z_bin, 0, n_z - 1)
        width = np.minimum(cells.z_high, bins.z[known + 1]) - np.maximum(cells.z_low, bins.z[known])
        use = inside & (width > 0)
        flat = (region[use] * n_z + known[use]) * (n_ew + 1) + column[use]
        weight = width[use] * cells.searched[use]
        for total, weights in ((path.delta_z, weight), (path.delta_x, weight * lattice[1][cells.bin[use]])):
            total += np.bincount(flat, weights, total.size).reshape(total.shape)
    flat = cells.bin * path.g.shape[1] + np.searchsorted(G_EW, limit, side="left")
    path.g[...] += np.bincount(flat, cells.path / lattice[0][cells.bin], path.g.size).reshape(path.g.shape)
