"""A page in a real Chromium, as a person has it; what the browser complains of fails the test.

with browser() as chromium, tab(chromium, "http://127.0.0.1:15000/ui/") as page: ...
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

PATIENCE_MS: Final = 30_000
WIDE: Final = (1280, 900)
NARROW: Final = (390, 844)
RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_NAMES: Final = ("chromium", "chromium-browser")
expect.set_options(timeout=PATIENCE_MS)


def find_chromium() -> str:
    """Its program. Skips the test, with the reason, where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no chromium here: a page is only tested in a real browser")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """One process for several tabs; it talks to nobody but this machine."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def tab(
    chromium: Browser, url: str, *, size: tuple[int, int] = WIDE, forgiven: Sequence[str] = (), **more: Any
) -> Iterator[Page]:
    """A tab of a fresh profile. `forgiven`: parts of complaints that are meant, such as that an agent is away."""
    context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, **more)
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        yield page
    finally:
        context.close()
    left = [each for each in complaints if not any(part in each for part in forgiven)]
    assert not left, left


def findings(page: Page) -> list[str]:
    """What axe finds, a line each: rule, why, where."""
    told = Axe().run(page, options={"runOnly": {"type": "tag", "values": RULES}})
    return [
        f"{each['id']}: {each['help']}: {node['target']} {node['html'][:200]}"
        for each in told.response["violations"]
        for node in each["nodes"]
    ]


def fits(page: Page) -> bool:
    """Whether nothing of the page is wider than the window."""
    wide: bool = page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    return wide
