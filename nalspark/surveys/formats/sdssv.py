"""SDSS-V spectra (DR18 on): ``spec-FIELD-MJD-CATALOGID.fits``.

They are written as BOSS wrote them, in upper case or lower. A catalogid has up to 19 digits and is no fiber.
"""

from __future__ import annotations

from collections.abc import Iterator

from nalspark.surveys.fits_table import FitsFile
from nalspark.surveys.spec_files import Naming, find_tables, read_spec
from nalspark.surveys.spectrum import SurveySpectrum

ORDER = 2
_FIELDS = Naming(
    format="sdssv_spec",
    template="{field:06d}-{mjd}-{catalogid}",
    columns=("field", "mjd", "catalogid"),
    cards=("FIELDID", "MJD", ""),  # a keyword has eight letters
    native=("field", "mjd", "catalogid"),
    largest=(999_999, 99_999, 2**63 - 1),
)


def read(fits: FitsFile) -> Iterator[SurveySpectrum] | None:
    """Read the spectrum of a file whose object table has a CATALOGID; None where there is none. Raises what :func:`read_spec` does."""
    if next(fits.hdus()).layout.data_bytes:
        return None
    tables = find_tables(fits)
    known = tables.objects.layout.columns if tables.objects else None
    return iter([read_spec(fits, tables, _FIELDS)]) if tables.coadd and known and "catalogid" in known else None


def identify(fits: FitsFile) -> dict[str, int | str] | None:
    """Tell field, mjd and catalogid of a file that can be read; None, and raises, as :func:`read`."""
    spectra = read(fits)
    return None if spectra is None else dict(next(spectra).native)
