"""The documentation's site: `sphinx-build -W --keep-going -n docs site` makes it of the pages in this folder."""

import pydoc
import re
from pathlib import Path

from nalspark.version import VERSION

ROOT = Path(__file__).parents[1]

project = "nalspark"
copyright = "the authors of nalspark"
version = release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "sphinxarg.ext"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}  # in this order: autosummary writes files of the first
suppress_warnings = ["myst.domains"]  # the one of sphinx-argparse has no references of Markdown

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autosummary_generate = True
templates_path = ["_templates"]
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"nalspark {VERSION}"
html_copy_source = False
html_show_sourcelink = False


def name_folders(app, docname, source):
    """Name the clone's folders where a page links them: the site has files alone."""
    _name_folders(Path(app.srcdir) / docname, source)


def name_folders_included(app, path, docname, source):
    """The same of a page that another includes."""
    _name_folders(Path(app.srcdir) / path, source)


def _name_folders(page, source):
    def named(link):
        target = (page.parent / link[2]).resolve()
        return f"`{target.relative_to(ROOT)}/`" if target.is_dir() and target.is_relative_to(ROOT) else link[0]

    source[0] = re.sub(r"\[([^\]\n]+)\]\(([^)#\s]+)\)", named, source[0])


def name_undocumented(app, env, node, text):
    """Name what a docstring refers to and the reference lacks. What is nowhere remains unresolved, which ends the build."""
    target = node.get("reftarget", "")
    names = (target, f"{node.get('py:module')}.{target}", f"{node.get('py:module')}.{node.get('py:class')}.{target}")
    return text if node.get("refdomain") == "py" and any(pydoc.locate(name) is not None for name in names) else None


def setup(app):
    """Connect what is above to the build."""
    app.connect("missing-reference", name_undocumented)
    app.connect("source-read", name_folders)
    app.connect("include-read", name_folders_included)
