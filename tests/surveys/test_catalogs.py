"""Catalogues: every format gives the same rows, every map its columns, every fault a sentence."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import json
import lzma
import shutil
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.table import Table

from nalspark.errors import CatalogError
from nalspark.surveys import catalog_files, catalog_text, catalogs
from nalspark.surveys.catalogs import (
    Catalog,
    canonical_schema,
    conf_dir,
    equivalent_width_quantiles,
    load_maps,
    open_catalog,
    read_rows,
    rows_given,
    write_parquet,
)

QUASARS = {
    "PLATE": np.array([266, 7102, -1, 0], np.int16),
    "MJD": np.array([51630, 56666, -9999, 51630], np.int32),
    "FIBERID": np.array([3, 142, -1, 4], np.int32),
    "RA": np.array([146.9, 0.25, np.nan, -9999.0]),
    "DEC": np.array([-0.7, 89.5, 12.0, -9999.0]),
    "Z": np.array([0.65, np.nan, 2.5, 1.25], np.float32),
}
EXPECTED = {
    "row": np.arange(4),
    "plate": np.array([266, 7102, -1, -1]),
    "mjd": np.array([51630, 56666, -1, 51630]),
    "fiber": np.array([3, 142, -1, 4]),
    "ra": QUASARS["RA"],
    "dec": QUASARS["DEC"],
    "z": QUASARS["Z"].astype(float),
}


def write_fits(path: Path) -> None:
    Table(QUASARS).write(path)


def write_csv(path: Path) -> None:
    rows = [
        "PLATE,MJD,FIBERID,RA,DEC,Z",
        "0266,51630,3,146.9,-0.7,0.65",
        "7102,56666,142,0.25,89.5,NaN",
        "-1,-9999,-1,,12,2.5",
        "0,51630,4,-9999,-9999,1.25",
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_plain_parquet(path: Path) -> None:
    pq.write_table(pa.table(QUASARS), path, row_group_size=3)


def write_npz(path: Path) -> None:
    np.savez_compressed(path, **{name: values.astype(float) for name, values in QUASARS.items()})


WRITERS = {"q.fits": write_fits, "q.csv": write_csv, "q.parquet": write_plain_parquet, "q.npz": write_npz}


def whole(catalog: Catalog) -> dict[str, np.ndarray]:
    """All rows at once."""
    batches = list(read_rows(catalog))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def packed(path: Path, packing: str) -> Path:
    target = path.with_name(f"{path.name}.{packing}")
    target.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[packing].compress(path.read_bytes()))
    return target


@pytest.mark.parametrize("rows_at_once", [1, 3, 1000])
@pytest.mark.parametrize("name", [*WRITERS, "q.fits.gz", "q.csv.gz", "q.fits.bz2", "q.csv.xz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_files, "ROWS_AT_ONCE", rows_at_once)
    plain, packing = ".".join(name.split(".")[:2]), name.split(".")[2:]
    WRITERS[plain](tmp_path / plain)
    path = packed(tmp_path / plain, *packing) if packing else tmp_path / plain
    catalog = open_catalog(path, "quasars")
    assert (catalog.name, catalog.kind, catalog.n_rows, catalog.map) == (name, "quasars", 4, "generic_quasars")
    batches = list(read_rows(catalog))
    assert max(len(batch["row"]) for batch in batches) <= rows_at_once or "csv" in name  # of CSV so many bytes are read at once
    rows = whole(catalog)
    assert list(rows) == canonical_schema("quasars").names
    for column, values in EXPECTED.items():
        np.testing.assert_allclose(rows[column], values, rtol=1e-6, err_msg=column)
        assert rows[column].dtype.isnative


def test_the_digest_follows_content_only(tmp_path: Path) -> None:
    write_fits(tmp_path / "a.fits")
    catalog = open_catalog(tmp_path / "a.fits", "quasars")
    shutil.copy(tmp_path / "a.fits", tmp_path / "b.fits")
    assert open_catalog(tmp_path / "b.fits", "quasars").digest == catalog.digest
    Table({**QUASARS, "Z": QUASARS["Z"] + 1}).write(tmp_path / "c.fits")
    assert open_catalog(tmp_path / "c.fits", "quasars").digest != catalog.digest


@pytest.mark.parametrize("nl", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "text",
    [
        "plate,mjd,fiber,z\n1,2,3,.5\n",
        "\ufeffPlate , MJD,Fiber,Redshift\n1,2,3,.5\n",
        "# made by hand\n# plate\tmjd\tfiber\tz\n1\t2\t3\t.5\n",
        "# a comment, only\nplate;mjd;fiber;zqso\n1;2;3;.5\n",
        'name,z,plate,mjd,fiber\n"a, b",.5,1.0,2,003\n',
        "plate_mjd_fiber,z_qso\n0001-00002-0003,0.5\n",
    ],
)
def test_spellings_of_csv(tmp_path: Path, text: str, nl: str) -> None:
    (tmp_path / "q.csv").write_bytes(text.replace("\n", nl).encode())
    rows = whole(open_catalog(tmp_path / "q.csv", "quasars"))
    assert [rows[name].item() for name in ("plate", "mjd", "fiber", "z")] == [1, 2, 3, 0.5]


#: One quasar, as VizieR, TOPCAT, data bases, spreadsheets and astropy write it.
TEXTS = {
    "VizieR, semicolons": [
        "#RESOURCE=yCat",
        "#Column\tRAJ2000\t(F10.6)",
        "",
        "RAJ2000;DEJ2000;Plate;MJD;Fiber;z",
        "deg;deg; ;d; ; ",
        "---;---;-;-;--;--",
        "4.25;13.5;752;52251;44;1.82",
        "",
        "#END#",
    ],
    "VizieR, widths": [
        "#Title",
        "   RAJ2000 note DEJ2000 Plate MJD   Fiber zVI ",
        "   deg          deg           d                 ",
        "---------- ---- ------- ----- ----- ----- ----",
        " 4.2500000         13.5   752 52251    44 1.82",
    ],
    "ECSV": [
        "# %ECSV 1.0",
        "# ---",
        "# datatype:",
        "# - {name: RA, datatype: float64}",
        "# schema: astropy-2.0",
        "RA DEC PLATE MJD FIBERID Z NAME",
        '4.25 13.5 752 52251 44 1.82 "J 0017"',
    ],
    "IPAC": [
        "\\fixlen = T",
        "|  ra|  dec|plate|  mjd|fiber|    z|",
        "|   d|    d|    i|    i|    i|    d|",
        " 4.25  13.5   752 52251    44  1.82 ",
    ],
    "SExtractor": [
        "#   1 RA  [deg]",
        "#   2 DEC  [deg]",
        "#   3 PLATE",
        "#   4 MJD",
        "#   5 FIBER",
        "#   6 Z  redshift",
        "4.25 13.5 752 52251 44 1.82",
    ],
    "RDB": [
        "ra\tdec\tplate\tmjd\tfiber\tz",
        "5N\t5N\t4N\t5N\t3N\t4N",
        "4.25\t13.5\t752\t52251\t44\t1.82",
    ],
    "box": [
        "+----+----+-----+-----+-----+----+",
        "| ra | dec| plate| mjd | fiber | z |",
        "+----+----+-----+-----+-----+----+",
        "| 4.25 | 13.5 | 752 | 52251 | 44 | 1.82 |",
        "+----+----+-----+-----+-----+----+",
    ],
    "LaTeX": [
        "\\begin{tabular}{cccccc}",
        "ra & dec & plate & mjd & fiber & z \\\\",
        "4.25 & 13.5 & 752 & 52251 & 44 & 1.82 \\\\",
        "\\end{tabular}",
    ],
    "spreadsheet": [
        "sep=;",
        "ra;dec;plate;mjd;fiber;z",
        "4,25;13,5;752;52251;44;1,82",
    ],
    "quotes and blanks": [
        "name, ra, dec, plate, mjd, fiber, z",
        '"a, b", "4.25", 13.5, 752, 52251, 44, 1.82',
    ],
    "header of comments": [
        "# objects of the night",
        "# ra dec plate mjd fiber z",
        "# deg deg - d - -",
        "4.25\t 13.5 752 52251 44 1.82",
    ],
    "a comment with names": [
        "# z is the redshift, ra and dec the position",
        "note\tra\tname\tdec\tclass\tredshift\tplate\tmjd\tfiber",
        "a b\t4.25\tQ 1\t13.5\tQSO\t1.82\t752\t52251\t44",
    ],
    "units in brackets": [
        "RA [deg],DEC (J2000),Plate,MJD,Fiber,z",
        "4.25,+13.5,752,52251,44,1.82",
    ],
    "VizieR's DR12Q": [
        "RAdeg,DEdeg,ThingID,Plate,MJD,Fiber,zVI,zPipe,zPCA",
        "4.25,13.5,5,752,52251,44,1.82,1.81,1.83",
    ],
    "a magnitude z": [
        "ra,dec,u,g,r,i,z,redshift,plate,mjd,fiberid",
        "4.25,13.5,19,18,17,16,15.5,1.82,752,52251,44",
    ],
    "two columns of a name": [
        "ra,dec,plate,mjd,fiber,z,z,ra",
        "4.25,13.5,752,52251,44,1.82,0.1,9.9",
    ],
    "delimiters at the ends": [
        "ra,dec,plate,mjd,fiber,z",
        "4.25,13.5,752,52251,44,1.82,",
    ],
    "tabs at the ends": ["name\tra\tdec\tplate\tmjd\tfiber\tz\t", "a b\t4.25\t13.5\t752\t52251\t44\t1.82\t", "", "#"],
    "hours and minutes": [
        "ra,dec,plate,mjd,fiber,z",
        "00:17:00.0,+13:30:00,752,52251,44,1.82D+00",
    ],
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("nl", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", TEXTS)
def test_texts_as_people_have_them(tmp_path: Path, name: str, nl: str, encoding: str) -> None:
    (tmp_path / "q.txt").write_bytes((nl.join(TEXTS[name]) + nl).encode(encoding))
    rows = whole(open_catalog(tmp_path / "q.txt", "quasars"))
    assert np.isnan(rows.pop("z_err")).all()
    assert {column: values.tolist() for column, values in rows.items()} == {
        "row": [0], "plate": [752], "mjd": [52251], "fiber": [44], "targetid": [-1], "catalogid": [-1],
        "ra": [4.25], "dec": [13.5], "z": [1.82],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# a comment\n\nplate,mjd,fiber,z\n1,2,3,0.5\n# another\n1,2,3,4,0.5\n",
            "line 6 has 5 fields .*line 3, .* has 4; separated by ','",
        ),
        ("plate mjd fiber z\n1 2 3 0.5\n\n1 2 3\n", "line 4 has 3 fields .*separated by 'blanks'"),
        ("plate;mjd;fiber;z\n;;;\n1;2;3;0.5\n1;2;3;0.5 (?)\n", "Column 'z' .*line 4, .*'0.5 \\(\\?\\)'"),
        ("plate  mjd  fiber  z  \n-----  ---  -----  ---\n1      2    3      0.5\n12345678 90 3      0.5\n", "line 4 has 5 fields"),
        ("# by hand\n1,2,3,0.5\n1,2,4,0.6\n", "line 2 .* has numbers, but the first line of a table names its columns"),
        ("plate,mjd,fiber,z\n1,2,3,0.5\nplate,mjd,fiber,ra,dec,z\n1,2,3,4,5,0.5\n", "line 3 has 6 fields"),  # two tables in one file
        ("ra,dec,z\n25:00:00,+10:00:00,1\n", "Column 'ra' .*line 2, .*'25:00:00'"),
    ],
)
def test_faults_of_text_name_the_line_and_the_column(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(CatalogError, match=message):
        whole(open_catalog(tmp_path / "q.csv", "quasars"))


def test_the_line_of_a_fault_far_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_text, "BLOCK", 1000)
    lines = ["plate,mjd,fiber,z", *["1,2,3,0.5", "# comment"] * 300, "1,2,3,many", *["1,2,3,0.5"] * 300]
    (tmp_path / "q.csv").write_text("\n".join(lines))
    with pytest.raises(CatalogError, match="line 602, holds text .*'many'"):
        whole(open_catalog(tmp_path / "q.csv", "quasars"))
    lines[601] = "1,2,3,0.5,"
    (tmp_path / "q.csv").write_text("\n".join(lines))
    with pytest.raises(CatalogError, match="line 602 has 5 fields"):
        open_catalog(tmp_path / "q.csv", "quasars")


def test_hours_and_degrees_are_those_of_astropy(tmp_path: Path) -> None:
    hours, degrees = ["00:17:10.86", "23 59 59.99", "12h58m00s", ""], ["-00:30:00.5", "+89 59 59", "10d00m00s", "1:2:3"]
    rows = ["ra,dec,z", *(f"{a},{b},1.5" for a, b in zip(hours, degrees, strict=True))]
    (tmp_path / "q.csv").write_text("\n".join(rows))
    read = whole(open_catalog(tmp_path / "q.csv", "quasars"))
    np.testing.assert_allclose(read["ra"], [*Angle(hours[:3], "hourangle").deg, np.nan], rtol=1e-14)
    np.testing.assert_allclose(read["dec"], Angle(degrees, "deg").deg, rtol=1e-14)


def test_fill_values_are_no_redshifts(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(
        "plate,mjd,fiber,z\n" + "".join(f"1,2,3,{z}\n" for z in ("-999", "-1", "NaN", "", "--", "0", "99.99", "0.5", "7"))
    )
    catalog = open_catalog(tmp_path / "q.csv", "quasars")
    np.testing.assert_array_equal(whole(catalog)["z"], [np.nan] * 7 + [0.5, 7.0])
    given = rows_given(write_parquet(catalog, tmp_path / "converted"))
    assert given == {"row": 9, "plate": 9, "mjd": 9, "fiber": 9, "targetid": 0, "catalogid": 0, "ra": 0, "dec": 0, "z": 2, "z_err": 0}


#: Columns of a list of quasars, and which holds the error of its redshift; none where it is that of another redshift.
ERRORS = {
    "Z,Z_ERR,Z_PIPE,Z_PIPE_ERR": "Z_ERR",  # DR14Q
    "Z,ZERR,ZWARN": "ZERR",  # DESI
    "zem,e_zem": "e_zem",
    "Z_VI,Z_PIPE,Z_PIPE_ERR": None,
    "Z_PCA,ERR_ZPIPE,ERR_ZPCA": "ERR_ZPCA",
    "zQSO,z,z_err": None,  # the absorber's
    "z_qso,z_qso_err": "z_qso_err",
    "redshift,redshift_error": "redshift_error",
    "z": None,
}


@pytest.mark.parametrize("names", ERRORS)
def test_the_error_of_a_redshift_is_that_of_the_redshift_taken(tmp_path: Path, names: str) -> None:
    columns, error = names.split(","), ERRORS[names]
    table = {name: [0.5, 0.6, 0.7, 0.8, 0.9] for name in columns} | {"TARGETID": [1, 2, 3, 4, 5]}
    if error:
        table[error] = [3e-4, -1.0, np.nan, 0.0, np.inf]
    Table(table).write(tmp_path / "q.fits")
    catalog = open_catalog(tmp_path / "q.fits", "quasars")
    assert dict(catalog.columns)["z"] == columns[0] and dict(catalog.columns).get("z_err") == error
    np.testing.assert_array_equal(whole(catalog)["z_err"], [3e-4 if error else np.nan, *[np.nan] * 4])
    assert rows_given(write_parquet(catalog, tmp_path / "converted"))["z_err"] == (error is not None)


def test_the_maps_that_name_an_error(tmp_path: Path) -> None:
    """And DR12Q's has none: its visual redshifts have no errors, though those of its pipeline do."""
    header = "THING_ID,PLATE,MJD,FIBERID,Z_VI,Z_PIPE,ERR_ZPIPE"
    (tmp_path / "q.csv").write_text(f"{header}\n1,2,3,4,0.5,0.6,0.001\n")
    catalog = open_catalog(tmp_path / "q.csv", "quasars")
    assert catalog.map == "dr12q" and np.isnan(whole(catalog)["z_err"]).all()
    (tmp_path / "s.csv").write_text("FIELD,MJD,CATALOGID,CLASS,Z,Z_ERR\n1,2,3,QSO,0.5,0.001\n")
    (tmp_path / "r.csv").write_text("TARGETID,Z,ZERR,ZWARN,SPECTYPE\n3,0.5,0.001,0,QSO\n")
    for name, expected in (("s.csv", "sdssv_spall"), ("r.csv", "desi_redrock")):
        catalog = open_catalog(tmp_path / name, "quasars")
        assert catalog.map == expected and whole(catalog)["z_err"].tolist() == [0.001]


def test_right_ascensions_from_minus_180_are_wrapped(tmp_path: Path) -> None:
    Table({"RA": [-0.5, -180.0, 359.5, -1.0, -999.0], "DEC": [1.0, 1.0, 1.0, -1.0, -999.0], "Z": [1.0] * 5}).write(tmp_path / "q.fits")
    assert whole(open_catalog(tmp_path / "q.fits", "quasars"))["ra"].tolist() == [359.5, 180.0, 359.5, -1.0, -999.0]


@pytest.mark.parametrize("form", ["tabledata", "binary", "binary2"])
def test_votables(tmp_path: Path, form: str) -> None:
    """Whatever the order of the columns: astropy gives those that are asked for in another order wrong names."""
    names = ["Z", "FIBERID", "RA", "NAME", "DEC", "MJD", "PLATE"]
    table = Table({**QUASARS, "NAME": ["a", "b b", "", "d"]}, masked=True)[names]
    table["Z"].mask = [False, True, False, False]
    table.write(tmp_path / "q.xml", format="votable", tabledata_format=form)
    rows = whole(open_catalog(tmp_path / "q.xml", "quasars"))
    for column, values in EXPECTED.items():
        np.testing.assert_allclose(rows[column], values, rtol=1e-6, err_msg=column)


def test_a_folder_of_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "q.parquet"
    for plate in (266, 7102):
        (folder / f"plate={plate}").mkdir(parents=True)
        pq.write_table(pa.table({"mjd": [51630], "fiber": [3], "z": [plate / 1000]}), folder / f"plate={plate}" / "part-0.snappy.parquet")
    (folder / "_SUCCESS").touch()
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "part-1.parquet").write_bytes(b"half")
    catalog = open_catalog(folder, "quasars")
    rows = whole(catalog)
    assert (catalog.name, rows["plate"].tolist(), rows["z"].tolist()) == ("q.parquet", [266, 7102], [0.266, 7.102])
    (folder / "plate=7102" / "part-0.snappy.parquet").rename(folder / "plate=266" / "part-1.parquet")
    assert open_catalog(folder, "quasars").digest != catalog.digest


@pytest.mark.parametrize("fibers", [(44, 5), (3, 4)], ids=["falling", "rising"])
def test_the_index_of_a_pandas_table_is_a_column(tmp_path: Path, fibers: tuple[int, int]) -> None:
    """pandas keeps an index of equal steps as three numbers beside the columns."""
    frame = pd.DataFrame({"plate": [752, 266], "mjd": [52251, 51602], "ra": [10.0, 20.0], "dec": [1.0, 2.0], "z": [1.5, 0.5]})
    frame.index = pd.RangeIndex(fibers[0], fibers[1] + np.sign(fibers[1] - fibers[0]), fibers[1] - fibers[0], name="fiberid")
    frame.to_parquet(tmp_path / "q.parquet")
    assert "fiberid" not in pq.read_schema(tmp_path / "q.parquet").names
    rows = whole(open_catalog(tmp_path / "q.parquet", "quasars"))
    assert (rows["plate"].tolist(), rows["fiber"].tolist()) == ([752, 266], list(fibers))
    folder = tmp_path / "folder.parquet"
    folder.mkdir()
    for number in range(2):
        frame.iloc[number : number + 1].to_parquet(folder / f"{number}.parquet")
    assert whole(open_catalog(folder, "quasars"))["fiber"].tolist() == list(fibers)


def test_of_the_index_of_a_larger_table_nothing_is_made(tmp_path: Path) -> None:
    """pandas writes the whole table's three numbers into each of its parts."""
    frame = pd.DataFrame({"plate": [752, 266, 752, 266], "mjd": [51602] * 4, "z": [0.5] * 4}, index=pd.RangeIndex(1, 5, name="fiber"))
    frame.to_parquet(tmp_path / "parts.parquet", partition_cols=["plate"])
    pq.write_table(pa.Table.from_pandas(frame).slice(2), tmp_path / "half.parquet")
    for name in ("parts.parquet", "half.parquet"):
        with pytest.raises(CatalogError, match=name.replace(".", r"\.")):
            open_catalog(tmp_path / name, "quasars")


def test_one_file_of_a_folder_may_keep_the_index_as_a_column(tmp_path: Path) -> None:
    """pandas does, where the values do not rise in equal steps."""
    frame = pd.DataFrame({"plate": [752] * 6, "mjd": [51602] * 6, "z": [0.5] * 6}, index=pd.RangeIndex(1, 7, name="fiber"))
    parts = frame.iloc[[0, 1, 3]], frame.iloc[4:]
    for folder, order in ((tmp_path / "stored first", parts), (tmp_path / "range first", parts[::-1])):
        folder.mkdir()
        for number, some in enumerate(order):
            some.to_parquet(folder / f"{number}.parquet")
    assert whole(open_catalog(tmp_path / "stored first", "quasars"))["fiber"].tolist() == [1, 2, 4, 5, 6]
    assert whole(open_catalog(tmp_path / "range first", "quasars"))["fiber"].tolist() == [5, 6, 1, 2, 4]
    frame.reset_index(drop=True).to_parquet(tmp_path / "range first" / "2.parquet")
    with pytest.raises(CatalogError, match=r"2\.parquet' has no column 'fiber'"):
        whole(open_catalog(tmp_path / "range first", "quasars"))


def test_a_column_goes_before_an_index_of_its_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"plate": [752, 266], "mjd": [52251, 51602], "fiber": [44, 5], "z": [1.5, 0.5]}).rename_axis("fiber")
    frame.to_parquet(tmp_path / "q.parquet")
    assert whole(open_catalog(tmp_path / "q.parquet", "quasars"))["fiber"].tolist() == [44, 5]
    (tmp_path / "parts" / "plate=752").mkdir(parents=True)
    frame.iloc[:1].drop(columns="plate").rename_axis("plate").to_parquet(tmp_path / "parts" / "plate=752" / "0.parquet")
    assert whole(open_catalog(tmp_path / "parts", "quasars"))["plate"].tolist() == [752]


@pytest.mark.parametrize("start, stop, step", [("a", 2, 1), (0, 2, 0), (0, 10**30, 1), (None, 2, 1), (0, 1, 1)])
def test_an_index_that_pandas_did_not_write_ends_in_a_sentence(tmp_path: Path, start: object, stop: object, step: object) -> None:
    index = {"kind": "range", "name": "fiber", "start": start, "stop": stop, "step": step}
    table = pa.table({"plate": [752, 266], "mjd": [52251, 51602], "z": [1.5, 0.5]})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps({"index_columns": [index]})}), tmp_path / "q.parquet")
    with pytest.raises(CatalogError, match=r"q\.parquet"):
        whole(open_catalog(tmp_path / "q.parquet", "quasars"))


def test_decimals_and_categories_of_parquet(tmp_path: Path) -> None:
    kinds = {"plate": pa.array(["7"]).dictionary_encode(), "mjd": pa.array([2], pa.uint16()), "fiber": pa.array([3.0], pa.float32())}
    pq.write_table(pa.table({**kinds, "z": pa.array([Decimal("1.9300")])}), tmp_path / "q.parquet")
    rows = whole(open_catalog(tmp_path / "q.parquet", "quasars"))
    assert [rows[name].item() for name in ("plate", "mjd", "fiber", "z")] == [7, 2, 3, 1.93]
    pq.write_table(pa.table({**kinds, "z": pa.array([datetime(2020, 1, 1)])}), tmp_path / "t.parquet")
    with pytest.raises(CatalogError, match=r"Column 'z' .*row 0 \(counted from 0\), holds text"):
        whole(open_catalog(tmp_path / "t.parquet", "quasars"))


def test_fits_rows_are_as_long_as_the_header_says(tmp_path: Path) -> None:
    """As CasJobs writes text columns, of which astropy takes one letter a row; and a column in each cell of one row."""
    hdu = fits.BinTableHDU(Table({"NAME": ["J0017", "J1258", "J1", "J2"], **QUASARS}))
    hdu.header["TDIM1"] = "(1)"
    hdu.writeto(tmp_path / "casjobs.fits", output_verify="ignore")
    columns = [fits.Column(name, f"4{'D' if values.dtype.kind == 'f' else 'J'}", array=values[None]) for name, values in QUASARS.items()]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "cells.fits")
    for name in ("casjobs.fits", "cells.fits"):
        rows = whole(open_catalog(tmp_path / name, "quasars"))
        for column, values in EXPECTED.items():
            np.testing.assert_allclose(rows[column], values, rtol=1e-6, err_msg=column)


def test_catalogues_made_at_random(tmp_path: Path) -> None:
    """A sample of what the benchmark makes: all right, but for those broken on purpose, of which line and column are named."""
    spec = importlib.util.spec_from_file_location("catalogue_files", Path(__file__).parents[2] / "benchmarks" / "catalogue_files.py")
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules["catalogue_files"] = benchmark
    spec.loader.exec_module(benchmark)
    counts, said = benchmark.study(120, 5, tmp_path)
    assert said == [] and counts.total() == 120 and len({kind for kind, _ in counts}) > 15


def test_scaled_and_null_fits_columns(tmp_path: Path) -> None:
    columns = [
        fits.Column("PLATE", "I", bzero=32768, array=np.array([40000, 7], np.uint16)),
        fits.Column("MJD", "J", null=-99, array=np.array([51000, -99])),
        fits.Column("FIBER", "J", null=7, array=np.array([7, 8])),
        fits.Column("Z", "I", array=np.array([1500, 2500])),
    ]
    table = fits.BinTableHDU.from_columns(columns)
    table.writeto(tmp_path / "q.fits")
    fits.setval(tmp_path / "q.fits", "TSCAL4", value=0.001, ext=1)
    rows = whole(open_catalog(tmp_path / "q.fits", "quasars"))
    assert rows["plate"].tolist() == [40000, 7] and rows["mjd"].tolist() == [51000, -1] and rows["fiber"].tolist() == [-1, 8]
    np.testing.assert_allclose(rows["z"], [1.5, 2.5])


def test_an_ascii_table(tmp_path: Path) -> None:
    columns = [fits.Column(name, "I6", array=np.array([1, 2])) for name in ("PLATE", "MJD", "FIBER")]
    columns.append(fits.Column("Z", "F8.3", null="---", array=np.array([1.5, 2.25])))
    fits.TableHDU.from_columns(columns).writeto(tmp_path / "q.fits")
    content = (tmp_path / "q.fits").read_bytes()
    (tmp_path / "q.fits").write_bytes(content.replace(b"   2.250", b"     ---"))
    rows = whole(open_catalog(tmp_path / "q.fits", "quasars"))
    assert rows["fiber"].tolist() == [1, 2]
    np.testing.assert_array_equal(rows["z"], [1.5, np.nan])


def test_the_first_table_of_several_and_its_continuation(tmp_path: Path) -> None:
    def table(**columns: list[float]) -> fits.BinTableHDU:
        return fits.BinTableHDU(Table(columns))

    found = table(Z_ABS=[1.0, 2.0], MGII_2796_EW=[0.5, 0.6], MGII_2803_EW=[0.4, 0.5])
    about = table(PLATE=[1.0, 2.0], MJD=[10.0, 20.0], FIBERID=[5.0, 6.0])
    other = table(Z_QSO=[9.0, 9.0, 9.0])
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros(3)), found, about, other]).writeto(tmp_path / "a.fits")
    catalog = open_catalog(tmp_path / "a.fits", "absorbers")
    rows = whole(catalog)
    assert (catalog.map, catalog.species, catalog.n_rows) == ("qsoabsfind_mgii", "MgII", 2)
    assert [rows[name].tolist() for name in ("plate", "mjd", "fiber", "z_abs")] == [[1, 2], [10, 20], [5, 6], [1.0, 2.0]]
    assert np.isnan(rows["z_qso"]).all()


def test_errors_from_significances_and_fill_values(tmp_path: Path) -> None:
    fill = {"zqso": [2.0] * 4, "zabs": [1.0, -1.0, 1.5, 1.2], "ew2796": [1.0, 1.0, -999.0, 0.8], "ew2803": [0.8] * 4}
    snr = {"snr2796": [5.0, 5.0, 5.0, 0.0], "snr2803": [4.0] * 4}
    np.savez(tmp_path / "a.npz", plate=[1] * 4, mjd=[2] * 4, fiber=[3] * 4, **fill, **snr)
    catalog = open_catalog(tmp_path / "a.npz", "absorbers")
    rows = whole(catalog)
    assert catalog.map == "zhao2019"
    np.testing.assert_allclose(rows["z_abs"], [1, np.nan, 1.5, 1.2])
    np.testing.assert_allclose(rows["ew_primary"], [1, 1, np.nan, 0.8])
    np.testing.assert_allclose(rows["ew_primary_err"], [0.2, 0.2, np.nan, np.nan])
    np.testing.assert_allclose(rows["ew_secondary_err"], 0.2)


RELEASED = {
    "dr7q": ("quasars", ["SDSSJ", "RA", "DEC", "Z", "UMAG", "MJD", "SMJD", "PLATE", "FIBER"]),
    "dr12q": ("quasars", ["SDSS_NAME", "RA", "DEC", "THING_ID", "PLATE", "MJD", "FIBERID", "Z_VI", "Z_PIPE", "ERR_ZPIPE", "Z_PCA"]),
    "dr16q": ("quasars", ["SDSS_NAME", "RA", "DEC", "PLATE", "MJD", "FIBERID", "AUTOCLASS_PQN", "IS_QSO_QN", "Z_QN", "Z", "Z_PCA"]),
    "zhu_menard2013": (
        "absorbers",
        ["RA", "DEC", "PLATE", "FIBER", "MJD", "ZQSO", "INDEX_QSO", "ZABS", "SNR_MGII_2796"]
        + ["REW_MGII_2796", "ERR_REW_MGII_2796", "REW_MGII_2803", "ERR_REW_MGII_2803"],
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_catalogues_are_recognised(tmp_path: Path, name: str) -> None:
    kind, columns = RELEASED[name]
    path = tmp_path / "file.csv"
    path.write_text(",".join(columns) + "\n" + ",".join(str(10 + index) for index in range(len(columns))) + "\n")
    catalog = open_catalog(path, kind)
    assert catalog.map == name
    meant = dict(catalog.columns)
    assert meant["mjd"] == ("SMJD" if name == "dr7q" else "MJD")
    assert meant.get("z", "Z") == ("Z_VI" if name == "dr12q" else "Z")
    assert all((whole(catalog)[column] > 0).all() for column in ("plate", "mjd", "fiber", "ra", "dec"))


def test_a_map_can_be_forced(tmp_path: Path) -> None:
    write_csv(tmp_path / "q.csv")
    assert open_catalog(f"{tmp_path}/q.csv::generic", "quasars").map == "generic_quasars"
    with pytest.raises(CatalogError, match="no column for z .accepted: Z_VI"):
        open_catalog(f"{tmp_path}/q.csv::dr12q", "quasars")
    with pytest.raises(CatalogError, match="no map 'dr12'.*Did you mean 'dr12q'"):
        open_catalog(f"{tmp_path}/q.csv::dr12", "quasars")


def test_what_names_files_is_read_where_it_is_asked_for_and_changes_nothing_else(tmp_path: Path) -> None:
    lines = ["TARGETID,Z,RA,DEC,SURVEY,Program,FIELD", "1,1.5,10,20, MAIN ,dark,15000", "2,1.5,10,20,,--,x", "3,1.5,10,20,../x,nan,0"]
    (tmp_path / "q.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "plain.csv").write_text("\n".join(line.rsplit(",", 3)[0] for line in lines) + "\n")
    catalog, plain = (open_catalog(tmp_path / name, "quasars") for name in ("q.csv", "plain.csv"))
    ((rows,), (same,)) = (list(read_rows(one)) for one in (catalog, plain))
    assert catalog.columns == plain.columns and rows.keys() == same.keys()
    assert all(np.array_equal(rows[name], same[name], equal_nan=True) for name in rows)
    (rows,) = read_rows(catalog, ["survey", "field", "program"])
    assert (rows["survey"].tolist(), rows["program"].tolist()) == (["main", "", "../x"], ["dark", "", ""])
    assert rows["field"].tolist() == [15000, -1, -1] and rows["field"].dtype == np.int64
    (rows,) = read_rows(plain, ["survey", "field"])
    assert (rows["survey"].tolist(), rows["field"].tolist()) == ([""] * 3, [-1] * 3)
    known = next(one for one in load_maps() if one.name == "generic_quasars")
    assert known.files and catalogs._digest(tmp_path / "q.csv", known) == catalogs._digest(
        tmp_path / "q.csv", known.model_copy(update={"files": {}})
    )


def test_the_digest_follows_the_map(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("SMJD,PLATE,FIBER,Z\n1,2,3,0.5\n")
    recognised, forced = (open_catalog(f"{tmp_path}/q.csv{forced}", "quasars") for forced in ("", "::generic"))
    assert (recognised.map, forced.map) == ("dr7q", "generic_quasars") and recognised.digest != forced.digest


def test_missing_columns_are_named_and_the_list_is_bounded(tmp_path: Path) -> None:
    names = ["plate", "mjd", "fiber", "redshifft", *[f"column{index}" for index in range(100)]]
    (tmp_path / "q.csv").write_text(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    with pytest.raises(CatalogError) as fault:
        open_catalog(tmp_path / "q.csv", "quasars")
    message = str(fault.value)
    assert "no column for z " in message and "Did you mean 'redshifft'" in message and "(104 in all)" in message
    assert "column10" in message and "column60" not in message


def test_vectors_are_no_columns(tmp_path: Path) -> None:
    Table({"PLATE": [1], "MJD": [2], "FIBER": [3], "ZABS": [[1.0, 2.0]], "REW_MGII_2796": [[1.0, 2.0]]}).write(tmp_path / "a.fits")
    with pytest.raises(CatalogError, match=r"no column for z_abs.*ZABS \(2 values per row\)"):
        open_catalog(tmp_path / "a.fits", "absorbers")


def test_faults_are_sentences(tmp_path: Path) -> None:
    write_fits(tmp_path / "good.fits")
    content = (tmp_path / "good.fits").read_bytes()
    (tmp_path / "cut.fits").write_bytes(content[:5800])
    (tmp_path / "cut.fits.gz").write_bytes(gzip.compress(content)[:200])
    (tmp_path / "image.fits").write_bytes(content[:2880])
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "header.csv").write_text("plate,mjd,fiber,z\n")
    (tmp_path / "ragged.csv").write_text("plate,mjd,fiber,z\n1,2,3\n")
    (tmp_path / "noise.dat").write_bytes(bytes(range(256)))
    (tmp_path / "latin.csv").write_bytes(b"plate,mjd,fiber,z\xe9\n1,2,3,4\n")
    (tmp_path / "page.html").write_text("<!DOCTYPE html>\n<html><body>not found</body></html>\n")
    Table(QUASARS).write(tmp_path / "whole.vot", format="votable")
    (tmp_path / "cut.vot").write_bytes((tmp_path / "whole.vot").read_bytes()[:1200])
    (tmp_path / "folder").mkdir()
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "objects.npz", plate=np.array([1, None], object), z=np.ones(2))
    np.savez(tmp_path / "unequal.npz", plate=np.ones(3), z=np.ones(2))
    expected = {
        "goood.fits": "does not exist. Did you mean 'good.fits'",
        "cut.fits": "truncated",
        "cut.fits.gz": "damaged gzip",
        "image.fits": "without a table",
        "empty.csv": "is empty",
        "header.csv": "has no rows",
        "ragged.csv": "line 2 has 3 fields .*line 1, which names the columns, has 4",
        "noise.dat": "none of FITS, VOTable, text, Parquet and npz",
        "latin.csv": "no column for z ",
        "page.html": "is XML without a table",
        "cut.vot": "not a readable VOTable",
        "folder": "is a folder without Parquet files",
        "half.parquet": "not a readable Parquet",
        "half.npz": "not a readable npz",
        "objects.npz": "Python objects in plate",
        "unequal.npz": "unequal lengths",
    }
    for name, message in expected.items():
        with pytest.raises(CatalogError, match=message):
            open_catalog(tmp_path / name, "quasars")
    with pytest.raises(CatalogError, match="no kind of catalogue"):
        open_catalog(tmp_path / "good.fits", "quasar")  # type: ignore[arg-type]


def test_text_among_numbers(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("plate,mjd,fiber,z\n1,2,3,0.5\n1,2,4,unknown\n1,2,5,n/a\n")
    catalog = open_catalog(tmp_path / "q.csv", "quasars")
    with pytest.raises(CatalogError, match="Column 'z' .* line 3, holds text where numbers are expected: 'unknown'"):
        whole(catalog)
    (tmp_path / "q.csv").write_text("plate,mjd,fiber,z\n1,2,3,0.5\n1,2,4, N/A\n1,2,5,\n")
    np.testing.assert_array_equal(whole(open_catalog(tmp_path / "q.csv", "quasars"))["z"], [0.5, np.nan, np.nan])


def test_faults_found_by_reading_are_sentences(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(0, 1, 5000)
    columns = {"PLATE": noise, "MJD": noise, "FIBER": noise, "Z": noise}
    Table(columns).write(tmp_path / "q.fits")
    content = gzip.compress((tmp_path / "q.fits").read_bytes())
    (tmp_path / "cut.fits.gz").write_bytes(content[: len(content) // 2])
    np.savez_compressed(tmp_path / "q.npz", **columns)
    content = bytearray((tmp_path / "q.npz").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    (tmp_path / "damaged.npz").write_bytes(content)
    for name, message in {"cut.fits.gz": "damaged gzip file", "damaged.npz": "not a readable npz"}.items():
        with pytest.raises(CatalogError, match=message):
            whole(open_catalog(tmp_path / name, "quasars"))
    write_csv(tmp_path / "q.csv")
    catalog = open_catalog(tmp_path / "q.csv", "quasars")
    with (tmp_path / "q.csv").open("a") as file:
        file.write("1,2,3,4,5,6\n")
    with pytest.raises(CatalogError, match="had 4 rows when it was opened and has 5 now"):
        whole(catalog)


def test_a_catalogue_is_converted_once(tmp_path: Path) -> None:
    write_fits(tmp_path / "q.fits")
    catalog = open_catalog(tmp_path / "q.fits", "quasars")
    path = write_parquet(catalog, tmp_path / "converted")
    table = pq.read_table(path)
    assert table.schema.equals(canonical_schema("quasars")) and path.name.startswith(catalog.digest)
    assert table["row"].to_pylist() == [0, 1, 2, 3] and table["plate"].to_pylist() == [266, 7102, None, None]
    assert table["ra"].to_pylist() == [146.9, 0.25, None, -9999.0] and table["z"].null_count == 1
    (tmp_path / "q.fits").unlink()
    assert write_parquet(catalog, tmp_path / "converted") == path


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("plate,mjd,fiber,z\n1,2,3,0.5\n1,2,4,unknown\n")
    with pytest.raises(CatalogError, match="text where numbers are expected"):
        write_parquet(open_catalog(tmp_path / "q.csv", "quasars"), tmp_path / "converted")
    assert not list((tmp_path / "converted").iterdir())


def test_a_population_is_taken_from_the_first_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "_POPULATION_ROWS", 101)
    monkeypatch.setattr(catalog_files, "ROWS_AT_ONCE", 40)
    width = np.arange(200) / 100
    np.savez(tmp_path / "a.npz", plate=width, mjd=width, fiber=width, z_abs=np.ones(200), ew_2796=width)
    catalog = open_catalog(tmp_path / "a.npz", "absorbers")
    quantiles = equivalent_width_quantiles(catalog)
    assert len(quantiles) == 201 and (quantiles[0], quantiles[-1]) == (0.31, 1.0)
    with pytest.raises(CatalogError, match="has 10 equivalent widths above 0.9 Å"):
        equivalent_width_quantiles(catalog, 0.9)


def test_a_catalogue_of_another_species_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("QSO,zQSO,zCIV,W1548,W1550\n51630-0266-003,2.1,1.9,.5,.3\n")
    catalog = open_catalog(tmp_path / "a.csv", "absorbers", ["CIV"])
    assert [whole(catalog)[name].item() for name in ("plate", "mjd", "fiber")] == [266, 51630, 3]
    with pytest.raises(CatalogError, match="lists CIV absorbers .* searches MgII"):
        open_catalog(tmp_path / "a.csv", "absorbers", ["MgII"])


def test_all_faults_of_all_maps_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('kind = "quasars"\n[columns]\nzz = ["Z"]\n')
    (tmp_path / "b.toml").write_text('kind = "galaxies"\nscript = "x"\n[columns]\nz = ["Z"]\n')
    (tmp_path / "c.toml").write_text("kind = \n")
    (tmp_path / "d.toml").write_text('kind = "quasars"\n[columns]\nz = ["Z"]\n[pmf]\ncolumns = ["id"]\norder = ["plate", "plate", "mjd"]\n')
    with pytest.raises(CatalogError) as fault:
        load_maps(tmp_path)
    for piece in ("zz is not a column", "columns.z is required", "kind:", "script:", "not valid TOML", "once each"):
        assert piece in str(fault.value)
    with pytest.raises(CatalogError, match="no catalogue maps"):
        load_maps(tmp_path / "nowhere")


def test_maps_are_found_and_the_generic_ones_come_last() -> None:
    assert (conf_dir() / "catalogs").is_dir()
    names = [loaded.name for loaded in load_maps()]
    assert set(names[-2:]) == {"generic_absorbers", "generic_quasars"}
    assert {"dr7q", "dr12q", "dr16q", "raghunathan2016", "zhu_menard2013", "zhao2019"} <= set(names)


def test_an_installed_package_finds_its_maps_under_the_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "__file__", str(tmp_path / "site-packages" / "nalspark" / "surveys" / "catalogs.py"))
    monkeypatch.setattr(catalogs.sys, "prefix", str(tmp_path))
    assert conf_dir() == tmp_path / "share" / "nalspark" / "conf"


REAL = {
    "Raghunathan2016_MgII_DR7.fits": ("absorbers", "raghunathan2016", 21_854),
    "Raghunathan2016_MgII_DR12.fits": ("absorbers", "raghunathan2016", 39_694),
    "Cooksey2013_CIV_DR7.fits": ("absorbers", "cooksey2013", 16_710),
    "qsoabsfind_MgII_cat.fits": ("absorbers", "qsoabsfind_mgii", 42),
    "qsoabsfind_CIV_cat.fits": ("absorbers", "qsoabsfind_civ", 52),
    "zhao2019/Missing_sample_from_Zhu.npz": ("absorbers", "zhao2019", 3_988),
    "zhao2019/false_sample_from_Zhu.npz": ("absorbers", "zhao2019", 1_720),
    "brodzeller2023_sdss_qso_pmf_z.npz": ("quasars", "generic_quasars", 157_827),
    "spAll-plate3655.fits": ("quasars", "generic_quasars", 93),
    "../spectra/desi/QSO_cat_fuji_dark_healpix.fits.gz": ("quasars", "generic_quasars", 175),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_catalogues(real_data: Path, name: str) -> None:
    kind, expected_map, n_rows = REAL[name]
    catalog = open_catalog(real_data / "catalogs" / name, kind)
    assert (catalog.map, catalog.n_rows) == (expected_map, n_rows)
    rows = whole(catalog)
    identified = (rows["plate"] > 0) & (rows["mjd"] > 50_000) & (rows["fiber"] > 0)
    placed = (rows["ra"] >= 0) & (rows["ra"] <= 360) & (np.abs(rows["dec"]) <= 90)
    assert (identified | placed).all()
    redshift = rows["z" if kind == "quasars" else "z_abs"]
    assert np.isfinite(redshift).mean() > 0.95 and (redshift[np.isfinite(redshift)] < 8).all()  # stars in spAll have none
    if kind == "absorbers":
        assert (rows["z_qso"] > rows["z_abs"] - 0.05).mean() > 0.95
        assert np.nanmedian(rows["ew_primary"] / rows["ew_primary_err"]) > 3 and (rows["ew_primary"] > 0).mean() > 0.99


@pytest.mark.data
def test_real_errors_of_redshifts_are_those_of_spall(real_data: Path) -> None:
    path = real_data / "catalogs" / "spAll-plate3655.fits"
    rows, stated = whole(open_catalog(path, "quasars")), Table.read(path)["Z_ERR"].astype(float)
    np.testing.assert_array_equal(rows["z_err"], np.where(stated > 0, stated, np.nan))
    assert np.isfinite(rows["z_err"]).mean() > 0.9


@pytest.mark.data
def test_fits_rows_equal_astropy(real_data: Path) -> None:
    path = real_data / "catalogs" / "Raghunathan2016_MgII_DR12.fits"
    rows = whole(open_catalog(path, "absorbers"))
    table = Table.read(path)
    np.testing.assert_array_equal(rows["ew_secondary"], table["W_2803"].astype(float))
    np.testing.assert_array_equal(rows["dec"], table["Dec."])
    assert [f"{p}-{m}-{f}" for p, m, f in zip(rows["plate"], rows["mjd"], rows["fiber"], strict=True)] == [
        "-".join(str(int(piece)) for piece in text.split("-")) for text in table["plate-mjd-fibre"].astype(str)
    ]


@pytest.mark.data
def test_what_is_no_catalogue_says_so(real_data: Path) -> None:
    folder = real_data / "catalogs"
    for name, message in {
        "dr7_set_plate_fiber_radec.csv": "no column for z .*It has: PLATE, FIBER, RA, DEC",
        "dr7qso_BAL.list": "no column for z",
        "dr7qso_BAL_readme.txt": "Catalogue",
        "zhao2019/false_postive_spectra_final.hdf5": "none of FITS, VOTable, text, Parquet and npz",
    }.items():
        with pytest.raises(CatalogError, match=message):
            open_catalog(folder / name, "quasars")
    with pytest.raises(CatalogError, match="no column for ew_primary"):
        open_catalog(folder / "Sardane2014_CaII.fit", "absorbers")


#: Processes that end themselves while Arrow's threads read on, as after a mistake in a long catalogue; small blocks, so that they do.
ENDED = """
import os, sys
from nalspark.surveys import catalog_text
catalog_text.BLOCK = 4096
codes = []
for _ in range(25):
    child = os.fork()
    if not child:
        with open(sys.argv[1]) as file:
            next(catalog_text.rows(file, catalog_text.Layout(("ra", "dec", "z"), 1, 1, ","), ["z"]))
        sys.exit(2)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(codes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="libraries need not survive a fork elsewhere")
def test_a_process_that_ends_while_a_catalogue_is_read_ends_as_it_says(tmp_path):
    place = tmp_path / "long.csv"
    place.write_text("ra,dec,z\n" + "150.12,2.12,1.12\n" * 6000)
    done = subprocess.run([sys.executable, "-c", ENDED, str(place)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([2] * 25), done.stderr


# ---- identifiers of 64 bits


BIG = 2**63 - 1


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([BIG, 39627835576420000, 0, -5]), [BIG, 39627835576420000, -1, -1]),
        (np.array([2**63, 7], np.uint64), [-1, 7]),
        (np.array([2.0**53, 12.0, 12.5, np.nan]), [-1, 12, -1, -1]),
        (np.array([4544940698, 12], np.float32), [-1, 12]),
        (np.array([f"{BIG}", f"{BIG + 1}", " 0012 ", "12.0", "", "x"]), [BIG, -1, 12, -1, -1, -1]),
    ],
    ids=["long", "unsigned", "double", "single", "text"],
)
def test_identifiers_of_64_bits_are_whole_or_none(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    table = pa.table({"targetid": pa.array(values), "z": pa.array(np.full(len(values), 1.5))})
    pq.write_table(table, tmp_path / "q.parquet")
    assert whole(open_catalog(tmp_path / "q.parquet", "quasars"))["targetid"].tolist() == expected


def test_identifiers_survive_every_format(tmp_path: Path) -> None:
    rows = Table({"TARGETID": np.array([BIG, 39627835576420001]), "Z": [1.0, 2.0]})
    rows.write(tmp_path / "q.fits")
    rows.write(tmp_path / "q.csv")
    rows.write(tmp_path / "q.ecsv")
    rows.write(tmp_path / "q.xml", format="votable")
    np.savez(tmp_path / "q.npz", **{name: np.asarray(rows[name]) for name in rows.colnames})
    for path in sorted(tmp_path.iterdir()):
        assert whole(open_catalog(path, "quasars"))["targetid"].tolist() == [BIG, 39627835576420001], path


def test_rows_that_are_no_quasars_give_no_redshift(tmp_path: Path) -> None:
    """A map says which are: of DESI's redshifts those of class QSO without a warning."""
    kinds, warnings = ["QSO", "STAR", "QSO", "qso "], [0, 0, 4, 0]
    Table({"TARGETID": [1, 2, 3, 4], "Z": [1.0, 0.1, 1.2, 1.3], "ZWARN": warnings, "SPECTYPE": kinds}).write(tmp_path / "r.fits")
    catalog = open_catalog(tmp_path / "r.fits", "quasars")
    assert catalog.map == "desi_redrock"
    np.testing.assert_array_equal(whole(catalog)["z"], [1.0, np.nan, np.nan, 1.3])


def test_a_column_is_one_thing_only(tmp_path: Path) -> None:
    """`e_w2796`, an error as VizieR spells it, folds to what EW_2796 does."""
    (tmp_path / "a.csv").write_text("plate,mjd,fiber,z_abs,EW_2796\n1,2,3,0.8,1.2\n")
    rows = whole(open_catalog(tmp_path / "a.csv", "absorbers"))
    assert rows["ew_primary"].tolist() == [1.2] and np.isnan(rows["ew_primary_err"]).all()
