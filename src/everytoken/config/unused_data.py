"""Settings of a corpus that its files, its task or its held-out splits have no use for."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from everytoken.config.literal import literal, plain
from everytoken.config.words import parse
from everytoken.corpora.conll import ENDINGS as COLUMNS
from everytoken.corpora.files import at_home, ending, find
from everytoken.corpora.remote import is_remote
from everytoken.corpora.tables import SEPARATED, TABLES
from everytoken.errors import UserError

DIALECT = (("separator", "quoted", "column_names"), SEPARATED.__contains__, "no .csv or .tsv")
WITH_COLUMNS = (("text",), TABLES.__contains__, "no file with columns")

Use = tuple[Collection[str], Callable[[str], bool], str]
"""Keys; of files with which endings they are; what there is instead."""

OF_FILES: dict[str, tuple[Use, ...]] = {
    "Text": (
        DIALECT,
        WITH_COLUMNS,
        (("example",), lambda name: name not in TABLES, "files with columns only"),
    ),
    "Pairs": (DIALECT,),
    "Chats": (DIALECT,),
    "Labelled": (DIALECT,),
    "Hub": (DIALECT,),
    "TaggedWords": (
        (("split", "names"), lambda name: name not in COLUMNS, "files of a word a line only"),
    ),
    "Tokens": (
        (("dtype",), ".bin".__eq__, "no .bin"),
        (("column",), ".arrow".__eq__, "no .arrow"),
    ),
}
"""By the name of the corpus."""

OF_FIELDS = {
    "text": ("text", "labels"),
    "source": ("source",),
    "target": ("target",),
    "form": ("messages",),
    **dict.fromkeys(("word", "tag", "split"), ("words",)),
    **dict.fromkeys(("second", "label", "label_separator", "most_classes"), ("labels",)),
    "names": ("tags", "labels"),
}
"""Keys of data=hub, and for which fields of a task they are."""

OF_SHARES = ("split_seed", "split_by", "most_held_out")
"""Keys that say which examples are held out, where no files do."""


def check_used_data(cfg: DictConfig, words: Sequence[str]) -> None:
    """Refuse what was typed of a corpus and would change nothing.

    Args:
        cfg: the config of a new run.
        words: overrides that were typed.

    Raises:
        UserError: with the key, and why nothing reads it.
    """
    given = {
        override.key_or_group.removeprefix("data."): override.value()
        for override in parse([*words])
        if override.key_or_group.startswith("data.") and not override.is_delete()
    }
    corpus = plain(cfg.data.corpus)
    _check_corpus("data", corpus, given, plain(cfg.task.fields))
    made, parts = corpus.get("parts"), plain(cfg.data.get("parts"))
    for name, part in parts.items() if isinstance(made, dict) and isinstance(parts, dict) else ():
        inside = {k: v for k, v in part.items() if k not in ("data", "weight")}
        typed = {k.removeprefix(f"parts.{name}."): v for k, v in given.items()}
        _check_corpus(f"data.parts.{name}", made[name], inside | typed, plain(cfg.task.fields))


def _check_corpus(
    prefix: str, corpus: Mapping[str, Any], given: Mapping[str, Any], fields: Sequence[str]
) -> None:
    kind = str(corpus["_target_"]).rpartition(".")[2]
    given = {key: value for key, value in given.items() if value is not None}

    def refuse(key: str, why: str) -> None:
        raise UserError(
            f"{prefix}.{key}={literal(given[key])} would change nothing, since {why}: leave it out"
        )

    if kind == "Hub":
        for key in given.keys() & OF_FIELDS.keys():
            if not {*OF_FIELDS[key]} & {*fields}:
                refuse(key, f"the task reads {' and '.join(fields)}")
    if kind == "Prepared" and "cache_gigabytes" in given and not is_remote(corpus["path"]):
        refuse("cache_gigabytes", f"{corpus['path']} is a folder, which is read where it is")
    shared = [key for key in OF_SHARES if key in given]
    if shared and {"val", "test"} <= corpus.keys() and not _draws(corpus):
        refuse(shared[0], "no share of the training examples is held out")
    for keys, fits, instead in OF_FILES.get(kind, ()):
        concerned = [key for key in keys if key in given]
        endings = _endings(corpus) if concerned else None
        if endings is not None and not any(map(fits, endings)):
            refuse(concerned[0], f"there is {instead}")


def _draws(corpus: Mapping[str, Any]) -> bool:
    """True if examples are held out that nobody stored apart."""
    return any(
        not any(place.values() if isinstance(place, dict) else [place])
        and corpus.get(f"{split}_fraction")
        for split, place in ((split, corpus[split]) for split in ("val", "test"))
    )


def _endings(corpus: Mapping[str, Any]) -> set[str] | None:
    """Of all files of a corpus that has some; None if nobody knows without asking a server."""
    if "name" in corpus:  # of the hub, or a folder
        folder = at_home(corpus["name"])
        return {*map(ending, folder.rglob("*"))} if folder.is_dir() else None
    paths = [*_paths(corpus[split] for split in ("train", "val", "test"))]
    if any(is_remote(path) for path in paths):
        return None
    try:
        return {ending(file) for path in paths for file in find(path, None)}
    except UserError:  # which the corpus will tell
        return None


def _paths(places: Iterable[Any]) -> Iterable[Any]:
    """What is named; of pairs only files with columns, for the others have no settings."""
    for place in places:
        path = place.get("path") if isinstance(place, dict) else place
        yield from path if isinstance(path, list) else filter(None, [path])
