"""A tokenizer that someone else trained: from a file, a folder, or the Hugging Face hub."""

import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import snapshot_download

from everytoken.errors import UserError
from everytoken.tokenizer.files import CHAT_FILE, CONFIG_FILES, FILE
from everytoken.tokenizer.tokenizer import Tokenizer

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def from_pretrained(
    texts: Iterable[str],
    *,
    path: str,
    pad: str | None,
    bos: str | None,
    eos: str | None,
    unk: str | None,
    mask: str | None,
) -> Tokenizer:
    """Load a tokenizer; nothing is learned from the texts.

    Its normalisation stays. Its truncation and padding don't, and it adds no special tokens:
    objectives do.

    Args:
        texts: not read.
        path: a tokenizer.json, a folder with one, or a name on the Hugging Face hub.
        pad, bos, eos, unk, mask: names of special tokens; None for what the files say.

    Raises:
        UserError: there is no such tokenizer, or it can't be read, or lacks a begin and an end.
    """
    named = {"pad": pad, "bos": bos, "eos": eos, "unk": unk, "mask": mask}
    return Tokenizer.load(file_of(path), named)


def file_of(path: str) -> Path:
    """The tokenizer.json of a path, as `from_pretrained` takes it.

    Raises:
        UserError: there is none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return place
    if place.is_dir():
        if not (place / FILE).is_file():
            raise UserError(
                f"tokenizer.path={path} has no {FILE}: write one with "
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            )
        return place / FILE
    if not HUB_NAME.fullmatch(path) or place.suffix == ".json":
        raise UserError(f"tokenizer.path={path}: there is no such file or folder")
    try:
        file = Path(snapshot_download(path, allow_patterns=[FILE, CHAT_FILE, *CONFIG_FILES])) / FILE
    except (OSError, ValueError) as error:  # the hub's errors are one of these
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"tokenizer.path={path} is no file or folder here, and can't be had from the Hugging "
            f"Face hub ({reason})"
        ) from error
    if not file.is_file():
        raise UserError(f"tokenizer.path={path}: the Hugging Face hub has no {FILE} of that name")
    return file
