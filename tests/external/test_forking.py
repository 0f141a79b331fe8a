"""asyncpipes.external.forking: what the guard of a fork does about SIGTERM, step by step.

``test_forks`` shows it in real forks, most of which end by a signal and so are not measured;
here the guard is one of this process, and the signal that would end it is only noted.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from asyncpipes import InactiveWarning, open_pipes
from asyncpipes.errors import ChannelError
from asyncpipes.external import forking
from asyncpipes.external.forking import ForkGuard, writer_in_fork
from asyncpipes.external.loaders import MappingParamsLoader
from asyncpipes.external.waiting import nothing
from tests.support import (
    PATIENCE,
    RecordingWriter,
    bootstrap,
    in_thread,
    open_fds,
    settled_fds,
    wait_until,
)

AGAIN = [(os.getpid(), signal.SIGTERM)]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that would have ended this process."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the main thread is told once more; here it may live on, and must not die of it."""
    told: list[int] = []
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: told.append(number))
    return told


def enter(guard: ForkGuard, *, was_guarded: bool, close: Callable[[], None]) -> None:
    """As in a fork that is made in the main thread, and no worker of multiprocessing."""
    guard.enter(
        was_guarded=was_guarded, close=close, close_with_thread=nothing, close_worker=nothing
    )


@pytest.fixture
def closed() -> list[str]:
    return []


@pytest.fixture
def fork(closed: list[str], told: list[int]) -> Iterator[ForkGuard]:
    """The guard of a fork whose parent's was in force; at the end as in a fork of that."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    descriptors = settled_fds()
    guard = ForkGuard()
    enter(guard, was_guarded=True, close=lambda: closed.append("closed"))
    yield guard
    end_watching(guard)
    enter(guard, was_guarded=False, close=lambda: None)
    signal.signal(signal.SIGTERM, before)
    assert open_fds() == descriptors
    assert signal.set_wakeup_fd(-1) == -1


def watchers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "asyncpipes-sigterm"]


def end_watching(guard: ForkGuard) -> None:
    """A fork of the fork has not the thread either."""
    if watchers():
        assert guard._pipe is not None
        os.close(guard._pipe[1].number)
        wait_until(lambda: not watchers(), "the thread has ended")


def is_default() -> bool:
    return signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_fork_that_reports_closes_first(
    fork: ForkGuard, closed: list[str], sent: list[tuple[int, int]]
) -> None:
    assert is_default(), "one that never reports dies at once"
    fork.begin()
    assert watchers()
    signal.raise_signal(signal.SIGTERM)
    assert (closed, sent, is_default()) == (["closed"], AGAIN, True)


def test_it_is_told_again_until_its_handler_runs(
    fork: ForkGuard, closed: list[str], sent: list[tuple[int, int]], told: list[int]
) -> None:
    """The signal is in the pipe, and the main thread, which runs handlers, has seen nothing."""
    fork.begin()
    assert fork._pipe is not None
    os.write(fork._pipe[1].number, bytes([signal.SIGINT]))  # of others nothing is told
    os.write(fork._pipe[1].number, bytes([signal.SIGTERM]))
    wait_until(lambda: len(told) > 1, "it is told twice")
    assert set(told) == {signal.SIGTERM}
    signal.raise_signal(signal.SIGTERM)
    assert (closed, sent) == (["closed"], AGAIN)


def test_a_signal_that_comes_while_it_closes_is_the_first_one_told_again(
    fork: ForkGuard, closed: list[str], sent: list[tuple[int, int]]
) -> None:
    def close() -> None:
        closed.append("closed")
        signal.raise_signal(signal.SIGTERM)

    enter(fork, was_guarded=True, close=close)
    fork.begin()
    signal.raise_signal(signal.SIGTERM)
    assert (closed, sent) == (["closed"], AGAIN)


async def test_a_loop_that_runs_has_its_own_descriptor(
    fork: ForkGuard, closed: list[str], sent: list[tuple[int, int]]
) -> None:
    fork.begin()
    assert not watchers()
    signal.raise_signal(signal.SIGTERM)
    assert (closed, sent) == (["closed"], AGAIN)


def unguarded(fork: ForkGuard) -> None:
    enter(fork, was_guarded=False, close=lambda: None)
    fork.begin()


def handled_by_others(fork: ForkGuard) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    fork.begin()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize(
    "begin", [unguarded, handled_by_others, lambda fork: in_thread(fork.begin)]
)
def test_what_is_not_the_forks_to_do(fork: ForkGuard, begin: Callable[[ForkGuard], None]) -> None:
    begin(fork)
    assert is_default()
    assert not watchers()


def test_out_of_descriptors_it_says_so(
    fork: ForkGuard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pipe() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe", pipe)
    fork.begin()
    assert is_default()
    assert "SIGTERM is not looked after in this fork" in capsys.readouterr().err


def test_the_wakeup_descriptor_of_somebody_who_came_later_is_left(fork: ForkGuard) -> None:
    fork.begin()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    end_watching(fork)
    enter(fork, was_guarded=False, close=lambda: None)
    assert signal.set_wakeup_fd(-1) == write_end
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("how", ["closed", "in use for something else"])
def test_nothing_is_read_by_a_number_that_is_no_longer_ours(how: str) -> None:
    """As when a daemon closes all descriptors before the thread that watches has got to read."""
    ours, theirs = os.pipe(), os.pipe()
    os.write(theirs[1], b"theirs")
    watched = forking._Descriptor(ours[0])
    try:
        if how == "closed":
            os.close(ours[0])
        else:
            os.dup2(theirs[0], ours[0])
        assert watched.read(4096) == b""
        assert os.read(theirs[0], 4096) == b"theirs"
    finally:
        for number in {*ours, *theirs} - ({ours[0]} if how == "closed" else set()):
            os.close(number)


def test_a_daemons_descriptors_are_its_own(fork: ForkGuard) -> None:
    """It has closed all that it inherited, and one of the numbers is another file's now."""
    fork.begin()
    assert fork._pipe is not None
    signal.set_wakeup_fd(-1)
    read_end = fork._pipe[0].number
    end_watching(fork)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, read_end)
    enter(fork, was_guarded=False, close=lambda: None)
    os.fstat(read_end)
    for number in {read_end, null}:  # it may have got that very number
        os.close(number)


@pytest.mark.parametrize("error", [ChannelError("no way"), OSError(errno.EBADF, "bad")])
def test_a_channel_that_is_none_here_says_so_when_used(error: Exception) -> None:
    class Refusing(RecordingWriter):
        def in_fork(self) -> RecordingWriter:
            raise error

    writer = writer_in_fork(Refusing())
    for call in (writer.open, lambda: writer.write(b"1\n")):
        with pytest.raises(ChannelError, match=r"no way|cannot be used from this forked process"):
            call()
    writer.close()


# How a fork ends, called as its threads and multiprocessing would.


@pytest.fixture
def _no_threads_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier test's thread that still lives is none that an end here has to wait for."""
    others, find = set(threading.enumerate()), forking._threads_to_wait_for
    monkeypatch.setattr(
        forking, "_threads_to_wait_for", lambda: [each for each in find() if each not in others]
    )


def lives_until(release: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=release.wait, args=(PATIENCE,))
    thread.start()
    return thread


def test_a_farewell_is_said_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    farewell = forking._Farewell(lambda: said.append("here"))
    del farewell
    gc.collect()
    assert said == ["here"]
    farewell = forking._Farewell(lambda: said.append("elsewhere"))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    del farewell
    gc.collect()
    assert said == ["here"]


@pytest.mark.usefixtures("_no_threads_of_others")
@pytest.mark.parametrize("others", [False, True])
def test_the_thread_that_forked_ends(others: bool) -> None:
    done = threading.Event()
    guard = ForkGuard()
    guard._close_with_thread = done.set
    release = threading.Event()
    thread = lives_until(release) if others else None
    before = signal.signal(signal.SIGTERM, guard._handle)
    try:
        guard._thread_ends()
        assert is_default()
        assert done.is_set() is not others
    finally:
        signal.signal(signal.SIGTERM, before)
        release.set()
        if thread is not None:
            thread.join()
    assert done.wait(PATIENCE)


@pytest.mark.usefixtures("_no_threads_of_others")
@pytest.mark.parametrize("others", [False, True])
def test_a_worker_ends(others: bool) -> None:
    done = threading.Event()
    guard = ForkGuard()
    guard._close_worker = done.set
    release = threading.Event()
    thread = lives_until(release) if others else None
    guard._worker_ends()
    assert done.is_set() is not others
    release.set()
    if thread is not None:
        thread.join()
    assert done.wait(PATIENCE)


def test_a_worker_whose_last_thread_cannot_start_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = ForkGuard()
    release = threading.Event()
    thread = lives_until(release)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    try:
        guard._worker_ends()
    finally:
        release.set()
        thread.join()
    assert "this worker's end is not reported" in capsys.readouterr().err


def test_a_worker_begins_once_and_without_multiprocessing_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forking, "_multiprocessing", lambda: None)
    guard = ForkGuard()
    guard._worker_begins()
    guard._worker_begins()
    assert guard._is_worker


def test_a_signal_for_a_fork_that_has_nothing_to_close(sent: list[tuple[int, int]]) -> None:
    guard = ForkGuard()
    before = signal.getsignal(signal.SIGTERM)
    guard._handle(signal.SIGTERM, None)
    signal.signal(signal.SIGTERM, before)
    assert sent == AGAIN


# What becomes of a context.


def test_a_context_without_a_host_has_nothing_to_end_in_a_fork() -> None:
    with pytest.warns(InactiveWarning), open_pipes() as pipes:
        for end in (pipes.close_fork, pipes.end_by_signal, pipes.drain_at_exit):
            end()
        pipes.follow_fork()
        for end in (pipes.close_fork, pipes.end_by_signal, pipes.drain_at_exit):
            end()
        pipes.end_with_thread()
    pipes._release()  # a fork's end leaves that to the end of its process


def test_a_context_that_is_closed_reports_nothing_in_a_fork() -> None:
    writer = RecordingWriter()
    loader = MappingParamsLoader(bootstrap())
    with open_pipes(params_loader=loader, message_writer=writer, handle_signals=False) as pipes:
        pipes._begin_in_fork()  # it looks after no signals there either
        pipes.log.info("before")
    written = len(writer.batches)
    pipes.follow_fork()
    pipes.log.info("after")
    pipes.close_fork()
    assert len(writer.batches) == written


def test_a_context_that_its_thread_never_left_sends_no_closed() -> None:
    writer = RecordingWriter()
    loader = MappingParamsLoader(bootstrap())
    pipes = open_pipes(params_loader=loader, message_writer=writer)
    pipes.__enter__()
    pipes.log.info("said")
    pipes.end_with_thread()
    wait_until(lambda: pipes._outbox is not None and pipes._outbox.is_closed, "it is closed")
    lines = b"".join(writer.batches)
    assert b"said" in lines
    assert b'"closed"' not in lines
    pipes._release()
