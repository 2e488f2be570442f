"""Every setting of nalspark: typed, bounded, frozen, each with its unit and meaning.

A run is described by one :class:`Settings`. It is read from a TOML file, then changed by ``key=value`` overrides, and all faults are
reported together. Nothing here is executed: TOML and pydantic only.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_serializer, model_validator

from nalspark.errors import SettingsError, did_you_mean
from nalspark.lines import SPECIES, LineSpecies

Positive = Annotated[float, Field(gt=0)]
#: What a survey calls its parts: it may stand in a path.
PLAIN_WORD = "^[a-z0-9]{1,20}$"
PlainWord = Annotated[str, Field(pattern=PLAIN_WORD)]


#: A URL, as against a folder with a colon in its name.
_URL = re.compile(r"(file|dbfs|[a-z][a-z0-9+.-]+(?=:/)):(//[^/]*)?(.*)", re.IGNORECASE | re.DOTALL)


def local_folder(text: str) -> str:
    """Give the path that a folder's name or URL has in the file systems of this machine.

    ``file:`` names one, and so does ``dbfs:`` where Databricks shows its files below ``/dbfs`` and ``/Volumes``.

    Raises
    ------
    SettingsError
        For the URL of anything else: results are written as files are.
    """
    url = _URL.fullmatch(text)
    if url is None:
        return text
    scheme, host, path = url[1].lower(), url[2] or "//", url[3]
    if path.startswith("/") and host in ("//", "//localhost"):
        place = unquote(path) if scheme == "file" else path if path.startswith("/Volumes/") else f"/dbfs{path}"
        if scheme == "file" or (scheme == "dbfs" and os.path.isdir("/".join(place.split("/")[:2]))):
            return place
    raise SettingsError(
        f"'{text}' is not in this machine's file systems, where nalspark keeps results. "
        "Name a folder that the driver and all executors see under the same path, for example a mount of it."
    )


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse edges that do not grow."""
    if any(low >= high for low, high in zip(values, values[1:], strict=False)):
        raise ValueError("expected numbers that grow from one to the next")
    return values


def _wide(edges: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse redshift bins that a bin of the sensitivity could fill."""
    if any(high - low < 0.0199 for low, high in zip(edges, edges[1:], strict=False)):
        raise ValueError("expected edges that grow by at least 0.02 from one to the next")
    return edges


def _power_of_two(number: int) -> int:
    if number & (number - 1):
        raise ValueError("expected a power of two, such as 16, 32 or 64")
    return number


class Unit(str):
    """The unit of a setting, among its annotations."""


class Fetch(Section):
    """Getting spectra from a survey's archive."""

    base_url: str = ""
    """URL of the archive; empty for the release's own. A mirror has the same folders below it."""
    workers: Annotated[int, Field(ge=1, le=32)] = 4
    """Parallel downloads. Archives are shared: more is not always faster."""
    limit_rate_mb_s: Annotated[float, Field(ge=0), Unit("MB/s")] = 0.0
    """Largest rate of all downloads together; 0 for no limit."""
    timeout_s: Annotated[float, Field(gt=0, le=600), Unit("s")] = 30.0
    """Read timeout before a retry."""
    file_timeout_s: Annotated[float, Field(ge=0, le=86400), Unit("s")] = 0.0
    """Timeout of one attempt at a whole file; 0 for the release's own: 300 s for SDSS, 3600 s for DESI. What came is not lost."""
    retries: Annotated[int, Field(ge=0, le=20)] = 5
    """Retries of a request after server errors, timeouts and truncated bodies."""
    backoff_s: Annotated[float, Field(ge=0, le=60), Unit("s")] = 1.0
    """Pauses between retries: none before the first, twice this before the second, then each twice as long, at most 60 s."""
    max_file_mb: Annotated[float, Field(ge=0, le=10000), Unit("MB")] = 0.0
    """Largest file accepted; 0 for the release's own: 32 MB for SDSS, 1000 MB for DESI, whose files have some 220 MB."""
    surveys: tuple[PlainWord, ...] = ()
    """DESI surveys (main, sv1, sv3, …) of quasars for which the catalogue has no SURVEY; empty for the release's."""
    programs: tuple[PlainWord, ...] = ()
    """DESI programs (dark, bright, backup, …) of quasars for which the catalogue has no PROGRAM; empty for the release's."""
    beside: bool = True
    """Fetch what the release has beside a file of spectra too: the pipeline's redshifts of DESI (redrock-*)."""


class Ingest(Section):
    """Finding and reading files."""

    plates_per_part: Annotated[int, Field(ge=1)] = 500
    """Plates in a part, the unit of resuming and replacing."""


class Crossmatch(Section):
    """Matching spectra with catalogues."""

    match_radius_arcsec: Annotated[float, Field(gt=0, le=60), Unit("arcsec")] = 1.0
    """Largest angular distance of a match on the sky."""
    label_significance: Annotated[Positive, Unit("σ")] = 3.0
    """A catalogued system is strong where both equivalent widths reach this many times their errors (Zhao et al. 2019, §2.2)."""
    weak: Literal["exclude", "negative"] = "exclude"
    """Label of a sightline whose catalogued systems are all weak: no label (exclude), or 0 (negative)."""
    footprint: dict[str, str] = {}
    """Absorber catalogue, by its file name → which spectra its authors searched: those of the plates that occur in it (plates; of rows
    without a plate, the cells of sky of 2°), of these cells (sky), all (everywhere), or those of a list of quasars, named by its path."""
    z_min: float = 0.005
    """Spectra with a pipeline redshift below this are not quasars."""
    z_max: float = 7.5
    """Redshifts above this are not believed."""


class Preprocess(Section):
    """Grid, rescaling, continuum, errors, search window."""

    min_good_pixels: Annotated[int, Field(ge=20), Unit("pixels")] = 200
    """Fewest usable pixels in the search window."""
    min_snr: Annotated[float, Field(ge=0)] = 0.5
    """Least median signal-to-noise ratio per pixel in the search window; below it there is no continuum to search against."""
    continuum_scale_pixels: Annotated[float, Field(ge=5, le=500), Unit("pixels")] = 15.0
    """Smoothing length of the continuum in the quasar's emission lines, at a signal-to-noise ratio of 10 per pixel. It grows as the
    inverse square root of that ratio."""
    continuum_scale_between: Annotated[float, Field(ge=5, le=500), Unit("pixels")] = 30.0
    """Smoothing length between the emission lines; at least that within them."""
    continuum_iterations: Annotated[int, Field(ge=1, le=20)] = 5
    """Rounds of fitting the continuum and masking outliers."""
    clip_significance: Annotated[Positive, Unit("σ")] = 3.0
    """Smoothed deviation from the continuum beyond which pixels are masked."""
    noise_window_pixels: Annotated[int, Field(ge=51), Unit("pixels")] = 201
    """Window in which the errors are scaled to the scatter of the residuals. They are reduced by 15 % at most."""
    noise_model: Literal["none", "sdss"] = "sdss"
    """Factors by which errors are multiplied where a survey's spectra scatter more than they claim: on night-sky lines and at the ends.
    That of SDSS serves other spectra from the ground too; ``none`` for spectra whose errors are right."""
    window_blue_z: float = 0.02
    """Added to z_qso for the blue end of the search window, so that residuals of emission lines stay outside (Zhu & Ménard 2013)."""
    window_rest_blue: Annotated[float, Field(ge=0, le=5000), Unit("Å")] = 0.0
    """Blue end of the search window in the quasar's rest frame; 0 for the species' own, the C IV emission for Mg II. Nothing is searched
    bluewards of Lyα. What is found bluewards of the species' own end is flagged."""
    window_beyond_kms: Annotated[float, Field(ge=0, le=10_000), Unit("km/s")] = 3000.0
    """Largest redshift of an absorber over the quasar's: it tells of a wrong quasar redshift, or of gas that falls in."""


class Search(Section):
    """The matched filter."""

    widths_pixels: Annotated[tuple[Annotated[float, Field(gt=0, le=50)], ...], Field(min_length=1), Unit("pixels")] = (
        1.4,
        2.4,
        4.2,
    )
    """Gaussian σ of the filters; a pixel of the grid is 69 km/s."""
    min_significance: Annotated[Positive, Unit("σ")] = 3.4
    """Least significance of both lines together. It is low: the search proposes, the network decides."""
    min_snr_primary: Positive = 1.5
    """Least signal-to-noise ratio of the doublet's first line."""
    min_snr_secondary: Positive = 1.0
    """Least signal-to-noise ratio of its second line."""
    max_per_spectrum: Annotated[int, Field(ge=1, le=100)] = 10
    """Candidates kept for each spectrum, the strongest first."""
    min_separation_pixels: Annotated[Positive, Unit("pixels")] = 6.0
    """Candidates closer than this are one absorber; 6 pixels are Δz = 0.003 at z = 1."""


class Infer(Section):
    """Scoring candidates with a trained model."""

    model: str = ""
    """Directory of a model; empty for the one that ships with nalspark."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Rows that go through a network of keras at a time; best equal to what Spark hands to Python at a time. Never changes a score."""
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Least score of an absorber."""
    measure_score: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Least score of a candidate that is measured. Those below stay in the table of scores only."""


class Measure(Section):
    """The doublet fit and its flags."""

    min_snr_primary: float = 2.0
    """Measured W/σ_W of the first line below which an absorber is flagged as weak."""
    min_snr_secondary: float = 1.0
    """Measured W/σ_W of the second line below which an absorber is flagged as weak."""
    instrument_sigma_kms: Annotated[float, Field(ge=0), Unit("km/s")] = 69.03
    """Gaussian σ of the instrument, subtracted from the width in quadrature, of a spectrum whose file does not say it."""
    max_fwhm_kms: Annotated[Positive, Unit("km/s")] = 290.0
    """FWHM, instrument removed, above which an absorber is flagged as broad. The limit grows by 0.85 times the equivalent width."""
    crowding: Annotated[Positive, Unit("per 1000 pixels")] = 4.0
    """Narrow features that the doublet does not explain, over the searched pixels, above which a spectrum is crowded: a star, a galaxy."""
    near_quasar_kms: Annotated[float, Unit("km/s")] = 5000.0
    """Velocity below which an absorber is flagged as associated with the quasar."""


class Simulate(Section):
    """Artificial spectra for training."""

    examples: Literal["candidates", "spectra"] = "candidates"
    """What an example is: the image of a candidate, or a whole spectrum."""
    n: Annotated[int, Field(ge=100)] = 40_000
    """Spectra for training and validation, four to one."""
    n_realistic: Annotated[int, Field(ge=100)] = 20_000
    """Spectra for calibration and test, one to one, with absorbers as frequent as in nature; of a rare species more, which the calibration
    takes into account."""
    population: Literal["broad", "zm13", "log-uniform", "zhao2019", "empirical"] = "broad"
    """Absorbers to train on: as frequent as in nature (zm13; Mg II as Zhu & Ménard find it); flat in log W; half of each (broad); one in
    every other spectrum with the line widths of Zhao et al. (2019); or equivalent widths of a catalogue."""
    catalogue: str = ""
    """Absorber catalogue whose equivalent widths the empirical population has."""
    contaminated: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of the training spectra that hold an interloper: another ion, a chance pair, a sky residual, a broad trough."""
    contaminated_realistic: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The same for calibration and test. Real spectra have fewer interlopers, so a score errs on the low side."""
    families: Annotated[float, Field(ge=0, le=2)] = 0.0
    """How many times as frequent as in nature absorbers of other species are in the training spectra, with all their lines; once at most
    in those for calibration and test."""
    sky: str = ""
    """Folder of sky-fiber spectra whose residuals are the noise; empty for parametric noise."""
    continuum: Literal["parametric", "eigenspectra"] = "parametric"
    """Quasars: parametric, or drawn from the eigenspectra of the quasars in this directory (stage `eigenspectra`)."""
    seed: int = 1
    """Random seed."""
    spectra_per_part: Annotated[int, Field(ge=100)] = 4_000
    """Spectra in a part: they are made and recorded together, and a crash costs at most one wave of them."""


class Labels(Section):
    """Labels of real spectra for training: who gives them, and which quasars are kept for the test."""

    source: Literal["mocks", "catalogues", "people"] = "mocks"
    """What is trained on: artificial spectra, which know their absorbers (mocks); or the run's own spectra, labelled by its absorber
    catalogues (catalogues), or by people alone (people)."""
    people: tuple[str, ...] = ()
    """Labels of `nalspark review`: results, their folders of labels, or tables. Where people looked, they overrule the catalogues."""
    agree: Annotated[int, Field(ge=1, le=20)] = 1
    """Catalogues that must list an absorber for a 1, and cover its place for a 0; where people alone label, votes that a label needs."""
    fold: Annotated[int, Field(ge=0, le=4)] = 0
    """Which fifth of the quasars the test is made on. Of the others four fifths are learned from; the rest stops and calibrates."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the quasars to learn from that are used: for learning curves."""
    seed: int = 1
    """Random seed of the split by quasar."""


class Eigenspectra(Section):
    """Eigenspectra of a survey's quasars, bin by bin of redshift."""

    bin_width: Annotated[float, Field(ge=0.02, le=2)] = 0.2
    """Redshift range of a bin; bins begin at 0."""
    components: Annotated[int, Field(ge=1, le=200)] = 20
    """Eigenspectra of a bin; fewer where it has fewer quasars."""
    max_quasars_per_bin: Annotated[int, Field(ge=10, le=50_000)] = 5000
    """Quasars used in a bin, chosen by a hash of their names. It bounds the memory of a task: 0.15 MB a quasar."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 10
    """Rounds of filling missing pixels and computing the eigenspectra."""


class Train(Section):
    """The networks and how they are trained."""

    network: str = "candidate_cnn"
    """Architecture, by name."""
    options: dict[str, Any] = {}
    """Its parameters, where they differ from their defaults."""
    start_from: str = ""
    """Directory of a trained model whose weights are the first ones, or `shipped`: the species' own. Its network and options are taken too.
    Empty for random weights."""
    members: Annotated[int, Field(ge=1, le=100)] = 5
    """Networks trained, each on all positives and on its own draw of the negatives (Zhao et al. 2019: 5 bootstrap draws)."""
    negatives_per_positive: Positive = 1.0
    """Negatives that a member draws for each positive, if there are enough."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    """Passes over the examples, at most."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Examples of a step, over all workers together."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or stochastic gradient descent with momentum 0.9."""
    learning_rate: Positive = 0.001
    """Step size at the start."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Whether the step size stays or falls to 0, along half a cosine, at the last epoch."""
    patience: Annotated[int, Field(ge=1)] = 6
    """Epochs without a lower validation loss after which a member stops; its best weights are kept in any case."""
    mixed_precision: bool = False
    """Compute in float16 where there is a GPU that gains by it; weights and logits stay float32."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that train one network together, as tasks of a Spark barrier stage; 1 trains where the command runs."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Random seed of the first weights, the order of the examples and the dropout."""


class SecondStage(Section):
    """Score bands, and what decides in the middle one (Sakai 2020)."""

    keep_contamination: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Largest fraction of fakes in the band of scores that are kept without a second look."""
    discard_contamination: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Least fraction of fakes in the band of scores that are discarded without a second look."""
    features: Literal["network", "image"] = "network"
    """What UMAP embeds the middle band by: the network's last features, or the image itself."""
    neighbours: Annotated[int, Field(ge=2, le=200)] = 15
    """Nearest neighbours in UMAP; a new example's embedding is the mean of theirs."""
    min_dist: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """UMAP's least distance of two embeddings: small for tight groups."""
    max_examples: Annotated[int, Field(ge=100, le=50_000)] = 6000
    """Examples of the middle band that are embedded, chosen at random. It bounds the time of the fit and the size of the file."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Random seed of UMAP and of that choice."""


class Completeness(Section):
    """What the catalogue is worth: absorbers put into the run's own spectra, and looked for."""

    per_sightline: Annotated[int, Field(ge=1, le=100)] = 1
    """Absorbers put into each spectrum, one at a time. One takes about as long as the search."""
    ew_min: Annotated[Positive, Unit("Å")] = 0.1
    """Least rest equivalent width of the first line; between the limits as many are put in for each step of log W."""
    ew_max: Annotated[float, Field(gt=0, le=10), Unit("Å")] = 6.0
    """Greatest rest equivalent width."""
    seed: int = 1
    """Random seed."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.ew_min >= self.ew_max:
            raise ValueError(f"ew_min = {self.ew_min:g} must be less than ew_max = {self.ew_max:g}")
        return self


class Publish(Section):
    """Catalogue files and report."""

    gallery: Annotated[int, Field(ge=0, le=60)] = 4
    """Absorbers drawn in each of the report's galleries (strongest, most doubtful)."""


class Statistics(Section):
    """Rates of absorbers, and random catalogues. They are made of the published files: no setting here changes a catalogue."""

    ew_limits: Annotated[tuple[Annotated[float, Field(gt=0, le=10)], ...], Field(min_length=1), Unit("Å")] = (0.3, 0.6, 1.0, 2.0)
    """Rest equivalent widths of the first line above which dN/dz and dN/dX are given. Random absorbers reach down to the least."""
    ew_bins: Annotated[tuple[Positive, ...], Field(min_length=2), AfterValidator(_ascending), Unit("Å")] = (
        0.3,
        0.4,
        0.6,
        0.8,
        1.0,
        1.3,
        1.6,
        2.0,
        2.5,
        3.0,
        4.0,
        6.0,
    )
    """Edges of the bins of f(W) = d²N/dzdW."""
    z_bins: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=2), AfterValidator(_wide)] = (
        0.4,
        0.6,
        0.8,
        1.0,
        1.2,
        1.4,
        1.6,
        1.8,
        2.0,
        2.2,
    )
    """Edges of the redshift bins, each at least 0.02 wide."""
    min_significance: Annotated[Positive, Unit("σ")] = 5.0
    """An absorber of equivalent width W counts in places whose sensitivity sigma_ew is at most W over this."""
    min_velocity_kms: Annotated[float, Field(ge=-10_000, le=200_000), Unit("km/s")] = 5000.0
    """Least velocity towards us with respect to the quasar, of absorbers and path alike: what is nearer to the quasar, or behind it, is
    left out. Negative to keep what lies behind."""
    without_bals: bool = False
    """Leave out quasars with broad absorption, bi_civ above 0, and their absorbers. `nalspark balnicity` measures it."""
    fit_ew: Annotated[tuple[Positive, Positive], AfterValidator(_ascending), Unit("Å")] = (0.6, 5.0)
    """True equivalent widths between which the exponential law is fitted (Zhu & Ménard 2013: 0.6 to 5)."""
    om0: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Matter density of the flat ΛCDM cosmology of dN/dX. The Hubble constant drops out of dX/dz = (1 + z)² H0 / H(z)."""
    nside: Annotated[int, Field(ge=1, le=256), AfterValidator(_power_of_two)] = 32
    """HEALPix cells of the jackknife, a power of two; 32 are 1.8° across."""
    regions: Annotated[int, Field(ge=2, le=200)] = 30
    """Regions of about as many sightlines into which neighbouring cells are merged; fewer where fewer cells hold any."""


class Pipeline(Section):
    """How the work is divided. Never changes a result."""

    partitions: Annotated[int, Field(ge=0)] = 0
    """Spark partitions of a stage; 0 chooses from the number of cores and rows."""
    parts_per_wave: Annotated[int, Field(ge=1)] = 64
    """Most parts in a wave. The manifest is written after each wave, so a crash costs one wave."""
    rows_per_wave: Annotated[int, Field(ge=1)] = 100_000
    """Rows after which a wave ends with the part it is in. It bounds the memory of a wave's targets."""
    removals_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest share of the spectrum files that may have gone since the last run; more needs `--allow-removals`."""
    executor_wait_s: Annotated[Positive, Unit("s")] = 600.0
    """Seconds without any executor on a cluster after which a run is given up. That none has come is said after 10 s."""
    versions_kept: Annotated[int, Field(ge=0, le=1000)] = 3
    """Published catalogues kept in `versions/`, the present one included, to be compared with `nalspark diff`; 0 keeps none."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Settings(Section):
    """One run."""

    species: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_as_list)] = ("MgII",)
    """Line species to search, by name; several, as a list, are searched in one pass over the spectra, and each has its own folder in
    `out`."""
    spectra: tuple[str, ...] = ()
    """Files, folders, globs, or text files that list paths."""
    out: Annotated[str, AfterValidator(local_folder)] = ""
    """Directory of the result, as a path or a `file:` URL. The driver and all executors must see it under this path."""
    quasars: tuple[str, ...] = ()
    """Quasar catalogues; the first that knows a spectrum gives its redshift."""
    absorbers: tuple[str, ...] = ()
    """Absorber catalogues to compare with and to label by."""
    fetch: Fetch = Fetch()
    ingest: Ingest = Ingest()
    crossmatch: Crossmatch = Crossmatch()
    preprocess: Preprocess = Preprocess()
    search: Search = Search()
    infer: Infer = Infer()
    measure: Measure = Measure()
    train: Train = Train()
    completeness: Completeness = Completeness()
    publish: Publish = Publish()
    simulate: Simulate = Simulate()
    labels: Labels = Labels()
    eigenspectra: Eigenspectra = Eigenspectra()
    second_stage: SecondStage = SecondStage()
    statistics: Statistics = Statistics()
    pipeline: Pipeline = Pipeline()

    def chosen(self, names: Iterable[str]) -> dict[str, Any]:
        """Give the values of some sections, or of single settings named with a dot, as JSON has them."""
        return chosen_values(self.model_dump(mode="json"), names)

    @field_serializer("species")
    def _one_is_no_list(self, species: tuple[str, ...]) -> str | list[str]:
        return species[0] if len(species) == 1 else list(species)

    @property
    def line_species(self) -> LineSpecies:
        """The species that is searched, where there is one.

        Raises
        ------
        SettingsError
            Where there are several.
        """
        if len(self.species) > 1:
            folders = ", ".join(f"{self.out}/{name}" for name in self.species)
            raise SettingsError(f"{', '.join(self.species)} are searched, each with a result of its own: name one of {folders}.")
        return SPECIES[self.species[0]]


def chosen_values(tree: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Give the values of some sections, or of single settings named with a dot; what the tree lacks is left out."""
    found: dict[str, Any] = {}
    for name in names:
        section, _, leaf = name.partition(".")
        if not leaf and section in tree:
            found[name] = tree[section]
        elif leaf and leaf in tree.get(section, {}):
            found[name] = tree[section][leaf]
    return found


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"Setting '{dotted}': '{section}' is a value, not a section.")
    tree[leaf] = value


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"'--set {text}' is not of the form key=value, for example --set search.min_significance=6.")
    try:
        return key.strip(), tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), raw.strip()


def known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """List every setting, dotted."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for fault in error.errors():
        key = ".".join(str(piece) for piece in fault["loc"])
        if fault["type"] == "extra_forbidden":
            keys = known_keys(model)
            sections = dict.fromkeys(known.partition(".")[0] for known in keys)
            lines.append(f"'{key}' is not a setting.{did_you_mean(key, [*keys, *sections])}")
        else:
            lines.append(f"'{key}' = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}.")
    return "\n  ".join(lines)


def load(path: str | Path | None = None, overrides: Iterable[str] = (), model: type[Settings] = Settings, **values: Any) -> Settings:
    """Read settings from a TOML file, keyword values and ``key=value`` overrides, in this order of precedence, the last strongest.

    Raises
    ------
    SettingsError
        Naming every unknown key, wrong type and value out of range at once.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SettingsError(f"There is no run file '{path}'. Runs are described by TOML files such as conf/runs/demo.toml.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"'{path}' is not valid TOML: {error}.") from None
        except OSError as error:
            raise SettingsError(f"The run file '{path}' cannot be read: {error.strerror}.") from None
    for key, value in values.items():
        _set(tree, key, value)
    for text in overrides:
        _set(tree, *_parse_override(text))
    return from_tree(tree, str(path) if path else "the options", model)


def from_tree(tree: Mapping[str, Any], where: str, model: type[Settings] = Settings) -> Settings:
    """Validate a nested dictionary; `where` names its origin in messages."""
    try:
        settings = model.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(f"{len(error.errors())} fault(s) in the settings of {where}:\n  {_describe(error, model)}") from None
    for name in settings.species:
        if name not in SPECIES:
            raise SettingsError(f"Species '{name}' is not known; there are {', '.join(SPECIES)}.{did_you_mean(name, SPECIES)}")
    if len(set(settings.species)) < len(settings.species):
        raise SettingsError(f"The species {', '.join(settings.species)} name one twice.")
    return settings
