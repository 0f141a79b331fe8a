"""Cases 11 to 13: ending what was started, at any moment, and output in megabytes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults.cases import case
from tests.faults.subjects import Subject
from tests.support_host import Stepped, until

_WAITS = "note({name!r})\nwhile True:\n    signal.pause()\n"
_STUBBORN = (
    "for number in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(number, signal.SIG_IGN)\n"
)

#: For each kind of process tree: its script, and the command that wraps it.
_TREES: dict[str, tuple[str, list[str]]] = {
    "a stubborn script": (_STUBBORN + _WAITS.format(name="up"), []),
    "behind a shell": (_WAITS.format(name="up"), ["sh", "-c", '"$0" "$@" & sleep 1000']),
    "a stubborn grandchild": (
        "if os.fork():\n    signal.pause()\n" + _STUBBORN + _WAITS.format(name="up"),
        [],
    ),
}
_SIGNALS_ONE = "it signals the one process that it started, and that only once"


@pytest.mark.parametrize("tree", ["a stubborn script", "a stubborn grandchild"])
@case(11, fails=_SIGNALS_ONE, mutants=["asks_and_never_kills"])
async def test_case_11_who_ignores_signals_is_killed(subject: Subject, tree: str) -> None:
    await _end_all(subject, tree)


@pytest.mark.parametrize("tree", ["behind a shell", "a stubborn grandchild"])
@case(11, fails=_SIGNALS_ONE, mutants=["signals_the_script_alone"])
async def test_case_11_all_of_the_group_is_ended(subject: Subject, tree: str) -> None:
    await _end_all(subject, tree)


async def _end_all(subject: Subject, tree: str) -> None:
    source, wrapper = _TREES[tree]
    run = subject.start([*wrapper, *subject.command(source, raw=True)], grace=0.2, drain=0.2)
    await subject.noted("up")
    assert subject.alive()
    run.interrupt()
    report = await run.report()
    assert subject.alive() == []
    assert subject.left_behind() == []
    assert not report.hung
    assert not report.ok


@contextmanager
def _each_await(at_await: Callable[[], None]) -> Generator[None, None, None]:
    """Have ``at_await`` called at every await of every task that is started in here."""

    async def stepped(coroutine: Coroutine[Any, Any, Any]) -> Any:
        awaiting: Awaitable[Any] = Stepped(coroutine, at_await)
        return await awaiting

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(stepped(coroutine), loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


_NO_AWAITS = "its host has no awaits: it blocks its thread until the script has ended"


@case(12, stock=None, absent=_NO_AWAITS, mutants=["leaves_its_files", "starts_what_was_cancelled"])
async def test_case_12_cancelled_at_each_await_up_to_reading(subject: Subject) -> None:
    command = subject.command("opened(); custom(1)\n" + _WAITS.format(name="up"), raw=True)
    await _cancel_at_each_await(subject, command, is_endless=True)


@case(12, stock=None, absent=_NO_AWAITS, mutants=["leaves_its_files"])
async def test_case_12_cancelled_at_each_await_up_to_the_end(subject: Subject) -> None:
    body = "opened(); custom(1); print('out'); closed(); note('up')"
    await _cancel_at_each_await(subject, subject.command(body, raw=True), is_endless=False)


async def _cancel_at_each_await(subject: Subject, command: list[str], *, is_endless: bool) -> None:
    for number in itertools.count(1):
        if not await _cancel_at(subject, command, number, is_endless):
            break
    assert number > 10, "the awaits of opening, launching and reading alone are more"


async def _cancel_at(subject: Subject, command: list[str], number: int, is_endless: bool) -> bool:
    """Cancel at the ``number``-th await, of whichever task; False if there are fewer."""
    awaits = 0

    def count() -> None:
        nonlocal awaits
        awaits += 1
        if awaits == number:
            run.interrupt()

    (subject.folder / "note-up").unlink(missing_ok=True)
    with _each_await(count):
        run = subject.start(command, grace=0.2, drain=0.2, extras={"large": "x" * 100_000})
        ending = asyncio.ensure_future(run.report())
        await until(lambda: ending.done() or subject.has_noted("up"), "the script is up, or ended")
        is_reached = awaits >= number
        if is_endless and not is_reached:
            run.interrupt()  # it waits for what will not come, and awaits no more
        report = await ending
        is_reached |= awaits >= number and not is_endless
    assert not report.hung
    assert subject.alive() == []
    assert subject.left_behind() == []
    return is_reached


_OUTPUT = """
    with open_pipes() as pipes:
        for number in range(100):
            for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
                stream.write((name + "." * 96 + "\\n") * 1024)
                stream.flush()
        pipes.report_asset_materialization({"n": 1})
"""
_LINES = 100 * 1024  # of 100 bytes, to each stream


@case(13, mutants=["forwards_with_gaps"])
async def test_case_13_10_mb_of_output_forwarded(subject: Subject) -> None:
    report = await subject.run(_OUTPUT)
    assert report.stdout.count(b"out" + b"." * 96 + b"\n") == _LINES
    assert report.stderr.count(b"err" + b"." * 96 + b"\n") == _LINES
    assert report.materializations == [("orders", {"n": 1})]
    assert report.ok, report.problems


@case(
    13,
    fails="it gives the script pipes that nobody reads, and waits for it for ever",
    mutants=["reads_no_output_that_it_does_not_forward"],
)
async def test_case_13_10_mb_of_output_not_forwarded(subject: Subject) -> None:
    report = await subject.run(_OUTPUT, forward=False)
    assert not report.hung
    assert b"out." not in report.stdout
    assert b"err." not in report.stderr
    assert report.materializations == [("orders", {"n": 1})]
    assert report.ok, report.problems
