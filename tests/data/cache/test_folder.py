"""Folders that are there whole or not at all."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everytoken.data.cache.folder import StoreError, check, sweep, writing


def write(folder: Path, **contents: bytes) -> Path:
    with writing(folder) as new:
        for name, content in contents.items():
            (new / name).write_bytes(content)
    return folder


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_changed_byte_is_found(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "folder"
    if not folder.exists():
        write(folder, a=bytes(range(40)), b=b"7", c=b"")
    check(folder)
    file = data.draw(st.sampled_from(sorted(p for p in folder.iterdir() if p.name != "c")))
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[place]))
    file.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    try:
        # Other white space between numbers says the same.
        if file.name != "checksums.json" or not whole[place : place + 1].isspace():
            with pytest.raises(StoreError):
                check(folder)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("file", ["a", "checksums.json"])
def test_a_file_that_is_gone_is_found(tmp_path: Path, file: str) -> None:
    (write(tmp_path / "folder", a=b"1", b=b"2") / file).unlink()
    with pytest.raises(StoreError, match=file):
        check(tmp_path / "folder")


def test_a_file_too_many_is_found(tmp_path: Path) -> None:
    (write(tmp_path / "folder", a=b"1") / "b").write_bytes(b"")
    with pytest.raises(StoreError, match="b is not as it was written"):
        check(tmp_path / "folder")


@pytest.mark.parametrize("checksums", ["", "[]", "null", '{"a": "1"}', '{"a": 1}', "{", "\0"])
def test_checksums_of_garbage_are_found(tmp_path: Path, checksums: str) -> None:
    (write(tmp_path / "folder", a=b"1") / "checksums.json").write_text(checksums)
    with pytest.raises(StoreError):
        check(tmp_path / "folder")


def test_a_large_file_is_checked_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everytoken.data.cache.folder.BLOCK_BYTES", 7)
    folder = write(tmp_path / "folder", a=b"x" * 30)
    check(folder)
    (folder / "a").write_bytes(b"y" + b"x" * 29)
    with pytest.raises(StoreError):
        check(folder)


def test_who_fails_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write(tmp_path / "folder", a=b"1", b=None)  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_a_whole_folder_is_kept_and_a_damaged_one_replaced(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", a=b"1")
    write(folder, a=b"2")
    assert (folder / "a").read_bytes() == b"1"
    (folder / "a").write_bytes(b"3")
    write(folder, a=b"4")
    assert (folder / "a").read_bytes() == b"4"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_only_what_is_left_of_the_same_folder_is_swept(tmp_path: Path) -> None:
    write(tmp_path / "train", a=b"1")
    for name in ("train.1.tmp", "train.2.tmp", "val.3.tmp", "train-4.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "train.lock").touch()
    sweep(tmp_path / "train")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["train", "train-4.tmp", "train.lock", "val.3.tmp"]
