"""A survey's data release: where its files are and what they are called. Facts, kept in ``conf/releases``, one TOML file each."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nalspark.errors import SettingsError, did_you_mean
from nalspark.surveys.catalogs import conf_dir, read_facts
from nalspark.surveys.identity import PLATE_MJD_FIBER


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Reduction(_Facts):
    """One run of the survey's pipeline, and where its files are."""

    run2d: str
    """Version of the pipeline that made the spectra, as the survey names it."""
    path: str
    """Path of a file below the base URL, with the parts of its identifier in braces: ``{plate:04d}``."""
    plates: tuple[int, int] | None = None
    """First and last plate for which this reduction is asked first."""

    @property
    def file_name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


class QuasarList(_Facts):
    """The quasar catalogue that belongs to the release."""

    map: str
    """Name of the file in ``conf/catalogs`` that says which columns it has."""
    file: str
    url: str


class Selection(_Facts):
    """Quasars whose spectra are worth having."""

    z_min: Annotated[float, Field(ge=0)]
    """Smallest redshift: Mg II 2796 must lie in the spectrum."""
    z_max: Annotated[float, Field(gt=0)]
    """Largest redshift: the search window must reach into the spectrum."""


class DataRelease(_Facts):
    """One file of ``conf/releases``."""

    name: str
    description: str
    survey: Literal["SDSS", "DESI"]
    base_url: str
    """What the paths of the reductions are below."""
    native_id: tuple[str, ...]
    """What identifies a file: columns of the survey's catalogues."""
    reductions: Annotated[tuple[Reduction, ...], Field(min_length=1)]
    quasars: QuasarList
    selection: Selection
    unverified: tuple[str, ...] = ()
    """Facts that nobody has checked against the archive, each with its key."""

    @model_validator(mode="after")
    def _paths_are_made_of_identifiers(self) -> DataRelease:
        for reduction in self.reductions:
            fields = {name for _, name, _, _ in string.Formatter().parse(reduction.path) if name is not None}
            # A template that reached into its arguments (`{plate.__class__}`) would not be a path any more.
            strange = fields - {*self.native_id, "healpix_group"}
            if strange or ".." in reduction.path.split("/"):
                raise ValueError(f"path '{reduction.path}' may be made of {', '.join(self.native_id)} only")
        if len({reduction.file_name for reduction in self.reductions}) > 1:
            raise ValueError("the reductions must give a spectrum one file name")
        return self

    @property
    def by_fiber(self) -> bool:
        """Whether a file is one spectrum, known by plate, mjd and fiber."""
        return self.native_id == PLATE_MJD_FIBER

    def remote_paths(self, plate: int, mjd: int, fiber: int) -> list[str]:
        """Give the paths below the base URL at which a spectrum may be, the likeliest first."""

        def unlikely(reduction: Reduction) -> bool:
            return reduction.plates is None or not reduction.plates[0] <= plate <= reduction.plates[1]

        return [reduction.path.format(plate=plate, mjd=mjd, fiber=fiber) for reduction in sorted(self.reductions, key=unlikely)]

    def local_path(self, plate: int, mjd: int, fiber: int) -> str:
        """Tell where a spectrum is kept below the output folder: ``PLATE/<the survey's file name>``."""
        return f"{plate:04d}/" + self.reductions[0].file_name.format(plate=plate, mjd=mjd, fiber=fiber)


def release_names() -> list[str]:
    """Name the releases that ``conf/releases`` describes."""
    return sorted(path.stem for path in (conf_dir() / "releases").glob("*.toml"))


def load_release(name: str) -> DataRelease:
    """Load a release by its name in ``conf/releases``, or from a file of one's own.

    Parameters
    ----------
    name : str
        Such as ``sdss_dr16``; what ends in ``.toml`` is a path.

    Raises
    ------
    SettingsError
        Where there is none, or its file has faults: all are named at once.
    """
    path = Path(name) if name.endswith(".toml") else conf_dir() / "releases" / f"{name}.toml"
    known = release_names()
    if not name.endswith(".toml") and name not in known:
        raise SettingsError(f"There is no release '{name}'; there are {', '.join(known)}.{did_you_mean(name, known)}")
    release, faults = read_facts(path, DataRelease)
    if release is None:
        raise SettingsError(f"{len(faults)} fault(s) in the release file '{path}':\n  " + "\n  ".join(faults))
    return release
