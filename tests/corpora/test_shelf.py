"""Files of an address are fetched once, whole, and kept up to a size."""

import os
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from everytoken.corpora.shelf import Kept, Shelf
from everytoken.errors import RunError, UserError
from support.file_server import Server, serving

SIZE = 10_000
CONTENTS = {f"train/{n:05}.zip": os.urandom(SIZE) for n in range(5)}
FILES = [Kept(name, SIZE, zlib.crc32(content)) for name, content in CONTENTS.items()]
ROOM = 2 * SIZE + 100


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        server.files |= {f"a/{name}": content for name, content in CONTENTS.items()}
        yield server


@pytest.fixture
def shelf(server: Server, tmp_path: Path) -> Shelf:
    return Shelf(server.url("a"), tmp_path, ROOM)


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_file_is_fetched_once_for_all_who_ask(server: Server, shelf: Shelf, tmp_path: Path):
    others = [Shelf(server.url("a"), tmp_path, ROOM) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        places = [*threads.map(lambda one: one.get(FILES[0]), others)]
    assert {place.read_bytes() for place in places} == {CONTENTS[FILES[0].name]}
    assert sum(one.fetched for one in others) == SIZE
    asked = len(server.asked)
    assert shelf.get(FILES[0]) == places[0]
    assert len(server.asked) == asked


@pytest.mark.parametrize("mood", ["fails", "cuts off", "stalls"])
def test_a_server_that_fails_now_and_then_is_asked_again(server: Server, shelf: Shelf, mood: str):
    server.moods = [mood, mood]
    assert shelf.get(FILES[0]).read_bytes() == CONTENTS[FILES[0].name]
    assert not server.moods


def test_no_more_is_kept_than_there_is_room_for(shelf: Shelf, tmp_path: Path):
    for file in (*FILES[:2], FILES[0], FILES[2]):  # the first is used again
        shelf.get(file)
        assert sum(path.stat().st_size for path in kept(tmp_path)) <= ROOM
    assert [shelf.has(file) for file in FILES[:3]] == [True, False, True]
    with ThreadPoolExecutor(3) as threads:  # who has no room waits until others are done
        assert len([*threads.map(shelf.get, FILES)]) == len(FILES)
    assert sum(path.stat().st_size for path in kept(tmp_path)) <= ROOM


def test_what_a_killed_process_left_makes_room(shelf: Shelf, tmp_path: Path):
    left = shelf.place(FILES[1])
    left = left.with_name(f"{left.name}.0123abcd.tmp")
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(2 * SIZE))
    shelf.get(FILES[0])
    assert kept(tmp_path) == [shelf.place(FILES[0])]


@pytest.mark.bad_input
@pytest.mark.parametrize("change", ["damaged", "cut off", "missing", "failing"])
def test_what_cannot_be_had_ends_in_a_line(
    server: Server, shelf: Shelf, tmp_path: Path, change: str
):
    name, content = f"a/{FILES[0].name}", CONTENTS[FILES[0].name]
    told = {"missing": "is missing: prepare it again", "failing": "which failed 6 times"}
    if change == "missing":
        del server.files[name]
    elif change == "failing":
        server.moods = ["fails"] * 100
    else:
        server.files[name] = content[:-1] + (
            b"" if change == "cut off" else bytes([content[-1] ^ 1])
        )
    with pytest.raises(RunError) as caught:
        shelf.get(FILES[0])
    assert told.get(change, "is not as it was written: prepare it again") in str(caught.value)
    assert server.url(name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept(tmp_path) == []


def test_a_folder_is_read_where_it_is(tmp_path: Path):
    shelf = Shelf(str(tmp_path), None, 0)
    place = tmp_path / FILES[0].name
    place.parent.mkdir()
    place.write_bytes(CONTENTS[FILES[0].name])
    assert shelf.get(FILES[0]) == place
    place.write_bytes(bytes(SIZE))
    with pytest.raises(RunError, match=re.escape(f"{place} is not as it was written")):
        Shelf(str(tmp_path), None, 0).get(FILES[0])
    with pytest.raises(RunError, match="is missing"):
        shelf.get(FILES[1])


@pytest.mark.bad_input
def test_an_address_needs_a_folder():
    with pytest.raises(UserError, match=r"give data\.cache_dir"):
        Shelf("s3://bucket/a", None, ROOM)
