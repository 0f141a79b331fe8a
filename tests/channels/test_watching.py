"""asyncpipes.channels.watching: inotify, polling, and which of them a file can have."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from asyncpipes.channels import watching
from asyncpipes.channels.watching import (
    InotifyWatcher,
    PollingWatcher,
    inotify_can_see,
    open_watcher,
)
from asyncpipes.errors import ChannelError
from tests.support import PATIENCE, open_fds, settled_fds

pytestmark = pytest.mark.host


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "m"
    file.touch()
    return file


def grow(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"x")


@pytest.mark.parametrize("watch", ["inotify", "poll", "auto"])
@pytest.mark.usefixtures("any_loop")
async def test_growth_after_arming_ends_the_wait(watch: Any, file: Path) -> None:
    watcher = await open_watcher(str(file), watch, 0.001)
    watcher.arm()
    grow(file)
    await asyncio.wait_for(watcher.wait(0), PATIENCE)
    await watcher.aclose()
    await watcher.aclose()


async def test_inotify_is_silent_while_nothing_grows(file: Path) -> None:
    watcher = await open_watcher(str(file), "inotify", 1)
    other = file.with_name("other")
    other.touch()
    second = await open_watcher(str(other), "inotify", 1)
    watcher.arm()
    second.arm()
    waiting = asyncio.create_task(watcher.wait(0))
    grow(other)
    await asyncio.wait_for(second.wait(0), PATIENCE)
    assert not waiting.done()
    grow(file)
    await asyncio.wait_for(waiting, PATIENCE)
    await watcher.aclose()
    await second.aclose()


@pytest.mark.usefixtures("any_loop")
async def test_1000_watchers_share_one_instance(tmp_path: Path) -> None:
    before = settled_fds()
    files = [tmp_path / str(number) for number in range(1000)]
    watchers = []
    for file in files:
        file.touch()
        watchers.append(await open_watcher(str(file), "inotify", 1))
    assert len(open_fds() - before) == 1
    for watcher in watchers:
        watcher.arm()
    waiting = [asyncio.create_task(watcher.wait(0)) for watcher in watchers]
    for file in files[::2]:
        grow(file)
    await asyncio.wait_for(asyncio.gather(*waiting[::2]), PATIENCE)
    assert not any(task.done() for task in waiting[1::2])
    for file in files[1::2]:
        grow(file)
    await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
    for watcher in watchers:
        await watcher.aclose()
    assert open_fds() == before


async def test_two_watchers_of_one_file_both_hear_and_part(file: Path) -> None:
    first, second = [await open_watcher(str(file), "inotify", 1) for _ in range(2)]
    first.arm()
    second.arm()
    grow(file)
    await asyncio.wait_for(asyncio.gather(first.wait(0), second.wait(0)), PATIENCE)
    await first.aclose()
    second.arm()
    grow(file)
    await asyncio.wait_for(second.wait(0), PATIENCE)
    await second.aclose()


async def test_a_file_that_is_gone_can_be_closed(file: Path) -> None:
    watcher = await open_watcher(str(file), "inotify", 1)
    file.unlink()
    await asyncio.wait_for(watcher.wait(0), PATIENCE)  # the kernel tells of that too
    await watcher.aclose()


async def test_an_overflow_wakes_everybody(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = await open_watcher(str(file), "inotify", 1)
    assert isinstance(watcher, InotifyWatcher)
    watcher.arm()
    lost = watching._EVENT.pack(-1, watching._IN_Q_OVERFLOW, 0, 0)
    monkeypatch.setattr(os, "read", lambda fd, size: lost)
    watcher._hub._readable()
    monkeypatch.undo()
    assert watcher.grown.is_set()
    await watcher.aclose()


async def test_polling_looks_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    watcher = PollingWatcher(0.01)
    for misses in [0, 1, 2, 3, 4, 5, 10**6]:
        await watcher.wait(misses)
    assert slept == [0.001, 0.002, 0.004, 0.008, 0.01, 0.01, 0.01]


def out_of_instances(*_: Any) -> int:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_without_inotify_auto_polls(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = settled_fds()
    monkeypatch.setattr(watching, "_call", out_of_instances)
    assert isinstance(await open_watcher(str(file), "auto", 1), PollingWatcher)
    with pytest.raises(ChannelError, match=r"inotify cannot watch .*; use watch='poll'") as caught:
        await open_watcher(str(file), "inotify", 1)
    assert str(file) in str(caught.value)
    assert open_fds() == before
    assert watching._Inotify._instances == {}


async def test_a_missing_file_cannot_be_watched(file: Path) -> None:
    before = settled_fds()
    with pytest.raises(ChannelError, match="No such file"):
        await open_watcher(f"{file}.missing", "inotify", 1)
    assert open_fds() == before


def test_a_loop_is_not_kept_alive(file: Path) -> None:
    async def watch() -> None:
        await (await open_watcher(str(file), "inotify", 1)).aclose()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(watch())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    assert reference() is None


def test_a_watcher_may_be_closed_after_its_loop(file: Path) -> None:
    before = settled_fds()
    loop = asyncio.new_event_loop()
    watcher = loop.run_until_complete(open_watcher(str(file), "inotify", 1))
    loop.close()
    other = asyncio.new_event_loop()
    other.run_until_complete(watcher.aclose())
    other.close()
    assert open_fds() == before


# Which file systems.

MOUNTS = r"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /proc rw,nosuid shared:5 - proc proc rw
24 22 0:40 / /merged rw - overlay overlay rw,lowerdir=/a - nfs
25 22 0:41 / /mnt/nfs rw shared:7 - nfs4 server:/export rw
26 25 254:2 / /mnt/nfs/local rw - xfs /dev/vdb rw
27 22 0:42 / /mnt/with\040space rw - cifs //server/share rw
28 22 0:43 / /mnt/back\134slash rw - nfs server:/x rw
29 22 0:44 / /mnt/ssh rw,nosuid - fuse.sshfs me@there:/ rw
30 22 0:45 / /mnt/fuse rw - fuse something rw
31 22 0:46 / /dev/shm rw - tmpfs tmpfs rw
32 22 0:47 / /covered rw - nfs server:/y rw
33 22 0:48 / /covered rw - ext4 /dev/vdc rw
34 22 0:49 / /märz rw - nfs server:/z rw
35 22 0:50 / /usb rw master:3 propagate_from:2 - fuseblk /dev/sdb rw
36 22 0:51 / /shared9 rw - 9p host rw
this line is none
""".encode()

PLACES = [
    ("/home/me/m", True),
    ("/merged/m", True),
    ("/mnt/nfs/m", False),
    ("/mnt/nfs", False),
    ("/mnt/nfs/local/m", True),
    ("/mnt/nfs/local2/m", False),
    ("/mnt/nfsx/m", True),
    ("/mnt/with space/m", False),
    ("/mnt/with", True),
    ("/mnt/back\\slash/m", False),
    ("/mnt/ssh/deep/m", False),
    ("/mnt/fuse/m", False),
    ("/dev/shm/m", True),
    ("/covered/m", True),
    ("/märz/m", False),
    ("/usb/m", True),
    ("/shared9/m", False),
]


@pytest.mark.parametrize(("path", "visible"), PLACES)
def test_inotify_can_see_what_this_kernel_writes(path: str, visible: bool, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(MOUNTS)
    assert inotify_can_see(path, str(mounts)) is visible


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/mnt/nfs/m")
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(MOUNTS)
    assert not inotify_can_see(str(tmp_path / "link"), str(mounts))


@pytest.mark.parametrize("content", [None, b"", b"nothing of use\n"])
def test_where_nobody_can_tell_the_answer_is_no(tmp_path: Path, content: bytes | None) -> None:
    mounts = tmp_path / "mountinfo"
    if content is not None:
        mounts.write_bytes(content)
    assert not inotify_can_see("/home/me/m", str(mounts))


def test_other_systems_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not inotify_can_see("/home/me/m")


def test_this_machines_own_mounts_can_be_read(tmp_path: Path) -> None:
    assert isinstance(inotify_can_see(str(tmp_path)), bool)
    assert inotify_can_see("/proc/self/mountinfo")


async def test_auto_polls_where_inotify_is_blind(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "inotify_can_see", lambda path: False)
    assert isinstance(await open_watcher(str(file), "auto", 1), PollingWatcher)
