"""g(W, z), the sightlines in which an absorber of W would be seen, from the table of sensitivity and by putting one in at every pixel.

    python benchmarks/sensitivity.py ../shared/data/spectra/qso [--spectra 50] [--figure FILE.png]

At every searched pixel of real quasars a doublet, two lines of the same W and of the width that σ_W is given for, is put on a flat
spectrum with the errors of that quasar; the search itself, asked for n standard errors in both lines, says whether it sees it. Beside it
the path at which W ≥ n σ_W by the table, bin by bin: it differs by what bins of eleven pixels, in half precision, cost.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nalspark
from nalspark.absorption.chain import Light, Searchable, light_of, prepare
from nalspark.absorption.search import Doublet, Thresholds, find_doublets
from nalspark.absorption.sensitivity import BIN_PIXELS, REFERENCE_PIXELS, bin_edges
from nalspark.lines import MG_II
from nalspark.plots.style import new_figure
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.arrays import given_spectra

WIDTHS = (0.3, 0.6, 1.0, 2.0)
#: Standard errors in both lines at which an absorber counts as seen.
DETECTION = 5.0
Z = np.round(np.arange(0.4, 2.61, 0.2), 1)
#: Copies of a spectrum that are searched together.
_BATCH = 256


def quasars(folder: Path, n: int) -> Searchable:
    spectra = []
    for path in sorted(folder.glob("spec-*.fits")):
        try:
            spectra.append(nalspark.read_spectrum(path))
        except nalspark.errors.NalsparkError:
            continue
    given, settings = given_spectra(spectra, None, None, None, None), load()
    searchable = Searchable.of(prepare(given.on_grid(range(len(given)), LATTICE), given.z, settings), given.z)
    return searchable.take(np.arange(len(searchable.z_qso)) < n)


def seen(light: Light, row: int, ew: float) -> NDArray[np.bool_]:
    """Whether the search sees an absorber of `ew` put in at each searched pixel of a row."""
    pixels = np.flatnonzero(light.searched[row])
    doublet, found, x = Doublet.of(MG_II, LATTICE.step), np.zeros(len(pixels), bool), np.arange(LATTICE.n_pixels)
    unit = REFERENCE_PIXELS * np.sqrt(2 * np.pi) * np.log(10) * LATTICE.step
    limits = Thresholds(0.0, DETECTION, DETECTION, 6.0, 1)
    for start in range(0, len(pixels), _BATCH):
        some = pixels[start : start + _BATCH]
        residual = np.zeros((len(some), LATTICE.n_pixels), np.float32)
        for line, shift in ((MG_II.primary, 0), (MG_II.secondary, round(doublet.offset))):
            residual += ew / (unit * line.wavelength) * np.exp(-0.5 * ((x - some[:, None] - shift) / REFERENCE_PIXELS) ** 2)
        here = np.zeros(residual.shape, bool)
        here[np.arange(len(some)), some] = True
        weight = np.repeat(light.weight[row][None], len(some), axis=0)
        peaks = find_doublets(residual, weight, here, doublet, (REFERENCE_PIXELS,), limits)
        found[start + peaks.row] = True
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--spectra", type=int, default=50)
    parser.add_argument("--figure")
    options = parser.parse_args()
    searchable = quasars(options.folder, options.spectra)
    light = light_of(searchable, load())
    n, cells = len(searchable.z_qso), light.sensitivity.cells()
    edges = bin_edges(MG_II, (LATTICE.first // BIN_PIXELS) + np.arange(light.sensitivity.sigma_ew.shape[1] + 1))
    of_pixel = LATTICE.wavelength_at(np.array([-0.5, 0.5])[:, None] + np.arange(LATTICE.n_pixels)) / MG_II.primary.wavelength - 1
    searched_dz = np.histogram(of_pixel.mean(axis=0), Z, weights=(light.searched * np.diff(of_pixel, axis=0)).sum(axis=0))[0]
    print(f"{n} spectra, {light.searched.sum()} searched pixels, redshift path {searched_dz.sum():.1f}; {DETECTION:g} sigma in both lines")
    print("W (Å)  path by the table  by putting in  ratio   largest difference of g in bins of 0.2 in z   rms")
    curves = {}
    for ew in WIDTHS:
        brute, table = np.zeros(len(Z) - 1), np.zeros(len(Z) - 1)
        for row in range(n):
            pixels = np.flatnonzero(light.searched[row])
            dz = np.diff(of_pixel[:, pixels], axis=0)[0]
            brute += np.histogram(of_pixel[:, pixels].mean(axis=0), Z, weights=dz * seen(light, row, ew))[0]
            first, sigma, count = cells["first_bin"][row] - LATTICE.first // BIN_PIXELS, cells["sigma_ew"][row], cells["n_searched"][row]
            sigma = np.asarray(sigma, np.float16).astype(float)
            ends = edges[first : first + len(sigma) + 1]
            path = np.diff(ends) * count / BIN_PIXELS * (ew >= DETECTION * np.where(np.isfinite(sigma), sigma, np.inf))
            table += np.histogram(0.5 * (ends[:-1] + ends[1:]), Z, weights=path)[0]
        difference = (table - brute) / searched_dz
        curves[ew] = table / np.diff(Z), brute / np.diff(Z)
        print(
            f"{ew:4.1f}   {table.sum():12.2f} {brute.sum():16.2f} {table.sum() / brute.sum():10.4f}"
            f"   {np.abs(difference).max():20.4f} {np.sqrt(np.mean(difference**2)):26.4f}"
        )
    if options.figure:
        drawn = new_figure((6.4, 3.4))
        axes = drawn.add_subplot()
        for number, (ew, (table, brute)) in enumerate(curves.items()):
            axes.stairs(table, Z, color=f"C{number}", label=f"W ≥ {ew:g} Å")
            axes.plot(0.5 * (Z[:-1] + Z[1:]), brute, "o", color=f"C{number}", ms=3)
        axes.set_xlabel("absorption redshift of Mg II 2796")
        axes.set_ylabel("sightlines that would show it")
        axes.legend(frameon=False)
        drawn.savefig(options.figure, dpi=110)


if __name__ == "__main__":
    main()
