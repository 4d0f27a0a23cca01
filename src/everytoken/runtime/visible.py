"""Texts that can't drive a terminal: what would move its cursor or colour is shown as an escape.

Imports nothing heavy.
"""

import re

UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, separators of lines, and what turns the direction."""


def visible(text: str) -> str:
    r"""The same text, with \x1b in the place of an escape character, and so on."""
    return UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
