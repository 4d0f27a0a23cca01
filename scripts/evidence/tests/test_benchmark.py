"""scripts/evidence/benchmark.py: every sub-command runs, and counts what it claims to count."""

import gzip
import importlib
import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from everytoken.batch import Batch
from everytoken.data.collate import collate
from everytoken.data.objective import CausalLM, ExampleKey, Item, Seq2Seq
from everytoken.model.transformer import Shape, Transformer
from everytoken.tokenizer.learned import SPECIAL
from support import prefork

SCRIPTS = Path(__file__).parents[1]
COMMANDS = (
    *("seq2seq", "causal-lm", "masked-lm", "overhead", "checkpoints", "tracking", "head"),
    *("startup", "scale", "processes", "chars", "gpu", "activations"),
)
COMPARE = ("transformers", "accelerate", "matplotlib")
needs_peers = pytest.mark.skipif(
    any(find_spec(name) is None for name in COMPARE), reason="needs the extra `compare`"
)
TINY = ("--layers", "1", "--width", "32", "--heads", "2", "--ffn-width", "48", "--batch-size", "8")
SHORT = ("--rounds", "1", "--steps", "1", "--warm-up", "1", "--threads", "1")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    return prefork.run(Path.cwd(), str(SCRIPTS / "benchmark.py"), *words, env=environment)


def report(folder: Path, command: str) -> dict[str, Any]:
    assert (folder / f"{command}.png").stat().st_size > 5_000
    return json.loads((folder / f"{command}.json").read_text())


def test_help_lists_the_sub_commands():
    done = run("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout


def test_checkpoints_are_timed_in_a_default_run(tmp_path: Path):
    words = ("--models", "tiny", "--steps", "2", "--examples", "20", "--threads", "1")
    done = run("checkpoints", *words, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "checkpoints.json").read_text())["results"]["tiny"]
    assert 0 < found["saving"] < found["training"]
    assert found["saves"] >= 2  # best and last
    assert found["bytes"] > 12e6  # a million weights, and two moments of each


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_is_refused_without_one():
    done = run("gpu")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    if not any(find_spec(name) is None for name in COMPARE):
        assert "needs a CUDA GPU" in done.stderr


@pytest.mark.skipif(find_spec("transformers") is not None, reason="transformers is installed")
def test_a_missing_package_is_one_line(tmp_path: Path):
    done = run("seq2seq", "--data", str(tmp_path))
    assert done.returncode == 2
    assert 'pip install -e ".[compare]"' in done.stderr


def test_chars_needs_nanogpts_own_code(tmp_path: Path):
    done = run("chars", "--nanogpt", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path / 'train.py'} is missing" in done.stderr


def counted(model: Transformer, batch: Batch, targets: Tensor) -> int:
    """FLOPs of forward and backward, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        loss = torch.nn.functional.cross_entropy(model.head(model(batch)), targets)
        loss.backward()
    return counter.get_total_flops()


def flops_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmarks.flops")


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder_decoder"])
def test_flops_are_those_that_torch_counts(shape: Shape, monkeypatch: pytest.MonkeyPatch):
    module = flops_module(monkeypatch)
    sizes = module.Sizes(layers=2, width=32, ffn_width=48, vocabulary=50, gated=True)
    model = Transformer(
        shape=shape,
        vocabulary=50,
        layers=2,
        width=32,
        heads=2,
        key_value_heads=2,
        ffn_width=48,
        token_dropout=0.0,
        dropout=0.0,
        tie_embeddings=False,
        rope_base=100.0,
        norm_eps=1e-6,
        window=None,
        attention="bucketed",  # for a single sequence: plain products without padding
    )
    ids, source = np.arange(5, 43), np.arange(5, 24)
    has_source = shape == "encoder_decoder"
    objective = (
        Seq2Seq(SPECIAL, 50, None, 100, "refuse")
        if has_source
        else CausalLM(SPECIAL, 50, 100, 100, "windows")
    )
    item = Item(ids, source if has_source else None)
    batch = collate([objective.example(item, ExampleKey(0, 0, 0))], 0)
    length = batch.input_count
    expected = module.model_flops(
        sizes,
        np.array([length]),
        causal=shape != "encoder",
        targets=batch.target_count,
        source_lengths=np.array([len(source)]) if has_source else None,
    )
    if shape != "encoder":  # the kernel multiplies what is masked, too
        expected += 6 * 2 * 2 * 32 * (length**2 - length * (length + 1) / 2)
    assert counted(model, batch, batch.targets) == expected


def test_plain_models_have_the_flops_of_the_formula(monkeypatch: pytest.MonkeyPatch):
    module = flops_module(monkeypatch)
    gpt = importlib.import_module("benchmarks.nanogpt").GPT(50, 2, 32, 2, 64)
    sizes = module.Sizes(layers=2, width=32, ffn_width=64, vocabulary=50, gated=False)
    ids = torch.randint(50, (3, 20))
    math_only = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math_only, FlopCounterMode(display=False) as counter:
        gpt(ids, ids).backward()
    expected = module.model_flops(sizes, np.array([20] * 3), causal=True, targets=60)
    masked = 3 * 6 * 2 * 2 * 32 * (20**2 - 20 * 21 / 2)
    assert counter.get_total_flops() == expected + masked


def made_corpus(folder: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["a", "dog", "runs", "fast", "and", "man", "sees", "the", "red", "house"]
    for split, lines in (("train", 200), ("val", 20)):
        for language in ("en", "de"):
            texts = [" ".join(rng.choice(words, rng.integers(2, 12))) for _ in range(lines)]
            content = gzip.compress("\n".join(texts).encode())
            (folder / f"{split}.lc.norm.tok.{language}.gz").write_bytes(content)


@needs_peers
@pytest.mark.slow
def test_seq2seq(tmp_path: Path):
    made_corpus(tmp_path)
    words = ("--data", str(tmp_path), "--vocabulary", "300", "--out", str(tmp_path / "out"))
    some = ("--only", "nn.Transformer", "group_by_length", "everytoken")
    done = run("seq2seq", *words, *TINY, *SHORT, *some)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "x HF" in done.stdout
    found = report(tmp_path / "out", "seq2seq")["results"]["fp32"]
    assert [f["family"] for f in found].count("everytoken") == 2
    rounds = {f["name"]: f["rounds"][0] for f in found if f["family"] != "peak"}
    assert len(rounds) == 5
    for name, answer in rounds.items():
        assert 0 < answer["real"] <= answer["positions"], name
        if "everytoken" in name:
            assert answer["real"] == answer["positions"]
    peers = [f["flops_per_token"] for f in found if f["family"] in ("plain", "hugging face")]
    assert len(set(peers)) == 1


@needs_peers
@pytest.mark.slow
def test_gpu_code_path_on_a_cpu(tmp_path: Path):
    done = run("gpu", "--device", "cpu", "--tiny", "--threads", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = report(tmp_path, "gpu")["results"]["bf16"]
    assert {f["family"] for f in found} == {"peak", "plain", "hugging face", "everytoken"}


@needs_peers
@pytest.mark.slow
def test_head(tmp_path: Path):
    sizes = ("--tokens", "256", "--width", "16", "--vocabulary", "4096", "--rounds", "1")
    done = run("head", *sizes, "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = report(tmp_path, "head")["results"]["fp32"]
    assert "everytoken target_sums" in found
    for runs in found.values():
        assert max(runs[0]["hidden_error"], runs[0]["weight_error"]) <= 1e-5


@needs_peers
@pytest.mark.slow
def test_activations(tmp_path: Path):
    sizes = ("--tokens", "700", "--vocabulary", "99", *TINY[:-2], "--layers", "2")
    done = run("activations", *sizes, "--rounds", "1", "--threads", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = report(tmp_path, "activations")["results"]
    kept = [found[way][0]["bytes"] for way in ("false", "2", "true")]
    assert kept == sorted(kept, reverse=True)
    assert 0 < kept[-1] < kept[0] / 2


def test_rounds_of_tracking_must_be_alike():
    done = run("tracking", *SHORT, "--steps", "2", "--warm-up", "2")
    assert done.returncode == 2
    assert "--every 100 must divide --steps 2" in done.stderr


@pytest.mark.slow
def test_tracking():
    few = ("--steps", "1", "--warm-up", "2", "--every", "1", "--examples", "40")
    done = run("tracking", *SHORT, *few)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rounds of 1 steps and 1 validations" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() == 1, reason="needs two cores")
def test_processes_train_on_a_corpus_of_ids(tmp_path: Path):
    made_corpus(tmp_path)
    words = ("--data", str(tmp_path), "--vocabulary", "300", "--rounds", "1", "--steps", "1")
    done = run("processes", *words, *TINY, "--threads", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes train" in done.stdout


@pytest.mark.slow
def test_what_grows_with_the_examples():
    done = run("startup", "--examples", "100", "--rounds", "1", "--threads", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 examples, full cache" in done.stdout
    assert "python -m train, to its first step" in done.stdout
    done = run("scale", "--examples", "200", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 examples" in done.stdout
