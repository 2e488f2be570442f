"""Small results to look at, written without Spark: quasars with one absorber in each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from make_spectra import OFFSET, lines_at, make_spectra, system

from nalspark.absorption.stages import measure_columns, search_columns
from nalspark.lines import MG_II
from nalspark.settings import load
from nalspark.spectra.grid import LATTICE
from nalspark.tables.arrow import encode, objects
from nalspark.tables.manifest import Manifest, Part, write_manifest
from nalspark.tables.schemas import CANDIDATES, SPECTRA, TARGETS, absorbers_table
from nalspark.tables.table import Table

#: Names of spectra that are an attack on a page which takes them for anything but text.
HOSTILE = ("<script>window.hacked=1</script>", '"><img src=x onerror=window.hacked=1>', "${alert(1)}'`\\ &amp; \u202e")
#: Rows of a row group, as nalspark writes spectra.
_GROUP = 200


def write_absorbers(folder: Path, n: int, names: Sequence[str] | None = None, per_part: int = 500, *, repeat: bool = False) -> Path:
    """A result with an absorber in each of n spectra, in parts; scores and flags are drawn by chance.

    With `repeat` all parts hold the spectra of the first under other names, which takes a part of the time.
    """
    settings, parts = load(), dict[str, dict[str, Part]]()
    folder.mkdir(exist_ok=True)
    names = names or [f"0001-52000-{number:05d}" for number in range(n)]
    absorbers, tables = [], dict[str, dict[str, Any]]()
    for number, start in enumerate(range(0, n, per_part)):
        part = f"part{number:03d}"
        some = list(names[start : start + per_part])
        tables = _renamed(tables, some, part) if repeat and number else _part(some, part, start, settings)
        absorbers.append(tables["absorbers"])
        for table, columns in ((SPECTRA, tables["spectra"]), (TARGETS, tables["targets"]), (CANDIDATES, tables["candidates"])):
            parts.setdefault(table.name, {})[part] = write_part(folder, table, part, columns)
    place = folder / "absorbers.parquet"
    place.mkdir()
    rows = pa.Table.from_batches([encode(columns, absorbers_table(MG_II)) for columns in absorbers])
    pq.write_table(rows, place / "part-0.parquet")
    manifest = Manifest(tables=parts, published={"absorbers.parquet": len(rows)}, settings=settings.model_dump(mode="json"))
    write_manifest(manifest, folder / "manifest.json")
    return folder


def _part(names: list[str], part: str, seed: int, settings: Any) -> dict[str, dict[str, Any]]:
    rng, n = np.random.default_rng(seed), len(names)
    z = rng.uniform(1.2, 2.4, n)
    first = np.round(LATTICE.pixel(MG_II.primary.wavelength * (1 + rng.uniform(0.75, 1.05, n))) - OFFSET)
    spectra = make_spectra(z, 12.0, seed=seed, absorbed=np.array([lines_at(*system(pixel, 0.6)) for pixel in first]))
    who = {
        "spectrum_id": objects(names), "part": objects([part] * n), "path": objects([f"{part}/{row}.fits" for row in range(n)]),
        "ra": rng.uniform(0, 360, n), "dec": rng.uniform(-10, 60, n), "z_qso": z,
    }  # fmt: skip
    pixels = {"first_pixel": np.full(n, LATTICE.first, np.int32), "flux": spectra.flux, "ivar": spectra.ivar, "mask": spectra.mask}
    nothing = {name: objects([None] * n) for name in (*TARGETS.names, "loglam", "resolution", "scatter")}
    _, candidates, _ = search_columns({**nothing, **who, **pixels}, [settings])
    best = {}
    for row in np.argsort(candidates["significance"]):
        best[candidates["spectrum_id"][row]] = row
    rows = np.array(sorted(best.values()))
    candidates = {name: np.asarray(values)[rows] for name, values in candidates.items()}
    scored = {**candidates, "score": rng.uniform(0.6, 1.0, len(rows)).astype(np.float32)}
    absorbers = measure_columns(scored, settings) | {"species": objects(["MgII"] * len(rows))}
    absorbers["flags"] = rng.choice(np.array([0, 4, 6], np.int32), len(rows))
    return {"spectra": {**who, **pixels}, "targets": who, "candidates": candidates, "absorbers": absorbers}


def _renamed(tables: dict[str, dict[str, Any]], names: list[str], part: str) -> dict[str, dict[str, Any]]:
    """The same rows under other names in another part."""
    new = dict(zip(tables["spectra"]["spectrum_id"], names, strict=True))
    result = {}
    for kind, columns in tables.items():
        old = columns["spectrum_id"]
        own = {"spectrum_id": objects([new[name] for name in old]), "part": objects([part] * len(old))}
        for name in ("candidate_id", "absorber_id"):
            if name in columns:
                own[name] = objects([new[was] + full[len(was) :] for was, full in zip(old, columns[name], strict=True)])
        result[kind] = {**columns, **own}
    return result


def write_part(folder: Path, table: Table, part: str, columns: dict[str, Any]) -> Part:
    """Write the rows of one part of a table, and describe it for the manifest."""
    place = f"tables/{table.name}/run/in_part={part}"
    (folder / place).mkdir(parents=True)
    rows = encode({name: columns[name] for name in table.names if name in columns}, table)
    pq.write_table(pa.Table.from_batches([rows]), folder / place / "part-0.parquet", row_group_size=_GROUP)
    return Part("key", place, len(rows))
