"""One text, one meaning: the ids of training and the answers of `generate`, whoever reads the run.

For each kind of tokenizer: in the run's directory, and in the folder that is exported from it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken

from everytoken.commands.answers import Answerer
from everytoken.commands.export import export
from everytoken.commands.factory import instantiate
from everytoken.corpora.conversations import Conversation
from everytoken.data.prefix_lm import PrefixLM
from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from everytoken.tokenizer.pretrained import from_pretrained
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer
from support.chats import made, said
from support.finished_runs import make_run
from support.others_tokenizers import CORPUS, KINDS

NAMES = [
    "<s>",
    "</s>",
    "<pad>",
    "<mask>",
    "<eos>",
    "<bos>",
    "[SEP]",
    "[CLS]",
    "[MASK]",
    "[PAD]",
    "<|endoftext|>",
]
SPELLED = [*(f"the {name} quick{name} fox" for name in NAMES), "".join(NAMES), "x</s>y"]
TEXTS = [*CORPUS[:3], "the quick", "  two  spaces ", "a\nb\tc", "unseen 🙂 ﬁ", *SPELLED]
LEARNED: dict[str, Callable[[list[str]], Tokenizer]] = {
    "char": train_char,
    "byte": train_byte,
    "bpe": partial(train_bpe, vocabulary_size=280),
}
SMALL = ["logger=none", "model.layers=1", "model.width=32", "model.ffn_width=48", "data=pydoc"]


def tokenizer_of(kind: str, folder: Path) -> Tokenizer:
    """Each kind has a mask of its own."""
    if kind in LEARNED:
        return LEARNED[kind](CORPUS)
    engine = KINDS[kind]()
    if kind == "bert":
        named = {"mask": "[MASK]"}
    else:
        named = {"mask": "<mask>"}
        if engine.token_to_id("<mask>") is None:
            engine.add_special_tokens([AddedToken("<mask>", special=True)])
    engine.save(str(folder / "tokenizer.json"))
    roles: dict[str, str | None] = dict.fromkeys(SpecialIds._fields)
    return from_pretrained([], path=str(folder), **{**roles, **named})


every_kind = pytest.mark.parametrize("kind", [*LEARNED, *KINDS])


@every_kind
def test_a_continued_text(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, module, tokenizer = make_run(
        tmp_path / "run", [*SMALL, "task=causal_lm"], tokenizer_of(kind, tmp_path)
    )
    ids = tokenizer.encode(TEXTS)
    bos = tokenizer.special.bos
    beside = transformers.AutoTokenizer.from_pretrained(run.path)
    assert [beside(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == ids
    out = tmp_path / "out"
    export(run.path, out, "best")
    exported = transformers.AutoTokenizer.from_pretrained(out)
    assert exported(TEXTS)["input_ids"] == [[bos, *row] for row in ids]
    assert "warning" not in capsys.readouterr().out

    network: Any = transformers.AutoModelForCausalLM.from_pretrained(out)
    prompts = exported(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    new = network.generate(**prompts, max_new_tokens=8)[:, prompts["input_ids"].shape[1] :]
    objective: Any = instantiate(
        run.config, "task.objective", special=tokenizer.special, vocabulary=len(tokenizer)
    )
    ours = [*Answerer(module, objective, tokenizer, 8).answers(TEXTS, 5)]
    assert len(set(ours)) > 1
    whole = partial(exported.decode, skip_special_tokens=True)
    for text, row, more, answer in zip(TEXTS, ids, new.tolist(), ours, strict=True):
        if whole([*row, *more]).startswith(whole(row)):  # broken bytes may change those before
            assert whole(row) + answer == whole([*row, *more]), text


@every_kind
def test_a_text_with_masks(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, module, tokenizer = make_run(
        tmp_path / "run", [*SMALL, "task=masked_lm"], tokenizer_of(kind, tmp_path)
    )
    eos, mask = tokenizer.special.eos, tokenizer.special.mask
    beside = transformers.AutoTokenizer.from_pretrained(run.path)
    ids = tokenizer.encode(TEXTS)
    assert [beside(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == ids
    out = tmp_path / "out"
    export(run.path, out, "best")
    exported = transformers.AutoTokenizer.from_pretrained(out)
    name = exported.mask_token
    added = tokenizer.engine.get_added_tokens_decoder()
    special = [token.content for token in added.values() if token.special]
    plain = [text for text in TEXTS if not any(name in text for name in special)]
    assert exported(plain)["input_ids"] == [[*row, eos] for row in tokenizer.encode(plain)]
    # transformers finds all special tokens or none, and masks have to be found.
    [told] = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert any(f"{token} " in told for token in special)
    assert name not in told

    network: Any = transformers.AutoModelForMaskedLM.from_pretrained(out).eval()
    objective: Any = instantiate(
        run.config, "task.objective", special=tokenizer.special, vocabulary=len(tokenizer)
    )
    prompts = [text.replace("quick", name) for text in plain] + [f"{name} a{name}", f"a {name} "]
    ours = [*Answerer(module, objective, tokenizer, 8).answers(prompts, 5)]
    for text, answer in zip(prompts, ours, strict=True):
        read = torch.tensor(exported(text)["input_ids"])
        assert read.tolist() == [*tokenizer.encode_with_masks(text), eos]
        with torch.no_grad():
            best = network(read[None]).logits[0].argmax(-1)
        filled = read.where(read != mask, best).tolist()
        places = (read == mask).nonzero().flatten().tolist()
        assert answer == tokenizer.decode_filled(filled, places)
        if kind in ("char", "byte", "bert", "words", "roberta"):  # no space is written twice
            assert answer == exported.decode(filled, skip_special_tokens=True)


@every_kind
def test_an_answer_is_written_as_evaluation_compares_it(kind: str, tmp_path: Path) -> None:
    """Without the space that a text has which goes on: it is a text of its own. A blank line has
    none.
    """
    tokenizer = tokenizer_of(kind, tmp_path)
    known = tokenizer.decode(tokenizer.encode(["hello there"])[0])
    chat = made(tokenizer, "chatml")
    asked = chat.ask(Conversation(said("the quick")), "it")
    pairs = PrefixLM(
        tokenizer.special, len(tokenizer), 64, 64, "refuse", fields=["source", "target"]
    )
    [source] = tokenizer.encode(["the quick"])
    for objective, its, prompt in (
        (chat, chat.tokenizer, asked),
        (pairs, tokenizer, pairs.prompt(source)),
    ):
        ids = its.encode([known])
        module: Any = SimpleNamespace(device="cpu", generate=lambda *_, ids=ids: ids)
        answerer = Answerer(module, objective, its, 8)
        assert answerer.answer([prompt], [0]) == [its.decode(ids[0])]
        assert answerer.prompt(" ", 0) is None
