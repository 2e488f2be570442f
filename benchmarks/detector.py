"""How good the detector is, on spectra that it never saw: each claim a command.

    python benchmarks/detector.py artificial --n 10000 [--quasars ../shared/data/spectra/qso]
    python benchmarks/detector.py interlopers --n 2000
    python benchmarks/detector.py purity --n 10000 --sky ../shared/data/spectra/sky
    python benchmarks/detector.py real ../shared/data/spectra/qso --n 3000
    python benchmarks/detector.py real ../shared/data/spectra/qso --n 6000 --species CIV --model DIR --law published
    python benchmarks/detector.py forged ../shared/data/spectra
    python benchmarks/detector.py separation ../shared/data/spectra/qso

``artificial``: the paper's benchmark (Zhao et al. 2019, §4): half of the spectra have one strong absorber (W ≥ 0.3 Å, both lines ≥ 3 σ), a
part holds an interloper; beside it the ideal observer, who knows continuum, noise and population. With ``--quasars`` the continua are drawn
from eigenspectra of real quasars, of which the shipped model has seen none. ``interlopers``: every kind alone. ``purity``: absorbers as
frequent as the law of their species has them (Mg II: Zhu & Ménard 2013), in the residuals of real sky fibers. ``real``: absorbers put into
real spectra.

``--species`` names what is searched; ``ions.py`` measures purity where all other species absorb as well. All go through the same functions
as a survey does. A spectrum's score is its best candidate's; "published" are those above infer.min_score.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ideal_observer import ideal_log_ratio, make_templates

from nalspark.absorption import chain, systems
from nalspark.absorption.chain import Searchable
from nalspark.absorption.measure import STRONG_EW
from nalspark.absorption.normalize import Normalized, searched_pixels
from nalspark.absorption.systems import match_radius
from nalspark.errors import UnusableSpectrum
from nalspark.incidence import frequency_law
from nalspark.judging.decoys import extra_pixels, with_separation
from nalspark.learning.models import Detector, read_model
from nalspark.lines import MG_II, SPECIES, LineSpecies, Transition, with_all_lines
from nalspark.metrics import area_under_curve, binary_metrics, reliability
from nalspark.mocks import inject
from nalspark.mocks.examples import strong
from nalspark.mocks.interlopers import OTHER_SPECIES, kinds_of
from nalspark.mocks.noise import sky_noise
from nalspark.mocks.recipes import INSTRUMENT_SIGMAS, Mocks, Recipe, make_mocks
from nalspark.mocks.stages import REALISTIC
from nalspark.mocks.surveys.sdss import usable_sources
from nalspark.settings import Settings, load
from nalspark.spectra.batch import PixelFlag, Spectra
from nalspark.spectra.eigenspectra import DrawnQuasars, bridge_gaps, fit_eigenspectra
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.regrid import place_on_grid
from nalspark.surveys.catalogs import equivalent_width_quantiles, open_catalog
from nalspark.surveys.reader import open_spectrum
from nalspark.surveys.spectrum import SurveySpectrum

BLOCK = 256
#: Redshifts under which a star, a galaxy or empty sky is searched.
FORGED_REDSHIFTS = np.linspace(0.5, 2.5, 11)


@dataclass
class Found:
    """Candidates of a block with what the chain says of them."""

    row: np.ndarray
    pixel: np.ndarray
    score: np.ndarray
    published: np.ndarray
    z_abs: np.ndarray
    significance: np.ndarray
    ew: np.ndarray  # of both lines, (m, 2); NaN where not measured

    def best(self, n: int, which: str = "score") -> np.ndarray:
        """Best score of every spectrum; 0 where there is no candidate."""
        value = np.zeros(n)
        np.maximum.at(value, self.row, self.score * (self.published if which == "published" else 1.0))
        return value


def prepare(spectra: Spectra, z_qso: np.ndarray, settings: Settings) -> tuple[Normalized, Searchable]:
    ready = chain.prepare(spectra, z_qso, settings)
    return ready, Searchable.of(ready, z_qso)


def detect(searchable: Searchable, detector: Detector, settings: Settings) -> Found:
    """Search, score, measure."""
    network = chain.scorer(detector.predict, detector.card.inputs, settings)
    detections = chain.detect(searchable, network, settings)
    candidates, kept, measured = detections.candidates, detections.kept, detections.measured
    z_abs, published = np.full(len(candidates), np.nan), np.zeros(len(candidates), dtype=bool)
    z_abs[kept], published[kept] = measured["z_abs"], measured["accepted"]
    ew, doublet = np.full((len(candidates), 2), np.nan), (settings.line_species.primary, settings.line_species.secondary)
    ew[kept] = np.stack([measured[f"ew_{line.label}"] for line in doublet], axis=1)
    return Found(candidates.row, candidates.pixel, detections.score, published, z_abs, candidates.significance, ew)


def matched(mocks_row: np.ndarray, place: np.ndarray, ew: np.ndarray, found: Found, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidates with the absorbers they are: nearest pairs first, each once, one system as everywhere.

    `place` and `ew` are the absorbers' pixels and rest equivalent widths. Of `chosen` candidates the numbers of their absorbers, -1 for
    none; of the absorbers, whether they were found.
    """
    candidate = np.flatnonzero(chosen)
    away = np.abs(found.pixel[candidate][:, None] - place)
    away[(found.row[candidate][:, None] != mocks_row) | (away > match_radius(ew))] = np.inf
    partner, taken = np.full(len(found.row), -1), np.zeros(len(mocks_row), dtype=bool)
    for k in np.argsort(away, axis=None):
        c, a = np.unravel_index(k, away.shape) if away.size else (0, 0)
        if not away.size or not np.isfinite(away[c, a]):
            break
        if partner[candidate[c]] < 0 and not taken[a]:
            partner[candidate[c]], taken[a] = a, True
    return partner, taken


def places(z_abs: np.ndarray, species: LineSpecies) -> np.ndarray:
    """Pixels of the first line."""
    return LATTICE.pixel(species.primary.wavelength * (1 + z_abs))


def in_path(ready: Normalized, row: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.array([systems.in_path(x, ready.z_start[k], ready.z_stop[k]) for k, x in zip(row, z, strict=True)], dtype=bool)


def usable(ready: Normalized) -> np.ndarray:
    return np.array([reason is None for reason in ready.reason])


def say(name: str, label: np.ndarray, score: np.ndarray, threshold: float) -> None:
    found = binary_metrics(label, score, threshold)
    print(
        f"  {name:<34} accuracy {found['accuracy']:.4f}  precision {found['precision']:.4f}  recall {found['recall']:.4f}  "
        f"AUC {found['auc']:.4f}"
    )


def best_threshold(label: np.ndarray, score: np.ndarray) -> float:
    order = np.argsort(-score)
    right = np.cumsum(np.where(label[order] > 0, 1, -1))
    return float(score[order][int(right.argmax())])


# ---- the paper's benchmark


def drawn_quasars(folder: str) -> DrawnQuasars:
    """Eigenspectra of the real quasars in a folder, 0.4 wide in redshift: there are few."""
    settings = load()
    spectra, z = real_spectra(Path(folder), MG_II)
    _, searchable = prepare(spectra, z, settings)
    mask, continuum, z_qso = searchable.spectra.mask, searchable.continuum, searchable.z_qso
    known = bridge_gaps(np.where(mask == 0, searchable.spectra.ivar, 0.0).astype(np.float32))
    known[((mask & PixelFlag.FOREST) > 0) | (continuum <= 0)] = 0.0
    bins = []
    for low in np.arange(0.4, 3.2, 0.4):
        mine = (z_qso >= low) & (z_qso < low + 0.4)
        if mine.sum() >= 8:
            args = (continuum[mine], known[mine], z_qso[mine], (low, low + 0.4))
            bins.append(fit_eigenspectra(*args, components=20, rounds=10, held_out=np.zeros(mine.sum(), dtype=bool)))
            print(f"  eigenspectra z {low:.1f}-{low + 0.4:.1f}: {mine.sum()} quasars, {len(bins[-1].variance)} components")
    return DrawnQuasars(tuple(bins))


def artificial(options: argparse.Namespace, detector: Detector, settings: Settings) -> None:
    continuum = drawn_quasars(options.quasars) if options.quasars else None
    law = {"ew_law": options.law, "ew_min": 0.3, "ew_max": 6.0}
    if options.law == "empirical":
        law["ew_sample"] = equivalent_width_quantiles(open_catalog(options.catalogue, "absorbers", ["MgII"]))
    kinds = tuple(
        kind for kind in kinds_of(MG_II) if kind not in ("stellar", "host")
    )  # quasars with contaminants, not stars that were taken for quasars
    common = {"species": MG_II, "seed": options.seed, "contaminated": options.contaminated, "snr_min": 3.0, "most_correlated": 0.0}
    common |= {"kinds": kinds, "sky": sky_noise(options.sky) if options.sky else None}
    with_one = inject.Population(counts=(0.0, 1.0), **law)
    recipes = [Recipe(populations=(inject.Population(counts=(1.0, 0.0)),), continuum=continuum, **common)]
    recipes.append(Recipe(populations=(with_one,), continuum=continuum, **common))
    templates = templates_of(with_one, options.templates, options.seed) if options.templates else None
    label, score, published, ideal, kind, weakest = [], [], [], [], [], []
    for value, recipe in enumerate(recipes):
        done, start = 0, 0
        while done < options.n // 2:
            names = [f"bench-{value}-{start + k}" for k in range(BLOCK)]
            start += BLOCK
            mocks = make_mocks(names, recipe)
            ready, searchable = prepare(mocks.spectra, mocks.z_qso, settings)
            good = usable(ready)
            least = np.zeros(BLOCK)
            if value:
                hit = strong(mocks) & in_path(ready, mocks.row, mocks.z_abs)
                good &= np.isin(np.arange(BLOCK), mocks.row[hit])
                least[mocks.row] = mocks.line_snr.min(axis=1)
            rows = np.flatnonzero(good)[: options.n // 2 - done]
            found = detect(searchable.take(np.isin(searchable.row, rows)), detector, settings)
            score.append(found.best(BLOCK)[rows])
            published.append(found.best(BLOCK, "published")[rows])
            label.append(np.full(len(rows), value))
            kind += [mocks.kind[k] for k in rows]
            weakest.append(least[rows])
            if templates is not None:
                ideal.append(observe_ideally(mocks, ready, rows, templates, settings))
            done += len(rows)
    y, s, p, w = (np.concatenate(part) for part in (label, score, published, weakest))
    print(f"{len(y)} spectra, half with one strong absorber (W {options.law}); {np.mean([k != '' for k in kind]):.0%} hold an interloper")
    half = np.arange(len(y)) % 2 == 0  # one half chooses the threshold, the other is judged
    chosen = best_threshold(y[half], s[half])
    say("score above .5", y, s, 0.5)
    say(f"score above {chosen:.3f}, chosen apart", y[~half], s[~half], chosen)
    say("published", y, p, 0.5)
    if ideal:
        best = np.concatenate(ideal)
        say("ideal observer, odds above 1", y, 1 / (1 + np.exp(-np.clip(best, -50, 50))), 0.5)
        cut = best_threshold(y[half], best[half])
        say("ideal observer, best threshold", y[~half], (best[~half] > cut) * 1.0, 0.5)
    for low, high in ((3, 4), (4, 5), (5, 7), (7, 1e9)):
        some = (y == 1) & (w >= low) & (w < high)
        line = f"  weaker line at {low:.0f} to {high:.0f} σ: {some.mean() * 2:5.1%} of the positives, recall {(s[some] >= 0.5).mean():.3f}"
        print(line + (f", ideal {(best[some] > 0).mean():.3f}" if ideal else ""))
    missed = Counter(k or "no interloper" for k, yes, v in zip(kind, y, s, strict=True) if not yes and v >= 0.5)
    print(f"  false positives at .5: {dict(missed)}")


def templates_of(population: inject.Population, n: int, seed: int):
    system = with_all_lines(MG_II)
    rng = inject.seeded_generator(seed, "templates")
    uniforms = rng.random((n, inject.uniforms_per_spectrum(system, population)))
    drawn = inject.draw(system, population, uniforms, (np.full(n, 0.5), np.full(n, 1.8)))
    return make_templates(drawn, system, LATTICE.step, rng.choice(INSTRUMENT_SIGMAS, len(drawn)))


def observe_ideally(mocks: Mocks, ready: Normalized, rows: np.ndarray, templates, settings: Settings) -> np.ndarray:
    """The ideal observer knows what the spectrum would be without the absorber."""
    good = mocks.spectra.good[rows] & (mocks.expected[rows] > 1e-3 * mocks.sigma[rows])  # nothing can be absorbed elsewhere
    residual = np.where(good, 1.0 - mocks.spectra.flux[rows] / mocks.expected[rows], 0.0)
    weight = np.where(good, (mocks.expected[rows] / mocks.sigma[rows]) ** 2, 0.0)
    spectra = Spectra(*(getattr(ready.spectra, name)[rows] for name in ("flux", "ivar", "mask")), LATTICE)
    searched = searched_pixels(spectra, ready.continuum[rows], mocks.z_qso[rows], MG_II, settings.preprocess)
    return ideal_log_ratio(residual.astype(np.float32), weight.astype(np.float32), searched, templates, LATTICE.step, redrawn=False)


# ---- interlopers


def interlopers(options: argparse.Namespace, detector: Detector, settings: Settings) -> None:
    print(f"{options.n} spectra of each kind, no absorber in them; fraction with a candidate above .5 (published)")
    for kind in ("", *kinds_of(settings.line_species)):
        recipe = Recipe(
            settings.line_species,
            (inject.Population(counts=(1.0, 0.0)),),
            seed=options.seed,
            contaminated=1.0 if kind else 0.0,
            kinds=(kind,) if kind else (),
        )
        near = anywhere = published = total = 0
        for start in range(0, options.n, BLOCK):
            names = [f"impostor-{kind}-{k}" for k in range(start, min(start + BLOCK, options.n))]
            mocks = make_mocks(names, recipe)
            ready, searchable = prepare(mocks.spectra, mocks.z_qso, settings)
            found = detect(searchable, detector, settings)
            total += int(usable(ready).sum())
            anywhere += len(set(found.row[found.score >= 0.5]))
            published += len(set(found.row[found.published]))
            near += len(set(found.row[(found.score >= 0.5) & close_to(mocks, found, kind, settings.line_species)]))
        rates = f"at its lines {near / total:.4f}, anywhere {anywhere / total:.4f} ({published / total:.4f})"
        print(f"  {kind or 'no interloper':<12} {total:5d} searched: {rates}")


def close_to(mocks: Mocks, found: Found, kind: str, searched: LineSpecies) -> np.ndarray:
    """Candidates one of whose lines lies within 10 pixels of one of the interloper's, or within 60 of what has no certain place."""
    split = searched.offset_pixels(searched.secondary, LATTICE.step)
    species = OTHER_SPECIES.get(kind)
    lines = [species.offset_pixels(line, LATTICE.step) for line in species.transitions] if species else [0.0]
    away = (found.pixel - mocks.interloper_pixel[found.row])[:, None, None] + np.array([0.0, split])[:, None] - np.array(lines)
    return (np.abs(away) <= (10.0 if species else 60.0)).any(axis=(1, 2))


# ---- purity


def purity(options: argparse.Namespace, detector: Detector, settings: Settings) -> None:
    sky = sky_noise(options.sky) if options.sky else None
    recipe = Recipe(settings.line_species, (REALISTIC,), seed=options.seed, contaminated=options.contaminated, sky=sky)
    label, score, shown, true, true_listed, dz, complete, spurious = [], [], [], [], [], [], [], Counter()
    for start in range(0, options.n, BLOCK):
        names = [f"purity-{k}" for k in range(start, min(start + BLOCK, options.n))]
        mocks = make_mocks(names, recipe)
        ready, searchable = prepare(mocks.spectra, mocks.z_qso, settings)
        found = detect(searchable, detector, settings)
        truth = mocks.row, places(mocks.z_abs, settings.line_species), mocks.ew_primary
        value = (matched(*truth, found, np.ones(len(found.row), dtype=bool))[0] >= 0).astype(float)
        partner, got = matched(*truth, found, found.score >= 0.5)
        listed_partner, listed = matched(*truth, found, found.published)
        label.append(value), score.append(found.score), shown.append(found.published)
        true.append(partner >= 0), true_listed.append(listed_partner >= 0)
        dz.append((found.z_abs - mocks.z_abs[np.maximum(partner, 0)])[partner >= 0])
        inside = in_path(ready, mocks.row, mocks.z_abs)
        complete.append(np.stack([mocks.ew_primary, strong(mocks), got, listed], axis=1)[inside])
        spurious.update(mocks.kind[k] or "no interloper" for k in found.row[found.published & (listed_partner < 0)])
    y, s, p, t, listed = (np.concatenate(part) for part in (label, score, shown, true, true_listed))
    law = frequency_law(settings.line_species).name
    print(f"{options.n} spectra, {'noise of real sky fibers' if sky else 'parametric noise'}, incidence of {law} above .15 Å")
    print(f"  score above .5: {int((s >= 0.5).sum())} candidates, purity {t[s >= 0.5].mean():.4f}")
    print(f"  published: {int(p.sum())} absorbers, purity {listed[p].mean():.4f}; spurious in {dict(spurious)}")
    error = reliability(y, s).expected_calibration_error
    print(f"  calibration error {error:.4f}; AUC {area_under_curve(y, s):.4f}")
    print(f"  median |dz| {np.nanmedian(np.abs(np.concatenate(dz))):.6f}")
    report_completeness(np.concatenate(complete))


def report_completeness(table: np.ndarray) -> None:
    """Rows of (W, strong, score above 0.5, published)."""
    w, is_strong, got, listed = table.T
    chosen = {"strong": is_strong > 0, "strong, W >= 1 Å": (is_strong > 0) & (w >= 1), "W >= 1 Å": w >= 1, "all": w > 0}
    for name, some in chosen.items():
        rates = f"score above .5 {got[some].mean():.4f}, published {listed[some].mean():.4f}"
        print(f"  completeness, {name:<17} {int(some.sum()):6d} in the path: {rates}")


# ---- real quasars


def real_spectra(folder: Path, species: LineSpecies) -> tuple[Spectra, np.ndarray]:
    """Trusted quasar spectra of a folder in which the species can be seen, on the grid, as the pipeline would search them."""
    paths, _ = usable_sources(folder, species)
    found = [open_spectrum(path) for path in paths]
    return on_lattice(found), np.array([one.z_pipeline for one in found])


def on_lattice(found: list[SurveySpectrum]) -> Spectra:
    origin = [one.loglam if one.loglam is not None else one.first_pixel for one in found]
    columns = ([getattr(one, name) for one in found] for name in ("flux", "ivar", "mask"))
    return place_on_grid(*columns, origin, LATTICE, resolution=[one.resolution for one in found])


@dataclass
class Quasars:
    """Real spectra, and what the chain makes of them before anything is put in."""

    spectra: Spectra
    z_qso: np.ndarray
    clean: Normalized
    system: LineSpecies  # with the lines that are put in

    def put_in(self, rows: np.ndarray, absorbers: inject.Absorbers, detector: Detector, settings: Settings) -> dict[str, np.ndarray]:
        """Put absorbers into copies of the spectra `rows`, one in each, and look for them; columns of those that lie in the path."""
        species, spectra, clean, system = settings.line_species, self.spectra, self.clean, self.system
        passed = inject.transmission(absorbers, system, LATTICE, len(rows))
        injected = Spectra((spectra.flux[rows] * passed).astype(np.float32), spectra.ivar[rows], spectra.mask[rows], LATTICE)
        _, searchable = prepare(injected, self.z_qso[rows], settings)
        found = detect(searchable, detector, settings)
        weight = np.where(clean.spectra.good[rows], clean.spectra.ivar[rows] * clean.continuum[rows] ** 2, 0.0)
        spectrum = rows[absorbers.spectrum]
        truth = absorbers.spectrum, places(absorbers.z, species), absorbers.ew_primary
        best, got, listed = (matched(*truth, found, which) for which in (found.score >= 0.0, found.score >= 0.5, found.published))
        candidate = np.full(len(absorbers), -1)
        for partner in (best[0], listed[0]):  # the published one, where there is one
            candidate[partner[partner >= 0]] = np.flatnonzero(partner >= 0)
        score = np.append(found.score, np.nan)[candidate]
        columns = {"row": spectrum, "z_qso": self.z_qso[spectrum], "snr": clean.snr[spectrum], "z": absorbers.z}
        columns |= {"ew": np.stack([absorbers.ew_primary, absorbers.ew_secondary], axis=1), "got": got[1], "listed": listed[1]}
        columns |= {"line_snr": inject.line_snr(absorbers, system, LATTICE, weight), "score": score}
        columns["measured"] = np.append(found.ew, [[np.nan, np.nan]], axis=0)[candidate]
        inside = in_path(clean, spectrum, absorbers.z)
        return {name: values[inside] for name, values in columns.items()}


def inject_real(options: argparse.Namespace, detector: Detector, settings: Settings) -> tuple[dict[str, np.ndarray], int]:
    """Put one absorber into each copy of a real spectrum; its own noise, continuum and absorbers stay."""
    spectra, z_qso = real_spectra(Path(options.folder), settings.line_species)
    system, parts = with_all_lines(settings.line_species), []
    if options.ions is not None:
        system = replace(system, companions=tuple(line for line in system.companions if line.ion in options.ions))
    quasars = Quasars(spectra, z_qso, chain.prepare(spectra, z_qso, settings), system)
    population = inject.Population(counts=(0.0, 1.0), ew_law=options.law, ew_min=options.ew_min, ew_max=6.0)
    alive = np.flatnonzero(usable(quasars.clean) & (quasars.clean.snr > options.snr_min))
    edges = tuple(LATTICE.wavelength_at(np.array([0, LATTICE.n_pixels - 1])))
    size = inject.uniforms_per_spectrum(system, population)
    for start in range(0, options.n, BLOCK):
        rows = alive[(start + np.arange(BLOCK)) % len(alive)]
        uniforms = np.stack([inject.seeded_generator(options.seed, "real", start + k).random(size) for k in range(BLOCK)])
        limits = inject.redshift_limits(settings.line_species, z_qso[rows], edges, population)
        parts.append(quasars.put_in(rows, inject.draw(system, population, uniforms, limits), detector, settings))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, len(alive)


def real(options: argparse.Namespace, detector: Detector, settings: Settings) -> None:
    """Completeness of absorbers put into real spectra, and the bias of their equivalent widths."""
    table, n_spectra = inject_real(options, detector, settings)
    print(f"{options.n} absorbers (W {options.law}) in {n_spectra} real spectra")
    w, weaker = table["ew"][:, 0], table["line_snr"].min(axis=1)
    report_completeness(np.stack([w, (weaker >= 3.0) & (w >= STRONG_EW), table["got"], table["listed"]], axis=1))
    for least in (3.0, 5.0):
        some = weaker >= least
        lost = some & ~table["listed"]
        why = f"{int(np.isnan(table['score'][lost]).sum())} of {int(lost.sum())} missed were not proposed"
        print(f"  both lines >= {least:.0f} σ: {int(some.sum())} in the path, published {rate(table['listed'][some])}; {why}")
    use = (weaker >= 5.0) & table["listed"]
    true, measured = (np.column_stack([table[name][use], table[name][use].sum(axis=1)]) for name in ("ew", "measured"))
    for number, name in enumerate((*(str(line) for line in doublet_of(settings.line_species)), "sum of both")):
        print(f"  W of {name}, measured / true - 1, both lines >= 5 σ: {bias(measured[:, number] / true[:, number] - 1.0)}")


def doublet_of(species: LineSpecies) -> tuple[Transition, Transition]:
    return species.primary, species.secondary


def rate(hit: np.ndarray) -> str:
    """A fraction with its binomial error, which is not 0 where the fraction is 0 or 1 (Laplace's rule)."""
    n, near = len(hit), (hit.sum() + 1.0) / (len(hit) + 2.0)
    return f"{hit.mean() if n else np.nan:.4f} ± {np.sqrt(near * (1.0 - near) / max(n, 1)):.4f}"


def bias(excess: np.ndarray) -> str:
    """Median and mean with their errors; the median's from the central 68 %."""
    low, middle, high = np.percentile(excess, [15.865, 50.0, 84.135])
    n = np.sqrt(len(excess))
    return f"median {middle:+.4f} ± {1.2533 * 0.5 * (high - low) / n:.4f}, mean {excess.mean():+.4f} ± {excess.std() / n:.4f}"


# ---- no absorber can be there


def spectra_below(folder: Path) -> Spectra:
    """All spectra of a folder that can be read, on the lattice, whatever they are."""
    found = []
    for path in sorted(folder.glob("*.fit*")):
        try:
            found.append(open_spectrum(path))
        except UnusableSpectrum:
            continue
    return on_lattice(found)


def forged(options: argparse.Namespace, detector: Detector, settings: Settings) -> None:
    """Sky, stars and galaxies under eleven quasar redshifts each."""
    for kind in ("sky", "star", "galaxy"):
        spectra = spectra_below(Path(options.folder) / kind)
        per_object, searched = np.zeros(len(spectra.flux)), 0
        for z in FORGED_REDSHIFTS:
            _, searchable = prepare(spectra, np.full(len(spectra.flux), z), settings)
            found = detect(searchable, detector, settings)
            searched += len(searchable.row)
            np.add.at(per_object, found.row[found.published], 1)
        print(
            f"{kind}: {len(per_object)} objects, {searched} searches, {int(per_object.sum())} absorbers; "
            f"most of one object {int(per_object.max())}, objects with more than 2: {int((per_object > 2).sum())}"
        )


def separation(options: argparse.Namespace, detector: Detector, settings: Settings) -> None:
    """Doublets of a wrong separation in real quasars: chance, sky and continuum; not what has a line of a real absorber in it."""
    species = settings.line_species
    spectra, z_qso = real_spectra(Path(options.folder), species)
    ready, searchable = prepare(spectra, z_qso, settings)
    real = detect(searchable, detector, settings)
    path, n = ready.redshift_path[usable(ready)].sum(), int(real.published.sum())
    print(f"  {species.name} itself: {n} doublets of score >= {settings.infer.min_score}, path {path:.1f}, {n / path:.4f} per unit path")
    offsets = np.array([species.offset_pixels(line, LATTICE.step) for line in with_all_lines(species).transitions])
    taken = [real.pixel[real.published & (real.row == row)][:, None] + offsets for row in range(len(z_qso))]
    for extra in extra_pixels(species, LATTICE.step):
        wrong = with_separation(species, extra, LATTICE.step)
        pixels = wrong.offset_pixels(wrong.secondary, LATTICE.step)
        name = f"{pixels:.1f} pixels"
        SPECIES[name] = replace(wrong, name=name)
        chosen = load(species=name)
        ready, searchable = prepare(spectra, z_qso, chosen)
        found = detect(searchable, detector, chosen)
        path, n = ready.redshift_path[usable(ready)].sum(), 0
        for row, pixel in zip(found.row[found.published], found.pixel[found.published], strict=True):
            n += not any((np.abs(taken[row] - pixel - line) < 8.0).any() for line in (0.0, pixels))
        print(f"  {name}: {n} doublets of score >= {chosen.infer.min_score}, path {path:.1f}, {n / path:.4f} per unit path")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("artificial", "interlopers", "purity", "real", "forged", "separation"))
    parser.add_argument("folder", nargs="?", help="real quasar spectra, for `real`")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--species", default="MgII", choices=sorted(SPECIES), help="what is searched; `artificial` knows Mg II only")
    parser.add_argument("--model", default="", help="directory of a model; by default the one of the species that ships")
    parser.add_argument("--law", default="exponential", choices=("exponential", "log-uniform", "published", "empirical"))
    parser.add_argument("--catalogue", help="absorber catalogue, for the empirical law")
    parser.add_argument("--quasars", help="folder of real quasar spectra whose eigenspectra give the continua")
    parser.add_argument("--sky", help="folder of sky-fiber spectra")
    parser.add_argument("--contaminated", type=float, default=0.1)
    parser.add_argument("--templates", type=int, default=300, help="of the ideal observer; 0 leaves it out")
    parser.add_argument("--snr-min", type=float, default=0.0)
    parser.add_argument("--ions", nargs="*", help="whose lines come along in real spectra, e.g. 'Si IV'; of all ions by default")
    parser.add_argument("--ew-min", type=float, default=0.3, help="Å, of what is put into real spectra")
    options = parser.parse_args()
    if options.what == "artificial" and options.species != "MgII":
        parser.error("the paper's benchmark is one of MgII")
    detector, settings = read_model(options.model, options.species).load(), load(species=options.species)
    measurements = (artificial, interlopers, purity, real, forged, separation)
    {measurement.__name__: measurement for measurement in measurements}[options.what](options, detector, settings)


if __name__ == "__main__":
    main()
