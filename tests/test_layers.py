"""The rules of the house: which libraries may appear where, which room may import which, and no circles.

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
        "nalspark/tables/*", "nalspark/session.py", "nalspark/surroundings.py", "nalspark/executors.py", "nalspark/doctor.py",
        "nalspark/daemon.py", "nalspark/progress.py", "nalspark/*/stages.py",
        "nalspark/pipeline/*", "nalspark/judging/diff.py", "nalspark/learning/inference.py", "nalspark/learning/training.py",
    ),
    "keras": ("nalspark/learning/*",),
    "tensorflow": ("nalspark/learning/*",),
    "umap": ("nalspark/learning/*",),
    "petastorm": ("nalspark/learning/feed.py",),
    "flask": ("nalspark/review/server.py",),
    "werkzeug": ("nalspark/review/server.py",),
    # Execute what they read: nothing that comes from a file may be run.
    "pickle": (),
    "cPickle": (),
    "cloudpickle": (),
    "dill": (),
    "marshal": (),
    "shelve": (),
}  # fmt: skip
#: The floors of the package from the bottom up, and the rooms of each. A room may import rooms of its own floor and of those below.
FLOORS = (
    ("errors", "lines", "incidence", "metrics", "sampling", "version", "compiled", "worker", "stop", "notebook", "surroundings"),
    ("settings", "session", "executors", "progress", "daemon", "doctor"),
    ("spectra", "tables", "plots"),
    ("surveys", "absorption", "mocks", "learning"),
    ("judging", "teaching"),
    ("review",),
    ("pipeline",),
    ("emission",),
    ("cli", "finder", "__main__", "__init__"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: Rooms that do not know each other.
STRANGERS = {frozenset(("emission", room)) for room in ("absorption", "mocks", "judging")} | {
    frozenset(("absorption", room)) for room in ("surveys", "learning")
}
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


def room_of(path):
    """The room of a source file: its folder, or its own name, directly below the package."""
    return path.split("/")[1].removesuffix(".py")


def room_of_module(module):
    """The room that an import of ``nalspark.…`` goes to; what is no room is a name of the package's face."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 and pieces[1] in FLOOR_OF else "__init__"


def circles(sources):
    """The circles of imports among some files, from path → source: sorted lists of paths."""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    graph = {}
    for path, source in sources.items():
        graph[path] = set()
        for _, name in imported_modules(ast.parse(source), path):
            while name and name not in modules:
                name = name.rpartition(".")[0]
            # `import nalspark` is in every import of a part of it, and the face loads what it offers when it is asked for.
            if name and name != "nalspark" and modules[name] != path:
                graph[path].add(modules[name])
    return circles_of(graph)


def arrows_of_rooms(sources):
    """Room → the other rooms that its files import."""
    arrows = {}
    for path, source in sources.items():
        aims = {room_of_module(name) for _, name in imported_modules(ast.parse(source), path) if name.split(".")[0] == "nalspark"}
        arrows.setdefault(room_of(path), set()).update(aims - {room_of(path), "__init__"})
    return arrows


def circles_of(graph):
    """Nodes that reach each other, by the nodes that each one reaches."""
    reached = {}
    for start in graph:
        seen, todo = set(), list(graph[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += graph[node]
        reached[start] = seen
    return sorted({tuple(sorted(b for b in reached[a] if a in reached[b])) for a in graph if a in reached[a]})


def violations(source, path):
    """Sentences on what the source of `path` (from the project's root) does that the house forbids."""
    tree = ast.parse(source)
    found = []
    for line, module in imported_modules(tree, path):
        library = module.partition(".")[0]
        if library in ALLOWED and not any(fnmatch(path, pattern) for pattern in ALLOWED[library]):
            found.append(f"{path}:{line} imports {module}")
        if module.split(".")[0] == "nalspark" and path.startswith("nalspark/"):
            here, there = room_of(path), room_of_module(module)
            if FLOOR_OF[there] > FLOOR_OF[here] or frozenset((here, there)) in STRANGERS:
                found.append(f"{path}:{line} imports {module}")
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


def read_sources():
    """Path from the root → source."""
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sources()}


def test_the_house_keeps_its_rules():
    files = read_sources()
    assert len(files) > 30  # the walk found the project
    assert [fault for path, source in files.items() for fault in violations(source, path)] == []


def test_nobody_imports_in_a_circle_neither_files_nor_rooms():
    files = {path: source for path, source in read_sources().items() if path.startswith("nalspark/")}
    assert circles(files) == []
    assert circles_of(arrows_of_rooms(files)) == []


def test_every_room_has_its_floor():
    assert {room_of(path) for path in read_sources() if path.startswith("nalspark/")} <= set(FLOOR_OF)


@pytest.mark.parametrize("arrow", ["from nalspark.pipeline import status", "def f():\n    from nalspark.mocks.recipes import make_mocks"])
def test_an_added_arrow_is_found(arrow):
    files = {path: source for path, source in read_sources().items() if path.startswith("nalspark/")}
    path = "nalspark/absorption/search.py"
    found = violations(f"{files[path]}\n{arrow}\n", path)
    files[path] += f"\n{arrow}\n"
    assert found or circles_of(arrows_of_rooms(files))


@pytest.mark.parametrize(
    "path, source",
    [
        ("nalspark/absorption/search.py", "from pyspark.sql import functions as F"),
        ("nalspark/absorption/search.py", "def f():\n    import pyspark.sql.types"),
        ("nalspark/spectra/mystages.py", "import pyspark"),
        ("nalspark/learning/networks.py", "import pyspark"),
        ("jobs/search.py", "import pyspark"),
        ("nalspark/absorption/search.py", "import umap"),
        ("nalspark/absorption/chain.py", "from nalspark.learning.models import read_model"),
        ("nalspark/pipeline/door.py", "from nalspark.finder import find"),
        ("nalspark/pipeline/engine.py", "from tensorflow import keras"),
        ("nalspark/absorption/chain.py", "from nalspark.learning.models import read_model"),
        ("nalspark/pipeline/door.py", "from nalspark.finder import find"),
        ("nalspark/absorption/search.py", "import keras.layers"),
        ("nalspark/learning/models.py", "from petastorm import make_reader"),
        ("nalspark/tables/store.py", "from nalspark.pipeline.catalogue import ALL_STAGES"),
        ("nalspark/spectra/stages.py", "from nalspark.absorption import stages"),
        ("nalspark/surveys/reader.py", "def f():\n    from nalspark.absorption.search import find_doublets"),
        ("nalspark/absorption/search.py", "from nalspark.emission import cutouts"),
        ("nalspark/absorption/search.py", "from nalspark.emission.cutouts import cut"),
        ("nalspark/absorption/search.py", "from ..emission import cutouts"),
        ("nalspark/absorption/search.py", "from .. import emission"),
        ("nalspark/absorption/search.py", "from nalspark import emission"),
        ("nalspark/review/labels.py", "from nalspark.emission.frames import CLASSES"),
        ("nalspark/judging/labelled.py", "from nalspark.review.labels import consensus"),
        ("nalspark/emission/inject.py", "import nalspark.mocks.inject"),
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
        ("nalspark/absorption/search.py", "from nalspark.spectra.grid import LATTICE"),
    ],
)
def test_what_is_allowed_is_not_complained_of(path, source):
    assert violations(source, path) == []
