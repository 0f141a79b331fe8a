"""A program with a step that is interrupted: ``python interrupted.py MODE FOLDER [WORD ...]``.

It runs the step in its own process, and tells how it ended as JSON. Loaded by Dagster's
command it is a module of definitions, which that runs in a process of the step's own.

Scripts and the asset leave marks in FOLDER: ``pid-N``, ``interrupted-N``, ``suspended``,
``left``.
"""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from asyncpipes import PipesSession
from asyncpipes.dagster import AsyncPipesSubprocessClient, PipesSubprocessClient

MODE = os.environ.get("MODE", "")
FOLDER = Path(os.environ.get("FOLDER", "."))
WORDS = os.environ.get("WORDS", "").split()

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from asyncpipes import open_pipes

folder, number, *words = sys.argv[1:]
if "stubborn" in words:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open_pipes(handle_signals=False) as pipes:
    if "reporting" in words:
        pipes.report_asset_materialization({"n": number})
    if "checking" in words:
        pipes.report_asset_check("first", True)
        pipes.report_asset_check("second", True)
    with Path(folder, "launches").open("a") as launches:
        print(number, file=launches)
    part = Path(folder, f"part-{number}")
    part.write_text(str(os.getpid()))
    try:
        part.rename(Path(folder, f"pid-{number}"))  # from here on it may be interrupted
        while "short" not in words and not Path(folder, "end").exists():
            time.sleep(0.01)
    except KeyboardInterrupt:
        Path(folder, f"interrupted-{number}").touch()
        if "late" in words:
            pipes.report_asset_materialization({"n": number})
        raise
"""


class SignallingInjector(dg.PipesTempFileContextInjector):
    """Interrupts the step before its script is launched, or when it has ended."""

    @contextmanager
    def inject_context(self, context: Any) -> Iterator[Any]:
        if MODE == "opening":
            os.kill(os.getpid(), signal.SIGINT)
        with super().inject_context(context) as params:
            yield params
        if MODE == "closing":
            os.kill(os.getpid(), signal.SIGINT)


async def _launch_interrupted(session: PipesSession, *args: Any, **options: Any) -> Any:
    os.kill(os.getpid(), signal.SIGINT)
    return await _launch(session, *args, **options)


_launch = PipesSession.launch
if MODE == "launching":
    PipesSession.launch = _launch_interrupted  # type: ignore[method-assign, assignment]  # as a signal in that moment

OPTIONS: dict[str, Any] = {
    "context_injector": SignallingInjector(),
    "termination_timeout_seconds": 1.0 if "stubborn" in WORDS else 60.0,
    "forward_termination": "unforwarded" not in WORDS,
}
pipes = AsyncPipesSubprocessClient(**OPTIONS)


def command(number: int, *words: str) -> list[str]:
    return [sys.executable, "-c", SCRIPT, str(FOLDER), str(number), *WORDS, *words]


def suspend(_: object, value: object) -> bool:
    """Dagster's check of an output: it has the step between two yields."""
    if MODE in ("between", "streams, between"):
        (FOLDER / "suspended").touch()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.01)
    return True


async def merged(context: dg.AssetExecutionContext) -> AsyncIterator[Any]:
    """What four streams report, as it comes."""
    words = ["reporting"] if MODE == "streams, between" else []
    streams = [
        pipes.stream(context=context, command=command(number, *(words if number == 4 else [])))
        for number in range(1, 5)
    ]
    tasks = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    while tasks:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            stream = tasks.pop(task)
            yield task.result()
            tasks[asyncio.ensure_future(anext(stream))] = stream


async def launch(context: dg.AssetExecutionContext) -> Any:
    """What the asset does, until it is interrupted."""
    call: dict[str, Any] = {"context": context, "command": command(1)}
    if MODE in ("run", "late", "opening", "launching", "closing"):
        await pipes.run(**{**call, "command": command(1, MODE)})
    elif MODE == "gather":
        await asyncio.gather(*(pipes.run(context=context, command=command(n)) for n in range(1, 5)))
    elif MODE == "group":
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]  # from Python 3.11 on
            for number in range(1, 5):
                group.create_task(pipes.run(context=context, command=command(number)))
    elif MODE == "after a run":
        await pipes.run(**call)
        (FOLDER / "suspended").touch()
        await asyncio.sleep(60)
    elif MODE == "after a stream":
        async for _ in pipes.stream(**call):
            pass
        (FOLDER / "suspended").touch()
        await asyncio.sleep(60)
    elif MODE == "gather of one that has ended":
        ended = pipes.run(context=context, command=command(1, "reporting", "short"))
        await asyncio.gather(ended, pipes.run(context=context, command=command(2)))
    elif MODE == "nested":
        PipesSubprocessClient(**OPTIONS).run(**call)
    elif MODE == "background":
        task = asyncio.create_task(pipes.run(**call))
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.wait([task])
    else:
        raise AssertionError(MODE)


CHECKS = [dg.AssetCheckSpec(name, asset="orders") for name in ("first", "second")]


@dg.asset(
    dagster_type=dg.DagsterType(suspend, name="Suspending"),
    check_specs=CHECKS,
    retry_policy=dg.RetryPolicy(max_retries=2) if "retried" in WORDS else None,
)
async def orders(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no hint of an async generator
    try:
        if MODE.startswith("streams"):
            async for result in merged(context):
                yield result
        elif MODE in ("before", "between", "during", "blocked"):
            words = [] if MODE == "before" else ["reporting"]
            async for result in pipes.stream(context=context, command=command(1, *words)):
                if MODE == "during":
                    (FOLDER / "suspended").touch()
                    await asyncio.sleep(60)
                if MODE == "blocked":
                    (FOLDER / "suspended").touch()
                    time.sleep(60)
                yield result
        else:
            await launch(context)
            yield dg.MaterializeResult()
    finally:
        await asyncio.sleep(0.05)
        (FOLDER / "left").touch()


@dg.asset(name="orders")
def blocking(context: dg.AssetExecutionContext) -> Any:
    try:
        return (
            PipesSubprocessClient(**OPTIONS).run(context=context, command=command(1)).get_results()
        )
    finally:
        (FOLDER / "left").touch()


asset = blocking if MODE == "sync" else orders
defs = dg.Definitions(assets=[asset])


def is_left(thread: threading.Thread) -> bool:
    """Whether a thread is ours or of those that keep the interpreter."""
    is_main = thread is threading.main_thread()
    return not is_main and ("asyncpipes" in thread.name or not thread.daemon)


def main() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        raised = "nothing"
        try:
            dg.materialize([asset], instance=instance)
        except BaseException as error:
            raised = type(error).__name__
        (run,) = instance.get_runs()
        made = [e for e in instance.all_logs(run.run_id) if e.asset_materialization]
        checked = [
            entry
            for entry in instance.all_logs(run.run_id)
            if entry.dagster_event is not None
            and entry.dagster_event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ]
        failures: list[Any] = [
            entry.dagster_event.step_failure_data
            for entry in instance.all_logs(run.run_id)
            if entry.dagster_event is not None and entry.dagster_event.is_step_failure
        ]
    (failure,) = failures
    for thread in filter(is_left, threading.enumerate()):
        thread.join(60)  # a loop's own are told to end when it is closed, and not waited for
    print(
        json.dumps(
            {
                "raised": raised,
                "materializations": len(made),
                "checks": len(checked),
                "error": failure.error.cls_name,
                "source": str(failure.error_source),
                "threads": sorted(t.name for t in threading.enumerate() if is_left(t)),
            }
        )
    )


if __name__ == "__main__":
    main()
