"""What catalogues and people say of real spectra, as labels to learn from: 1 an absorber, 0 none, NaN nobody knows.

A catalogue's silence is a 0 only where the catalogue was searched: in the spectra that it covers, between the least and the greatest
redshift that it lists, and as far from the quasar, and as near to it, as it lists any absorber.
What one system is, is defined in :mod:`nalspark.absorption.systems`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from nalspark.absorption.systems import in_path, same_system, separation_pixels
from nalspark.errors import CatalogError
from nalspark.judging.match import rounding_of
from nalspark.mocks.examples import FLANK_PIXELS
from nalspark.mocks.inject import seeded_generator
from nalspark.settings import Labels
from nalspark.spectra.grid import LATTICE

Array = NDArray[np.float64]

#: Fifths of the quasars, one of which is the test; and the share of the others that stops the training and calibrates (Zhao et al.: 4:1).
FOLDS, VALIDATION = 5, 0.2
#: What a person's class of a system says.
_VERDICTS = {"absorber": 1.0, "not": 0.0}


@dataclass(frozen=True)
class Reach:
    """Where a catalogue lists absorbers: the least and greatest of its rows.

    Attributes
    ----------
    z_min, z_max : float
        Redshifts of the absorbers, ends included.
    far, near : float
        (1 + z_abs) / (1 + z_qso), ends included: how far from the quasar, and how near to it.
    rounding : float
        Steps in which it writes redshifts, 0 for none.
    """

    z_min: float
    z_max: float
    far: float = 0.0
    near: float = np.inf
    rounding: float = 0.0

    @classmethod
    def of(cls, converted: str | Path) -> Reach:
        """Read it off a catalogue in canonical columns, some rows at a time."""
        ends: dict[str, list[float]] = {"z": [], "ratio": [], "rounding": []}
        with pq.ParquetFile(converted) as parquet:
            for batch in parquet.iter_batches(columns=["z_abs", "z_qso"]):
                z, z_qso = (batch[name].to_numpy(zero_copy_only=False).astype(float) for name in ("z_abs", "z_qso"))
                z, ratio = z[np.isfinite(z)], ((1.0 + z) / (1.0 + z_qso))[np.isfinite(z) & (z_qso > 0)]
                ends["rounding"] += [rounding_of(z)] if len(z) else []
                for name, values in (("z", z), ("ratio", ratio)):
                    ends[name] += [float(values.min()), float(values.max())] if len(values) else []
        z_ends, ratios, steps = (ends[name] or usual for name, usual in (("z", [np.nan]), ("ratio", [0.0, np.inf]), ("rounding", [0.0])))
        return cls(min(z_ends), max(z_ends), min(ratios), max(ratios), min(steps))

    def of_quasar(self, z_qso: float) -> tuple[float, float]:
        """Give the redshifts between which it would list absorbers of a quasar."""
        return max(self.z_min, self.far * (1.0 + z_qso) - 1.0), min(self.z_max, self.near * (1.0 + z_qso) - 1.0)


@dataclass(frozen=True)
class Known:
    """What is known of one spectrum.

    Attributes
    ----------
    z_qso : float
    z, ew, strong, catalogue : ndarray, shape (k,)
        Listed systems: redshift, rest equivalent width of the first line (Å), whether both lines are strong, name of the catalogue.
    covered : sequence of str
        Catalogues that cover the spectrum.
    people_z, people_label : ndarray, shape (j,)
        Places at which people looked, and what they say: 1 or 0.
    """

    z_qso: float
    z: Array
    ew: Array
    strong: NDArray[np.bool_]
    catalogue: NDArray[np.object_]
    covered: Sequence[str] = ()
    people_z: Array = field(default_factory=lambda: np.zeros(0))
    people_label: Array = field(default_factory=lambda: np.zeros(0))

    def covering(self, z_start: ArrayLike, z_stop: ArrayLike, reaches: Mapping[str, Reach]) -> int:
        """Count the catalogues that cover some of the redshifts in some intervals, ends included."""
        start, stop = np.asarray(z_start, dtype=float), np.asarray(z_stop, dtype=float)
        ends = (reaches[name].of_quasar(self.z_qso) for name in self.covered)
        return sum(bool(((start <= high) & (stop >= low)).any()) for low, high in ends)

    def near(self, z: float, reaches: Mapping[str, Reach], flank: bool = False) -> NDArray[np.bool_]:
        """Tell which of the listed systems are one with a redshift, or lie so near that it is on their flank, shape (k,)."""
        rounding = np.array([reaches[name].rounding for name in self.catalogue], dtype=float)
        own = same_system(self.z, z, self.ew, rounding)
        if not flank:
            return own
        # Half a step of the catalogue's rounding is granted to the flank as it is to the system.
        apart = separation_pixels(self.z, z) - separation_pixels(self.z, self.z + 0.5 * rounding)
        return np.asarray(own | (apart <= FLANK_PIXELS), dtype=bool)


class Said(NamedTuple):
    """The label of a candidate, and the numbers of the listed system nearest to it and of the look that decided; -1 for none."""

    label: float
    system: int
    look: int


def label_candidate(z: float, known: Known, reaches: Mapping[str, Reach], agree: int) -> Said:
    """Label the candidate at a redshift.

    People overrule catalogues. An absorber that at least `agree` catalogues list is 1. What fewer list, and the flank of an absorber, is
    NaN. 0 is what none lists and at least `agree` cover.
    """
    nearest = int(separation_pixels(known.z, z).argmin()) if len(known.z) else -1
    looks = np.flatnonzero(same_system(known.people_z, z, np.nan))
    if len(looks):
        look = int(looks[separation_pixels(known.people_z[looks], z).argmin()])
        return Said(float(known.people_label[look]), nearest, look)
    if len(set(known.catalogue[known.near(z, reaches)])) >= agree:
        return Said(1.0, nearest, -1)
    flank = known.near(z, reaches, flank=True).any()
    return Said(0.0 if known.covering(z, z, reaches) >= agree and not flank else np.nan, nearest, -1)


def label_spectrum(known: Known, path: tuple[ArrayLike, ArrayLike], reaches: Mapping[str, Reach], agree: int, weak: str) -> float:
    """Label one spectrum (Zhao et al. 2019, §2.2): 1 with a strong system in its path, 0 with none at all, NaN else.

    Parameters
    ----------
    known : Known
    path : (z_start, z_stop)
        The searched intervals that the network sees. What lies outside does not count.
    reaches : mapping
        Catalogue → Reach.
    agree : int
        Catalogues that must list one strong system, or cover some of the path.
    weak : str
        ``negative``: a spectrum of weak systems only is 0; else NaN.
    """
    seen = in_path(known.z, *path)
    for z in known.z[seen & known.strong]:
        if len(set(known.catalogue[known.near(z, reaches) & known.strong])) >= agree:
            return 1.0
    if seen.any() and (weak != "negative" or known.strong[seen].any()):
        return np.nan
    return 0.0 if known.covering(*path, reaches) >= agree else np.nan


def splits(quasars: Sequence[str], settings: Labels) -> NDArray[np.object_]:
    """Assign quasars to ``train``, ``validation`` or ``test``, or to none (empty), each by its name and the seed alone."""
    drawn = np.array([seeded_generator("split", settings.seed, name).random(3) for name in quasars]).reshape(-1, 3)
    split = np.where(drawn[:, 1] < VALIDATION, "validation", np.where(drawn[:, 2] < settings.share, "train", ""))
    return np.where((drawn[:, 0] * FOLDS).astype(int) == settings.fold, "test", split).astype(object)


def verdicts(labels: pd.DataFrame, species: str, rest_wavelength: float, agree: int = 1) -> pd.DataFrame:
    """Decide what people say of each system.

    Parameters
    ----------
    labels : DataFrame
        As `nalspark.review.labels.read_labels` gives them: at least ``system``, ``reviewer``, ``class``, ``time``. Of a reviewer who looked
        again, the last look counts, as in :func:`nalspark.review.labels.votes`.
    species : str
        Labels of other species, and those of another programme, are left out.
    rest_wavelength : float, Å
        Of the species' first line: where no redshift is given, the system's name has its pixel.
    agree : int
        Votes that the majority needs. Where it has fewer, is for `unsure`, or there is none, the system is left out.

    Returns
    -------
    DataFrame
        ``spectrum_id``, ``z``, ``label`` (1 or 0), ``reason``: what most of those who say `not` take it for; empty for an absorber.

    Raises
    ------
    CatalogError
        Where a label has no redshift, and its system's name no pixel of the lattice.
    """
    own = labels.reindex(columns=["system", "spectrum_id", "species", "z", "reviewer", "class", "reason", "time", "programme", "look"])
    for name, wanted in (("programme", "absorption"), ("species", species)):
        own = own[own[name].isna() | own[name].eq(wanted)]
    if len(own):
        named = zip(own["system"], own["spectrum_id"], own["z"], strict=True)
        places = [_place(system, spectrum, z, rest_wavelength) for system, spectrum, z in named]
        own = own.assign(spectrum_id=[name for name, _ in places], z=[z for _, z in places])
    rows = []
    for spectrum, looks in own.groupby("spectrum_id"):
        ordered = looks.sort_values("z", kind="stable")
        z = ordered["z"].to_numpy(dtype=float)
        # A catalogue made anew may name a system by the pixel beside: what is one system is told by redshift.
        ordered = ordered.assign(group=np.concatenate([[0], np.cumsum(~same_system(z[1:], z[:-1], np.nan))]))
        decided = (_verdict(system, agree) for _, system in ordered.groupby("group"))
        rows += [(spectrum, *one) for one in decided if one is not None]
    return pd.DataFrame(rows, columns=["spectrum_id", "z", "label", "reason"])


def _verdict(looks: pd.DataFrame, agree: int) -> tuple[float, float, str] | None:
    """Redshift, label and reason of one system; None where people do not agree so far."""
    votes = looks.sort_values(["look", "time"], kind="stable").drop_duplicates("reviewer", keep="last")
    counts = votes["class"].value_counts()
    most = counts.index[counts == counts.max()]
    if len(most) > 1 or most[0] not in _VERDICTS or counts.max() < agree:
        return None
    reasons = votes.loc[votes["class"].eq("not"), "reason"].fillna("").mode()
    return float(votes["z"].iloc[-1]), _VERDICTS[most[0]], reasons.iloc[0] if most[0] == "not" else ""


def _place(system: str, spectrum_id: str | None, z: float, rest_wavelength: float) -> tuple[str, float]:
    """The spectrum and redshift of a label; where it does not say them, they are in the system's name."""
    name, _, pixel = str(system).rpartition("-")
    spectrum = name if spectrum_id is None or pd.isna(spectrum_id) else str(spectrum_id)
    if np.isfinite(float("nan") if z is None else z):
        return spectrum, float(z)
    if not (name and pixel.isdecimal() and 0 <= int(pixel) - LATTICE.first < LATTICE.n_pixels):
        raise CatalogError(
            f"The label of system '{system}' has no redshift z, and its name does not end with a pixel as those of nalspark do: give the "
            "table of labels columns spectrum_id and z."
        )
    return spectrum, 10.0 ** (int(pixel) * LATTICE.step) / rest_wavelength - 1.0
