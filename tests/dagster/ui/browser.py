"""A headless Chromium, and what is on Dagster's pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect, sync_playwright

#: Milliseconds for what a page must come to show: long enough for any machine.
PATIENCE = 120_000

#: Nothing outside of this machine is asked for anything.
FLAGS = """
--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync
""".split()
LEVELS = ("debug", "info", "warning", "error", "critical", "event")


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium. While it runs, so does an event loop in this thread."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        with browser:
            yield browser


@contextmanager
def open_page(browser: Browser, width: int, height: int) -> Iterator[Page]:
    """A page that remembers nothing of others, such as the levels that they showed."""
    viewport: ViewportSize = {"width": width, "height": height}
    with browser.new_context(viewport=viewport) as context:
        context.set_default_timeout(PATIENCE)
        yield context.new_page()


def choose_levels(page: Page, *chosen: str) -> None:
    """Have a run's page show log lines of these levels alone."""
    button = page.get_by_role("button", name="Levels (")
    button.click()
    for level in LEVELS:
        item = page.get_by_role("menuitem", name=level)
        if item.get_by_role("checkbox").is_checked() != (level in chosen):
            item.click()
    page.keyboard.press("Escape")
    expect(button).to_have_text(f"Levels ({len(chosen)}/{len(LEVELS)})")


def rows(page: Page) -> Locator:
    """The rows of a run's log. A list that is longer than the window has not all of them."""
    return page.locator("div:has(> .op-column-container)")
