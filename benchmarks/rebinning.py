"""What rebinning DESI's pixels to the lattice does: errors, flux, positions and equivalent widths of lines.

    python benchmarks/rebinning.py [--spectra 400] [--lines 4000]

Spectra of known variance on the native 0.8 Å lattice are rebinned by :class:`nalspark.spectra.regrid.Rebinning`. Where specutils can be
imported, its FluxConservingResampler rebins the same pixels: another implementation of the same idea. What is printed:

* *pull*: standard deviation of (flux - truth) / error, of single pixels once `scatter` is known, and of sums over 5, 20 and 60 pixels from
  the errors alone.
* *flux*: largest difference of ∫ flux dλ from that of the native pixels, relative; and of single pixels from specutils'.
* *significance*: of a line on the lattice, weighted by `ivar` as the search does it, over that on the native pixels with the best filter,
  by redshift of Mg II 2796 and intrinsic FWHM; mean over places within a pixel.
* *lines*: Gaussian lines, narrow as DESI's resolution makes them, at random places: shift of the centroid, lattice pixels, and
  equivalent width over the true one.
"""

from __future__ import annotations

import argparse

import numpy as np

from nalspark.spectra.grid import LATTICE
from nalspark.spectra.regrid import Rebinning

STEP, START, PIXELS = 0.8, 3600.0, 7781
CENTRES = START + STEP * np.arange(PIXELS)
#: Lattice pixels that native pixels cover, and the regions in which pulls are told, by their ends in Å.
COVERED = slice(60, 4400)
REGIONS = ((3650.0, 5000.0), (5000.0, 7000.0), (7000.0, 9750.0))
#: Intrinsic FWHM of lines, km/s.
WIDTHS = (50, 100, 150, 200, 300)
#: σ of the instrument at the ends, km/s.
INSTRUMENT = (57.0, 23.5)


def rebinning() -> Rebinning:
    begin = START + STEP * (np.arange(PIXELS) - 0.5)
    return Rebinning(begin, begin + STEP, LATTICE)


def pulls(n: int, rng: np.random.Generator) -> None:
    rebin = rebinning()
    sigma = 0.1 * (1 + 0.3 * np.sin(np.arange(PIXELS) / 300))
    flux, ivar, mask = rebin(1 + sigma * rng.standard_normal((n, PIXELS)), np.tile(sigma**-2, (n, 1)))
    scatter = np.interp(np.arange(LATTICE.n_pixels), np.arange(len(rebin.scatter)) * 100, rebin.scatter)
    print(f"\npull, {n} spectra: standard deviation (σ of it by chance about {1 / np.sqrt(2 * n * 10):.3f} for sums of 60)")
    print("region (Å)        single pixels   single, by ivar alone   sums of 5   of 20   of 60")
    for low, high in REGIONS:
        first, last = (int(LATTICE.pixel(edge)) for edge in (low, high))
        last -= (last - first) % 60
        here = slice(first, last)
        assert not mask[:, here].any()
        deviation, variance = flux[:, here].astype(float) - 1, 1 / ivar[:, here].astype(float)
        single = deviation / np.sqrt(variance)
        sums = [np.std(deviation.reshape(n, -1, k).sum(axis=2) / np.sqrt(variance.reshape(n, -1, k).sum(axis=2))) for k in (5, 20, 60)]
        told = "   ".join(f"{one:.3f}" for one in sums)
        print(
            f"{low:5.0f} to {high:5.0f}         {np.std(single / scatter[here]):.3f}                {np.std(single):.3f}           {told}"
        )


def conservation(rng: np.random.Generator) -> None:
    rebin = rebinning()
    native = 1 + 0.3 * rng.standard_normal((50, PIXELS))
    flux, _, mask = rebin(native, np.ones_like(native))
    edges = LATTICE.wavelength_at(np.arange(LATTICE.n_pixels + 1) - 0.5)
    whole = np.flatnonzero((edges[:-1] >= CENTRES[0] - STEP / 2) & (edges[1:] <= CENTRES[-1] + STEP / 2))
    low, high = edges[whole[0]], edges[whole[-1] + 1]
    overlap = np.clip(np.minimum(CENTRES + STEP / 2, high) - np.maximum(CENTRES - STEP / 2, low), 0, None)
    assert not mask[:, whole].any()
    total = (flux[:, whole].astype(float) * np.diff(edges)[whole]).sum(axis=1)
    print(f"\nflux: largest relative difference of the integral {np.abs(total / (native * overlap).sum(axis=1) - 1).max():.1e}")
    try:
        from astropy import units as u
        from specutils import Spectrum
        from specutils.manipulation import FluxConservingResampler
    except ImportError:
        print("flux: specutils is not installed here; its resampler was not compared")
        return
    wave = LATTICE.wavelength_at(whole[1:-1])
    theirs = np.stack([
        FluxConservingResampler()(Spectrum(spectral_axis=CENTRES * u.AA, flux=row * u.Unit("erg / (s cm2 AA)")), wave * u.AA).flux.value
        for row in native[:5]
    ])  # fmt: skip
    print(f"flux: largest difference of a pixel from specutils' {np.nanmax(np.abs(theirs[:, 5:-5] - flux[:5, whole[6:-6]])):.1e} of 1")


def lines(n: int, rng: np.random.Generator) -> None:
    rebin = rebinning()
    place = rng.uniform(3700, 9700, n)
    kms = np.interp(place, [3600, 9800], INSTRUMENT)
    sigma = place * kms / 299792.458
    # The mean of a Gaussian over each native pixel: what a spectrograph records.
    from scipy.special import ndtr

    edges = np.append(CENTRES - STEP / 2, CENTRES[-1] + STEP / 2)
    depth = np.stack([np.diff(ndtr((edges - centre) / width)) / STEP for centre, width in zip(place, sigma, strict=True)])
    flux, _, _ = rebin(1 - 0.5 * depth, np.ones_like(depth))
    wave, width = LATTICE.wavelength, np.diff(LATTICE.wavelength_at(np.arange(LATTICE.n_pixels + 1) - 0.5))
    absorbed = np.where((np.arange(LATTICE.n_pixels) >= COVERED.start) & (np.arange(LATTICE.n_pixels) < COVERED.stop), 1 - flux, 0) * width
    total = absorbed.sum(axis=1)
    shift = LATTICE.pixel((absorbed * wave).sum(axis=1) / total) - LATTICE.pixel(place)
    print(f"\nlines: {n} of the width of the instrument, {INSTRUMENT[0]:g} to {INSTRUMENT[1]:g} km/s")
    print(f"lines: centroid off by {np.mean(shift):+.4f} ± {np.std(shift):.4f} lattice pixels, at most {np.abs(shift).max():.4f}")
    print(f"lines: equivalent width over the true one {np.mean(total / 0.5):.6f}, at most {np.abs(total / 0.5 - 1).max():.1e} off")


def significance() -> None:
    """Both by linear algebra: no noise is drawn."""
    from scipy.special import ndtr

    rebin, half = rebinning(), 40
    print("\nsignificance on the lattice over that on the native pixels")
    print("z       " + "".join(f"{fwhm:5d} km/s" for fwhm in WIDTHS))
    for z in (0.4, 0.8, 1.2, 1.6, 2.0, 2.4):
        wave = 2796.3543 * (1 + z)
        told = []
        for fwhm in WIDTHS:
            kms = np.hypot(fwhm / 2.3548, np.interp(wave, [3600, 9800], INSTRUMENT))
            ratios = []
            for phase in np.linspace(0, 3, 16):
                middle = wave + phase
                near = round((middle - START) / STEP) + np.arange(-half, half)
                edges = np.append(CENTRES[near] - STEP / 2, CENTRES[near[-1]] + STEP / 2)
                line = np.diff(ndtr((edges - middle) / (middle * kms / 299792.458)))
                flux = np.zeros((2 * half + 1, PIXELS))
                flux[np.arange(2 * half), near] = 1.0
                flux[-1, near] = line
                new, ivar, _ = rebin(flux, np.ones_like(flux))
                matrix, profile, weight = new[:-1].astype(float), new[-1].astype(float), ivar[0].astype(float)
                spread = matrix @ (weight * profile)
                ratios.append((weight * profile) @ profile / np.sqrt(spread @ spread) / np.sqrt(line @ line))
            told.append(np.mean(ratios))
        print(f"{z:.1f}     " + "".join(f"{one:10.3f}" for one in told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spectra", type=int, default=400)
    parser.add_argument("--lines", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    pulls(options.spectra, rng)
    conservation(rng)
    lines(options.lines, rng)
    significance()


if __name__ == "__main__":
    main()
