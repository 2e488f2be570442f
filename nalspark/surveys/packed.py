"""Files packed with gzip: what is read of them costs memory, not how large they are."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from nalspark.errors import UnusableSpectrum
from nalspark.surveys.fits_table import printable

#: Largest file after decompression: DESI coadds have some 220 MB, those of crowded pixels more.
MAX_DECOMPRESSED_BYTES = 2**30
#: As much of it is kept in memory; the longest per-exposure SDSS files have some 20 MB. The rest goes to a temporary file.
_IN_MEMORY_BYTES = 32 * 2**20
_GZIP = b"\x1f\x8b"
_CHUNK = 2**18


@contextmanager
def decompressed(stream: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Lend the content of a stream, decompressed where it is gzip, whatever its name says.

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
    if head != _GZIP:
        yield stream
        return
    # A large file goes to the disk: it costs the memory of what is read of it.
    with SpooledTemporaryFile(_IN_MEMORY_BYTES) as content:
        _gunzip(stream, cast(BinaryIO, content), name)
        yield cast(BinaryIO, content)


def _gunzip(stream: BinaryIO, content: BinaryIO, name: str) -> None:
    """Write all members of a gzip file, as far as the limit allows."""
    shown = printable(os.path.basename(name), 120)
    member = zlib.decompressobj(31)
    data = stream.read(_CHUNK)
    while data:
        try:
            content.write(member.decompress(data, MAX_DECOMPRESSED_BYTES + 1 - content.tell()))
        except zlib.error as error:
            raise UnusableSpectrum("corrupt_gzip", f"{shown} is damaged gzip data: {printable(str(error), 120)}.") from None
        if content.tell() > MAX_DECOMPRESSED_BYTES:
            limit = MAX_DECOMPRESSED_BYTES >> 20
            raise UnusableSpectrum("too_large", f"{shown} is larger than {limit} MB when decompressed; no spectrum file is.")
        if not member.eof:
            data = member.unconsumed_tail or stream.read(_CHUNK)
            continue
        data = member.unused_data + stream.read(_CHUNK)
        if not data.startswith(_GZIP):
            return  # what follows the last member is padding
        member = zlib.decompressobj(31)
    if not member.eof:
        raise UnusableSpectrum("truncated_gzip", f"{shown} ends before its gzip data do, after {content.tell()} decompressed bytes.")
