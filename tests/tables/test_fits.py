"""FITS files and the data-model page, checked with astropy as the outside reader."""

from __future__ import annotations

import keyword
import re
import warnings
from enum import IntFlag
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table as AstropyTable

from nalspark.absorption.measure import AbsorberFlag
from nalspark.cli import data_model
from nalspark.errors import StoreError
from nalspark.lines import MG_II
from nalspark.tables import schemas
from nalspark.tables.data_model import bit_meanings, bit_words, data_model_page
from nalspark.tables.fits import write_fits
from nalspark.tables.table import Column, Table

SMALL = Table(
    "small",
    "One row per thing – with a dash.",
    (
        Column("name", "string", "Name", ucd="meta.id"),
        Column("width", "double", "Width in Å, χ² and σ", "Angstrom", "spect.line.eqWidth"),
        Column("speed", "float", "Speed " + "that needs a long sentence " * 5, "km/s"),
        Column("code", "int", "Code"),
        Column("big", "long", "Big", "byte"),
        Column("flux", "double", "Flux", "1e-17 erg/s/cm^2/Angstrom"),
        Column("good", "bool", "Good"),
        Column("flags", "int", "Bits"),
    ),
)
ROWS = {
    "name": ["a", None, "Ångström", "dd"],
    "width": [1.5, None, np.pi, -1.0],
    "speed": [1.0, 2.0, None, 4.0],
    "code": [1, None, 3, -4],
    "big": [2**40, 1, 2, 3],
    "flux": [0.0, 1.0, 2.0, 3.0],
    "good": [True, False, False, True],
    "flags": [0, 1, 2, 3],
}


class Bits(IntFlag):
    """Bits of a test."""

    BAL_LIKE = 1  #: like a BAL, by ± 3 σ
    SKY_LINE = 2  #: on a sky line


def write_parquet(folder: Path, table: Table = SMALL, rows: dict | None = None, name: str = "part-00000.parquet") -> list[Path]:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows or ROWS, schema=table.arrow_schema), folder / name)
    return [folder / name]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    assert write_fits(write_parquet(tmp_path / "small"), SMALL, tmp_path / "small.fits", {"flags": Bits}) == 4
    return tmp_path / "small.fits"


def test_astropy_reads_values_and_units(small: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = AstropyTable.read(small)
    table.convert_bytestring_to_unicode()
    assert table.colnames == SMALL.names
    assert [str(name) for name in table["name"].filled("")] == ["a", "", "\\xc5ngstr\\xf6m", "dd"]
    np.testing.assert_array_equal(np.ma.filled(table["width"], np.nan), [1.5, np.nan, np.pi, -1.0])
    np.testing.assert_array_equal(np.ma.filled(table["speed"], np.nan), [1.0, 2.0, np.nan, 4.0])
    assert table["code"].mask.tolist() == [False, True, False, False]
    assert table["code"][3] == -4 and table["big"][0] == 2**40
    assert table["good"].tolist() == [True, False, False, True]
    assert table["width"].unit == u.AA and table["speed"].unit == u.km / u.s and table["big"].unit == u.byte
    assert table["flux"].unit == u.Unit("1e-17 erg / (s cm2 Angstrom)")


def test_header_documents_columns_and_bits(small: Path) -> None:
    header = fits.getheader(small, 1)
    assert header["EXTNAME"] == "small" and header["TABDESC"] == "One row per thing - with a dash."
    assert header["TUCD1"] == "meta.id" and header["TCOMM2"] == "Width in Angstrom, chi^2 and sigma"
    assert header["TCOMM3"] == SMALL.columns[2].description.rstrip()
    assert header["FLAG0"] == "BAL_LIKE" and header["FLAGC0"] == "like a BAL, by +/- 3 sigma" and header["FLAG1"] == "SKY_LINE"
    assert header["TNULL4"] == -(2**31) and "TNULL5" not in header and "TNULL8" not in header
    assert "DATE" not in header


def test_file_is_valid_and_its_checksums_hold(small: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(small, checksum=True) as hdus:
            hdus.verify("exception")
            assert all(hdu.verify_checksum() == 1 and hdu.verify_datasum() == 1 for hdu in hdus)
    assert small.stat().st_size % 2880 == 0


@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
def test_checksum_holds_for_any_length(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A row of 13 bytes in batches of 7 rows: no batch ends on a 32-bit word.
    monkeypatch.setattr("nalspark.tables.arrow._BATCH_ROWS", 7)
    table = Table("odd", "Rows of 13 bytes.", (Column("x", "double", "x"), Column("name", "string", "name")))
    values = np.random.default_rng(rows).normal(size=rows)
    names = [f"{k:05d}" for k in range(rows)]
    files = write_parquet(tmp_path / "odd", table, {"x": values, "name": names})
    assert write_fits(files, table, tmp_path / "odd.fits") == rows
    with fits.open(tmp_path / "odd.fits", checksum=True) as hdus:
        assert hdus[1].verify_checksum() == 1 and hdus[1].verify_datasum() == 1
        np.testing.assert_array_equal(hdus[1].data["x"], values)
        assert list(hdus[1].data["name"]) == names


def test_a_null_among_truths_is_the_standards_zero_byte(tmp_path: Path) -> None:
    """A TNULL belongs to integers only (FITS standard 4.0, 7.2.2 and 7.3.3.1); some readers show the zero byte as false."""
    table = Table("t", "T.", (Column("good", "bool", "Good"),))
    write_fits(write_parquet(tmp_path / "t", table, {"good": [True, None, False]}), table, tmp_path / "t.fits")
    with fits.open(tmp_path / "t.fits") as hdus:
        assert hdus[1].header["TFORM1"] == "L" and "TNULL1" not in hdus[1].header
        start = hdus[1].fileinfo()["datLoc"]
    assert (tmp_path / "t.fits").read_bytes()[start : start + 3] == b"T\0F"


def test_files_come_in_their_order(tmp_path: Path) -> None:
    table = Table("t", "T.", (Column("k", "int", "k"),))
    files = [file for k in (1, 0) for file in write_parquet(tmp_path / "t", table, {"k": [k]}, f"{k}.parquet")]
    assert write_fits(files, table, tmp_path / "t.fits") == 2
    assert fits.getdata(tmp_path / "t.fits")["k"].tolist() == [1, 0]


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    files = write_parquet(tmp_path / "small")
    for name in ("a.fits", "b.fits"):
        write_fits(files, SMALL, tmp_path / name)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


def test_null_value_that_is_also_data_is_refused(tmp_path: Path) -> None:
    table = Table("t", "T.", (Column("k", "int", "k"),))
    with pytest.raises(StoreError, match="stands for null"):
        write_fits(write_parquet(tmp_path / "t", table, {"k": [None, -(2**31)]}), table, tmp_path / "x.fits")


def test_absorbers_table_and_its_flags(tmp_path: Path) -> None:
    table = schemas.absorbers_table(MG_II)
    rows = {name: pa.nulls(3, field.type) for name, field in zip(table.names, table.arrow_schema, strict=True)}
    write_fits(write_parquet(tmp_path / "absorbers", table, rows), table, tmp_path / "absorbers.fits", {"flags": AbsorberFlag})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(tmp_path / "absorbers.fits", checksum=True) as hdus:
            hdus.verify("exception")
            names = [hdus[1].header[f"FLAG{bit}"] for bit in range(len(AbsorberFlag))]
    assert names == list(AbsorberFlag.__members__)
    assert len(AstropyTable.read(tmp_path / "absorbers.fits")) == 3


# ---- data model


def test_every_bit_of_the_catalogue_has_a_meaning() -> None:
    assert all(bit_meanings(AbsorberFlag).values())
    assert bit_meanings(Bits) == {"BAL_LIKE": "like a BAL, by ± 3 σ", "SKY_LINE": "on a sky line"}


def test_bits_as_words() -> None:
    assert bit_words(0, Bits) == ()
    assert bit_words(3, Bits) == ("BAL like", "sky line")
    assert bit_words(8, Bits) == ("bit 3",)


def test_page_names_every_column_and_bit() -> None:
    page = data_model_page([SMALL, schemas.MATCHES], {"flags": Bits})
    for column in (*SMALL.columns, *schemas.MATCHES.columns):
        assert f"| `{column.name}` |" in page
    assert "| 1 | 2 | `SKY_LINE` | on a sky line |" in page
    assert "[bits](#bits-of-flags)" in page and "## Bits of flags" in page


def test_the_page_names_the_columns_that_are_no_attributes_of_a_pandas_frame() -> None:
    introduction, _, tables = data_model().partition("| table | a row is |")
    names = re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE)
    taken = {name for name in names if hasattr(pd.DataFrame, name) or keyword.iskeyword(name)}
    assert "flags" in taken and all(f"`df.{name}`" in introduction or f"`{name}`" in introduction for name in taken)
    frame = pd.DataFrame({"flags": [0, 4]})
    assert frame["flags"].tolist() == [0, 4] and not isinstance(frame.flags, pd.Series)


def test_committed_page_is_the_generated_one() -> None:
    committed = Path(__file__).parents[2] / "docs" / "data_model.md"
    assert committed.read_text(encoding="utf-8") == data_model(), (
        "docs/data_model.md is out of date: nalspark data-model > docs/data_model.md"
    )
