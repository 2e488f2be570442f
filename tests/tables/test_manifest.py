"""The manifest: comes back as it was written, is replaced in one step, and a file that is none is explained."""

import json
import os
import re
import subprocess
import sys

import pytest

from nalspark.errors import StoreError
from nalspark.tables.manifest import FORMAT, Manifest, Part, digest, read_manifest, write_manifest
from nalspark.tables.store import Store


def make_manifest():
    return Manifest(
        tables={
            "spectra": {"4000": Part("k1", "spectra/4000-k1", 10, 2), "4500": Part("k2", "", 0)},
            "absorbers": {"4000": Part("k3", "a", 3)},
        },
        catalogues=[{"name": "dr7", "matched": 5, "unmatched": 1}],
        published={"absorbers.fits": 3},
        settings={"search": {"widths_pixels": [1.2, 1.8]}},
        runs=[{"seconds": 1.5}],
        version="0.1",
    )  # fmt: skip


def test_round_trip(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(make_manifest(), path)
    assert read_manifest(path) == make_manifest()


def test_absent_manifest_is_empty(tmp_path):
    manifest = read_manifest(tmp_path / "manifest.json")
    assert manifest == Manifest() and manifest.rows("spectra") == (0, 0)


def test_rows_and_keys():
    manifest = make_manifest()
    assert manifest.rows("spectra") == (8, 2)  # ten rows, two of them rejections
    assert manifest.rows("unknown") == (0, 0)
    assert manifest.key_of(["spectra", "absorbers"], "4000") == ["k1", "k3"]
    assert manifest.key_of(["spectra", "absorbers"], "4500") == ["k2", ""]


def test_what_stands_for_a_part_is_its_content_where_that_is_known():
    manifest = Manifest(tables={"targets": {"a": Part("key", "p", 1, content="content"), "b": Part("other", "q", 1)}})
    assert manifest.key_of(["targets"], "a") == ["content"] and manifest.contents("targets") == {"a": "content", "b": "other"}


def test_the_publication_of_the_first_edition_is_known(tmp_path):
    path = tmp_path / "manifest.json"
    old = {"tables": {}, "keys": {"publish": "abc"}, "published": {"absorbers.parquet": 7}, "format": FORMAT}
    path.write_text(json.dumps(old))
    assert read_manifest(path).parts("published") == {"all": Part("abc", "absorbers.parquet", 7)}


def test_an_interrupted_write_leaves_the_old_manifest(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    write_manifest(make_manifest(), path)
    before = path.read_bytes()

    def crash(*_):
        # All is written, and the old file has not been touched yet.
        assert path.read_bytes() == before
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_manifest(Manifest(version="new"), path)
    assert read_manifest(path) == make_manifest()
    monkeypatch.undo()
    write_manifest(Manifest(version="new"), path)
    assert read_manifest(path).version == "new"
    # What the crash left is hidden from whoever lists the directory, and the next write of this process takes it over.
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "not json", "[]", "3", "null", '"text"', "{}",
        json.dumps({"format": FORMAT}),
        json.dumps({"format": FORMAT, "tables": []}),
        json.dumps({"format": FORMAT, "tables": {"spectra": [1]}}),
        json.dumps({"format": FORMAT, "tables": {"spectra": {"4000": 5}}}),
        json.dumps({"format": FORMAT, "tables": {"spectra": {"4000": {"key": "k"}}}}),
        json.dumps({"format": FORMAT, "tables": {}, "of another program": 1}),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_explained(tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=re.escape(str(path))) as caught:
        read_manifest(path)
    assert "is not a manifest of nalspark" in str(caught.value) and "another output directory" in str(caught.value)
    assert path.read_text() == text  # reading never repairs or removes


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_bytes(b"\xff\xfe\x80PAR1")
    with pytest.raises(StoreError, match="not a manifest"):
        read_manifest(path)


@pytest.mark.parametrize("number", [0, FORMAT + 1, "1", None])
def test_another_format_is_named(tmp_path, number):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": number, "tables": {}}))
    with pytest.raises(StoreError, match=rf"has format {number}; this version of nalspark reads format {FORMAT}"):
        read_manifest(path)


def test_digest_depends_on_content_alone():
    assert digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1})
    assert len({digest(), digest(1), digest("1"), digest([1]), digest(1, 2), digest([1, 2]), digest({"a": 1}), digest({"a": 2})}) == 8
    assert re.fullmatch("[0-9a-f]{16}", digest("x"))


def test_digest_is_the_same_in_another_process():
    """Python salts its own hashes in every process; a digest must not see that."""
    program = "from nalspark.tables.manifest import digest; print(digest({'z': 1, 'a': ['Å', 2.5]}, 'x'))"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert answer.stdout.strip() == digest({"z": 1, "a": ["Å", 2.5]}, "x")


def test_converted_catalogues_that_the_manifest_does_not_name_are_removed(tmp_path):
    store = Store(tmp_path)
    store.catalogues.mkdir(parents=True)
    for name in ("abc-1.parquet", "old-1.parquet", ".abc-1.parquet.part"):
        (store.catalogues / name).write_bytes(b"rows")
    store.prune(Manifest(inputs={"quasars q.fits": "abc", "model": "m"}))
    assert [path.name for path in store.catalogues.iterdir()] == ["abc-1.parquet"]
    store.prune(Manifest())
    assert not list(store.catalogues.iterdir())


def test_a_manifest_that_cannot_be_read_now_is_not_taken_for_something_else(tmp_path, monkeypatch):
    """To remove it, as is advised for what is no manifest, would be wrong."""
    write_manifest(Manifest(), tmp_path / "manifest.json")

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(tmp_path), "read_text", fail)
    with pytest.raises(StoreError, match="cannot be read: Input/output error. Nothing was changed"):
        read_manifest(tmp_path / "manifest.json")
