"""What quasars look like: mean and eigenspectra in a bin of redshift, learned from a survey, and artificial quasars drawn from them.

Incremental PCA (Ross et al. 2008, Int. J. Comput. Vis. 77, 125; as Zhao et al. 2019, §2.4, use it) of continua, so that no absorber is
learned. Within a bin of redshift, spectra are shifted by whole pixels of the log-λ lattice to where a quasar in the middle of the bin is
seen: emission lines then fall on the same pixels. Pixels that a spectrum lacks are filled from its mean level, then round after round from
what the eigenspectra make of the pixels that it has (Connolly & Szalay 1999, AJ 117, 2052).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import NalsparkError
from nalspark.spectra.grid import LATTICE, WavelengthGrid
from nalspark.spectra.rescale import masked_median

if TYPE_CHECKING:
    from sklearn.decomposition import IncrementalPCA

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

#: Spectra that enter the incremental PCA together.
_BATCH = 128
#: A pixel is learned where at least this fraction of the quasars, and so many of them, have it; elsewhere its neighbours stand in.
_LEAST_COVERAGE, _LEAST_QUASARS = 0.1, 5
#: A quasar whose level differs from the others' by more than this factor was not rescaled well: it would rule the variance.
_LEVEL_RANGE = 5.0
#: Width of the smoothing of drawn coefficients, in units of their own scatter.
_SMOOTHING = 0.3
#: An artificial continuum is nowhere below this fraction of its median.
_FLOOR = 0.02


@dataclass(frozen=True)
class Eigenspectra:
    """Mean and `k` eigenspectra of the quasars in a bin of redshift, on `p` lattice pixels.

    Attributes
    ----------
    z_low, z_high : float
        Ends of the bin.
    first_pixel : int
        Lattice index of pixel 0, where a quasar in the middle of the bin would be observed.
    mean : ndarray, shape (p,), rescaled flux
    components : ndarray, shape (k, p)
        Orthonormal on the learned pixels; elsewhere continued from the nearest of these.
    variance : ndarray, shape (k,)
        Of the coefficients.
    scatter : ndarray, shape (p,)
        Standard deviation of what the components leave; infinite where a pixel was not learned.
    coefficients : ndarray, shape (n, k)
        Of the quasars that were learned from.
    n_held_out : int
        Quasars that were kept aside.
    reconstruction_error : float
        Of these: median over the quasars of rms(continuum - reconstruction) / rms(continuum); NaN where none was kept aside.
    """

    z_low: float
    z_high: float
    first_pixel: int
    mean: Floats
    components: Floats
    variance: Floats
    scatter: Floats
    coefficients: Floats
    n_held_out: int = 0
    reconstruction_error: float = float("nan")

    @property
    def n_quasars(self) -> int:
        """Quasars that were learned from."""
        return len(self.coefficients)

    def project(self, flux: NDArray[np.floating], ivar: NDArray[np.floating]) -> Array:
        """Compute the coefficients of spectra that already are on this bin's pixels.

        The most probable ones under Gaussian noise and the coefficients' variance, so a spectrum with few pixels tends to the mean.

        Parameters
        ----------
        flux, ivar : ndarray, shape (n, p)
            ivar 0 where a pixel is not used.

        Returns
        -------
        ndarray, shape (n, k)
        """
        components, precision = self.components.astype(float), 1.0 / np.maximum(self.variance.astype(float), 1e-12)
        own = self.scatter.astype(float) ** 2
        result = np.zeros((len(flux), len(components)))
        for row, (values, inverse) in enumerate(zip(flux, ivar, strict=True)):
            used = (inverse > 0) & np.isfinite(own)
            weight = np.where(used, 1.0 / (1.0 / np.where(used, inverse, 1.0) + np.where(used, own, 0.0)), 0.0)
            weighted = components * weight
            offset = np.where(used, values - self.mean, 0.0)
            result[row] = np.linalg.solve(weighted @ components.T + np.diag(precision), weighted @ offset)
        return result

    def reconstruct(self, coefficients: NDArray[np.floating]) -> Array:
        """Compute spectra on this bin's pixels from coefficients, shape (n, p)."""
        result = np.tile(self.mean.astype(float), (len(coefficients), 1))
        for number, component in enumerate(self.components.astype(float)):
            result += np.asarray(coefficients)[:, number, None] * component
        return result

    def draw(self, rng: np.random.Generator, z_qso: float, grid: WavelengthGrid = LATTICE) -> Array:
        """Draw the continuum of an artificial quasar.

        The coefficients are those of one of the learned quasars, moved at random by some of their scatter and shrunk so that mean and
        covariance stay those of the learned quasars (smoothed bootstrap; Silverman & Young 1987, Biometrika 74, 469).

        Parameters
        ----------
        z_qso : float
            Any; outside the bin, the ends of the spectrum are continued.

        Returns
        -------
        ndarray, shape (p of the grid,)
            Positive; rescaled flux.
        """
        chosen = self.coefficients[rng.integers(self.n_quasars)].astype(float)
        moved = chosen + _SMOOTHING * np.sqrt(self.variance.astype(float)) * rng.standard_normal(len(chosen))
        continuum = self.reconstruct(moved[None] / np.sqrt(1.0 + _SMOOTHING**2))[0][self.pixels(z_qso, grid)]
        return np.maximum(continuum, _FLOOR * max(float(np.median(continuum)), 1e-3))

    def pixels(self, z_qso: float, grid: WavelengthGrid = LATTICE) -> NDArray[np.int64]:
        """Find for every pixel of the grid the bin's pixel that shows the same of a quasar at this redshift, or the nearest to it."""
        shift = int(shift_pixels(z_qso, self.z_low, self.z_high, grid.step))
        return np.clip(grid.first + np.arange(grid.n_pixels) - self.first_pixel - shift, 0, len(self.mean) - 1)


@dataclass(frozen=True)
class DrawnQuasars:
    """Artificial quasars of any redshift from the eigenspectra of several bins; to be called with a generator and a redshift."""

    bins: tuple[Eigenspectra, ...]

    def __call__(self, rng: np.random.Generator, z_qso: float) -> Array:
        """Flux on the common grid relative to its median where the eigenspectra were learned, shape (p,); from the bin that holds the
        redshift, else from the nearest one.
        """
        distance = [max(one.z_low - z_qso, z_qso - one.z_high, 0.0) for one in self.bins]
        quasars = self.bins[int(np.argmin(distance))]
        flux, learned = quasars.draw(rng, z_qso), np.isfinite(quasars.scatter[quasars.pixels(z_qso)])
        return flux / np.median(flux[learned] if learned.any() else flux)


def shift_pixels(z_qso: float | Array, z_low: float, z_high: float, step_dex: float = LATTICE.step) -> NDArray[np.int64]:
    """Count the whole pixels by which a quasar's spectrum lies redwards of that of a quasar in the middle of the bin."""
    middle = 0.5 * (z_low + z_high)
    return np.rint(np.log10((1.0 + np.asarray(z_qso, dtype=float)) / (1.0 + middle)) / step_dex).astype(np.int64)


def align(values: Floats, z_qso: Array, z_range: tuple[float, float], grid: WavelengthGrid = LATTICE) -> tuple[Floats, int]:
    """Bring spectra on the grid to the pixels of a bin of redshift.

    Parameters
    ----------
    values : ndarray, shape (n, p)
    z_qso : ndarray, shape (n,), inside the bin
    z_range : tuple of float

    Returns
    -------
    ndarray, shape (n, more than p)
        0 where a spectrum does not reach.
    int
        Lattice index of its pixel 0.
    """
    least, most = (int(shift_pixels(z, *z_range, grid.step)) for z in z_range)
    shift = np.clip(shift_pixels(z_qso, *z_range, grid.step), least, most)
    result = np.zeros((len(values), grid.n_pixels + most - least), dtype=np.float32)
    for row, start in enumerate(most - shift):
        result[row, start : start + grid.n_pixels] = values[row]
    return result, grid.first - most


def bridge_gaps(ivar: Floats, longest: int = 30) -> Floats:
    """Interpolate the inverse variances of short gaps from both sides, where a continuum is known as well as around them.

    Parameters
    ----------
    ivar : ndarray, shape (n, p)
    longest : int
        Pixels of the longest gap: two smoothing lengths of the continuum.
    """
    result, pixel = ivar.copy(), np.arange(ivar.shape[1])
    for row in result:
        good = np.flatnonzero(row > 0)
        if len(good) < 2:
            continue
        after = np.searchsorted(good, pixel).clip(1, len(good) - 1)
        gap = good[after] - good[after - 1] - 1
        inside = (row <= 0) & (pixel > good[0]) & (pixel < good[-1]) & (gap <= longest)
        row[inside] = np.interp(pixel[inside], good, row[good])
    return result


def fit_eigenspectra(
    flux: Floats,
    ivar: Floats,
    z_qso: Array,
    z_range: tuple[float, float],
    *,
    components: int = 20,
    rounds: int = 10,
    held_out: NDArray[np.bool_] | None = None,
    grid: WavelengthGrid = LATTICE,
) -> Eigenspectra:
    """Learn the eigenspectra of the quasars in a bin of redshift.

    Parameters
    ----------
    flux : ndarray, shape (n, p)
        What is learned: continua, in which narrow absorption was masked.
    ivar : ndarray, shape (n, p)
        Inverse variance of the spectra; 0 where a pixel is not to be learned from.
    z_qso : ndarray, shape (n,)
    z_range : tuple of float
        Ends of the bin.
    components : int
        Eigenspectra, at most; never more than one less than the quasars.
    rounds : int
        How often missing pixels are filled and the eigenspectra computed.
    held_out : ndarray of bool, shape (n,), optional
        Quasars that are not learned from, but on which the reconstruction is tried.

    Raises
    ------
    NalsparkError
        Where fewer than two quasars are left to learn from.
    """
    held_out = np.zeros(len(flux), dtype=bool) if held_out is None else held_out
    values, first_pixel = align(flux, z_qso, z_range, grid)
    weight, _ = align(ivar, z_qso, z_range, grid)
    usable = _level_is_usual(values, weight > 0)
    learn, tried = np.flatnonzero(usable & ~held_out), np.flatnonzero(usable & held_out)
    if len(learn) < 2:
        raise NalsparkError(
            f"{len(learn)} quasar(s) between z = {z_range[0]:g} and {z_range[1]:g} can be learned from; eigenspectra need at least 2. "
            "Give more spectra, or make the bins wider."
        )
    model = _Learner(values, weight, learn, min(components, len(learn) - 1)).run(rounds)
    model = replace(model, z_low=z_range[0], z_high=z_range[1], first_pixel=first_pixel)
    if not len(tried):
        return model
    error = float(np.median(reconstruction_errors(model, values[tried], weight[tried])))
    return replace(model, n_held_out=len(tried), reconstruction_error=error)


def reconstruction_errors(model: Eigenspectra, flux: NDArray[np.floating], ivar: NDArray[np.floating]) -> Array:
    """Compute rms(flux - reconstruction) / rms(flux) over each spectrum's used pixels, shape (n,); both on the bin's pixels, (n, p)."""
    used = (ivar > 0) & np.isfinite(model.scatter)
    missed = np.where(used, flux - model.reconstruct(model.project(flux, ivar)), 0.0)
    return np.sqrt((missed**2).sum(axis=1) / np.maximum((np.where(used, flux, 0.0) ** 2).sum(axis=1), 1e-30))


def _level_is_usual(values: Floats, good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Spectra with pixels whose median level is like that of the others, shape (n,)."""
    level = masked_median(values, good)
    usable = np.isfinite(level) & (level > 0)
    if not usable.any():
        return usable
    relative = np.where(usable, level, 1.0) / np.median(level[usable])
    return usable & (relative < _LEVEL_RANGE) & (relative > 1.0 / _LEVEL_RANGE)


class _Learner:
    """The rounds of filling and of incremental PCA over the learned rows and pixels."""

    def __init__(self, values: Floats, weight: Floats, rows: NDArray[np.int64], n_components: int) -> None:
        count = (weight[rows] > 0).sum(axis=0)
        self.seen = count >= min(max(_LEAST_COVERAGE * len(rows), _LEAST_QUASARS), count.max())
        self.coverage = count[self.seen] / len(rows)
        self.values, self.weight, self.n_components = values, weight, n_components
        self.batches = np.array_split(rows, max(1, len(rows) // max(_BATCH, n_components)))
        self.first_mean = self._masked_mean()

    def run(self, rounds: int) -> Eigenspectra:
        """The eigenspectra of the last round; redshifts and first pixel are not set."""
        from sklearn.decomposition import IncrementalPCA  # half a second to load: only who fits waits for it

        model, previous, pca = None, None, None
        for _ in range(rounds):
            previous, pca = model, IncrementalPCA(n_components=self.n_components)
            for batch in self.batches:
                pca.partial_fit(self._filled(batch, previous), check_input=False)
            model = self._model(pca)
        if model is None or pca is None:
            raise ValueError(f"rounds = {rounds}: at least one is needed")
        coefficients = [
            (pca.components_ * (row - pca.mean_)).sum(axis=1) for batch in self.batches for row in self._filled(batch, previous)
        ]
        return replace(model, coefficients=np.array(coefficients, dtype=np.float32))

    def _filled(self, batch: NDArray[np.int64], model: Eigenspectra | None) -> Array:
        """Rows on the learned pixels without gaps, shape (b, learned pixels)."""
        values, weight = self.values[batch].astype(float), self.weight[batch]
        if model is None:
            used, mean = weight > 0, self.first_mean
            level = np.where(used, values * mean, 0.0).sum(axis=1) / np.where(used, mean**2, 0.0).sum(axis=1)
            guess = level[:, None] * mean
        else:
            guess = model.reconstruct(model.project(values, weight))
        return np.where(weight > 0, values, guess)[:, self.seen]

    def _masked_mean(self) -> Array:
        """Mean of the pixels that there are, shape (p,)."""
        total, count = np.zeros(self.values.shape[1]), np.zeros(self.values.shape[1])
        for batch in self.batches:
            used = self.weight[batch] > 0
            total, count = total + np.where(used, self.values[batch], 0.0).sum(axis=0), count + used.sum(axis=0)
        return total / np.maximum(count, 1)

    def _model(self, pca: IncrementalPCA) -> Eigenspectra:
        explained = (pca.explained_variance_[:, None] * pca.components_**2).sum(axis=0)
        # Filled pixels leave nothing: what is left was left by the others.
        left = np.maximum(pca.var_ - explained, 1e-8 * (pca.mean_**2).mean()) / self.coverage
        scatter = np.full(len(self.seen), np.inf)
        scatter[self.seen] = np.sqrt(left)
        return Eigenspectra(
            z_low=float("nan"),
            z_high=float("nan"),
            first_pixel=0,
            mean=self._everywhere(pca.mean_[None])[0],
            components=self._everywhere(pca.components_),
            variance=pca.explained_variance_.astype(np.float32),
            scatter=scatter.astype(np.float32),
            coefficients=np.zeros((0, self.n_components), dtype=np.float32),
        )

    def _everywhere(self, curves: Array) -> Floats:
        """Curves on the learned pixels, continued to all pixels."""
        at = np.flatnonzero(self.seen)
        return np.stack([np.interp(np.arange(len(self.seen)), at, curve) for curve in curves]).astype(np.float32)
