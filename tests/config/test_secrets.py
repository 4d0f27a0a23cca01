"""Secrets stay in the environment: not in a config, a command line, a file or a message."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from everytoken.config.secrets import check_config, check_overrides, resolved
from everytoken.errors import UserError
from everytoken.runtime.redact import SECRET, hidden
from support.helpers import assert_refused, composed, run

PASSWORD = "hunter2hunter2"


@pytest.mark.parametrize(
    "name",
    ["api_key", "WANDB_API_KEY", "token", "hf_token", "use_auth_token", "password", "db_password"],
)
def test_names_of_secrets(name: str):
    assert SECRET.search(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "batch_tokens", "token_dropout", "tokenizer", "mask_token", "key"],
)
def test_names_of_other_things(name: str):
    assert not SECRET.search(name)


def test_no_setting_of_this_project_is_taken_for_a_secret():
    check_config(composed())
    check_overrides(
        ["data.batch_tokens=4096", "+logger.wandb.api_key=${oc.env:WANDB_API_KEY}", "--multirun"]
    )
    check_overrides(["+data.corpus.token=null", "data.path='https://${oc.env:WHO}@example.org/a'"])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("word", "key"),
    [
        (f"+logger.wandb.api_key={PASSWORD}", "logger.wandb.api_key"),
        (f"++data.corpus.token='{PASSWORD}'", "data.corpus.token"),
        (f"+logger={{api_key: {PASSWORD}}}", "api_key"),
        (f"+x.password=[1,{PASSWORD}", "x.password"),
        (f"data.path=https://me:{PASSWORD}@example.org/a.txt", "data.path"),
        (f"data.path=https://{PASSWORD}@example.org/a.txt", "data.path"),
        (f"data.path=https://example.org/a.txt?token={PASSWORD}", "token"),
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(
    tmp_path: Path, word: str, key: str
):
    answer = run(tmp_path, "train", word)
    assert_refused(answer, f"{key} holds a secret", "${oc.env:NAME}")
    assert PASSWORD not in answer.stdout + answer.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"logger": {"api_key": PASSWORD}}, "logger.api_key"),
        ({"a": [{"password": 12345}]}, "a.password"),
        ({"a": {"b": f"ftp://me:{PASSWORD}@example.org"}}, "a.b"),
    ],
)
def test_a_secret_in_a_yaml_is_refused_and_not_repeated(config: dict, key: str):
    with pytest.raises(UserError, match=f"^{key} holds a secret") as caught:
        check_config(OmegaConf.create(config))
    assert PASSWORD not in str(caught.value)


def test_what_comes_from_the_environment_is_not_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_TOKEN", PASSWORD)
    config = {
        "token": "${oc.env:MY_TOKEN}",
        "header": "Bearer ${oc.env:MY_TOKEN}",
        "spaced": "${ oc.env:MY_TOKEN }",
        "corpus": {"key": "${token}", "parts": ["${header}", "${size}"]},
        "size": 3,
        "double": "${size}${size}",
    }
    cfg = OmegaConf.create(config)
    written = resolved(cfg)
    assert PASSWORD not in OmegaConf.to_yaml(written)
    assert written.double == "33"
    assert written.corpus.key == PASSWORD  # but it works
    assert cfg.header == f"Bearer {PASSWORD}"


def test_a_message_hides_what_the_environment_keeps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", PASSWORD)
    assert hidden(f"can't read {PASSWORD}.txt") == "can't read $HF_TOKEN.txt"
    assert hidden("no https://me:pw@example.org/x") == "no https://…@example.org/x"
    assert hidden("time 12:30 @ noon") == "time 12:30 @ noon"
