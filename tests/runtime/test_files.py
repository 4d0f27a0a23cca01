"""Files and folders that are there whole or not at all."""

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from everytoken.runtime import files
from everytoken.runtime.files import replacing, unlinked, write_json, write_whole
from support.fitting import full_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_whole(file, "old\n")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_whole(file, "new" * 1000)
    assert file.read_text() == "old\n"
    assert names(tmp_path) == ["file.txt"]


def test_until_all_is_written_the_old_file_is_there(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("old")
    with file.open() as reader:
        with replacing(file) as new:
            new.write_text("half")
            assert file.read_text() == "old"
            new.write_text("new")
        assert reader.read() == "old"  # the new one is another file
    assert file.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_interrupted_leaves_nothing(tmp_path: Path, is_folder: bool) -> None:
    def write() -> None:
        with replacing(tmp_path / "out") as new:
            if is_folder:
                new.mkdir()
                new /= "part"
            new.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == []


def test_of_several_writers_of_a_folder_the_first_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "out"

    def write(content: str) -> None:
        with replacing(place, shared=True) as new:
            new.mkdir()
            (new / "a").write_text(content)
            if content == "slow":
                write("fast")

    with pytest.raises(OSError, match="not empty"):
        write("slow")
    assert (place / "a").read_text() == "fast"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["file.json", "file.json.tmp"])
def test_no_link_is_followed(tmp_path: Path, name: str) -> None:
    """In a directory that came from elsewhere it may lead to a file of the user's own."""
    own = tmp_path / "own.txt"
    own.write_text("the user's")
    (tmp_path / name).symlink_to(own)
    write_json(tmp_path / "file.json", {"a": [1.0, float("inf")]})
    assert own.read_text() == "the user's"
    assert not (tmp_path / "file.json").is_symlink()
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": [1.0, None]}
    assert names(tmp_path) == ["file.json", "own.txt"]


def test_nothing_is_appended_to_what_a_link_leads_to(tmp_path: Path) -> None:
    with open(tmp_path / "log", "a", opener=unlinked) as file:
        file.write("one\n")
    (tmp_path / "link").symlink_to(tmp_path / "log")
    with pytest.raises(OSError, match="symbolic links"):
        os.close(unlinked(str(tmp_path / "link"), os.O_WRONLY))
    assert (tmp_path / "log").read_text() == "one\n"


def test_without_a_folder_to_write_to_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "no" / "out", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            write_whole(place, "")


IN_FOLDERS_OF_THEIR_OWN = {
    *("audit/observe.py", "audit/processes.py", "callbacks/replay.py", "commands/export.py"),
    *("commands/prepare.py", "corpora/shelf.py", "data/cache/archive.py"),
    "data/cache/sharding.py",
    "audit/foreign/ranks.py",
    *(
        "data/cache/folder.py",
        "data/cache/parts.py",
        "data/cache/store.py",
        "data/cache/token_store.py",
        "hf/export.py",
        "hf/adapter.py",
        "run/writing.py",
    ),
    *("commands/lines.py", "config/seal.py", "tokenizer/files.py", "tracking/logger.py"),
}
"""Modules that write where nothing was before: to what `replacing` gives, or in a new folder."""


def test_nothing_else_writes_files() -> None:
    """Or it would follow links, and leave files in part."""
    package = Path(files.__file__).parents[1]
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(writes(ast.parse(path.read_text(encoding="utf-8"))))
    }
    opens_what_is_new = {"runtime/files.py", "run/directory.py"}
    opens_what_is_no_link = {"run/metrics_file.py", "tracking/wandb_run.py"}
    assert {*opens_what_is_new, *opens_what_is_no_link} <= found
    assert found <= IN_FOLDERS_OF_THEIR_OWN | opens_what_is_new | opens_what_is_no_link


def writes(module: ast.Module) -> Iterator[str]:
    """Calls in a module that write to a file which they are given by name."""
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name in ("write_text", "write_bytes", "save_file", "touch"):
            yield name
        values = [value.value for value in node.args if isinstance(value, ast.Constant)]
        modes = [
            value for value in values if isinstance(value, str) and value.strip("btxaw+") == ""
        ]
        if name == "open" and any(set(mode) & {*"xaw+"} for mode in modes):
            yield name
        if name == "save" and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                yield name
