"""From what the user writes to files: each found once, none lost, every mistake named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nalspark.errors import SettingsError
from nalspark.surveys.sources import (
    NOT_EXAMINED,
    NOT_TEXT,
    FoundFile,
    classify,
    describe,
    own_files,
    part_of,
    read_list,
    subfolders,
    walk,
)


def touch(path: Path, content: bytes = b"SIMPLE  =") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    root = tmp_path / "survey"
    for name in (
        "0266/spec-0266-51602-0001.fits",
        "0266/spec-0266-51602-0002.FITS.GZ",
        "0266/notes.txt",
        "0266/.hidden.fits",
        "0267/deep/er/spSpec-51608-0267-003.fit",
        "0267/spec-0267-51608-0004.fits.bz2",
        "0267/spec-0267-51608-0005.fits.tmp",
        ".trash/spec-0266-51602-0009.fits",
        "b.fit.gz",
        "a.fits",
        "Ünïcödé/señal 1.fits",
        "fits",
    ):
        touch(root / name)
    return root


FOUND = (
    "a.fits",
    "b.fit.gz",
    "0266/spec-0266-51602-0001.fits",
    "0266/spec-0266-51602-0002.FITS.GZ",
    "0267/deep/er/spSpec-51608-0267-003.fit",
    "Ünïcödé/señal 1.fits",
)


def names(root: Path) -> list[str]:
    return [os.path.relpath(found.path, root) for found in walk(str(root))]


# ---- walking ---------------------------------------------------------------------------------------------------------------------------


def test_walk_finds_spectra_only_and_in_order(survey: Path) -> None:
    assert names(survey) == list(FOUND)
    first = next(iter(walk(str(survey))))
    status = (survey / "a.fits").stat()
    assert first == FoundFile(str(survey / "a.fits"), status.st_size, status.st_mtime_ns)


def test_the_walks_of_the_first_level_are_the_walk_of_the_whole(survey: Path) -> None:
    folders, files = subfolders(str(survey)), own_files(str(survey))
    assert [Path(folder).name for folder in folders] == ["0266", "0267", "Ünïcödé"]
    assert [Path(found.path).name for found in files] == ["a.fits", "b.fit.gz"]
    together = [*files, *(found for folder in folders for found in walk(folder))]
    assert together == list(walk(str(survey)))


def test_links_are_followed_but_never_in_circles(survey: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    touch(elsewhere / "linked.fits")
    (elsewhere / "back").symlink_to(survey)
    (survey / "other").symlink_to(elsewhere)
    (survey / "0266" / "up").symlink_to("..")
    (survey / "0266" / "self").symlink_to(".")
    (survey / "0267" / "top").symlink_to("/")
    (survey / "0267" / "sister").symlink_to("../0266")
    expected = sorted((*FOUND, "other/linked.fits", *("0267/sister/" + Path(name).name for name in FOUND if name.startswith("0266"))))
    assert sorted(names(survey)) == expected
    shared = [*own_files(str(survey)), *(found for folder in subfolders(str(survey)) for found in walk(folder))]
    assert sorted(shared, key=lambda found: found.path) == sorted(walk(str(survey)), key=lambda found: found.path)


def test_files_that_cannot_be_examined_are_found_all_the_same(survey: Path) -> None:
    (survey / "gone.fits").symlink_to("nowhere")
    (survey / "loop.fits").symlink_to("loop.fits")
    os.mkfifo(survey / "pipe.fits")
    found = {Path(file.path).name: file for file in walk(str(survey))}
    assert found["gone.fits"].size == found["loop.fits"].size == NOT_EXAMINED and found["gone.fits"].modified_ns == 0
    assert found["pipe.fits"].size == 0
    assert describe(str(survey / "missing.fits")) == FoundFile(str(survey / "missing.fits"), NOT_EXAMINED, 0)


def test_a_folder_that_cannot_be_listed_is_accounted_for(survey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, real = str(survey / "0266"), os.scandir

    def scandir(path: str) -> object:
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(walk(str(survey)))
    assert FoundFile(closed, NOT_EXAMINED, 0) in found and len(found) == len(FOUND) - 1


def test_a_folder_that_vanishes_is_accounted_for(survey: Path) -> None:
    assert list(walk(str(survey / "gone"))) == [FoundFile(str(survey / "gone"), NOT_EXAMINED, 0)]


def test_names_that_are_no_text_can_be_stored(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/spec-0266-\xff\xfe.fits"
    try:
        Path(os.fsdecode(odd)).write_bytes(b"SIMPLE  =")
    except OSError:
        pytest.skip("this file system refuses names that are no text")
    (found,) = walk(str(tmp_path))
    assert found.size == NOT_TEXT and found.path.endswith("spec-0266-\\xff\\xfe.fits")
    assert found.path.encode("utf-8")
    assert part_of(found.path, 500) and describe("\ud800.fits").size == NOT_TEXT


def test_deep_folders_are_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(150):
        folder = folder / "d"
    touch(folder / "x.fits")
    assert len(list(walk(str(tmp_path)))) == 1


# ---- classifying -----------------------------------------------------------------------------------------------------------------------


def test_each_kind_of_source(survey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(survey.parent)
    listed = touch(survey.parent / "paths.txt", b"\xef\xbb\xbf# comment\r\n\r\nsurvey/a.fits\r\n  s3a://bucket/x.fits \n/absolute.fits\n")
    touch(survey.parent / "unnamed")
    listing = classify(["survey", "unnamed", "paths.txt", "s3a://bucket/spectra", "hdfs://host:9000/x*.fits", "file:/tmp/x.fits"])
    assert listing.roots == (str(survey),)
    assert listing.files == (str(survey.parent / "unnamed"),)
    assert listing.lists == (str(listed),)
    assert listing.remote == ("s3a://bucket/spectra", "hdfs://host:9000/x*.fits", "file:/tmp/x.fits")
    assert list(read_list(str(listed))) == [str(survey / "a.fits"), "s3a://bucket/x.fits", "/absolute.fits"]


def test_globs(survey: Path) -> None:
    assert classify([f"{survey}/0266/*"]).files == tuple(str(survey / name) for name in FOUND if name.startswith("0266"))
    assert classify([f"{survey}/02*"]).roots == (str(survey / "0266"), str(survey / "0267"))
    assert classify([f"{survey}/**/*.fit"]).files == (str(survey / "0267/deep/er/spSpec-51608-0267-003.fit"),)
    strange = touch(survey.parent / "spec [1].fits")
    assert classify([str(strange)]).files == (str(strange),)


def test_nothing_is_named_twice(survey: Path) -> None:
    listing = classify([str(survey / "0266"), str(survey), f"{survey}/", str(survey / "a.fits"), str(survey / "0266" / ".hidden.fits")])
    assert listing.roots == (str(survey),)
    assert listing.files == (str(survey / "0266" / ".hidden.fits"),)  # a walk passes hidden files over, so it is wanted
    sibling = survey.parent / "survey2"
    sibling.mkdir()
    assert classify([str(survey), str(sibling)]).roots == (str(survey), str(sibling))
    assert classify([str(survey / "a.fits")] * 2).files == (str(survey / "a.fits"),)


@pytest.mark.parametrize(
    "source, message",
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a\0b", "NUL"),
        ("{tmp}/surve", "There is no '.*surve'.*Did you mean '/.*/survey'"),
        ("{tmp}/none/deeper/x", "nor a folder"),
        ("{tmp}/survey/a.fits/x", "There is no"),
        ("{tmp}/survey/*.none", "matches nothing; expected"),
        ("{tmp}/survey/0266/*.txt", "matches 'notes.txt', but no folder and no file named"),
        ("{tmp}/empty.txt", "lists no paths"),
        ("{tmp}/essay.txt", "taken for a list of paths.*there is no '.*Once upon a time'"),
        ("{tmp}/junk.bin", "neither a FITS file nor a text file"),
        ("{tmp}/pipe", "is a pipe"),
        ("{tmp}/loop", "cannot be examined"),
    ],
)
def test_mistakes_are_named(survey: Path, source: str, message: str) -> None:
    tmp = survey.parent
    touch(tmp / "empty.txt", b"# nothing\n\n")
    touch(tmp / "essay.txt", b"Once upon a time\nthere was a spectrum\n")
    touch(tmp / "junk.bin", b"\0\1\2\3")
    os.mkfifo(tmp / "pipe")
    (tmp / "loop").symlink_to("loop")
    with pytest.raises(SettingsError, match=message):
        classify([source.format(tmp=tmp)])


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        classify([str(tmp_path / "one"), str(tmp_path), str(tmp_path / "two.fits")])
    assert "'" + str(tmp_path / "one") + "'" in str(caught.value) and "two.fits" in str(caught.value)
    with pytest.raises(SettingsError, match="No spectra are given"):
        classify([])


# ---- parts -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, part",
    [
        ("/x/spec-0266-51602-0001.fits", "plate00000"),
        ("spec-3655-55240-0026.fits.gz", "plate03500"),
        ("s3a://bucket/spec-12345-55240-0026.fits", "plate12000"),
        ("/spec-9999-1-1/spSpec-51630-0500-053.fit", "plate00500"),
        ("C:\\data\\spec-3655-55240-0026.fits", "plate03500"),
        ("SPEC-3655-55240-0026.FITS", "plate03500"),
    ],
)
def test_parts_by_plate(path: str, part: str) -> None:
    assert part_of(path, 500) == part


def test_other_names_are_spread_and_stay_where_they_are() -> None:
    parts = [part_of(f"/folder/object {n}.fits", 500) for n in range(400)]
    assert set(parts) == {f"files{n:02d}" for n in range(16)}
    assert part_of("/elsewhere/object 7.fits", 100) == parts[7] == "files05"
    assert part_of("é.fits", 1) == part_of("/a/é.fits", 9)


def test_the_number_of_plates_in_a_part() -> None:
    assert [part_of(f"spec-{plate:04d}-1-1.fits", 1) for plate in (7, 8)] == ["plate00007", "plate00008"]
    assert [part_of(f"spec-{plate:04d}-1-1.fits", 1000) for plate in (999, 1000)] == ["plate00000", "plate01000"]


@pytest.mark.parametrize("address", ["https://data.sdss.org/spec-0752-52251-0044.fits", "HTTP://mirror/folder/", "https:/one.slash/x"])
def test_addresses_of_web_servers_are_refused_with_what_to_do(tmp_path: Path, address: str) -> None:
    """As a source, and in a list."""
    names = tmp_path / "names.txt"
    names.write_text(f"# two\ns3a://bucket/x.fits\n{address}\n")
    for source in (address, str(names)):
        with pytest.raises(SettingsError, match="is behind HTTP, .* `nalspark fetch RELEASE --quasars CATALOGUE --out FOLDER`") as caught:
            classify([source])
        assert source in str(caught.value) and address in str(caught.value) and "\n" not in str(caught.value)
