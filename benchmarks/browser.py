"""Headless Chromium with software rendering, driven over DevTools' pipe: no package is needed, only a browser.

Used by the tests of the report's viewer and by `benchmarks.viewer`.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Tab": 9}


def find_browser() -> str | None:
    """The browser of the environment variable CHROMIUM, else one on the path; None without any."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class BrowserError(RuntimeError):
    """The browser did not start, refused a command or took too long."""


class Browser:
    """One page of a browser of its own, to be used in a `with`.

    Args:
      profile: empty folder for what the browser keeps.
      size: of the window in CSS pixels.

    Attributes:
      problems: uncaught errors and messages of the page's console of level error or warning.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1400, 900)):
        program = find_browser()
        if program is None:
            raise BrowserError(
                "No Chromium: install one (Debian: apt-get install chromium) or set CHROMIUM to its path."
            )
        self.problems: list[str] = []
        self._number, self._answers, self._rest = 0, {}, b""
        (to_child, self._write), (self._read, from_child) = os.pipe(), os.pipe()
        flags = [
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-extensions", "--disable-background-networking",
            "--disable-component-update", "--force-color-profile=srgb", f"--user-data-dir={profile}",
        ]  # fmt: skip
        self._log = open(profile.with_suffix(".log"), "wb")
        command = [program, *flags, "about:blank"]
        # DevTools reads file descriptor 3 and writes 4, onto which the shell puts copies above 9.
        ends = [fcntl.fcntl(number, fcntl.F_DUPFD, 10) for number in (to_child, from_child)]
        shell = ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "browser"]
        self._process = subprocess.Popen([*shell, *command], pass_fds=ends, stdout=self._log, stderr=self._log)
        for number in (*ends, to_child, from_child):
            os.close(number)
        self._session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.resize(*size)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for number in (self._read, self._write):
            os.close(number)
        self._log.close()

    def send(self, method: str, timeout: float = 60.0, **parameters) -> dict:
        """A command of the DevTools protocol and its result.

        Raises:
          BrowserError: the browser refuses, is gone, or needs longer than `timeout` seconds.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + timeout
        while self._number not in self._answers:
            self._receive(end, method)
        answer = self._answers.pop(self._number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def _receive(self, end: float, what: str) -> None:
        ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
        data = os.read(self._read, 1 << 20) if ready else b""
        if not data:
            why = "is gone" if ready else "took too long"
            raise BrowserError(f"{what}: the browser {why}. Its messages: {self._log.name}")
        *messages, self._rest = (self._rest + data).split(b"\0")
        for message in messages:
            self._take(json.loads(message))

    def _take(self, message: dict) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, found = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = found["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(one.get("value", one.get("description"))) for one in found["args"]))
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            text = found["entry"]["text"]
            if "GPU stall due to ReadPixels" not in text:  # a remark on reading the canvas back, which the tests do
                self.problems.append(text)

    def resize(self, width: int, height: int) -> None:
        """The window's size in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def open(self, page: Path) -> None:
        """Loads a page from its file."""
        self.send("Page.navigate", url=page.absolute().as_uri())

    def run(self, script: str):
        """The value of a JavaScript expression (a promise's result) as JSON.

        Raises:
          BrowserError: it throws.
        """
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(f"{script[:200]}: {found['exceptionDetails'].get('exception', {}).get('description')}")
        return found["result"].get("value")

    def wait(self, condition: str, timeout: float = 30.0) -> None:
        """Until a JavaScript expression is true.

        Raises:
          BrowserError: not within `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while not self.run(condition):
            if time.monotonic() > end:
                raise BrowserError(f"Not true within {timeout} s: {condition}. Problems of the page: {self.problems}")
            time.sleep(0.02)

    def click(self, x: float, y: float) -> None:
        """A click at a place of the window."""
        self.drag((x, y), (x, y))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """The left button pressed at one place and let go at another."""
        at = lambda kind, place, button="left": self.send(
            "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button=button, clickCount=1
        )
        at("mouseMoved", start, "none")
        at("mousePressed", start)
        if start != end:
            for share in (0.5, 1.0):
                at("mouseMoved", tuple(a + share * (b - a) for a, b in zip(start, end, strict=True)))
        at("mouseReleased", end)

    def press(self, key: str) -> None:
        """A key pressed and let go."""
        code = KEYS.get(key) or ord(key.upper())
        text = {} if key in KEYS and key != "Enter" else {"text": "\r" if key == "Enter" else key}
        for kind, extra in (("keyDown", text), ("keyUp", {})):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **extra)

    def screenshot(self, clip: tuple[float, float, float, float] | None = None) -> bytes:
        """A PNG of the window, or of (left, top, width, height) of the page."""
        area = {} if clip is None else {"clip": dict(zip(("x", "y", "width", "height"), clip, strict=True), scale=1)}
        area = {"clip": {**area["clip"], "scale": 1}} if area else {}
        return base64.b64decode(self.send("Page.captureScreenshot", format="png", **area)["data"])
