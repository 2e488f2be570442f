"""What is searched, what each mask would cost, and g(z): the number of sightlines searched at each absorption redshift.

    python benchmarks/searched_path.py ../shared/data/spectra/qso [--before RESULT] [--figure docs/searched_path.png]

``--before`` names the result of another version over the same files, for the figure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray

from nalspark.absorption import chain
from nalspark.errors import UnusableSpectrum
from nalspark.plots.style import new_figure
from nalspark.settings import Settings, load
from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.grid import LATTICE, lattice_pixels
from nalspark.spectra.regrid import place_on_grid
from nalspark.surveys.reader import open_spectrum

Flags = NDArray[np.bool_]
#: Bands that other searches leave out, observed Å (Anand et al. 2021, §3.2).
BANDS = {
    "5577 and 6300 Å": ((5568.0, 5588.0), (6295.0, 6305.0)),
    "Galactic Ca II and Na I": ((3928.0, 3940.0), (3963.0, 3975.0), (5886.0, 5904.0)),
    "telluric A and B": ((6864.0, 6950.0), (7590.0, 7710.0)),
}


def read(folder: Path) -> tuple[Spectra, NDArray[np.float64], Flags]:
    """The `spec` files of a folder: spectra, redshifts, and which pixels their pipeline marks as BRIGHTSKY."""
    found, bright = [], []
    for path in sorted(folder.glob("spec-*.fits")):
        try:
            one = open_spectrum(path)
        except UnusableSpectrum:
            continue
        if one.z is None or one.first_pixel is None:
            continue
        with fits.open(path) as hdus:
            table = {name.lower(): hdus[1].data[name] for name in hdus[1].data.names}
            pixel = lattice_pixels(table["loglam"].astype(float))
            marked = (table["and_mask"].astype(np.int64) >> 23) & 1 > 0
        row = np.zeros(LATTICE.n_pixels, dtype=bool)
        at = pixel[marked] - LATTICE.first
        row[at[(at >= 0) & (at < LATTICE.n_pixels)]] = True
        found.append(one), bright.append(row)
    columns = ([getattr(one, name) for one in found] for name in ("flux", "ivar", "mask", "first_pixel"))
    return place_on_grid(*columns, LATTICE), np.array([one.z for one in found]), np.array(bright)


def path(spectra: Spectra, z_qso: NDArray[np.float64], settings: Settings, masked: Flags | None = None) -> tuple[float, list]:
    """Searched redshift path, and its intervals, with some pixels left out."""
    mask = spectra.mask if masked is None else spectra.mask | np.where(masked, np.uint8(PixelFlag.NO_DATA), np.uint8(0))
    ready = chain.prepare(Spectra(spectra.flux, spectra.ivar, mask, LATTICE), z_qso, settings)
    searched = [(start, stop) for start, stop, why in zip(ready.z_start, ready.z_stop, ready.reason, strict=True) if why is None]
    return sum(float((stop - start).sum()) for start, stop in searched), searched


def sightlines_at(searched: list, z: NDArray[np.float64]) -> NDArray[np.int64]:
    return sum(((z[:, None] >= start) & (z[:, None] <= stop)).any(axis=1).astype(int) for start, stop in searched)


def draw(out: str, searched: list, before: str | None) -> None:
    z = np.arange(0.25, 2.75, 0.002)
    drawn = new_figure((7.0, 3.2))
    axes = drawn.add_subplot()
    axes.plot(z, sightlines_at(searched, z), lw=0.8, label="now")
    if before:
        old = pd.read_parquet(Path(before) / "sightlines.parquet")
        old = old[old["survey"] == "sdss_spec"]
        axes.plot(z, sightlines_at(list(zip(old["z_start"], old["z_stop"], strict=True)), z), lw=0.8, label="before")
    axes.set_xlabel("absorption redshift of Mg II 2796")
    axes.set_ylabel("sightlines searched")
    axes.legend(frameon=False)
    drawn.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before")
    parser.add_argument("--figure")
    options = parser.parse_args()
    spectra, z_qso, bright = read(options.folder)
    settings = load()
    total, searched = path(spectra, z_qso, settings)
    wavelength = LATTICE.wavelength
    inside = np.broadcast_to((wavelength >= 3800) & (wavelength <= 9200), spectra.flux.shape)
    print(f"{len(z_qso)} spectra, {len(searched)} searched, redshift path {total:.1f}")
    rows = {"all beyond 3800-9200 Å": ~inside, "BRIGHTSKY (bit 23 of the AND mask)": bright}
    for name, bands in BANDS.items():
        rows[name] = np.broadcast_to(np.any([(wavelength >= a) & (wavelength <= b) for a, b in bands], axis=0), spectra.flux.shape)
    for name, masked in rows.items():
        left = path(spectra, z_qso, settings, masked)[0]
        print(f"  a mask on {name:<36} would cost {total - left:5.1f} ({(total - left) / total:.1%})")
    for name, changed in {
        "z_abs above z_qso": {"window_beyond_kms": 0.0},
        "bluewards of C IV, with window_rest_blue = 1216": {"window_rest_blue": 1216.0},
    }.items():
        print(f"  {name}: {abs(total - path(spectra, z_qso, load(preprocess=changed))[0]):.1f}")
    if options.figure:
        draw(options.figure, searched, options.before)


if __name__ == "__main__":
    main()
