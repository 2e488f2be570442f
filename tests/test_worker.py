"""What a Python worker is spared between its tasks, and what it loads before them."""

import gc
import importlib
import sys
import time
import zipfile
import zipimport
from functools import partial

import pyarrow as pa

from nalspark.session import load_ahead
from nalspark.tables.arrow import map_batches
from nalspark.worker import settle


def test_archives_are_read_once(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("first_of_two.py", "value = 1")
        archive.writestr("second_of_two.py", "value = 2")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "some.zip"), *sys.path])
    import first_of_two

    read = []
    whole = zipimport._read_directory
    monkeypatch.setattr(zipimport, "_read_directory", lambda path: read.append(path) or whole(path))
    importlib.invalidate_caches()
    assert str(tmp_path / "some.zip") in read
    read.clear()
    settle()
    importlib.invalidate_caches()
    import second_of_two

    assert (first_of_two.value, second_of_two.value, read) == (1, 2, [])


def test_what_came_with_an_import_is_set_aside_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "with_lists.py").write_text("lists = [[] for _ in range(1000)]")
    settle()
    try:
        before = gc.get_freeze_count()
        mine = [[] for _ in range(1000)]
        settle()
        assert gc.get_freeze_count() <= before, "what a task makes is garbage one day"
        import with_lists

        settle()
        assert gc.get_freeze_count() >= before + len(with_lists.lists)
        del mine
    finally:
        gc.unfreeze()


def test_the_workers_of_frames_load_ahead(spark):
    """Modules that nothing else here imports; if Spark told these workers from those of an RDD, frames would never see them."""
    modules = ["imaplib", "mailbox", "sndhdr"]

    def known(batches):
        for batch in batches:
            yield pa.RecordBatch.from_arrays(
                [batch.column(0), pa.array([all(module in sys.modules for module in modules)] * batch.num_rows)], ["id", "known"]
            )

    found = map_batches(spark.range(0, 4, 1, 4), known, "id long, known boolean")
    assert not any(row["known"] for row in found.collect())
    until = time.monotonic() + 60
    while not all(row["known"] for row in found.collect()):
        assert time.monotonic() < until
        load_ahead(spark, modules[:2], partial(importlib.import_module, modules[2]))  # again: there may be more workers than cores
        time.sleep(0.5)
