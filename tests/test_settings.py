"""Settings: every fault at once, in sentences; nothing is executed; every field says what it is."""

import os
import re

import pytest
from pydantic import BaseModel, ValidationError

from nalspark.errors import NalsparkError, SettingsError
from nalspark.settings import Settings, from_tree, known_keys, load, local_folder
from nalspark.tables.store import Store


def write(folder, text):
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def fields(model=Settings, prefix=""):
    """(dotted name, field) of every setting, sections left out."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def test_defaults_need_no_file():
    settings = load()
    assert settings == Settings()
    assert settings.species == ("MgII",) and settings.line_species.primary.label == "2796"


def test_precedence_file_then_values_then_overrides(tmp_path):
    path = write(tmp_path, 'out = "file"\n[search]\nmin_significance = 6.0\nmin_snr_primary = 4.0\nmin_snr_secondary = 2.5\n')
    values = {"search.min_significance": 7.0, "search.min_snr_primary": 4.5, "out": "value"}
    settings = load(path, ["search.min_significance=8", "out=override"], **values)
    assert settings.out == "override"
    assert settings.search.min_significance == 8.0  # all three say it: the override wins
    assert settings.search.min_snr_primary == 4.5  # file and value
    assert settings.search.min_snr_secondary == 2.5  # file alone
    assert settings.search.max_per_spectrum == Settings().search.max_per_spectrum  # none


def test_the_last_override_wins():
    assert load(None, ["search.min_significance=6", "search.min_significance=7"]).search.min_significance == 7.0


@pytest.mark.parametrize(
    "text, key, expected",
    [
        ("search.widths_pixels=[1.5, 3]", ("search", "widths_pixels"), (1.5, 3.0)),
        ('spectra=["a", "b"]', ("spectra",), ("a", "b")),
        ("out=/data/with=sign", ("out",), "/data/with=sign"),
        (" out = here", ("out",), "here"),
        ("crossmatch.weak=negative", ("crossmatch", "weak"), "negative"),
        ("pipeline.partitions=8", ("pipeline", "partitions"), 8),
    ],
)
def test_overrides_are_toml_or_else_text(text, key, expected):
    value = load(None, [text])
    for name in key:
        value = getattr(value, name)
    assert value == expected


def test_all_faults_are_reported_at_once(tmp_path):
    path = write(
        tmp_path,
        'speces = "MgII"\n[search]\nmin_significanc = 6\nmax_per_spectrum = 0\n[preprocess]\nmin_snr = "high"\n[crossmatch]\nweak = "x"\n',
    )
    with pytest.raises(SettingsError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith("5 fault(s)") and str(path) in message
    for fault in ("'speces' is not a setting", "'search.min_significanc' is not a setting", "'search.max_per_spectrum' = 0",
                  "'preprocess.min_snr' = 'high'", "'crossmatch.weak' = 'x'"):  # fmt: skip
        assert fault in message
    assert "Did you mean 'species'?" in message and "Did you mean 'search.min_significance'?" in message
    assert len(message.splitlines()) == 6  # one line a fault


def test_nothing_near_is_not_guessed():
    with pytest.raises(SettingsError) as caught:
        load(None, ["qqqqqqqqqq=1"])
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name, guess", [("mgii", "MgII"), ("MgI", "MgII"), ("civ", "CIV")])
def test_unknown_species_names_what_there_is(name, guess):
    with pytest.raises(SettingsError, match=f"Species '{name}' is not known; there are MgII, CIV, .*[.] Did you mean '{guess}'"):
        load(species=name)


@pytest.mark.parametrize("text", ["no_equals", "=3", ""])
def test_override_without_a_key_is_explained(text):
    with pytest.raises(SettingsError, match="key=value"):
        load(None, [text])


def test_a_value_is_not_a_section():
    with pytest.raises(SettingsError, match="'out' is a value, not a section"):
        load(None, ["out=x", "out.deeper=1"])


@pytest.mark.parametrize(
    "override", ["search.min_significance=-1", "search.widths_pixels=[0]", "crossmatch.match_radius_arcsec=61", "pipeline.partitions=-1",
                 "ingest.plates_per_part=0", "measure.instrument_sigma_kms=-1", "search.min_significance=nan"],
)  # fmt: skip
def test_values_out_of_range_are_refused(override):
    with pytest.raises(SettingsError, match=re.escape(override.partition("=")[0])):
        load(None, [override])


def test_missing_and_broken_files_are_sentences(tmp_path):
    with pytest.raises(SettingsError, match="There is no run file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load(write(tmp_path, "species = \n"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load(tmp_path / "binary.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path)
    assert issubclass(SettingsError, NalsparkError)


def test_nothing_in_a_file_or_override_is_executed(tmp_path):
    """What would leave a trace if it were evaluated stays text, or is refused."""
    trace = tmp_path / "executed"
    code = f"__import__('pathlib').Path('{trace}').touch()"
    assert load(write(tmp_path, f'out = "{code}"\n')).out == code
    assert load(None, [f"out={code}"]).out == code
    with pytest.raises(SettingsError):
        load(write(tmp_path, f"out = {code}\n"))
    with pytest.raises(SettingsError):
        load(None, [f"search.min_significance={code}"])
    assert not trace.exists()


def test_every_field_says_what_it_is():
    undescribed = [name for name, field in fields() if not (field.description or "").strip()]
    # The sections have docstrings of their own; every leaf has a description, which is what `--help` and the data model print.
    assert undescribed == []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert field.annotation.__doc__, name
    assert [name for name, _ in fields()] == known_keys()


def test_settings_are_frozen_and_compare_by_content():
    settings = load()
    with pytest.raises(ValidationError):
        settings.out = "elsewhere"
    with pytest.raises(ValidationError):
        settings.search.min_significance = 1.0
    assert load(None, ["out=x"]) == load(out="x") != settings


def test_round_trip_through_json():
    """Settings are stored in the manifest: what is read back is what was written."""
    settings = load(None, ["search.widths_pixels=[1.5, 3.0]", "spectra=['a']", "crossmatch.weak=negative"])
    assert from_tree(settings.model_dump(mode="json"), "a manifest") == settings


# ---- where results lie


@pytest.mark.parametrize(
    "text, path",
    [
        ("result", "result"),
        ("run:1/a#b?c%20d", "run:1/a#b?c%20d"),
        ("C:\\result", "C:\\result"),
        ("file:/data/x", "/data/x"),
        ("file:///data/my%20run#1", "/data/my run#1"),
        ("FILE://localhost/data", "/data"),
        ("dbfs:/Volumes/a/b", "/Volumes/a/b"),
        ("dbfs:/mnt/x", "/dbfs/mnt/x"),
    ],
)
def test_a_folder_is_a_path_or_the_url_of_one(monkeypatch, text, path):
    monkeypatch.setattr(os.path, "isdir", {"/dbfs": True, "/Volumes": True}.get)
    assert local_folder(text) == load(out=text).out == path
    assert Store(text).root == Store(path).root


@pytest.mark.parametrize(
    "text", ["s3a://bucket/x", "S3://b", "hdfs:///x", "abfss://c@a.dfs.core.windows.net/x", "gs://b/x", "dbfs:/x", "file://far/x", "file:x"]
)
def test_what_is_no_folder_is_refused(monkeypatch, text):
    monkeypatch.setattr(os.path, "isdir", lambda _: False)
    for refuse in (lambda: load(out=text), lambda: load(None, [f"out={text}"]), lambda: Store(text)):
        with pytest.raises(SettingsError, match=f"^'{re.escape(text)}' is not in this machine's file systems"):
            refuse()


def test_injected_widths_must_have_a_range() -> None:
    with pytest.raises(SettingsError, match="ew_min = 2 must be less than ew_max = 1"):
        load(None, ["completeness.ew_min=2", "completeness.ew_max=1"])
