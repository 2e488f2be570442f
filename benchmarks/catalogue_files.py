"""Catalogues as people write them, made at random: are the two quasars found with their redshifts, or is it said where the trouble is?

    python benchmarks/catalogue_files.py --n 2000
    python benchmarks/catalogue_files.py --n 300 --seed 7 --keep FOLDER    # keeps what was not read, and what was read wrongly

Every catalogue has two quasars among others, in one of the formats, with one of the spellings of its columns, and with what surrounds rows
in such files: comments, titles, units, rules, blank lines, marks of the encoding, line ends, packing, fill values. Some are broken on
purpose in a known line and column. An outcome is ``right``, ``sentence`` (a `CatalogError`, and of one broken on purpose only if it names
the line, and the column where there is one), ``wrong`` (other rows) or ``traceback`` (any other exception). A tenth is damaged at random:
of these only tracebacks count. No Spark.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import lzma
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from nalspark.errors import CatalogError
from nalspark.surveys.catalogs import open_catalog, read_rows

#: Plate, mjd, fiber, right ascension, declination and redshift of the two.
QUASARS = ((752, 52251, 44, 4.2952124, 13.932368, 1.8203), (4971, 55747, 394, 234.8065501, -0.5594112, 1.9301))
SPELLINGS = (
    ("PLATE", "MJD", "FIBERID", "RA", "DEC", "Z"),
    ("plate", "mjd", "fiber", "ra", "dec", "redshift"),
    ("Plate", "MJD", "Fiber", "RAJ2000", "DEJ2000", "z"),
    ("Plate", "MJD", "Fiber", "RAdeg", "DEdeg", "zVI"),
    ("plate", "mjd", "fiberID", "ra", "dec", "zPipe"),
    ("PLATE", "MJD", "FIBERID", "RA", "DEC", "Z_VI"),
    ("plate", "mjd", "fiber_id", "ra_deg", "dec_deg", "z_qso"),
)
UNITS = ("", "d", "", "deg", "deg", "")
FILLS = ("-999", "-1", "NaN", "-999.0", "0", "-9999", "99.99")
BLANKS = ("", "--", "null", "N/A", "nan")
#: Plate, mjd and fiber of other quasars: from, to.
_OTHERS = ((1, 9000), (51000, 59000), (1, 1000))


@dataclass
class Made:
    """A catalogue: its columns as text, the redshifts that are expected of the two, and how it is written."""

    names: list[str]
    units: list[str]
    rows: list[list[str]]
    expected: list[float]
    with_ids: bool
    style: dict[str, object] = field(default_factory=dict)
    #: Line and column that a fault was put into.
    fault: tuple[int, str] | None = None

    @property
    def table(self) -> Table:
        """With numbers where all of a column are numbers, masked where it has a blank."""
        columns = {}
        for place, name in enumerate(self.names):
            cells = [row[place] for row in self.rows]
            blank = [cell in BLANKS for cell in cells]
            try:
                numbers = np.array([float(cell) if not empty else 0 for cell, empty in zip(cells, blank, strict=True)])
            except ValueError:
                columns[name] = np.array(cells)
                continue
            whole = (numbers == np.round(numbers)).all() and not any("." in cell for cell in cells)
            values = numbers.astype(np.int64) if whole else numbers
            columns[name] = MaskedColumn(values, mask=blank) if any(blank) else values
        return Table(columns)


def make(rng: np.random.Generator, texts_with_blanks: bool, fills: tuple[str, ...] = FILLS) -> Made:
    """Columns and rows: the two quasars, each perhaps without a redshift, and others around them, in any order."""
    spelling, with_ids, n_others = SPELLINGS[rng.integers(len(SPELLINGS))], rng.random() < 0.7, int(rng.integers(0, 30))
    fill = str(rng.choice(fills))
    others = [
        (
            int(rng.integers(1, 9000)),
            int(rng.integers(51000, 59000)),
            int(rng.integers(1, 1000)),
            rng.uniform(0, 360),
            rng.uniform(-80, 80),
            0,
        )
        for _ in range(n_others)
    ]
    rows, expected, negative = [], [], rng.random() < 0.25
    for number, (plate, mjd, fiber, ra, dec, z) in enumerate((*QUASARS, *others)):
        lacks = rng.random() < 0.2
        shown = fill if lacks else f"{z or rng.uniform(0.1, 4):.4f}"
        if number < 2:
            expected.append(np.nan if lacks else z)
        shown_ra = ra - 360 if negative and ra > 180 else ra
        rows.append([str(plate), str(mjd), str(fiber), f"{shown_ra:.7f}", f"{dec:.7f}", shown])
    keep = list(range(6)) if with_ids else [3, 4, 5]
    names, units = [spelling[place] for place in keep], [UNITS[place] for place in keep]
    rows = [[row[place] for place in keep] for row in rows]
    for number in range(int(rng.integers(0, 4))):
        texts = ["QSO", "BROADLINE", "", "J0017+1355", "x"] + (["a b", "AGN, broad", 'say "so"', "Müller"] if texts_with_blanks else [])
        filled = [text or "none" for text in texts] if not texts_with_blanks else texts
        names.append(("CLASS", "name", "note")[number])
        units.append("")
        for row in rows:
            row.append(str(rng.choice(filled)))
    columns = rng.permutation(len(names))
    places = rng.permutation(len(rows))
    return Made(
        [names[place] for place in columns],
        [units[place] for place in columns],
        [[rows[number][place] for place in columns] for number in places],
        expected,
        with_ids,
    )


# --- text ----------------------------------------------------------------------------------------------------------------------------


def quoted(cell: str, delimiter: str, always: bool) -> str:
    if always or any(mark in cell for mark in (delimiter, '"')) or (delimiter == " " and not cell):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def write_text(rng: np.random.Generator, path: Path) -> Made:
    """Delimited text with whatever surrounds it."""
    delimiter = str(rng.choice([",", ";", "\t", "|", " "]))
    made = make(rng, texts_with_blanks=delimiter != " ")
    decimal_comma = delimiter in ";\t" and rng.random() < 0.2 and not any("," in cell for row in made.rows for cell in row)
    if decimal_comma:
        made.rows = [[cell.replace(".", ",") if cell.replace(".", "").lstrip("-").isdigit() else cell for cell in row] for row in made.rows]
    always, padded, trailing = rng.random() < 0.2, rng.random() < 0.2, delimiter != " " and rng.random() < 0.1
    marked, bracketed = rng.random() < 0.25, delimiter != " " and rng.random() < 0.15
    join = {" ": " " * int(rng.integers(1, 4))}.get(delimiter, f" {delimiter} " if padded and delimiter != "\t" else delimiter)

    def line(cells: list[str]) -> str:
        return join.join(quoted(cell, delimiter, always and delimiter != "|") for cell in cells) + (delimiter if trailing else "")

    names = [f"{name} [{unit}]" if bracketed and unit else name for name, unit in zip(made.names, made.units, strict=True)]
    top = [
        ["# made by hand", "#", "# z is the redshift, ra and dec the position"],
        ["#RESOURCE=yCat_7289", "#Column\tRAJ2000\t(F10.6)", ""],
    ]
    lines = list(top[rng.integers(2)]) if rng.random() < 0.4 else ["#Table1"] * int(rng.random() < 0.1)
    if delimiter == ";" and rng.random() < 0.2:
        lines = ["sep=;"]
    lines.append(("# " if marked else "") + line(names))
    with_units = delimiter != " " and not marked and rng.random() < 0.3
    if with_units:
        lines.append(line([unit or " " for unit in made.units]))
        if rng.random() < 0.6:
            lines.append(delimiter.join("-" * max(2, len(name)) for name in names))
    first = len(lines)
    lines += [line(row) for row in made.rows]
    if rng.random() < 0.15:
        number = int(rng.integers(first, len(lines)))
        row = list(made.rows[number - first])
        z = next(place for place, name in enumerate(made.names) if name in {spelling[5] for spelling in SPELLINGS})
        if rng.random() < 0.5:
            row[z], made.fault = "unknown", (number + 1, names[z])
        else:
            row, made.fault = [*row, "7", "8"], (number + 1, "")
        lines[number] = line(row)
    elif rng.random() < 0.3:
        lines.insert(int(rng.integers(first, len(lines))), str(rng.choice(["", "# a comment, in the middle", "   "])))
    if rng.random() < 0.2:
        lines += ["", "#END#"]
    end = str(rng.choice(["\n", "\r\n", "\r"]))
    encoding = str(rng.choice(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    content = (end.join(lines) + (end if rng.random() < 0.8 else "")).encode(encoding)
    pack = rng.choice(["", "", "", "", "gz", "bz2", "xz"])
    packed: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    path.write_bytes(packed[pack](content) if pack else content)
    made.style = {"delimiter": delimiter, "end": end, "encoding": encoding, "comma": decimal_comma, "units": with_units, "marked": marked}
    return made


def by_astropy(kind: str, blanks: bool = True, **options: object) -> Callable[[np.random.Generator, Path], Made]:
    """A format of ``astropy.io.ascii``."""

    def write(rng: np.random.Generator, path: Path) -> Made:
        # astropy cannot write a column with NaN as a table of AAS journals.
        made = make(rng, texts_with_blanks=blanks, fills=tuple(fill for fill in FILLS if kind != "mrt" or fill != "NaN"))
        text = io.StringIO()
        made.table.write(text, format=f"ascii.{kind}", **options)
        content = text.getvalue()
        if rng.random() < 0.3:
            content = content.replace("\n", "\r\n")
        path.write_bytes(content.encode())
        return made

    return write


def write_vizier(rng: np.random.Generator, path: Path) -> Made:
    """VizieR's plain text: names, units and dashes above columns of fixed width, and blank cells."""
    made = make(rng, texts_with_blanks=True)
    cells = [made.names, made.units, *made.rows]
    widths = [max(2, *(len(row[place]) for row in cells)) for place in range(len(made.names))]
    lines = [" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    rule = " ".join("-" * width for width in widths)
    path.write_text("\n".join(["#Title: a table", "", *lines[:2], rule, *lines[2:], "", "#END#", ""]), encoding="utf-8")
    return made


def write_box(rng: np.random.Generator, path: Path) -> Made:
    """A table as a data base's terminal, or Markdown, draws it."""
    made = make(rng, texts_with_blanks=False)
    box = rng.random() < 0.5
    widths = [max(3, *(len(row[place]) for row in (made.names, *made.rows))) for place in range(len(made.names))]
    rule = ("+" if box else "|").join(["", *("-" * (width + 2) for width in widths), ""])
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in (made.names, *made.rows)]
    path.write_text("\n".join([*([rule] if box else []), lines[0], rule, *lines[1:], *([rule] if box else [])]) + "\n", encoding="utf-8")
    return made


# --- tables of numbers ---------------------------------------------------------------------------------------------------------------


def write_votable(rng: np.random.Generator, path: Path) -> Made:
    made = make(rng, texts_with_blanks=True)
    made.table.write(
        path, format="votable", table_id="t", tabledata_format=str(rng.choice(["tabledata", "binary", "binary2"])), overwrite=True
    )
    return made


def write_fits(rng: np.random.Generator, path: Path) -> Made:
    made = make(rng, texts_with_blanks=False)
    table = made.table
    hdu = fits.BinTableHDU(table)
    if rng.random() < 0.3:
        for number, column in enumerate(hdu.columns, 1):
            if column.format.endswith("A"):
                hdu.header[f"TDIM{number}"] = "(1)"
    if rng.random() < 0.2 and not any(hasattr(column, "mask") for column in table.columns.values()):
        columns = [
            fits.Column(
                name, f"A{table[name].dtype.itemsize // 4}" if table[name].dtype.kind == "U" else "D25.16", array=np.array(table[name])
            )
            for name in table.colnames
        ]
        hdu = fits.TableHDU.from_columns(columns)
    content = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(content, output_verify="ignore")
    data = content.getvalue()
    path.write_bytes(gzip.compress(data) if rng.random() < 0.3 else data)
    return made


def write_parquet(rng: np.random.Generator, path: Path) -> Made:
    made = make(rng, texts_with_blanks=True)
    table = pa.Table.from_pandas(made.table.to_pandas(), preserve_index=False)
    if rng.random() < 0.5:
        pq.write_table(table, path, row_group_size=7)
        return made
    path.mkdir()
    pieces = np.array_split(np.arange(len(table)), 3)
    for number, piece in enumerate(pieces):
        pq.write_table(table.take(pa.array(piece)), path / f"part-{number:05d}-c000.snappy.parquet")
    (path / "_SUCCESS").touch()
    return made


def write_npz(rng: np.random.Generator, path: Path) -> Made:
    made = make(rng, texts_with_blanks=True)
    with path.open("wb") as file:
        np.savez(
            file, **{name: np.ma.filled(column, np.nan if column.dtype.kind == "f" else -1) for name, column in made.table.columns.items()}
        )
    return made


WRITERS: dict[str, Callable[[np.random.Generator, Path], Made]] = {
    "text": write_text,
    "text again": write_text,
    "text once more": write_text,
    "vizier": write_vizier,
    "box": write_box,
    "ecsv": by_astropy("ecsv"),
    "ecsv,": by_astropy("ecsv", delimiter=","),
    "basic": by_astropy("basic"),
    "commented_header": by_astropy("commented_header"),
    "fixed_width": by_astropy("fixed_width"),
    "fixed_width_two_line": by_astropy("fixed_width_two_line"),
    "rdb": by_astropy("rdb", blanks=False),
    "ipac": by_astropy("ipac"),
    "mrt": by_astropy("mrt"),
    "rst": by_astropy("rst"),
    "latex": by_astropy("latex", blanks=False),
    "votable": write_votable,
    "fits": write_fits,
    "parquet": write_parquet,
    "npz": write_npz,
}


def damage(rng: np.random.Generator, path: Path) -> None:
    """Cut a file off, or overwrite some of its bytes."""
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        del content[int(rng.integers(1, len(content))) :]
    else:
        for place in rng.integers(0, len(content), int(rng.integers(1, 20))):
            content[place] = int(rng.integers(256))
    path.write_bytes(content)


def outcome(path: Path, made: Made) -> tuple[str, str]:
    """What comes of a catalogue, and what was said of it."""
    try:
        catalog = open_catalog(path, "quasars")
        batches = list(read_rows(catalog))
    except CatalogError as error:
        named = not made.fault or (f"line {made.fault[0]}" in str(error) and made.fault[1] in str(error))
        return ("sentence" if named else "wrong"), str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    if made.fault:
        return "wrong", f"the fault in line {made.fault[0]} was not seen"
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    if len(rows["z"]) != len(made.rows):
        return "wrong", f"{len(rows['z'])} of {len(made.rows)} rows"
    for (plate, mjd, fiber, ra, dec, _), expected in zip(QUASARS, made.expected, strict=True):
        here = (np.abs(rows["ra"] - ra) < 1e-5) & (np.abs(rows["dec"] - dec) < 1e-5)
        if made.with_ids:
            here &= (rows["plate"] == plate) & (rows["mjd"] == mjd) & (rows["fiber"] == fiber)
        if here.sum() != 1 or not np.allclose(rows["z"][here], expected, atol=1e-4, equal_nan=True):
            return "wrong", f"of plate {plate} there are {here.sum()} rows, with z {rows['z'][here]}; expected {expected}"
    return "right", ""


def study(n: int, seed: int, folder: Path, keep: Path | None = None) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Make and read `n` catalogues; outcomes by format, and what was said of those that are not right."""
    counts, said = Counter[tuple[str, str]](), []
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        kind = list(WRITERS)[rng.integers(len(WRITERS))]
        path = folder / f"{number}.cat"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = WRITERS[kind](rng, path)
        damaged = path.is_file() and rng.random() < 0.1
        if damaged:
            damage(rng, path)
        result, message = outcome(path, made)
        if damaged and result == "wrong":  # a digit may have become another one
            result = "right"
        counts[kind.split()[0] + (" (damaged)" if damaged else " (broken)" if made.fault else ""), result] += 1
        as_expected = result == "right" or (result == "sentence" and (made.fault or damaged))
        if not as_expected:
            said.append(f"{number} {kind} {result}: {message} {made.style}")
            if keep:
                shutil.copytree(path, keep / path.name) if path.is_dir() else shutil.copy(path, keep)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return counts, said


def main() -> None:
    """Print outcomes by format, and everything that is neither right nor a sentence that was due."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        counts, said = study(options.n, options.seed, Path(folder), options.keep)
    print(*said, sep="\n")
    outcomes = ("right", "sentence", "wrong", "traceback")
    print(f"{'format':<24}" + "".join(f"{name:>10}" for name in outcomes))
    for kind in sorted({kind for kind, _ in counts}):
        print(f"{kind:<24}" + "".join(f"{counts[kind, name]:>10}" for name in outcomes))
    print(f"{'all':<24}" + "".join(f"{sum(counts[kind, name] for kind in {kind for kind, _ in counts}):>10}" for name in outcomes))


if __name__ == "__main__":
    main()
