"""A picture of a report: python tests/support/screenshot.py REPORT.html OUT.png [--dark].

Needs Chromium or Chrome, which is driven over a pipe: no other package, and no network.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "no browser found: apt-get install chromium, or put Chrome on the PATH"


def find_browser() -> str | None:
    """The browser's path; None without one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A page in a browser without a window.

    Speaks Chrome's DevTools protocol over two pipes, as `--remote-debugging-pipe` offers it.

    Args:
        browser: path of Chromium or Chrome.
    """

    def __init__(self, browser: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        flags = "--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run"
        flags += f" --hide-scrollbars --user-data-dir={self.folder.name} about:blank"
        # The protocol wants its pipes at 3 and 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" {flags} 3<&{to_browser} 4>&{from_browser}', browser],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._count, self._buffer, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        """What the browser sent unasked: errors and messages of the console among it."""
        [target] = [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        arguments = {"targetId": target["targetId"], "flatten": True}
        self._session = self.send("Target.attachToTarget", **arguments)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        os.close(self._write)
        os.close(self._read)
        self.folder.cleanup()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the protocol; its result."""
        self._count += 1
        call = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            call["sessionId"] = self._session
        os.write(self._write, json.dumps(call).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self._count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, file: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a file and wait until it has drawn itself."""
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, **size)
        self.send("Page.navigate", url=file.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def run(self, script: str) -> Any:
        """The value of an expression in the page.

        Raises:
            RuntimeError: it throws.
        """
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def picture(self, file: Path) -> None:
        """Save what is seen as PNG."""
        answer = self.send("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(answer["data"]))


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1200, help="pixels; 390 is a phone")
    parser.add_argument("--height", type=int, help="pixels from the top; all if it is left out")
    parser.add_argument("--moment", type=int, help="where the slider stands; 0 is the first")
    arguments = parser.parse_args()
    browser = find_browser()
    if browser is None or not arguments.report.is_file():
        print(f"error: {MISSING if browser is None else f'no file {arguments.report}'}")
        sys.exit(2)
    with Page(browser) as page:
        height = arguments.height or 900
        page.open(arguments.report, width=arguments.width, height=height, dark=arguments.dark)
        if arguments.height is None:
            height = page.run("document.documentElement.scrollHeight")
            page.open(arguments.report, width=arguments.width, height=height, dark=arguments.dark)
        if arguments.moment is not None:
            slider = "document.querySelector('input[type=range]')"
            page.run(f"{slider}.value = {arguments.moment}")
            page.run(f"{slider}.dispatchEvent(new Event('input'))")
        page.picture(arguments.out)


if __name__ == "__main__":
    main()
