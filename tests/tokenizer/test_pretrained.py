"""Tokenizers of others: the ids and special tokens that transformers gives, whatever their kind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from huggingface_hub import constants
from tokenizers import (
    models,
    pre_tokenizers,
)
from transformers import AutoTokenizer

from everytoken.data.masked_lm import MaskedLM
from everytoken.errors import UserError
from everytoken.tokenizer.learned import train_char
from everytoken.tokenizer.pretrained import from_pretrained
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer
from support.others_tokenizers import CORPUS, KINDS, bert, gpt2, llama, t5

TEXTS = [*CORPUS[:3], "🙂 unseen ﬁ text", "  two  spaces ", "a\nb\tc", ""]
SPELLED = "</s> <s> [SEP] <|endoftext|> x</s>y <pad>"
ROLES: dict[str, str | None] = dict.fromkeys(SpecialIds._fields)


FOUND = {
    "bert": SpecialIds(0, 2, 3, 1, 4),
    "gpt2": SpecialIds(0, 0, 0, None, None),
    "t5": SpecialIds(0, 1, 1, 2, None),
    "llama": SpecialIds(2, 1, 2, 0, None),
    "words": SpecialIds(0, 1, 2, 3, None),
    "roberta": SpecialIds(282, 280, 281, None, 283),
    "xlm_roberta": SpecialIds(0, 33, 1, 2, 34),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def folder(path: Path, make: Callable[[], tokenizers.Tokenizer], config: object = None) -> Path:
    """A folder as Hugging Face writes it."""
    make().save(str(path / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **(config or {})}  # pyright: ignore
    (path / "tokenizer_config.json").write_text(json.dumps(described))
    return path


def load(path: Path | str, **named: str) -> Tokenizer:
    return from_pretrained([], path=str(path), **{**ROLES, **named})


# Beside transformers


@every_kind
def test_ids_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    ours = load(folder(tmp_path, KINDS[kind]))
    peer = AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode(TEXTS) == [peer(t, add_special_tokens=False)["input_ids"] for t in TEXTS]
    assert ours.special == FOUND[kind]


@every_kind
def test_transformers_loads_what_is_saved(kind: str, tmp_path: Path) -> None:
    ours = load(folder(tmp_path, KINDS[kind]))
    (tmp_path / "out").mkdir()
    ours.save(tmp_path / "out" / "tokenizer.json")
    peer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tuple(getattr(peer, f"{role}_token_id") for role in ROLES) == ours.special
    for text in (*TEXTS, SPELLED):
        assert ours.encode([text])[0] == peer(text, add_special_tokens=False)["input_ids"]
    again = Tokenizer.load(tmp_path / "out" / "tokenizer.json")
    assert again.special == ours.special
    assert again.encode([*TEXTS, SPELLED]) == ours.encode([*TEXTS, SPELLED])


@every_kind
def test_a_token_that_only_the_config_has_gets_the_id_that_transformers_gives(
    kind: str, tmp_path: Path
) -> None:
    ours = load(folder(tmp_path, KINDS[kind], {"pad_token": {"content": "<new>"}}))
    peer = AutoTokenizer.from_pretrained(tmp_path, pad_token="<new>")
    assert (len(ours), ours.special.pad) == (len(peer), peer.pad_token_id)


@every_kind
def test_text_that_spells_a_special_token_stays_text(kind: str, tmp_path: Path) -> None:
    ours = load(folder(tmp_path, KINDS[kind]))
    (ids,) = ours.encode([SPELLED])
    assert not set(ids) & (set(ours.special) - {ours.special.unk})
    if kind in ("gpt2", "llama", "roberta"):  # these write any text
        assert ours.decode(ids) == SPELLED


# Roles


def test_the_users_names_go_before_the_files_and_these_before_well_known_names(
    tmp_path: Path,
) -> None:
    config = {"eos_token": "[MASK]", "pad_token": "[UNK]"}
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "[PAD]"}')
    ours = load(folder(tmp_path, bert, config), pad="the")
    names = [ours.engine.id_to_token(i or 0) for i in ours.special]
    assert names == ["the", "[CLS]", "[MASK]", "[UNK]", "[MASK]"]
    assert ours.decode([ours.special.pad]) == ""


def test_the_mask_of_a_prompt_is_the_tokenizers_own(tmp_path: Path) -> None:
    ours = load(folder(tmp_path, bert))
    the, fox = ours.encode(["the", "fox"])
    assert ours.encode_with_masks("the [MASK] fox") == [*the, ours.special.mask, *fox]
    [spelled] = ours.encode(["[SEP] fox"])
    assert ours.encode_with_masks("[SEP] fox") == spelled
    without = load(folder(tmp_path, gpt2))
    assert without.encode_with_masks("a <mask>") == without.encode(["a <mask>"])[0]


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm_roberta"])
def test_prompts_with_masks_have_the_ids_that_transformers_gives(kind: str, tmp_path: Path) -> None:
    ours = load(folder(tmp_path, KINDS[kind]))
    peer = AutoTokenizer.from_pretrained(tmp_path)
    mask = ours.engine.id_to_token(ours.special.mask or 0)
    for text in (f"the {mask} fox", f"the{mask} fox", f"{mask} fox", f"the  {mask} {mask}{mask} "):
        assert ours.encode_with_masks(text) == peer(text, add_special_tokens=False)["input_ids"]


def test_nothing_is_left_to_chance(tmp_path: Path) -> None:
    """BPE dropout and sampled pieces are for training elsewhere; what is saved has none."""
    dropout, sampling = gpt2(), t5()
    dropout.model.dropout = 0.5  # pyright: ignore[reportAttributeAccessIssue]
    sampling.model.alpha, sampling.model.nbest_size = 0.1, 8  # pyright: ignore[reportAttributeAccessIssue]
    for engine in (dropout, sampling):
        ours = load(folder(tmp_path, lambda engine=engine: engine))
        ours.save(tmp_path / "tokenizer.json")
        again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        texts = CORPUS[:3]
        for _ in range(20):
            assert ours.encode(texts) == [
                again.encode(text, add_special_tokens=False).ids for text in texts
            ]
            assert ours.encode_with_masks(texts[0]) == ours.encode(texts)[0]


def test_bytes_are_what_texts_are_made_of_though_a_file_calls_them_special(tmp_path: Path) -> None:
    engine = llama()
    engine.add_special_tokens([f"<0x{byte:02X}>" for byte in range(256)])
    ours = load(folder(tmp_path, lambda: engine))
    ids = ours.encode(TEXTS)
    assert [ours.decode(row) for row in ids] == TEXTS
    assert ids == load(folder(tmp_path, llama)).encode(TEXTS)
    ours.save(tmp_path / "tokenizer.json")
    assert (
        AutoTokenizer.from_pretrained(tmp_path).decode(ids[1], skip_special_tokens=True) == TEXTS[1]
    )


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "llama", "words"])
def test_what_goes_on_is_written_behind_its_prompt(kind: str, tmp_path: Path) -> None:
    ours = load(folder(tmp_path, KINDS[kind]))
    if kind == "words":
        ids = ours.encode(["the quick"])[0]
        assert ours.continuation(ids[1:], ids[:1]) == " quick"
        return
    for text in ("the quick brown fox", "hello there", "straße", "hello world, hello there"):
        ids = ours.encode([text])[0]
        for cut in range(len(ids) + 1):
            whole, start = ours.decode(ids), ours.decode(ids[:cut])
            assert start + ours.continuation(ids[cut:], ids[:cut]) == whole or "\ufffd" in start


@pytest.mark.bad_input
def test_masked_lm_needs_a_mask(tmp_path: Path) -> None:
    ours = load(folder(tmp_path, gpt2))
    with pytest.raises(UserError, match=r"needs a mask token .* tokenizer\.mask"):
        MaskedLM(ours.special, len(ours), 8, 8, "windows", corrupted_fraction=0.15)
    named = load(folder(tmp_path, gpt2), mask="h")
    MaskedLM(named.special, len(named), 8, 8, "windows", corrupted_fraction=0.15)


def test_a_file_of_another_name_has_no_part_in_the_config_beside_it(tmp_path: Path) -> None:
    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    folder(tmp_path, llama, config)
    (tmp_path / "mine.json").write_bytes((tmp_path / "tokenizer.json").read_bytes())
    alone, both = load(tmp_path / "mine.json"), load(tmp_path)
    assert (alone.special, alone.added) == (FOUND["llama"], [])
    assert both.added == ["<|begin|>", "<|end|>"]  # told in training


# Bad input


@pytest.mark.bad_input
def test_neither_begin_nor_end_says_which_setting_names_one(tmp_path: Path) -> None:
    engine = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    engine.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer.json: .*neither a begin .* tokenizer\.eos"):
        load(tmp_path)
    assert load(tmp_path, eos="b").special == SpecialIds(1, 1, 1, None, None)


@pytest.mark.bad_input
def test_a_text_that_it_has_no_tokens_for_is_told(tmp_path: Path) -> None:
    engine = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path, eos="b")
    assert ours.encode(["a a"]) == [[0, 0]]
    assert load(tmp_path, eos="b", mask="a").special.mask == 0
    with pytest.raises(UserError, match=r"the tokenizer can't write all texts: .*UNK"):
        ours.encode(["a c"])


@pytest.mark.bad_input
def test_a_named_token_must_be_in_the_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.mask='<msk>' is not in the .* vocabulary"):
        load(folder(tmp_path, bert), mask="<msk>")


@pytest.mark.bad_input
def test_paths_that_hold_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "broken.json").write_text(train_char(["ab"]).engine.to_str()[:-20])
    for path, message in [
        (tmp_path / "missing.json", "there is no such file or folder"),
        (tmp_path / "missing" / "folder", "there is no such file or folder"),
        (tmp_path, "has no tokenizer.json"),
        (tmp_path / "broken.json", "can't read the tokenizer .*broken.json"),
        ("someone/something", "no file or folder here, and can't be had from the Hugging Face hub"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
