"""python scripts/export_hf.py run=DIR out=DIR: a run's model for the Hugging Face world.

Loads without this package: see `export` in src/everytoken/export.py.
"""

import sys
from pathlib import Path
from typing import NoReturn

USAGE = "python scripts/export_hf.py run=DIR out=DIR [checkpoint=best|last]"


def main() -> None:
    """Export; mistakes are one line."""
    words: dict[str, str] = {}
    for word in sys.argv[1:]:
        key, _, words[key] = word.partition("=")
    if words.keys() & {"-h", "--help"}:
        print(f"{USAGE}\n\nWrites model, tokenizer and generation config of a run to a new folder.")
        return
    unknown = words.keys() - {"run", "out", "checkpoint"}
    if unknown or not words.get("run") or not words.get("out"):
        refuse(f"{f'unknown {min(unknown)}: ' if unknown else ''}use {USAGE}")
    if (checkpoint := words.get("checkpoint", "best")) not in ("best", "last"):
        refuse(f"checkpoint must be best or last, got {checkpoint!r}")

    from everytoken.commands.export import export
    from everytoken.errors import UserError  # only here: usage is told at once

    try:
        files = export(Path(words["run"]), Path(words["out"]), checkpoint)
        print(f"{words['out']} has {', '.join(files)}")
    except UserError as error:
        refuse(str(error))


def refuse(why: str) -> NoReturn:
    """End with one line and the exit code of bad usage."""
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
