"""Sources behind a URL go through Spark's own file systems, and give the rows that local paths give."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import run, settings_of
from surveys.make_files import write_spec, write_spspec

from nalspark.errors import SettingsError
from nalspark.surveys.stages import SPECTRA_READ
from nalspark.tables.store import Store

pytestmark = pytest.mark.spark


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files: plain, compressed, old, with a name that is no plain word, broken, cut short."""
    parts = tmp_path / "parts"
    (parts / "ein Ördner [1] {a}").mkdir(parents=True)
    good = write_spec(parts / "spec-3655-55240-0026.fits", n_pixels=300)
    (parts / "spec-3656-55240-0026.fits.gz").write_bytes(gzip.compress(write_spec(parts / "x", plate=3656).read_bytes()))
    (parts / "x").unlink()
    write_spspec(parts / "spSpec-51630-0266-053.fit")
    write_spec(parts / "ein Ördner [1] {a}" / "50% été?*#.fits", plate=3657)
    (parts / "spec-3658-55240-0026.fits").write_text("no spectrum\n" * 300)
    (parts / "spec-3659-55240-0026.fits").write_bytes(good.read_bytes()[:12_000])
    (parts / "notes.txt").write_text("these are not looked at")
    return parts


def ingested(spark: Any, folder: Path, name: str, *sources: str) -> pd.DataFrame:
    """The table `spectra` of a run over these sources, without what depends on how a path is written."""
    settings = settings_of(folder.parent, folder.parent / name, spectra=list(sources))
    run(spark, settings, "ingest")
    store = Store(settings.out)
    rows = store.read(spark, store.manifest(), SPECTRA_READ).toPandas()
    rows["path"] = rows["path"].str.removeprefix("file:")
    return rows.sort_values("path", ignore_index=True)


def test_a_url_gives_the_rows_of_the_local_path(spark: Any, folder: Path) -> None:
    local = ingested(spark, folder, "local", str(folder))
    remote = ingested(spark, folder, "remote", f"file:{folder}")
    assert local["reason"].fillna("good").value_counts().to_dict() == {"good": 4, "not_fits": 1, "truncated": 1}
    pd.testing.assert_frame_equal(remote, local, check_exact=True)


def test_a_url_may_be_a_glob_or_one_file_beside_local_sources(spark: Any, folder: Path) -> None:
    sources = (f"file://{folder}/spec-36*.fits", f"file:{folder}/spSpec-51630-0266-053.fit", str(folder / "spec-3656-55240-0026.fits.gz"))
    rows = ingested(spark, folder, "mixed", *sources)
    assert [Path(path).name for path in rows["path"]] == [
        "spSpec-51630-0266-053.fit", "spec-3655-55240-0026.fits", "spec-3656-55240-0026.fits.gz", "spec-3658-55240-0026.fits",
        "spec-3659-55240-0026.fits",
    ]  # fmt: skip
    assert rows["reason"].isna().tolist() == [True, True, True, False, False]


def test_a_list_may_hold_urls_and_local_paths(spark: Any, folder: Path) -> None:
    names = folder.parent / "names.txt"
    names.write_text(f"# two\nfile:{folder}/spec-3655-55240-0026.fits\n{folder}/spSpec-51630-0266-053.fit\n")
    rows = ingested(spark, folder, "listed", str(names))
    assert rows["reason"].isna().tolist() == [True, True]
    assert sorted(rows["spectrum_id"]) == ["0266-51630-0053", "3655-55240-0026"]


@pytest.mark.parametrize("source", ["file:/no/such/folder", "nowhere://bucket/spectra"])
def test_a_url_that_leads_nowhere_is_answered_by_a_sentence(spark: Any, folder: Path, source: str) -> None:
    with pytest.raises(SettingsError, match="A source behind a URL cannot be read: .*") as caught:
        ingested(spark, folder, "nowhere", source)
    assert "\n" not in str(caught.value)
