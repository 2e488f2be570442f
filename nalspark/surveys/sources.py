"""Where spectra are: from what the user wrote to a list of files.

A source is a folder, a glob, one file, a text file that lists paths, or a URL. The driver only classifies the sources; folders are walked
by whoever has the time, one subfolder each (:func:`subfolders`, :func:`walk`): a survey has millions of files.

Every file is accounted for, also the unusual ones. A file or folder that cannot be examined is found with size :data:`NOT_EXAMINED`. A path
whose bytes are no text is found with size :data:`NOT_TEXT`, its odd bytes written as a backslash, x and two hexadecimal digits: such a path
can be stored and printed but not opened, so it has to become a rejection.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nalspark.errors import SettingsError, did_you_mean
from nalspark.surveys.fits_table import printable

#: Size of a file or folder that could not be examined: it vanished, may not be read, or is a broken link.
NOT_EXAMINED = -1
#: Size of a file whose path is no text: it is shown with escapes and cannot be opened by that name.
NOT_TEXT = -2

_SPECTRUM_NAME = re.compile(r".+\.fits?(\.gz|\.fz)?", re.IGNORECASE | re.DOTALL)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_PLATE = re.compile(r"(?:spec-(\d{1,6})-\d+-|spSpec-\d+-(\d{1,6})-)", re.IGNORECASE)
#: Of DESI: a HEALPix pixel of nside 64, and a tile.
_HEALPIX = re.compile(r"(?:coadd|spectra|redrock)-[a-z0-9]+-[a-z]+-(\d{1,9})\.", re.IGNORECASE)
_TILE = re.compile(r"(?:coadd|spectra|redrock)-\d-(\d{1,9})-", re.IGNORECASE)
#: Pixels of nside 64 in one of nside 8.
_PIXELS_PER_PART = 64
_FITS_OR_GZIP = (b"SIMPLE  =", b"\x1f\x8b")
_LIST_ENTRIES_TRIED = 100
_OTHER_PARTS = 16
#: Behind HTTP nothing can be listed, and Spark's file systems do not read it.
_WEB = re.compile(r"https?:/", re.IGNORECASE)
NOT_FROM_THE_WEB = (
    "is behind HTTP, from which spectra are not read: get them into a folder first, with `nalspark fetch RELEASE --quasars CATALOGUE --out "
    "FOLDER`, curl or wget, and give that folder"
)
_EXPECTED = "expected a folder, a glob, a FITS file, a text file that lists paths, or a URL such as s3a://bucket/folder"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One file: its path, its size in bytes (or NOT_EXAMINED, NOT_TEXT), and when it changed, in ns since 1970 (0 where not known)."""

    path: str
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What the sources are. All local paths are absolute; nothing is named twice.

    Attributes
    ----------
    roots : tuple of str
        Folders to walk; none lies in another.
    files : tuple of str
        Files given by name or by a glob.
    lists : tuple of str
        Text files that list paths.
    remote : tuple of str
        URLs, as written.
    """

    roots: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()


def classify(sources: Iterable[str]) -> Listing:
    """Tell what each source is; looks at the sources themselves, not below them.

    Raises
    ------
    SettingsError
        Naming every source that is missing, empty, or of an unknown kind, all at once.
    """
    found: dict[str, list[str]] = {"roots": [], "files": [], "lists": [], "remote": []}
    faults = []
    for source in sources:
        try:
            for kind, path in _classify_one(source):
                found[kind].append(path)
        except SettingsError as fault:
            faults.append(str(fault))
    if faults:
        raise SettingsError("\n".join(faults))
    if not any(found.values()):
        raise SettingsError(f"No spectra are given: {_EXPECTED}.")
    roots = _outermost(found["roots"])
    files = (path for path in dict.fromkeys(found["files"]) if not _is_walked(path, roots))
    return Listing(roots, tuple(files), tuple(dict.fromkeys(found["lists"])), tuple(dict.fromkeys(found["remote"])))


def _classify_one(source: str) -> Iterator[tuple[str, str]]:
    if not source.strip() or "\0" in source:
        raise SettingsError(f"A source of spectra is empty or holds a NUL character: {_EXPECTED}.")
    if is_web(source):
        raise SettingsError(f"'{source}' {NOT_FROM_THE_WEB}.")
    if _URL.match(source):
        yield "remote", source
        return
    path = os.path.abspath(os.path.expanduser(source))
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not glob.has_magic(source):
            raise _missing(source, path) from None
        yield from _globbed(source, path)
        return
    except OSError as error:
        raise SettingsError(f"'{source}' cannot be examined: {error.strerror}.") from None
    if stat.S_ISDIR(mode):
        _check_listable(source, path)
        yield "roots", path
    elif stat.S_ISREG(mode):
        yield _kind_of_file(source, path), path
    else:
        raise SettingsError(f"'{source}' is a pipe, socket or device; {_EXPECTED}.")


def _missing(source: str, path: str) -> SettingsError:
    folder = os.path.dirname(path)
    try:
        siblings = [name for name in islice(os.listdir(folder), 10_000) if not name.startswith(".")]
    except OSError:
        return SettingsError(f"There is no '{source}', nor a folder '{folder}' that it could be in; {_EXPECTED}.")
    written = source.rstrip(os.sep)
    near = did_you_mean(os.path.basename(path), siblings, written.removesuffix(os.path.basename(written)))
    return SettingsError(f"There is no '{source}'; {_EXPECTED}.{near}")


def _globbed(source: str, pattern: str) -> Iterator[tuple[str, str]]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise SettingsError(f"The glob '{source}' matches nothing; expected folders or files named *.fits, *.fit, or these with .gz.")
    chosen = [("roots", match) if os.path.isdir(match) else ("files", match) for match in matches]
    chosen = [(kind, match) for kind, match in chosen if kind == "roots" or _is_spectrum_name(os.path.basename(match))]
    if not chosen:
        names = f"'{os.path.basename(matches[0])}'" + (" and others" if len(matches) > 1 else "")
        raise SettingsError(f"The glob '{source}' matches {names}, but no folder and no file named *.fits, *.fit, or these with .gz.")
    yield from chosen


def _check_listable(source: str, path: str) -> None:
    try:
        with os.scandir(path):
            return
    except OSError as error:
        raise SettingsError(f"The folder '{source}' cannot be listed: {error.strerror}.") from None


def is_web(path: str) -> bool:
    """Tell whether a path is an address of a web server."""
    return _WEB.match(path) is not None


def _kind_of_file(source: str, path: str) -> str:
    """``files`` or ``lists``, from the name where it is a spectrum's, else from the content."""
    if _is_spectrum_name(os.path.basename(path)):
        return "files"
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise SettingsError(f"'{source}' cannot be read: {error.strerror}.") from None
    if head.startswith(_FITS_OR_GZIP):
        return "files"
    if b"\0" in head:
        raise SettingsError(f"'{source}' is neither a FITS file nor a text file that lists paths; {_EXPECTED}.")
    entries = list(islice(read_list(path), _LIST_ENTRIES_TRIED))
    if not entries:
        raise SettingsError(f"'{source}' lists no paths; expected one path a line, lines that begin with # are comments.")
    if web := next(filter(is_web, entries), ""):
        raise SettingsError(f"'{source}' lists '{printable(web, 200)}', which {NOT_FROM_THE_WEB}.")
    if not any(_URL.match(entry) or os.path.lexists(entry) for entry in entries):
        first = _text(entries[0])[0]
        raise SettingsError(f"'{source}' was taken for a list of paths, but its first line names no file: there is no '{first}'.")
    return "lists"


def _outermost(folders: list[str]) -> tuple[str, ...]:
    """The folders that lie in none of the others, each once."""
    kept: list[str] = []
    for folder in sorted(set(folders), key=lambda path: path.rstrip(os.sep) + os.sep):
        if not kept or not folder.startswith(kept[-1].rstrip(os.sep) + os.sep):
            kept.append(folder)
    return tuple(kept)


def _is_walked(path: str, roots: tuple[str, ...]) -> bool:
    """Whether a walk of the roots finds this file anyway."""
    for root in roots:
        prefix = root.rstrip(os.sep) + os.sep
        if path.startswith(prefix):
            pieces = path[len(prefix) :].split(os.sep)
            return _is_spectrum_name(pieces[-1]) and not any(piece.startswith(".") for piece in pieces)
    return False


def _is_spectrum_name(name: str) -> bool:
    return not name.startswith(".") and _SPECTRUM_NAME.fullmatch(name) is not None


def read_list(path: str) -> Iterator[str]:
    """Read the paths that a text file lists, one a line, relative to the file's own folder.

    Lines that begin with # are comments; URLs are kept as they are. Nothing is looked up: a path may be missing.
    """
    folder = os.path.dirname(os.path.abspath(path))
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            entry = line.strip()
            if entry and not entry.startswith("#"):
                yield entry if _URL.match(entry) else os.path.normpath(os.path.join(folder, os.path.expanduser(entry)))


def walk(root: str) -> Iterator[FoundFile]:
    """Find the spectrum files below a folder: ``*.fits``, ``*.fit``, and these with ``.gz``, in any case.

    Hidden files and folders are passed over. Linked folders are followed, except where a link leads back to a folder that holds it. The
    files of a folder come before those of its subfolders, each sorted by name.
    """
    todo = [root]
    while todo:
        folders, files = _scan(todo.pop())
        yield from files
        todo += reversed(folders)


def subfolders(root: str) -> list[str]:
    """List the folders in a folder: with :func:`own_files`, what several walkers share. Files are not looked at: there may be millions."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.path for entry in entries if not entry.name.startswith(".") and _is_folder(entry) and _leads_on(entry))
    except OSError:
        return []


def own_files(root: str) -> list[FoundFile]:
    """List the spectrum files of a folder itself, or the folder where it cannot be listed."""
    return _scan(root)[1]


def _leads_on(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is no link back to one that holds it, by the path walked or in truth: links on the way make these differ."""
    if not entry.is_symlink():
        return True
    walked = Path(os.path.abspath(entry.path)).parents
    real = {Path(os.path.realpath(folder)) for folder in walked}
    return Path(os.path.realpath(entry.path)) not in real.union(*(folder.parents for folder in real))


def _scan(folder: str) -> tuple[list[str], list[FoundFile]]:
    """Subfolders and spectrum files of one folder, both sorted."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return [], [FoundFile(_text(folder)[0], NOT_EXAMINED, 0)]
    folders, files = [], []
    for entry in names:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            if _leads_on(entry):
                folders.append(entry.path)
        elif _is_spectrum_name(entry.name):
            files.append(describe(entry.path))
    return folders, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def describe(path: str) -> FoundFile:
    """Give the size and time of one file; never raises, see the module's text for what size says then."""
    shown, is_text = _text(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return FoundFile(shown, NOT_EXAMINED if is_text else NOT_TEXT, 0)
    return FoundFile(shown, status.st_size if is_text else NOT_TEXT, status.st_mtime_ns)


def _text(path: str) -> tuple[str, bool]:
    """The path as UTF-8 can hold it, and whether that is still the path."""
    try:
        path.encode("utf-8")
        return path, True
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace"), False
    except UnicodeEncodeError:  # surrogates that stand for no byte: no file system gave this path
        return path.encode("utf-8", "backslashreplace").decode("utf-8"), False


def part_of(path: str, plates_per_part: int) -> str:
    """Name the part to which a file belongs: the unit that is resumed and replaced.

    ``plate03500`` for plates, or fields, from 3500 up to the next part; ``healpix00142`` for the pixels of nside 64 in a pixel of nside 8;
    ``tile01000`` as for plates. Files whose name has none of these are spread over 16 parts by a checksum of their name.
    """
    name = re.split(r"[/\\]", path)[-1]
    if pixel := _HEALPIX.match(name):
        return f"healpix{int(pixel[1]) // _PIXELS_PER_PART:05d}"
    if tile := _TILE.match(name):
        return f"tile{int(tile[1]) // plates_per_part * plates_per_part:05d}"
    match = _PLATE.match(name)
    if match:
        first = int(match[1] or match[2]) // plates_per_part * plates_per_part
        return f"plate{first:05d}"
    return f"files{zlib.crc32(name.encode('utf-8', 'backslashreplace')) % _OTHER_PARTS:02d}"
