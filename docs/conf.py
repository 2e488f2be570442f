"""The documentation's site: `sphinx-build -W --keep-going -n docs site` makes it of the pages in this folder."""

import re
from pathlib import Path

from nalspark.version import VERSION

ROOT = Path(__file__).parents[1]

project = "nalspark"
copyright = "the authors of nalspark"  # noqa: A001
version = release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "sphinxarg.ext"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
suppress_warnings = ["toc.empty_glob"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"nalspark {VERSION}"
html_copy_source = False
html_show_sourcelink = False


def _without_folders(app, docname, source):
    """Name the clone's folders in place of linking them: the site holds files alone."""
    page = Path(app.srcdir) / f"{docname}.md"

    def named(link):
        target = (page.parent / link[2]).resolve()
        return f"`{target.relative_to(ROOT)}/`" if target.is_dir() and target.is_relative_to(ROOT) else link[0]

    source[0] = re.sub(r"\[([^\]\n]+)\]\(([^)#\s]+)\)", named, source[0])


def setup(app):
    """Connect what is above."""
    app.connect("source-read", _without_folders)
