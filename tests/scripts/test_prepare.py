"""The command that prepares a corpus: what it writes, and mistakes in a line."""

import json
import shlex
from pathlib import Path

import pytest

import prepare

SMALL = (
    *("data.corpus.train_examples=40", "data.corpus.val_examples=10"),
    *("data.corpus.test_examples=10", "data.cache_dir=null"),
)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["prepare.py", *words])
    return prepare.main()


def test_it_says_what_to_train_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    words = (*SMALL, "data.batch_size=8", "tokenizer=byte", "--shard-megabytes", "0.001")
    assert call(monkeypatch, "new folder", *words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "train: 40 examples in" in shown[-5]
    typed = ["data.cache_dir=null", "data.batch_size=8", "data=prepared", "data.path='new folder'"]
    assert shlex.split(shown[-1])[-4:] == typed
    manifest = json.loads((tmp_path / "new folder" / "prepared.json").read_text())
    files = {str(f.relative_to(tmp_path / "new folder")) for f in tmp_path.rglob("*.zip")}
    shards = {
        f"{split}/{n:05}.zip"
        for split, part in manifest["splits"].items()
        for n in range(len(part["shards"]))
    }
    indexes = {f"index-{split}.zip" for split in manifest["splits"]}
    assert files == {"tokenizer.zip", *indexes, *shards}
    (tmp_path / "new folder" / "prepared.json").write_text("{}")
    assert call(monkeypatch, "other", "data=prepared", "data.path=new folder") == 2
    assert "isn't what scripts/prepare.py writes" in capsys.readouterr().err


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["out", "no.such=1"], "no.such"),
        (["out", "seed=1", "--shard-megabytes", "0"], "--shard-megabytes must be"),
        (["nosuch://a/b", *SMALL], "can't read nosuch://a/b"),
        (["http://a/b", *SMALL], "http:// is for reading only"),
    ],
)
def test_mistakes_are_told_in_a_line(
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    assert call(monkeypatch, *words) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert len(shown.splitlines()) == 1


def test_help_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        call(monkeypatch, "--help")
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
