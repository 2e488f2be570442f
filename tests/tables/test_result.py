"""A result on disk is opened in one place, without Spark, and its tables have units."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u

from nalspark.errors import StoreError
from nalspark.lines import MG_II
from nalspark.settings import load
from nalspark.tables.manifest import Manifest, Part, write_manifest
from nalspark.tables.result import open_result
from nalspark.tables.schemas import CANDIDATES, REJECTIONS, SIGHTLINES, absorbers_table

ABSORBERS = [
    {"absorber_id": "1-2-3-38000", "spectrum_id": "1-2-3", "plate": 1, "z_abs": 1.25, "ew_2796": 0.5, "ew_2374": None, "flags": 2},
    {"absorber_id": "1-2-4-38100", "spectrum_id": "1-2-4", "plate": 1, "z_abs": 1.50, "ew_2796": 1.5, "ew_2374": 0.2, "flags": 0},
]
SIGHTLINE = {
    "spectrum_id": "1-2-3",
    "plate": 1,
    "mjd": None,
    "z_start": [0.5, 0.9],
    "z_stop": [0.8, 1.4],
    "label": None,
    "catalogues": ["A"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result of three published tables and two candidates in one part, with the settings of an earlier version."""
    for table, rows in ((absorbers_table(MG_II), ABSORBERS), (SIGHTLINES, [SIGHTLINE]), (REJECTIONS, [])):
        place = tmp_path / f"{table.name}.parquet"
        place.mkdir()
        pq.write_table(pa.Table.from_pylist(rows, table.arrow_schema), place / "part-0.parquet")
        (place / "_SUCCESS").touch()
    part = tmp_path / "tables" / "candidates" / "run" / "in_part=a"
    part.mkdir(parents=True)
    candidates = [{"candidate_id": name, "pixel": 7, "image_residual": np.float32([1, 2]).tobytes()} for name in ("b", "a")]
    pq.write_table(pa.Table.from_pylist(candidates, CANDIDATES.arrow_schema), part / "x.parquet")
    settings = load(overrides=["search.min_significance=6"]).model_dump(mode="json") | {"vet": {"second_round": ""}}
    settings["measure"]["forgotten"] = 3
    tables = {"candidates": {"a": Part("k", "tables/candidates/run/in_part=a", 2), "b": Part("k", "", 0)}, "scores": {}}
    write_manifest(Manifest(tables=tables, published={"absorbers.parquet": 2}, settings=settings), tmp_path / "manifest.json")
    return tmp_path


def test_the_published_tables_have_units_and_descriptions(folder: Path) -> None:
    absorbers = open_result(folder).absorbers
    assert absorbers["ew_2796"].unit == u.AA and np.array_equal(absorbers["ew_2796"].value, [0.5, 1.5])
    assert np.isnan(absorbers["ew_2374"][0]) and absorbers["ew_2374"][1] == 0.2 * u.AA
    assert absorbers["z_abs"].info.description == "Absorption redshift from the doublet fit"
    assert absorbers["ew_2796"].info.meta == {"ucd": "spect.line.eqWidth"}
    assert absorbers.colnames == absorbers_table(MG_II).names
    assert absorbers["flags"].dtype == np.int32 and list(absorbers["plate"] == 1) == [True, True]


def test_what_is_missing_is_masked_and_lists_are_arrays(folder: Path) -> None:
    result = open_result(folder)
    sightlines = result.sightlines
    assert sightlines["mjd"].mask[0] and sightlines["label"].mask[0] and sightlines["part"].mask[0] and sightlines["plate"][0] == 1
    assert list(sightlines["z_stop"][0]) == [0.8, 1.4] and list(sightlines["catalogues"][0]) == ["A"]
    assert sightlines.to_pandas()["spectrum_id"].tolist() == ["1-2-3"]
    assert len(result.rejections) == 0 and result.rejections.colnames == REJECTIONS.names


def test_settings_that_are_no_more_are_left_out(folder: Path) -> None:
    settings = open_result(folder).settings
    assert settings.search.min_significance == 6 and not hasattr(settings, "vet") and not hasattr(settings.measure, "forgotten")


def test_the_tables_of_the_manifest(folder: Path) -> None:
    result = open_result(folder)
    assert result.table("candidates", ["candidate_id", "pixel"]).to_pydict() == {"candidate_id": ["b", "a"], "pixel": [7, 7]}
    assert result.candidates()["candidate_id"].tolist() == ["b", "a"] and "image_residual" not in result.candidates().colnames
    assert [list(image) for image in result.candidates(["image_residual"])["image_residual"]] == [[1, 2], [1, 2]]
    assert (result.has("candidates"), result.has("scores"), result.has("absorbers")) == (True, False, True)
    assert repr(result) == f"<Result {folder}: 2 absorbers, no sightlines, no rejections>"
    none = replace(result, manifest=Manifest(tables={"candidates": {"a": Part("k", "", 0)}}))
    assert len(none.candidates()) == 0 and none.candidates().colnames[0] == "candidate_id"


def test_the_candidates_of_an_earlier_version_have_the_columns_that_it_knew(folder: Path) -> None:
    file = folder / "tables" / "candidates" / "run" / "in_part=a" / "x.parquet"
    pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["field", "targetid", "continuum_flux"]), file)
    candidates = open_result(folder).candidates()
    assert candidates["candidate_id"].tolist() == ["b", "a"] and "significance" in candidates.colnames
    assert not {"field", "targetid", "continuum_flux", "image_residual"} & set(candidates.colnames)
    with pytest.raises(StoreError, match="has no column 'field'"):
        open_result(folder).candidates(["field"])


def test_what_is_not_there_is_said(folder: Path, tmp_path: Path) -> None:
    result = open_result(folder)
    with pytest.raises(StoreError, match="has no table 'candidate'; it has absorbers, sightlines, rejections, candidates. Did you mean"):
        result.table("candidate")
    with pytest.raises(StoreError, match="has no column 'pixels'; it has candidate_id, "):
        result.table("candidates", ["pixels"])
    (folder / "absorbers.parquet" / "part-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match="is not readable as Parquet"):
        result.table("absorbers")
    (folder / "sightlines.parquet").rename(folder / "elsewhere")
    with pytest.raises(StoreError, match="is not published yet"):
        _ = result.sightlines
    with pytest.raises(StoreError, match="is no result of nalspark: it has no manifest.json"):
        open_result(tmp_path / "nowhere")


def test_neither_spark_nor_keras_is_loaded(folder: Path) -> None:
    code = "import sys; from nalspark.tables.result import open_result; r = open_result(sys.argv[1]); print(len(r.absorbers)); "
    code += "print([name for name in ('pyspark', 'keras', 'tensorflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["2", "[]"]
