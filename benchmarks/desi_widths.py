"""The width of lines in DESI spectra once the instrument is taken off: what the fit gives over what was put in.

    python benchmarks/desi_widths.py [--snr 50]

Unsaturated doublets of known Gaussian width are seen through an instrument of 65 to 25 km/s, averaged over 0.8 Å pixels, written as a
DESI coadd with its resolution matrix, read by nalspark's own reader and measured by :func:`nalspark.find`. A spectrum has one doublet.
"""

from __future__ import annotations

import argparse
import io

import numpy as np
from astropy.io import fits
from scipy.special import ndtr

import nalspark
from nalspark.surveys.reader import parse_spectra
from nalspark.surveys.spectrum import SurveySpectrum

ARMS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}
STEP, LINES, KMS = 0.8, (2796.3543, 2803.5315), 299792.458
INSTRUMENTS, WIDTHS = (65.0, 55.0, 45.0, 35.0, 25.0), (80.0, 120.0, 200.0, 300.0)
#: Rest equivalent width of the first line, Å; the second has half of it.
WIDTH = 0.4


def absorbed(wave: np.ndarray, z: float, sigma: float) -> np.ndarray:
    """What a doublet takes from each pixel, shape (p,); `sigma` in km/s."""
    edges = np.append(wave - STEP / 2, wave[-1] + STEP / 2)
    taken = np.zeros(len(wave))
    for line, share in zip(LINES, (1.0, 0.5), strict=True):
        middle = line * (1 + z)
        taken += share * WIDTH * (1 + z) * np.diff(ndtr((edges - middle) / (middle * sigma / KMS))) / STEP
    return taken


def coadd(z: np.ndarray, fwhm: float, instrument: float, snr: float, rng: np.random.Generator) -> bytes:
    n = len(z)
    primary = fits.PrimaryHDU()
    primary.header.update({"SURVEY": "main", "PROGRAM": "dark", "HPXPIXEL": 1})
    table = fits.BinTableHDU.from_columns([fits.Column("TARGETID", "K", array=np.arange(1, n + 1))], name="FIBERMAP")
    hdus = [primary, table]
    for arm, (start, pixels) in ARMS.items():
        wave = start + STEP * np.arange(pixels)
        flux = np.stack([1 - absorbed(wave, one, np.hypot(fwhm / 2.3548, instrument)) for one in z])
        flux += rng.standard_normal(flux.shape) / snr
        sigma = wave * instrument / KMS / STEP
        matrix = np.exp(-0.5 * ((np.arange(11) - 5)[:, None] / sigma) ** 2)
        images = {
            "WAVELENGTH": wave, "FLUX": flux.astype("f4"), "IVAR": np.full(flux.shape, snr**2, "f4"), "MASK": np.zeros(flux.shape, "i4"),
            "RESOLUTION": np.tile((matrix / matrix.sum(axis=0))[None], (n, 1, 1)).astype("f4"),
        }  # fmt: skip
        hdus += [fits.ImageHDU(data, name=f"{arm}_{kind}") for kind, data in images.items()]
    raw = io.BytesIO()
    fits.HDUList(hdus).writeto(raw)
    return raw.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=40, help="doublets of each width and instrument")
    parser.add_argument("--snr", type=float, default=50.0, help="signal-to-noise ratio of a native pixel")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print(f"median of fwhm_kms over the width put in, and of W over the true one; {options.n} each, z = 0.6 to 2.2")
    print("instrument (km/s)  " + "".join(f"{fwhm:9.0f} km/s    " for fwhm in WIDTHS))
    for instrument in INSTRUMENTS:
        told = []
        for fwhm in WIDTHS:
            z = rng.uniform(0.6, 2.2, options.n)
            spectra = [one for one in parse_spectra(coadd(z, fwhm, instrument, options.snr, rng), "x") if isinstance(one, SurveySpectrum)]
            found = nalspark.find(spectra, z=1.15 * (1 + z) - 1, score=False).candidates
            near = np.abs(found["z_abs"] - z[found["spectrum"]]) < 0.001
            told.append((np.median(found["fwhm_kms"][near].value) / fwhm, np.median(found["ew_2796"][near].value) / WIDTH, near.sum()))
        print(f"{instrument:8.0f}           " + "  ".join(f"{w:.3f} {ew:.3f} ({k:3d})" for w, ew, k in told))


if __name__ == "__main__":
    main()
