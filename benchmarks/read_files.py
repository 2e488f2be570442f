"""How fast SDSS files are read: bare bytes, nalspark's reader, and a plain astropy loop that does the same job.

    python benchmarks/read_files.py DIR [--rounds 5] [--files 200]

The three take turns on the same files, so that a busy machine slows them all; the ratios are medians over the rounds. All SDSS files
below DIR are read (spec and spSpec, known by name), the page cache is warm, one process on one core. In the first round the reader's cache
of table layouts is empty: its rate is printed apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits

from nalspark.errors import UnusableSpectrum
from nalspark.surveys.fits_table import _kept_layout
from nalspark.surveys.reader import open_spectrum
from nalspark.surveys.sources import walk


def read_bytes(path: str) -> None:
    """The floor: nothing can be faster than getting the bytes."""
    with open(path, "rb", buffering=0) as file:
        file.read()


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
    """Seconds for all files."""
    start = time.perf_counter()
    for path in paths:
        read(path)
    return time.perf_counter() - start


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
    timed(read_astropy, paths[:20])  # import what astropy imports lazily
    _kept_layout.cache_clear()
    readers = {"bytes": read_bytes, "nalspark": open_spectrum, "astropy": read_astropy}
    rounds = [{name: len(paths) / timed(read, paths) for name, read in readers.items()} for _ in range(options.rounds)]
    size = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1000
    print(f"{len(paths)} files of {size:.0f} kB on average, {options.rounds} rounds")
    for name in readers:
        print(f"{name:10} {statistics.median(turn[name] for turn in rounds):10.0f} files/s   (first round {rounds[0][name]:.0f})")
    for other in ("astropy", "bytes"):
        ratios = [turn["nalspark"] / turn[other] for turn in rounds]
        print(f"nalspark / {other:8} {statistics.median(ratios):8.3g}   (from {min(ratios):.3g} to {max(ratios):.3g})")


if __name__ == "__main__":
    main()
