"""The facts about data releases are whole, point to what exists, and give the archive's own paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from nalspark.errors import SettingsError
from nalspark.surveys.catalogs import load_maps
from nalspark.surveys.release import load_release, release_names
from nalspark.surveys.sources import part_of


def test_the_releases_that_are_described() -> None:
    assert release_names() == ["desi_dr1", "desi_edr", "sdss_dr12", "sdss_dr14", "sdss_dr16", "sdss_dr19", "sdss_dr7"]


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


def test_files_of_pixels_and_what_is_beside_them() -> None:
    release = load_release("desi_dr1")
    coadd, redrock = release.files(release.key("main", "dark", 10016))
    assert coadd.paths == ("healpix/main/dark/100/10016/coadd-main-dark-10016.fits",)
    assert redrock.paths == ("healpix/main/dark/100/10016/redrock-main-dark-10016.fits",)
    assert (coadd.local, redrock.local) == ("main/dark/100/coadd-main-dark-10016.fits", "main/dark/100/redrock-main-dark-10016.fits")
    assert str(coadd.key) == "main-dark-10016" and len(list(release.files(coadd.key, beside=False))) == 1
    assert part_of(coadd.local, 500) == part_of(redrock.local, 500) == "healpix00156"


def test_pixels_may_be_numbered_among_those_of_all_sizes(tmp_path: Path) -> None:
    """As DESI DR3 does it: 4 nside² is added."""
    text = (Path(__file__).parents[2] / "conf" / "releases" / "desi_dr1.toml").read_text(encoding="utf-8")
    old = "healpix/{survey}/{program}/{healpix_group}/{healpix}/coadd-{survey}-{program}-{healpix}.fits"
    new = "spectra/{survey}/{program}/{uniqpix_group}/{uniqpix}/coadd-{survey}-{program}-{uniqpix}.fits"
    (tmp_path / "mine.toml").write_text(text.replace(old, new), encoding="utf-8")
    assert load_release(str(tmp_path / "mine.toml")).remote_paths("main", "dark", 9144) == [
        "spectra/main/dark/255/25528/coadd-main-dark-25528.fits"
    ]


def test_sdss_v_files_have_a_field_of_six_digits() -> None:
    release = load_release("sdss_dr19")
    path = "spectro/boss/redux/v6_1_3/spectra/lite/015000/59146/spec-015000-59146-4375924756.fits"
    assert release.remote_paths(15000, 59146, 4375924756) == [path]
    assert release.local_path(15000, 59146, 4375924756) == "015000/spec-015000-59146-4375924756.fits"


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
        ('folder = "{plate:04d}"', 'folder = "/{plate:04d}"', "may be made of plate, mjd, fiber only"),
        ('folder = "{plate:04d}"', 'folder = "{healpix_group}"', "may be made of plate, mjd, fiber only"),
        ("largest_mb", "nside = 64\nlargest_mb", "nside belongs to files that are known by healpix"),
        ("largest_mb", 'beside = ["../x"]\nlargest_mb', "may be made of"),
        ('survey = "SDSS"', 'survey = "2dF"', "survey: Input should be 'SDSS', 'SDSS-V' or 'DESI'"),
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
    with pytest.raises(SettingsError, match="There is no release 'sdss_dr61'; .*Did you mean 'sdss_dr1[69]'"):
        load_release("sdss_dr61")
