"""Rates, completeness and purity of a simulated survey of known incidence, through the whole chain, against its truth.

    python benchmarks/worth.py FOLDER [--n 20000] [--seed 77]

Makes FOLDER/survey and FOLDER/result (or takes those that are there): SDSS-like spectra with absorbers as frequent as Zhu & Ménard (2013)
find them, up to the quasar and behind it, three absorbers put into each spectrum for the completeness.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from nalspark.absorption.measure import velocity_from_quasar
from nalspark.cli import main as nalspark
from nalspark.judging.evaluate import evaluate_result
from nalspark.judging.inputs import read_result, read_truth
from nalspark.judging.match import compare, rounding_of
from nalspark.judging.statistics import RateTables, result_statistics
from nalspark.judging.worth import expected_completeness
from nalspark.mocks.inject import Population
from nalspark.mocks.survey import simulate_survey

INCIDENCE = Population(counts=(0.0,) * 6 + (1.0,), ew_law="published", incidence=1.0, ew_min=0.15, red_margin_z=-0.02, blue_margin_z=0.015)
#: Edges of the bins in which foretold completeness is compared with the survey's own.
EW, Z, SNR = (0, 0.3, 0.6, 1, 1.5, 2, 3, 50), (0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 3), (0, 3, 5, 8, 12, 500)
LEAST = 50
#: Of the rates: twelve.
Z_BINS = tuple(np.round(np.arange(0.4, 2.21, 0.15), 2))


def make(folder: Path, n: int, seed: int) -> None:
    if not (folder / "survey" / "truth.parquet").exists():
        simulate_survey(folder / "survey", n, seed, population=INCIDENCE)
    if (folder / "result" / "completeness.parquet").exists():
        return
    run = folder / "run.toml"
    run.write_text(
        f'spectra = ["{folder}/survey/spectra"]\nquasars = ["{folder}/survey/quasars.fits"]\nout = "{folder}/result"\n\n'
        "[completeness]\nper_sightline = 3\n",
        encoding="utf-8",
    )
    if nalspark(["completeness", str(run)]):
        raise SystemExit(1)


def width_scale(ew: np.ndarray, low: float, high: float) -> float:
    """Maximum-likelihood scale of an exponential between two ends."""
    ew, scale = ew[(ew >= low) & (ew < high)], 0.7
    for _ in range(100):
        scale = ew.mean() - low + (high - low) / np.expm1((high - low) / scale)
    return scale


def show_rates(tables: RateTables, inside: pd.DataFrame) -> None:
    rates, nearest = tables.rates.to_pandas(), tables.settings.min_velocity_kms
    truth = inside[velocity_from_quasar(inside["z_abs"].to_numpy(), inside["z_qso"].to_numpy()) >= nearest]
    last = rates["z_high"].max()
    for limit in tables.settings.ew_limits:
        of = rates[np.isclose(rates["ew_low"], limit)]
        strong = truth.loc[truth["ew_primary"] >= limit, "z_abs"].to_numpy()
        true = [((strong >= low) & (strong < high)).sum() for low, high in zip(of["z_low"], of["z_high"], strict=True)]
        known = np.array(true) / of["path_searched"].to_numpy()
        error = 0.5 * (of["dndz_upper"] - of["dndz_lower"]).to_numpy()
        off = ((of["dndz"] - of["dndz_published"]) / error).to_numpy()[:-1]
        whole = of.iloc[-1]
        print(
            f"W >= {limit:g}: chi2 {np.sum(off**2):.1f} of {len(off)} bins against the law, worst {np.abs(off).max():.1f} sigma; "
            f"z {of['z_low'].min():g}-{last:g}: {whole['dndz']:.3f} +- {error[-1]:.3f}, uncorrected {whole['dndz_uncorrected']:.3f}, "
            f"truth in the path {known[-1]:.3f} (ratio {whole['dndz'] / known[-1]:.3f}), "
            f"law {whole['dndz_published']:.3f} ({whole['dndz'] / whole['dndz_published']:.3f})"
        )
    fit, between = tables.fit.to_pandas().iloc[-1], tables.settings.fit_ew
    z = tables.settings.z_bins
    ew = truth.loc[(truth["z_abs"] >= z[0]) & (truth["z_abs"] < z[-1]), "ew_primary"].to_numpy()
    scale = width_scale(ew, *between)
    print(f"W* {fit['w_star']:.3f} +- {fit['w_star_err']:.3f}, of the true widths {scale:.3f} ({fit['w_star'] / scale - 1:+.1%})")


def show_completeness(inside: pd.DataFrame, chance: np.ndarray) -> None:
    known = inside.assign(chance=chance)[np.isfinite(chance)]
    cells = [pd.cut(known[name], edges, labels=False, right=False) for name, edges in (("ew_primary", EW), ("z_abs", Z), ("snr", SNR))]
    known = known.assign(variance=known["chance"] * (1 - known["chance"]))
    of = known.groupby(cells).agg(n=("found", "size"), found=("found", "sum"), chance=("chance", "sum"), variance=("variance", "sum"))
    of = of[of["n"] >= LEAST]
    # The truth's own counting error, where the function is right; at least that of half a count.
    off = (of["found"] - of["chance"]) / np.sqrt(of["variance"].clip(lower=0.5))
    print(
        f"completeness in {len(of)} bins of W, z, S/N with {LEAST} or more: chi2 {np.sum(off**2):.0f}; within 1 sigma "
        f"{(off.abs() <= 1).mean():.0%}, within 2 sigma {(off.abs() <= 2).mean():.0%}; found {known['found'].sum()}, "
        f"foretold {known['chance'].sum():.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=77)
    options = parser.parse_args()
    make(options.folder, options.n, options.seed)
    catalogue = read_result(options.folder / "result")
    truth = read_truth(options.folder / "survey" / "truth.parquet", catalogue)
    own = truth[truth["species"] == catalogue.species.name]
    compared = compare(catalogue.absorbers, catalogue.sightlines, own, rounding_of(own["z_abs"]))
    inside = compared.inside
    z_qso = inside["spectrum_id"].map(catalogue.sightlines.set_index("spectrum_id")["z_qso"])
    settings = catalogue.result.settings.statistics.model_copy(update={"z_bins": Z_BINS})
    show_rates(result_statistics(catalogue.result, settings), inside.assign(z_qso=z_qso))
    show_completeness(inside, np.asarray(expected_completeness(catalogue.result, inside)))
    numbers = evaluate_result(options.folder / "result", options.folder / "survey" / "truth.parquet").numbers
    worth, systems = numbers["worth"], numbers["systems"]
    print(worth["expected"].round(3).to_string())
    print(
        f"purity: truth {systems['true_rows'] / len(catalogue.absorbers):.4f} of {len(catalogue.absorbers)} rows, decoys and pieces "
        f"{worth['by_decoys']:.4f} ({worth['n_decoys']:.0f} decoys, {worth['n_pieces']} pieces), scores {worth['by_score']:.4f}"
    )


if __name__ == "__main__":
    main()
