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
    """A line on standard error, without secrets and without what would drive a terminal."""
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    name = "\x1b[1;31merror\x1b[0m" if coloured else "error"
    print(f"{name}: {visible(hidden(message))}", file=sys.stderr)
