"""Sessions whose scripts somebody else launches."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import asyncpipes.channels.file as file_module
from asyncpipes import (
    ChannelError,
    ClosedError,
    CustomMessageEvent,
    ExternalStreamEvent,
    InvalidParameterError,
    NotOpenError,
    ProcessFailedError,
    UsageError,
    open_pipes,
    open_pipes_session,
)
from asyncpipes.channels import Channel, ChannelReader, FileChannel, MemoryChannel, file_writer
from asyncpipes.channels.file_writer import FileWriter
from asyncpipes.external.loaders import MappingParamsLoader
from tests.support import PATIENCE
from tests.support_host import Gate, asyncio_timeout, raw_child, script, until

SCRIPT = "opened(); custom(context()['extras']['x']); closed()"


async def test_popen_with_the_environment(any_loop: None) -> None:
    async with open_pipes_session(extras={"x": 1}) as session:
        iterator = session.events(CustomMessageEvent)  # the script may be over before its start is
        process = await asyncio.to_thread(subprocess.Popen, raw_child(SCRIPT), env=session.env)
        events = [event async for event in iterator]
        session.finish(await asyncio.to_thread(process.wait))
    assert session.outcome.ok
    assert session.outcome.exit_code == 0
    assert [event.payload for event in session.result.custom_messages] == [1]
    assert len(events) == 1


async def test_asyncio_subprocess_with_the_bootstrap_alone(any_loop: None) -> None:
    async with open_pipes_session(extras={"x": 1}) as session:
        process = await asyncio.create_subprocess_exec(
            *raw_child(SCRIPT), env=dict(session.bootstrap)
        )
        await process.wait()
        session.finish(process.returncode)
    assert session.outcome.ok
    assert len(session.result.custom_messages) == 1


async def test_command_line_arguments(tmp_path: Path) -> None:
    command = script(
        tmp_path,
        """
        import base64, json, sys, zlib
        arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
        load = lambda name: json.loads(zlib.decompress(base64.b64decode(arguments[name])))
        context = load("--dagster-pipes-context")["data"]
        path = load("--dagster-pipes-messages")["path"]
        with open(path, "a") as file:
            for method, params in [
                ("opened", {}),
                ("report_custom_message", {"payload": context["extras"]["x"]}),
                ("closed", {}),
            ]:
                line = {"__dagster_pipes_version": "0.1", "method": method, "params": params}
                print(json.dumps(line), file=file)
        """,
    )
    async with open_pipes_session(extras={"x": 1}) as session:
        process = await asyncio.create_subprocess_exec(*command, *session.cli_arguments)
        assert await process.wait() == 0
    assert [event.payload for event in session.result.custom_messages] == [1]


async def test_it_ends_when_all_writers_have_closed(any_loop: None, tmp_path: Path) -> None:
    gates = [Gate(tmp_path, f"gate{number}") for number in range(3)]
    async with open_pipes_session() as session:
        events = session.events()
        processes = [
            await asyncio.create_subprocess_exec(
                *raw_child(f"opened(); wait_for({gate.path!r}); custom(1); closed()"),
                env=session.env,
            )
            for gate in gates
        ]
        for _ in gates:
            await events.__anext__()
        for number, gate in enumerate(gates):
            assert session.health.state == "open"
            await gate.open()
            assert await processes[number].wait() == 0
        rest = [event async for event in events]
    assert len([event for event in rest if isinstance(event, CustomMessageEvent)]) == 3
    assert session.health.state == "drained"
    assert session.outcome.ok


async def test_a_writer_that_opens_when_all_others_have_just_closed_is_followed() -> None:
    def line(method: str, **params: Any) -> bytes:
        message = {"__dagster_pipes_version": "0.1", "method": method, "params": params}
        return json.dumps(message).encode() + b"\n"

    first, second = line("opened") + line("closed"), line("opened")
    rest = line("report_custom_message", payload=1) + line("closed")

    class Scripted(ChannelReader):
        params: Mapping[str, Any] = {}  # never changed
        reads = [first, rest]  # noqa: RUF012
        available = [second]  # noqa: RUF012

        async def read(self) -> bytes:
            if not self.available:
                await asyncio.wait_for(drain_timeout_passed.wait(), PATIENCE)
            return self.reads.pop(0)

        async def read_available(self) -> bytes:
            return self.available.pop(0) if self.available else b""

        async def aclose(self) -> None:
            pass

    class ScriptedChannel(Channel):
        async def open_reader(self) -> ChannelReader:
            return Scripted()

    drain_timeout_passed = asyncio.Event()
    async with open_pipes_session(channel=ScriptedChannel(), drain_timeout=0.01) as session:
        assert session.env
        # It is followed as long as it is open, and not for the drain_timeout alone.
        asyncio.get_running_loop().call_later(0.1, drain_timeout_passed.set)
        await session.wait_drained()
    assert session.outcome.ok
    assert len(session.result.custom_messages) == 1


async def test_an_exit_code_that_comes_after_the_last_closed_counts(any_loop: None) -> None:
    # The session is over when all have closed; how the process ended is known later.
    with pytest.raises(ProcessFailedError, match="exit code 3"):
        async with open_pipes_session() as session:
            process = await asyncio.create_subprocess_exec(
                *raw_child("opened(); closed(); sys.exit(3)"), env=session.env
            )
            await session.wait_drained()
            await until(lambda: _is_over(session), "the session is over")
            session.finish(await process.wait())
            session.finish()
    assert session.outcome.exit_code == 3


def _is_over(session: Any) -> bool:
    try:
        return session.result is not None
    except NotOpenError:
        return False


async def test_finish_ends_a_session_whose_script_never_opened(any_loop: None) -> None:
    async with open_pipes_session(strict=False) as session:
        assert session.env
        session.finish(-9)
        assert await session.wait_drained()
    assert (session.outcome.opened, session.outcome.signal) == (False, 9)
    assert not session.outcome.ok


async def test_finish_reads_what_is_there_to_the_end() -> None:
    async with open_pipes_session(strict=False, drain_timeout=0.1) as session:
        process = await asyncio.create_subprocess_exec(
            *raw_child("opened(); custom(*range(1000)); os._exit(0)"), env=session.env
        )
        session.finish(await process.wait())
    assert len(session.result.custom_messages) == 1000
    assert not session.outcome.closed


async def test_leaving_waits_for_a_script_that_was_handed_the_bootstrap(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with open_pipes_session() as session:
        process = await asyncio.create_subprocess_exec(
            *raw_child(f"opened(); wait_for({gate.path!r}); custom(1); closed()"), env=session.env
        )
        opening = asyncio.ensure_future(gate.open())
    assert len(session.result.custom_messages) == 1
    await opening
    await process.wait()


async def test_a_session_that_nobody_was_told_of_ends_at_once(any_loop: None) -> None:
    async with asyncio_timeout(PATIENCE), open_pipes_session(strict=False) as session:
        pass
    assert not session.outcome.opened


async def test_a_script_in_the_same_process(any_loop: None) -> None:
    channel = MemoryChannel()

    def work(bootstrap: Mapping[str, str]) -> None:
        with open_pipes(
            params_loader=MappingParamsLoader(bootstrap), message_writer=channel.writer()
        ) as pipes:
            pipes.report_custom_message(pipes.get_extra("x"))

    async with open_pipes_session(channel=channel, asset_keys=["a"], extras={"x": 1}) as session:
        events = session.events()
        await asyncio.to_thread(work, session.bootstrap)
        assert len([event async for event in events]) == 3
    assert [event.payload for event in session.result.custom_messages] == [1]
    assert session.outcome.ok


async def test_finish_is_not_for_scripts_of_our_own() -> None:
    async with open_pipes_session() as session:
        await session.launch(raw_child("opened(); closed()"))
        with pytest.raises(UsageError, match="did not launch itself"):
            session.finish(0)


async def test_what_is_asked_too_early_or_too_late_or_wrongly() -> None:
    session = open_pipes_session(strict=False)
    for ask in ("bootstrap", "env", "cli_arguments"):
        with pytest.raises(NotOpenError, match=r"not open yet"):
            getattr(session, ask)
    with pytest.raises(NotOpenError, match="finish"):
        session.finish()
    with pytest.raises(NotOpenError, match="has not ended"):
        _ = session.outcome
    with pytest.raises(NotOpenError, match="wait_drained"):
        await session.wait_drained()
    assert session.stats.events == 0
    assert session.health.state == "waiting"
    async with session:
        with pytest.raises(InvalidParameterError, match="`exit_code` must be an int, got 'x'"):
            session.finish("x")  # type: ignore[arg-type]  # that is the test
        with pytest.raises(NotOpenError, match="has not ended"):
            _ = session.result
    with pytest.raises(ClosedError, match="the session is over"):
        _ = session.env
    with pytest.raises(ClosedError, match="launch"):
        await session.launch([sys.executable])
    with pytest.raises(UsageError, match="entered once"):
        async with session:
            pass


@pytest.mark.parametrize("what", ["launch", "env", "bootstrap", "cli_arguments"])
async def test_nothing_new_may_come_once_reading_has_ended_by_itself(what: str) -> None:
    gate = asyncio.Event()

    async def slow(event: object) -> None:
        await gate.wait()

    async with open_pipes_session() as session:
        session.subscribe(slow)  # so that the session is not over yet
        process = await asyncio.create_subprocess_exec(
            *raw_child("opened(); closed()"), env=session.env
        )
        await process.wait()
        await session.wait_drained()
        with pytest.raises(ClosedError, match=r"ended already"):
            if what == "launch":
                await session.launch([sys.executable])
            else:
                getattr(session, what)
        gate.set()
    assert session.outcome.ok


async def test_a_launch_right_after_somebody_elses_script_has_closed_is_read() -> None:
    async with open_pipes_session() as session:
        first = await asyncio.create_subprocess_exec(
            *raw_child("opened(); closed()"), env=session.env
        )
        while session.health.state != "closed":
            await asyncio.sleep(0)
        await session.launch(raw_child("opened(); custom(1); closed()"))
        await first.wait()
    assert session.outcome.ok
    assert len(session.result.custom_messages) == 1


@pytest.mark.parametrize("finished", [True, False])
async def test_output_that_a_stock_script_copies_after_its_closed_is_read(
    any_loop: None, tmp_path: Path, finished: bool
) -> None:
    gate = Gate(tmp_path)
    body = f"""
        opened(); closed()
        wait_for({gate.path!r})
        emit("log_external_stream", stream="stdout", text="late", extras={{}})
    """
    channel = FileChannel(include_stdio_in_messages=True)
    async with open_pipes_session(
        channel=channel, collect="all", drain_timeout=20.0 if finished else 1.0
    ) as session:
        process = await asyncio.create_subprocess_exec(*raw_child(body), env=session.env)
        await until(lambda: session.health.state == "closed", "it has closed")
        await gate.open()
        code = await process.wait()
        if finished:
            session.finish(code)
            async with asyncio_timeout(15):  # and not for drain_timeout
                await session.wait_drained()
    late = [event for event in session.result.events if isinstance(event, ExternalStreamEvent)]
    assert [event.text for event in late] == ["late"]
    assert session.outcome.ok


async def test_a_script_that_comes_too_late_is_told() -> None:
    """It has opened the file, and nobody will read what it writes: that is no success."""
    async with open_pipes_session(strict=False) as session:
        loader = MappingParamsLoader(session.bootstrap)
        late = FileWriter(str(loader.load_messages_params()["path"]))
        await asyncio.to_thread(late.open)
        async with open_pipes(params_loader=loader) as pipes:
            pipes.report_custom_message(1)
    assert session.outcome.ok
    with pytest.raises(ChannelError, match="session was over"):
        await asyncio.to_thread(late.write, b"{}\n")
    await asyncio.to_thread(late.close)


async def test_what_a_second_script_wrote_by_then_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the last look and the end of reading there is room for another script."""
    seal = file_writer.seal
    lines = [
        b'{"__dagster_pipes_version":"0.1","method":"opened","params":{"extras":{}}}\n',
        b'{"__dagster_pipes_version":"0.1","method":"report_custom_message","params":'
        b'{"payload":2}}\n',
    ]

    def comes_in_between(fd: int) -> None:
        late.write(b"".join(lines))
        seal(fd)

    monkeypatch.setattr(file_module, "seal", comes_in_between)
    async with open_pipes_session(strict=False) as session:
        loader = MappingParamsLoader(session.bootstrap)
        late = FileWriter(str(loader.load_messages_params()["path"]))
        await asyncio.to_thread(late.open)
        async with open_pipes(params_loader=loader) as pipes:
            pipes.report_custom_message(1)
    await asyncio.to_thread(late.close)
    assert [event.payload for event in session.result.custom_messages] == [1, 2]
    assert not session.outcome.closed
    assert not session.outcome.ok


async def test_until_finish_whoever_has_closed() -> None:
    """For a launcher that may start another script, as after a failure."""
    async with open_pipes_session(strict=False, until_finish=True) as session:
        for number in (1, 2):
            command = raw_child(f"opened(); custom({number}); closed()")
            process = await asyncio.create_subprocess_exec(*command, env=dict(session.bootstrap))
            await process.wait()
        session.finish(0)
    assert [event.payload for event in session.result.custom_messages] == [1, 2]


class Slow(Channel):
    """A channel on which what a script wrote can be read some time after it has ended."""

    guarantees = FileChannel.guarantees

    def __init__(self) -> None:
        self._file = FileChannel()
        self.settled = 0

    async def open_reader(self) -> ChannelReader:
        reader = await self._file.open_reader()
        read, backlog = reader.read_available, reader.backlog
        hidden = asyncio.Event()

        async def settle() -> None:
            self.settled += 1
            hidden.set()

        async def read_late() -> bytes:
            return await read() if hidden.is_set() else b""

        async def backlog_late() -> int | None:
            return await backlog() if hidden.is_set() else 0

        async def wait() -> bytes:
            await hidden.wait()
            return await read()

        for name, method in [("settle", settle), ("read_available", read_late), ("read", wait)]:
            setattr(reader, name, method)
        reader.backlog = backlog_late  # type: ignore[method-assign]  # the fault
        return reader


async def test_a_channel_is_given_its_time_once_the_script_has_ended() -> None:
    channel = Slow()
    async with open_pipes_session(channel=channel, extras={"x": 1}) as session:
        await session.launch(raw_child(SCRIPT))
    assert channel.settled == 1
    assert [event.payload for event in session.result.custom_messages] == [1]
