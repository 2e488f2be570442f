"""A result on disk, opened for reading: the one place where its published tables, its manifest and its settings are read without Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from astropy.table import QTable
from pydantic import BaseModel

from nalspark.errors import StoreError, did_you_mean
from nalspark.lines import SPECIES, LineSpecies
from nalspark.settings import Settings, from_tree
from nalspark.tables.manifest import Manifest
from nalspark.tables.quantities import to_qtable
from nalspark.tables.schemas import CANDIDATES, REJECTIONS, SIGHTLINES, absorbers_table, all_absorbers_table
from nalspark.tables.store import Store
from nalspark.tables.table import Table

PUBLISHED = ("absorbers", "sightlines", "rejections")
#: What is published with the catalogue once it is known what it is worth, and beside it in any case.
WORTH = ("completeness", "injections", "decoys")
BESIDE = ("sensitivity", *WORTH)


@dataclass(frozen=True)
class Result:
    """A result of ``nalspark find``, as :func:`open_result` gives it. Each table is read when it is first asked for.

    Attributes
    ----------
    root : Path
        Its directory.
    manifest : Manifest
        What it consists of, and from which causes.
    settings : Settings
        Those that it was made with.
    """

    root: Path
    manifest: Manifest
    settings: Settings

    def __repr__(self) -> str:
        rows = {name: self.manifest.published.get(f"{name}.parquet", "no") for name in PUBLISHED}
        return f"<Result {self.root}: {', '.join(f'{n} {name}' for name, n in rows.items())}>"

    @property
    def species(self) -> LineSpecies:
        """The line species that was searched.

        Raises
        ------
        SettingsError
            Where there are several: each has a result of its own.
        """
        return self.settings.line_species

    @cached_property
    def absorbers(self) -> QTable:
        """The catalogue: one row per absorber."""
        species = [SPECIES[name] for name in self.settings.species]
        return self._published(all_absorbers_table(species) if len(species) > 1 else absorbers_table(self.species))

    @cached_property
    def sightlines(self) -> QTable:
        """One row per searched spectrum, those without an absorber included."""
        return self._published(SIGHTLINES)

    @cached_property
    def rejections(self) -> QTable:
        """One row per file or spectrum that was not searched, with its reason."""
        return self._published(REJECTIONS)

    def candidates(self, columns: Sequence[str] | None = None) -> QTable:
        """Read the candidates, of which the catalogue is a choice.

        Parameters
        ----------
        columns : sequence of str, optional
            All that there are but the images by default: these are what is large.
        """
        small = [column.name for column in CANDIDATES.columns if not column.pixel_dtype]
        if CANDIDATES.name in self.manifest.tables and not self.manifest.rows(CANDIDATES.name)[0]:
            return to_qtable(CANDIDATES.arrow_schema.empty_table().select(list(columns or small)), CANDIDATES)
        if not columns:  # a result of an earlier version lacks some
            known = self.dataset(CANDIDATES.name).schema.names
            columns = [name for name in small if name in known]
        return to_qtable(self.table(CANDIDATES.name, columns), CANDIDATES)

    def has(self, name: str) -> bool:
        """Say whether the files of a table are all there; of a table that is not published, also whether it has any."""
        if name in PUBLISHED + BESIDE:
            return Store(self.root).published(f"{name}.parquet").exists()
        parts = [part for part in self.manifest.parts(name).values() if part.path]
        return bool(parts) and all((self.root / part.path).is_dir() for part in parts)

    def dataset(self, name: str) -> ds.Dataset:
        """Open a table without reading it: for those that do not fit into memory.

        Parameters
        ----------
        name : str
            ``absorbers``, ``sightlines``, ``rejections``, ``sensitivity``, of a catalogue whose worth is known also ``completeness``,
            ``injections`` and ``decoys``, or a table of the manifest (``searched``, ``candidates``, ``measured``, …).

        Raises
        ------
        StoreError
            Where there is no such table, or its files are not there, or are not readable as Parquet.
        SettingsError
            Where each of several species has its own.
        """
        store = Store(self.root)
        if name in PUBLISHED + BESIDE:
            source: Any = store.published(f"{name}.parquet")
            if not source.exists():
                _ = self.species  # of several species each has its own
                why = "the result is not published yet. Run stage 'publish' first."
                if name in WORTH:
                    why = f"`nalspark completeness {self.root}` makes it."
                raise StoreError(f"{source} is not there: {why}")
        elif self.has(name):
            source = [file for _, part in sorted(self.manifest.parts(name).items()) if part.path for file in store.files(part)]
        else:
            others = dict.fromkeys([*BESIDE, *sorted(self.manifest.tables)])
            known = [*PUBLISHED, *(table for table in others if self.has(table))]
            raise StoreError(f"{self.root} has no table '{name}'; it has {', '.join(known)}.{did_you_mean(name, known)}")
        return open_parquet(source)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a table, or some of its columns, as it lies on disk.

        Parameters
        ----------
        name : str
            As for :meth:`dataset`.
        columns : sequence of str, optional
            All by default.

        Raises
        ------
        StoreError
            As :meth:`dataset`, and where the table lacks a column.
        """
        return read_columns(self.dataset(name), columns, f"Table '{name}' of {self.root}")

    def _published(self, table: Table) -> QTable:
        return to_qtable(self.table(table.name), table)


def open_result(folder: str | Path) -> Result:
    """Open a result of ``nalspark find``.

    Settings that this version does not know, as results of earlier versions have them, are left out.

    Parameters
    ----------
    folder : path
        Its directory.

    Returns
    -------
    Result

    Raises
    ------
    StoreError
        Where the directory is not there or holds no result.
    SettingsError
        Where a setting has a value that this version does not allow.

    Examples
    --------
    >>> import nalspark
    >>> nalspark.open_result("DIR").absorbers["z_abs", "ew_2796"]  # doctest: +SKIP
    """
    store = Store(folder)
    if not store.manifest_path.is_file():
        raise StoreError(f"{store.root} is no result of nalspark: it has no manifest.json. Name the --out of `nalspark find`.")
    manifest = store.manifest()
    return Result(store.root, manifest, from_tree(_known(manifest.settings, Settings), str(store.manifest_path)))


def _known(tree: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """What of some settings a model has a field for."""
    result = {}
    for key, value in tree.items():
        field = model.model_fields.get(key)
        if field is not None:
            inner = field.annotation
            is_section = isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, Mapping)
            result[key] = _known(value, inner) if is_section else value  # type: ignore[arg-type]
    return result


def open_parquet(source: str | Path | Sequence[str]) -> ds.Dataset:
    """Open a Parquet file, a folder of them, or several files.

    Raises
    ------
    StoreError
        Where one is not readable as Parquet.
    """
    try:
        return ds.dataset(str(source) if isinstance(source, Path) else source, format="parquet", partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"'{source}' is not readable as Parquet: {error}.") from None


def read_columns(dataset: ds.Dataset, columns: Sequence[str] | None, where: str) -> pa.Table:
    """Read some columns of a Parquet dataset, all by default; `where` names it in messages.

    Raises
    ------
    StoreError
        Where it lacks one of them, or cannot be read.
    """
    missing = [name for name in columns or () if name not in dataset.schema.names]
    if missing:
        raise StoreError(f"{where} has no column '{missing[0]}'; it has {', '.join(dataset.schema.names)}.")
    try:
        return dataset.to_table(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{where} is not readable as Parquet: {error}.") from None
