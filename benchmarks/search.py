"""Continuum, matched filter and fit on simulated spectra: spectra per CPU second, candidates, and the doublets that are proposed.

    OMP_NUM_THREADS=1 python benchmarks/search.py --n 1000 --set search.min_significance=4.1

One thread, CPU time, the best of some runs; what compiles is compiled before. A doublet counts where the profile put in has 3 σ in both
lines, by the errors that the search uses, and its first line lies on a searched pixel; it is proposed where a candidate lies within 2
pixels. Wide systems of several clouds have their strongest part elsewhere than their centroid: the second fraction allows for their width.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from astropy.table import Table

from nalspark.absorption.chain import PIXELS, Candidates, Searchable, measure, on_lattice, prepare, propose
from nalspark.absorption.normalize import Normalized, searched_pixels
from nalspark.mocks.inject import Population
from nalspark.mocks.survey import simulate_survey
from nalspark.mocks.surveys.sdss import INSTRUMENT_SIGMA_KMS
from nalspark.settings import Settings, load
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.reader import open_spectrum
from nalspark.surveys.spectrum import SurveySpectrum

Given, Made = TypeVar("Given"), TypeVar("Made")

#: As many weak doublets as strong ones, in half of the spectra.
POPULATION = Population(ew_law="log-uniform", ew_min=0.15, ew_max=5.0)
#: Spectra of a batch, as Spark hands them over.
BATCH = 256


def simulated(n: int, seed: int) -> tuple[list[SurveySpectrum], np.ndarray, pd.DataFrame]:
    """Spectra as they are read, the true redshifts of the quasars, and the doublets put in."""
    with tempfile.TemporaryDirectory() as folder:
        simulate_survey(folder, n, seed, population=POPULATION, workers=1)
        read = [open_spectrum(path) for path in sorted(Path(folder, "spectra").glob("*/*.fits"))]
        truth, quasars = pd.read_parquet(Path(folder, "truth.parquet")), Table.read(Path(folder, "quasars.fits"))
    redshift = {f"{row['PLATE']:04d}-{row['MJD']}-{row['FIBERID']:04d}": float(row["Z"]) for row in quasars}
    return read, np.array([redshift[spectrum.spectrum_id] for spectrum in read]), truth


def normalized(read: list[SurveySpectrum], z_qso: np.ndarray, settings: Settings) -> Normalized:
    """What the stage `search` does first with a batch."""
    return prepare(on_lattice({name: [getattr(one, name) for one in read] for name in PIXELS}), z_qso, settings)


def timed(stage: Callable[[Given], Made], small: Given, parts: list[Given], runs: int) -> tuple[list[Made], float]:
    """Results, and CPU seconds of the best run; what compiles is compiled on a `small` part."""
    stage(small)
    best, result = np.inf, list[Made]()
    for _ in range(runs):
        started = time.process_time()
        result = [stage(part) for part in parts]
        best = min(best, time.process_time() - started)
    return result, best


def true_significance(truth: pd.DataFrame, names: list[str], ready: Searchable, settings: Settings) -> pd.DataFrame:
    """Of the doublets in searched spectra: row, pixel, σ in pixels, S/N of the weaker line, whether it lies on a searched pixel."""
    species, grid = settings.line_species, LATTICE
    row_of = {name: row for row, name in enumerate(names)}
    truth = truth[truth["spectrum_id"].isin(row_of)]
    row, wavelength = truth["spectrum_id"].map(row_of).to_numpy(), species.primary.wavelength * (1 + truth["z_abs"].to_numpy())
    width = np.hypot(truth["sigma_kms"].to_numpy(), INSTRUMENT_SIGMA_KMS) / grid.pixel_kms
    pixel, least = grid.pixel(wavelength), np.inf
    for line, equivalent_width in ((species.primary, truth["ew_primary"]), (species.secondary, truth["ew_secondary"])):
        centre = (pixel + species.offset_pixels(line, grid.step))[:, None]
        near = np.clip(np.round(centre).astype(int) + np.arange(-24, 25), 0, grid.n_pixels - 1)
        area = equivalent_width.to_numpy() / (line.wavelength * np.log(10.0) * grid.step)
        depth = area[:, None] / np.sqrt(2 * np.pi) / width[:, None] * np.exp(-0.5 * ((near - centre) / width[:, None]) ** 2)
        spectra, at = ready.spectra, (row[:, None], near)
        weight = spectra.ivar[at] * ready.continuum[at] ** 2 * (spectra.mask[at] == 0)
        least = np.minimum(least, np.sqrt((weight * depth**2).sum(axis=1)))
    searched = searched_pixels(ready.spectra, ready.continuum, ready.z_qso, species, settings.preprocess)
    inside = searched[row, np.clip(np.round(pixel).astype(int), 0, grid.n_pixels - 1)]
    return pd.DataFrame({"row": row, "pixel": pixel, "width": width, "snr": least, "searched": inside})


def report(doublets: pd.DataFrame, candidates: list[Candidates], n_spectra: int) -> None:
    """Candidates of a spectrum, those of no doublet, and the fraction of the doublets that are among them."""
    row, pixel = (np.concatenate([getattr(batch, name) for batch in candidates]) for name in ("row", "pixel"))
    found = pd.DataFrame({"row": row, "found": pixel.astype(float)})
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
    read, z, truth = simulated(options.n, options.seed)
    parts = [(read[start : start + BATCH], z[start : start + BATCH]) for start in range(0, len(read), BATCH)]
    made, seconds = timed(lambda part: normalized(*part, settings), (read[:2], z[:2]), parts, options.runs)
    ready = Searchable.of(normalized(read, z, settings), z)
    names, n = [read[row].spectrum_id for row in ready.row], len(ready.row)
    snr = np.concatenate([batch.snr for batch in made])
    print(f"{options.n} spectra, {n} usable, median S/N {np.nanmedian(snr):.1f}")
    print(f"normalize: {options.n / seconds:.0f} spectra per CPU second, {1e3 * seconds / options.n:.3f} ms each")
    ready = replace(ready, row=np.arange(n))
    batches = [ready.take(ready.row // BATCH == number) for number in range(-(-n // BATCH))]
    candidates, seconds = timed(lambda batch: propose(batch, settings), ready.take(ready.row < 2), batches, options.runs)
    print(f"search:    {n / seconds:.0f} spectra per CPU second, {1e3 * seconds / n:.3f} ms each")
    _, seconds = timed(lambda some: measure(some, None, settings), candidates[0].take(np.arange(2)), candidates, options.runs)
    print(f"fit:       {1e6 * seconds / sum(map(len, candidates)):.0f} µs a candidate")
    report(true_significance(truth, names, ready, settings), candidates, n)


if __name__ == "__main__":
    main()
