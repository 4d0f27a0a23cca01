"""What stands in the place of a `Cache` where tokens were prepared."""

import tempfile
import zipfile
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

from everytoken.corpora.prepared import Prepared
from everytoken.data.cache.shards import ShardStore
from everytoken.data.corpus import Corpus
from everytoken.data.objective import Objective
from everytoken.errors import UserError
from everytoken.tokenizer.tokenizer import Tokenizer


class PreparedItems:
    """Tokenizer and items of what was prepared.

    Args:
        source: it.
        corpus: what the task reads of it.

    Raises:
        UserError: it was prepared of something else.
    """

    def __init__(self, source: Prepared, corpus: Corpus) -> None:
        self.source = source
        self.limit = corpus.limit_examples
        if [*source.fields] != [*corpus.fields]:
            was, reads = (" and ".join(fields) for fields in (source.fields, corpus.fields))
            raise UserError(
                f"{source.path} was prepared of {was}, and this task reads {reads}: prepare it for "
                "this task"
            )

    def tokenizer(
        self, train: Callable[[Iterable[str]], Tokenizer], texts: Iterable[str]
    ) -> Tokenizer:
        """The one that the tokens are of; none is trained."""
        return self._load()

    def labels(self) -> list[str]:
        """Names of the classes."""
        return [*self._own.labels]

    def items(self, split: str, tokenizer: Tokenizer, objective: Objective) -> ShardStore:
        """The items of a split.

        Raises:
            UserError: they are of another tokenizer.
        """
        own = self._own
        if tokenizer.engine.to_str() != own.engine.to_str() or tokenizer.special != own.special:
            raise UserError(
                f"{self.source.path} was prepared with another tokenizer than this run has: "
                "prepare it with that"
            )
        if tokenizer.labels != own.labels:
            raise UserError(
                f"{self.source.path} was prepared with other classes ({', '.join(own.labels[:5])}…)"
                f" than this run has ({', '.join(tokenizer.labels[:5])}…)"
            )
        return ShardStore(self.source, split, self.limit)

    @cached_property
    def _own(self) -> Tokenizer:
        return self._load()

    def _load(self) -> Tokenizer:
        file = self.source.shelf.get(self.source.tokenizer)
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(file) as packed:
            packed.extractall(folder)
            return Tokenizer.load(Path(folder) / "tokenizer.json")
