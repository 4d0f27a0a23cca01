"""The Hugging Face Trainer as a contestant, with its own models, collators and samplers."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from benchmarks.corpora import SPECIAL, Corpus, id_tokenizer
from benchmarks.gate import Gate
from benchmarks.plain import LOG_EVERY, spread
from everytoken.batch import IGNORE_INDEX
from everytoken.tokenizer.learned import SPECIAL_TOKENS

Features = dict[str, Any]


class Examples(Dataset[Features]):
    """Features of each example."""

    def __init__(self, features: list[Features]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Features:
        return dict(self.features[index])


class Turns(transformers.TrainerCallback):
    """Waits between optimizer steps.

    Args:
        gate: is waited at.
        counts: real tokens and positions of the micro-batches that were collated, in their order.
        accumulate: micro-batches of an optimizer step.
    """

    def __init__(self, gate: Gate, counts: deque[tuple[int, int]], accumulate: int) -> None:
        self.gate = gate
        self.counts = counts
        self.accumulate = accumulate

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Everything is built."""
        self.gate.ready(sum(p.numel() for p in kwargs["model"].parameters()))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step."""
        # The loader is a micro-batch ahead: what it collated last isn't trained on yet.
        found = [self.counts.popleft() for _ in range(self.accumulate)]
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        real, positions = (sum(side) for side in zip(*found, strict=True))
        self.gate.step(real, positions, lambda: losses[-1] if losses else None)


class SpreadBatches(Sampler[int]):
    """The Trainer's batches of like length, in an order that has all lengths in a few steps.

    Its own order starts with the longest, and goes down: no picture of an epoch.

    Args:
        sampler: the Trainer's, of examples.
        size: examples of a batch.
    """

    def __init__(self, sampler: Sampler[int], size: int) -> None:
        self.sampler = sampler
        self.size = size

    def __len__(self) -> int:
        return len(self.sampler)  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[int]:
        order = list(self.sampler)
        batches = [order[i : i + self.size] for i in range(0, len(order), self.size)]
        last = batches.pop() if len(batches[-1]) < self.size else []
        for i in spread(len(batches)):
            yield from batches[i]
        yield from last


def tokenizer_of(vocabulary: int) -> Any:
    """The tokenizer of ids, as collators want it."""
    names = ("pad", "bos", "eos", "unk", "mask")
    words = {f"{name}_token": token for name, token in zip(names, SPECIAL_TOKENS, strict=True)}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=id_tokenizer(vocabulary).engine, **words
    )


def seq2seq(
    gate: Gate, corpus: str, model: Features, label_smoothing: float, **settings: Any
) -> None:
    """A contestant: Seq2SeqTrainer with MarianMTModel."""
    torch.manual_seed(1)
    data = Corpus.load(corpus)
    each = {
        "layers": model["layers"],
        "attention_heads": model["heads"],
        "ffn_dim": model["ffn_width"],
    }
    config = transformers.MarianConfig(
        vocab_size=data.vocabulary,
        d_model=model["width"],
        **{
            f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in each.items()
        },
        dropout=model["dropout"],
        tie_word_embeddings=True,
        share_encoder_decoder_embeddings=True,
        pad_token_id=SPECIAL.pad,
        bos_token_id=SPECIAL.bos,
        eos_token_id=SPECIAL.eos,
        decoder_start_token_id=SPECIAL.bos,
        forced_eos_token_id=None,
    )
    net = transformers.MarianMTModel(config)
    features = [
        {
            "input_ids": [*record["source"], SPECIAL.eos],
            "attention_mask": [1] * (len(record["source"]) + 1),
            "labels": [*record["target"], SPECIAL.eos],
        }
        for record in data.train
    ]
    collator = transformers.DataCollatorForSeq2Seq(tokenizer_of(data.vocabulary), model=net)

    def counts(batch: Features) -> tuple[int, int]:
        labels: Tensor = batch["labels"]
        real = int(batch["attention_mask"].sum() + (labels != IGNORE_INDEX).sum())
        return real, batch["input_ids"].numel() + labels.numel()

    arguments = {"label_smoothing_factor": label_smoothing}
    train(gate, net, features, collator, counts, arguments, seq2seq=True, **settings)


def language_model(gate: Gate, corpus: str, model: Features, masked: bool, **settings: Any) -> None:
    """A contestant: Trainer with LlamaForCausalLM, or with EuroBertForMaskedLM."""
    torch.manual_seed(1)
    data = Corpus.load(corpus)
    sizes = {
        "vocab_size": data.vocabulary,
        "hidden_size": model["width"],
        "intermediate_size": model["ffn_width"],
        "num_hidden_layers": model["layers"],
        "num_attention_heads": model["heads"],
        "num_key_value_heads": model["heads"],
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "pad_token_id": SPECIAL.pad,
        "bos_token_id": SPECIAL.bos,
        "eos_token_id": SPECIAL.eos,
    }
    if masked:
        assert SPECIAL.mask is not None
        config = transformers.EuroBertConfig(**sizes, mask_token_id=SPECIAL.mask)
        net: Any = transformers.EuroBertForMaskedLM(config)
        begin: list[int] = []
    else:
        net = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, use_cache=False))
        begin = [SPECIAL.bos]
    texts = [[*begin, *record["text"], SPECIAL.eos] for record in data.train]
    features = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in texts]
    collator = transformers.DataCollatorForLanguageModeling(
        tokenizer_of(data.vocabulary), mlm=masked, mlm_probability=0.15 if masked else None
    )

    def counts(batch: Features) -> tuple[int, int]:
        # A causal model's last token predicts nothing: it isn't counted, as in everytoken.
        idle = 0 if masked else len(batch["input_ids"])
        return int(batch["attention_mask"].sum()) - idle, batch["input_ids"].numel() - idle

    train(gate, net, features, collator, counts, {}, seq2seq=False, **settings)


def train(
    gate: Gate,
    net: Any,
    features: list[Features],
    collator: Any,
    counts: Callable[[Features], tuple[int, int]],
    arguments: Features,
    *,
    seq2seq: bool,
    batch_size: int,
    by_length: bool,
    bf16: bool,
    lr: float,
    total_steps: int,
    accumulate: int = 1,
    device: str = "cpu",
) -> None:
    """Train as the Trainer does by default, but for what all contestants share."""
    transformers.logging.set_verbosity_error()
    queue: deque[tuple[int, int]] = deque()

    def collate(some: list[Features]) -> Features:
        batch = collator(some)
        queue.append(counts(batch))
        return dict(batch)

    kind = "Seq2SeqTraining" if seq2seq else "Training"
    base = getattr(transformers, "Seq2SeqTrainer" if seq2seq else "Trainer")

    class Spread(base):
        def get_train_dataloader(self) -> Any:
            lengths = [len(each["input_ids"]) for each in features]
            order = SpreadBatches(LengthGroupedSampler(batch_size, lengths=lengths), batch_size)
            loader = DataLoader(Examples(features), batch_size, sampler=order, collate_fn=collate)
            return self.accelerator.prepare(loader)

    trainer = (Spread if by_length else base)(
        model=net,
        args=getattr(transformers, f"{kind}Arguments")(
            output_dir=".",
            max_steps=total_steps,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulate,
            train_sampling_strategy="group_by_length" if by_length else "random",
            learning_rate=lr,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, total_steps // 10),
            max_grad_norm=1.0,
            bf16=bf16,
            use_cpu=device == "cpu",
            remove_unused_columns=False,
            logging_steps=LOG_EVERY,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=Examples(features),
        data_collator=collate,
        callbacks=[Turns(gate, queue, accumulate)],
    )
    trainer.train()
