"""Statistics as text, pictures and files: numbers in, nothing computed."""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import QTable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nalspark.errors import NalsparkError
from nalspark.incidence import PUBLISHED_LAWS
from nalspark.judging.path import absorption_distance
from nalspark.judging.statistics import RateTables
from nalspark.plots import statistics as plots
from nalspark.plots.evaluation import Sheet, as_text
from nalspark.plots.statistics import Points
from nalspark.tables.arrow import encode
from nalspark.tables.atomic import replacing, write_file
from nalspark.tables.fits import write_fits
from nalspark.tables.table import Table

Array = NDArray[np.float64]

#: What stands on every table and figure that was made without a completeness function.
NOT_CORRECTED = "not corrected for completeness"


def write_statistics(tables: RateTables, out: Path) -> list[Path]:
    """Write every table as ECSV and FITS, and every figure as PNG, into a folder; what was there under these names is replaced.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    NalsparkError
        Where the folder cannot be written.
    """
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, (values, declared) in tables.tables.items():
            text = io.StringIO()
            values.write(text, format="ascii.ecsv")
            write_file(out / f"{name}.ecsv", text.getvalue())
            _write_fits(values, declared, tables, out / f"{name}.fits")
            written += [out / f"{name}.ecsv", out / f"{name}.fits"]
        for name, figure in statistics_figures(tables).items():
            with replacing(out / name) as new:
                figure.savefig(new, format="png", dpi=150)
            written.append(out / name)
    except OSError as error:
        raise NalsparkError(f"The statistics cannot be written to '{out}': {error.strerror}. Give another folder with --out.") from None
    return written


def _write_fits(values: QTable, declared: Table, tables: RateTables, path: Path) -> None:
    """One table; the card STATS has, as JSON, what the metadata of the ECSV file have."""
    columns = {name: np.asarray(getattr(values[name], "value", values[name])) for name in values.colnames}
    with tempfile.TemporaryDirectory(prefix="nalspark-") as scratch, replacing(path) as new:
        rows = Path(scratch) / "rows.parquet"
        pq.write_table(pa.Table.from_batches([encode(columns, declared)]), rows)
        write_fits([rows], declared, new, cards={"CORRECT": tables.corrected, "STATS": json.dumps(tables.numbers)})


# ---- pictures


def _numbers(values: QTable, rows: NDArray[np.bool_]) -> dict[str, Array]:
    """Columns of some rows without their units, which are those of the declaration."""
    return {name: np.asarray(getattr(values[name], "value", values[name]), dtype=float)[rows] for name in values.colnames}


def _whole(values: QTable) -> NDArray[np.bool_]:
    """The rows of all redshift bins together: those at the end, which begin where the first bin does."""
    low, high = np.asarray(values["z_low"]), np.asarray(values["z_high"])
    return np.asarray((low == low.min(initial=np.inf)) & (high == high.max(initial=-np.inf)))


def statistics_figures(tables: RateTables) -> dict[str, Figure]:
    """Draw the statistics: file name → figure."""
    line, note = tables.species.primary.label, "" if tables.corrected else NOT_CORRECTED
    return {
        "dndz.png": plots.rates_figure(_rate_panels(tables, "z"), "dN/dz", note),
        "dndx.png": plots.rates_figure(_rate_panels(tables, "x"), "dN/dX", note),
        "ew_function.png": plots.ew_function_figure(*_ew_points(tables), f"rest equivalent width W({line}) (Å)", note),
        "g.png": _sightlines_figure(tables),
    }


def _rate_panels(tables: RateTables, kind: str) -> dict[str, tuple[Points, dict[str, tuple[Array, Array]]]]:
    rates, one_bin = tables.rates, len(tables.settings.z_bins) == 2
    bins, panels, name = ~_whole(rates) | one_bin, {}, f"dnd{kind}"
    for ew in tables.settings.ew_limits:
        rows = _numbers(rates, bins & (np.abs(np.asarray(rates["ew_low"].value) - ew) < 1e-9))
        plain = rows["dndz_uncorrected"]
        middle = 0.5 * (rows["z_low"] + rows["z_high"])
        if kind == "x":
            plain = plain / absorption_distance(middle, tables.settings.om0)
        curves = {}
        for law in PUBLISHED_LAWS.get(tables.species.name, ()):
            z = np.linspace(max(law.z_range[0], rows["z_low"].min()), min(law.z_range[1], rows["z_high"].max()), 100)
            distance = absorption_distance(z, tables.settings.om0) if kind == "x" else 1.0
            curves[law.name] = z, law.rate(z, ew) / distance
        panels[f"W ≥ {ew:g} Å"] = _points(rows, ("z_low", "z_high"), name, plain), curves
    return panels


def _points(rows: Mapping[str, Array], ends: tuple[str, str], name: str, plain: Array) -> Points:
    """Points of a column with its interval and error."""
    value, lower, upper, jackknife = (rows[f"{name}{end}"] for end in ("", "_lower", "_upper", "_jackknife"))
    return Points(rows[ends[0]], rows[ends[1]], value, lower, upper, jackknife, plain)


def _ew_points(tables: RateTables) -> tuple[Points, dict[str, tuple[Array, Array]]]:
    whole = _numbers(tables.ew_function, _whole(tables.ew_function))
    rows = {name: values[-(len(tables.settings.ew_bins) - 1) :] for name, values in whole.items()}
    fit, ew = tables.fit[-1], np.geomspace(rows["ew_low"][0], rows["ew_high"][-1], 100)
    n_star, w_star = float(fit["n_star"]), float(fit["w_star"].value)
    curves = {f"N* = {n_star:.3f}, W* = {w_star:.3f} Å": (ew, n_star / w_star * np.exp(-ew / w_star))} if np.isfinite(w_star) else {}
    z = 0.5 * (tables.settings.z_bins[0] + tables.settings.z_bins[-1])
    if tables.species.name in PUBLISHED_LAWS:
        first, *others = PUBLISHED_LAWS[tables.species.name]
        curves[f"{first.name}, this path"] = np.sqrt(rows["ew_low"] * rows["ew_high"]), rows["f_published"]
        curves |= {f"{law.name}, z = {z:.2g}": (ew, law.density(z, ew)) for law in others}
    return _points(rows, ("ew_low", "ew_high"), "f", rows["f_uncorrected"]), curves


def _sightlines_figure(tables: RateTables) -> Figure:
    values = _numbers(tables.g, np.ones(len(tables.g), dtype=bool))
    ew = np.unique(values["ew"])
    wanted = [ew[np.abs(np.log(ew / limit)).argmin()] for limit in (*tables.settings.ew_limits, 4.0)] if len(ew) else []
    z = 0.5 * (values["z_low"] + values["z_high"])[values["ew"] == ew[0]] if len(ew) else np.zeros(0)
    curves = [(width, values["n_sightlines"][values["ew"] == width]) for width in dict.fromkeys(wanted)]
    return plots.sightlines_figure(z, curves, tables.settings.min_significance)


# ---- text


def _written(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def statistics_text(tables: RateTables) -> str:
    """Write the statistics for a terminal."""
    numbers = tables.numbers
    left_out = ", ".join(f"{numbers[f'left_out_{name}']} {meaning}" for name, meaning in _LEFT_OUT.items() if numbers[f"left_out_{name}"])
    lines = [
        f"{numbers['absorbers']} {tables.species.name} absorbers count, in {numbers['sightlines']} sightlines of as many objects; "
        f"{numbers['jackknife_regions']} regions of the jackknife." + (f" Left out: {left_out}." if left_out else "")
    ]
    if not tables.corrected:
        lines.append(f"These numbers are {NOT_CORRECTED}.")
    return "\n\n".join([*lines, as_text(_rates_sheet(tables)), as_text(_fit_sheet(tables))])


_LEFT_OUT = {
    "other_epoch": "of other spectra of an object",
    "off_path": "off the searched path",
    "near_quasar": "near the quasar or behind it",
    "other_redshift": "outside the redshift bins",
    "no_error": "without a sensitivity or an error",
}


def _rates_sheet(tables: RateTables) -> Sheet:
    rows, published = list[list[str]](), "dndz_published" in tables.rates.colnames
    for row in tables.rates:
        plain: Mapping[str, Any] = {name: getattr(row[name], "value", row[name]) for name in tables.rates.colnames}
        ends = [plain["dndz"] - plain["dndz_lower"], plain["dndz_upper"] - plain["dndz"], plain["dndz_jackknife"]]
        where = [f"{plain['z_low']:g}-{plain['z_high']:g}", f"{plain['ew_low']:g}", f"{plain['n_absorbers']}", f"{plain['path']:.1f}"]
        values = [plain["dndz_uncorrected"], plain["dndz"], *ends, plain["dndx"], *([plain["dndz_published"]] if published else [])]
        rows.append(where + [_written(float(value)) for value in values])
    heads = [
        "z",
        "#W >=",
        "#rows",
        "#path",
        "#uncorrected",
        "#dN/dz",
        "#-",
        "#+",
        "#jackknife",
        "#dN/dX",
        *(["#Zhu+13"] if published else []),
    ]
    note = (
        "rows: of the catalogue, by measured W. path: where W reaches the detection threshold. uncorrected: rows over all searched path "
        "(path_searched of the tables). -, +: Poisson. The last rows are of all redshifts together."
    )
    return Sheet("Absorbers per unit redshift", heads, rows, note)


def _fit_sheet(tables: RateTables) -> Sheet:
    rows = []
    for row in tables.fit:
        plain = {name: float(getattr(row[name], "value", row[name])) for name in tables.fit.colnames}
        values = [plain[f"{name}{end}"] for name in ("n_star", "w_star") for end in ("", "_err", "_jackknife")]
        rows.append([f"{plain['z_low']:g}-{plain['z_high']:g}", f"{plain['n_fitted']:.1f}", *map(_written, values)])
    low, high = tables.settings.fit_ew
    heads = ["z", "#absorbers", "#N*", "#+-", "#jackknife", "#W* (Å)", "#+-", "#jackknife"]
    return Sheet(f"f(W) = N*/W* exp(-W/W*), fitted to true W from {low:g} to {high:g} Å", heads, rows)
