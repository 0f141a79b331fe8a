"""asyncpipes.channels.file_writer: appending to one file, beside others who do."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from asyncpipes.channels import file_writer
from asyncpipes.channels.file_writer import FileWriter
from asyncpipes.errors import ChannelError
from tests.layouts import (
    FILLER_START,
    crossing,
    foreign_link,
    room_is_good,
    stripped,
    write_all,
)
from tests.support import PATIENCE, open_fds, run_script, settled_fds, started_script

ROOT = Path(__file__).parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")
LINES = 2_000
EACH_MODE = pytest.mark.parametrize("untearable", [True, False])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The messages file, as a host creates it."""
    path = tmp_path / "messages"
    path.touch(0o600)
    return path


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a lock."""
    monkeypatch.setattr(file_writer, "STALLED_SECONDS", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody does, however busy the machine is."""
    monkeypatch.setattr(file_writer, "STALLED_SECONDS", PATIENCE)
    monkeypatch.setattr(file_writer, "LOCK_SECONDS", PATIENCE)


def opened(path: Path, *, untearable: bool = False) -> FileWriter:
    writer = FileWriter(str(path), untearable=untearable)
    writer.open()
    return writer


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# Several writers, and where their lines stand.


def write_in_processes(path: Path, untearable: bool, writers: int, flush: int) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.layouts", str(path), str(untearable)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(name), str(LINES), str(flush)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name in range(writers)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.communicate("go\n", timeout=PATIENCE)
        assert [process.returncode for process in processes] == [0] * writers


def write_in_threads(path: Path, untearable: bool, writers: int, flush: int) -> None:
    failures: list[BaseException] = []

    def run(name: int) -> None:
        try:
            write_all(str(path), untearable, name, LINES, flush)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failures == []


@pytest.mark.parametrize("flush", [1, 7, 1_000])
@pytest.mark.parametrize(
    ("write", "writers"),
    [(write_in_threads, 1), (write_in_threads, 3), (write_in_processes, 3)],
    ids=["one", "three threads", "three processes"],
)
@pytest.mark.usefixtures("patient")
@EACH_MODE
def test_every_writers_lines_are_whole_and_in_order(
    path: Path, write: Callable[..., None], writers: int, flush: int, untearable: bool
) -> None:
    write(path, untearable, writers, flush)
    data = path.read_bytes()
    lines = [json.loads(line) for line in data.splitlines()]
    numbers: dict[int, list[int]] = {name: [] for name in range(writers)}
    for line in lines:
        if "writer" in line:
            numbers[line["writer"]].append(line["number"])
    assert list(numbers.values()) == [list(range(LINES))] * writers
    if untearable:
        assert crossing(data, PAGE) == []
        assert room_is_good(len(data), PAGE)
    else:
        assert crossing(data, PAGE), "so there is something that the layout prevents"
        assert FILLER_START not in data


def test_without_the_lock_lines_of_several_writers_cross(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lock is for: a layout for a size that is not the file's any more."""
    path.write_bytes(b"0\n")
    ours, theirs = opened(path, untearable=True), opened(path, untearable=True)
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        status = real(fd)
        if fd == ours._fd:
            theirs.write(b"x" * 999 + b"\n")
        return status

    ours._lockable = theirs._lockable = False
    monkeypatch.setattr(os, "fstat", fstat)
    ours.write(b"x" * 3_999 + b"\n")
    monkeypatch.undo()
    assert crossing(path.read_bytes(), PAGE)
    ours.close()
    theirs.close()


@pytest.mark.usefixtures("patient")
@EACH_MODE
def test_one_that_waits_gets_the_lock(path: Path, untearable: bool) -> None:
    writer = opened(path, untearable=untearable)
    writer.write(b"1\n")
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=writer.write, args=(b"2\n",))
        thread.start()
        assert path.read_bytes() == b"1\n"
        fcntl.flock(other, fcntl.LOCK_UN)
        thread.join(PATIENCE)
    assert path.read_bytes() == b"1\n2\n"
    writer.close()


class Clock:
    """Time that passes with each ``sleep``: so many seconds, in which this happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.seconds = seconds
        self.happens: Callable[[], object] = lambda: None
        self.slept = 0
        monkeypatch.setattr(time, "sleep", self._sleep)
        monkeypatch.setattr(time, "monotonic", lambda: self.slept * self.seconds)

    def _sleep(self, seconds: float) -> None:
        self.slept += 1
        self.happens()

    def taken(self) -> float:
        """The seconds since the last time."""
        slept, self.slept = self.slept, 0
        return slept * self.seconds


@EACH_MODE
def test_a_lock_whose_holder_is_stopped_is_waited_for_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, untearable: bool
) -> None:
    writer = opened(path, untearable=untearable)
    writer.write(b"1\n")
    clock = Clock(monkeypatch, seconds=0.0625)
    for _ in range(2):
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            for seconds in (file_writer.STALLED_SECONDS, 0.0):
                writer.write(b"2\n")
                assert clock.taken() == seconds
        writer.write(b"3\n")
        assert clock.taken() == 0, "it has the lock again"
    assert path.read_bytes() == b"1\n" + b"2\n2\n3\n" * 2
    writer.close()


@EACH_MODE
def test_while_the_file_grows_the_wait_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, untearable: bool
) -> None:
    """Three times as long as a holder may stand still; the fourth time the lock is free."""
    writer = opened(path, untearable=untearable)
    writer.write(b"1\n")
    clock = Clock(monkeypatch, seconds=0.0625)
    looks = int(file_writer.STALLED_SECONDS / clock.seconds) - 1
    with path.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def happens() -> None:
            if clock.slept == 4 * looks:
                fcntl.flock(other, fcntl.LOCK_UN)
            elif clock.slept % looks == 0:
                other.write(b"theirs\n")

        clock.happens = happens
        writer.write(b"2\n")
    assert path.read_bytes() == b"1\n" + b"theirs\n" * 3 + b"2\n"
    assert clock.taken() > 3 * (file_writer.STALLED_SECONDS - clock.seconds)
    writer.close()


@EACH_MODE
def test_beside_a_holder_that_is_stopped_and_others_that_write_the_wait_is_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch, untearable: bool
) -> None:
    writer = opened(path, untearable=untearable)
    writer.write(b"1\n")
    clock = Clock(monkeypatch, seconds=0.0625)
    with path.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        clock.happens = lambda: other.write(b"theirs\n")
        writer.write(b"2\n")
        assert clock.taken() == file_writer.LOCK_SECONDS
        clock.happens = lambda: None
        other.write(b"theirs\n")
        writer.write(b"3\n")
        assert clock.slept <= 1, "the pause between two writes, and no wait"
    assert path.read_bytes().endswith(b"\n2\ntheirs\n3\n")
    writer.close()


@EACH_MODE
def test_one_that_was_stopped_itself_has_not_waited(
    path: Path, monkeypatch: pytest.MonkeyPatch, untearable: bool
) -> None:
    """All of a job are stopped, for a minute, and go on: whoever has the lock as well."""
    writer = opened(path, untearable=untearable)
    writer.write(b"1\n")
    clock = Clock(monkeypatch, seconds=60.0)
    with path.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def happens() -> None:
            if clock.slept == 2:
                other.write(b"theirs\n")
                fcntl.flock(other, fcntl.LOCK_UN)

        clock.happens = happens
        writer.write(b"2\n")
    assert path.read_bytes() == b"1\ntheirs\n2\n"
    writer.close()


STOPPED = """
import os, signal, sys
from asyncpipes.channels.file_writer import FileWriter
writer = FileWriter(sys.argv[1], untearable=True)
writer.open()
writer.write(b"before\\n")
real = os.write
def stopped(fd, data):
    os.write = real
    os.kill(os.getpid(), signal.SIGSTOP)
    return real(fd, data)
os.write = stopped
writer.write(b"stopped\\n")
"""


@EACH_MODE
def test_a_sibling_that_is_stopped_in_its_write_stops_nobody(path: Path, untearable: bool) -> None:
    with started_script(STOPPED.replace("sys.argv[1]", repr(str(path))), {}) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert is_locked(path)
        writer = opened(path, untearable=untearable)
        assert writer.joined == untearable
        writer.write(b"ours\n")
        assert path.read_bytes() == b"before\nours\n"
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=PATIENCE)
        writer.close()
    assert path.read_bytes() == b"before\nours\nstopped\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
@EACH_MODE
def test_where_there_are_no_locks_it_writes_without(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, untearable: bool
) -> None:
    calls: list[int] = []

    def flock(fd: int, operation: int) -> None:
        calls.append(operation)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    first, second = opened(path, untearable=untearable), opened(path, untearable=untearable)
    for _ in range(2):
        first.write(b"1\n")
        second.write(b"2\n")
    first.close()
    second.close()
    assert path.read_bytes() == b"1\n2\n" * 2
    assert len(calls) == 2


def test_where_there_is_no_flock_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_writer, "fcntl", None)
    writer = opened(path, untearable=True)
    writer.write(b"1\n")
    writer.close()
    assert path.read_bytes() == b"1\n"


# Who is the first.

OPENS = """
import sys
from asyncpipes.channels import file_writer
file_writer.LOCK_SECONDS = file_writer.STALLED_SECONDS = 60.0
writer = file_writer.FileWriter(sys.argv[1], untearable=True)
print("ready", flush=True)
sys.stdin.readline()
writer.open()
writer.write(b"joined\\n" if writer.joined else b"first\\n")
writer.close()
"""


def test_of_eight_that_open_at_once_one_is_the_first(path: Path) -> None:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "error", "-c", OPENS, str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(8)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=PATIENCE)
    assert path.read_bytes() == b"first\n" + b"joined\n" * 7


def test_the_first_one_keeps_the_lock_until_it_has_written(path: Path) -> None:
    first = opened(path, untearable=True)
    assert not first.joined
    assert is_locked(path)
    first.write(b"first\n")
    assert not is_locked(path)
    second = opened(path, untearable=True)
    assert second.joined
    assert not is_locked(path)
    first.close()
    second.close()


@pytest.mark.usefixtures("impatient")
def test_who_finds_the_lock_kept_goes_by_what_is_in_the_file(path: Path) -> None:
    silent, second, third = (FileWriter(str(path), untearable=True) for _ in range(3))
    silent.open()
    second.open()
    second.write(b"second\n")
    third.open()
    assert is_locked(path)
    assert [writer.joined for writer in (silent, second, third)] == [False, False, True]
    third.write(b"third\n")
    silent.write(b"silent\n")
    assert not is_locked(path)
    for writer in (silent, second, third):
        writer.close()
    assert path.read_bytes() == b"second\nthird\nsilent\n"


def test_one_that_closes_without_a_word_was_not_the_first(path: Path) -> None:
    silent = opened(path, untearable=True)
    silent.close()
    writer = opened(path, untearable=True)
    assert not writer.joined
    writer.close()


def test_towards_our_host_nobody_is_joined(path: Path) -> None:
    path.write_bytes(b"1\n")
    writer = opened(path)
    assert not writer.joined
    assert not is_locked(path)
    writer.close()


# Half lines.


class Stuttering:
    """``os.write`` that does what a list says: bytes to write, or an error number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: int | OSError) -> None:
        self._steps: Iterator[int | OSError] = iter(steps)
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: int, data: bytes) -> int:
        step = next(self._steps, len(data))
        if isinstance(step, OSError):
            raise step
        return self._write(fd, bytes(data)[:step])


def fault(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR])
@EACH_MODE
def test_a_write_that_stopped_half_way_is_completed(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, untearable: bool
) -> None:
    path.write_bytes(b"x" * (PAGE - 1_001) + b"\n")  # so that there is a filler
    writer, other = opened(path, untearable=untearable), opened(path, untearable=untearable)
    batch = b"a" * 1_500 + b"\n"
    Stuttering(monkeypatch, 3, fault(number), 1_100, fault(number))
    for _ in range(2):
        with pytest.raises(ChannelError) as caught:
            writer.write(batch)
        assert caught.value.transient
        assert str(path) in str(caught.value)
        assert not is_locked(path)
    writer.write(batch)
    other.write(b"b\n")
    lines = [line for line in path.read_bytes().split(b"\n")[1:-1] if FILLER_START not in line]
    assert lines == [batch[:-1], b"b"]
    assert bool(crossing(path.read_bytes(), PAGE)) is not untearable
    writer.close()
    other.close()


@EACH_MODE
def test_after_a_write_that_stopped_half_way_others_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, untearable: bool
) -> None:
    path.write_bytes(b"0\n")
    writer, other = opened(path, untearable=untearable), opened(path, untearable=untearable)
    batch = b"first\nsecond\nthird\n"
    full = fault(errno.ENOSPC)
    Stuttering(monkeypatch, 9, full, len(b"\nother\n"), 2, full, len(b"\nagain\n"), 1, full, full)
    with pytest.raises(ChannelError):
        writer.write(batch)
    assert path.read_bytes() == b"0\nfirst\nsec"
    other.write(b"other\n")
    with pytest.raises(ChannelError):
        writer.write(batch)
    assert path.read_bytes() == b"0\nfirst\nsec\nother\nse"
    other.write(b"again\n")
    for _ in range(2):
        with pytest.raises(ChannelError):
            writer.write(batch)
    writer.write(batch)
    expected = b"0\nfirst\nsec\nother\nse\nagain\nsecond\nthird\n"
    assert path.read_bytes() == expected
    writer.write(b"fourth\n")
    assert path.read_bytes() == expected + b"fourth\n"
    writer.close()
    other.close()


@EACH_MODE
def test_a_fresh_line_that_is_all_that_came_through_is_begun_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, untearable: bool
) -> None:
    path.write_bytes(b"half a line")
    writer = opened(path, untearable=untearable)
    full = fault(errno.ENOSPC)
    Stuttering(monkeypatch, full, 1, full, full)
    for _ in range(3):
        with pytest.raises(ChannelError):
            writer.write(b"1\n2\n")
    writer.write(b"1\n2\n")
    assert path.read_bytes() == b"half a line\n1\n2\n"
    writer.close()


@pytest.mark.parametrize("first", [1, 700, 3_000, 4_600])
def test_lines_that_are_written_again_are_laid_out_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    path.write_bytes(b"0\n")
    writer, other = opened(path, untearable=True), opened(path, untearable=True)
    batch = b"".join(b"%d" % number * 1_500 + b"\n" for number in range(1, 8))
    Stuttering(monkeypatch, first, fault(errno.ENOSPC))
    with pytest.raises(ChannelError):
        writer.write(batch)
    begun = path.read_bytes()
    other.write(b"b" * 2_900 + b"\n")
    writer.write(batch)
    data = path.read_bytes()
    assert crossing(data, PAGE) == []
    half = begun.rpartition(b"\n")[2]
    whole = [line for line in stripped(data) if line not in (half, b"0", b"b" * 2_900)]
    assert whole == batch.splitlines()
    writer.close()
    other.close()


@EACH_MODE
def test_a_write_of_which_nothing_came_through_keeps_nobody_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, untearable: bool
) -> None:
    writer, other = opened(path, untearable=untearable), opened(path)
    Stuttering(monkeypatch, fault(errno.ENOSPC))
    with pytest.raises(ChannelError):
        writer.write(b"a" * 3_000 + b"\n")
    other.write(b"b" * 3_000 + b"\n")
    writer.write(b"a" * 3_000 + b"\n")
    data = path.read_bytes()
    assert bool(crossing(data, PAGE)) is not untearable, "it is laid out anew"
    assert [line[:1] for line in data.splitlines() if FILLER_START not in line] == [b"b", b"a"]
    writer.close()
    other.close()


@EACH_MODE
def test_a_writer_that_gives_up_half_way_lets_others_begin_on_a_fresh_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, untearable: bool
) -> None:
    path.write_bytes(b"0\n")
    writer, other = opened(path, untearable=untearable), opened(path, untearable=untearable)
    Stuttering(monkeypatch, 3, fault(errno.EIO))
    with pytest.raises(ChannelError) as caught:
        writer.write(b"one line\n")
    assert not caught.value.transient
    assert not is_locked(path)
    other.write(b"other\n")
    writer.write(b"again\n")
    assert path.read_bytes() == b"0\none\nother\nagain\n"
    writer.close()
    other.close()


@EACH_MODE
def test_a_writer_that_is_closed_half_way_keeps_nobody_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, untearable: bool
) -> None:
    writer = opened(path, untearable=untearable)
    Stuttering(monkeypatch, 3, fault(errno.ENOSPC))
    with pytest.raises(ChannelError):
        writer.write(b"one line\n")
    writer.close()
    other = opened(path, untearable=untearable)
    other.write(b"other\n")
    other.close()
    assert path.read_bytes() == b"one\nother\n"


KILLED = """
import os, signal, sys
from asyncpipes.channels.file_writer import FileWriter
writer = FileWriter(sys.argv[1], untearable=True)
writer.open()
writer.write(b"before\\n")
real = os.write
def half(fd, data):
    real(fd, bytes(data)[:4])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = half
writer.write(b"killed\\n")
"""


@EACH_MODE
def test_a_sibling_that_was_killed_in_the_middle_of_a_line(path: Path, untearable: bool) -> None:
    path.write_bytes(b"0\n")
    writer = opened(path, untearable=untearable)
    writer.write(b"1\n")
    killed = run_script(KILLED, {}, str(path))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    writer.write(b"2\n")
    writer.write(b"3\n")
    writer.close()
    assert path.read_bytes() == b"0\n1\nbefore\nkill\n2\n3\n"


def test_a_full_device_is_a_transient_fault() -> None:
    writer = opened(Path("/dev/full"))
    with pytest.raises(ChannelError, match="/dev/full: No space left") as caught:
        writer.write(b"1\n")
    assert caught.value.transient
    writer.close()


@EACH_MODE
def test_on_a_full_disk_no_line_lands_inside_another(tmp_path: Path, untearable: bool) -> None:
    from tests.faults.channels import fill, small_disk

    with small_disk(tmp_path / "disk") as disk:
        path = disk / "messages"
        path.write_bytes(b"0\n")
        writer, other = opened(path, untearable=untearable), opened(path, untearable=untearable)
        ballast = fill(disk)
        long, short = b"a" * 9_000 + b"\n", b"b" * 5_000 + b"\n"
        with pytest.raises(ChannelError, match="No space left") as caught:
            writer.write(long)  # as far as the page goes
        assert caught.value.transient
        assert path.stat().st_size > 2
        half = path.read_bytes().rpartition(b"\n")[2]
        assert bool(half) is not untearable, "of the layout a page of fillers came through"
        ballast.unlink()
        other.write(short)
        writer.write(long)
        data = path.read_bytes()
        lines = [line for line in data.splitlines(keepends=True) if FILLER_START not in line]
        assert lines == [b"0\n", *([half + b"\n"] if half else []), short, long]
        assert bool(crossing(data, PAGE)) is not untearable
        writer.close()
        other.close()


TOO_LARGE = """
import resource, signal, sys
from asyncpipes.channels.file_writer import FileWriter
from asyncpipes.errors import ChannelError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))
writer = FileWriter(sys.argv[1])
writer.open()
try:
    writer.write(b"one line\\n")
except ChannelError as error:
    print(error.transient, error)
sys.stdin.read()
"""


def test_a_file_that_may_not_grow_is_a_lasting_fault(path: Path) -> None:
    with started_script(TOO_LARGE.replace("sys.argv[1]", repr(str(path))), {}) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("False cannot write to the messages file")
        writer = opened(path)
        writer.write(b"other\n")  # while the process lives
        writer.close()
    assert path.read_bytes() == b"one l\nother\n"


# Forks.

FORK = """
import fcntl, os, sys
from asyncpipes.channels.file_writer import FileWriter

def locked(path):
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

path, untearable = sys.argv[1], sys.argv[2] == "True"
writer = FileWriter(path, untearable=untearable)
writer.open()
inherited = writer._fd
assert locked(path) == untearable
done, tell = os.pipe()
if (child := os.fork()) == 0:
    try:
        mine = writer.in_fork()
        writer.close()
        assert locked(path) == untearable, "the parent has lost its lock"
        try:
            os.fstat(inherited)
        except OSError:
            pass
        else:
            raise AssertionError("the inherited descriptor is open")
        os.write(tell, b"1")
        mine.open()
        assert mine.joined == untearable
        mine.write(b"child\\n")
        mine.close()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
os.close(tell)
os.read(done, 1)
if untearable:
    writer.write(b"opened\\n")
_, status = os.waitpid(child, 0)
assert status == 0
writer.write(b"parent\\n")
writer.close()
"""


@EACH_MODE
def test_a_fork_has_a_writer_of_its_own(path: Path, untearable: bool) -> None:
    done = run_script(FORK, {}, str(path), str(untearable))
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == b"opened\n" * untearable + b"child\nparent\n"


FORK_CLOSES = """
import fcntl, os, sys
from asyncpipes.channels.file_writer import FileWriter
writer = FileWriter(sys.argv[1], untearable=True)
writer.open()
if (child := os.fork()) == 0:
    writer.close()
    os._exit(0)
os.waitpid(child, 0)
with open(sys.argv[1], "rb") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("still locked")
writer.close()
"""


def test_closing_in_a_fork_leaves_the_parents_lock(path: Path) -> None:
    done = run_script(FORK_CLOSES, {}, str(path))
    assert done.stdout == "still locked\n", done.stderr


def test_a_fork_finds_the_file_from_wherever_it_is(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = opened(Path(path.name))
    monkeypatch.chdir("/")
    own = writer.in_fork()
    own.open()
    own.write(b"1\n")
    own.close()
    assert path.read_bytes() == b"1\n"


def test_in_fork_releases_what_was_inherited(path: Path) -> None:
    before = settled_fds()
    writer = opened(path, untearable=True)
    own = writer.in_fork()
    assert len(open_fds()) == len(before) + 1, "and has the file open for itself"
    again = writer.in_fork()
    assert len(open_fds()) == len(before) + 1, "there is nothing more to release"
    own.open()
    assert not own.joined, "with the descriptor the lock of this process is gone"
    own.write(b"1\n")
    own.close()
    assert open_fds() == before
    again.open()
    again.write(b"2\n")
    again.close()
    lines = [line.rstrip() for line in path.read_bytes().splitlines() if b'"text":""' not in line]
    assert lines == [b"1", b"2"]


def test_a_fork_writes_to_the_file_that_was_opened_whatever_becomes_of_its_name(
    path: Path,
) -> None:
    writer = opened(path)
    reading = os.open(path, os.O_RDONLY)
    try:
        path.unlink()
        own = writer.in_fork()
        own.open()
        own.write(b"1\n")
        own.close()
        assert os.read(reading, 100) == b"1\n"
    finally:
        os.close(reading)


def test_nobody_writes_to_a_file_that_is_sealed(path: Path) -> None:
    writer = opened(path)
    writer.write(b"1\n")
    fd = os.open(path, os.O_RDONLY)
    try:
        file_writer.seal(fd)
        with pytest.raises(ChannelError, match=r"nobody reads .*messages any more") as info:
            writer.write(b"2\n")
        assert not info.value.transient
        assert path.read_bytes() == b"1\n"
    finally:
        os.close(fd)
        writer.close()


def test_sealing_waits_for_a_write_but_not_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_writer, "SEAL_SECONDS", 0.05)
    writer = opened(path)
    fd = os.open(path, os.O_RDONLY)
    other = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        file_writer.seal(fd)
        assert file_writer.is_sealed(os.fstat(fd))
    finally:
        os.close(other)
        os.close(fd)
        writer.close()


def test_a_fork_that_holds_the_descriptor_does_not_keep_the_lock(path: Path) -> None:
    writer = opened(path, untearable=True)
    copy = os.dup(writer._fd)  # as a fork has it
    writer.close()
    assert not is_locked(path)
    os.close(copy)


# The file itself.


def test_a_file_that_is_missing_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "m"
    writer = FileWriter(str(path))
    with pytest.raises(ChannelError, match=r"No such file.*The host creates it") as caught:
        writer.open()
    assert str(path) in str(caught.value)
    assert not caught.value.transient
    assert not path.exists()
    writer.close()


def test_a_file_that_is_removed_while_it_is_written_goes_on(path: Path) -> None:
    with path.open("rb") as reader:
        writer = opened(path)
        path.unlink()
        writer.write(b"1\n")
        writer.close()
        assert reader.read() == b"1\n"
    with pytest.raises(ChannelError, match="must not be removed while the script runs"):
        opened(path)


def test_a_file_that_may_be_written_and_not_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that runs as root may read everything, so the refusal is made up."""
    real = os.open

    def refusing(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(name, flags, mode)

    path.write_bytes(b"half a")
    monkeypatch.setattr(os, "open", refusing)
    writer = opened(path, untearable=True)
    assert writer.joined
    writer.write(b" line\n")
    writer.close()
    assert path.read_bytes() == b"half a line\n"


def test_the_descriptor_is_not_inherited(path: Path) -> None:
    before = settled_fds()
    writer = opened(path)
    [fd] = open_fds() - before
    assert not os.get_inheritable(fd)
    writer.close()
    writer.close()
    assert open_fds() == before


# Links.


def own_link(link: Path, target: Path | str) -> Path:
    link.symlink_to(target)
    return link


def test_a_link_of_ones_own_is_followed(path: Path, tmp_path: Path) -> None:
    link = own_link(tmp_path / "link", own_link(tmp_path / "on the way", path.name))
    writer = opened(link)
    writer.write(b"1\n")
    writer.close()
    assert path.read_bytes() == b"1\n"


def test_a_link_that_others_have_placed_is_not_followed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = foreign_link(tmp_path / "theirs", path, monkeypatch)
    before = settled_fds()
    with pytest.raises(ChannelError, match="belongs to another user") as caught:
        opened(theirs)
    assert str(theirs) in str(caught.value)
    assert open_fds() == before


def test_a_link_of_ones_own_to_one_of_others_is_not_followed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = foreign_link(tmp_path / "theirs", path, monkeypatch)
    link = tmp_path / "link"
    link.symlink_to(theirs)
    with pytest.raises(ChannelError, match="belongs to another user"):
        opened(link)


@pytest.mark.parametrize(("target", "words"), [("missing", "No such file"), ("link", "symbolic")])
def test_a_link_that_leads_nowhere_is_told(tmp_path: Path, target: str, words: str) -> None:
    link = own_link(tmp_path / "link", tmp_path / target)
    with pytest.raises(ChannelError, match=words) as caught:
        opened(link)
    assert str(link) in str(caught.value)
    assert not (tmp_path / "missing").exists()


def test_a_file_keeps_its_mode(path: Path) -> None:
    writer = opened(path)
    writer.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
