"""A headless browser for tests, driven over the pipe of the Chrome DevTools Protocol: nothing to install but Chromium.

Everything that the page logs as an error, throws or asks the network for is kept, so that a test can assert that there
was nothing.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_FLAGS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--force-color-profile=srgb", "--lang=en",
)  # fmt: skip
_KEYS = {
    "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9, "Enter": 13, "Escape": 27, "Home": 36,
    "End": 35,
}  # fmt: skip
# The browser wants its pipe as files 3 and 4.
_START = "import os, sys; _, r, w, *c = sys.argv; os.dup2(int(r), 3); os.dup2(int(w), 4); os.execv(c[0], c)"
_BOX = "(one) => { const box = one.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; }"
TIMEOUT = 60.0  # seconds for whatever is waited for: generous, since machines are shared


class Browser:
    """One page in one browser.

    Attributes:
        errors: What the page logged as an error or threw.
        requests: Addresses that it asked for.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._commands, self._answers, self._buffer, self._last = commands, answers, b"", 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Result of a command of the protocol; events that arrive before it are noted."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def open(self, path: Path, width: int = 1600, height: int = 1000) -> float:
        """Open a file, wait until its first image is shown, and return the seconds that took."""
        self.resize(width, height)
        start = time.monotonic()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait(
            "document.querySelector('#panels canvas')?.width > 300 && document.querySelector('figcaption strong')"
        )
        return time.monotonic() - start

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def colours(self, scheme: str) -> None:
        """ "light" or "dark"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, script: str) -> Any:
        """Value of an expression in the page; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {str(answer['exceptionDetails'])[:500]}"
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until the page has drawn what it was told."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + TIMEOUT
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"not true after {TIMEOUT} s: {condition}; {self.errors}"
            time.sleep(0.02)
        self.settle()

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press keys, each by its name ("j", "ArrowDown")."""
        for key in keys:
            about: dict[str, Any] = {"key": key, "modifiers": 8 if shift else 0}
            if key in _KEYS:
                about |= {"code": key, "windowsVirtualKeyCode": _KEYS[key]}
            text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **about)
        self.settle()

    def click(self, x: float, y: float) -> None:
        """Click a place of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
        self.settle()

    def click_on(self, selector: str) -> None:
        """Click the middle of an element."""
        self.click(*self.place(selector))

    def place(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """Window place of a point of an element, given in shares of its sides, after it was scrolled into view."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'nearest'}})")
        box = self.run(f"(({_BOX}))(document.querySelector({json.dumps(selector)}))")
        return box[0] + x * box[2], box[1] + y * box[3]

    def text(self, selector: str) -> str:
        """Text of an element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).textContent"))

    def shot(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        self.settle()
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, about = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(f"{details['text']} {details.get('exception', {}).get('description', '')}")
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(str([argument.get("value") for argument in about["args"]]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(about["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A new browser with an empty profile in the given folder; ended by its process id."""
    assert CHROMIUM
    to_browser, from_browser = os.pipe(), os.pipe()
    # Numbers from 10 on, so that neither is in the way when 3 and 4 are made of them.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser[0], from_browser[1])]
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, ends), *command],
            pass_fds=ends, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    for end in (*ends, to_browser[0], from_browser[1]):
        os.close(end)
    try:
        yield Browser(to_browser[1], from_browser[0])
    finally:
        os.close(to_browser[1])  # the browser ends when its pipe does
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait(10)
        os.close(from_browser[0])
