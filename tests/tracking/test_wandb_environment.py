"""What W&B reads of the environment: it counts, or a line says that it doesn't."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from everytoken.config.keys import conf_dir
from everytoken.run.directory import Run
from everytoken.tracking.wandb_environment import why_offline
from everytoken.tracking.wandb_files import records
from support.tracked import SETTINGS, end, logs, tracker_of

VARIABLES = {
    "WANDB_PROJECT": "my-dates",
    "WANDB_ENTITY": "my-team",
    "WANDB_NAME": "first-try",
    "WANDB_TAGS": "a,b",
    "WANDB_JOB_TYPE": "pretrain",
    "WANDB_RUN_GROUP": "group-1",
    "WANDB_NOTES": "why not",
}


def settings_of(*overrides: str) -> dict[str, Any]:
    """What conf/ gives `wandb_logger`, here and now."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        part = compose("train", list(overrides)).logger.wandb
    found = OmegaConf.to_container(part, resolve=True)
    assert isinstance(found, dict)
    settings = {str(key): value for key, value in found.items() if key != "_target_"}
    assert settings.keys() | {"api_key"} == SETTINGS.keys() | {"name", "api_key"}
    return {**settings, "mode": "offline", "save_diff": False}


def begun(tmp_path: Path, **settings: Any) -> Any:
    """What W&B recorded of a run as it began."""
    run = Run.create(tmp_path / "run", OmegaConf.create({"name": "mine"}))
    end(tracker_of(run, **settings))
    return next(r.run for r in records(logs(run)[0]) if r.HasField("run"))


def seen(record: Any) -> tuple[Any, ...]:
    where = (record.project, record.entity, record.display_name, list(record.tags))
    return (*where, record.job_type, record.run_group, record.notes)


def test_the_variables_of_a_run_count_where_nothing_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    record = begun(tmp_path, **settings_of())
    assert seen(record) == (
        *("my-dates", "my-team", "first-try", ["a", "b"], "pretrain", "group-1", "why not"),
    )
    assert "doesn't count" not in capsys.readouterr().out


def test_without_them_a_run_is_named_by_itself(tmp_path: Path) -> None:
    record = begun(tmp_path, **settings_of())
    assert seen(record) == ("everytoken", "", "mine", [], "train", "", "")


def test_what_is_typed_counts_more_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    typed = ("project=p", "entity=e", "name=n", "tags=[t]", "job_type=j", "group=g", "notes=o")
    record = begun(tmp_path, **settings_of(*(f"logger.wandb.{one}" for one in typed)))
    assert seen(record) == ("p", "e", "n", ["t"], "j", "g", "o")
    out = capsys.readouterr().out
    for name, value in VARIABLES.items():
        assert f"warning: {name}={value} doesn't count" in out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_DIR", "/elsewhere"),
        ("WANDB_RUN_ID", "other"),
        ("WANDB_RESUME", "must"),
        ("WANDB_CONSOLE", "wrap"),
        ("WANDB_INIT_TIMEOUT", "7"),
    ],
)
def test_a_variable_that_a_run_can_not_obey_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    begun(tmp_path)
    assert f"warning: {name}={value} doesn't count" in capsys.readouterr().out


def test_no_code_is_uploaded_where_the_environment_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(_: object) -> None:
        raise AssertionError("the diff of the code was saved")

    monkeypatch.setattr("everytoken.tracking.logger._save_diff", saved)
    monkeypatch.setenv("WANDB_DISABLE_CODE", "true")
    begun(tmp_path, save_diff=True)


def test_a_key_of_another_variable_is_used_and_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_MINE", "0123456789" * 4)
    logger = {"wandb": {"api_key": "${oc.env:OF_MINE}"}}
    run = Run.create(tmp_path / "run", OmegaConf.create({"name": "mine", "logger": logger}))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert why_offline("auto", os.environ["OF_MINE"]) is None
    tracker = tracker_of(run, api_key=os.environ["OF_MINE"])
    assert tracker.experiment.settings.api_key == os.environ["OF_MINE"]
    end(tracker)
    for file in run.path.rglob("*"):
        assert not file.is_file() or os.environ["OF_MINE"].encode() not in file.read_bytes(), file


def test_wandb_stays_offline_when_asked_to(monkeypatch: pytest.MonkeyPatch):
    assert why_offline("offline", None) == "asked to"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert why_offline("auto", None) == "asked to"


def test_wandb_stays_offline_without_a_key():
    assert "wandb login" in str(why_offline("auto", None))


@pytest.mark.parametrize("where", ["environment", "netrc"])
def test_wandb_goes_online_with_a_key_and_a_server_that_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        if where == "environment":
            monkeypatch.setenv("WANDB_API_KEY", "secret")
        else:
            (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
        assert why_offline("auto", None) is None
    reason = why_offline("auto", None)  # the server is gone
    assert reason is not None
    assert "127.0.0.1 can't be reached" in reason
    assert "secret" not in reason


def test_a_proxy_is_trusted_to_know_the_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:8")
    assert why_offline("auto", None) is None
