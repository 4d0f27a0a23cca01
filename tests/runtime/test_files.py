"""Files and folders that are there whole or not at all."""

from pathlib import Path

import pytest

from everytoken.runtime.files import replacing, write_whole
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


def test_without_a_folder_to_write_to_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "no" / "out", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            write_whole(place, "")
