"""Every job, stage by stage, by spark-submit on a real standalone cluster, and by the command line here: the tables row for row.

    python benchmarks/cluster_jobs.py            # 60 simulated spectra; some minutes

A master and two workers of one core on the loopback. The jobs that make a model make a very small one: that the scores are good is not
asked here, only that they are the same. Compared are all rows of all tables that the manifests name, the published files and the weights.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from cluster import Cluster, started_cluster
from runs import COMMAND, assert_same_catalogue, environment, make_survey

from nalspark.emission.frames import CUTOUT_SHAPE, PLANES
from nalspark.emission.inputs import SECOND_STAGE
from nalspark.emission.pipeline import JUDGEMENT
from nalspark.pipeline.catalogue import CATALOGUE
from nalspark.pipeline.learning import MODEL
from nalspark.tables.store import Store

ROOT = Path(__file__).parents[1]
#: What manifests name that is a folder of other files, without rows.
_NO_ROWS = {MODEL.name, SECOND_STAGE.name, JUDGEMENT.name}
_MODEL = ("[simulate]", "n = 400", "n_realistic = 200", "[train]", "members = 1", "epochs = 2")
_SELECTION = (
    "[emission]", "n_train = 400", "n_reference = 500", "n_held_out = 250", "rows_per_part = 250",
    "[second_stage]", "keep_contamination = 0.02", "discard_contamination = 0.98",
    "[train]", 'network = "cutout_cnn"', "members = 1", "epochs = 2", "batch_size = 32", "learning_rate = 1e-2",
    "[train.options]", "filters = [6, 8]",
)  # fmt: skip


def run_file(folder: Path, survey: Path, name: str) -> Path:
    lines = [f"spectra = ['{survey / 'parts'}']", f"quasars = ['{survey / 'quasars.fits'}']", f"out = '{folder / name}'"]
    lines += ["[ingest]", "plates_per_part = 1", "[publish]", "gallery = 0", *_MODEL]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def selection_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Run files of a very small selection of emission lines: of its training, and of classifying ready cut-outs with it."""
    out = folder / f"selection_{name}"
    train, classify = folder / f"train_{name}.toml", folder / f"classify_{name}.toml"
    train.write_text("\n".join([f"out = '{out}'", *_SELECTION]) + "\n", encoding="utf-8")
    given = [f"model = '{out}'", f"cutouts = ['{folder / 'cutouts.fits'}']"]
    classify.write_text("\n".join([f"out = '{folder / f'detections_{name}'}'", "[emission]", *given]) + "\n", encoding="utf-8")
    return train, classify


def write_cutouts(path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=(200, len(PLANES), *CUTOUT_SHAPE)).astype(np.float32)
    noise[::2, :, 4, 15:18] += 6.0
    fits.PrimaryHDU(noise).writeto(path)


def submit(cluster: Cluster, job: str, *arguments: str | Path) -> None:
    """Run a job on the cluster; one that fails ends the comparison with what it said."""
    conf = {"driver.host": "127.0.0.1", "driver.bindAddress": "127.0.0.1", "ui.enabled": "false", "executor.memory": "900m"}
    options = ["--master", cluster.master, *(f"--conf=spark.{key}={value}" for key, value in conf.items())]
    command = [str(Path(sys.executable).parent / "spark-submit"), *options, str(ROOT / "jobs" / f"{job}.py"), *map(str, arguments)]
    started = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if ended.returncode:
        raise SystemExit(f"{job}: status {ended.returncode}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}")
    words = " ".join(getattr(word, "name", word) for word in arguments)
    print(f"  spark-submit jobs/{job}.py {words}: {time.monotonic() - started:.0f} s", flush=True)


def locally(*arguments: str | Path) -> None:
    subprocess.run([*COMMAND, *map(str, arguments)], check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def on_the_cluster(folder: Path, run: Path, model: Path, selection: tuple[Path, Path]) -> None:
    with started_cluster(folder / "cluster", patience=1800) as cluster:
        for stage in (*CATALOGUE, "eigenspectra"):
            submit(cluster, "stage", run, stage)
        for job in ("catalogue", "reprocess"):  # nothing is left to do
            submit(cluster, job, run)
        submit(cluster, "stage", model, "simulate")
        submit(cluster, "train", model)
        for what, file in zip(("train", "run"), selection, strict=True):
            submit(cluster, "emission", what, file)


def in_a_local_session(run: Path, model: Path, selection: tuple[Path, Path]) -> None:
    for stages in ((), ("eigenspectra",)):
        locally("run", run, *stages)
    locally("train", model)
    for command, file in zip(("train", "run"), selection, strict=True):
        locally("emission", command, file)


def rows_of(store: Store, table: str) -> pd.DataFrame:
    """All rows of a table in an order of their own."""
    parts = [store.root / part.path for part in store.manifest().parts(table).values() if part.path]
    frame = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True) if parts else pd.DataFrame()
    frame = frame.drop(columns="in_part", errors="ignore").map(lambda cell: cell.tobytes() if isinstance(cell, np.ndarray) else cell)
    return frame.sort_values(list(frame.columns[:3]), ignore_index=True)


def compare(left: Path, right: Path) -> None:
    ours, theirs = Store(left), Store(right)
    for table in sorted((set(ours.manifest().tables) | set(theirs.manifest().tables)) - _NO_ROWS):
        pd.testing.assert_frame_equal(rows_of(ours, table), rows_of(theirs, table), check_exact=True, obj=table)
        print(f"  {table}: {len(rows_of(ours, table))} rows, equal", flush=True)


def compare_models(left: Path, right: Path) -> None:
    for path in sorted(left.glob("*.npz")):
        with np.load(path, allow_pickle=False) as ours, np.load(right / path.name, allow_pickle=False) as theirs:
            apart = max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours.files)
        print(f"  {path.name}: weights apart by {apart:.1g} at most", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=60)
    options = parser.parse_args()
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        survey = make_survey(folder / "survey", options.n, per_part=20)
        there, here = (run_file(folder, survey, name) for name in ("there", "here"))
        models = [run_file(folder, survey, name) for name in ("model_there", "model_here")]
        selections = [selection_files(folder, name) for name in ("there", "here")]
        write_cutouts(folder / "cutouts.fits")
        on_the_cluster(folder, there, models[0], selections[0])
        in_a_local_session(here, models[1], selections[1])
        assert_same_catalogue(folder / "there", folder / "here")
        print("  published tables and absorbers.fits: equal", flush=True)
        for name in ("{}", "model_{}", "selection_{}", "detections_{}"):
            compare(*(folder / name.format(where) for where in ("there", "here")))
        compare_models(folder / "model_there" / "model", folder / "model_here" / "model")
        compare_models(folder / "selection_there" / "model", folder / "selection_here" / "model")


if __name__ == "__main__":
    main()
