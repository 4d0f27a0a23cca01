"""Each fault that is planted for `python -m audit` is also caught by `audit(…)`, or can't be."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

import everytoken
from everytoken.audit import audit, prepare
from support import audit_faults, foreign, foreign_texts
from support.auditing import foreign_failures

SMALL = (
    *("model.layers=1", "model.width=32", "model.ffn_width=48", "task.max_new_tokens=null"),
    *("data.batch_size=16", "data.corpus.train_examples=300", "data.corpus.val_examples=40"),
    *("data.corpus.test_examples=1", "logger=none"),
)
NO_DATA = tuple(word for word in SMALL if "data." not in word)
CAUSAL = (
    *NO_DATA,
    *("task=causal_lm", "data=pydoc", "task.objective.window_tokens=24", "data.limit_examples=40"),
)
MASKED = tuple(word.replace("causal_lm", "masked_lm") for word in CAUSAL)
PREFIXES = tuple(word.replace("causal_lm", "prefix_lm") for word in CAUSAL)
TAGS = (*SMALL, "task=token_classification", "data=date_parts")
CLASSES = (*NO_DATA, "task=sequence_classification", "data=labelled", "data.path=labelled.csv")
PIECES = (*SMALL, "tokenizer=bpe")
BLEU = (
    *(word.replace("null", "6") for word in SMALL),
    "metrics=bleu",
    "metrics.bleu.tokenize=char",
)

OURS: dict[str, tuple[tuple[str, ...], str]] = {
    "dropout_in_evaluation": (CAUSAL, "repeatable"),
    "targets_not_shifted": (CAUSAL, "targets hidden"),
    "targets_shifted_twice": (CAUSAL, "targets hidden"),
    "corruption_left_out": (MASKED, "targets hidden"),
    "causal_mask_off_by_one": (CAUSAL, "targets hidden"),
    "prefix_mask_off_by_one": (PREFIXES, "targets hidden"),
    "prefix_shows_a_target": (PREFIXES, "targets hidden"),
    "last_step_dropped": (SMALL, "epoch"),
    "never_shuffled": (CAUSAL, "epoch"),
    "ignore_index_is_a_token": (CAUSAL, "vocabulary"),
    "key_padding_mask_dropped": (MASKED, "padding length"),
    "cross_attention_sees_source_padding": (SMALL, "padding length"),
    "position_ids_count_left_padding": (SMALL, "padding side"),
    "queries_know_the_length": (CAUSAL, "causality"),
    "mask_inverted": (SMALL, "parameters"),
    "feed_forward_detached": (SMALL, "parameters"),
    "batch_norm": (CAUSAL, "batch statistics"),
    "overflow_in_half_precision": (CAUSAL, "precision"),
    "loss_in_half_precision": (CAUSAL, "precision"),
    "evaluation_overlooks_autocast": (CAUSAL, "precision"),
    "sequences_mixed": (CAUSAL, "step"),
    "sum_instead_of_mean": (SMALL, "step"),
    "mean_per_micro_batch": (SMALL, "accumulation"),
    "empty_micro_batch_is_nan": (SMALL, "no targets"),
    "label_smoothing_over_padding": (CAUSAL, "label smoothing"),
    "label_smoothing_left_out": (SMALL, "label smoothing"),
    "hits_over_padding": (CAUSAL, "padding length"),
    "accuracy_over_padding": (PIECES, "evaluation"),
    "accuracy_averaged_per_batch": (CAUSAL, "evaluation"),
    "metrics_not_reset": (CAUSAL, "evaluation"),
    "bleu_averaged_per_batch": (BLEU, "evaluation"),
    "entities_averaged_per_batch": (TAGS, "evaluation"),
    "macro_f1_averaged_per_batch": (CLASSES, "evaluation"),
    "mean_per_rank": (CAUSAL, "two processes"),
    "corruption_depends_on_rank": (MASKED, "two processes"),
    "clipped_after_each_micro_batch": (SMALL, "clipping"),
    "clip_norm_grows_with_ranks": (SMALL, "clipping"),
    "evaluation_repeats_examples": (SMALL, "evaluation on processes"),
    "last_batch_dropped": (SMALL, "evaluation on processes"),
    "metrics_of_rank_0_only": (SMALL, "evaluation on processes"),
}
"""Planted into our own module or data: what is built, and the first check that fails."""

LOOPS: dict[str, tuple[str, str]] = {
    "long_sequences_cut_off": ("long sequences are cut off", "collation"),
    "pad_as_end_of_sequence_ignored": ("the end isn't learned", "end of sequence"),
    "end_of_turn_not_learned": ("the end isn't learned", "end of sequence"),
}
"""In another form in a bare loop, see `support.foreign`."""

TEXTS = {
    "first_answer_token_not_learned": "a first answer token isn't",
    "prompt_token_learned": "a prompt token is learned",
    "template_swallows_a_space": "the template swallows a space",
    "tags_one_token_late": "tags are a token late",
    "tag_on_last_token": "the last token has the tag",
}
"""In loops that learn texts, see `support.foreign_texts`."""

BUILT_IN = ("batch_norm", "accuracy_averaged_per_batch", "metrics_of_rank_0_only")
"""What is planted into constructors, so that nothing that was built before has it."""

NOT_SEEN = {
    "windows_lose_a_token": "an example is what a dataset gives: how texts are cut is before that",
    "windows_overlap": "the same; with a stride it is meant",
    "corruption_depends_on_loader_worker": "nobody else promises the same draws with more workers",
    "end_of_sequence_never_matches": "what a metric compares is known to nobody else",
    "class_off_by_one": "which class a text has is known to its data alone",
    "class_learned_at_every_token": "labels at every token are what taggers learn",
    "tag_on_every_token": "is taken for meant: transformers' documentation offers it",
    "tags_lost_where_texts_are_cut": "a limit of the user's cuts off tags too",
}
"""Why code that isn't ours can't be asked for it."""


@cache
def built(words: tuple[str, ...]) -> everytoken.Parts:
    torch.manual_seed(0)
    return everytoken.build(*words)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    rows = [f"{'good ' * (i % 7)}{i},{i % 3}" for i in range(400)]
    Path("labelled.csv").write_text("\n".join(["text,label", *rows]))
    torch.manual_seed(0)
    yield
    audit_faults.restore()


def test_each_planted_fault_is_caught_or_says_why_not():
    places = (OURS, LOOPS, TEXTS, NOT_SEEN)
    assert sorted(name for place in places for name in place) == sorted(audit_faults.FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("words", [SMALL, CAUSAL, MASKED], ids=["seq2seq", "causal", "masked"])
def test_our_own_pass(words: tuple[str, ...]):
    parts = built(words)
    assert audit(parts.module, datamodule=parts.data).failures == []


@pytest.mark.slow
@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("fault", OURS)
def test_a_fault_of_ours_is_named(fault: str):
    words, first = OURS[fault]
    parts = None if fault in BUILT_IN else built(words)
    audit_faults.FAULTS[fault]()
    parts = parts or everytoken.build(*words)
    precision = "fp16" if "overflow" in fault else "bf16"
    door = prepare(parts.module, datamodule=parts.data, precision=precision)
    assert foreign_failures(door, first) == [first]


@pytest.mark.parametrize("fault", LOOPS)
def test_a_fault_of_a_loop_is_named(fault: str):
    wrong, first = LOOPS[fault]
    loop = foreign_texts.Chats(wrong) if "turn" in fault else foreign.Loop(wrong)
    assert foreign_failures(prepare(loop.step, **loop.given), first) == [first]


@pytest.mark.parametrize("fault", TEXTS)
def test_a_fault_of_texts_is_named(fault: str):
    kind = foreign_texts.Tags if "tag" in fault else foreign_texts.Chats
    loop = kind(TEXTS[fault])
    assert foreign_failures(prepare(loop.step, **loop.given), "learned part") == ["learned part"]


@pytest.mark.parametrize("kind", [foreign_texts.Chats, foreign_texts.Tags])
def test_texts_that_are_learned_rightly_pass(kind: type[foreign_texts.Texts]):
    loop = kind()
    report = audit(loop.step, **loop.given, processes=False)
    assert report.failures == ["accumulation"]  # its mean is a micro-batch's
    applies = {r.check.name for r in report.results if r.finding.applies}
    assert {"learned part", "vocabulary", "padding side"} <= applies
