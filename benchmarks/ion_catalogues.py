"""Systems of a published catalogue in real spectra: found, seen but not believed, or not proposed.

    python benchmarks/ion_catalogues.py ../shared/data/spectra/qso Cooksey2013_CIV_DR7.fits --species CIV --model DIR --figures DIR

Catalogues: C IV of Cooksey et al. 2013 (ApJ 763, 37; QSO is MJD-PLATE-FIBER), Ca II of Sardane et al. 2014 (MNRAS 444, 1747; positions). A
system is looked for in every spectrum of its quasar, of whatever epoch: by plate, mjd and fiber, or within 1.5″ on the sky. Positions of a
catalogue that has none are those of its plates and fibers in ``--positions`` (dr7_set_plate_fiber_radec.csv). ``--figures`` draws every
system that was not found: the spectrum, its continuum, and where both lines should be.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from detector import Found, detect, doublet_of, in_path, on_lattice, places, prepare
from matplotlib.figure import Figure

from nalspark.absorption.normalize import Normalized
from nalspark.absorption.systems import match_radius
from nalspark.errors import UnusableSpectrum
from nalspark.learning.models import Detector, read_model
from nalspark.lines import SPECIES, LineSpecies
from nalspark.settings import Settings, load
from nalspark.spectra.grid import LATTICE
from nalspark.surveys.reader import open_spectrum

RADIUS_ARCSEC = 1.5
#: Columns of the two catalogues: redshift, W of both lines, error of the first, Å.
COLUMNS = (("zCIV", "W1548", "W1550", "E-W1548"), ("zabs", "W0a", "W0b", "e_W0a"))


@dataclass(frozen=True)
class System:
    """A system of a catalogue; plate, mjd and fiber or the position may be unknown."""

    identity: tuple[int, int, int] | None
    ra: float
    dec: float
    z: float
    ew: tuple[float, float]
    ew_err: float


def read_systems(path: Path, positions: Path) -> list[System]:
    """Read either catalogue."""
    table = Table.read(path, hdu=1)
    names = next(columns for columns in COLUMNS if columns[0] in table.colnames)
    z, first, second, error = (np.ma.filled(np.ma.asarray(table[name], dtype=float), np.nan) for name in names)
    if "_RA" in table.colnames:
        identities, place = [None] * len(table), np.column_stack([table["_RA"], table["_DE"]]).astype(float)
    else:
        parts = (map(int, str(name).split("-")) for name in table["QSO"])
        identities = [(plate, mjd, fiber) for mjd, plate, fiber in parts]
        with positions.open() as stream:
            known = {(int(row["PLATE"]), int(row["FIBER"])): (float(row["RA"]), float(row["DEC"])) for row in csv.DictReader(stream)}
        place = np.array([known.get((plate, fiber), (np.nan, np.nan)) for plate, _, fiber in identities])
    return [System(*values) for values in zip(identities, *place.T, z, zip(first, second, strict=True), error, strict=True)]


def read_spectra(folder: Path) -> tuple[list[str], list, dict[str, dict[str, str]]]:
    """Names, spectra and index rows of the files in a folder that can be read."""
    with (folder.parent / "index.csv").open() as stream:
        index = {row["name"]: row for row in csv.DictReader(stream) if row["dir"].endswith(folder.name)}
    names, found = [], []
    for path in sorted(folder.glob("*.fit*")):
        try:
            found.append(open_spectrum(path))
            names.append(path.name)
        except UnusableSpectrum as fault:
            print(f"  {path.name}: {fault.reason}")
    return names, found, index


def pairs(systems: list[System], names: list[str], index: dict[str, dict[str, str]]) -> Iterator[tuple[int, int]]:
    """Numbers of the systems and spectra that belong together."""
    rows = [index[name] for name in names]
    identity = [tuple(int(row[key]) for key in ("plate", "mjd", "fiber")) for row in rows]
    sky = SkyCoord([float(row["ra"]) for row in rows], [float(row["dec"]) for row in rows], unit="deg")
    ra, dec = (np.nan_to_num([getattr(system, name) for system in systems], nan=-1.0) for name in ("ra", "dec"))
    near, spectrum, *_ = sky.search_around_sky(SkyCoord(ra.clip(0.0), dec, unit="deg"), RADIUS_ARCSEC * u.arcsec)
    together = set(zip(near.tolist(), spectrum.tolist(), strict=True))
    numbers: dict[tuple[int, ...] | None, list[int]] = {}
    for number, system in enumerate(systems):
        numbers.setdefault(system.identity, []).append(number)
    together |= {(number, k) for k, one in enumerate(identity) for number in numbers.get(one, ())}
    yield from sorted(together)


@dataclass
class Searched:
    """The spectra of the catalogue's quasars, with what the chain found in them."""

    names: list[str]
    z_qso: np.ndarray
    ready: Normalized
    found: Found

    def fate(self, system: System, row: int, species: LineSpecies) -> tuple[str, str]:
        """What became of a system in a spectrum, in a word and a sentence."""
        if self.ready.reason[row] is not None:
            return "not searched", str(self.ready.reason[row])
        if not in_path(self.ready, np.array([row]), np.array([system.z]))[0]:
            return "not in the path", ""
        away = np.abs(self.found.pixel - places(np.array([system.z]), species))
        near = np.flatnonzero((self.found.row == row) & (away <= match_radius(system.ew[0]) + 1.0))  # catalogues' redshifts are rough
        if not len(near):
            return "not proposed", ""
        best = near[self.found.score[near].argmax()]
        ew = ", ".join(f"{value:.2f}" for value in self.found.ew[best])
        word = f"score {self.found.score[best]:.3f}, W {ew} Å, {self.found.significance[best]:.1f} σ, {away[best]:.1f} pixels away"
        return ("found" if self.found.published[best] else "below the score"), word


def search(folder: Path, systems: list[System], detector: Detector, settings: Settings) -> tuple[Searched, list[tuple[int, int]]]:
    """Search the spectra that have a system; which system is in which of them."""
    names, spectra, index = read_spectra(folder)
    together = list(pairs(systems, names, index))
    rows = sorted({k for _, k in together})
    z_qso = np.array([float(index[names[k]]["z"]) for k in rows])
    ready, searchable = prepare(on_lattice([spectra[k] for k in rows]), z_qso, settings)
    found = detect(searchable, detector, settings)
    return Searched([names[k] for k in rows], z_qso, ready, found), [(number, rows.index(k)) for number, k in together]


def draw(searched: Searched, row: int, system: System, title: str, settings: Settings) -> Figure:
    """Draw a spectrum, its continuum and the places of both lines: near them, and as a whole."""
    species, spectra = settings.line_species, searched.ready.spectra
    wave, good = LATTICE.wavelength, spectra.good[row]
    lines = [line.wavelength * (1.0 + system.z) for line in doublet_of(species)]
    figure = Figure(figsize=(12, 8), layout="constrained")
    for axes, reach in zip(figure.subplots(2, 1), (0.012, 0.12), strict=True):
        some = good & (wave > lines[0] * (1.0 - reach)) & (wave < lines[1] * (1.0 + reach))
        error = 1.0 / np.sqrt(spectra.ivar[row, some])
        axes.step(wave[some], spectra.flux[row, some], where="mid", color="black", lw=0.8)
        axes.plot(wave[some], error, color="grey", lw=0.6)
        axes.plot(wave[some], searched.ready.continuum[row, some], color="tab:red", lw=1.0)
        for line in lines:
            axes.axvline(line, color="tab:blue", ls="--", lw=0.8)
        mine = (searched.found.row == row) & (np.abs(searched.found.pixel - LATTICE.pixel(lines[0])) < 60)
        for pixel, score in zip(searched.found.pixel[mine], searched.found.score[mine], strict=True):
            axes.plot(LATTICE.wavelength_at(pixel), 0.05, "^", color="tab:orange")
            axes.text(LATTICE.wavelength_at(pixel), 0.1, f"{score:.2f}", fontsize=7)
        axes.set_ylim(0.0, 1.3 * np.percentile(searched.ready.continuum[row, some], 99))
    figure.axes[0].set_title(title, fontsize=10)
    figure.axes[1].set_xlabel("wavelength (Å)")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="real quasar spectra; index.csv lies beside the folder")
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("--species", default="CIV", choices=sorted(SPECIES))
    parser.add_argument("--model", default="", help="directory of a model; by default the one of the species that ships")
    parser.add_argument("--positions", type=Path, help="plates and fibers with their positions; by default beside the catalogue")
    parser.add_argument("--figures", type=Path, help="folder for figures of what was not found")
    options = parser.parse_args()
    settings = load(species=options.species)
    positions = options.positions or options.catalogue.parent / "dr7_set_plate_fiber_radec.csv"
    systems = read_systems(options.catalogue, positions)
    searched, together = search(options.folder, systems, read_model(options.model, options.species).load(), settings)
    kinds: dict[str, int] = {}
    print(f"{len({k for k, _ in together})} of {len(systems)} systems lie in {len(searched.names)} spectra, {len(together)} in all")
    for number, row in together:
        system = systems[number]
        word, sentence = searched.fate(system, row, settings.line_species)
        kinds[word] = kinds.get(word, 0) + 1
        ew = f"W {system.ew[0]:.2f} ± {system.ew_err:.2f}, {system.ew[1]:.2f} Å"
        title = f"{searched.names[row]} z_qso {searched.z_qso[row]:.3f} z {system.z:.4f} {ew}: {word}; {sentence}"
        print(f"  {title}")
        if options.figures and word in ("below the score", "not proposed"):
            options.figures.mkdir(parents=True, exist_ok=True)
            draw(searched, row, system, title, settings).savefig(options.figures / f"{number}-{Path(searched.names[row]).stem}.png", dpi=90)
    print(f"  {kinds}")


if __name__ == "__main__":
    main()
