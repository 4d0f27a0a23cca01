"""What is wrong with what a corpus gives, in words."""

import traceback
from pathlib import Path
from typing import Any

from everytoken.corpora.documents import Document
from everytoken.corpora.long_text import LongText


def place_of(error: Exception, kind: type) -> str:
    """Where in the source's own module an error came up, in words."""
    frames = traceback.walk_tb(error.__traceback__)
    own = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in frames
        if frame.f_globals.get("__name__") == kind.__module__
    ]
    return own[-1] if own else ""


def mistake_of(value: Any) -> str:
    """What is wrong with a value that should be text; "" for nothing."""
    if not isinstance(value, str):
        if isinstance(value, Document | LongText):
            return ""
        return f"is {value!r:.40}, which is no text: mend or leave out such examples"
    if value.isascii():
        return ""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"has half a character (a lone surrogate) at {error.start}: decode it again"
    return ""
