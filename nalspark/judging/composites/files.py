"""A composite on disk: a folder of tables and figures that is put in place whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable

from nalspark.errors import StoreError
from nalspark.judging.composites.tables import SEEN, Stack
from nalspark.plots.composites import composite_figure, ratio_figure
from nalspark.tables import atomic
from nalspark.version import VERSION

#: What marks a folder as one that may be replaced, with counts and settings.
MARKER = "stack.json"


def check_folder(folder: Path) -> None:
    """Look whether a composite may be written to a folder.

    Raises
    ------
    StoreError
        Where the folder is a file, or holds something else than a composite.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; a composite is a folder. Give another --out or --name.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise StoreError(f"{folder} is not empty and holds no composite (it has no {MARKER}). Give another --out or --name.")


def write_stack(stack: Stack, folder: Path) -> None:
    """Write a composite: ``composite.fits``, ``.ecsv`` and ``.png``, ``lines.ecsv``, with controls ``ratio.ecsv`` and ``.png``, and
    ``stack.json``; an earlier composite is replaced.

    Parameters
    ----------
    stack : Stack
    folder : Path

    Raises
    ------
    StoreError
        As :func:`check_folder`, and where the folder cannot be written.
    """
    check_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(folder) as new:
            new.mkdir()
            _write(stack, new)
    except OSError as error:
        raise StoreError(f"The composite cannot be written to {folder}: {error.strerror}.") from None


def _write(stack: Stack, folder: Path) -> None:
    facts = {key: _plain(value) for key, value in stack.facts.items()}
    title = f"{facts['n_spectra']} spectra of {facts['n_objects']} quasars"
    _tables(stack.composite, folder / "composite", fits=True)
    _tables(stack.lines, folder / "lines")
    lines = [(str(row["line"]), float(row["wavelength"].value), bool(row["snr"] > SEEN)) for row in stack.lines if row["n"] > 0]
    curves = {name: np.asarray(stack.composite[name]) for name in ("mean", "mean_err", "median")}
    composite_figure(stack.composite["wavelength"].value, curves, lines, title).savefig(folder / "composite.png", dpi=130)
    if stack.ratio is not None:
        _tables(stack.ratio, folder / "ratio")
        curves = {name: np.asarray(stack.ratio[name]) for name in ("ratio", "ratio_err", "model")}
        ebv = facts["ebv"] or np.nan, facts["ebv_err"] or np.nan
        ratio_figure(stack.ratio["wavelength"].value, curves, ebv, title).savefig(folder / "ratio.png", dpi=130)
    (folder / MARKER).write_text(json.dumps(facts | {"nalspark": VERSION}, indent=1) + "\n", encoding="utf-8")


def _tables(table: QTable, path: Path, *, fits: bool = False) -> None:
    table.write(path.with_suffix(".ecsv"), format="ascii.ecsv", serialize_method="data_mask")
    if fits:
        table.write(path.with_suffix(".fits"), format="fits")


def _plain(value: Any) -> Any:
    """A fact as JSON knows it: nothing where a number is not known."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def stack_text(stack: Stack, folder: Path) -> str:
    """Write what a composite shows as text: the lines that are seen, dust, and where it lies."""
    seen = [row for row in stack.lines if row["snr"] > SEEN]
    lines = [f"lines above {SEEN:g} standard errors on the mean composite, rest equivalent width in Å:"]
    lines += [f"  {row['line']:<11} {row['ew'].value:7.4f} ± {row['ew_err'].value:.4f}   {row['n']} spectra" for row in seen]
    lines = lines if seen else [f"no known line above {SEEN:g} standard errors on the mean composite"]
    if stack.ratio is not None:
        lines.append(
            f"E(B-V)     {stack.facts['ebv']:.4f} ± {stack.facts['ebv_err']:.4f} (SMC law, {stack.facts['n_matched']} with controls)"
        )
    return "\n".join([*lines, f"composite  {folder}"])
