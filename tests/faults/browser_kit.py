"""Headless Chromium, steered through its DevTools protocol: opens a page, waits until it shows what it should, tells its errors."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-port=0",
]  # fmt: skip


def chromium() -> str | None:
    """Where Chromium is; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One window. ``errors`` gathers what went wrong in its pages: exceptions, errors on the console, answers of 400 and above."""

    def __init__(self, folder: Path, width: int = 1680, height: int = 1050) -> None:
        self._folder, self.errors = folder, []
        self._numbers, self._answers = itertools.count(1), {}
        self._runner = asyncio.Runner()
        program = chromium()
        assert program is not None
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *OPTIONS, f"--window-size={width},{height}", f"--user-data-dir={folder / 'profile'}", "about:blank"],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._runner.run(self._attach())
        self._size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", **self._size)

    def open(self, url: str, ready: str, seconds: float = 60) -> None:
        """Goes to an address and waits until an expression of JavaScript is true there."""
        self.call("Page.navigate", url=url)
        self.wait(ready, seconds)

    def wait(self, ready: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.value(f"Boolean({ready})"):
            assert time.monotonic() < end, f"{ready} did not become true; the page says:\n{self.text()[:3000]}\n{self.errors}"
            self._runner.run(asyncio.sleep(0.1))

    def value(self, expression: str):
        """Of an expression of JavaScript, in the page; None while it has none."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        return self.value("document.body ? document.body.innerText : ''") or ""

    def picture(self, path: Path, whole: bool = False) -> Path:
        """Takes a screenshot: of the window, or of the whole page."""
        if whole:
            height = self.value("document.documentElement.scrollHeight")
            self.call("Emulation.setDeviceMetricsOverride", **{**self._size, "height": min(int(height), 12000)})
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
        if whole:
            self.call("Emulation.setDeviceMetricsOverride", **self._size)
        return path

    def call(self, method: str, **params):
        return self._runner.run(self._call(method, params))

    def close(self) -> None:
        self._runner.run(self._session.close())
        self._runner.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    async def _attach(self) -> None:
        noted, end = self._folder / "profile" / "DevToolsActivePort", time.monotonic() + 60
        while not noted.exists() or "\n" not in noted.read_text():
            assert time.monotonic() < end, (self._folder / "chromium.log").read_text()
            assert self._process.poll() is None, (self._folder / "chromium.log").read_text()
            await asyncio.sleep(0.05)
        port = noted.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)

    async def _call(self, method: str, params: dict):
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(60):
            while True:
                said = json.loads((await self._socket.receive()).data)
                if said.get("id") == number:
                    assert "error" not in said, said
                    return said["result"]
                self._hear(said)

    def _hear(self, said: dict) -> None:
        kind, facts = said.get("method"), said.get("params", {})
        if kind == "Runtime.exceptionThrown":
            details = facts["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif kind == "Runtime.consoleAPICalled" and facts["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in facts["args"]))
        elif kind == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.errors.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")
