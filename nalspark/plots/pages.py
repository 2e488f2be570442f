"""HTML pages from the templates beside this file. All that is put in is text: it is escaped, so that nothing from a file becomes HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


def render(template: str, **values: Any) -> str:
    """Fill a template in.

    Parameters
    ----------
    template : str
        File name in ``templates/``.
    **values
        What it names; one that is missing is an error.
    """
    return _environment().get_template(template).render(**values)


def render_scripted(template: str, script: str, facts: Mapping[str, Any], **values: Any) -> str:
    """Fill in a template whose page has a script, and what the script draws.

    The browser is told to run this script and no other, and to fetch nothing.

    Parameters
    ----------
    template, script : str
        File names in ``templates/``. The template names ``policy``, ``facts`` and ``script``.
    facts : mapping
        What JSON can hold.
    **values
        What else the template names.
    """
    text = files("nalspark.plots").joinpath("templates", script).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    # Without "<" nothing in the facts ends the element that holds them.
    plain = json.dumps(facts, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return render(template, policy=policy, facts=Markup(plain), script=Markup(text), **values)


@cache
def _environment() -> Environment:
    loader = PackageLoader("nalspark.plots")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "prose": _prose}
    return environment


def _number(value: Any) -> str:
    try:
        return f"{int(value):,}"
    except (TypeError, ValueError, OverflowError):
        return "–"


def _prose(text: str) -> Markup:
    """Escaped text in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
