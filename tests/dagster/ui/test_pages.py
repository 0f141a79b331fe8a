"""What a person sees in Dagster's UI of what a script reports, in a real browser."""

from __future__ import annotations

import csv
import re

import pytest
from playwright.sync_api import Page, expect

from tests.support import wait_until
from tests.support_host import group_members, is_alive

from .browser import choose_levels, rows
from .server import Server

LINES = {
    level: [f"the {time} line of level {level}" for time in ("first", "second")]
    for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
}
#: What Dagster itself logs when the script has opened its context.
OPENED = "[pipes] external process successfully opened dagster pipes."


def log_lines(page: Page) -> list[tuple[str, str, str]]:
    """Step, level and message of each row of a run's log."""
    found = []
    for text in rows(page).all_inner_texts():
        _, step, level, message = text.split("\n")
        found.append((step, level, message))
    return found


@pytest.fixture
def levels_page(page: Page, server: Server, runs: dict[str, str]) -> Page:
    """The page of the run whose script logs on all five levels."""
    assert server.wait(runs["levels"]) == "SUCCESS"
    page.goto(f"{server.address}/runs/{runs['levels']}")
    return page


def test_the_run_page_shows_all_log_lines_in_order(levels_page: Page) -> None:
    choose_levels(levels_page, *(level.lower() for level in LINES))
    expected = [(level, lines[time]) for time in (0, 1) for level, lines in LINES.items()]
    expected.insert(0, ("INFO", OPENED))
    expect(rows(levels_page)).to_have_count(len(expected))
    assert log_lines(levels_page) == [("levels", level, line) for level, line in expected]


@pytest.mark.parametrize("level", LINES)
def test_a_level_filters_exactly_its_rows(levels_page: Page, level: str) -> None:
    choose_levels(levels_page, level.lower())
    expected = LINES[level] if level != "INFO" else [OPENED, *LINES[level]]
    expect(rows(levels_page)).to_have_count(len(expected))
    assert log_lines(levels_page) == [("levels", level, line) for line in expected]


def test_the_run_page_shows_start_and_end_of_the_process(levels_page: Page) -> None:
    choose_levels(levels_page, "event")
    started = rows(levels_page).filter(has_text="[pipes] started process")
    expect(started).to_contain_text("levels.py")
    pid = started.inner_text().split("[pipes] started process ")[1].split()[0]
    ended = rows(levels_page).filter(has_text=f"[pipes] process {pid} ended with exit code 0")
    expect(ended).to_be_visible()


def test_the_events_tab_shows_the_metadata(
    page: Page, server: Server, runs: dict[str, str]
) -> None:
    assert server.wait(runs["orders"]) == "SUCCESS"
    page.goto(f"{server.address}/assets/orders")
    page.get_by_role("tab", name="Events").click()
    expect(page.get_by_role("row", name="total_orders")).to_have_text(re.compile("total_orders20$"))
    expect(page.get_by_text(f"Materialized in run {runs['orders'][:8]}")).to_be_visible()


def open_check(page: Page, address: str, asset: str, check: str) -> None:
    page.goto(f"{address}/assets/{asset}")
    page.get_by_role("tab", name="Checks").click()
    page.get_by_text(check, exact=True).first.click()
    expect(page.get_by_text("Evaluation result", exact=True)).to_be_visible()


def expect_result(page: Page, result: str, icon: str) -> None:
    """``icon`` is how the page tells a severity: a triangle for WARN, a cross for ERROR."""
    tag = page.locator(".bp5-popover-target").filter(has_text=re.compile(f"^{result}$"))
    expect(tag.get_by_role("img")).to_have_attribute("aria-label", icon)


def test_the_checks_tab_shows_a_check_that_passed_and_then_failed(
    page: Page, server: Server, runs: dict[str, str]
) -> None:
    assert server.wait(runs["orders"]) == "SUCCESS"
    open_check(page, server.address, "orders", "no_empty_order_check")
    expect_result(page, "Passed", "check_circle")
    assert server.check("orders", "no_empty_order_check") == (True, "ERROR")

    data = server.folder / "examples" / "dagster" / "orders.csv"
    with data.open(newline="", encoding="utf-8") as file:
        first, *orders = csv.reader(file)
    orders[2][first.index("item")] = ""
    with data.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([first, *orders])

    run = server.launch("dagster_code.py", "orders")
    assert server.wait(run) == "SUCCESS", "a failed check is a finding, not a failed run"
    open_check(page, server.address, "orders", "no_empty_order_check")
    expect_result(page, "Failed", "cancel")
    assert server.check("orders", "no_empty_order_check") == (False, "ERROR")


def test_the_checks_tab_shows_severity_warn_and_what_was_found(
    page: Page, server: Server, runs: dict[str, str]
) -> None:
    assert server.wait(runs["flights"]) == "SUCCESS"
    open_check(page, server.address, "flights", "departure_times_complete")
    expect_result(page, "Failed", "warning_outline")
    expect(page.get_by_role("row", name="missing")).to_have_text("missing1261")
    assert server.check("flights", "departure_times_complete") == (False, "WARN")
    for check in ("every_day_present", "distances_positive", "no_duplicate_flights"):
        open_check(page, server.address, "flights", check)
        expect_result(page, "Passed", "check_circle")


def test_terminating_a_run_ends_the_script_and_what_it_started(
    page: Page, server: Server, runs: dict[str, str]
) -> None:
    page.goto(f"{server.address}/runs/{runs['endless']}")
    line = page.get_by_text("running as")
    expect(line).to_be_visible()
    script, other = map(int, re.findall(r"\d+", line.inner_text()))
    assert is_alive(script)
    assert is_alive(other)

    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("dialog").get_by_role("button", name="Terminate 1 run").click()
    wait_until(lambda: not group_members(script), "the script and its group are gone")
    assert not is_alive(script)
    assert not is_alive(other)
    page.keyboard.press("Escape")
    expect(page.get_by_text("Canceled", exact=True)).to_be_visible()
    assert server.status(runs["endless"]) == "CANCELED"
