"""Nothing is left behind: 1,000 sessions in one process, each ended in its own way.

Counted are descriptors, inotify watches, threads, tasks, child processes, files, objects
of this library, and all objects that the garbage collector knows.
"""

from __future__ import annotations

import asyncio
import gc
import operator
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import (
    ChannelError,
    Event,
    LaunchError,
    OutcomeError,
    PipesSession,
    open_pipes,
    open_pipes_session,
    run,
)
from asyncpipes.channels import MemoryChannel
from asyncpipes.channels.file_writer import FileWriter
from asyncpipes.external import lifecycle, waiting
from tests.faults.channels import AlwaysFails, FaultyWriter, Full, Stuck
from tests.support import PATIENCE, open_fds
from tests.support_host import raw_child, until
from tests.test_conftest import run_pytest

SESSIONS = 1000
AT_ONCE = 10
QUICK: dict[str, Any] = {"strict": False, "drain_timeout": 0.01, "grace": 0.2}


class Mine(Exception):
    """What a body raises."""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files; a large context goes there too."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0.02)
    return path


#: Threads of earlier tests that stay: one that is stuck in a write, for example.
_stuck: set[threading.Thread] = set()


@pytest.fixture(autouse=True, scope="module")
def _threads_of_others() -> None:
    """Those that are on their way out are gone before anything is counted."""
    for thread in _threads():
        thread.join(2)
    _stuck.update(_threads())


def _threads() -> list[threading.Thread]:
    """Those of this library, but for those that stay."""
    threads = set(threading.enumerate()) - _stuck
    return [each for each in threads if each.name.startswith("asyncpipes")]


# Sessions with both ends in this process, each to its own end.


def hosted(**options: Any) -> PipesSession:
    return open_pipes_session(asset_keys=["orders"], **{**QUICK, **options})


def report(pipes: Any) -> None:
    pipes.log.info("a line")
    pipes.report_custom_message({"n": [1, 2]})
    pipes.report_asset_materialization({"rows": 1})


async def work(bootstrap: Mapping[str, str], **options: Any) -> None:
    async with open_pipes(params_loader=bootstrap, **options) as pipes:
        report(pipes)
        await pipes.flush()


def plain_work(bootstrap: Mapping[str, str]) -> None:
    with open_pipes(params_loader=bootstrap) as pipes:
        report(pipes)


async def clean() -> None:
    async with hosted() as session:
        await work(session.bootstrap)
    assert session.outcome.ok


async def in_a_thread() -> None:
    async with hosted() as session:
        await asyncio.to_thread(plain_work, session.bootstrap)
    assert session.outcome.ok


async def in_memory() -> None:
    channel = MemoryChannel()
    async with hosted(channel=channel) as session:
        await work(session.bootstrap, message_writer=channel.writer())
    assert session.outcome.ok


async def with_a_large_context() -> None:
    async with hosted(extras={"large": "x" * 100_000}) as session:
        await work(session.bootstrap)
    assert session.outcome.ok


async def script_raises() -> None:
    async with hosted() as session:
        try:
            async with open_pipes(params_loader=session.bootstrap) as pipes:
                report(pipes)
                raise Mine
        except Mine:
            pass
    assert session.outcome.exception is not None


async def script_is_cancelled() -> None:
    async with hosted() as session:
        inside = asyncio.Event()

        async def endless() -> None:
            async with open_pipes(params_loader=session.bootstrap) as pipes:
                report(pipes)
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(endless())
        await inside.wait()
        task.cancel()
        await asyncio.wait([task])
    assert session.outcome.closed


async def body_raises() -> None:
    session = hosted()
    with pytest.raises(Mine):
        async with session:
            await work(session.bootstrap)
            raise Mine
    assert session.outcome.opened


async def host_is_cancelled() -> None:
    inside = asyncio.Event()

    async def endless() -> None:
        async with hosted() as session, open_pipes(params_loader=session.bootstrap):
            inside.set()
            await session.wait_drained()

    task = asyncio.create_task(endless())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def host_is_cancelled_while_it_opens() -> None:
    async def enter() -> None:
        async with hosted():
            await asyncio.Event().wait()

    task = asyncio.create_task(enter())
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def finished() -> None:
    async with hosted() as session:
        assert session.bootstrap
        session.finish(3)
    assert session.outcome.exit_code == 3


async def never_opened() -> None:
    async with hosted(open_timeout=0.01) as session:
        assert session.bootstrap
    assert session.outcome.timed_out


async def channel_fails() -> None:
    await _with_writer(AlwaysFails())


async def channel_is_full() -> None:
    await _with_writer(Full(immediate=True))


async def _with_writer(writer: FaultyWriter) -> None:
    async with hosted() as session:
        with pytest.raises(ChannelError):
            await work(session.bootstrap, message_writer=writer)
        session.finish()
    assert not session.outcome.ok


async def subscribers_of_all_kinds() -> None:
    def raises(event: Event) -> None:
        raise Mine

    with pytest.raises(OutcomeError):
        async with hosted(strict=True) as session:
            session.subscribe(raises)
            session.subscribe(lambda event: None, in_thread=True)
            named = session.events()
            await work(session.bootstrap)
            await named.__anext__()
            async for _ in session.events():
                break
    assert session.result.subscriber_failed


async def context_that_cannot_be_entered() -> None:
    async with hosted() as session:
        broken = {**session.bootstrap, "DAGSTER_PIPES_CONTEXT": "garbage"}
        with pytest.raises(Exception, match="DAGSTER_PIPES_CONTEXT"):
            await work(broken)
        session.finish()
    assert not session.outcome.opened


IN_PROCESS: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
    clean,
    in_a_thread,
    in_memory,
    with_a_large_context,
    script_raises,
    script_is_cancelled,
    body_raises,
    host_is_cancelled,
    host_is_cancelled_while_it_opens,
    finished,
    never_opened,
    channel_fails,
    channel_is_full,
    subscribers_of_all_kinds,
    context_that_cannot_be_entered,
)


# Sessions with a process.

GOOD = "opened(); custom(1, 2); print('x'); print('y', file=sys.stderr); closed()"


async def process_ends_well() -> None:
    result = await run(raw_child(GOOD), forward_stdio="events")
    assert result.outcome.ok


async def process_fails() -> None:
    result = await run(raw_child(f"{GOOD}; sys.exit(1)"), forward_stdio=False, **QUICK)
    assert result.outcome.exit_code == 1


async def process_is_killed() -> None:
    source = "opened(); custom(1); os.kill(os.getpid(), signal.SIGKILL)"
    result = await run(raw_child(source), forward_stdio=False, **QUICK)
    assert result.outcome.signal == signal.SIGKILL


async def process_is_cancelled() -> None:
    inside = asyncio.Event()

    async def endless() -> None:
        await run(
            raw_child("opened()\nwhile True: signal.pause()"),
            subscribers=[lambda event: inside.set()],
            forward_stdio=False,
            **QUICK,
        )

    task = asyncio.create_task(endless())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def process_is_cancelled_while_it_starts() -> None:
    task = asyncio.create_task(run(raw_child(GOOD), forward_stdio=False, **QUICK))
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def process_takes_too_long() -> None:
    source = "opened()\nwhile True: signal.pause()"
    result = await run(raw_child(source), timeout=0.1, forward_stdio=False, **QUICK)
    assert result.outcome.timed_out


async def program_is_missing() -> None:
    with pytest.raises(LaunchError):
        await run(["/no/such/program"], **QUICK)


async def process_leaves_another() -> None:
    source = """
        opened(); closed(); sys.stdout.flush()
        if os.fork() == 0:
            signal.alarm(600)
            while True: signal.pause()
    """
    others = _children()  # of other tests: multiprocessing's helpers stay
    session = hosted(drain_timeout=0.05, forward_stdio=False)
    async with session:
        process = await session.launch(raw_child(source))
    assert not session.outcome.ok
    os.killpg(process.pid, signal.SIGKILL)
    await until(lambda: set(_children()) <= set(others), "it is gone, to whoever reaps it")


WITH_PROCESS: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
    process_ends_well,
    process_fails,
    process_is_killed,
    process_is_cancelled,
    process_is_cancelled_while_it_starts,
    process_takes_too_long,
    program_is_missing,
)


# Counting.


@dataclass(frozen=True)
class Resources:
    """What this process holds.

    Attributes:
        descriptors: what is open, by kind.
        watches: files that inotify watches.
        threads: of this library, by name.
        children: processes, zombies too.
        files: temporary files and directories.
        tasks: of the running loop, by name.
        contexts: how many are registered as open.
        instances: objects of this library's classes, by class.
        sigterm: what SIGTERM does.
    """

    descriptors: Counter[str]
    watches: int
    threads: list[str]
    children: list[int]
    files: list[str]
    tasks: list[str]
    contexts: int
    instances: Counter[str]
    sigterm: Any


def held() -> Resources:
    gc.collect()
    descriptors: Counter[str] = Counter()
    watches = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            kind = os.readlink(f"/proc/self/fd/{entry}")
            with open(f"/proc/self/fdinfo/{entry}") as info:
                watches += sum(line.startswith("inotify ") for line in info)
        except FileNotFoundError:
            continue  # that of the listing itself
        # Those of one kind differ by numbers; a file is one by itself.
        descriptors[kind.partition(":[")[0]] += 1
    names = (f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())
    return Resources(
        descriptors=descriptors,
        watches=watches,
        threads=sorted(each.name for each in _threads()),
        children=_children(),
        files=sorted(os.listdir(tempfile.gettempdir())),
        tasks=sorted(task.get_name() for task in asyncio.all_tasks()),
        contexts=len(lifecycle._open_contexts),
        instances=Counter(name for name in names if name.startswith("asyncpipes.")),
        sigterm=signal.getsignal(signal.SIGTERM),
    )


def _children() -> list[int]:
    found: list[int] = []
    for task in os.listdir("/proc/self/task"):
        try:
            text = Path(f"/proc/self/task/{task}/children").read_text()
        except OSError:
            continue  # the thread has ended meanwhile
        found += map(int, text.split())
    return found


async def settled(
    before: Resources, is_enough: Callable[[Resources, Resources], bool] = operator.eq
) -> Resources:
    """What is held once what is on its way out is gone; or what stays."""
    ends = time.monotonic() + PATIENCE
    while not is_enough(now := held(), before) and time.monotonic() < ends:
        await asyncio.sleep(0.02)
    return now


async def at_rest() -> Resources:
    """What is held, of which nothing goes away any more: a measure for what comes after."""
    # The outbox's lets a context be left before it is quite gone, with all that it refers to.
    await asyncio.to_thread(_join, _threads())
    now, ends = held(), time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        await asyncio.sleep(0.02)
        before, now = now, held()
        if now == before:
            return now
    raise AssertionError("what is held goes on changing")


def no_more(now: Resources, before: Resources) -> bool:
    """Less is no leak: of objects that others hold, what they let go at last."""
    return replace(now, instances=now.instances | before.instances) == before


async def sessions(count: int, fates: tuple[Callable[[], Awaitable[None]], ...]) -> None:
    """So many, of all fates in turn, ten at once."""
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        await asyncio.gather(*(fates[number % len(fates)]() for number in numbers))


@pytest.fixture
def _quiet(capsys: pytest.CaptureFixture[str]) -> Generator[None, None, None]:
    """Channels that fail say so on stderr, each time in one line."""
    yield
    out, err = capsys.readouterr()
    assert out == ""
    assert all(line.startswith("asyncpipes: ") for line in err.splitlines()), err


async def check(count: int, fates: tuple[Callable[[], Awaitable[None]], ...]) -> None:
    """Nothing more is held after so many sessions than after one of each fate."""
    await sessions(max(3 * AT_ONCE, len(fates)), fates)
    before = await at_rest()
    objects = len(gc.get_objects())
    await sessions(count, fates)
    after = await settled(before, no_more)
    assert replace(after, instances=after.instances | before.instances) == before
    # One object a session would be a leak; caches of the interpreter's are fewer. What a
    # tracer of coverage notes of new lines are objects too.
    allowed = max(count / 2, 200) * (10 if sys.gettrace() is not None else 1)
    assert len(gc.get_objects()) - objects < allowed


@pytest.mark.usefixtures("_quiet")
def test_1000_sessions_leave_nothing_behind() -> None:
    gc.collect()  # what earlier tests left open
    threads, descriptors = set(threading.enumerate()), open_fds()
    asyncio.run(check(SESSIONS, IN_PROCESS))
    # Nor does the loop's end leave any: neither its pools' threads nor its own files.
    _join(set(threading.enumerate()) - threads)
    assert len(open_fds()) == len(descriptors)


async def test_40_sessions_with_processes_leave_nothing_behind(any_loop: None) -> None:
    await check(40, WITH_PROCESS)


async def test_a_process_that_stays_is_not_held() -> None:
    await process_leaves_another()
    before = await at_rest()
    await process_leaves_another()
    assert await settled(before) == before


def test_each_of_many_loops_leaves_nothing_behind() -> None:
    """The watcher of files is one for each loop, and goes with it."""

    async def one() -> None:
        await asyncio.gather(clean(), in_a_thread(), in_memory())

    async def measured() -> Resources:
        await one()
        return await at_rest()

    threads = set(threading.enumerate())
    first = asyncio.run(measured())
    descriptors = open_fds()
    for _ in range(20):
        asyncio.run(one())
    last = asyncio.run(measured())
    _join(set(threading.enumerate()) - threads)
    assert last.descriptors == first.descriptors
    assert last.watches == first.watches
    assert len(open_fds()) == len(descriptors)


def _join(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread.name


# That a leak is seen.


async def leaves_a_descriptor(patch: pytest.MonkeyPatch) -> Callable[[], object]:
    close = FileWriter.close
    kept: list[FileWriter] = []
    patch.setattr(FileWriter, "close", lambda self: kept.append(self))
    await clean()
    return lambda: close(kept.pop())


async def leaves_a_context(patch: pytest.MonkeyPatch) -> Callable[[], object]:
    patch.setattr(lifecycle, "unregister", lambda context: None)
    await clean()
    return lifecycle._open_contexts.clear


async def leaves_files(patch: pytest.MonkeyPatch) -> Callable[[], object]:
    import shutil

    remove = shutil.rmtree
    patch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    await clean()
    (path,) = Path(tempfile.gettempdir()).iterdir()
    return lambda: remove(path)


async def leaves_threads(patch: pytest.MonkeyPatch) -> Callable[[], object]:
    writer = Stuck()
    async with hosted() as session:
        with pytest.raises(ChannelError):
            await stuck_work(session.bootstrap, writer)
        session.finish()
    return writer.hurry.set


async def stuck_work(bootstrap: Mapping[str, str], writer: FaultyWriter) -> None:
    async with open_pipes(
        params_loader=bootstrap, message_writer=writer, close_timeout=0.01
    ) as pipes:
        report(pipes)


async def leaves_tasks(patch: pytest.MonkeyPatch) -> Callable[[], object]:
    task = asyncio.create_task(asyncio.Event().wait())
    await clean()
    return task.cancel


async def leaves_instances(patch: pytest.MonkeyPatch) -> Callable[[], object]:
    kept = [hosted()]
    await clean()
    return kept.clear


async def leaves_children(patch: pytest.MonkeyPatch) -> Callable[[], object]:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    return process.communicate


LEAKS = {
    "descriptors": leaves_a_descriptor,
    "contexts": leaves_a_context,
    "files": leaves_files,
    "threads": leaves_threads,
    "tasks": leaves_tasks,
    "instances": leaves_instances,
    "children": leaves_children,
}


@pytest.mark.parametrize("what", LEAKS)
async def test_a_session_that_leaves_something_behind_is_seen(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions(AT_ONCE, (clean,))
    before = await at_rest()
    with monkeypatch.context() as patch:
        undo = await LEAKS[what](patch)
    after = held()
    assert getattr(after, what) != getattr(before, what)
    undo()
    assert await settled(before) == before, "and nothing else was"


UNCLOSED = {
    "file": "open(__file__)",
    "socket": "import socket; socket.socket()",
    "loop": "import asyncio, gc; asyncio.new_event_loop(); gc.collect()",
    "coroutine": "import asyncio; asyncio.sleep(1)",
    "process": "import subprocess; subprocess.Popen('true')",
    "directory": "import tempfile; tempfile.TemporaryDirectory()",
}


def test_what_is_not_closed_fails_its_test(tmp_path: Path) -> None:
    """Under this project's own settings: a ResourceWarning is an error, and so are its kin."""
    tests = "".join(f"def test_{name}(): {source}\n" for name, source in UNCLOSED.items())
    code, output = run_pytest(tmp_path, test_unclosed=tests)
    failed = set(re.findall(r"FAILED tests/test_unclosed.py::test_(\w+)", output))
    assert failed == set(UNCLOSED), output
    assert code == 1
