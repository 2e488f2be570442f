"""Random absorbers follow path and completeness, and belong to their spectra, not to the order of the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import QTable
from make_rates import CONSTANT, logistic, make_sensitivity, make_survey, write_result
from scipy.integrate import trapezoid
from scipy.stats import kstest

from nalspark.cli import main
from nalspark.judging.path import cells_of
from nalspark.judging.randoms import Density, draw_randoms, expected_number, name_keys, uniforms, write_randoms
from nalspark.lines import MG_II
from nalspark.settings import Statistics
from nalspark.tables.result import open_result

SETTINGS = Statistics(z_bins=(0.4, 1.0, 2.2))
LAW = {"z": np.array([1.0]), "n_star": np.array([1.2]), "w_star": np.array([0.65])}
DENSITY = Density.of(LAW, logistic, MG_II, SETTINGS)


@pytest.fixture(scope="module")
def sightlines():
    return make_sensitivity(300)


@pytest.fixture(scope="module")
def randoms(sightlines):
    return draw_randoms(sightlines, DENSITY, 100.0, SETTINGS)


def found_per_z(sigma):
    """∫ f C dW from 0.3 Å on, by a sum of its own."""
    ew = np.linspace(0.3, 12.0, 4000)
    seen = 1.2 / 0.65 * np.exp(-ew / 0.65) * logistic(ew[None, :], np.asarray(sigma)[:, None])
    return trapezoid(seen, ew, axis=1), ew, seen


def test_there_are_as_many_as_the_law_expects(sightlines, randoms):
    cells = cells_of(sightlines, MG_II, 5000.0)
    inside = (cells.z_low >= 0.4) & (cells.z_high <= 2.2)
    expected = (found_per_z(cells.sigma_ew[inside])[0] * cells.path[inside]).sum()
    assert expected_number(sightlines, DENSITY, SETTINGS) == pytest.approx(expected, rel=0.01)
    assert len(randoms["z_abs"]) == pytest.approx(100 * expected, abs=5 * np.sqrt(100 * expected) + expected)


def test_redshifts_follow_path_times_completeness(sightlines, randoms):
    cells = cells_of(sightlines, MG_II, 5000.0)
    mean = found_per_z(cells.sigma_ew)[0] * cells.searched
    z = np.linspace(0.4, 2.2, 2000)
    below = np.array([(mean * np.clip(np.minimum(cells.z_high, x) - np.maximum(cells.z_low, 0.4), 0, None)).sum() for x in z])
    assert kstest(randoms["z_abs"], lambda x: np.interp(x, z, below / below[-1])).pvalue > 0.01
    uniform = kstest(randoms["z_abs"], lambda x: (x - 0.4) / 1.8).pvalue
    assert uniform < 1e-6


def test_equivalent_widths_follow_the_law_times_completeness(sightlines, randoms):
    near = np.abs(np.log(randoms["sigma_ew"] / 0.1)) < 0.05
    _, ew, seen = found_per_z(randoms["sigma_ew"][near].astype(float))
    below = np.cumsum(seen / seen.sum(axis=1, keepdims=True), axis=1).mean(axis=0)
    assert near.sum() > 300 and kstest(randoms["ew_2796"][near], lambda x: np.interp(x, ew, below)).pvalue > 0.01


def test_randoms_belong_to_their_spectrum_in_any_order_and_company(sightlines, randoms):
    order = np.random.default_rng(3).permutation(len(sightlines["ra"]))
    shuffled = {name: values[order] for name, values in sightlines.items()}
    other = [
        draw_randoms({name: values[a : a + 17] for name, values in shuffled.items()}, DENSITY, 100.0, SETTINGS)
        for a in range(0, len(order), 17)
    ]
    together = {name: np.concatenate([some[name] for some in other]) for name in randoms}
    sort, sort_other = (np.lexsort((some["z_abs"], some["spectrum_id"].astype(str))) for some in (randoms, together))
    for name in ("spectrum_id", "z_abs", "ew_2796", "ra", "sigma_ew"):
        assert np.array_equal(randoms[name][sort], together[name][sort_other]), name
    seeded = draw_randoms(sightlines, DENSITY, 100.0, SETTINGS, seed=2)
    assert not np.array_equal(seeded["z_abs"][:50], randoms["z_abs"][:50])


def test_randoms_lie_on_primary_sightlines_below_the_quasar(sightlines, randoms):
    of = {name: row for row, name in enumerate(sightlines["spectrum_id"])}
    rows = np.array([of[name] for name in randoms["spectrum_id"]])
    assert sightlines["primary"][rows].all() and np.array_equal(sightlines["ra"][rows], randoms["ra"])
    assert (randoms["z_abs"] < sightlines["z_qso"][rows]).all() and randoms["ew_2796"].min() >= 0.3
    assert randoms["z_abs"].min() >= 0.4 and randoms["z_abs"].max() <= 2.2


def test_the_uniform_numbers_are_uniform():
    keys = name_keys([f"s{i}" for i in range(4000)], 1)
    assert len(set(keys.tolist())) == 4000
    first, second = uniforms(keys, 0), uniforms(keys, 1)
    assert kstest(first, "uniform").pvalue > 0.01 and abs(np.corrcoef(first, second)[0, 1]) < 0.06
    assert kstest(uniforms(np.repeat(keys[:1], 4000), np.arange(4000)), "uniform").pvalue > 0.01
    assert first.min() >= 0 and first.max() < 1


# ---- files and the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"statistics": {"z_bins": [0.4, 1.0, 2.2]}}
    return write_result(make_survey(150, CONSTANT), tmp_path_factory.mktemp("randoms") / "result", settings)


def test_the_command_writes_n_times_as_many_as_there_are_absorbers(folder: Path, tmp_path: Path, capsys, no_spark):
    assert main(["randoms", str(folder), "--n", "30", "--out", str(tmp_path / "r.parquet")]) == 0
    said = capsys.readouterr()
    rows = pq.read_table(tmp_path / "r.parquet")
    absorbers = int(said.err.split(" absorbers")[0].split()[-1])
    assert absorbers > 100 and rows.num_rows == pytest.approx(30 * absorbers, abs=5 * np.sqrt(30 * absorbers))
    assert said.out.startswith(f"{rows.num_rows} random absorbers with W >= 0.3 Å at z 0.4 to 2.2")
    assert main(["randoms", str(folder), "--n", "30", "--out", str(tmp_path / "r.fits")]) == 0
    table = QTable.read(tmp_path / "r.fits")
    assert len(table) == rows.num_rows and np.array_equal(table["z_abs"], rows["z_abs"].to_numpy()) and table["ew_2796"].unit == "Angstrom"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.fits", "r.parquet"]


def test_as_many_as_expected(folder: Path, tmp_path: Path):
    result = open_result(folder)
    told: list[str] = []
    path, _ = write_randoms(result, tmp_path / "r.parquet", 10.0, expected=True, say=told.append)
    expected = float(told[-1].split(" expected")[0].split()[-1])
    assert (
        pq.read_metadata(path).num_rows == pytest.approx(10 * expected, abs=5 * np.sqrt(10 * expected)) and "drawing 10 times" in told[-1]
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (("--out", "{}/r.csv"), "ends in neither .fits nor .parquet"),
        (("--n", "0"), "0 were asked for with --n"),
        (("--n", "nan"), "nan were asked for with --n"),
        (("--set", "statistics.fit_ew=[6,7]", "--out", "{}/r.fits"), "There are too few absorbers to fit f(W) to"),
        (("--out", "{}/file/r.fits"), "The randoms cannot be written to"),
        (("--out", "{}/folder.parquet"), "is a folder, and stays as it is"),
        (("--set", "statistics.ew_limits=[60]", "--out", "{}/r.fits"), "less than or equal to 10"),
    ],
)
def test_what_cannot_be_drawn_is_told(options, sentence, folder: Path, tmp_path: Path, capsys, no_spark):
    (tmp_path / "file").touch()
    (tmp_path / "folder.parquet").mkdir()
    assert main(["randoms", str(folder), *(text.format(tmp_path) for text in options)]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.parquet"]
