"""The rows of a catalogue paired with systems known otherwise: true ones, those of other catalogues, those of other species.

What one system is, and what lies in the path, is defined in :mod:`nalspark.absorption.systems`; here tables are matched by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nalspark.absorption.systems import in_path, same_system, separation_pixels
from nalspark.lines import INTERLOPERS, SPECIES, LineSpecies
from nalspark.metrics import decision_rates

Array = NDArray[np.float64]

_NAMES = {species.name: species for species in (*SPECIES.values(), *INTERLOPERS)}


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`.

    Attributes
    ----------
    truth : DataFrame
        The known systems with ``in_path``, ``found`` and, where found, the measured columns with the prefix ``measured_``.
    absorbers : DataFrame
        The catalogue with ``true``: a known system explains the row.
    """

    truth: pd.DataFrame
    absorbers: pd.DataFrame

    @property
    def inside(self) -> pd.DataFrame:
        """Known systems in the searched path."""
        return self.truth[self.truth["in_path"]]

    @property
    def in_common(self) -> pd.DataFrame:
        """Known systems that the catalogue has, in the path or not."""
        return self.truth[self.truth["found"]]

    @property
    def missed(self) -> pd.DataFrame:
        """Known systems in the searched path that the catalogue does not have."""
        return self.truth[self.truth["in_path"] & ~self.truth["found"]]

    @property
    def spurious(self) -> pd.DataFrame:
        """Catalogue rows that no known system explains."""
        return self.absorbers[~self.absorbers["true"]]

    @property
    def purity(self) -> float:
        """Fraction of the catalogue's rows that are true; NaN for an empty catalogue."""
        return float(self.absorbers["true"].mean()) if len(self.absorbers) else float("nan")

    def completeness(self, selected: NDArray[np.bool_] | None = None) -> tuple[int, int]:
        """Count found and all of the known systems in the searched path, of those selected."""
        counted = self.truth["in_path"] if selected is None else self.truth["in_path"] & selected
        return int(self.truth.loc[counted, "found"].sum()), int(counted.sum())


def rounding_of(z_abs: ArrayLike) -> float:
    """Give the step of a catalogue's redshifts: 0.001 where all are multiples of it, as in Raghunathan et al. (2016), else 0."""
    thousandths = 1000.0 * np.asarray(z_abs, dtype=float)
    # Single precision leaves 1e-4 of a step.
    return 0.001 if len(thousandths) and (np.abs(thousandths - np.round(thousandths)) < 1e-3).all() else 0.0


def searched(spectrum_id: pd.Series, redshifts: Iterable[ArrayLike], sightlines: pd.DataFrame) -> NDArray[np.bool_]:
    """Say of each row whether its redshift, or any of several, was searched in its spectrum.

    Parameters
    ----------
    spectrum_id : Series, shape (m,)
    redshifts : m floats or arrays
    sightlines : DataFrame
        ``spectrum_id``, ``z_start``, ``z_stop``. In a spectrum that is not there, nothing was searched.
    """
    ends = sightlines.set_index("spectrum_id")[["z_start", "z_stop"]].reindex(spectrum_id)
    rows = zip(redshifts, ends["z_start"], ends["z_stop"], strict=True)
    return np.array([isinstance(a, np.ndarray | list) and in_path(z, a, b).any() for z, a, b in rows], dtype=bool)


def compare(absorbers: pd.DataFrame, sightlines: pd.DataFrame, truth: pd.DataFrame, rounding: float = 0.0) -> Comparison:
    """Match a catalogue with known systems, spectrum by spectrum, each row at most once, nearest pairs first.

    Parameters
    ----------
    absorbers : DataFrame
        The published catalogue.
    sightlines : DataFrame
        The published sightlines: ``spectrum_id``, ``z_start``, ``z_stop``; where they have ``snr``, both tables of the result get it.
    truth : DataFrame
        ``spectrum_id``, ``z_abs`` and, as far as known, ``ew_primary`` (Å), …
    rounding : float
        Steps in which the truth's redshifts are written (:func:`rounding_of`).
    """
    truth, absorbers = truth.reset_index(drop=True).copy(), absorbers.reset_index(drop=True).copy()
    truth["in_path"] = searched(truth["spectrum_id"], truth["z_abs"], sightlines)
    partner = partners(truth, absorbers, rounding)
    measured = absorbers.reindex(partner.where(partner >= 0)).reset_index(drop=True).add_prefix("measured_")
    truth["found"] = partner >= 0
    absorbers["true"] = absorbers.index.isin(partner)
    if "snr" in sightlines:
        snr = sightlines.drop_duplicates("spectrum_id").set_index("spectrum_id")["snr"]
        truth, absorbers = (frame.assign(snr=frame["spectrum_id"].map(snr).astype(float)) for frame in (truth, absorbers))
    return Comparison(pd.concat([truth, measured], axis=1), absorbers)


def partners(truth: pd.DataFrame, absorbers: pd.DataFrame, rounding: float = 0.0) -> pd.Series:
    """Pair known systems with rows of a catalogue, each at most once, nearest pairs first.

    Parameters
    ----------
    truth : DataFrame
        ``spectrum_id``, ``z_abs`` and, as far as known, ``ew_primary`` (Å).
    absorbers : DataFrame
        ``spectrum_id``, ``z_abs``. The index of either table has no value twice, and is not negative.
    rounding : float
        As for :func:`compare`.

    Returns
    -------
    Series of int, with the index of `truth`
        The index of the row that is the same system; -1 where none is.
    """
    pairs = _pairs(truth, absorbers, rounding)
    partner = pd.Series(-1, index=truth.index)
    taken: set[int] = set()
    for known, row in zip(pairs["index_true"], pairs["index_found"], strict=True):
        if partner[known] < 0 and row not in taken:
            partner[known] = row
            taken.add(row)
    return partner


def _pairs(truth: pd.DataFrame, absorbers: pd.DataFrame, rounding: float) -> pd.DataFrame:
    """Rows of the two tables that are one system, ``index_true`` and ``index_found``, the nearest first."""
    left = truth.assign(ew=truth.get("ew_primary", np.nan)).reset_index()[["index", "spectrum_id", "z_abs", "ew"]]
    right = absorbers.reset_index()[["index", "spectrum_id", "z_abs"]]
    pairs = left.merge(right, on="spectrum_id", suffixes=("_true", "_found"))
    pairs = pairs[same_system(pairs["z_abs_true"], pairs["z_abs_found"], pairs["ew"], rounding)]
    distance = separation_pixels(pairs["z_abs_true"], pairs["z_abs_found"])
    return pairs.assign(distance=distance).sort_values(["distance", "index_true", "index_found"])


# ---- other catalogues


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
        """Give the fraction of spectra on which the two agree."""
        return decision_rates(self.both, self.neither, self.only_ours, self.only_theirs)["accuracy"]

    def corrected_accuracies(self) -> tuple[float, float]:
        """Give the accuracy of ours and of theirs if the measurement is right (Zhao et al. 2019, §4.2: 0.941 and 0.923).

        A system that only one has and that does not pass is that one's mistake; one that passes is a mistake of the other. Where the two
        agree, both are taken to be right.
        """
        n = self.both + self.neither + self.only_ours + self.only_theirs
        if not n:
            return float("nan"), float("nan")
        ours = self.only_ours - self.ours_confirmed + self.theirs_confirmed
        theirs = self.only_theirs - self.theirs_confirmed + self.ours_confirmed
        return 1.0 - ours / n, 1.0 - theirs / n


def disagreements(
    compared: Comparison, sightlines: pd.DataFrame, ours_pass: NDArray[np.bool_], theirs_pass: NDArray[np.bool_]
) -> Disagreements:
    """Count the spectra of two catalogues; one that a catalogue does not list counts as without a system there, as in the paper.

    Parameters
    ----------
    compared : Comparison
    sightlines : DataFrame
    ours_pass, theirs_pass : ndarray of bool
        Of the rows of ``compared.spurious`` and ``compared.missed``: whether they pass a measurement.
    """
    spectra = set(sightlines["spectrum_id"])
    ours = spectra & set(compared.absorbers["spectrum_id"])
    theirs = spectra & {*compared.in_common["spectrum_id"], *compared.missed["spectrum_id"]}
    return Disagreements(
        both=len(ours & theirs), neither=len(spectra - ours - theirs), only_ours=len(ours - theirs), only_theirs=len(theirs - ours),
        ours_confirmed=len((ours - theirs) & set(compared.spurious.loc[ours_pass, "spectrum_id"])),
        theirs_confirmed=len((theirs - ours) & set(compared.missed.loc[theirs_pass, "spectrum_id"])),
    )  # fmt: skip


# ---- other species


def by_species(truth: pd.DataFrame, species: LineSpecies) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Part known systems into those of a species and the others; without a column ``species``, or where it is null, they are of it."""
    if "species" not in truth:
        return truth, truth.iloc[:0].assign(species=pd.Series(dtype=object))
    own = (truth["species"].fillna(species.name) == species.name).to_numpy()
    return truth[own], truth[~own].reset_index(drop=True)


def taken_for(name: str, z: float, species: LineSpecies) -> Array:
    """Give the redshifts at which lines of another system lie on the first or second line of a species, shape (2 l,).

    A name that is no species (a lone line, sky) has one line, at the first line of the species.
    """
    known = _NAMES.get(name)
    rest = np.array([line.wavelength for line in (known.transitions if known else (species.primary,))])
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


def species_outcomes(compared: Comparison, others: pd.DataFrame, sightlines: pd.DataFrame, species: LineSpecies) -> SpeciesOutcomes:
    """Give the species-confusion matrix, of true systems of all species against one catalogue.

    Parameters
    ----------
    compared : Comparison
        With the true systems of the catalogue's species.
    others : DataFrame
        True systems of other species: ``spectrum_id``, ``z_abs``, ``ew_primary``, ``species``.
    sightlines : DataFrame
    species : LineSpecies
        The catalogue's.
    """
    lines = [taken_for(name, z, species) for name, z in zip(others["species"], others["z_abs"], strict=True)]
    others = others.assign(found=False, in_path=searched(others["spectrum_id"], lines, sightlines))
    frames = [frame for frame in (compared.truth.assign(species=species.name), others) if len(frame)] or [others]
    truth = pd.concat(frames, ignore_index=True)
    pairs = _line_coincidences(truth, compared.spurious, species)
    truth["mistaken"] = truth.index.isin(pairs["system"]) & ~truth["found"]
    groups = truth[truth["in_path"]].groupby("species", sort=False)
    systems = groups[["found", "mistaken"]].sum().astype(int).assign(systems=groups.size()).reset_index()
    systems["unseen"] = systems["systems"] - systems["found"] - systems["mistaken"]
    nearest = pairs.sort_values(["distance", "system"]).drop_duplicates("row")
    explained = nearest["system"].map(truth["species"]).value_counts().to_dict()
    explained["nothing"] = len(compared.spurious) - len(nearest)
    names = ["species", "systems", "found", "mistaken", "unseen"]
    return SpeciesOutcomes(systems[names], {str(name): int(count) for name, count in explained.items()})


def _line_coincidences(truth: pd.DataFrame, spurious: pd.DataFrame, species: LineSpecies) -> pd.DataFrame:
    """Pairs (``system``, ``row``, ``distance`` in pixels) of a true system and a spurious catalogue row on one of its lines."""
    left = truth.reset_index(names="system")[["system", "spectrum_id", "species", "z_abs", "ew_primary"]]
    right = spurious.reset_index(names="row")[["row", "spectrum_id", "z_abs"]]
    pairs = left.merge(right, on="spectrum_id", suffixes=("", "_found"))
    places = [taken_for(name, z, species) for name, z in zip(pairs["species"], pairs["z_abs"], strict=True)]
    nearest = [line[separation_pixels(line, z).argmin()] for line, z in zip(places, pairs["z_abs_found"], strict=True)]
    taken_at = np.array(nearest, dtype=float)
    pairs = pairs.assign(distance=separation_pixels(taken_at, pairs["z_abs_found"]))
    return pairs.loc[same_system(taken_at, pairs["z_abs_found"], pairs["ew_primary"]), ["system", "row", "distance"]]
