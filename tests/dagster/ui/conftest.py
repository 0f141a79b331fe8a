"""A server and a browser for all tests of a file, and a fresh page for each.

Neither is kept for longer: tests that come later measure times, and while Playwright is
there, no test with a loop of its own can run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from .browser import chromium, find_chromium, open_page
from .server import Server, serving

HERE = Path(__file__).parent
EXAMPLE = "dagster_code.py"
OWN = "definitions.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ui)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The tutorial, and the code location of ``definitions.py`` beside it."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, [f"examples/dagster/{EXAMPLE}", HERE / OWN]) as server:
        yield server


@pytest.fixture(scope="module")
def runs(server: Server) -> dict[str, str]:
    """The runs of four assets, all of them launched, by the asset's name."""
    return {
        "levels": server.launch(OWN, "levels"),
        "orders": server.launch(EXAMPLE, "orders"),
        "flights": server.launch(EXAMPLE, "flights", "2013-02"),
        "endless": server.launch(OWN, "endless"),
    }


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are kept: in ``$UI_SCREENSHOTS``, or in pytest's temporary folder."""
    chosen = os.environ.get("UI_SCREENSHOTS")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, screenshots: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    # So tall that all rows of a run's log are on it: it draws no others.
    with open_page(browser, 1400, 2000) as page:
        yield page
        path = screenshots / f"{request.node.name}.png"
        page.screenshot(path=path)
        print(f"the page at its end: {path}")
