"""The run files that come along: they load, their networks read their examples, and they name nothing of one machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from nalspark import cli
from nalspark.errors import ModelError
from nalspark.learning.models import CARD, ModelCard, shipped_model
from nalspark.pipeline.learning import Train
from nalspark.settings import load

RUNS = Path(__file__).parents[1] / "conf" / "runs"
#: Those of the sibling programme have their test beside it.
OURS = [path for path in sorted(RUNS.glob("*.toml")) if not path.stem.startswith("hetdex_")]


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_run_file_names_nothing_of_one_machine(path: Path) -> None:
    values = "".join(line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
    assert "../" not in values and '"/' not in values


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_what_a_run_file_trains_can_be_trained(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nalspark.learning.feed._NO_PETASTORM", "")
    settings = load(path)
    assert settings.out
    Train(settings, ()).check()


def test_the_network_of_the_paper_has_a_run_file() -> None:
    settings = load(RUNS / "zhao2019.toml")
    assert (settings.train.network, settings.simulate.examples) == ("zhao2019", "spectra")
    assert settings.simulate.n * 4 // 5 == 80_000, "as many spectra to learn from as in the paper"


@pytest.mark.parametrize("overrides, remedy", [(("train.network=zhao2019",), "spectra"), (("simulate.examples=spectra",), "candidates")])
def test_a_network_names_the_setting_that_makes_what_it_reads(
    overrides: tuple[str, ...], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nalspark.learning.feed._NO_PETASTORM", "")
    with pytest.raises(ModelError, match=rf"reads examples of shape .* Set simulate\.examples={remedy}\.$"):
        Train(load(None, overrides), ()).check()
    with pytest.raises(ModelError) as told:
        Train(load(None, ["train.options.x=1"]), ()).check()
    assert "has no option 'x'" in str(told.value) and "simulate.examples" not in str(told.value)


@pytest.mark.parametrize("recall", [0.08, 0.9])
def test_a_model_that_finds_little_is_offered_with_a_warning(
    recall: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model = shutil.copytree(shipped_model("MgII"), tmp_path / "out" / "model")
    card = ModelCard.model_validate_json((model / CARD).read_text(encoding="utf-8"))
    (model / CARD).write_text(card.model_copy(update={"metrics": {"recall": recall, "precision": 0.9}}).model_dump_json(), encoding="utf-8")
    monkeypatch.setattr(cli, "_run", lambda *_: [])
    assert cli.main(["train", str(RUNS / "default_model.toml"), "--set", f"out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out.splitlines()
    warned = [line for line in said if line.startswith("warning    on its own test it reached only recall 0.08.")]
    assert len(warned) == (recall < 0.5)
    assert said[0] == f"model      {model}" and said[-1].startswith("use it     nalspark find ")
