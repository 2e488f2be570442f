"""Whole files of many spectra through an archive that breaks off: no byte comes twice, no wrong one stays, nothing is asked for in vain."""

from __future__ import annotations

import errno
import io
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy_healpix import HEALPix
from surveys.faulty_archive import Shelf, shelf_with
from surveys.make_files import desi_hdus, redrock_hdus, sdssv_hdus, write_spec

from nalspark.cli import main
from nalspark.errors import CatalogError, FetchError, UnusableSpectrum
from nalspark.settings import load
from nalspark.surveys import partial
from nalspark.surveys.catalogs import open_catalog, read_rows
from nalspark.surveys.download import FAILURES, FetchSummary, fetch
from nalspark.surveys.reader import identify, open_spectra
from nalspark.surveys.release import load_release
from nalspark.surveys.spectrum import SurveySpectrum
from nalspark.surveys.wanted import Wanted

QUICK = {"workers": 2, "timeout_s": 1.5, "retries": 2, "backoff_s": 0.01}
#: What the command line does, without the rest of it, at 500 kB/s.
SLOW_FETCH = """
import sys
from nalspark.settings import load
from nalspark.surveys.catalogs import open_catalog
from nalspark.surveys.download import fetch
from nalspark.surveys.release import load_release
base_url, quasars, out = sys.argv[1:]
settings = load(fetch={"base_url": base_url, "beside": False, "limit_rate_mb_s": 0.5}).fetch
fetch(load_release("desi_dr1"), open_catalog(quasars, "quasars"), out, settings, lambda _: None)
"""
PIXELS = (0, 9144, 27_255)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def raw(hdus: Any) -> bytes:
    content = io.BytesIO()
    hdus.writeto(content)
    return content.getvalue()


def path(pixel: int, survey: str = "main", program: str = "dark", kind: str = "coadd") -> str:
    return f"healpix/{survey}/{program}/{pixel // 100}/{pixel}/{kind}-{survey}-{program}-{pixel}.fits"


@cache
def coadd(pixel: int, survey: str = "main", program: str = "dark", n_targets: int = 2, seed: int = 0) -> bytes:
    return raw(desi_hdus(survey, program, pixel, n_targets, seed=seed))


def shelf(*places: tuple[Any, ...], n_targets: int = 2) -> dict[str, bytes]:
    """The coadds and redshifts of some (pixel, survey, program)."""
    files = {path(*place): coadd(*place, n_targets=n_targets) for place in places}
    return files | {path(*place, kind="redrock"): raw(redrock_hdus(place[1], place[2], place[0])) for place in places}


def positions(pixel: int, n: int = 1) -> list[tuple[float, float]]:
    """Some positions in a pixel."""
    rng = np.random.default_rng(pixel)
    ra, dec = HEALPix(64, order="nested").healpix_to_lonlat([pixel] * n, *rng.uniform(0.1, 0.9, (2, n)))
    return list(zip(ra.to_value(u.deg), dec.to_value(u.deg), strict=True))


def catalogue(path: Path, rows: list[tuple[Any, ...]], names: str = "targetid,ra,dec,z,survey,program") -> Path:
    path.write_text("\n".join([names, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def quasars(path: Path, *places: tuple[Any, ...], each: int = 3) -> Path:
    """A catalogue with some quasars of each (pixel, survey, program)."""
    found = [(ra, dec, *place[1:]) for place in places for ra, dec in positions(place[0], each)]
    return catalogue(path, [(39_627 + n, ra, dec, 1.5, *rest) for n, (ra, dec, *rest) in enumerate(found)])


def run_fetch(server: Shelf, given: Path, out: Path, release: str = "desi_dr1", **options: Any) -> FetchSummary:
    settings = load(fetch=QUICK | {"base_url": server.base_url} | options).fetch
    return fetch(load_release(release), open_catalog(given, "quasars"), out, settings, lambda _: None)


def files(out: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name not in (FAILURES, ".nalspark-fetch.lock")
    }


def named(shelved: dict[str, bytes]) -> dict[str, bytes]:
    return {path.rsplit("/", 1)[1]: content for path, content in shelved.items()}


def failures(out: Path) -> dict[str, str]:
    found = pd.read_csv(out / FAILURES, dtype=str, keep_default_na=False)
    return dict(zip(found["url"].str.rsplit("/", n=1).str[-1], found["reason"], strict=True))


@contextmanager
def a_full_disk(at: int) -> Iterator[None]:
    """No file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_each_file_comes_once_with_its_redshifts_and_a_second_fetch_asks_for_nothing(tmp_path: Path) -> None:
    places = [(0, "main", "dark"), (9144, "sv3", "dark"), (9144, "main", "bright"), (27_255, "main", "dark")]
    shelved, given, out = shelf(*places), quasars(tmp_path / "q.csv", *places), tmp_path / "out"
    with shelf_with(shelved) as server:
        first = run_fetch(server, given, out)
        assert sorted(server.asked()) == sorted(shelved)
        assert run_fetch(server, given, out).present == 8 and len(server.log) == 8
    assert files(out) == named(shelved) and first.downloaded == 8 and not first.failures
    assert first.n_bytes == sum(map(len, shelved.values()))
    (file,) = out.rglob("coadd-sv3-dark-9144.fits")
    assert file.relative_to(out).as_posix() == "sv3/dark/91/coadd-sv3-dark-9144.fits"
    spectra = [one for one in open_spectra(file) if isinstance(one, SurveySpectrum)]
    assert [(one.spectrum_id.rsplit("-", 1)[0], one.z_pipeline) for one in spectra] == [("sv3-dark-9144", 1.5)] * 2


def test_the_pixel_of_a_position_is_the_archives(real_data: Path) -> None:
    """Quasars of the Early Data Release in pixel 9144 are in the file of that number, by its own header."""
    folder = real_data / "spectra" / "desi"
    catalog = open_catalog(folder / "QSO_cat_fuji_dark_healpix.fits.gz", "quasars")
    keys = [str(key) for key in Wanted(catalog, load_release("desi_edr"), {"program": ("dark",)}).each()]
    assert identify(folder / "coadd-main-dark-9144.fits") == {"survey": "sv3", "program": "dark", "healpix": 9144}
    assert "sv3-dark-9144" in keys and len(keys) == 5


def test_what_a_catalogue_does_not_say_comes_from_options_or_the_release(tmp_path: Path) -> None:
    rows = [(ra, dec, 1.5, "MAIN ") for ra, dec in positions(9144)] + [(ra, dec, 1.5, "") for ra, dec in positions(0)]
    given = catalogue(tmp_path / "q.csv", rows, "ra,dec,z,SURVEY")
    with shelf_with({}) as server:
        run_fetch(server, given, tmp_path / "a", beside=False)
        assert sorted(server.asked()) == [path(0), path(9144)]
        run_fetch(server, given, tmp_path / "b", surveys=["sv1", "sv2"], programs=["bright"], beside=False)
        assert sorted(server.asked()[2:]) == [path(9144, "main", "bright"), path(0, "sv1", "bright"), path(0, "sv2", "bright")]
    assert failures(tmp_path / "b") == dict.fromkeys(
        ["coadd-main-bright-9144.fits", "coadd-sv1-bright-0.fits", "coadd-sv2-bright-0.fits"], "not_found"
    )
    listed = pd.read_csv(tmp_path / "a" / FAILURES).sort_values("healpix")
    assert listed[["spectrum_id", "survey", "program", "healpix"]].to_numpy().tolist() == [
        ["main-dark-0", "main", "dark", 0], ["main-dark-9144", "main", "dark", 9144],
    ]  # fmt: skip


@pytest.mark.parametrize("fault", ["once", "broken", "nameless", "rangeless", "changed", "elsewhere"])
def test_a_file_that_breaks_off_is_gone_on_with_where_the_server_lets_it(fault: str, tmp_path: Path) -> None:
    place = (9144, "main", "dark")
    old, new = coadd(*place), coadd(*place, seed=1)
    with shelf_with({path(9144): old, f"new {path(9144)}": new}, {"coadd-main-dark-9144.fits": fault}) as server:
        summary = run_fetch(server, quasars(tmp_path / "q.csv", place), tmp_path / "out", beside=False, retries=20, backoff_s=0)
        answers = server.answers("9144.fits")
    assert files(tmp_path / "out") == {"coadd-main-dark-9144.fits": new if fault == "changed" else old}
    assert not summary.failures and summary.n_bytes == sum(sent for *_, sent in answers[:1] + answers[-1 if fault != "broken" else 1 :])
    half = len(old) - len(old) // 2
    if fault in ("once", "broken"):
        assert summary.n_bytes == len(old), "a byte came twice"
        assert [first for first, *_ in answers] == [sum(sent for *_, sent in answers[:n]) for n in range(len(answers))]
    elif fault == "elsewhere":
        assert [(first, status) for first, status, _ in answers] == [(0, 200), (half, 206), (0, 200)]
    else:
        assert [(first, status) for first, status, _ in answers] == [(0, 200), (0, 200)]


def test_another_fetch_goes_on_behind_what_came(tmp_path: Path) -> None:
    place, out = (9144, "main", "dark"), tmp_path / "out"
    content = coadd(*place, n_targets=20)
    given = quasars(tmp_path / "q.csv", place)
    assert len(content) > partial._WORTH_KEEPING
    with shelf_with({path(9144): content}, {"9144.fits": "broken"}) as server:
        assert run_fetch(server, given, out, beside=False).failures == {"incomplete": 1}
        assert "coadd-main-dark-9144.fits" not in files(out) and failures(out) == {"coadd-main-dark-9144.fits": "incomplete"}
        server.faults["9144.fits"] = "forbidden"
        assert run_fetch(server, given, out, beside=False).failures == {"refused": 1}
        server.faults.clear()
        assert run_fetch(server, given, out, beside=False).downloaded == 1
        sent = sum(sent for _, status, sent in server.answers("9144.fits") if status != 403)
        assert sent == len(content), "a byte came twice"
    assert files(out) == {"coadd-main-dark-9144.fits": content}


def test_what_came_is_not_trusted_more_than_what_comes(tmp_path: Path) -> None:
    """Bytes of the last fetch that are damaged, or of no file, are fetched again."""
    place, out = (9144, "main", "dark"), tmp_path / "out"
    content = coadd(*place, n_targets=20)
    given = quasars(tmp_path / "q.csv", place)
    for harm in (lambda left: left.write_bytes(bytes(len(content) // 3)), lambda left: left.write_bytes(content + b"more"), Path.unlink):
        with shelf_with({path(9144): content}, {"9144.fits": "broken"}) as server:
            run_fetch(server, given, out, beside=False, retries=0)
            (left,) = out.rglob(".coadd*.new")
            harm(left)
            server.faults.clear()
            assert run_fetch(server, given, out, beside=False).downloaded == 1
        assert files(out) == {"coadd-main-dark-9144.fits": content}
        next(out.rglob("coadd-*")).unlink()


def test_a_large_file_that_is_cut_in_the_archive_is_not_fetched_again_and_again(tmp_path: Path) -> None:
    place = (9144, "main", "dark")
    with shelf_with({path(9144): coadd(*place, n_targets=20)[:-50_000]}) as server:
        summary = run_fetch(server, quasars(tmp_path / "q.csv", place), tmp_path / "out", beside=False)
        assert len(server.log) == 1
    assert summary.failures == {"incomplete": 1} and not files(tmp_path / "out")


def test_a_killed_fetch_goes_on_in_the_middle_of_a_file(tmp_path: Path) -> None:
    place, out = (9144, "main", "dark"), tmp_path / "out"
    content = coadd(*place, n_targets=20)
    given = quasars(tmp_path / "q.csv", place)
    with shelf_with({path(9144): content}) as server:
        running = subprocess.Popen([sys.executable, "-c", SLOW_FETCH, server.base_url, str(given), str(out)])
        end = time.monotonic() + 60
        while not any(left.stat().st_size > 200_000 for left in out.rglob(".coadd*.new")):
            assert running.poll() is None and time.monotonic() < end, "the fetch ended before it could be killed"
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        assert running.wait(20) == -signal.SIGKILL
        (left,) = out.rglob(".coadd*.new")
        size = left.stat().st_size
        summary = run_fetch(server, given, out, beside=False)
        assert server.answers("9144.fits")[1:] == [[size, 206, len(content) - size]]
    assert summary.n_bytes == len(content) - size and files(out) == {"coadd-main-dark-9144.fits": content}


def test_wrong_files_are_refused_with_reasons(tmp_path: Path) -> None:
    places = [(pixel, "main", "dark") for pixel in range(8)]
    shelved = shelf(*places)
    spectrum = raw(redrock_hdus("main", "dark", 6))
    shelved |= {path(1): coadd(9144), path(2): coadd(2)[:50_000], path(3): b"<html>Down for maintenance</html>", path(4): coadd(4, "sv3")}
    shelved |= {path(6): spectrum, path(7, kind="redrock"): coadd(7)}
    del shelved[path(5)], shelved[path(0, kind="redrock")]
    with shelf_with(shelved) as server:
        summary = run_fetch(server, quasars(tmp_path / "q.csv", *places), tmp_path / "out", retries=1)
    assert failures(tmp_path / "out") == {
        "redrock-main-dark-0.fits": "not_found", "coadd-main-dark-1.fits": "wrong_spectrum", "coadd-main-dark-2.fits": "incomplete",
        "coadd-main-dark-3.fits": "not_fits", "coadd-main-dark-4.fits": "wrong_spectrum", "coadd-main-dark-5.fits": "not_found",
        "coadd-main-dark-6.fits": "desi_redrock", "redrock-main-dark-7.fits": "missing_hdu",
    }  # fmt: skip
    assert len(files(tmp_path / "out")) == summary.downloaded == 8, "nothing else is left in the folder"


def test_a_file_that_somebody_cut_is_fetched_again(tmp_path: Path) -> None:
    places = [(9144, "main", "dark"), (0, "main", "dark")]
    shelved, given, out = shelf(*places), quasars(tmp_path / "q.csv", *places), tmp_path / "out"
    with shelf_with(shelved) as server:
        run_fetch(server, given, out)
        damaged = next(out.rglob("coadd-main-dark-0.fits"))
        damaged.write_bytes(damaged.read_bytes()[:-3000])
        assert run_fetch(server, given, out).downloaded == 1
        assert server.asked()[4:] == [path(0)]
    assert files(out) == named(shelved)


def test_names_from_a_catalogue_are_plain_words_or_nothing(tmp_path: Path) -> None:
    (place,) = positions(9144)
    hostile = ["../../x", "main/../..", "/etc", "a" * 21, "{0}", "mäin", "main"]
    rows = [(*place, 1.5, word, "dark") for word in hostile] + [(200.0, -99, 1.5, "main", "dark"), (*place, 0.1, "../y", "dark")]
    given = catalogue(tmp_path / "q.csv", rows, "ra,dec,z,survey,program")
    with shelf_with({path(9144): coadd(9144)}) as server:
        summary = run_fetch(server, given, tmp_path / "out", beside=False)
        assert server.asked() == [path(9144)]
    assert (summary.downloaded, summary.not_selected, dict(summary.failures)) == (1, 1, {"no_identifier": 7})
    details = pd.read_csv(tmp_path / "out" / FAILURES)["detail"].tolist()
    assert details[0] == "Row 0 of q.csv (counted from 0) has no usable survey ('../../x')."
    assert details[-1] == "Row 7 of q.csv (counted from 0) has no usable ra, dec (no position on the sky)."
    assert {path.name for path in tmp_path.iterdir()} == {"q.csv", "out"}


def test_a_full_disk_ends_the_fetch_and_the_next_one_goes_on(tmp_path: Path) -> None:
    place, out = (9144, "main", "dark"), tmp_path / "out"
    content = coadd(*place, n_targets=20)
    given = quasars(tmp_path / "q.csv", place)
    with shelf_with({path(9144): content}) as server:
        with (
            a_full_disk(500_000),
            pytest.raises(FetchError, match=r"'.*out' cannot be written: File too large\..*Run the same command again"),
        ):
            run_fetch(server, given, out, beside=False)
        assert run_fetch(server, given, out, beside=False).downloaded == 1
        first, status, _ = server.answers("9144.fits")[-1]
    assert status == 206 and 0 < first <= 500_000 and files(out) == {"coadd-main-dark-9144.fits": content}
    assert errno.EFBIG  # stands for ENOSPC, which needs a disk of its own


def test_the_largest_file_is_the_releases_unless_a_setting_says_so(tmp_path: Path) -> None:
    place = (9144, "main", "dark")
    with shelf_with({path(9144): coadd(*place)}) as server:
        run_fetch(server, quasars(tmp_path / "q.csv", place), tmp_path / "out", beside=False, max_file_mb=0.1)
    assert failures(tmp_path / "out") == {"coadd-main-dark-9144.fits": "too_large"} and not files(tmp_path / "out")


def test_a_million_quasars_are_a_set_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file once, though its quasars are in many blocks of rows."""
    from nalspark.surveys import catalog_files

    monkeypatch.setattr(catalog_files, "ROWS_AT_ONCE", 50)
    rng, rows = np.random.default_rng(1), []
    for _ in range(2000):
        ((ra, dec),) = positions(int(rng.choice(PIXELS)))
        rows.append((ra, dec, 1.5))
    pd.DataFrame(rows, columns=["ra", "dec", "z"]).to_parquet(tmp_path / "q.parquet")
    assert len(list(read_rows(open_catalog(tmp_path / "q.parquet", "quasars")))) > 10
    with shelf_with({}) as server:
        summary = run_fetch(server, tmp_path / "q.parquet", tmp_path / "out", beside=False)
        assert sorted(server.asked()) == sorted(map(path, PIXELS))
    assert summary.failures == {"not_found": 3} and summary.progress().startswith("3 of 3 files, about 0 min left: ")


def test_the_command_takes_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str], no_spark: None) -> None:
    given = catalogue(tmp_path / "q.csv", [(*positions(0)[0], 1.5)], "ra,dec,z")
    with shelf_with(shelf((0, "main", "dark"), (0, "main", "bright"))) as server:
        options = ["--quasars", str(given), "--out", str(tmp_path / "out"), "--base-url", server.base_url]
        assert main(["fetch", "desi_dr1", *options, "--programs", "dark", "bright"]) == 0
        assert capsys.readouterr().out.startswith("4 downloaded in ") and len(server.log) == 4
        assert main(["fetch", "desi_dr1", *options, "--programs", "../x"]) == 2
        assert "'fetch.programs.0' = '../x'" in capsys.readouterr().err


def test_spectra_of_sdss_v_come_by_field_mjd_and_catalogid(tmp_path: Path) -> None:
    pytest.importorskip("nalspark.surveys.formats.sdssv")
    ids = [(15000, 59146, 4375924756), (101_077, 59845, 9_007_199_254_740_993), (16_200, 59650, 63_050_394_846_126_565)]
    names = [f"spectro/boss/redux/v6_1_3/spectra/lite/{f:06d}/{m}/spec-{f:06d}-{m}-{c}.fits" for f, m, c in ids]
    shelved = {name: raw(sdssv_hdus(*one)) for name, one in zip(names, ids, strict=True)}
    shelved[names[2]] = shelved[names[0]]
    rows = [(*one, "QSO", 1.5) for one in ids] + [(15000, 59146, 77, "STAR", 1.5), (15000, 59146, 0, "QSO", 1.5)]
    given, out = catalogue(tmp_path / "spall.csv", rows, "FIELD,MJD,CATALOGID,CLASS,Z"), tmp_path / "out"
    with shelf_with(shelved) as server:
        summary = run_fetch(server, given, out, "sdss_dr19")
        assert sorted(server.asked()) == sorted(names)
        assert run_fetch(server, given, out, "sdss_dr19").present == 2
    assert files(out) == {name.rsplit("/", 1)[1]: shelved[name] for name in names[:2]}
    assert (out / "101077" / "spec-101077-59845-9007199254740993.fits").exists()
    assert (summary.not_selected, dict(summary.failures)) == (1, {"wrong_spectrum": 1, "no_identifier": 1})
    listed = pd.read_csv(out / FAILURES, dtype=str, keep_default_na=False)
    assert ("016200-59650-63050394846126565", "16200", "63050394846126565") in listed[["spectrum_id", "field", "catalogid"]].itertuples(
        index=False, name=None
    )


def test_a_catalogue_of_another_survey_is_refused(tmp_path: Path) -> None:
    with (
        shelf_with({}) as server,
        pytest.raises(CatalogError, match="no column for field, mjd, catalogid; the files of sdss_dr19 are known"),
    ):
        run_fetch(server, catalogue(tmp_path / "q.csv", [(1.0, 2.0, 1.5)], "ra,dec,z"), tmp_path / "out", "sdss_dr19")


def test_a_file_tells_what_it_is_called(tmp_path: Path) -> None:
    desi_hdus("sv1", "backup", 0).writeto(tmp_path / "a.fits")
    write_spec(tmp_path / "c.fits", 3655, 55240, 26)
    desi_hdus().writeto(tmp_path / "d.fits")
    assert identify(tmp_path / "a.fits") == {"survey": "sv1", "program": "backup", "healpix": 0}
    assert identify(tmp_path / "c.fits") == {"plate": 3655, "mjd": 55240, "fiber": 26}
    for size in range(2880, (tmp_path / "d.fits").stat().st_size - 2880, 2880):
        (tmp_path / "e.fits").write_bytes((tmp_path / "d.fits").read_bytes()[: size + 100])
        with pytest.raises(UnusableSpectrum) as caught:
            identify(tmp_path / "e.fits", "coadd-main-dark-9144.fits")
        assert caught.value.reason in ("truncated", "not_a_spectrum"), size
