"""Sub-command activations: what is kept for backward, and time, by model.checkpoint_activations."""

import time
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import report
from benchmarks.contest import console
from everytoken.batch import Batch
from everytoken.model.transformer import Transformer
from everytoken.training.loss import target_sums

GIB = 2**30
LONGEST = 512
"""Tokens of a sequence, at most."""

Measured = dict[str, float]


def activations(arguments: Namespace) -> int:
    """Measure a step of the same decoder with no, some and all blocks checkpointed, in turn."""
    torch.set_num_threads(arguments.threads)
    layers = arguments.layers
    ways: list[bool | int] = [
        False,
        *sorted({n for n in (4, 2) if n <= layers}, reverse=True),
        True,
    ]
    found: dict[str, list[Measured]] = {str(way).lower(): [] for way in ways}
    batch = _batch(arguments.tokens, arguments.vocabulary)
    for _ in range(arguments.rounds):
        for way in ways:
            found[str(way).lower()].append(_measure(arguments, way, batch))
    console.print(
        f"decoder of {layers} blocks, width {arguments.width:,}, dropout 0.1, "
        f"{arguments.tokens:,} tokens, fp32:"
    )
    table = report.grid("checkpoint_activations", "kept, GiB", "s", markdown=arguments.markdown)
    for name, rounds in found.items():
        middle = {key: median(one[key] for one in rounds) for key in rounds[0]}
        table.add_row(name, f"{middle['bytes'] / GIB:.3f}", f"{middle['seconds']:.2f}")
    report.show(table)
    console.print("kept: all tensors that forward saves for backward, weights left out")
    _draw(arguments.out, found)
    report.write(arguments, found)
    return 0


def _batch(tokens: int, vocabulary: int) -> Batch:
    lengths = [min(LONGEST, tokens - start) for start in range(0, tokens, LONGEST)]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (len(lengths), max(lengths)), generator=draw)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    labels = ids.where(real, torch.tensor(-100))
    return Batch.make(input_ids=ids, labels=labels, lengths=torch.tensor(lengths))


def _measure(arguments: Namespace, way: bool | int, batch: Batch) -> Measured:
    torch.manual_seed(0)
    model = Transformer(
        shape="decoder",
        vocabulary=arguments.vocabulary,
        layers=arguments.layers,
        width=arguments.width,
        heads=arguments.heads,
        key_value_heads=arguments.heads,
        ffn_width=arguments.ffn_width,
        tie_embeddings=True,
        rope_base=10_000.0,
        norm_eps=1e-6,
        dropout=0.1,
        checkpoint_activations=way,
    )
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    started = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = target_sums(model(batch), model.head, batch.targets).loss
    loss.backward()
    return {"bytes": float(sum(kept.values())), "seconds": time.perf_counter() - started}


def _draw(out: Path | None, found: dict[str, list[Measured]]) -> None:
    if out is None:
        return
    plt: Any = report.pyplot()
    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.2), layout="constrained")
    for axis, key, unit in zip(axes, ("bytes", "seconds"), (GIB, 1), strict=True):
        values = [median(one[key] for one in rounds) / unit for rounds in found.values()]
        axis.barh([*found][::-1], values[::-1], color="#0072B2")
        axis.set_xlabel("kept for backward, GiB" if key == "bytes" else "seconds of a step")
    figure.savefig(out / "activations.png", dpi=130)
