"""Column densities of single clouds: bias and scatter where unsaturated, and how many saturated ones the column `saturated` has.

    OMP_NUM_THREADS=1 python benchmarks/column_density.py [--n 4000] [--chain] [--snr 10 20 50]

A cloud has a Gaussian optical depth: in Mg II 2796, τ₀ is log-uniform from 0.05 to 30, b uniform from 10 to 60 km/s, seen through an
instrument of σ = 69 km/s. Counted are those of 3.5 standard errors or more in ew_2796. What is true:

* *saturated*: without noise, the apparent optical depth of the stronger line falls short of the true N by more than 0.1 dex, which for such
  clouds begins at τ₀ = 0.7 to 1.35;
* the weaker line then falls short by more than 0.05 dex.

Printed by signal-to-noise ratio per pixel:

* of unsaturated clouds: median and scatter (half of the central 68 %) of log_n minus the truth, the median standard error, and how many are
  within 0.05 dex or 2 standard errors of the truth (*within*); the same of log_n_2803;
* of saturated clouds: how many have `saturated`, with the binomial error;
* of unsaturated ones: how many have it all the same (*false*); of all that have it: how many are saturated (*purity*).

"true continuum": candidate images without a quasar. With --chain also: the same clouds in quasars, through continuum, search and fit. The
network is not asked.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption.chain import Searchable, detect, prepare
from nalspark.absorption.column_density import PER_OPTICAL_DEPTH
from nalspark.absorption.images import ImageGeometry, cut_images
from nalspark.absorption.measure import measure_candidates
from nalspark.lines import MG_II
from nalspark.mocks.inject import Absorbers, Clouds, equivalent_width, make_absorbers, transmission
from nalspark.mocks.quasars import quasar_flux
from nalspark.settings import load
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import LATTICE

Array = NDArray[np.float64]
Measured = dict[str, NDArray[Any]]

TAU, B_KMS, Z_ABS, Z_QSO = (0.05, 30.0), (10.0, 60.0), (0.7, 1.3), 1.6
#: ew_2796 over its error from which a cloud counts, and the shortfall of the stronger line from which it is saturated.
SIGNIFICANT, SHORTFALL = 3.5, 0.1
#: Quasars of a batch.
BATCH = 250


def clouds(n: int, rng: np.random.Generator) -> tuple[Absorbers, Array]:
    """Single clouds, and log10 of their column density in cm⁻²."""
    b, tau = rng.uniform(*B_KMS, n), np.exp(rng.uniform(*np.log(TAU), n))
    shape, line = Clouds.single(b), MG_II.primary
    ew = equivalent_width(line, tau[:, None], shape.b_kms, shape.velocity_kms)
    column = np.sqrt(np.pi) * b * tau * PER_OPTICAL_DEPTH / (line.strength * line.wavelength)
    return make_absorbers(MG_II, rng.uniform(*Z_ABS, n), ew, shape), np.log10(column)


def with_true_continuum(absorbers: Absorbers, snr: float, rng: np.random.Generator) -> Measured:
    """Measure their images; of the noise `snr` says, and without noise where it is infinite."""
    n, geometry, parts = len(absorbers), ImageGeometry.of(MG_II, LATTICE.step), []
    for first in range(0, n, BATCH):
        some = absorbers.take(slice(first, first + BATCH))
        row = np.arange(len(some))
        some = some.take(slice(None), row)
        residual = 1.0 - transmission(some, MG_II, LATTICE, len(some))
        residual += rng.standard_normal(residual.shape) / snr
        pixel = np.rint(LATTICE.pixel(MG_II.primary.wavelength * (1 + some.z))).astype(int)
        image = cut_images(residual.astype(np.float32), row, pixel, geometry)
        where = {"pixel": pixel, "width_pixels": np.full(len(some), 1.6)}
        parts.append(measure_candidates(image, np.full(image.shape, min(snr, 1000.0), np.float32), where, MG_II, LATTICE))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def through_the_chain(absorbers: Absorbers, snr: float, rng: np.random.Generator) -> Measured:
    """Put them into quasars, find and measure them; NaN, and not saturated, where no candidate lies within three pixels."""
    settings, parts = load(), []
    for first in range(0, len(absorbers), BATCH):
        some = absorbers.take(slice(first, first + BATCH))
        n = len(some)
        some, z_qso = some.take(slice(None), np.arange(n)), np.full(n, Z_QSO)
        quasar = np.stack([quasar_flux(LATTICE, Z_QSO, rng) for _ in range(n)])
        sigma = quasar / snr
        flux = quasar * transmission(some, MG_II, LATTICE, n) + sigma * rng.standard_normal(quasar.shape)
        spectra = Spectra(flux.astype(np.float32), (sigma**-2).astype(np.float32), np.zeros(flux.shape, np.uint8), LATTICE)
        measured = detect(Searchable.of(prepare(spectra, z_qso, settings), z_qso), None, settings).measured
        parts.append(_nearest(measured, some.z))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _nearest(measured: Measured, z: Array) -> Measured:
    """The candidate nearest to each spectrum's absorber."""
    names = ("log_n", "log_n_err", "log_n_2796", "log_n_2803", "snr_2796", "saturated")
    result = {name: np.full(len(z), np.nan) for name in names}
    distance = np.abs(np.log10((1 + measured["z_abs"]) / (1 + z[measured["row"]]))) / LATTICE.step
    for k in np.argsort(-distance):  # the nearest is written last
        if distance[k] < 3.0:
            for name in names:
                result[name][measured["row"][k]] = measured[name][k]
    return {**result, "saturated": result["saturated"] == 1.0}


def tell(measured: Measured, saturated: NDArray[np.bool_], true: Array) -> str:
    """One row of the printed table."""
    counted = measured["snr_2796"] >= SIGNIFICANT
    thick, thin = counted & saturated, counted & ~saturated
    off, error = (measured["log_n"] - true)[thin], measured["log_n_err"][thin]
    within = np.mean(np.abs(off) <= np.maximum(0.05, 2 * error))
    flagged, all_flagged = measured["saturated"], measured["saturated"][counted].sum()
    rate, false = flagged[thick].mean(), flagged[thin].mean()
    spread = np.sqrt(rate * (1 - rate) / thick.sum())
    return (
        f"{thin.sum():8d} {_middle(off)} {np.median(error):7.3f} {within:7.3f} {_middle((measured['log_n_2803'] - true)[thin])} "
        f"{thick.sum():9d} {rate:.3f} ± {spread:.3f} {false:8.3f} {flagged[thick].sum() / all_flagged:8.3f}"
    )


def _middle(values: Array) -> str:
    low, middle, high = np.nanpercentile(values, [16, 50, 84])
    return f"{middle:+8.3f} ± {(high - low) / 2:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000, help="clouds at each signal-to-noise ratio")
    parser.add_argument("--snr", type=float, nargs="+", default=[10.0, 20.0, 50.0, 200.0])
    parser.add_argument("--chain", action="store_true", help="also in quasars, through continuum and search")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    absorbers, true = clouds(options.n, rng)
    tau, exact = absorbers.tau[:, 0], with_true_continuum(absorbers, np.inf, rng)
    saturated = true - exact["log_n_2796"] > SHORTFALL
    worst = np.abs(exact["log_n"] - true)[~saturated].max()
    print(f"without noise: {saturated.mean():.3f} saturated; log_n of the others within {worst:.3f} dex")
    print(f"of saturated ones τ₀ > {tau[saturated].min():.2f}, of unsaturated ones τ₀ < {tau[~saturated].max():.2f}")
    print(f"{'':26s} unsaturated  log_n - true     err  within  log_n_2803 - true saturated  flagged          false  purity")
    for name, how in {"true continuum": with_true_continuum, **({"chain": through_the_chain} if options.chain else {})}.items():
        for snr in options.snr:
            print(f"{name:16s} S/N {snr:4.0f} {tell(how(absorbers, snr, rng), saturated, true)}", flush=True)


if __name__ == "__main__":
    main()
