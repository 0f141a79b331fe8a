"""What every test has: a clean environment, a choice of loops, and no silent skip in CI."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Mapping

import pytest

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


@pytest.fixture(autouse=True)
def _no_bootstrap_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is launched by a host, even where the test run itself was."""
    for name in list(os.environ):
        if name.startswith("DAGSTER_PIPES_"):
            monkeypatch.delenv(name)


@pytest.fixture
def any_loop() -> None:
    """Ask for this, and the test runs once on asyncio's own loop and once on uvloop."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if "any_loop" not in getattr(item, "fixturenames", ()):
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def _skip_is_failure(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not IN_CI or not report.skipped or hasattr(report, "wasxfail"):
        return
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} was skipped, and CI allows no skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _skip_is_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _skip_is_failure(report)
    return report
