"""tokenizer.json, and the files beside it that say who plays which role, as Hugging Face has it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from everytoken.errors import UserError, one_line
from everytoken.tokenizer.special import SpecialIds, find_special
from everytoken.tokenizer.spelling import BYTE

FILE = "tokenizer.json"
LABELS = "labels"
"""Where tokenizer_config.json has the names of the classes that a model tells apart."""

CHAT = "chat_template"
"""Where it has how conversations are written."""

CHAT_FILE = "chat_template.jinja"
"""Or a file of its own has it."""

CONFIG_FILES = ("special_tokens_map.json", "tokenizer_config.json")
"""Where Hugging Face's tokenizers name their special tokens; the later one has the last word."""


def read(
    path: Path, named: Mapping[str, str | None]
) -> tuple[tokenizers.Tokenizer, SpecialIds, list[str], list[str], str | None]:
    """A tokenizer, and what is known of it: the arguments of `Tokenizer`, in their order.

    Args:
        path: the file. What stands beside it is of a tokenizer.json, so a file of another name is
            read alone.
        named: special tokens by role that the user names, see `find_special`.

    Raises:
        UserError: missing or broken file, or one without a begin and an end token.
    """
    file = path
    try:
        engine = _bytes_as_text(tokenizers.Tokenizer.from_file(str(path)))
        described: dict[str, Any] = {}
        beside = map(path.with_name, CONFIG_FILES) if path.name == FILE else ()
        for file in filter(Path.is_file, beside):
            found = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError(f"it holds {found!r:.20}, no object")
            described |= found
        labels, template = _labels(described), _chat_template(described.get(CHAT))
        file = path.with_name(CHAT_FILE)
        if path.name == FILE and file.is_file():
            template = file.read_text(encoding="utf-8")
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"can't read the tokenizer {file}: {one_line(error)}: restore it from a copy, or give "
            "another"
        ) from error
    known = engine.get_vocab()
    try:
        special = find_special(engine, described, named)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    new = sorted(engine.get_vocab().keys() - known.keys())
    return engine, special, new, labels, template


def _labels(described: Mapping[str, Any]) -> list[str]:
    names = described.get(LABELS, [])
    if not isinstance(names, list):
        raise ValueError(f"its {LABELS} are {names!r:.40}, and should be a list of names")
    return [*map(str, names)]


def _chat_template(described: Any) -> str | None:
    """The template; of several, which have names, the one that is called "default"."""
    if isinstance(described, list):
        named = {entry.get("name"): entry.get("template") for entry in described}
        described = named.get("default")
    return described if isinstance(described, str) else None


def _bytes_as_text(engine: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same, in which no byte that a model falls back on is special: texts are made of them."""
    state = json.loads(engine.to_str())
    kept = [token for token in state["added_tokens"] if not BYTE.fullmatch(token["content"])]
    if len(kept) == len(state["added_tokens"]) or not state["model"].get("byte_fallback"):
        return engine
    state["added_tokens"] = kept
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def write(
    engine: tokenizers.Tokenizer,
    special: SpecialIds,
    path: Path,
    labels: Sequence[str] = (),
    chat_template: str | None = None,
) -> None:
    """Write tokenizer.json and, beside it, transformers' tokenizer_config.json."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {
        f"{role}_token": engine.id_to_token(id_)
        for role, id_ in special._asdict().items()
        if id_ is not None
    }
    config["clean_up_tokenization_spaces"] = False
    # Text that spells one is text; but what a template renders is text and markup in one.
    config["split_special_tokens"] = chat_template is None
    if chat_template is not None:
        config[CHAT] = chat_template
    if labels:
        config[LABELS] = [*labels]
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    config_file = path.with_name(CONFIG_FILES[-1])
    for file in (config_file, path, path.with_name(CHAT_FILE)):
        file.unlink(missing_ok=True)  # a link, maybe, in a directory that came from elsewhere
    config_file.write_text(text, encoding="utf-8")
    engine.save(str(path))
