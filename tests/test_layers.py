"""The house's two rules: where pyspark and the learning libraries may appear, and that science programmes do not know each other.

The sources are parsed, not imported, so an import inside a function or under ``if TYPE_CHECKING`` counts as well.
"""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Where each library may be imported, as patterns of paths from the root of the project. `*` also matches `/`.
ALLOWED = {
    "pyspark": (
        "nalspark/tables/*", "nalspark/session.py", "nalspark/daemon.py", "nalspark/pipeline.py", "nalspark/progress.py",
        "nalspark/*/stages.py", "nalspark/learning/inference.py", "nalspark/learning/training.py",
    ),
    "keras": ("nalspark/learning/*",),
    "tensorflow": ("nalspark/learning/*",),
    "umap": ("nalspark/learning/*",),
    "petastorm": ("nalspark/learning/*",),
    # Execute what they read: nothing that comes from a file may be run.
    "pickle": (),
    "cPickle": (),
    "cloudpickle": (),
    "dill": (),
    "marshal": (),
    "shelve": (),
}  # fmt: skip
#: Folders that do not know each other.
STRANGERS = (("nalspark/absorption/", "nalspark.emission"), ("nalspark/emission/", "nalspark.absorption"))
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def imported_modules(tree, path):
    """(line, dotted name) of every import; relative ones are resolved from `path`, and names imported from a package are joined to it."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value)


def violations(source, path):
    """Sentences on what the source of `path` (from the project's root) does that the house forbids."""
    tree = ast.parse(source)
    found = []
    for line, module in imported_modules(tree, path):
        library = module.partition(".")[0]
        if library in ALLOWED and not any(fnmatch(path, pattern) for pattern in ALLOWED[library]):
            found.append(f"{path}:{line} imports {module}")
        found += [
            f"{path}:{line} imports {module}"
            for folder, stranger in STRANGERS
            if path.startswith(folder) and (module == stranger or module.startswith(stranger + "."))
        ]
    for node in ast.walk(tree):
        # `frame.eval(...)` is pandas' or Spark's expression language: it runs no Python, but text that is run is what is forbidden.
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else None
            if name in FORBIDDEN_CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in ("eval", "exec")):
                found.append(f"{path}:{node.lineno} calls {ast.unparse(node.func)}")
            if any(
                word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
                for word in node.keywords
            ):
                found.append(f"{path}:{node.lineno} allows pickle")
            if isinstance(node.func, ast.Attribute) and node.func.attr == "read_pickle":
                found.append(f"{path}:{node.lineno} reads pickle")
    return found


def sources():
    return sorted(path for folder in ("nalspark", "jobs") for path in (ROOT / folder).rglob("*.py"))


def test_the_house_keeps_its_rules():
    files = sources()
    assert len(files) > 30  # the walk found the project
    found = [fault for path in files for fault in violations(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())]
    assert found == []


@pytest.mark.parametrize(
    "path, source",
    [
        ("nalspark/absorption/search.py", "from pyspark.sql import functions as F"),
        ("nalspark/absorption/search.py", "def f():\n    import pyspark.sql.types"),
        ("nalspark/spectra/mystages.py", "import pyspark"),
        ("nalspark/learning/networks.py", "import pyspark"),
        ("jobs/search.py", "import pyspark"),
        ("nalspark/absorption/vet.py", "import umap"),
        ("nalspark/pipeline.py", "from tensorflow import keras"),
        ("nalspark/absorption/search.py", "import keras.layers"),
        ("nalspark/tables/feed.py", "from petastorm import make_reader"),
        ("nalspark/absorption/search.py", "from nalspark.emission import cutouts"),
        ("nalspark/absorption/search.py", "from nalspark.emission.cutouts import cut"),
        ("nalspark/absorption/search.py", "from ..emission import cutouts"),
        ("nalspark/absorption/search.py", "from .. import emission"),
        ("nalspark/absorption/search.py", "from nalspark import emission"),
        ("nalspark/emission/inject.py", "import nalspark.absorption.inject"),
        ("nalspark/emission/inject.py", "import importlib\nimportlib.import_module('nalspark.absorption')"),
        ("nalspark/tables/store.py", "import pickle"),
        ("nalspark/tables/store.py", "from pickle import loads"),
        ("nalspark/settings.py", "value = eval(text)"),
        ("nalspark/settings.py", "exec(text)"),
        ("nalspark/settings.py", "frame.eval('a > b')"),
        ("nalspark/spectra/eigenspectra.py", "import numpy as np\nnp.load(path, allow_pickle=True)"),
        ("nalspark/surveys/catalogs.py", "pd.read_pickle(path)"),
    ],
)  # fmt: skip
def test_a_violation_is_found(path, source):
    assert len(violations(source, path)) >= 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("nalspark/tables/store.py", "from pyspark.sql import DataFrame"),
        ("nalspark/surveys/crossmatch/stages.py", "from pyspark.sql import functions as F"),
        ("nalspark/learning/inference.py", "import pyspark, tensorflow, keras, umap"),
        ("nalspark/emission/stages.py", "from pyspark.sql import DataFrame\nfrom nalspark.spectra import grid"),
        ("nalspark/absorption/search.py", "import numpy as np\n'import pyspark'  # pyspark\nnp.load(path, allow_pickle=False)"),
        ("nalspark/absorption/search.py", "from nalspark.emissions import x"),
    ],
)
def test_what_is_allowed_is_not_complained_of(path, source):
    assert violations(source, path) == []
