"""Small parts that several tests need."""

import io
import json
import math
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict
from torch import Tensor

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide
from everytoken.config import composing
from everytoken.config.keys import conf_dir
from everytoken.data.collate import Example, collate
from everytoken.errors import BAD_INPUT
from everytoken.model.backends import Backend
from everytoken.model.transformer import Shape, Transformer
from everytoken.model.unpad import Borders, unpad
from everytoken.model.visibility import Visibility
from support import prefork

VOCABULARY = 23


def make_examples(
    lengths: Sequence[int], *, with_source: bool, seed: int = 0, ignored: float = 0.3
) -> list[Example]:
    """Random examples; a share of the labels is ignored, and sources have lengths of their own."""
    chance = np.random.default_rng(seed)
    examples = []
    for length in lengths:
        ids = chance.integers(0, VOCABULARY, length)
        labels = np.where(
            chance.random(length) < ignored, IGNORE_INDEX, chance.integers(0, VOCABULARY, length)
        )
        source = chance.integers(0, VOCABULARY, int(chance.integers(1, 9)))
        examples.append(Example(ids, labels, source if with_source else None))
    return examples


def make_batch(
    lengths: Sequence[int],
    *,
    with_source: bool = False,
    seed: int = 0,
    pad_id: int = 0,
    padding_side: PaddingSide = "right",
    pad_to_multiple_of: int = 1,
) -> Batch:
    """The examples of `make_examples`, collated."""
    return collate(
        make_examples(lengths, with_source=with_source, seed=seed),
        pad_id,
        padding_side=padding_side,
        pad_to_multiple_of=pad_to_multiple_of,
    )


def make_model(
    shape: Shape,
    *,
    key_value_heads: int = 2,
    seed: int = 0,
    layers: int = 2,
    std: float = 0.3,
    window: int | None = None,
    attention: Backend = "auto",
    checkpoint_activations: bool | int = False,
    dropout: float = 0.0,
    classes: int | None = None,
    per_sequence: bool = False,
) -> Transformer:
    """A very small Transformer, with weights large enough to matter."""
    torch.manual_seed(seed)
    model = Transformer(
        shape=shape,
        vocabulary=VOCABULARY,
        layers=layers,
        width=16,
        heads=4,
        key_value_heads=key_value_heads,
        ffn_width=24,
        dropout=dropout,
        token_dropout=dropout,
        tie_embeddings=False,
        rope_base=100.0,
        norm_eps=1e-6,
        window=window,
        attention=attention,
        checkpoint_activations=checkpoint_activations,
        classes=classes,
        per_sequence=per_sequence,
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=std)
    return model


def borders_of(lengths: Sequence[int], more: int = 0) -> Borders:
    """Borders of sequences that were padded `more` positions beyond the longest."""
    ids = torch.zeros(len(lengths), max(lengths) + more, dtype=torch.int64)
    return unpad(ids, torch.tensor(lengths), sum(lengths), "right")[1]


def random_tokens(count: int, heads: int, width: int, seed: int = 0) -> Tensor:
    """(count, heads, width) float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, heads, width, generator=generator, dtype=torch.float64)


def naive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sequence[int],
    keys: Sequence[int],
    visibility: Visibility,
    prefixes: Sequence[int] | None = None,
) -> Tensor:
    """softmax(q k / sqrt(W)) v, one sequence, one head and one token at a time."""
    group = query.shape[1] // key.shape[1]
    out = []
    for b, (length, seen) in enumerate(zip(queries, keys, strict=True)):
        first, first_seen = sum(queries[:b]), sum(keys[:b])
        for t in range(length):
            left = 0 if visibility.window is None else max(0, t - visibility.window)
            right = seen if visibility.window is None else min(seen, t + visibility.window + 1)
            if visibility.causal:
                right = max(t + 1, min(right, prefixes[b] if prefixes else 0))
            for head in range(query.shape[1]):
                k = key[first_seen + left : first_seen + right, head // group]
                v = value[first_seen + left : first_seen + right, head // group]
                scores = k @ query[first + t, head] / math.sqrt(query.shape[2])
                out.append(scores.softmax(0) @ v)
    return torch.stack(out).view_as(query) if out else query


def reference_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> list[float]:
    """The cross-entropy of each target token, token by token in plain Python."""
    losses = []
    rows = zip(logits.flatten(0, -2).tolist(), targets.flatten().tolist(), strict=True)
    for scores, target in rows:
        if target != IGNORE_INDEX:
            top = max(scores)
            log_total = top + math.log(sum(math.exp(score - top) for score in scores))
            surprise = [log_total - score for score in scores]
            even = sum(surprise) / len(surprise)
            losses.append((1 - label_smoothing) * surprise[target] + label_smoothing * even)
    return losses


def composed(*overrides: str, name: str = "train") -> DictConfig:
    """The config of conf/<name>.yaml under overrides, without the checks."""
    cfg = composing.composed(conf_dir(), name, overrides)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def run(folder: Path, *words: str, given: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` in a folder, as a user calls it: a process of its own."""
    env = {**os.environ, "COLUMNS": "200", **env}
    return prefork.run(folder, "-m", *words, env=env, given=given)


def run_here(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has imported everything: seconds faster."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    GlobalHydra.instance().clear()
    argv, sys.argv = sys.argv, list(words)
    try:
        with chdir(folder), redirect_stdout(out), redirect_stderr(err):
            runpy.run_module(words[0], run_name="__main__")
    except SystemExit as left:
        code = left.code or 0
    finally:
        sys.argv = argv
        GlobalHydra.instance().clear()
    assert isinstance(code, int)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def wait_until(condition: Callable[[], object], seconds: float = 40) -> None:
    """For what happens in another thread or process: a fixed sleep is too short on a busy machine.

    Raises:
        AssertionError: it didn't happen in that time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_refused(
    result: subprocess.CompletedProcess[str], *words: str, code: int = BAD_INPUT
) -> None:
    lines = result.stderr.strip().splitlines()
    assert result.returncode == code, result
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def summary(path: Path) -> dict[str, float]:
    """What summary.json says."""
    return json.loads((path / "summary.json").read_text())
