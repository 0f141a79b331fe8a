"""Forked and spawned workers: each is a writer of its own, from its opening to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncpipes.channels.base import ChannelWriter
from asyncpipes.errors import ChannelError
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

HEAD = """
import asyncio, concurrent.futures, logging, multiprocessing, os, signal, sys, threading, time
import warnings
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

Run = Callable[..., "Script"]


class Script:
    """A script that has run: how it ended, and what is in its messages file."""

    def __init__(self, done: subprocess.CompletedProcess[str], file: Path) -> None:
        self.returncode, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        self.messages = parsed(file.read_bytes())

    def by_writer(self) -> list[list[dict[str, Any]]]:
        """The messages of each writer, the writers in the order of their first message."""
        writers: dict[str | None, list[dict[str, Any]]] = {}
        for message in self.messages:
            writers.setdefault(message.get("writer"), []).append(message)
        return list(writers.values())


@pytest.fixture(params=["ours", "stock"])
def host(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def run(tmp_path: Path, host: str) -> Run:
    def run(body: str, **messages: Any) -> Script:
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
        return Script(done, file)

    return run


def ordinary(messages: list[dict[str, Any]]) -> list[str]:
    """The methods of the messages but for the fillers of a file that a stock host reads."""
    return [m["method"] for m in messages if m["method"] != "log_external_stream"]


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
    names = {
        m["params"]["payload"] for m in script.messages if m["method"] == "report_custom_message"
    }
    assert names == {f"w{n}" for n in range(workers)}


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
        """
    )
    assert (script.returncode, script.stderr) == (0, "")
    payloads = [
        m["params"]["payload"] for m in script.messages if m["method"] == "report_custom_message"
    ]
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


@pytest.mark.usefixtures("unmeasured_scripts")
def test_forks_while_the_outbox_is_busy(run: Run, host: str) -> None:
    """Whatever lock a thread of the parent holds at that moment, the fork gets through."""
    script = run(
        """
        def chatter(pipes, stop):
            while not stop.is_set():
                pipes.log.info("x" * 500)
                pipes.report_custom_message("x" * 500)

        with open_pipes() as pipes:
            stop = threading.Event()
            threads = [threading.Thread(target=chatter, args=(pipes, stop)) for _ in range(4)]
            [thread.start() for thread in threads]
            for n in range(12):
                pid = os.fork()
                if not pid:
                    pipes.report_asset_check(f"c{n}", True, asset_key="a")
                    sys.exit(0)
                assert ended(pid) == 0
            stop.set()
            [thread.join() for thread in threads]
        """
    )
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
            await asyncio.wait_for(called.wait(), 20)

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
                forked.wait(20)
            write(self, lines)

        FileWriter.write = slow
        pipes = open_pipes()
        pipes.__enter__()
        pipes.log.info("hello")
        thread = threading.Thread(target=pipes.close)
        thread.start()
        closing.wait(20)
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
