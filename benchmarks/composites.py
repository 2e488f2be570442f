"""Composites against what was put in: E(B-V) of dusty absorbers, and the mean equivalent widths of their lines.

    python benchmarks/composites.py /tmp/composites --n 1000 --ebv 0.05

Simulates quasars, six in ten with one absorber of known lines and dust (SMC bar), finds the absorbers, stacks them with controls, and
prints a table: E(B-V) and the equivalent widths of the composite beside the means of what was put into the stacked absorbers. What is in
the folder already is not made again. Where ``dust_extinction`` is installed, its law reddens the spectra instead of nalspark's own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table

from nalspark.judging.composites.dust import smc_law, transmission
from nalspark.judging.composites.selection import parse_selection
from nalspark.judging.match import compare
from nalspark.lines import MG_II, with_all_lines
from nalspark.mocks import inject
from nalspark.mocks.surveys import sdss

#: Lines whose mean equivalent width is compared.
SHOWN = ("Mg II 2796", "Mg II 2803", "Mg I 2852", "Fe II 2344", "Fe II 2374", "Fe II 2382", "Fe II 2586", "Fe II 2600", "Al II 1670")
#: No second row of a wide system (BLENDED, WEAK): its lines are those of the first one, and would count as spurious.
CLEAN = "score > 0.9 and flags & 16 == 0 and flags & 16384 == 0"
#: Ends of the spectra, Å, of SDSS and of BOSS plates; and the quasar's Lyα.
ENDS, LYMAN_ALPHA = {False: (3815.0, 9200.0), True: (3620.0, 10300.0)}, 1215.67


def law(wavelength: np.ndarray) -> np.ndarray:
    """k(λ) of the SMC bar, of another source where there is one."""
    try:
        from astropy import units as u
        from dust_extinction.averages import G03_SMCBar
    except ImportError:
        return smc_law(wavelength)
    inside = np.clip(wavelength, 1000.0, 33_000.0)
    return G03_SMCBar.Rv * G03_SMCBar()(inside * u.AA)


def simulate(out: Path, n: int, ebv: float, bright: float, least: float) -> None:
    """Write a survey whose absorbers have dust, and ``widths.parquet``: what each absorber's lines are.

    `bright` multiplies the S/N; absorbers have at least W(2796) = `least` Å.
    """
    species, widths, plain, snr = with_all_lines(MG_II), [], inject.transmission, sdss.quasars.draw_snr

    def dusty(absorbers, lines, grid, n_spectra, sigma):
        left = plain(absorbers, lines, grid, n_spectra, sigma)
        for row, z in zip(absorbers.spectrum, absorbers.z, strict=True):
            left[row] *= transmission(law(grid.wavelength / (1.0 + z)), ebv)
        clouds = absorbers.b_kms, absorbers.velocity_kms
        taus = absorbers.tau[:, None] * absorbers.relative_tau[:, :, None]
        columns = {str(line): inject.equivalent_width(line, taus[:, i], *clouds) for i, line in enumerate(species.transitions)}
        widths.append(pd.DataFrame(columns))
        return left

    inject.transmission, sdss.quasars.draw_snr = dusty, lambda rng: bright * snr(rng)
    try:
        from nalspark.mocks.survey import simulate_survey

        simulate_survey(out, n, 9, population=inject.Population(counts=(0.4, 0.6), ew_min=least), workers=1)
    finally:
        inject.transmission, sdss.quasars.draw_snr = plain, snr
    truth = pd.read_parquet(out / "truth.parquet", columns=["spectrum_id", "plate", "z_qso", "z_abs", "ew_primary"])
    known = pd.concat(widths, ignore_index=True)
    assert np.allclose(known["Mg II 2796"], truth["ew_primary"])  # the rows are those of the truth
    pd.concat([truth, known], axis=1).to_parquet(out / "widths.parquet")


def stacked_truth(result: Path, survey: Path, select: str) -> pd.DataFrame:
    """What was put in, one row per stacked absorber; zeros for a spurious one, at its redshift."""
    absorbers, sightlines, truth = (
        pd.read_parquet(path) for path in (result / "absorbers.parquet", result / "sightlines.parquet", survey / "truth.parquet")
    )
    absorbers = absorbers.merge(sightlines[["spectrum_id", "snr"]], on="spectrum_id")
    kinds = dict.fromkeys(("snr", "score"), "double") | {"flags": "int"}
    absorbers = absorbers[parse_selection(select, kinds).apply(absorbers.__getitem__)]
    comparison = compare(absorbers, sightlines, truth)
    found = comparison.truth[comparison.truth["found"]].merge(pd.read_parquet(survey / "widths.parquet"), on=["spectrum_id", "z_abs"])
    found = found.rename(columns={"plate_x": "plate", "z_qso_x": "z_qso"})
    spurious = comparison.absorbers[~comparison.absorbers["true"]][["spectrum_id", "plate", "z_qso", "z_abs"]]
    pool = sightlines.loc[sightlines["n_absorbers"] == 0, "spectrum_id"]
    unseen = truth["spectrum_id"].isin(pool).sum()
    print(f"{len(absorbers)} absorbers stacked, {len(spurious)} of them spurious; {len(truth)} put in")
    print(f"{unseen} of the {len(pool)} spectra that controls are taken from have an absorber, and dust, that was not found")
    return pd.concat([found, spurious.assign(**dict.fromkeys(SHOWN, 0.0))], ignore_index=True)


def compare_lines(known: pd.DataFrame, lines: Table) -> None:
    """Print the equivalent widths of the composite beside the means of what was put in, of those absorbers that have the line."""
    print("line         absorbers   put in   composite      error   ratio - 1")
    for name in SHOWN:
        row = lines[np.flatnonzero(lines["line"] == name)[0]]
        observed = row["wavelength"] * (1.0 + known["z_abs"])
        low, high = np.array([ENDS[plate >= 4000] for plate in known["plate"]]).T
        seen = (observed > np.maximum(low, LYMAN_ALPHA * (1.0 + known["z_qso"]))) & (observed < high)
        mean = known.loc[seen, name].mean()
        print(f"{name:<12} {seen.sum():>9} {mean:>8.4f} {row['ew']:>11.4f} {row['ew_err']:>10.4f} {row['ew'] / mean - 1:>+11.1%}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=1000, help="quasars")
    parser.add_argument("--ebv", type=float, default=0.05, help="E(B-V) of each absorber")
    parser.add_argument("--bright", type=float, default=4.0, help="factor of the S/N, so that widths are known to some per cent")
    parser.add_argument("--min-ew", type=float, default=0.6, help="least W(2796) put in, Å: dust of what is not found is in the controls")
    parser.add_argument("--min-snr", type=float, default=0.0, help="stack only spectra of at least this S/N")
    options = parser.parse_args()
    survey, result = options.folder / "survey", options.folder / "result"
    if not (survey / "widths.parquet").exists():
        simulate(survey, options.n, options.ebv, options.bright, options.min_ew)
    command = [sys.executable, "-m", "nalspark"]
    if not (result / "absorbers.parquet").exists():
        find = ["find", survey / "spectra", "--out", result, "--quasars", survey / "quasars.fits", "--set", "publish.gallery=0"]
        subprocess.run([*command, *map(str, find)], check=True)
    select = f"{CLEAN} and snr >= {options.min_snr}"
    subprocess.run([*command, "stack", str(result), "--select", select, "--controls", "3", "--name", "bar"], check=True)
    lines = Table.read(result / "stacks" / "bar" / "lines.ecsv")
    compare_lines(stacked_truth(result, survey, select), lines)
    print(f"E(B-V) put in: {options.ebv}")


if __name__ == "__main__":
    main()
