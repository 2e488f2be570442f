"""Absorbers of known redshift, equivalent width and velocity structure, put into spectra: for training, the demo and completeness.

An absorber is one or more clouds. Each has a Gaussian optical depth τ(v) = τ₀ exp(-(v - v_c)²/b²); all lines of an ion share v_c and b,
and the τ₀ of two lines stand as f λ N (Spitzer 1978, eq. 3-48), so the doublet ratio follows from the curve of growth instead of being
chosen: 2 where thin, 1 where saturated. Natural damping is left out: at the resolution of 69 km/s and below N ~ 1e20 it changes nothing.

Velocities are v = c ln(λ/λ₀), in which the log-λ lattice is linear. Everything is elementwise per absorber, so a spectrum is the same, to
the last bit, in whatever batch it is computed. Injected redshifts avoid nothing: not each other, not masked pixels, not absorbers that a
real spectrum already has. What cannot be found is part of the completeness that is measured with them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, pdtr

from nalspark.compiled import compiled
from nalspark.incidence import PublishedLaw, frequency_law
from nalspark.lines import COLUMN_OFFSETS, MG_II, OUR_GALAXY, SPEED_OF_LIGHT_KMS, LineSpecies, Transition
from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

CLUSTER_KMS = (400.0, 2000.0)  #: how far apart neighbours are; nearer ones are one absorber
SUBPIXELS = 10  #: samples per lattice pixel (6.9 km/s) on which optical depths are evaluated
_KERNEL_SIGMAS = 5.0  #: where the instrument's Gaussian is cut
_NEGLIGIBLE_TAU = 1e-7  #: where a cloud's optical depth is cut
_LOG_TAU_RANGE = (-4.0, 5.0)  #: within which τ₀ is solved for
_INTEGRATION_POINTS = 501
#: Variance of the equivalent width of a Gaussian line fitted with free width, over that of a line of known shape.
FREE_WIDTH_VARIANCE = 1.5
_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True)
class Population:
    """From what absorbers are drawn.

    Attributes
    ----------
    counts : tuple of float
        Probability of 0, 1, 2, … absorbers in a spectrum.
        Its length also bounds how many there are where `incidence` decides.
    ew_law : str
        ``exponential``: dN/dW ∝ exp(-W / ew_scale) (Nestor et al. 2005, §4: W* = 0.702 Å for Mg II); ``log-uniform``: flat in log W;
        ``published``: exponential with the scale of the species' law (:func:`nalspark.incidence.frequency_law`), that of Mg II grows with
        redshift; ``empirical``: as `ew_sample`.
    ew_scale, ew_min, ew_max : float
        Å, rest frame, first line of the doublet.
    ew_sample : tuple of float
        Equivalent widths of a catalogue, or their quantiles, for the empirical law.
    incidence : float
        Where positive, absorbers are as many as the species' law has above ew_min, times this, at redshifts that follow it; `counts` then
        only bounds their number. Where 0, `counts` decides, and redshifts are uniform.
    fwhm_angstrom : tuple of (mean, standard deviation)
        Where given, an absorber is one cloud whose line, seen through the instrument, has a FWHM drawn from this normal distribution, Å in
        the rest frame (Zhao et al. 2019, §2.4: 1.7 ± 0.7).
    blue_margin_z : float
        The blue end of the window is taken at z_qso + this.
    red_margin_z : float
        Absorbers lie at least this below z_qso; where negative, some lie above it.
    b_kms : tuple of float
        Range of a cloud's Doppler parameter, km/s. Where the width asked for cannot be reached with `tau_max`, b and spread are stretched
        together.
    spread_kms : float
        Typical velocity dispersion of the clouds of a 1 Å absorber, km/s; grows with W.
    tau_max : float
        Largest central optical depth of the first line.
    """

    counts: tuple[float, ...] = (0.5, 0.3, 0.15, 0.05)
    ew_law: Literal["exponential", "log-uniform", "published", "empirical"] = "exponential"
    ew_scale: float = 0.702
    ew_min: float = 0.3
    ew_max: float = 6.0
    ew_sample: tuple[float, ...] = ()
    incidence: float = 0.0
    fwhm_angstrom: tuple[float, float] | None = None
    blue_margin_z: float = 0.02
    red_margin_z: float = 0.04
    b_kms: tuple[float, float] = (15.0, 60.0)
    spread_kms: float = 75.0
    tau_max: float = 60.0

    #: Most clouds of one absorber.
    MAX_CLOUDS = 4

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 0 or not np.isclose(sum(self.counts), 1.0):
            raise ValueError(f"counts = {self.counts} are not probabilities of 0, 1, 2, … absorbers: they must add up to 1")
        if not 0 < self.ew_min < self.ew_max:
            raise ValueError(f"ew_min = {self.ew_min}, ew_max = {self.ew_max}: expected 0 < ew_min < ew_max")
        if self.ew_law == "empirical" and len(self.ew_sample) < 2:
            raise ValueError("the empirical law needs a sample of equivalent widths: ew_sample is empty")


#: The recipe of Zhao et al. 2019, §2.4: one absorber in every other spectrum, one Gaussian cloud of one distribution of widths.
ZHAO_2019 = Population(counts=(0.5, 0.5), fwhm_angstrom=(1.7, 0.7))
#: For completeness: as many weak as strong absorbers, one in nearly every spectrum.
LOG_UNIFORM = Population(counts=(0.0, 0.8, 0.15, 0.05), ew_law="log-uniform", ew_min=0.2, ew_max=5.0)


@dataclass(frozen=True)
class Absorbers:
    """`k` absorbers of up to `c` clouds, of a species with `t` transitions.

    Attributes
    ----------
    spectrum : ndarray of int, shape (k,), row of the spectrum in its batch
    z : ndarray, shape (k,), redshift of the centroid of the first line of the doublet
    tau : ndarray, shape (k, c), central optical depth of each cloud in the first line; 0: no such cloud
    b_kms, velocity_kms : ndarray, shape (k, c), km/s
    relative_tau : ndarray, shape (k, t), optical depth of ``species.transitions`` over that of the first line of the doublet
    ew_primary, ew_secondary : ndarray, shape (k,), rest equivalent widths in Å, integrated before the instrument
    sigma_kms : ndarray, shape (k,), root of the second moment of the first line's absorption before the instrument, km/s
    """

    spectrum: NDArray[np.int64]
    z: Array
    tau: Array
    b_kms: Array
    velocity_kms: Array
    relative_tau: Array
    ew_primary: Array
    ew_secondary: Array
    sigma_kms: Array

    def __len__(self) -> int:
        return len(self.z)

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_] | slice, spectrum: NDArray[np.int64] | None = None) -> Absorbers:
        """Take some of the absorbers, by number or mask; `spectrum` gives them new rows."""
        parts = {field.name: getattr(self, field.name)[which] for field in fields(self)}
        return Absorbers(**parts if spectrum is None else {**parts, "spectrum": spectrum})


def seeded_generator(*key: int | str) -> np.random.Generator:
    """Make a random generator that depends on `key` alone: on a seed and the names of a thing, never on an order of work."""
    digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype="<u8")))


def redshift_limits(species: LineSpecies, z_qso: ArrayLike, wavelength_range: ArrayLike, population: Population) -> tuple[Array, Array]:
    """Compute the absorption redshifts at which a spectrum could show the doublet.

    Parameters
    ----------
    z_qso : array_like, shape (n,)
    wavelength_range : array_like, shape (2,) or (n, 2)
        First and last wavelength of the spectrum, Å, observed.

    Returns
    -------
    z_low, z_high : ndarray, shape (n,)
        Equal where there is no such redshift.
    """
    z_qso, (first, last) = np.asarray(z_qso, dtype=float), np.moveaxis(np.asarray(wavelength_range, dtype=float), -1, 0)
    room = 1.002  # 600 km/s, so that the whole line is inside the spectrum
    wave_low = np.maximum(species.window_rest[0] * (1 + z_qso + population.blue_margin_z), first * room)
    z_low = np.maximum(wave_low / species.primary.wavelength - 1, OUR_GALAXY)
    z_high = np.minimum(z_qso - population.red_margin_z, last / room / species.secondary.wavelength - 1)
    return z_low, np.maximum(z_low, z_high)


def uniforms_per_spectrum(species: LineSpecies, population: Population) -> int:
    """Count the random numbers that :func:`draw` needs for one spectrum."""
    each = 3 + 4 * population.MAX_CLOUDS + len(_companion_ions(species)) + (species.bare > 0) + 2 * (species.clustered > 0)
    return 1 + (len(population.counts) - 1) * each


def draw(species: LineSpecies, population: Population, uniforms: NDArray[np.float64], limits: tuple[ArrayLike, ArrayLike]) -> Absorbers:
    """Draw absorbers for a batch of spectra.

    Parameters
    ----------
    uniforms : ndarray, shape (n, :func:`uniforms_per_spectrum`)
        Random numbers in [0, 1), one row per spectrum, from that spectrum's own generator.
    limits : pair of array_like, shape (n,)
        Lowest and highest redshift, from :func:`redshift_limits`; drawn uniformly between. Where they are equal nothing is drawn.

    Returns
    -------
    Absorbers
        Sorted by spectrum.
    """
    z_low, z_high = (np.asarray(limit, dtype=float) for limit in limits)
    most = len(population.counts) - 1
    law = frequency_law(species)
    count = _draw_counts(population, law, uniforms[:, 0], z_low, z_high)
    wanted = (np.arange(most) < count[:, None]) & (z_high > z_low)[:, None]
    spectrum, _ = np.nonzero(wanted)
    u = uniforms[:, 1:].reshape(len(uniforms), most, (uniforms.shape[1] - 1) // max(most, 1))[wanted]
    z = _draw_redshift(population, law, u[:, 1], z_low[spectrum], z_high[spectrum])
    if species.clustered:
        z = _clustered(z, spectrum, u[:, -2] < species.clustered, u[:, -1]).clip(z_low[spectrum], z_high[spectrum])
        u = u[:, :-2]
    ew = _draw_equivalent_width(population, law, u[:, 0], z)
    clouds, columns = _draw_clouds(population, ew, u[:, 2:]), u[:, 3 + 4 * population.MAX_CLOUDS :]
    tau = _draw_relative_tau(species, columns)
    return make_absorbers(species, z, ew, _stretch(species.primary, ew, population.tau_max, clouds), relative_tau=tau, spectrum=spectrum)


@dataclass(frozen=True)
class Clouds:
    """The velocity structure of `k` absorbers: arrays of shape (k, c). `weight` is a cloud's optical depth relative to the strongest; 0:
    absent.
    """

    b_kms: Array
    velocity_kms: Array
    weight: Array

    @classmethod
    def single(cls, b_kms: ArrayLike) -> Clouds:
        """Make one cloud per absorber, b_kms of shape (k,)."""
        b = np.atleast_1d(np.asarray(b_kms, dtype=float))[:, None]
        return cls(b, np.zeros_like(b), np.ones_like(b))


def make_absorbers(
    species: LineSpecies,
    z: ArrayLike,
    ew: ArrayLike,
    clouds: Clouds,
    *,
    relative_tau: Array | None = None,
    spectrum: ArrayLike | None = None,
) -> Absorbers:
    """Make absorbers of given equivalent widths; z becomes the centroid of the first line.

    Parameters
    ----------
    z, ew : array_like, shape (k,)
        Redshift, and rest equivalent width of the first line of the doublet in Å.
    relative_tau : ndarray, shape (k, t), optional
        As in :class:`Absorbers`; by default the doublet alone is injected.
    spectrum : array_like of int, shape (k,), optional
        Row of the spectrum that gets it; by default its own, 0 … k-1.

    Raises
    ------
    ValueError
        Where no optical depth gives the equivalent width: the clouds are too narrow.
    """
    redshift = _vector(z)
    tau = solve_tau(species.primary, ew, clouds)[:, None] * clouds.weight
    velocity = clouds.velocity_kms - _moments(tau, clouds.b_kms, clouds.velocity_kms)[0][:, None]
    if relative_tau is None:
        relative_tau = np.broadcast_to(_doublet_tau(species), (len(redshift), len(species.transitions)))
    ratio = relative_tau[:, species.transitions.index(species.secondary)][:, None]
    return Absorbers(
        spectrum=np.arange(len(redshift)) if spectrum is None else np.atleast_1d(np.asarray(spectrum, dtype=np.int64)),
        z=redshift,
        tau=tau,
        b_kms=clouds.b_kms,
        velocity_kms=velocity,
        relative_tau=relative_tau,
        ew_primary=equivalent_width(species.primary, tau, clouds.b_kms, velocity),
        ew_secondary=equivalent_width(species.secondary, tau * ratio, clouds.b_kms, velocity),
        sigma_kms=_moments(tau, clouds.b_kms, velocity)[1],
    )


def equivalent_width(line: Transition, tau: Array, b_kms: Array, velocity_kms: Array) -> Array:
    """Compute the rest equivalent width W = ∫ (1 - exp(-τ)) dλ in Å of clouds of shape (k, c); shape (k,)."""
    v, dv = _velocity_samples(b_kms, velocity_kms)
    return _width_of(line, _optical_depth(v, tau, b_kms, velocity_kms), v, dv)


def solve_tau(line: Transition, ew: ArrayLike, clouds: Clouds) -> Array:
    """Solve for the central optical depth of the strongest cloud that gives a rest equivalent width: W grows with it, so bisect.

    Parameters
    ----------
    ew : array_like, shape (k,), Å

    Returns
    -------
    ndarray, shape (k,)

    Raises
    ------
    ValueError
        Where even τ₀ = 1e5 is too weak.
    """
    wanted = _vector(ew)
    v, dv = _velocity_samples(clouds.b_kms, clouds.velocity_kms)
    shape = _optical_depth(v, clouds.weight, clouds.b_kms, clouds.velocity_kms)
    low, high = (np.full(len(wanted), limit) for limit in _LOG_TAU_RANGE)
    too_wide = _width_of(line, 10.0 ** high[:, None] * shape, v, dv) < wanted
    if too_wide.any():
        raise ValueError(f"no optical depth gives W = {wanted[too_wide][0]:.3g} Å in {line}: the clouds are too narrow for it")
    for _ in range(40):  # 9 dex / 2^40: 2e-11 in relative optical depth
        middle = 0.5 * (low + high)
        short = _width_of(line, 10.0 ** middle[:, None] * shape, v, dv) < wanted
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return 10.0 ** (0.5 * (low + high))


def transmission(
    absorbers: Absorbers, species: LineSpecies, grid: WavelengthGrid, n_spectra: int, instrument_sigma_kms: float = 69.03
) -> Array:
    """Compute what the absorbers leave of the light, seen through the instrument and averaged in pixels.

    Optical depths of all lines are added on a lattice ten times finer, so blends are right; exp(-τ) is convolved with the instrument's
    Gaussian and with the pixel. Only windows around the lines are evaluated.

    Parameters
    ----------
    grid : WavelengthGrid
        p pixels.
    instrument_sigma_kms : float
        Gaussian σ of the instrument; 69.03 km/s is one SDSS pixel.

    Returns
    -------
    ndarray, shape (n_spectra, p)
        1 where there is no line.
    """
    result = np.ones((n_spectra, grid.n_pixels))
    if len(absorbers) == 0:
        return result
    kernel = _pixel_kernel(instrument_sigma_kms / grid.pixel_kms)
    reach = (len(kernel) // SUBPIXELS - 1) // 2
    extent = _extents(absorbers.tau * np.maximum(absorbers.relative_tau.max(axis=1), 1.0)[:, None], absorbers.b_kms, absorbers.velocity_kms)
    half = int(np.ceil(extent.max() / grid.pixel_kms)) + 1
    window = _Windows(grid, half + reach, reach)
    rows, compact = np.unique(absorbers.spectrum, return_inverse=True)
    tau = np.zeros((len(rows), window.fine_length))
    for number, line in enumerate(species.transitions):
        near, fine, v = window.samples(line, absorbers.z)
        depth = absorbers.relative_tau[near, number, None] * absorbers.tau[near]
        profile = _optical_depth(v, depth, absorbers.b_kms[near], absorbers.velocity_kms[near])
        # Each absorber is cut at its own extent, not at the widest one's: its neighbours in the batch must not matter.
        _add(tau, compact[near], fine[:, 0], np.where(np.abs(v) <= extent[near, None], profile, 0.0))
    for line in species.transitions:
        near, fine, _ = window.samples(line, absorbers.z)
        absorbed = _convolve(-np.expm1(-tau[compact[near, None], fine]), kernel)
        pixel = window.pixels(line, absorbers.z)[near]
        inside = (pixel >= 0) & (pixel < grid.n_pixels)
        row = np.broadcast_to(absorbers.spectrum[near, None], pixel.shape)
        result[row[inside], pixel[inside]] = 1.0 - absorbed[inside]
    return result


@compiled
def _add(total: Array, row: NDArray[np.int64], start: NDArray[np.int64], values: Array) -> None:
    """Add windows `values` (m, s) to rows of `total`, from the columns `start` on, one after the other."""
    for k in range(len(values)):
        for sample in range(values.shape[1]):
            total[row[k], start[k] + sample] += values[k, sample]


def line_snr(absorbers: Absorbers, species: LineSpecies, grid: WavelengthGrid, weight: Array, instrument_sigma_kms: float = 69.03) -> Array:
    """Compute W / σ_W of each line of the doublet, σ_W being the error of a fit with free width: √(Σ w m² / 1.5), m what it absorbs.

    A matched filter of the line's own shape has √(Σ w m²). Where amplitude A and width s of a Gaussian are both fitted, the variance of
    their product A s is 3/2 of that (from the inverse of the Fisher matrix of A and s), and W / σ_W is what catalogues call significance.

    Parameters
    ----------
    weight : ndarray, shape (n, p)
        Inverse variance of flux/continuum in every spectrum; 0 where masked.

    Returns
    -------
    ndarray, shape (k, 2)
        Of the first and the second line of every absorber.
    """
    result = np.zeros((len(absorbers), 2))
    each = absorbers.take(slice(None), np.arange(len(absorbers)))
    for column, line in enumerate((species.primary, species.secondary)):
        only = np.array([other == line for other in species.transitions])
        one = replace(each, relative_tau=np.where(only, each.relative_tau, 0.0))
        absorbed = 1.0 - transmission(one, species, grid, len(each), instrument_sigma_kms)
        result[:, column] = np.sqrt((weight[absorbers.spectrum] * absorbed**2).sum(axis=1) / FREE_WIDTH_VARIANCE)
    return result


class _Windows:
    """Index arithmetic of the windows around lines, on the pixels and on the finer, padded lattice."""

    def __init__(self, grid: WavelengthGrid, half: int, reach: int) -> None:
        self.grid, self.half, self.reach = grid, half, reach
        self.pad = 2 * half + reach
        self.fine_length = (grid.n_pixels + 2 * self.pad) * SUBPIXELS

    def _centre(self, line: Transition, z: Array) -> tuple[Array, NDArray[np.int64]]:
        centre = self.grid.pixel(line.wavelength * (1 + z))
        return centre, np.floor(centre + 0.5).astype(np.int64)

    def pixels(self, line: Transition, z: Array) -> NDArray[np.int64]:
        """Pixels of the window, shape (k, 2 half + 1); some may be outside the grid."""
        return self._centre(line, z)[1][:, None] + np.arange(-self.half, self.half + 1)

    def samples(self, line: Transition, z: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """Absorbers whose line touches the grid, (m,); their samples on the fine lattice and the samples' velocities, (m, s)."""
        centre, nearest = self._centre(line, z)
        near = np.flatnonzero((nearest >= -self.half) & (nearest < self.grid.n_pixels + self.half))
        start = (nearest[near] - self.half - self.reach + self.pad) * SUBPIXELS
        fine = start[:, None] + np.arange((2 * (self.half + self.reach) + 1) * SUBPIXELS)
        # A pixel reaches half a pixel to both sides of its centre. The padding, which differs from batch to batch, is taken off while
        # numbers are whole: rounding must not depend on it.
        position = (fine - self.pad * SUBPIXELS + 0.5) / SUBPIXELS - 0.5
        return near, fine, (position - centre[near, None]) * self.grid.pixel_kms


def _pixel_kernel(sigma_pixels: float) -> Array:
    """Weights with which fine samples make one pixel: the instrument's Gaussian convolved with the pixel's box; an odd number of whole
    pixels.
    """
    reach = int(np.ceil(_KERNEL_SIGMAS * sigma_pixels))
    offset = np.arange(-reach * SUBPIXELS, reach * SUBPIXELS + 1) / SUBPIXELS
    gauss = np.exp(-0.5 * (offset / sigma_pixels) ** 2) if sigma_pixels > 0 else np.ones(1)
    kernel = np.convolve(gauss, np.ones(SUBPIXELS))
    return kernel / kernel.sum()


def _convolve(samples: Array, kernel: Array) -> Array:
    """Fine samples (k, (w + 2 reach) SUBPIXELS) to pixels (k, w). A sum over taps, not a matrix product, whose last bit depends on k."""
    width = samples.shape[1] // SUBPIXELS - (len(kernel) // SUBPIXELS - 1)
    by_phase = np.ascontiguousarray(samples.reshape(len(samples), samples.shape[1] // SUBPIXELS, SUBPIXELS).transpose(2, 0, 1))
    total = np.zeros((len(samples), width))
    for tap, weight in enumerate(kernel):
        shift, phase = divmod(tap, SUBPIXELS)
        total += weight * by_phase[phase, :, shift : shift + width]
    return total


def _optical_depth(v: Array, tau: Array, b_kms: Array, velocity_kms: Array) -> Array:
    """Σ over clouds of τ₀ exp(-(v - v_c)²/b²); v of shape (k, s), clouds (k, c), result (k, s)."""
    total = np.zeros_like(v)
    for cloud in range(tau.shape[1]):
        x = (v - velocity_kms[:, cloud, None]) / b_kms[:, cloud, None]
        total += tau[:, cloud, None] * np.exp(-x * x)
    return total


def _extents(tau: Array, b_kms: Array, velocity_kms: Array) -> Array:
    """Velocity beyond which every cloud is negligible, shape (k,), km/s."""
    reach = np.sqrt(np.log(np.maximum(tau, _NEGLIGIBLE_TAU * np.e) / _NEGLIGIBLE_TAU))
    return np.where(tau > 0, np.abs(velocity_kms) + reach * b_kms, 0.0).max(axis=1)


def _velocity_samples(b_kms: Array, velocity_kms: Array) -> tuple[Array, Array]:
    """Velocities that cover the clouds at any optical depth to be solved for, (k, s), and their spacing (k, 1), km/s."""
    extent = _extents(np.full_like(b_kms, 10.0 ** _LOG_TAU_RANGE[1]), b_kms, velocity_kms)[:, None]
    return extent * np.linspace(-1.0, 1.0, _INTEGRATION_POINTS), extent * (2.0 / (_INTEGRATION_POINTS - 1))


def _width_of(line: Transition, optical_depth: Array, v: Array, dv: Array) -> Array:
    """∫ (1 - exp(-τ)) dλ with λ = λ₀ exp(v/c): the sum is exact to the tails, which are negligible at both ends."""
    element = line.wavelength * np.exp(v / SPEED_OF_LIGHT_KMS) * (dv / SPEED_OF_LIGHT_KMS)
    return np.sum(-np.expm1(-optical_depth) * element, axis=1)


def _moments(tau: Array, b_kms: Array, velocity_kms: Array) -> tuple[Array, Array]:
    """Mean velocity and dispersion of the absorbed light, each (k,), km/s."""
    v, _ = _velocity_samples(b_kms, velocity_kms)
    absorbed = -np.expm1(-_optical_depth(v, tau, b_kms, velocity_kms))
    total = absorbed.sum(axis=1)
    mean = (absorbed * v).sum(axis=1) / total
    return mean, np.sqrt((absorbed * (v - mean[:, None]) ** 2).sum(axis=1) / total)


@lru_cache(maxsize=8)
def _cumulative_incidence(law: PublishedLaw, ew_min: float) -> tuple[Array, Array]:
    """Redshifts, and how many absorbers lie below each."""
    z = np.linspace(0.0, 6.0, 6001)
    rate = law.rate(z, ew_min)
    return z, np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(z))])


def _draw_counts(population: Population, law: PublishedLaw, u: Array, z_low: Array, z_high: Array) -> NDArray[np.int64]:
    """How many absorbers each spectrum gets."""
    most = len(population.counts) - 1
    if not population.incidence:
        return np.searchsorted(np.cumsum(population.counts), u * (1 - 1e-12), side="right").clip(max=most)
    z, below = _cumulative_incidence(law, population.ew_min)
    expected = population.incidence * (np.interp(z_high, z, below) - np.interp(z_low, z, below))
    return (u[:, None] >= pdtr(np.arange(most), expected[:, None])).sum(axis=1)


def _draw_redshift(population: Population, law: PublishedLaw, u: Array, z_low: Array, z_high: Array) -> Array:
    if not population.incidence:
        return z_low + u * (z_high - z_low)
    z, below = _cumulative_incidence(law, population.ew_min)
    first, last = np.interp(z_low, z, below), np.interp(z_high, z, below)
    return np.interp(first + u * (last - first), below, z)


def _clustered(z: Array, spectrum: NDArray[np.int64], near: NDArray[np.bool_], u: Array) -> Array:
    """Redshifts, some of which lie within :data:`CLUSTER_KMS` of the one before in the same spectrum."""
    z, speed = z.copy(), np.where(u < 0.5, -1.0, 1.0) * (CLUSTER_KMS[0] + np.abs(2.0 * u - 1.0) * (CLUSTER_KMS[1] - CLUSTER_KMS[0]))
    for k in np.flatnonzero(near[1:] & (spectrum[1:] == spectrum[:-1])) + 1:
        z[k] = (1.0 + z[k - 1]) * np.exp(speed[k] / SPEED_OF_LIGHT_KMS) - 1.0
    return z


def _draw_equivalent_width(population: Population, law: PublishedLaw, u: Array, z: Array) -> Array:
    """Inverse of the cumulative distribution between ew_min and ew_max."""
    if population.ew_law == "log-uniform":
        return population.ew_min * (population.ew_max / population.ew_min) ** u
    if population.ew_law == "empirical":
        return np.quantile(population.ew_sample, u).clip(population.ew_min, population.ew_max)
    scale = law.w_star(z) if population.ew_law == "published" else population.ew_scale
    tail = np.exp(-(population.ew_max - population.ew_min) / scale)
    return population.ew_min - scale * np.log1p(-u * (1 - tail))


def _draw_clouds(population: Population, ew: Array, u: Array) -> Clouds:
    """Clouds of absorbers: stronger systems have more of them, spread further (Churchill et al. 2000, §4).

    `u` holds a spread, then for every cloud its presence, b, velocity and weight.
    """
    if population.fwhm_angstrom is not None:
        return _single_clouds(population.fwhm_angstrom, u[:, 0])
    c = population.MAX_CLOUDS
    presence, b, velocity, weight = (u[:, 1 + i * c : 1 + (i + 1) * c] for i in range(4))
    probability = np.broadcast_to((ew / (ew + 1.0))[:, None], presence.shape).copy()
    probability[:, 0] = 1.0  # the first is always there
    present = presence < probability
    spread = population.spread_kms * ew**0.5 * np.exp(0.3 * ndtri(_open(u[:, 0])))
    low, high = population.b_kms
    relative = np.where(present, 10.0 ** (0.3 * ndtri(_open(weight))), 0.0)
    return Clouds(
        b_kms=low + (high - low) * b**2,  # most clouds are narrow, so that lines are saturated though they look shallow
        velocity_kms=np.where(present, spread[:, None] * ndtri(_open(velocity)).clip(-1.5, 1.5), 0.0),
        weight=relative / relative.max(axis=1, keepdims=True),
    )


def _single_clouds(fwhm: tuple[float, float], u: Array) -> Clouds:
    """One cloud each whose weak Mg II line has the drawn FWHM after an instrument of one SDSS pixel; 10 km/s where that is narrower."""
    observed = (fwhm[0] + fwhm[1] * ndtri(_open(u))) / MG_II.primary.wavelength * SPEED_OF_LIGHT_KMS / _FWHM_PER_SIGMA
    sigma = np.sqrt(np.maximum(observed, 0.0) ** 2 - 69.03**2, where=observed > 69.03, out=np.zeros_like(observed))
    return Clouds.single(np.maximum(np.sqrt(2.0) * sigma, 10.0))


def _stretch(line: Transition, ew: Array, tau_max: float, clouds: Clouds) -> Clouds:
    """Clouds stretched in velocity where `tau_max` does not give the equivalent width: W scales with the stretch."""
    reachable = equivalent_width(line, tau_max * clouds.weight, clouds.b_kms, clouds.velocity_kms)
    factor = np.maximum(1.0, ew / reachable)[:, None]
    return Clouds(clouds.b_kms * factor, clouds.velocity_kms * factor, clouds.weight)


def _companion_ions(species: LineSpecies) -> list[str]:
    return sorted({line.ion for line in species.companions} - {species.primary.ion})


def _doublet_tau(species: LineSpecies) -> Array:
    """Optical depths of the transitions relative to the first line of the doublet, f λ over f λ; 0 for other ions. Shape (t,)."""
    first = species.primary
    own = [line.ion == first.ion for line in species.transitions]
    return np.array(own) * np.array([line.strength * line.wavelength for line in species.transitions]) / (first.strength * first.wavelength)


def _draw_relative_tau(species: LineSpecies, u: Array) -> Array:
    """Optical depths relative to the first line, with a column density of every companion ion drawn from :data:`COLUMN_OFFSETS`; (k, t)."""
    first = species.primary
    result = np.repeat(_doublet_tau(species)[None], len(u), axis=0)
    for number, ion in enumerate(_companion_ions(species)):
        offset = COLUMN_OFFSETS.get((first.ion, ion))
        if offset is None:
            continue
        column = 10.0 ** (offset[0] + offset[1] * ndtri(_open(u[:, number])))
        for index, line in enumerate(species.transitions):
            if line.ion == ion:
                result[:, index] = column * line.strength * line.wavelength / (first.strength * first.wavelength)
    if species.bare:
        others = np.array([line.ion != first.ion for line in species.transitions])
        result[np.ix_(u[:, -1] < species.bare, others)] = 0.0
    return result


def _vector(values: ArrayLike) -> Array:
    return np.atleast_1d(np.asarray(values, dtype=float))


def _open(u: Array) -> Array:
    """Uniforms kept off 0 and 1, where the normal quantile is infinite."""
    return np.clip(u, 1e-6, 1 - 1e-6)
