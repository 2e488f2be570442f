"""The candidate detector beside networks that read the whole spectrum: one benchmark, one training set, one budget for all.

    python benchmarks/networks.py pilot  --work DIR        can each network learn at all?
    python benchmarks/networks.py run    --work DIR        all fits of the plan; goes on where it was interrupted
    python benchmarks/networks.py table  --work DIR        tables and figure into docs/networks.md and docs/networks.png

The spectra are the paper's artificial ones (Zhao et al. 2019, §2.4 and §4), made as ``benchmarks/detector.py artificial`` makes them: half
hold one strong absorber (W ≥ 0.3 Å, both lines ≥ 3 σ), all have S/N > 3, a tenth an interloper. The one-dimensional networks see the
rescaled flux in the search window, 0 elsewhere, as the paper's does; one row shows the residual of the fitted continuum at the same pixels.
``candidate_cnn`` learns from the candidates that the search finds in the very same spectra, and a spectrum's score is its best candidate's.

A fit ends when so many examples have been presented (32,000; from the largest set 64,000), or when the loss on the validation set has not
fallen for a while; the weights of the lowest one count. The threshold of each row is the one of the best accuracy on the validation set.
The test spectra are not used before the end. Every finished fit is kept in DIR/results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from detector import best_threshold, in_path, usable

from nalspark.absorption.chain import Searchable, prepare, propose, spectrum_inputs
from nalspark.absorption.normalize import residuals
from nalspark.absorption.windows import zhao_window
from nalspark.lines import MG_II
from nalspark.metrics import binary_metrics, bootstrap_errors
from nalspark.mocks import inject
from nalspark.mocks.examples import label_candidates, strong
from nalspark.mocks.recipes import Recipe, make_mocks
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE, ZHAO_GRID

#: Spectra that are made together and kept in one file; a training set of n spectra is the first n / PART files.
PART = 1000
#: Presentations between two looks at the validation set, and looks without a lower loss after which a fit ends.
ROUND, PATIENCE = 4000, 5
BATCH = 64
SEEDS = {"train": 20262, "validation": 20263, "test": 20264}
LARGEST = 64_000
SIZES = {"validation": 2000, "test": 4000}
DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


@dataclass(frozen=True)
class Fit:
    """One row of the tables. `shown` is what the network sees: candidates, flux (centred), flux as it is, or residual."""

    network: str
    shown: str
    size: int
    kind: str = "paper"
    options: dict[str, Any] = field(default_factory=dict)
    rate: float = 1e-3
    budget: int = 32_000
    seed: int = 1


# ---- spectra


def recipe_of(kind: str, split: str, value: int) -> Recipe:
    """Spectra without (0) or with (1) an absorber; `easy` ones are strong and well seen."""
    weakest, snr = (2.0, 10.0) if kind == "easy" else (0.3, 3.0)
    population = inject.Population(counts=(0.0, 1.0) if value else (1.0, 0.0), ew_law="exponential", ew_min=weakest, ew_max=6.0)
    return Recipe(MG_II, (population,), seed=SEEDS[split], contaminated=0.1, snr_min=snr, most_correlated=0.0)


def drawn(recipe: Recipe, prefix: str, value: int, n: int) -> dict[str, np.ndarray]:
    """`n` spectra and their candidates; weak draws are left out."""
    settings, made, done, start = load(), [], 0, 0
    while done < n:
        names = [f"{prefix}-{value}-{start + k}" for k in range(256)]
        start += len(names)
        mocks = make_mocks(names, recipe)
        if value:  # a spectrum is a function of its name: the same ones again, without the weak
            names = [names[row] for row in np.unique(mocks.row[strong(mocks)])]
            mocks = make_mocks(names, recipe)
        ready = prepare(mocks.spectra, mocks.z_qso, settings)
        searchable = Searchable.of(ready, mocks.z_qso)
        good = usable(ready)
        weakest = np.full(len(names), np.nan)
        if value:
            good &= np.isin(np.arange(len(names)), mocks.row[in_path(ready, mocks.row, mocks.z_abs)])
            weakest[mocks.row] = mocks.line_snr.min(axis=1)
        rows = np.flatnonzero(good)[: n - done]
        candidates = propose(searchable.take(np.isin(searchable.row, rows)), settings)
        residual, weight = residuals(ready.spectra.flux, ready.spectra.ivar, ready.continuum, ready.spectra.mask)
        window = zhao_window(ZHAO_GRID, MG_II, mocks.z_qso, settings.preprocess)
        first = ZHAO_GRID.first - LATTICE.first
        made.append({
            "label": np.full(len(rows), value, dtype=np.float32),
            "weakest": weakest[rows],
            "flux": spectrum_inputs(ready.spectra, mocks.z_qso, settings)[rows],
            "residual": np.where(window, residual[:, first : first + ZHAO_GRID.n_pixels], 0.0).astype(np.float32)[rows],
            "row": done + np.searchsorted(rows, candidates.row),
            "candidate": label_candidates(mocks, candidates.row, candidates.pixel, settings)[0].astype(np.float32),
            "image": candidates.images,
        })  # fmt: skip
        done += len(rows)
    return {name: np.concatenate([part[name] for part in made]) for name in made[0]}


def make_part(where: Path, kind: str, split: str, number: int) -> None:
    """Half without an absorber, half with one, in turn."""
    path = where / f"{kind}-{split}-{number:03d}.npz"
    if path.exists():
        return
    halves = [drawn(recipe_of(kind, split, value), f"{split}-{number}", value, PART // 2) for value in (0, 1)]
    part = {name: np.stack([half[name] for half in halves], axis=1).reshape(PART, -1) for name in ("flux", "residual")}
    part |= {name: np.stack([half[name] for half in halves], axis=1).reshape(PART) for name in ("label", "weakest")}
    part["row"] = np.concatenate([2 * half["row"] + value for value, half in enumerate(halves)])
    part |= {name: np.concatenate([half[name] for half in halves]) for name in ("candidate", "image")}
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, **part)
    os.replace(temporary, path)


def make_spectra(where: Path, kind: str, sizes: dict[str, int]) -> None:
    """All parts that are missing, on two cores."""
    where.mkdir(parents=True, exist_ok=True)
    parts = [(split, number) for split, n in sizes.items() for number in range(n // PART)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        work = [pool.submit(make_part, where, kind, *part) for part in parts]
        for done, job in enumerate(work, 1):
            job.result()
            if done % 4 == 0:
                print(f"  {done} of {len(parts)} thousand spectra", flush=True)


@dataclass(frozen=True)
class Examples:
    """What a network is shown. `row` is the spectrum of each example, `truth` the label of each spectrum."""

    x: np.ndarray
    y: np.ndarray
    row: np.ndarray
    truth: np.ndarray
    weakest: np.ndarray


def read(where: Path, fit: Fit, split: str) -> Examples:
    """The examples of a split; of the training set as many as the fit asks for."""
    n = fit.size if split == "train" else SIZES[split]
    found: dict[str, list[np.ndarray]] = {}
    wanted = ("candidate", "image") if fit.shown == "candidates" else (fit.shown.split()[0],)
    for number in range(n // PART):
        with np.load(where / f"{fit.kind}-{split}-{number:03d}.npz") as part:
            for name in ("label", "weakest", *wanted):
                found.setdefault(name, []).append(part[name])
            found.setdefault("row", []).append(part["row"] + number * PART)
    part = {name: np.concatenate(values) for name, values in found.items()}
    if fit.shown == "candidates":
        return Examples(part["image"], part["candidate"], part["row"], part["label"], part["weakest"])
    x = part[wanted[0]]
    if fit.shown == "flux as it is":  # about 1 in the window, with a step at its edges
        x += x != 0
    return Examples(x[..., None], part["label"], np.arange(n), part["label"], part["weakest"])


# ---- fits


def rounds(n: int, budget: int, seed: int) -> Iterator[np.ndarray]:
    """The examples of each round: one shuffled pass after the other, as one stream."""
    rng = np.random.default_rng(seed)
    stream = np.concatenate([rng.permutation(n) for _ in range(-(-budget // n))])[:budget]
    return (stream[start : start + ROUND] for start in range(0, budget, ROUND))


def scores(model: Any, examples: Examples) -> np.ndarray:
    """Logit of every spectrum: its best example's; -30 where there is none."""
    logit = model.predict(examples.x, batch_size=250, verbose=0)[:, 0]
    best = np.full(len(examples.truth), -30.0)
    np.maximum.at(best, examples.row, logit)
    return best


def fit_network(fit: Fit, where: Path) -> tuple[Any, dict[str, Any]]:
    """The network with the weights of its lowest validation loss, and how it came to them."""
    import keras

    from nalspark.learning import networks

    train, validation = read(where, fit, "train"), read(where, fit, "validation")
    known, judged = np.flatnonzero(np.isfinite(train.y)), np.isfinite(validation.y)
    keras.utils.set_random_seed(fit.seed)
    model = networks.build(fit.network, train.x.shape[1:], fit.options)
    rate = keras.optimizers.schedules.CosineDecay(fit.rate, -(-fit.budget // BATCH))
    model.compile(keras.optimizers.Adam(rate), keras.losses.BinaryCrossentropy(from_logits=True))
    best, weights, losses, seen, started, cpu = np.inf, model.get_weights(), [], 0, time.monotonic(), time.process_time()
    for chosen in rounds(len(known), fit.budget, fit.seed):
        some = known[chosen]
        told = model.fit(train.x[some], train.y[some], batch_size=BATCH, verbose=0).history["loss"][0]
        seen += len(some)
        losses.append(float(model.evaluate(validation.x[judged], validation.y[judged], batch_size=250, verbose=0)))
        print(f"    {seen:6d} presented, loss {told:.4f}, validation {losses[-1]:.4f}, {time.monotonic() - started:.0f} s", flush=True)
        if losses[-1] < best:
            best, weights = losses[-1], model.get_weights()
        elif len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE:
            break
    model.set_weights(weights)
    spent = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
    return model, {"presented": seen, "examples": len(known), "losses": losses, "weights": int(model.count_params()), **spent}


def judge(fit: Fit, where: Path) -> dict[str, Any]:
    """A row of the results."""
    model, told = fit_network(fit, where)
    validation, test = read(where, fit, "validation"), read(where, fit, "test")
    cut = best_threshold(validation.truth, scores(model, validation))
    started, score = time.monotonic(), scores(model, test)
    rate = len(score) / (time.monotonic() - started)
    metrics = binary_metrics(test.truth, score, cut)
    errors = bootstrap_errors(partial(binary_metrics, threshold=cut), test.truth, score)
    recall = {}
    for low, high in ((3, 5), (5, 8), (8, 1e9)):
        some = (test.truth > 0) & (test.weakest >= low) & (test.weakest < high)
        recall[str(low)] = [int(some.sum()), float((score[some] >= cut).mean())]
    return {"fit": asdict(fit), **told, "cut": cut, "metrics": metrics, "errors": errors, "recall": recall, "spectra_per_second": rate}


def fit_all(fits: Sequence[Fit], where: Path) -> None:
    """Every fit that has no result yet."""
    path = where / "results.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    done = [row["fit"] for row in rows]
    for fit in fits:
        if asdict(fit) in done:
            continue
        print(f"  {fit}", flush=True)
        rows.append({**judge(fit, where), "date": date.today().isoformat()})
        path.with_suffix(".tmp").write_text(json.dumps(rows, indent=1))
        os.replace(path.with_suffix(".tmp"), path)
        metrics = rows[-1]["metrics"]
        print(f"    accuracy {metrics['accuracy']:.4f}, AUC {metrics['auc']:.4f}, {rows[-1]['cpu_seconds']:.0f} s of CPU time", flush=True)


NETWORKS = ("candidate_cnn", "zhao2019", "vgg", "inception", "resnet")


def shown_to(network: str) -> str:
    return "candidates" if network == "candidate_cnn" else "flux"


def pilot() -> list[Fit]:
    """Absorbers that nobody overlooks (W 2 to 6 Å, S/N above 10): a network that stays at chance here is broken or badly fed."""
    easy = partial(Fit, size=4000, kind="easy", budget=8000)
    fits = [easy(name, shown_to(name)) for name in NETWORKS]
    return [*fits, easy("zhao2019", "flux", rate=3e-4), easy("zhao2019", "flux as it is", rate=3e-4)]


def plan() -> list[Fit]:
    """The fits in the order of what they are worth, for the case that time runs out."""
    zhao = partial(Fit, "zhao2019", "flux", 16000)
    scan = {width: zhao(options={"first_filter": width}) for width in (3, 5, 9, 21)}
    by_size = {name: [Fit(name, shown_to(name), size) for size in (16000, 4000, 1000)] for name in NETWORKS}
    shapes = Fit("candidate_cnn", "candidates", 16000, options={"shapes": 128})
    fits = [*by_size["candidate_cnn"], shapes, *(by_size[name][0] for name in NETWORKS[1:])]
    fits += [zhao(rate=3e-4), Fit("zhao2019", "residual", 16000, rate=3e-4)]
    fits += [*by_size["zhao2019"][1:], scan[3], *by_size["vgg"][1:], scan[21], *by_size["resnet"][1:], scan[5], scan[9]]
    fits += [Fit("zhao2019", "residual", 16000), zhao(seed=2), *by_size["inception"][1:]]
    # Twice the presentations of the others, for one pass: on the same budget half of the spectra would not be seen.
    return [*fits, *(Fit(name, shown_to(name), LARGEST, budget=LARGEST) for name in NETWORKS)]


# ---- tables


def percent(row: dict[str, Any], name: str) -> str:
    return f"{100 * row['metrics'][name]:.1f} ± {100 * row['errors'][name]:.1f}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [list(head), ["---"] * len(head), *map(list, lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


QUALITY = ("accuracy", "precision", "recall", "AUC", "recall, weaker line 3–5 / 5–8 / > 8 σ", "presented", "validation loss", "CPU s")


def line_of(rows: list[dict[str, Any]], fit: Fit) -> list[str]:
    """The cells of a fit under the heads of QUALITY."""
    row = next((row for row in rows if row["fit"] == asdict(fit)), None)
    if row is None:
        return ["not run"] + [""] * (len(QUALITY) - 1)
    quality = [percent(row, name) for name in ("accuracy", "precision", "recall", "auc")]
    by_strength = " / ".join(f"{100 * found:.0f}" for _, found in row["recall"].values())
    return [*quality, by_strength, f"{row['presented']:,}", f"{min(row['losses']):.3f}", f"{row['cpu_seconds']:.0f}"]


def same(row: dict[str, Any], **asked: Any) -> bool:
    return all(row["fit"][name] == value for name, value in asked.items())


def main_table(rows: list[dict[str, Any]]) -> str:
    """Networks by training-set size; what was not run is said."""
    lines = []
    for fit in sorted(plan(), key=lambda fit: (NETWORKS.index(fit.network), fit.shown, fit.size)):
        changed = {"learning rate": (fit.rate, Fit.rate), "seed": (fit.seed, Fit.seed), "budget": (fit.budget, Fit.budget)}
        other = [f", {name} {value:g}" for name, (value, usual) in changed.items() if value != usual]
        other += [f", {fit.options['shapes']} shapes"] if "shapes" in fit.options else []
        if "first_filter" not in fit.options:
            lines.append([fit.network, "".join([fit.shown, *other]), f"{fit.size:,}", *line_of(rows, fit)])
    return table(("network", "sees", "spectra", *QUALITY), lines)


def scan_table(rows: list[dict[str, Any]]) -> str:
    """The width of zhao2019's first filter; 15 is its usual one."""
    usual = Fit("zhao2019", "flux", 16000)
    fits = {width: usual if width == 15 else replace(usual, options={"first_filter": width}) for width in (3, 5, 9, 15, 21)}
    return table(("first filter, pixels", *QUALITY), [[str(width), *line_of(rows, fit)] for width, fit in fits.items()])


def pilot_table(rows: list[dict[str, Any]]) -> str:
    """Whether each network learns what is easy."""
    easy = sorted(
        (row for row in rows if same(row, kind="easy")),
        key=lambda row: (NETWORKS.index(row["fit"]["network"]), row["fit"]["shown"], row["fit"]["rate"]),
    )
    lines = [
        [
            row["fit"]["network"],
            row["fit"]["shown"],
            f"{row['fit']['rate']:g}",
            *(percent(row, name) for name in ("accuracy", "precision", "recall", "auc")),
            f"{min(row['losses']):.3f}",
        ]
        for row in easy
    ]
    return table(("network", "sees", "learning rate", "accuracy", "precision", "recall", "AUC", "validation loss"), lines)


def search_alone(where: Path) -> str:
    """What the candidates are worth without any network: its recall is the most that candidate_cnn can reach."""
    test = read(where, Fit("candidate_cnn", "candidates", 1000), "test")
    found = np.bincount(test.row, minlength=len(test.truth)) > 0
    at_it = np.bincount(test.row[test.y == 1], minlength=len(test.truth)) > 0
    metrics = binary_metrics(test.truth, found)
    return (
        f"The search alone, any candidate counted as an absorber: accuracy {100 * metrics['accuracy']:.1f} %, precision "
        f"{100 * metrics['precision']:.1f} %, recall {100 * metrics['recall']:.1f} %. It proposes the absorber itself in "
        f"{100 * at_it[test.truth > 0].mean():.1f} % of the positives, and {len(test.row) / len(test.truth):.2f} candidates a spectrum."
    )


def speed_table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for name in NETWORKS:
        mine = [row for row in rows if same(row, network=name, kind="paper", options={})]
        if mine:
            fastest = max(row["presented"] / row["cpu_seconds"] for row in mine)
            lines.append([name, f"{mine[0]['weights']:,}", f"{fastest:,.0f}"])
    return table(("network", "weights", "training, examples per CPU second, validation included"), lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against training size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.4), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styles = zip(NETWORKS, ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7"), "osD^v", strict=True)
    for name, colour, marker in styles:
        for shown in ("candidates", "flux", "residual"):
            mine = [row for row in rows if same(row, network=name, shown=shown, kind="paper", options={}, seed=1, rate=Fit.rate)]
            told = {"candidates": "candidates", "flux": "rescaled flux", "residual": "1 - flux/continuum"}[shown]
            face = "white" if shown == "residual" else colour
            for budget in sorted({row["fit"]["budget"] for row in mine}):
                some = sorted((row for row in mine if same(row, budget=budget)), key=lambda row: row["fit"]["size"])
                points = [(row["fit"]["size"], row["metrics"]["accuracy"], row["errors"]["accuracy"]) for row in some]
                size, value, error = np.array(points).T
                usual = budget == Fit.budget
                axes.errorbar(
                    size, 100 * value, 100 * error, color=colour, marker=marker, markersize=5, markerfacecolor=face, linewidth=1.3,
                    linestyle="--" if shown == "residual" else "-", label=f"{name}, {told}" if usual else None,
                )  # fmt: skip
    axes.axhline(50, color="#6b6b6b", linewidth=0.8, linestyle=":")
    axes.annotate("guessing", (0.01, 50.5), xycoords=("axes fraction", "data"), fontsize=8, color="#6b6b6b")
    sizes = [size for size in (1000, 4000, 16_000, LARGEST) if any(same(row, size=size, kind="paper") for row in rows)]
    if LARGEST in sizes:
        axes.annotate("twice the\npresentations", (LARGEST, 51), ha="center", fontsize=7, color="#6b6b6b")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="training spectra", ylabel="accuracy on 4,000 test spectra (%)", ylim=(45, 100), xlim=(800, 1.28 * sizes[-1]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)


def machine() -> str:
    """Processor and cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    return f"{os.cpu_count()} cores of a processor '{model}', no GPU"


def write_docs(where: Path) -> None:
    """Tables between the marks of docs/networks.md, and the figure; the words round them are written by hand."""
    rows = json.loads((where / "results.json").read_text())
    dates = sorted({row["date"] for row in rows})
    spent = sum(row["cpu_seconds"] for row in rows) / 60
    sections = [
        f"Measured {' to '.join(dict.fromkeys([dates[0], dates[-1]]))} on {machine()}; {spent:.0f} minutes of CPU time for all fits.",
        "### Accuracy against training size\n\n"
        + main_table(rows)
        + "\n\n"
        + search_alone(where)
        + "\n\n![Accuracy against training size](networks.png)",
        "### Width of the first filter of zhao2019\n\n" + scan_table(rows),
        "### Pilot: can each network learn at all?\n\n" + pilot_table(rows),
        "### Size and speed\n\n" + speed_table(rows),
    ]
    path = DOCS / "networks.md"
    page = path.read_text(encoding="utf-8") if path.exists() else f"# Networks\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + BEGIN + "\n\n" + "\n\n".join(sections) + "\n\n" + END + after, encoding="utf-8")
    draw(rows, DOCS / "networks.png")
    print("\n\n".join(sections))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pilot", "run", "table"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the spectra and results; 3 GB")
    options = parser.parse_args()
    if options.what == "pilot":
        make_spectra(options.work, "easy", {"train": 4000, **SIZES})
        fit_all(pilot(), options.work)
    elif options.what == "run":
        make_spectra(options.work, "paper", {**SIZES, "train": LARGEST})
        fit_all(plan(), options.work)
    else:
        write_docs(options.work)


if __name__ == "__main__":
    main()
