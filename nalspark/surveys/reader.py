"""From a file, or the bytes of one, to a spectrum: the door through which every survey file comes.

Whatever is wrong with a file becomes an :class:`~nalspark.errors.UnusableSpectrum` with a reason: one bad file never stops a survey.
A fault of ours does not either: its reason is :data:`~nalspark.errors.INTERNAL_ERROR`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from nalspark.errors import NalsparkError, UnusableSpectrum, internal_error
from nalspark.surveys.fits_table import printable
from nalspark.surveys.sdss import SurveySpectrum, read_sdss

#: Largest file after decompression: the longest per-exposure SDSS files have some 20 MB.
MAX_DECOMPRESSED_BYTES = 256 * 2**20
#: As much of a file as is fetched ahead: more than the coadded spectrum that SDSS files begin with.
_AHEAD_BYTES = 2**19
_GZIP = b"\x1f\x8b"
_CHUNK = 2**18


def open_spectrum(path: str | os.PathLike[str]) -> SurveySpectrum:
    """Read the spectrum in a file of the local file system, plain or compressed with gzip.

    Parameters
    ----------
    path : path-like
        Its name does not matter: what it is follows from its content.

    Raises
    ------
    UnusableSpectrum
        Whatever is wrong. Of the file: ``file_missing``, ``permission_denied``, ``is_a_directory``, ``not_a_regular_file``, ``io_error``.
        Of its content: see :func:`parse_spectrum`.
    """
    text = os.fspath(path)
    with _faults_accounted(text):
        _check_kind(text)
        # Unbuffered: the reader asks for whole headers and whole tables, a buffer would only copy them once more.
        with open(text, "rb", buffering=0) as stream:
            return read_sdss(decompressed(cast(BinaryIO, stream), text), text)


def read_spectrum(path: str | os.PathLike[str]) -> SurveySpectrum:
    """Read the spectrum in a survey's file, plain or compressed with gzip.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    SurveySpectrum
        With ``name``, ``wave`` (Å, vacuum), ``flux`` and ``ivar`` (1e-17 erg/s/cm²/Å and its inverse square), ``mask`` (0: usable) of shape
        (p,), and ``z``, the pipeline's redshift or None: what :func:`nalspark.find` takes.

    Raises
    ------
    NalsparkError
        Where the file is not there or cannot be understood.

    Examples
    --------
    >>> import nalspark
    >>> spectrum = nalspark.read_spectrum("spec-3586-55181-0002.fits")  # doctest: +SKIP
    """
    try:
        return open_spectrum(path)
    except UnusableSpectrum as fault:
        raise NalsparkError(fault.detail) from None


def fetch_ahead(path: str) -> None:
    """Ask the system to bring the beginning of a file into memory, for :func:`open_spectrum`, which says what is wrong with it."""
    with suppress(OSError, AttributeError, ValueError):  # not every system takes such advice
        if not stat.S_ISREG(os.stat(path).st_mode):
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


def parse_spectrum(content: bytes, name: str) -> SurveySpectrum:
    """Read the spectrum in the bytes of a file, as a remote file system gives them.

    Parameters
    ----------
    content : bytes
    name : str
        What messages call it.

    Raises
    ------
    UnusableSpectrum
        ``empty``, ``truncated``, ``not_fits``, ``corrupt_gzip``, ``truncated_gzip``, ``too_large``; those of
        :mod:`nalspark.surveys.fits_table` and :mod:`nalspark.surveys.sdss`; ``unreadable`` where the memory does not suffice;
        ``internal_error`` for what nobody foresaw.
    """
    with _faults_accounted(name):
        return read_sdss(decompressed(io.BytesIO(content), name), name)


def decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    """Give the content of a stream, decompressed where it is gzip, whatever its name says.

    Parameters
    ----------
    stream : binary file, seekable
        Read from its first byte.
    name : str
        What messages call it.

    Raises
    ------
    UnusableSpectrum
        ``corrupt_gzip``, ``truncated_gzip``, ``too_large``.
    """
    head = stream.read(2)
    head += stream.read(1) if len(head) == 1 else b""  # an unbuffered stream may give less than asked for
    stream.seek(0)
    return _gunzip(stream, name) if head == _GZIP else stream


def _check_kind(path: str) -> None:
    """Refuse what is no file before it is opened: opening a named pipe would wait for ever."""
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


def _gunzip(stream: BinaryIO, name: str) -> BinaryIO:
    """All members of a gzip file, as far as the limit allows."""
    content = io.BytesIO()
    member = zlib.decompressobj(31)
    data = stream.read(_CHUNK)
    while data:
        try:
            content.write(member.decompress(data, MAX_DECOMPRESSED_BYTES + 1 - content.tell()))
        except zlib.error as error:
            raise UnusableSpectrum("corrupt_gzip", f"{_shown(name)} is damaged gzip data: {printable(str(error), 120)}.") from None
        if content.tell() > MAX_DECOMPRESSED_BYTES:
            limit = MAX_DECOMPRESSED_BYTES >> 20
            raise UnusableSpectrum("too_large", f"{_shown(name)} is larger than {limit} MB when decompressed; no spectrum file is.")
        if not member.eof:
            data = member.unconsumed_tail or stream.read(_CHUNK)
            continue
        data = member.unused_data + stream.read(_CHUNK)
        if not data.startswith(_GZIP):
            return content  # what follows the last member is padding
        member = zlib.decompressobj(31)
    if not member.eof:
        raise UnusableSpectrum("truncated_gzip", f"{_shown(name)} ends before its gzip data do, after {content.tell()} decompressed bytes.")
    return content


def _shown(path: str) -> str:
    return printable(os.path.basename(path.rstrip("/")) or path, 120)


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
