"""The best that any detector can do on artificial spectra: the likelihood ratio, marginalised over what is not known.

An artificial spectrum is ``x = C T + noise`` with a known continuum C and a known Gaussian σ per pixel. Either T = 1, or there is exactly
one strong absorber: its shape from a known population, its redshift uniform over the searched path. Then no test of the data is better
than a threshold on

    log mean over (shape, redshift) of  exp( Σ w (r m - m²/2) ),      r = 1 - x/C,  w = C²/σ²,  m = 1 - T

(Neyman & Pearson 1933), and with equal priors P(absorber | x) is its logistic function. On the log-λ lattice a shape only shifts with the
redshift, so the sums of all redshifts are correlations, computed by FFT. An absorber is strong where both lines of its doublet, each alone,
have a signal-to-noise ratio of 3 by :func:`nalspark.mocks.inject.line_snr`, ``sqrt(Σ w m_line² / FREE_WIDTH_VARIANCE)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from nalspark.lines import LineSpecies, Transition
from nalspark.mocks import inject
from nalspark.spectra.grid import WavelengthGrid

Floats = NDArray[np.float32]

#: Signal-to-noise ratio of both lines of a strong absorber (Zhao et al. 2019, §2.2).
STRONG = 3.0
#: Pixels of a template beyond its outermost lines: 2800 km/s.
_MARGIN = 40
#: Templates that are correlated together: what stays in the processor's cache.
_CHUNK = 32


@dataclass(frozen=True)
class Templates:
    """`k` line shapes on `q` lattice pixels.

    Attributes
    ----------
    absorbed : ndarray, shape (k, q)
        1 - T with all lines.
    primary, secondary : ndarray, shape (k, q)
        1 - T of one line of the doublet alone.
    origin : int
        Pixel at which the first line is centred, to within half a pixel.
    """

    absorbed: Floats
    primary: Floats
    secondary: Floats
    origin: int

    def __len__(self) -> int:
        return len(self.absorbed)


def _line_alone(absorbers: inject.Absorbers, species: LineSpecies, line: Transition) -> inject.Absorbers:
    only = np.array([transition == line for transition in species.transitions])
    return replace(absorbers, relative_tau=np.where(only, absorbers.relative_tau, 0.0))


def make_templates(
    absorbers: inject.Absorbers, species: LineSpecies, step_dex: float, instrument_sigma_kms: ArrayLike = 69.03
) -> Templates:
    """Absorbers as templates; each keeps its phase, the distance of its first line from the nearest lattice pixel's centre.

    Parameters
    ----------
    absorbers : Absorbers
        A sample of the population; their redshifts give the phases.
    instrument_sigma_kms : float or array_like, shape (k,)
        Gaussian σ of the instrument through which each is seen.
    """
    offsets = [species.offset_pixels(line, step_dex) for line in species.transitions]
    origin = _MARGIN - int(np.floor(min(offsets)))
    position = np.log10(species.primary.wavelength * (1.0 + absorbers.z)) / step_dex
    # Any redshift will do; at 1.5 the first line lies near lattice pixel 38445.
    grid = WavelengthGrid(38445 - origin, origin + int(np.ceil(max(offsets))) + _MARGIN + 1, step_dex)
    moved = grid.wavelength_at(origin + position - np.floor(position + 0.5)) / species.primary.wavelength - 1.0
    placed = replace(absorbers, z=moved, spectrum=np.arange(len(absorbers)))
    sigmas = np.broadcast_to(np.asarray(instrument_sigma_kms, dtype=float), len(absorbers))

    def absorbed(what: inject.Absorbers) -> Floats:
        result = np.zeros((len(what), grid.n_pixels), dtype=np.float32)
        for sigma in np.unique(sigmas):
            mine = np.flatnonzero(sigmas == sigma)
            some = what.take(mine, np.arange(len(mine)))
            result[mine] = 1.0 - inject.transmission(some, species, grid, len(mine), float(sigma))
        return result

    primary, secondary = (absorbed(_line_alone(placed, species, line)) for line in (species.primary, species.secondary))
    return Templates(absorbed(placed), primary, secondary, origin)


def draw_strong(
    species: LineSpecies,
    population: inject.Population,
    grid: WavelengthGrid,
    weight: Floats,
    searched: NDArray[np.bool_],
    *,
    generators: Sequence[np.random.Generator],
    strong: float = STRONG,
    most_tries: int = 1000,
) -> inject.Absorbers:
    """One strong absorber for each spectrum: from the population and uniform over the searched path, drawn again until it is strong.

    Parameters
    ----------
    population : Population
        With one absorber in every spectrum: ``counts=(0, 1)``.
    weight : ndarray, shape (n, p)
        (continuum / σ)², 0 where masked.
    searched : ndarray of bool, shape (n, p)
        Pixels at which the first line may be centred.
    generators : sequence of n random generators
        Each spectrum's own, so that its absorber does not depend on the others.
    strong : float
        Signal-to-noise ratio that both lines need.

    Returns
    -------
    Absorbers
        Sorted by spectrum; none for a spectrum in which no absorber of `most_tries` was strong.
    """
    size, inverse_variance = inject.uniforms_per_spectrum(species, population), np.asarray(weight, dtype=float)
    low, high = _redshift_ends(species, grid, searched)
    waiting, found = np.flatnonzero(high > low), []
    for _ in range(most_tries):
        uniforms = np.stack([generators[row].random(size) for row in waiting]) if len(waiting) else np.zeros((0, size))
        tried = inject.draw(species, population, uniforms, (low[waiting], high[waiting]))
        tried = replace(tried, spectrum=waiting[tried.spectrum])
        pixel = np.rint(grid.pixel(species.primary.wavelength * (1.0 + tried.z))).astype(int)
        taken = searched[tried.spectrum, np.clip(pixel, 0, grid.n_pixels - 1)]
        taken[taken] = (inject.line_snr(tried.take(taken), species, grid, inverse_variance) >= strong).all(axis=1)
        found.append(tried.take(taken))
        waiting = waiting[~taken]
        if not len(waiting):
            break
    together = inject.Absorbers(*(np.concatenate([getattr(part, field.name) for part in found]) for field in fields(inject.Absorbers)))
    return together.take(np.argsort(together.spectrum, kind="stable"))


def _redshift_ends(species: LineSpecies, grid: WavelengthGrid, searched: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
    """Redshifts of the outer edges of the searched pixels, (n,) each; equal where there are none."""
    first, last = searched.argmax(axis=1), grid.n_pixels - searched[:, ::-1].argmax(axis=1)
    ends = [grid.wavelength_at(edge - 0.5) / species.primary.wavelength - 1.0 for edge in (first, last)]
    return ends[0], np.where(searched.any(axis=1), ends[1], ends[0])


def ideal_log_ratio(
    residual: Floats,
    weight: Floats,
    searched: NDArray[np.bool_],
    templates: Templates,
    step_dex: float,
    *,
    strong: float = STRONG,
    redrawn: bool = True,
) -> NDArray[np.float64]:
    """Log likelihood ratio of "one strong absorber" to "none" for each spectrum.

    Parameters
    ----------
    residual : ndarray, shape (n, p)
        1 - flux/continuum with the true continuum; any finite number where masked.
    weight : ndarray, shape (n, p)
        (continuum / σ)² with the true σ; 0 where masked.
    searched : ndarray of bool, shape (n, p)
        Pixels at which the first line may be centred.
    templates : Templates
        A sample of the population. It is the sample's mean that is taken: the more, the nearer to the population's.
    step_dex : float
        Dex of wavelength per pixel: equal steps of redshift are wavelength-weighted pixels.
    strong : float
        Signal-to-noise ratio that both lines need. A template at a redshift where this spectrum shows it weaker does not count.
    redrawn : bool
        How strong absorbers came about. True: drawn again until strong, so that every spectrum has one or none with equal odds. False: the
        spectra whose one absorber came out weak were left out, so that a noisy spectrum is more often one without; the ratio then has the
        probability of a strong absorber in it, and lacks a constant, the log of its mean.

    Returns
    -------
    ndarray, shape (n,)
        -inf where no template would be strong anywhere: such a spectrum has none.
    """
    n_pixels = residual.shape[1]
    bank = _Bank.of(templates, n_pixels)
    prior = 10.0 ** (step_dex * (np.arange(n_pixels) - n_pixels))
    result = np.full(len(residual), -np.inf)
    for row in np.flatnonzero(searched.any(axis=1)):
        signal = fft.rfft((residual[row] * weight[row]).astype(np.float32), bank.length)
        power = fft.rfft(weight[row].astype(np.float32), bank.length)
        total, norm = _log_sums(signal, power, bank, np.where(searched[row], prior, 0.0), strong)
        result[row] = total - np.log(norm if redrawn else len(templates) * prior[searched[row]].sum()) if norm > 0 else -np.inf
    return result


@dataclass(frozen=True)
class _Bank:
    """Conjugate Fourier transforms of m, -m²/2 and the lines' m², the first line at pixel 0 of a circle of `length` pixels."""

    length: int
    shape: NDArray[np.complex64]
    energy: NDArray[np.complex64]
    primary: NDArray[np.complex64]
    secondary: NDArray[np.complex64]

    @classmethod
    def of(cls, templates: Templates, n_pixels: int) -> _Bank:
        width = templates.absorbed.shape[1]
        length = fft.next_fast_len(n_pixels + max(templates.origin, width - templates.origin), real=True)
        length = max(length, width)

        def transform(values: Floats) -> NDArray[np.complex64]:
            circle = np.zeros((len(values), length), dtype=np.float32)
            circle[:, :width] = values
            return fft.rfft(np.roll(circle, -templates.origin, axis=1), axis=1).conj()

        m = templates.absorbed
        return cls(length, transform(m), transform(-0.5 * m**2), transform(templates.primary**2), transform(templates.secondary**2))


def _log_sums(signal: NDArray, power: NDArray, bank: _Bank, prior: NDArray[np.float64], strong: float) -> tuple[float, float]:
    """Over the strong (template, pixel) pairs of one spectrum: log Σ prior · likelihood ratio, and Σ prior; `prior` of shape (p,)."""
    first, last = np.flatnonzero(prior)[[0, -1]]
    prior = prior[first : last + 1]
    top, total, norm = -np.inf, 0.0, 0.0
    least = strong**2 * inject.FREE_WIDTH_VARIANCE

    def correlate(transformed: NDArray) -> Floats:
        return fft.irfft(transformed, bank.length, axis=1)[:, first : last + 1]

    for start in range(0, len(bank.shape), _CHUNK):
        some = slice(start, start + _CHUNK)
        counts = (correlate(power * bank.primary[some]) >= least) & (correlate(power * bank.secondary[some]) >= least)
        counts &= prior > 0
        if not counts.any():
            continue
        gain = correlate(signal * bank.shape[some] + power * bank.energy[some])[counts]
        weights = np.broadcast_to(prior, counts.shape)[counts]
        higher = max(top, float(gain.max()))
        total = total * np.exp(top - higher) + float((weights * np.exp(gain - higher)).sum())
        top, norm = higher, norm + float(weights.sum())
    return top + float(np.log(total)) if norm > 0 else -np.inf, norm
