"""The absorbers of a result as they are reviewed: which, what may be said of them, and the arrays that the page draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import ArrayLike

from nalspark.absorption.chain import PIXELS
from nalspark.absorption.gallery import gallery_item
from nalspark.absorption.measure import AbsorberFlag
from nalspark.absorption.stages import normalized
from nalspark.errors import StoreError
from nalspark.lines import SPECIES, LineSpecies
from nalspark.plots.figures import GalleryItem, line_model, panel_limits, spectrum_limits, velocities
from nalspark.review.choose import choose, present
from nalspark.review.exhibits import Choice, Exhibits
from nalspark.review.journal import Subject
from nalspark.review.rows import Rows
from nalspark.settings import Settings
from nalspark.tables.result import Result, open_parquet, open_result
from nalspark.tables.schemas import CANDIDATES, SPECTRA, TARGETS, absorbers_table, all_absorbers_table
from nalspark.tables.store import Store
from nalspark.tables.table import Table

CLASSES = (Choice("absorber", "a", "absorber", "yes"), Choice("not", "n", "not", "no"), Choice("unsure", "u", "unsure"))
#: Reason → its key; with Shift it is a reason to be unsure.
_REASONS = {"other ion": "o", "sky": "s", "continuum": "c", "BAL": "b", "noise": "x"}
REASONS = {
    "not": tuple(Choice(reason, key, reason, "no") for reason, key in _REASONS.items()),
    "unsure": tuple(Choice(reason, key.upper(), reason) for reason, key in _REASONS.items()),
}
#: Columns that the network made or had a hand in, and remarks that speak for or against a system.
HIDDEN = frozenset({"score", "flags", "completeness", "weight", "n_ions", "system_id"})
_SCRIPT = Path(__file__).parent / "static" / "absorption.js"
#: Points at which a panel's fitted profile is drawn.
_FINE = 160


def absorber_exhibits(folder: str | Path, select: str = "", sample: int | None = None, by_score: bool = False) -> Exhibits:
    """Open the absorbers of a result for a review.

    Parameters
    ----------
    folder : path
        A result of ``nalspark find``, of one species or of several.
    select, sample, by_score
        As :func:`nalspark.review.choose.choose` takes them.

    Raises
    ------
    StoreError
        Where the folder holds no published result.
    SettingsError
        Where `select` is no condition.
    NalsparkError
        Where no row is left, or too many are.
    """
    result = open_result(folder)
    species = [SPECIES[name] for name in result.settings.species]
    table, dataset = _catalogue(result, species)
    sources, first = _Sources(result), species[0].name
    return Exhibits(
        programme="absorption",
        title=f"{', '.join(one.name for one in species)} absorbers of {result.root.name}",
        classes=CLASSES,
        reasons=REASONS,
        rows=choose(dataset, table, ("absorber_id", "species"), select, sample, "score" if by_score else ""),
        columns=present(dataset, table),
        first=_in_sight(species),
        hidden=HIDDEN,
        bits={"flags": AbsorberFlag},
        identity=("absorber_id", "spectrum_id", "species", "z_abs"),
        subject=lambda row: Subject(row["absorber_id"], row["spectrum_id"], row["species"] or first, row["z_abs"]),
        draw=lambda row: drawn(sources.item({**row, "species": row["species"] or first})),
        script=_SCRIPT,
    )


def _catalogue(result: Result, species: Sequence[LineSpecies]) -> tuple[Table, ds.Dataset]:
    """The published absorbers, of one species or of several."""
    place = Store(result.root).published("absorbers.parquet")
    if not place.exists():
        raise StoreError(f"{place} is not there: the result is not published yet. Run stage 'publish' first.")
    return all_absorbers_table(species) if len(species) > 1 else absorbers_table(species[0]), open_parquet(place)


def _in_sight(species: Sequence[LineSpecies]) -> tuple[str, ...]:
    """The columns that are always in sight."""
    widths = dict.fromkeys(f"ew_{line.label}" for one in species for line in (one.primary, one.secondary))
    others = ("doublet_ratio", "fwhm_kms", "significance", "chi2_reduced", "z_qso", "velocity_kms", "score")
    return "species", "z_abs", *widths, *others


class _Sources:
    """Where the pixels of a result lie: of several species each has a result of its own."""

    def __init__(self, result: Result) -> None:
        names = result.settings.species
        results = {name: open_result(result.root / name) for name in names} if len(names) > 1 else {names[0]: result}
        self._of = {name: _Source(one.settings, Store(one.root)) for name, one in results.items()}

    def item(self, row: Mapping[str, Any]) -> GalleryItem:
        return self._of[row["species"]].item(row)


class _Source:
    """The tables of one result of one species, of which a picture is made."""

    def __init__(self, settings: Settings, store: Store) -> None:
        manifest, self.settings = store.manifest(), settings
        self.targets = Rows(store, manifest, TARGETS, ("spectrum_id",), TARGETS.names)
        self.spectra = Rows(store, manifest, SPECTRA, ("path", "spectrum_id"), ("path", "spectrum_id", *PIXELS))
        shown = ("candidate_id", "pixel", "instrument_pixels", "image_residual", "image_inverse_error")
        self.candidates = Rows(store, manifest, CANDIDATES, ("candidate_id",), shown)

    def item(self, row: Mapping[str, Any]) -> GalleryItem:
        part, name = row["part"], row["spectrum_id"]
        target = self.targets.one(part, name)
        spectra = normalized(self.spectra.one(part, target["path"][0].as_py(), name), target, self.settings)
        if name not in spectra:
            raise StoreError(f"Spectrum {name} cannot be searched any more: the result was made with other settings. Run all stages.")
        candidate = self.candidates.one(part, row["absorber_id"]).to_pylist()[0]
        # The flags are words of the page, which knows whether they may be seen.
        return gallery_item({**row, "flags": 0}, spectra[name], candidate, self.settings)


def drawn(item: GalleryItem) -> dict[str, Any]:
    """Give what the page draws of an absorber, as JSON has it; null where there is no value."""
    good = np.isfinite(item.error) & (item.error > 0) & np.isfinite(item.flux)
    ends = np.flatnonzero(good)[[0, -1]] if good.any() else (0, -1)
    shown = slice(int(ends[0]), int(ends[1]) + 1)
    seen = np.isfinite(item.continuum) & (item.continuum > 0)
    z = item.value("z_abs")
    return {
        "spectrum": {
            "wavelength": _numbers(item.wavelength[shown], 3),
            "flux": _numbers(np.where(good, item.flux, np.nan)[shown], 4),
            "error": _numbers(np.where(good, item.error, np.nan)[shown], 4),
            "continuum": _numbers(np.where(seen, item.continuum, np.nan)[shown], 4),
            "limits": list(spectrum_limits(item)),
            "searched": [list(ends) for ends in item.searched],
        },
        "lines": [
            {"name": str(name), "place": float(rest * (1.0 + z)), "strong": row in item.doublet}
            for row, (name, rest) in enumerate(zip(item.lines, item.rest, strict=True))
        ],
        "panels": {"limits": list(panel_limits(item)), "each": [_panel(item, row) for row in range(len(item.lines))]},
    }


def _panel(item: GalleryItem, row: int) -> dict[str, Any]:
    """One transition in velocity, with what the fit says of it."""
    velocity, inverse = velocities(item)[row], item.inverse_error[row]
    good = inverse > 0
    error = 1.0 / np.where(good, inverse, 1.0)
    fine = np.linspace(velocity[0], velocity[-1], _FINE)
    model = line_model(item, row, fine)
    width, width_error = (item.value(f"ew_{item.label(row)}{end}") for end in ("", "_err"))
    return {
        "name": str(item.lines[row]),
        "strong": row in item.doublet,
        "width": f"{width:.2f} ± {width_error:.2f} Å" if np.isfinite(width) else "",
        "velocity": _numbers(velocity, 2),
        "ratio": _numbers(np.where(good, 1.0 - item.residual[row], np.nan), 4),
        "error": _numbers(np.where(good, error, np.nan), 4),
        "fine": _numbers(fine, 1),
        "model": None if model is None else _numbers(model, 4),
    }


def _numbers(values: ArrayLike, digits: int) -> list[float | None]:
    return [value if value == value else None for value in np.round(np.asarray(values, dtype=float), digits).tolist()]
