"""Tokenized corpora on disk: each is made once, and found again by what it was made of.

All that items are made of is hashed into the name of their folder: the source's fingerprint, the
configs of source, tokenizer and objective, the code behind them, and versions. So nothing stale is
ever read, and any folder may be deleted at any time. What has no such key, or can't be written,
isn't kept.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from hydra.utils import get_object

from everytoken.corpora.files import state
from everytoken.data.cache.checked import check_once
from everytoken.data.cache.code_state import NoSourceError, code_of
from everytoken.data.cache.folder import StoreError, store_errors, sweep, writing
from everytoken.data.cache.packed import Packed
from everytoken.data.cache.parts import Parts
from everytoken.data.cache.store import ItemList, ItemStore, write_packed
from everytoken.data.cache.token_store import TokenStore, write_places
from everytoken.data.corpus import Corpus
from everytoken.data.counts import Counter
from everytoken.data.objective import Item, Objective, Windowed
from everytoken.errors import UserError
from everytoken.runtime.console import Watch, log, warn, watched
from everytoken.runtime.locks import acquire
from everytoken.runtime.settings import cores
from everytoken.tokenizer.tokenizer import Tokenizer

Pairs = list[tuple[Item, int]]
"""Items with the real tokens of their examples."""

Kept = TypeVar("Kept", Tokenizer, ItemStore)


class Cache:
    """Tokenizers and items of one corpus, from disk if they are there.

    Args:
        folder: where all runs keep theirs; is made if it is needed. None keeps nothing.
        configs: by name ("source", "tokenizer", "objective"), `_target_` and arguments of each,
            all plain values.
        corpus: what is tokenized. If its source has no `fingerprint`, nothing is kept.
    """

    def __init__(self, folder: Path | None, configs: Mapping[str, Any], corpus: Corpus) -> None:
        self.folder = (folder or Path()).expanduser()
        self.configs = configs
        self.corpus = corpus
        self.is_usable = folder is not None and hasattr(corpus.source, "fingerprint")

    def tokenizer(
        self, train: Callable[[Iterable[str]], Tokenizer], texts: Iterable[str]
    ) -> Tokenizer:
        """The tokenizer of the training split's texts.

        Args:
            train: makes it. If it reads no text, it is called by every run.
            texts: read only if there is no such tokenizer yet.
        """
        read = _Counted(texts)

        @cache
        def trained() -> Tokenizer:
            with Watch("training the tokenizer", lambda: read.count, unit="texts"):
                tokenizer = train(read)
            if sample := tokenizer.learned_from:
                log(f"the tokenizer is learned from {sample}")
            return tokenizer

        def build(folder: Path) -> Tokenizer:
            tokenizer = trained()
            if not read.started or type(tokenizer) is not Tokenizer:
                return tokenizer
            with writing(folder) as new:
                _save(tokenizer, new)
            return _load(folder)  # what later runs get

        key = self._key("tokenizer")
        kept = key and self._kept(self.folder / key / "tokenizer", _load, build)
        return kept or trained()

    def labels(self) -> list[str]:
        """Names of the classes in the training split."""
        return self.corpus.labels("train")

    def items(self, split: str, tokenizer: Tokenizer, objective: Objective) -> ItemStore | ItemList:
        """The items of a split, made if they are not there; in memory if they can't be kept.

        Their notes are what `Counter` counts.

        Raises:
            UserError: as `Corpus.items` does.
        """

        # Of ids that are in files already, only where each item lies is kept.
        placed = getattr(self.corpus.source, "has_ids", False) and isinstance(objective, Windowed)

        def build(folder: Path) -> ItemStore:
            parts = Parts(folder.with_name(f"{folder.name}.parts"))
            made, notes = self._tokenized(split, tokenizer, objective, parts)
            if placed:
                write_places(folder, unpacked(made), notes)
            else:
                write_packed(folder, packed(made), notes)
            parts.remove()
            if parts.found:
                log(f"tokenizing {split} went on from {parts.found:,} parts that were there")
            return kind(folder)

        kind = TokenStore if placed else ItemStore
        key = self._key("objective", tokenizer, objective)
        if kept := key and self._kept(self.folder / key / split, kind, build):
            return kept
        made, notes = self._tokenized(split, tokenizer, objective)
        return ItemList(unpacked(made), notes)

    def _kept(
        self, folder: Path, load: Callable[[Path], Kept], build: Callable[[Path], Kept]
    ) -> Kept | None:
        """What a folder keeps, built if it isn't there; None if it can't be kept."""
        if found := _found(load, folder):
            return found
        with self._locked(folder):
            if found := _found(load, folder, warns=True):
                return found
            if self.is_usable:
                try:
                    return build(folder)
                except StoreError as error:
                    self._give_up(error)
        return None

    def _tokenized(
        self, split: str, tokenizer: Tokenizer, objective: Objective, parts: Parts | None = None
    ) -> tuple[Iterator[Packed | Pairs], Callable[[], dict[str, Any]]]:
        """Items while they are made, and what gives the counts afterwards."""
        counter = Counter(tokenizer.special.unk)
        made = self.corpus.made(split, tokenizer, objective, counter, cores(), parts)
        total = self.corpus.size(split)
        what = f"tokenizing {split}"
        shown = watched(made, what, lambda: counter.counts.records, total, "records")
        return shown, counter.finish

    def _key(
        self,
        part: str,
        tokenizer: Tokenizer | None = None,
        objective: Objective | None = None,
    ) -> str | None:
        if not self.is_usable:
            return None
        try:
            return self._hash(part, tokenizer, objective)
        except (NoSourceError, ImportError, SyntaxError, TypeError, ValueError) as error:
            self._give_up(error)
            return None

    def _hash(self, part: str, tokenizer: Tokenizer | None, objective: Objective | None) -> str:
        if tokenizer is not None and type(tokenizer) is not Tokenizer:
            raise NoSourceError(f"{type(tokenizer).__name__} may be more than its tokenizer.json")
        source, configs = self.corpus.source, [self.configs["source"], self.configs[part]]
        code = [Corpus, ItemStore, TokenStore, Tokenizer, type(source), *_targets(configs)]
        if objective is not None:
            code.append(type(objective))
        made_of = {
            "fingerprint": str(source.fingerprint()),  # pyright: ignore
            "fields": self.corpus.fields,
            "limit_examples": self.corpus.limit_examples,
            "configs": configs,
            "files": _files(configs),
            "tokenizer": tokenizer
            and (tokenizer.engine.to_str(), tokenizer.special, tokenizer.labels),
            "code": code_of(code),
            "python": platform.python_version(),
        }
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """One process at a time builds a path. The system unlocks for a process that is killed."""
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            acquire(lock, "waiting for another process that tokenizes the same texts")
        except NotImplementedError:
            pass  # no locks on this file system: several build, and the first one's is kept
        except OSError as error:
            self._give_up(error)
        if lock.is_locked:
            sweep(path)
        try:
            yield
        finally:
            lock.release()

    def _give_up(self, why: Exception) -> None:
        self.is_usable = False
        warn(
            f"tokenized texts stay in memory and aren't kept in {self.folder} ({why}): "
            "see data.cache_dir"
        )


def packed(made: Iterable[Packed | Pairs]) -> Iterator[Packed]:
    """Raises StoreError where items can't be."""
    for some in made:
        with store_errors():
            one = some if isinstance(some, Packed) else Packed.of(some)
        yield one


def unpacked(made: Iterable[Packed | Pairs]) -> Iterator[tuple[Item, int]]:
    """One after the other."""
    for some in made:
        yield from some.items() if isinstance(some, Packed) else some


class _Counted:
    """Values, whether anyone has asked for them, and how many were given."""

    def __init__(self, values: Iterable[str]) -> None:
        self.values = values
        self.started = False
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        self.started = True
        for value in self.values:
            self.count += 1
            yield value


def _found(load: Callable[[Path], Kept], folder: Path, warns: bool = False) -> Kept | None:
    """What a folder keeps; None if it isn't there or is damaged, of which it may warn."""
    try:
        return load(folder)
    except StoreError as error:
        if warns and folder.exists():
            warn(f"{folder} was damaged ({error}): it is made anew")
        return None


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    try:
        tokenizer.save(folder / "tokenizer.json")
    except Exception as error:  # the library raises bare Exception
        raise StoreError(str(error)) from error


def _load(folder: Path) -> Tokenizer:
    check_once(folder)
    try:
        return Tokenizer.load(folder / "tokenizer.json")
    except UserError as error:
        raise StoreError(str(error)) from error


def _targets(configs: Any) -> list[Any]:
    """What `_target_`s name, and the names: they may be given in a module of their own."""
    names = [value for key, value in _leaves(configs) if key == "_target_"]
    return [*map(get_object, names), *names]


def _files(configs: Any) -> list[tuple[str, int, int, int]]:
    """The state of the files that arguments name: it is their content that matters."""
    paths = {value for _, value in _leaves(configs) if isinstance(value, str)}
    return state(Path(path) for path in sorted(paths) if os.path.isfile(path))


def _leaves(config: Any, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """All plain values in nested mappings and lists, with their keys."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _leaves(value, name)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _leaves(value, key)
    else:
        yield key, config
