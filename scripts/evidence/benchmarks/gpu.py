"""Sub-command gpu: a causal language model of GPT-2's size, documents of mixed length."""

from argparse import Namespace
from typing import Any

import torch

from benchmarks.contest import Contestant
from benchmarks.corpora import documents
from benchmarks.flops import Sizes, model_flops
from benchmarks.speed import compare, compile_override, model_overrides, ours, peak, peer_model
from everytoken.errors import UserError

TINY = {
    "layers": 2,
    "width": 32,
    "heads": 2,
    "ffn_width": 64,
    "vocabulary": 500,
    "batch_size": 4,
    "accumulate": 2,
    "rounds": 1,
    "steps": 1,
    "warm_up": 1,
}
"""What --tiny changes: a look at the code path."""


def gpu(arguments: Namespace) -> int:
    """Loops that pad and concatenate, Llama in the HF Trainer, everytoken: all in bf16."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("this needs a CUDA GPU (--device cpu --tiny only tries the code path)")
    if arguments.tiny:
        for key, value in TINY.items():
            setattr(arguments, key, value)
    longest = 60 if arguments.tiny else 1000
    corpus = documents(20 * arguments.batch_size, arguments.vocabulary, longest=longest)
    lengths = corpus.lengths("text")
    micro = arguments.batch_size // arguments.accumulate
    row = 64 if arguments.tiny else 1024
    rows = max(1, round(micro * lengths.mean() / row))  # as many tokens a step

    def flops(ffn_width: int, *, gated: bool) -> float:
        sizes = Sizes(arguments.layers, arguments.width, ffn_width, corpus.vocabulary, gated)
        total = model_flops(sizes, lengths, causal=True, targets=float(lengths.sum()))
        return total / corpus.tokens

    def line(path: str, precision: str, total: int) -> list[Contestant]:
        shared: dict[str, Any] = {
            "corpus": path,
            "batch_size": micro,
            "accumulate": arguments.accumulate,
            "bf16": True,
            "lr": arguments.lr,
            "total_steps": total,
            "device": arguments.device,
        }
        gelu_width = arguments.ffn_width * 3 // 2  # as many weights in two matrices as in three
        gelu = {"model": peer_model(arguments, gelu_width, None)}
        swiglu = {"model": peer_model(arguments, arguments.ffn_width, None)}
        loop, trainer = "benchmarks.nanogpt:causal_lm", "benchmarks.hugging_face:language_model"
        gated = flops(arguments.ffn_width, gated=True)
        overrides = [
            "task=causal_lm",
            "task.objective.window_tokens=1024",  # documents stay whole
            "precision=bf16",
            f"trainer={'gpu' if arguments.device == 'cuda' else 'cpu'}",
            f"optimizer.lr={arguments.lr}",
            f"data.batch_size={arguments.batch_size}",
            f"data.microbatch_tokens={arguments.microbatch_tokens}",
            *model_overrides(arguments, arguments.ffn_width, 0.0),
        ]
        contestants = [peak("bf16", arguments.device)]
        variants = (False, True) if arguments.compile else (False,)
        for compiled in variants:
            job = {**shared, **gelu, "compiled": compiled}
            name = "padded loop" + (" compiled" if compiled else "")
            plain = flops(gelu_width, gated=False)
            contestants.append(Contestant(name, "plain", loop, job, plain))
            # What documents see of each other is not asked for, and not counted.
            job = {**job, "batch_size": rows, "row": row}
            name = name.replace("padded", "concatenating")
            contestants.append(Contestant(name, "plain", loop, job, plain))
        job = {**shared, **swiglu, "masked": False, "by_length": False}
        contestants.append(Contestant("HF Llama random", "hugging face", trainer, job, gated))
        for compiled in variants:
            name = "everytoken" + (" compiled" if compiled else "")
            mine = overrides + compile_override(compiled)
            contestants.append(ours(name, mine, path, total, gated, "everytoken"))
        return contestants

    title = f"Causal LM on a GPU, {arguments.batch_size} documents a step"
    return compare(arguments, title, corpus, line, ["bf16"])
