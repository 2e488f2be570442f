"""The catalogue of a result in the formats that other programs read. No Spark: the published Parquet is read batch after batch.

A format with columns of its own is a declared table and a function from columns to columns; what it gives goes through a Parquet file of
this machine to :func:`nalspark.tables.fits.write_fits`. Only a VOTable is made in memory.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from astropy import units as u
from astropy.io.votable import from_table
from astropy.table import Table as AstropyTable

from nalspark.errors import StoreError, did_you_mean
from nalspark.lines import MG_II, SPEED_OF_LIGHT_KMS, LineSpecies
from nalspark.tables.arrow import Columns, decode, encode, read_batches
from nalspark.tables.atomic import replacing
from nalspark.tables.fits import write_fits
from nalspark.tables.quantities import to_qtable
from nalspark.tables.result import Result, open_parquet, open_result
from nalspark.tables.schemas import absorbers_table
from nalspark.tables.table import Column, Table
from nalspark.tables.versions import VERSIONS

#: Rows of which a VOTable is made, at most: astropy makes it in memory, of some 3 kB a row, so in 1 GB.
_VOTABLE_ROWS = 300_000
#: Significance at which a companion line is masked, if nothing else is said.
COMPANION_SNR = 3.0


# ---- what is exported


def _catalogue(result: Result) -> tuple[list[str], Table]:
    """The files of the published absorbers, and the declared columns that they have: a result of an earlier version lacks some."""
    published = result.dataset("absorbers")
    declared = absorbers_table(result.species)
    columns = tuple(column for column in declared.columns if column.name in published.schema.names)
    return published.files, Table(declared.name, declared.description, columns)


def _count_nulls(result: Result, column: str) -> int:
    """In how many rows of the absorbers a column is null; all, where they have no such column."""
    known = column in result.dataset("absorbers").schema.names
    return _count_rows(result, ds.field(column).is_null() if known else None)


def _count_rows(result: Result, which: ds.Expression | None = None) -> int:
    """Count absorbers, those only that a filter lets pass."""
    rows = 0
    for file in result.dataset("absorbers").files:
        try:
            rows += open_parquet(Path(file)).count_rows(filter=which)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"'{file}' is not readable as Parquet: {error}.") from None
    return rows


def _write_translated(result: Result, needs: list[str], translate: Callable[[Columns], Columns], target: Table, path: Path) -> int:
    """Write as FITS what `translate` makes of the columns `needs` of the absorbers, batch by batch; give the number of rows."""
    files, catalogue = _catalogue(result)
    missing = [name for name in needs if name not in catalogue.names]
    if missing:
        raise StoreError(
            f"The absorbers of {result.root} have no column '{missing[0]}': an earlier version of nalspark made them. "
            "Repeat the run that made the result: it does only what has changed."
        )
    columns = catalogue.select(*needs)
    declared = {column.name: column for column in columns}
    with tempfile.TemporaryDirectory(prefix="nalspark-export-") as scratch:
        draft = Path(scratch) / "draft.parquet"
        with pq.ParquetWriter(draft, target.arrow_schema) as writer:
            for batch in read_batches(files, columns):
                writer.write_batch(encode(translate(decode(batch, declared)), target))
        return write_fits([draft], target, path)


# ---- DESI's value-added catalogue of Mg II absorbers


_FLUX = "1e-17 erg / (Angstrom cm2 s)"
#: Columns of that catalogue that are columns of ours: name, type, unit, and our name; empty where we have none.
_DESI_SAME = (
    ("TARGETID", "long", "", "targetid"),
    ("RA", "double", "deg", "ra"),
    ("DEC", "double", "deg", "dec"),
    ("SURVEY", "string", "", "survey"),
    ("ZWARN", "long", "", ""),
    ("TSNR2_QSO", "float", "", ""),
    ("TSNR2_LYA", "float", "", ""),
    ("TSNR2_LRG", "float", "", ""),
    ("Z_QSO", "double", "", "z_qso"),
)
#: Its measured columns: name, unit, our name, and meaning; each has two errors, which our one error fills.
_DESI_MEASURED = (
    ("EW_2796", "Angstrom", "ew_2796", "Rest equivalent width"),
    ("EW_2803", "Angstrom", "ew_2803", "Rest equivalent width"),
    ("Z_MGII", "", "z_abs", "Absorption redshift"),
    ("AMP_2796", _FLUX, "depth_2796", "Amplitude of the Gaussian added to the continuum: negative in absorption"),
    ("AMP_2803", _FLUX, "depth_2803", "Amplitude of the Gaussian added to the continuum: negative in absorption"),
    ("STDDEV_2796", "Angstrom", "sigma_fit_kms", "Gaussian σ, observed, instrument included"),
    ("STDDEV_2803", "Angstrom", "sigma_fit_kms", "Gaussian σ, observed, instrument included"),
)
_DESI_LAST = (
    Column("CONTINUUM_METHOD", "string", "How the continuum was found: nalspark"),
    Column("LINE_SNR_MIN", "double", "Smaller of the two lines' equivalent widths over their errors"),
    Column("LINE_SNR_MAX", "double", "Larger of the two lines' equivalent widths over their errors"),
)
_DESI = Table(
    "MGII_ABSORBERS",
    "One row per Mg II absorber: amplitudes are negative, widths include the instrument.",
    (
        *(Column(name, kind, f"As {ours} of nalspark" if ours else "Not known to nalspark", unit) for name, kind, unit, ours in _DESI_SAME),
        *(
            Column(f"{name}{end}", "double", f"Standard error of {name}" if end else meaning, unit)
            for name, unit, _, meaning in _DESI_MEASURED
            for end in ("", "_ERR_LOW", "_ERR_HIGH")
        ),
        *_DESI_LAST,
    ),
)


def _to_desi(columns: Columns) -> Columns:
    """Columns of DESI's catalogue (Napolitano et al. 2023, AJ 166, 99): its model is continuum + AMP exp(-(λ - λ₀)² / 2 STDDEV²)."""
    stretch = 1.0 + columns["z_abs"]
    flux = columns["continuum_flux"].astype(float)
    factors = {"AMP_2796": -flux, "AMP_2803": -flux}
    for line in (MG_II.primary, MG_II.secondary):
        factors[f"STDDEV_{line.label}"] = line.wavelength * stretch / SPEED_OF_LIGHT_KMS
    result = {name: columns[ours] for name, _, _, ours in _DESI_SAME if ours}
    for name, _, ours, _ in _DESI_MEASURED:
        factor = factors.get(name, np.ones(len(stretch)))
        result[name] = columns[ours] * factor
        result[f"{name}_ERR_LOW"] = result[f"{name}_ERR_HIGH"] = columns[f"{ours}_err"] * np.abs(factor)
    snr = columns["snr_2796"], columns["snr_2803"]
    result |= {"LINE_SNR_MIN": np.minimum(*snr), "LINE_SNR_MAX": np.maximum(*snr)}
    return {**result, "CONTINUUM_METHOD": np.full(len(stretch), "nalspark", dtype=object)}


def _write_desi(result: Result, path: Path, _: float) -> int:
    if result.species != MG_II:
        raise StoreError(f"{result.root} has absorbers of {result.species.name}; desi-mgii holds Mg II only. Export votable, csv or ecsv.")
    unnamed = _count_nulls(result, "targetid")
    if unnamed:
        raise StoreError(
            f"{unnamed} absorbers of {result.root} have no TARGETID: their spectra are not of DESI. Export votable, csv or ecsv, "
            "or search the DESI spectra into a result of their own."
        )
    measured = [f"{ours}{end}" for ours in dict.fromkeys(ours for _, _, ours, _ in _DESI_MEASURED) for end in ("", "_err")]
    needs = [*(ours for *_, ours in _DESI_SAME if ours), *measured, "snr_2796", "snr_2803", "continuum_flux"]
    without = _count_nulls(result, "continuum_flux")
    if without:
        raise StoreError(
            f"The continuum is not known of {without} absorbers of {result.root}: an earlier version searched them, and did not keep it. "
            "Amplitudes in units of flux need it. Repeat the run that made the result with --force."
        )
    return _write_translated(result, needs, _to_desi, _DESI, path)


# ---- picca


def _sightline_id(result: Result) -> tuple[Column, str]:
    """The column by which picca knows a sightline, and the column of the absorbers that it is."""
    if not _count_nulls(result, "targetid"):
        return Column("TARGETID", "long", "DESI TARGETID", ucd="meta.id"), "targetid"
    if not _count_nulls(result, "catalogid"):
        return Column("LOS_ID", "long", "SDSS-V CATALOGID", ucd="meta.id"), "catalogid"
    return Column("LOS_ID", "string", "spectrum_id of the result", ucd="meta.id"), "spectrum_id"


def _lines_to_mask(columns: Columns, identity: tuple[str, str], species: LineSpecies, companion_snr: float) -> Columns:
    """One row per line: the doublet's always, a companion's where its equivalent width is significant."""
    lines = (species.primary, species.secondary, *species.companions)
    widths, errors = (np.stack([columns[f"ew_{line.label}{end}"].astype(float) for line in lines], axis=1) for end in ("", "_err"))
    with np.errstate(invalid="ignore"):  # a line that the spectrum does not cover has no width
        wanted = widths > companion_snr * errors
    wanted[:, :2] = True
    row, which = np.nonzero(wanted)
    rest = np.array([line.wavelength for line in lines])
    target, source = identity
    return {target: columns[source][row], "LAMBDA_ABS": rest[which] * (1.0 + columns["z_abs"][row])}


def _write_picca(result: Result, path: Path, companion_snr: float) -> int:
    if not companion_snr >= 0:
        raise StoreError(f"The significance of companion lines is {companion_snr}; a number of 0 or more is expected.")
    species = result.species
    column, source = _sightline_id(result)
    where = Column("LAMBDA_ABS", "double", "Observed vacuum wavelength of the line", "Angstrom", "em.wl")
    lines = (species.primary, species.secondary, *species.companions)
    needs = [source, "z_abs", *(f"ew_{line.label}{end}" for line in lines for end in ("", "_err"))]
    translate = partial(_lines_to_mask, identity=(column.name, source), species=species, companion_snr=companion_snr)
    target = Table("ABSORBERCAT", f"One row per line of a {species.name} absorber that is to be masked.", (column, where))
    return _write_translated(result, needs, translate, target, path)


# ---- whole tables


def _plain(rows: pa.Table, table: Table) -> AstropyTable:
    """An astropy table of columns with units; no quantities, which the formats write as columns anyway."""
    return AstropyTable(to_qtable(rows, table))


def _write_votable(result: Result, path: Path, _: float) -> int:
    catalogue = _catalogue(result)[1]
    rows = _count_rows(result)
    if rows > _VOTABLE_ROWS:
        raise StoreError(
            f"The catalogue has {rows} rows; a VOTable is made in memory, of at most {_VOTABLE_ROWS}. "
            "Export csv or ecsv, or use absorbers.fits of the result: these are written batch by batch."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)  # that VOUnit likes 0.1nm more than Angstrom
        votable = from_table(_plain(result.table("absorbers", catalogue.names), catalogue), table_id=catalogue.name)
        votable.get_first_table().description = catalogue.description
        # The only form of a VOTable in which a null is a null whatever the type.
        votable.to_xml(str(path), tabledata_format="binary2")
    return rows


def _write_text(result: Result, path: Path, _: float, *, described: bool = False) -> int:
    """Write commas between fields, nulls as empty fields; `described`: below the header of ECSV, with types, units and UCDs."""
    files, catalogue = _catalogue(result)
    head = f"{','.join(catalogue.names)}\n"
    if described:
        text = io.StringIO()
        _plain(catalogue.arrow_schema.empty_table(), catalogue).write(text, format="ascii.ecsv", delimiter=",")
        head = text.getvalue()
    rows = 0
    with open(path, "wb") as file:
        file.write(head.encode())
        how = pc.WriteOptions(include_header=False, quoting_style="needed")
        with pc.CSVWriter(file, catalogue.arrow_schema, write_options=how) as writer:
            for batch in read_batches(files, catalogue.columns):
                writer.write_batch(batch)
                rows += batch.num_rows
    return rows


# ---- the door


def _is_of_result(path: Path, result: Result) -> bool:
    """Whether a place is that of a file of the result, or of the one that keeps it as a version."""
    place, root = path.parent.resolve() / path.name, result.root.resolve()
    homes = [root, root.parents[1]] if root.parent.name == VERSIONS else [root]
    home = next((home for home in homes if place.is_relative_to(home)), None)
    return home is not None and place.relative_to(home).parts[0] in {"manifest.json", "tables", VERSIONS, *result.manifest.published}


@dataclass(frozen=True)
class _Format:
    """A format: what it is for, the name of the file by default, and what writes it and gives the number of rows."""

    meaning: str
    file: str
    write: Callable[[Result, Path, float], int]


FORMATS = {
    "desi-mgii": _Format("the columns of DESI's value-added catalogue of Mg II absorbers", "mgii_absorbers.fits", _write_desi),
    "picca-absorbercat": _Format("the lines that picca masks", "absorbercat.fits", _write_picca),
    "votable": _Format("all columns, for Virtual Observatory tools", "absorbers.vot", _write_votable),
    "csv": _Format("all columns, as text", "absorbers.csv", _write_text),
    "ecsv": _Format("all columns, as text with types, units and UCDs", "absorbers.ecsv", partial(_write_text, described=True)),
}


def export_result(
    folder: str | Path, form: str, out: str | Path | None = None, *, overwrite: bool = False, companion_snr: float = COMPANION_SNR
) -> tuple[Path, int]:
    """Write the published catalogue of a result in a format that other programs read. The file is put in place whole.

    Parameters
    ----------
    folder : path
        A result of ``nalspark find``.
    form : str
        A name of :data:`nalspark.tables.export.FORMATS`: ``desi-mgii``, ``picca-absorbercat``, ``votable``, ``csv``, ``ecsv``.
    out : path, optional
        The file to write; by default one in the result's directory.
    overwrite : bool
        Replace a file that is there; never one of the result itself.
    companion_snr : float
        For picca: other lines than the doublet's are masked where their equivalent width is above so many standard errors.

    Returns
    -------
    path : Path
        The file that was written.
    rows : int
        How many rows it has.

    Raises
    ------
    StoreError
        Where there is no such format, no published result, a file is in the way, the place cannot be written or is that of a file of the
        result, or the format cannot hold this catalogue.
    """
    if form not in FORMATS:
        raise StoreError(f"There is no format '{form}'; there are {', '.join(FORMATS)}.{did_you_mean(form, FORMATS)}")
    result = open_result(folder)
    path = Path(out or result.root / FORMATS[form].file).expanduser().absolute()
    if path.is_dir():
        raise StoreError(f"{path} is a folder; give --out the name of a file in it, such as {path / FORMATS[form].file}.")
    if _is_of_result(path, result):
        raise StoreError(f"{path} is the place of a file of the result itself; give another file with --out.")
    if path.exists() and not overwrite:
        raise StoreError(f"{path} is there already. Give --overwrite to replace it, or another file with --out.")
    try:
        with replacing(path) as new:
            rows = FORMATS[form].write(result, new, companion_snr)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from None
    return path, rows
