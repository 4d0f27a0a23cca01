"""python scripts/evidence/benchmark.py SUBCOMMAND: speed and needs of training, beside peers.

Everything that is compared is measured in one run, in turn. Prints a table; with --out DIR writes
SUBCOMMAND.json (all raw rounds) and SUBCOMMAND.png there, else no file.
"""

import argparse
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from everytoken.errors import BAD_INPUT, INTERRUPTED, UserError

EXTRA = ("transformers", "accelerate", "matplotlib")
JOBS = {
    "seq2seq": ("speed", "seq2seq"),
    "causal-lm": ("speed", "causal_lm"),
    "masked-lm": ("speed", "masked_lm"),
    "overhead": ("overhead", "overhead"),
    "checkpoints": ("saving", "checkpoints"),
    "tracking": ("tracking", "tracking"),
    "head": ("head", "head"),
    "activations": ("activations", "activations"),
    "startup": ("growth", "startup"),
    "scale": ("growth", "scale"),
    "processes": ("processes", "processes"),
    "gpu": ("gpu", "gpu"),
    "chars": ("chars", "chars"),
    "cache": ("cache", "cache"),
}
"""Module and function of each sub-command; imported only if asked for."""


def main() -> int:
    """Measure what was asked for; the exit code."""
    arguments = parser().parse_args()
    try:
        needed = [] if arguments.command in ALONE and arguments.out is None else EXTRA
        if any(find_spec(name) is None for name in needed):
            raise UserError('this needs more packages: pip install -e ".[compare]"')
        module, function = JOBS[arguments.command]
        return getattr(import_module(f"benchmarks.{module}"), function)(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


ALONE = (
    *("overhead", "checkpoints", "tracking", "head", "startup", "scale", "processes", "chars"),
    *("cache", "activations"),
)
"""Sub-commands that need the extra packages for a picture only."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    commands = top.add_subparsers(dest="command", required=True, metavar="SUBCOMMAND")

    def command(name: str, about: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about)
        one.add_argument("--out", type=Path, help="directory for JSON and PNG; without it no files")
        one.add_argument("--markdown", action="store_true", help="print the table as Markdown")
        one.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
        return one

    one = command("seq2seq", "translation: nn.Transformer, Marian, everytoken")
    one.add_argument("--data", type=Path, required=True, help="Multi30k's folder")
    add_contest(one, rounds=7, steps=4)
    add_model(one, layers=3, ffn_width=1024, batch_size=128)
    for name, peer in (("causal-lm", "Llama"), ("masked-lm", "EuroBERT")):
        one = command(name, f"documents of 20 to 1,000 tokens: {peer}, everytoken")
        add_contest(one, rounds=7, steps=3)
        add_model(one, layers=6, ffn_width=688, batch_size=32)
    one = command("overhead", "Lightning, Hydra, logging and metrics against a bare loop")
    add_contest(one, rounds=9, steps=20)
    integer(one, "examples", 50_000, "dates to train on")
    one = command("checkpoints", "share of the time that the default checkpoints take")
    one.add_argument("--folder", type=Path, help="where to write them; default: a temporary folder")
    one.add_argument("--models", nargs="+", default=["tiny", "small"], help="sizes of conf/model")
    integer(one, "steps", 300, "optimizer steps of each model")
    integer(one, "examples", 50_000, "dates of a split, at most")
    one = command("tracking", "W&B offline, metrics, checkpoints and what is shown, against none")
    add_contest(one, rounds=15, steps=100, warm_up=110)
    integer(one, "every", 100, "steps between validations, which both make; divides --steps")
    integer(one, "examples", 50_000, "dates to train on")
    one = command("head", "output layer and loss: peak memory and time")
    one.add_argument("--precision", choices=("fp32", "bf16", "both"), default="fp32")
    integer(one, "rounds", 3, "processes for each loss")
    integer(one, "tokens", 8192, "target tokens")
    integer(one, "width", 512, "of hidden states")
    integer(one, "vocabulary", 131_072, "tokens of the vocabulary")
    one = command("activations", "what is kept for backward, and time: checkpoint_activations")
    integer(one, "rounds", 3, "turns of each")
    integer(one, "tokens", 2048, "real tokens of the micro-batch, in sequences of 512")
    add_sizes(one, layers=12, width=256, heads=4, ffn_width=704, vocab=8000)
    one = command("startup", "from imports to the first step, and memory, by examples")
    integer(one, "examples", 1_000_000, "the most; also a tenth and a hundredth of it")
    integer(one, "rounds", 5, "turns of each command")
    one = command("cache", "tokenized examples on disk: files of our own, those of datasets")
    integer(one, "examples", 1_000_000, "of 5 to 30 tokens")
    integer(one, "rounds", 5, "turns of each")
    one = command("scale", "time of an optimizer step, by examples")
    integer(one, "examples", 10_000_000, "the most; also a tenth, a hundredth, a thousandth")
    add_contest(one, rounds=5, steps=20)
    one = command("processes", "two processes of one thread each against one")
    one.add_argument("--data", type=Path, required=True, help="Multi30k's folder")
    one.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    integer(one, "rounds", 3, "runs of each")
    integer(one, "steps", 20, "optimizer steps of a run")
    add_model(one, layers=3, ffn_width=688, batch_size=128)
    one = command("chars", "a causal LM of characters: nanoGPT's own code, everytoken")
    one.add_argument("--nanogpt", type=Path, required=True, help="a clone of karpathy/nanoGPT")
    one.add_argument("--file", type=Path, help="a text; default Python's documentation")
    integer(one, "rounds", 1, "trainings of each")
    integer(one, "steps", 2000, "optimizer steps of a training")
    one = command("gpu", "a causal LM of 124M weights in bf16: plain loops, Llama, everytoken")
    one.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    one.add_argument("--tiny", action="store_true", help="sizes that only try the code path")
    add_contest(one, rounds=5, steps=10, warm_up=10)
    add_model(one, layers=12, ffn_width=2048, batch_size=128, width=768, heads=12, vocab=50_304)
    integer(one, "accumulate", 4, "micro-batches of a step, for the peers")
    integer(one, "microbatch-tokens", 16_384, "real tokens of a micro-batch, for everytoken")
    return top


def integer(one: argparse.ArgumentParser, name: str, default: int, about: str) -> None:
    """A whole number."""
    one.add_argument(f"--{name}", type=int, default=default, help=f"{about}; default {default:,}")


def add_contest(one: argparse.ArgumentParser, rounds: int, steps: int, warm_up: int = 3) -> None:
    """How long to measure, and in which precision."""
    one.add_argument("--precision", choices=("fp32", "bf16", "both"), default="fp32")
    integer(one, "rounds", rounds, "turns of each")
    integer(one, "steps", steps, "optimizer steps of a turn")
    integer(one, "warm-up", warm_up, "steps before, which don't count")
    about = "of contestants only those whose names have one of these in them"
    one.add_argument("--only", nargs="+", metavar="WORD", help=about)


def add_sizes(
    one: argparse.ArgumentParser, layers: int, width: int, heads: int, ffn_width: int, vocab: int
) -> None:
    """Sizes of a model."""
    integer(one, "layers", layers, "of each stack")
    integer(one, "width", width, "of hidden states")
    integer(one, "heads", heads, "of attention")
    integer(one, "ffn-width", ffn_width, "of feed-forward layers")
    integer(one, "vocabulary", vocab, "tokens")


def add_model(
    one: argparse.ArgumentParser,
    layers: int,
    ffn_width: int,
    batch_size: int,
    width: int = 256,
    heads: int = 4,
    vocab: int = 8000,
) -> None:
    """Sizes of model and batch, the same for all."""
    add_sizes(one, layers, width, heads, ffn_width, vocab)
    integer(one, "batch-size", batch_size, "examples of an optimizer step")
    one.add_argument("--lr", type=float, default=5e-4, help="peak learning rate; default 5e-4")
    one.add_argument("--compile", action="store_true", help="also with torch.compile")


if __name__ == "__main__":
    sys.exit(main())
