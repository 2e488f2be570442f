"""Time and memory of `nalspark statistics` and `nalspark randoms`, and how far estimators are from a known truth.

    python benchmarks/rates.py --n 100000
    python benchmarks/rates.py --n 40000 --estimators

The sightlines and absorbers are those of tests/make_rates.py: Zhu & Ménard's law, a logistic completeness, errors of W of 1.2 sigma_ew.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from make_rates import CONSTANT, logistic, make_survey, write_result

from nalspark.judging.path import Bins, find_regions, in_memory, measure_path
from nalspark.judging.posterior import NODES, true_widths
from nalspark.judging.randoms import write_randoms
from nalspark.judging.statistics import measure_rates, result_statistics, select_absorbers
from nalspark.lines import MG_II
from nalspark.settings import Statistics
from nalspark.tables.result import open_result


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timing(folder: Path) -> None:
    result = open_result(folder)
    started = time.monotonic()
    tables = result_statistics(result)
    print(f"statistics {time.monotonic() - started:.1f} s, peak {peak_mib():.0f} MiB, {tables.numbers['absorbers']} absorbers", flush=True)
    started = time.monotonic()
    _, said = write_randoms(result, folder / "r.parquet", 20)
    print(f"randoms {time.monotonic() - started:.1f} s, peak {peak_mib():.0f} MiB: {said}")


def estimators(n: int) -> None:
    """dN/dz over the truth of a constant law: by measured W, by true W without and with the completeness in their distribution."""
    survey, settings = make_survey(n, CONSTANT), Statistics()
    bins, regions = Bins.of(settings), find_regions(in_memory(survey.sensitivity), 1, 2)
    path = measure_path(in_memory(survey.sensitivity), MG_II, bins, regions, settings.min_velocity_kms)
    rows, _ = select_absorbers(survey.absorbers, MG_II, bins, regions, settings.min_velocity_kms)
    seen = np.append(path.seen(path.delta_z).sum(axis=(0, 1)), np.inf)
    rates = measure_rates(survey.absorbers, survey.sensitivity, logistic, MG_II, settings).rates[-len(settings.ew_limits) :]
    for limit, row in zip(settings.ew_limits, rates, strict=True):
        found = []
        for width in (rows.ew[:, None], true_widths(rows.ew, rows.ew_err, 0.65)):
            sigma = np.broadcast_to(rows.sigma_ew[:, None], width.shape)
            use = width >= np.maximum(limit, settings.min_significance * sigma)
            weight = np.broadcast_to(rows.score[:, None], width.shape)[use] / logistic(width[use], sigma[use])
            found.append((weight / seen[bins.ew_bin(width[use])]).sum() / (1 if width.shape[1] == 1 else NODES))
        truth, error = float(CONSTANT.rate(1.0, limit)), 0.5 * (row["dndz_upper"] - row["dndz_lower"])
        ratios = [value / truth for value in (*found, row["dndz"])]
        print(f"W >= {limit:g}: measured W {ratios[0]:.3f}, true W {ratios[1]:.3f}, with C {ratios[2]:.3f} +- {error / truth:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="sightlines")
    parser.add_argument("--estimators", action="store_true", help="compare estimators instead")
    parser.add_argument("--result", type=Path, help="a result made before; with --write it is made")
    parser.add_argument("--write", action="store_true", help="only make the result, so that its memory is not counted")
    options = parser.parse_args()
    if options.estimators:
        estimators(options.n)
    elif options.write:
        print(write_result(make_survey(options.n), options.result))
    elif options.result:
        timing(options.result)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            timing(write_result(make_survey(options.n), Path(scratch) / "result"))


if __name__ == "__main__":
    main()
