"""Keeps secrets out of messages: passwords in URLs, and secrets of the environment."""

import os
import re
import sys

from everytoken.runtime.visible import visible

SECRET = re.compile(
    r"(^|_)((api|access|private|secret)_?key|secret|password|passwd|passphrase|credentials?)$"
    r"|^((api|access|auth|use_auth|bearer|refresh|session|hf|hub|wandb|github)_?)?token$",
    re.IGNORECASE,
)
"""Names of secrets; not mask_token, max_tokens or tokenizer."""

IN_URL = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]+(?=@)|(?<=https://)[^/\s@:]+(?=@)")
"""User and password of a URL, or a token in their place."""


def hidden(message: str) -> str:
    """A message without passwords of URLs and without the secrets of this environment."""
    for name, value in os.environ.items():
        is_secret = SECRET.search(name) or name.upper().endswith("TOKEN")
        if is_secret and len(value) > 5 and value in message:
            message = message.replace(value, f"${name}")
    return IN_URL.sub("…", message)


def print_error(message: str) -> None:
    """A line on standard error, without secrets and without what would drive a terminal.

    At a terminal it is broken between words.
    """
    told = f": {visible(hidden(message))}"
    if not sys.stderr.isatty():
        print(f"error{told}", file=sys.stderr)
        return
    from rich.console import Console  # only here, for it takes a while to import
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error", "bold red"), told))
