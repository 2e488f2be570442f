"""Absorbers of known redshift and width put into real quasar spectra and found again: completeness, bias, and honesty of the errors.

    python benchmarks/injection.py ../shared/data/spectra/qso --n 3000

Prints, for injected absorbers measured at S/N(2796) > 5: bias of the equivalent width, widths of the pulls of W and z (half the central
68 %), the median |Δz|; and completeness by equivalent width and signal-to-noise ratio. Real absorbers in the same spectra that an injected
one happens to fall on are left out by their flag (blended) in the second line.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from nalspark.absorption.measure import AbsorberFlag
from nalspark.judging.match import Comparison, compare
from nalspark.mocks.survey import simulate_survey


def half_width(values: pd.Series) -> float:
    """Half the range of the central 68.27 %: 1 for honest errors."""
    low, high = np.percentile(values, [15.865, 84.135])
    return (high - low) / 2


def describe(found: pd.DataFrame, name: str) -> None:
    dw, dz = found["measured_ew_2796"] - found["ew_primary"], found["measured_z_abs"] - found["z_abs"]
    pull_w, pull_z = dw / found["measured_ew_2796_err"], dz / found["measured_z_abs_err"]
    box = found["measured_ew_2796_box"] - found["ew_primary"]
    relative, relative_box = dw / found["ew_primary"], box / found["ew_primary"]
    print(f"{name}: n = {len(found)}")
    of_sum = dw.sum() / found["ew_primary"].sum()
    print(f"  bias of W: median {np.median(relative):+.3f}, of the sum {of_sum:+.3f}; box {np.median(relative_box):+.3f}")
    print(f"  pull width: W {half_width(pull_w):.2f}, z {half_width(pull_z):.2f}; median |dz| {dz.abs().median():.5f}")


def table(comparison: Comparison, snr: pd.Series) -> str:
    inside = comparison.truth[comparison.truth["in_path"]]
    by_snr = pd.cut(snr.reindex(inside["spectrum_id"]).to_numpy(), [0, 2, 4, 6, 10, 20, 1000])
    by_width = pd.cut(inside["ew_primary"], [0.2, 0.6, 1.0, 2.0, 10.0])
    return inside.groupby([by_snr, by_width], observed=False)["found"].agg(["mean", "size"]).unstack().round(2).to_string()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder of real quasar spectra")
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        survey, out = Path(folder) / "survey", Path(folder) / "result"
        summary = simulate_survey(survey, options.n, options.seed, options.source)
        command = [sys.executable, "-m", "nalspark.cli", "find", str(survey / "spectra"), "--out", str(out)]
        subprocess.run(
            [*command, "--quasars", str(survey / "quasars.fits")], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        absorbers, sightlines = (pd.read_parquet(out / f"{name}.parquet") for name in ("absorbers", "sightlines"))
        truth = pd.read_parquet(survey / "truth.parquet")
    comparison = compare(absorbers, sightlines, truth)
    found, inside = comparison.completeness()
    print(f"{summary.n_absorbers} doublets in {options.n} spectra of {summary.n_sources} quasars")
    print(f"{inside} in the searched path, {found} of them found")
    strong = comparison.truth[comparison.truth["found"] & (comparison.truth["measured_snr_2796"] > 5)]
    describe(strong, "S/N(2796) > 5, as measured")
    true_snr = comparison.truth["ew_primary"] / comparison.truth["measured_ew_2796_err"]
    fair = comparison.truth[comparison.truth["found"] & (true_snr > 5)]
    describe(fair, "true W over its error > 5 (no selection by the noise)")
    describe(fair[2796.354 * (1 + fair["z_abs"]) > 7200], "  of these above 7200 Å")
    describe(fair[fair["ew_primary"] > 2], "  of these W > 2 Å")
    describe(strong[(strong["measured_flags"].astype(int) & int(AbsorberFlag.BLENDED)) == 0], "  of these not blended")
    describe(strong[strong["measured_flags"] == 0], "  of these without flags")
    print("completeness by S/N per pixel and W (Å)")
    print(table(comparison, sightlines.set_index("spectrum_id")["snr"]))


if __name__ == "__main__":
    main()
