"""What reading an SDSS file costs: a bare parse with numpy, nalspark's reader, and a plain astropy loop that does the same job.

    python benchmarks/read_files.py DIR [--rounds 5] [--files 200]

The three take turns on the same files, so that a busy machine slows them all; microseconds are those of a processor, the smallest of the
rounds. All SDSS files below DIR are read (spec and spSpec, known by name), the page cache is warm, one process on one core. The bare parse
is the floor: it knows beforehand where the pixels lie and of which type they are, believes the file, and copies the columns.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from nalspark.errors import UnusableSpectrum
from nalspark.surveys.reader import open_spectrum
from nalspark.surveys.sources import walk

#: Where the pixels of a file begin, how many they are, the type of each, and the fields to copy.
Place = tuple[int, int, np.dtype[Any], tuple[str, ...]]


def place_of(path: str) -> Place:
    """Look where the pixels of a file lie."""
    with fits.open(path) as hdus:
        if hdus[0].header["NAXIS"] == 2:
            rows, pixels = hdus[0].shape
            return hdus[0].fileinfo()["datLoc"], rows, np.dtype([("row", ">f4", (pixels,))]), ("row",)
        table = next(hdu for hdu in hdus[1:] if "loglam" in (name.lower() for name in hdu.columns.names))
        fields = tuple(name for name in table.columns.names if name.lower() in ("flux", "loglam", "ivar", "wdisp"))
        return table.fileinfo()["datLoc"], len(table.data), table.data.dtype, fields


def read_numpy(path: str, place: Place) -> list[np.ndarray]:
    """The floor: the bytes of the file, and the columns of pixels out of them."""
    start, rows, kind, fields = place
    with open(path, "rb", buffering=0) as file:
        table = np.frombuffer(file.read(), kind, rows, start)
    return [table[name].astype(table.dtype[name].base.newbyteorder("=")) for name in fields]


def read_astropy(path: str) -> tuple[object, ...]:
    """Pixels, mask, identity, redshift and class, as a careful astropy user reads them."""
    with fits.open(path, memmap=False) as hdus:
        header = hdus[0].header
        if header["NAXIS"] == 2:
            flux, _, error, mask = hdus[0].data[:4]
            with np.errstate(divide="ignore"):
                ivar = np.where(error > 0, error**-2.0, 0)
            names = ("PLATEID", "MJD", "FIBERID", "RAOBJ", "DECOBJ", "Z", "SPEC_CLN", "OBJTYPE")
            return flux, ivar, mask, header["COEFF0"], header["COEFF1"], *(header[name] for name in names)
        pixels, objects = hdus[1].data, hdus[2].data
        names = ("PLATE", "MJD", "FIBERID", "PLUG_RA", "PLUG_DEC", "Z", "ZWARNING", "CLASS")
        native = (pixels[name].astype(kind) for name, kind in (("flux", "f4"), ("loglam", "f8"), ("ivar", "f4"), ("and_mask", "i4")))
        return *native, *(objects[name][0] for name in names)


def timed(read: Callable[[str], object], paths: list[str]) -> float:
    """Microseconds of a processor for a file."""
    start = time.process_time()
    for path in paths:
        read(path)
    return (time.process_time() - start) / len(paths) * 1e6


def usable(folder: str) -> Iterator[str]:
    """SDSS files that the reader accepts; the others are named and left out, since refusing is faster than reading."""
    for found in walk(folder):
        if Path(found.path).name.lower().startswith(("spec-", "spspec-")):
            try:
                open_spectrum(found.path)
                yield found.path
            except UnusableSpectrum as fault:
                print(f"left out: {fault}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=None, help="read this many at most")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    paths = list(usable(options.folder))[: options.files]
    if not paths:
        raise SystemExit(f"There are no SDSS files below {options.folder}; expected spec-*.fits or spSpec-*.fit.")
    places = {path: place_of(path) for path in paths}
    readers = {"numpy": lambda path: read_numpy(path, places[path]), "nalspark": open_spectrum, "astropy": read_astropy}
    rounds = [{name: timed(read, paths) for name, read in readers.items()} for _ in range(options.rounds)]
    size = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1000
    print(f"{len(paths)} files of {size:.0f} kB on average, {options.rounds} rounds")
    best = {name: min(turn[name] for turn in rounds) for name in readers}
    for name, micros in best.items():
        print(f"{name:10} {micros:8.0f} µs a file, {micros / best['numpy']:6.3g} times the bare parse")


if __name__ == "__main__":
    main()
