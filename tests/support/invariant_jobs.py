"""Jobs that `test_invariants` runs as one rank or several; each measures, and judges nothing.

What a job finds is written to a file a rank: the tests compare, rank with rank and cut with cut.
"""

import json
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from everytoken.batch import Batch, PaddingSide
from everytoken.callbacks.stop import StopOnRequest, keep_signals
from everytoken.commands.build import quiet_lightning
from everytoken.commands.strategy import environment
from everytoken.corpora.columns import packed
from everytoken.data.balance import Work
from everytoken.data.chat import Chat
from everytoken.data.classes import MultiLabelClassification, SequenceClassification
from everytoken.data.cut import Topology, cut
from everytoken.data.datamodule import Batching, TokenDataModule
from everytoken.data.epoch import BatchBudget
from everytoken.data.masked_lm import MaskedLM
from everytoken.data.objective import CausalLM, ObjectiveFactory, Seq2Seq
from everytoken.data.prefix_lm import PrefixLM
from everytoken.data.span_corruption import SpanCorruption
from everytoken.data.tags import TokenClassification
from everytoken.decoding.sampling import Greedy
from everytoken.model.backends import Backend
from everytoken.model.transformer import Shape, Transformer
from everytoken.runtime.signals import stop_requests
from everytoken.runtime.world import global_rank
from everytoken.tokenizer.learned import train_char
from everytoken.training.distributed import whole
from everytoken.training.macro_f1 import MacroF1
from everytoken.training.module import TokenModule
from everytoken.training.multi_label import MultiLabelF1
from everytoken.training.schedule import constant, warmup_cosine
from everytoken.training.text_metrics import Bleu, TextMetric
from support.helpers import make_model

LETTERS = "abcdefghijklmnopqr"  # with the special tokens they make VOCABULARY
UNCUT = 100_000
STEPS = 20
HALF = STEPS // 2
CLIP_NORM = 0.01
WORK = Work(20)
"""So that ranks share other examples than by tokens."""
LABEL_SMOOTHING = 0.1
NEW_TOKENS = 8
COLLECTIVE_TIMEOUT = timedelta(seconds=60)
"""A rank that waits in vain for another fails instead."""

Texts = dict[str, list[dict[str, str]]]
"""Texts by field of each example, by split."""
Row = tuple[Any, ...]
"""Inputs, labels, source, classes and length of the prefix of one example, without padding."""


TOPOLOGIES = ((1, 1), (1, 4), (1, 7), (2, 1), (2, 3), (3, 2), (4, 1))
FEW = ((1, 1), (1, 7), (2, 3))


class Task(NamedTuple):
    """A task as the config would name it."""

    shape: Shape
    fields: tuple[str, ...]
    objective: ObjectiveFactory
    sizes: Mapping[str, Any] = MappingProxyType({})
    """Of the model's output layer."""
    topologies: Sequence[tuple[int, int]] = TOPOLOGIES
    """Processes, and micro-batches of each in the first step."""
    dtype: torch.dtype = torch.float32
    """Of the weights. With one target a sequence gradients nearly cancel: at some lengths what
    float32 rounds is 2e-6 of them, whatever the topology."""


CLASSES = ["x", "y", "z"]
TASKS = {
    "seq2seq": Task(
        "encoder_decoder",
        ("source", "target"),
        partial(Seq2Seq, start_id=None, max_tokens=1000, long="refuse"),
    ),
    "causal_lm": Task(
        "decoder", ("text",), partial(CausalLM, window_tokens=24, stride_tokens=24, long="windows")
    ),
    "masked_lm": Task(
        "encoder",
        ("text",),
        partial(
            MaskedLM, window_tokens=24, stride_tokens=24, long="windows", corrupted_fraction=0.3
        ),
    ),
    "sft": Task(
        "decoder",
        ("messages",),
        partial(
            Chat,
            template=None,
            learn="all_answers",
            max_tokens=1000,
            long="refuse",
            today="2024-07-26",
        ),
    ),
    "sequence_classification": Task(
        "encoder",
        ("text", "labels"),
        partial(SequenceClassification, max_tokens=24, long="truncate"),
        {"classes": len(CLASSES), "per_sequence": True},
        dtype=torch.float64,
    ),
    "multi_label_classification": Task(
        "encoder",
        ("text", "labels"),
        partial(MultiLabelClassification, max_tokens=24, long="truncate", threshold=0.5),
        {"classes": len(CLASSES), "per_sequence": True},
        FEW,
        torch.float64,
    ),
    "token_classification": Task(
        "encoder",
        ("words", "tags"),
        partial(TokenClassification, max_tokens=20, long="truncate", label="first", split="spaces"),
        {"classes": len(CLASSES)},
        FEW,
    ),
    "span_corruption": Task(
        "encoder_decoder",
        ("text",),
        partial(
            SpanCorruption,
            window_tokens=24,
            stride_tokens=24,
            long="windows",
            corrupted_fraction=0.3,
            mean_span=3.0,
            sentinels=4,
            start_id=None,
        ),
        topologies=FEW,
    ),
    "prefix_lm": Task(
        "decoder",
        ("text",),
        partial(PrefixLM, window_tokens=24, stride_tokens=18, long="windows", two_way=True),
        topologies=FEW,
    ),
}
SHAPED = ("seq2seq", "causal_lm", "masked_lm")
"""One task for each shape of a model."""
SEVERAL = "multi_label_classification"
UNEQUAL = ("seq2seq", "causal_lm", "masked_lm", "sft")
"""Tasks in which a long example has more targets than a short one, whatever is drawn."""
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
EVALUATIONS = (
    ("evaluation", UNCUT, ("val",)),
    ("evaluation", 300, ("val", "test")),
    ("evaluation", 60, ("val",)),
    ("pair", UNCUT, ("val", "test")),
)
"""A corpus; tokens of a micro-batch, so that there is one for all examples, some, many; splits."""


# Data


class Corpus:
    """A source of the texts that it is given."""

    fields: tuple[str, ...] = ("source", "target", "text", "labels", "messages", "words", "tags")

    def __init__(self, texts: Texts, *, several: bool) -> None:
        self.texts = texts
        self.several = several

    def examples(self, split: str) -> list[dict[str, str]]:
        found = [{**texts, "messages": chat(texts)} | tagged(texts) for texts in self.texts[split]]
        return [
            {**texts, "labels": none_to_all(texts)} if self.several else texts for texts in found
        ]


def chat(texts: dict[str, str]) -> str:
    """Two turns: what is learned of them isn't in one place."""
    said = ["a", "b", texts["source"], texts["target"]]
    roles = ("user", "assistant") * 2
    return packed([{"role": r, "content": t} for r, t in zip(roles, said, strict=True)])


def tagged(texts: dict[str, str]) -> dict[str, str]:
    """Words of two letters, each with a tag that its first says."""
    words = [texts["text"][i : i + 2] for i in range(0, len(texts["text"]), 2)]
    return {"words": packed(words), "tags": packed([CLASSES[ord(word[0]) % 3] for word in words])}


def none_to_all(texts: dict[str, str]) -> str:
    """Labels: any number of them."""
    return packed([name for i, name in enumerate(CLASSES) if len(texts["text"]) >> i & 1])


def random_text(chance: np.random.Generator, shortest: int, longest: int) -> str:
    """Short texts are the most frequent, and some are many times as long."""
    length = round(float(shortest * (longest / shortest) ** chance.random()))
    return "".join(chance.choice(list(LETTERS), length))


def random_examples(count: int, seed: int) -> list[dict[str, str]]:
    chance = np.random.default_rng(seed)
    of_labels = np.random.default_rng([seed, 1])  # apart, so that the texts stay what they are
    return [
        {
            "source": random_text(chance, 1, 30),
            "target": random_text(chance, 1, 20),
            "text": random_text(chance, 1, 60),
            "labels": packed([str(name)]),
        }
        for name in of_labels.choice(CLASSES, count)
    ]


def make_data(
    task: str,
    texts: Texts,
    *,
    limit: int = UNCUT,
    batch_size: int = 24,
    num_workers: int = 0,
    padding_side: PaddingSide = "right",
    pad_to_multiple_of: int = 1,
) -> TokenDataModule:
    """The data module of a task, as `build_data` makes it."""
    spans = 4 if task == "span_corruption" else 0
    letters = LETTERS[: len(LETTERS) - spans]  # there are as many tokens for each task
    if "words" in TASKS[task].fields:
        letters = letters[:-1] + " "
    tokenizer = train_char([letters], sentinels=spans)
    tokenizer.chat_template = CHAT_TEMPLATE
    if TASKS[task].sizes:
        tokenizer.labels = CLASSES
    return TokenDataModule(
        source=Corpus(texts, several=task == SEVERAL),
        fields=TASKS[task].fields,
        limit_examples=None,
        make_objective=TASKS[task].objective,
        train_tokenizer=train_char,
        tokenizer=tokenizer,
        splits=tuple(texts),
        batching=Batching(
            BatchBudget(None, batch_size), limit, padding_side, pad_to_multiple_of, WORK
        ),
        num_workers=num_workers,
        seed=1,
        epochs=None,
    )


def counts(task: str, ranks: int) -> list[int]:
    """Micro-batches of each process in the first step, in the topologies of so many processes."""
    return [count for processes, count in TASKS[task].topologies if processes == ranks]


def smoothings(ranks: int, micro_batches: int) -> Sequence[float]:
    """Twenty steps are smoothed in all topologies; single ones in some."""
    return (0.0, LABEL_SMOOTHING) if (ranks, micro_batches) in FEW else (0.0,)


def limit_for(task: str, texts: Texts, ranks: int, micro_batches: int) -> int:
    """The largest `microbatch_tokens` that cuts the first global batch into so many a rank."""
    steps = make_data(task, texts).train_steps()
    first = next(iter(steps.epoch(0)))
    sizes = tuple(steps.lengths[first].tolist())
    return _largest(sizes, int(steps.lengths.max()), ranks, micro_batches)


@cache
def _largest(sizes: tuple[int, ...], longest: int, ranks: int, micro_batches: int) -> int:
    lengths = np.array(sizes)
    for limit in range(sum(sizes), longest - 1, -1):
        made = cut(np.arange(len(sizes)), lengths, Topology(ranks, 0, limit, WORK))
        if len(made) == micro_batches:
            return limit
    raise AssertionError(f"no limit cuts {sizes} into {ranks} x {micro_batches}")


def rows(batch: Batch) -> list[Row]:
    """The examples of a batch without padding; a filler has none."""
    if batch.is_filler:
        return []
    sources: list[Any] = [None] * len(batch.input_ids)
    if batch.source_ids is not None:
        sources = [ids[real].tolist() for ids, real in zip(*batch.first_side, strict=True)]
    nothing = [None] * len(sources)
    of_rows = [nothing if part is None else part for part in (batch.classes, batch.prefix_lengths)]
    more = [[None if x is None else x.tolist() for x in part] for part in of_rows]
    parts = zip(batch.input_ids, batch.labels, batch.is_real, sources, *more, strict=True)
    return [(ids[real].tolist(), labels[real].tolist(), *m) for ids, labels, real, *m in parts]


# Training and evaluation


class Still(Optimizer):
    """Moves nothing: each step starts from the same weights."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.0})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["kept"] = torch.zeros(())  # what shards must be resumed from
        return None if closure is None else closure()


class Targets(Metric):
    """How many target tokens were counted."""

    full_state_update = False
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        assert len(logits) == len(targets)
        self.seen += len(targets)

    def compute(self) -> Tensor:
        return self.seen.double()


class Generated(TextMetric):
    """How many generated texts were counted."""

    full_state_update = False
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: list[str], references: list[str]) -> None:
        assert len(predictions) == len(references)
        self.seen += len(references)

    def compute(self) -> Tensor:
        return self.seen.double()


class Recorder(L.Callback):
    """Keeps what a rank was dealt, what its optimizer saw and what was logged, step by step.

    Args:
        keep_gradients: False for long runs.
    """

    def __init__(self, *, keep_gradients: bool = True) -> None:
        self.keep_gradients = keep_gradients
        self.dealt: list[list[list[Row]]] = []
        self.target_counts: list[int] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.logged: list[dict[str, float]] = []
        self.evaluated: list[list[Row]] = []
        self.evaluated_targets = 0
        self.validated: list[dict[str, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TokenModule)
        if self.keep_gradients:
            named = list(pl_module.model.named_parameters())
            optimizer = trainer.optimizers[0]
            # A hook of the optimizer comes after the module's own, so it sees what clipping left.
            optimizer.register_step_post_hook(lambda *_: self.gradients.append(gradients(named)))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        self.dealt.append([rows(micro_batch) for micro_batch in batch])
        self.target_counts.append(sum(micro_batch.target_count for micro_batch in batch))

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.logged.append(numbers(trainer.callback_metrics))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        self.evaluated.append(rows(batch))
        self.evaluated_targets += batch.target_count

    def on_test_batch_start(self, *arguments: Any) -> None:
        self.on_validation_batch_start(*arguments)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.validated.append(numbers(trainer.callback_metrics))

    def found(self) -> dict[str, Any]:
        names = ("dealt", "target_counts", "gradients", "logged", "validated")
        names = (*names, "evaluated", "evaluated_targets")
        return {name: getattr(self, name) for name in names}


def gradients(named: Sequence[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies, and of sharded ones the whole."""
    assert all(p.grad is not None for _, p in named)
    return {name: whole(p.grad).clone() for name, p in named if p.grad is not None}


def weights(module: TokenModule) -> dict[str, Tensor]:
    return {name: whole(p.detach()).clone() for name, p in module.model.named_parameters()}


def numbers(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def steady_model(task: str, attention: Backend = "auto") -> Transformer:
    """Enlarges little of float32's rounding: one layer, which adds little to large embeddings."""
    sizes = TASKS[task].sizes
    model = make_model(TASKS[task].shape, layers=1, std=0.15, attention=attention, **sizes)
    with torch.no_grad():
        model.embedding.weight *= 3
    return model.to(TASKS[task].dtype)


def make_module(
    task: str,
    data: TokenDataModule,
    *,
    model: Transformer | None = None,
    optimizer: Callable[..., Optimizer] = Still,
    scheduler: Callable[..., LRScheduler] | None = None,
    label_smoothing: float = 0.0,
    clip_norm: float | None = None,
) -> TokenModule:
    generates = task == "seq2seq"
    more: dict[str, Metric] = {"targets": Targets()}
    if generates:
        more |= {"bleu": Bleu("char"), "texts": Generated()}
    if task == SEVERAL:
        more |= {f"{way}_f1": MultiLabelF1(CLASSES, way, 0.5) for way in ("micro", "macro")}
    elif TASKS[task].sizes:
        more["macro_f1"] = MacroF1(CLASSES)
    return TokenModule(
        model=steady_model(task) if model is None else model,
        optimizer=optimizer,
        scheduler=scheduler or partial(constant, warmup_fraction=0),
        total_steps=STEPS,
        seed=1,
        label_smoothing=label_smoothing,
        z_loss=0.0,
        clip_norm=clip_norm,
        special=data.tokenizer.special,
        decode=data.tokenizer.decode,
        max_new_tokens=NEW_TOKENS if generates else None,
        decoding=Greedy(),
        more_metrics=more,
        counts_bytes=task == "causal_lm",
    )


def make_trainer(
    ranks: int, *callbacks: L.Callback, steps: int, strategy: Strategy | None = None, **options: Any
) -> L.Trainer:
    if strategy is None and ranks > 1:
        strategy = DDPStrategy(gradient_as_bucket_view=True, timeout=COLLECTIVE_TIMEOUT)
    if isinstance(strategy, DDPStrategy | ModelParallelStrategy):
        strategy.cluster_environment = environment()  # Lightning's forgets how many ranks there are
    settings: dict[str, Any] = {"limit_val_batches": 0, "log_every_n_steps": 1} | options
    return L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy or "auto",
        max_steps=steps,
        max_epochs=-1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **settings,
    )


def stand_still(
    task: str,
    ranks: int,
    data: TokenDataModule,
    *,
    steps: int = 1,
    trainer: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Make steps that move nothing."""
    recorder = Recorder()
    module = make_module(task, data, **options)
    make_trainer(ranks, recorder, steps=steps, **(trainer or {})).fit(module, datamodule=data)
    return recorder.found()


def adamw_module(task: str, data: TokenDataModule, model: Transformer | None = None) -> TokenModule:
    """Clipping, smoothing, warm-up and decay of weights and rates, all at once."""
    return make_module(
        task,
        data,
        model=model,
        optimizer=partial(AdamW, lr=3e-3, weight_decay=0.1),
        scheduler=partial(warmup_cosine, warmup_fraction=0.3, final_fraction=0.1),
        label_smoothing=LABEL_SMOOTHING,
        clip_norm=CLIP_NORM,
    )


def train(
    task: str,
    ranks: int,
    data: TokenDataModule,
    *callbacks: L.Callback,
    ckpt_path: Path | None = None,
    steps: int = STEPS,
    model: Transformer | None = None,
    **trainer: Any,
) -> tuple[L.Trainer, dict[str, Any]]:
    """Train with AdamW."""
    recorder = Recorder(keep_gradients=False)
    module = adamw_module(task, data, model)
    run = make_trainer(ranks, recorder, *callbacks, steps=steps, **trainer)
    run.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return run, recorder.found() | {"weights": weights(module), "global_step": run.global_step}


def fsdp(tensor_parallel: int = 1) -> ModelParallelStrategy:
    """Lightning's own, of two ranks that read different examples."""
    return ModelParallelStrategy(
        data_parallel_size=2,
        tensor_parallel_size=tensor_parallel,
        save_distributed_checkpoint=False,
        timeout=COLLECTIVE_TIMEOUT,
    )


# The jobs

Found = dict[Any, Any]


def one_batch(ranks: int, texts: dict[str, Texts]) -> Found:
    """Three steps at the same weights: the last is the short one that ends an epoch."""
    found: Found = {}
    for task in TASKS:
        for count in counts(task, ranks):
            limit = limit_for(task, texts["train"], ranks, count)
            for smoothing in smoothings(ranks, count):
                data = make_data(task, texts["train"], limit=limit)
                found[task, count, smoothing] = stand_still(
                    task, ranks, data, steps=3, label_smoothing=smoothing
                )
    return found


def twenty_steps(ranks: int, texts: dict[str, Texts]) -> Found:
    found: Found = {}
    for task in TASKS:
        for count in counts(task, ranks):
            limit = limit_for(task, texts["train"], ranks, count)
            data = make_data(task, texts["train"], limit=limit)
            found[task, count] = train(task, ranks, data)[1]
    return found


def evaluation(ranks: int, texts: dict[str, Texts]) -> Found:
    """Validation and test, of 101 examples and of two."""
    found: Found = {}
    for task, (corpus, limit, splits) in product(TASKS, EVALUATIONS):
        data = make_data(task, texts[corpus], limit=limit)
        model = make_model(TASKS[task].shape, **TASKS[task].sizes)
        module = make_module(task, data, model=model)
        for split in splits:
            recorder = Recorder()
            trainer = make_trainer(ranks, recorder, steps=1, limit_val_batches=None)
            run = trainer.validate if split == "val" else trainer.test
            metrics = run(module, datamodule=data, verbose=False)[0]
            found[task, corpus, limit, split] = recorder.found() | {"metrics": metrics}
    return found


def short_epochs(ranks: int, texts: dict[str, Texts]) -> Found:
    """Epochs of 4, 4 and 2 examples, and epochs of 3 where a batch would hold 4."""
    return {
        corpus: stand_still(
            "seq2seq", ranks, make_data("seq2seq", texts[corpus], limit=70, batch_size=4), steps=6
        )
        for corpus in ("ten", "three")
    }


def unequal_ranks(ranks: int, texts: dict[str, Texts]) -> Found:
    """One example of two target tokens, one of forty."""
    return {task: stand_still(task, ranks, make_data(task, texts["unequal"])) for task in UNEQUAL}


def loader_workers(ranks: int, texts: dict[str, Texts]) -> Found:
    data = make_data("masked_lm", texts["train"], limit=100, num_workers=2)
    return {"masked_lm": stand_still("masked_lm", ranks, data, steps=6)}


def collectives(ranks: int, texts: dict[str, Texts]) -> Found:
    """What goes through collectives in steps whose values nobody logs."""
    made: list[tuple[str, int]] = []
    real = {name: getattr(torch.distributed, name) for name in ("all_reduce", "broadcast")}

    def counted(name: str) -> Callable[..., Any]:
        def collective(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            made.append((name, tensor.numel()))
            return real[name](tensor, *arguments, **options)

        return collective

    found: Found = {}
    for limit in (UNCUT, 100):
        data = make_data("seq2seq", texts["train"], limit=limit)
        recorder = Recorder()
        never: dict[str, Any] = {"log_every_n_steps": 100}
        trainer = keep_signals(make_trainer(ranks, recorder, StopOnRequest(), steps=3, **never))
        made.clear()
        for name in real:
            setattr(torch.distributed, name, counted(name))
        try:
            trainer.fit(make_module("seq2seq", data), datamodule=data)
        finally:
            for name, collective in real.items():
                setattr(torch.distributed, name, collective)
        found[limit] = recorder.found() | {"made": list(made)}
    return found


class AskRank1(L.Callback):
    """Asks rank 1 alone to stop in the third step, before it tells the others its votes or after.

    Args:
        late: after.
    """

    def __init__(self, late: bool) -> None:
        self.late = late

    def ask(self, trainer: L.Trainer, late: bool) -> None:
        if late == self.late and trainer.global_rank == 1 and trainer.global_step == 2 + late:
            signal.raise_signal(signal.SIGUSR1)

    def on_train_batch_start(self, trainer: L.Trainer, *arguments: Any) -> None:
        self.ask(trainer, late=False)

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        self.ask(trainer, late=True)


def asked_to_stop(ranks: int, texts: dict[str, Texts]) -> Found:
    """(steps that were made, why they ended) when one rank is asked, by whether it is late."""
    found: Found = {}
    for late in (False, True):
        data, stop = make_data("causal_lm", texts["train"]), StopOnRequest()
        callbacks = (AskRank1(late), stop)
        never: dict[str, Any] = {"log_every_n_steps": 100}
        trainer = keep_signals(make_trainer(ranks, *callbacks, steps=STEPS, **never))
        trainer.fit(make_module("causal_lm", data), datamodule=data)
        stop_requests.noted.clear()
        found[late] = (trainer.global_step, stop.reason)
    return found


def sharded(ranks: int, texts: dict[str, Texts]) -> Found:
    """One batch with and without clipping, and training, under FSDP2."""
    found: Found = {}
    for task in TASKS:
        limit = limit_for(task, texts["train"], ranks, 3)
        for clip_norm in (None, CLIP_NORM):
            data = make_data(task, texts["train"], limit=limit)
            found[task, clip_norm] = stand_still(
                task, ranks, data, clip_norm=clip_norm, trainer={"strategy": fsdp()}
            )
    data = make_data("seq2seq", texts["train"], limit=100)
    found["trained"] = train("seq2seq", ranks, data, strategy=fsdp())[1]
    return found


def two_dimensions(ranks: int, texts: dict[str, Texts]) -> Found:
    """The same where two ranks of four split the matrices, and evaluation, and a stop."""
    found: Found = {}
    for task in SHAPED:
        data = make_data(task, texts["train"], limit=limit_for(task, texts["train"], 2, 3))
        for clip_norm in (None, CLIP_NORM):
            found[task, clip_norm] = stand_still(
                task, ranks, data, clip_norm=clip_norm, trainer={"strategy": fsdp(2)}
            )
        module = make_module(task, data, model=make_model(TASKS[task].shape))
        evaluated = make_data(task, texts["evaluation"], limit=UNCUT)
        run = make_trainer(ranks, steps=1, limit_val_batches=None, strategy=fsdp(2))
        found[task, "evaluated"] = run.validate(module, datamodule=evaluated, verbose=False)[0]
    data = make_data("seq2seq", texts["train"], limit=100)
    found["trained"] = train("seq2seq", ranks, data, strategy=fsdp(2))[1]
    asked, stop = AskRank1(late=False), StopOnRequest()
    trainer = keep_signals(make_trainer(ranks, asked, stop, steps=STEPS, strategy=fsdp(2)))
    trainer.fit(make_module("seq2seq", data), datamodule=data)
    stop_requests.noted.clear()
    found["stopped"] = (trainer.global_step, stop.reason)
    return found


def clipped(ranks: int, texts: dict[str, Texts]) -> Found:
    return {
        task: stand_still(task, ranks, make_data(task, texts["train"]), clip_norm=CLIP_NORM)
        for task in TASKS
    }


def half_precision(ranks: int, texts: dict[str, Texts]) -> Found:
    found: Found = {}
    for task in TASKS:
        limit = UNCUT if ranks == 1 else limit_for(task, texts["train"], ranks, 3)
        data = make_data(task, texts["train"], limit=limit)
        found[task] = stand_still(
            task,
            ranks,
            data,
            model=steady_model(task).float(),
            trainer={"precision": "bf16-mixed"},
        )
    return found


class SaveAt(L.Callback):
    """Saves a checkpoint after a step, before its validation and after."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.folder / "after_step.ckpt")

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.folder / "after_validation.ckpt")


VALIDATED = {"limit_val_batches": None, "val_check_interval": 5, "check_val_every_n_epoch": None}
CHECKPOINTS = ("after_step", "after_validation", "after_fit")


def first_half(ranks: int, texts: dict[str, Texts], folder: Path) -> Found:
    """Ten of twenty steps; three checkpoints of the same step, each saved at another moment."""
    folder.mkdir(exist_ok=True)
    data = make_data("masked_lm", texts["both"], limit=200)
    trainer, found = train("masked_lm", ranks, data, SaveAt(folder, HALF), steps=HALF, **VALIDATED)
    trainer.save_checkpoint(folder / "after_fit.ckpt")
    return found


def second_half(ranks: int, texts: dict[str, Texts], folder: Path) -> Found:
    """The other ten, from each of the checkpoints."""
    found: Found = {}
    for name in CHECKPOINTS:
        data = make_data("masked_lm", texts["both"], limit=200)
        path = folder / f"{name}.ckpt"
        found[name] = train("masked_lm", ranks, data, ckpt_path=path, **VALIDATED)[1]
    return found


def uninterrupted(ranks: int, texts: dict[str, Texts]) -> Found:
    return train("masked_lm", ranks, make_data("masked_lm", texts["both"]), **VALIDATED)[1]


def everything(folder: str) -> None:
    """All that is measured on this number of ranks."""
    quiet_lightning()
    path = Path(folder)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    texts: dict[str, Texts] = json.loads((path / "texts.json").read_text())
    jobs: dict[str, Callable[..., Found]] = {"one_batch": one_batch, "twenty_steps": twenty_steps}
    if ranks < 4:
        jobs |= {"evaluation": evaluation, "short_epochs": short_epochs}
        jobs |= {"unequal_ranks": unequal_ranks}
    if ranks < 3:
        jobs |= {"half_precision": half_precision, "loader_workers": loader_workers}
    if ranks == 1:
        jobs |= {"clipped": clipped, "uninterrupted": uninterrupted}
        jobs |= {"first_half": partial(first_half, folder=path / "one")}
    if ranks == 2:
        jobs |= {"collectives": collectives, "asked_to_stop": asked_to_stop, "sharded": sharded}
        jobs |= {"first_half": partial(first_half, folder=path / "two")}
        jobs |= {"second_half": partial(second_half, folder=path / "one")}
    if ranks == 4:
        jobs |= {"two_dimensions": two_dimensions}
    found = defaultdict(dict)
    for name, job in jobs.items():
        found[name] = job(ranks, texts)
    torch.save(dict(found), path / f"{ranks}-{global_rank()}.pt")
