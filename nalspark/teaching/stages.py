"""Real examples as a Spark stage: what is known of spectra, joined to candidates or whole spectra, as rows to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nalspark.absorption.stages import whole_spectra
from nalspark.absorption.windows import zhao_window
from nalspark.mocks.examples import draws
from nalspark.settings import Settings
from nalspark.spectra.grid import ZHAO_GRID
from nalspark.tables.arrow import Columns, map_arrays
from nalspark.tables.schemas import CANDIDATES, SEARCHED, TRAINING, TRAINING_SPECTRA
from nalspark.tables.table import Column, Table
from nalspark.teaching.labels import Known, Reach, label_candidate, label_spectrum, splits

_SPECTRUM = (CANDIDATES.select("spectrum_id")[0], *TRAINING.select("quasar_id"))
#: What is known of a spectrum: arrays are one value per listed system, or per place at which people looked.
KNOWN = Table(
    "known",
    "One row per spectrum of which a catalogue or a person says anything.",
    (
        *_SPECTRUM,
        Column("known_z", "list<double>", "Redshifts of the listed systems"),
        Column("known_ew", "list<double>", "Their rest equivalent widths", "Angstrom"),
        Column("known_strong", "list<bool>", "Whether each is strong"),
        Column("known_in", "list<string>", "The catalogue of each"),
        Column("covered", "list<string>", "Catalogues that cover the spectrum"),
        Column("people_z", "list<double>", "Where people looked"),
        Column("people_label", "list<double>", "What they say"),
        Column("people_reason", "list<string>", "What they take it for"),
    ),
)
_PEOPLE = T.StructType([T.StructField(name, T.StringType() if name in ("spectrum_id", "reason") else T.DoubleType())
                        for name in ("spectrum_id", "z", "label", "reason")])  # fmt: skip
#: The columns of a spectrum's label, before its pixels are joined.
_LABELLED = Table("labelled", "Labelled spectra.", tuple(column for column in TRAINING_SPECTRA.columns if column.name != "flux"))


@dataclass(frozen=True)
class Rules:
    """How labels follow from what is known: the catalogues' reaches by name, and the run's settings."""

    reaches: Mapping[str, Reach]
    settings: Settings


def known_of_spectra(targets: DataFrame, matches: DataFrame, objects: DataFrame, people: pd.DataFrame) -> DataFrame:
    """Gather what catalogues and people say of each spectrum.

    Parameters
    ----------
    targets : DataFrame of TARGETS, usable rows
    matches : DataFrame of MATCHES
    objects : DataFrame
        ``spectrum_id``, ``object_id``: epochs of one quasar share the latter. A spectrum that it lacks is a quasar of its own.
    people : DataFrame of pandas
        Of :func:`nalspark.teaching.labels.verdicts`.

    Returns
    -------
    DataFrame of KNOWN
        Of spectra of which anything is known.
    """
    names = {"known_z": "z_abs", "known_ew": "ew_primary", "known_strong": "strong", "known_in": "catalogue"}
    zipped = F.explode(F.arrays_zip("z_abs", "ew_primary", "strong")).alias("system")
    systems = matches.where("kind = 'absorbers'").select("spectrum_id", "catalogue", zipped).select("spectrum_id", "catalogue", "system.*")
    one = F.struct("z_abs", "ew_primary", "strong", "catalogue")
    listed = systems.groupBy("spectrum_id").agg(F.sort_array(F.collect_list(one)).alias("s"))
    looked = matches.sparkSession.createDataFrame([tuple(row) for row in people.itertuples(index=False)], _PEOPLE)
    looked = looked.groupBy("spectrum_id").agg(F.sort_array(F.collect_list(F.struct("z", "label", "reason"))).alias("p"))
    own = objects.select("spectrum_id", "object_id")
    rows = targets.select("spectrum_id", "covered").join(listed, "spectrum_id", "left").join(looked, "spectrum_id", "left")
    rows = rows.where((F.size("covered") > 0) | F.col("p").isNotNull()).join(own, "spectrum_id", "left")
    values = {"quasar_id": F.coalesce("object_id", "spectrum_id")}
    values |= {name: F.coalesce(F.col(f"s.{field}"), F.array()) for name, field in names.items()}
    values |= {f"people_{field}": F.coalesce(F.col(f"p.{field}"), F.array()) for field in ("z", "label", "reason")}
    return rows.withColumns(values).select(*[F.col(column.name).cast(column.spark_type).alias(column.name) for column in KNOWN.columns])


def _known(columns: Columns, row: int) -> Known:
    z, ew, people_z, people_label = (
        np.asarray(columns[name][row], dtype=float) for name in ("known_z", "known_ew", "people_z", "people_label")
    )
    strong, catalogue = np.asarray(columns["known_strong"][row], dtype=bool), np.asarray(columns["known_in"][row], dtype=object)
    return Known(float(columns["z_qso"][row]), z, ew, strong, catalogue, list(columns["covered"][row]), people_z, people_label)


def _splits(columns: Columns, settings: Settings) -> np.ndarray:
    """The split of each row's quasar; a batch has several rows of one."""
    quasars, number = np.unique(np.asarray(columns["quasar_id"], dtype=str), return_inverse=True)
    return splits(list(quasars), settings.labels)[number]


def _examples(columns: Columns, names: np.ndarray, split: np.ndarray, about: Columns) -> Columns:
    """The rows that have a label, with what every example has."""
    part = np.array([f"{one}-00000" for one in split], dtype=object)
    rows = {"example_id": names, "quasar_id": columns["quasar_id"], "part": part, "split": split, **about}
    keep = np.isfinite(about["label"])
    rows = {name: values[keep] for name, values in rows.items()}
    return {**rows, "label": rows["label"].astype(np.float32), "draw": draws(list(rows["example_id"]))}


def candidate_columns(columns: Columns, rules: Rules) -> Columns:
    """Label rows of CANDIDATES joined with KNOWN; rows of TRAINING, without those that nobody knows."""
    settings, n = rules.settings, len(columns["candidate_id"])
    split, label, z_abs, ew = _splits(columns, settings), *np.full((3, n), np.nan)
    kind = np.full(n, "", dtype=object)
    for row in np.flatnonzero(split != "").tolist():
        known = _known(columns, row)
        said = label_candidate(float(columns["z_search"][row]), known, rules.reaches, settings.labels.agree)
        label[row] = said.label
        if said.system >= 0:
            z_abs[row], ew[row] = known.z[said.system], known.ew[said.system]
        if said.look >= 0:
            kind[row] = columns["people_reason"][row][said.look] or ""
    about = {"label": label, "z_abs": z_abs, "ew_primary": ew, "kind": kind}
    about |= {name: columns[name] for name in ("z_qso", "snr", "significance", "image_residual", "image_inverse_error")}
    return _examples(columns, columns["candidate_id"], split, about)


def label_candidates(candidates: DataFrame, searched: DataFrame, known: DataFrame, rules: Rules) -> DataFrame:
    """Give the candidates that catalogues and people label, as examples.

    Parameters
    ----------
    candidates : DataFrame of CANDIDATES
    searched : DataFrame of SEARCHED, usable rows
    known : DataFrame of KNOWN
    rules : Rules

    Returns
    -------
    DataFrame of TRAINING
    """
    wanted = ("candidate_id", "spectrum_id", "z_qso", "z_search", "significance", "image_residual", "image_inverse_error")
    frame = candidates.select(*wanted).join(known, "spectrum_id").join(searched.select("spectrum_id", "snr"), "spectrum_id")
    return map_arrays(frame, partial(candidate_columns, rules=rules), CANDIDATES, TRAINING)


def _seen_path(columns: Columns, row: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The searched intervals of redshift, cut to what a whole-spectrum network sees."""
    window = zhao_window(ZHAO_GRID, settings.line_species, np.array([columns["z_qso"][row]], dtype=float), settings.preprocess)[0]
    if not window.any():
        return np.zeros(0), np.zeros(0)
    z = ZHAO_GRID.wavelength[np.flatnonzero(window)[[0, -1]]] / settings.line_species.primary.wavelength - 1.0
    start, stop = (np.asarray(columns[name][row], dtype=float) for name in ("z_start", "z_stop"))
    start, stop = np.maximum(start, z[0]), np.minimum(stop, z[1])
    return start[start <= stop], stop[start <= stop]


def spectrum_columns(columns: Columns, rules: Rules) -> Columns:
    """Label rows of SEARCHED joined with KNOWN; rows of TRAINING_SPECTRA without their pixels, and without those that nobody knows."""
    settings, n = rules.settings, len(columns["spectrum_id"])
    split, label, z_abs, ew = _splits(columns, settings), *np.full((3, n), np.nan)
    for row in np.flatnonzero(split != "").tolist():
        known, path = _known(columns, row), _seen_path(columns, row, settings)
        label[row] = label_spectrum(known, path, rules.reaches, settings.labels.agree, settings.crossmatch.weak)
        if label[row] == 1.0:
            strongest = int(np.argmax(np.where(known.strong, np.nan_to_num(known.ew), -1.0)))
            z_abs[row], ew[row] = known.z[strongest], known.ew[strongest]
    about = {"label": label, "z_abs": z_abs, "ew_primary": ew, "kind": np.full(n, "", dtype=object)}
    return _examples(columns, columns["spectrum_id"], split, about | {name: columns[name] for name in ("z_qso", "snr")})


def label_spectra(spectra: DataFrame, targets: DataFrame, searched: DataFrame, known: DataFrame, rules: Rules) -> DataFrame:
    """Give the spectra that catalogues label, as a whole-spectrum network sees them.

    Parameters
    ----------
    spectra : DataFrame of SPECTRA
    targets : DataFrame of TARGETS, usable rows
    searched, known, rules
        As of :func:`label_candidates`.

    Returns
    -------
    DataFrame of TRAINING_SPECTRA
    """
    frame = searched.select("spectrum_id", "z_qso", "snr", "z_start", "z_stop").join(known, "spectrum_id")
    labelled = map_arrays(frame, partial(spectrum_columns, rules=rules), SEARCHED, _LABELLED)
    own = targets.join(labelled.select(F.col("example_id").alias("spectrum_id")), "spectrum_id", "left_semi")
    pixels = whole_spectra(spectra, own, rules.settings).withColumnRenamed("spectrum_id", "example_id")
    return pixels.join(labelled, "example_id").select(*TRAINING_SPECTRA.names)
