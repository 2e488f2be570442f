"""Tables that a user gives: CSV, Parquet or FITS, by the end of the name."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import pandas as pd
import pyarrow
from astropy.io import fits
from astropy.table import Table

from nalspark.errors import CatalogError


def read_table(path: str | Path, what: str, columns: Iterable[str], *, as_text: bool = False) -> pd.DataFrame:
    """Read a table: CSV, Parquet or FITS.

    Parameters
    ----------
    path : path
    what : str
        What the table is, for messages.
    columns : iterable of str
        Those that it must have.
    as_text : bool
        Leave what a CSV file holds as it is written, for names that look like numbers; then only whole lines are comments.

    Raises
    ------
    CatalogError
        Where it cannot be read or lacks a column.
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix in (".fits", ".fit"):
            table = fits_table(path)
        elif as_text:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            table = pd.read_csv(StringIO("".join(line for line in lines if not line.startswith("#"))), dtype=str)
        else:
            table = pd.read_csv(path, comment="#")
    except (OSError, ValueError, TypeError, IndexError, pyarrow.ArrowException) as error:
        raise CatalogError(f"The {what} '{path}' cannot be read: {' '.join(str(error).split())}.") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise CatalogError(f"The {what} '{path}' has no column {', '.join(missing)}; it has {', '.join(table.columns[:20])}.")
    return table


def fits_table(path: Path) -> pd.DataFrame:
    """Read the first table of a FITS file; without columns where it has none."""
    with fits.open(path) as hdus:
        table = next((Table.read(hdu) for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), Table())
    table.convert_bytestring_to_unicode()
    return table.to_pandas()
