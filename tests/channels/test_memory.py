"""asyncpipes.channels.memory: bytes handed over inside one process."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncpipes.channels import MemoryChannel
from asyncpipes.errors import ChannelError
from asyncpipes.external.context import open_pipes
from tests.support import PATIENCE, bootstrap, logged, methods, parsed

pytestmark = pytest.mark.host


@pytest.mark.usefixtures("any_loop")
async def test_bytes_come_in_order_from_several_threads() -> None:
    channel = MemoryChannel()
    reader = await channel.open_reader()
    assert reader.params == {}

    def write(name: int) -> None:
        writer = channel.writer()
        writer.open()
        for number in range(200):
            writer.write(b"%d %d\n" % (name, number))
        writer.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    lines: list[bytes] = []
    while len(lines) < 800:
        lines += (await asyncio.wait_for(reader.read(), PATIENCE)).splitlines()
    for name in range(4):
        mine = [int(line.split()[1]) for line in lines if int(line.split()[0]) == name]
        assert mine == list(range(200))
    assert await reader.read_available() == b""
    await reader.aclose()


async def test_what_was_written_before_the_reader_came_is_there() -> None:
    channel = MemoryChannel()
    channel.writer().write(b"early\n")
    reader = await channel.open_reader()
    assert await reader.read() == b"early\n"
    await reader.aclose()


async def test_cancelling_read_loses_nothing() -> None:
    channel = MemoryChannel()
    reader, writer = await channel.open_reader(), channel.writer()
    expected = received = b""
    for turns in range(20):
        reading = asyncio.create_task(reader.read())
        for _ in range(turns // 4):
            await asyncio.sleep(0)
        expected += b"%d\n" % turns
        writer.write(b"%d\n" % turns)
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        reading.cancel()
        try:
            received += await reading
        except asyncio.CancelledError:
            pass
    while len(received) < len(expected):
        received += await asyncio.wait_for(reader.read(), PATIENCE)
    assert received == expected


async def test_a_full_channel_is_a_transient_fault() -> None:
    channel = MemoryChannel(max_bytes=10)
    reader, writer = await channel.open_reader(), channel.writer()
    writer.write(b"longer than the limit\n")  # an empty channel takes anything
    with pytest.raises(ChannelError, match="holds 22 bytes that nobody has read") as caught:
        writer.write(b"x\n")
    assert caught.value.transient
    await reader.read()
    writer.write(b"x\n")
    assert await reader.read() == b"x\n"


async def test_one_channel_serves_one_session() -> None:
    channel = MemoryChannel()
    reader = await channel.open_reader()
    with pytest.raises(ChannelError, match="one channel for each session"):
        await channel.open_reader()
    await reader.aclose()
    with pytest.raises(ChannelError, match="one channel for each session"):
        await channel.open_reader()


async def test_writing_for_a_reader_that_is_gone_fails_for_good() -> None:
    channel = MemoryChannel()
    reader = await channel.open_reader()
    await reader.aclose()
    await reader.aclose()
    with pytest.raises(ChannelError, match="reader is gone") as caught:
        channel.writer().write(b"x\n")
    assert not caught.value.transient


def test_writing_after_the_readers_loop_fails_for_good() -> None:
    channel = MemoryChannel()
    asyncio.run(channel.open_reader())
    with pytest.raises(ChannelError, match="reader is gone"):
        channel.writer().write(b"x\n")


async def test_a_script_and_its_reader_share_a_loop() -> None:
    channel = MemoryChannel()
    reader = await channel.open_reader()
    async with open_pipes(params_loader=bootstrap({}), message_writer=channel.writer()) as pipes:
        for number in range(1000):
            pipes.log.info("%d", number)
        pipes.report_asset_materialization()
    data = b""
    while chunk := await reader.read_available():
        data += chunk
    messages = parsed(data)
    assert logged(messages) == [str(number) for number in range(1000)]
    assert methods(messages)[-2:] == ["report_asset_materialization", "closed"]
