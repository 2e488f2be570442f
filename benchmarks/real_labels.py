"""What real labels teach: networks trained on catalogued spectra, on mocks, and on mocks and then on catalogued spectra, side by side.

    python benchmarks/real_labels.py tables --work DIR      label the spectra of NALSPARK_DATA by each set of catalogues
    python benchmarks/real_labels.py run    --work DIR      all fits; goes on where it was interrupted
    python benchmarks/real_labels.py show   --work DIR      the tables of docs/training.md

The spectra are the quasars of the shared data, the labels those of Raghunathan et al. (2016). Five folds by quasar: each quasar is in one
test, scored by networks that learned from the others, and the five tests are judged together. A network that saw no real label is judged
on the same spectra. Errors are the scatter over quasars drawn with replacement. Nothing is chosen on a test: the decision is a mean logit
above 0, which in balanced training is an even chance, or, of a model as it is, its calibrated score above 0.5. `strict` has the same scores
judged by the absorbers that Raghunathan and QSOALS both list; `without doubtful` leaves out what is labelled 0 and has both lines above
3 σ, as the paper measures its disagreements again.

Needs the libraries of the extra `train`. `--mocks DIR` names a whole-spectrum model trained on mocks (conf/runs/zhao2019.toml).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nalspark.absorption.chain import IMAGE_COLUMNS, SPECTRUM_COLUMNS
from nalspark.learning.models import TABLE_2, read_model, shipped_model
from nalspark.metrics import binary_metrics, bootstrap_errors
from nalspark.settings import load
from nalspark.teaching.labels import FOLDS, splits

DATA = Path(os.environ.get("NALSPARK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
R16 = ("Raghunathan2016_MgII_DR7.fits", "Raghunathan2016_MgII_DR12.fits")
#: Name → catalogues, and how many must agree.
LABELS = {"R16": (R16, 1), "strict": ((R16[0], "QSOALS_MgII_DR7.dat"), 2)}
EXAMPLES = {"candidates": (IMAGE_COLUMNS, (8, 49)), "spectra": (SPECTRUM_COLUMNS, (3841,))}
SHARES = (0.25, 0.5, 1.0)
#: As `nalspark.learning.feed.GOLDEN`: how far a member's draw of the negatives lies from the one before.
GOLDEN = 0.6180339887498949
#: How each is trained; from a model at a tenth of the rate.
HOW: dict[str, dict[str, Any]] = {
    "candidates": {"network": "candidate_cnn", "members": 5, "epochs": 20},
    "spectra": {"network": "zhao2019", "members": 3, "epochs": 12},
}
BATCH = 16
RATES = {"real": 1e-3, "fine-tuned": 1e-4}


def make_tables(work: Path) -> None:
    """The labelled examples of each set of labels and kind, as the stages make them."""
    for (name, (catalogues, agree)), kind in product(LABELS.items(), EXAMPLES):
        listed = [str(DATA / "catalogs" / file) for file in catalogues]
        values = [f"spectra=['{DATA / 'spectra' / 'qso'}']", f"absorbers={listed}", f"out='{work / 'result'}'", "labels.source=catalogues"]
        (work / "RUN.toml").write_text("")
        stages = ["ingest", "crossmatch", "search", "label_examples"]
        command = [sys.executable, "-m", "nalspark", "run", str(work / "RUN.toml"), *stages, "--set", *values]
        subprocess.run([*command, f"labels.agree={agree}", f"simulate.examples={kind}"], check=True)
        shutil.rmtree(work / f"{name}-{kind}", ignore_errors=True)
        shutil.copytree(work / "result" / "tables" / "training", work / f"{name}-{kind}")


def read(work: Path, name: str, kind: str) -> pd.DataFrame:
    """The examples of a set of labels, in the order of their names."""
    files = sorted((work / f"{name}-{kind}").rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files]).to_pandas()
    table["spectrum_id"] = table["example_id"] if kind == "spectra" else table["example_id"].str.rpartition("-")[0]
    return table.sort_values("example_id", ignore_index=True)


def unlisted(work: Path) -> set[str]:
    """Candidates whose two lines both reach 3 σ, as the paper measures its disagreements again: if labelled 0, many are absorbers."""
    files = (work / "result" / "tables" / "candidates").rglob("*.parquet")
    names = ["candidate_id", "filter_snr_primary", "filter_snr_secondary"]
    table = pa.concat_tables([pq.read_table(file, columns=names, partitioning=None) for file in files]).to_pandas()
    return set(table["candidate_id"][(table["filter_snr_primary"] >= 3) & (table["filter_snr_secondary"] >= 3)])


def tensors(rows: pd.DataFrame, kind: str) -> np.ndarray:
    columns, shape = EXAMPLES[kind]
    return np.stack([np.stack([np.frombuffer(cell, "<f4") for cell in rows[name]]).reshape(-1, *shape) for name in columns], axis=-1)


class Learner:
    """One network, compiled once, that learns again and again from arrays, as `nalspark train` learns from files."""

    def __init__(self, kind: str, start: str) -> None:
        import keras

        from nalspark.learning.networks import build

        self.how, self.start = HOW[kind], read_model(start) if start else None
        name, options = (self.start.card.network, self.start.card.options) if self.start else (self.how["network"], {})
        columns, shape = EXAMPLES[kind]
        self.first = []
        for member in range(self.how["members"]):
            keras.utils.set_random_seed(member)
            self.model = build(name, (*shape, len(columns)), options)
            self.first.append(self.start.weights_of(member, self.model) if self.start else self.model.get_weights())
        self.rate = RATES["fine-tuned" if start else "real"]
        self.model.compile(keras.optimizers.Adam(self.rate), keras.losses.BinaryCrossentropy(from_logits=True))

    def logits(self, x: np.ndarray) -> np.ndarray:
        whole = np.concatenate([x, np.zeros((-len(x) % BATCH, *x.shape[1:]), np.float32)])
        return np.concatenate([self.model.predict_on_batch(whole[at : at + BATCH])[:, 0] for at in range(0, len(whole), BATCH)])[: len(x)]

    def learn(self, member: int, train: tuple[np.ndarray, np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray]) -> None:
        """Learn all positives and the member's draw of as many negatives, of x, y and draw; the lowest validation loss counts."""
        x, y, draw = train
        share = min(1.0, float(y.sum() / (1 - y).sum()))
        chosen = np.flatnonzero((y == 1) | ((draw + member * GOLDEN) % 1.0 < share))
        self.model.set_weights(self.first[member])
        for variable in self.model.optimizer.variables:
            variable.assign(self.rate if "learning_rate" in variable.path else np.zeros(variable.shape))
        best, weights, rng = np.inf, self.first[member], np.random.default_rng(member)
        for _ in range(self.how["epochs"]):
            order = rng.permutation(chosen)
            for batch in np.resize(order, (-(-len(order) // BATCH), BATCH)):  # the last one is filled up from the first
                self.model.train_on_batch(x[batch], y[batch])
            logit = self.logits(validation[0])
            loss = float(np.logaddexp(0.0, np.where(validation[1] == 1, -logit, logit)).mean())
            if loss < best:
                best, weights = loss, self.model.get_weights()
        self.model.set_weights(weights)


def fit_and_score(rows: pd.DataFrame, x: np.ndarray, fold: int, share: float, learner: Learner) -> np.ndarray:
    """Mean logits of the fold's test, NaN elsewhere: by networks that learned from a share of the other quasars' examples."""
    split = splits(list(rows["quasar_id"]), load(None, (), labels={"fold": fold, "share": share}).labels)
    y, draw, found = rows["label"].to_numpy(float), rows["draw"].to_numpy(float), np.full(len(rows), np.nan)
    train, held, test = (split == name for name in ("train", "validation", "test"))
    if not 0 < y[train].sum() < train.sum():
        return found
    told = []
    for member in range(learner.how["members"]):
        learner.learn(member, (x[train], y[train], draw[train]), (x[held], y[held]))
        told.append(learner.logits(x[test]))
    found[test] = np.mean(told, axis=0)
    return found


def run(work: Path, mocks: str, kinds: list[str]) -> None:
    """Every fit that has no scores yet: ``scores-KIND.json``, name → logits, or scores less 0.5 of a model as it is."""
    starts = {"candidates": str(shipped_model("MgII")), "spectra": mocks}
    for kind in kinds:
        rows, path = read(work, "R16", kind), work / f"scores-{kind}.json"
        done = json.loads(path.read_text()) if path.exists() else {}
        if starts[kind] and "mocks" not in done:
            done["mocks"] = (read_model(starts[kind]).load().predict(tensors(rows, kind)).astype(float) - 0.5).tolist()
        x = tensors(rows, kind)
        learners = {how: Learner(kind, starts[kind] if how == "fine-tuned" else "") for how in RATES if how == "real" or starts[kind]}
        for share, (how, learner), fold in product(SHARES[::-1], learners.items(), range(FOLDS)):
            name = f"{how} {share} {fold}"
            if name not in done:
                done[name] = fit_and_score(rows, x, fold, share, learner).tolist()  # NaN where it is not tested
                path.write_text(json.dumps(done))
                print(f"{kind} {name}", flush=True)


def metrics_of(rows: pd.DataFrame, score: np.ndarray) -> tuple[dict[str, float], dict[str, float], int, int]:
    """Table 2 with errors over quasars, of the rows that have a score and a label; how many positives and rows."""
    known = np.isfinite(score) & rows["label"].notna().to_numpy()
    label, value, quasar = rows["label"].to_numpy()[known], score[known], pd.factorize(rows["quasar_id"][known])[0]
    if not len(label) or label.min() == label.max():
        return {}, {}, int(label.sum()), len(label)
    of_quasar = [np.flatnonzero(quasar == number) for number in range(quasar.max() + 1)]

    def judge(drawn: np.ndarray) -> dict[str, float]:
        some = np.concatenate([of_quasar[number] for number in drawn])
        return {name: value_ for name, value_ in binary_metrics(label[some], value[some], 0.0).items() if name in TABLE_2}

    whole = np.arange(len(of_quasar))
    return judge(whole), bootstrap_errors(judge, whole), int(label.sum()), len(label)


def by_spectrum(candidates: pd.DataFrame, score: np.ndarray, spectra: pd.DataFrame) -> np.ndarray:
    """The score of each spectrum: its best candidate's; far below all where it has none, which is no absorber."""
    best = pd.Series(score, index=candidates["spectrum_id"]).groupby(level=0).max()
    return spectra["spectrum_id"].map(best).fillna(-30.0).to_numpy()


def joined(done: dict[str, list[Any]], name: str, n: int) -> np.ndarray:
    """The five tests of one way of training, together."""
    if name == "mocks":
        return np.array(done["mocks"], dtype=float)
    tests = np.array([done.get(f"{name} {fold}", [None] * n) for fold in range(FOLDS)], dtype=float)
    return np.where(np.isfinite(tests).any(axis=0), np.nanmax(np.where(np.isfinite(tests), tests, -np.inf), axis=0), np.nan)


def line(cells: list[str], rows: pd.DataFrame, score: np.ndarray) -> str:
    found, error, positives, n = metrics_of(rows, score)
    told = [f"{100 * found[name]:.1f} ± {100 * error[name]:.1f}" if found else "-" for name in TABLE_2]
    return "| " + " | ".join([*cells, f"{positives} of {n}", *told]) + " |"


def show(work: Path) -> None:
    """Print the tables: labels as they are, and without the 0s that look like doublets; then the strict ones."""
    head = ["network", "labels", "trained on", "positives", *TABLE_2]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    names = {"mocks": "mocks"} | {f"{how} {share}": f"{how}, {100 * share:.0f} %" for how, share in product(RATES, SHARES[::-1])}
    truth, tables = {name: read(work, name, "spectra") for name in LABELS}, {kind: read(work, "R16", kind) for kind in EXAMPLES}
    candidates = tables["candidates"]
    doubtful = candidates["example_id"].isin(unlisted(work)) & (candidates["label"] == 0)
    in_doubt = truth["R16"]["spectrum_id"].isin(candidates["spectrum_id"][doubtful]) & (truth["R16"]["label"] == 0)
    truth["R16 without doubtful"] = truth["R16"][~in_doubt]
    for kind, rows in tables.items():
        path = work / f"scores-{kind}.json"
        done = json.loads(path.read_text()) if path.exists() else {}
        for name, told in names.items():
            if name != "mocks" and f"{name} {FOLDS - 1}" not in done:
                continue
            score = joined(done, name, len(rows))
            if kind == "candidates":
                print(line([kind, "R16, candidates", told], rows, score))
                print(line([kind, "R16 without doubtful, candidates", told], rows[~doubtful], score[~doubtful.to_numpy()]))
            of = partial(by_spectrum if kind == "candidates" else of_spectra, rows, score)
            for labels, spectra in truth.items():
                print(line([kind, f"{labels}, spectra", told], spectra, of(spectra)))
    called = joined(json.loads((work / "scores-candidates.json").read_text()), "mocks", len(candidates)) > 0
    wrong = called & (candidates["label"] == 0)
    for what, some in (("all", candidates["label"] == 0), ("those that the shipped network calls absorbers", wrong)):
        print(f"candidates labelled 0, {what}: {some.sum()}, of which {(some & doubtful).sum()} have both lines above 3 σ")


def of_spectra(rows: pd.DataFrame, score: np.ndarray, spectra: pd.DataFrame) -> np.ndarray:
    return spectra["spectrum_id"].map(pd.Series(score, index=rows["spectrum_id"])).to_numpy(dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tables", "run", "show"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--mocks", default="", help="a whole-spectrum model trained on mocks")
    parser.add_argument("--kinds", nargs="+", choices=EXAMPLES, default=list(EXAMPLES))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.what == "tables":
        make_tables(options.work)
    elif options.what == "run":
        run(options.work, options.mocks, options.kinds)
    else:
        show(options.work)


if __name__ == "__main__":
    main()
