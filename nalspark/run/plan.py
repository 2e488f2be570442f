"""The stages in order: what each reads and writes, which settings matter to it, and what must be there before a run may start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nalspark.absorption import stages as absorption
from nalspark.absorption.images import ImageGeometry
from nalspark.errors import ModelError, NalsparkError, did_you_mean
from nalspark.learning.models import PackedModel, read_model
from nalspark.settings import Settings
from nalspark.spectra.grid import SDSS_GRID
from nalspark.surveys.catalogs import Catalog, open_catalog
from nalspark.surveys.sources import classify
from nalspark.tables.schemas import EIGENSPECTRA
from nalspark.tables.store import Store


@dataclass(frozen=True)
class Stage:
    """A stage's declaration.

    Attributes
    ----------
    name : str
    table : str
        The table it writes.
    reads : tuple of str
        Tables whose part keys are causes of its parts.
    sections : tuple of str
        Settings that change its result.
    revision : int
        Raised when the code changes the result.
    """

    name: str
    table: str
    reads: tuple[str, ...]
    sections: tuple[str, ...]
    revision: int = 1


STAGES = (
    Stage("ingest", "spectra", (), ("ingest",)),
    Stage("crossmatch", "targets", ("spectra",), ("crossmatch", "species"), revision=2),
    Stage("preprocess", "normalized", ("spectra", "targets"), ("preprocess", "species"), revision=3),
    Stage("search", "candidates", ("normalized",), ("search", "preprocess", "species"), revision=5),
    Stage("infer", "scores", ("normalized", "candidates"), ("preprocess", "species"), revision=2),  # and the model: see Pipeline._causes
    Stage("measure", "measured", ("candidates", "scores"), ("measure", "infer", "species")),
    Stage("publish", "", ("targets", "normalized", "measured"), ("publish", "species")),
    Stage("eigenspectra", "eigenspectra", ("normalized",), ("eigenspectra",)),
    Stage("simulate", "training", (), ("simulate", "preprocess", "search", "species"), revision=4),
    Stage("train", "", ("training",), ("train", "simulate", "species")),
)
#: What makes a catalogue, and what makes a model.
LEARNING = ("simulate", "train")
STAGE_NAMES = tuple(stage.name for stage in STAGES if stage.name not in (*LEARNING, "eigenspectra"))


def check_stages(stages: Sequence[str]) -> None:
    """Refuse names that no stage has."""
    known = [stage.name for stage in STAGES]
    for name in stages:
        if name not in known:
            raise NalsparkError(f"There is no stage '{name}'; there are {', '.join(known)}.{did_you_mean(name, known)}")


def reads(stage: Stage, settings: Settings) -> tuple[str, ...]:
    """The tables that a stage reads."""
    learned = stage.name == "simulate" and settings.simulate.continuum == "eigenspectra"
    return (*stage.reads, EIGENSPECTRA.name) if learned else stage.reads


def check_reads(stage: Stage, settings: Settings, present: Collection[str]) -> None:
    """Refuse a stage that reads a table which is not present, and name all stages that have to run before."""
    absent = [table for table in reads(stage, settings) if table not in present]
    if not absent:
        return
    wanted = list(absent)
    for table in wanted:  # grows: what makes a table reads tables of its own
        maker = next(other for other in STAGES if other.table == table)
        wanted += [other for other in reads(maker, settings) if other not in present and other not in wanted]
    first = [f"'{other.name}'" for other in STAGES if other.table in wanted]
    raise NalsparkError(
        f"Stage '{stage.name}' reads table '{absent[0]}', which is not there yet. "
        f"Run stage{'s' if len(first) > 1 else ''} {', '.join(first)} first."
    )


def example_inputs(settings: Settings) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The columns of an example, one a channel of the network, and the shape of one."""
    if settings.simulate.examples == "spectra":
        return absorption.SPECTRUM_COLUMNS, (SDSS_GRID.n_pixels,)
    return absorption.IMAGE_COLUMNS, ImageGeometry.of(settings.line_species, SDSS_GRID.step).shape


def _check_network(settings: Settings) -> None:
    """Build the network that is to be trained, and look for what reads its examples: these may take hours, and this seconds."""
    from nalspark.learning.feed import require_petastorm
    from nalspark.learning.networks import build

    columns, shape = example_inputs(settings)
    build(settings.train.network, (*shape, len(columns)), settings.train.options)
    require_petastorm()


def chosen_model(settings: Settings) -> PackedModel:
    """The network of a run, refused where it was made for something else.

    Raises
    ------
    ModelError
    """
    packed = read_model(settings.infer.model)
    packed.check(SDSS_GRID.fingerprint, settings.species)
    image = absorption.IMAGE_COLUMNS, ImageGeometry.of(settings.line_species, SDSS_GRID.step).shape
    if (packed.card.inputs, packed.card.shape) not in (image, (absorption.SPECTRUM_COLUMNS, (SDSS_GRID.n_pixels,))):
        raise ModelError(
            f"The model '{packed.where}' reads {', '.join(packed.card.inputs)} of shape {packed.card.shape}; expected candidate images "
            f"of shape {image[1]}, or the flux of whole spectra. Train one with this version of nalspark."
        )
    return packed


def open_catalogues(settings: Settings) -> dict[str, list[Catalog]]:
    """The catalogues of a run, of quasars and of absorbers, in their order."""
    return {
        "quasars": [open_catalog(path, "quasars") for path in settings.quasars],
        "absorbers": [open_catalog(path, "absorbers", settings.species) for path in settings.absorbers],
    }


def catalogue_digests(catalogues: dict[str, list[Catalog]]) -> dict[str, str]:
    """Catalogue, with what it is used for, → digest."""
    return {f"{kind} {catalog.name}": catalog.digest for kind, found in catalogues.items() for catalog in found}


def check(settings: Settings, stages: Sequence[str] = STAGE_NAMES) -> None:
    """Refuse what cannot work before a Spark session is started, which takes seconds; looks at nothing below the sources.

    Raises
    ------
    NalsparkError
        Where a stage is unknown or lacks its input, a source or a catalogue is not there, or the output directory cannot be used.
    """
    check_stages(stages)
    store = Store(settings.out)
    store.check()
    present = {table for table, parts in store.manifest().tables.items() if parts}
    for stage in STAGES:
        if stage.name in stages:
            check_reads(stage, settings, present)
            present.add(stage.table)
    if "ingest" in stages:
        classify(settings.spectra)
    if "crossmatch" in stages:
        open_catalogues(settings)
    if "infer" in stages:
        chosen_model(settings)
    if "simulate" in stages and settings.simulate.population == "empirical":
        if not settings.simulate.catalogue:
            raise NalsparkError("simulate.population = 'empirical' takes equivalent widths from a catalogue: set simulate.catalogue.")
        open_catalog(settings.simulate.catalogue, "absorbers", settings.species)
    if "train" in stages:
        _check_network(settings)


@dataclass
class StageSummary:
    """What a stage did: parts made anew of all parts, rows, rejected rows, seconds; rows it read, spectra in them, bytes it wrote."""

    stage: str
    parts_done: int
    parts: int
    rows: int = 0
    rejected: int = 0
    seconds: float = 0.0
    rows_in: int = 0
    spectra: int = 0
    bytes: int = 0
    started: str = ""

    def __str__(self) -> str:
        if not self.parts_done:
            return f"{self.stage:<11} up to date ({self.parts} parts)"
        done, what = (self.spectra, "spectra") if self.spectra else (self.rows, "rows")
        rate = f", {done / self.seconds:.0f} {what}/s" if self.seconds > 0 else ""
        rejected = f", {self.rejected} rejected" if self.rejected else ""
        return f"{self.stage:<11} {self.parts_done} of {self.parts} parts: {self.rows} rows{rejected} in {self.seconds:.1f} s{rate}"
