"""python scripts/evidence/walk_choices.py OUT_DIR: every choice of every group, every key of it.

For each choice under conf/, and for one override of each of its keys, a tiny run is trained for
three steps, evaluated, generated from, resumed and exported. Each of these commands either works,
or is refused in one line with exit code 2. Prints what doesn't keep to that; exit code 1 if any.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.progress import track

from everytoken.config.keys import conf_dir
from everytoken.runtime.console import console
from forked import Outcome, call

SMALL = (
    *("logger=none", "trainer.max_steps=3", "trainer.val_check_interval=2"),
    *("trainer.log_every_n_steps=1", "callbacks.machine_use=null", "data.num_workers=0"),
    *("data.limit_examples=24", "data.cache_dir=null", "task.max_new_tokens=6"),
)
"""Of every run, but for a key that is walked or that the choice doesn't have."""

SIZES = ("model.layers=1", "model.width=32", "model.heads=2", "model.ffn_width=32")
"""Of every run whose model has them."""

GLOBAL = ("experiment", "debug", "sweep", "launcher")
"""Groups whose choices set keys of other groups."""

TEXT = (
    "task=causal_lm",
    "data=text",
    "data.path=texts/lines.txt",
    "task.objective.window_tokens=32",
)
NEEDS = {
    "task=causal_lm": ("data=pydoc", "task.objective.window_tokens=32"),
    "task=masked_lm": ("data=pydoc", "task.objective.window_tokens=32", "tokenizer=bpe"),
    "task=span_corruption": ("data=pydoc", "task.objective.window_tokens=32"),
    "task=prefix_lm": ("data=pydoc", "task.objective.window_tokens=32"),
    "task=sft": ("data=chat_dates",),
    "task=sequence_classification": ("data=date_languages", "task.max_new_tokens=null"),
    "task=multi_label_classification": ("data=date_languages", "task.max_new_tokens=null"),
    "task=token_classification": ("data=date_parts", "task.max_new_tokens=null"),
    "data=date_parts": ("task=token_classification", "task.max_new_tokens=null"),
    "data=tagged": (
        *("task=token_classification", "task.max_new_tokens=null"),
        "data.path=texts/tagged.conll",
    ),
    "data=date_languages": ("task=sequence_classification", "task.max_new_tokens=null"),
    "data=labelled": (
        *("task=sequence_classification", "task.max_new_tokens=null"),
        "data.path=texts/labelled.csv",
    ),
    "data=chat": ("task=sft", "data.path=texts/chats.jsonl"),
    "data=chat_dates": ("task=sft",),
    "data=pydoc": ("task=causal_lm", "task.objective.window_tokens=32"),
    "data=text": TEXT,
    "data=pairs": ("data.path=texts/pairs.tsv", "data.source=source", "data.target=target"),
    "data=mix": (
        *("task=causal_lm", "task.objective.window_tokens=32"),
        "data.parts={a: {data: pydoc}, b: {data: text, path: texts/lines.txt}}",
    ),
    "data=tokens": (
        *("task=causal_lm", "task.objective.window_tokens=32"),
        *("data.path=texts/ids.bin", "data.end_id=2"),
        *("tokenizer=pretrained", "tokenizer.path=llama"),
    ),
    "data=hub": ("data.name=hub",),
    "data=multi30k": ("data.path=multi30k",),
    "data=prepared": ("data.path=prepared",),
    "tokenizer=pretrained": ("tokenizer.path=llama", *TEXT),
    "tokenizer=bpe": ("tokenizer.vocabulary_size=300",),
    "adapter=lora": ("init_from=llama", "model.tie_embeddings=false", *TEXT),
    "model=hf": ("model.name_or_path=llama", "tokenizer=pretrained", "tokenizer.path=llama", *TEXT),
    "model=llama_from_hf": (
        "model.path=llama",
        "tokenizer=pretrained",
        "tokenizer.path=llama",
        *TEXT,
    ),
    "experiment=chars": ("data.path=texts/lines.txt",),
    "experiment=chars_gpu": ("data.path=texts/lines.txt",),
    "experiment=multi30k": ("data.path=multi30k",),
}
"""What a choice can't be without."""

NO_GROUP = (
    ("freeze=[embedding]",),
    ("init_from=llama", "model.tie_embeddings=false", *TEXT),
)
"""Keys that no choice sets, with what they can't be without."""


def choices() -> Iterator[tuple[str, str]]:
    """(group, choice) of all YAMLs that the command line of `train` can name."""
    for file in sorted(conf_dir().glob("*/*.yaml")):
        if file.parent.name != "hydra":
            yield file.parent.name, file.stem


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of a config's plain values, without what is computed."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, f"{path}.{key}" if path else str(key))
    elif not path.endswith("_target_") and not (isinstance(value, str) and "${" in value):
        yield path, value


def keys_of(group: str, choice: str) -> list[tuple[str, Any]]:
    """The keys that a choice sets."""
    part = OmegaConf.to_container(OmegaConf.load(conf_dir() / group / f"{choice}.yaml"))
    assert isinstance(part, dict)
    part.pop("defaults", None)
    part.pop("hydra", None)
    return [*leaves(part, "" if group in GLOBAL else group)]


def other_values(value: Any) -> list[str]:
    """Values of the kind that a key has, others than the one it has, as they are typed."""
    if isinstance(value, bool):
        return [str(not value).lower()]
    if isinstance(value, int):
        return [str(value + 1), "1", "0", "null"]
    if isinstance(value, float):
        return [str(value / 2), "0.0", "1", "null"]
    if value is None:
        return ["1", "0.5", "true", "word"]
    if isinstance(value, str):
        return ["word", "null"]
    return ["[]", "null"]


def prepare(folder: Path) -> None:
    """Corpora, a tokenizer and a model that the choices need."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    draw = random.Random(1)
    words = ["the", "small", "red", "old", "cat", "dog", "tree", "sees", "eats", "finds"]
    found = {" ".join(draw.choices(words, k=draw.randint(2, 7))): None for _ in range(200)}
    lines = [*found][:120]
    pairs = [(line, " ".join(reversed(line.split()))) for line in lines]
    for name in ("texts", "hub", "multi30k"):
        (folder / name).mkdir(parents=True)
    (folder / "texts" / "lines.txt").write_text("\n".join(lines) + "\n")
    tagged = "\n\n".join(
        "\n".join(f"{word} {'B-X' if len(word) > 3 else 'O'}" for word in line.split())
        for line in lines
    )
    (folder / "texts" / "tagged.conll").write_text(tagged + "\n")
    rows = ["source\ttarget", *("\t".join(pair) for pair in pairs)]
    (folder / "texts" / "pairs.tsv").write_text("\n".join(rows) + "\n")
    chats = [{"prompt": line, "completion": answer} for line, answer in pairs]
    rows = ["text,label", *(f"{line},{line.split()[0]}" for line in lines)]
    (folder / "texts" / "labelled.csv").write_text("\n".join(rows) + "\n")
    (folder / "texts" / "chats.jsonl").write_text("".join(json.dumps(c) + "\n" for c in chats))
    splits = {"train": pairs[:80], "validation": pairs[80:100], "test": pairs[100:]}
    homes = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
    for split, part in splits.items():
        rows = [json.dumps({"source": source, "target": target}) for source, target in part]
        (folder / "hub" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
        for side, language in enumerate(("en", "de")):
            file = folder / "multi30k" / f"{homes[split]}.lc.norm.tok.{language}"
            file.write_text("".join(f"{pair[side]}\n" for pair in part))

    engine = Tokenizer(models.BPE(unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=special,
        show_progress=False,
    )
    engine.train_from_iterator(lines, trainer)
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=engine, **names).save_pretrained(folder / "llama")
    few = ("data.limit_examples=24", "data.cache_dir=null", "--shard-megabytes=0.001")
    call(("scripts/prepare.py", "prepared", *few), folder, 120)
    ids = [id_ for line in lines for id_ in (*engine.encode(line).ids, engine.token_to_id("</s>"))]
    np.array(ids, np.uint16).tofile(folder / "texts" / "ids.bin")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=engine.get_vocab_size(),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llama")


def overrides(group: str, choice: str, typed: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A tiny run of a choice: `typed` wins over what the choice needs, that over what is small."""
    needed = NEEDS.get(f"{group}={choice}", ())
    sized = () if choice in ("hf", "llama_from_hf", "project") and group == "model" else SIZES
    found: dict[str, str] = {}
    for override in (f"{group}={choice}", *SMALL, *sized, *needed, *typed):
        key, _, value = override.partition("=")
        found[key] = value
    if group == "logger":
        found["logger"] = choice
    if found.get("callbacks") == "none":
        found.pop("callbacks.machine_use", None)
    return tuple(f"{key}={value}" for key, value in found.items())


def walk(words: tuple[str, ...], folder: Path, limit: float) -> list[Outcome]:
    """Train, evaluate, generate, resume, export; only train if that is refused."""
    run = folder / "run"
    for path in (run, folder / "exported"):
        shutil.rmtree(path, ignore_errors=True)
    done = [call(("train", *words, f"hydra.run.dir={run}"), folder, limit)]
    if done[0].code != 0 or not run.is_dir():
        return done
    if not (run / "config.yaml").is_file():  # a sweep: its first job
        run = next(iter(sorted(run.glob("*/config.yaml")))).parent
    name = f"run={run}"
    checkpoint = "best" if (run / "checkpoints" / "best.ckpt").is_file() else "last"
    if not (run / "checkpoints" / "last.ckpt").is_file():
        return done
    more = [
        ("eval", name, "split=val", f"checkpoint={checkpoint}"),
        ("generate", name, f"checkpoint={checkpoint}", "max_new_tokens=4"),
        ("train", f"resume={run}", "trainer.max_steps=4"),
        ("scripts/export_hf.py", name, f"checkpoint={checkpoint}", f"out={folder / 'exported'}"),
    ]
    return done + [call(words, folder, limit, "the cat\n") for words in more]


def plan(only: str, deep: bool) -> Iterator[tuple[str, ...]]:
    """The overrides of all runs."""
    for group, choice in choices():
        if only not in f"{group}={choice}":
            continue
        yield overrides(group, choice)
        for key, value in keys_of(group, choice) if deep else ():
            for other in other_values(value):
                yield overrides(group, choice, (f"{key}={other}",))
    for typed in NO_GROUP:
        if only in typed[0]:
            yield overrides("model", "tiny", typed)


def main() -> int:
    """Walk, and print what went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--only", default="", help="choices whose GROUP=CHOICE has this in it")
    parser.add_argument("--choices", action="store_true", help="leave their keys as they are")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a command")
    arguments = parser.parse_args()
    folder: Path = arguments.out.absolute()
    folder.mkdir(parents=True)
    os.environ |= {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    torch.set_num_threads(1)
    prepare(folder)
    runs = [*plan(arguments.only, not arguments.choices)]
    counts = {"worked": 0, "refused": 0, "at fault": 0}
    with (folder / "outcomes.jsonl").open("w", encoding="utf-8") as record:
        for words in track(runs, "walking", console=console):
            for outcome in walk(words, folder, arguments.limit):
                fault = outcome.fault
                kind = "at fault" if fault else "worked" if outcome.code == 0 else "refused"
                counts[kind] += 1
                record.write(json.dumps(asdict(outcome) | {"kind": kind, "fault": fault}) + "\n")
                record.flush()
                if fault:
                    print(f"{shlex.join(outcome.words)}\n    {fault}", flush=True)
    print(f"{len(runs)} runs: " + ", ".join(f"{n} commands {kind}" for kind, n in counts.items()))
    return 1 if counts["at fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
