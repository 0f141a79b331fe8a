"""The guard against blocking calls: it sees them in every layer, and allows what is listed."""

from __future__ import annotations

import ast
import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError

import asyncpipes
from asyncpipes.channels.file import FileWriter
from asyncpipes.errors import InvalidParameterError
from asyncpipes.external.loaders import DefaultContextLoader, MappingParamsLoader
from asyncpipes.protocol import codec
from tests.blocking import ALLOWED, Allowed, Guard, by_the_test
from tests.support import (
    PATIENCE,
    GatedWriter,
    RecordingWriter,
    bootstrap,
    encoded,
    refuse_threads,
    run_script,
)

PACKAGE = Path(asyncpipes.__file__).parent


class Slow:
    """A path whose text takes its time, as one on a network drive might."""

    def __fspath__(self) -> str:
        time.sleep(0)
        return "slow"


def protocol(folder: Path) -> None:
    codec.dumps([Slow()], where="test")


def channels(folder: Path) -> None:
    (folder / "messages").touch()
    writer = FileWriter(str(folder / "messages"))
    by_the_test(writer.open)
    try:
        writer.write(b"line\n")
    finally:
        writer.close()


def external(folder: Path) -> None:
    (folder / "context").write_text("{}")
    with DefaultContextLoader().load_context({"path": str(folder / "context")}):
        pass


def host(folder: Path) -> None:
    from asyncpipes.host.context_injectors import InjectedContext

    injected = InjectedContext()
    by_the_test(lambda: injected.write(b"{}"))
    Path(str(injected.params["path"])).unlink()
    InjectedContext().write(b"{}")


def cli(folder: Path) -> None:
    from asyncpipes.cli import commands

    # Nothing in the command blocks by itself; this stands where its code does.
    exec(compile("time.sleep(0)", commands.__file__, "exec"), {"time": time})


@pytest.mark.parametrize(
    "layer",
    [
        protocol,
        channels,
        external,
        pytest.param(host, marks=pytest.mark.host),
        pytest.param(cli, marks=pytest.mark.host),
    ],
)
async def test_a_blocking_call_is_seen_in_every_layer(
    layer: Callable[[Path], None], tmp_path: Path, no_blocking: Guard
) -> None:
    with pytest.raises((BlockingError, InvalidParameterError)):
        layer(tmp_path)
    *_, call = no_blocking.taken()
    assert "Blocking call to" in call
    assert f"asyncpipes/{layer.__name__}/" in call


def test_a_loop_of_the_tests_own_is_guarded(no_blocking: Guard) -> None:
    async def main() -> None:
        codec.dumps(Slow(), where="test")

    with pytest.raises(InvalidParameterError, match=r"Blocking call to time\.sleep"):
        asyncio.run(main())
    assert no_blocking.taken()


def test_without_a_loop_nothing_blocks_it(tmp_path: Path) -> None:
    protocol(tmp_path)
    channels(tmp_path)
    external(tmp_path)


async def test_another_thread_may_block(tmp_path: Path) -> None:
    await asyncio.to_thread(external, tmp_path)


async def test_what_measures_coverage_may_block() -> None:
    """Its tracer takes a lock inside the function that it traces, which is ours.

    By this function before coverage 7.17.5, and since then by the lock's own method, which it
    has from before the guard was there.
    """
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(0.01, lock.release).start()
    source = "def lock_data():\n    lock.acquire()"
    names: dict[str, Any] = {"lock": lock}
    exec(compile(source, "site-packages/coverage/collector.py", "exec"), names)
    exec(compile("lock_data()", codec.__file__, "exec"), names)
    assert lock.locked()


async def test_a_test_may_block() -> None:
    time.sleep(0)
    by_the_test(lambda: codec.dumps([Slow()], where="test"))


def test_a_blocking_call_that_was_swallowed_fails_all_the_same(no_blocking: Guard) -> None:
    async def main() -> None:
        with pytest.raises(InvalidParameterError):
            codec.dumps(Slow(), where="test")

    with (
        pytest.raises(AssertionError, match=r"(?s)loop was blocked.*__fspath__.*time\.sleep"),
        Guard().on(),
    ):
        asyncio.run(main())
    # The guard of this test was asked second, and never came to see the call.
    assert no_blocking.taken() == []


SCRIPT = """
import asyncio, time
from asyncpipes import open_pipes

class Slow:
    def __fspath__(self):
        time.sleep(0)

async def main():
    async with open_pipes() as pipes:
        pipes.report_asset_materialization({"rows": 1})
        try:
            pipes.report_custom_message(BLOCKS)
        except TypeError:
            pass  # as scripts do

asyncio.run(main())
"""


@pytest.mark.usefixtures("guarded_scripts")
@pytest.mark.parametrize(("payload", "code"), [("Slow()", 70), ("1", 0)])
def test_scripts_are_guarded_on_request(payload: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "messages").touch()
    environment = bootstrap({"path": str(tmp_path / "messages")})
    done = run_script(SCRIPT.replace("BLOCKS", payload), environment)
    assert done.returncode == code, done.stderr
    assert ("the event loop was blocked" in done.stderr) is bool(code)
    assert ("Blocking call to time.sleep" in done.stderr) is bool(code)


@pytest.mark.parametrize("allowed", ALLOWED, ids=lambda each: each.function)
def test_what_is_allowed_exists_and_has_a_reason(allowed: Allowed) -> None:
    file, function, reason = allowed
    tree = ast.parse((PACKAGE.parent / file).read_text())
    names = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert function in names
    assert len(reason) > 20


def enter(folder: Path) -> None:
    (folder / "messages").touch()
    (folder / "context").write_text("{}")
    environment = bootstrap({"path": str(folder / "messages")})
    context = encoded({"path": str(folder / "context")})
    loader = MappingParamsLoader({**environment, "DAGSTER_PIPES_CONTEXT": context})

    async def main() -> None:
        async with asyncpipes.open_pipes(params_loader=loader):
            pass

    asyncio.run(main())


def leave(folder: Path) -> None:
    close_while_the_channel_is_busy(lambda pipes: pipes.__exit__(None, None, None))


def close(folder: Path) -> None:
    close_while_the_channel_is_busy(lambda pipes: pipes.close())


def close_while_the_channel_is_busy(end: Callable[[asyncpipes.PipesContext], None]) -> None:
    writer = GatedWriter()

    async def main() -> None:
        loader = MappingParamsLoader(bootstrap())
        pipes = asyncpipes.open_pipes(params_loader=loader, message_writer=writer)
        pipes.__enter__()
        try:
            end(pipes)
        finally:
            writer.open_for_good()

    asyncio.run(main())


def report(folder: Path) -> None:
    """The write waits for the caller's wait, or the test would depend on who is first."""
    writer = GatedWriter(immediate=True)

    async def main() -> None:
        loader = MappingParamsLoader(bootstrap())
        async with asyncpipes.open_pipes(params_loader=loader, message_writer=writer) as pipes:
            try:
                pipes.report_asset_check("check", passed=True, asset_key="orders")
            finally:
                writer.open_for_good()

    unnoticed = threading.Timer(PATIENCE, writer.open_for_good)  # a wait that no guard ends
    unnoticed.start()
    try:
        asyncio.run(main())
    finally:
        unnoticed.cancel()


def run_under_dagster(folder: Path) -> None:
    from asyncpipes.dagster.client import _run_blocking

    async def main() -> None:
        _run_blocking(lambda: asyncio.sleep(0.01))

    asyncio.run(main())


def read_without_threads(folder: Path) -> None:
    from asyncpipes.channels.file import FileChannel

    async def main() -> None:
        reader = await FileChannel(folder / "messages").open_reader()
        refuse_threads(asyncio.get_running_loop())
        try:
            await reader.read_available()
        finally:
            await reader.aclose()

    asyncio.run(main())


ENTRANCES = {
    "without_thread": read_without_threads,
    "_load": enter,
    "__exit__": leave,
    "close": close,
    "_put_written": report,
    "_run_blocking": run_under_dagster,
}


@pytest.mark.parametrize("allowed", ALLOWED, ids=lambda each: each.function)
def test_what_is_allowed_does_block(allowed: Allowed, tmp_path: Path) -> None:
    without = Guard([each for each in ALLOWED if each != allowed])
    with without.on():
        with pytest.raises(BlockingError):
            ENTRANCES[allowed.function](tmp_path)
        assert any(f"in {allowed.function}\n" in call for call in without.taken())


async def test_entering_and_leaving_may_block_and_reporting_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_blocking: Guard
) -> None:
    for name, value in bootstrap({"path": str(tmp_path / "messages")}).items():
        monkeypatch.setenv(name, value)
    async with asyncpipes.open_pipes() as pipes:
        pipes.report_asset_materialization({"rows": 1})
        pipes.log.info("done")
        with pytest.raises(InvalidParameterError):
            pipes.report_custom_message(Slow())
        assert no_blocking.taken()
    with asyncpipes.open_pipes(message_writer=RecordingWriter()) as pipes:
        pipes.report_asset_check("check", passed=True, asset_key="orders")
