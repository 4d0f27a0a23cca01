"""Mistakes in code and YAMLs of one's own: one line that says what to mend, exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.helpers import assert_refused, run, run_here
from support.small_runs import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.bad_input]

PARTS = """
from pathlib import Path
from torch import nn
from torch.nn import functional as F
from everytoken.model import Transformer
from everytoken.training import TokenModule

class Headless(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 8)
        self.out = nn.Linear(8, vocabulary)

    def forward(self, batch):
        return self.out(self.embedding(batch.input_ids))[batch.is_target]

class Averages(TokenModule):
    def target_sums(self, batch, label_smoothing=0.0, z_loss=0.0):
        return F.cross_entropy(self.head(self.hidden(batch)), batch.targets)

class Corpus:
    fields = ("source", "target")

    def __init__(self):
        self.text = Path("missing.txt").read_text()

    def examples(self, split):
        return []

class NoMetric:
    pass

class Fussy(Transformer):
    def __init__(self, **sizes):
        raise KeyError("no such size")

class Breaks(Transformer):
    def forward(self, batch):
        return self.nothing(batch)

class WrongLoss(TokenModule):
    def target_sums(self, batch):
        return None
"""
CASES = {
    "no head": ("model", "_target_: PARTS.Headless", ["Headless has no output layer", "`head`"]),
    "no such name": ("model", "_target_: PARTS.Nothing", ["model", "Nothing"]),
    "no such module": ("model", "_target_: BROKEN.Model", ["nonexistent_package"]),
    "no target": ("model", "width: 3", ["model", "_target_"]),
    "no YAML": ("model", "width: [3", ["bad.yaml", "line"]),
    "a mean": (
        "module",
        "defaults: [token, _self_]\n_target_: PARTS.Averages",
        ["TargetSums.of", "no mean"],
    ),
    "no metric": ("metrics", "mine:\n  _target_: PARTS.NoMetric", ["metrics.mine", "no Metric"]),
    "a constructor": (
        "model",
        "defaults: [tiny, _self_]\n_target_: PARTS.Fussy",
        ["model: KeyError: 'no such size'", "PARTS.py:", "in __init__)"],
    ),
    "no file": (
        "data",
        "kind: mine\nbatch_size: 8\ncorpus:\n  _target_: PARTS.Corpus",
        ["data.corpus", "missing.txt"],
    ),
}


@pytest.mark.parametrize(("group", "text", "answer"), CASES.values(), ids=list(CASES))
def test_a_mistake_of_ones_own_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, text: str, answer: list[str]
):
    name = f"parts_{tmp_path.name}"  # of this test alone: what was imported stays imported
    (tmp_path / f"{name}.py").write_text(PARTS)
    (tmp_path / f"broken_{name}.py").write_text("import nonexistent_package\n\n\nclass Model: ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    choice = tmp_path / "conf" / group / "bad.yaml"
    choice.parent.mkdir(parents=True)
    choice.write_text(text.replace("PARTS", name).replace("BROKEN", f"broken_{name}"))
    small = [line for line in SMALL if not line.startswith((f"{group}.", "data.corpus"))]
    words = ["--config-dir", "conf", f"{group}=bad", "hydra.run.dir=run", "trainer=cpu", *small]
    answer = [word.replace("PARTS", name) for word in answer]
    assert_refused(run_here(tmp_path, "train", *words, "data.limit_examples=40"), *answer)


@pytest.mark.parametrize(
    ("group", "text", "answer"),
    [
        (
            "model",
            "defaults: [tiny, _self_]\n_target_: PARTS.Breaks",
            ["has no attribute 'nothing'"],
        ),
        ("module", "defaults: [token, _self_]\n_target_: PARTS.WrongLoss", ["target_sums()"]),
    ],
)
def test_what_breaks_in_ones_own_step_is_one_line_and_its_traceback_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, text: str, answer: list[str]
):
    name = f"parts_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    choice = tmp_path / "conf" / group / "bad.yaml"
    choice.parent.mkdir(parents=True)
    choice.write_text(text.replace("PARTS", name))
    small = [line for line in SMALL if not line.startswith(f"{group}.")]
    words = ["--config-dir", "conf", f"{group}=bad", "hydra.run.dir=run", "trainer=cpu", *small]
    done = run_here(tmp_path, "train", *words, "data.limit_examples=40")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "log_level=debug shows the traceback" in done.stderr or "traceback.txt" in done.stderr
    for word in answer:
        assert word in done.stderr


def test_a_run_whose_code_has_changed_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    code = "from everytoken.model import Transformer\nclass Model(Transformer):\n    pass\n"
    (tmp_path / "changing_model.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = ("model._target_=changing_model.Model", "hydra.run.dir=run", "trainer=cpu", *SMALL)
    assert run(tmp_path, "train", *words).returncode == 0
    code += "    def __init__(self, **sizes):\n        super().__init__(**sizes)\n"
    code += "        self.head = type(self.head)(sizes['width'], sizes['vocabulary'], bias=True)\n"
    (tmp_path / "changing_model.py").write_text(code)
    again = ("resume=run", "trainer.max_steps=8")
    assert_refused(run(tmp_path, "train", *again), "last.ckpt holds another model", "head.bias")


def test_who_reads_only_the_beginning_of_the_help_gets_no_error(tmp_path: Path):
    command = f"{sys.executable} -m train --help | head -1"
    for _ in range(3):
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.startswith("Train")
        assert done.stderr == ""
