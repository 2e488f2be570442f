"""Fetching through an archive that fails in every way: what exists arrives whole, the rest is accounted for, and nothing comes twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from surveys.faulty_archive import FaultyArchive, SpectrumId, archive_with, spectrum_file

from nalspark.cli import main
from nalspark.errors import CatalogError, FetchError, SettingsError
from nalspark.settings import load
from nalspark.surveys.catalogs import open_catalog
from nalspark.surveys.download import FAILURES, FetchSummary, fetch
from nalspark.surveys.release import load_release

#: Fault → what the list of failures calls it; None: the file arrives all the same.
REASONS: dict[str, str | None] = {
    "missing": "not_found", "error_once": None, "error": "server_error", "busy_once": None, "short_once": None, "short": "incomplete",
    "html": "not_fits", "other": "wrong_spectrum", "moved": None, "large": "too_large", "away": "redirected",
    "scheme": "redirected", "again": None, "circle": "redirected", "cut": "incomplete",
}  # fmt: skip
#: Take longer than all others together, so there are few of them.
SLOW = {"stall": "stalled", "stall_once": None, "endless": "too_large"}
QUICK = {"workers": 8, "timeout_s": 1.5, "retries": 2, "backoff_s": 0.01, "max_file_mb": 2}

#: What the command line does, without the rest of it: Spark and the plots take seconds to load.
FETCH = """
import sys
from nalspark.settings import load
from nalspark.surveys.catalogs import open_catalog
from nalspark.surveys.download import fetch
from nalspark.surveys.release import load_release
base_url, quasars, out = sys.argv[1:]
fetch(load_release("sdss_dr16"), open_catalog(quasars, "quasars"), out, load(fetch={"base_url": base_url}).fetch, lambda _: None)
"""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def spectra(n: int) -> list[SpectrumId]:
    """Half of them on plates of SDSS, half on plates of BOSS; 25 a plate."""
    plates = [266 + i if i % 2 else 3655 + i for i in range(n // 25 + 1)]
    return [SpectrumId(plates[i // 25], 52_000 + i // 25, 1 + i % 25) for i in range(n)]


def catalogue(path: Path, ids: Iterable[SpectrumId]) -> Path:
    path.write_text("plate,mjd,fiber,z\n" + "".join(f"{i.plate},{i.mjd},{i.fiber},1.5\n" for i in ids), encoding="utf-8")
    return path


def run_fetch(archive: FaultyArchive | str, quasars: Path, out: Path, **options: Any) -> FetchSummary:
    base_url = archive if isinstance(archive, str) else archive.base_url
    settings = load(fetch=QUICK | {"base_url": base_url} | options).fetch
    return fetch(load_release("sdss_dr16"), open_catalog(quasars, "quasars"), out, settings, lambda _: None)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.rglob("*.fits")}


def failures(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / FAILURES, dtype=str, keep_default_na=False)


def name(spectrum: SpectrumId) -> str:
    return f"spec-{spectrum}.fits"


def let_settle(archive: FaultyArchive) -> None:
    """Wait until all that was asked for is answered."""
    answered = -1
    while archive.at_a_time or len(archive.log) != answered:
        answered = len(archive.log)
        time.sleep(0.2)


def test_of_500_files_all_that_exist_arrive_whole_and_the_rest_are_listed_with_reasons(tmp_path: Path) -> None:
    ids = spectra(500)
    kinds = [*REASONS, *[""] * (25 - len(REASONS))]
    faults = {spectrum: kinds[number % 25] for number, spectrum in enumerate(ids)}
    faults |= {ids[24]: "stall_once", ids[49]: "stall", ids[74]: "endless"}
    with archive_with(faults) as archive:
        summary = run_fetch(archive, catalogue(tmp_path / "quasars.csv", ids), tmp_path / "out")
    expected = {spectrum: (REASONS | SLOW).get(faults[spectrum]) for spectrum in ids}
    there = {name(spectrum): spectrum_file(spectrum) for spectrum in ids if expected[spectrum] is None}
    assert files(tmp_path / "out") == there
    listed = failures(tmp_path / "out")
    assert dict(zip(listed["spectrum_id"], listed["reason"], strict=True)) == {str(i): why for i, why in expected.items() if why}
    assert listed["url"].str.startswith(archive.base_url).all() and listed["detail"].str.endswith((".", ")")).all()
    assert (summary.downloaded, summary.present, summary.failures.total()) == (len(there), 0, 500 - len(there))
    assert not list((tmp_path / "out").rglob(".*.new"))


def test_a_killed_fetch_goes_on_without_fetching_anything_twice(tmp_path: Path) -> None:
    ids = spectra(100)
    quasars, out = catalogue(tmp_path / "quasars.csv", ids), tmp_path / "out"
    with archive_with({}, delay_s=0.02) as archive:
        running = subprocess.Popen([sys.executable, "-c", FETCH, archive.base_url, str(quasars), str(out)])
        end = time.monotonic() + 60
        while len(archive.log) < 40:
            assert running.poll() is None and time.monotonic() < end, "the fetch ended before it could be killed"
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        assert running.wait(20) == -signal.SIGKILL
        let_settle(archive)
        assert archive.most_at_a_time <= 4
        kept, before = files(out), len(archive.log)
        assert 30 <= len(kept) < len(ids)
        damaged = next(out.rglob("*.fits"))
        damaged.write_bytes(kept[damaged.name][:20_000])
        summary = run_fetch(archive, quasars, out)
        asked = {name(spectrum) for spectrum in archive.requested(since=before)}
        assert asked == {name(spectrum) for spectrum in ids} - set(kept) | {damaged.name}
        assert len(archive.log) - before == len(asked) == summary.downloaded
        assert summary.present == len(kept) - 1
        assert files(out) == {name(spectrum): spectrum_file(spectrum) for spectrum in ids}
        assert run_fetch(archive, quasars, out).present == len(ids)
        assert len(archive.log) - before == len(asked)


def test_the_other_reductions_are_asked_before_a_file_is_given_up(tmp_path: Path) -> None:
    lost, moved = SpectrumId(3655, 55240, 26), SpectrumId(2000, 53000, 7)
    with archive_with({lost: "missing", moved: "moved"}) as archive:
        summary = run_fetch(archive, catalogue(tmp_path / "q.csv", [lost, moved]), tmp_path / "out", workers=1)
    asked = [(spectrum.plate, path.split("/redux/")[1].split("/")[0], status) for path, spectrum, status in archive.log]
    assert asked[:3] == [(2000, "26", 404), (2000, "103", 404), (2000, "v5_13_0", 200)]
    assert asked[3:] == [(3655, run2d, 404) for run2d in ("v5_13_0", "26", "103", "104")]
    assert (summary.downloaded, dict(summary.failures)) == (1, {"not_found": 1})
    assert failures(tmp_path / "out")["detail"].tolist() == ["The archive has no such file, in none of 4 reductions."]


def test_names_in_a_catalogue_are_numbers_or_nothing(tmp_path: Path) -> None:
    rows = ["../../../etc-1-1,1.5", "3655-55240-26,1.5", "3655-55240-26,1.5", "/etc/passwd,1.5", "3655-55240-27,0.1", "3655-55240-28,nan"]
    (tmp_path / "q.csv").write_text("pmf,z\n" + "\n".join(rows) + "\n")
    with archive_with({}) as archive:
        summary = run_fetch(archive, tmp_path / "q.csv", tmp_path / "out")
    assert sorted(files(tmp_path / "out")) == ["spec-3655-55240-0026.fits", "spec-3655-55240-0028.fits"]
    assert (summary.downloaded, summary.not_selected, dict(summary.failures)) == (2, 1, {"no_identifier": 2})
    assert {path.name for path in tmp_path.iterdir()} == {"q.csv", "out"}


def test_a_server_that_is_gone_ends_the_fetch_and_what_came_is_kept(tmp_path: Path) -> None:
    ids = spectra(60)
    quasars, out = catalogue(tmp_path / "q.csv", ids), tmp_path / "out"
    with archive_with({}) as archive:
        run_fetch(archive, catalogue(tmp_path / "some.csv", sorted(ids)[:5]), out)
    with pytest.raises(FetchError, match="20 files in a row could not be had.*no connection.*5 already there.*Run the same command again"):
        run_fetch(archive, quasars, out, retries=0, workers=1)
    assert len(files(out)) == 5
    assert failures(out)["reason"].unique().tolist() == ["unreachable"]


def test_a_server_that_will_not_give_anything_is_not_asked_for_everything(tmp_path: Path) -> None:
    ids = spectra(60)
    with archive_with(dict.fromkeys(ids, "error")) as archive:
        with pytest.raises(FetchError, match="20 files in a row could not be had"):
            run_fetch(archive, catalogue(tmp_path / "q.csv", ids), tmp_path / "out", retries=0, workers=1)
        assert len(archive.log) < 60


def test_the_rate_is_limited_over_all_workers(tmp_path: Path) -> None:
    ids = spectra(8)
    with archive_with({}) as archive:
        summary = run_fetch(archive, catalogue(tmp_path / "q.csv", ids), tmp_path / "out", limit_rate_mb_s=0.5)
    assert summary.n_bytes == sum(len(spectrum_file(spectrum)) for spectrum in ids)
    assert summary.seconds > 0.9 * summary.n_bytes / 0.5e6


def test_two_fetches_do_not_write_into_one_folder(tmp_path: Path) -> None:
    ids = spectra(10)
    quasars, met = catalogue(tmp_path / "q.csv", ids), []
    with archive_with({}) as archive:
        settings = load(fetch=QUICK | {"base_url": archive.base_url}).fetch

        def again(_: str) -> None:
            with pytest.raises(FetchError, match="Another fetch is writing into"):
                run_fetch(archive, quasars, tmp_path / "out")
            met.append(True)

        from nalspark.surveys import download

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(download, "_EVERY_S", 0.0)
            fetch(load_release("sdss_dr16"), open_catalog(quasars, "quasars"), tmp_path / "out", settings, again)
    assert met and len(files(tmp_path / "out")) == 10


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FetchError, match=r"'.*out' cannot be written: File exists\..*Run the same command again"):
        run_fetch("http://127.0.0.1:9", catalogue(tmp_path / "q.csv", spectra(1)), tmp_path / "out")


@pytest.mark.parametrize("base_url", ["file:///etc", "data.sdss.org", "https://", "https://me:secret@host/", "http://host/?x=1"])
def test_a_base_url_is_an_http_address(base_url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not of the form https://HOST/PATH"):
        run_fetch(base_url, catalogue(tmp_path / "q.csv", spectra(1)), tmp_path / "out")


def test_a_catalogue_without_what_the_files_are_known_by_is_refused(tmp_path: Path) -> None:
    catalog = open_catalog(catalogue(tmp_path / "q.csv", spectra(1)), "quasars")
    with pytest.raises(CatalogError, match="no column for ra, dec; the files of desi_dr1 are known by survey, program, healpix"):
        fetch(load_release("desi_dr1"), catalog, tmp_path / "out", load().fetch, lambda _: None)


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str], no_spark: None) -> None:
    ids = spectra(3)
    quasars = str(catalogue(tmp_path / "q.csv", ids))
    with archive_with({ids[0]: "missing"}) as archive:
        given = ["--quasars", quasars, "--out", str(tmp_path / "out"), "--base-url", archive.base_url, "--limit-rate", "100"]
        assert main(["fetch", "sdss_dr16", *given, "--set", "fetch.retries=0"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 downloaded in ") and "0 already there, 1 failed (1 not_found)" in said and FAILURES in said
    assert main(["fetch", "sdss_dr61", *given]) == 2
    assert "There is no release 'sdss_dr61'; there are desi_dr1" in capsys.readouterr().err
    assert main(["fetch", "sdss_dr16", *given, "--workers", "many"]) == 2
    assert "'fetch.workers' = 'many'" in capsys.readouterr().err
