"""What is large is compared with its checksums once on a machine, and again if it has changed."""

import os
from pathlib import Path

import pytest

from everytoken.data.cache import checked
from everytoken.data.cache.checked import check_once
from everytoken.data.cache.folder import StoreError, check, writing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checked, "LARGE_BYTES", 10)
    with writing(tmp_path / "folder") as new:
        (new / "a").write_bytes(b"a" * 1000)
        (new / "b").write_bytes(b"b")
    return tmp_path / "folder"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []
    monkeypatch.setattr(checked, "check", lambda folder: (made.append(folder), check(folder)))
    return made


def test_the_second_look_reads_nothing(folder: Path, passes: list[Path]) -> None:
    for _ in range(3):
        check_once(folder)
    assert len(passes) == 1
    check(folder)  # the note is no file too many


@pytest.mark.parametrize("name", ["a", "b", "checksums.json"])
def test_what_was_changed_since_is_found(folder: Path, name: str, passes: list[Path]) -> None:
    check_once(folder)
    file = folder / name
    whole, times = file.read_bytes(), file.stat()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as who copies it with its times
    for _ in range(2):
        with pytest.raises(StoreError):
            check_once(folder)


@pytest.mark.parametrize("name", ["a", "checksums.json"])
def test_what_is_gone_or_too_many_is_found(folder: Path, name: str) -> None:
    check_once(folder)
    (folder / "c").write_bytes(b"")
    with pytest.raises(StoreError):
        check_once(folder)
    (folder / "c").unlink()
    (folder / name).unlink()
    with pytest.raises(StoreError):
        check_once(folder)


@pytest.mark.parametrize("note", ["", "{", "[]", '{"files": {}}', '{"files": null, "at": "x"}'])
def test_a_note_of_garbage_is_none(folder: Path, note: str, passes: list[Path]) -> None:
    check_once(folder)
    [file] = folder.glob("checked-*.json")
    file.write_text(note)
    check_once(folder)
    assert len(passes) == 2


def test_a_note_holds_for_a_week(
    folder: Path, passes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_once(folder)
    monkeypatch.setattr(checked, "VALID_SECONDS", 0)
    check_once(folder)
    assert len(passes) == 2


def test_what_is_small_is_compared_each_time(
    folder: Path, passes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked, "LARGE_BYTES", 10_000)
    check_once(folder)
    check_once(folder)
    assert len(passes) == 2
    assert not list(folder.glob("checked-*"))
