"""The audit passes what is right, and names the cause of what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from everytoken.audit.report import CHECKS
from everytoken.tokenizer.learned import train_char
from support import audit_faults
from support.auditing import IN_PROCESS, audit, failures, failures_with_processes, up_to
from support.finished_runs import make_run
from support.helpers import run

pytestmark = pytest.mark.slow

SMALL = [
    "logger=none",
    "model.layers=1",
    "model.width=32",
    "model.ffn_width=48",
    "data.corpus.train_examples=300",
    "data.corpus.val_examples=40",
    "data.corpus.test_examples=1",
    "data.batch_size=16",
    "task.max_new_tokens=null",
]
# Most windows have one length here, as they do in long documents: nothing may hide behind that.
CAUSAL = [w for w in SMALL if "data.corpus" not in w and "batch" not in w]
CAUSAL += [
    "task=causal_lm",
    "data=pydoc",
    "task.objective.window_tokens=24",
    "data.limit_examples=40",
]
BINARY = [*CAUSAL, "data.corpus._target_=support.outside.Binary"]
PAIRS = [*[w.replace("null", "6") for w in SMALL], "task=prefix_lm", "data=dates"]
GENERATES = [w.replace("null", "6") if "new_tokens" in w else w for w in SMALL]
PREFIXES = [w.replace("causal_lm", "prefix_lm") for w in CAUSAL]
MASKED = [w.replace("causal_lm", "masked_lm") for w in CAUSAL]
SPANS = [w.replace("causal_lm", "span_corruption") for w in CAUSAL]
CHATS = [*SMALL, "task=sft", "data=chat_dates"]
TAGS = [*SMALL, "task=token_classification", "data=date_parts"]
ALL_TAGS = [*TAGS, "task.objective.label=all", "tokenizer=bpe", "tokenizer.vocabulary_size=300"]
CLASSES = [w.replace("=300", "=900") for w in SMALL]  # each language is among them
SEVERAL = [*CLASSES, "task=multi_label_classification", "data=date_languages"]
CLASSES += ["task=sequence_classification", "data=date_languages"]


@pytest.fixture(autouse=True)
def no_fault_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    audit_faults.restore()


BUCKETED = ["model.attention=bucketed"]
PADDED = ["model.attention=padded", "model.window=3", "z_loss=0.01"]
BOTH = {"seq2seq": SMALL, "causal": CAUSAL, "prefixes": PREFIXES, "masked": MASKED}
"""Each shape and kind of mask: what the way of attending could be wrong with."""
ONE = {"pairs": PAIRS, "spans": SPANS, "several": SEVERAL, "tags": TAGS, "chats": CHATS}


@pytest.mark.parametrize(
    ("words", "more"),
    [
        *(pytest.param(BOTH[n], BUCKETED, id=f"{n}-bucketed") for n in BOTH),
        *(pytest.param(BOTH[n], PADDED, id=f"{n}-padded") for n in BOTH),
        *(pytest.param(ONE[n], BUCKETED, id=f"{n}-bucketed") for n in ONE),
        pytest.param(ALL_TAGS, PADDED, id="all tags-padded"),  # a target of the encoder
        pytest.param(CLASSES, PADDED, id="classes-padded"),  # a target of the whole sequence
    ],
)
def test_what_is_right_passes(tmp_path: Path, words: list[str], more: list[str]) -> None:
    assert failures(audit(tmp_path, [*words, *more], IN_PROCESS)) == {}


@pytest.mark.parametrize(
    ("fault", "words", "first"),
    [
        ("first_answer_token_not_learned", CHATS, "answers"),
        ("prompt_token_learned", CHATS, "answers"),
        ("end_of_turn_not_learned", CHATS, "answers"),
        ("template_swallows_a_space", CHATS, "answers"),
        ("targets_not_shifted", CAUSAL, "targets hidden"),
        ("targets_not_shifted", SMALL, "targets hidden"),
        ("targets_shifted_twice", CAUSAL, "targets hidden"),
        ("corruption_left_out", MASKED, "targets hidden"),
        ("long_sequences_cut_off", SMALL, "collation"),
        ("pad_as_end_of_sequence_ignored", SMALL, "end of sequence"),
        ("pad_as_end_of_sequence_ignored", MASKED, "end of sequence"),
        ("targets_not_shifted", BINARY, "targets hidden"),
        ("windows_lose_a_token", CAUSAL, "windows"),
        ("windows_lose_a_token", SPANS, "windows"),
        ("windows_overlap", CAUSAL, "windows"),
        ("last_step_dropped", CAUSAL, "epoch"),
        ("never_shuffled", CAUSAL, "epoch"),
        ("corruption_depends_on_loader_worker", MASKED, "loader workers"),
        ("dropout_in_evaluation", CAUSAL, "repeatable"),
        ("batch_norm", CAUSAL, "batch statistics"),
        ("queries_know_the_length", CAUSAL, "causality"),
        ("key_padding_mask_dropped", MASKED, "padding length"),
        ("mask_inverted", MASKED, "context"),
        ("mask_inverted", SMALL, "context"),
        ("cross_attention_sees_source_padding", SMALL, "padding length"),
        ("position_ids_count_left_padding", SMALL, "padding side"),
        ("causal_mask_off_by_one", CAUSAL, "causality"),
        ("prefix_mask_off_by_one", PREFIXES, "causality"),
        ("prefix_shows_a_target", PREFIXES, "targets hidden"),
        ("prefix_shows_a_target", PAIRS, "targets hidden"),
        ("sequences_mixed", CAUSAL, "isolation"),
        ("feed_forward_detached", SMALL, "parameters"),
        ("overflow_in_half_precision", [*CAUSAL, "precision=fp16"], "precision"),
        ("loss_in_half_precision", [*CAUSAL, "precision=bf16"], "precision"),
        ("evaluation_overlooks_autocast", [*CAUSAL, "precision=bf16"], "precision"),
        ("ignore_index_is_a_token", CAUSAL, "vocabulary"),
        ("label_smoothing_over_padding", SMALL, "label smoothing"),
        ("label_smoothing_left_out", SMALL, "label smoothing"),
        ("hits_over_padding", SMALL, "hits"),
        ("sum_instead_of_mean", SMALL, "step"),
        ("mean_per_micro_batch", SMALL, "accumulation"),
        ("mean_per_micro_batch", CAUSAL, "accumulation"),
        ("empty_micro_batch_is_nan", SMALL, "empty micro-batch"),
        ("accuracy_over_padding", [*SMALL, "tokenizer=bpe"], "metrics"),
        ("metrics_not_reset", CAUSAL, "metrics"),
        ("end_of_sequence_never_matches", GENERATES, "metrics"),
        (
            "bleu_averaged_per_batch",
            [*GENERATES, "metrics=bleu", "metrics.bleu.tokenize=char"],
            "metric aggregation",
        ),
        ("accuracy_averaged_per_batch", [*SMALL, "tokenizer=bpe"], "metric aggregation"),
        ("accuracy_averaged_per_batch", CAUSAL, "metric aggregation"),
        ("class_off_by_one", CLASSES, "classes"),
        ("class_off_by_one", SEVERAL, "classes"),
        ("class_learned_at_every_token", CLASSES, "classes"),
        ("mask_inverted", CLASSES, "context"),
        ("tags_one_token_late", TAGS, "tags"),
        ("tag_on_last_token", TAGS, "tags"),
        ("tag_on_every_token", TAGS, "tags"),
        ("tag_on_every_token", ALL_TAGS, "tags"),
        ("tags_lost_where_texts_are_cut", TAGS, "tags"),
        ("entities_averaged_per_batch", TAGS, "metric aggregation"),
        ("macro_f1_averaged_per_batch", CLASSES, "metric aggregation"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, fault: str, words: list[str], first: str) -> None:
    words = [*words, "model._target_=support.audit_faults.planted", f"+model.fault={fault}"]
    assert list(failures(audit(tmp_path, words, up_to(first, IN_PROCESS)))) == [first]


@pytest.mark.parametrize(
    ("fault", "words", "first"),
    [
        ("corruption_depends_on_rank", MASKED, "draws"),
        ("evaluation_repeats_examples", SMALL, "evaluation counts"),
        ("last_batch_dropped", SMALL, "evaluation counts"),
        ("mean_per_rank", CAUSAL, "two processes"),
        ("clipped_after_each_micro_batch", SMALL, "clipping"),
        ("clip_norm_grows_with_ranks", SMALL, "clipping"),
        ("metrics_of_rank_0_only", SMALL, "three processes"),
    ],
)
def test_a_fault_among_processes_is_named(
    tmp_path: Path, fault: str, words: list[str], first: str
) -> None:
    words = [*words, "model._target_=support.audit_faults.planted", f"+model.fault={fault}"]
    checks = up_to(first, [c for c in CHECKS if c.name == first or c in IN_PROCESS])
    assert list(failures_with_processes(tmp_path, words, checks)) == [first]


def test_an_adapter_and_rows_of_new_tokens_are_the_same_on_processes(tmp_path: Path) -> None:
    tokenizer = train_char(["user: a date", "assistant 1998-02-07"])
    sizes = [word for word in SMALL if "corpus" not in word and "batch" not in word]
    make_run(tmp_path / "base", [*sizes, "task=causal_lm", "data=pydoc"], tokenizer)
    words = [*CHATS, f"init_from={tmp_path}/base", "adapter=lora"]
    checks = [check for check in CHECKS if check.name in ("parameters", "two processes")]
    assert failures_with_processes(tmp_path, words, checks) == {}


@pytest.mark.parametrize(
    ("model", "named"),
    [("everytoken.model.Transformer", []), ("support.outside.WrongWhenSplit", ["two processes"])],
)
def test_processes_that_split_matrices_are_audited_if_they_are_to_train(
    tmp_path: Path, model: str, named: list[str]
) -> None:
    split = ["trainer=fsdp_cpu", "trainer.tensor_parallel=2", f"model._target_={model}"]
    checks = [check for check in CHECKS if check.name == "two processes"]
    assert list(failures_with_processes(tmp_path, [*SMALL, *split], checks)) == named


# Models of one's own


@pytest.mark.parametrize(
    ("model", "words", "first", "note"),
    [
        ("Positions", CAUSAL, None, ""),
        ("WrongShape", CAUSAL, "contract", "one hidden state per target token"),
        ("SmallHead", CAUSAL, "contract", "head gives"),
        ("GivesNan", CAUSAL, "contract", "NaN"),
        ("NoGradient", CAUSAL, "contract", "no gradient"),
        ("BreaksOnTheLeft", CAUSAL, "padding side", "ValueError: shapes don't match"),
        ("ReadsPaddingBackwards", MASKED, "padding length", "wider padding"),
        ("ReadsPaddingBackwards", CAUSAL, "causality", "depend on a later input"),
    ],
)
def test_a_model_of_ones_own_is_told_what_it_breaks(
    tmp_path: Path, model: str, words: list[str], first: str | None, note: str
) -> None:
    results = audit(tmp_path, words, IN_PROCESS, model)
    found = failures(results)
    assert next(iter(found), None) == first
    assert first is None or note in found[first]
    if first == "contract":  # the others could only fail too
        assert results[-1].check.name == "contract"


def test_a_failed_audit_exits_with_1_and_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "wrong.yaml").write_text(
        "_target_: support.outside.WrongShape\nwidth: 16\n"
    )
    words = [word for word in CAUSAL if "model." not in word]
    done = run(tmp_path, "audit", "--config-dir", ".", "model=wrong", "hydra.run.dir=run", *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "contract fails: UserError: WrongShape must return one hidden state" in done.stdout
    assert "look at the model's `forward`" in done.stdout
    assert not json.loads((tmp_path / "run" / "audit.json").read_text())["passed"]
    assert "Traceback" not in done.stdout + done.stderr
