"""Plain values → one HTML file that needs no other, and no network."""

import html
import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from everytoken.runtime.files import write_whole

PARTS = ("page.css", "charts.js", "grid.js", "page.js")
"""What page.html takes in, where it has {{NAME}}."""

MARK = '<meta name="generator" content="everytoken">'


def write_page(file: Path, title: str, content: dict[str, Any]) -> None:
    """Write a page.

    Args:
        file: its place.
        title: of the window.
        content: what page.js draws; JSON values, no NaN.

    Raises:
        OSError: it can't be written; an older page stays as it was.
    """
    write_whole(file, render(title, content))


def render(title: str, content: dict[str, Any]) -> str:
    """The page. Texts can't break out of it: all stand in a JSON block without <, > and &."""
    data = json.dumps(content, allow_nan=False, separators=(",", ":"))  # ASCII only
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    values = {"title": html.escape(title), "mark": MARK, "data": data}
    values |= {name: _part(name) for name in PARTS}
    return re.sub(r"\{\{([\w.]+)\}\}", lambda found: values[found[1]], _part("page.html"))


def runs_on(page: Path) -> list[str] | None:
    """Ids of the runs on a page that `write_page` has written; None if it is none.

    Raises:
        OSError: it can't be read.
    """
    text = page.read_text(encoding="utf-8", errors="replace")
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    if MARK not in text or found is None:
        return None
    return [str(run["identity"].get("id")) for run in json.loads(found[1])["runs"]]


@cache
def _part(name: str) -> str:
    return files("everytoken.report").joinpath(name).read_text(encoding="utf-8")
