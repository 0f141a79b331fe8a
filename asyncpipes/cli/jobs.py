"""``asyncpipes run --file``: several scripts, so many at once, each a line of state."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import NoReturn

from anyio import create_task_group, to_thread

from ..errors import InvalidParameterError, PipesError
from ..protocol.events import ExternalStreamEvent
from ..protocol.outcome import Outcome
from . import exit_codes
from .display import Display
from .jobs_file import Job, read_jobs
from .jobs_view import JobsDisplay, LiveJobs, PrintedJobs
from .leaving import interrupted, leave, leave_at_once
from .recording import Recorder
from .render import left_out_words
from .running import RECORDING, Ending, Interrupts, Request, run_script
from .tally import Tally
from .text import one_line, safe
from .words import count, duration


def run_file(path: str, at_once: int | None, request: Request, display: Display) -> NoReturn:
    """Run the jobs of a file, show them, and leave with the code of the first that failed.

    Raises:
        InvalidParameterError: the file, or a value in it, is wrong.
    """
    if request.record is not None:
        raise InvalidParameterError(
            "--record is for one script: give jobs a `record` each, with --file"
        )
    jobs = read_jobs(path, request)
    interrupts = Interrupts()
    shown: JobsDisplay = PrintedJobs(jobs, display)
    if display.kind == "live":
        shown = LiveJobs(jobs, display, interrupts)

    def at_last() -> None:
        shown.close([])
        code = exit_codes.of_signal(interrupts.number or signal.SIGINT)
        leave_at_once(code, "asyncpipes: interrupted twice; the scripts have been killed")

    interrupts.at_last = at_last
    started = time.monotonic()
    try:
        asyncio.run(_run_all(jobs, at_once or os.cpu_count() or 1, request, shown, interrupts))
    except KeyboardInterrupt:
        shown.close([])
        leave(exit_codes.of_signal(signal.SIGINT), "asyncpipes: interrupted")
    _tell_and_leave(jobs, time.monotonic() - started, shown, interrupts)


def _tell_and_leave(
    jobs: Sequence[Job], seconds: float, shown: JobsDisplay, interrupts: Interrupts
) -> NoReturn:
    closing = _closing(jobs, seconds)
    out, err = shown.close(closing)
    failed, words = _first_failure(jobs), []
    code = 0 if failed is None else failed.code
    if interrupts.number is not None:
        code = exit_codes.of_signal(interrupts.number)
        words.append(f"asyncpipes: {interrupted(interrupts.number)}; the scripts have been ended")
    if shown.error is not None:
        code = code or exit_codes.OUTPUT
        words.append(f"asyncpipes: cannot write to stdout: {shown.error}")
        out, err = "", "\n".join(closing)
    leave(code, "\n".join(filter(None, [*words, err])), out)


def _first_failure(jobs: Sequence[Job]) -> Job | None:
    failed = [job for job in jobs if job.state == "failed"]
    return min(failed, key=lambda job: job.started + job.seconds, default=None)


def _closing(jobs: Sequence[Job], seconds: float) -> list[str]:
    total = Tally()
    for job in jobs:
        total.merge(job.tally)
    good = sum(job.state == "ok" for job in jobs)
    verdict = "ok" if good == len(jobs) else "NOT OK"
    lines = [
        f"asyncpipes: {verdict}: {good} of {count(len(jobs), 'job')} ok after"
        f" {duration(seconds)}: {total.results()}"
    ]
    failed = _first_failure(jobs)
    if failed is not None:
        lines.append(f"  the first that failed: {safe(failed.name)}, with {failed.code}")
        lines += [f"  - {safe(reason)}" for reason in failed.reasons]
    for job in jobs:
        lines += [f"  {safe(job.name)}: {words}" for words in left_out_words(job.left_out)]
    return lines


#: Of a job that had to wait until it was too late.
_NOT_STARTED = Outcome(cancelled=True, reasons=("it was not started: interrupted before that",))
#: Lines of a failed job's stderr that are shown.
_STDERR_LINES = 10


async def _run_all(
    jobs: Sequence[Job], at_once: int, request: Request, shown: JobsDisplay, interrupts: Interrupts
) -> None:
    interrupts.install()
    room = asyncio.Semaphore(at_once)

    async def run(job: Job) -> None:
        outcome = _NOT_STARTED
        async with room:
            if interrupts.number is not None:
                job.state = "not started"
            else:
                outcome = await _run_job(job, request, shown, interrupts)
        if not await interrupts.printing(lambda: shown.ended(job, outcome)):
            shown.error = shown.error or "it has stalled"

    async with create_task_group() as group:
        for job in jobs:
            group.start_soon(run, job)
    interrupts.over()


async def _run_job(
    job: Job, request: Request, shown: JobsDisplay, interrupts: Interrupts
) -> Outcome:
    job.state, job.started = "running", time.monotonic()
    subscribing = shown.subscribing(job)
    recorder: Recorder | None = None
    try:
        if job.record is not None:
            recorder = await to_thread.run_sync(Recorder, job.record)
            subscribing.in_threads = {**subscribing.in_threads, RECORDING: recorder}
    except PipesError as error:
        ending = Ending.of_fault(exit_codes.OUTPUT, str(error))
    else:
        ending = await run_script(
            job.script, subscribing, interrupts, strict=request.strict, forward_stdio="events"
        )
    job.seconds = time.monotonic() - job.started
    job.tally.kinds[ExternalStreamEvent] += subscribing.uncounted
    job.left_out = subscribing.left_out
    job.code, job.reasons = ending.code, list(ending.outcome.reasons)
    if recorder is not None:
        left_out = job.left_out.get(RECORDING, 0)
        await to_thread.run_sync(recorder.close, ending.outcome, left_out)
        if recorder.error is not None:
            job.code = job.code or exit_codes.OUTPUT
            job.reasons.append(f"cannot write to {recorder.path}: {recorder.error}")
    if job.code:
        job.stderr = [one_line(line, 400) for line in ending.stderr.splitlines()[-_STDERR_LINES:]]
    job.state = "failed" if job.code else "ok"
    return ending.outcome
