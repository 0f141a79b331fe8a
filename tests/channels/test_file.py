"""asyncpipes.channels.file: the file that a script appends to and a host follows."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asyncpipes.channels.base import ChannelReader
from asyncpipes.channels.file import READ_BYTES, FileChannel, FileWriter, Watch
from asyncpipes.errors import ChannelError
from tests.blocking import by_the_test
from tests.layouts import foreign_link
from tests.support import PATIENCE, open_fds, refuse_threads, settled_fds

pytestmark = pytest.mark.host

EACH_WATCH = pytest.mark.parametrize("watch", ["inotify", "poll"])


@asynccontextmanager
async def opened(channel: FileChannel) -> AsyncIterator[ChannelReader]:
    reader = await channel.open_reader()
    try:
        yield reader
    finally:
        await reader.aclose()


def path_of(reader: ChannelReader) -> Path:
    return Path(reader.params["path"])


async def read_until(reader: ChannelReader, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await asyncio.wait_for(reader.read(), PATIENCE)
    return data


# Following.


@EACH_WATCH
@pytest.mark.usefixtures("any_loop")
async def test_a_growing_file_is_followed(watch: Watch, tmp_path: Path) -> None:
    async with opened(FileChannel(tmp_path / "m", watch=watch)) as reader:
        writer = FileWriter(str(tmp_path / "m"))
        writer.open()
        for number in range(20):
            line = b"%d\n" % number
            reading = asyncio.create_task(reader.read())
            if number % 2:
                await asyncio.sleep(0)  # sometimes the reader waits already
            by_the_test(partial(writer.write, line))
            assert await asyncio.wait_for(reading, PATIENCE) == line
        assert await reader.read_available() == b""
        writer.close()


@EACH_WATCH
async def test_the_reader_waits_while_nothing_comes(watch: Watch) -> None:
    async with opened(FileChannel(watch=watch)) as reader:
        reading = asyncio.create_task(reader.read())
        assert await reader_is_waiting(reader)
        assert not reading.done()
        path_of(reader).write_bytes(b"x\n")
        assert await asyncio.wait_for(reading, PATIENCE) == b"x\n"


async def reader_is_waiting(reader: Any) -> bool:
    """Until it has looked at the file and found nothing; shown by its watcher."""
    watcher, waits = reader._watcher, asyncio.Event()
    wait = watcher.wait

    async def noted(misses: int) -> None:
        waits.set()
        await wait(misses)

    watcher.wait = noted
    await asyncio.wait_for(waits.wait(), PATIENCE)
    return True


@EACH_WATCH
async def test_torn_lines_come_as_they_are(watch: Watch) -> None:
    """The channel moves bytes: joining them is the framer's work, and losing none its own."""
    async with opened(FileChannel(watch=watch)) as reader:
        file = os.open(path_of(reader), os.O_WRONLY | os.O_APPEND)
        data = "a torn line with ä and €\nthe next one\n".encode()
        received = b""
        for byte in data:
            os.write(file, bytes([byte]))
            received += await asyncio.wait_for(reader.read(), PATIENCE)
        os.close(file)
        assert received == data


@EACH_WATCH
async def test_several_writers_append(watch: Watch) -> None:
    async with opened(FileChannel(watch=watch)) as reader:

        def write(name: int) -> None:
            writer = FileWriter(str(path_of(reader)))
            writer.open()
            for number in range(200):
                writer.write(b"%d %d\n" % (name, number))
            writer.close()

        threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        size = sum(len(b"%d %d\n" % (a, b)) for a in range(4) for b in range(200))
        data = await read_until(reader, size)
        for thread in threads:
            thread.join()
        lines = [tuple(map(int, line.split())) for line in data.splitlines()]
        for name in range(4):
            assert [b for a, b in lines if a == name] == list(range(200))


async def test_a_large_backlog_comes_in_pieces() -> None:
    async with opened(FileChannel()) as reader:
        data = os.urandom(2 * READ_BYTES + 17)
        path_of(reader).write_bytes(data)
        pieces = []
        while piece := await reader.read_available():
            pieces.append(piece)
        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= READ_BYTES


# Cancellation.


@EACH_WATCH
@pytest.mark.usefixtures("any_loop")
async def test_cancelling_read_at_any_await_loses_nothing(watch: Watch) -> None:
    async with opened(FileChannel(watch=watch)) as reader:
        expected = received = b""
        for turns in range(60):
            line = b"%d\n" % turns
            reading = asyncio.create_task(reader.read())
            if turns % 2:
                with path_of(reader).open("ab") as file:
                    file.write(line)
                expected += line
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            reading.cancel()
            try:
                received += await reading
            except asyncio.CancelledError:
                pass
            if not turns % 2:
                with path_of(reader).open("ab") as file:
                    file.write(line)
                expected += line
        received += await read_until(reader, len(expected) - len(received))
        assert received == expected


async def test_cancelling_a_read_in_its_thread_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(FileChannel(watch="poll")) as reader:
        path_of(reader).write_bytes(b"once\n")
        begun, go_on = threading.Event(), threading.Event()
        file = reader._file._file  # type: ignore[attr-defined]
        real = file.read

        class Slow:
            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def read(self, size: int) -> bytes:
                data: bytes = real(size)
                begun.set()
                assert go_on.wait(PATIENCE)
                return data

        reader._file._file = Slow()  # type: ignore[attr-defined]
        reading = asyncio.create_task(reader.read())
        await asyncio.to_thread(begun.wait, PATIENCE)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        go_on.set()
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b"once\n"


@pytest.mark.parametrize("turns", range(12))
async def test_cancelling_open_leaves_nothing(
    turns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    await asyncio.to_thread(lambda: None)  # the pool's own descriptors, if any
    before = settled_fds()
    task = asyncio.create_task(FileChannel().open_reader())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        reader = await task
    except asyncio.CancelledError:
        pass
    else:
        await reader.aclose()
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert open_fds() == before


async def test_cancelling_aclose_still_releases_everything() -> None:
    before = settled_fds()
    reader = await FileChannel().open_reader()
    path = path_of(reader)
    task = asyncio.create_task(reader.aclose())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not path.parent.exists()
    assert open_fds() == before


async def test_without_threads_it_is_read_and_released_all_the_same() -> None:
    """As when the main thread has ended, and another one still awaits a script."""
    before = settled_fds()
    reader = await FileChannel().open_reader()
    path = path_of(reader)
    refuse_threads(asyncio.get_running_loop())
    by_the_test(lambda: path.write_bytes(b"one\n"))
    assert await reader.read() == b"one\n"
    assert await reader.backlog() == 0
    await reader.aclose()
    assert not path.parent.exists()
    assert open_fds() == before


# The file itself.


async def test_the_temporary_file_is_the_owners_alone_and_goes() -> None:
    before = settled_fds()
    async with opened(FileChannel()) as reader:
        path = path_of(reader)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert reader.params["include_stdio_in_messages"] is False
    assert not path.parent.exists()
    assert open_fds() == before
    await reader.aclose()


async def test_what_was_written_before_the_seal_is_read_and_the_mode_comes_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "messages"
    async with opened(FileChannel(path, cleanup_file=False)) as reader:
        writer = FileWriter(str(path))
        await asyncio.to_thread(writer.open)
        await asyncio.to_thread(writer.write, b"1\n")
        await reader.seal()
        with pytest.raises(ChannelError, match="nobody reads"):
            await asyncio.to_thread(writer.write, b"2\n")
        await asyncio.to_thread(writer.close)
        assert await reader.read_available() == b"1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_that_is_there_already_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    path.write_text("of the last run\n")
    async with opened(FileChannel(path, include_stdio_in_messages=True)) as reader:
        assert path.read_bytes() == b""
        assert reader.params == {"path": str(path), "include_stdio_in_messages": True}
        assert await reader.read_available() == b""
    assert not path.exists()


async def test_a_new_file_at_a_path_is_the_owners_alone(tmp_path: Path) -> None:
    async with opened(FileChannel(tmp_path / "m")) as reader:
        assert stat.S_IMODE(path_of(reader).stat().st_mode) == 0o600


@pytest.mark.parametrize("given_path", [True, False])
async def test_cleanup_can_be_left_out(
    given_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = tmp_path / "messages" if given_path else None
    async with opened(FileChannel(path, cleanup_file=False)) as reader:
        path_of(reader).write_bytes(b"x")
    assert path_of(reader).read_bytes() == b"x"


async def test_a_file_that_somebody_removed_does_not_disturb_the_end(tmp_path: Path) -> None:
    async with opened(FileChannel(tmp_path / "m")):
        (tmp_path / "m").unlink()


async def test_one_channel_serves_session_after_session(tmp_path: Path) -> None:
    channel = FileChannel(tmp_path / "m")
    for _ in range(2):
        async with opened(channel) as reader:
            path_of(reader).write_bytes(b"x")
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b"x"


# Errors.


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("missing/m", "No such file"),
        ("directory", "Is a directory"),
        ("link", "symbolic links"),
        ("theirs", "belongs to another user"),
    ],
)
async def test_a_file_that_cannot_be_created_is_named(
    tmp_path: Path, where: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "link")
    if where == "theirs":
        foreign_link(tmp_path / "theirs", tmp_path / "elsewhere", monkeypatch)
    path = tmp_path / where
    before = settled_fds()
    with pytest.raises(ChannelError, match=words) as caught:
        await FileChannel(path).open_reader()
    assert str(path) in str(caught.value)
    assert (tmp_path / "directory").exists()
    assert not (tmp_path / "elsewhere").exists()
    assert open_fds() == before


async def test_what_is_no_regular_file_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    before = settled_fds()
    with pytest.raises(ChannelError, match="no regular file") as caught:
        await FileChannel(path).open_reader()
    assert str(path) in str(caught.value)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert open_fds() == before


async def test_what_has_taken_the_files_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    async with opened(FileChannel(path)):
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "fifo").rename(path)
    assert stat.S_ISFIFO(path.stat().st_mode)


async def test_a_link_of_ones_own_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "m")
    async with opened(FileChannel(link)) as reader:
        (tmp_path / "m").write_bytes(b"x\n")
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b"x\n"


async def test_a_file_that_somebody_removed_is_read_to_its_end(tmp_path: Path) -> None:
    async with opened(FileChannel(tmp_path / "m", watch="poll")) as reader:
        writer = FileWriter(str(tmp_path / "m"))
        writer.open()
        (tmp_path / "m").unlink()
        await asyncio.to_thread(writer.write, b"x\n")
        writer.close()
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b"x\n"


async def test_a_temporary_directory_that_is_missing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ChannelError, match="TMPDIR"):
        await FileChannel().open_reader()


async def test_a_read_that_fails_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(FileChannel()) as reader:

        async def fail(size: int) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(reader._file, "read", fail)  # type: ignore[attr-defined]
        with pytest.raises(ChannelError, match="Input/output error") as caught:
            await reader.read()
        assert str(path_of(reader)) in str(caught.value)


# Waiting.


async def test_growth_between_the_empty_read_and_the_wait_wakes_the_reader() -> None:
    async with opened(FileChannel(watch="inotify")) as reader:
        real = reader.read_available
        reads = 0

        async def then_write() -> bytes:
            nonlocal reads
            reads += 1
            data = await real()
            if reads == 1:
                by_the_test(lambda: path_of(reader).write_bytes(b"x\n"))
                flag = reader._watcher.grown  # type: ignore[attr-defined]
                await asyncio.wait_for(flag.wait(), PATIENCE)  # the loop has been told
            return data

        reader.read_available = then_write  # type: ignore[method-assign]  # a writer put in
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b"x\n"


async def test_an_idle_reader_does_not_spin() -> None:
    async with opened(FileChannel(watch="inotify")) as reader:
        path_of(reader).write_bytes(b"x\n")
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b"x\n"
        real, reads = reader.read_available, 0

        async def counted() -> bytes:
            nonlocal reads
            reads += 1
            return await real()

        reader.read_available = counted  # type: ignore[method-assign]  # to count them
        reading = asyncio.create_task(reader.read())
        await asyncio.wait([reading], timeout=0.2)
        assert not reading.done()
        assert reads <= 2
        path_of(reader).write_bytes(b"x\ny\n")
        assert await asyncio.wait_for(reading, PATIENCE)
