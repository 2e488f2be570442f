"""A user's mistake is answered by one sentence and exit status 2; most of them before a Spark session is started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from runs import COMMAND, environment, make_survey, tree
from surveys.make_files import write_spec

from nalspark.cli import _parser, main
from nalspark.pipeline.catalogue import CATALOGUE
from nalspark.tables.store import Store
from nalspark.version import VERSION


@pytest.fixture
def spectra(tmp_path: Path) -> Path:
    folder = tmp_path / "spectra"
    folder.mkdir()
    write_spec(folder / "spec-3655-55240-0026.fits")
    return folder


def write_table(path: Path, **columns: Any) -> Path:
    Table({name: np.asarray(values) for name, values in columns.items()}).write(path)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What the command line says as it refuses."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse's own way
        status = int(end.code or 0)
    captured = capsys.readouterr()
    assert status == 2, captured
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.rstrip().endswith((".", "?")) or "usage:" in captured.err
    return captured.err


# ---- before Spark


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("spektra", r"There is no '.*spektra'; expected a folder.*Did you mean '/.*/spectra'\?"),
        ("no/such/folder", r"There is no '.*no/such/folder', nor a folder"),
        ("spectra/*.gz", r"The glob '.*' matches nothing"),
        ("spectra/spec-1.fits", r"There is no '.*spec-1.fits'.*Did you mean '/.*/spectra/spec-3655-55240-0026.fits'"),
        ("", r"empty or holds a NUL"),
    ],
)
def test_sources_that_are_not_there(source: str, sentence: str, spectra: Path, capsys: Any, no_spark: None) -> None:
    given = str(spectra.parent / source) if source else ""
    assert re.search(sentence, refused(capsys, "find", given, "--out", spectra.parent / "out"))
    assert not (spectra.parent / "out").exists()


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("search.min_significanse=6", r"'search.min_significanse' is not a setting. Did you mean 'search.min_significance'\?"),
        ("search.min_significance=high", r"'search.min_significance' = 'high'"),
        ("search.min_significance=-1", r"'search.min_significance' = -1: .*greater than 0"),
        ("search.min_significance", r"is not of the form key=value"),
        ("species.name=x", r"'species.name' is not a setting|'species'"),
        ("crossmatch.weak=maybe", r"'crossmatch.weak' = 'maybe'.*'exclude' or 'negative'"),
    ],
)
def test_settings_that_are_wrong(override: str, sentence: str, spectra: Path, capsys: Any, no_spark: None) -> None:
    assert re.search(sentence, refused(capsys, "find", spectra, "--out", spectra.parent / "out", "--set", override))


def test_all_faulty_settings_are_told_at_once(spectra: Path, capsys: Any, no_spark: None) -> None:
    said = refused(capsys, "find", spectra, "--out", spectra.parent / "out", "--set", "a=1", "--set", "publish.gallery=-1")
    assert "2 fault(s)" in said and "'a' is not a setting" in said and "'publish.gallery' = -1" in said


def test_a_species_that_is_not_known(spectra: Path, capsys: Any, no_spark: None) -> None:
    said = refused(capsys, "find", spectra, "--out", spectra.parent / "out", "--species", "MgI")
    assert re.search(r"Species 'MgI' is not known; there are .*Did you mean 'MgII'\?", said)


def test_catalogues_that_cannot_be_used(spectra: Path, capsys: Any, no_spark: None) -> None:
    here = spectra.parent
    find = ("find", spectra, "--out", here / "out")
    write_table(here / "no_z.fits", plate=[3655], mjd=[55240], fiber=[26], ra=[150.0], dec=[-1.5])
    assert re.search(r"no_z.fits.* z", refused(capsys, *find, "--quasars", here / "no_z.fits"))
    write_table(here / "no_z_abs.csv", plate=[3655], mjd=[55240], fiber=[26], z_qso=[1.5])
    assert re.search(r"no_z_abs.csv.*z_abs", refused(capsys, *find, "--absorbers", here / "no_z_abs.csv"))
    assert "does not exist. Did you mean 'no_z.fits'?" in refused(capsys, *find, "--quasars", here / "no_zz.fits")
    (here / "text.fits").write_text("plate mjd fiber z\n")
    assert "text.fits" in refused(capsys, *find, "--quasars", here / "text.fits")
    assert "is a folder" in refused(capsys, *find, "--quasars", spectra)
    assert not (here / "out").exists()


def test_an_output_directory_that_cannot_be_used(spectra: Path, capsys: Any, no_spark: None) -> None:
    file = spectra / "spec-3655-55240-0026.fits"
    assert "is a file" in refused(capsys, "find", spectra, "--out", file)
    assert "is a file" in refused(capsys, "find", spectra, "--out", file / "below")
    assert "is not empty and holds no nalspark result" in refused(capsys, "find", spectra, "--out", spectra)
    assert "--out" in refused(capsys, "find", spectra)


def test_an_output_directory_that_may_not_be_written(spectra: Path, capsys: Any, no_spark: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == spectra.parent and mode & os.W_OK) and real(path, mode))
    assert "cannot be written" in refused(capsys, "find", spectra, "--out", spectra.parent / "out")


@pytest.mark.parametrize(
    "content, sentence",
    [
        (None, "There is no run file"),
        ("out = ", "is not valid TOML"),
        ("out = 'x'\nspectre = ['y']", r"'spectre' is not a setting. Did you mean 'spectra'\?"),
        ("out = 'x'\n[serach]\nmin_significance = 3", r"'serach' is not a setting. Did you mean 'search'\?"),
        ("out = 'x'\n[search]\nwidths_pixels = 3", "'search.widths_pixels' = 3"),
        ("spectra = ['.']", "No output directory is given"),
        ("out = 'x'", "No spectra are given"),
    ],
)
def test_run_files_that_are_wrong(content: str | None, sentence: str, tmp_path: Path, capsys: Any, no_spark: None) -> None:
    run = tmp_path / "RUN.toml"
    if content is not None:
        run.write_text(content.replace("'x'", f"'{tmp_path / 'out'}'"))
    assert re.search(sentence, refused(capsys, "run", run))


def test_options_and_commands_that_are_not_there(spectra: Path, capsys: Any, no_spark: None) -> None:
    find = ("find", spectra, "--out", spectra.parent / "out")
    assert "unrecognized arguments: --quasar-file=x. Did you mean '--quasars'?" in refused(capsys, *find, "--quasar-file=x")
    assert "Did you mean '--out'?" in refused(capsys, "find", spectra, "--outt", spectra.parent / "out")
    assert "unrecognized arguments: --ou. Did you mean '--out'?" in refused(capsys, "find", spectra, "--ou", spectra.parent / "out")
    assert "Did you mean '--limit-rate'?" in refused(capsys, "fetch", "sdss_dr16", "--quasars", "x", "--out", "y", "--limit-rat3", "1")
    assert refused(capsys, "status", "a", "b").rstrip().endswith("unrecognized arguments: b")
    assert "invalid choice: 'fnd'" in (said := refused(capsys, "fnd", spectra)) and said.rstrip().endswith("Did you mean 'find'?")
    assert not (spectra.parent / "out").exists()


def test_stages_that_cannot_run(spectra: Path, capsys: Any, no_spark: None) -> None:
    run = spectra.parent / "RUN.toml"
    run.write_text(f"out = '{spectra.parent / 'out'}'\nspectra = ['{spectra}']\n")
    assert re.search(r"no stage 'serch'.*Did you mean 'search'\?", refused(capsys, "run", run, "serch"))
    assert "Run stages 'ingest', 'crossmatch' first." in refused(capsys, "run", run, "search", "measure")
    assert "Run stage 'search' first." in refused(capsys, "run", run, "ingest", "crossmatch", "infer")
    assert not (spectra.parent / "out").exists()


def test_a_result_of_another_format_is_refused(spectra: Path, capsys: Any, no_spark: None) -> None:
    (spectra.parent / "out").mkdir()
    (spectra.parent / "out" / "manifest.json").write_text('{"format": 99, "tables": {}}')
    assert "format 99" in refused(capsys, "find", spectra, "--out", spectra.parent / "out")


def test_simulations_that_cannot_be_made(tmp_path: Path, capsys: Any, no_spark: None) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "--n must be between 1 and" in refused(capsys, "simulate", "survey", "--n", "0", "--out", tmp_path / "new")
    assert "is no simulated survey" in refused(capsys, "simulate", "survey", "--n", "3", "--out", tmp_path)
    assert "There is no folder" in refused(capsys, "simulate", "survey", "--n", "3", "--out", tmp_path / "new", "--from", tmp_path / "x")
    assert "invalid int value" in refused(capsys, "simulate", "survey", "--n", "many", "--out", tmp_path / "new")
    assert "invalid choice: 'fnd'" in refused(capsys, "fnd", tmp_path)


# ---- with Spark: nobody looks below the sources before


@pytest.mark.spark
def test_a_folder_without_spectra(spark: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "papers" / "2019").mkdir(parents=True)
    (tmp_path / "papers" / "zhao.pdf").write_text("pdf")
    assert "No spectrum files" in refused(capsys, "find", tmp_path / "papers", "--out", tmp_path / "out")


@pytest.mark.spark
def test_an_output_directory_that_is_in_use(spark: Any, spectra: Path, capsys: Any) -> None:
    with Store(spectra.parent / "out").lock():
        assert f"in use by process {os.getpid()}" in refused(capsys, "find", spectra, "--out", spectra.parent / "out")


@pytest.mark.spark
def test_a_part_that_is_not_there(spark: Any, spectra: Path, capsys: Any) -> None:
    run = spectra.parent / "RUN.toml"
    run.write_text(f"out = '{spectra.parent / 'out'}'\nspectra = ['{spectra}']\n")
    assert "no part 'plate35000'" in refused(capsys, "run", run, "ingest", "--part", "plate35000")
    assert "Did you mean 'plate03500'?" in refused(capsys, "run", run, "ingest", "--part", "plate0350")


@pytest.mark.spark
def test_find_says_what_it_found_and_leaves_a_session_that_was_there_alone(spark: Any, tmp_path: Path, capsys: Any) -> None:
    survey = make_survey(tmp_path / "survey", n=8)
    quick = ("--set", "publish.gallery=0")
    assert main(["find", str(survey / "parts"), "--quasars", str(survey / "quasars.fits"), "--out", str(tmp_path / "out"), *quick]) == 0
    captured = capsys.readouterr()
    found, catalogue, report, rejected = captured.out.splitlines()
    assert re.fullmatch(r"\d+ absorbers in 8 searched spectra; 1 rejected\.", found)
    assert Path(catalogue.split(maxsplit=1)[1]).is_file() and Path(report.split(maxsplit=1)[1]).is_file()
    assert rejected == f"rejected   {tmp_path / 'out' / 'rejections.parquet'}, with reasons"
    assert [line.split()[0] for line in captured.err.splitlines() if line[0] != " "] == list(CATALOGUE)
    assert spark.range(3).count() == 3
    before = tree(tmp_path / "out")
    assert main(["find", str(survey / "parts"), "--out", str(tmp_path / "out"), *quick, "--dry-run"]) == 0
    assert "crossmatch  1 of 1 parts to do" in capsys.readouterr().err
    assert tree(tmp_path / "out") == before


# ---- where to write


@pytest.mark.parametrize(
    "command",
    [
        ("find", "nowhere", "--out"),
        ("demo", "--out"),
        ("simulate", "survey", "--n", "1", "--out"),
        ("fetch", "sdss_dr16", "--quasars", "none", "--out"),
        ("diff", "nowhere", "--out"),
        ("evaluate", "--catalogue", "nowhere", "--out"),
        ("emission", "demo", "--out"),
        ("evaluate", "--catalogue"),
        ("status",),
    ],
    ids=" ".join,
)
def test_a_url_is_no_folder(command: tuple[str, ...], tmp_path: Path, monkeypatch: Any, capsys: Any, no_spark: None) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "s3a://bucket/x"]) == 2
    assert re.fullmatch(r"nalspark: 's3a://bucket/x' is not in this machine's file systems, .*\.\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir()), "nothing is done before"


# ---- help


def test_version_and_help_need_no_spark() -> None:
    """One process for all: what is imported must not start a JVM either."""
    version = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, env=environment(JAVA_HOME="/nonexistent"), check=True)
    assert version.stdout == f"nalspark {VERSION}\n" and version.stderr == ""


@pytest.mark.parametrize(
    "command", [(), ("find",), ("run",), ("train",), ("simulate",), ("simulate", "survey"), ("evaluate",), ("demo",)], ids=" ".join
)
def test_every_command_has_help(command: tuple[str, ...], capsys: Any, no_spark: None) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert said.startswith(f"usage: {' '.join(['nalspark', *command])}") and "options:" in said


def test_the_installed_command_is_this_one() -> None:
    script = Path(sys.executable).parent / "nalspark"
    if not script.exists():
        pytest.skip("nalspark is not installed here")
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout.startswith("nalspark ")


def test_a_flag_takes_several_values_after_the_spectra():
    """As the command line is documented: ``--absorbers FILE ...``, in one go or one by one."""
    parse = _parser().parse_args
    at_once = parse(["find", "a", "b", "--out", "o", "--absorbers", "x", "y", "--quasars", "q", "r", "--set", "k=1", "l=2"])
    one_by_one = parse(["find", "a", "b", "--absorbers", "x", "--absorbers", "y", "--out", "o", "--quasars", "q", "--quasars", "r"])
    for options in (at_once, one_by_one):
        assert (options.spectra, options.absorbers, options.quasars) == (["a", "b"], ["x", "y"], ["q", "r"])
    assert at_once.set == ["k=1", "l=2"]
