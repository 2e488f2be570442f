"""A review's server in a process of its own, and a browser that looks at it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Seconds after which what is waited for is taken for lost: on a busy machine everything takes many times what it needs.
PATIENCE_S = 120


class Server:
    """``nalspark review …`` on a port that stays the same when it is started anew."""

    def __init__(self, *arguments: str | Path) -> None:
        self.arguments, self.port, self.process, self.url = [str(one) for one in arguments], "", None, ""

    def start(self) -> str:
        """Start it, and give the address that it prints."""
        port = ["--port", self.port] if self.port else []
        command = [sys.executable, "-m", "nalspark", *self.arguments, "--no-open", *port]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("review "):
                self.url = line.split()[-1]
                self.port = self.url.split(":")[2].split("/")[0]
                return self.url
        raise AssertionError(f"the server ended: {''.join(said)}")

    def kill(self) -> None:
        """End it without a word."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=PATIENCE_S)
            self.process.stdout.close()
            self.process = None


@contextmanager
def served(*arguments: str | Path) -> Iterator[Server]:
    """A server that runs while the block does."""
    server = Server(*arguments)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tried with Playwright: pip install 'nalspark[dev]'")
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium here; apt-get install chromium, and the page is tried in it")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """A page of a review, with what it asked for and complained of."""

    def __init__(self, context: Any, url: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.shown()

    def shown(self, other_than: str = "") -> str:
        """Wait until a system is shown, and nothing is being kept; give its name."""
        self.page.wait_for_selector(f'body[data-shown]:not([data-shown="{other_than}"]):not([data-saving="1"])', state="attached")
        return self.page.text_content("#name")

    @property
    def number(self) -> str:
        return self.page.get_attribute("body", "data-shown")

    def press(self, key: str) -> str:
        """Press a key that leads to another system; give the name of the one that was shown."""
        name, number = self.shown(), self.number
        self.page.keyboard.press(key)
        self.shown(other_than=number)
        return name

    def labelled(self, n: int) -> None:
        """Wait until the page says that n systems are labelled."""
        self.page.wait_for_selector(f'body[data-labelled="{n}"]:not([data-saving="1"])', state="attached")


def wait_until(condition: Any) -> None:
    """Wait for something that another process does."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
