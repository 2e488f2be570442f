"""The standard error of DESI's pixels: the data of `nalspark/mocks/surveys/noise_desi.csv`.

    python benchmarks/noise_desi.py ../shared/data/spectra/desi > nalspark/mocks/surveys/noise_desi.csv

Every good target's error is divided by its own median in 6500-7200 Å; the table is the median of those ratios, pixel by pixel, times the
error there of the two targets of HEALPix pixel 9144, 0.23e-17 erg/s/cm²/Å.
"""

import sys
from pathlib import Path

import numpy as np

from nalspark.lines import MG_II
from nalspark.mocks.surveys.desi import WAVELENGTH, find_coadds, read_errors

LEVEL = 0.23


def main() -> None:
    paths, _ = find_coadds(Path(sys.argv[1]), MG_II)
    errors = np.concatenate([read_errors(path) for path in paths]).astype(float)
    errors[~np.isfinite(errors)] = np.nan
    plain = (WAVELENGTH > 6500) & (WAVELENGTH < 7200)
    typical = LEVEL * np.nanmedian(errors / np.nanmedian(errors[:, plain], axis=1, keepdims=True), axis=0)
    print(f"# standard error in 1e-17 erg/s/cm2/A of the pixels of B, R and Z, in turn; from {len(errors)} spectra of the DESI EDR (CC BY")
    print("# 4.0; tiles 80613 and 80693, HEALPix pixel 9144): see benchmarks/noise_desi.py")
    print("\n".join(f"{value:.4g}" for value in typical))


if __name__ == "__main__":
    main()
