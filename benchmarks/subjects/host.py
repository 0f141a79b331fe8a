"""Host: a backlog of custom messages in a file becomes events for one sync subscriber.

The backlog, with ``opened`` and ``closed`` around it, is written before the clock
starts. What is timed is reading it, decoding it, and the subscriber's call for each
message, to the last call. The subscriber keeps each message's index; they are
compared afterwards.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import orjson

from ..message import check_indices, write_backlog

Numbers = dict[str, float]


def ours(messages: int) -> Numbers:
    """Our host, which reads what our scripts write and hands it on."""
    return asyncio.run(_ours(messages, extended=True, collect="none"))


def ours_plain(messages: int) -> Numbers:
    """Our host with the very bytes that the stock host gets."""
    return asyncio.run(_ours(messages, extended=False, collect="none"))


def ours_collecting(messages: int) -> Numbers:
    """Our host as it is by default, keeping all custom messages for its result."""
    return asyncio.run(_ours(messages, extended=True, collect="results"))


async def _ours(messages: int, *, extended: bool, collect: Any) -> Numbers:
    from asyncpipes import CustomMessageEvent, open_pipes_session
    from asyncpipes.channels import ChannelReader, FileChannel

    class BacklogChannel(FileChannel):
        """A file channel whose file is full before the session reads it.

        A file channel empties its file when it opens, so this comes in between. The
        clock starts here, when the session gets the reader; its entering, which then
        takes one turn of the loop, is in it.
        """

        started = 0.0

        async def open_reader(self) -> ChannelReader:
            reader = await super().open_reader()
            path = str(reader.params["path"])
            await asyncio.to_thread(write_backlog, path, messages, extended=extended)
            self.started = time.perf_counter()
            return reader

    indices: list[int] = []
    last = messages - 1
    ended = 0.0

    def subscriber(event: CustomMessageEvent) -> None:
        nonlocal ended
        index = event.payload["index"]
        indices.append(index)
        if index == last:
            ended = time.perf_counter()

    channel = BacklogChannel()
    async with open_pipes_session(channel=channel, collect=collect) as session:
        session.subscribe(subscriber, CustomMessageEvent)
        assert session.bootstrap, "asked for, since the script was launched elsewhere"
    check_indices(indices, messages)
    return _numbers(messages, ended - channel.started)


def stock(messages: int) -> Numbers:
    """The stock host: what the thread of its file reader does, without the thread.

    The handler is the real one and its context a stub with a silent logger; the
    queue in which it keeps custom messages stands for the subscriber.
    """
    from dagster._core.pipes.context import PipesMessageHandler
    from dagster._core.pipes.utils import PipesFileMessageReader
    from dagster._utils import tail_file

    class Context:
        log = logging.Logger("benchmark", logging.CRITICAL)

    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        path = str(Path(directory, "messages"))
        write_backlog(path, messages, extended=False)
        handler = PipesMessageHandler(cast("Any", Context()), PipesFileMessageReader(path))
        started = time.perf_counter()
        for line in tail_file(path, lambda: True):
            handler.handle_message(json.loads(line))
        ended = time.perf_counter()
    check_indices((payload["index"] for payload in handler.get_custom_messages()), messages)
    return _numbers(messages, ended - started)


def floor(messages: int) -> Numbers:
    """Read a MiB, split it, ``orjson.loads`` each line; with the lines of our scripts."""
    return _floor(messages, extended=True)


def floor_plain(messages: int) -> Numbers:
    """The same with the lines of protocol 0.1."""
    return _floor(messages, extended=False)


def _floor(messages: int, *, extended: bool) -> Numbers:
    count = 0
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        path = str(Path(directory, "messages"))
        write_backlog(path, messages, extended=extended)
        started = time.perf_counter()
        rest = b""
        with open(path, "rb", buffering=0) as file:
            while data := file.read(1024 * 1024):
                lines = (rest + data).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    orjson.loads(line)
                count += len(lines)
        ended = time.perf_counter()
    check_indices(range(count - 2), messages)
    return _numbers(messages, ended - started)


def _numbers(messages: int, seconds: float) -> Numbers:
    return {"messages": messages, "seconds": seconds, "per_second": messages / seconds}
