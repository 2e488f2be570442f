"""Equivalent widths against Raghunathan et al. (2016), for systems above 5 σ.

    python benchmarks/compare_catalogue.py DIR MgII_DR7.fits MgII_DR12.fits

DIR is a result of `nalspark find`. Systems are matched by plate-mjd-fiber or position (1″); one system is what
nalspark.absorption.systems says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from astropy import units as u
from astropy.coordinates import SkyCoord

from nalspark.absorption.systems import same_system
from nalspark.judging.match import rounding_of
from nalspark.surveys.catalogs import open_catalog, read_rows


def systems(path: str) -> pd.DataFrame:
    catalog = open_catalog(path, "absorbers")
    return pd.concat(map(pd.DataFrame, read_rows(catalog)), ignore_index=True).assign(catalogue=Path(path).name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result")
    parser.add_argument("catalogues", nargs="+")
    options = parser.parse_args()
    ours = pd.read_parquet(Path(options.result) / "absorbers.parquet")
    theirs = pd.concat([systems(path) for path in options.catalogues], ignore_index=True)
    near = SkyCoord(ours["ra"], ours["dec"], unit="deg").search_around_sky(SkyCoord(theirs["ra"], theirs["dec"], unit="deg"), 1 * u.arcsec)
    pairs = pd.concat([theirs.iloc[near[0]].reset_index(drop=True).add_prefix("r16_"), ours.iloc[near[1]].reset_index(drop=True)], axis=1)
    pairs = pairs[same_system(pairs["r16_z_abs"], pairs["z_abs"], pairs["r16_ew_primary"], rounding_of(theirs["z_abs"]))]
    pairs["ratio"] = pairs["ew_2796"] / pairs["r16_ew_primary"]
    pairs["ratio_box"] = pairs["ew_2796_box"] / pairs["r16_ew_primary"]
    same = (pairs["plate"] == pairs["r16_plate"]) & (pairs["mjd"] == pairs["r16_mjd"]) & (pairs["fiber"] == pairs["r16_fiber"])
    pairs["same_spectrum"] = same
    columns = [
        "spectrum_id",
        "r16_catalogue",
        "same_spectrum",
        "z_abs",
        "ew_2796",
        "ew_2796_err",
        "r16_ew_primary",
        "r16_ew_primary_err",
        "ratio",
    ]
    print(pairs[columns].round(3).to_string(index=False))
    theirs_strong, ours_strong = pairs["r16_ew_primary"] > 5 * pairs["r16_ew_primary_err"], pairs["snr_2796"] > 5
    for name, chosen in (
        ("R16 above 5 sigma", theirs_strong), ("both above 5 sigma", theirs_strong & ours_strong),
        ("both, the same spectrum", theirs_strong & ours_strong & same),
    ):  # fmt: skip
        sample = pairs[chosen]
        weight = sample["ew_2796_err"] ** 2 / sample["ew_2796"] ** 2 + sample["r16_ew_primary_err"] ** 2 / sample["r16_ew_primary"] ** 2
        mean = np.average(np.log(sample["ratio"]), weights=1 / weight) if len(sample) else np.nan
        print(f"{name}: n = {len(sample)}, median ratio {sample['ratio'].median():.3f} (box {sample['ratio_box'].median():.3f}), "
              f"weighted mean ratio {np.exp(mean):.3f} +- {1 / np.sqrt((1 / weight).sum()):.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
