"""How pure a catalogue of one species is where all others absorb too, each as often as in nature; and which are taken for it.

    python benchmarks/ions.py nature --species CIV --model DIR --sky ../shared/data/spectra/sky --n 6000
    python benchmarks/ions.py confusion --species CIV --model DIR --sky ../shared/data/spectra/sky --n 600

``nature``: absorbers of the species, with all lines that come with them, among those of Mg II and C IV, with the lines of the other ions
that come with these (:mod:`nalspark.mocks.families`), in the residuals of real sky fibers; each as frequent as its law says, so that no
line is there twice. A rare species is put in more often than nature has it, and counts for less, so that completeness and purity come from
numbers that are not small. ``confusion``: one absorber of another species in each spectrum, with all its lines but those of the ion that is
searched, the first or second line somewhere in the searched pixels: which part of those with both lines above 5 σ is published as the
species. Si IV, which is never seen without C IV, keeps its lines of C IV, and a candidate at these is right.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from detector import BLOCK, Found, detect, doublet_of, in_path, matched, places, prepare, rate, usable

from nalspark.absorption.normalize import EMISSION, Normalized
from nalspark.absorption.windows import search_window
from nalspark.incidence import frequency_law
from nalspark.learning.models import Detector, read_model
from nalspark.lines import ALL_LINES, NEVER_WITHOUT, SPECIES, LineSpecies, Transition, with_all_lines
from nalspark.mocks import inject, quasars
from nalspark.mocks.families import draw_families, with_lines_of
from nalspark.mocks.noise import sky_noise
from nalspark.mocks.recipes import Mocks, Recipe, make_mocks
from nalspark.mocks.stages import REALISTIC, overrepresentation
from nalspark.settings import Settings, load
from nalspark.spectra.grid import LATTICE

NONE = inject.Population(counts=(1.0, 0.0))
#: W, rest Å times 1 + z, below which a line explains no candidate; pixels within which it does.
LEAST_EW, NEAR = 0.3, 5.0
STRONG = 5.0
#: How the causes begin that grow with the number of absorbers that are put in.
OWN = "beside an absorber"
#: A generator and the quasar's redshift → pairs of a species and its absorbers, all of spectrum 0.
Draw = Callable[[np.random.Generator, float], list[tuple[LineSpecies, inject.Absorbers]]]


@dataclass(frozen=True)
class Line:
    """A line of an absorber of another species."""

    name: str
    pixel: float


@dataclass
class Others:
    """Quasars with absorbers of other species: a recipe's ``continuum``, which remembers what it put into one batch.

    Attributes
    ----------
    draw : callable
    batch : list
        What was drawn for each spectrum.
    """

    draw: Draw
    batch: list[list[tuple[LineSpecies, inject.Absorbers]]] = field(default_factory=list)

    def __call__(self, rng: np.random.Generator, z_qso: float) -> np.ndarray:
        flux = quasars.quasar_flux(LATTICE, z_qso, rng)
        self.batch.append([(species, absorbers) for species, absorbers in self.draw(rng, z_qso) if len(absorbers)])
        for species, absorbers in self.batch[-1]:
            flux = flux * inject.transmission(absorbers, species, LATTICE, 1)[0]
        return flux

    def lines(self, row: int) -> list[Line]:
        """The lines of a spectrum that can be taken for something."""
        found = []
        for species, absorbers in self.batch[row]:
            for line in species.transitions:
                seen = width_of(line, species, absorbers) * (1.0 + absorbers.z) >= LEAST_EW
                pixels = LATTICE.pixel(line.wavelength * (1.0 + absorbers.z[seen]))
                found += [Line(f"{species.name}: {line}", float(pixel)) for pixel in pixels]
        return found


def width_of(line: Transition, species: LineSpecies, absorbers: inject.Absorbers) -> np.ndarray:
    """Rest equivalent width of a line, Å, of each absorber."""
    tau = absorbers.tau * absorbers.relative_tau[:, species.transitions.index(line), None]
    return inject.equivalent_width(line, tau, absorbers.b_kms, absorbers.velocity_kms)


def draw_nature(searched: LineSpecies) -> Draw:
    """Absorbers of all other species, wherever one of their own lines lies on the grid."""
    return lambda rng, z_qso: draw_families(searched, np.array([z_qso]), [rng], 1.0)


def draw_one(other: LineSpecies, settings: Settings) -> Draw:
    """One absorber, its first or second line where the first or second line of what is searched may lie."""
    searched = settings.line_species
    ion, needed = searched.primary.ion, NEVER_WITHOUT.get(other.primary.ion)
    system = with_lines_of(other, {line.ion for line in ALL_LINES if line.ion != ion or ion == needed})
    population = replace(REALISTIC, counts=(0.0, 1.0), incidence=0.0, ew_law="log-uniform", ew_min=0.2, ew_max=3.0)

    def draw(rng: np.random.Generator, z_qso: float) -> list[tuple[LineSpecies, inject.Absorbers]]:
        pixel = np.flatnonzero(search_window(LATTICE, searched, np.array([z_qso]), settings.preprocess)[0])
        uniforms = rng.random((1, inject.uniforms_per_spectrum(system, population)))
        if not len(pixel):
            return []
        shift = searched.offset_pixels(searched.secondary, LATTICE.step) if rng.random() < 0.5 else 0.0
        line = doublet_of(other)[int(rng.random() < 0.5)]
        z = LATTICE.wavelength_at(rng.choice(pixel) + rng.uniform(-0.5, 0.5) + shift) / line.wavelength - 1.0
        if not 0.003 < z < z_qso:
            return []
        return [(system, inject.draw(system, population, uniforms, (np.array([z]), np.array([z + 1e-6]))))]

    return draw


# ---- nature


def near_lines(found: Found, number: int, lines: list[Line], searched: LineSpecies) -> list[Line]:
    """The lines on which a line of a candidate lies."""
    split = searched.offset_pixels(searched.secondary, LATTICE.step)
    return [line for line in lines if min(abs(found.pixel[number] - line.pixel), abs(found.pixel[number] + split - line.pixel)) <= NEAR]


def cause_of(found: Found, number: int, lines: list[Line], mocks: Mocks, searched: LineSpecies) -> str:
    """What a false candidate is: lines of others, of an absorber that was put in, or none, and then where in the quasar."""
    if near := near_lines(found, number, lines, searched):
        return " + ".join(sorted({line.name for line in near}))
    split, here = searched.offset_pixels(searched.secondary, LATTICE.step), mocks.row == found.row[number]
    offsets = np.array([searched.offset_pixels(line, LATTICE.step) for line in with_all_lines(searched).transitions])
    away = found.pixel[number] + np.array([0.0, split])[:, None, None] - places(mocks.z_abs[here], searched) - offsets[:, None]
    if away.size and np.abs(away).min() <= 15.0:
        line = with_all_lines(searched).transitions[np.abs(away).min(axis=(0, 2)).argmin()]
        return f"{OWN}, {'its doublet' if line in doublet_of(searched) else line}"
    rest = LATTICE.wavelength_at(found.pixel[number]) / (1.0 + mocks.z_qso[found.row[number]])
    return "no line, emission line" if any(low < rest < high for low, high in EMISSION) else "no line, between emission lines"


@dataclass
class Tally:
    """What one batch after another adds up to."""

    path: float = 0.0
    weaker: list[np.ndarray] = field(default_factory=list)
    listed: list[np.ndarray] = field(default_factory=list)
    score: list[np.ndarray] = field(default_factory=list)
    true: int = 0
    false: Counter[str] = field(default_factory=Counter)

    def add(self, mocks: Mocks, ready: Normalized, found: Found, others: Others, settings: Settings) -> None:
        """Add a batch."""
        species = settings.line_species
        truth = mocks.row, places(mocks.z_abs, species), mocks.ew_primary
        partner, listed = matched(*truth, found, found.published)
        proposed, _ = matched(*truth, found, np.ones(len(found.row), dtype=bool))
        score = np.full(len(mocks.row), np.nan)
        score[proposed[proposed >= 0]] = found.score[proposed >= 0]
        inside = in_path(ready, mocks.row, mocks.z_abs)
        self.path += float(ready.redshift_path[usable(ready)].sum())
        for part, values in ((self.weaker, mocks.line_snr.min(axis=1)), (self.listed, listed), (self.score, score)):
            part.append(values[inside])
        self.true += int((partner >= 0).sum())
        for number in np.flatnonzero(found.published & (partner < 0)):
            self.false[cause_of(found, number, others.lines(found.row[number]), mocks, species)] += 1


def nature(options: argparse.Namespace, detector: Detector, settings: Settings) -> None:
    """Purity and completeness at the published score."""
    species = settings.line_species
    factor = options.factor or overrepresentation(settings)
    others, tally = Others(draw_nature(species)), Tally()
    population = replace(REALISTIC, incidence=factor)
    recipe = Recipe(species, (population,), seed=options.seed, contaminated=0.0, sky=sky_noise(options.sky), continuum=others)
    for start in range(0, options.n, BLOCK):
        others.batch.clear()
        mocks = make_mocks([f"nature-{k}" for k in range(start, min(start + BLOCK, options.n))], recipe)
        ready, searchable = prepare(mocks.spectra, mocks.z_qso, settings)
        tally.add(mocks, ready, detect(searchable, detector, settings), others, settings)
    report(tally, factor, options, species)


def report(tally: Tally, factor: float, options: argparse.Namespace, species: LineSpecies) -> None:
    weaker, listed, score = (np.concatenate(part) for part in (tally.weaker, tally.listed, tally.score))
    law, n = frequency_law(species).name, len(listed) / factor
    print(f"{options.n} spectra, path {tally.path:.0f}; {law} has {n:.1f} absorbers above 0.15 Å, put in {factor:.3g} times")
    for least in (3.0, STRONG):
        some = weaker >= least
        lost = some & ~listed
        why = f"{int(np.isnan(score[lost]).sum())} of {int(lost.sum())} missed were not proposed"
        print(f"  both lines >= {least:.0f} σ: {some.sum() / factor:.1f} in nature, published {rate(listed[some])}; {why}")
    own = sum(count for cause, count in tally.false.items() if cause.startswith(OWN))
    false = tally.false.total() - own + own / factor
    per_path, true = false / tally.path, tally.true / factor
    purity, error = true / (true + false), np.sqrt(false + 1.0) * true / (true + false) ** 2
    print(f"  published: {tally.true} true, {tally.false.total()} false: {per_path:.5f} per unit path")
    print(f"  purity {purity:.4f} ± {error:.4f}")
    for cause, count in tally.false.most_common():
        print(f"    {count:5d}  {cause}")


# ---- confusion


def confusion(options: argparse.Namespace, detector: Detector, settings: Settings) -> None:
    """Which part of the strong absorbers of each other species is published as this one."""
    species, sky = settings.line_species, sky_noise(options.sky)
    for other in SPECIES.values():
        if other.primary.ion == species.primary.ion:
            continue
        others, strong, taken, lines = Others(draw_one(other, settings)), 0, 0, Counter[str]()
        recipe = Recipe(species, (NONE,), seed=options.seed, contaminated=0.0, sky=sky, continuum=others)
        for start in range(0, options.n, BLOCK):
            others.batch.clear()
            names = [f"confusion-{other.name}-{k}" for k in range(start, min(start + BLOCK, options.n))]
            mocks = make_mocks(names, recipe)
            ready, searchable = prepare(mocks.spectra, mocks.z_qso, settings)
            found = detect(searchable, detector, settings)
            seen = strong_rows(others, mocks, ready)
            strong += int(seen.sum())
            hits = {
                int(found.row[k]): near
                for k in np.flatnonzero(found.published)
                if seen[found.row[k]]
                and (near := near_lines(found, k, others.lines(found.row[k]), species))
                and not any(species.primary.ion in line.name for line in near)
            }
            taken += len(hits)
            lines.update(" + ".join(sorted({line.name.partition(": ")[2] for line in near})) for near in hits.values())
        part = rate(np.arange(strong) < taken)
        print(f"  {other.name:<6} {strong:5d} with both lines >= {STRONG:.0f} σ: as {species.name} {part}  {dict(lines.most_common(4))}")


def strong_rows(others: Others, mocks: Mocks, ready: Normalized) -> np.ndarray:
    """The spectra that can be searched and whose absorber of another species has both lines above 5 σ, shape (n,)."""
    strong = np.zeros(len(others.batch), dtype=bool)
    weight = np.where(ready.spectra.good, ready.spectra.ivar * ready.continuum**2, 0.0)
    for row in np.flatnonzero(usable(ready)):
        for species, absorbers in others.batch[row]:
            strong[row] = (inject.line_snr(absorbers, species, LATTICE, weight[row : row + 1]) >= STRONG).all()
    return strong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("nature", "confusion"))
    parser.add_argument("--species", default="MgII", choices=sorted(SPECIES))
    parser.add_argument("--model", default="", help="directory of a model; by default the one of the species that ships")
    parser.add_argument("--sky", required=True, help="folder of sky-fiber spectra")
    parser.add_argument("--n", type=int, default=2000, help="spectra; of `confusion`, for each other species")
    parser.add_argument("--factor", type=float, default=0.0, help="times as many absorbers as in nature; 0: as many as in training")
    parser.add_argument("--seed", type=int, default=20261)
    options = parser.parse_args()
    detector, settings = read_model(options.model, options.species).load(), load(species=options.species)
    {"nature": nature, "confusion": confusion}[options.what](options, detector, settings)


if __name__ == "__main__":
    main()
