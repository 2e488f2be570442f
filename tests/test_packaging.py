"""What an installation needs: every module loads in the base install, and the version is said in one place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nalspark.__main__ import main
from nalspark.version import VERSION

ROOT = Path(__file__).parents[1]
#: What only the extras bring, and what must not be there by chance.
ABSENT = ("petastorm", "umap", "setuptools", "pkg_resources", "distutils", "grpc")
LOAD_ALL = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
import nalspark
names = [module.name for module in pkgutil.walk_packages(nalspark.__path__, "nalspark.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_loads_in_the_base_install() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD_ALL], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 60


def test_the_command_says_what_the_base_install_leaves_to_an_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nalspark.__main__.find_spec", lambda name: None)
    assert main() == 2
    assert capsys.readouterr().err == "nalspark: Spark is not installed here: pip install 'nalspark[standard]'.\n"


def test_the_version_is_read_without_loading_the_package() -> None:
    told = subprocess.run([sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert told.stdout.split() == [VERSION], told.stderr[-3000:]
