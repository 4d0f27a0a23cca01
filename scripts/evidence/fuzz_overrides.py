"""python scripts/evidence/fuzz_overrides.py: random command lines, of which none gives a traceback.

Each is composed, checked, and trained for three steps with a tiny model if it passes, in a fork of
this process. It ends well, or with one line and exit code 2, within the time limit: exit code 1
here if one doesn't, and what it was.
"""

import argparse
import random
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from everytoken.config.keys import conf_dir, key_paths
from forked import call

TINY = [
    *("logger=none", "trainer=cpu", "callbacks.machine_use=null", "data.limit_examples=40"),
    *("model.width=16", "model.heads=2", "model.ffn_width=16", "model.layers=1"),
    *("trainer.max_steps=3", "trainer.val_check_interval=3", "task.max_new_tokens=4"),
]
BASES = [
    [*TINY, "data.corpus.train_examples=64", "data.batch_size=8"],
    [*TINY[:-1], "task=causal_lm", "data=pydoc", "task.objective.window_tokens=16"],
    [*TINY[:-1], "task=masked_lm", "data=pydoc", "task.objective.window_tokens=16"],
    [*TINY[:-1], "task=span_corruption", "data=pydoc", "task.objective.window_tokens=16"],
    [*TINY[:-1], "task=prefix_lm", "data=pydoc", "task.objective.window_tokens=16"],
    [*TINY, "task=sft", "data=chat_dates", "data.corpus.train_examples=64"],
    [*TINY[:-1], "task=token_classification", "data=date_parts"],
    [*TINY[:-1], "task=sequence_classification", "data=date_languages"],
]
CHOICES = {
    "tokenizer": ["char", "byte", "bpe", "pretrained"],
    "optimizer": ["adamw", "sgd", "muon"],
    "scheduler": ["warmup_cosine", "linear", "constant", "inverse_sqrt", "warmup_stable_decay"],
    "callbacks": ["default", "ema", "early_stopping", "none"],
    "decoding": ["greedy", "beam", "sample"],
    "metrics": ["none", "top5", "bleu", "translation"],
    "precision": ["fp32", "bf16"],
    "data": ["dates", "pydoc", "text", "pairs", "hub", "chat", "tagged", "labelled", "mix"],
    "adapter": ["none", "lora"],
    "parameter_groups": ["decay_matrices", "by_name"],
    "model": ["tiny", "hf", "llama_from_hf"],
    "debug": ["fast"],
}
SMALL_VALUES = [
    *("0", "-1", "1", "2", "1_0", "0.5", "-0.5", "1e-3", "nan", "inf", "0x10", "3.0", "true"),
    *(
        "false",
        "null",
        "''",
        "abc",
        '"a=b"',
        "'%s'",
        "a/b.txt",
        "~/x",
        "it's",
        "a b",
        "é",
        "-",
        ".",
    ),
    *(
        "${nope}",
        "${seed}",
        "${oc.env:NOPE}",
        "${oc.env:HOME}",
        "${now:%S}",
        "${.x}",
        "${oc.decode:[}",
    ),
    *("[]", "[1]", "[a,b]", "{}", "{a: 1}", "{0: 1}", "{_target_: torch.nn.Linear}", "[[[]]]"),
    *("1,2", "a,b", "range(1,3)", "choice(1,2)", "[1", "{a", "'x", "\\", "???", "none", "auto"),
]
HUGE = ["1000000000", "9223372036854775808", "1e30", "1e400"]
GROWS = ("layers", "examples", "max_steps", "max_epochs", "num_workers", "peak_seconds", "rows")
"""Keys that may well be large, and then take long."""
WORDS = [
    *(
        "~callbacks",
        "~optimizer.lr",
        "~model",
        "--multirun",
        "--cfg=job",
        "resume=auto",
        "resume=x",
    ),
    *("+x=1", "++seed=3", "seed", "model.small", "=", "+", "~", "a@b=c", "data@x=text", "--nope"),
    *("+callbacks.x._target_=torch.nn.Nope", "+callbacks.x={_target_: os.system}", "trust=a.B"),
    *(
        "+optimizer.amsgrad=true",
        "+metrics.x=3",
        "hydra.run.dir=''",
        "name=../x",
        "log_level=debug",
    ),
]


def command_lines(seed: int, count: int) -> Iterator[list[str]]:
    """Command lines of `python -m train`: a tiny run, and one to three words more."""
    draws = random.Random(seed)
    keys = [known_keys(base) for base in BASES]
    for _ in range(count):
        which = draws.randrange(len(BASES))
        more = [_word(draws, keys[which]) for _ in range(draws.choice([1, 1, 1, 2, 3]))]
        yield [*BASES[which], *more]


def known_keys(overrides: list[str]) -> list[str]:
    """All dotted keys of a run's config."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return sorted(key_paths(compose("train", overrides)))


def _word(draws: random.Random, keys: list[str]) -> str:
    kind = draws.random()
    if kind < 0.1:
        return draws.choice(WORDS)
    if kind < 0.2:
        group = draws.choice([*CHOICES])
        return f"{group}={draws.choice(CHOICES[group])}"
    key = draws.choice(keys)
    large = any(name in key for name in GROWS) or key in ("trainer.devices", "model.width")
    value = draws.choice(SMALL_VALUES if large else SMALL_VALUES + HUGE)
    if kind < 0.25:
        letter = draws.randrange(len(key))
        key = key[:letter] + key[letter + 1 :]
    mark = draws.choices(["", "+", "++", "~"], [12, 1, 1, 1])[0]
    return f"~{key}" if mark == "~" else f"{mark}{key}={value}"


def fuzz(seed: int, count: int, seconds: int, show: Callable[[str], None]) -> Counter[str]:
    """Try random command lines, and show those that end in none of the ways that they may.

    Returns:
        How many ended how: "ran", "refused" or "failed".
    """
    found: Counter[str] = Counter()
    for number, words in enumerate(command_lines(seed, count)):
        with tempfile.TemporaryDirectory() as folder:
            done = call(("train", "hydra.run.dir=run", *words), Path(folder), seconds)
        how = "failed" if done.fault else "refused" if done.code else "ran"
        found[how] += 1
        if done.fault:
            more = shlex.join(word for word in words if word not in {*chain(*BASES)})
            show(f"{number} {done.fault}: {more}")
    return found


def main() -> int:
    """Fuzz; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="command lines (2000)")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn (1)")
    parser.add_argument("--seconds", type=int, default=60, help="that each may take (60)")
    asked = parser.parse_args()
    found = fuzz(asked.seed, asked.count, asked.seconds, lambda text: print(text, flush=True))
    print(", ".join(f"{number:,} {how}" for how, number in found.most_common()))
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
