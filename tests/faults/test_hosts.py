"""Cases 14, 16 and 19: others that go on writing, backlogs, and slow or failing subscribers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from asyncpipes import CustomMessageEvent, Event, open_pipes, open_pipes_session
from asyncpipes.channels import FileChannel
from tests.faults.cases import case
from tests.faults.subjects import Subject
from tests.support import PATIENCE
from tests.support_host import until

_OURS_ALONE = "it has no subscribers"

#: Seconds from the script's beginning after which a wrong version is called hung, which has
#: 20,000 events to hand out before it hangs.
_HANGS = 5.0


# 14.


@case(
    14,
    fails="it reads on for as long as anybody writes",
    mutants=["waits_for_all_that_was_started"],
)
async def test_case_14_a_background_writer_outlives_the_script(subject: Subject) -> None:
    stop = subject.folder / "stop"
    body = f"""
opened(); custom(1)
sys.stdout.flush()
if os.fork() == 0:
    lines = message("log", message="still here", level="INFO") * 20
    ends = time.monotonic() + {PATIENCE}
    while time.monotonic() < ends and not os.path.exists({str(stop)!r}):
        raw(lines)
        time.sleep(0.005)
    os._exit(0)
closed()
"""
    report = await subject.run(body, raw=True)
    stop.touch()
    await until(lambda: not subject.alive(), "the background writer has ended")
    assert not report.hung
    assert report.custom == [1]
    assert report.closed
    assert not report.ok, "it is not known what else would have come"
    assert any("left others of its group running" in reason for reason in report.problems)


# 16.


@case(
    16,
    stock=None,
    absent="nothing holds its reader up, so that no backlog gathers",
    mutants=["drops_the_backlog"],
)
async def test_case_16_a_hundred_chunks_wait_when_the_script_ends(subject: Subject) -> None:
    body = """
opened()
for chunk in range(100):
    custom(*range(200 * chunk, 200 * chunk + 200))
closed()
"""
    ended = asyncio.Event()
    seen: list[int] = []

    async def slow(event: CustomMessageEvent) -> None:
        await ended.wait()
        seen.append(event.payload)

    async with open_pipes_session(strict=False, collect="none") as session:
        session.subscribe(slow, CustomMessageEvent, max_events=10)
        process = await session.launch(subject.command(body, raw=True))
        await process.wait()
        assert session.stats.events < 20_000, "there is a backlog"
        ended.set()
    assert seen == list(range(20_000))
    assert session.outcome.ok, session.outcome.reasons


@case(
    16,
    stock=None,
    absent="its client makes a reader for each run",
    mutants=["keeps_the_file_in_the_channel"],
)
async def test_case_16_a_channel_is_used_twice_at_once_and_again(subject: Subject) -> None:
    channel = FileChannel()

    async def session(number: int, others: asyncio.Event) -> list[Any]:
        async with open_pipes_session(channel=channel, strict=False) as session:
            opened.append(number)
            if len(opened) % 2 == 0:
                others.set()
            await others.wait()
            async with open_pipes(params_loader=session.bootstrap) as pipes:
                for n in range(100):
                    await pipes.report_custom_message([number, n])
        assert session.outcome.ok, session.outcome.reasons
        return [event.payload for event in session.result.custom_messages]

    opened: list[int] = []
    together = asyncio.Event()
    results = [*await asyncio.gather(session(1, together), session(2, together))]
    results += [await session(3, together), await session(4, together)]
    assert results == [[[number, n] for n in range(100)] for number in (1, 2, 3, 4)]


# 19.


@case(
    19, stock=None, absent=_OURS_ALONE, mutants=["mixes_up_oldest_and_newest", "drops_in_silence"]
)
async def test_case_19_subscribers_that_drop(subject: Subject) -> None:
    release = asyncio.Event()
    seen: dict[str, list[int]] = {"fast": [], "drop_oldest": [], "drop_newest": []}

    def record(name: str) -> Any:
        async def subscriber(event: CustomMessageEvent) -> None:
            if name != "fast":
                await release.wait()
            seen[name].append(event.payload)

        return subscriber

    async with open_pipes_session(strict=False, collect="none") as session:
        session.subscribe(record("fast"), CustomMessageEvent)
        slow = [
            session.subscribe(record(name), CustomMessageEvent, overflow=name, max_events=10)
            for name in ("drop_oldest", "drop_newest")
        ]
        await session.launch(subject.command("opened(); custom(*range(5000)); closed()", raw=True))
        await until(lambda: len(seen["fast"]) == 5000, "others are not held up")
        for subscription in slow:
            assert subscription.depth <= 10 + 64, "what it was given at once, and its queue"
        release.set()
    assert seen["fast"] == list(range(5000))
    assert seen["drop_oldest"][-10:] == list(range(4990, 5000))
    assert seen["drop_newest"][:10] == list(range(10))
    assert 4999 not in seen["drop_newest"]
    for subscription, name in zip(slow, ("drop_oldest", "drop_newest"), strict=True):
        assert seen[name] == sorted(seen[name])
        assert subscription.dropped == 5000 - len(seen[name])
    assert session.outcome.ok, "it was asked for"


@case(19, stock=None, absent=_OURS_ALONE, mutants=["never_holds_the_reader"])
async def test_case_19_a_subscriber_that_is_waited_for(subject: Subject) -> None:
    release = asyncio.Event()
    seen: list[int] = []

    async def slow(event: CustomMessageEvent) -> None:
        await release.wait()
        seen.append(event.payload)

    async with open_pipes_session(strict=False, collect="none") as session:
        subscription = session.subscribe(slow, CustomMessageEvent, max_events=10)
        process = await session.launch(
            subject.command("opened(); custom(*range(20000)); closed()", raw=True)
        )
        await process.wait()
        held_by, bound = (subscription.name,), 2000  # what was decoded last counts in full
        await until(
            lambda: session.health.held_by == held_by or subscription.depth >= bound,
            "the reader is held up, or is not and reads on",
        )
        assert subscription.depth < bound
        assert session.health.held_by == held_by
        release.set()
    assert seen == list(range(20_000))
    assert session.outcome.ok


@case(
    19, stock=None, absent=_OURS_ALONE, mutants=["forgets_who_raised", "one_subscriber_stops_all"]
)
async def test_case_19_a_subscriber_that_raises(subject: Subject) -> None:
    seen: list[int] = []
    in_thread: set[int] = set()

    def fails(event: Event) -> None:
        raise ValueError("mine")

    def threaded(event: CustomMessageEvent) -> None:
        in_thread.add(threading.get_ident())

    async with open_pipes_session(strict=False) as session:
        session.subscribe(fails, CustomMessageEvent)
        session.subscribe(lambda event: seen.append(event.payload), CustomMessageEvent)
        session.subscribe(threaded, CustomMessageEvent, in_thread=True)
        await session.launch(subject.command("opened(); custom(*range(5000)); closed()", raw=True))
    assert seen == list(range(5000))
    assert threading.get_ident() not in in_thread
    assert in_thread
    assert session.result.subscriber_failed
    assert not session.outcome.ok
    assert any("raised ValueError('mine')" in reason for reason in session.outcome.reasons)


@case(19, stock=None, absent=_OURS_ALONE, mutants=["waits_for_idle_iterators"])
async def test_case_19_an_iterator_that_nobody_consumes(subject: Subject) -> None:
    kept: list[Any] = []

    async def host() -> Mapping[str, Any]:
        async with open_pipes_session(strict=False) as session:
            kept.append(session.events(max_events=10))
            await session.launch(
                subject.command("opened(); custom(*range(20000)); closed()", raw=True)
            )
            kept.append(await kept[0].__anext__())
        return {"ok": session.outcome.ok, "count": len(session.result.custom_messages)}

    task = asyncio.create_task(host())
    hung = not await subject.ends(task, _HANGS)
    if hung:
        await kept[0].aclose()  # so that even a wrong version comes to an end
    result = await task
    assert not hung
    assert result == {"ok": True, "count": 20_000}
