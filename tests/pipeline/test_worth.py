"""What a catalogue is worth, on the engine: published with it, resumed, the same in any partitions, and left out once it is another's."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from runs import assert_same_catalogue, make_survey, published, run, settings_of

import nalspark
from nalspark.absorption.sensitivity import bin_edges, bin_of
from nalspark.cli import main
from nalspark.errors import StoreError
from nalspark.judging.completeness import CompletenessFunction
from nalspark.judging.evaluate import evaluate_result
from nalspark.judging.page import evaluation_text
from nalspark.judging.worth import expected_completeness, result_purity
from nalspark.lines import MG_II
from nalspark.pipeline.catalogue import WORTH
from nalspark.tables.result import WORTH as FILES

pytestmark = pytest.mark.spark
MORE = ("completeness.per_sightline=3", "completeness.ew_min=0.5")


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("worth") / "survey")


@pytest.fixture(scope="module")
def finished(spark: Any, survey: Path) -> Path:
    out = survey.parent / "finished"
    done = run(spark, settings_of(survey, out, *MORE, "pipeline.partitions=3"), *WORTH)
    assert tuple(done) == WORTH and all(done.values())
    return out


@pytest.fixture
def result(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "result"))


def read(out: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(out / f"{name}.parquet")


def test_every_row_of_the_catalogue_knows_its_completeness_and_its_weight(finished: Path) -> None:
    opened = nalspark.open_result(finished)
    rows, table = published(finished)["absorbers"], opened.table("completeness").to_pydict()
    function = CompletenessFunction.of(table)
    np.testing.assert_array_equal(rows["completeness"], function(rows["ew_2796"], rows["sigma_ew"], rows["z_abs"]))
    np.testing.assert_allclose(rows["weight"], rows["score"] / rows["completeness"])
    assert rows["completeness"].between(0, 1).all() and len(rows) > 5
    assert len(opened.absorbers) == len(rows) and opened.absorbers["sigma_ew"].unit == "Angstrom"


def test_injections_lie_in_the_path_of_their_spectrum_and_know_its_sensitivity(finished: Path) -> None:
    injections, sightlines = read(finished, "injections"), read(finished, "sightlines").set_index("spectrum_id")
    sensitivity = read(finished, "sensitivity").set_index("spectrum_id")
    assert len(injections) == 3 * len(sightlines) and injections["found"].mean() > 0.5
    ratio = []
    for row in injections.itertuples():
        line = sightlines.loc[row.spectrum_id]
        assert np.any((line["z_start"] <= row.z_abs) & (row.z_abs <= line["z_stop"]))
        seen = sensitivity.loc[row.spectrum_id]
        sigma = np.frombuffer(seen["sigma_ew"], "<f2")[bin_of(MG_II, row.z_abs) - seen["first_bin"]]
        ratio.append(row.sigma_ew / float(sigma))
    weak, ratio = injections["ew_primary"].to_numpy() < 1.0, np.array(ratio)
    assert np.median(ratio[weak]) == pytest.approx(1.0, abs=0.03) and np.percentile(np.abs(np.log(ratio[weak])), 90) < 0.12
    # A strong absorber takes the quasar's own noise away.
    assert 0.85 < np.median(ratio[~weak]) < 1.0


def test_the_sensitivity_covers_the_path(finished: Path) -> None:
    sightlines = read(finished, "sightlines").set_index("spectrum_id")
    sensitivity = read(finished, "sensitivity")
    assert set(sensitivity["spectrum_id"]) == set(sightlines.index)
    for row in sensitivity.itertuples():
        searched = np.frombuffer(row.n_searched, np.uint8)
        edges = bin_edges(MG_II, row.first_bin + np.arange(len(searched) + 1))
        path = np.sum(np.diff(edges) * searched / 11)
        assert path == pytest.approx(sightlines.loc[row.spectrum_id, "redshift_path"], rel=2e-3)
        assert (np.isfinite(np.frombuffer(row.sigma_ew, "<f2")) == (searched > 0)).all()


def test_the_header_of_the_catalogue_tells_its_purity(finished: Path) -> None:
    header, rows = fits.getheader(finished / "absorbers.fits", 1), published(finished)["absorbers"]
    decoys = read(finished, "decoys")
    assert header["NDECOYS"] == pytest.approx(decoys["weight"][decoys["accepted"]].sum(), abs=1e-5)
    assert header["SUMSCORE"] == pytest.approx(rows["score"].sum(), abs=1e-4)
    ordered = rows.sort_values(["spectrum_id", "z_abs"])
    apart = ordered.groupby("spectrum_id")["z_abs"].transform(lambda z: np.log10(1 + z).diff()) / 1e-4
    assert header["NPIECES"] == (apart < 11.13).sum()
    assert header["PURDECOY"] == pytest.approx(1 - (header["NDECOYS"] / 4 + header["NPIECES"]) / len(rows))
    purity = result_purity(nalspark.open_result(finished))
    assert (purity.by_decoys, purity.by_score) == (pytest.approx(header["PURDECOY"]), pytest.approx(header["PURSCORE"]))


def test_the_completeness_foretells_what_was_found_of_the_truth(survey: Path, finished: Path) -> None:
    result, truth = nalspark.open_result(finished), pd.read_parquet(survey / "truth.parquet")
    sensitivity = read(finished, "sensitivity").set_index("spectrum_id")
    expected, function = expected_completeness(result, truth), CompletenessFunction.of(result.table("completeness").to_pydict())
    known = 0
    for system, value in zip(truth.itertuples(), expected, strict=True):
        if system.spectrum_id not in sensitivity.index:
            assert np.isnan(value)
            continue
        row = sensitivity.loc[system.spectrum_id]
        sigma, place = np.frombuffer(row["sigma_ew"], "<f2"), int(bin_of(MG_II, system.z_abs)) - row["first_bin"]
        if 0 <= place < len(sigma) and np.isfinite(sigma[place]):
            known += 1
            assert value == pytest.approx(float(function(system.ew_primary, sigma[place].astype(float), system.z_abs)))
        else:
            assert np.isnan(value)
    assert known > 10
    evaluation = evaluate_result(finished, survey / "truth.parquet")
    table = evaluation.numbers["worth"]["expected"]
    assert np.abs(table["successes"].sum() - table["expected"].sum()) < 4 * np.sqrt((table["error"] ** 2).sum()) + 1
    assert "What the catalogue foretold" in evaluation_text(evaluation)


def test_a_second_run_does_nothing_and_more_injections_leave_the_catalogue_alone(spark: Any, survey: Path, result: Path) -> None:
    done = run(spark, settings_of(survey, result, *MORE), *WORTH)
    assert not any(done.values())
    done = run(spark, settings_of(survey, result, *MORE, "completeness.seed=2"), *WORTH)
    assert {stage for stage, parts in done.items() if parts} == {"inject", "completeness", "publish"}


def test_partitions_and_waves_do_not_matter(spark: Any, survey: Path, finished: Path, tmp_path: Path) -> None:
    """One and seven against the three of the finished result, from the search on."""
    for number in (1, 7):
        out = Path(shutil.copytree(finished, tmp_path / str(number)))
        cut = f"pipeline.partitions={number}", "pipeline.parts_per_wave=2"
        run(spark, settings_of(survey, out, *MORE, *cut), *WORTH[2:], force=True)
        assert_same_catalogue(out, finished)
        for name in ("sensitivity", *FILES):
            ours, theirs = (read(place, name) for place in (out, finished))
            by = [column for column in ("spectrum_id", "by", "low", "ew_low", "z_low", "z_abs", "separation_kms") if column in ours]
            ours, theirs = (frame.sort_values(by, ignore_index=True) for frame in (ours, theirs))
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True, obj=name)


def test_what_is_neither_a_result_nor_a_run_file_is_told(tmp_path: Path) -> None:
    said = io.StringIO()
    with redirect_stderr(said):
        assert main(["completeness", str(tmp_path / "none")]) == 2
    assert "name a result of `nalspark find`, or a run file" in said.getvalue()


def test_the_worth_of_another_catalogue_is_not_published(spark: Any, survey: Path, result: Path) -> None:
    said = io.StringIO()
    with redirect_stderr(said):
        assert main(["find", str(survey / "parts"), "--quasars", str(survey / "quasars.fits"), "--out", str(result), "--set",
                     "ingest.plates_per_part=1", "publish.gallery=0", *MORE, "infer.min_score=0.8"]) == 0  # fmt: skip
    assert "run `nalspark completeness`" in said.getvalue()
    assert published(result)["absorbers"]["completeness"].isna().all()
    assert not any((result / f"{name}.parquet").exists() for name in FILES)
    with pytest.raises(StoreError, match="nalspark completeness"):
        nalspark.open_result(result).table("completeness")
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(io.StringIO()):
        assert main(["completeness", str(result)]) == 0
    assert "purity without labels" in told.getvalue() and "1.0 <= W < 1.5" in told.getvalue()
    assert published(result)["absorbers"]["completeness"].notna().all()
    assert (published(result)["absorbers"]["score"] >= 0.8).all()


def test_epochs_of_one_quasar_share_object_and_systems_and_one_of_them_is_primary(spark: Any, survey: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts" / "1001"
    folder.mkdir(parents=True)
    source = sorted((survey / "parts").rglob("spec-*.fits"))
    strong = published(survey.parent / "finished")["absorbers"].sort_values("significance").iloc[-1]
    path = next(file for file in source if file.name.endswith(".fits") and str(file) == path_of(survey, strong["spectrum_id"]))
    for number, file in enumerate([path, path, *[other for other in source if other != path and other.stat().st_size > 9999][:3]]):
        with fits.open(file) as hdus:
            if number == 1:
                hdus[0].header["MJD"] += 7
                hdus[2].data["MJD"] += 7
                hdus[1].data["ivar"] *= 0.5
            hdus.writeto(folder / f"spec-1001-52000-{number:04d}.fits")
    out = tmp_path / "out"
    run(spark, settings_of(survey, out, spectra=[str(tmp_path / "parts")], quasars=[]))
    lines, rows = published(out)["sightlines"], published(out)["absorbers"]
    epochs = lines[lines["object_id"].duplicated(keep=False)]
    assert len(epochs) == 2 and epochs["n_epochs"].tolist() == [2, 2] and epochs["primary"].sum() == 1
    assert epochs.loc[epochs["snr"].idxmax(), "primary"]
    assert lines[~lines.index.isin(epochs.index)]["primary"].all()
    mine = rows[rows["object_id"] == epochs["object_id"].iloc[0]]
    near = mine[np.abs(mine["z_abs"] - strong["z_abs"]) < 1e-3]
    assert len(near) == 2 and near["system_id"].nunique() == 1 and near["primary"].sum() == 1
    assert rows["system_id"].nunique() < len(rows)


def path_of(survey: Path, spectrum_id: str) -> str:
    lines = published(survey.parent / "finished")["sightlines"].set_index("spectrum_id")
    return str(lines.loc[spectrum_id, "path"])
