"""Turns a report into one HTML file that needs nothing else: its style, its scripts and its data are inside.

What comes from a run - texts, names, warnings - reaches the page as JSON in a block that is not executed, with every
`<`, `>` and `&` written as an escape, and the scripts put it into the page as text, never as HTML. A policy in the
page forbids everything but its own script: no address outside it is ever asked for.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ttstrain import digest

SCRIPTS = ("uplot.min.js", "dom.js", "charts.js", "player.js", "grid.js", "tables.js", "live.js", "main.js")
STYLES = ("uplot.min.css", "style.css")
_MARK = re.compile(r"<!-- fill: (\w+) -->")
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def render(report: Mapping[str, Any], *, live: Mapping[str, Any] | None = None) -> str:
    """Return the page. `live` tells a page that `ttstrain watch` serves where to ask for what is new."""
    title = ", ".join(str(run["name"]) for run in report["runs"])
    fill = {
        "title": html.escape(f"{title} · ttstrain"),
        "policy": _policy(live=live is not None),
        "style": _styles(),
        "script": _scripts(),
        "data": as_json(report),
        "live": as_json(live),
    }
    return _MARK.sub(lambda mark: fill[mark[1]], _text("page.html"))  # one pass: what is filled in is not looked at


def as_json(values: Any) -> str:
    """Write JSON that may stand in a script element, whatever texts it holds."""
    written = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda match: _ESCAPES[match[0]], written)


def encoded(page: str) -> bytes:
    """Return the page's bytes; half of a surrogate pair, as in a broken file name, becomes its escape in JSON."""
    return page.encode("utf-8", "backslashreplace")


def _policy(*, live: bool) -> str:
    """Allow this page's own script and style, pictures inside it, and sounds beside it; nothing else."""
    asks = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src 'sha256-{_sum(_scripts())}'; style-src 'sha256-{_sum(_styles())}'; "
        f"img-src data:; media-src data: file: 'self'; connect-src {asks}; base-uri 'none'; form-action 'none'"
    )


def _sum(text: str) -> str:
    return base64.b64encode(bytes.fromhex(digest.sha256(text))).decode("ascii")


@lru_cache(maxsize=1)
def _scripts() -> str:
    return "\n".join(_text(name).rstrip() for name in SCRIPTS)


@lru_cache(maxsize=1)
def _styles() -> str:
    return "\n".join(_text(name).rstrip() for name in STYLES)


def _text(name: str) -> str:
    return (files("ttstrain.report") / "page" / name).read_text(encoding="utf-8")
