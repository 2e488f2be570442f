"""Whether a second round helps the search for absorbers: fitted to mock candidates, judged on injections into real quasars.

    python benchmarks/vet.py fit --out DIR [--n 6000] [--model DIR]
    python benchmarks/vet.py judge ../shared/data/spectra/qso --second DIR [--n 1000] [--model DIR]

``fit`` makes mock spectra as the calibration of the model has them, scores their candidates and writes the second round: the one command
that another model needs. ``judge`` puts one absorber into each copy of a real quasar spectrum and counts, of the strong ones (W ≥ .3 Å,
both lines ≥ 3 σ), those found before and after; and the candidates that are none of them. A real spectrum holds absorbers of its own: what
the same spectrum shows without the injection is left out on both sides, so the purity is of what an injected spectrum shows anew.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from detector import BLOCK, MATCH_PIXELS, in_path, places, real_spectra, usable

from nalspark.absorption import inject
from nalspark.absorption.examples import candidate_examples, prepare
from nalspark.absorption.stages import recipes, search_columns
from nalspark.learning.ensemble import fit_second_round, read_second_round, save_second_round
from nalspark.learning.evaluation import bootstrap_errors
from nalspark.learning.inference import features, second_round_columns
from nalspark.learning.models import read_model
from nalspark.lines import MG_II, with_all_lines
from nalspark.settings import load
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import SDSS_GRID

#: Bands for candidates, most of which are noise: an absorber is kept at a contamination of 2 %, discarded where 98 of 100 are none.
SETTINGS = ("second_round.keep_contamination=0.02", "second_round.discard_contamination=0.98")


def tensors(columns: dict, packed) -> np.ndarray:
    return np.stack([np.asarray(columns[name], np.float32).reshape(-1, *packed.card.shape) for name in packed.card.inputs], axis=-1)


def fit(options: argparse.Namespace) -> None:
    packed, settings = read_model(options.model), load(overrides=SETTINGS)
    recipe, images, labels = recipes(settings)["calibration"], [], []
    for start in range(0, options.n, BLOCK):
        made = candidate_examples([f"vet-{k}" for k in range(start, min(start + BLOCK, options.n))], recipe, settings)
        images.append(tensors(made, packed))
        labels.append(made["label"])
    examples, label = np.concatenate(images), np.concatenate(labels)
    score = packed.load().predict(examples)
    of = settings.second_round.features
    second = fit_second_round(label, score, lambda rows: features(examples[rows], packed, of, 256), settings.second_round, packed.digest)
    save_second_round(options.out, second)
    card = second.card
    print(f"{len(label)} candidates of {options.n} mock spectra, {int(label.sum())} absorbers")
    print(f"middle band from {card.bands.low:.3f} to {card.bands.high:.3f}")
    print(f"second round in {options.out}: {sum(file.stat().st_size for file in Path(options.out).iterdir()) / 1e3:.0f} kB")


def candidates(spectra: Spectra, z_qso: np.ndarray, packed, detector, second) -> dict[str, np.ndarray]:
    """Row, pixel, and what both rounds say, of the candidates of some spectra."""
    settings = load()
    _, columns = prepare(spectra, z_qso, [str(k) for k in range(len(z_qso))], settings)
    found = search_columns(columns, settings)
    found["score"] = detector.predict(tensors(found, packed))
    said = second_round_columns(found, packed, second, 256)
    row = np.asarray(found["plate"], dtype=int)
    return {"row": row, "pixel": np.asarray(found["pixel"]), "score": found["score"], "after": said["accepted"], "band": said["band"]}


def near(found: dict, row: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Which candidates lie at one of the places (row, pixel)."""
    close = (found["row"][:, None] == row) & (np.abs(found["pixel"][:, None] - pixel) <= MATCH_PIXELS)
    return close.any(axis=1)


def judge(options: argparse.Namespace) -> None:
    packed, second, settings = read_model(options.model), read_second_round(options.second), load()
    second.check(packed.digest)
    detector = packed.load()
    spectra, z_qso, names = real_spectra(Path(options.folder))
    clean, _ = prepare(spectra, z_qso, names, settings)
    own = candidates(spectra, z_qso, packed, detector, second)
    alive = np.flatnonzero(usable(clean))
    population = inject.Population(counts=(0.0, 1.0), ew_law="exponential", ew_min=0.3, ew_max=6.0)
    table, others = [], []
    for start in range(0, options.n, BLOCK):
        rows = alive[(start + np.arange(min(BLOCK, options.n - start))) % len(alive)]
        hits, rest = one_block(start, rows, (spectra, z_qso, clean, own), population, (packed, detector, second))
        table.append(hits)
        others.append(rest)
    report(np.concatenate(table), np.concatenate(others))


def one_block(start: int, rows: np.ndarray, known: tuple, population: inject.Population, rounds: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Of the strong absorbers injected: found before and after; of the other new candidates: accepted before and after."""
    spectra, z_qso, clean, own = known
    system, edges = with_all_lines(MG_II), tuple(SDSS_GRID.wavelength_at(np.array([0, SDSS_GRID.n_pixels - 1])))
    keys = [inject.seeded_generator(20261, "vet", start + k) for k in range(len(rows))]
    uniforms = np.stack([key.random(inject.uniforms_per_spectrum(system, population)) for key in keys])
    absorbers = inject.draw(system, population, uniforms, inject.redshift_limits(MG_II, z_qso[rows], edges, population))
    passed = inject.transmission(absorbers, system, SDSS_GRID, len(rows))
    injected = Spectra((spectra.flux[rows] * passed).astype(np.float32), spectra.ivar[rows], spectra.mask[rows], SDSS_GRID)
    found = candidates(injected, z_qso[rows], *rounds)
    weight = np.where(clean.spectra.good[rows], clean.spectra.ivar[rows] * clean.continuum[rows] ** 2, 0.0)
    snr = inject.line_snr(absorbers, system, SDSS_GRID, weight)
    limits = replace(clean, z_start=[clean.z_start[k] for k in rows], z_stop=[clean.z_stop[k] for k in rows])
    strong = (snr >= 3.0).all(axis=1) & (absorbers.ew_primary >= 0.3) & in_path(limits, absorbers.spectrum, absorbers.z)
    place = places(absorbers.z)
    decided = np.stack([found["score"] >= 0.5, found["after"]], axis=1)
    hits = [
        decided[near(found, np.array([row]), np.array([where]))].any(axis=0) for row, where in zip(absorbers.spectrum, place, strict=True)
    ]
    owned = np.flatnonzero(np.isin(own["row"], rows))
    mine = [(copy, own["pixel"][k]) for k in owned for copy in np.flatnonzero(rows == own["row"][k])]
    old = near(found, *np.array(mine, dtype=float).reshape(-1, 2).T)
    return np.array(hits).reshape(-1, 2)[strong], decided[~near(found, absorbers.spectrum, place) & ~old]


def report(hits: np.ndarray, others: np.ndarray) -> None:
    print(f"{len(hits)} strong absorbers injected, {len(others)} other new candidates")
    for k, name in enumerate(("score above .5", "both rounds")):
        found, false = hits[:, k].sum(), others[:, k].sum()
        error = bootstrap_errors(lambda hit: {"c": hit.mean()}, hits[:, k])["c"]
        print(
            f"  {name:<16} completeness {found / len(hits):.4f} ± {error:.4f}, purity {found / max(found + false, 1):.4f} ({false} false)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "judge"))
    parser.add_argument("folder", nargs="?", help="real quasar spectra, for `judge`")
    parser.add_argument("--n", type=int, default=6000)
    parser.add_argument("--model", default="", help="directory of a model; the shipped one by default")
    parser.add_argument("--out", default="nalspark-second-round", help="where `fit` writes")
    parser.add_argument("--second", default="nalspark-second-round", help="directory of a second round, for `judge`")
    options = parser.parse_args()
    {"fit": fit, "judge": judge}[options.what](options)


if __name__ == "__main__":
    main()
