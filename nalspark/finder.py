"""`nalspark.find`: the absorption chain for spectra that somebody has in memory, without Spark, files or a survey.

The module is not called `find`: importing it would replace the function `nalspark.find`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.absorption.chain import Scorer, Searchable, detect, input_shapes, instrument_kms, prepare, propose, scorer
from nalspark.absorption.images import ImageGeometry
from nalspark.absorption.measure import AbsorberFlag, velocity_error
from nalspark.absorption.normalize import Normalized
from nalspark.errors import SettingsError
from nalspark.learning.models import Detector, read_model
from nalspark.settings import Settings, load
from nalspark.spectra.grid import LATTICE, ZHAO_GRID
from nalspark.surveys.arrays import GivenSpectra, given_spectra
from nalspark.tables.data_model import bit_words
from nalspark.tables.schemas import ACCEPTED, absorbers_table, measured_table
from nalspark.tables.table import Column, Table

if TYPE_CHECKING:
    from astropy.table import QTable
    from matplotlib.figure import Figure

_Columns = dict[str, NDArray[Any]]
#: Spectra that go through the chain together.
_BATCH = 256
#: The network that was last put to work in this process, by digest and batch size.
_AT_WORK: dict[tuple[str, int], Detector] = {}

_SPECTRUM = Column("spectrum", "long", "Row of the input, counted from 0", ucd="meta.record")
_PATH = Table(
    "path",
    "One row per searched redshift interval.",
    (
        _SPECTRUM,
        Column("z_start", "double", "Lower end of the interval", ucd="src.redshift;stat.min"),
        Column("z_stop", "double", "Upper end of the interval", ucd="src.redshift;stat.max"),
    ),
)


def find(
    wave: Any,
    flux: Any = None,
    ivar: Any = None,
    z: ArrayLike | None = None,
    *,
    z_err: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    score: bool = True,
) -> Found:
    """Find narrow absorption lines in one quasar spectrum, or in n.

    Parameters
    ----------
    wave : array_like, shape (p,) or (n, p), Å
        Vacuum wavelengths, observed, ascending. n spectra may share them. On the lattice of SDSS (log10 λ a multiple of 1e-4) pixels stay
        as they are; others are rebinned to it. In place of the arrays: one spectrum, or a sequence of spectra, of
        :func:`nalspark.read_spectrum`, or an object with ``spectral_axis``, ``flux`` and ``uncertainty``, such as those of specutils.
    flux : array_like, shape (p,) or (n, p), any unit
    ivar : array_like, the same shape, inverse variance in the inverse square of that unit
        A pixel is not used where it is 0, negative or not finite, or where the flux is not finite.
    z : float, or array_like, shape (n,)
        Redshift of each quasar. A spectrum that knows its own needs none. Those of :func:`nalspark.read_spectra` are not all that the file
        has: look redshifts up by ``native["targetid"]``.
    z_err : float, or array_like, shape (n,), optional
        Standard error of `z`, for that of the velocities. A spectrum that knows its own redshift knows the error of it, if there is one.
    mask : array_like, the shape of `flux`, optional
        A pixel is not used where it is not 0 (or is True).
    settings : Settings, or mapping of dotted keys, optional
        As of ``nalspark find --set``: ``{"species": "MgII", "search.min_significance": 6}``.
    score : bool
        Whether the network decides. Without it there is no score (NaN), and all candidates are taken: many more, most of them noise.

    Returns
    -------
    Found
        The rows that ``nalspark find`` would publish, with units; the searched redshifts; why a spectrum was not searched.

    Raises
    ------
    SettingsError
        Where shapes, wavelengths or units cannot be right, a redshift is missing, or a setting is unknown. A bad spectrum raises nothing:
        see :attr:`nalspark.finder.Found.reason`.
    ModelError
        Where the model is not one for these settings.

    Examples
    --------
    >>> import numpy as np, nalspark
    >>> wave = 10 ** np.arange(3.58, 3.96, 1e-4)
    >>> flux = 1 - 0.8 * np.exp(-0.5 * ((wave / 2796.35 - 2.2) / 5e-4) ** 2) - 0.7 * np.exp(-0.5 * ((wave / 2803.53 - 2.2) / 5e-4) ** 2)
    >>> found = nalspark.find(wave, flux, np.full(len(wave), 900.0), z=1.6, score=False)
    >>> found.absorbers["z_abs"].round(3).tolist()
    [1.2]
    """
    chosen = settings if isinstance(settings, Settings) else load(None, (), **dict(settings or {}))
    if len(chosen.species) > 1:
        raise SettingsError(
            f"nalspark.find searches for one species at a time, and {', '.join(chosen.species)} are asked for: call it for each."
        )
    given = given_spectra(wave, flux, ivar, z, mask, z_err=z_err)
    network = _network(chosen) if score else None
    batches = [_search(given, rows, network, chosen) for rows in _rows(len(given))]
    return Found(given, chosen, *(_joined(part) for part in zip(*batches, strict=True)))


@dataclass(frozen=True, repr=False)
class Found:
    """What :func:`find` found. Its length is the number of spectra.

    Attributes
    ----------
    settings : Settings
    searched : dict of ndarray, shape (n,)
        ``reason`` and ``detail``: a word and a sentence why a spectrum was not searched, None where it was; ``snr``, the median
        signal-to-noise ratio per pixel in the search window; ``z_start``, ``z_stop``: arrays of the ends of the searched intervals.
    measured : dict of ndarray, shape (k,)
        All that was measured: see :func:`nalspark.absorption.chain.measure`; ``z_qso_err`` and ``velocity_err_kms``.
    """

    _given: GivenSpectra
    settings: Settings
    searched: _Columns
    measured: _Columns

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        searched = sum(reason is None for reason in self.reason)
        return f"<Found {len(self.absorbers)} {self.settings.line_species.name} absorbers in {searched} of {len(self)} spectra>"

    @cached_property
    def absorbers(self) -> QTable:
        """One row per absorber, in order of spectrum and redshift; the column ``spectrum`` is the row of the input."""
        return self.candidates[self.candidates["accepted"]][self._table.names[:-1]]

    @cached_property
    def candidates(self) -> QTable:
        """One row per candidate that was measured; ``accepted`` says whether it is an absorber."""
        from nalspark.tables.quantities import to_qtable

        order = np.lexsort((self.measured["z_abs"], self.measured["row"]))
        columns = {name: values[order] for name, values in self.measured.items()}
        return to_qtable({**columns, "spectrum": columns["row"]}, self._table)

    @cached_property
    def path(self) -> QTable:
        """One row per searched redshift interval: ``spectrum``, ``z_start``, ``z_stop``."""
        from nalspark.tables.quantities import to_qtable

        start, stop = self.searched["z_start"], self.searched["z_stop"]
        row = np.repeat(np.arange(len(self)), [len(ends) for ends in start])
        return to_qtable({"spectrum": row, "z_start": np.concatenate([*start, ()]), "z_stop": np.concatenate([*stop, ()])}, _PATH)

    @property
    def reason(self) -> NDArray[np.object_]:
        """Why each spectrum was not searched, a word as in the table of rejections; None where it was. Shape (n,)."""
        return self.searched["reason"]

    @property
    def detail(self) -> NDArray[np.object_]:
        """The same in a sentence, shape (n,)."""
        return self.searched["detail"]

    @property
    def _table(self) -> Table:
        """The measured table without what names a spectrum."""
        species = self.settings.line_species
        columns = (column for column in absorbers_table(species).columns if column.name in self.measured)
        return Table("absorbers", measured_table(species).description, (_SPECTRUM, *columns, ACCEPTED))

    def plot(self, spectrum: int = 0) -> Figure:
        """Draw a spectrum with its continuum, the searched wavelengths and its absorbers.

        Parameters
        ----------
        spectrum : int
            Row of the input.

        Returns
        -------
        matplotlib Figure

        Raises
        ------
        SettingsError
            Where there is no such spectrum.
        """
        from nalspark.plots.figures import sightline_figure

        if not -len(self) <= spectrum < len(self):
            raise SettingsError(f"There is no spectrum {spectrum}: {len(self)} were given, counted from 0.")
        row = spectrum % len(self)
        whole, *items = _drawn(self, row)
        z = f"z = {self._given.z[row]:.4f}"
        title = f"spectrum {row}     {z}" + (f"     not searched: {self.reason[row]}" if self.reason[row] else "")
        return sightline_figure(whole, items, title)


def _rows(n: int) -> Iterator[range]:
    """The numbers of n spectra in batches: one, empty, where there are none."""
    for start in range(0, max(n, 1), _BATCH):
        yield range(start, min(start + _BATCH, n))


def _joined(parts: Sequence[_Columns]) -> _Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _search(given: GivenSpectra, rows: range, network: Scorer | None, settings: Settings) -> tuple[_Columns, _Columns]:
    """One batch through the chain: what was searched, and what was measured, with the rows of the whole input."""
    ready, z = _prepared(given, rows, settings)
    measured = detect(Searchable.of(ready, z), network, settings).measured
    measured["row"] = measured["row"] + rows.start
    measured["z_qso_err"] = given.z_err[measured["row"]]
    measured["velocity_err_kms"] = velocity_error(*(measured[name] for name in ("z_abs", "z_abs_err", "z_qso", "z_qso_err")))
    searched = {"reason": ready.reason, "detail": ready.detail, "snr": ready.snr}
    return searched | {"z_start": _cells(ready.z_start), "z_stop": _cells(ready.z_stop)}, measured


def _cells(arrays: Sequence[NDArray[np.float64]]) -> NDArray[np.object_]:
    """Arrays of any lengths as cells of one."""
    cells = np.empty(len(arrays), dtype=object)
    for row, array in enumerate(arrays):
        cells[row] = array
    return cells


def _prepared(given: GivenSpectra, rows: range, settings: Settings) -> tuple[Normalized, NDArray[np.float64]]:
    """Some of the spectra made ready, and their redshifts, 0 in place of one that no quasar has: such a spectrum is not searched."""
    known, limits = given.z[rows.start : rows.stop], settings.crossmatch
    possible = (known >= limits.z_min) & (known <= limits.z_max)
    z = np.where(possible, known, 0.0)
    ready = prepare(given.on_grid(rows, LATTICE), z, settings)
    for row in np.flatnonzero(~possible):
        ready.reason[row] = "bad_redshift"
        ready.detail[row] = f"The redshift is {known[row]:g}; expected {limits.z_min:g} to {limits.z_max:g}."
    for number, reason in enumerate(ready.reason):
        if reason is not None:
            ready.z_start[number] = ready.z_stop[number] = np.empty(0)
    return ready, z


def _network(settings: Settings) -> Scorer:
    """The network of the settings, put to work once in a process.

    Raises
    ------
    ModelError
        Where it was made for something else.
    """
    packed = read_model(settings.infer.model, settings.line_species.name)
    packed.check(ZHAO_GRID.fingerprint, settings.line_species.name, input_shapes(settings.line_species, LATTICE))
    key = packed.digest, settings.infer.batch_size
    if key not in _AT_WORK:
        _AT_WORK.clear()
        _AT_WORK[key] = packed.load(settings.infer.batch_size)
    return scorer(_AT_WORK[key].predict, packed.card.inputs, settings)


def _drawn(found: Found, row: int) -> list[Any]:
    """A spectrum, and its absorbers, as the figure takes them."""
    from nalspark.plots.figures import GalleryItem

    settings, species = found.settings, found.settings.line_species
    ready, z = _prepared(found._given, range(row, row + 1), settings)
    geometry, spectra, continuum = ImageGeometry.of(species, LATTICE.step), ready.spectra, ready.continuum[0]
    if ready.reason[0] is not None:  # then what is normalised may be ones
        spectra, continuum = found._given.on_grid(range(row, row + 1), LATTICE), np.full(LATTICE.n_pixels, np.nan)
    error = np.where(spectra.good[0], 1.0 / np.sqrt(np.where(spectra.good[0], spectra.ivar[0], 1.0)), np.nan)
    rest, lines = species.primary.wavelength, len(species.transitions)
    common: dict[str, Any] = {
        "wavelength": LATTICE.wavelength, "flux": spectra.flux[0], "continuum": continuum, "error": error,
        "fractions": geometry.fractions[:lines], "lines": [str(line) for line in species.transitions],
        "rest": [line.wavelength for line in species.transitions], "doublet": (geometry.primary, geometry.secondary),
        "searched": [(rest * (1.0 + a), rest * (1.0 + b)) for a, b in zip(ready.z_start[0], ready.z_stop[0], strict=True)],
    }  # fmt: skip
    nothing = np.zeros((lines, geometry.shape[1]))
    items = [GalleryItem(absorber={}, residual=nothing, inverse_error=nothing, pixel=0, **common)]
    candidates = propose(Searchable.of(ready, z), settings)
    image_of = dict(zip(candidates.pixel.tolist(), range(len(candidates)), strict=True))
    measured = found.measured
    mine = np.flatnonzero((measured["row"] == row) & measured["accepted"])
    for k in mine[np.argsort(measured["z_abs"][mine])]:
        absorber = {name: values[k] for name, values in measured.items()} | {"spectrum_id": f"absorber {len(items)}"}
        at = image_of[int(absorber["pixel"])]
        images: dict[str, Any] = {name: getattr(candidates, f"image_{name}")[at, :lines] for name in ("residual", "inverse_error")}
        seen: dict[str, Any] = {"instrument_sigma_kms": float(instrument_kms(candidates.instrument_pixels[at], settings))}
        remarks = bit_words(int(absorber["flags"]), AbsorberFlag)
        items.append(GalleryItem(absorber=absorber, **images, **seen, pixel=int(absorber["pixel"]), remarks=remarks, **common))
    return items
