"""What a catalogue is for: dN/dz, dN/dX and f(W) of absorbers, corrected for completeness, with errors; made of published files alone.

Every absorber of probability p counts as ``p / (C ΔZ)`` at each true equivalent width W that its measurement allows
(:mod:`nalspark.judging.posterior`), ΔZ(W) being the path where W ≥ n σ_W (:mod:`nalspark.judging.path`). All sums are kept by region of the
sky, redshift bin and fine bin of W, so that the jackknife, which leaves out one region after the other, needs no second look at the data.
`docs/statistics.md` has the formulae.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from nalspark import metrics
from nalspark.absorption.measure import AbsorberFlag, velocity_from_quasar
from nalspark.absorption.sensitivity import bin_edges
from nalspark.errors import StoreError
from nalspark.incidence import PUBLISHED_LAWS, PublishedLaw
from nalspark.judging.completeness import CompletenessFunction
from nalspark.judging.exponential import Fit, fit_exponential
from nalspark.judging.path import (
    G_EW,
    Batches,
    Bins,
    Columns,
    Completeness,
    Path,
    Regions,
    absorption_distance,
    find_regions,
    in_memory,
    measure_path,
)
from nalspark.judging.posterior import Absorbers, spread, terms
from nalspark.lines import LineSpecies
from nalspark.settings import Statistics
from nalspark.tables.arrow import decode, read_batches
from nalspark.tables.quantities import to_qtable
from nalspark.tables.result import Result, open_result
from nalspark.tables.schemas import BALNICITY, COMPLETENESS, EW_FIT, EW_FUNCTION, G_OF_EW_Z, PUBLISHED_SENSITIVITY, RATES, absorbers_table
from nalspark.tables.table import Table

Array = NDArray[np.float64]

#: W* (Å) of the true widths where there are too few absorbers to fit one: Nestor et al. 2005 (ApJ 628, 637), §3.
FALLBACK_W_STAR = 0.702
#: Absorbers of a redshift bin whose own W* is used: it is known to 10 % then.
ENOUGH = 100
#: Steps of W in which the expectation of a published law is summed.
_EW_STEPS = 24
#: Bins of the sensitivity, and of W, in a row of the table of g(W, z).
_G_STEP_Z, _G_STEP_EW = 8, 2


@dataclass(frozen=True)
class RateTables:
    """The statistics of a catalogue.

    Attributes
    ----------
    species : LineSpecies
    settings : Statistics
    corrected : bool
        Whether there was a completeness function; without one it is taken as 1.
    numbers : dict
        What was counted, left out and assumed; it is in the metadata of every table.
    rates, ew_function, fit, g : QTable
        As RATES, EW_FUNCTION, EW_FIT and G_OF_EW_Z of :mod:`nalspark.tables.schemas` declare them.
    """

    species: LineSpecies
    settings: Statistics
    corrected: bool
    numbers: dict[str, Any]
    rates: QTable
    ew_function: QTable
    fit: QTable
    g: QTable

    @property
    def tables(self) -> dict[str, tuple[QTable, Table]]:
        """The tables by the names of their files, with their declarations."""
        declared = {"rates": RATES, "ew_function": EW_FUNCTION, "fit": EW_FIT, "g": G_OF_EW_Z}
        return {table.name: (getattr(self, name), table) for name, table in declared.items()}


def no_correction(ew: Any, sigma_ew: Any, z: Any) -> Array:
    """Give a completeness of 1, whatever the equivalent widths, errors and redshifts, which broadcast."""
    return np.ones(np.broadcast_shapes(np.shape(ew), np.shape(sigma_ew), np.shape(z)))


# ---- doors


def result_statistics(folder: str | FilePath | Result, settings: Statistics | None = None, *, uncorrected: bool = False) -> RateTables:
    """Make the statistics of a result, of its published absorbers, sensitivity and completeness.

    Parameters
    ----------
    folder : path or Result
        Directory of a result.
    settings : Statistics, optional
        By default those of the run.
    uncorrected : bool
        Take the completeness as 1.

    Raises
    ------
    StoreError
        Where the directory holds no result, one of the files is not there, or an earlier version made it.
    NalsparkError
        Where the completeness has too few absorbers put in.
    """
    result = folder if isinstance(folder, Result) else open_result(folder)
    species = result.species  # of several species each has a result of its own
    completeness, chosen = no_correction if uncorrected else read_completeness(result), settings or result.settings.statistics
    absorbers = read_absorbers(result, chosen)
    return measure_rates(absorbers, read_sensitivity(result, chosen), completeness, species, chosen)


def read_completeness(result: Result) -> CompletenessFunction:
    """Read the completeness function of a result.

    Raises
    ------
    StoreError
        Where it was not measured.
    NalsparkError
        Where too few absorbers were put in.
    """
    if not result.has(COMPLETENESS.name):
        raise StoreError(
            f"{result.root} has no completeness.parquet: `nalspark completeness {result.root}` makes it. "
            "With --uncorrected (in Python uncorrected=True) the completeness is taken as 1."
        )
    return CompletenessFunction.of(result.table(COMPLETENESS.name).to_pydict())


def _absorber_columns(species: LineSpecies) -> tuple[str, ...]:
    line = species.primary.label
    return ("primary", "ra", "dec", "z_qso", "z_abs", f"ew_{line}", f"ew_{line}_err", "sigma_ew", "score", "flags")


def read_absorbers(result: Result, settings: Statistics) -> Columns:
    """Read what rates need of the published absorbers: a few numbers each. What the settings leave out is not ``primary``.

    Raises
    ------
    StoreError
        Where the catalogue is not there, or an earlier version made it.
    """
    names = _absorber_columns(result.species)
    pieces = list(_batches_of(result, absorbers_table(result.species), settings)(names))
    return {name: np.concatenate([piece[name] for piece in pieces]) if pieces else np.zeros(0) for name in names}


def read_sensitivity(result: Result, settings: Statistics) -> Batches:
    """Give the published sensitivity batch by batch. What the settings leave out is not ``primary``.

    Raises
    ------
    StoreError
        Where it is not there, or an earlier version made it.
    """
    return _batches_of(result, PUBLISHED_SENSITIVITY, settings)


def _batches_of(result: Result, table: Table, settings: Statistics) -> Batches:
    dataset = result.dataset(table.name)
    missing = [name for name in ("primary", "object_id", "sigma_ew") if name not in dataset.schema.names]
    if missing:
        raise StoreError(
            f"{table.name}.parquet of {result.root} has no column '{missing[0]}': an earlier version of nalspark published it. "
            "Run `nalspark reprocess RUN.toml`, or the `nalspark find` that made it, once more."
        )

    broad = settings.without_bals
    if broad and BALNICITY.name not in result.manifest.tables:
        raise StoreError(f"{result.root} does not know broad absorption: `nalspark balnicity {result.root}` measures it.")

    def batches(names: Sequence[str]) -> Any:
        columns = table.select(*names, *(("bi_civ",) if broad else ()))
        declared = {column.name: column for column in columns}
        found = (decode(batch, declared) for batch in read_batches(dataset.files, columns) if batch.num_rows)
        return map(_without_bals, found) if broad else found

    return batches


def _without_bals(columns: Columns) -> Columns:
    """Only quasars without broad absorption stand for themselves; where it is not known there is none."""
    return {**columns, "primary": np.asarray(columns["primary"], dtype=bool) & ~(np.asarray(columns["bi_civ"], dtype=float) > 0)}


# ---- the work


def measure_rates(
    absorbers: Columns, sensitivity: Columns | Batches, completeness: Completeness, species: LineSpecies, settings: Statistics
) -> RateTables:
    """Compute dN/dz, dN/dX, f(W), its exponential fit and g(W, z).

    Parameters
    ----------
    absorbers : mapping of ndarray, or astropy table, m rows
        `primary`, `ra`, `dec`, `z_qso`, `z_abs`, `ew_<line>` and `ew_<line>_err` of the first line, `sigma_ew` (rest Å), `score`, `flags`.
    sensitivity : mapping, astropy table, or callable
        Columns of PUBLISHED_SENSITIVITY, or a function that gives them in batches.
    completeness : callable
        C(W, σ_W, z): a :class:`~nalspark.judging.completeness.CompletenessFunction`, or :func:`no_correction`.
    species : LineSpecies
    settings : Statistics

    Returns
    -------
    RateTables
    """
    batches = sensitivity if callable(sensitivity) else in_memory(sensitivity)
    bins, regions = Bins.of(settings), find_regions(batches, settings.nside, settings.regions)
    path = measure_path(batches, species, bins, regions, settings.min_velocity_kms)
    chosen, left_out = select_absorbers(absorbers, species, bins, regions, settings.min_velocity_kms)
    sample = Sample(chosen, path, completeness, species, regions.n)
    whole = fit_exponential(chosen, path, sample.folded, completeness, settings.fit_ew)
    by_bin = fit_exponential(chosen, path, sample.folded, completeness, settings.fit_ew, by_bin=True)
    fit = Fit(*(np.concatenate(pair) for pair in zip(by_bin, whole, strict=True)))
    sample.w_star = prior_scales(fit)
    numbers = {
        "species": species.name,
        "corrected": completeness is not no_correction,
        "sightlines": path.n_sightlines,
        "absorbers": len(chosen.z),
        "prior_w_star": [round(float(scale), 6) for scale in sample.w_star],
        "jackknife_regions": regions.n,
        **{f"left_out_{name}": count for name, count in left_out.items()},
        **settings.model_dump(mode="json"),
    }
    tables = {
        RATES: _rates(sample, settings),
        EW_FUNCTION: _ew_function(sample, settings, fit),
        EW_FIT: _fit_table(sample, settings, fit),
        G_OF_EW_Z: _g_table(path, species),
    }
    made = [to_qtable(columns, table) for table, columns in tables.items()]
    for table in made:
        table.meta |= numbers
    return RateTables(species, settings, numbers["corrected"], numbers, *made)


def select_absorbers(
    columns: Columns, species: LineSpecies, bins: Bins, regions: Regions, min_velocity_kms: float
) -> tuple[Absorbers, dict[str, int]]:
    """Choose the absorbers that rates count: once each quasar, in searched places, far enough from the quasar.

    Parameters
    ----------
    columns : mapping of ndarray, shape (m,)
        As for :func:`measure_rates`.
    species : LineSpecies
    bins : Bins
    regions : Regions
    min_velocity_kms : float

    Returns
    -------
    absorbers : Absorbers
    left_out : dict of str to int
        How many rows are left out, by the first reason that holds.
    """
    values = {name: np.asarray(columns[name]) for name in _absorber_columns(species)}
    numbers = {name: cells.astype(float) for name, cells in values.items() if name not in ("primary", "flags")}
    ew, err = numbers[f"ew_{species.primary.label}"], numbers[f"ew_{species.primary.label}_err"]
    sigma, z, z_bin = numbers["sigma_ew"], numbers["z_abs"], bins.z_bin(numbers["z_abs"])
    with np.errstate(invalid="ignore"):
        tests = {
            "other_epoch": values["primary"].astype(bool),
            "off_path": (values["flags"].astype(np.int64) & int(AbsorberFlag.OFF_PATH)) == 0,
            "near_quasar": velocity_from_quasar(z, numbers["z_qso"]) >= min_velocity_kms,
            "other_redshift": (z_bin >= 0) & (z_bin < bins.shape[0]),
            "no_error": (sigma > 0) & (err > 0) & np.isfinite(ew + err + numbers["score"]),
        }
    use, left_out = np.ones(len(z), dtype=bool), {}
    for name, passed in tests.items():
        left_out[name] = int((use & ~passed).sum())
        use &= passed
    region = regions.of(numbers["ra"][use], numbers["dec"][use])
    return Absorbers(z[use], ew[use], err[use], sigma[use], numbers["score"][use], region, z_bin[use]), left_out


def prior_scales(fit: Fit) -> Array:
    """Choose the W* that true widths are taken from: a redshift bin's own where enough absorbers tell it, else that of all bins.

    Parameters
    ----------
    fit : Fit
        Of b bins, and at the end of all together.

    Returns
    -------
    ndarray, shape (b + 1,), Å
    """
    whole = fit.w_star[-1] if np.isfinite(fit.w_star[-1]) else FALLBACK_W_STAR
    return np.where(np.isfinite(fit.w_star) & (fit.n_fitted >= ENOUGH), fit.w_star, whole)


@dataclass
class Sample:
    """What rates are made of: absorbers, path, completeness, and what follows from them.

    Attributes
    ----------
    absorbers : Absorbers
    path : Path
    completeness : callable
    species : LineSpecies
    regions : int
    w_star : ndarray, shape (b + 1,)
        Scales of f(W) from which true widths are taken, Å: of each redshift bin, at the end of all together.
    """

    absorbers: Absorbers
    path: Path
    completeness: Completeness
    species: LineSpecies
    regions: int
    w_star: Array = field(default_factory=lambda: np.zeros(0))

    @cached_property
    def folded(self) -> Array:
        """∫ C dZ, shape (r, b, w)."""
        return self.path.folded(self.completeness)

    @property
    def prior(self) -> Array:
        """The scale for each absorber, shape (m,), Å."""
        return self.w_star[self.absorbers.z_bin]

    @cached_property
    def zones(self) -> Array:
        """Which redshift bins make up each zone, shape (b + 1, b): each by itself, at the end all."""
        n_z = self.path.bins.shape[0]
        return np.concatenate([np.eye(n_z), np.ones((1, n_z))])

    @cached_property
    def sums(self) -> dict[str, Array]:
        """By region, zone and fine bin of W, (r, b + 1, w): ``corrected`` absorbers, ΔZ ``z``, ΔX ``x``, and ∫ C dZ ``folded``."""
        bins, path = self.path.bins, self.path
        of_bins = {
            "corrected": spread(self.absorbers, self.completeness, self.prior, bins, self.regions).corrected,
            "z": path.seen(path.delta_z),
            "x": path.seen(path.delta_x),
            "folded": self.folded,
        }
        return {name: np.einsum("zb,rbw->rzw", self.zones, values) for name, values in of_bins.items()}

    def zone_ends(self) -> tuple[Array, Array]:
        """Give lower and upper redshift of each zone, shape (b + 1,)."""
        z = self.path.bins.z
        return np.append(z[:-1], z[0]), np.append(z[1:], z[-1])


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Divide, 0 where there is no path."""
    return np.divide(
        numerator, denominator, out=np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape)), where=denominator > 1e-12
    )


def _estimates(sample: Sample, kind: str, cuts: Sequence[slice]) -> tuple[Array, Array]:
    """Rates per unit of path `kind` in ranges of W, and their jackknife errors, (b + 1, cuts) each; NaN where no path shows such W."""
    corrected, path = sample.sums["corrected"], sample.sums[kind]

    def rate(absorbers: Array, seen: Array) -> Array:
        density = _ratio(absorbers, seen)
        return np.stack([density[:, cut].sum(axis=1) for cut in cuts], axis=1)

    total, seen = corrected.sum(axis=0), path.sum(axis=0)
    lacking = np.stack([seen[:, cut.start] <= 1e-12 for cut in cuts], axis=1)
    value = np.where(lacking, np.nan, rate(total, seen))
    without = [rate(total - corrected[r], seen - path[r]) for r in range(sample.regions)]
    return value, np.where(lacking, np.nan, metrics.jackknife_error(np.stack(without)))


def _effective_numbers(sample: Sample, cuts: Sequence[slice]) -> Array:
    """(Σw)² / Σw² of the absorbers' weights in each zone and range of W, shape (b + 1, cuts)."""
    seen, n_zones = sample.sums["z"].sum(axis=0), len(sample.zones)
    sums = np.zeros((2, n_zones, len(cuts)))
    for part in terms(sample.absorbers, sample.completeness, sample.prior, sample.path.bins):
        own = sample.absorbers.z_bin[part.rows]
        for zone in (own, np.full(len(own), n_zones - 1)):
            weight = _ratio(part.corrected, seen[zone[:, None], part.column])
            for number, cut in enumerate(cuts):
                inside = (part.column >= cut.start) & (part.column < cut.stop)
                w = np.where(inside, weight, 0.0).sum(axis=1)
                for power in (1, 2):
                    sums[power - 1, :, number] += np.bincount(zone, w**power, n_zones)
    return _ratio(sums[0] ** 2, np.maximum(sums[1], 1e-300))


def _interval(sample: Sample, value: Array, effective: Array, cuts: Sequence[slice]) -> tuple[Array, Array]:
    """Poisson intervals of dN/dz in zones and ranges of W: of so many events, scaled to the value.

    Events are the effective number, but no more than absorbers of average weight would be: many that were measured elsewhere, and may lie
    here with a small chance each, are few.
    """
    law = np.exp(-sample.path.bins.middle / sample.w_star[:, None]) * np.diff(sample.path.bins.ew)
    expected = sample.sums["folded"].sum(axis=0) * law
    # What one absorber would count there, on average.
    one = np.stack([_ratio(law[:, cut].sum(axis=1), expected[:, cut].sum(axis=1)) for cut in cuts], axis=1)
    one[one == 0] = np.nan
    events = np.fmin(effective, value / one)
    scale = np.where(events > 0, value / np.maximum(events, 1e-300), one)
    lower, upper = metrics.poisson_interval(events)
    return np.where(np.isfinite(value), lower * scale, np.nan), np.where(np.isfinite(value), upper * scale, np.nan)


def _counts(sample: Sample, cuts: Sequence[slice]) -> Array:
    """Rows of the catalogue by zone and range of measured W, shape (b + 1, cuts)."""
    bins, absorbers = sample.path.bins, sample.absorbers
    column = bins.ew_bin(absorbers.ew)
    inside = [(column >= cut.start) & ((column < cut.stop) | (cut.stop == bins.shape[1])) for cut in cuts]
    of_bins = np.stack([np.bincount(absorbers.z_bin[some], minlength=bins.shape[0]) for some in inside], axis=1)
    return np.round(sample.zones @ of_bins).astype(np.int64)


def _common(sample: Sample, cuts: Sequence[slice]) -> dict[str, Array]:
    """Columns that rates and f(W) share, a row per zone and range of W."""
    bins, path = sample.path.bins, sample.path
    low, high = sample.zone_ends()
    searched = sample.zones @ path.delta_z.sum(axis=(0, 2))
    seen = np.stack([sample.zones @ path.at(path.delta_z, bins.ew[cut.start]).sum(axis=0) for cut in cuts], axis=1)
    columns = {
        "z_low": np.repeat(low, len(cuts)),
        "z_high": np.repeat(high, len(cuts)),
        "ew_low": np.tile(bins.ew[[cut.start for cut in cuts]], len(low)),
        "n_absorbers": _counts(sample, cuts).ravel(),
        "path_searched": np.repeat(searched, len(cuts)),
        "path": seen.ravel(),
    }
    lower, upper = metrics.poisson_interval(columns["n_absorbers"])
    over = np.where(columns["path_searched"] > 0, columns["path_searched"], np.nan)
    return columns | {
        "uncorrected": columns["n_absorbers"] / over,
        "uncorrected_lower": np.asarray(lower) / over,
        "uncorrected_upper": np.asarray(upper) / over,
    }


def _rates(sample: Sample, settings: Statistics) -> dict[str, Array]:
    """Columns of RATES."""
    cuts = [sample.path.bins.between(ew) for ew in settings.ew_limits]
    shared = {name if "uncorrected" not in name else f"dndz_{name}": values for name, values in _common(sample, cuts).items()}
    effective = _effective_numbers(sample, cuts)
    columns = shared | {"n_effective": effective.ravel()}
    for kind in ("z", "x"):
        value, error = _estimates(sample, kind, cuts)
        lower, upper = _interval(sample, value, effective, cuts)
        if kind == "x":  # as far as the mean distance goes, an absorber counts for as much less
            per_z = np.array(
                [_ratio(sample.sums["z"].sum(axis=0)[:, cut.start], sample.sums["x"].sum(axis=0)[:, cut.start]) for cut in cuts]
            ).T
            lower, upper = (np.where(effective > 0, end, end * per_z) for end in (lower, upper))
        name = f"dnd{kind}"
        for end, values in (("", value), ("_lower", lower), ("_upper", upper), ("_jackknife", error)):
            columns[name + end] = values.ravel()
    laws = PUBLISHED_LAWS.get(sample.species.name)
    if laws:
        expected = [_expected(sample, laws[0], ew, np.inf) for ew in settings.ew_limits]
        columns |= {f"dnd{kind}_published": np.stack([pair[i] for pair in expected], axis=1).ravel() for i, kind in enumerate("zx")}
    return columns


def _ew_function(sample: Sample, settings: Statistics, fit: Fit) -> dict[str, Array]:
    """Columns of EW_FUNCTION."""
    ew = np.array(settings.ew_bins)
    cuts = [sample.path.bins.between(*pair) for pair in zip(ew[:-1], ew[1:], strict=True)]
    width, common = np.tile(np.diff(ew), len(sample.zones)), _common(sample, cuts)
    effective = _effective_numbers(sample, cuts)
    value, error = _estimates(sample, "z", cuts)
    lower, upper = _interval(sample, value, effective, cuts)
    ends = {"": value, "_lower": lower, "_upper": upper, "_jackknife": error}
    columns = {name: values for name, values in common.items() if "uncorrected" not in name}
    columns |= {"ew_high": np.tile(ew[1:], len(sample.zones)), "n_effective": effective.ravel()}
    columns |= {f"f{end}": values.ravel() / width for end, values in ends.items()}
    columns["f_uncorrected"] = common["uncorrected"] / width
    columns["f_fit"] = (fit.n_star[:, None] * -np.diff(np.exp(-ew / fit.w_star[:, None]), axis=1)).ravel() / width
    laws = PUBLISHED_LAWS.get(sample.species.name)
    if laws:
        expected = [_expected(sample, laws[0], low, high)[0] for low, high in zip(ew[:-1], ew[1:], strict=True)]
        columns["f_published"] = np.stack(expected, axis=1).ravel() / width
    return columns


def _expected(sample: Sample, law: PublishedLaw, ew_low: float, ew_high: float) -> tuple[Array, Array]:
    """What a law expects per unit z, and per unit X, between two W, every W on the path where it is seen; by zone, NaN without path."""
    bins = sample.path.bins
    edges = bin_edges(sample.species, np.arange(len(sample.path.g) + 1))
    z, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    use = (z >= bins.z[0]) & (z < bins.z[-1])
    zone, distance = bins.z_bin(z[use]), absorption_distance(z[use], bins.om0)
    steps = np.geomspace(ew_low, min(ew_high, bins.ew[-1]), _EW_STEPS + 1)
    totals = np.zeros((2, len(sample.zones)))
    for low, high in zip(steps[:-1], steps[1:], strict=True):
        path = (sample.path.sightlines_at(np.sqrt(low * high)) * width)[use]

        def total(values: Array, path: Array = path) -> Array:
            return sample.zones @ np.bincount(zone, path * values, bins.shape[0])

        n = total(law.rate(z[use], low) - law.rate(z[use], high))
        for kind, per in enumerate((np.ones(len(distance)), distance)):
            over = total(per)
            totals[kind] += n / np.where(over > 0, over, np.nan)
    return totals[0], totals[1]


def _fit_table(sample: Sample, settings: Statistics, fit: Fit) -> dict[str, Array]:
    """Columns of EW_FIT."""
    low, high = sample.zone_ends()
    ends = {"z_low": low, "z_high": high, "ew_low": np.full(len(low), settings.fit_ew[0]), "ew_high": np.full(len(low), settings.fit_ew[1])}
    return ends | fit._asdict()


def _g_table(path: Path, species: LineSpecies) -> dict[str, Array]:
    """Columns of G_OF_EW_Z, some bins of the sensitivity taken together."""
    below = np.cumsum(path.g[:, :-1], axis=1)[:, ::_G_STEP_EW]
    ew, rows = G_EW[::_G_STEP_EW], len(below) // _G_STEP_Z
    grouped = below[: rows * _G_STEP_Z].reshape(rows, _G_STEP_Z, -1).mean(axis=1)
    edges = bin_edges(species, np.arange(rows + 1) * _G_STEP_Z)
    use = np.flatnonzero(path.g[: rows * _G_STEP_Z].reshape(rows, -1).any(axis=1))
    return {
        "z_low": np.repeat(edges[use], len(ew)),
        "z_high": np.repeat(edges[use + 1], len(ew)),
        "ew": np.tile(ew, len(use)),
        "n_sightlines": grouped[use].ravel(),
    }


def law_of(tables: RateTables) -> Mapping[str, Array]:
    """Give the fitted law by redshift: ``z``, ``n_star``, ``w_star``, one value per bin that could be fitted, or that of all bins.

    Raises
    ------
    StoreError
        Where not even all bins together have enough absorbers.
    """
    columns = {name: np.asarray(tables.fit[name], dtype=float) for name in ("z_low", "z_high", "n_fitted", "n_star", "w_star")}
    z = 0.5 * (columns["z_low"] + columns["z_high"])
    good = np.isfinite(columns["w_star"] * columns["n_star"]) & (columns["n_fitted"] >= ENOUGH)
    use = np.flatnonzero(good[:-1])
    if not len(use):
        use = np.flatnonzero(np.isfinite(columns["w_star"]))
    if not len(use):
        raise StoreError(
            "There are too few absorbers to fit f(W) to: widen statistics.fit_ew or statistics.z_bins, or search more spectra."
        )
    return {"z": z[use], "n_star": columns["n_star"][use], "w_star": columns["w_star"][use]}
