"""What is a 1, a 0, and what nobody knows: closed cases, without Spark."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nalspark.errors import CatalogError
from nalspark.lines import MG_II
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE
from nalspark.teaching.labels import Known, Reach, label_candidate, label_spectrum, splits, verdicts

REACHES = {"A": Reach(0.4, 2.0), "B": Reach(0.5, 1.5), "rounded": Reach(0.4, 2.0, rounding=0.001), "near": Reach(0.4, 2.0, 0.5, 0.99)}
PIXEL = np.log(10) * 1e-4


def known(*systems: tuple[Any, ...], covered: str = "", z_qso: float = 3.0, people: tuple[tuple[float, float], ...] = ()) -> Known:
    """Systems (z, ew, strong, catalogue) of a spectrum that some catalogues cover; places (z, label) where people looked."""
    z, ew, strong, catalogue = zip(*systems, strict=True) if systems else ((), (), (), ())
    places, says = zip(*people, strict=True) if people else ((), ())
    arrays = np.array(z, float), np.array(ew, float), np.array(strong, bool), np.array(catalogue, object)
    return Known(z_qso, *arrays, covered.split(), np.array(places, float), np.array(says, float))


def shifted(z: float, pixels: float) -> float:
    return (1 + z) * np.exp(pixels * PIXEL) - 1


@pytest.mark.parametrize(
    "z, of, agree, label",
    [
        (1.0, known((1.0, 1.0, True, "A"), covered="A"), 1, 1.0),
        (shifted(1.0, 3.9), known((1.0, 1.0, True, "A"), covered="A"), 1, 1.0),
        (shifted(1.0, 6.0), known((1.0, 1.0, True, "A"), covered="A"), 1, None),  # the flank
        (shifted(1.0, 8.1), known((1.0, 1.0, True, "A"), covered="A"), 1, 0.0),
        (shifted(1.0, 6.0), known((1.0, 5.1, True, "A"), covered="A"), 1, 1.0),  # a wide one reaches farther
        (shifted(1.0, 4.9), known((1.0, 1.0, True, "rounded"), covered="rounded"), 1, 1.0),  # half a step is 1.09 pixels
        (shifted(1.0, 9.0), known((1.0, 1.0, True, "rounded"), covered="rounded"), 1, None),
        (1.0, known((1.0, 0.3, False, "A"), covered="A"), 1, 1.0),  # weak, but an absorber
        (1.2, known(covered="A"), 1, 0.0),
        (1.2, known(), 1, None),
        (2.1, known(covered="A"), 1, None),  # beyond what the catalogue lists
        (1.7, known(covered="A B"), 1, 0.0),
        (1.7, known(covered="A B"), 2, None),  # one of the two was not searched there
        (1.2, known(covered="A B"), 2, 0.0),
        (1.2, known(covered="near", z_qso=1.25), 1, 0.0),
        (1.2, known(covered="near", z_qso=1.21), 1, None),  # nearer to the quasar than all that the catalogue lists
        (0.9, known(covered="near", z_qso=2.9), 1, None),  # and farther
        (1.0, known((1.0, 1.0, True, "A"), covered="A B"), 2, None),
        (1.0, known((1.0, 1.0, True, "A"), (1.0002, 1.1, False, "B"), covered="A B"), 2, 1.0),
        (1.0, known((1.0, 1.0, True, "A"), (1.0003, 1.1, True, "A"), covered="A B"), 2, None),  # twice in one catalogue
        (1.0, known((1.0, 1.0, True, "A"), covered="A", people=((1.0001, 0.0),)), 1, 0.0),  # people overrule
        (1.2, known(people=((1.2, 1.0), (1.2004, 0.0))), 1, 1.0),  # the nearer look
        (1.2, known(people=((1.3, 1.0),)), 1, None),
    ],
)
def test_candidates(z: float, of: Known, agree: int, label: float | None) -> None:
    found = label_candidate(z, of, REACHES, agree).label
    assert (None if np.isnan(found) else found) == label


PATH = ([0.5, 1.1], [1.0, 1.4])


@pytest.mark.parametrize(
    "of, agree, weak, label",
    [
        (known((0.8, 1.0, True, "A"), covered="A"), 1, "exclude", 1.0),
        (known((1.05, 1.0, True, "A"), covered="A"), 1, "exclude", 0.0),  # between the intervals: the network cannot see it
        (known((0.8, 0.4, False, "A"), covered="A"), 1, "exclude", None),
        (known((0.8, 0.4, False, "A"), covered="A"), 1, "negative", 0.0),
        (known((0.8, 0.4, False, "A"), (1.2, 1.0, True, "A"), covered="A"), 1, "exclude", 1.0),
        (known(covered="A"), 1, "exclude", 0.0),
        (known(), 1, "exclude", None),
        (known((0.8, 1.0, True, "A"), covered="A B"), 2, "exclude", None),
        (known((0.8, 1.0, True, "A"), (1.2, 1.0, True, "B"), covered="A B"), 2, "exclude", None),  # two, but not the same one
        (known((0.8, 1.0, True, "A"), (0.8001, 1.0, True, "B"), covered="A B"), 2, "exclude", 1.0),
        (known((0.8, 1.0, True, "A"), (0.8001, 1.0, False, "B"), covered="A B"), 2, "exclude", None),
        (known(covered="A B"), 2, "exclude", 0.0),
        (known(covered="A"), 2, "exclude", None),
    ],
)
def test_spectra(of: Known, agree: int, weak: str, label: float | None) -> None:
    found = label_spectrum(of, PATH, REACHES, agree, weak)
    assert (None if np.isnan(found) else found) == label


def test_a_spectrum_whose_path_the_catalogue_does_not_reach_is_not_labelled() -> None:
    assert np.isnan(label_spectrum(known(covered="B"), ([1.6], [1.9]), REACHES, 1, "exclude"))
    assert np.isnan(label_spectrum(known(covered="A"), ([], []), REACHES, 1, "exclude"))
    assert label_spectrum(known(covered="B"), ([0.3, 1.6], [0.6, 1.9]), REACHES, 1, "exclude") == 0
    assert np.isnan(label_spectrum(known(covered="near", z_qso=1.61), ([1.6], [1.61]), REACHES, 1, "exclude"))


def test_the_reach_of_a_catalogue_is_read_off_it(tmp_path: Any) -> None:
    for name, z, z_qso in (("rounded", [0.5, None, 1.234], [1.0, 9.0, 1.234]), ("exact", [0.5, 1.2345], [None, None])):
        columns = {"z_abs": pa.array(z, pa.float64()), "z_qso": pa.array(z_qso, pa.float64())}
        pq.write_table(pa.table(columns), tmp_path / name)
    assert Reach.of(tmp_path / "rounded") == Reach(0.5, 1.234, 0.75, 1.0, 0.001)
    assert Reach.of(tmp_path / "exact") == Reach(0.5, 1.2345)
    assert Reach(0.5, 1.234, 0.75, 1.0).of_quasar(1.2) == pytest.approx((0.65, 1.2))


# ---- splits


def split_of(names: list[str], **labels: Any) -> dict[str, str]:
    return dict(zip(names, splits(names, load(None, (), labels=labels).labels), strict=True))


def test_every_quasar_is_tested_once_and_its_split_is_its_own() -> None:
    names = [f"J{number}" for number in range(2000)]
    folds = [split_of(names, fold=fold) for fold in range(5)]
    assert all(sum(fold[name] == "test" for fold in folds) == 1 for name in names)
    counts = pd.Series(folds[0]).value_counts()
    assert counts["test"] == pytest.approx(400, abs=60) and counts["train"] / counts["validation"] == pytest.approx(4, abs=0.6)
    assert split_of(names[500:600][::-1]) == {name: folds[0][name] for name in names[500:600]}, "whatever the others are"
    assert split_of(names, seed=2) != folds[0]


def test_fewer_quasars_to_learn_from_are_a_part_of_the_more_and_the_others_stay() -> None:
    names = [f"J{number}" for number in range(1000)]
    quarter, half, whole = (split_of(names, share=share) for share in (0.25, 0.5, 1.0))
    train = [{name for name in names if split[name] == "train"} for split in (quarter, half, whole)]
    assert train[0] < train[1] < train[2] and len(train[0]) / len(train[2]) == pytest.approx(0.25, abs=0.05)
    others = {name: split for name, split in whole.items() if split != "train"}
    assert others == {name: quarter[name] for name in others}


# ---- people


def looks(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """Labels (system, reviewer, class, reason, time)."""
    frame = pd.DataFrame(rows, columns=["system", "reviewer", "class", "reason", "time"])
    frame["spectrum_id"] = frame["system"].str.rpartition("-")[0]
    return frame.assign(programme="absorption", species="MgII", z=1.0)


def decided(labels: pd.DataFrame, agree: int = 1) -> dict[str, tuple[float, str]]:
    found = verdicts(labels, "MgII", MG_II.primary.wavelength, agree)
    return {row.spectrum_id: (row.label, row.reason) for row in found.itertuples()}


def test_what_most_people_say_counts() -> None:
    one = [("s-1", "ann", "absorber", "", 1), ("s-1", "ben", "not", "sky", 2), ("s-1", "cat", "not", "sky", 3)]
    assert decided(looks(*one)) == {"s": (0.0, "sky")}
    assert decided(looks(*one[:2])) == {}, "one against one"
    assert decided(looks(*one), agree=3) == {}, "two votes are not three"
    assert decided(looks(*one[:1], ("s-1", "ben", "unsure", "noise", 2))) == {}, "one against one that is unsure"
    assert decided(looks(*one[:1], ("s-1", "ben", "absorber", "", 2), ("s-1", "cat", "unsure", "noise", 3))) == {"s": (1.0, "")}
    assert decided(looks(("s-1", "ben", "unsure", "", 2))) == {}


def test_of_one_person_the_last_look_counts() -> None:
    twice = [("s-1", "ann", "absorber", "", 5), ("s-1", "ann", "not", "other ion", 7)]
    assert decided(looks(*twice)) == decided(looks(*twice[::-1])) == {"s": (0.0, "other ion")}


def test_a_second_look_counts_more_than_a_first_that_was_given_later() -> None:
    rows = looks(("s-1", "ann", "not", "", 5), ("s-1", "ann", "absorber", "", 7))
    assert decided(rows.assign(look=[2, 1])) == {"s": (0.0, "")}


def test_votes_for_one_system_add_up_whatever_its_name() -> None:
    """A new search named it by the pixel beside."""
    rows = looks(
        ("s-100", "ann", "absorber", "", 1),
        ("s-101", "ann", "not", "", 2),
        ("s-101", "ben", "not", "", 3),
        ("s-9", "cat", "absorber", "", 4),
    )
    rows = rows.assign(z=[1.0, 1.0001, 1.0001, 1.5])
    found = verdicts(rows, "MgII", MG_II.primary.wavelength, 2)
    assert found[["z", "label"]].to_numpy().tolist() == [[1.0001, 0.0]]


@pytest.mark.parametrize("system", ["J1234", "J1234-5", "-36000"])
def test_a_label_without_a_place_is_told(system: str) -> None:
    table = looks((system, "ann", "absorber", "", 1))[["system", "reviewer", "class", "time"]]
    with pytest.raises(CatalogError, match=f"'{system}' has no redshift z"):
        verdicts(table, "MgII", MG_II.primary.wavelength)


def test_labels_of_other_species_and_programmes_are_left_out() -> None:
    rows = looks(("a-1", "ann", "absorber", "", 1), ("b-1", "ann", "absorber", "", 1), ("c-1", "ann", "absorber", "", 1))
    assert decided(rows.assign(species=["CIV", "MgII", None])) == {"b": (1.0, ""), "c": (1.0, "")}
    assert decided(rows.assign(programme=["emission", "absorption", None])) == {"b": (1.0, ""), "c": (1.0, "")}


def test_a_table_without_places_has_them_in_the_names_of_its_systems() -> None:
    """As `system, reviewer, class, time`: the name of a system is its spectrum and the lattice pixel of its first line."""
    pixel = LATTICE.first + round(float(LATTICE.pixel(MG_II.primary.wavelength * 2.0)))
    table = looks((f"0001-52000-0007-{pixel}", "ann", "absorber", "", 1))[["system", "reviewer", "class", "time"]]
    (row,) = verdicts(table, "MgII", MG_II.primary.wavelength).itertuples()
    assert row.spectrum_id == "0001-52000-0007" and row.z == pytest.approx(1.0, abs=2e-4) and row.label == 1
    assert verdicts(pd.DataFrame(), "MgII", MG_II.primary.wavelength).empty
