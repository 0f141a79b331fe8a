"""Cases 15, 17 and 20: channels that fail or are slow, and many who report at once."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from typing import Any

import pytest

from asyncpipes import open_pipes, open_pipes_session
from asyncpipes.channels import MemoryChannel
from tests.faults.cases import case
from tests.faults.channels import FailsOnce, Slow
from tests.faults.subjects import Side, Subject
from tests.support import OURS, bootstrap, methods

# 15.

#: One upload that fails, as each of the packages has its writers made.
_UPLOADS: dict[Side, str] = {
    "ours": """
from asyncpipes.channels import ChannelWriter, Guarantees
from asyncpipes.errors import ChannelError
from asyncpipes.protocol import bootstrap

class Uploading(ChannelWriter):
    guarantees = Guarantees(ordered=True, immediate=False, acknowledged=True, durable=True)

    def write(self, lines):
        path = bootstrap.from_mapping(os.environ, source="variable").messages["path"]
        try:
            upload(path, lines)
        except ConnectionError as error:
            raise ChannelError(f"cannot upload: {error}", transient=True) from error

    def close(self):
        pass

import asyncpipes.external.waiting
asyncpipes.external.waiting.RETRY_SECONDS = 0.2
""",
    "stock": """
from dagster_pipes import PipesBlobStoreMessageWriter, PipesBlobStoreMessageWriterChannel

class Channel(PipesBlobStoreMessageWriterChannel):
    def __init__(self, path):
        super().__init__(interval=0.05)
        self.path = path

    def upload_messages_chunk(self, payload, index):
        upload(self.path, payload.read().encode() + b"\\n")

class Uploading(PipesBlobStoreMessageWriter):
    def make_channel(self, params):
        return Channel(params["path"])
""",
}
_UPLOADING = """
tries = 0

def upload(path, data):
    global tries
    tries += 1
    if tries <= {failures}:
        raise ConnectionError("the server hung up")
    with open(path, "ab") as file:
        file.write(data)

with open_pipes(message_writer=Uploading()) as pipes:
    for number in range(3):
        pipes.report_custom_message(number)
"""


@case(
    15,
    fails="what was in the upload is lost, its thread has ended, and the run is a success",
    mutants=["never_tries_again"],
)
async def test_case_15_an_upload_fails_once(subject: Subject) -> None:
    report = await subject.run(_UPLOADS[subject.script] + _UPLOADING.format(failures=1))
    assert report.custom == [0, 1, 2]
    assert report.ok, report.problems


@case(
    15,
    fails="all is lost, and the run is a success",
    mutants=["leaves_a_fault_unsaid"],
)
async def test_case_15_every_upload_fails(subject: Subject) -> None:
    body = _UPLOADS[subject.script] + _UPLOADING.format(failures=10**6)
    report = await subject.run(body)
    assert not report.ok
    assert b"cannot upload: the server hung up" in report.stderr
    assert b"ChannelError: closing: 3 messages were not delivered" in report.stderr


@case(
    15,
    stock=None,
    absent="its writers are for one kind of server each",
    mutants=["gives_up_at_the_first_fault"],
)
async def test_case_15_any_channel_that_fails_once(subject: Subject) -> None:
    for immediate in (True, False):
        writer = FailsOnce(immediate=immediate)
        try:
            async with open_pipes(params_loader=bootstrap(OURS), message_writer=writer) as pipes:
                pipes.report_asset_materialization()
                for number in range(3):
                    await pipes.report_custom_message(number)
        except Exception as error:
            pytest.fail(f"not delivered: {error}")
        assert methods(writer.messages) == [
            "opened",
            "report_asset_materialization",
            *["report_custom_message"] * 3,
            "closed",
        ]


# 17.

_MANY = """
import threading

EACH = 300

async def main():
    with open_pipes() as pipes:
        def report(name):
            for number in range(EACH):
                pipes.report_custom_message([name, number])
                if number % 10 == 0:
                    pipes.log.info("%s %d", name, number)

        async def report_in_task(name):
            for number in range(EACH):
                room = pipes.report_custom_message([name, number])
                if room is None:
                    await asyncio.sleep(0)
                else:
                    await room

        threads = [threading.Thread(target=report, args=(f"thread {n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(report_in_task(f"task {n}") for n in range(4)))
        for thread in threads:
            await asyncio.to_thread(thread.join)

asyncio.run(main())
"""


def _in_order(payloads: list[Any], each: int) -> bool:
    numbers: dict[str, list[int]] = defaultdict(list)
    for name, number in payloads:
        numbers[name].append(number)
    return len(numbers) == 12 and all(n == list(range(each)) for n in numbers.values())


@case(
    17,
    stock="script",
    mutants=["writes_a_batch_backwards", "writes_without_a_lock"],
)
async def test_case_17_8_threads_and_4_tasks_on_a_file(subject: Subject) -> None:
    report = await subject.run(_MANY)
    assert report.ok, report.problems
    assert _in_order(report.custom, 300)
    assert len(report.logs) == 8 * 30


@case(
    17,
    stock=None,
    absent="it has no such channel",
    mutants=["memory_keeps_the_latest"],
)
async def test_case_17_8_threads_and_4_tasks_in_memory(subject: Subject) -> None:
    channel = MemoryChannel()
    async with open_pipes_session(channel=channel, strict=False) as session:
        writer = channel.writer()
        async with open_pipes(params_loader=session.bootstrap, message_writer=writer) as pipes:

            def report(name: str) -> None:
                for number in range(300):
                    pipes.report_custom_message([name, number])
                    if number % 50 == 0:
                        pipes.report_asset_check(f"{name} {number}", True, asset_key="orders")

            async def report_in_task(name: str) -> None:
                for number in range(300):
                    await pipes.report_custom_message([name, number])

            threads = [threading.Thread(target=report, args=(f"thread {n}",)) for n in range(8)]
            for thread in threads:
                thread.start()
            await asyncio.gather(*(report_in_task(f"task {n}") for n in range(4)))
            for thread in threads:
                await asyncio.to_thread(thread.join)
    assert session.outcome.ok, session.outcome.reasons
    assert _in_order([event.payload for event in session.result.custom_messages], 300)
    assert len(session.result.checks) == 8 * 6


# 20.

_AWAITED = """
async def main():
    turns = longest = last = 0

    async def tick():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with open_pipes() as pipes:
        ticker = asyncio.create_task(tick())
        await asyncio.sleep(0)
        for number in range(50_000):
            before = turns
            room = pipes.report_custom_message(number)
            if room is not None:
                await room
            if turns != before:
                longest, last = max(longest, number - last), number
        note("longest", max(longest, 50_000 - last))
        ticker.cancel()

asyncio.run(main())
"""


@case(
    20,
    fails="there is nothing to await: the loop has its next turn after the last message",
    mutants=["awaiting_gives_no_turn"],
)
async def test_case_20_50_000_messages_are_awaited(subject: Subject) -> None:
    report = await subject.run(_AWAITED)
    assert report.ok, report.problems
    assert report.custom == list(range(50_000))
    # A turn comes each millisecond, in which far fewer reports fit.
    assert int(await subject.noted("longest")) < 5_000


@case(
    20,
    stock=None,
    absent="a channel that takes a second would hold it for 50,000 seconds",
    mutants=["writes_in_the_callers_thread"],
)
async def test_case_20_on_a_channel_that_takes_a_second_for_a_write(subject: Subject) -> None:
    writer = Slow(1.0)
    turns = longest = last = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    async with open_pipes(params_loader=bootstrap(OURS), message_writer=writer) as pipes:
        for number in range(50_000):
            before = turns
            await pipes.report_custom_message(number)
            if turns != before:
                longest, last = max(longest, number - last), number
            assert threading.get_ident() not in writer.threads
        assert max(longest, 50_000 - last) < 5_000
        before = turns
        writer.hurry.set()
    ticker.cancel()
    assert turns > before, "leaving gives turns too"
    assert [m["params"]["payload"] for m in writer.delivered] == list(range(50_000))
