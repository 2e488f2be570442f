"""The doors of spark-submit: each is a page, and the stages one by one make what the pipeline makes in one go."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from runs import PATIENCE, QUICK, assert_same_catalogue, environment, make_survey

from nalspark.pipeline.catalogue import CATALOGUE, LEARNING, TAUGHT
from nalspark.tables.manifest import read_manifest

JOBS = Path(__file__).parents[1] / "jobs"
#: Door → the command that it opens.
DOORS = {"catalogue": "run", "stage": "run", "reprocess": "reprocess", "train": "train"}
if find_spec("nalspark.emission"):
    DOORS["emission"] = "emission"


def test_there_is_a_job_for_every_door_and_no_other() -> None:
    assert sorted(job.stem for job in JOBS.glob("*.py")) == sorted(DOORS)


@pytest.mark.parametrize("job", DOORS)
def test_a_job_is_a_page_with_its_help_at_the_top(job: str) -> None:
    text = (JOBS / f"{job}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    tree = ast.parse(text)
    help_text = ast.get_docstring(tree)
    assert help_text and re.search(rf"^spark-submit jobs/{job}\.py (\S+ )?RUN\.toml", help_text, re.MULTILINE)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]


def test_the_help_of_stage_names_the_stages_that_there_are() -> None:
    help_text = ast.get_docstring(ast.parse((JOBS / "stage.py").read_text(encoding="utf-8")))
    named = [word for quoted in re.findall("`([^`]+)`", help_text or "") for word in quoted.split()]
    assert sorted(named) == sorted([*CATALOGUE, "eigenspectra", *LEARNING, *TAUGHT[-2:]])


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    survey = make_survey(folder / "survey", n=12, per_part=6)
    lines = [f"spectra = ['{survey / 'parts'}']", f"quasars = ['{survey / 'quasars.fits'}']", f"out = '{folder / 'out'}'"]
    lines += ["[ingest]", "plates_per_part = 1", "[publish]", "gallery = 0"]
    assert QUICK == ("ingest.plates_per_part=1", "publish.gallery=0")
    (folder / "RUN.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "RUN.toml"


def spark_submit(job: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Submit a job with the script that pip installed with pyspark, as a user types it."""
    conf = [f"--conf=spark.{key}" for key in ("driver.host=127.0.0.1", "driver.bindAddress=127.0.0.1", "ui.enabled=false")]
    command = [Path(sys.executable).parent / "spark-submit", "--master", "local[2]", *conf, JOBS / f"{job}.py", *arguments]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment(), cwd=JOBS.parent, timeout=PATIENCE, check=False
    )


def in_process(job: str, *arguments: str | Path) -> int:
    """Run the job's own file as a script, in this process's session; its exit status."""
    given, sys.argv = sys.argv, [f"{job}.py", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(JOBS / f"{job}.py"), run_name="__main__")
    finally:
        sys.argv = given
    return int(end.value.code or 0)


@pytest.mark.parametrize("job", DOORS)
def test_a_job_opens_its_command(job: str, capsys: pytest.CaptureFixture[str], no_spark: None) -> None:
    assert in_process(job, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: nalspark {DOORS[job]} ")


@pytest.mark.spark
def test_the_stages_in_order_make_what_the_pipeline_makes(spark: object, run_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The last stages are submitted: a process of their own goes on where this one stopped."""
    out, whole = run_file.parent / "out", run_file.parent / "whole"
    for stage in CATALOGUE[:-2]:
        assert in_process("stage", run_file, stage) == 0
        told = capfd.readouterr().err
        assert [line.split()[0] for line in told.splitlines() if line.startswith(CATALOGUE)] == [stage]
        assert stage != "ingest" or "2 of 2 parts: 12 rows, 1 rejected" in told
    submitted = spark_submit("stage", run_file, *CATALOGUE[-2:])
    assert submitted.returncode == 0 and "Traceback" not in submitted.stdout, submitted.stderr
    assert "measure     2 of 2 parts" in submitted.stdout  # spark-submit joins the two streams of Python
    assert "absorbers in 12 searched spectra; 1 rejected." in submitted.stdout
    assert in_process("catalogue", run_file, "--set", f"out={str(whole)!r}") == 0
    assert_same_catalogue(out, whole)
    assert len(read_manifest(out / "manifest.json").runs) == len(CATALOGUE) - 1
    assert len(read_manifest(whole / "manifest.json").runs) == 1


@pytest.mark.spark
def test_a_job_passes_its_options_on(spark: object, run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = f"out={str(run_file.parent / 'again')!r}"
    assert in_process("stage", run_file, "ingest", "--set", elsewhere, "--part", "plate01002", "--dry-run") == 0
    assert "ingest      1 of 2 parts to do" in capsys.readouterr().err
    assert not (run_file.parent / "again").exists()


@pytest.mark.parametrize(
    "arguments, sentence",
    [(("search",), "Run stages 'ingest', 'crossmatch' first."), (("serch",), "Did you mean 'search'?")],
)
def test_a_job_refuses_what_is_wrong_as_the_command_line_does(
    arguments: tuple[str, ...], sentence: str, run_file: Path, capsys: pytest.CaptureFixture[str], no_spark: None
) -> None:
    assert in_process("stage", run_file, *arguments, "--set", f"out={str(run_file.parent / 'nothing')!r}") == 2
    assert sentence in capsys.readouterr().err
