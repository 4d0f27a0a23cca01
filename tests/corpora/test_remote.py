"""Files elsewhere are read as those here, from servers that fail, stall and cut off, too."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everytoken.corpora import remote
from everytoken.corpora.splits import SPLITS
from everytoken.corpora.text import Text
from everytoken.errors import RunError, UserError
from support.file_server import Server, serving

LINES = [f"line {n} zwölf" for n in range(5000)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        monkeypatch.setattr(remote, "BLOCK_BYTES", 20_000)
        server.files["a.txt"] = "\n".join(LINES).encode()
        yield server


def whole(path: Any, **changed: Any) -> list[str]:
    settings = {"column": "text", "example": "line", "split_by": "content", "seed": 1}
    corpus = Text(path, None, None, **settings | changed, val_fraction=0.1, test_fraction=0.1)
    return sorted(e["text"] for split in SPLITS for e in corpus.examples(split))


def test_a_file_elsewhere_is_what_it_is_here(server: Server) -> None:
    server.files["b.txt.gz"] = gzip.compress(b"\n".join(b"packed %d" % n for n in range(200)))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(200)]}), sink)
    server.files["c.parquet"] = sink.getvalue().to_pybytes()
    found = whole([server.url(name) for name in ("a.txt", "b.txt.gz", "c.parquet")])
    others = [f"{kind} {n}" for kind in ("packed", "row") for n in range(200)]
    assert found == sorted([*LINES, *others])


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("mood", ["fails", "cuts off", "stalls"])
def test_a_server_that_fails_now_and_then_is_asked_again(
    server: Server, mood: str, ranges: bool
) -> None:
    server.ranges = ranges
    server.moods = ["well", "well", mood, "well", mood, mood]
    assert whole(server.url("a.txt")) == sorted(LINES)
    assert not server.moods


@pytest.mark.bad_input
def test_one_that_always_does_ends_in_a_line(server: Server) -> None:
    url = server.url("a.txt")
    read = Text(url, None, None, "text", "line", "content", 0.1, 0.1, 1).examples("train")
    server.moods = ["fails"] * 100
    told = rf"^can't read {re.escape(url)}, which failed 6 times \(.*\): is its server up\?$"
    with pytest.raises(RunError, match=told):
        list(read)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("http://127.0.0.1:{port}/none.txt", "nothing is at http://127.0.0.1:"),
        ("http://127.0.0.1:{port}/a.doc", "names of files must end in .txt"),
        ("nosuch://bucket/a.txt", "can't read nosuch://bucket/a.txt: "),
    ],
)
def test_an_address_that_leads_nowhere_is_told(server: Server, path: str, told: str) -> None:
    server.files["a.doc"] = b"x"
    with pytest.raises(UserError, match=re.escape(told)):
        whole(path.format(port=server.server_port))


@pytest.mark.bad_input
@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs")])
def test_what_is_not_installed_is_named(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(url: str) -> None:
        raise ImportError(f"Install {url}")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match=rf"what reads {scheme}:// isn't installed: .*\[{extra}\]"):
        whole(f"{scheme}://bucket/a.txt")


def test_folders_and_patterns_of_an_object_store() -> None:
    """Of fsspec's own in memory, which has folders as stores have."""
    system = fsspec.filesystem("memory")
    for name in ("b/2.txt", "b/1.txt", "b/deep/3.txt", "b/about.json", "c/4.txt"):
        system.pipe(f"/remote-test/{name}", f"text of {name}".encode())
    try:
        folder = "memory://remote-test/b"
        found = Text(folder, None, None, "text", "line", "content", 0.1, 0.1, 1)
        assert [file.name for file in found.files["train"]] == ["1.txt", "2.txt", "3.txt"]
        assert str(found.files["train"][0]).startswith("memory://")
        one_kind = Text(f"{folder}/*.txt", None, None, "text", "line", "content", 0.1, 0.1, 1)
        assert [file.name for file in one_kind.files["train"]] == ["1.txt", "2.txt"]
        before = found.fingerprint()
        system.pipe("/remote-test/b/1.txt", b"other")
        again = Text(folder, None, None, "text", "line", "content", 0.1, 0.1, 1)
        assert again.fingerprint() != before
    finally:
        system.rm("/remote-test", recursive=True)


def test_what_is_local_asks_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(LINES))
    assert whole(str(tmp_path / "a.txt")) == sorted(LINES)
