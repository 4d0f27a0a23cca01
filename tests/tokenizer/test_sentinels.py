"""Tokens that stand for spans: added at the end, and never found in a text."""

from functools import partial
from pathlib import Path

import pytest

from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from everytoken.tokenizer.tokenizer import Tokenizer

TEXT = "a text of <extra_id_0> and <extra_id_11>"
KINDS = {
    "char": train_char,
    "byte": train_byte,
    "bpe": partial(train_bpe, vocabulary_size=270),
}


@pytest.mark.parametrize("kind", KINDS)
def test_sentinels_come_last_and_the_first_of_them_at_the_end(kind: str, tmp_path: Path):
    plain = KINDS[kind]([TEXT])
    tokenizer = KINDS[kind]([TEXT], sentinels=12)
    assert plain.sentinels == []
    assert tokenizer.sentinels == [len(plain) + 11 - i for i in range(12)]
    assert len(tokenizer) == len(plain) + 12
    tokenizer.save(tmp_path / "tokenizer.json")
    for one in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json")):
        assert one.sentinels == tokenizer.sentinels
        assert one.encode([TEXT]) == plain.encode([TEXT])  # what spells one is text
        assert one.decode(one.encode([TEXT])[0]) == TEXT
        spelled = [*one.encode(["a"])[0], one.sentinels[1]]
        assert (one.decode(spelled), one.show(spelled)) == ("a", "a<extra_id_1>")
