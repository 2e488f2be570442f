"""Balnicity of C IV: against troughs of known BI in mock quasars and in real ones, and what real quasars have.

    OMP_NUM_THREADS=1 python benchmarks/balnicity.py ../shared/data/spectra/qso [--n 600] [--half odd] [--figures FOLDER]

A trough of C IV with those of Si IV and N V is put at velocities between 3000 and 25,000 km/s: 2 to 9 Gaussian components within 1000 to
12,000 km/s, in every other of the mock quasars of one batch, then in every other of three copies of each real quasar that has BI = 0 and
AI < 3 standard errors by itself. True is the index of the transmission. Printed by the median signal-to-noise ratio per pixel from 1425 to
1534 Å, before the trough:

* how many have BI > 0 in truth; how many of them (*complete*), and of those above 500 km/s, have BI > 0;
* of all with BI > 0, how many have it in truth (*purity*); how many of those without a trough have BI > 0 (*false*);
* BI minus the truth of those with BI > 0 in truth: median, half of the central 68 %, and the median of the standard errors;
* AI beyond 3 standard errors: completeness (of AI > 0 in truth), *false*, and median and scatter of the difference.

Real quasars without a trough have BI = 0 by choice: their *false* and *purity* say nothing about BI. Last, real quasars as they are, to be
judged by eye. The continuum was tuned on the even half of the real quasars, by file name.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nalspark
from nalspark.absorption.balnicity import AI, BI, Balnicity, integrate, measure_balnicity, velocity
from nalspark.absorption.chain import Searchable, prepare
from nalspark.absorption.unabsorbed import unabsorbed_continuum
from nalspark.lines import C_IV
from nalspark.mocks.inject import Population
from nalspark.mocks.recipes import Recipe, make_mocks
from nalspark.plots.style import new_figure
from nalspark.settings import load
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.arrays import given_spectra

Array = NDArray[np.float64]

SNR_EDGES = (0.0, 3.0, 6.0, 12.0, 25.0, 1000.0)
COPIES = 3
#: Rest wavelengths (Å) of the lines that have troughs at the same velocities, and the range of their optical depth over that of C IV.
LINES = ((1549.06, 1.0, 1.0), (1396.8, 0.0, 0.7), (1240.1, 0.3, 1.2))


def quasars(folder: Path, half: str) -> tuple[Searchable, list[str]]:
    """The real quasars of a folder that can be searched, of either half or both, and their names."""
    spectra, names = [], []
    for path in sorted(folder.glob("sp*.fit*")):
        try:
            spectra.append(nalspark.read_spectrum(path))
            names.append(path.name)
        except nalspark.errors.NalsparkError:
            continue
    given = given_spectra(spectra, None, None, None, None)
    found = Searchable.of(prepare(given.on_grid(range(len(given)), LATTICE), given.z, load()), given.z)
    rest = LATTICE.wavelength / (1.0 + found.z_qso[:, None])
    found = found.take(np.count_nonzero(found.spectra.good & (rest > 1425.0) & (rest < 1549.0), axis=1) > 325)
    number = np.arange(len(found.row))
    found = found.take({"even": number % 2 == 0, "odd": number % 2 == 1, "both": number >= 0}[half])
    found = found.take(np.isfinite(measure_balnicity(found.spectra, found.z_qso).bi))
    return found, [names[row] for row in found.row]


def optical_depth(v: Array, rng: np.random.Generator) -> list[Array]:
    """Optical depths of one outflow at velocities (km/s), an array for each of :data:`LINES`, whose velocities are the arrays of `v`."""
    width = np.exp(rng.uniform(np.log(1000.0), np.log(12_000.0)))
    middle, depth = rng.uniform(3000.0 + 0.5 * width, 25_000.0 - 0.5 * width), [np.zeros_like(v[0]) for _ in v]
    relative = [rng.uniform(low, high) for _, low, high in LINES]
    for _ in range(rng.integers(2, 10)):
        strength, sigma, centre = rng.exponential(0.6), width * rng.uniform(0.05, 0.4), middle + width * rng.uniform(-0.5, 0.5)
        for line in range(len(v)):
            depth[line] += relative[line] * strength * np.exp(-0.5 * ((v[line] - centre) / sigma) ** 2)
    return depth


def put_troughs(spectra: Spectra, light: Array, z_qso: Array, absorbed: NDArray[np.bool_], seed: int) -> tuple[Spectra, Array]:
    """Absorb some spectra, of noiseless flux `light` (n, p); also the true BI and AI, (n, 2)."""
    flux, true = spectra.flux.astype(float), np.zeros((len(z_qso), 2))
    for row in np.flatnonzero(absorbed):
        rest = LATTICE.wavelength / (1.0 + z_qso[row])
        half = 10.0 ** (0.5 * LATTICE.step)
        edges = velocity(np.append(rest / half, rest[-1] * half))
        depth = optical_depth(np.array([velocity(rest, line) for line, _, _ in LINES]), np.random.default_rng((seed, row)))
        true[row] = [integrate(np.exp(-depth[0]), np.ones(len(rest), bool), edges, index)[0] for index in (BI, AI)]
        flux[row] -= light[row] * -np.expm1(-sum(depth))
    return replace(spectra, flux=flux.astype(np.float32)), true


def mocks(n: int, seed: int) -> tuple[Spectra, Array, Array]:
    """Mock quasars without absorbers in which C IV's range is covered, their noiseless flux, their redshifts."""
    recipe = Recipe(C_IV, (Population(counts=(1.0, 0.0)),), seed=seed, contaminated=0.0, snr_min=1.0)
    made = make_mocks([f"balnicity-{number}" for number in range(n)], recipe)
    covered = np.isfinite(measure_balnicity(made.spectra, made.z_qso).ai)
    return made.spectra.take(covered), made.expected[covered], made.z_qso[covered]


def snr_of(spectra: Spectra, z_qso: Array) -> Array:
    """Median signal-to-noise ratio per pixel where BI is measured."""
    rest = LATTICE.wavelength / (1.0 + z_qso[:, None])
    use = spectra.good & (rest > 1425.0) & (rest < 1534.0)
    return np.array([np.median((spectra.flux[row] * np.sqrt(spectra.ivar[row]))[use[row]]) for row in range(len(z_qso))])


def prepared(spectra: Spectra, z_qso: Array) -> tuple[NDArray[np.int64], Balnicity]:
    """Which can be searched, and their balnicity."""
    found = Searchable.of(prepare(spectra, z_qso, load()), z_qso)
    return found.row, measure_balnicity(found.spectra, found.z_qso)


def tell(title: str, snr: Array, true: Array, measured: Balnicity) -> None:
    """Print the table of one kind of quasars."""
    print(f"\n{title}\n    S/N     n  BI>0 complete  >500  purity  false   BI - true      err |  AI>0 complete  false   AI - true")
    for low, high in [*zip(SNR_EDGES[:-1], SNR_EDGES[1:], strict=True), (SNR_EDGES[0], SNR_EDGES[-1])]:
        here = (snr >= low) & (snr < high) & np.isfinite(measured.bi)
        if not here.any():
            continue
        (bi, ai), plain = true[here].T, (true[here] == 0).all(axis=1)
        found, seen = measured.bi[here] > 0, measured.ai[here] > 3 * measured.ai_err[here]
        print(
            f"{low:4.0f}-{high:<5.0f}{here.sum():5d} {(bi > 0).sum():5d} {_share(found, bi > 0)} {_share(found, bi > 500)} "
            f"{_share(bi > 0, found)} {_share(found, plain)} {_spread((measured.bi[here] - bi)[bi > 0])} "
            f"{_middle(measured.bi_err[here][(bi > 0) & found])} | {(ai > 0).sum():5d} {_share(seen, ai > 0)} {_share(seen, plain)} "
            f"{_spread((measured.ai[here] - ai)[ai > 0])}"
        )


def _share(which: NDArray[np.bool_], of: NDArray[np.bool_]) -> str:
    return f"{np.mean(which[of]):7.3f}" if of.any() else "      -"


def _middle(values: Array) -> str:
    return f"{np.median(values):5.0f}" if len(values) else "    -"


def _spread(values: Array) -> str:
    if not len(values):
        return "          -"
    low, middle, high = np.percentile(values, [16, 50, 84])
    return f"{middle:+5.0f} ± {(high - low) / 2:4.0f}"


def draw(found: Searchable, names: list[str], measured: Balnicity, rows: NDArray[np.int64], folder: Path) -> None:
    """Draw spectra with their continua, eight a page."""
    fitted = unabsorbed_continuum(found.spectra, found.z_qso)
    for page in range(0, len(rows), 8):
        figure = new_figure((15.0, 16.0))
        for place, row in enumerate(rows[page : page + 8]):
            axes, pixel = figure.add_subplot(4, 2, place + 1), fitted.pixel[row]
            here = np.clip(pixel, 0, LATTICE.n_pixels - 1)
            flux = np.where(found.spectra.good[row, here] & (here == pixel), found.spectra.flux[row, here], np.nan)
            axes.plot(fitted.wavelength, np.convolve(flux, np.ones(5) / 5, mode="same"), lw=0.6)
            axes.plot(fitted.wavelength, fitted.continuum[row], "r", lw=1.0)
            axes.plot(fitted.wavelength, 0.9 * fitted.continuum[row], "r:", lw=0.7)
            axes.axvspan(1424.9, 1533.6, color="y", alpha=0.15)
            axes.set_ylim(0.0, 1.3 * float(np.nanpercentile(flux, 98)))
            axes.set_title(f"{names[row]} z={found.z_qso[row]:.2f} BI={measured.bi[row]:.0f} AI={measured.ai[row]:.0f}", fontsize=8)
        figure.savefig(folder / f"bal_{page // 8}.png", dpi=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=600, help="mock quasars")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--half", choices=("even", "odd", "both"), default="odd", help="of the real quasars")
    parser.add_argument("--figures", type=Path, help="folder for drawings of real quasars with BI > 0, or AI beyond 3 standard errors")
    options = parser.parse_args()
    spectra, light, z_qso = mocks(options.n, options.seed)
    absorbed = np.arange(len(z_qso)) % 2 == 0
    changed, true = put_troughs(spectra, light, z_qso, absorbed, options.seed)
    rows, measured = prepared(changed, z_qso)
    tell("mock quasars", snr_of(spectra, z_qso)[rows], true[rows], measured)
    found, names = quasars(options.folder, options.half)
    alone = measure_balnicity(found.spectra, found.z_qso)
    hosts = found.take((alone.bi == 0) & ~(alone.ai > 3 * alone.ai_err))
    number = np.repeat(np.arange(len(hosts.row)), COPIES)
    copied = Searchable(number, hosts.spectra.take(number), hosts.continuum[number], hosts.z_qso[number])
    absorbed = np.arange(len(copied.row)) % 2 == 0
    changed, true = put_troughs(copied.spectra, copied.continuum.astype(float), copied.z_qso, absorbed, options.seed)
    # The noise in a trough is the sky's: flux/continuum is not scaled, what the trough takes from the continuum is subtracted.
    tell("real quasars", snr_of(copied.spectra, copied.z_qso), true, measure_balnicity(changed, copied.z_qso))
    print(f"\nreal quasars as they are: {len(names)} cover C IV; {(alone.bi > 0).sum()} BI > 0")
    shown = np.flatnonzero((alone.bi > 0) | (alone.ai > 3 * alone.ai_err))
    for row in shown[np.argsort(-alone.bi[shown], kind="stable")]:
        values = f"BI {alone.bi[row]:6.0f} ± {alone.bi_err[row]:4.0f}  AI {alone.ai[row]:6.0f} ± {alone.ai_err[row]:4.0f}"
        print(f"{names[row]:28s} z {found.z_qso[row]:.3f}  {values}  {alone.ai_troughs[row].astype(int).tolist()}")
    if options.figures:
        draw(found, names, alone, shown, options.figures)


if __name__ == "__main__":
    main()
