"""The facts about data releases are whole, point to what exists, and give the archive's own paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from nalspark.errors import SettingsError
from nalspark.surveys.catalogs import load_maps
from nalspark.surveys.release import load_release, release_names
from nalspark.surveys.sources import part_of


def test_the_releases_that_are_described() -> None:
    assert release_names() == ["desi_dr1", "desi_edr", "sdss_dr12", "sdss_dr14", "sdss_dr16", "sdss_dr7"]


@pytest.mark.parametrize("name", release_names())
def test_a_release_is_whole(name: str) -> None:
    release = load_release(name)
    assert release.quasars.map in {loaded.name for loaded in load_maps() if loaded.kind == "quasars"}
    assert release.base_url.startswith("http") and not release.base_url.endswith("/")
    assert release.selection.z_min < release.selection.z_max
    assert len({reduction.run2d for reduction in release.reductions}) == len(release.reductions)
    for fact in release.unverified:
        key = fact.partition(":")[0].split(".")[0]
        assert key in type(release).model_fields, f"{fact} names no fact"


@pytest.mark.parametrize(
    "name, spectrum, first",
    [
        ("sdss_dr16", (9367, 57758, 5), "eboss/spectro/redux/v5_13_0/spectra/lite/9367/spec-9367-57758-0005.fits"),
        ("sdss_dr16", (10000, 57346, 7), "eboss/spectro/redux/v5_13_0/spectra/lite/10000/spec-10000-57346-0007.fits"),
        ("sdss_dr16", (266, 51630, 53), "sdss/spectro/redux/26/spectra/lite/0266/spec-0266-51630-0053.fits"),
        ("sdss_dr14", (4055, 55359, 6), "eboss/spectro/redux/v5_10_0/spectra/lite/4055/spec-4055-55359-0006.fits"),
        ("sdss_dr12", (7102, 56666, 142), "boss/spectro/redux/v5_7_0/spectra/lite/7102/spec-7102-56666-0142.fits"),
        ("sdss_dr7", (266, 51630, 53), "1d_26/0266/1d/spSpec-51630-0266-053.fit"),
    ],
)  # fmt: skip
def test_paths_are_the_archives_own(name: str, spectrum: tuple[int, int, int], first: str) -> None:
    release = load_release(name)
    paths = release.remote_paths(*spectrum)
    assert paths[0] == first and len(paths) == len(set(paths)) == len(release.reductions)
    local = release.local_path(*spectrum)
    assert local == f"{spectrum[0]:04d}/{Path(first).name}"
    assert part_of(local, 500) == f"plate{spectrum[0] // 500 * 500:05d}"


def test_the_files_at_hand_are_looked_for_where_they_came_from(real_data: Path) -> None:
    import pandas as pd

    index = pd.read_csv(real_data / "spectra" / "index.csv", dtype={"run2d": str})
    release = load_release("sdss_dr16")
    for row in index[index["run2d"].isin(["26", "v5_13_0"])].itertuples():
        assert f"/redux/{row.run2d}/" in release.remote_paths(row.plate, row.mjd, row.fiber)[0]


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("{plate:04d}/1d", "{plate.__class__}/1d", "may be made of plate, mjd, fiber only"),
        ("1d_26/{plate", "../{plate", "may be made of plate, mjd, fiber only"),
        ('survey = "SDSS"', 'survey = "2dF"', "survey: Input should be 'SDSS' or 'DESI'"),
        ("z_min = 0.36", "z_min = -1", "selection.z_min: .*greater than or equal to 0"),
        ("native_id", "native_ids", "native_ids: Extra inputs"),
        ("[selection]", "[selection", "is not valid TOML"),
    ],
)
def test_a_release_with_faults_is_refused_with_all_of_them(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "conf" / "releases" / "sdss_dr7.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SettingsError, match=sentence):
        load_release(str(tmp_path / "mine.toml"))


def test_a_release_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_release(str(tmp_path / "mine.toml"))
    with pytest.raises(SettingsError, match="There is no release 'sdss_dr61'; .*Did you mean 'sdss_dr16'?"):
        load_release("sdss_dr61")
