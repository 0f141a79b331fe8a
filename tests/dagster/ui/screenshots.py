"""Make the README's pictures anew: ``python -m tests.dagster.ui.screenshots [FOLDER]``.

They show the tutorial as ``make dagster-demo`` serves it: the page of the run that
materialized the orders, and the checks of the flights after the first three months.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect

from .browser import chromium, open_page, rows
from .server import ROOT, Server, serving

EXAMPLE = "dagster_code.py"
# The element's own method would scroll the page around the log as well.
SCROLL_TO_TOP = """
row => {
  let log = row;
  while (log.scrollHeight === log.clientHeight || getComputedStyle(log).overflowY === 'hidden')
    log = log.parentElement;
  log.scrollTop += row.getBoundingClientRect().top - log.getBoundingClientRect().top;
}
"""


def picture_run(browser: Browser, server: Server, path: Path) -> None:
    run = server.launch(EXAMPLE, "orders")
    assert server.wait(run) == "SUCCESS"
    with open_page(browser, 1200, 840) as page:
        page.goto(f"{server.address}/runs/{run}")
        expect(rows(page).filter(has_text="Process for run exited")).to_be_visible()
        # From the script's first message on; above it are the paths of whose machine this is.
        rows(page).filter(has_text="successfully opened").evaluate(SCROLL_TO_TOP)
        expect(rows(page).filter(has_text="[pipes] started process")).not_to_be_in_viewport()
        page.screenshot(path=path)


def picture_checks(browser: Browser, server: Server, path: Path) -> None:
    for month in ("2013-01", "2013-02", "2013-03"):
        assert server.wait(server.launch(EXAMPLE, "flights", month)) == "SUCCESS"
    with open_page(browser, 1200, 800) as page:
        page.goto(f"{server.address}/assets/flights?view=checks")
        expect(page.get_by_text("Evaluation result", exact=True)).to_be_visible()
        expect(page.locator("canvas").first).to_be_visible()
        page.screenshot(path=path)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as temporary,
        serving(Path(temporary), [f"examples/dagster/{EXAMPLE}"]) as server,
        chromium() as browser,
    ):
        picture_run(browser, server, folder / "dagster-run.png")
        picture_checks(browser, server, folder / "dagster-checks.png")
    for path in sorted(folder.glob("dagster-*.png")):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
