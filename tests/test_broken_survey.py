"""One bad file never stops a survey, never changes another file's result, and is always accounted for with its reason."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import nalspark, published, run, settings_of
from surveys.make_files import write_spec
from surveys.test_broken_files import BROKEN

from nalspark.mocks.survey import simulate_survey

pytestmark = pytest.mark.spark


@dataclass
class MixedSurvey:
    """Good spectra, and files that must be rejected.

    Attributes
    ----------
    folder : Path
    reasons : dict
        Path as the catalogue shows it → expected reason.
    """

    folder: Path
    reasons: dict[str, str] = field(default_factory=dict)

    def expect(self, path: Path | str, reason: str) -> None:
        self.reasons[str(path)] = reason


def add_good(survey: MixedSurvey) -> None:
    """Twelve good spectra: plain, compressed, in a folder and under a name that are not ASCII, behind a link, in a folder named x.fits."""
    simulate_survey(survey.folder / "simulated", 12, 5)
    good = sorted((survey.folder / "simulated" / "spectra").rglob("*.fits"))
    odd = survey.folder / "parts" / "Größe 天 [1]"
    (odd / "x.fits").mkdir(parents=True)
    good[0].rename(odd / "spectré — ñ 'quoted' \"twice\" 50%.fits")
    (odd / "zip.FITS.gz").write_bytes(gzip.compress(good[1].read_bytes(), 1))
    good[1].unlink()
    good[2].rename(odd / "x.fits" / "spec-1000-1-1.fits")
    elsewhere = survey.folder / "elsewhere"
    elsewhere.mkdir()
    good[3].rename(elsewhere / "linked.bin")
    (odd / "linked.fits").symlink_to(elsewhere / "linked.bin")
    for file in good[4:]:
        file.rename(survey.folder / "parts" / file.name)


def add_broken_contents(survey: MixedSurvey) -> None:
    folder = survey.folder / "parts" / "broken"
    folder.mkdir()
    for number, (kind, (reason, make)) in enumerate(BROKEN.items()):
        path = folder / f"spec-{3000 + number}-52000-{kind.replace('/', ' ')}.fits"
        path.write_bytes(make())
        survey.expect(path, reason)


def add_strange_files(survey: MixedSurvey) -> None:
    folder = survey.folder / "parts" / "strange"
    folder.mkdir()
    (folder / "dangling.fits").symlink_to("nowhere.fits")
    survey.expect(folder / "dangling.fits", "file_missing")
    (folder / "loop.fits").symlink_to("loop.fits")
    survey.expect(folder / "loop.fits", "io_error")
    os.mkfifo(folder / "pipe.fits")
    survey.expect(folder / "pipe.fits", "not_a_regular_file")
    (folder / "line\nbreak.fits").write_text("text")
    survey.expect(folder / "line\nbreak.fits", "not_fits")
    write_spec(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.fits"))
    survey.expect(f"{folder}/\\xff\\xfe.fits", "file_missing")
    (folder / "empty.fits").touch()
    survey.expect(folder / "empty.fits", "empty")
    if os.geteuid() != 0:
        write_spec(folder / "secret.fits", plate=2999).chmod(0)
        survey.expect(folder / "secret.fits", "permission_denied")
    (folder / "an empty folder.fits").mkdir()


def add_unusable_spectra(survey: MixedSurvey) -> None:
    """Good files of what cannot be searched."""
    folder = survey.folder / "parts" / "unusable"
    folder.mkdir()
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "absurd z": ("bad_redshift", {"z": 99.0}),
        "z nan": ("bad_redshift", {"z": float("nan")}),
        "z infinite": ("bad_redshift", {"z": float("inf")}),
        "z zero": ("bad_redshift", {"z": 0.0}),
        "z negative": ("bad_redshift", {"z": -0.3}),
        "a star": ("not_a_quasar", {"object_class": "STAR"}),
        "no class": ("not_a_quasar", {"object_class": ""}),
        "a sky fiber": ("sky_fiber", {"z_warning": 1}),
        "no window on the grid": ("no_search_path", {"z": 0.05}),
        "only noise": ("low_snr", {"flux": np.random.default_rng(0).normal(0, 1, 3800), "first_pixel": 35_800}),
        "hardly any pixel": ("too_few_good_pixels", {"n_pixels": 120, "z": 1.5}),
    }
    for number, (kind, (reason, settings)) in enumerate(kinds.items()):
        path = write_spec(folder / f"{kind}.fits", plate=2000 + number, **({"n_pixels": 3800} | settings))
        survey.expect(path, reason)
    first = sorted((survey.folder / "parts").glob("spec-*.fits"))[0]
    for name in ("twice.fits", "thrice.fits"):
        shutil.copy(first, folder / name)
        survey.expect(folder / name, "duplicate_spectrum_id")


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> MixedSurvey:
    survey = MixedSurvey(tmp_path_factory.mktemp("broken"))
    add_good(survey)
    return survey


@pytest.fixture(scope="module")
def clean(spark: Any, survey: MixedSurvey) -> dict[str, pd.DataFrame]:
    """The catalogue of the good spectra alone."""
    out = survey.folder / "clean"
    run(spark, settings_of(survey.folder, out, quasars=[]))
    return published(out)


@pytest.fixture(scope="module")
def mixed(survey: MixedSurvey, clean: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The catalogue of the same with all that is broken, made by the command line."""
    add_broken_contents(survey)
    add_strange_files(survey)
    add_unusable_spectra(survey)
    out = survey.folder / "mixed"
    quick = ("--set", "publish.gallery=0", "--master", "local[2]")
    finished = nalspark("find", survey.folder / "parts", "--out", out, *quick)
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr and "Exception" not in finished.stderr, finished.stderr
    return published(out)


def test_every_broken_file_is_rejected_with_its_own_reason(survey: MixedSurvey, mixed: dict[str, pd.DataFrame]) -> None:
    assert len(survey.reasons) >= 90 and len(set(survey.reasons.values())) >= 20
    found = mixed["rejections"].set_index("path")["reason"].to_dict()
    differing = {path: (reason, found.get(path)) for path, reason in survey.reasons.items() if found.get(path) != reason}
    assert not differing
    assert not set(found) - set(survey.reasons)
    assert len(mixed["rejections"]) == len(survey.reasons)


def test_every_rejection_says_why_in_a_sentence(mixed: dict[str, pd.DataFrame]) -> None:
    details = mixed["rejections"]["detail"]
    assert details.str.len().between(15, 800).all()
    assert set(mixed["rejections"]["stage"]) == {"ingest", "crossmatch", "search"}


def test_good_spectra_come_out_as_if_nothing_else_were_there(clean: dict[str, pd.DataFrame], mixed: dict[str, pd.DataFrame]) -> None:
    assert len(clean["sightlines"]) == 12 and len(clean["rejections"]) == 0 and len(clean["absorbers"]) > 0
    for name in ("sightlines", "absorbers"):
        left, right = (tables[name].drop(columns="part") for tables in (clean, mixed))
        pd.testing.assert_frame_equal(left, right, check_exact=True, obj=name)
