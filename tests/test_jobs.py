"""The spark-submit doors: one per stage, each a page, and together they make what the pipeline makes in one go."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import QUICK, assert_same_catalogue, environment, make_survey, run, settings_of

from nalspark.pipeline.catalogue import CATALOGUE
from nalspark.tables.manifest import read_manifest

JOBS = Path(__file__).parents[1] / "jobs"


def test_every_stage_has_a_job_and_so_has_the_evaluation() -> None:
    assert sorted(job.stem for job in JOBS.glob("*.py")) == sorted([*(stage.name for stage in STAGES), "evaluate", "reprocess"])


@pytest.mark.parametrize("job", sorted(JOBS.glob("*.py")), ids=lambda job: job.stem)
def test_a_job_is_a_page_with_its_help_at_the_top(job: Path) -> None:
    text = job.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    tree = ast.parse(text)
    help_text = ast.get_docstring(tree)
    assert help_text and f"spark-submit jobs/{job.name} RUN.toml" in help_text
    assert f'run_job("{job.stem}")' in text
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    survey = make_survey(folder / "survey", n=24)
    lines = [f"spectra = ['{survey / 'parts'}']", f"quasars = ['{survey / 'quasars.fits'}']", f"out = '{folder / 'out'}'"]
    lines += ["[ingest]", "plates_per_part = 1", "[publish]", "gallery = 0"]
    assert QUICK == ("ingest.plates_per_part=1", "publish.gallery=0")
    (folder / "RUN.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "RUN.toml"


def spark_submit(job: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The script that pip installed with pyspark, as a user types it."""
    conf = [f"--conf=spark.{key}" for key in ("driver.host=127.0.0.1", "driver.bindAddress=127.0.0.1", "ui.enabled=false")]
    command = [Path(sys.executable).parent / "spark-submit", "--master", "local[2]", *conf, JOBS / f"{job}.py", *arguments]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment(), cwd=JOBS.parent, timeout=200, check=False
    )


def in_process(job: str, *arguments: str | Path) -> None:
    """The job's own file, run as a script in this process's session."""
    given, sys.argv = sys.argv, [f"{job}.py", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(JOBS / f"{job}.py"), run_name="__main__")
    finally:
        sys.argv = given
    assert end.value.code == 0


@pytest.mark.spark
def test_the_jobs_in_order_make_what_the_pipeline_makes(spark: Any, run_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, survey = run_file.parent / "out", run_file.parent / "survey"
    submitted = spark_submit("ingest", run_file)
    assert submitted.returncode == 0 and "Traceback" not in submitted.stdout, submitted.stderr
    assert "3 of 3 parts: 24 rows, 1 rejected" in submitted.stdout  # spark-submit joins the two streams of Python
    for job in CATALOGUE[1:-1]:
        in_process(job, run_file)
        assert [line.split()[0] for line in capfd.readouterr().err.splitlines() if line.startswith(CATALOGUE)] == [job]
    submitted = spark_submit("publish", run_file)
    assert submitted.returncode == 0 and "Traceback" not in submitted.stdout, submitted.stderr
    assert "absorbers in 24 searched spectra; 1 rejected." in submitted.stdout
    whole = run_file.parent / "whole"
    run(spark, settings_of(survey, whole))
    assert_same_catalogue(out, whole)
    assert len(read_manifest(out / "manifest.json").runs) == len(CATALOGUE)


@pytest.mark.spark
def test_a_job_passes_its_options_on(spark: Any, run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = f"out={str(run_file.parent / 'again')!r}"
    in_process("ingest", run_file, "--set", elsewhere, "--part", "plate01002", "--dry-run")
    assert "ingest      1 of 3 parts to do" in capsys.readouterr().err
    assert not (run_file.parent / "again").exists()


def test_a_job_refuses_what_is_wrong_as_the_command_line_does(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, sys.argv = sys.argv, ["search.py", str(run_file), "--set", f"out={str(run_file.parent / 'nothing')!r}"]
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(JOBS / "search.py"), run_name="__main__")
    finally:
        sys.argv = given
    assert end.value.code == 2
    assert "Run stages 'ingest', 'crossmatch', 'preprocess' first." in capsys.readouterr().err
