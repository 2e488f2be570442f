"""Detections on the review's page: their pictures, their classes, and what a blind review hides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from make_detections import write_detections

from nalspark.cli import main
from nalspark.emission.frames import CLASSES, CUTOUT_SHAPE, PLANES
from nalspark.emission.review import CHOICES, HIDDEN, detection_exhibits
from nalspark.emission.tables import CLASSIFIED
from nalspark.errors import NalsparkError
from nalspark.review.journal import FOLDER, Journal, new_id
from nalspark.review.server import Review


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detections(tmp_path_factory.mktemp("detections"), 40)


@pytest.fixture
def start(result: Path, tmp_path: Path) -> Callable[..., Review]:
    def made(**how: Any) -> Review:
        return Review(detection_exhibits(result), Journal(tmp_path / FOLDER, "emission"), "ann", **how)

    return made


def test_a_detection_is_drawn_from_its_own_planes(start: Callable[..., Review], result: Path) -> None:
    review = start()
    rows = {row["detection_id"]: row for row in pq.read_table(next(result.glob("tables/detections/*/*/*.parquet"))).to_pylist()}
    for number in (0, 17, 39):
        system = review.system(number, "ann")
        planes = [plane["rows"] for plane in system["picture"]["planes"]]
        for name, drawn in zip(PLANES, planes, strict=True):
            plane = np.frombuffer(rows[system["system"]][name], "<f4").reshape(CUTOUT_SHAPE)
            np.testing.assert_allclose(drawn, plane, atol=0.0051)
    assert system["picture"]["offset"][CUTOUT_SHAPE[1] // 2] == 0.0


def test_every_class_has_a_key_of_its_own_and_is_kept_as_the_labels_have_it(start: Callable[..., Review], tmp_path: Path) -> None:
    assert [choice.value for choice in CHOICES] == [str(value) for value in CLASSES]
    assert len({choice.key for choice in CHOICES} | set("zeoscbx")) == len(CHOICES) + 7
    review = start()
    for number, choice in enumerate(CHOICES):
        asked = {
            "label_id": new_id(),
            "number": number,
            "systems": review.fingerprint,
            "blind": False,
            "look": 1,
            "reviewer": "ann",
            "class": choice.value,
            "reason": "",
            "note": "",
        }
        review.label(asked)
        with pytest.raises(NalsparkError, match="no reason"):
            review.label({**asked, "label_id": new_id(), "reason": "sky"})
    labels = [json.loads(line) for line in (tmp_path / FOLDER / "ann.jsonl").read_text().splitlines()]
    assert [label["class"] for label in labels] == ["-2", "-1", "0", "1", "2", "3", "4", "5"]
    assert {(label["programme"], label["spectrum_id"], label["species"], label["z"]) for label in labels} == {
        ("emission", None, None, None)
    }


def test_a_blind_review_says_nothing_of_scores_and_classes(start: Callable[..., Review]) -> None:
    sighted, blind = start(), start(blind=True)
    assert set(CLASSIFIED.names) >= HIDDEN
    assert {fact["name"] for fact in sighted.system(0, "ann")["facts"]} >= {"score", "class", "kind", "accepted", "band"}
    for number in range(40):
        system = blind.system(number, "ann")
        assert not {fact["name"] for fact in system["facts"]} & HIDDEN and system["remarks"] == []
    assert not {column["name"] for column in blind.facts()["columns"]} & HIDDEN


def test_a_selection_by_the_columns_of_classified(result: Path) -> None:
    chosen = detection_exhibits(result, "score < 0.5 and accepted", 5).rows
    assert 0 < chosen.num_rows <= 5 and all(score < 0.5 for score in chosen["score"].to_pylist())


def test_a_folder_without_detections_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emission", "review", str(tmp_path), "--no-open"]) == 2
    assert "has no classified detections" in capsys.readouterr().err
