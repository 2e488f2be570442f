"""A survey's data release: where its files are and what they are called. Facts, kept in ``conf/releases``, one TOML file each."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nalspark.errors import SettingsError, did_you_mean
from nalspark.settings import PlainWord, Positive
from nalspark.surveys.catalogs import conf_dir, read_facts

NativeId = Literal["plate", "mjd", "fiber", "field", "catalogid", "survey", "program", "healpix"]
#: What follows from a HEALPix pixel: the folder that has a hundred of them; the pixel's number among those of all sizes, and its folder.
_OF_HEALPIX = ("healpix_group", "uniqpix", "uniqpix_group")
_PIXELS_PER_FOLDER = 100


@dataclass(frozen=True)
class FileKey:
    """What an archive knows files by: ids of the survey, and their values; as text, what messages call it."""

    names: tuple[str, ...]
    values: tuple[int | str, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def native(self) -> dict[str, int | str]:
        """The values by the names of the ids, as spectra have them."""
        return dict(zip(self.names, self.values, strict=True))


@dataclass(frozen=True)
class ArchiveFile:
    """A file that an archive may have.

    Attributes
    ----------
    key : FileKey
    paths : tuple of str
        Below the base URL, the likeliest first.
    local : str
        Where it is kept below the output folder.
    """

    key: FileKey
    paths: tuple[str, ...]
    local: str


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Reduction(_Facts):
    """One run of the survey's pipeline, and where its files are."""

    run2d: str
    """Version of the pipeline that made the spectra, as the survey names it."""
    path: str
    """Path of a file below the base URL, with the parts of its identifier in braces: ``{plate:04d}``. Of a HEALPix pixel also
    ``{healpix_group}``, ``{uniqpix}`` (pixel + 4 nside²) and ``{uniqpix_group}``; a group is a number divided by 100."""
    plates: tuple[int, int] | None = None
    """First and last plate for which this reduction is asked first."""

    @property
    def file_name(self) -> str:
        """What the archive calls a file, without its folder; made as `path` is."""
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
    survey: Literal["SDSS", "SDSS-V", "DESI"]
    base_url: str
    """What the paths of the reductions are below."""
    native_id: Annotated[tuple[NativeId, ...], Field(min_length=1)]
    """What identifies a file: columns of the survey's catalogues, and the HEALPix pixel of a position."""
    nside: Literal[0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] = 0
    """Of the HEALPix pixels, nested; 0 where files are not known by pixel."""
    file_id: str
    """What messages call a file, made as paths are."""
    folder: str
    """Folder of a file below the output folder, made as paths are."""
    beside: tuple[str, ...] = ()
    """Names of files in the same folder of the archive that are fetched too, made as paths are."""
    largest_mb: Positive
    """Size above which a file is none of this release's."""
    file_time_s: Positive
    """Seconds within which one attempt should bring a file."""
    defaults: dict[Literal["survey", "program"], tuple[PlainWord, ...]] = Field(default_factory=dict)
    """What quasars are looked for in where their catalogue does not say."""
    reductions: Annotated[tuple[Reduction, ...], Field(min_length=1)]
    quasars: QuasarList
    selection: Selection
    unverified: tuple[str, ...] = ()
    """Facts that nobody has checked against the archive, each with its key."""

    @model_validator(mode="after")
    def _paths_are_made_of_identifiers(self) -> DataRelease:
        if ("healpix" in self.native_id) != bool(self.nside):
            raise ValueError("nside belongs to files that are known by healpix, and to these only")
        for path in (self.file_id, self.folder, *self.beside, *(reduction.path for reduction in self.reductions)):
            fields = {name for _, name, _, _ in string.Formatter().parse(path) if name is not None}
            # A template that reached into its arguments (`{plate.__class__}`) would not be a path any more.
            strange = fields - {*self.native_id, *(_OF_HEALPIX if self.nside else ())}
            if strange or ".." in path.split("/") or path.startswith("/"):
                raise ValueError(f"path '{path}' may be made of {', '.join(self.native_id)} only")
        if len({reduction.file_name for reduction in self.reductions}) > 1 or any("/" in name for name in self.beside):
            raise ValueError("the reductions must give a file one name, and what is beside it is a name")
        return self

    def words(self, name: str) -> tuple[str, ...]:
        """Give the defaults of an id."""
        return next((words for known, words in self.defaults.items() if known == name), ())

    def key(self, *ids: int | str) -> FileKey:
        """Name the files of some values of :attr:`native_id`."""
        return FileKey(self.native_id, ids, self._filled(self.file_id, ids))

    def files(self, key: FileKey, beside: bool = True) -> Iterator[ArchiveFile]:
        """Give the file of a key, and, if wanted, what is beside it."""
        paths, local = self.remote_paths(*key.values), self.local_path(*key.values)
        yield ArchiveFile(key, tuple(paths), local)
        for name in self.beside if beside else ():
            other = self._filled(name, key.values)
            yield ArchiveFile(key, tuple(_next_to(path, other) for path in paths), _next_to(local, other))

    def files_a_key(self, beside: bool) -> int:
        """Count the files that :meth:`files` gives."""
        return 1 + beside * len(self.beside)

    def remote_paths(self, *ids: int | str) -> list[str]:
        """Give the paths below the base URL at which a file may be, the likeliest first."""
        plate = dict(zip(self.native_id, ids, strict=True)).get("plate", -1)

        def unlikely(reduction: Reduction) -> bool:
            return reduction.plates is None or not reduction.plates[0] <= int(plate) <= reduction.plates[1]

        return [self._filled(reduction.path, ids) for reduction in sorted(self.reductions, key=unlikely)]

    def local_path(self, *ids: int | str) -> str:
        """Tell where a file is kept below the output folder: ``FOLDER/<the survey's file name>``, with the folder of the release."""
        return f"{self._filled(self.folder, ids)}/{self._filled(self.reductions[0].file_name, ids)}"

    def _filled(self, template: str, ids: tuple[int | str, ...]) -> str:
        values: dict[str, int | str] = dict(zip(self.native_id, ids, strict=True))
        if self.nside:
            pixel = int(values["healpix"])
            unique = pixel + 4 * self.nside**2
            values |= dict(zip(_OF_HEALPIX, (pixel // _PIXELS_PER_FOLDER, unique, unique // _PIXELS_PER_FOLDER), strict=True))
        return template.format(**values)


def _next_to(path: str, name: str) -> str:
    folder, slash, _ = path.rpartition("/")
    return f"{folder}{slash}{name}"


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
