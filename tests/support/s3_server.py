"""An object store on this machine, moto's, that fails, stalls and cuts off when it is told to."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest

from everytoken.corpora import remote

KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret"}
BUCKET = "bucket"


class Store:
    """The store, as the WSGI application that it is; each request for a shard has the next mood."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.moods: list[str] = []
        self.over = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        is_shard = environ["PATH_INFO"].endswith(".zip") and environ["REQUEST_METHOD"] != "HEAD"
        mood = self.moods.pop(0) if is_shard and self.moods else "well"
        if mood == "fails":
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if mood == "stalls":
            self.over.wait(20)
        found = self.app(environ, start_response)
        return cut_off(found) if mood == "cuts off" else found


def cut_off(found: Iterable[bytes]) -> Iterator[bytes]:
    """Half of an answer."""
    whole = b"".join(found)
    yield whole[: len(whole) // 2]
    raise ConnectionAbortedError


@contextmanager
def storing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with a bucket, for s3:// in this process."""
    pytest.importorskip("s3fs")
    werkzeug_app = pytest.importorskip("moto.moto_server.werkzeug_app")
    from werkzeug.serving import make_server

    app = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
    store = Store(app)
    server = make_server("127.0.0.1", 0, store, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote, "STALL_SECONDS", 4)
    forget()
    fsspec.filesystem("s3").mkdir(BUCKET)
    yield store
    store.over.set()
    server.shutdown()
    forget()


def forget() -> None:
    """What s3:// has been asked as until now."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
