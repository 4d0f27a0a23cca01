"""A W&B server of this machine, that knows just enough to be talked to, or fails as servers do."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeServer(ThreadingHTTPServer):
    """Keeps the history of its runs as W&B does: lines that come again at an offset replace.

    Args:
        fails: an HTTP status that it answers to all requests, or "hangs"; None if it works.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, fails: int | str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fails = fails
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        """Run id → number of the line → what it says."""
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def lines(self, run: str) -> list[dict[str, Any]]:
        """The history of a run, in order."""
        return [line for _, line in sorted(self.history.get(run, {}).items())]

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if found := re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            chunk = body.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            kept = self.history.setdefault(found[1], {})
            for i, text in enumerate(chunk["content"]):
                kept[chunk["offset"] + i] = json.loads(text)
            return {}
        name = body.get("operationName", "")
        self.requests.append(name)
        variables = body.get("variables", {})
        if name == "RunResumeStatus":
            return {"data": {"model": {"id": "p", "name": "p", "bucket": self._bucket(variables)}}}
        if name == "UpsertBucket":
            project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
            run = variables["name"]
            bucket = {"id": run, "name": run, "displayName": run, "project": project}
            bucket |= {"historyLineCount": len(self.lines(run)), "config": "{}"}
            self.history.setdefault(run, {})
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        return {"data": None, "errors": [{"message": f"no {name} here"}]}

    def _bucket(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        run = variables["name"]
        if run not in self.history:
            return None
        lines = self.lines(run)
        last = lines[-1] if lines else {}
        return {
            "name": run,
            "id": run,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(last)] if lines else []),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps({"_step": last["_step"]} if lines else {}),
            "displayName": run,
            "config": "{}",
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.fails == "hangs":
            time.sleep(600)
        answer: dict[str, Any] = {"errors": [{"message": "on purpose"}]}
        if self.server.fails is None:
            answer = self.server.answer(self.path, json.loads(body or b"{}"))
        content = json.dumps(answer).encode()
        self.send_response(self.server.fails if isinstance(self.server.fails, int) else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.do_POST()

    def do_PUT(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(fails: int | str | None = None) -> Iterator[FakeServer]:
    """A server while the block runs."""
    with FakeServer(fails) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
