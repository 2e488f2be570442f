"""An evaluation as text, pictures and page: numbers in, nothing computed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nalspark import metrics
from nalspark.absorption.measure import STRONG_EW, STRONG_SIGNIFICANCE
from nalspark.absorption.systems import MATCH_PIXELS, MATCH_PIXELS_PER_ANGSTROM
from nalspark.errors import NalsparkError
from nalspark.judging.evaluate import Evaluation, bin_name
from nalspark.lines import LineSpecies
from nalspark.plots import evaluation as plots
from nalspark.plots.evaluation import Sheet
from nalspark.plots.pages import render
from nalspark.tables.atomic import replacing, write_file

_RATES = {
    "accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "auc": "AUC of the score",
    "balanced_accuracy": "balanced accuracy (the paper's AUC)",
}  # fmt: skip
#: Zhao et al. (2019), Table 2: real and artificial test spectra.
_PUBLISHED = {
    "accuracy": (0.8971, 0.8649), "precision": (0.8977, 0.8165), "recall": (0.8524, 0.8710), "f1": (0.8729, 0.8428),
    "balanced_accuracy": (0.8907, 0.8658),
}  # fmt: skip


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write ``evaluation.json``, ``evaluation.html`` and its pictures into a folder; what an earlier evaluation left is replaced.

    Raises
    ------
    NalsparkError
        Where the folder cannot be written.
    """
    pictures = evaluation_figures(evaluation)
    captions = {name: caption for name, (_, caption) in pictures.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, (figure, _) in pictures.items():
            with replacing(out / name) as new:
                figure.savefig(new, format="png", dpi=150)
        write_file(out / "evaluation.json", json.dumps(_plain(evaluation.numbers), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        page = render("evaluation.html", title=evaluation.heading, sheets=sheets(evaluation), pictures=captions)
        write_file(out / "evaluation.html", page)
    except OSError as error:
        raise NalsparkError(f"The evaluation cannot be written to '{out}': {error.strerror}. Give another folder with --out.") from None


def _plain(value: Any) -> Any:
    """JSON's types only; what is not finite is null."""
    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluation_text(evaluation: Evaluation) -> str:
    """Write an evaluation for a terminal."""
    return "\n\n".join([evaluation.heading, *(plots.as_text(sheet) for sheet in sheets(evaluation))])


# ---- pictures


def evaluation_figures(evaluation: Evaluation) -> dict[str, tuple[Figure, str]]:
    """Draw an evaluation: file name → figure and caption; none without a truth or labels."""
    numbers, line = evaluation.numbers, evaluation.species.primary.label
    pictures = _label_figures(numbers)
    if "per_spectrum" not in numbers:
        return pictures
    labels = {"ew": f"W({line}) (Å)", "z_abs": "absorption redshift", "snr": "S/N per pixel", "score": "score"}
    values = numbers["per_spectrum"]["metrics"]
    curve = _curve(numbers["reliability"])
    figure = plots.scores_figure(evaluation.roc, (1.0 - values["specificity"], values["recall"]), values["auc"], curve)
    caption = "Left: ROC curve of the spectra, scored by their best absorber, 0 without any. Right: the score, and what is true."
    pictures["scores.png"] = figure, caption
    for name in ("completeness", "purity"):
        figure = plots.fractions_figure({labels[key]: table for key, table in numbers[name].items()}, name)
        pictures[f"{name}.png"] = figure, f"{name.capitalize()} with 68 % intervals; above, the systems in each bin."
    figure = plots.curves_figure(numbers["completeness_ew_by_snr"], f"true rest equivalent width W({line}) (Å)", "completeness")
    pictures["completeness_ew.png"] = figure, "Completeness by equivalent width, for ranges of the S/N per pixel."
    figure = plots.distributions_figure(evaluation.groups, _distribution_panels(evaluation.groups, evaluation.species))
    caption = "Found and missed systems in the searched path by their true values; spurious ones by the catalogue's."
    return {**pictures, "distributions.png": (figure, caption)}


def _curve(reliability: Mapping[str, Any]) -> metrics.Reliability:
    return metrics.Reliability(**{name: array for name, array in reliability.items() if name != "expected_calibration_error"})


def _label_figures(numbers: Mapping[str, Any]) -> dict[str, tuple[Figure, str]]:
    if "labels" not in numbers:
        return {}
    labels = numbers["labels"]
    caption = (
        "Left: the score as a probability, and how many people judge real, of those that they are sure of. Right: purity by score, with "
        "68 % intervals; shaded: between the unsure ones as not, and as absorbers."
    )
    return {"labels.png": (plots.labels_figure(_curve(labels["reliability"]), labels["by_score"]), caption)}


def _distribution_panels(groups: Mapping[str, pd.DataFrame], species: LineSpecies) -> dict[str, tuple[str, np.ndarray]]:
    z = pd.concat([frame["z_abs"] for frame in groups.values()])
    return {
        "z_abs": ("absorption redshift", np.histogram_bin_edges(z, 12)),
        "ew": (f"rest equivalent width W({species.primary.label}) (Å)", np.arange(0.0, 4.01, 0.25)),
        "fwhm_kms": ("FWHM, instrument removed (km/s)", np.arange(0.0, 401.0, 25.0)),
        "doublet_ratio": ("doublet ratio", np.arange(0.6, 2.61, 0.1)),
    }


# ---- tables


def sheets(evaluation: Evaluation) -> list[Sheet]:
    """Write the tables of an evaluation."""
    numbers, written = evaluation.numbers, []
    if "per_spectrum" in numbers:
        written += [_per_spectrum(numbers["per_spectrum"]), *_per_absorber(numbers)]
    if "labels" in numbers:
        written += _people_say(numbers["labels"])
    if "worth" in numbers:
        written.append(_foretold(numbers))
    if "species_outcomes" in numbers:
        written.append(_other_species(numbers["species_outcomes"], evaluation.species))
    return written + [_against_catalogue(name, counts) for name, counts in numbers.get("catalogues", {}).items()]


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _per_spectrum(counts: Mapping[str, Any]) -> Sheet:
    values, errors = counts["metrics"], counts["errors"]
    rows = []
    for name, text in _RATES.items():
        paper = [f"{number:.3f}" for number in _PUBLISHED.get(name, ())] or ["", ""]
        rows.append([text, _number(values[name]), _number(errors.get(name, math.nan)), *paper])
    sources = "; ".join(f"{count} {how}" for how, count in counts["sigma"].items() if count)
    note = (
        f"TP {values['tp']}, TN {values['tn']}, FP {values['fp']}, FN {values['fn']}. A spectrum is positive if a true system in the "
        f"searched path has W >= {STRONG_EW} Å and both lines at {STRONG_SIGNIFICANCE:.0f} sigma ({counts['strong_in_path']} of "
        f"{counts['systems_in_path']} systems). It is called positive if the catalogue has an absorber there. What the truth does not list "
        f"is not there. Sigma: {sources}. In {counts['tp_with_a_strong_system_found']} of the TP the strong system itself was found; "
        f"{counts['fp_with_a_weak_system']} of the FP hold a true system that is not strong."
    )
    heads = ["", "#this", "#+-", "#Zhao+19 real", "#artificial"]
    return Sheet("Per spectrum: has it a strong absorber? (Zhao et al. 2019, Table 2; their spectra are others)", heads, rows, note)


def _per_absorber(numbers: Mapping[str, Any]) -> list[Sheet]:
    systems, error = numbers["systems"], numbers["reliability"]["expected_calibration_error"]
    complete = (
        "Of the true systems in the searched path, whatever their strength; intervals of 68 % (Wilson). Found: a row lies within "
        f"{MATCH_PIXELS:g} pixels of the system (of 69 km/s), and {MATCH_PIXELS_PER_ANGSTROM:g} more for every Å of W above 1."
    )
    pure = f"Of the catalogue's rows. Calibration error (ECE) of the score: {_number(error)}. Only a probability can be calibrated."
    return [
        _fractions("Completeness, per system", "found", numbers["completeness"], (systems["found"], systems["in_path"]), complete),
        _fractions("Purity, per row", "true", numbers["purity"], (systems["true_rows"], numbers["absorbers"]), pure),
    ]


_PURITIES = {
    "sure": "sure ones", "least": "unsure as not", "most": "unsure as absorbers", "corrected": "sure ones, corrected for people's errors",
}  # fmt: skip


def _people_say(labels: Mapping[str, Any]) -> list[Sheet]:
    """What people's labels say: of the whole catalogue, and by score."""
    rows = []
    for name, text in _PURITIES.items():
        if name in labels["purity"]:
            part = labels["purity"][name]
            interval = f"{_number(part['lower'])}-{_number(part['upper'])}"
            rows.append([text, str(part["successes"]), str(part["trials"]), _number(part["fraction"]), _number(part["error"]), interval])
    joined = (
        f"{labels['systems']} systems were labelled: {labels['by_id']} are rows by their id, {labels['by_match']} by spectrum and "
        f"redshift, {labels['unmatched']} match no row, {labels['other_species']} are of another species. "
    )
    of = "whole catalogue" if labels["covered"] == 1.0 else f"{labels['covered']:.1%} of the rows whose stratum has labels"
    whole = joined + (
        f"Absorbers and labelled are counts of labels; the purity is that of the {of}: each stratum of score weighs as many rows as it "
        f"has. The mean score foretells {_number(labels['mean_score'])}. Intervals of 68 %."
    )
    sheets = [Sheet("Purity, as people say", ["", "#absorbers", "#labelled", "#purity", "#+-", "#68 %"], rows, whole)]
    rows = []
    for row in labels["by_score"].to_dict("records"):
        counts = [str(row[name]) for name in ("rows", "labelled", "successes", "unsure")]
        interval, bounds = (f"{row[a]:.3f}-{row[b]:.3f}" for a, b in (("lower", "upper"), ("least", "most")))
        rows.append([bin_name("score", row["low"], row["high"]), *counts, _number(row["fraction"]), interval, bounds])
    error = labels["reliability"]["expected_calibration_error"]
    note = (
        "Purity of those that people are sure of; bounds: the unsure ones as not, as absorbers. Of the sure ones the score as a "
        f"probability is off by {_number(error)} in the mean (ECE)."
    )
    heads = ["", "#rows", "#labelled", "#absorbers", "#unsure", "#purity", "#68 %", "#bounds"]
    return [*sheets, Sheet("Purity by score, as people say", heads, rows, note)]


def _foretold(numbers: Mapping[str, Any]) -> Sheet:
    """What the catalogue says of its own worth, beside the truth."""
    worth, rows = numbers["worth"], []
    for row in worth["expected"].to_dict("records"):
        expected = [f"{row['expected']:.1f}", f"{row['error']:.1f}"]
        rows.append([bin_name("ew", row["low"], row["high"]), str(row["trials"]), str(row["successes"]), *expected])
    true, n = numbers["systems"]["true_rows"], numbers["absorbers"]
    note = (
        "Expected: by the completeness function, from absorbers put into the run's own spectra; +-: binomial. Purity: "
        f"{_number(true / n if n else math.nan)} by this truth; without it {_number(worth['by_decoys'])} by doublets of wrong separations "
        f"and {worth['n_pieces']} possible pieces of wide systems, {_number(worth['by_score'])} by the scores."
    )
    return Sheet("What the catalogue foretold: true systems found, by W", ["", "#in the path", "#found", "#expected", "#+-"], rows, note)


def _fractions(title: str, what: str, tables: Mapping[str, pd.DataFrame], total: tuple[int, int], note: str) -> Sheet:
    """`tables` with the total, (successes, trials), on top."""
    lower, upper = metrics.binomial_interval([total[0]], [total[1]])
    rate = total[0] / total[1] if total[1] else math.nan
    rows = [["all", str(total[0]), str(total[1]), _number(rate), f"{lower[0]:.3f}-{upper[0]:.3f}"]]
    for key, table in tables.items():
        for row in table.to_dict("records"):
            interval = f"{row['lower']:.3f}-{row['upper']:.3f}"
            name = bin_name(key, row["low"], row["high"])
            rows.append([name, str(row["successes"]), str(row["trials"]), f"{row['fraction']:.3f}", interval])
    return Sheet(title, ["", f"#{what}", "#of", "#fraction", "#68 %"], rows, note)


def _other_species(outcomes: Mapping[str, Any], species: LineSpecies) -> Sheet:
    rows = [[str(cell) for cell in row] for row in outcomes["systems"].to_numpy()]
    spurious = ", ".join(f"{count} on {name}" for name, count in outcomes["spurious"].items())
    note = (
        "Systems with a line where the doublet was searched. Mistaken: a catalogue row that is no true system of its own has its first or "
        f"second line on one of theirs. Spurious rows of the catalogue by what they sit on: {spurious}."
    )
    heads = ["true species", "#systems", f"#found as {species.name}", f"#mistaken for {species.name}", "#unseen"]
    return Sheet("Species", heads, rows, note)


def _against_catalogue(name: str, counts: Mapping[str, Any]) -> Sheet:
    passed = [str(counts.get(key, "")) for key in ("only_ours_pass", "only_theirs_pass")]
    rows = [
        ["in common", str(counts["in_common"]), "", ""],
        ["only ours", str(counts["only_ours"]), passed[0], f"{counts['only_ours_in_listed_spectra']} of them in spectra that it lists"],
        ["only theirs, in the searched path", str(counts["only_theirs"]), passed[1], f"{counts['outside_the_path']} more outside it"],
    ]
    note = "The spectra are not there any more: the disagreements cannot be measured again."
    if "spectra" in counts:
        note = _disagreements(counts["spectra"])
    if counts["rounding"]:
        note = f"Its redshifts are rounded to {counts['rounding']:g}: half of that is added to the distance of a match. {note}"
    title = f"{name}: {counts['systems']} systems in the searched spectra"
    return Sheet(title, ["", "#systems", "#pass 3 sigma", ""], rows, note)


def _disagreements(spectra: Mapping[str, Any]) -> str:
    return (
        f"Disagreements measured again with the doublet fit at their redshifts. Spectra: {spectra['both']} with a system in both; "
        f"{spectra['only_ours']} in ours only, {spectra['ours_confirmed']} pass; {spectra['only_theirs']} in theirs only, "
        f"{spectra['theirs_confirmed']} pass; {spectra['neither']} in neither: agreement {_number(spectra['agreement'])}. If the "
        f"measurement is right, ours is right in {_number(spectra['accuracy_ours'])} of the spectra, theirs in "
        f"{_number(spectra['accuracy_theirs'])} (Zhao et al. 2019: 0.941 and 0.923). Where the two agree, both are taken to be "
        "right. A spectrum that it does not list counts as without a system. Our rows have passed a fit like this before."
    )
