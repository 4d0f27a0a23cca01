"""A hub of one dataset, as far as `datasets` asks for it, on this machine."""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "1" * 40


@contextmanager
def hub_server(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """The address of a hub that has a dataset of this name with these files."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            if match := re.fullmatch(rf"/datasets/{name}/resolve/[^/]+/(.*)", path):
                self.file(match[1])
            elif re.fullmatch(rf"/api/datasets/{name}(/revision/.*)?", path):
                siblings = [{"rfilename": file} for file in files]
                self.json({"id": name, "sha": COMMIT, "siblings": siblings})
            elif re.fullmatch(rf"/api/datasets/{name}/tree/{COMMIT}(/data)?", path):
                self.json([self.entry(file) for file in files] if path.endswith(COMMIT) else [])
            else:
                self.answer(404, b"")

        do_HEAD = do_GET  # noqa: N815

        def file(self, file: str) -> None:
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{file}"'}
            if file in files:
                self.answer(200, files[file], headers)
            else:
                self.answer(404, b"", headers | {"X-Error-Code": "EntryNotFound"})

        def entry(self, file: str) -> dict[str, Any]:
            return {"type": "file", "oid": file, "size": len(files[file]), "path": file}

        def json(self, value: Any) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, code: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(code)
            for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
