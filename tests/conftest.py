"""What every test has: a clean environment, a choice of loops, a loop that is never blocked,
property tests that are the same each time, and no silent skip in CI.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.blocking import Guard

# The same few examples in every run, so that a change is judged by nothing but the change;
# `make soak` looks for new ones. Neither keeps a database of what failed: a failure is
# printed, with what repeats it, and becomes an @example.
settings.register_profile("ci", max_examples=50, derandomize=True, deadline=None, database=None)
settings.register_profile(
    "soak",
    max_examples=int(os.environ.get("SOAK_EXAMPLES", "2000")),
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")  # another one by --hypothesis-profile

#: Where a file takes tens of seconds.
LONG_FILES = ("tests/dagster/ui/", "tests/benchmarks/", "tests/test_readme.py", "tests/examples/")

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


if sys.version_info < (3, 12):
    # There it gets a SystemError if the garbage collector runs meanwhile and what that ends, or
    # another thread, parses as well (python/cpython#106905): a whole run ends so. pytest parses
    # what it shows of a failure, and so does the traceback of a thread that dies.
    _parse = ast.parse

    def _parse_again(*args: object, **options: object) -> object:
        for _ in range(9):
            with suppress(SystemError):
                return _parse(*args, **options)  # type: ignore[call-overload]  # as they came
        return _parse(*args, **options)  # type: ignore[call-overload]  # as they came

    ast.parse = _parse_again  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _no_bootstrap_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is launched by a host, even where the test run itself was."""
    for name in list(os.environ):
        if name.startswith("DAGSTER_PIPES_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def _guard() -> Guard:
    return Guard()


@pytest.fixture(autouse=True)
def no_blocking(_guard: Guard) -> Generator[Guard, None, None]:
    """A blocking call of asyncpipes on a loop's thread fails the test; see ``tests.blocking``."""
    with _guard.on():
        yield _guard


@pytest.fixture
def guarded_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the scripts that this test launches: they end with exit code 70.

    On request, since it wraps the calls that tests of signals and forks interrupt.
    """
    here = Path(__file__).parent
    paths = [str(here / "prelude"), str(here.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture
def unmeasured_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No coverage in the scripts of this test.

    Its tracer takes a lock in the script's own threads: who is interrupted there by a
    signal, or forked while another thread has it, waits for ever.
    """
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)


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


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    faults = Path(__file__).parent / "faults"  # not in every copy of these tests
    if faults.exists() and importlib.util.find_spec("anyio") is not None:  # or there is no host
        pluginmanager.import_plugin("tests.faults.plugin")


def pytest_configure() -> None:
    """A shell's `&` has both ignored, which processes of the tests would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform != "win32" and signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are CPUs, since tests mostly wait for processes that they start."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless -m asks for it."""
    if hasattr(config, "workerinput"):
        # Shared by file: with the longest at the end, all but one process would wait.
        items.sort(key=lambda item: not item.nodeid.startswith(LONG_FILES))
    if "soak" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("soak") is not None]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item.get_closest_marker("soak") is None]


def pytest_collection_finish() -> None:
    """Many tests collect garbage; what is there before them (Dagster, for one) is none.

    To look through all of that takes a third of a second each time.
    """
    gc.collect()
    gc.freeze()


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
