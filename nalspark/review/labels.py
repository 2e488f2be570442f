"""Labels of several people: read, how far they agree with each other and with themselves, and what they say together.

A label is one look of a person at a system. Classes are words (absorbers) or whole numbers, which have an order (emission lines); what of
them says that a system is real is the programme's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nalspark.errors import CatalogError, NalsparkError, did_you_mean
from nalspark.metrics import bootstrap_errors, cohen_kappa, cohen_kappa_error, fleiss_kappa
from nalspark.progress import logger
from nalspark.review.journal import FOLDER
from nalspark.tables.given import read_table

COLUMNS = (
    "label_id", "programme", "system", "spectrum_id", "species", "z", "reviewer", "class", "reason", "note", "blind", "look", "time",
)  # fmt: skip
#: What ends a journal's name.
JOURNAL = ".jsonl"
#: Classes of the programmes whose classes are words, and which of them say that the system is real.
CLASSES = {"absorption": ("absorber", "not", "unsure")}
REAL = {"absorption": ("absorber",)}
Rule = Literal["majority", "unanimous", "median"]

_NEEDED = ("system", "reviewer", "class", "time")
#: What a table of labels may call the system.
_SYSTEM = ("system", "absorber_id", "detection_id")
_TEXTS = ("label_id", "reviewer", "class", "reason", "note")


# ---- reading


def read_labels(*paths: str | Path, programme: str | None = None) -> pd.DataFrame:
    """Read labels. Those that were undone are left out, and of several of one look at one system by one person the last counts.

    Parameters
    ----------
    *paths : path
        A result, its folder of labels, a journal (``.jsonl``), or a table (CSV, Parquet, FITS) with at least ``system`` (or
        ``absorber_id``, ``detection_id``), ``reviewer``, ``class`` and ``time`` (ISO 8601). Labels that are in several count once.
    programme : str, optional
        Only labels of it, and those that do not say theirs. These are otherwise of ``emission`` where classes are whole numbers, else of
        ``absorption``.

    Returns
    -------
    DataFrame, sorted by time
        ``label_id programme system spectrum_id species z reviewer class reason note blind look time``: ``class`` as text, ``time`` in UTC,
        None and NaN where nothing is known.

    Raises
    ------
    CatalogError
        Where there is nothing to read, a label lacks what it needs, a class is none of its programme, or there are labels of another.
        Lines of a journal that are not whole, as of a process that was killed, are skipped; the logger ``nalspark`` says so.
    """
    files = [file for path in paths for file in _files(Path(path))]
    journals = [file for file in files if file.suffix == JOURNAL]
    tables = [_checked(_journals(journals), " and ".join(map(str, paths)), programme)]
    tables += [_checked(_table(file), str(file), programme) for file in files if file.suffix != JOURNAL]
    looks = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    named = sorted(looks["programme"].unique())
    looks = looks[looks["programme"] == programme] if programme else looks
    if len(named) > 1 and not programme or named and looks.empty:
        raise CatalogError(f"Labels of one programme are asked for ({programme or 'any'}), and these are of {' and '.join(named)}.")
    looks = looks[(looks["label_id"] == "") | ~looks["label_id"].duplicated()]
    looks = _with_species(looks).sort_values(["time", "system", "reviewer"], kind="stable")
    return looks.drop_duplicates(["system", "species", "reviewer", "look"], keep="last").reset_index(drop=True)


def _with_species(labels: pd.DataFrame) -> pd.DataFrame:
    """Labels that do not say the species have that of the others of their system, where it has one."""
    known = labels.dropna(subset="species").drop_duplicates(["system", "species"])
    single = known[~known["system"].duplicated(keep=False)].set_index("system")["species"]
    species = labels["species"].where(labels["species"].notna(), labels["system"].map(single)).astype(object)
    return labels.assign(species=species.where(species.notna(), None))


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise CatalogError(f"There are no labels '{path}'; expected a result, a folder of journals, a journal or a table.")
    if not path.is_dir() or path.suffix == ".parquet":
        return [path]
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    found = sorted(folder.glob(f"*{JOURNAL}"))
    if not found:
        raise CatalogError(f"'{folder}' holds no label: no file in it ends with {JOURNAL}. `nalspark review` writes them.")
    return found


def _journals(files: Sequence[Path]) -> pd.DataFrame:
    """The lines of journals as a table, without those that were undone and the lines that undo."""
    lines = [line for file in files for line in _lines(file)]
    taken: set[str] = set()
    for line in reversed(lines):  # what was undone undoes nothing
        if line.get("undoes") and line.get("label_id") not in taken:
            taken.add(str(line["undoes"]))
    standing = pd.DataFrame([line for line in lines if not line.get("undoes") and line.get("label_id") not in taken])
    # Of one look what stands later in the journal counts, whatever the clocks of two machines said.
    look = [name for name in ("system", "species", "reviewer", "look") if name in standing]
    return standing.drop_duplicates(look, keep="last") if look else standing


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a journal; a line that is none is told."""
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise CatalogError(f"The labels '{file}' cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, 1):
        try:
            label = json.loads(line) if line.strip() else {}
        except ValueError:
            label = None
        if not isinstance(label, dict) or not all(isinstance(label.get(name, ""), str) for name in ("label_id", "undoes", "system")):
            logger.warning("line %d of '%s' is not a whole label, as if its writer was stopped, and is skipped", number, file)
        elif label:
            yield label


def _table(file: Path) -> pd.DataFrame:
    table = read_table(file, "table of labels", _NEEDED[1:], as_text=True)
    name = next((name for name in _SYSTEM if name in table), None)
    if name is None:
        raise CatalogError(f"The table of labels '{file}' has no column system; it has {', '.join(table.columns[:20])}.")
    return table.rename(columns={name: "system"})


def _checked(table: pd.DataFrame, where: str, programme: str | None) -> pd.DataFrame:
    """A table with all columns of labels and their types."""
    table = table.reindex(columns=list(COLUMNS))
    empty = table[list(_NEEDED)].isna().any(axis=1)
    if empty.any():
        raise CatalogError(f"{int(empty.sum())} label(s) of '{where}' lack one of {', '.join(_NEEDED)}.")
    times = pd.to_datetime(table["time"], errors="coerce", utc=True, format="ISO8601")
    if times.isna().any():
        raise CatalogError(f"{int(times.isna().sum())} label(s) of '{where}' have no time; expected ISO 8601, as 2020-03-01T12:00:00.")
    texts = {name: table[name].map(_text).astype(object) for name in _TEXTS}
    known = {name: table[name].astype(object).where(table[name].notna(), None) for name in ("spectrum_id", "species")}
    numbers = {"z": pd.to_numeric(table["z"], errors="coerce").astype(float), "time": times}
    looks = pd.to_numeric(table["look"], errors="coerce").fillna(1).astype(int)
    blind = table["blind"].map(lambda value: str(value).lower() in ("true", "1", "1.0")).astype(bool)
    table = table.assign(system=table["system"].astype(str), look=looks, blind=blind, **texts, **known, **numbers)
    usual = programme or ("absorption" if _values(sorted(set(table["class"]))) is None else "emission")
    table["programme"] = table["programme"].astype(object).where(table["programme"].notna(), usual)
    _check_classes(table, where)
    return table


def _text(value: Any) -> str:
    """A cell as text: nothing for null, and a whole number without the point that a column with gaps gives it."""
    return "" if value is None or value != value else re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip())


def _check_classes(table: pd.DataFrame, where: str) -> None:
    for programme, known in CLASSES.items():
        wrong = table[(table["programme"] == programme) & ~table["class"].isin(known)]
        if len(wrong):
            row = wrong.iloc[0]
            raise CatalogError(
                f"{len(wrong)} label(s) of '{where}' are of no known class, the first by {row['reviewer']} for {row['system']}: "
                f"'{row['class']}'. Classes are {', '.join(known)}.{did_you_mean(row['class'], known)}"
            )


# ---- agreement


def _values(classes: Sequence[str]) -> NDArray[np.float64] | None:
    """Classes as numbers; None where they are words."""
    try:
        return np.array([int(name) for name in classes], dtype=float)
    except ValueError:
        return None


def _classes(labels: pd.DataFrame) -> list[str]:
    """The classes that occur, numbers in their order."""
    found = sorted(set(labels["class"]))
    return found if _values(found) is None else sorted(found, key=int)


def votes(labels: pd.DataFrame) -> pd.DataFrame:
    """Give one label of each reviewer for each system: of the last look."""
    ordered = labels.sort_values(["look", "time"], kind="stable")
    return ordered.drop_duplicates(["system", "species", "reviewer"], keep="last").sort_index()


def _subject(labels: pd.DataFrame) -> pd.Series:
    """What tells systems apart: two ions may be found at one pixel, under one id."""
    return labels["system"].str.cat(labels["species"].fillna(""), sep="\t")


def _compared(a: pd.Series, b: pd.Series, classes: Sequence[str], real: Collection[str] | None) -> dict[str, float]:
    """Two columns of classes of the same systems: how many are the same, κ of the classes and of real or not, with errors."""
    place = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (a.map(place), b.map(place)), 1)
    values = _values(classes)
    row = {"n": len(a), "same": float(np.trace(counts) / max(len(a), 1))}
    row |= {"kappa_class": float(cohen_kappa(counts, values)), "kappa_class_err": cohen_kappa_error(counts, values)}
    if real is not None:
        two = np.eye(2, dtype=np.int64)[[int(name in real) for name in classes]]
        counts = two.T @ counts @ two
        row |= {"kappa_real": float(cohen_kappa(counts)), "kappa_real_err": cohen_kappa_error(counts)}
    return row


_COMPARED = ("n", "same", "kappa_class", "kappa_class_err", "kappa_real", "kappa_real_err")


def _columns(names: Sequence[str], real: Collection[str] | None) -> list[str]:
    return [*names, *(_COMPARED if real is not None else _COMPARED[:4])]


def agreement(labels: pd.DataFrame, real: Collection[str] | None = REAL["absorption"]) -> pd.DataFrame:
    """Compute Cohen's κ of every two reviewers over what both looked at, by their last looks.

    Parameters
    ----------
    labels : DataFrame of :func:`read_labels`
    real : collection of str, optional
        The classes that say that a system is real; without, only κ of the classes is given.

    Returns
    -------
    DataFrame
        ``reviewer_a reviewer_b n same``, the fraction of classes that are the same; ``kappa_class``, weighted by squared distance where
        classes are numbers, and ``kappa_real``, of real or not, with errors ``…_err``; NaN where both always say the same one thing.
    """
    single = votes(labels)
    wide = single.assign(subject=_subject(single)).pivot(index="subject", columns="reviewer", values="class")
    rows = []
    for a, b in combinations(wide.columns, 2):
        both = wide[[a, b]].dropna()
        if len(both):
            rows.append({"reviewer_a": a, "reviewer_b": b, **_compared(both[a], both[b], _classes(labels), real)})
    return pd.DataFrame(rows, columns=_columns(("reviewer_a", "reviewer_b"), real))


def consistency(labels: pd.DataFrame, real: Collection[str] | None = REAL["absorption"]) -> pd.DataFrame:
    """Compare each reviewer's second look with the first: as :func:`agreement`, one row per reviewer who looked twice."""
    rows = []
    for reviewer, own in labels.assign(subject=_subject(labels))[labels["look"].isin((1, 2))].groupby("reviewer"):
        both = own.pivot(index="subject", columns="look", values="class").reindex(columns=[1, 2]).dropna()
        if len(both):
            rows.append({"reviewer": reviewer, **_compared(both[1], both[2], _classes(labels), real)})
    return pd.DataFrame(rows, columns=_columns(("reviewer",), real))


def overall(labels: pd.DataFrame, real: Collection[str] | None = REAL["absorption"]) -> dict[str, float]:
    """Compute Fleiss' κ of all reviewers over the systems that two or more looked at; classes count without their order.

    Returns
    -------
    dict
        ``n`` systems; ``kappa_class``, ``kappa_class_err`` and, where `real` is given, ``kappa_real``, ``kappa_real_err``: errors are the
        scatter over systems drawn with replacement.
    """
    table = _counted(labels)
    table = table[table.sum(axis=1) > 1]
    several = {"kappa_class": table.to_numpy()}
    if real is not None:
        says = table.columns.isin(list(real))
        several["kappa_real"] = np.stack([table.loc[:, says].sum(axis=1), table.loc[:, ~says].sum(axis=1)], axis=1)
    result: dict[str, float] = {"n": len(table)}
    for name, given in several.items():
        result[name] = fleiss_kappa(given)
        errors = bootstrap_errors(lambda drawn: {"kappa": fleiss_kappa(drawn)}, given)
        result[f"{name}_err"] = errors.get("kappa", float("nan"))
    return result


def _counted(labels: pd.DataFrame) -> pd.DataFrame:
    """Votes: a row per system, a column per class."""
    single = votes(labels)
    return pd.crosstab(_subject(single), single["class"]).reindex(columns=_classes(labels), fill_value=0)


def reviewers(labels: pd.DataFrame) -> pd.DataFrame:
    """Count what each person did.

    Returns
    -------
    DataFrame, one row per reviewer
        ``reviewer labels systems again blind``: second and later looks, and those that did not show the score; then a column per class;
        ``first`` and ``last``, the days.
    """
    groups = labels.assign(subject=_subject(labels)).groupby("reviewer")
    table = groups.agg(labels=("subject", "size"), systems=("subject", "nunique"), again=("look", lambda looks: int((looks > 1).sum())))
    table["blind"] = groups["blind"].sum()
    classes = pd.crosstab(labels["reviewer"], labels["class"]).reindex(columns=_classes(labels))
    days = {"first": groups["time"].min().dt.strftime("%Y-%m-%d"), "last": groups["time"].max().dt.strftime("%Y-%m-%d")}
    return table.join(classes).assign(**days).reset_index()


# ---- consensus


def _majority(values: pd.Series) -> Any:
    most = values.mode()
    return most[0] if len(most) == 1 else None


_RULES = {
    "majority": _majority,
    "unanimous": lambda values: values.iloc[0] if values.nunique() == 1 else None,
    "median": lambda values: str(int(np.floor(values.astype(int).median()))),
}


def consensus(labels: pd.DataFrame, rule: Rule = "majority", real: Collection[str] | None = REAL["absorption"]) -> pd.DataFrame:
    """Decide what the reviewers say together, disagreements first. Each has one vote for a system, that of the last look.

    Parameters
    ----------
    labels : DataFrame of :func:`read_labels`
    rule : str
        ``majority``, no class where two are equally frequent; ``unanimous``, no class where two differ; ``median`` of classes that are
        numbers, rounded down.
    real : collection of str, optional
        The classes that say that a system is real.

    Returns
    -------
    DataFrame
        ``system spectrum_id species z n``; ``lowest``, ``highest`` where classes are numbers; ``real``, how many say it is; ``votes`` in
        words; ``class``, None for none. First what people disagree on as to real or not, the most even first; then by the distance of the
        extremes, or how many classes were given.

    Raises
    ------
    NalsparkError
        Where there is no such rule, or the classes have no median.
    """
    classes = _classes(labels)
    values = _values(classes)
    if rule not in get_args(Rule):
        raise NalsparkError(f"There is no rule '{rule}' of consensus; there are {', '.join(_RULES)}.{did_you_mean(rule, _RULES)}")
    if rule == "median" and values is None:
        raise NalsparkError(f"Classes that are words ({', '.join(classes)}) have no median: take majority or unanimous.")
    single, counts = votes(labels), _counted(labels)
    groups = single.groupby(_subject(single))
    table = groups[["system", "spectrum_id", "species", "z"]].first().assign(n=groups.size())
    given = counts.to_numpy() > 0
    distance = given.sum(axis=1).astype(float)
    if values is not None and len(table):
        low, high = (given * 1).argmax(axis=1), given.shape[1] - 1 - given[:, ::-1].argmax(axis=1)
        table["lowest"], table["highest"], distance = values[low].astype(int), values[high].astype(int), values[high] - values[low]
    uneven = np.ones(len(table))
    if real is not None:
        table["real"] = counts.loc[:, counts.columns.isin(list(real))].sum(axis=1)
        uneven = ((2 * table["real"] - table["n"]).abs() / table["n"]).to_numpy()
    table["votes"] = [", ".join(f"{name} {row[name]}" for name in classes if row[name]) for row in counts.to_dict("records")]
    said = groups["class"].agg(_RULES[rule]).astype(object)
    table["class"] = said.where(said.notna(), None)
    return table.iloc[np.lexsort((table["system"], -distance, uneven))].reset_index(drop=True)
