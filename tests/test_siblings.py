"""The deletion test: without the emission programme, its jobs and its runs, the rest is whole."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Quick tests that touch the command line, the jobs, the settings, the layers and the learning code that both programmes share.
REST = tuple(f"tests/test_{name}.py" for name in ("layers", "settings", "metrics", "lines", "jobs"))


@pytest.mark.skipif(not (ROOT / "nalspark" / "emission").is_dir(), reason="the emission programme is not there")
def test_the_rest_lives_without_the_emission_programme(tmp_path):
    for name in ("nalspark", "tests", "jobs", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "emission*", "hetdex_*", "*.npz"))
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    assert not list(tmp_path.rglob("*emission*"))
    # An editable install would find the missing modules in the checkout.
    work = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]; "
    work += f"import nalspark; assert nalspark.__file__.startswith({str(tmp_path)!r}); "
    work += "from nalspark.cli import _parser; assert 'emission' not in _parser().format_help(); "
    work += f"import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-m', 'not spark', *{REST!r}]))"
    done = subprocess.run([sys.executable, "-c", work], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def imports(path):
    """Dotted names that a source file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_outside_the_programme_imports_it():
    own = ("nalspark/emission", "tests/emission", "jobs/emission.py")
    files = [path for folder in ("nalspark", "tests", "jobs") for path in (ROOT / folder).rglob("*.py")]
    others = [path for path in files if not path.relative_to(ROOT).as_posix().startswith(own)]
    assert len(others) > 60
    assert [str(path) for path in others if any(name.startswith("nalspark.emission") for name in imports(path))] == []
