"""A real browser with the network off, and the pages it opens."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from slm_interp.lenses.page import Clip, lens_page
from tests.synthetic_reading import clip, dataset

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]


@dataclass
class Visit:
    """An open page, and what it asked for or complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser():
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert executable, "These tests need Chromium: apt-get install chromium, or set CHROMIUM to its path."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """Two pages: a short clip beside a hostile one, and a long reading of 29 layers x 512 positions."""
    folder = tmp_path_factory.mktemp("pages")
    short, hostile, long = clip(60, "short clip"), clip(30, "<img src=x onerror=alert(1)>"), clip(512, "long clip")
    clips = [Clip("Short", short, dataset(short, 11)), Clip("</script><b>Hostile", hostile, dataset(hostile, 4), "<i>note</i>")]
    lens_page(clips, title="Two clips").write(folder / "short.html")
    lens_page([Clip("Long", long, dataset(long, 29))]).write(folder / "long.html")
    return folder


class Visits:
    """Opens pages offline; `closed` is where nothing may have been asked of a network or complained about."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self.folder, self.open = browser, folder, []
        self.ready = "html[data-ready=yes]"

    def __call__(self, name: str, width: int = 1300, **options) -> Visit:
        context = self.browser.new_context(viewport={"width": width, "height": 950}, offline=True, **options)
        context.set_default_timeout(120_000)
        visit = Visit(context.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("console", lambda message: visit.complaints.append(message.text) if message.type in ("error", "warning") else None)
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.goto(f"file://{self.folder}/{name}")
        visit.page.wait_for_selector(self.ready)
        self.open.append((context, visit))
        return visit

    def closed(self) -> None:
        for context, visit in self.open:
            context.close()
            assert [url for url in visit.requests if not url.startswith(("file:", "data:", "blob:"))] == []
            assert visit.complaints == []


@pytest.fixture
def visit(browser, pages):
    """Opens pages of one test."""
    visits = Visits(browser, pages)
    yield visits
    visits.closed()


@pytest.fixture(scope="session")
def shared(browser, pages):
    """One visit to the page of two clips, for every test that leaves it as it was."""
    visits = Visits(browser, pages)
    yield visits("short.html")
    visits.closed()


@pytest.fixture
def page(shared):
    """The shared page, silent and at its start."""
    shared.page.mouse.move(2, 2)
    shared.page.evaluate("for (const audio of document.querySelectorAll('audio')) { audio.pause(); audio.currentTime = 0; }")
    return shared.page
