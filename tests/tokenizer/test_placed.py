"""Tokens know the part of the text that they stand for, and are those of `encode`."""

import pytest

from everytoken.tokenizer import tokenizer as kinds
from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from everytoken.tokenizer.placed import encode_with_offsets
from everytoken.tokenizer.tokenizer import Tokenizer

TEXTS = ["one two", "zwölf 🦊 三!", "", " <eos> <mask>x", "a\nb\tc  d", "unknown: ß"]


@pytest.mark.parametrize(
    "tokenizer",
    [train_char(["one tw zölf🦊三"]), train_byte([]), train_bpe(["one two one two"] * 9, 280)],
    ids=["char", "byte", "bpe"],
)
def test_tokens_cover_the_text(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "one two " * 40
    right = tokenizer.encode([long])[0]
    monkeypatch.setattr(kinds, "PIECE", kinds.re.compile(r".{9}.*?\S(?=[ \n])|.+", kinds.re.DOTALL))
    texts = [*TEXTS, long]
    for text, placed in zip(texts, encode_with_offsets(tokenizer, texts), strict=True):
        ids = right if text is long else tokenizer.encode([text])[0]
        assert [token.id for token in placed] == ids
        covered = {i for token in placed for i in range(token.begin, token.end)}
        assert covered == {*range(len(text))}
        begins = [token.begin for token in placed]
        assert begins == sorted(begins)
        for token in placed:
            if text.isascii() and token.id != tokenizer.special.unk:
                assert tokenizer.decode([token.id]) == text[token.begin : token.end]
