"""Where spectra scatter more than their errors say: the data of `nalspark/spectra/noise_sdss.csv`.

    python benchmarks/noise_model.py ../shared/data/spectra/qso > nalspark/spectra/noise_sdss.csv

Residuals above the fitted continuum, where absorption cannot lie, over the errors after `error_inflation`: their mean at each lattice pixel
and its two neighbours over all spectra, over what it is for Gaussian noise. Capped at 6 σ, with thirty unit residuals as a prior. Only
pixels that exceed 1.1 are listed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from detector import real_spectra

from nalspark.absorption import chain
from nalspark.lines import MG_II
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="quasar spectra")
    spectra, z_qso = real_spectra(parser.parse_args().folder, MG_II)
    ready = chain.prepare(spectra, z_qso, load(preprocess={"noise_model": "none"}))
    used = ready.spectra.good & np.array([reason is None for reason in ready.reason])[:, None]
    deviation = (ready.spectra.flux - ready.continuum) * np.sqrt(ready.spectra.ivar)
    above = used & (deviation > 0)
    total, count = np.where(above, np.minimum(deviation, 6.0), 0.0).sum(axis=0) / np.sqrt(2.0 / np.pi), above.sum(axis=0)
    three = np.ones(3)
    factor = (np.convolve(total, three, "same") + 30.0) / (np.convolve(count, three, "same") + 30.0)
    print(f"# lattice pixel (1e-4 dex), factor; from {np.count_nonzero(used.any(axis=1))} spectra: see benchmarks/noise_model.py")
    for pixel in np.flatnonzero(factor > 1.1):
        print(f"{LATTICE.first + pixel},{factor[pixel]:.2f}")


if __name__ == "__main__":
    main()
