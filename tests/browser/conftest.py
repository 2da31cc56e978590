"""A headless browser. Without Playwright's Python client or a Chromium of the system, these tests are skipped.

`apt-get install chromium` and `pip install playwright` bring both; Playwright's own browsers are not needed.
`$TTSTRAIN_CHROMIUM` names another program, `$TTSTRAIN_ARTEFACTS` a folder in which the screenshots are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Tab:
    """A page and what it did that it should not."""

    page: Any
    errors: list[str] = field(default_factory=list)  # messages of the console, and exceptions
    requests: list[str] = field(default_factory=list)  # but for what is inside the page


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python client is not installed")
    names = (os.environ.get("TTSTRAIN_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if name and (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"Chromium does not start here: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def open_tab(browser: Any) -> Iterator[Callable[..., Tab]]:
    contexts = []

    def open_(address: str, *, width: int = 1440, theme: str = "light") -> Tab:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        tab = Tab(context.new_page())
        tab.page.on("console", lambda message: tab.errors.append(f"{message.type}: {message.text}"))
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.on("dialog", lambda dialog: (tab.errors.append(f"dialog {dialog.message}"), dialog.accept()))
        tab.page.on("request", lambda request: tab.requests.append(request.url) if request.url[:5] != "data:" else None)
        tab.page.goto(address)
        tab.page.wait_for_selector("html[data-ready]")
        return tab

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the screenshots."""
    named = os.environ.get("TTSTRAIN_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
