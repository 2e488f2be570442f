"""What a Python worker is spared between its tasks."""

import gc
import importlib
import sys
import zipfile
import zipimport

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
