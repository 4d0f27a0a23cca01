"""A server of files that fails, stalls and cuts off when it is told to."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from everytoken.corpora import remote


class Server(ThreadingHTTPServer):
    """Gives files of a dictionary, each request as the next of its moods says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.moods: list[str] = []
        self.ranges = True
        self.over = threading.Event()
        self.asked: list[str] = []
        """Names of files, as often as they were asked for."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        server = self.server
        content = server.files.get(self.path[1:])
        mood = server.moods.pop(0) if with_body and server.moods else "well"
        if with_body:
            server.asked.append(self.path[1:])
        if content is None or mood == "fails":
            self.send_error(404 if content is None else 500)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = 0, len(content)
        if asked and server.ranges:
            begin, end = int(asked[1]), min(end, int(asked[2] or end) + 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", "1")
        self.end_headers()
        if with_body:
            half = (end - begin) // 2
            self.wfile.write(content[begin : end if mood == "well" else begin + half])
            self.wfile.flush()
            if mood == "stalls":
                server.over.wait(20)
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, of which nobody waits for long."""
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote, "STALL_SECONDS", 2)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()
