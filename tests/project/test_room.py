"""The user's room: each example is right by itself, and all of them together are a run."""

import ast
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from everytoken import Batch
from everytoken.config.keys import conf_dir
from everytoken.decoding.sampling import Greedy
from everytoken.tokenizer.special import SpecialIds
from everytoken.training import TokenModule
from support.helpers import VOCABULARY, make_batch, make_model, run_here, summary

# isort: split
# By itself, so that the order of imports doesn't depend on the room's name.
from project import (
    corpus,
    metric,
    model,
    module,
    parameter_groups,
)

ROOM = Path(model.__file__).parent
GROUPS = ("model", "data", "module", "metrics", "callbacks", "parameter_groups")
ALL = [f"{group}={ROOM.name}" for group in GROUPS]
SMALL = [
    *("logger=none", "hydra.run.dir=run", "model.width=16", "data.limit_examples=40"),
    *("data.batch_size=16", "task.max_new_tokens=4", "trainer.val_check_interval=2"),
]


def parts(**settings: Any) -> dict[str, Any]:
    """What `TokenModule` is made of."""
    return {
        "model": make_model("decoder"),
        "optimizer": torch.optim.SGD,
        "scheduler": torch.optim.lr_scheduler.ConstantLR,
        "total_steps": 1,
        "seed": 1,
        "label_smoothing": 0.0,
        "z_loss": 0.0,
        "clip_norm": None,
        "special": SpecialIds(0, 1, 2, 3, 4),
        "decode": str,
        "max_new_tokens": None,
        "decoding": Greedy(),
        "more_metrics": {},
    } | settings


def loss_and_gradient(module: TokenModule, batch: Batch) -> tuple[float, torch.Tensor]:
    module.zero_grad()
    loss = module.training_sums(batch).loss
    loss.backward()
    gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    return float(loss), torch.cat(gradients)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "z_loss": 0.01}])
def test_at_gamma_0_the_loss_is_the_cross_entropy(settings: dict[str, float]):
    batch = make_batch([7, 3, 5])
    loss, gradient = loss_and_gradient(TokenModule(**parts(**settings)), batch)
    focal, same = loss_and_gradient(module.FocalModule(gamma=0.0, **parts(**settings)), batch)
    assert focal == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(same, gradient, rtol=1e-4, atol=1e-5)


def test_the_focal_loss_is_a_sum_over_target_tokens():
    batch = make_batch([7, 3, 5])
    focal = module.FocalModule(gamma=2.0, **parts())
    with torch.no_grad():
        p = focal.head(focal.hidden(batch)).softmax(-1)[range(batch.target_count), batch.targets]
        sums = focal.target_sums(batch)
    right = sum(-((1 - x) ** 2) * torch.tensor(x).log() for x in p.tolist())
    assert float(sums.loss) == pytest.approx(float(right), rel=1e-5)
    assert 0 <= int(sums.correct) <= batch.target_count


def test_a_token_that_is_certain_has_a_gradient_of_0_not_nan():
    focal = module.FocalModule(gamma=0.5, **parts())
    batch = make_batch([7, 3])
    batch = replace(batch, labels=torch.where(batch.is_target, 5, batch.labels))
    focal.model.head = head = nn.Linear(16, VOCABULARY)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()[5] = 1000.0
    loss, gradient = loss_and_gradient(focal, batch)
    assert gradient.isfinite().all()
    assert 0 <= loss < float("inf")


@pytest.mark.bad_input
def test_a_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="gamma must be at least 0, got -1"):
        module.FocalModule(gamma=-1, **parts())


@pytest.mark.bad_input
def test_a_model_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="task=causal_lm"):
        model.LSTM(VOCABULARY, "encoder", 8)
    with pytest.raises(ValueError, match="padding_side=right"):
        model.LSTM(VOCABULARY, "decoder", 8)(make_batch([3, 2], padding_side="left"))


def test_the_writer_starts_from_the_source():
    lstm = model.LSTM(VOCABULARY, "encoder_decoder", 8)
    batch = make_batch([4, 2], with_source=True)
    before = lstm(batch)
    assert before.shape == (batch.target_count, 8)
    assert batch.source_ids is not None
    batch.source_ids[:, 0] = (batch.source_ids[:, 0] + 1) % VOCABULARY
    assert not torch.equal(before, lstm(batch))


def test_no_cube_is_in_two_splits():
    backwards = corpus.Backwards(digits=2)
    splits = [backwards.examples(split) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == 100 == len({x["source"] for split in splits for x in split})
    assert splits[1][1] == {"source": "132651", "target": "156231"}  # 51 cubed


def test_the_worst_loss_is_the_largest_of_all():
    worst = metric.WorstLoss()
    for right in (0.0, -2.0, 5.0):
        worst.update(torch.tensor([[right, 0.0]]), torch.tensor([0]))
    assert float(worst.compute()) == pytest.approx(torch.tensor(2.0).exp().log1p().item())


def test_embeddings_norms_and_biases_have_no_weight_decay():
    tied = make_model("decoder")
    decayed, others = parameter_groups.matrices_but_embeddings(tied)
    assert others["weight_decay"] == 0.0
    assert any(p is tied.embedding.weight for p in others["params"])
    assert all(p.ndim >= 2 and p is not tied.embedding.weight for p in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(tied.parameters()))


@pytest.mark.slow
def test_all_of_them_train_evaluate_and_go_on(tmp_path: Path):
    done = run_here(tmp_path, "train", *ALL, *SMALL, "trainer.max_steps=4")
    assert done.returncode == 0, done.stderr
    first = summary(tmp_path / "run")
    assert first["test/worst_loss"] > first["test/loss"] > 0

    done = run_here(tmp_path, "eval", "run=run", "split=val")
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "run" / "eval-val-best.json").read_text())
    assert again["val/loss"] == pytest.approx(first["val/loss"], rel=1e-5)

    done = run_here(tmp_path, "train", "resume=run", "trainer.max_steps=6")
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "run")["steps"] == 6
    with (tmp_path / "run" / "metrics.csv").open() as file:
        norms = [row["weights/reader"] for row in csv.DictReader(file) if row["weights/reader"]]
    assert len(norms) >= 3  # validations
    assert all(float(norm) > 0 for norm in norms)


@pytest.mark.slow
def test_model_and_loss_pass_the_audit(tmp_path: Path):
    words = [f"model={ROOM.name}", f"module={ROOM.name}", "task=causal_lm", "data=pydoc"]
    small = ["model.width=16", "task.objective.window_tokens=40", "hydra.run.dir=run"]
    done = run_here(tmp_path, "audit", *words, *small)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert record["passed"]


def test_each_choice_is_documented_in_the_room():
    readme = (ROOM / "README.md").read_text("utf-8")
    for group in GROUPS:
        file = f"{group}/{ROOM.name}.yaml"
        assert f"`{group}={ROOM.name}`" in readme
        assert f"`conf/{file}`" in readme
        assert f"_target_: {ROOM.name}." in (conf_dir() / file).read_text("utf-8")


def test_the_room_knows_public_names_only_and_the_engine_nothing_of_the_room():
    imported = {file: names(file) for file in ROOM.parent.rglob("*.py")}
    for file, found in imported.items():
        if ROOM in file.parents:
            assert [n for n in found if n.startswith("everytoken") and n.count(".") > 1] == []
        else:
            assert [n for n in found if n.split(".")[0] == ROOM.name] == [], file


def names(file: Path) -> list[str]:
    """Modules that a file imports from."""
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
