"""A long text is encoded in pieces, with the tokens of the whole, whatever its tokenizer."""

from collections.abc import Iterator

import pytest

from everytoken.tokenizer import pieces as module
from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from everytoken.tokenizer.pieces import pieces
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer
from support import others_tokenizers

PROSE = (
    "The quick brown fox, hello!\n\n  Über straße don't; 年月日。年月 hello \t\n there  12 345\n"
    "hello hello, world (fox) …\r\n the end.   The quick fox’s\n"
)
TEXTS = {
    "prose": PROSE * 60,
    "no spaces": "年月日straße" * 600,
    "one letter": "a" * 5000,
    "blank lines": "\n \n\n  \n" * 800 + "fox",
}
OWN = {
    "char": train_char([PROSE]),
    "byte": train_byte([]),
    "bpe": train_bpe([PROSE] * 3, 300),
}
OTHERS = {
    name: Tokenizer(make(), SpecialIds(0, 1, 2, None, None))
    for name, make in others_tokenizers.KINDS.items()
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"PIECE": 500, "MOST": 100_000, "BESIDE": 60}.items():
        monkeypatch.setattr(module, f"{name}_CHARACTERS", value)


def blocks(text: str, size: int) -> Iterator[str]:
    yield from (text[at : at + size] for at in range(0, len(text), size))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("tokenizer", [*OWN.values(), *OTHERS.values()], ids=[*OWN, *OTHERS])
def test_the_tokens_are_those_of_the_whole(tokenizer: Tokenizer, text: str):
    whole = tokenizer.as_text(tokenizer.encodings([text])[0].ids)
    parts = [*tokenizer.encode_blocks(blocks(text, 777))]
    assert [id_ for part in parts for id_ in part] == whole
    if text is TEXTS["prose"]:
        assert len(parts) > 10


def test_a_text_that_can_not_be_cut_is_cut_where_it_is_too_long():
    most = module.MOST_CHARACTERS
    found = [*pieces(blocks("a" * 3 * most, 10_000), lambda text: [len(text)])]
    assert [len(piece) for piece in found] == [most, most, most]
