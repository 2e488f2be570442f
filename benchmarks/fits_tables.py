"""FITS tables at random, read by nalspark and by astropy: equal values, or both refuse.

    python benchmarks/fits_tables.py --n 5000

The files are those of tests/surveys/random_tables.py: all types, TDIM (also such as do not fit), TSCAL, TZERO, TNULL, unsigned integers,
variable length, ASCII tables, HDUs in any order, text behind END, blocks behind the last HDU, files cut short, gzip.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from surveys.random_tables import verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5000, help="files")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.n):
        found = verdict(seed)
        counts[found if found in ("equal", "both refuse") else "different"] += 1
        if found not in ("equal", "both refuse"):
            print(found[:500], flush=True)
    print(f"{options.n} files: " + ", ".join(f"{number} {kind}" for kind, number in counts.most_common()))
    raise SystemExit(counts["different"] > 0)


if __name__ == "__main__":
    main()
