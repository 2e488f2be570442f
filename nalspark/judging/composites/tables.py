"""Composites as astropy tables: what Python gives, and what is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray

from nalspark.judging.composites.arrays import (
    REST,
    Sums,
    add_spectra,
    dust_wavelength,
    mean_flux,
    median_flux,
    reddening_curves,
    scatter_flux,
    spread,
)  # fmt: skip
from nalspark.judging.composites.dust import fit_reddening, smc_law, transmission
from nalspark.judging.composites.widths import equivalent_widths, lines_of
from nalspark.spectra.grid import LATTICE, WavelengthGrid

#: A line is said to be seen above so many standard errors.
SEEN = 3.0
#: Spectra below which no error is given: the bootstrap of a few says nothing.
FEWEST = 10


@dataclass(frozen=True)
class Stack:
    """A composite and what was measured on it.

    Attributes
    ----------
    composite : QTable
        One row per pixel, 1e-4 dex: ``wavelength`` (vacuum, rest frame), ``mean`` and ``median`` of flux/continuum with errors, ``scatter``
        of single spectra, ``n`` spectra, and ``mean_controls`` where there are controls.
    lines : QTable
        One row per known line: ``line``, ``wavelength``, ``ew``, ``ew_err`` (rest Å), ``snr``, ``n``.
    ratio : QTable or None
        One row per 20 pixels without a line: ``wavelength``, ``ratio`` of absorbed to control spectra, its error, ``model``, ``n``.
    facts : dict
        Counts, E(B-V), and how it was made.
    """

    composite: QTable
    lines: QTable
    ratio: QTable | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def stack_arrays(
    light: tuple[ArrayLike, ArrayLike, ArrayLike],
    z: ArrayLike,
    objects: ArrayLike | None = None,
    *,
    controls: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    grid: WavelengthGrid = LATTICE,
    seed: int = 1,
) -> Stack:
    """Stack spectra that are at hand, without Spark.

    Parameters
    ----------
    light : tuple of three array_like, shape (m, g)
        Flux; continuum, in the same unit; and which pixels may be used.
    z : array_like, shape (m,)
        Redshift of the rest frame, of the absorber for example.
    objects : array_like of m str, optional
        Whose spectrum each is: errors are by bootstrap over these. By default each spectrum is an object of its own.
    controls : tuple of three array_like, shape (k·m, g), optional
        Spectra without absorber, k for each: row i belongs to spectrum i modulo m.
    grid : WavelengthGrid
        g pixels.
    seed : int
        Of the bootstrap.

    Raises
    ------
    ValueError
        Where there is no spectrum, or shapes do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> flux = np.ones((3, LATTICE.n_pixels))
    >>> stack = stack_arrays((flux, flux, flux > 0), [0.8, 1.0, 1.2])
    >>> round(float(np.nanmean(stack.composite["mean"])), 6)
    1.0
    """
    redshift = np.atleast_1d(np.asarray(z, dtype=float))
    names = np.arange(len(redshift)).astype(str) if objects is None else np.asarray(objects, dtype=str)
    used, spare = Sums(), Sums()
    known = _checked(light, len(redshift), grid)
    add_spectra(used, known, redshift, list(names), for_dust=controls is not None, grid=grid, seed=seed)
    if controls is not None:
        each = len(np.asarray(controls[0])) // max(len(redshift), 1)
        others = _checked(controls, each * len(redshift), grid)
        add_spectra(spare, others, np.tile(redshift, each), list(np.tile(names, each)), grid=grid, seed=seed)
    return make_stack(used, spare if controls is not None else None, len(set(names.tolist())))


def _checked(
    light: tuple[ArrayLike, ArrayLike, ArrayLike], rows: int, grid: WavelengthGrid
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]:
    flux, continuum, good = (np.asarray(values) for values in light)
    shape = (rows, grid.n_pixels)
    if rows == 0:
        raise ValueError("there is no spectrum to stack")
    for name, values in (("flux", flux), ("continuum", continuum), ("good", good)):
        if values.shape != shape:
            raise ValueError(f"{name} has shape {values.shape}, expected (m spectra, g pixels) = {shape}")
    return flux, continuum, good.astype(bool)


def make_stack(absorbers: Sums, controls: Sums | None, n_objects: int, n_control_objects: int = 0) -> Stack:
    """Make the tables of what was added up.

    Parameters
    ----------
    absorbers, controls : Sums
        Without controls there is no dust.
    n_objects : int
        Quasars that the absorbers' spectra are of.
    n_control_objects : int
        Spectra among the controls, each counted once; 0: none is used twice.
    """
    mean, samples = mean_flux(absorbers)
    table = _composite(absorbers, controls, n_objects)
    facts: dict[str, Any] = {"n_spectra": absorbers.n_spectra, "n_objects": n_objects}
    lines = _lines(mean, samples, absorbers["count"][0])
    if controls is None or not controls.n_spectra:
        return Stack(table, lines, None, facts)
    ratio, dust = _dust(absorbers, controls, _reuse(absorbers, controls, n_control_objects))
    return Stack(table, lines, ratio, facts | dust)


def _composite(absorbers: Sums, controls: Sums | None, n_objects: int) -> QTable:
    mean, samples = mean_flux(absorbers)
    median, median_err = median_flux(absorbers, n_objects)
    columns: dict[str, tuple[Any, str]] = {
        "wavelength": (REST.wavelength * u.AA, "Vacuum wavelength in the rest frame"),
        "mean": (mean, "Mean of flux / continuum"),
        "mean_err": (spread(samples), "Its standard error, bootstrap over quasars; none for fewer than 10 spectra"),
        "median": (median, "Median of flux / continuum, exact to 0.005"),
        "median_err": (median_err, "Its standard error, from order statistics"),
        "scatter": (scatter_flux(absorbers), "Standard deviation of single spectra"),
        "n": (absorbers["count"][0], "Spectra that have the pixel"),
    }
    if controls is not None and controls.n_spectra:
        columns["mean_controls"] = mean_flux(controls)[0], "Mean of flux / continuum of the controls"
    for name in ("mean_err", "median_err"):
        columns[name][0][absorbers["count"][0] < FEWEST] = np.nan
    covered = absorbers["count"][0] > 0
    return _table({name: (values[covered], text) for name, (values, text) in columns.items()})


def _table(columns: dict[str, tuple[Any, str]]) -> QTable:
    table = QTable({name: values for name, (values, _) in columns.items()})
    for name, (_, text) in columns.items():
        table[name].info.description = text
    return table


def _lines(mean: NDArray[np.float64], samples: NDArray[np.float64], count: NDArray[np.int64]) -> QTable:
    lines = lines_of(REST)
    measured = equivalent_widths(np.concatenate([mean[None], samples]), REST, lines)
    centres = np.array([line.wavelength for line in lines])
    nearest = np.rint(REST.pixel(centres)).astype(np.int64)
    width, error = measured[0], np.where(count[nearest] >= FEWEST, spread(measured[1:]), np.nan)
    with np.errstate(all="ignore"):
        snr = width / error
    return _table(
        {
            "line": (np.array([str(line) for line in lines]), "Ion, and wavelength cut to whole Å"),
            "wavelength": (centres * u.AA, "Vacuum rest wavelength (Morton 2003)"),
            "ew": (width * u.AA, "Rest equivalent width on the mean composite"),
            "ew_err": (error * u.AA, "Its standard error, bootstrap over quasars"),
            "snr": (snr, "ew / ew_err"),
            "n": (count[nearest], "Spectra that have the line's central pixel"),
        }
    )


def _reuse(absorbers: Sums, controls: Sums, n_control_objects: int) -> float:
    """By what errors are larger since controls are used several times, which the bootstrap of pairs does not know.

    Variances of both sides go as one over the number of spectra, and single spectra scatter alike in both.
    """
    matched, used = max(int(absorbers["spectra"][0, 1]), 1), controls.n_spectra
    return float(np.sqrt((1 / matched + 1 / (n_control_objects or used)) / (1 / matched + 1 / used)))


def _dust(absorbers: Sums, controls: Sums, reuse: float) -> tuple[QTable, dict[str, Any]]:
    """The ratio with its fit, and what to tell of it; `reuse` multiplies the errors."""
    difference, law, weight = reddening_curves(absorbers, controls)
    fits = fit_reddening(difference, law, weight)
    ebv, error = float(fits[0]), reuse * float(spread(fits[1:]))
    wave, known = dust_wavelength(), weight[0] > 0
    # A spectrum's brightness is not known: each is laid where the fitted law has it, in the mean over its wavelengths.
    offset = np.log(transmission(smc_law(wave) - law, ebv))
    ratio = np.exp(difference + offset)
    table = _table(
        {
            "wavelength": (wave[known] * u.AA, "Middle of the bin, rest frame"),
            "ratio": (ratio[0][known], "Continuum of absorbed over control spectra, geometric mean; 1 without dust"),
            "ratio_err": (
                np.where(weight[0] >= FEWEST, reuse * spread(ratio[1:]), np.nan)[known],
                "Its standard error, bootstrap over quasars",
            ),
            "model": (transmission(smc_law(wave[known]), ebv), "10^(-0.4 E(B-V) k), SMC bar"),
            "n": (weight[0][known].astype(np.int64), "Spectra that have the bin"),
        }
    )
    used = {"n_matched": int(absorbers["spectra"][0, 1]), "n_controls": controls.n_spectra, "law": "SMC bar, Gordon et al. 2003"}
    return table, {"ebv": ebv, "ebv_err": error, **used}
