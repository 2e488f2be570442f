"""A parametric quasar and a parametric spectrograph: spectra for demonstrations and tests that need no survey at hand.

Real enough that a method tuned on them does not fail on a survey for a silly reason: broad lines, iron, forest, a noise that follows the
sky. It is no substitute for real spectra: broad absorption, narrow associated systems, calibration residuals and correlated sky residuals
are missing. Absorbers are put in by ``nalspark.mocks.inject``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

BRIGHT_SKY_BIT = 23  #: BRIGHTSKY in SDSS's SPPIXMASK

#: Broad and narrow emission lines: name, rest wavelength (Å), rest equivalent width (Å), Gaussian σ (Å). Vanden Berk et al. 2001 (AJ 122,
#: 549), Table 2, rounded; strong broad lines are split into wings and core, since single quasars are more peaked than the composite.
EMISSION_LINES = (
    ("Lyβ", 1032.0, 10.0, 8.0), ("Lyα wings", 1216.3, 60.0, 22.0), ("Lyα core", 1216.3, 30.0, 7.0), ("N V", 1240.1, 12.0, 9.0),
    ("O I", 1305.4, 1.7, 5.4), ("C II", 1336.6, 0.7, 3.9), ("Si IV", 1398.3, 8.1, 14.3), ("C IV wings", 1546.2, 17.0, 17.0),
    ("C IV core", 1547.5, 9.0, 7.0), ("He II", 1637.8, 1.8, 8.0), ("O III]", 1664.7, 1.7, 8.0), ("N III]", 1750.0, 1.2, 12.0),
    ("Al III", 1857.8, 4.0, 12.0), ("C III] wings", 1904.0, 16.0, 25.0), ("C III] core", 1907.5, 6.0, 11.0),
    ("Mg II wings", 2799.1, 28.0, 37.0),
    ("Mg II core", 2799.1, 15.0, 15.0), ("[Ne V]", 3426.8, 0.6, 4.0), ("[O II]", 3729.0, 1.6, 3.3), ("[Ne III]", 3869.8, 1.4, 5.3),
    ("Hδ", 4102.7, 5.0, 18.6), ("Hγ", 4346.4, 17.0, 20.3), ("Hβ wings", 4862.0, 50.0, 42.0), ("Hβ core", 4862.0, 14.0, 16.0),
    ("[O III] 4960", 4960.4, 6.0, 4.5), ("[O III] 5008", 5008.2, 18.0, 5.5), ("He I", 5877.4, 4.9, 23.5), ("Hα wings", 6565.0, 100.0, 50.0),
    ("Hα core", 6565.0, 90.0, 19.0),
)  # fmt: skip

#: Blended Fe II, Fe III and Balmer continuum as bumps over the power law: rest wavelength, σ (Å), height relative to the power law.
#: Adjusted to the median composite of Vanden Berk et al. 2001.
IRON_BUMPS = (
    (1600.0, 35.0, 0.10), (1720.0, 60.0, 0.08), (1788.0, 12.0, 0.05), (2076.0, 45.0, 0.12), (2175.0, 50.0, 0.05), (2250.0, 45.0, 0.06),
    (2330.0, 35.0, 0.16), (2400.0, 35.0, 0.13), (2450.0, 30.0, 0.12), (2500.0, 35.0, 0.19), (2570.0, 35.0, 0.18), (2630.0, 30.0, 0.13),
    (2690.0, 30.0, 0.12), (2740.0, 25.0, 0.17), (2860.0, 30.0, 0.18), (2920.0, 40.0, 0.16), (2980.0, 40.0, 0.15), (3050.0, 50.0, 0.11),
    (3130.0, 45.0, 0.16), (3200.0, 45.0, 0.18), (3300.0, 60.0, 0.18), (3420.0, 70.0, 0.16), (3550.0, 80.0, 0.12), (3700.0, 80.0, 0.10),
    (3850.0, 90.0, 0.05), (4190.0, 60.0, 0.03), (4480.0, 40.0, 0.13), (4570.0, 50.0, 0.17), (4660.0, 50.0, 0.16), (5190.0, 55.0, 0.17),
    (5320.0, 55.0, 0.15),
)  # fmt: skip

#: Night-sky lines: vacuum wavelength (Å), and how many times the error at their peak exceeds its surroundings in a faint SDSS spectrum.
#: Wavelengths: Osterbrock et al. 1996 (PASP 108, 277); Hg and Na are the lamps of towns.
SKY_LINES = (
    (4047.7, 1.4), (4359.6, 2.0), (5462.3, 1.7), (5578.9, 10.0), (5690.5, 1.4), (5891.6, 2.5), (5897.6, 2.2), (6236.0, 1.2), (6258.9, 1.3),
    (6302.1, 2.8), (6308.3, 1.3), (6331.0, 1.3), (6365.5, 1.7), (6500.2, 1.3), (6555.3, 1.4), (6831.2, 1.5), (6836.0, 1.5), (6865.8, 1.8),
    (6891.0, 1.4), (6925.1, 1.6), (6951.0, 1.6), (6980.4, 1.4), (7243.5, 2.4), (7278.3, 2.7), (7286.3, 1.8), (7306.0, 1.5), (7318.3, 2.3),
    (7331.1, 1.7), (7342.9, 2.5), (7360.4, 1.7), (7371.5, 2.3), (7403.9, 1.9), (7440.2, 1.5), (7482.0, 1.5), (7526.0, 1.9), (7573.9, 1.7),
    (7601.5, 2.4), (7631.3, 1.8), (7716.4, 2.5), (7719.9, 2.5), (7752.8, 2.8), (7762.2, 1.7), (7782.5, 1.5), (7796.3, 2.5), (7810.6, 1.8),
    (7823.5, 2.7), (7843.4, 1.8), (7855.6, 2.8), (7861.8, 1.8), (7872.9, 1.9), (7892.2, 2.2), (7916.0, 3.0), (7923.1, 2.1), (7933.9, 1.8),
    (7952.0, 1.6), (7967.0, 2.6), (7982.0, 1.9), (7995.6, 2.7), (8016.6, 1.7), (8028.0, 2.5), (8064.4, 1.9), (8105.0, 1.4), (8190.2, 1.4),
    (8283.2, 2.4), (8290.8, 2.6), (8300.9, 2.9), (8313.1, 1.7), (8346.9, 4.5), (8354.4, 2.2), (8367.5, 1.7), (8384.9, 2.2), (8401.9, 3.6),
    (8417.6, 2.4), (8432.6, 4.2), (8454.7, 2.3), (8467.7, 3.5), (8495.7, 2.0), (8507.5, 2.7), (8541.0, 1.5), (8551.0, 1.8), (8599.8, 1.4),
    (8632.3, 2.3), (8658.0, 2.3), (8663.0, 2.3), (8668.0, 2.3), (8683.6, 1.7), (8763.9, 3.1), (8770.2, 3.7), (8780.5, 3.9), (8793.8, 2.1),
    (8829.5, 5.7), (8838.5, 3.2), (8852.8, 1.8), (8870.1, 2.7), (8888.4, 5.2), (8905.7, 2.9), (8922.7, 5.4), (8945.5, 2.8), (8960.5, 4.2),
    (8991.0, 2.7), (9003.9, 3.5), (9040.5, 1.9), (9051.9, 2.4), (9094.9, 1.6), (9105.4, 2.0), (9155.9, 1.5), (9164.3, 1.5), (9219.3, 1.4),
    (9227.8, 1.4), (9309.0, 5.3), (9315.9, 6.2), (9326.4, 6.2), (9340.5, 3.3), (9351.9, 1.6), (9378.5, 6.0), (9388.6, 1.9), (9406.0, 2.2),
    (9422.3, 3.0), (9442.3, 8.0), (9461.0, 4.1), (9479.5, 5.5), (9505.4, 3.4), (9522.0, 5.4), (9555.2, 2.8), (9570.2, 4.6), (9610.5, 2.1),
    (9623.3, 2.5), (9671.6, 2.2), (9682.8, 2.5), (9702.9, 2.7), (9723.0, 2.9), (9740.9, 2.1), (9793.3, 4.6), (9802.4, 2.4), (9851.4, 2.2),
    (9874.8, 4.7), (9896.9, 2.5), (9917.4, 4.2), (9949.5, 4.5), (9958.6, 3.8), (9974.7, 2.1), (10016.1, 5.3), (10027.7, 2.6),
    (10064.7, 1.9),
    (10085.6, 3.4), (10106.5, 2.0), (10127.4, 3.7), (10155.5, 2.2), (10174.2, 3.6), (10193.0, 2.6), (10211.7, 3.2), (10228.2, 2.2),
    (10289.6, 6.0),
)  # fmt: skip

#: Milky Way absorption: vacuum wavelength (Å), typical equivalent width (Å). Murga et al. 2015 (MNRAS 452, 511).
GALACTIC_LINES = ((3934.77, 0.20), (3969.59, 0.11), (5891.58, 0.20), (5897.56, 0.13))


@dataclass(frozen=True)
class Spectrograph:
    """What a survey's spectrograph does to a spectrum.

    Attributes
    ----------
    name, survey : str
        As SDSS writes them in INSTRUMENT and SURVEY.
    grid : WavelengthGrid
        The pixels of a typical spectrum.
    error_5200 : float
        Standard error of a pixel of a faint object at 5200 Å, 1e-17 erg/s/cm²/Å.
    shot : float
        Variance at 5200 Å added per unit of the object's own flux.
    noise_curve : tuple of (wavelength in Å, error relative to 5200 Å)
        Between the sky lines. The blue throughput, the dichroic at 6000 Å and the far red, as medians of faint public spectra, rounded.
    """

    name: str
    survey: str
    grid: WavelengthGrid
    error_5200: float
    shot: float
    noise_curve: tuple[tuple[float, float], ...]


BOSS = Spectrograph(
    name="BOSS",
    survey="boss",
    grid=WavelengthGrid(first=35535, n_pixels=4612),
    error_5200=0.35,
    shot=0.015,
    noise_curve=(
        (3550, 11.0), (3630, 8.0), (3715, 5.0), (3800, 3.3), (3900, 2.35), (4000, 2.05), (4200, 1.6), (4500, 1.35), (4800, 1.15),
        (5000, 1.03),
        (5300, 0.96), (5600, 0.98), (5800, 1.06), (5930, 1.13), (6060, 1.08), (6200, 0.98), (6320, 0.85), (6500, 0.75), (6800, 0.66),
        (7100, 0.62), (8000, 0.63), (9300, 0.63), (9500, 0.8), (9700, 0.92), (9900, 1.15), (10000, 1.35), (10150, 2.2), (10400, 4.5),
    ),
)  # fmt: skip
SDSS = Spectrograph(
    name="SDSS",
    survey="sdss",
    grid=WavelengthGrid(first=35805, n_pixels=3830),
    error_5200=1.0,
    shot=0.05,
    noise_curve=(
        (3780, 3.9), (3850, 2.9), (4000, 2.1), (4200, 1.65), (4500, 1.35), (4800, 1.15), (5000, 1.03), (5300, 0.96), (5600, 1.0),
        (5800, 1.1),
        (5930, 1.14), (6060, 0.92), (6200, 0.75), (6400, 0.6), (6600, 0.53), (7100, 0.51), (7500, 0.55), (8000, 0.62), (8500, 0.72),
        (8800, 0.9),
        (9000, 1.05), (9300, 1.35),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Observation:
    """One observed spectrum of p pixels, in 1e-17 erg/s/cm²/Å.

    Attributes
    ----------
    flux, ivar : ndarray of float32, shape (p,)
        ivar is what the pipeline claims: 0 where there is no data, somewhat too large on OH lines.
    sigma : ndarray, shape (p,)
        The standard deviation with which the noise was drawn.
    and_mask : ndarray of int32, shape (p,)
        Bit 23 at bright sky lines.
    sky : ndarray of float32, shape (p,)
        The sky's brightness that goes with the noise.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    sigma: Array
    and_mask: NDArray[np.int32]
    sky: NDArray[np.float32]


def draw_redshift(rng: np.random.Generator) -> float:
    """Draw a redshift between 0.3 and 3.5, most between 1.2 and 2.5, as in the SDSS quasar samples together."""
    return float(0.3 + 3.2 * rng.beta(2.6, 2.9))


def draw_snr(rng: np.random.Generator) -> float:
    """Draw a median signal-to-noise ratio per pixel: log-normal about 8, 5 to 95 %: 2.5 to 25."""
    return float(np.clip(8.0 * np.exp(0.7 * rng.standard_normal()), 1.0, 60.0))


def quasar_flux(grid: WavelengthGrid, z: float, rng: np.random.Generator) -> Array:
    """Compute a quasar without metal absorption, before the instrument: power law, emission lines, iron, Lyα forest, Galactic lines.

    Parameters
    ----------
    grid : WavelengthGrid
        p pixels.
    z : float
        Redshift.

    Returns
    -------
    ndarray, shape (p,)
        Positive, with median 1.
    """
    rest = grid.wavelength / (1 + z)
    flux = _power_law(rest, rng) * (1.0 + np.exp(0.4 * rng.standard_normal()) * _iron(rest) + _emission_lines(grid, z, rng))
    flux *= _forest(rest, z, rng)
    _add_galactic_lines(grid, flux, rng)
    return flux / np.median(flux)


def flux_for_snr(snr: float, spectrograph: Spectrograph) -> float:
    """Solve S² = snr² (σ_sky² + shot · S) for S: the median flux, 1e-17 erg/s/cm²/Å, at which the median pixel has this ratio."""
    relative = float(np.median(_noise(spectrograph, spectrograph.grid)[0]))
    shot, sky = spectrograph.shot * relative**2, (spectrograph.error_5200 * relative) ** 2
    return 0.5 * (snr**2 * shot + np.sqrt(snr**4 * shot**2 + 4 * snr**2 * sky))


def observe(flux: Array, spectrograph: Spectrograph, grid: WavelengthGrid, rng: np.random.Generator) -> Observation:
    """Simulate what the spectrograph records of a true flux.

    Parameters
    ----------
    flux : ndarray, shape (p,), 1e-17 erg/s/cm²/Å
    grid : WavelengthGrid
        Its pixels.
    """
    between, lines = _noise(spectrograph, grid)
    depth = np.exp(0.15 * rng.standard_normal())  # exposures are longer or shorter
    excess = np.exp(0.25 * rng.standard_normal()) * lines  # and the airglow brighter or fainter
    sky_variance = (depth * spectrograph.error_5200 * between) ** 2 * (1.0 + excess)
    claimed = np.sqrt(sky_variance + spectrograph.shot * between**2 * np.maximum(flux, 0.0))
    # Pipelines underrate the errors on OH lines: sky subtraction is not photon noise.
    on_lines = np.clip(excess / 4.0, 0.0, 1.0) * (grid.wavelength > 7200.0)
    sigma = claimed * (1.0 + 0.6 * rng.random() * on_lines)
    observed = flux + sigma * rng.standard_normal(grid.n_pixels)
    ivar = 1.0 / claimed**2
    ivar[bad_pixels(grid.n_pixels, rng)] = 0.0
    observed[ivar == 0] = 0.0
    return Observation(
        flux=observed.astype(np.float32),
        ivar=ivar.astype(np.float32),
        sigma=sigma,
        and_mask=np.where(excess > 2.0, 1 << BRIGHT_SKY_BIT, 0).astype(np.int32),
        sky=(25.0 * spectrograph.error_5200 * (1.0 + excess) * between**0.5 / 2.0).astype(np.float32),
    )


def _power_law(rest: Array, rng: np.random.Generator) -> Array:
    """f_λ ∝ λ^-1.56 below 5000 Å and λ^+0.45 above (Vanden Berk et al. 2001, §4.1), the blue slope with a scatter of 0.3."""
    slope = -1.56 + 0.3 * rng.standard_normal()
    x = np.log(rest / 5000.0)
    return np.exp(np.where(x < 0, slope, 0.45) * x)


@lru_cache(maxsize=1)
def _iron_template() -> tuple[Array, Array]:
    """ln λ and the bumps' sum relative to the power law."""
    wave = np.exp(np.linspace(np.log(700.0), np.log(11000.0), 8000))
    total = np.zeros_like(wave)
    for centre, sigma, height in IRON_BUMPS:
        total += height * np.exp(-0.5 * ((wave - centre) / sigma) ** 2)
    return np.log(wave), total


def _iron(rest: Array) -> Array:
    return np.interp(np.log(rest), *_iron_template())


def _emission_lines(grid: WavelengthGrid, z: float, rng: np.random.Generator) -> Array:
    """Emission relative to the power law, with widths and strengths scattered for the quasar as a whole and line by line."""
    total = np.zeros(grid.n_pixels)
    common_width, common_strength = np.exp(0.25 * rng.standard_normal()), np.exp(0.3 * rng.standard_normal())
    scatter = rng.standard_normal((len(EMISSION_LINES), 3))
    for (_, wave, ew, sigma), (strength, width, shift) in zip(EMISSION_LINES, scatter, strict=True):
        height = ew * common_strength * np.exp(0.25 * strength) / (sigma * np.sqrt(2 * np.pi))
        centre = wave * (1 + z) * (1 + shift * 3e-4)  # lines of one quasar differ by some 100 km/s
        _add_gaussian(grid, total, centre, sigma * (1 + z) * common_width * np.exp(0.1 * width), height / common_width)
    return total


def _add_gaussian(grid: WavelengthGrid, total: Array, centre: float, sigma: float, height: float) -> None:
    """Add a Gaussian in log λ, centre and σ in observed Å, within 5σ; in place."""
    pixel, width = float(grid.pixel(centre)), sigma / (centre * np.log(10.0) * grid.step)
    low, high = max(0, int(pixel - 5 * width)), min(len(total), int(pixel + 5 * width) + 2)
    if low < high:
        x = (np.arange(low, high) - pixel) / width
        total[low:high] += height * np.exp(-0.5 * x * x)


def _forest(rest: Array, z: float, rng: np.random.Generator) -> Array:
    """Transmission below Lyα, shape (p,): a log-normal optical depth whose mean transmission is near exp(-0.0023 (1+z)^3.65) (Kim et al.
    2007, MNRAS 382, 1657), and one Lyman limit system.
    """
    result = np.ones_like(rest)
    n = int(np.searchsorted(rest, 1215.67))
    limit_depth, limit_distance = 4.0 * rng.random(), rng.exponential(0.15)
    if n == 0:
        return result
    field = np.convolve(rng.standard_normal(n + 8), np.exp(-0.5 * (np.arange(-4, 5) / 1.3) ** 2), mode="valid")
    effective = 0.0023 * (rest[:n] / 1215.67 * (1 + z)) ** 3.65
    # The factor brings the mean transmission of so clumped an optical depth back near the effective one.
    result[:n] = np.exp(-2.2 * effective * np.exp(field - 0.5 * 1.5**2))
    limit = 911.75 * (1 + z - limit_distance) / (1 + z)
    blue = rest < limit
    result[blue] *= np.exp(-limit_depth * (rest[blue] / limit) ** 3)
    return result


def _add_galactic_lines(grid: WavelengthGrid, flux: Array, rng: np.random.Generator) -> None:
    absorbed = np.zeros_like(flux)
    strength = np.exp(0.5 * rng.standard_normal())
    for wave, ew in GALACTIC_LINES:
        sigma = 1.1 * wave * np.log(10.0) * grid.step
        _add_gaussian(grid, absorbed, wave, sigma, strength * ew / (sigma * np.sqrt(2 * np.pi)))
    flux *= np.maximum(1.0 - absorbed, 0.05)


@lru_cache(maxsize=64)
def _noise(spectrograph: Spectrograph, grid: WavelengthGrid) -> tuple[Array, Array]:
    """The error between sky lines relative to 5200 Å, and the variance that sky lines add in units of its square; both (p,)."""
    wave, error = (np.array(column, dtype=float) for column in zip(*spectrograph.noise_curve, strict=True))
    between = np.exp(np.interp(np.log(grid.wavelength), np.log(wave), np.log(error)))
    lines = np.zeros(grid.n_pixels)
    for centre, factor in SKY_LINES:
        _add_gaussian(grid, lines, centre, 1.0 * centre * np.log(10.0) * grid.step, factor**2 - 1.0)
    between.flags.writeable = lines.flags.writeable = False
    return between, lines


def bad_pixels(n_pixels: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A few runs of one to four pixels without data."""
    starts, lengths = rng.integers(0, n_pixels, size=4), rng.integers(0, 5, size=4)
    pixels = starts[:, None] + np.arange(4)
    return pixels[(np.arange(4) < lengths[:, None]) & (pixels < n_pixels)]
