"""Which files of an archive a catalogue's quasars are in.

Files are known by numbers of the catalogue, by words of it (only such as may stand in a path), and by the HEALPix pixel of a position.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pandas as pd

from nalspark.errors import CatalogError
from nalspark.settings import PLAIN_WORD
from nalspark.surveys.catalogs import Catalog, Rows, read_rows
from nalspark.surveys.crossmatch.sky import fine_pixels, is_position
from nalspark.surveys.fits_table import printable
from nalspark.surveys.identity import FILE_NUMBERS, FILE_WORDS, PLATE_MJD_FIBER
from nalspark.surveys.release import DataRelease, FileKey

Defaults = Mapping[str, tuple[str, ...]]
Ids = tuple[int | str, ...]


@dataclass
class Wanted:
    """The files of a catalogue's quasars.

    Attributes
    ----------
    catalog : Catalog
    release : DataRelease
    defaults : mapping
        Words where the catalogue has none, by column: each quasar is looked for in all of them.
    not_selected : int
        Rows whose redshift is outside the release's range, so far.
    n_keys : int
        Of files that are known by pixel: how many there are; 0 as long as that is not known.
    """

    catalog: Catalog
    release: DataRelease
    defaults: Defaults
    not_selected: int = field(default=0, init=False)
    n_keys: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        known = {name for name, _ in (*self.catalog.columns, *self.catalog.files)}
        known |= {name for name, words in self.defaults.items() if words} | {*(PLATE_MJD_FIBER if self.catalog.pmf else ())}
        needed = [name for id in self.release.native_id for name in (("ra", "dec") if id == "healpix" else (id,))]
        if missing := [name for name in needed if name not in known]:
            raise CatalogError(
                f"Catalogue '{self.catalog.path}' has no column for {', '.join(missing)}; the files of {self.release.name} are known by "
                f"{', '.join(self.release.native_id)}. Give the catalogue that belongs to the release ({self.release.quasars.file}), or "
                "one with these columns."
            )

    def each(self) -> Iterator[FileKey | str]:
        """Give the keys of the files, some rows in memory; of rows that name none a sentence.

        Of files that are known by pixel all rows are read before the first key, and each file has one key; there are few. Of others the
        same key may come again.
        """
        found = set[Ids]()
        for ids in self._ids():
            if isinstance(ids, str):
                yield ids
            elif self.release.nside:
                found.add(ids)
            else:
                yield self.release.key(*ids)
        self.n_keys = len(found)
        yield from (self.release.key(*ids) for ids in sorted(found))

    def _ids(self) -> Iterator[Ids | str]:
        """What files are known by, the same one once in some rows; of rows that name none a sentence."""
        for rows in read_rows(self.catalog, [name for name in self.release.native_id if name in (*FILE_NUMBERS, *FILE_WORDS)]):
            chosen = self._in_range(rows["z"])
            self.not_selected += int((~chosen).sum())
            columns = [self._column(rows, name) for name in self.release.native_id]
            usable = np.logical_and.reduce([good for _, good, _ in columns])
            for at in np.flatnonzero(chosen & ~usable).tolist():
                yield self._nameless(rows, at, [good[at] for _, good, _ in columns])
            values = np.stack([codes for codes, _, _ in columns], axis=1)[chosen & usable]
            for row in np.unique(values, axis=0).tolist():
                spelled = [(value,) if words is None else words[value] for value, (_, _, words) in zip(row, columns, strict=True)]
                yield from product(*spelled)

    def _in_range(self, z: np.ndarray) -> np.ndarray:
        selection = self.release.selection
        with np.errstate(invalid="ignore"):
            outside = (z < selection.z_min) | (z > selection.z_max)
        return ~(outside | np.isnan(z)) if self.catalog.has_other_objects else ~outside

    def _column(self, rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray, list[tuple[str, ...]] | None]:
        """Values of an id as int64, which of them can be used, and, of words, what each value stands for."""
        if name in FILE_WORDS:
            codes, found = pd.factorize(rows[name])
            words = [self._words(name, word) for word in found]
            return codes.astype(np.int64), np.array([bool(one) for one in words])[codes], words
        if name == "healpix":
            values, good = np.full(len(rows["ra"]), -1, np.int64), is_position(rows["ra"], rows["dec"])
            values[good] = fine_pixels(rows["ra"][good], rows["dec"][good], self.release.nside.bit_length() - 1)
            return values, good, None
        values = rows[name].astype(np.int64)
        return values, values > 0, None

    def _words(self, name: str, word: str) -> tuple[str, ...]:
        """What a word of the catalogue stands for in a path; nothing where it must not stand there."""
        if not word:
            return self.defaults.get(name, ())
        return (word,) if re.fullmatch(PLAIN_WORD, word) else ()

    def _nameless(self, rows: Rows, at: int, good: list[bool]) -> str:
        bad = [name for name, usable in zip(self.release.native_id, good, strict=True) if not usable]
        shown = [f"{name} ('{printable(rows[name][at], 40)}')" if name in FILE_WORDS else name for name in bad]
        shown = ["ra, dec (no position on the sky)" if name == "healpix" else name for name in shown]
        return f"Row {rows['row'][at]} of {self.catalog.name} (counted from 0) has no usable {', '.join(shown)}."
