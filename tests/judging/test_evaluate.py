"""`nalspark evaluate` on a result of four spectra that is written by hand, and what it says of input that it cannot use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_spectra import doublet, lines_at, make_spectra
from PIL import Image

from nalspark.cli import main
from nalspark.judging.evaluate import evaluate_result, measure_systems
from nalspark.judging.inputs import assign_spectra, read_result
from nalspark.judging.page import evaluation_text
from nalspark.lines import MG_II
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE
from nalspark.tables.arrow import encode
from nalspark.tables.manifest import Manifest, Part, write_manifest
from nalspark.tables.schemas import SIGHTLINES, SPECTRA, absorbers_table

Z_QSO = 1.6
#: Spectrum → true redshift and depth of its first line. Of the faint one nothing can be seen; `clean` has nothing.
SYSTEMS = {"found": (1.0, 0.5), "missed": (1.1, 0.4), "faint": (1.2, 0.02)}
NAMES = ("found", "missed", "clean", "faint")


def pixel_of(z: float) -> float:
    return float(LATTICE.pixel(MG_II.primary.wavelength * (1 + z)))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with one true absorber (in `found`) and one that is none (in `clean`), as `nalspark find` leaves it."""
    root = tmp_path_factory.mktemp("evaluate") / "result"
    n = len(NAMES)
    lines = [doublet(pixel_of(SYSTEMS[name][0]), SYSTEMS[name][1]) if name in SYSTEMS else () for name in NAMES]
    absorbed = np.array([lines_at(*some) if some else np.zeros(LATTICE.n_pixels) for some in lines])
    spectra = make_spectra(np.full(n, Z_QSO), 20.0, absorbed=absorbed)
    described: dict[str, Any] = {
        "spectrum_id": list(NAMES), "part": ["one", "one", "two", "two"], "plate": np.arange(1, n + 1), "mjd": np.full(n, 55000),
        "fiber": np.arange(1, n + 1), "ra": np.array([10.0, 20.0, 30.0, 40.0]), "dec": np.zeros(n), "z_qso": np.full(n, Z_QSO),
        "snr": np.full(n, 20.0), "z_start": [[0.5]] * n, "z_stop": [[1.5]] * n, "redshift_path": np.full(n, 1.0),
    }  # fmt: skip
    pixels = {"flux": spectra.flux, "ivar": spectra.ivar, "mask": spectra.mask, "first_pixel": np.full(n, LATTICE.first)}
    described["path"] = [f"{name}.fits" for name in NAMES]
    read = pa.Table.from_batches([encode({**described, **pixels}, SPECTRA)])
    parts = {}
    for part in ("one", "two"):
        path = root / "tables" / "spectra" / "run" / f"in_part={part}"
        path.mkdir(parents=True)
        pq.write_table(read.filter(pa.compute.equal(read["part"], part)), path / "part.parquet")
        parts[part] = Part("key", str(path.relative_to(root)), 2)
    columns = {
        "spectrum_id": ["found", "clean"], "z_abs": np.array([1.0, 0.8]), "score": np.array([0.9, 0.4]),
        "fwhm_kms": np.array([150.0, 90.0]),
        "ew_2796": np.array([1.4, 0.5]), "ew_2796_err": np.array([0.05, 0.09]), "snr_2796": np.array([28.0, 5.5]),
        "snr_2803": np.array([20.0, 3.5]), "doublet_ratio": np.array([1.5, 1.1]),
    }  # fmt: skip
    for name, batch in (("absorbers", encode(columns, absorbers_table(MG_II))), ("sightlines", encode(described, SIGHTLINES))):
        (root / f"{name}.parquet").mkdir()
        pq.write_table(pa.Table.from_batches([batch]), root / f"{name}.parquet" / "part.parquet")
    settings = load(spectra=["spectra"], out=str(root)).model_dump()
    write_manifest(Manifest(tables={"spectra": parts}, settings=settings), root / "manifest.json")
    return root


@pytest.fixture(scope="module")
def truth(result: Path) -> Path:
    path = result.parent / "truth.parquet"
    rows = [(name, z, 3.0 * depth, 2.0 * depth, 60.0) for name, (z, depth) in SYSTEMS.items()]
    pd.DataFrame(rows, columns=["spectrum_id", "z_abs", "ew_primary", "ew_secondary", "sigma_kms"]).to_parquet(path)
    return path


def test_a_result_of_an_earlier_version_is_judged(result: Path, truth: Path, tmp_path: Path) -> None:
    """It knew of no TARGETID, no CATALOGID and no rebinned pixels."""
    old = Path(shutil.copytree(result, tmp_path / "old"))
    file = old / "sightlines.parquet" / "part.parquet"
    later = ["field", "catalogid", "targetid", "program", "healpix", "tile", "object_id", "n_epochs", "format"]
    pq.write_table(pq.read_table(file).drop_columns(later), file)
    for file in old.glob("tables/spectra/run/*/part.parquet"):
        spectra = pq.read_table(file, partitioning=None)
        pq.write_table(spectra.drop_columns([name for name in (*later, "scatter") if name in spectra.column_names]), file)
    ours, theirs = read_result(old).sightlines, read_result(result).sightlines
    assert ours["targetid"].tolist() == ours["catalogid"].tolist() == [-1] * 4 and ours["targetid"].dtype == np.int64
    assert ours["plate"].tolist() == [1, 2, 3, 4] and set(ours) == set(theirs)
    rows = pd.DataFrame({"plate": [2], "mjd": [55000], "fiber": [2], "targetid": -1, "catalogid": -1, "ra": np.nan, "dec": np.nan})
    assert assign_spectra(rows, ours, 1.0)["spectrum_id"].tolist() == ["missed"]
    numbers = [json.dumps(evaluate_result(folder, truth).numbers | {"catalogue": ""}, default=str) for folder in (old, result)]
    assert numbers[0] == numbers[1]


@pytest.fixture(scope="module")
def theirs(result: Path) -> Path:
    """Another catalogue: of `found` by identifier, of `missed` by position, and a system in `faint` that is none."""
    path = result.parent / "theirs.csv"
    rows = ["plate,mjd,fiber,ra,dec,z_abs,ew_2796", "1,55000,1,,,1.001,1.4", ",,,20.0001,0,1.1,1.1", "4,55000,4,,,0.8,1.0", "9,9,9,,,1.0,1"]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_whole_evaluation(result: Path, truth: Path, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--truth", str(truth), "--catalogues", str(theirs), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "--catalogue", str(result), *arguments]) == 0
    said = capsys.readouterr().out
    assert "2 MgII absorbers in 4 searched spectra" in said and "TP 1, TN 1, FP 1, FN 1" in said
    assert "3 fitted at the true redshift" in " ".join(said.split())
    numbers = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    spectra = numbers["per_spectrum"]
    assert spectra["metrics"]["accuracy"] == 0.5 and spectra["strong_in_path"] == 2 and spectra["tp_with_a_strong_system_found"] == 1
    assert spectra["metrics"]["auc"] == pytest.approx(0.625)  # scores 0.9 and 0 against 0.4 and 0
    assert sum(row["trials"] for row in numbers["completeness"]["ew"]) == 3
    assert [(row["successes"], row["trials"]) for row in numbers["purity"]["score"]] == [(0, 1), (1, 1)]
    assert numbers["completeness"]["ew"][-1]["high"] in (2.0, 3.0)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    agreed = numbers["catalogues"]["theirs.csv"]
    assert agreed["rounding"] == 0.001 and "rounded to 0.001" in page
    assert (agreed["in_common"], agreed["only_ours"], agreed["only_theirs"]) == (1, 1, 2)
    assert (agreed["only_ours_pass"], agreed["only_theirs_pass"]) == (0, 1)
    assert (agreed["spectra"]["accuracy_ours"], agreed["spectra"]["accuracy_theirs"]) == (0.5, 0.75)
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures == ["completeness.png", "completeness_ew.png", "distributions.png", "purity.png", "scores.png"]
    for name in pictures:
        assert f'src="{name}"' in page
        Image.open(tmp_path / "out" / name).verify()


def test_a_run_file_names_the_catalogue(result: Path, truth: Path, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "RUN.toml").write_text(f"spectra = ['x']\nout = '{result}'\n")
    assert main(["evaluate", "--catalogue", str(tmp_path / "RUN.toml"), "--truth", str(truth)]) == 0
    assert "TP 1, TN 1, FP 1, FN 1" in capsys.readouterr().out
    assert (result / "evaluation" / "evaluation.html").is_file()


def test_only_the_spectra_asked_for_are_measured(result: Path) -> None:
    systems = pd.DataFrame({"spectrum_id": ["missed", "nowhere", "found", "missed"], "z_abs": [1.1, 1.0, 1.0, 0.8]}, index=[7, 3, 5, 1])
    measured = measure_systems(read_result(result), systems)
    assert measured.index.tolist() == [7, 3, 5, 1]
    strong = (measured["snr_2796"] > 8).tolist()
    assert strong == [True, False, True, False] and np.isnan(measured.loc[3, "snr_2796"])
    assert measure_systems(read_result(result), systems.iloc[:0]).empty


def test_without_pixels_errors_are_estimated_and_nothing_is_measured_again(result: Path, truth: Path, theirs: Path, tmp_path: Path) -> None:
    shutil.copytree(result, tmp_path / "result")
    shutil.rmtree(tmp_path / "result" / "tables")
    evaluation = evaluate_result(tmp_path / "result", truth, [theirs])
    assert evaluation.numbers["per_spectrum"]["sigma"]["estimated from the S/N"] == 3
    assert evaluation.numbers["per_spectrum"]["metrics"]["accuracy"] == 0.5
    assert "spectra" not in evaluation.numbers["catalogues"]["theirs.csv"]
    assert "any more: the disagreements cannot be measured again" in evaluation_text(evaluation)


def test_a_catalogue_serves_as_truth_with_its_own_errors(result: Path, tmp_path: Path) -> None:
    rows = ["plate,mjd,fiber,z_abs,ew_2796,ew_2796_err,ew_2803,ew_2803_err", "1,55000,1,1.0,1.4,.1,1.0,.1", "2,55000,2,1.1,1.1,.1,.8,.4"]
    (tmp_path / "truth.csv").write_text("\n".join(rows) + "\n")
    numbers = evaluate_result(result, tmp_path / "truth.csv").numbers["per_spectrum"]
    assert numbers["sigma"]["given by the truth"] == 2 and numbers["strong_in_path"] == 1
    assert (numbers["metrics"]["tp"], numbers["metrics"]["fn"]) == (1, 0)


def test_other_species_of_the_truth_make_a_table(result: Path, truth: Path, tmp_path: Path) -> None:
    rows = pd.read_parquet(truth).assign(species="MgII")
    other = pd.DataFrame({"spectrum_id": ["clean"], "z_abs": [0.8], "ew_primary": [1.0], "ew_secondary": [1.0], "species": ["lone"]})
    pd.concat([rows, other]).to_parquet(tmp_path / "truth.parquet")
    evaluation = evaluate_result(result, tmp_path / "truth.parquet")
    assert evaluation.numbers["species_outcomes"]["spurious"] == {"lone": 1, "nothing": 0}
    assert "mistaken for MgII" in evaluation_text(evaluation)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two people on the catalogue of an earlier run: of `found` both are sure, of `clean` one, and one system is not there any more."""
    rows = [("f", "found", 1.0002, "ann", "absorber"), ("f", "found", 1.0002, "bob", "absorber"), ("c", "clean", 0.8, "ann", "not")]
    rows += [("c", "clean", 0.8, "bob", "unsure"), ("g", "faint", 1.2, "ann", "not")]
    table = pd.DataFrame(rows, columns=["absorber_id", "spectrum_id", "z", "reviewer", "class"]).assign(time="2026-11-30", species="MgII")
    table.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path / "labels.csv"


def test_people_s_labels_judge_a_catalogue(result: Path, labels: Path, tmp_path: Path, capsys: Any, no_spark: None) -> None:
    arguments = ["--catalogue", str(result), "--labels", str(labels), "--label-errors", "0.05", "0.1", "--out", str(tmp_path / "out")]
    assert main(["evaluate", *arguments]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 systems were labelled: 0 are rows by their id, 2 by spectrum and redshift, 1 match no row, 0 are of another species" in said
    numbers = json.loads((tmp_path / "out" / "evaluation.json").read_text())["labels"]
    assert (numbers["absorber"], numbers["not"], numbers["unsure"], numbers["unmatched"]) == (1, 0, 1, 1)
    assert (numbers["purity"]["least"]["fraction"], numbers["purity"]["most"]["fraction"]) == (0.5, 1.0)
    assert [(row["low"], row["rows"], row["unsure"]) for row in numbers["by_score"]] == [(0.4, 1, 1), (0.9, 1, 0)]
    assert numbers["mean_score"] == pytest.approx(0.65) and "corrected" in numbers["purity"]
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert 'src="labels.png"' in page and "Purity by score, as people say" in page
    Image.open(tmp_path / "out" / "labels.png").verify()
    assert main(["evaluate", *arguments, "--rule", "unanimous"]) == 0


def test_labels_that_do_not_fit(result: Path, truth: Path, labels: Path, tmp_path: Path, capsys: Any) -> None:
    assert "give their labels too" in refused(capsys, "--catalogue", result, "--truth", truth, "--label-errors", "0.1", "0.1")
    labels.write_text(labels.read_text().replace("found", "lost").replace("clean", "lost"))
    assert "None of 3 labelled systems is one of the 2 rows" in refused(capsys, "--catalogue", result, "--labels", labels)
    with pytest.raises(SystemExit):
        main(["evaluate", "--catalogue", str(result), "--labels", str(labels), "--label-errors", "0.1", "0.7"])
    assert "expected a rate from 0 to below 0.5" in capsys.readouterr().err


def test_rows_of_one_quasar_go_to_every_spectrum_of_it() -> None:
    sightlines = pd.DataFrame({
        "spectrum_id": ["id", "again", "far"], "plate": [1, 2, 3], "mjd": [5, 5, 5], "fiber": [1, 1, 1],
        "ra": [10.0, 10.0001, 50.0], "dec": [0.0, 0.0, 0.0], "targetid": -1, "catalogid": -1,
    })  # fmt: skip
    rows = pd.DataFrame({"plate": [1, 1], "mjd": [5, 5], "fiber": [1, 1], "ra": [10.0, 10.0], "dec": [0.0, 0.0], "z_abs": [0.7, 0.9]})
    rows = rows.assign(targetid=-1, catalogid=-1)
    found = assign_spectra(rows, sightlines, 1.0)
    assert sorted(zip(found["spectrum_id"], found["z_abs"], strict=True)) == [("again", 0.7), ("again", 0.9), ("id", 0.7), ("id", 0.9)]
    nothing = assign_spectra(rows.assign(plate=-1, ra=np.nan), sightlines, 1.0)
    assert nothing.empty and "spectrum_id" in nothing


def test_a_truth_without_systems_makes_every_row_spurious(result: Path, truth: Path, tmp_path: Path) -> None:
    pd.read_parquet(truth).iloc[:0].to_parquet(tmp_path / "none.parquet")
    numbers = evaluate_result(result, tmp_path / "none.parquet").numbers
    assert [(row["trials"], row["successes"]) for row in numbers["purity"]["score"].to_dict("records")] == [(1, 0), (1, 0)]
    assert (numbers["per_spectrum"]["metrics"]["fp"], numbers["per_spectrum"]["metrics"]["tn"]) == (2, 2)


# ---- what cannot be used


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["evaluate", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("nalspark: ") and captured.err.rstrip().endswith((".", "?"))
    return captured.err


def test_what_is_no_result(result: Path, truth: Path, tmp_path: Path, capsys: Any) -> None:
    assert "has no manifest.json" in refused(capsys, "--catalogue", tmp_path / "nowhere", "--truth", truth)
    write_manifest(Manifest(settings=load(out="x").model_dump()), tmp_path / "manifest.json")
    assert "Run stage 'publish' first" in refused(capsys, "--catalogue", tmp_path, "--truth", truth)
    for name in ("absorbers", "sightlines"):
        pd.DataFrame({"spectrum_id": ["a"]}).to_parquet(tmp_path / f"{name}.parquet")
    assert "has no column 'z_abs'" in refused(capsys, "--catalogue", tmp_path, "--truth", truth)
    (tmp_path / "absorbers.parquet").write_text("no parquet")
    assert "not readable as Parquet" in refused(capsys, "--catalogue", tmp_path, "--truth", truth)


def test_a_catalogue_of_other_quasars_says_nothing(result: Path, truth: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "elsewhere.csv"
    path.write_text("plate,mjd,fiber,ra,dec,z_abs,ew_2796\n9,9,9,,,1.0,1\n")
    assert "with systems in its spectra" in refused(capsys, "--catalogue", result, "--catalogues", path)
    assert main(["evaluate", "--catalogue", str(result), "--truth", str(truth), "--catalogues", str(path), "--out", str(tmp_path)]) == 0
    assert "elsewhere.csv: no system in these spectra, so nothing to compare" in " ".join(capsys.readouterr().out.split())
    assert "catalogues" not in json.loads((tmp_path / "evaluation.json").read_text())


def test_what_is_no_truth(result: Path, truth: Path, tmp_path: Path, capsys: Any) -> None:
    assert "nothing to judge" in refused(capsys, "--catalogue", result)
    assert "There is no truth" in refused(capsys, "--catalogue", result, "--truth", tmp_path / "truth.parquet")
    pd.DataFrame({"spectrum_id": ["a"], "z_abs": [1.0]}).to_parquet(tmp_path / "short.parquet")
    assert "short.parquet" in refused(capsys, "--catalogue", result, "--truth", tmp_path / "short.parquet")
    pd.read_parquet(truth).assign(spectrum_id="elsewhere").to_parquet(tmp_path / "other.parquet")
    assert "truth of another survey" in refused(capsys, "--catalogue", result, "--truth", tmp_path / "other.parquet")
    pd.read_parquet(truth).astype({"z_abs": str}).to_parquet(tmp_path / "text.parquet")
    assert "text where numbers" in refused(capsys, "--catalogue", result, "--truth", tmp_path / "text.parquet")


def test_where_nothing_can_be_written(result: Path, truth: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(capsys, "--catalogue", result, "--truth", truth, "--out", tmp_path / "file")


def test_damaged_pixels(result: Path, truth: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(result, tmp_path / "result")
    for file in (tmp_path / "result" / "tables").rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:1000])
    assert "cannot be read" in refused(capsys, "--catalogue", tmp_path / "result", "--truth", truth)
