"""Continuum and matched filter on simulated spectra: spectra per CPU second, candidates, and the doublets that are proposed.

    OMP_NUM_THREADS=1 python benchmarks/search.py --n 1000 --set search.min_significance=4.1

One thread, CPU time, the best of some runs; what compiles is compiled before. A doublet counts where the profile put in has 3 σ in both
lines, by the errors that the search uses, and its first line lies on a searched pixel; it is proposed where a candidate lies within 2
pixels. Wide systems of several clouds have their strongest part elsewhere than their centroid: the second fraction allows for their width.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table

from nalspark.absorption.normalize import searched_pixels
from nalspark.absorption.stages import normalize_columns, search_columns
from nalspark.mocks.inject import Population
from nalspark.mocks.survey import INSTRUMENT_SIGMA_KMS, simulate_survey
from nalspark.settings import Settings, load
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import SDSS_GRID
from nalspark.surveys.reader import open_spectrum
from nalspark.tables.arrow import Columns

#: As many weak doublets as strong ones, in half of the spectra.
POPULATION = Population(ew_law="log-uniform", ew_min=0.15, ew_max=5.0)
#: Spectra of a batch, as Spark hands them over.
BATCH = 256


def simulated(n: int, seed: int) -> tuple[Columns, pd.DataFrame]:
    """Columns that the stage `preprocess` gets, with the true redshifts of the quasars, and the doublets put in."""
    with tempfile.TemporaryDirectory() as folder:
        simulate_survey(folder, n, seed, population=POPULATION, workers=1)
        read = [open_spectrum(path) for path in sorted(Path(folder, "spectra").glob("*/*.fits"))]
        truth, quasars = pd.read_parquet(Path(folder, "truth.parquet")), Table.read(Path(folder, "quasars.fits"))
    names = ("spectrum_id", "plate", "mjd", "fiber", "ra", "dec", "loglam", "first_pixel", "flux", "ivar", "mask")
    columns = {name: as_column([getattr(spectrum, name) for spectrum in read]) for name in names}
    redshift = {f"{row['PLATE']:04d}-{row['MJD']}-{row['FIBERID']:04d}": float(row["Z"]) for row in quasars}
    columns["z_qso"] = np.array([redshift[name] for name in columns["spectrum_id"]])
    columns["part"] = np.full(len(read), "1", dtype=object)
    return columns, truth


def as_column(values: list[Any]) -> np.ndarray:
    """Objects, arrays among them, as a column."""
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = value
    return column


def batches(columns: Columns) -> list[Columns]:
    n = len(columns["z_qso"])
    return [{name: values[start : start + BATCH] for name, values in columns.items()} for start in range(0, n, BATCH)]


def joined(parts: list[Columns], names: Iterable[str]) -> Columns:
    return {name: as_column([value for part in parts for value in part[name]]) for name in names}


def usable(normalized: Columns) -> Columns:
    """Rows that can be searched, their pixels as arrays of shape (n, p)."""
    keep = np.flatnonzero([reason is None for reason in normalized["reason"]])
    return {name: np.stack([values[row] for row in keep]) for name, values in normalized.items()}


def timed(
    stage: Callable[[Columns, Settings], Columns], parts: list[Columns], settings: Settings, runs: int
) -> tuple[list[Columns], float]:
    """Results, and CPU seconds of the best run."""
    stage({name: values[:2] for name, values in parts[0].items()}, settings)
    best, result = np.inf, []
    for _ in range(runs):
        started = time.process_time()
        result = [stage(part, settings) for part in parts]
        best = min(best, time.process_time() - started)
    return result, best


def true_significance(truth: pd.DataFrame, ready: Columns, settings: Settings) -> pd.DataFrame:
    """Of doublets in searched spectra: row, pixel, Gaussian σ in pixels, S/N of the weaker line, whether it lies on a searched pixel."""
    species, grid = settings.line_species, SDSS_GRID
    row_of = {name: row for row, name in enumerate(ready["spectrum_id"])}
    truth = truth[truth["spectrum_id"].isin(row_of)]
    row, wavelength = truth["spectrum_id"].map(row_of).to_numpy(), species.primary.wavelength * (1 + truth["z_abs"].to_numpy())
    width = np.hypot(truth["sigma_kms"].to_numpy(), INSTRUMENT_SIGMA_KMS) / grid.pixel_kms
    pixel, least = grid.pixel(wavelength), np.inf
    for line, equivalent_width in ((species.primary, truth["ew_primary"]), (species.secondary, truth["ew_secondary"])):
        centre = (pixel + species.offset_pixels(line, grid.step))[:, None]
        near = np.clip(np.round(centre).astype(int) + np.arange(-24, 25), 0, grid.n_pixels - 1)
        area = equivalent_width.to_numpy() / (line.wavelength * np.log(10.0) * grid.step)
        depth = area[:, None] / np.sqrt(2 * np.pi) / width[:, None] * np.exp(-0.5 * ((near - centre) / width[:, None]) ** 2)
        weight = ready["ivar"][row[:, None], near] * ready["continuum"][row[:, None], near] ** 2 * (ready["mask"][row[:, None], near] == 0)
        least = np.minimum(least, np.sqrt((weight * depth**2).sum(axis=1)))
    spectra = Spectra(ready["flux"], ready["ivar"], ready["mask"], grid)
    searched = searched_pixels(spectra, ready["continuum"], ready["z_qso"].astype(float), species, settings.preprocess)
    inside = searched[row, np.clip(np.round(pixel).astype(int), 0, grid.n_pixels - 1)]
    return pd.DataFrame({"row": row, "pixel": pixel, "width": width, "snr": least, "searched": inside})


def report(doublets: pd.DataFrame, candidates: Columns, n_spectra: int) -> None:
    """Candidates of a spectrum, those of no doublet, and the fraction of the doublets that are among them."""
    found = pd.DataFrame({"row": candidates["fiber"].astype(int), "found": candidates["pixel"].astype(float)})
    pairs = doublets.reset_index().merge(found.reset_index(), on="row", suffixes=("", "_candidate"))
    pairs["apart"] = (pairs["found"] - pairs["pixel"]).abs()
    nearest = pairs.groupby("index")["apart"].min().reindex(doublets.index).fillna(np.inf)
    explained = pairs.loc[pairs["apart"] <= np.maximum(2.0, pairs["width"]), "index_candidate"].nunique()
    print(f"candidates per spectrum {len(found) / n_spectra:.2f}, of no doublet {(len(found) - explained) / n_spectra:.2f}")
    for low, high in ((3, np.inf), (2, 3), (3, 4), (4, 6), (6, np.inf)):
        chosen = doublets["searched"] & (doublets["snr"] >= low) & (doublets["snr"] < high)
        strict, wide = nearest[chosen] <= 2.0, nearest[chosen] <= np.maximum(2.0, doublets["width"][chosen])
        name = f">= {low} σ" if np.isinf(high) else f"{low} to {high} σ"
        print(f"  {name} in both lines: {chosen.sum()}, {strict.mean():.3f} proposed within 2 pixels, {wide.mean():.3f} within their own σ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings, as of `nalspark find`")
    options = parser.parse_args()
    settings = load(None, options.set)
    columns, truth = simulated(options.n, options.seed)
    normalized, seconds = timed(normalize_columns, batches(columns), settings, options.runs)
    ready = usable(joined(normalized, normalized[0].keys() - {"z_start", "z_stop"}))
    n = len(ready["z_qso"])
    ready["fiber"] = np.arange(n)
    print(f"{options.n} spectra, {n} usable, median S/N {np.median(ready['snr'].astype(float)):.1f}")
    print(f"normalize: {options.n / seconds:.0f} spectra per CPU second, {1e3 * seconds / options.n:.3f} ms each")
    found, seconds = timed(search_columns, batches(ready), settings, options.runs)
    print(f"search:    {n / seconds:.0f} spectra per CPU second, {1e3 * seconds / n:.3f} ms each")
    report(true_significance(truth, ready, settings), joined(found, ("fiber", "pixel")), n)


if __name__ == "__main__":
    main()
