"""How a run's files were read, which says nothing about others that are named in their place."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from everytoken.config.check import Command
from everytoken.config.composing import composed
from everytoken.config.literal import literal
from everytoken.config.words import parse
from everytoken.corpora.separated import Dialect
from everytoken.errors import UserError
from everytoken.runtime.console import log

READING = tuple(field.name for field in fields(Dialect))
"""Settings that describe files: of others they are seen anew, or asked for."""

SPLITS = ("train", "val", "test")
"""None has examples of a later one."""

DRAWN = ("val_fraction", "test_fraction", "seed")
"""Which examples are held out where none are stored."""


def read_anew(
    own: Mapping[str, Any],
    other: Mapping[str, Any],
    typed: list[str],
    command: Command,
    splits: Collection[str],
) -> list[str]:
    """Overrides that take back how a run's files were read, where others are read.

    Args:
        own: data of the run.
        other: the same under what was typed.
        typed: overrides.
        command: they belong to.
        splits: that are read.

    Raises:
        UserError: files of the run and others would be read together, in one way.
    """
    if isinstance(parts := other["corpus"].get("parts"), Mapping):
        before = own["corpus"].get("parts", {})
        return [
            line
            for name in parts.keys() & before.keys()
            for line in _part_anew(name, before[name], parts[name], typed, splits)
        ]
    given = {override.key_or_group.rpartition(".")[2] for override in parse(typed)}
    found = {key: own["corpus"].get(key) for key in READING if key not in given}
    found = {key: value for key, value in found.items() if value is not None}
    others = [split for split in splits if place(own, split) != place(other, split)]
    if not found or not others:
        return []
    told = " ".join(f"data.{key}={literal(value)}" for key, value in found.items())
    if same := [split for split in splits if split not in others]:
        raise UserError(
            f"{in_words(other, others[0])} would be read together with {in_words(own, same[0])}, "
            f"which is read by {told}: type {told} if this is right for both, or name files for "
            f"the {same[0]} split too"
        )
    files = in_words(own, others[0]), in_words(other, others[0])
    log(f"{told} was said of {files[0]}, and isn't taken over for {files[1]}")
    chosen = [line for line in typed if line.startswith("data=")]
    usual = composed(command.folder, "train", chosen).data
    return [
        f"{prefix}.{key}={literal(usual.get(key))}"
        for prefix, part in (("data", other), ("data.corpus", other["corpus"]))
        for key in found
        if key in part
    ]


def _part_anew(
    name: str,
    own: Mapping[str, Any],
    other: Mapping[str, Any],
    typed: list[str],
    splits: Collection[str],
) -> list[str]:
    """The same for a part of `data=mix`, whose splits come from one setting or from its own."""
    before, after = {"corpus": own}, {"corpus": other}
    others = [split for split in splits if place(before, split) != place(after, split)]
    at = f"data.parts.{name}"
    said = {override.key_or_group for override in parse(typed)}
    inside = [o.value() for o in parse(typed) if o.key_or_group in ("data.parts", at)]
    named = [part.get(name, part) for part in inside if isinstance(part, Mapping)]
    given = {str(key) for part in named if isinstance(part, Mapping) for key in part}
    found = {
        key: own[key]
        for key in READING
        if own.get(key) is not None and f"{at}.{key}" not in said and key not in given
    }
    if not found or not others:
        return []
    told = " ".join(f"{at}.{key}={literal(value)}" for key, value in found.items())
    files = in_words(before, others[0]), in_words(after, others[0])
    if same := [split for split in splits if split not in others]:
        raise UserError(
            f"{files[1]} would be read together with {in_words(before, same[0])}, which "
            f"is read by {told}: type {told} if this is right for both, or name files for the "
            f"{same[0]} split too"
        )
    log(f"{told} was said of {files[0]}, and isn't taken over for {files[1]}")
    return [f"++{at}.{key}=null" for key in found]


def check_measured(
    own: Mapping[str, Any], other: Mapping[str, Any], typed: list[str], split: str
) -> None:
    """Refuse other files for splits that aren't measured: results would be those of the run's own.

    Args:
        own: data of the run.
        other: the same under what was typed.
        typed: overrides.
        split: that is measured.

    Raises:
        UserError: with what to type.
    """
    before, after = own["corpus"], other["corpus"]
    differing = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    earlier = SPLITS[: SPLITS.index(split)]
    if not differing or differing - {*earlier, *DRAWN} or not _stored(after.get(split)):
        return
    keys = {o.key_or_group.removeprefix("data."): o.get_value_string() for o in parse(typed)}
    renamed = {key.rpartition("_")[2]: value for key, value in keys.items()}
    give = [
        f"data.{split}_{k}={v}" for k, v in renamed.items() if k in ("path", "source", "target")
    ]
    raise UserError(
        f"{' '.join(typed)} changes nothing of what is measured: {split} examples are those of "
        f"{in_words(own, split)}: " + (f"give {' '.join(give)}" if give else "leave it out")
    )


def place(data: Mapping[str, Any], split: str) -> Any:
    """Where examples of a split are stored; where those of training are, if they aren't."""
    corpus = data["corpus"]
    files = _stored(corpus.get(split)) or _stored(corpus.get("train"))
    return [corpus.get(key) for key in ("_target_", "name", "config")] + [files]


def in_words(data: Mapping[str, Any], split: str) -> str:
    """The same, for messages."""
    *_, name, _, files = place(data, split)
    parts = " and ".join(map(str, files if isinstance(files, list) else [files]))
    return parts if name is None else f"split {parts} of {name}"


def _stored(place: Any) -> Any:
    """A path or several, or a split's name; None if nothing is stored."""
    if not isinstance(place, Mapping):
        return list(place) if isinstance(place, list) else place
    if place.get("path") is not None:
        return place["path"]
    sides = [place.get("source"), place.get("target")]
    return None if None in sides else sides
