"""Whatever somebody else's run directory holds: no command that is given it calls its code."""

import io
import runpy
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from everytoken.commands.factory import factory
from everytoken.config.seal import is_own
from everytoken.errors import UserError
from everytoken.run.directory import NOT_BUILT, Run
from everytoken.tokenizer import train_byte
from support.helpers import composed, run_here
from support.small_runs import SMALL

pytestmark = pytest.mark.bad_input

ROOT = Path(__file__).parents[2]
CALL = {"job": "os:mkdir", "arguments": {"path": "made"}}
EVIL = {"_target_": "everytoken.runtime.rank.call", **CALL}
"""Makes a folder; not in Hydra's own list of what may not be called."""
TEXT = "_target_:everytoken.runtime.rank.call,job:'os:mkdir',arguments:{path:made}"
DECODED = '${oc.decode:"{' + TEXT + '}"}'
CREATED = "${oc.create:{" + TEXT.replace("'", '"') + "}}"
LATER = {"_target_": "${evil.${._convert_}}", **CALL}
NAME = EVIL["_target_"]

KINDS: dict[str, dict[str, Any]] = {
    "a part": {"model": EVIL},
    "an argument": {"model.layers": EVIL},
    "in a list": {"data.corpus._args_": [[EVIL]]},
    "a callback": {"callbacks.x": EVIL},
    "a logger": {"logger": EVIL},
    "a metric, decoded": {"metrics": {"x": DECODED}},
    "an objective, decoded": {"task.objective": DECODED},
    "a callback, created": {"callbacks.x": CREATED},
    "later, all": {"decoding": LATER, "evil": {"all": NAME}},
    "later, none": {"decoding": LATER, "evil": {"none": NAME}},
    "by the machine": {
        "task.objective": {"_target_": "${evil.${trainer.accelerator}}", **CALL},
        "evil": {"cpu": NAME, "auto": NAME},
    },
    "by reference": {"decoding": "${evil}", "evil": EVIL},
    "by a reference to a name": {"scheduler": {"_target_": "${name}", **CALL}, "name": NAME},
    "by the environment": {"optimizer": {"_target_": "${oc.env:EVIL}", **CALL}},
    "a partial": {"tokenizer": {"_target_": "functools.partial", "_args_": [EVIL]}},
    "Hydra's callbacks": {
        "hydra.callbacks": "${oc.decode:${x.${m}}}",
        "m": "k${hydra.mode}",
        "x": {"kRUN": "{y: {" + TEXT + "}}", "kNone": "{}"},
    },
    "all of Hydra": {"hydra": "${h}", "h": {"callbacks": {"x": EVIL}}},
    "Hydra's logging": {
        "hydra.job_logging": {"filters": {"x": {"()": "os.mkdir", "path": "made"}}}
    },
    "Hydra's environment": {"hydra.job": {"env_set": {"LD_PRELOAD": "evil.so"}}},
    "a search path": {"hydra.searchpath": ["pkg://evil"]},
    "a place": {"hydra.run.dir": "made"},
    "a YAML beside it": {"defaults": ["_self_", {"evil": "it"}]},
    "a secret for a logger": {"logger.wandb.notes": "${oc.env:SECRET}"},
    "a secret as a name": {"name": "${oc.env:SECRET}"},
    "a secret of nobody": {"data.cache_dir": "${oc.env:NOT_SET}"},
    "a loop": {"decoding": "${decoding}"},
    "nothing": {"decoding": "${nothing.here}"},
}

WORDS: dict[str, list[str]] = {
    "eval": ["run=foreign", "trainer=cpu"],
    "generate": ["run=foreign", "input=in.txt", "output=out.txt"],
    "compare": ["run=[foreign,other]"],
    "train": ["resume=foreign"],
    "train again": ["--config-dir", "foreign", "--config-name", "config"],
    "train there": ["resume=auto", "hydra.run.dir=foreign", "trainer=cpu", *SMALL],
    "audit": ["--config-dir", "foreign", "--config-name", "config"],
    "export_hf": ["run=foreign", "out=exported"],
    "replay": ["foreign/nonfinite/step-1-rank-0.pt"],
    "plot_run": ["foreign", "picture.png"],
    "upload": ["foreign"],
}


EACH = ("eval", "train", "train again")
"""Commands that come to a run by ways of their own; the others share them."""
IN_ALL = ("later, all", "a metric, decoded", "a secret for a logger")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as somebody else's `python -m train` leaves it."""
    folder = tmp_path_factory.mktemp("honest")
    started = ["trainer=cpu", "logger=wandb", *(word for word in SMALL if word != "logger=none")]
    for name in ("foreign", "other"):
        run = Run.create(folder / name, composed(*started), {"overrides": started})
        assert is_own(run.config_file)
        (run.path / "metrics.csv").write_text("step,train/loss\n1,2.0\n")
        (run.path / "nonfinite").mkdir()
        (run.path / "nonfinite" / "step-1-rank-0.pt").write_bytes(b"no step")
        train_byte([]).save(run.tokenizer_file)
    (folder / "in.txt").write_text("1\n")
    return folder


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts that a job builds, of which all are built here and nothing else is done."""
    found: list[str] = []

    def call(job: str, arguments: dict[str, Any]) -> None:
        cfg = Run(Path(arguments["run_dir"])).config
        cfg = OmegaConf.merge(cfg, {k: v for k, v in arguments.items() if k in cfg and v})
        assert isinstance(cfg, DictConfig)
        for key, part in parts(cfg):
            if part.get("_target_") and not (
                job.endswith("evaluate") and key.startswith(NOT_BUILT)
            ):
                found.append(key)
                with suppress(UserError):
                    factory(cfg, key)()

    def given(run: Run, **settings: Any) -> None:
        assert "hush" not in str(settings)

    monkeypatch.setattr("everytoken.runtime.launch.call", call)
    monkeypatch.setattr("everytoken.tracking.logger.wandb_logger", given)
    return found


def parts(node: Any, place: str = "") -> Iterator[tuple[str, DictConfig]]:
    for key in node if isinstance(node, DictConfig) else ():
        if isinstance(node[key], DictConfig):
            yield f"{place}{key}", node[key]
            yield from parts(node[key], f"{place}{key}.")


def crafted(folder: Path, changes: dict[str, Any]) -> None:
    file = folder / "config.yaml"
    cfg: Any = OmegaConf.to_container(OmegaConf.load(file))
    for key, value in changes.items():
        *places, name = key.split(".")
        node = cfg
        for place in places:
            node = node[place]
        node[name] = value
    OmegaConf.save(OmegaConf.create(cfg), file)
    (folder / "evil").mkdir()
    text = OmegaConf.to_yaml({"callbacks": {"x": EVIL}})
    (folder / "evil" / "it.yaml").write_text(f"# @package hydra\n{text}")


def called(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code of a command, and all that it printed."""
    if command not in ("export_hf", "replay", "plot_run"):
        name = {"upload": "everytoken.tracking"}.get(command, command.split()[0])
        done = run_here(folder, name, *WORDS[command])
        return done.returncode, done.stdout + done.stderr
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [command, *WORDS[command]])
    script = str(ROOT / "scripts" / f"{command}.py")
    printed = io.StringIO()
    with redirect_stderr(printed), pytest.raises(SystemExit) as left:
        runpy.run_path(script, run_name="__main__")
    return int(left.value.code or 0), printed.getvalue()


def contents(folder: Path) -> dict[Path, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {file.relative_to(folder): file.read_bytes() for file in files}


@pytest.mark.parametrize("kind", KINDS)
def test_a_crafted_run_calls_nothing_and_is_told_nothing(
    tmp_path: Path, honest: Path, kind: str, monkeypatch: pytest.MonkeyPatch, built: list[str]
):
    monkeypatch.setenv("EVIL", NAME)
    monkeypatch.setenv("SECRET", "hush-hush-hush")
    for command in WORDS if kind in IN_ALL else EACH:
        folder = tmp_path / command
        shutil.copytree(honest, folder)
        crafted(folder / "foreign", KINDS[kind])
        before = contents(folder)
        code, printed = called(folder, command, monkeypatch)
        assert code in (0, 2)
        assert "Traceback" not in printed
        assert "hush" not in printed
        assert not list(folder.rglob("made")), command
        after = contents(folder)
        assert not any(b"hush" in content for content in after.values())
        assert code == 0 or after == before, (command, printed)


def test_an_honest_run_is_built(
    tmp_path: Path, honest: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Or the test above would see nothing."""
    for command in ("eval", "train", "train again", "train there"):
        built.clear()
        shutil.copytree(honest, tmp_path / command)
        code, printed = called(tmp_path / command, command, monkeypatch)
        assert code == 0, printed
        assert {"model", "decoding", "task.objective", "data.corpus"} <= {*built}
