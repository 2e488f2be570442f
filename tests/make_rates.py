"""A published result whose rates are known: sightlines, absorbers drawn from a law, a completeness that is a logistic function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nalspark.absorption.measure import velocity_from_quasar
from nalspark.absorption.sensitivity import BIN_PIXELS, bin_edges, bin_of
from nalspark.incidence import ZHU_MENARD_2013, PublishedLaw
from nalspark.judging.completeness import count, tabulate
from nalspark.judging.path import redshift_at
from nalspark.lines import MG_II
from nalspark.settings import load
from nalspark.tables.arrow import encode, objects
from nalspark.tables.manifest import Manifest, write_manifest
from nalspark.tables.schemas import COMPLETENESS, PUBLISHED_SENSITIVITY, absorbers_table

Array = NDArray[np.float64]
Columns = dict[str, Any]

#: The same law at every redshift, with many absorbers so that few sightlines say much.
CONSTANT = PublishedLaw("constant", lambda z: np.full(np.shape(z), 5.0), lambda z: np.full(np.shape(z), 0.65), (0.0, 9.0))
#: Least true W (Å), score of every row, and how many errors of W a sigma_ew is.
LEAST_EW, SCORE, ERROR_FACTOR = 0.02, 0.96, 1.2


def logistic(ew: Any, sigma_ew: Any, z: Any = 0.0) -> Array:
    """The completeness that the absorbers are found with, the same at every redshift."""
    return np.asarray(0.95 / (1.0 + np.exp(-(np.asarray(ew) / np.asarray(sigma_ew) - 4.5))) + 0.0 * np.asarray(z))


@dataclass(frozen=True)
class Survey:
    """Columns of the three published tables."""

    sensitivity: Columns
    absorbers: Columns
    completeness: Columns


def make_sensitivity(n: int, seed: int = 1, z_qso: tuple[float, float] = (0.6, 2.6), epochs: float = 0.1) -> Columns:
    """Sightlines of primary spectra; of some quasars a second, noisier one comes behind."""
    rng = np.random.default_rng(seed)
    z, level = rng.uniform(*z_qso, n), 0.1 * 10 ** rng.normal(0.0, 0.25, n)
    ra, dec = rng.uniform(110.0, 260.0, n), np.rad2deg(np.arcsin(rng.uniform(0.0, 0.8, n)))
    again = rng.permutation(n)[: int(epochs * n)]
    whose = np.concatenate([np.arange(n), again])
    primary = np.arange(len(whose)) < n
    level = np.where(primary, level[whose], 1.5 * level[whose])
    low = np.maximum(0.36, 1550.0 * (1.02 + z) / 2796.35 - 1.0)
    first, last = bin_of(MG_II, low), bin_of(MG_II, redshift_at(z, -3000.0))
    sigma, searched = [], []
    for row, of in enumerate(whose):
        bins = np.arange(first[of], last[of])
        shape = 1.0 + 0.5 * np.sin(bins / 40.0) + 2.0 * np.exp(-(((bins - 3450) / 60.0) ** 2))
        pixels = np.where(rng.uniform(size=len(bins)) < 0.05, rng.integers(0, BIN_PIXELS, len(bins)), BIN_PIXELS)
        sigma.append(np.where(pixels > 0, level[row] * shape, np.nan).astype(np.float16))
        searched.append(pixels.astype(np.uint8))
    return {
        "spectrum_id": objects([f"s{of:06d}" + ("" if first_epoch else "-2") for of, first_epoch in zip(whose, primary, strict=True)]),
        "object_id": objects([f"J{of:06d}" for of in whose]),
        "primary": primary,
        "ra": ra[whose], "dec": dec[whose], "z_qso": z[whose], "snr": (1.0 / level).astype(np.float32),
        "first_bin": first[whose].astype(np.int32), "sigma_ew": objects(sigma), "n_searched": objects(searched),
    }  # fmt: skip


def make_absorbers(
    sensitivity: Columns, law: PublishedLaw, completeness: Callable[..., Array] = logistic, seed: int = 2, false: float = 1 - SCORE
) -> Columns:
    """Absorbers of a law in every searched place, found by chance; a fraction of rows that are none stands between them."""
    rng = np.random.default_rng(seed)
    n = np.array([len(cell) for cell in sensitivity["sigma_ew"]])
    row = np.repeat(np.arange(len(n)), n)
    number = np.arange(n.sum()) + np.repeat(sensitivity["first_bin"] - (np.cumsum(n) - n), n)
    sigma, searched = np.concatenate(sensitivity["sigma_ew"]).astype(float), np.concatenate(sensitivity["n_searched"]) / BIN_PIXELS
    low, high = bin_edges(MG_II, number), bin_edges(MG_II, number + 1)
    expected = law.rate(0.5 * (low + high), LEAST_EW) * (high - low) * searched / (1.0 - false)
    place = np.repeat(np.arange(len(row)), rng.poisson(expected))
    z = rng.uniform(low[place], high[place])
    ew = LEAST_EW + law.w_star(z) * rng.exponential(size=len(z))
    found = rng.uniform(size=len(z)) < completeness(ew, sigma[place])
    place, z, ew = place[found], z[found], ew[found]
    error = ERROR_FACTOR * sigma[place] * rng.uniform(0.8, 1.2, len(z))
    of = row[place]
    names = ("spectrum_id", "object_id", "primary", "ra", "dec", "z_qso")
    return {name: sensitivity[name][of] for name in names} | {
        "absorber_id": objects([f"{sensitivity['spectrum_id'][r]}-{i}" for i, r in enumerate(of)]),
        "z_abs": z, "ew_2796": rng.normal(ew, error), "ew_2796_err": error, "sigma_ew": sigma[place].astype(np.float32),
        "velocity_kms": velocity_from_quasar(z, sensitivity["z_qso"][of]),
        "score": np.full(len(z), 1.0 - false), "flags": np.zeros(len(z), np.int32), "true_ew": ew,
    }  # fmt: skip


@lru_cache
def make_completeness(completeness: Callable[..., Array] = logistic, n: int = 200_000, seed: int = 3) -> Columns:
    """COMPLETENESS of many absorbers that were put in."""
    rng = np.random.default_rng(seed)
    ew, sigma = np.exp(rng.uniform(np.log(0.05), np.log(6.0), n)), 0.12 * 10 ** rng.normal(0.0, 0.35, n)
    found = rng.uniform(size=n) < completeness(ew, sigma)
    others = {"z_abs": rng.uniform(0.4, 2.2, n), "snr": 1.0 / sigma, "blended": np.zeros(n, dtype=bool)}
    return tabulate(count({"ew_primary": ew, "sigma_ew": sigma, "found": found, **others}))


def make_survey(n: int, law: PublishedLaw = ZHU_MENARD_2013, seed: int = 1, **sightlines: Any) -> Survey:
    """A survey of n quasars."""
    sensitivity = make_sensitivity(n, seed, **sightlines)
    return Survey(sensitivity, make_absorbers(sensitivity, law, seed=seed + 1), make_completeness())


def write_result(survey: Survey, folder: Path, settings: Mapping[str, Any] | None = None, *, completeness: bool = True) -> Path:
    """Write the published tables of a result with its manifest."""
    tables = {absorbers_table(MG_II): survey.absorbers, PUBLISHED_SENSITIVITY: survey.sensitivity}
    if completeness:
        tables[COMPLETENESS] = survey.completeness
    published = {}
    for table, columns in tables.items():
        place = folder / f"{table.name}.parquet"
        place.mkdir(parents=True)
        rows = pa.Table.from_batches([encode({name: columns[name] for name in table.names if name in columns}, table)])
        pq.write_table(rows, place / "part-0.parquet", row_group_size=20_000)
        (place / "_SUCCESS").touch()
        published[f"{table.name}.parquet"] = len(rows)
    write_manifest(Manifest(published=published, settings=load(**(settings or {})).model_dump(mode="json")), folder / "manifest.json")
    return folder
