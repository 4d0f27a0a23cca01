"""scripts/wandb_sweep.yaml: W&B accepts it, and its trials are commands that train accepts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import (
    create_sweep_command,
    create_sweep_command_args,
    load_sweep_config,
)

from everytoken.training.evaluation_metrics import EvaluationMetrics
from support.helpers import run

FILE = Path(__file__).parents[2] / "scripts" / "wandb_sweep.yaml"


@pytest.fixture(scope="module")
def sweep() -> dict[str, Any]:
    config = load_sweep_config(str(FILE))
    assert config is not None
    return config


def test_wandb_reads_it(sweep: dict[str, Any]):
    assert sweep["method"] == "bayes"
    assert sweep["early_terminate"]["type"] == "hyperband"
    split, _, name = sweep["metric"]["name"].partition("/")
    assert (split, sweep["metric"]["goal"]) == ("val", "minimize")
    assert name in EvaluationMetrics({}, generates=False).names


def test_it_fits_the_schema_of_sweeps():
    schema = pytest.importorskip("sweeps.config.schema", reason='needs pip install "wandb[sweeps]"')
    schema.fill_validate_schema(yaml.safe_load(FILE.read_text()))


def test_a_trial_is_a_command_of_train(sweep: dict[str, Any], tmp_path: Path):
    """Put together as the agent does."""
    chosen = {"optimizer.lr": 0.00123, "model.dropout": 0.1}
    assert set(sweep["parameters"]) == set(chosen)
    arguments = {name: {"value": value} for name, value in chosen.items()}
    known = create_sweep_command_args({"args": arguments, "program": ""})
    words: list[str] = []
    for word in create_sweep_command(sweep["command"]):
        is_name = word.startswith("${") and word.endswith("}")
        words += known.get(word[2:-1], []) if is_name else [word]
    assert words[:2] == ["-m", "train"]
    done = run(tmp_path, *words[1:], "--cfg", "job")
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert (config["optimizer"]["lr"], config["model"]["dropout"]) == (0.00123, 0.1)
