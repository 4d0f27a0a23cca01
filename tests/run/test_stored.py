"""JSON files of a run directory that are damaged: one line that names the file and a remedy."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from everytoken.config.secrets import resolved
from everytoken.errors import UserError
from everytoken.report.collect import collect, seen
from everytoken.run.directory import Run
from everytoken.run.resume import newest_unfinished
from everytoken.run.stored import ALWAYS, SOMETIMES
from support.finished_runs import config
from support.helpers import assert_refused, run_here

pytestmark = pytest.mark.bad_input

DAMAGED = {
    "empty": "",
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "a text": '"a"',
    "cut off": '{"id": "a", "na',
    "deep": "[" * 100_000,
    "bytes": "\udcff",
}
"""Contents that are no object."""


def read_all(run: Run) -> dict[str, Any]:
    return {
        "run.json": lambda: run.identity,
        "summary.json": lambda: run.summary,
        "report.json": lambda: seen(run),
        "data.json": lambda: collect(run),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.create(tmp_path_factory.mktemp("run") / "run", config("logger=none"))


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    shutil.copytree(made.path, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("name", ["run.json", "summary.json", "report.json", "data.json"])
def test_what_is_no_object_is_refused(name: str, damage: str, run: Run) -> None:
    (run.path / name).write_text(DAMAGED[damage], errors="surrogateescape")
    with pytest.raises(UserError, match=rf"can't read .*{name} \(.*\): restore it") as refused:
        read_all(run)[name]()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", [*ALWAYS, *SOMETIMES])
def test_run_json_has_what_commands_count_on(key: str, run: Run) -> None:
    whole = run.identity
    for wrong in ([3], 2.5, True, None, "", [{"time": 1}], *[{"reason": ""}] * (key != "versions")):
        run.identity_file.write_text(json.dumps(whole | {key: wrong}))
        with pytest.raises(UserError, match=f'run.json has .* as "{key}", which should be'):
            _ = run.identity
    run.identity_file.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
    if key in ALWAYS:
        with pytest.raises(UserError, match=f'run.json lacks "{key}", .*, or add it'):
            _ = run.identity
    else:
        assert key not in run.identity


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("summary.json", {"val/loss": "low"}, "has 'low' as val/loss, which is no number"),
        ("summary.json", {"val/loss": True}, "has True as val/loss, which is no number"),
        ("report.json", {"moments": 3}, "has 3 as its moments"),
        ("report.json", {"moments": [{"loss": []}]}, "as its moments"),
        ("data.json", {}, "has no splits"),
        ("data.json", {"splits": [1]}, "has no splits"),
        ("config.yaml", [1], r"can't read .*config.yaml \(it holds \[1\]"),
    ],
)
def test_what_is_of_another_kind_is_refused(name: str, content: Any, told: str, run: Run) -> None:
    (run.path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{told}.*: restore it from a copy") as refused:
        read_all(run).get(name, read_all(run)["data.json"])()
    assert name in str(refused.value)


@pytest.mark.parametrize("text", ["[]", '{"id": "a", "created": "2026"}'])
def test_commands_say_so_in_one_line(text: str, run: Run, tmp_path: Path) -> None:
    (run.path / "metrics.csv").write_text("step,train/loss\n1,2.5\n")
    shutil.copytree(run.path, tmp_path / "other")
    run.identity_file.write_text(text)
    for words in (["train", "resume=run"], ["compare", "run=[other,run]"]):
        assert_refused(run_here(tmp_path, *words), "run/run.json", "restore it from a copy")
    (run.path / "run.json").unlink()
    for words in (["train", "resume=run"], ["compare", "run=[other,run]"], ["eval", "run=run"]):
        assert_refused(run_here(tmp_path, *words), "has no run.json; restore it from a copy")


def test_a_damaged_run_among_others_stops_only_who_would_go_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted, other = (resolved(config("logger=none", f"seed={seed}")) for seed in (1, 2))
    whole, damaged = (tmp_path / "runs" / name for name in ("whole", "damaged"))
    Run.create(whole, wanted)
    Run.create(damaged, other).identity_file.write_text("[]")
    found = newest_unfinished(wanted)
    assert found is not None
    assert found.path == whole
    with pytest.raises(UserError, match=r"damaged/run.json .*: restore it"):
        newest_unfinished(other)
