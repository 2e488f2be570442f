"""What ``nalspark review`` opens, and what it says where there is nothing to look at."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nalspark.cli import main
from nalspark.lines import C_IV, MG_II
from nalspark.review.systems import absorber_exhibits
from nalspark.settings import load
from nalspark.tables.manifest import Manifest, write_manifest
from nalspark.tables.schemas import all_absorbers_table


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--select", "scor < 0.9"], "Did you mean 'score'?"),
        (["--select", "score > 2"], "No row of the catalogue fulfils"),
        (["--sample", "0"], "--sample must be 1 or more"),
        (["--port", "70000"], "--port must be 1 to 65535"),
        (["--reviewer", " "], "reviewer's name"),
    ],
)
def test_what_cannot_be_is_told(small_result: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str) -> None:
    assert main(["review", str(small_result), "--no-open", *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_that_is_no_result_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", str(tmp_path), "--no-open"]) == 2
    assert "no manifest.json" in capsys.readouterr().err
    write_manifest(Manifest(settings=load().model_dump(mode="json")), tmp_path / "manifest.json")
    assert main(["review", str(tmp_path), "--no-open"]) == 2
    assert "not published yet" in capsys.readouterr().err


def test_a_result_of_several_species_is_looked_at_as_one(small_result: Path, tmp_path: Path) -> None:
    (tmp_path / "MgII").symlink_to(small_result)
    (tmp_path / "CIV").mkdir()
    write_manifest(Manifest(settings=load(species=["CIV"]).model_dump(mode="json")), tmp_path / "CIV" / "manifest.json")
    write_manifest(Manifest(settings=load(species=["MgII", "CIV"]).model_dump(mode="json")), tmp_path / "manifest.json")
    own = pq.read_table(small_result / "absorbers.parquet").slice(0, 5)
    table = all_absorbers_table([MG_II, C_IV])
    arrays = [own[one.name] if one.name in own.column_names else pa.nulls(5, one.arrow_type) for one in table.columns]
    (tmp_path / "absorbers.parquet").mkdir()
    pq.write_table(pa.table(arrays, schema=table.arrow_schema), tmp_path / "absorbers.parquet" / "part-0.parquet")
    both, alone = absorber_exhibits(tmp_path), absorber_exhibits(small_result)
    assert {subject.species for subject in both.subjects} == {"MgII"} and len(both) == 5
    row = both.row(0, blind=False)
    same = next(one for one in (alone.row(n, blind=False) for n in range(60)) if one["absorber_id"] == row["absorber_id"])
    assert both.draw(row) == alone.draw(same)
