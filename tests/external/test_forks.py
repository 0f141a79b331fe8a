"""Forked and spawned workers: each is a writer of its own, from its opening to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from asyncpipes.channels.base import ChannelWriter
from asyncpipes.errors import ChannelError
from asyncpipes.external import forking
from tests.support import (
    OURS,
    PATIENCE,
    RecordingWriter,
    bootstrap,
    logged,
    methods,
    parsed,
    run_script,
)

#: For what would never end, so that it does before its script is ended with all it has to say.
LONG = int(PATIENCE / 2)

HEAD = """
import _thread, asyncio, concurrent.futures, contextlib, logging, multiprocessing, os, signal
import sys, threading, time, warnings
from asyncpipes import PipesContext, open_pipes

# Python 3.12 and later warn of every fork of a process that has threads.
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")

def ended(pid):
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)

def work(name):
    pipes = PipesContext.get()
    pipes.log.info("working")
    pipes.report_custom_message(name)
    pipes.report_asset_check("done", True, asset_key=f"asset/{name}")
    return name
"""
HEAD += f"LONG = {LONG}\n"

Run = Callable[..., "Script"]


class Script:
    """A script that has run: how it ended, and what is in its messages file."""

    def __init__(
        self, done: subprocess.CompletedProcess[str], file: Path, *, was_killed: bool
    ) -> None:
        self.returncode, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        lines = file.read_bytes()
        before, self.after_half_line = (
            around_half_line(lines) if was_killed else (parsed(lines), [])
        )
        self.messages = before + self.after_half_line

    def by_writer(self) -> list[list[dict[str, Any]]]:
        """The messages of each writer, the writers in the order of their first message."""
        writers: dict[str | None, list[dict[str, Any]]] = {}
        for message in self.messages:
            writers.setdefault(message.get("writer"), []).append(message)
        return list(writers.values())


def around_half_line(lines: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The messages before and after the one line that a writer that was killed may leave half.

    Whoever writes next ends it, and begins a line.
    """
    whole = lines.splitlines(keepends=True)
    broken = [number for number, line in enumerate(whole) if not is_json(line)]
    assert len(broken) <= 1, [whole[number] for number in broken]
    assert len(whole) - 1 not in broken, whole[-1][-100:]
    at = broken[0] if broken else len(whole)
    return parsed(b"".join(whole[:at])), parsed(b"".join(whole[at + 1 :]))


def is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@pytest.fixture(params=["ours", "stock"])
def host(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def run(tmp_path: Path, host: str) -> Run:
    def run(body: str, *, was_killed: bool = False, **messages: Any) -> Script:
        file = tmp_path / "messages"
        file.touch()
        # A file, since spawned workers import it.
        script = tmp_path / "script.py"
        script.write_text(HEAD + textwrap.dedent(body))
        offer = OURS if host == "ours" else {}
        params = {"path": str(file), **offer, **messages}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)],
            env={**os.environ, **bootstrap(params, asset_keys=None)},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        return Script(done, file, was_killed=was_killed)

    return run


def ordinary(messages: list[dict[str, Any]]) -> list[str]:
    """The methods of the messages but for the fillers of a file that a stock host reads."""
    return [m["method"] for m in messages if m["method"] != "log_external_stream"]


def custom(messages: list[dict[str, Any]]) -> list[Any]:
    """The payloads of the custom messages."""
    return [m["params"]["payload"] for m in messages if m["method"] == "report_custom_message"]


def check_workers(script: Script, host: str, workers: int) -> None:
    """Every worker's three messages are there, and the wire is what the host expects."""
    assert script.stderr == ""
    assert script.returncode == 0
    work = ["log", "report_custom_message", "report_asset_check"]
    if host == "ours":
        first, *others = script.by_writer()
        assert methods(first) == ["opened", "closed"]
        assert [methods(m) for m in others] == [["opened", *work, "closed"]] * workers
        for messages in [first, *others]:
            assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))
        assert len({m["pid"] for m in script.messages if m["method"] == "opened"}) == workers + 1
        assert all("exception" not in m["params"] for m in script.messages)
    else:
        found = ordinary(script.messages)
        assert (found[0], found[-1]) == ("opened", "closed")
        assert sorted(found[1:-1]) == sorted(work * workers)
        assert all("writer" not in m and "pid" not in m for m in script.messages)
    assert set(custom(script.messages)) == {f"w{n}" for n in range(workers)}


def test_a_fork_that_leaves_the_block(run: Run, host: str) -> None:
    script = run(
        """
        with open_pipes() as pipes:
            pids = []
            for n in range(3):
                pid = os.fork()
                if not pid:
                    work(f"w{n}")
                    sys.exit(0)
                pids.append(pid)
            assert [ended(pid) for pid in pids] == [0, 0, 0]
        """
    )
    check_workers(script, host, 3)


@pytest.mark.parametrize("leave", ["pipes.close()", "await pipes.__aexit__(None, None, None)"])
def test_a_fork_inside_an_async_block(run: Run, host: str, leave: str) -> None:
    """The loop goes on in the parent alone: whoever ends it in the fork too, stops both."""
    script = run(
        f"""
        async def main():
            async with open_pipes() as pipes:
                pid = os.fork()
                if not pid:
                    work("w0")
                    pipes.flush()
                    {leave}
                    os._exit(0)
                assert await asyncio.to_thread(ended, pid) == 0
        asyncio.run(main())
        """
    )
    check_workers(script, host, 1)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(run: Run, host: str, method: str) -> None:
    """A worker that shares nothing with its parent opens the channel itself."""
    script = run(
        f"""
        def target(name):
            if {method == "fork"}:
                work(name)
            else:
                with open_pipes():
                    work(name)

        if __name__ == "__main__":
            with open_pipes():
                context = multiprocessing.get_context("{method}")
                workers = [context.Process(target=target, args=(f"w{{n}}",)) for n in range(3)]
                [worker.start() for worker in workers]
                [worker.join() for worker in workers]
                assert [worker.exitcode for worker in workers] == [0, 0, 0]
        """
    )
    check_workers(script, host, 3)


POOLS = {
    "executor": """
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            names = list(pool.map(work, ["w0"]))
    """,
    "pool, terminated": """
        with context.Pool(1) as pool:
            names = pool.map(work, ["w0"])
    """,
    "pool, closed": """
        with context.Pool(1) as pool:
            names = pool.map(work, ["w0"])
            pool.close()
            pool.join()
    """,
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.usefixtures("unmeasured_scripts")
def test_pools_of_forked_workers(run: Run, host: str, pool: str) -> None:
    """A pool ends its workers with SIGTERM, which is no failure of theirs."""
    script = run(
        "with open_pipes():\n"
        "    context = multiprocessing.get_context('fork')\n"
        + textwrap.indent(textwrap.dedent(POOLS[pool]), "    ")
        + "    assert names == ['w0']\n"
    )
    check_workers(script, host, 1)


IN_THREADS = {
    "a thread": """
        def in_a_thread(name):
            thread = threading.Thread(target=work, args=(name,))
            thread.start()
            thread.join()
            return name
    """,
    "an executor's": """
        def in_a_thread(name):
            with concurrent.futures.ThreadPoolExecutor(1) as threads:
                return threads.submit(work, name).result()
    """,
}


@pytest.mark.parametrize("way", IN_THREADS)
@pytest.mark.usefixtures("unmeasured_scripts")
def test_workers_of_a_pool_that_report_from_threads(run: Run, host: str, way: str) -> None:
    """SIGTERM ends them as it does others: no handler can be set in these threads."""
    script = run(
        textwrap.dedent(IN_THREADS[way])
        + """
with open_pipes():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(in_a_thread, ["w0"]) == ["w0"]
"""
    )
    check_workers(script, host, 1)


@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_fork_that_first_reports_from_a_thread_leaves_sigterm_alone(run: Run, host: str) -> None:
    """Nothing runs in its main thread before, as it does in a worker of multiprocessing's."""
    script = run(
        """
        with open_pipes():
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                thread = threading.Thread(target=work, args=("w0",))
                thread.start()
                thread.join()
                PipesContext.get().flush()
                assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
                os.write(write, b"x")
                time.sleep(600)
            assert os.read(read, 1) == b"x"
            os.kill(pid, signal.SIGTERM)
            assert ended(pid) == -signal.SIGTERM
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert custom(script.messages) == ["w0"]
    if host == "ours":
        assert [methods(m)[-1] for m in script.by_writer()] == ["closed", "report_asset_check"]


@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_worker_that_never_reports_ends_by_sigterm(run: Run, host: str) -> None:
    script = run(
        """
        def wait():
            os.write(write, b"x")
            time.sleep(600)

        with open_pipes():
            read, write = os.pipe()
            worker = multiprocessing.get_context("fork").Process(target=wait)
            worker.start()
            assert os.read(read, 1) == b"x"
            worker.terminate()
            worker.join()
            assert worker.exitcode == -signal.SIGTERM
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert methods(script.messages) == ["opened", "closed"]


@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_worker_that_gives_sigterm_back_closes_if_it_reports_then(run: Run, host: str) -> None:
    script = run(
        """
        def target():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            work("w0")
            os.write(write, b"x")
            time.sleep(600)

        with open_pipes():
            read, write = os.pipe()
            worker = multiprocessing.get_context("fork").Process(target=target)
            worker.start()
            assert os.read(read, 1) == b"x"
            worker.terminate()
            worker.join()
            assert worker.exitcode == -signal.SIGTERM
        """
    )
    check_workers(script, host, 1)


#: What a worker leaves running when its function returns; all of it reports after that.
LEFT_RUNNING = {
    "a thread": "threading.Thread(target=outlive).start()",
    "a thread of one that has reported": "pipes.flush(); threading.Thread(target=outlive).start()",
    "a thread of a thread": """
        threading.Thread(target=lambda: threading.Thread(target=outlive).start()).start()
    """,
    # It ends when its owner is told to: after the worker's finalizers.
    "an executor": """
        executor = concurrent.futures.ThreadPoolExecutor(1)
        executor.submit(time.sleep, 0).result()
        threading.Thread(target=outlive).start()
    """,
}


@pytest.mark.parametrize("left", LEFT_RUNNING)
def test_threads_that_outlive_the_main_one_of_a_worker_still_report(
    run: Run, host: str, left: str
) -> None:
    """The process waits for them, so its writer does: it closes when they have ended."""
    script = run(
        f"""
def outlive():
    threading.main_thread().join()
    work("w0")

def target():
    signal.alarm(LONG)
{textwrap.indent(textwrap.dedent(LEFT_RUNNING[left]).strip(), "    ")}

with open_pipes() as pipes:
    worker = multiprocessing.get_context("fork").Process(target=target)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
"""
    )
    check_workers(script, host, 1)


def test_workers_of_workers_that_leave_threads_running(run: Run, host: str) -> None:
    """Nor do two contexts wait for each other's end."""
    script = run(
        """
        def outlive(name):
            threading.main_thread().join()
            pipes.report_custom_message(name)
            other.report_custom_message("to the other")

        def target(depth):
            signal.alarm(LONG)
            if depth:
                start(depth - 1)
            threading.Thread(target=outlive, args=(f"w{depth}",)).start()

        def start(depth):
            worker = multiprocessing.get_context("fork").Process(target=target, args=(depth,))
            worker.start()
            worker.join()
            assert worker.exitcode == 0

        other = open_pipes()
        with other, open_pipes() as pipes:
            start(1)
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    payloads = custom(script.messages)
    assert sorted(payloads) == ["to the other", "to the other", "w0", "w1"]
    if host == "ours":
        assert [methods(m)[-1] for m in script.by_writer()] == ["closed"] * 6


def test_where_no_thread_can_be_started_a_worker_does_not_close_early(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who has more to say has not closed, and the host is to know."""

    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    closed: list[str] = []
    guard = forking.ForkGuard()
    guard._close_worker = lambda: closed.append("closed")
    with ExitStack() as stack:
        release = threading.Event()
        thread = threading.Thread(target=release.wait)
        thread.start()
        stack.callback(thread.join)
        stack.callback(release.set)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", full)
            guard._worker_ends()
    assert not closed
    assert capsys.readouterr().err == (
        "asyncpipes: this worker's end is not reported: can't start new thread\n"
    )


@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_pool_never_waits_for_a_worker_that_it_has_ended(run: Run, host: str) -> None:
    """The signal may come right before the worker waits for a semaphore, and end no wait."""
    script = run(
        """
        with open_pipes():
            context = multiprocessing.get_context("fork")
            for n in range(25):
                with context.Pool(2) as pool:
                    assert pool.map(work, [f"w{n}"]) == [f"w{n}"]
        """
    )
    check_workers(script, host, 25)


def test_a_fork_that_never_reports_leaves_sigterm_alone(run: Run, host: str) -> None:
    script = run(
        """
        def wait():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            os.write(1, b"ready")
            time.sleep(600)

        with open_pipes():
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                os.dup2(write, 1)
                wait()
            assert os.read(read, 5) == b"ready"
            os.kill(pid, signal.SIGTERM)
            assert ended(pid) == -signal.SIGTERM
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert methods(script.messages) == ["opened", "closed"]


@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_handler_that_a_worker_sets_for_itself_stays(run: Run, host: str) -> None:
    script = run(
        """
        with open_pipes():
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                work("w0")
                signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
                os.write(write, b"ready")
                time.sleep(600)
            assert os.read(read, 5) == b"ready"
            os.kill(pid, signal.SIGTERM)
            assert ended(pid) == 7
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    names = methods(script.messages)
    assert names.count("closed") == (2 if host == "ours" else 1)


def test_a_worker_that_skips_its_exit_has_delivered_its_results(run: Run, host: str) -> None:
    script = run(
        """
        with open_pipes() as pipes:
            pid = os.fork()
            if not pid:
                for n in range(100):
                    pipes.report_asset_check(f"c{n}", True, asset_key="a")
                os._exit(3)
            assert ended(pid) == 3
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    checks = [m for m in script.messages if m["method"] == "report_asset_check"]
    assert [m["params"]["check_name"] for m in checks] == [f"c{n}" for n in range(100)]
    if host == "ours":
        assert [methods(m)[-1] for m in script.by_writer()] == ["closed", "report_asset_check"]


FIRST_REPORTS = {
    "log": "pipes.log.info('first')",
    "report_custom_message": "pipes.report_custom_message('first')",
    "log_external_stream": "pipes.log_external_stream('stdout', 'first')",
}


@pytest.mark.parametrize("first", FIRST_REPORTS)
@pytest.mark.parametrize("in_a_loop", [True, False])
def test_a_worker_that_crashes_after_its_first_report_is_known(
    run: Run, host: str, first: str, in_a_loop: bool
) -> None:
    """With `opened` in the file, nobody takes it for one that never was."""
    script = run(
        f"""
        from asyncpipes.channels.file_writer import FileWriter
        write = FileWriter.write

        def slow(self, lines):
            time.sleep(0.1)
            write(self, lines)

        async def main():
            crash()

        def crash():
            {FIRST_REPORTS[first]}
            os._exit(3)

        with open_pipes() as pipes:
            pid = os.fork()
            if not pid:
                if {host == "ours"}:
                    FileWriter.write = slow
                asyncio.run(main()) if {in_a_loop} else crash()
            assert ended(pid) == 3
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    if host == "ours":
        assert [methods(m) for m in script.by_writer()] == [
            ["opened", "closed"],
            ["opened", first],
        ]
    else:
        assert ordinary(script.messages)[-1] == "closed"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_worker_that_is_killed_while_it_writes(run: Run, host: str, number: int) -> None:
    """All that it flushed is there, and its parent's own lines stay whole."""
    script = run(
        f"""
        with open_pipes() as pipes:
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                pipes.report_custom_message("flushed")
                pipes.flush()
                os.write(write, b"x")
                while True:
                    pipes.report_custom_message("x" * 1000)
            os.read(read, 1)
            for n in range(1000):
                pipes.report_custom_message(n)
            os.kill(pid, {int(number)})
            assert ended(pid) == -{int(number)}
            pipes.report_custom_message("after")
        """,
        was_killed=number == signal.SIGKILL,
    )
    assert (script.returncode, script.stderr) == (0, "")
    payloads = custom(script.messages)
    assert "x" * 1000 not in custom(script.after_half_line), "it is half because its writer is gone"
    assert "flushed" in payloads
    assert [p for p in payloads if isinstance(p, int)] == list(range(1000))
    assert "after" in payloads


@pytest.mark.parametrize("way", ["os.fork", "multiprocessing"])
def test_a_worker_that_fails(run: Run, host: str, way: str) -> None:
    fork = """
            pid = os.fork()
            if not pid:
                fail()
            assert ended(pid) == 1
    """
    process = """
            worker = multiprocessing.get_context("fork").Process(target=fail)
            worker.start()
            worker.join()
            assert worker.exitcode == 1
    """
    script = run(
        """
        def fail():
            PipesContext.get().log.info("about to")
            raise ValueError("no such file")

        with open_pipes() as pipes:
        """
        + (fork if way == "os.fork" else process)
    )
    assert script.returncode == 0
    assert "ValueError: no such file" in script.stderr  # the worker's own, as without us
    if host == "ours":
        exception = script.by_writer()[1][-1]["params"]["exception"]
        assert (exception["name"], exception["message"].strip()) == (
            "ValueError",
            "ValueError: no such file",
        )
    else:  # one `closed` only: protocol 0.1 has no other place for it than the log
        assert ordinary(script.messages) == ["opened", "log", "log", "closed"]
        text = logged(script.messages)[1]
        assert "left its pipes context with an exception" in text
        assert "ValueError: no such file" in text


def test_a_fork_that_never_reports_sends_nothing(run: Run, host: str) -> None:
    script = run(
        """
        with open_pipes() as pipes:
            pid = os.fork()
            if not pid:
                sys.exit(0)
            assert ended(pid) == 0
            os.system("true")
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert methods(script.messages) == ["opened", "closed"]


def test_a_fork_of_a_fork(run: Run, host: str) -> None:
    script = run(
        """
        with open_pipes() as pipes:
            pid = os.fork()
            if not pid:
                work("w0")
                pid = os.fork()
                if not pid:
                    work("w1")
                    sys.exit(0)
                assert ended(pid) == 0
                sys.exit(0)
            assert ended(pid) == 0
        """
    )
    check_workers(script, host, 2)


_CHATTER = """
def chatter(pipes, stop):
    while not stop.is_set():
        pipes.log.info("x" * 500)
        pipes.report_custom_message("x" * 500)

@contextlib.contextmanager
def busy(pipes):
    stop = threading.Event()
    threads = [threading.Thread(target=chatter, args=(pipes, stop)) for _ in range(4)]
    [thread.start() for thread in threads]
    try:
        yield
    finally:
        stop.set()
        [thread.join() for thread in threads]
"""
_IN_A_LOOP = """
async def main():
    async with open_pipes() as pipes:
        with busy(pipes):
            for n in range(12):
                pid = os.fork()
                if not pid:
                    pipes.report_asset_check(f"c{n}", True, asset_key="a")
                    pipes.close()
                    os._exit(0)
                assert await asyncio.to_thread(ended, pid) == 0
"""
WHILE_BUSY = {
    "with": """
with open_pipes() as pipes:
    with busy(pipes):
        for n in range(12):
            pid = os.fork()
            if not pid:
                pipes.report_asset_check(f"c{n}", True, asset_key="a")
                sys.exit(0)
            assert ended(pid) == 0
""",
    "async with": _IN_A_LOOP + "asyncio.run(main())",
    "async with, uvloop": _IN_A_LOOP + "import uvloop\nuvloop.run(main())",
}


@pytest.mark.parametrize(
    "way",
    ["with", "async with", pytest.param("async with, uvloop", marks=pytest.mark.host)],
)
@pytest.mark.usefixtures("unmeasured_scripts")
def test_forks_while_the_outbox_is_busy(run: Run, host: str, way: str) -> None:
    """Whatever lock a thread of the parent holds at that moment, the fork gets through."""
    script = run(_CHATTER + WHILE_BUSY[way])
    assert (script.returncode, script.stderr) == (0, "")
    checks = [m for m in script.messages if m["method"] == "report_asset_check"]
    assert [m["params"]["check_name"] for m in checks] == [f"c{n}" for n in range(12)]
    if host == "ours":
        for messages in script.by_writer():
            assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))
            assert (methods(messages)[0], methods(messages)[-1]) == ("opened", "closed")


def test_a_fork_of_a_script_that_captures_its_output(run: Run, host: str) -> None:
    """The parent copies the fork's output too, and the fork ends without it."""
    script = run(
        """
        with open_pipes() as pipes:
            pid = os.fork()
            if not pid:
                print("of the fork", flush=True)
                work("w0")
                sys.exit(0)
            assert ended(pid) == 0
            print("of the parent")
        """,
        include_stdio_in_messages=True,
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert sorted(script.stdout.split("\n")) == ["", "of the fork", "of the parent"]
    pieces = [m["params"]["text"] for m in script.messages if m["method"] == "log_external_stream"]
    assert sorted("".join(pieces).split("\n")) == ["", "of the fork", "of the parent"]


def test_a_context_that_is_never_left(run: Run, host: str) -> None:
    """What a fork has reported goes out when its interpreter ends."""
    script = run(
        """
        pipes = open_pipes()
        pipes.__enter__()
        pid = os.fork()
        if not pid:
            work("w0")
            sys.exit(0)
        assert ended(pid) == 0
        pipes.close()
        """
    )
    check_workers(script, host, 1)


def test_a_channel_that_forks_cannot_use_says_so() -> None:
    """On stderr once, and from flush(); the fork's own work goes on."""
    code = (
        HEAD
        + """
from tests.support import RecordingWriter
with open_pipes(message_writer=RecordingWriter()) as pipes:
    pid = os.fork()
    if not pid:
        pipes.report_custom_message(1)
        pipes.report_custom_message(2)
        try:
            pipes.flush()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        os._exit(7)
    assert ended(pid) == 7
"""
    )
    done = run_script(code, bootstrap(OURS, asset_keys=None))
    assert done.returncode == 0
    reason = (
        "RecordingWriter cannot be used from a forked process: open pipes in the worker itself,"
        " or report from the process that opened them"
    )
    assert done.stderr.splitlines() == [
        f"asyncpipes: {reason}; nothing more is reported, the script goes on"
    ]
    assert done.stdout.strip() == f"ChannelError flush: 2 messages were not delivered: {reason}"


def test_by_default_a_writer_refuses_a_fork() -> None:
    writer: ChannelWriter = RecordingWriter()
    assert not writer.joined
    with pytest.raises(ChannelError, match="cannot be used from a forked process"):
        writer.in_fork()


def test_a_worker_that_reports_keeps_the_signal_handlers_of_its_loop(run: Run, host: str) -> None:
    script = run(
        """
        async def main():
            called = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, called.set)
            work("w0")
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.wait_for(called.wait(), LONG)

        with open_pipes():
            pid = os.fork()
            if not pid:
                asyncio.run(main())
                sys.exit(0)
            assert ended(pid) == 0
        """
    )
    check_workers(script, host, 1)


def test_a_fork_of_a_worker_keeps_a_handler_that_was_set_in_between(run: Run, host: str) -> None:
    script = run(
        """
        with open_pipes():
            pid = os.fork()
            if not pid:
                work("w0")
                mine = lambda number, frame: None
                signal.signal(signal.SIGTERM, mine)
                inner = os.fork()
                if not inner:
                    os._exit(signal.getsignal(signal.SIGTERM) is not mine)
                sys.exit(ended(inner))
            assert ended(pid) == 0
        """
    )
    check_workers(script, host, 1)


@pytest.mark.parametrize("leave", ["pipes.close()", "pipes.flush()"])
def test_a_daemon_that_closes_all_descriptors_keeps_those_it_opens_then(
    run: Run, host: str, leave: str
) -> None:
    """Its fork finds the numbers that were ours in use, and leaves them alone."""
    script = run(
        f"""
        with open_pipes() as pipes:
            pid = os.fork()
            if not pid:
                work("w0")
                {leave}
                os.closerange(3, 64)
                mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(12)]
                inner = os.fork()
                if not inner:
                    [os.fstat(fd) for fd in mine]
                    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
                    os._exit(signal.SIGTERM in blocked)
                os._exit(ended(inner))
            assert ended(pid) == 0
        """
    )
    if leave == "pipes.close()":
        check_workers(script, host, 1)
    else:  # a daemon that has closed its channel ends without `closed`
        assert (script.returncode, script.stderr) == (0, "")


def test_a_worker_that_is_out_of_descriptors_reports_nonetheless(run: Run, host: str) -> None:
    """SIGTERM is not looked after then, and it says so."""
    script = run(
        """
        def full():
            raise OSError(24, "Too many open files")

        with open_pipes() as pipes:
            pid = os.fork()
            if not pid:
                os.pipe = full
                work("w0")
                sys.exit(0)
            assert ended(pid) == 0
        """
    )
    assert script.stderr.splitlines() == [
        "asyncpipes: SIGTERM is not looked after in this fork: [Errno 24] Too many open files"
    ]
    script.stderr = ""
    check_workers(script, host, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_signal_during_the_first_report_of_a_fork(run: Run, host: str, number: int) -> None:
    """What was accepted is there in the end, `opened` first."""
    script = run(
        f"""
        from asyncpipes.external import forking
        begin = forking.ForkGuard.begin

        def interrupted(self):
            forking.ForkGuard.begin = begin
            begin(self)
            os.kill(os.getpid(), {int(number)})

        forking.ForkGuard.begin = interrupted
        with open_pipes() as pipes:
            pid = os.fork()
            if not pid:
                try:
                    pipes.log.info("first")
                except KeyboardInterrupt:
                    pipes.log.info("after")
                sys.exit(0)
            assert ended(pid) == {0 if number == signal.SIGINT else -int(number)}
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    expected = ["first", "after"] if number == signal.SIGINT else ["first"]
    assert logged(script.messages) == expected
    if host == "ours":
        worker = script.by_writer()[1]
        assert methods(worker) == ["opened", *["log"] * len(expected), "closed"]


#: A fork whose first report is interrupted: ``interrupt`` is called in the middle of the start
#: of its thread, which has not begun, waits for a lock of the main thread, or has taken out
#: what was reported.
_INTERRUPTED = """
start, wait = threading.Thread.start, threading.Condition.wait

def interrupted(thread):
    if thread.name != "asyncpipes-outbox":
        return start(thread)
    threading.Thread.start = start
    if WHERE == "before":
        interrupt()
    elif WHERE == "inside":
        # That no other thread runs on its own before the main thread waits for it.
        sys.setswitchinterval(5)
        threading.Condition.wait = wait_interrupted
    start(thread)
    if WHERE == "after":
        while PipesContext.get()._outbox._lines:
            time.sleep(0.001)
        interrupt()

def wait_interrupted(*args):
    threading.Condition.wait = wait
    interrupt()
    return wait(*args)

def fork(work):
    pid = os.fork()
    if not pid:
        signal.alarm(LONG)
        threading.Thread.start = interrupted
        work()
        sys.exit(0)
    return ended(pid)
"""
WHERE = pytest.mark.parametrize("where", ["before", "inside", "after"])


def check_first_reports(script: Script, host: str, checks: list[str]) -> None:
    """All that a fork reported is there, once and within its own ``opened`` and ``closed``."""
    assert (script.returncode, script.stderr) == (0, "")
    found = [m for m in script.messages if m["method"] == "report_asset_check"]
    assert [m["params"]["check_name"] for m in found] == checks
    if host == "ours":
        parent, worker = script.by_writer()
        assert methods(parent) == ["opened", "closed"]
        assert methods(worker) == ["opened", *["report_asset_check"] * len(checks), "closed"]
        assert [m["seq"] for m in worker] == list(range(1, len(worker) + 1))


@WHERE
@pytest.mark.parametrize("first", ["check", "flush"])
@pytest.mark.usefixtures("unmeasured_scripts")
def test_sigterm_while_the_thread_of_a_fork_is_started(
    run: Run, host: str, where: str, first: str
) -> None:
    """It ends as at any other moment: with `closed`, at once and quietly."""
    report = {
        "check": "pipes.report_asset_check('c', True, asset_key='a')",
        "flush": "pipes.flush()",
    }
    script = run(
        f"WHERE = {where!r}\n"
        + _INTERRUPTED
        + f"""
def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)

with open_pipes() as pipes:
    assert fork(lambda: {report[first]}) == -signal.SIGTERM
"""
    )
    check_first_reports(script, host, ["c"] if first == "check" else [])


@WHERE
@pytest.mark.usefixtures("unmeasured_scripts")
def test_an_exception_while_the_thread_of_a_fork_is_started(
    run: Run, host: str, where: str
) -> None:
    """What was accepted is sent, once, and the next report starts the thread that is missing."""
    script = run(
        f"WHERE = {where!r}\n"
        + _INTERRUPTED
        + """
def interrupt():
    raise KeyboardInterrupt

def work():
    try:
        pipes.report_asset_check("first", True, asset_key="a")
    except KeyboardInterrupt:
        pipes.report_asset_check("second", True, asset_key="a")
    while sum(t.name == "asyncpipes-outbox" and t.is_alive() for t in threading.enumerate()) != 1:
        time.sleep(0.001)

with open_pipes() as pipes:
    assert fork(work) == 0
"""
    )
    check_first_reports(script, host, ["first", "second"])


@WHERE
@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_handler_that_reports_while_the_thread_of_a_fork_is_started(
    run: Run, host: str, where: str
) -> None:
    """The new thread may be waiting for what the handler's own thread has locked."""
    script = run(
        f"WHERE = {where!r}\n"
        + _INTERRUPTED
        + """
def interrupt():
    pipes.report_asset_check("of the handler", True, asset_key="a")
    pipes.flush()

with open_pipes() as pipes:
    assert fork(lambda: pipes.report_asset_check("first", True, asset_key="a")) == 0
"""
    )
    check_first_reports(script, host, ["first", "of the handler"])


@pytest.mark.usefixtures("unmeasured_scripts")
def test_two_threads_of_a_fork_report_first_at_once(run: Run, host: str) -> None:
    script = run(
        """
        with open_pipes() as pipes:
            for n in range(10):
                pid = os.fork()
                if not pid:
                    barrier = threading.Barrier(3)
                    def report(kind):
                        barrier.wait()
                        if kind == "check":
                            pipes.report_asset_check(f"c{n}", True, asset_key="a")
                        else:
                            pipes.flush() if kind == "flush" else pipes.log.info("hello")
                    kinds = ("check", "flush", "log")
                    threads = [threading.Thread(target=report, args=(kind,)) for kind in kinds]
                    [thread.start() for thread in threads]
                    [thread.join() for thread in threads]
                    sys.exit(0)
                assert ended(pid) == 0
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert [m["method"] for m in script.messages].count("report_asset_check") == 10
    if host == "ours":
        for messages in script.by_writer()[1:]:
            assert methods(messages)[0] == "opened"
            assert sorted(methods(messages)[1:]) == ["closed", "log", "report_asset_check"]
            assert [m["seq"] for m in messages] == [1, 2, 3, 4]


@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_fork_made_while_its_parent_closes_has_no_part_in_it(run: Run, host: str) -> None:
    script = run(
        """
        from asyncpipes.channels.file_writer import FileWriter
        write, closing, forked = FileWriter.write, threading.Event(), threading.Event()

        def slow(self, lines):
            if b'"closed"' in lines:
                closing.set()
                forked.wait(LONG)
            write(self, lines)

        FileWriter.write = slow
        pipes = open_pipes()
        pipes.__enter__()
        pipes.log.info("hello")
        thread = threading.Thread(target=pipes.close)
        thread.start()
        closing.wait(LONG)
        pid = os.fork()
        if not pid:
            sys.exit(0)
        forked.set()
        assert ended(pid) == 0
        thread.join()
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert methods(script.messages) == ["opened", "log", "closed"]


@pytest.mark.usefixtures("unmeasured_scripts")
def test_sigterm_ends_what_a_worker_has_opened_itself_too(run: Run, host: str) -> None:
    script = run(
        """
        with open_pipes() as pipes:
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                pipes.log.info("through the parent's")
                with open_pipes() as own:
                    own.log.info("through its own")
                    os.write(write, b"x")
                    time.sleep(600)
            os.read(read, 1)
            os.kill(pid, signal.SIGTERM)
            assert ended(pid) == -signal.SIGTERM
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert sorted(logged(script.messages))[-2:] == ["through its own", "through the parent's"]
    if host == "ours":
        assert [methods(m)[-1] for m in script.by_writer()] == ["closed"] * 3


#: A fork that another thread than the main one makes, and that ends with its function.
_FORK_IN_A_THREAD = """
codes = []

def fork(work, begun=int):
    pid = os.fork()
    if not pid:
        signal.alarm(LONG)
        work()
        return
    begun(pid)
    codes.append(ended(pid))

def fork_in_a_thread(*args):
    thread = threading.Thread(target=fork, args=args)
    thread.start()
    thread.join()
    return codes.pop()
"""


@pytest.mark.parametrize(("leave", "code"), [("return", 0), ("sys.exit(3)", 0), ("os._exit(3)", 3)])
@pytest.mark.parametrize("reports", [True, False])
def test_a_fork_that_a_thread_makes_ends_with_the_thread(
    run: Run, host: str, leave: str, code: int, reports: bool
) -> None:
    """Its exit code is 0 whatever ``sys.exit`` was told, as without us."""
    script = run(
        _FORK_IN_A_THREAD
        + f"""
def target():
    if {reports}:
        work("w0")
        pipes.flush()
    {leave}

with open_pipes() as pipes:
    assert fork_in_a_thread(target) == {code}
"""
    )
    if reports and not code:
        check_workers(script, host, 1)
        return
    assert (script.returncode, script.stderr) == (0, "")
    assert custom(script.messages) == ["w0"] * reports
    assert methods(script.messages).count("closed") == 1


def test_a_fork_of_a_thread_that_python_has_not_started(run: Run, host: str) -> None:
    """As those of C libraries."""
    script = run(
        _FORK_IN_A_THREAD
        + """
def target(done):
    fork(lambda: work("w0"))
    if codes:  # else this is the fork
        done.set()

with open_pipes():
    done = threading.Event()
    _thread.start_new_thread(target, (done,))
    assert done.wait(LONG + 5)
    assert codes == [0]
"""
    )
    check_workers(script, host, 1)


def test_a_fork_of_a_fork_that_a_thread_makes(run: Run, host: str) -> None:
    """Its main thread is one that the interpreter does not end with, and so on."""
    script = run(
        _FORK_IN_A_THREAD
        + """
def target():
    work("w0")
    fork(lambda: work("w1"))
    if codes:  # else this is the inner one
        assert codes == [0]
        fork_in_a_thread(lambda: work("w2"))

with open_pipes():
    assert fork_in_a_thread(target) == 0
"""
    )
    check_workers(script, host, 3)


def test_threads_that_outlive_the_one_that_forked_still_report(run: Run, host: str) -> None:
    """One of them waits for its end, so that must not wait for them."""
    script = run(
        _FORK_IN_A_THREAD
        + """
def outlive():
    threading.main_thread().join()  # that is the one that forked
    work("w0")

with open_pipes():
    assert fork_in_a_thread(lambda: threading.Thread(target=outlive).start()) == 0
"""
    )
    check_workers(script, host, 1)


@pytest.mark.parametrize("outlives", [True, False])
@pytest.mark.usefixtures("unmeasured_scripts")
def test_sigterm_ends_a_fork_that_a_thread_makes(run: Run, host: str, outlives: bool) -> None:
    """Also when the thread is gone that would run a handler; it has not closed then."""
    script = run(
        _FORK_IN_A_THREAD
        + f"""
def wait():
    if {outlives}:
        threading.main_thread().join()
    os.write(write, b"x")
    time.sleep(600)

def target():
    work("w0")
    pipes.flush()
    if {outlives}:
        threading.Thread(target=wait).start()
    else:
        wait()

def terminate(pid):
    os.read(read, 1)
    os.kill(pid, signal.SIGTERM)

with open_pipes() as pipes:
    read, write = os.pipe()
    assert fork_in_a_thread(target, terminate) == -signal.SIGTERM
"""
    )
    assert (script.returncode, script.stderr) == (0, "")
    if host == "ours":
        last = "report_asset_check" if outlives else "closed"
        assert [methods(m)[-1] for m in script.by_writer()] == ["closed", last]


@pytest.mark.usefixtures("unmeasured_scripts")
def test_a_context_that_such_a_fork_opens_and_never_leaves_ends_with_it(
    run: Run, host: str
) -> None:
    """Without `closed`, as where an interpreter ends; but all that it was told is there."""
    script = run(
        _FORK_IN_A_THREAD
        + """
def target():
    own = open_pipes()
    own.__enter__()
    own.log.info("hello")

with open_pipes():
    assert fork_in_a_thread(target) == 0
"""
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert logged(script.messages) == ["hello"]
    if host == "ours":
        assert [methods(m)[-1] for m in script.by_writer()] == ["closed", "log"]


def test_a_channel_that_fails_in_a_fork_leaves_the_others_alone(run: Run, host: str) -> None:
    script = run(
        """
        from asyncpipes.channels.base import ChannelWriter, Guarantees
        from asyncpipes.errors import ChannelError

        class Failing(ChannelWriter):
            guarantees = Guarantees(True, False, False, False)
            def write(self, lines): pass
            def close(self): pass
            def in_fork(self): raise ValueError("no such handle")

        with open_pipes(message_writer=Failing()) as failing, open_pipes() as pipes:
            pid = os.fork()
            if not pid:
                signal.alarm(LONG)
                work("w0")
                failing.report_custom_message("lost")
                try:
                    failing.flush()
                except ChannelError as error:
                    assert isinstance(error.__cause__.__cause__, ValueError)
                    sys.exit(0)
            assert ended(pid) == 0
        """
    )
    assert script.stderr.splitlines() == [
        "asyncpipes: the channel cannot be used from this forked process:"
        " ValueError('no such handle'); nothing more is reported, the script goes on"
    ]
    script.stderr = ""
    check_workers(script, host, 1)
