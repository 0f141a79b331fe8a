"""asyncpipes.host.liveness: silent, blocked and dead scripts, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import textwrap
import time
import zlib
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import (
    ClosedEvent,
    CustomMessageEvent,
    Event,
    HealthEvent,
    LogEvent,
    OpenedEvent,
    PipesSession,
    SessionTimeoutError,
    open_pipes_session,
    run,
)
from asyncpipes.host.event_json import event_to_json
from tests.support import PATIENCE
from tests.support_host import Gate, asyncio_timeout, raw_child, script, until

#: A child that numbers its messages and sends heartbeats by hand, after RAW. It is its own
#: writer, and so is a fork of it after ``new_writer()``.
OURS = """
PARAMS = _param("DAGSTER_PIPES_MESSAGES")

def new_writer():
    global WRITER, NUMBER
    WRITER, NUMBER = "w%d" % os.getpid(), 0

def ours(method, pid=None, **params):
    global NUMBER
    NUMBER += 1
    line = json.loads(message(method, **params))
    line.update(writer=WRITER, seq=NUMBER, sent_at=time.time())
    if pid:
        line["pid"] = pid
    raw(json.dumps(line).encode() + b"\\n")

def opens(pid=os.getpid):
    ours("opened", pid(), extras={})

def beat(lag=0.0, interval=None):
    interval = interval or PARAMS["asyncpipes"]["heartbeat"]
    line = json.loads(message("asyncpipes.heartbeat", interval=interval, lag=lag, pid=os.getpid()))
    line.update(writer=WRITER, sent_at=time.time())
    raw(json.dumps(line).encode() + b"\\n")

def at_once(*writes):
    # What they write comes in one piece: nobody is silent between its parts.
    global raw
    parts, one_by_one = [], raw
    raw = parts.append
    for write in writes:
        write()
    raw = one_by_one
    raw(b"".join(parts))

def beats_seldom():
    # From here on nobody is silent, however long the machine keeps the child from running.
    beat(interval=3600)

def beat_until(fifo):
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    import select
    while not select.select([end], [], [], PARAMS["asyncpipes"]["heartbeat"] / 2)[0]:
        beat()

new_writer()
"""

#: What scripts are asked for here, in seconds: silent is who says nothing for 0.5 s.
HEARTBEAT = 0.2
#: Where nobody may be silent: a busy machine may keep a child from running for seconds.
LONG_HEARTBEAT = 2.0


def child(body: str) -> list[str]:
    return raw_child(OURS + textwrap.dedent(body))


class Watch:
    """What a session's HealthEvents said, in order, and whatever else it reported."""

    def __init__(self, session: PipesSession) -> None:
        self.events: list[Event] = []
        session.subscribe(self.events.append)

    @property
    def health(self) -> list[HealthEvent]:
        return [event for event in self.events if isinstance(event, HealthEvent)]

    @property
    def statuses(self) -> list[str]:
        return [event.status for event in self.health]

    async def until(self, *statuses: str) -> None:
        await until(lambda: self.statuses == list(statuses), f"{statuses}, is {self.statuses}")

    async def until_it_is(self, status: str) -> None:
        await until(lambda: self.statuses[-1:] == [status], f"{status}, is {self.statuses}")


async def test_a_script_goes_silent_and_speaks_again(tmp_path: Path, any_loop: None) -> None:
    gate, end = Gate(tmp_path), Gate(tmp_path, "end")
    command = child(f"""
        opens()
        wait_for({gate.path!r})
        at_once(lambda: ours("report_custom_message", payload=1), beats_seldom)
        wait_for({end.path!r})
        ours("closed")
    """)
    async with open_pipes_session(heartbeat=HEARTBEAT, collect="all") as session:
        watch = Watch(session)
        process = await session.launch(command)
        await watch.until("silent")
        assert session.health.state == "silent"
        [writer] = session.health.writers
        assert (writer.writer, writer.pid) == (f"w{process.pid}", process.pid)
        assert writer.status == "silent"
        assert writer.last_heard is not None
        assert writer.last_heard >= 2.5 * HEARTBEAT
        await gate.open()
        await watch.until("silent", "alive")
        await until(lambda: session.health.writers[0].lag == 0.0, "a heartbeat")
        assert session.health.state == "open"
        await end.open()
    assert session.outcome.ok
    assert session.health.state == "drained"
    assert session.health.writers == ()
    # Events, but none of the script's.
    kinds = [OpenedEvent, HealthEvent, CustomMessageEvent, HealthEvent, ClosedEvent]
    assert [type(event) for event in session.result.events] == kinds
    assert session.stats.events == 3
    silent = watch.health[0]
    assert (silent.writer, silent.pid) == (f"w{process.pid}", process.pid)
    assert (silent.sequence, silent.position, silent.lag) == (None, None, None)
    assert json.loads(event_to_json(silent))["event"] == "health"


async def test_a_blocked_loop_is_told_by_its_heartbeats(tmp_path: Path) -> None:
    gates = [Gate(tmp_path, name) for name in ("first", "second")]
    command = child(f"""
        opens()
        beat(0.9)
        beat(1.25)
        ours("log", message="from a thread", level="INFO")
        beat(2.5)
        wait_for({gates[0].path!r})
        beat(0.001)
        wait_for({gates[1].path!r})
        ours("closed")
    """)
    async with open_pipes_session(heartbeat=60.0) as session:
        watch = Watch(session)
        await session.launch(command)
        await watch.until("blocked")
        await until(lambda: session.health.writers[0].lag == 2.5, "the last heartbeat")
        assert session.health.state == "blocked"
        assert watch.health[0].lag in (1.25, 2.5)  # as of one read
        await gates[0].open()
        await watch.until("blocked", "alive")
        assert session.health.state == "open"
        await gates[1].open()
    assert session.outcome.ok
    assert watch.statuses == ["blocked", "alive"]


@pytest.mark.parametrize("how", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
@pytest.mark.parametrize("heartbeat", [10.0, None])
async def test_the_launched_process_is_dead_when_all_it_wrote_is_read(
    how: str, heartbeat: float | None
) -> None:
    command = child(f"""
        opens()
        for number in range(500):
            ours("log", message=str(number), level="INFO")
        {how}
    """)
    async with open_pipes_session(strict=False, drain_timeout=0.0, heartbeat=heartbeat) as session:
        watch = Watch(session)
        process = await session.launch(command)
    assert [type(event) for event in watch.events[1:-1]] == [LogEvent] * 500
    [dead] = watch.health
    assert watch.events[-1] is dead
    assert (dead.status, dead.pid) == ("dead", process.pid)
    assert [writer.status for writer in session.health.writers] == ["dead"]
    assert session.outcome.reasons[-1] == (
        "the script never closed its context: it crashed, or left it open"
    )
    assert not session.outcome.timed_out


async def test_a_stock_script_can_be_dead_and_nothing_else(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    # Beside it, one of ours that goes silent: by then the stock one would have, too.
    command = child(f"""
        opened()
        opens(lambda: None)
        wait_for({gate.path!r})
        ours("closed")
    """)
    async with open_pipes_session(strict=False, drain_timeout=0.0, heartbeat=0.05) as session:
        watch = Watch(session)
        await session.launch(command)
        await watch.until("silent")
        await gate.open()
    assert [(event.writer, event.status) for event in watch.health[1:]] == [(None, "dead")]
    assert watch.health[0].writer is not None


async def test_a_stock_script_is_not_dead_while_its_group_lives(tmp_path: Path) -> None:
    """The launched process may be a shell: whoever is left may be the one that opened."""
    gate = Gate(tmp_path)
    command = raw_child(f"""
        opened()
        if os.fork():
            os._exit(0)
        os.closerange(0, 3)
        wait_for({gate.path!r})
        closed()
    """)
    async with open_pipes_session(strict=False, drain_timeout=20.0) as session:
        watch = Watch(session)
        process = await session.launch(command)
        await process.wait()
        await gate.open()
    assert session.outcome.closed
    assert watch.statuses == []


#: The parent is never silent, its worker soon.
WORKER = """
        at_once(opens, beats_seldom)
        worker = os.fork()
        if not worker:
            new_writer()
            opens()
            {worker}
        ours("report_custom_message", payload=worker)
        wait_for({gate!r})
        os.waitpid(worker, 0)
        ours("closed")
"""


async def test_a_worker_that_was_killed_is_dead(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    command = child(WORKER.format(worker="time.sleep(600)", gate=gate.path))
    async with open_pipes_session(
        strict=False, drain_timeout=0.0, heartbeat=HEARTBEAT, collect="all"
    ) as session:
        watch = Watch(session)
        process = await session.launch(command)
        await until(lambda: len(session.health.writers) == 2, "both writers")
        await until(lambda: bool(_payloads(watch)), "its id")
        [worker] = _payloads(watch)
        os.kill(worker, signal.SIGKILL)
        await until(lambda: "dead" in watch.statuses, "dead")
        assert session.health.state == "dead"
        by_pid = {writer.pid: writer.status for writer in session.health.writers}
        assert by_pid == {process.pid: "alive", worker: "dead"}
        await gate.open()
    assert {event.pid for event in watch.health} == {worker}
    assert session.outcome.reasons == (
        f"1 of 2 contexts was never closed (process {worker}): it crashed, was ended, or left"
        " it open",
    )


def _payloads(watch: Watch) -> list[Any]:
    return [event.payload for event in watch.events if isinstance(event, CustomMessageEvent)]


async def test_a_stopped_worker_is_silent_and_then_dead_when_it_is_killed(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    stop = "os.kill(os.getpid(), signal.SIGSTOP)"
    command = child(WORKER.format(worker=stop, gate=gate.path))
    async with open_pipes_session(strict=False, drain_timeout=0.0, heartbeat=HEARTBEAT) as session:
        watch = Watch(session)
        await session.launch(command)
        await watch.until("silent")
        pid = watch.health[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await watch.until("silent", "dead")
        assert watch.health[1].pid == pid
        await gate.open()
    assert session.outcome.exit_code == 0


async def test_a_process_elsewhere_is_silent_however_its_number_reads_here(
    tmp_path: Path,
) -> None:
    """A script in a container has a number that here is nobody's, or somebody else's."""
    gate = Gate(tmp_path)
    command = child(f"""
        opens(lambda: 2 ** 22 + 1)
        WRITER, NUMBER = "other", 0
        opens(lambda: 1)
        wait_for({gate.path!r})
        ours("closed")
        WRITER, NUMBER = "w%d" % os.getpid(), 1
        ours("closed")
    """)
    async with open_pipes_session(heartbeat=0.05) as session:
        watch = Watch(session)
        await session.launch(command)
        await until(lambda: len(watch.statuses) == 2, "both are told")
        await gate.open()
    assert watch.statuses == ["silent", "silent"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("silent", "opens(); wait_for(GATE)"),
        ("blocked", "opens(); beat(3.5, 600); wait_for(GATE)"),
        (
            "dead",
            "opens(); worker = os.fork()\n"
            "if not worker: new_writer(); opens(); os.kill(os.getpid(), signal.SIGKILL)\n"
            "beat_until(GATE)",
        ),
    ],
)
async def test_a_limit_ends_the_run(status: str, body: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    options: dict[str, Any] = {f"{status}_timeout": 0.1}
    statuses: list[str] = []
    with pytest.raises(SessionTimeoutError) as caught:
        await run(
            raw_child(f"{OURS}\nGATE = {gate.path!r}\n{body}"),
            heartbeat=HEARTBEAT,
            subscribers=[(lambda event: statuses.append(event.status), HealthEvent)],
            grace=0.1,
            drain_timeout=0.0,
            **options,
        )
    outcome = caught.value.result.outcome
    assert outcome.timed_out
    assert outcome.reasons[0].startswith("writer w")
    assert outcome.reasons[0].endswith(f" has been {status} for {status}_timeout=0.1 seconds")
    assert status in statuses


async def test_a_limit_for_a_script_that_somebody_else_launched() -> None:
    async with open_pipes_session(
        strict=False, heartbeat=0.05, silent_timeout=0.0, dead_timeout=0.0
    ) as session:
        watch = Watch(session)
        process = await asyncio.create_subprocess_exec(
            *child("opens()"), env=session.env, stdin=asyncio.subprocess.DEVNULL
        )
        await process.wait()
        await session.wait_drained()
    # Nobody told that it has ended, and a number proves nothing of a process elsewhere.
    assert watch.statuses == ["silent"]
    assert session.outcome.timed_out


def _beats_in(directory: Path) -> int:
    return sum(path.read_bytes().count(b"heartbeat") for path in directory.rglob("messages*"))


async def test_a_reader_that_waits_for_a_subscriber_calls_nobody_silent(
    tmp_path: Path, temporary: Path
) -> None:
    go, gate = Gate(tmp_path, "go"), Gate(tmp_path)
    held, release = asyncio.Event(), asyncio.Event()
    command = child(f"""
        opens()
        ours("report_custom_message", payload="first")
        wait_for({go.path!r})
        for number in range(3):
            ours("report_custom_message", payload=number)
        beat_until({gate.path!r})
        ours("report_custom_message", payload="after")
        ours("closed")
    """)
    async with open_pipes_session(heartbeat=LONG_HEARTBEAT) as session:
        watch = Watch(session)

        async def hold(event: Event) -> None:
            held.set()
            await release.wait()

        session.subscribe(hold, CustomMessageEvent, max_events=1)
        await session.launch(command)
        await held.wait()
        await go.open()
        await until(lambda: session.health.held_by != (), "the reader is held up")
        beats = await asyncio.to_thread(_beats_in, temporary)
        async with asyncio_timeout(PATIENCE):
            while await asyncio.to_thread(_beats_in, temporary) <= beats + 5:
                await asyncio.sleep(0.01)
        # The timer has long come by now; what counts is what the channel holds.
        release.set()
        await until(lambda: session.health.held_by == (), "it goes on")
        await gate.open()
    assert watch.statuses == []


async def test_a_host_that_was_blocked_itself_calls_nobody_silent(
    tmp_path: Path, temporary: Path
) -> None:
    gate = Gate(tmp_path)
    command = child(f"opens(); beat_until({gate.path!r}); ours('closed')")
    async with open_pipes_session(heartbeat=LONG_HEARTBEAT) as session:
        watch = Watch(session)
        await session.launch(command)
        await until(lambda: session.health.state == "open", "it opens")
        # A wrong host all the while: its loop stands still.
        beats = _beats_in(temporary)
        while _beats_in(temporary) < beats + 6:
            time.sleep(0.01)  # which leaves the processor to the child
        await gate.open()
    assert watch.statuses == []


@pytest.mark.parametrize(
    ("options", "offer"),
    [
        ({}, {"v": 1, "heartbeat": 10.0}),
        ({"heartbeat": 0.25}, {"v": 1, "heartbeat": 0.25}),
        ({"heartbeat": None}, {"v": 1}),
    ],
)
async def test_what_scripts_are_asked_for(options: dict[str, Any], offer: dict[str, Any]) -> None:
    async with open_pipes_session(strict=False, **options) as session:
        params = json.loads(zlib.decompress(b64decode(session.bootstrap["DAGSTER_PIPES_MESSAGES"])))
        session.finish()
    assert params["asyncpipes"] == offer


async def test_a_duplicate_is_counted_and_the_run_is_ok() -> None:
    command = child("""
        opens()
        ours("report_custom_message", payload=1)
        NUMBER -= 1
        emitted, raw = raw, lambda data: emitted(data + data)
        ours("report_custom_message", payload=1)
        raw = emitted
        ours("closed")
    """)
    # The first has other bytes than the two that follow with its number.
    result = await run(command, strict=False)
    assert result.outcome.malformed == 1
    assert result.stats.duplicates == 1
    command = child("""
        emitted, raw = raw, lambda data: emitted(data + data)
        opens(); ours("report_custom_message", payload=1); ours("closed")
    """)
    result = await run(command)
    assert result.stats.duplicates == 3
    assert len(result.custom_messages) == 1
    assert result.outcome.ok


async def test_the_monitor_sleeps_without_a_writer_of_ours(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    command = child(f"opened(); log('x'); wait_for({gate.path!r}); closed()")
    async with open_pipes_session(heartbeat=0.01) as session:
        seen: list[Event] = []
        session.subscribe(seen.append, LogEvent)
        await session.launch(command)
        await until(lambda: bool(seen), "the log line")
        runner = session._runner
        assert runner is not None
        assert runner._intake.monitor._timer is None
        await gate.open()


async def test_nothing_is_kept_of_workers_that_have_closed(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    command = child(f"""
        opens()
        for number in range(20):
            worker = os.fork()
            if not worker:
                new_writer()
                opens()
                ours("closed")
                os._exit(0)
            os.waitpid(worker, 0)
        ours("report_custom_message", payload="all have closed")
        wait_for({gate.path!r})
        ours("closed")
    """)
    async with open_pipes_session(heartbeat=60.0) as session:
        watch = Watch(session)
        process = await session.launch(command)
        await until(lambda: bool(_payloads(watch)), "all have closed")
        runner = session._runner
        assert runner is not None
        monitor = runner._intake.monitor
        assert monitor._looked_up | monitor._workers.keys() == set()
        assert monitor._liveness._watches.keys() <= {f"w{process.pid}"}
        await gate.open()
    assert session.outcome.ok
    assert sum(isinstance(event, OpenedEvent) for event in watch.events) == 21


# Scripts that open pipes themselves.


async def test_a_real_script_whose_loop_is_blocked(tmp_path: Path) -> None:
    gates = [Gate(tmp_path, name) for name in ("first", "second")]
    command = script(
        tmp_path,
        f"""
        import asyncio
        from asyncpipes import open_pipes

        async def main():
            async with open_pipes() as pipes:
                pipes.log.info("ready")
                open({gates[0].path!r}).read()  # blocks the loop, as a large query would
                await asyncio.to_thread(lambda: open({gates[1].path!r}).read())

        asyncio.run(main())
        """,
    )
    async with open_pipes_session(heartbeat=LONG_HEARTBEAT) as session:
        watch = Watch(session)
        process = await session.launch(command)
        await watch.until("blocked")
        [blocked] = watch.health
        assert blocked.pid == process.pid
        assert blocked.lag is not None
        assert blocked.lag >= 1.0
        await gates[0].open()
        await watch.until("blocked", "alive")
        await gates[1].open()
    assert session.outcome.ok
    assert watch.statuses == ["blocked", "alive"]


@pytest.mark.parametrize("loop", [True, False])
async def test_a_real_script_that_is_stopped_and_killed(tmp_path: Path, loop: bool) -> None:
    waits = (
        """
        import asyncio
        from asyncpipes import open_pipes

        async def main():
            async with open_pipes() as pipes:
                pipes.log.info("ready")
                await asyncio.Event().wait()

        asyncio.run(main())
        """
        if loop
        else """
        import time
        from asyncpipes import open_pipes

        with open_pipes() as pipes:
            pipes.log.info("ready")
            time.sleep(600)
        """
    )
    async with open_pipes_session(heartbeat=0.3, strict=False, drain_timeout=0.0) as session:
        watch = Watch(session)
        process = await session.launch(script(tmp_path, waits))
        await until(
            lambda: (
                any(writer.lag is not None for writer in session.health.writers)
                if loop
                else bool(session.health.writers)
            ),
            "a heartbeat",
        )
        os.kill(process.pid, signal.SIGSTOP)
        await watch.until_it_is("silent")
        os.kill(process.pid, signal.SIGCONT)
        await watch.until_it_is("alive")
        os.kill(process.pid, signal.SIGSTOP)
        await watch.until_it_is("silent")
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await session.wait_drained()
    # Where the machine is so busy that it stops the script too, there are more silences.
    silences = watch.statuses.count("silent")
    assert silences >= 2
    assert watch.statuses == ["silent", "alive"] * (silences - 1) + ["silent", "dead"]
    assert session.outcome.signal == signal.SIGKILL
    assert session.outcome.malformed == 0
