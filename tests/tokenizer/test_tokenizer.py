"""What tokenizers promise: text comes back as it was, and no text is taken for a special token."""

import inspect
import json
import random
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import tokenizers as hf_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from everytoken.errors import UserError
from everytoken.tokenizer import tokenizer as tokenizers
from everytoken.tokenizer.learned import SPECIAL, SPECIAL_TOKENS, train_bpe, train_byte, train_char
from everytoken.tokenizer.markup import extended
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer

CORPUS = [
    "low lower lowest newer newest",
    "22 novembre 2026, 2026年11月22日, ٢٢ نوفمبر ٢٠٢٦",
    "tabs\tand\r\nlines\n\n  spaces  ",
    "é is not e\u0301; 👩‍🚀 and 🇫🇷 and ก็ are several characters",
    "<pad><bos><eos> <unk> <mask>",
]
CHARACTERS = sorted(set("".join(CORPUS)))
TRAINERS: dict[str, Callable[[list[str]], Tokenizer]] = {
    "char": train_char,
    "byte": train_byte,
    "bpe": partial(train_bpe, vocabulary_size=300),
}
TOKENIZERS = {kind: train(CORPUS) for kind, train in TRAINERS.items()}

properties = settings(max_examples=50, deadline=None)
every_kind = pytest.mark.parametrize("kind", TRAINERS)
any_text_kinds = pytest.mark.parametrize("kind", ["byte", "bpe"])
# Anything but surrogates, which no UTF-8 text has; often with the names of special tokens.
any_text = st.lists(
    st.one_of(st.text(), st.sampled_from([*SPECIAL_TOKENS, "👩‍🚀", "e\u0301", "\r\n", "\x00", " "]))
).map("".join)
known_text = st.lists(st.one_of(st.sampled_from(CHARACTERS), st.sampled_from(SPECIAL_TOKENS))).map(
    "".join
)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    (ids,) = tokenizer.encode([text])
    return ids


# Round trips


@every_kind
def test_the_texts_of_the_training_come_back(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(CORPUS)] == CORPUS


@any_text_kinds
@properties
@given(any_text)
def test_any_text_comes_back(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.decode(encode(tokenizer, text)) == text


@properties
@given(known_text)
def test_a_text_of_known_characters_comes_back(text: str) -> None:
    tokenizer = TOKENIZERS["char"]
    assert tokenizer.decode(encode(tokenizer, text)) == text


@every_kind
def test_texts_that_do_not_come_back_are_counted(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.round_trip(CORPUS) == (0, None)
    assert tokenizer.round_trip([]) == (0, None)
    known = (0, None) if kind != "char" else (0.25, ("low Ω", "low "))
    assert tokenizer.round_trip(["low", "low Ω", "", "new"]) == known


@every_kind
@properties
@given(text=any_text)
def test_no_text_is_encoded_with_a_special_token(kind: str, text: str) -> None:
    special = set(SPECIAL)
    allowed = {SPECIAL.unk} if kind == "char" else set()
    assert set(encode(TOKENIZERS[kind], text)) & special <= allowed


@every_kind
def test_texts_are_encoded_one_by_one(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    texts = ["lower", "", "new"]
    assert tokenizer.encode(texts) == [encode(tokenizer, text) for text in texts]
    assert tokenizer.encode(texts)[1] == []


@every_kind
@properties
@given(
    text=st.lists(st.sampled_from([*" \n\t\x1c\u2028\u3000ab'é", "'ll", "12", "low", "🙂"])).map(
        "".join
    )
)
def test_a_long_text_is_encoded_in_parts_with_the_same_tokens(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    whole = encode(tokenizer, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "PIECE_CHARACTERS", 1)
        pattern = tokenizers.PIECE.pattern.replace("100000", "1")
        patch.setattr(tokenizers, "PIECE", re.compile(pattern, re.DOTALL))
        assert "".join(tokenizers.PIECE.findall(text)) == text
        assert encode(tokenizer, text) == whole


@every_kind
def test_no_long_text_is_handed_over_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode_now = Tokenizer.encodings

    def watched(self: Tokenizer, texts: list[str]) -> list[hf_tokenizers.Encoding]:
        sizes.append(sum(map(len, texts)))
        return encode_now(self, texts)

    monkeypatch.setattr(Tokenizer, "encodings", watched)
    tokenizer, text = TOKENIZERS[kind], "low newer " * 25_000
    short, long = tokenizer.encode(["low", text])
    assert (tokenizer.decode(short), tokenizer.decode(long)) == ("low", text)
    assert max(sizes) < 100_100


# One token each


@every_kind
def test_special_tokens_are_the_first_five_ids(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.special == (0, 1, 2, 3, 4)
    assert tokenizer.special._fields == ("pad", "bos", "eos", "unk", "mask")
    assert [f"<{name}>" for name in tokenizer.special._fields] == SPECIAL_TOKENS
    names = [tokenizer.engine.id_to_token(i) for i in range(5)]
    assert names == SPECIAL_TOKENS


@every_kind
def test_ids_are_below_the_length(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    vocabulary = tokenizer.engine.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))


def test_char_has_one_token_per_character() -> None:
    tokenizer = train_char(["cab", "<e\u0301"])
    assert len(tokenizer) == 5 + 6
    assert encode(tokenizer, "abc") == [6, 7, 8]
    assert encode(tokenizer, "<e\u0301") == [5, 9, 10]


def test_char_learns_the_given_texts_only() -> None:
    tokenizer = train_char(["ab", "bc"])
    assert set(tokenizer.engine.get_vocab()) == {*SPECIAL_TOKENS, "a", "b", "c"}


def test_char_takes_an_unknown_character_for_unk() -> None:
    tokenizer = train_char(["ab"])
    assert encode(tokenizer, "axb👩‍🚀") == [5, 3, 6, 3, 3, 3]
    assert tokenizer.decode(encode(tokenizer, "axb")) == "ab"


def test_byte_has_one_token_per_byte() -> None:
    tokenizer = TOKENIZERS["byte"]
    assert len(tokenizer) == 5 + 256
    for text in ("abc", "é", "年", "👩‍🚀"):
        assert len(encode(tokenizer, text)) == len(text.encode())


def test_byte_learns_nothing() -> None:
    other = train_byte(["something else"])
    assert other.engine.get_vocab() == TOKENIZERS["byte"].engine.get_vocab()
    assert other.encode(CORPUS) == TOKENIZERS["byte"].encode(CORPUS)


def test_bpe_merges_what_occurs_together() -> None:
    # "lo" and "low" are the most frequent pairs; then the vocabulary is full.
    tokenizer = train_bpe(["low"] * 9 + ["new"] * 2, vocabulary_size=5 + 256 + 2)
    assert len(tokenizer) == 263
    assert [len(ids) for ids in tokenizer.encode(["low", "lo", "new", "wol"])] == [1, 1, 3, 3]


def test_bpe_learns_the_given_texts_only() -> None:
    tokenizer = train_bpe(["aab"] * 9, vocabulary_size=1000)
    learned = set(tokenizer.engine.get_vocab()) - set(TOKENIZERS["byte"].engine.get_vocab())
    assert learned <= {"aa", "ab", "aab"}
    assert "aab" in learned


def test_bpe_learns_the_tokens_of_the_library_alone() -> None:
    """But for words of more than 1,024 bytes, which these texts don't have."""
    texts = [*CORPUS[:-1], "x" * 1024, "年" * 341, " " * 900, inspect.getsource(inspect)]
    peer = hf_tokenizers.Tokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    peer.train_from_iterator(texts, trainer)
    ours = train_bpe(texts, vocabulary_size=900)
    assert json.loads(ours.engine.to_str())["model"] == json.loads(peer.to_str())["model"]
    assert ours.encode(texts) == [peer.encode(text).ids for text in texts]


def test_bpe_is_learned_in_time_that_grows_with_the_text_not_with_its_square() -> None:
    letters = "".join(random.Random(0).choices("ACGT", k=160_000))

    def seconds(text: str) -> float:
        start = time.process_time()
        train_bpe([text], vocabulary_size=600)
        return time.process_time() - start

    many = seconds("\n".join(letters[i : i + 500] for i in range(0, len(letters), 500)))
    assert seconds(letters) < 5 * many  # the square would be hundreds of times as much


def test_a_vocabulary_too_small_for_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocabulary_size must be at least 261, .* got 260"):
        train_bpe(["low"], vocabulary_size=260)
    assert len(train_bpe(["low"], vocabulary_size=261)) == 261


# Masks, and for the eye


@every_kind
def test_each_mask_in_a_prompt_is_the_mask_token(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    a, b, new = tokenizer.encode(["new ", " low", "new"])
    # Words of bpe begin with their space: it is a part of what the mask stands for.
    assert tokenizer.encode_with_masks("new <mask> low") == [*(new if kind == "bpe" else a), 4, *b]
    assert tokenizer.encode_with_masks("<mask><mask> low") == [4, 4, *b]
    assert tokenizer.encode_with_masks("<mask>") == [4]
    assert tokenizer.encode_with_masks("new ") == a
    assert tokenizer.encode_with_masks("") == []


@every_kind
def test_other_special_tokens_in_a_prompt_are_text(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.encode_with_masks("<eos><unk>") == encode(tokenizer, "<eos><unk>")


@every_kind
def test_decode_leaves_special_tokens_out(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    low, newer = tokenizer.encode(["low", "newer"])
    assert tokenizer.decode([1, *low, 4, 3, *newer, 2, 0, 0]) == "lownewer"
    assert tokenizer.decode([]) == ""


@every_kind
def test_show_has_a_sign_for_mask_and_unk(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    low, new = tokenizer.encode(["low é年", "new"])
    assert tokenizer.show([1, *low, 4, 4, *new, 3, 2, 0, 0]) == "low é年▁▁new�"
    assert tokenizer.show(iter(low)) == "low é年"
    assert tokenizer.show([]) == ""


# Files


@every_kind
def test_a_saved_tokenizer_is_the_same(kind: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[kind]
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.engine.get_vocab() == tokenizer.engine.get_vocab()
    assert len(loaded) == len(tokenizer)
    texts = [*CORPUS, "lowest <eos> newest", "unseen ∞ characters"]
    ids = tokenizer.encode(texts)
    assert loaded.encode(texts) == ids
    assert [loaded.decode(i) for i in ids] == [tokenizer.decode(i) for i in ids]
    assert loaded.special == tokenizer.special


@every_kind
def test_older_runs_have_a_tokenizer_json_alone(kind: str, tmp_path: Path) -> None:
    TOKENIZERS[kind].save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.load(tmp_path / "tokenizer.json").special == SPECIAL


@every_kind
def test_transformers_loads_what_is_saved(kind: str, tmp_path: Path) -> None:
    """Texts that spell special tokens are among them."""
    tokenizer = TOKENIZERS[kind]
    tokenizer.save(tmp_path / "tokenizer.json")
    peer = AutoTokenizer.from_pretrained(tmp_path)
    roles = [getattr(peer, f"{role}_token_id") for role in SpecialIds._fields]
    assert roles == list(tokenizer.special)
    assert len(peer) == len(tokenizer)
    texts = [*CORPUS, "x<eos>y <bos>", "unseen ∞ characters, and no  clean - up !"]
    ids = tokenizer.encode(texts)
    assert peer(texts)["input_ids"] == ids
    assert [peer.decode(row, skip_special_tokens=True) for row in ids] == [
        tokenizer.decode(row) for row in ids
    ]


@every_kind
def test_special_tokens_that_are_added_are_its_last(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    more = extended(tokenizer, ["<|a|>", "<|b|>"])
    assert (more.last_special, tokenizer.last_special) == (2, 0)


@every_kind
def test_training_again_gives_the_same(kind: str) -> None:
    again = TRAINERS[kind](CORPUS)
    assert again.engine.to_str() == TOKENIZERS[kind].engine.to_str()


@pytest.mark.bad_input
@pytest.mark.parametrize("content", [None, "", "{}", "not JSON", '{"version": "1.0", "model":'])
def test_a_broken_file_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="can't read the tokenizer") as error:
        Tokenizer.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "text",
    [
        '{"eos_token": ',
        "[1]",
        "[]",
        "3",
        '{"labels": 5}',
        '{"labels": "ab"}',
        '{"chat_template": [1]}',
    ],
)
def test_a_broken_config_file_is_named(tmp_path: Path, text: str) -> None:
    TOKENIZERS["byte"].save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(UserError, match=r"can't read the tokenizer .*tokenizer_config.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")
