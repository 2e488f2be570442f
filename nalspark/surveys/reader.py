"""From a file, or the bytes of one, to its spectra: the door through which every survey file comes.

Each survey has a file of its own in :mod:`nalspark.surveys.formats`. Whatever is wrong becomes a
:class:`~nalspark.surveys.spectrum.RejectedSpectrum` with a reason: one bad file never stops a survey, and one bad target costs one row. A
fault of ours does not stop it either: its reason is :data:`~nalspark.errors.INTERNAL_ERROR`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, BinaryIO, cast

from nalspark.errors import NalsparkError, UnusableSpectrum, internal_error
from nalspark.surveys import formats
from nalspark.surveys.fits_table import FitsFile, printable
from nalspark.surveys.packed import decompressed
from nalspark.surveys.sources import NOT_FROM_THE_WEB, is_web
from nalspark.surveys.spectrum import RejectedSpectrum, SurveySpectrum

Spectra = Iterator[SurveySpectrum | RejectedSpectrum]

#: As much of a file as is fetched ahead: more than the coadded spectrum that SDSS files begin with.
_AHEAD_BYTES = 2**19
_SHOWN_NAMES = 5


@cache
def _formats() -> tuple[ModuleType, ...]:
    """The readers of surveys, in the order in which they are asked."""
    found = [import_module(f"{formats.__name__}.{module.name}") for module in iter_modules(formats.__path__)]
    return tuple(sorted(found, key=lambda module: module.ORDER))


def _read(fits: FitsFile) -> Spectra:
    """The spectra of a file, by the first reader that knows what it is; a file has one at least, or is rejected."""
    spectra = iter(_known(fits, "read"))
    yield next(spectra, RejectedSpectrum("no_targets", f"{fits.name} holds no spectra."))
    yield from spectra


def _known(fits: FitsFile, asked: str) -> Any:
    """What the first reader that knows what a file is answers to what is asked of it."""
    hdus = fits.hdus()
    primary = next(hdus)
    if not primary.layout.shape and primary.header.get("EXTEND") is True and next(hdus, None) is None:
        raise UnusableSpectrum("truncated", f"{fits.name} ends after its primary header, which says that extensions follow.")
    for reader in _formats():
        if (answer := getattr(reader, asked)(fits)) is not None:
            return answer
    expected = (
        "expected an SDSS or SDSS-V spec file (COADD table with flux, loglam, ivar), an spSpec file (image with COEFF0) or a DESI coadd"
    )
    raise UnusableSpectrum("not_a_spectrum", f"{fits.name} is FITS but holds no spectrum: found {fits.contents()}; {expected}.")


def identify(path: str | os.PathLike[str], name: str = "") -> dict[str, int | str]:
    """Tell what the survey calls a file that has come, or what is in it, and that it is whole.

    A file of one spectrum is read as :func:`open_spectra` does it; of one with many, the headers and the table of targets.

    Parameters
    ----------
    path : path-like
    name : str
        What it will be called, if that is not in the path.

    Returns
    -------
    dict
        Native columns that all spectra of the file share.

    Raises
    ------
    UnusableSpectrum
        With the reasons of :func:`open_spectra`; ``missing_hdu`` where a file that is called one of redshifts has none.
    """
    text = os.fspath(path)
    with _faults_accounted(text):
        _check_kind(text)
        with open(text, "rb", buffering=0) as stream, decompressed(cast(BinaryIO, stream), text) as content:
            native: dict[str, int | str] = _known(FitsFile(content, name or text), "identify")
            return native


def open_spectra(path: str | os.PathLike[str]) -> Spectra:
    """Read the spectra in a file of the local file system, plain or compressed with gzip, one after the other.

    Parameters
    ----------
    path : path-like
        Its name does not matter: what it is follows from its content.

    Yields
    ------
    SurveySpectrum or RejectedSpectrum
        A file that cannot be used is one RejectedSpectrum without a name. Of the file: ``file_missing``, ``permission_denied``,
        ``is_a_directory``, ``not_a_regular_file``, ``io_error``, ``changed_while_read``, ``behind_http``. Of its content: see
        :func:`parse_spectra`.
    """
    text = os.fspath(path)

    def read() -> Spectra:
        _check_kind(text)
        # Unbuffered: the reader asks for whole headers and whole tables, a buffer would only copy them once more.
        with open(text, "rb", buffering=0) as stream:
            before = os.fstat(stream.fileno())
            try:
                with decompressed(cast(BinaryIO, stream), text) as content:
                    for one in _read(FitsFile(content, text, text)):
                        _check_unchanged(text, before, os.fstat(stream.fileno()))
                        yield one
            except UnusableSpectrum:
                _check_unchanged(text, before, os.fstat(stream.fileno()))
                raise

    return _with_faults(read(), text)


def parse_spectra(content: bytes, name: str) -> Spectra:
    """Read the spectra in the bytes of a file, as a remote file system gives them.

    Parameters
    ----------
    content : bytes
    name : str
        What messages call it.

    Yields
    ------
    SurveySpectrum or RejectedSpectrum
        Reasons: ``empty``, ``truncated``, ``not_fits``, ``corrupt_gzip``, ``truncated_gzip``, ``too_large``; those of
        :mod:`nalspark.surveys.fits_table` and of the formats; ``unreadable`` where the memory does not suffice; ``internal_error`` for what
        nobody foresaw.
    """

    def read() -> Spectra:
        with decompressed(io.BytesIO(content), name) as stream:
            yield from _read(FitsFile(stream, name))

    return _with_faults(read(), name)


def open_spectrum(path: str | os.PathLike[str]) -> SurveySpectrum:
    """Read the spectrum of a file that holds one: as :func:`open_spectra`.

    Raises
    ------
    UnusableSpectrum
        With the reasons there; ``several_spectra``.
    """
    return _only(open_spectra(path), os.fspath(path))


def _only(spectra: Spectra, name: str) -> SurveySpectrum:
    first, more = next(spectra), next(spectra, None)
    if isinstance(first, RejectedSpectrum) or isinstance(more, RejectedSpectrum):
        fault = first if isinstance(first, RejectedSpectrum) else cast(RejectedSpectrum, more)
        raise UnusableSpectrum(fault.reason, fault.detail)
    if more is not None:
        raise UnusableSpectrum("several_spectra", f"{_shown(name)} holds several spectra; expected one.")
    return first


def read_spectra(path: str | os.PathLike[str]) -> list[SurveySpectrum]:
    """Read all spectra of a survey's file that can be used, plain or compressed with gzip: a DESI coadd has some hundred.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    list of SurveySpectrum
        In the file's order, those that cannot be used left out: redshifts from elsewhere go with them by what the survey calls a spectrum,
        not by row. Each with ``name``, ``native`` (``targetid`` and the like), ``wave`` (Å, vacuum), ``flux`` and ``ivar``
        (1e-17 erg/s/cm²/Å and its inverse square), ``mask`` (0: usable) of shape (p,), and ``z``, the pipeline's redshift or None: what
        :func:`nalspark.find` takes.

    Raises
    ------
    NalsparkError
        Where the file is not there or has no spectrum that can be used.

    Examples
    --------
    With `redshifts`, a mapping from TARGETID to redshift:

    >>> import nalspark
    >>> spectra = nalspark.read_spectra("coadd-main-dark-9144.fits")  # doctest: +SKIP
    >>> z = [redshifts[one.native["targetid"]] for one in spectra]  # doctest: +SKIP
    >>> found = nalspark.find(spectra, z=z)  # doctest: +SKIP
    """
    return _usable(list(open_spectra(path)), path)


def _usable(results: list[SurveySpectrum | RejectedSpectrum], path: str | os.PathLike[str]) -> list[SurveySpectrum]:
    found = [one for one in results if isinstance(one, SurveySpectrum)]
    if not found:
        faults = (one.detail for one in results if isinstance(one, RejectedSpectrum))
        raise NalsparkError(next(faults, f"{_shown(os.fspath(path))} is empty."))
    return found


def read_spectrum(path: str | os.PathLike[str], which: str | int | None = None) -> SurveySpectrum:
    """Read one spectrum of a survey's file, plain or compressed with gzip.

    Parameters
    ----------
    path : path-like
    which : str or int, optional
        Of a file that holds several: the ``spectrum_id``, or the TARGETID.

    Returns
    -------
    SurveySpectrum
        As of :func:`read_spectra`.

    Raises
    ------
    NalsparkError
        Where the file is not there or cannot be understood, the spectrum cannot be used, or it is not clear which one is meant.

    Examples
    --------
    >>> import nalspark
    >>> spectrum = nalspark.read_spectrum("spec-3586-55181-0002.fits")  # doctest: +SKIP
    """
    results = list(open_spectra(path))
    called = [one for one in results if which is None or str(which) in (one.spectrum_id, str(one.native.get("targetid")))]
    chosen = [one for one in called if isinstance(one, SurveySpectrum)]
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:  # what is meant cannot be used, or it lies where the file cannot be read any more
        of_file = [one for one in results if one.spectrum_id is None and not one.native]
        for fault in (*called, *of_file):
            if isinstance(fault, RejectedSpectrum):
                raise NalsparkError(fault.detail)
    found = _usable(results, path)
    names = ", ".join(one.spectrum_id for one in found[:_SHOWN_NAMES]) + (", …" if len(found) > _SHOWN_NAMES else "")
    named = f"{len(chosen)} are called {which}" if chosen else f"none is called {which}"
    asked = "say which, by spectrum_id or TARGETID" if which is None else named
    what = "1 spectrum" if len(found) == 1 else f"{len(found)} spectra"
    raise NalsparkError(f"{_shown(os.fspath(path))} holds {what} that can be used: {asked}. There are {names}.")


def fetch_ahead(path: str) -> None:
    """Ask the system to bring the beginning of a file into memory, for the reader, which says what is wrong with it."""
    with suppress(OSError, AttributeError, ValueError):  # not every system takes such advice
        if not stat.S_ISREG(os.stat(path).st_mode):
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


def _check_kind(path: str) -> None:
    """Refuse what is no file before it is opened: opening a named pipe would wait for ever."""
    if is_web(path):
        raise UnusableSpectrum("behind_http", f"{printable(path, 200)} {NOT_FROM_THE_WEB}.")
    try:
        mode = os.stat(path).st_mode
    except ValueError:
        raise UnusableSpectrum("unreadable", f"{_shown(path)} can be no file's name.") from None
    if stat.S_ISDIR(mode):
        if not os.access(path, os.R_OK | os.X_OK):
            raise UnusableSpectrum("permission_denied", f"{_shown(path)} is a folder that may not be listed.")
        raise UnusableSpectrum("is_a_directory", f"{_shown(path)} is a folder; expected a FITS file.")
    if not stat.S_ISREG(mode):
        raise UnusableSpectrum("not_a_regular_file", f"{_shown(path)} is a pipe, socket or device; expected a FITS file.")


def _check_unchanged(path: str, before: os.stat_result, after: os.stat_result) -> None:
    """Refuse a file that somebody wrote to meanwhile: what was read may be half of the one and half of the other."""
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UnusableSpectrum("changed_while_read", f"{_shown(path)} changed while it was read. Run again when it is complete.") from None


def _shown(path: str) -> str:
    return printable(os.path.basename(path.rstrip("/")) or path, 120)


def _with_faults(spectra: Spectra, path: str) -> Spectra:
    """The same spectra; a fault ends them with a rejection of the file."""
    try:
        with _faults_accounted(path):
            yield from spectra
    except UnusableSpectrum as fault:
        yield RejectedSpectrum(fault.reason, fault.detail)


@contextmanager
def _faults_accounted(path: str) -> Iterator[None]:
    """Turn what the operating system and the decoders raise into reasons; what nobody foresaw is a fault of ours."""
    try:
        yield
    except UnusableSpectrum:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableSpectrum("file_missing", f"There is no file {_shown(path)} (any more).") from None
    except PermissionError:
        raise UnusableSpectrum("permission_denied", f"{_shown(path)} may not be read by the user that runs this job.") from None
    except IsADirectoryError:
        raise UnusableSpectrum("is_a_directory", f"{_shown(path)} is a folder; expected a FITS file.") from None
    except OSError as error:
        raise UnusableSpectrum("io_error", f"{_shown(path)} cannot be read: {printable(str(error.strerror or error), 200)}.") from None
    except (EOFError, MemoryError, struct.error, zlib.error) as error:
        what = f"{type(error).__name__}: {printable(str(error), 200)}"
        raise UnusableSpectrum("unreadable", f"{_shown(path)} cannot be understood ({what}).") from None
    except Exception as error:
        raise internal_error(_shown(path), error) from error
