"""FITS files with tables at random, written byte by byte, and what astropy reads of them: the judge of our own reader.

Where TDIM does not fit the format, astropy takes the length of a row from it and reads garbage: it is given the file without this card.
"""

from __future__ import annotations

import gzip
import io
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.io import fits

from nalspark.errors import UnusableSpectrum
from nalspark.surveys.fits_table import FitsFile
from nalspark.surveys.packed import decompressed

BLOCK = 2880
KINDS = {"L": "u1", "X": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16", "A": "S1"}
UNSIGNED = {"I": 2**15, "J": 2**31, "K": 2**63}


@dataclass
class RandomFile:
    """A file, and the places of the cards that astropy must not see.

    Attributes
    ----------
    raw, whole : bytes
        As it is read, and as it was before it was cut short or compressed.
    nulls : dict
        (number of the HDU, name of the column) → which values are none, shape as stored.
    deceptive : list of bytes
        Cards of TDIM that do not fit the format.
    damage : str
        What was done to it; empty where it is whole.
    n_hdus : int
    """

    raw: bytes = b""
    nulls: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)
    deceptive: list[bytes] = field(default_factory=list)
    damage: str = ""
    whole: bytes = b""
    n_hdus: int = 0


def card(keyword: str, value: Any) -> bytes:
    shown = f"'{value:8}'" if isinstance(value, str) else {True: "T", False: "F"}.get(value, value) if isinstance(value, bool) else value
    return f"{keyword:8}= {shown:>20}".ljust(80).encode("ascii")


def header(cards: list[bytes], rest: bytes = b"") -> bytes:
    raw = b"".join([*cards, b"END".ljust(80), rest])
    return raw.ljust(-(-len(raw) // BLOCK) * BLOCK)


def padded(data: bytes, fill: bytes = b"\0") -> bytes:
    return data.ljust(-(-len(data) // BLOCK) * BLOCK, fill)


def text_behind_end(rng: np.random.Generator, cards: list[bytes]) -> bytes:
    """Now and then cards that an editor has left behind END, as far as the block has room."""
    room = -(len(cards) + 1) % 36
    return b"NAXIS2  =                99999".ljust(80) if room and rng.random() < 0.1 else b""


def stored_values(rng: np.random.Generator, code: str, n: int) -> np.ndarray:
    """Values as a file stores them: any bits, but that texts are text."""
    if code == "A":
        letters = np.frombuffer(b"abcXYZ019 .+-\xe9" if rng.random() < 0.1 else b"abcXYZ019 .+-", "S1")
        return rng.choice(letters, n)
    if code == "L":
        return rng.choice(np.frombuffer(b"TF\0", "u1"), n)
    values = np.frombuffer(rng.bytes(n * np.dtype(KINDS[code]).itemsize), KINDS[code])
    return values if rng.random() < 0.5 or code not in "IJK" else (values % 7).astype(KINDS[code])


def scaling(rng: np.random.Generator, code: str, n: int, stored: np.ndarray) -> tuple[list[bytes], int | None]:
    """Cards that say what the numbers of column `n` stand for, and the stored number that stands for none."""
    cards, null = list[bytes](), None
    if code in UNSIGNED and rng.random() < 0.2:
        cards.append(card(f"TZERO{n}", UNSIGNED[code]))
    elif code in "BIJKED" and rng.random() < 0.3:
        cards.append(card(f"TSCAL{n}", float(rng.choice([1.0, 0.5, -2.0, 1e-3, 1e10]))))
        cards.append(card(f"TZERO{n}", rng.choice([0, 100.0, -1.5, 32768]).item()))
    if code in "BIJK" and rng.random() < 0.3:
        null = int(stored.ravel()[0]) if stored.size else 0
        cards.append(card(f"TNULL{n}", null))
    return cards, null


def dims(rng: np.random.Generator, repeat: int, code: str) -> tuple[str, bool]:
    """A TDIM, and whether it fits; empty where there is none."""
    if rng.random() < 0.6 or code == "X" or repeat == 0:
        return "", True
    if rng.random() < 0.3:
        return str(rng.choice(["(1)", f"({repeat + 1})", "(7,3)"])), False
    shapes = {1: ["(1)", "(1,1)"], 4: ["(2,2)", "(4,1)", "(4)"], 6: ["(2,3)", "(3,2)", "(6)", "(1,2,3)", "(6,1,1)"]}
    return str(rng.choice(shapes.get(repeat, [f"({repeat})"]))), True


def binary_table(rng: np.random.Generator, file: RandomFile, number: int, name: str) -> bytes:
    n_rows, heap, columns, cards = int(rng.integers(0, 9)), b"", list[np.ndarray](), list[bytes]()
    gap = bytes(int(rng.choice([0, 0, 16])))
    n_columns = int(rng.integers(1, 9))
    for n in range(1, n_columns + 1):
        title = f"{rng.choice(['flux', 'LOGLAM', 'Z', 'ra', 'Col'])}_{n}"
        code = str(rng.choice(list(KINDS)))
        repeat = int(rng.choice([1, 1, 1, 1, 0, 2, 4, 6, 11]))
        if rng.random() < 0.15 and n_rows and code != "X":  # astropy knows no bits of variable length
            letter, kind = ("P", ">i4") if rng.random() < 0.6 else ("Q", ">i8")
            places = []
            for _ in range(n_rows):
                length = int(rng.integers(0, 5))
                cells = stored_values(rng, code, length).tobytes().replace(b"\xe9", b"e")
                places.append((length, len(heap)))
                heap += cells
            stored = np.array(places, kind)
            form, extra, null = f"{letter}{code}(5)", [], None
        else:
            length = -(-repeat // 8) if code == "X" else repeat
            stored = stored_values(rng, code, n_rows * length).reshape(n_rows, length)
            form = f"{repeat}{code}" if repeat != 1 or rng.random() < 0.5 else code
            extra, null = scaling(rng, code, n, stored)
            shape, fits_form = dims(rng, repeat, code)
            if shape:
                extra.append(card(f"TDIM{n}", shape))
                if not (fits_form or shape == f"({repeat})"):
                    file.deceptive.append(extra[-1])
        cards += [card(f"TTYPE{n}", title), card(f"TFORM{n}", form), *extra]
        columns.append(np.frombuffer(stored.tobytes(), "u1").reshape(n_rows, stored.shape[1] * stored.itemsize))
        if null is not None:
            file.nulls[number, title] = stored == null
    rows = np.concatenate(columns, axis=1)
    data = rows.tobytes() + (gap + heap if heap else b"")
    if heap and gap:
        cards.append(card("THEAP", rows.size + len(gap)))
    first = [b"XTENSION= 'BINTABLE'".ljust(80), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", rows.shape[1]), card("NAXIS2", n_rows)]
    first += [card("PCOUNT", len(data) - rows.size), card("GCOUNT", 1), card("TFIELDS", n_columns)]
    cards = [*first, *cards, *([card("EXTNAME", name)] if name else [])]
    if rows.shape[1] == 0:  # no rows of no bytes
        cards[4] = card("NAXIS2", 0)
        file.nulls = {key: mask for key, mask in file.nulls.items() if key[0] != number}
    return header(cards, text_behind_end(rng, cards)) + padded(data)


def text_table(rng: np.random.Generator, file: RandomFile, number: int, name: str) -> bytes:
    n_rows, fields, cards, at = int(rng.integers(1, 6)), list[list[str]](), list[bytes](), 1
    for n in range(1, int(rng.integers(1, 6)) + 1):
        code, width = str(rng.choice(list("AIFED"))), int(rng.integers(10, 16))
        numbers = rng.integers(-999, 999, n_rows) if code == "I" else rng.normal(size=n_rows) * 100
        forms = {"A": "ab c", "I": "{:.0f}", "F": "{:.2f}", "E": "{:.2e}", "D": "{:.1e}"}
        shown = [forms[code].format(value).replace("e", "D" if code == "D" else "e") for value in numbers]
        null = str(rng.choice(["", "-99", "NULL"]))
        if code != "A":
            shown = [str(rng.choice([null, ""])) if rng.random() < 0.2 and null else text for text in shown]
        fields.append([text.rjust(width) if code != "A" else text.ljust(width) for text in shown])
        title = f"col_{n}"
        form = f"{code}{width}" + ("" if code in "AI" else ".2")
        cards += [card(f"TTYPE{n}", title), card(f"TFORM{n}", form), card(f"TBCOL{n}", at)]
        cards += [card(f"TNULL{n}", null)] if null and code != "A" else []
        cards += [card(f"TSCAL{n}", 2.0), card(f"TZERO{n}", 1.0)] if code in "FED" and rng.random() < 0.2 else []
        file.nulls[number, title] = np.array([code != "A" and text.strip() in ("", null) for text in fields[-1]])
        at += width + 1
    rows = [" ".join(texts) + " " for texts in zip(*fields, strict=True)]
    first = [b"XTENSION= 'TABLE   '".ljust(80), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", at - 1), card("NAXIS2", n_rows)]
    first += [card("PCOUNT", 0), card("GCOUNT", 1), card("TFIELDS", len(fields))]
    cards = [*first, *cards, *([card("EXTNAME", name)] if name else [])]
    return header(cards, text_behind_end(rng, cards)) + padded("".join(rows).encode("ascii"), b" ")


def image(rng: np.random.Generator, *_: Any) -> bytes:
    data = rng.bytes(4 * 7)
    cards = [
        b"XTENSION= 'IMAGE   '".ljust(80),
        card("BITPIX", 32),
        card("NAXIS", 1),
        card("NAXIS1", 7),
        card("PCOUNT", 0),
        card("GCOUNT", 1),
    ]
    return header(cards) + padded(data)


def random_file(seed: int) -> RandomFile:
    """Up to four HDUs in any order, sometimes with what some writers add, sometimes damaged, sometimes compressed."""
    rng, file = np.random.default_rng(seed), RandomFile()
    makers = rng.choice([binary_table, binary_table, binary_table, text_table, image], rng.integers(1, 5))  # type: ignore[arg-type]
    primary = [card("SIMPLE", True), card("BITPIX", 8), card("NAXIS", 0), card("EXTEND", True)]
    parts = [header(primary, text_behind_end(rng, primary))]
    for number, maker in enumerate(makers, start=1):
        parts.append(maker(rng, file, number, str(rng.choice(["", "COADD", "SPECOBJ"]))))
    raw = file.whole = b"".join(parts)
    chance, file.n_hdus = rng.random(), len(parts)
    if chance < 0.05:
        raw, file.damage = raw[: int(rng.integers(1, len(raw)))], "cut short"
    elif chance < 0.1 and b"TFORM1  =" in raw:
        at = raw.index(b"TFORM1  =")
        raw = file.whole = raw[:at] + card("TFORM1", str(rng.choice(["Y", "3"]))) + raw[at + 80 :]
        file.damage = "no format"
    elif chance < 0.2:
        raw += rng.choice([bytes(BLOCK), b" " * BLOCK, b"\0" * 100]).item()  # type: ignore[attr-defined]
    file.raw = gzip.compress(raw, 1) if rng.random() < 0.2 else raw
    return file


# ---- the two readers


def by_nalspark(raw: bytes) -> list[dict[str, np.ndarray]]:
    """The columns of all HDUs; an HDU without a table has none."""
    with decompressed(io.BytesIO(raw), "random.fits") as stream:
        file = FitsFile(stream, "random.fits")
        asked = [(hdu, [column.name for column in (hdu.layout.columns or {}).values()]) for hdu in file.hdus()]
        return [file.columns(hdu, names) if names else {} for hdu, names in asked]


def by_astropy(file: RandomFile, raw: bytes) -> list[dict[str, np.ndarray]]:
    for deceptive in file.deceptive:
        raw = raw.replace(deceptive, b"COMMENT".ljust(80))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = [fits.open(io.BytesIO(raw), memmap=False, uint=uint) for uint in (True, False)]
        # Of a file cut short it leaves out the last ones without a word.
        hdus = [[hdus[number] for hdus in opened] for number in range(file.n_hdus)]
        return [{name: column_of(pair, name) for name in getattr(getattr(pair[0], "columns", None), "names", ())} for pair in hdus]


def column_of(hdus: list[Any], name: str) -> Any:
    """A column as astropy has it; where it trips over scaled ones that might be unsigned, as it has them without such a thought."""
    try:
        return hdus[0].data.field(name)
    except (UnboundLocalError, TypeError):
        return hdus[1].data.field(name)


def same(ours: Any, theirs: Any, nulls: np.ndarray | None) -> bool:
    if ours.dtype == object:
        return len(ours) == len(theirs) and all(same(one, np.asarray(other), None) for one, other in zip(ours, theirs, strict=True))
    if ours.dtype.kind == "S":
        texts = [text.rstrip(b" \0") for text in ours.ravel().tolist()]
        others = [text if isinstance(text, bytes) else text.encode("latin-1") for text in np.asarray(theirs).ravel().tolist()]
        others = [text.rstrip(b" \0") for text in others]
        return texts == others or (ours.size != np.asarray(theirs).size and b"".join(texts) == b"".join(others))
    theirs = np.asarray(theirs)
    if ours.dtype == bool and theirs.dtype.kind == "i":  # of variable length, by older versions of astropy
        theirs = theirs == ord("T")
    kinds = ours.dtype.kind + theirs.dtype.kind
    if ours.size != theirs.size or not ours.dtype.isnative or (kinds[0] != kinds[1] and kinds != "uf" and ours.size):
        return False
    missing = np.zeros(ours.shape, bool) if nulls is None else nulls.reshape(ours.shape)
    one, other = np.ma.getdata(ours)[~missing], theirs.reshape(ours.shape)[~missing]
    equal_nan = ours.dtype.kind in "fc"
    return np.array_equal(np.ma.getmaskarray(ours), missing) and np.array_equal(one, other, equal_nan=equal_nan)


def verdict(seed: int) -> str:
    """``equal``, ``both refuse``, or what differs. Of a file cut short, what is read must be what is in the whole one."""
    file = random_file(seed)
    what = f"seed {seed} ({file.damage or 'whole'})"
    try:
        ours = by_nalspark(file.raw)
    except UnusableSpectrum as fault:
        try:
            by_astropy(file, gzip.decompress(file.raw) if file.raw.startswith(b"\x1f\x8b") else file.raw)
        except Exception:
            return "both refuse"
        return f"{what}: only ours refuses: {fault}"
    try:
        theirs = by_astropy(file, file.whole)
    except Exception as error:
        return f"{what}: only astropy refuses: {type(error).__name__}: {error}"
    if len(ours) != len(theirs) and file.damage != "cut short":
        return f"{what}: {len(ours)} HDUs, astropy {len(theirs)}"
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if list(mine) != list(other):
            return f"{what}: HDU {number} has columns {list(mine)}, astropy {list(other)}"
        for name in mine:
            if not same(mine[name], other[name], file.nulls.get((number, name))):
                return f"{what}: HDU {number} column {name}: {mine[name]!r}, astropy {other[name]!r}"
    return "equal"
