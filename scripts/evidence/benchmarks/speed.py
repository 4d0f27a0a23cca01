"""Sub-commands that compare training speed: seq2seq, causal-lm, masked-lm, overhead, gpu."""

import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks import report
from benchmarks.contest import Contestant, Measured, console, contest
from benchmarks.corpora import Corpus, documents, translations
from benchmarks.flops import Sizes, model_flops
from everytoken.config.keys import conf_dir
from everytoken.errors import UserError

Line = Callable[[str, str, int], list[Contestant]]
"""(path of the corpus, precision, total steps) → contestants."""


def precisions(asked: str) -> list[str]:
    """fp32, bf16 or both."""
    return ["fp32", "bf16"] if asked == "both" else [asked]


def compare(arguments: Namespace, title: str, corpus: Corpus, line: Line, names: list[str]) -> int:
    """Hold a contest for each precision, and report."""
    name = arguments.command
    total = arguments.warm_up + arguments.rounds * arguments.steps
    panels: dict[str, list[Measured]] = {}
    for precision in names:
        console.print(f"{name}, {precision}:")
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "corpus.pkl")
            corpus.save(Path(path))
            panels[precision] = contest(
                selected(line(path, precision, total), arguments.only),
                rounds=arguments.rounds,
                steps=arguments.steps,
                warm_up=arguments.warm_up,
                threads=arguments.threads,
                folder=Path(folder),
            )
        report.show(report.rates_table(panels[precision], markdown=arguments.markdown))
        console.print(report.peak_line(panels[precision]))
        console.print(report.LEGEND)
    report.draw_rates(arguments.out, name, title, panels)
    results = {precision: report.raw(found) for precision, found in panels.items()}
    report.write(arguments, results)
    return 0


def selected(contestants: list[Contestant], only: list[str] | None) -> list[Contestant]:
    """Those whose name has one of the words in it, and the peak; all without words.

    Raises:
        UserError: nobody is left.
    """
    some = [
        c for c in contestants if not only or c.family == "peak" or any(w in c.name for w in only)
    ]
    if all(c.family == "peak" for c in some):
        names = ", ".join(c.name for c in contestants if c.family != "peak")
        raise UserError(f"--only {' '.join(only or [])} leaves nobody of: {names}")
    return some


def peak(precision: str, device: str = "cpu") -> Contestant:
    """The fastest matrix product."""
    bf16 = precision == "bf16"
    job = {"bf16": bf16, "device": device}
    return Contestant("matmul peak", "peak", "benchmarks.flops:peak", job, 0.0)


def ours(
    name: str, overrides: list[str], path: str | None, total: int, flops: float, job: str
) -> Contestant:
    """everytoken, as "everytoken" or "bare" of `ours.py`."""
    settings = {"overrides": overrides, "corpus": path, "total_steps": total}
    return Contestant(name, "everytoken", f"benchmarks.ours:{job}", settings, flops)


def model_overrides(arguments: Namespace, ffn_width: int, dropout: float) -> list[str]:
    """everytoken's model of the peers' sizes."""
    sizes = {
        "layers": arguments.layers,
        "width": arguments.width,
        "heads": arguments.heads,
        "ffn_width": ffn_width,
        "dropout": dropout,
    }
    return [f"model.{key}={value}" for key, value in sizes.items()]


def peer_model(arguments: Namespace, ffn_width: int, dropout: float | None) -> dict[str, Any]:
    """Sizes for the peers."""
    sizes = {k: getattr(arguments, k) for k in ("layers", "width", "heads")}
    return {**sizes, "ffn_width": ffn_width} | ({} if dropout is None else {"dropout": dropout})


def compile_override(compiled: bool) -> list[str]:
    """The override that compiles everytoken's model, if it is to be.

    Raises:
        UserError: this version has no such setting.
    """
    if not compiled:
        return []
    if "compile" not in OmegaConf.load(conf_dir() / "train.yaml"):
        raise UserError("conf/train.yaml has no setting `compile` yet: leave --compile out")
    return ["compile=true"]


def seq2seq(arguments: Namespace) -> int:
    """Translation: nn.Transformer, Marian in the Hugging Face Trainer, everytoken."""
    corpus = translations(arguments.data, arguments.vocabulary)
    source, target = (corpus.lengths(field) for field in ("source", "target"))
    # Two matrices of F hidden channels have as many weights as three of 2/3 F; up to 16 more.
    equal_width = -(-arguments.ffn_width * 2 // 48) * 16
    dropout, smoothing = 0.1, 0.1

    def flops(ffn_width: int, *, gated: bool) -> float:
        sizes = Sizes(arguments.layers, arguments.width, ffn_width, corpus.vocabulary, gated)
        total = model_flops(
            sizes, target, causal=True, targets=float(target.sum()), source_lengths=source
        )
        return total / corpus.tokens

    def line(path: str, precision: str, total: int) -> list[Contestant]:
        shared = {
            "corpus": path,
            "model": peer_model(arguments, arguments.ffn_width, dropout),
            "batch_size": arguments.batch_size,
            "bf16": precision == "bf16",
            "lr": arguments.lr,
            "label_smoothing": smoothing,
            "total_steps": total,
        }
        peer_flops = flops(arguments.ffn_width, gated=False)

        def peer(name: str, family: Any, job: str, by_length: bool) -> Contestant:
            job_arguments = {**shared, "by_length": by_length}
            return Contestant(name, family, job, job_arguments, peer_flops)

        plain, trainer = "benchmarks.plain:seq2seq", "benchmarks.hugging_face:seq2seq"
        contestants = [
            peak(precision),
            peer("nn.Transformer random", "plain", plain, False),
            peer("nn.Transformer by length", "plain", plain, True),
            peer("HF Marian random", "hugging face", trainer, False),
            peer("HF Marian group_by_length", "hugging face", trainer, True),
        ]
        common = [
            "task=seq2seq",
            f"precision={precision}",
            f"optimizer.lr={arguments.lr}",
            f"label_smoothing={smoothing}",
            f"data.batch_size={arguments.batch_size}",
            "data.microbatch_tokens=1000000",  # one micro-batch
        ]
        for width in (equal_width, arguments.ffn_width):
            for compiled in (False, True) if arguments.compile else (False,):
                overrides = [*common, *model_overrides(arguments, width, dropout)]
                name = f"everytoken SwiGLU {width}" + (" compiled" if compiled else "")
                overrides += compile_override(compiled)
                mine = flops(width, gated=True)
                contestants.append(ours(name, overrides, path, total, mine, "everytoken"))
        return contestants

    title = f"Translation, {arguments.batch_size} pairs a step"
    return compare(arguments, title, corpus, line, precisions(arguments.precision))


def causal_lm(arguments: Namespace) -> int:
    """Made documents: Llama in the Hugging Face Trainer, everytoken."""
    return language_model(arguments, masked=False)


def masked_lm(arguments: Namespace) -> int:
    """Made documents: EuroBERT in the Hugging Face Trainer, everytoken."""
    return language_model(arguments, masked=True)


def language_model(arguments: Namespace, *, masked: bool) -> int:
    """Documents that are read whole; a step is some of them."""
    total_documents = min(8000, 2000 + arguments.batch_size * 20)
    corpus = documents(total_documents, arguments.vocabulary)
    lengths = corpus.lengths("text")
    task = "masked_lm" if masked else "causal_lm"
    targets = 0.15 * lengths.sum() if masked else lengths.sum()
    sizes = Sizes(arguments.layers, arguments.width, arguments.ffn_width, corpus.vocabulary, True)
    flops = model_flops(sizes, lengths, causal=not masked, targets=targets) / corpus.tokens

    def line(path: str, precision: str, total: int) -> list[Contestant]:
        shared = {
            "corpus": path,
            "model": peer_model(arguments, arguments.ffn_width, None),
            "masked": masked,
            "batch_size": arguments.batch_size,
            "bf16": precision == "bf16",
            "lr": arguments.lr,
            "total_steps": total,
        }
        overrides = [
            f"task={task}",
            "task.objective.window_tokens=1024",  # documents stay whole
            f"precision={precision}",
            f"optimizer.lr={arguments.lr}",
            f"data.batch_size={arguments.batch_size}",
            "data.microbatch_tokens=1000000",  # one micro-batch
            *model_overrides(arguments, arguments.ffn_width, 0.0),
        ]
        peer = "EuroBERT" if masked else "Llama"
        contestants = [peak(precision)]
        for by_length in (False, True):
            name = f"HF {peer} {'group_by_length' if by_length else 'random'}"
            job = {**shared, "by_length": by_length}
            contestants.append(
                Contestant(
                    name, "hugging face", "benchmarks.hugging_face:language_model", job, flops
                )
            )
        contestants.append(ours("everytoken", overrides, path, total, flops, "everytoken"))
        if arguments.compile:
            compiled = [*overrides, *compile_override(True)]
            name = "everytoken compiled"
            contestants.append(ours(name, compiled, path, total, flops, "everytoken"))
        return contestants

    title = f"{'Masked' if masked else 'Causal'} LM, {arguments.batch_size} documents a step"
    return compare(arguments, title, corpus, line, precisions(arguments.precision))
