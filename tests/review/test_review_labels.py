"""Labels read from journals and tables, compared and put together."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest

from nalspark.cli import main
from nalspark.errors import CatalogError, NalsparkError
from nalspark.metrics import cohen_kappa, fleiss_kappa
from nalspark.review.labels import COLUMNS, agreement, consensus, consistency, overall, read_labels, reviewers, votes


def label(number, system, reviewer, said, **more):
    return {
        "label_id": f"{number:032x}", "programme": "absorption", "system": system, "spectrum_id": system[:1], "species": "MgII", "z": 1.0,
        "reviewer": reviewer, "class": said, "reason": "", "note": "", "blind": True, "look": 1,
        "time": f"2026-11-30T10:{number // 60:02d}:{number % 60:02d}.000Z", "undoes": "", **more,
    }  # fmt: skip


def write(folder, *labels):
    """A result's journals, as the page of a review leaves them."""
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    for each in labels:
        with open(folder / "labels" / f"{each['reviewer']}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(each, ensure_ascii=False) + "\n")
    return folder


LOOKS = (
    label(1, "a-1", "ann", "absorber"), label(2, "b-1", "ann", "not", reason="sky", note="naïve, #1"), label(3, "c-1", "ann", "absorber"),
    label(4, "a-1", "bob", "absorber"), label(5, "b-1", "bob", "absorber"), label(6, "c-1", "bob", "unsure"), label(7, "d-1", "bob", "not"),
    label(8, "a-1", "cyd", "absorber"), label(9, "c-1", "cyd", "not"),
)  # fmt: skip


@pytest.fixture
def result(tmp_path):
    return write(tmp_path / "result", *LOOKS)


# ---- reading


def test_what_was_written_is_read(result):
    labels = read_labels(result)
    assert tuple(labels.columns) == COLUMNS and len(labels) == 9
    first = labels.iloc[1]
    assert (first["system"], first["class"], first["reason"], first["note"], first["z"]) == ("b-1", "not", "sky", "naïve, #1", 1.0)
    assert first["blind"] and first["look"] == 1 and first["time"] == pd.Timestamp("2026-11-30T10:00:02", tz="UTC")
    pd.testing.assert_frame_equal(labels, read_labels(result / "labels"))
    assert set(read_labels(result / "labels" / "ann.jsonl")["reviewer"]) == {"ann"}
    assert len(read_labels(result, result / "labels" / "ann.jsonl")) == 9, "those that are there twice count once"


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_a_table_reads_as_the_journals_do(result, tmp_path, end):
    labels = read_labels(result)
    labels.to_csv(tmp_path / "t.csv", index=False)
    labels.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_labels(tmp_path / f"t.{end}"), labels)


def test_a_table_needs_four_columns_only(tmp_path):
    (tmp_path / "t.csv").write_text("# mine\nabsorber_id,reviewer,class,time\na-1,ann,absorber,2026-11-30\n")
    labels = read_labels(tmp_path / "t.csv")
    assert labels[["system", "programme", "look", "spectrum_id", "blind"]].iloc[0].tolist() == ["a-1", "absorption", 1, None, False]
    (tmp_path / "e.csv").write_text("detection_id,reviewer,class,time,look\n007,ann,-2,2026-11-30,\nb,ann,5.0,2026-11-30,2\n")
    labels = read_labels(tmp_path / "e.csv")
    assert set(labels["programme"]) == {"emission"} and labels["class"].tolist() == ["-2", "5"] and labels["look"].tolist() == [1, 2]
    assert labels["system"].tolist() == ["007", "b"]


def test_the_last_label_of_a_look_counts_and_looks_stay_apart(tmp_path):
    changed = (label(1, "a", "ann", "not"), label(2, "a", "ann", "absorber"), label(3, "a", "ann", "unsure", look=2))
    labels = read_labels(write(tmp_path, *changed))
    assert labels[["class", "look"]].to_numpy().tolist() == [["absorber", 1], ["unsure", 2]]
    assert votes(labels)["class"].tolist() == ["unsure"]


def test_what_was_undone_is_left_out(tmp_path):
    first = label(1, "a", "ann", "not")
    undo = label(3, "a", "ann", "", undoes=label(2, "a", "ann", "absorber")["label_id"])
    folder = write(tmp_path, first, label(2, "a", "ann", "absorber"), undo)
    assert read_labels(folder)["class"].tolist() == ["not"], "the label before it counts again"
    write(folder, label(4, "a", "ann", "", undoes=undo["label_id"]))
    assert read_labels(folder)["class"].tolist() == ["absorber"], "an undo can be undone"


def test_what_stands_later_in_a_journal_counts_also_where_a_clock_went_back(tmp_path):
    folder = write(tmp_path, label(9, "a", "ann", "absorber"), label(2, "a", "ann", "not"))
    assert read_labels(folder)["class"].tolist() == ["not"]


def test_two_ions_at_one_pixel_are_two_systems(tmp_path):
    looks = (label(1, "a", "ann", "not"), label(2, "a", "ann", "absorber", species="CIV"), label(3, "a", "bob", "not", species="CIV"))
    labels = read_labels(write(tmp_path, *looks, label(4, "b", "ann", "not")))
    assert len(labels) == 4 and agreement(labels)["n"].tolist() == [1]
    table = consensus(labels)
    assert table[["system", "species", "n"]].to_numpy().tolist() == [["a", "CIV", 2], ["a", "MgII", 1], ["b", "MgII", 1]]
    (tmp_path / "t.csv").write_text("system,reviewer,class,time\nb,cyd,not,2026-11-30\na,cyd,not,2026-11-30\n")
    both = read_labels(tmp_path, tmp_path / "t.csv")
    of_cyd = both[both["reviewer"] == "cyd"].set_index("system")["species"]
    assert of_cyd["b"] == "MgII" and of_cyd["a"] is None, "known where there is one only"


def test_a_programme_reads_its_own(tmp_path):
    folder = write(tmp_path, label(1, "a", "ann", "not"), label(2, "d", "ann", "5", programme="emission"))
    assert read_labels(folder, programme="emission")["system"].tolist() == ["d"]
    assert read_labels(folder, programme="absorption")["system"].tolist() == ["a"]
    write(tmp_path / "other", label(1, "a", "ann", "not"))
    with pytest.raises(CatalogError, match="these are of absorption"):
        read_labels(tmp_path / "other", programme="emission")


@pytest.mark.parametrize("torn", ['{"label_id": "0", "cla', "\x00\x00\x00", "7", '{"note": "\xff'])
def test_a_torn_line_is_skipped_and_told(result, torn, caplog):
    journal = result / "labels" / "ann.jsonl"
    before = read_labels(result)
    with open(journal, "ab") as file:
        file.write(torn.encode("latin-1"))
    with caplog.at_level(logging.WARNING, "nalspark"):
        pd.testing.assert_frame_equal(read_labels(result), before)
    assert "line 4 of" in caplog.text and "ann.jsonl" in caplog.text
    with open(journal, "a") as file:
        file.write("\n" + json.dumps(label(20, "e-1", "ann", "not")))  # and no end of its line
    assert len(read_labels(result)) == len(before) + 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"class": "absorbed"}, "no known class, the first by ann for a: 'absorbed'.*Did you mean 'absorber'"),
        ({"class": ""}, "no known class"),
        ({"time": "yesterday"}, "have no time"),
        ({"reviewer": None}, "lack one of system, reviewer, class, time"),
        ({"programme": "emission", "class": "5"}, "these are of absorption and emission"),
    ],
)
def test_broken_labels_are_refused(tmp_path, more, told):
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, ({**label(1, "a", "ann", "not"), **more}, label(2, "b", "bob", "not")))))
    with pytest.raises(CatalogError, match=told):
        read_labels(tmp_path / "x.jsonl")


def test_where_there_are_no_labels(tmp_path):
    with pytest.raises(CatalogError, match="There are no labels"):
        read_labels(tmp_path / "nowhere")
    with pytest.raises(CatalogError, match="holds no label"):
        read_labels(tmp_path)
    (tmp_path / "t.csv").write_text("name,reviewer,class,time\na,ann,not,2026-11-30\n")
    with pytest.raises(CatalogError, match="no column system; it has name, reviewer"):
        read_labels(tmp_path / "t.csv")
    (tmp_path / "empty.jsonl").write_text("")
    assert read_labels(tmp_path / "empty.jsonl").empty


# ---- agreement


def test_kappa_of_every_two(result):
    table = agreement(read_labels(result)).set_index(["reviewer_a", "reviewer_b"])
    assert table["n"].to_dict() == {("ann", "bob"): 3, ("ann", "cyd"): 2, ("bob", "cyd"): 2}
    # ann: absorber, not, absorber; bob: absorber, absorber, unsure. Rows and columns: absorber, not, unsure.
    assert table["kappa_class"]["ann", "bob"] == pytest.approx(float(cohen_kappa([[1, 0, 1], [1, 0, 0], [0, 0, 0]])))
    assert table["kappa_real"]["ann", "bob"] == pytest.approx(float(cohen_kappa([[1, 1], [1, 0]])))
    assert table["same"]["ann", "cyd"] == 0.5 and np.isfinite(table["kappa_class_err"]["ann", "bob"])


def test_fleiss_s_kappa_leaves_out_what_one_looked_at(result):
    both = overall(read_labels(result))
    assert both["n"] == 3
    assert both["kappa_class"] == pytest.approx(fleiss_kappa([[3, 0, 0], [1, 1, 0], [1, 1, 1]]))
    assert both["kappa_real"] == pytest.approx(fleiss_kappa([[3, 0], [1, 1], [1, 2]]))


def test_numbers_are_compared_by_their_distance(tmp_path):
    """From 0 to 1 is not as far as from 0 to 5, though no other class occurs."""
    rows = ["a,ann,0", "b,ann,1", "c,ann,5", "d,ann,5", "a,bob,1", "b,bob,1", "c,bob,5", "d,bob,5"]
    (tmp_path / "t.csv").write_text("system,reviewer,class,time\n" + "".join(f"{row},2026-11-30\n" for row in rows))
    table = agreement(read_labels(tmp_path / "t.csv"), None)
    seen = cohen_kappa([[0, 1, 0], [0, 1, 0], [0, 0, 2]], [0, 1, 5])
    assert table["kappa_class"][0] == pytest.approx(float(seen)) and seen > 0.9 and "kappa_real" not in table


def test_a_reviewer_is_compared_with_themselves(tmp_path):
    first, second = ("absorber", "absorber", "not", "not"), ("absorber", "not", "not", "not")
    looks = [label(i, f"s-{i}", "ann", said) for i, said in enumerate(first)]
    looks += [label(10 + i, f"s-{i}", "ann", said, look=2) for i, said in enumerate(second)]
    labels = read_labels(write(tmp_path, *looks, label(30, "s-9", "ann", "not"), label(31, "s-0", "bob", "not")))
    own = consistency(labels)
    assert own[["reviewer", "n", "same"]].to_numpy().tolist() == [["ann", 4, 0.75]]
    assert own["kappa_real"][0] == pytest.approx(0.5)  # 0.75 agree, by chance 0.5·0.25 + 0.5·0.75 = 0.5


def test_what_each_did_is_counted(tmp_path):
    looks = (label(1, "a", "ann", "not"), label(2, "b", "ann", "absorber", blind=False), label(3, "a", "ann", "unsure", look=2))
    row = reviewers(read_labels(write(tmp_path, *looks))).iloc[0]
    assert row[["reviewer", "labels", "systems", "again", "blind"]].tolist() == ["ann", 3, 2, 1, 2]
    assert row[["absorber", "not", "unsure", "first"]].tolist() == [1, 1, 1, "2026-11-30"]


# ---- consensus


def test_rules_of_consensus(result):
    labels = read_labels(result)
    majority, unanimous = (consensus(labels, rule).set_index("system")["class"].to_dict() for rule in ("majority", "unanimous"))
    assert majority == {"a-1": "absorber", "b-1": None, "c-1": None, "d-1": "not"}
    assert unanimous == {"a-1": "absorber", "b-1": None, "c-1": None, "d-1": "not"}
    more = consensus(pd.concat([labels, labels[labels["reviewer"] == "bob"].assign(reviewer="eve")], ignore_index=True), "majority")
    assert more.set_index("system")["class"].to_dict() == {"a-1": "absorber", "b-1": "absorber", "c-1": "unsure", "d-1": "not"}
    with pytest.raises(NalsparkError, match="have no median"):
        consensus(labels, "median")
    with pytest.raises(NalsparkError, match="no rule 'mean'"):
        consensus(labels, "mean")


def test_disagreements_come_first_with_what_joins_them_to_a_catalogue(result):
    table = consensus(read_labels(result))
    assert table["system"].tolist() == ["b-1", "c-1", "a-1", "d-1"]
    assert table["votes"].tolist() == ["absorber 1, not 1", "absorber 1, not 1, unsure 1", "absorber 3", "not 1"]
    assert table.loc[0, ["spectrum_id", "species", "z", "n", "real"]].tolist() == ["b", "MgII", 1.0, 2, 1]


def test_the_median_of_numbers_is_rounded_down(tmp_path):
    (tmp_path / "t.csv").write_text("system,reviewer,class,time\na,ann,-2,2026-11-30\na,bob,1,2026-11-30\nb,ann,5,2026-11-30\n")
    table = consensus(read_labels(tmp_path / "t.csv"), "median", None).set_index("system")
    assert table["class"].to_dict() == {"a": "-1", "b": "5"} and table.loc["a", ["lowest", "highest"]].tolist() == [-2, 1]


# ---- the command


def test_the_command(result, tmp_path, capsys, no_spark):
    write(result, label(40, "a-1", "ann", "not", look=2))
    assert main(["labels", str(result), "--out", str(tmp_path / "new" / "t.csv")]) == 0
    said = capsys.readouterr().out
    assert "10 labels of 4 systems by 3 reviewers" in said and "Fleiss' κ of 3 systems" in said
    assert "4 systems, 3 of them real to some and not to others; rule: majority" in said and "second looks against first ones" in said
    table = pd.read_csv(tmp_path / "new" / "t.csv")
    assert table["system"].tolist() == ["b-1", "c-1", "a-1", "d-1"] and table["class"].fillna("").tolist() == ["", "", "absorber", "not"]
    assert main(["labels", str(result), "--rule", "unanimous", "--out", str(tmp_path / "t.parquet")]) == 0
    assert pd.read_parquet(tmp_path / "t.parquet")["class"].isna().sum() == 3


def test_the_command_of_one_reviewer_and_of_numbers(tmp_path, capsys, no_spark):
    write(tmp_path, LOOKS[0])
    assert main(["labels", str(tmp_path)]) == 0
    assert "κ" not in capsys.readouterr().out
    (tmp_path / "t.csv").write_text("detection_id,reviewer,class,time\na,ann,-2,2026-11-30\na,bob,1,2026-11-30\nb,ann,5,2026-11-30\n")
    assert main(["labels", str(tmp_path / "t.csv"), "--rule", "median"]) == 0
    assert "2 systems, 1 of them of several classes; rule: median" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--out", "t.txt"], "neither .csv nor .parquet"),
        (["--rule", "median"], "have no median"),
        (["--out", "a-file/t.csv"], "cannot be written"),
    ],
)
def test_what_the_command_refuses(result, arguments, told, capsys, no_spark, monkeypatch):
    monkeypatch.chdir(result)
    (result / "a-file").write_text("")
    assert main(["labels", ".", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_labels_that_were_all_undone(tmp_path, capsys, no_spark):
    write(tmp_path, LOOKS[0], label(50, "a-1", "ann", "", undoes=LOOKS[0]["label_id"]))
    assert main(["labels", str(tmp_path)]) == 2
    assert "none was given, or all were undone" in capsys.readouterr().err
