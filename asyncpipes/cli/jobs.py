"""``asyncpipes run --file``: several scripts, so many at once, each a line of state."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from anyio import CapacityLimiter, create_task_group, to_thread

from ..errors import InvalidParameterError, LaunchError, PipesError
from ..protocol.codec import dumps
from ..protocol.context import build_context
from ..protocol.events import ExternalStreamEvent
from ..protocol.outcome import Outcome
from . import exit_codes
from .jobs_view import Job, JobsDisplay, LiveJobs, PrintedJobs
from .leaving import leave, leave_at_once
from .parameters import to_range
from .recording import Recorder
from .run import Display, Request, interrupted, of_launch
from .running import Interrupts, run_script
from .tally import Tally, count
from .text import safe
from .view import duration

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What a job of the file may say, with the type of its value.
_KEYS: Mapping[str, tuple[tuple[type[Any], ...], str]] = {
    "name": ((str,), "a text"),
    "command": ((str, list), "a text, or a list of texts"),
    "assets": ((list,), "a list of texts"),
    "partition": ((str,), "a text"),
    "partition_range": ((str,), "a text, FIRST..LAST"),
    "extras": ((dict,), "a table"),
    "run_id": ((str,), "a text"),
    "job_name": ((str,), "a text"),
    "env": ((dict,), "a table of texts"),
    "cwd": ((str,), "a text"),
    "timeout": ((int, float), "a number of seconds"),
    "grace": ((int, float), "a number of seconds"),
    "record": ((str,), "a text, the file's name"),
}


def read_jobs(path: str, request: Request) -> list[Job]:
    """The jobs of a file; what they do not say is as the options say.

    Raises:
        InvalidParameterError: the file is not as it should be; names job and key.
    """
    try:
        content = Path(path).read_bytes()
        data = json.loads(content) if path.endswith(".json") else tomllib.loads(content.decode())
    except OSError as error:
        raise InvalidParameterError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.endswith(".json") else "TOML"
        raise InvalidParameterError(f"{path} is not {kind}: {error}") from error
    rows = data.get("job") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InvalidParameterError(f"{path} has no jobs: it needs [[job]], each with a `command`")
    jobs = [_job(path, number, row, request) for number, row in enumerate(rows, 1)]
    names = [job.name for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise InvalidParameterError(f"{path}: two jobs have the name {name!r}")
    records = [os.path.realpath(job.record) for job in jobs if job.record is not None]
    for record in records:
        if records.count(record) > 1:
            raise InvalidParameterError(f"{path}: two jobs have the `record` {record!r}")
    return jobs


def _job(path: str, number: int, row: Any, request: Request) -> Job:
    where = f"{path}: job {number}"
    if not isinstance(row, dict):
        raise InvalidParameterError(f"{where} is no table")
    for key, value in row.items():
        if key not in _KEYS:
            raise InvalidParameterError(f"{where}: {key!r} is none of {', '.join(_KEYS)}")
        types, what = _KEYS[key]
        if not isinstance(value, types) or isinstance(value, bool):
            raise InvalidParameterError(f"{where}: `{key}` must be {what}, got {value!r}")
    if row.get("name") == "":
        raise InvalidParameterError(f"{where}: `name` is empty")
    if "partition" in row and "partition_range" in row:
        raise InvalidParameterError(f"{where}: give either `partition` or `partition_range`")
    if not row.get("command"):
        raise InvalidParameterError(f"{where}: `command` is missing")
    texts = [*_listed(row["command"]), *row.get("assets", ()), *row.get("env", {}).values()]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidParameterError(f"{where}: `command`, `assets` and `env` hold texts alone")
    for key in ("timeout", "grace"):
        if not 0 < row.get(key, 1) < math.inf:
            raise InvalidParameterError(f"{where}: `{key}` must be above 0, got {row[key]!r}")
    if not os.path.isdir(cwd := row.get("cwd", ".")):
        raise InvalidParameterError(f"{where}: `cwd` is no directory: {cwd!r}")
    context = dict(request.context)
    if "partition" in row or "partition_range" in row:
        context.pop("partition_key", None)
        context.pop("partition_key_range", None)
    for key, name in (
        ("assets", "asset_keys"),
        ("partition", "partition_key"),
        ("run_id", "run_id"),
        ("job_name", "job_name"),
    ):
        if key in row:
            context[name] = row[key]
    if "partition_range" in row:
        try:
            context["partition_key_range"] = to_range(row["partition_range"])
        except ValueError as error:
            raise InvalidParameterError(f"{where}: `partition_range` {error}") from error
    context["extras"] = {**context.get("extras", {}), **row.get("extras", {})}
    try:
        # As when it is launched, which may be long after the first ones.
        dumps(build_context(**context).to_wire(), where="context")
    except InvalidParameterError as error:
        raise InvalidParameterError(f"{where}: {error}") from error
    script = replace(
        request.script(row["command"]),
        context=context,
        env={**request.env, **row.get("env", {})},
        cwd=row.get("cwd", request.cwd),
        timeout=row.get("timeout", request.timeout),
        grace=row.get("grace", request.grace),
    )
    return Job(row.get("name", f"job {number}"), script, row.get("record"))


def _listed(command: str | list[str]) -> list[str]:
    return [command] if isinstance(command, str) else command


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
    shown: JobsDisplay = LiveJobs(jobs) if display.kind == "live" else PrintedJobs(jobs, display)
    interrupts = Interrupts()

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
    return lines


async def _run_all(
    jobs: Sequence[Job], at_once: int, request: Request, shown: JobsDisplay, interrupts: Interrupts
) -> None:
    interrupts.install()
    room, printing = asyncio.Semaphore(at_once), CapacityLimiter(1)

    async def run(job: Job) -> None:
        outcome: Outcome | None = None
        async with room:
            if interrupts.number is not None:
                job.state = "not started"
            else:
                outcome = await _run_job(job, request, shown, interrupts)
        await interrupts.printing(lambda: shown.ended(job, outcome), printing)

    async with create_task_group() as group:
        for job in jobs:
            group.start_soon(run, job)


async def _run_job(
    job: Job, request: Request, shown: JobsDisplay, interrupts: Interrupts
) -> Outcome | None:
    job.state, job.started = "running", time.monotonic()
    outcome: Outcome | None = None
    recorder: Recorder | None = None
    subscribing = shown.subscribing(job)
    try:
        if job.record is not None:
            recorder = await to_thread.run_sync(Recorder, job.record)
            subscribing.in_threads = [*subscribing.in_threads, recorder]
    except PipesError as error:
        _ended(job, exit_codes.OUTPUT, [str(error)])
        return None
    code, reasons = 0, []
    try:
        result = await run_script(job.script, subscribing, interrupts, forward_stdio="events")
        outcome = result.outcome
        code = exit_codes.of_outcome(outcome, strict=request.strict)
        reasons = list(outcome.reasons)
    except LaunchError as error:
        code, reasons = of_launch(error), [str(error)]
        outcome = Outcome(reasons=(str(error),))
    except TimeoutError:
        code, reasons = exit_codes.TIMEOUT, ["its events were not printed in time"]
    except InvalidParameterError as error:
        code, reasons = exit_codes.USAGE, [str(error)]
    except PipesError as error:
        code, reasons = exit_codes.PROTOCOL, [str(error)]
    job.tally.kinds[ExternalStreamEvent] += subscribing.dropped
    if outcome is not None and recorder is not None:
        await to_thread.run_sync(recorder.close, outcome)
        if recorder.error is not None:
            code = code or exit_codes.OUTPUT
            reasons.append(f"cannot write to {recorder.path}: {recorder.error}")
    _ended(job, code, reasons)
    return outcome


def _ended(job: Job, code: int, reasons: Sequence[str]) -> None:
    job.code, job.reasons = code, reasons
    job.seconds = time.monotonic() - job.started
    job.state = "failed" if code else "ok"
