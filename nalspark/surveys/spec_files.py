"""Files of one spectrum as SDSS has written them since DR8, and SDSS-V goes on: a COADD table, and a row of what is known of the object.

Many eBOSS files name none of their HDUs: there the tables are known by their columns, else by their names. Their order says nothing. The
RA and DEC cards of the primary header are the telescope's; the object's are PLUG_RA, PLUG_DEC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nalspark.errors import UnusableSpectrum
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.regrid import sample_resolution
from nalspark.surveys.fits_table import BLOCK, Column, FitsFile, Hdu, Header, printable
from nalspark.surveys.spectrum import SurveySpectrum, angle, clean_pixels, positive, real, short_text, whole

#: From here on float32 does not hold every whole number, and a number written as a real one may be another.
_EXACT = 2**24
_PIXEL_COLUMNS = ("flux", "loglam", "ivar")
_OBJECT_TABLES = ("SPECOBJ", "SPALL")
_KNOWN = ("plug_ra", "plug_dec", "ra", "dec", "z", "zwarning", "class")


@dataclass(frozen=True)
class Naming:
    """What names a spectrum of a survey.

    Attributes
    ----------
    format : str
        As of :class:`SurveySpectrum`.
    template : str
        The name, with the native columns in braces.
    columns : tuple of str
        Of the object table, in lower case.
    cards : tuple of str
        Of the primary header, where the table is missing; empty where no card can have the name.
    native : tuple of str
        What nalspark calls them.
    largest : tuple of int
        Largest number that each may be.
    """

    format: str
    template: str
    columns: tuple[str, ...]
    cards: tuple[str, ...]
    native: tuple[str, ...]
    largest: tuple[int, ...]

    def identity(self, name: str, values: list[object], format: str | None = None) -> dict[str, Any]:
        """Give ``spectrum_id``, ``format`` and ``native`` of the file `name` from the numbers found, None where one is missing.

        Raises
        ------
        UnusableSpectrum
            ``missing_id``, ``bad_id``.
        """
        native: dict[str, int | str] = {}
        for value, title, column, largest in zip(values, self.columns, self.native, self.largest, strict=True):
            card = title.upper()
            if value is None:
                needed = f"{_listed(self.columns)} in SPECOBJ or SPALL, or {_listed(self.cards)} in the primary header"
                raise UnusableSpectrum("missing_id", f"{name} does not say its {card}; expected {needed}.")
            number = whole(value)
            if not 0 < number <= largest or (isinstance(value, float) and number >= _EXACT):
                shown = printable(str(value), 40)
                raise UnusableSpectrum("bad_id", f"{name}: {card} is {shown}; expected a whole number from 1 to {largest}.")
            native[column] = number
        return {"spectrum_id": self.template.format(**native), "format": format or self.format, "native": native}


def _listed(names: tuple[str, ...]) -> str:
    names = tuple(filter(None, names))
    return ", ".join(names[:-1]).upper() + f" and {names[-1].upper()}"


@dataclass(frozen=True)
class SpecTables:
    """The tables of a file: of the coadded spectrum, and of the object."""

    primary: Hdu
    coadd: Hdu | None
    objects: Hdu | None


def find_tables(fits: FitsFile) -> SpecTables:
    """Find the table of the coadded spectrum, and that of the object: by name, else the first that has the columns.

    Raises
    ------
    UnusableSpectrum
        Where one is missing from a file that is damaged behind what was found.
    """
    coadd: Hdu | None = None
    objects: Hdu | None = None
    hdus = fits.hdus()
    primary = next(hdus)
    try:
        for hdu in hdus:
            name, columns = hdu.layout.name, hdu.layout.columns or {}
            if columns and (name == "COADD" or ("loglam" in columns and ("flux" in columns or "ivar" in columns))):
                coadd = _first_named(coadd, hdu, ("COADD",))
            elif columns and hdu.layout.shape[0] and (name in _OBJECT_TABLES or _is_object(columns)):
                objects = _first_named(objects, hdu, _OBJECT_TABLES)
            if coadd and objects and coadd.layout.name == "COADD" and objects.layout.name in _OBJECT_TABLES:
                break
    except UnusableSpectrum:
        if not (coadd and objects):  # else nothing is amiss with what is needed
            raise
    if coadd and objects is None and fits.size % BLOCK:
        raise UnusableSpectrum("truncated", f"{fits.name} ends at byte {fits.size}, inside a block, and has no table of the object.")
    return SpecTables(primary, coadd, objects)


def _is_object(columns: Mapping[str, Column]) -> bool:
    return {"z", "class"} <= columns.keys() and not columns.keys().isdisjoint(("fiberid", "catalogid"))


def _first_named(best: Hdu | None, other: Hdu, names: tuple[str, ...]) -> Hdu:
    return other if best is None or (best.layout.name not in names and other.layout.name in names) else best


def _pixels(fits: FitsFile, coadd: Hdu) -> dict[str, Any]:
    columns = coadd.layout.columns or {}
    for name in _PIXEL_COLUMNS:
        if name in columns and not columns[name].is_number:
            raise _bad_type(fits, columns[name], "one number")
    has_resolution = "wdisp" in columns and columns["wdisp"].is_number
    wanted = (*_PIXEL_COLUMNS, *(("wdisp",) if has_resolution else ()))
    values = {name: _reals(column) for name, column in fits.columns(coadd, wanted).items()}
    loglam = values["loglam"].astype(np.float64)
    pixels = clean_pixels(fits.name, loglam, values["flux"], values["ivar"])
    if not has_resolution or pixels["first_pixel"] is None:  # off the lattice `wdisp` counts other pixels
        return pixels | {"resolution": None}
    values["wdisp"][~(values["ivar"] > 0)] = 0.0
    return pixels | {"resolution": sample_resolution(values["wdisp"], loglam, LATTICE)}


def _reals(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers as real ones; NaN where a row has none."""
    return values if values.dtype.kind == "f" and type(values) is np.ndarray else np.ma.filled(values.astype(np.float64), np.nan)


def _bad_type(fits: FitsFile, column: Column, expected: str) -> UnusableSpectrum:
    shape = f" and {' × '.join(map(str, column.shape))} values a row" if column.shape else ""
    return UnusableSpectrum(
        "bad_column_type", f"{fits.name}: column '{column.name}' has format '{column.form}'{shape}; expected {expected} per row."
    )


def _object_row(fits: FitsFile, header: Header, objects: Hdu, naming: Naming) -> dict[str, Any]:
    """What the object table knows, by lower-case column; of several rows that of the spectrum which the header names."""
    columns = objects.layout.columns or {}
    present = [name for name in (*naming.columns, *_KNOWN) if name in columns]
    for name in present:
        if not (columns[name].is_text if name == "class" else columns[name].is_number):
            raise _bad_type(fits, columns[name], "one text" if name == "class" else "one number")
    if "z_err" in columns and columns["z_err"].is_number:  # nothing is refused for want of it
        present.append("z_err")
    rows = {name: values.tolist() for name, values in fits.columns(objects, present).items()}
    n_rows, chosen = objects.layout.shape[0], 0
    if n_rows > 1:
        named = {column: header.get(card) for column, card in zip(naming.columns, naming.cards, strict=True) if card}
        fitting = [row for row in range(n_rows) if all(rows[column][row] == named[column] for column in named if column in rows)]
        if len(fitting) != 1 or not named.keys() <= rows.keys():
            found = f"{len(fitting)} of the {n_rows} rows of HDU {objects.number} have {_listed(naming.cards)} of the primary header"
            raise UnusableSpectrum("missing_id", f"{fits.name} does not say which object it shows: {found}; expected one.")
        chosen = fitting[0]
    return {name: values[chosen] for name, values in rows.items()}


def read_spec(fits: FitsFile, tables: SpecTables, naming: Naming) -> SurveySpectrum:
    """Read the coadded spectrum; redshift and class from the object table, where there is one.

    Raises
    ------
    UnusableSpectrum
        With the reasons of :mod:`nalspark.surveys.fits_table`; ``missing_column``, ``bad_column_type``, ``too_few_pixels``,
        ``wavelength_invalid``, ``wavelength_descending``, ``wavelength_not_monotonic``, ``flux_all_nan``, ``ivar_all_zero``,
        ``missing_id``, ``bad_id``.
    """
    assert tables.coadd is not None
    header = tables.primary.header
    pixels = _pixels(fits, tables.coadd)
    row = _object_row(fits, header, tables.objects, naming) if tables.objects else {}

    def known(column: str, card: str) -> Any:
        return header.get(card) if card and row.get(column) is None else row.get(column)

    return SurveySpectrum(
        **naming.identity(fits.name, [known(column, card) for column, card in zip(naming.columns, naming.cards, strict=True)]),
        ra=angle(known("plug_ra" if "plug_ra" in row else "ra", "PLUG_RA"), 0.0, 360.0),
        dec=angle(known("plug_dec" if "plug_dec" in row else "dec", "PLUG_DEC"), -90.0, 90.0),
        z_pipeline=real(row.get("z")),
        z_pipeline_err=positive(row.get("z_err")),
        z_warning=whole(row.get("zwarning")) & 0x7FFFFFFF,
        object_class=short_text(row.get("class")),
        **pixels,
    )
