"""python scripts/export_hf.py run=DIR out=DIR: a run's model for the Hugging Face world.

Loads without this package: see `export` in src/everytoken/commands/export.py.
"""

import sys
from pathlib import Path
from typing import NoReturn

USAGE = "python scripts/export_hf.py run=DIR out=DIR [checkpoint=NAME] [merge=false] [trust=a.Name]"


def main() -> None:
    """Export; mistakes are one line."""
    settings: dict[str, str] = {}
    for word in sys.argv[1:]:
        setting = f"run={word}" if "=" not in word and Path(word).is_dir() else word
        key, _, settings[key] = setting.partition("=")
    if settings.keys() & {"-h", "--help"}:
        print(f"{USAGE}\n\nWrites model, tokenizer and generation config of a run to a new folder.")
        return
    unknown = settings.keys() - {"run", "out", "checkpoint", "merge", "trust"}
    if unknown or not settings.get("run") or not settings.get("out"):
        refuse(f"{f'unknown {min(unknown)}: ' if unknown else ''}use {USAGE}")
    if (merge := settings.get("merge", "true")) not in ("true", "false"):
        refuse(
            f"merge={merge} must be true or false: an adapter is put into its model, or kept apart"
        )
    checkpoint = settings.get("checkpoint") or "best"

    from everytoken.commands.export import export
    from everytoken.errors import UserError  # only here: --help must not wait for torch

    try:
        trusted = settings.get("trust", "").split(",")
        run, out = Path(settings["run"]), Path(settings["out"])
        files = export(run, out, checkpoint, trusted, merge=merge == "true")
        print(f"{settings['out']} has {', '.join(files)}")
    except UserError as error:
        refuse(str(error))


def refuse(why: str) -> NoReturn:
    """End with one line and the exit code of bad usage."""
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
