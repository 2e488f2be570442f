"""A catalogue judged: small tables whose every number can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from nalspark.judging import evaluate as judge
from nalspark.judging.match import Comparison, Disagreements, by_species, compare, disagreements, species_outcomes
from nalspark.judging.strength import is_strong
from nalspark.lines import MG_II, SPECIES


def make_absorbers(*rows):
    """Rows (spectrum_id, z_abs, score)."""
    n = len(rows)
    columns = {"spectrum_id": [r[0] for r in rows], "z_abs": [r[1] for r in rows], "score": [r[2] for r in rows]}
    fixed = {"ew_2796": 1.0, "ew_2796_err": 0.1, "snr_2796": 10.0, "snr_2803": 5.0, "fwhm_kms": 150.0, "doublet_ratio": 1.5}
    return pd.DataFrame({**columns, **{name: np.full(n, value) for name, value in fixed.items()}})


def make_truth(*rows, err=0.1):
    """Rows (spectrum_id, z_abs, ew_primary, ew_secondary[, species])."""
    names = ["spectrum_id", "z_abs", "ew_primary", "ew_secondary", "species"][: max(map(len, rows), default=4)]
    return pd.DataFrame(list(rows), columns=names).assign(ew_primary_err=err, ew_secondary_err=err, sigma_kms=50.0)


def make_sightlines(*names, path=(0.5, 1.5), snr=10.0):
    return pd.DataFrame({
        "spectrum_id": list(names), "snr": np.full(len(names), snr),
        "z_start": [np.array([path[0]])] * len(names), "z_stop": [np.array([path[1]])] * len(names),
    })  # fmt: skip


def judged(absorbers, sightlines, truth):
    compared = compare(absorbers, sightlines, truth)
    return Comparison(compared.truth.assign(strong=is_strong(compared.truth)), compared.absorbers)


# ---- per spectrum


def test_every_kind_of_spectrum_is_counted():
    sightlines = make_sightlines("found", "other", "missed", "weak", "noise", "empty", "outside")
    truth = make_truth(
        ("found", 1.0, 1.0, 0.6), ("other", 1.0, 1.0, 0.6), ("missed", 1.0, 1.0, 0.6), ("missed", 1.2, 0.4, 0.2), ("weak", 1.0, 0.4, 0.2),
        ("outside", 1.6, 2.0, 1.5), ("unsearched", 1.0, 2.0, 2.0),
    )  # fmt: skip
    absorbers = make_absorbers(("found", 1.0, 0.7), ("found", 1.3, 0.9), ("other", 0.7, 0.6), ("weak", 1.0, 0.5), ("noise", 0.8, 0.0))
    spectra = judge.sightline_outcomes(judged(absorbers, sightlines, truth), sightlines).set_index("spectrum_id")
    assert spectra.index[spectra["label"]].tolist() == ["found", "other", "missed"]
    # A score of 0 is a decision all the same.
    assert spectra.index[spectra["predicted"]].tolist() == ["found", "other", "weak", "noise"]
    assert spectra["score"].tolist() == [0.9, 0.6, 0.0, 0.5, 0.0, 0.0, 0.0]
    assert spectra.index[spectra["found_strong"]].tolist() == ["found"]
    assert spectra.index[spectra["weak"]].tolist() == ["weak", "outside"]


def test_empty_catalogues_and_truths():
    sightlines = make_sightlines("a")
    missed = judged(make_absorbers(), sightlines, make_truth(("a", 1.0, 1.0, 0.8)))
    assert judge.sightline_outcomes(missed, sightlines)[["label", "predicted"]].to_numpy().tolist() == [[True, False]]
    assert {name: len(frame) for name, frame in judge.distributions(missed, MG_II).items()} == {"found": 0, "missed": 1, "spurious": 0}
    clean = compare(make_absorbers(("a", 1.0, 0.5)), sightlines, make_truth().astype({"spectrum_id": object}))
    assert clean.absorbers["true"].tolist() == [False]


# ---- per absorber


def test_fractions_in_bins():
    table = judge.fractions([0.5, 1.0, 1.5, 2.0, 9.0, math.nan, -1.0], [1, 1, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, np.inf])
    # A bin has its lower edge; empty ones are left out, and so is what lies outside.
    assert table["low"].tolist() == [0, 1, 2, 4] and table["trials"].tolist() == [1, 2, 1, 1]
    assert table["fraction"].tolist() == [1.0, 0.5, 0.0, 1.0]
    assert ((table["lower"] <= table["fraction"]) & (table["fraction"] <= table["upper"])).all()
    assert judge.fractions([], [], [0, 1]).empty


def test_bins_of_equally_many():
    values = np.arange(100.0)
    edges = judge.equal_count_edges(values, 4)
    assert judge.fractions(values, values > 0, edges)["trials"].tolist() == pytest.approx([25] * 4, abs=1)
    assert judge.fractions(np.ones(5), np.ones(5), judge.equal_count_edges(np.ones(5), 4))["trials"].tolist() == [5]
    assert len(judge.equal_count_edges([], 4)) == 0


def test_distributions_keep_true_values_of_the_found():
    truth = make_truth(("a", 1.0, 0.9, 0.6), ("a", 1.2, 0.4, 0.2), ("a", 2.0, 5.0, 5.0))
    groups = judge.distributions(judged(make_absorbers(("a", 1.0, 0.5), ("a", 0.7, 0.5)), make_sightlines("a"), truth), MG_II)
    assert groups["found"].to_numpy().tolist() == [[1.0, 0.9, pytest.approx(2.3548 * 50, rel=1e-4), pytest.approx(1.5)]]
    assert groups["missed"]["ew"].tolist() == [0.4]
    assert groups["spurious"].to_numpy().tolist() == [[0.7, 1.0, 150.0, 1.5]]


# ---- other species


def test_what_other_species_come_out_as():
    rest = {line.label: line.wavelength for species in SPECIES.values() for line in species.transitions}
    z = 2.2
    on_first, on_second = rest["1548"] * (1 + z) / rest["2796"] - 1, rest["1550"] * (1 + z) / rest["2803"] - 1
    iron = rest["2600"] * 2.0 / rest["2796"] - 1
    truth = make_truth(
        ("a", 1.0, 1.0, 0.8, "MgII"), ("b", 1.0, 1.0, 0.8, "MgII"), ("c", z, 1.0, 0.8, "CIV"), ("d", z, 1.0, 0.8, "CIV"),
        ("e", z, 1.0, 0.8, "CIV"), ("e", 8.0, 1.0, 0.8, "CIV"), ("f", 0.9, 1.0, 0.8, "lone"), ("f", 1.1, 1.0, 0.8, None),
    )  # fmt: skip
    absorbers = make_absorbers(
        ("a", 1.0, 1), ("b", iron, 1), ("c", on_first, 1), ("d", on_second + 0.001, 1), ("e", 1.3, 1), ("f", 0.9, 1), ("f", 1.1, 1)
    )  # fmt: skip
    own, others = by_species(truth, MG_II)
    compared = compare(absorbers, make_sightlines(*"abcdef"), own)
    assert compared.absorbers["true"].tolist() == [True, False, False, False, False, False, True]
    outcomes = species_outcomes(compared, others, make_sightlines(*"abcdef"), MG_II)
    rows = {row.species: (row.systems, row.found, row.mistaken, row.unseen) for row in outcomes.systems.itertuples()}
    # The third C IV is not seen, the fourth lies where nothing was searched; a name that is no species stands at the first line itself.
    assert rows == {"MgII": (3, 2, 1, 0), "CIV": (3, 0, 2, 1), "lone": (1, 0, 1, 0)}
    assert outcomes.systems["species"].iloc[0] == "MgII"
    assert outcomes.spurious == {"CIV": 2, "MgII": 1, "lone": 1, "nothing": 1}
    assert sum(outcomes.spurious.values()) == len(compared.spurious)


# ---- other catalogues


def test_agreement_system_by_system():
    sightlines = make_sightlines(*"abcd")
    theirs = pd.DataFrame({"spectrum_id": ["a", "a", "b", "c"], "z_abs": [1.0, 1.2, 1.8, 0.7]})
    compared = compare(make_absorbers(("a", 1.0018, 1), ("d", 1.0, 1)), sightlines, theirs)
    assert compared.in_common["z_abs"].tolist() == [1.0]
    assert compared.spurious["spectrum_id"].tolist() == ["d"]
    assert compared.missed[["spectrum_id", "z_abs"]].to_numpy().tolist() == [["a", 1.2], ["c", 0.7]]


def test_disagreements_spectrum_by_spectrum():
    sightlines, absorbers = make_sightlines(*"abcdef"), make_absorbers(("a", 1.0, 1), ("b", 1.0, 1), ("c", 0.8, 1), ("c", 1.2, 1))
    theirs = pd.DataFrame({"spectrum_id": ["a", "b", "d", "e"], "z_abs": [1.0, 1.3, 1.0, 1.0]})
    compared = compare(absorbers, sightlines, theirs)
    counts = disagreements(
        compared, sightlines, (compared.spurious["z_abs"] == 1.2).to_numpy(), (compared.missed["spectrum_id"] == "e").to_numpy()
    )
    # In b both have a system, if not the same one: by spectra they agree.
    assert counts == Disagreements(both=2, neither=1, only_ours=1, only_theirs=2, ours_confirmed=1, theirs_confirmed=1)
    assert counts.agreement_rate() == 0.5
    assert counts.corrected_accuracies() == (pytest.approx(5 / 6), pytest.approx(4 / 6))


def test_the_paper_s_corrected_accuracies():
    # Zhao et al. (2019), §4.2: 2538 of 4132 false positives and 1382 of 2803 false negatives pass the traditional pipeline.
    paper = Disagreements(
        both=18464, neither=25775, only_ours=4132, only_theirs=2803, ours_confirmed=2538, theirs_confirmed=1382
    )  # fmt: skip
    network, traditional = paper.corrected_accuracies()
    assert network == pytest.approx(0.941, abs=0.001) and traditional == pytest.approx(0.923, abs=0.001)
    assert all(math.isnan(value) for value in Disagreements(0, 0, 0, 0, 0, 0).corrected_accuracies())
