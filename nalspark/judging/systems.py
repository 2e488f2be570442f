"""A catalogue judged: against known absorbers, spectrum by spectrum and absorber by absorber, and against other catalogues.

Frames and arrays in, frames and numbers out. A true system is *strong* where its equivalent width is at least .3 Å and both its lines reach
3 σ (Zhao et al. 2019, §2.2). σ is the truth's own where it gives one. Else it is the error that the doublet fit has at the true redshift
(:func:`measure_at`): every true system is fitted there, found or not, so that what is strong cannot depend on what was found. Where the
pixels are not at hand it is estimated from the sightline's signal-to-noise ratio (:func:`estimate_errors`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nalspark.absorption.images import ImageGeometry, cut_images
from nalspark.absorption.measure import STRONG_EW, STRONG_SIGNIFICANCE, measure_candidates
from nalspark.absorption.normalize import residuals
from nalspark.judging.match import compare
from nalspark.lines import INTERLOPERS, SPECIES, LineSpecies
from nalspark.metrics import Confusion, binomial_interval
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import WavelengthGrid

Array = NDArray[np.float64]

#: Gaussian σ of a system whose width is not known: rest FWHM 2.2 Å, the median of real Mg II systems, with SDSS's instrument taken off.
_TYPICAL_SIGMA_KMS = 70.0
#: Gaussian σ in pixels from which a fit at a given redshift starts.
_START_WIDTH = 1.8
_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_NAMES = {species.name: species for species in (*INTERLOPERS, *SPECIES.values())}
ERRORS = ("ew_primary_err", "ew_secondary_err")


# ---- against the truth


@dataclass(frozen=True)
class Matched:
    """Result of :func:`match_truth`.

    Attributes
    ----------
    truth : DataFrame
        True systems of the catalogue's species as :func:`nalspark.judging.match.compare` gives them, with ``snr``.
    absorbers : DataFrame
        The catalogue with ``true`` (a true system explains the row) and ``snr``.
    others : DataFrame
        True systems of other species.
    """

    truth: pd.DataFrame
    absorbers: pd.DataFrame
    others: pd.DataFrame


def match_truth(
    absorbers: pd.DataFrame, sightlines: pd.DataFrame, truth: pd.DataFrame, species: LineSpecies, max_delta_z: float = 0.002
) -> Matched:
    """Match a catalogue with true systems of any species, one to one within its own.

    Parameters
    ----------
    absorbers, sightlines : DataFrame
        The published tables.
    truth : DataFrame
        ``spectrum_id``, ``z_abs``, ``ew_primary``, ``ew_secondary``; where it has a ``species``, null is the catalogue's.
    species : LineSpecies
        The catalogue's.
    max_delta_z : float
        Largest difference of redshift of a match.
    """
    name = truth["species"].fillna(species.name) if "species" in truth else pd.Series(species.name, index=truth.index, dtype=object)
    comparison = compare(absorbers, sightlines, truth[name == species.name], max_delta_z)
    snr = sightlines.set_index("spectrum_id")["snr"]
    rows = absorbers.reset_index(drop=True)
    rows["true"] = ~rows.index.isin(comparison.spurious.index)
    # Without rows, these would not be flags.
    own = comparison.truth.astype({"in_path": bool, "found": bool})
    frames = (own, rows, truth[name != species.name].reset_index(drop=True))
    return Matched(*[frame.assign(snr=frame["spectrum_id"].map(snr).astype(float)) for frame in frames])


def measure_at(spectra: Spectra, continuum: NDArray[np.float32], z_abs: Array, species: LineSpecies) -> dict[str, Array]:
    """The traditional doublet fit at given redshifts, whether or not anything was found there; the fit may move by 6 pixels.

    Parameters
    ----------
    spectra : Spectra
        n spectra as :func:`nalspark.absorption.normalize.normalize` leaves them; one row per redshift.
    continuum : ndarray, shape (n, p)
    z_abs : ndarray, shape (n,)
    species : LineSpecies

    Returns
    -------
    dict of ndarray, shape (n,)
        What :func:`nalspark.absorption.measure.measure_candidates` gives.
    """
    grid = spectra.grid
    pixel = np.round(grid.pixel(species.primary.wavelength * (1.0 + np.asarray(z_abs, dtype=float)))).astype(np.int64)
    residual, weight = residuals(spectra.flux, spectra.ivar, continuum, spectra.mask)
    geometry, row = ImageGeometry.of(species, grid.step), np.arange(len(pixel))
    found = {"pixel": pixel, "width_pixels": np.full(len(pixel), _START_WIDTH)}
    image, inverse_error = (cut_images(values, row, pixel, geometry) for values in (residual, np.sqrt(weight)))
    return measure_candidates(image, inverse_error, found, species, grid)


def estimate_errors(
    snr: ArrayLike, sigma_kms: ArrayLike, species: LineSpecies, grid: WavelengthGrid, instrument_sigma_kms: float
) -> tuple[Array, Array]:
    """Standard errors of the two equivalent widths from the signal-to-noise ratio per pixel alone, rest Å, shape (n,) each.

    A line of known place and Gaussian width of s pixels, weighted by its profile, has ``σ_W = λ₀ ln10 step √(2 √π s) / snr`` (for the
    amplitude: ``Σ g² = √π s``). Free width and continuum make real errors larger: calibrate with :func:`error_factor`.

    Parameters
    ----------
    snr : array, shape (n,)
        Of the continuum, per pixel.
    sigma_kms : array, shape (n,)
        Gaussian σ of the lines before the instrument; where NaN, that of a typical system.
    species : LineSpecies
    grid : WavelengthGrid
    instrument_sigma_kms : float
    """
    sigma = np.asarray(sigma_kms, dtype=float)
    width = np.hypot(np.where(np.isfinite(sigma), sigma, _TYPICAL_SIGMA_KMS), instrument_sigma_kms) / grid.pixel_kms
    per_angstrom = np.log(10.0) * grid.step * np.sqrt(2.0 * np.sqrt(np.pi) * width) / np.asarray(snr, dtype=float)
    return species.primary.wavelength * per_angstrom, species.secondary.wavelength * per_angstrom


def error_factor(absorbers: pd.DataFrame, species: LineSpecies, grid: WavelengthGrid, instrument_sigma_kms: float) -> float:
    """Median ratio of the catalogue's own errors to :func:`estimate_errors`; 1 for an empty catalogue.

    Parameters
    ----------
    absorbers : DataFrame
        With ``snr`` of the sightline, as in :attr:`Matched.absorbers`.
    """
    sigma = absorbers["fwhm_kms"] / _FWHM_PER_SIGMA
    estimated = estimate_errors(absorbers["snr"], sigma, species, grid, instrument_sigma_kms)[0]
    ratio = absorbers[f"ew_{species.primary.label}_err"].to_numpy(dtype=float) / estimated
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if len(ratio) else 1.0


def is_strong(truth: pd.DataFrame) -> NDArray[np.bool_]:
    """Which true systems are strong (see the module), shape (m,); one with an unknown width or error is not.

    Parameters
    ----------
    truth : DataFrame
        ``ew_primary``, ``ew_secondary``, ``ew_primary_err``, ``ew_secondary_err``.
    """
    first, second, first_err, second_err = (
        truth[name].to_numpy(dtype=float) for name in ("ew_primary", "ew_secondary", "ew_primary_err", "ew_secondary_err")
    )
    reached = (first >= STRONG_SIGNIFICANCE * first_err) & (second >= STRONG_SIGNIFICANCE * second_err)
    return (first >= STRONG_EW) & reached & (first_err > 0) & (second_err > 0)


def sightline_outcomes(matched: Matched, sightlines: pd.DataFrame) -> pd.DataFrame:
    """Label, decision and score of every searched spectrum, as Zhao et al. (2019) count them.

    Parameters
    ----------
    matched : Matched
        Its truth with a column ``strong``.
    sightlines : DataFrame

    Returns
    -------
    DataFrame, one row per sightline
        ``spectrum_id``; ``label``: a strong true system lies in the searched path; ``predicted``: the catalogue has an absorber here;
        ``score``: the best of its absorbers, 0 without any; ``found_strong``: one of the strong systems itself was found;
        ``weak``: there are true systems, but no strong one in the path.
    """
    truth, rows = matched.truth, matched.absorbers
    strong = truth["strong"] & truth["in_path"]
    out = sightlines[["spectrum_id"]].reset_index(drop=True)
    best = rows.groupby("spectrum_id")["score"].max()
    out["label"] = out["spectrum_id"].isin(truth.loc[strong, "spectrum_id"])
    out["predicted"] = out["spectrum_id"].isin(rows["spectrum_id"])
    out["score"] = out["spectrum_id"].map(best).fillna(0.0).astype(float)
    out["found_strong"] = out["spectrum_id"].isin(truth.loc[strong & truth["found"], "spectrum_id"])
    out["weak"] = out["spectrum_id"].isin(truth["spectrum_id"]) & ~out["label"]
    return out


def fractions(values: ArrayLike, success: ArrayLike, edges: ArrayLike) -> pd.DataFrame:
    """How many succeed in bins of a quantity: completeness where success is found, purity where it is true.

    Parameters
    ----------
    values : array, shape (m,)
    success : array of bool, shape (m,)
    edges : array, shape (b + 1,)
        Ascending; a bin has its lower edge and not its upper one. Values outside are left out, as is NaN.

    Returns
    -------
    DataFrame, one row per bin that is not empty
        ``low high successes trials fraction lower upper``: the last two are the 68 % interval.
    """
    cuts, value, good = np.asarray(edges, dtype=float), np.asarray(values, dtype=float), np.asarray(success, dtype=bool)
    number = np.searchsorted(cuts, value, side="right") - 1
    inside = (number >= 0) & (number < len(cuts) - 1) & ~np.isnan(value)
    trials = np.bincount(number[inside], minlength=len(cuts) - 1)
    successes = np.bincount(number[inside & good], minlength=len(cuts) - 1)
    lower, upper = binomial_interval(successes, trials)
    table = pd.DataFrame({
        "low": cuts[:-1], "high": cuts[1:], "successes": successes, "trials": trials,
        "fraction": successes / np.maximum(trials, 1), "lower": lower, "upper": upper,
    })  # fmt: skip
    return table[table["trials"] > 0].reset_index(drop=True)


def equal_count_edges(values: ArrayLike, bins: int) -> Array:
    """Edges of at most so many bins of about equally many values; the last is just above the largest. Empty without values."""
    finite = np.asarray(values, dtype=float)
    finite = np.sort(finite[np.isfinite(finite)])
    if not len(finite):
        return np.zeros(0)
    edges = np.unique(finite[np.arange(bins) * len(finite) // bins])
    return np.append(edges, np.nextafter(finite[-1], np.inf))


# ---- other species


def _rest_wavelengths(name: str, species: LineSpecies) -> Array:
    """Lines of a species; a name that is none (a lone line, sky) has one, at the first line of the species searched."""
    known = _NAMES.get(name)
    lines = known.transitions if known else (species.primary,)
    return np.array([line.wavelength for line in lines])


def _lines_in_path(truth: pd.DataFrame, sightlines: pd.DataFrame, species: LineSpecies) -> NDArray[np.bool_]:
    """Whether any line of each system lies where the species' first or second line was searched, shape (m,)."""
    paths = sightlines.set_index("spectrum_id")[["z_start", "z_stop"]].reindex(truth["spectrum_id"])
    inside = np.zeros(len(truth), bool)
    for row, (name, z, start, stop) in enumerate(
        zip(truth["species"], truth["z_abs"], paths["z_start"], paths["z_stop"], strict=True)
    ):  # fmt: skip
        if isinstance(start, np.ndarray | list):
            taken_for = _taken_for(_rest_wavelengths(name, species), z, species)[:, None]
            inside[row] = bool(((np.asarray(start) <= taken_for) & (taken_for <= np.asarray(stop))).any())
    return inside


def _taken_for(rest: Array, z: float, species: LineSpecies) -> Array:
    """The redshifts at which lines of another system lie on the species' first or second line, shape (2 l,)."""
    return np.concatenate([rest * (1.0 + z) / line.wavelength - 1.0 for line in (species.primary, species.secondary)])


@dataclass(frozen=True)
class SpeciesOutcomes:
    """What true systems come out as.

    Attributes
    ----------
    systems : DataFrame, one row per true species, the catalogue's first
        ``species``; ``systems`` of it of which a line could be taken for the catalogue's doublet in the searched path; ``found`` at their
        own redshift; ``mistaken``: not found, but a catalogue row has one of its lines on one of theirs; ``unseen``: the rest.
    spurious : dict
        Catalogue rows that no true system explains: true species whose line they sit on → rows; "nothing" for the rest.
    """

    systems: pd.DataFrame
    spurious: dict[str, int]


def species_outcomes(matched: Matched, sightlines: pd.DataFrame, species: LineSpecies, max_delta_z: float = 0.002) -> SpeciesOutcomes:
    """The species-confusion matrix, of true systems of all species against one catalogue.

    Parameters
    ----------
    matched : Matched
    sightlines : DataFrame
    species : LineSpecies
        The catalogue's.
    max_delta_z : float
        Largest difference between a catalogue row's redshift and that at which the doublet would lie on a line of the system.
    """
    others = matched.others.assign(found=False, in_path=_lines_in_path(matched.others, sightlines, species))
    frames = [frame for frame in (matched.truth.assign(species=species.name), others) if len(frame)] or [others]
    truth = pd.concat(frames, ignore_index=True)
    spurious = matched.absorbers[~matched.absorbers["true"]]
    pairs = _line_coincidences(truth, spurious, species, max_delta_z)
    truth["mistaken"] = truth.index.isin(pairs["system"]) & ~truth["found"]
    inside = truth[truth["in_path"]]
    counts = inside.groupby("species", sort=False)[["found", "mistaken"]].sum().astype(int)
    systems = counts.assign(systems=inside.groupby("species", sort=False).size()).reset_index()
    systems["unseen"] = systems["systems"] - systems["found"] - systems["mistaken"]
    nearest = pairs.sort_values(["delta", "system"]).drop_duplicates("row")
    explained = nearest["system"].map(truth["species"]).value_counts().to_dict()
    explained["nothing"] = len(spurious) - len(nearest)
    names = ["species", "systems", "found", "mistaken", "unseen"]
    return SpeciesOutcomes(systems[names], {str(name): int(count) for name, count in explained.items()})


def _line_coincidences(truth: pd.DataFrame, spurious: pd.DataFrame, species: LineSpecies, max_delta_z: float) -> pd.DataFrame:
    """Pairs (``system``, ``row``, ``delta``) of a true system and a spurious catalogue row on one of its lines."""
    left = truth.reset_index(names="system")[["system", "spectrum_id", "species", "z_abs"]]
    right = spurious.reset_index(names="row")[["row", "spectrum_id", "z_abs"]]
    pairs = left.merge(right, on="spectrum_id", suffixes=("", "_found"))
    delta = [
        float(np.abs(_taken_for(_rest_wavelengths(name, species), z, species) - found).min())
        for name, z, found in zip(pairs["species"], pairs["z_abs"], pairs["z_abs_found"], strict=True)
    ]
    pairs = pairs.assign(delta=np.array(delta, dtype=float))
    return pairs.loc[pairs["delta"] <= max_delta_z, ["system", "row", "delta"]]


# ---- distributions


def distributions(matched: Matched, species: LineSpecies) -> dict[str, pd.DataFrame]:
    """Found, missed and spurious systems by redshift, strength, width and doublet ratio (Zhao et al. 2019, fig. 7).

    Found and missed systems come with their true values, spurious ones with those of the catalogue. FWHM in km/s has no instrument in it.

    Returns
    -------
    dict
        ``found``, ``missed`` (in the searched path), ``spurious`` → DataFrame of ``z_abs ew fwhm_kms doublet_ratio``.
    """
    truth, rows = matched.truth, matched.absorbers
    sigma = truth["sigma_kms"] if "sigma_kms" in truth else pd.Series(np.nan, index=truth.index)
    true = pd.DataFrame({
        "z_abs": truth["z_abs"], "ew": truth["ew_primary"], "fwhm_kms": _FWHM_PER_SIGMA * sigma,
        "doublet_ratio": truth["ew_primary"] / truth["ew_secondary"].where(truth["ew_secondary"] > 0),
    }).astype(float)  # fmt: skip
    columns = ["z_abs", f"ew_{species.primary.label}", "fwhm_kms", "doublet_ratio"]
    spurious = rows.loc[~rows["true"], columns].set_axis(list(true.columns), axis=1).astype(float)
    return {"found": true[truth["found"]], "missed": true[truth["in_path"] & ~truth["found"]], "spurious": spurious}


# ---- other catalogues


@dataclass(frozen=True)
class Agreement:
    """Result of :func:`agreement`.

    Attributes
    ----------
    in_common : DataFrame
        Systems of theirs that the catalogue has too, as :attr:`Comparison.truth`.
    only_ours : DataFrame
        Rows of the catalogue that they do not have.
    only_theirs : DataFrame
        Their systems in the searched path that the catalogue does not have.
    outside : int
        Their systems outside the searched path that the catalogue does not have either.
    """

    in_common: pd.DataFrame
    only_ours: pd.DataFrame
    only_theirs: pd.DataFrame
    outside: int


def agreement(absorbers: pd.DataFrame, sightlines: pd.DataFrame, theirs: pd.DataFrame, max_delta_z: float = 0.003) -> Agreement:
    """Two catalogues of the same spectra, system by system.

    Parameters
    ----------
    absorbers, sightlines : DataFrame
        The published tables.
    theirs : DataFrame
        ``spectrum_id``, ``z_abs``.
    max_delta_z : float
        Within which two systems are one; some catalogues round to .001, and centre blends in their own way.
    """
    comparison = compare(absorbers, sightlines, theirs, max_delta_z)
    truth = comparison.truth.astype({"in_path": bool, "found": bool})
    found, inside = truth["found"], truth["in_path"]
    return Agreement(truth[found], comparison.spurious, truth[inside & ~found], int((~inside & ~found).sum()))


@dataclass(frozen=True)
class Disagreements:
    """Two catalogues spectrum by spectrum, with what a measurement says of the spectra in which only one has a system.

    Attributes
    ----------
    both, neither, only_ours, only_theirs : int
        Spectra.
    ours_confirmed, theirs_confirmed : int
        Of the spectra in which only one has a system: those in which one of its systems passes the measurement.
    """

    both: int
    neither: int
    only_ours: int
    only_theirs: int
    ours_confirmed: int
    theirs_confirmed: int

    def agreement_rate(self) -> float:
        """Spectra on which the two agree, of all."""
        return Confusion(self.both, self.neither, self.only_ours, self.only_theirs).accuracy

    def corrected_accuracies(self) -> tuple[float, float]:
        """Accuracy of ours and of theirs if the measurement is right (Zhao et al. 2019, §4.2: .941 and .923).

        A system that only one has and that does not pass is that one's mistake; one that passes is a mistake of the other. Where the two
        agree, both are taken to be right.
        """
        n = self.both + self.neither + self.only_ours + self.only_theirs
        if not n:
            return float("nan"), float("nan")
        ours = self.only_ours - self.ours_confirmed + self.theirs_confirmed
        theirs = self.only_theirs - self.theirs_confirmed + self.ours_confirmed
        return 1.0 - ours / n, 1.0 - theirs / n


def disagreements(found: Agreement, absorbers: pd.DataFrame, sightlines: pd.DataFrame) -> Disagreements:
    """Count the spectra of two catalogues; one that a catalogue does not list counts as without a system there, as in the paper.

    Parameters
    ----------
    found : Agreement
        Its ``only_ours`` and ``only_theirs`` with a column ``confirmed``.
    absorbers, sightlines : DataFrame
    """
    spectra = set(sightlines["spectrum_id"])
    ours = spectra & set(absorbers["spectrum_id"])
    theirs = spectra & (set(found.in_common["spectrum_id"]) | set(found.only_theirs["spectrum_id"]))
    ours_confirmed = set(found.only_ours.loc[found.only_ours["confirmed"], "spectrum_id"])
    theirs_confirmed = set(found.only_theirs.loc[found.only_theirs["confirmed"], "spectrum_id"])
    return Disagreements(
        both=len(ours & theirs), neither=len(spectra - ours - theirs), only_ours=len(ours - theirs), only_theirs=len(theirs - ours),
        ours_confirmed=len((ours - theirs) & ours_confirmed), theirs_confirmed=len((theirs - ours) & theirs_confirmed),
    )  # fmt: skip


def passes(measured: pd.DataFrame, species: LineSpecies) -> NDArray[np.bool_]:
    """Whether both lines reach 3 σ in a measurement, shape (m,); what could not be measured does not pass."""
    names: Sequence[str] = [f"snr_{line.label}" for line in (species.primary, species.secondary)]
    return (measured[list(names)].to_numpy(dtype=float) >= STRONG_SIGNIFICANCE).all(axis=1)
