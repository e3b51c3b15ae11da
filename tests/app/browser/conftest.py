"""A live studio with a tiny random model, and a person's browser in front of it; both shared by the whole session."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WAIT = 20_000  # ms that a step of a person may take on a busy machine
# What a browser says that is no fault: streams that end with a page that is loaded anew.
HARMLESS = ("net::ERR_ABORTED", "BodyStreamBuffer was aborted", "Connection errored out")


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("MIXSTUDIO_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def live(tmp_path_factory):
    """The address of a running studio."""
    port, data = free_port(), tmp_path_factory.mktemp("studio")
    words = ["studio", "--tiny", "--no-browser", "--port", str(port), "--data", str(data)]
    with (data / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "app.cli", *words], cwd=ROOT, stdout=log, stderr=log)
    try:
        _wait_for(process, f"http://127.0.0.1:{port}/ui/queue", data / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for(process: subprocess.Popen, address: str, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            pytest.fail(f"the studio did not start:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the studio did not answer:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def browser():
    found = chromium()
    if found is None:
        pytest.skip("no Chromium or Chrome on this machine (MIXSTUDIO_CHROMIUM names one)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `dev`)")
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=found, args=["--no-sandbox", "--lang=en"])
        yield opened
        opened.close()


class Person:
    """A page with what people do on it; `faults` is what the browser complained about."""

    def __init__(self, page, address: str) -> None:
        self.page, self.address, self.faults = page, address, []
        page.set_default_timeout(WAIT)
        page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.faults.append(str(e)))

    def open(self) -> "Person":
        self.page.goto(self.address)
        self.page.wait_for_selector("#create_go")
        self.page.wait_for_function("window.mix && document.querySelector('#owner')")
        self.page.wait_for_timeout(600)  # the first listeners have run
        return self

    def tab(self, name: str) -> None:
        self.page.locator(f"button[role=tab]:has-text('{name}')").first.click()

    def number(self, element: str, value: object) -> None:
        field = self.page.locator(f"#{element} input[type=number]")
        field.fill(str(value))
        field.press("Tab")

    def small(self, prompt: str = "a fox", steps: int = 2, side: int = 64) -> None:
        """A quick picture's settings."""
        self.page.fill("#create_prompt textarea", prompt)
        self.number("create_width", side)
        self.number("create_height", side)
        if not self.page.locator("#create_steps").is_visible():
            self.page.locator("#create_sampling button.label-wrap").click()
        self.number("create_steps", steps)

    def says(self, text: str, where: str = "#create_status") -> None:
        self.page.locator(where).get_by_text(text).first.wait_for()

    def generate(self) -> None:
        self.page.locator("#create_go").click()

    def picture(self) -> str:
        """The address of the picture on the stage."""
        return self.page.locator("#create_stage .ms-frame a").get_attribute("href") or ""

    def sound(self) -> None:
        """The browser had nothing to complain about."""
        assert not [f for f in self.faults if not any(h in f for h in HARMLESS)]


@pytest.fixture(scope="session")
def desk(browser):
    """One browser profile: what it has fetched before it does not fetch again."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    yield context
    context.close()


@pytest.fixture
def person(desk, live):
    """Somebody with a browser in English that remembers nothing of the tests before."""
    desk.clear_cookies()
    somebody = Person(desk.new_page(), live).open()
    yield somebody
    somebody.page.evaluate("localStorage.clear()")
    somebody.page.close()


@pytest.fixture
def somebody(browser, live):
    """Make a person with other habits: somebody(width=390, dark=True, locale="zh-CN")."""
    contexts = []

    def make(width: int = 1280, dark: bool = False, locale: str = "en-GB") -> Person:
        context = browser.new_context(
            viewport={"width": width, "height": 844},
            locale=locale,
            color_scheme="dark" if dark else "light",
            has_touch=width < 700,
        )
        contexts.append(context)
        return Person(context.new_page(), live).open()

    yield make
    for context in contexts:
        context.close()
