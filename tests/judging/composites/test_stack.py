"""Composites of a result with Spark: partitions do not matter, selections, controls, positions, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from make_spectra import make_spectra
from runs import make_survey, run, settings_of, spark_frame

from nalspark.absorption import chain
from nalspark.absorption.normalize import continuum_across
from nalspark.cli import main
from nalspark.errors import StoreError
from nalspark.judging.composites.arrays import Sums, add_spectra
from nalspark.judging.composites.stages import Plan, stack_result, sum_spectra
from nalspark.judging.composites.widths import near_lines
from nalspark.settings import Settings
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.catalogs import open_catalog
from nalspark.tables.arrow import encode
from nalspark.tables.result import open_result
from nalspark.tables.schemas import SPECTRA
from nalspark.tables.table import Column
from nalspark.tables.table import Table as Declared

#: Spectra, and at which redshifts each is wanted.
WANTED = Declared(
    "wanted",
    "",
    (*SPECTRA.columns, Column("z_qso", "double", ""), Column("kind", "list<int>", ""), Column("z_stack", "list<double>", ""),
     Column("object_id", "list<string>", "")),
)  # fmt: skip


# ---- sums do not depend on partitions


@pytest.mark.spark
def test_one_three_and_seven_partitions_give_the_bits_of_the_arrays(spark: Any) -> None:
    z_qso = np.linspace(1.2, 2.4, 21)
    spectra = make_spectra(z_qso, snr=8.0, seed=3)
    asked = [[(1, z - 0.3, f"q{i % 9}")] + [(2, 0.6 + 0.01 * i, "q1")] * (i % 3) for i, z in enumerate(z_qso)]
    lists = {name: [[one[k] for one in row] for row in asked] for k, name in enumerate(("kind", "z_stack", "object_id"))}
    pixels = {"flux": spectra.flux, "ivar": spectra.ivar, "mask": spectra.mask, "first_pixel": np.full(21, LATTICE.first)}
    batch = encode({"spectrum_id": [f"s{i}" for i in range(21)], "z_qso": z_qso, **pixels, **lists}, WANTED)
    frame = spark_frame(spark, batch, WANTED)
    ready = chain.prepare(spectra, z_qso, Settings())
    expected = {1: Sums(), 2: Sums()}
    for row, requests in enumerate(asked):
        for kind, z, name in requests:
            lines = near_lines([z], LATTICE)
            continuum = continuum_across(ready, np.array([row]), z_qso[[row]], lines, Settings().preprocess)
            add_spectra(expected[kind], (ready.spectra.flux[[row]], continuum, ready.spectra.good[[row]]), [z], [name], seed=5)
    for partitions in (1, 3, 7):
        sums = sum_spectra(frame.repartition(partitions), Settings(), 5)
        for kind, known in expected.items():
            assert known.n_spectra == sums[kind].n_spectra == 21
            assert all(np.array_equal(values, sums[kind][name]) for name, values in known.values.items())


# ---- a result


@pytest.fixture(scope="module")
def result(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated survey, searched."""
    folder = tmp_path_factory.mktemp("stack")
    survey = make_survey(folder / "survey", n=48, per_part=16, seed=5)
    run(spark, settings_of(survey, folder / "result"))
    return folder / "result"


def stacked(spark: Any, result: Path, scratch: Path, **plan: Any) -> Any:
    return stack_result(spark, open_result(result), Plan(**plan), scratch, lambda _: None)


@pytest.mark.spark
def test_all_absorbers_are_stacked_with_controls_of_other_quasars(spark: Any, result: Path, tmp_path: Path) -> None:
    stack = stacked(spark, result, tmp_path, controls=2)
    absorbers = pd.read_parquet(result / "absorbers.parquet")
    assert stack.facts["n_spectra"] == len(absorbers) and stack.facts["n_objects"] == absorbers["object_id"].nunique()
    assert stack.facts["n_controls"] == 2 * stack.facts["n_matched"] > 0
    requests = pd.read_parquet(tmp_path / "requests")
    controls = requests[requests["kind"] == 2]
    assert not set(controls["spectrum_id"]) & set(absorbers["spectrum_id"])
    matched = requests[requests["kind"] == 1]
    pairs = matched.merge(controls, on=["object_id", "z_stack"])
    assert len(pairs) == 2 * len(matched) and (pairs["z_qso_x"] - pairs["z_qso_y"]).abs().max() < 0.2
    assert (stack.composite["n"] <= len(absorbers)).all() and np.isfinite(stack.facts["ebv"])
    strong = stack.lines[list(stack.lines["line"]).index("Mg II 2796")]
    assert strong["snr"] > 5 and strong["ew"].value == pytest.approx(absorbers["ew_2796"].mean(), rel=0.15)


@pytest.mark.spark
def test_a_selection_stacks_those_rows_by_columns_of_the_sightline_too(spark: Any, result: Path, tmp_path: Path) -> None:
    rows = pd.read_parquet(result / "absorbers.parquet").merge(
        pd.read_parquet(result / "sightlines.parquet")[["spectrum_id", "snr"]], on="spectrum_id"
    )
    wanted = (rows["ew_2796"] > 0.8) & (rows["snr"] > rows["snr"].median())
    text = f"ew_2796 > 0.8 and snr > {rows['snr'].median()}"
    stack = stacked(spark, result, tmp_path, select=text, controls=0)
    assert stack.facts["n_spectra"] == wanted.sum() > 0 and stack.ratio is None and stack.facts["select"] == text
    with pytest.raises(StoreError, match="no absorbers that are 'ew_2796 > 99'.*nothing is stacked"):
        stacked(spark, result, tmp_path, select="ew_2796 > 99")


@pytest.mark.spark
def test_given_positions_are_stacked_at_their_redshifts(spark: Any, result: Path, tmp_path: Path) -> None:
    """Galaxies at the absorbers' redshifts: the composite is that of the absorbers; those behind the quasars or far away do not count."""
    absorbers = pd.read_parquet(result / "absorbers.parquet")
    galaxies = Table({"ra": absorbers["ra"].to_numpy(), "dec": absorbers["dec"].to_numpy() + 8 / 3600, "z": absorbers["z_abs"].to_numpy()})
    galaxies.add_row((float(galaxies["ra"][0]), float(galaxies["dec"][0]), 5.0))
    galaxies.add_row((float(galaxies["ra"][0]), float(galaxies["dec"][0]) - 1.0, 0.5))
    galaxies.write(tmp_path / "galaxies.csv", format="ascii.csv")
    catalog = open_catalog(tmp_path / "galaxies.csv", "quasars")
    near = stacked(spark, result, tmp_path / "near", positions=catalog, radius_arcsec=10.0, controls=0)
    plain = stacked(spark, result, tmp_path / "plain", controls=0)
    assert near.facts["n_positions"] == len(absorbers) + 2 and near.facts["n_spectra"] == len(absorbers)
    assert np.array_equal(near.composite["mean"], plain.composite["mean"])
    assert np.array_equal(near.lines["ew_err"], plain.lines["ew_err"], equal_nan=True)
    with pytest.raises(StoreError, match="none lies within 5 arcsec.*Give a larger --radius"):
        stacked(spark, result, tmp_path / "none", positions=catalog, radius_arcsec=5.0)


@pytest.mark.spark
def test_the_command_writes_a_folder_that_it_replaces_and_no_other(
    spark: Any, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stack", str(result), "--select", "ew_2796 > 0.5", "--name", "strong"]) == 0
    told = capsys.readouterr()
    folder = result / "stacks" / "strong"
    names = {"composite.fits", "composite.ecsv", "composite.png", "lines.ecsv", "ratio.ecsv", "ratio.png", "stack.json"}
    assert {path.name for path in folder.iterdir()} == names and [path.name for path in folder.parent.iterdir()] == ["strong"]
    assert "Mg II 2796" in told.out and str(folder) in told.out and "are stacked" in told.err
    facts, table = json.loads((folder / "stack.json").read_text()), Table.read(folder / "composite.fits")
    assert facts["select"] == "ew_2796 > 0.5" and table["n"].max() <= facts["n_spectra"]
    assert np.array_equal(table["mean"], Table.read(folder / "composite.ecsv")["mean"])
    (folder / "lines.ecsv").write_text("stale")
    assert main(["stack", str(result), "--select", "ew_2796 > 0.5", "--name", "strong", "--controls", "0"]) == 0
    assert "ew_err" in (folder / "lines.ecsv").read_text() and not (folder / "ratio.png").exists()


# ---- what is refused before a session is started


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("a Spark session was asked for")

    monkeypatch.setattr("nalspark.judging.composites.cli.running_session", refuse)


@pytest.mark.spark
@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--select", "__import__('os').system('true')"], "is not understood"),
        (["--select", "ew_2769 > 1"], "Did you mean 'ew_2796'?"),
        (["--controls", "-1"], "--controls must be 0 or more"),
        (["--radius", "0"], "--radius must be above 0"),
        (["--name", "../up"], "cannot name a composite"),
        (["--positions", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(
    no_session: None, result: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stack", str(result), *options]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.spark
def test_what_is_not_a_composite_is_not_replaced(
    no_session: None, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    assert main(["stack", str(result), "--out", str(tmp_path / "mine")]) == 2
    assert "holds no composite" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
