"""The two-stage selection of emission lines: each claim a command. DIR is the `out` of `nalspark emission train RUN.toml`.

    python benchmarks/emission.py rate DIR [--rows 1000000]
    python benchmarks/emission.py features DIR
    python benchmarks/emission.py places DIR
    python benchmarks/emission.py lae [--frame ../shared/data/hetdex/Fepses20160409T100026.3_094_sci_R.fits]

``rate``: the second-stage classifier (features, place, margin) on middle-band rows, in this process; with ``--rows`` in Spark on as many
rows, copies of the held-out ones. ``features``: the map made of the network's features and of the images. ``places``: how far a new place
is from the one that UMAP's own transform gives it. ``lae``: the network of the slides' appendix, accuracy by class. The training itself
prints the table of the result.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import lae
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scaling import cpu_seconds

from nalspark.emission import stages
from nalspark.emission.frames import FIRST_REAL_CLASS, PLANES, significance_frame
from nalspark.emission.inject import parametric_frame
from nalspark.emission.inputs import read_selection
from nalspark.emission.settings import EmissionSettings
from nalspark.emission.tables import DETECTIONS
from nalspark.learning.ensemble import best_threshold, fit_second_stage, selection_quality
from nalspark.learning.inference import decode_examples, features
from nalspark.metrics import bootstrap_errors
from nalspark.settings import load
from nalspark.tables.store import Store


def detections(folder: str, split: str, limit: int = 0) -> pa.Table:
    store = Store(folder)
    parts = [record for part, record in sorted(store.manifest().parts("detections").items()) if part.startswith(split)]
    table = pa.concat_tables([pq.read_table(file) for record in parts for file in store.files(record)])
    return table.slice(0, limit) if limit else table


def examples_of(table: pa.Table, packed) -> tuple[np.ndarray, np.ndarray]:
    """Tensors and labels."""
    return decode_examples([table[name].to_pylist() for name in PLANES], packed.card), table["label"].to_numpy()


def rate(options: argparse.Namespace) -> None:
    selection = read_selection(options.folder)
    table = detections(options.folder, "held_out")
    examples, _ = examples_of(table, selection.packed)
    score = selection.packed.load().predict(examples)
    middle = np.flatnonzero(selection.second.card.bands.of(score) == 1)
    features(examples[middle[:64]], selection.packed, selection.second.card.features, 256)  # compiled before it is timed
    steps, begun, cpu = [], time.perf_counter(), time.process_time()
    known = features(examples[middle], selection.packed, selection.second.card.features, 256)
    steps.append(time.perf_counter())
    places = selection.second.place(known)
    steps.append(time.perf_counter())
    selection.second.margin(places)
    steps.append(time.perf_counter())
    spent, wall = time.process_time() - cpu, steps[-1] - begun
    print(
        f"{len(middle)} middle-band rows, {len(selection.second.points)} mapped examples, {len(selection.second.support)} support vectors"
    )
    for name, seconds in zip(("features", "places", "margins"), np.diff([begun, *steps]), strict=True):
        print(f"  {name:<10}{len(middle) / seconds:>10.0f} rows/s")
    print(f"  {'together':<10}{len(middle) / wall:>10.0f} rows/s of wall time, {len(middle) / spent:.0f} rows/s a core (CPU time)")
    if options.rows:
        in_spark(selection, table.take(middle), options.rows)


def in_spark(selection, table: pa.Table, rows: int) -> None:
    from nalspark.session import running_session

    with tempfile.TemporaryDirectory() as folder, running_session() as spark:
        pq.write_table(table.select(DETECTIONS.names), f"{folder}/middle.parquet")
        frame = spark.read.schema(DETECTIONS.spark_schema).parquet(f"{folder}/middle.parquet")
        copies = -(-rows // table.num_rows)
        many = frame.crossJoin(spark.range(copies).withColumnRenamed("id", "copy")).drop("copy").limit(rows).repartition(16)
        classified = stages.classify(many, selection.packed, selection.second, load(model=EmissionSettings))
        classified.limit(1000).write.format("noop").mode("overwrite").save()  # workers load what they need
        begun, cpu = time.perf_counter(), cpu_seconds(os.getpid())
        classified.write.format("noop").mode("overwrite").save()
        wall, spent = time.perf_counter() - begun, cpu_seconds(os.getpid()) - cpu
        print(f"  in Spark: {rows} rows, both stages, {rows / wall:.0f} rows/s on {os.cpu_count()} cores, {rows / spent:.0f} a CPU second")


def compare_features(options: argparse.Namespace) -> None:
    packed, settings = read_selection(options.folder).packed, load().second_stage
    sets = [examples_of(detections(options.folder, split, options.limit), packed) for split in ("reference", "held_out")]
    scores = [packed.load().predict(examples) for examples, _ in sets]
    (reference, labels), (held_out, truth) = sets
    cut = best_threshold(labels, scores[0])
    show("network alone", truth, scores[1] >= cut)
    for of in ("network", "image"):
        chosen = settings.model_copy(update={"features": of})
        begun = time.process_time()
        second = fit_second_stage(labels, scores[0], lambda rows, of=of: features(reference[rows], packed, of, 256), chosen, packed.digest)
        band = second.card.bands.of(scores[1])
        accepted = band == 2
        accepted[band == 1] = second.margin(second.place(features(held_out[band == 1], packed, of, 256))) >= second.card.threshold
        show(f"map of the {of}", truth, accepted, f"AUC in the middle band {second.card.metrics['auc_of_margin']:.3f}, ")
        print(f"    {time.process_time() - begun:.0f} s of CPU")


def show(name: str, truth: np.ndarray, accepted: np.ndarray, more: str = "") -> None:
    found, errors = selection_quality(truth, accepted), bootstrap_errors(selection_quality, truth, accepted, draws=100)
    print(f"  {name:<20}{more}" + ", ".join(f"{key} {value:.4f} ± {errors[key]:.4f}" for key, value in found.items()))


def places(options: argparse.Namespace) -> None:
    import umap

    selection = read_selection(options.folder)
    second, packed = selection.second, selection.packed
    examples, _ = examples_of(detections(options.folder, "held_out", options.limit or 6000), packed)
    middle = examples[second.card.bands.of(packed.load().predict(examples)) == 1]
    known = features(middle, packed, second.card.features, 256)
    how = second.card.settings
    mapper = umap.UMAP(n_neighbors=how["neighbours"], min_dist=how["min_dist"], random_state=how["seed"], n_jobs=1).fit(second.points)
    refit = np.abs(mapper.embedding_ - second.embedding).max()
    theirs = mapper.transform(((known - second.centre) / second.scale).astype(np.float32))
    ours = second.place(known)
    away, spread = np.hypot(*(theirs - ours).T), second.embedding.std(axis=0).mean()
    same = (second.margin(theirs) >= second.card.threshold) == (second.margin(ours) >= second.card.threshold)
    print(f"{len(ours)} new rows; the fit repeated differs by {refit:.2g}; the map's places scatter by {spread:.2f}")
    print(
        f"  from UMAP's transform: median {np.median(away):.3f}, 90 % within {np.quantile(away, 0.9):.3f}; same verdict {same.mean():.1%}"
    )
    half = mapper.transform(((known[::2] - second.centre) / second.scale).astype(np.float32))
    print(f"  UMAP's own transform of every other row alone moves them by a median of {np.median(np.hypot(*(half - theirs[::2]).T)):.3f}")


def lae_network(options: argparse.Namespace) -> None:
    from nalspark.learning.models import Detector, ModelCard
    from nalspark.learning.training import fit_member

    frame = significance_frame(options.frame)[0] if options.frame else parametric_frame()
    names = ["train.network=cutout_cnn", "train.learning_rate=3e-3", f"train.epochs={options.epochs}", "train.batch_size=128"]
    settings = load(overrides=names).train
    with tempfile.TemporaryDirectory() as folder:
        train, validation = lae.write_examples(Path(folder), frame)
        print(f"{train.rows()} examples to learn from, {validation.rows()} to stop by, of {sum(lae.UNIQUE.values())} sources")
        model, _ = fit_member(train, validation, settings, checkpoints=folder, progress=print)
    card = ModelCard(name="lae", network="cutout_cnn", inputs=PLANES, shape=train.shape, grid="", species="")
    detector = Detector(card, [model])
    print("class   accuracy   slides   (a class below 3 is right where it is called no emitter)")
    for value, slides in lae.SLIDES.items():
        images = lae.examples_of_class(value, options.per_class, frame, "judge")
        called = detector.logits(np.moveaxis(images, 1, -1))[:, 0] > 0
        right = called if value >= FIRST_REAL_CLASS else ~called
        print(f"{value:>5}{100 * right.mean():>10.1f}%{100 * slides:>8.1f}%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "features", "places", "lae"))
    parser.add_argument("folder", nargs="?", help="the directory of a training")
    parser.add_argument("--rows", type=int, default=0, help="rows that Spark classifies; 0 leaves it out")
    parser.add_argument("--limit", type=int, default=0, help="detections that are looked at; 0 for all")
    parser.add_argument("--frame", default="", help="VIRUS frame whose noise is used; parametric by default")
    parser.add_argument("--per-class", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    {"rate": rate, "features": compare_features, "places": places, "lae": lae_network}[options.what](options)


if __name__ == "__main__":
    main()
