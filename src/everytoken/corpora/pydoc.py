"""An embedded corpus for language models: the reference documentation inside CPython.

`pydoc_data.topics` holds what `help("TOPIC")` shows, one text a topic, generated from The Python
Language Reference. What it says depends a little on the version of Python.
"""

import hashlib
import random

from everytoken.errors import UserError


class Pydoc:
    """Documentation topics, split by topic.

    Args:
        val_fraction: part of the topics for validation, 0 to 1.
        test_fraction: part of the topics for test, 0 to 1.
        seed: decides which topics.
    """

    fields = ("text",)

    def __init__(self, val_fraction: float, test_fraction: float, seed: int) -> None:
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise UserError(
                f"data.corpus.val_fraction={val_fraction} and data.corpus.test_fraction="
                f"{test_fraction} must not be negative and must leave something to train on"
            )
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.seed = seed

    def examples(self, split: str) -> list[dict[str, str]]:
        """One {"text": …} per topic of the split."""
        from pydoc_data.topics import topics  # 700 kB that only this corpus needs

        # Several names may share a text; a text must stay in one split.
        texts = sorted(set(topics.values()))
        random.Random(self.seed).shuffle(texts)
        val = round(self.val_fraction * len(texts))
        test = round(self.test_fraction * len(texts))
        parts = {"val": texts[:val], "test": texts[val : val + test], "train": texts[val + test :]}
        return [{"text": text} for text in parts[split]]

    def fingerprint(self) -> str:
        """Changes with the texts of this Python."""
        from pydoc_data.topics import topics

        texts = "\0".join(sorted(set(topics.values())))
        return hashlib.sha256(texts.encode()).hexdigest()
