"""``asyncpipes run --file``: several scripts, so many at once, each a line of state."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from anyio import create_task_group

from ..errors import InvalidParameterError, LaunchError, PipesError
from ..protocol.context import PartitionKeyRange
from ..protocol.outcome import Outcome
from . import exit_codes
from .jobs_view import Job, JobsDisplay, LiveJobs, PrintedJobs
from .leaving import leave
from .recording import Recorder
from .run import Display, Request, of_launch
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
    except ValueError as error:
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
    return jobs


def _job(path: str, number: int, row: Any, request: Request) -> Job:
    where = f"{path}: job {number}"
    if not isinstance(row, dict):
        raise InvalidParameterError(f"{where} is no table")
    for key, value in row.items():
        if key not in _KEYS:
            raise InvalidParameterError(f"{where}: `{key}` is none of {', '.join(_KEYS)}")
        types, what = _KEYS[key]
        if not isinstance(value, types) or isinstance(value, bool):
            raise InvalidParameterError(f"{where}: `{key}` must be {what}, got {value!r}")
    if not row.get("command"):
        raise InvalidParameterError(f"{where}: `command` is missing")
    texts = [*_listed(row["command"]), *row.get("assets", ()), *row.get("env", {}).values()]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidParameterError(f"{where}: `command`, `assets` and `env` hold texts alone")
    for key in ("timeout", "grace"):
        if row.get(key, 1) <= 0:
            raise InvalidParameterError(f"{where}: `{key}` must be above 0, got {row[key]!r}")
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
        start, dots, end = row["partition_range"].partition("..")
        if not (start and dots and end):
            raise InvalidParameterError(f"{where}: `partition_range` must be FIRST..LAST")
        context["partition_key_range"] = PartitionKeyRange(start=start, end=end)
    context["extras"] = {**context.get("extras", {}), **row.get("extras", {})}
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
    started = time.monotonic()
    try:
        asyncio.run(_run_all(jobs, at_once or os.cpu_count() or 1, request, shown, interrupts))
    except KeyboardInterrupt:
        shown.close([])
        leave(exit_codes.of_signal(signal.SIGINT), "asyncpipes: interrupted")
    shown.close(_closing(jobs, time.monotonic() - started))
    failed = _first_failure(jobs)
    code = 0 if failed is None else failed.code
    if interrupts.number is not None:
        leave(
            exit_codes.of_signal(interrupts.number),
            "asyncpipes: interrupted; the scripts have been ended",
        )
    if shown.error is not None:
        leave(code or exit_codes.OUTPUT, f"asyncpipes: cannot write to stdout: {shown.error}")
    leave(code)


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
    room = asyncio.Semaphore(at_once)

    async def run(job: Job) -> None:
        async with room:
            if interrupts.number is not None:
                job.state = "not started"
            else:
                await _run_job(job, request, shown, interrupts)
        shown.ended(job)

    async with create_task_group() as group:
        for job in jobs:
            group.start_soon(run, job)


async def _run_job(job: Job, request: Request, shown: JobsDisplay, interrupts: Interrupts) -> None:
    job.state, job.started = "running", time.monotonic()
    outcome: Outcome | None = None
    recorder: Recorder | None = None
    try:
        subscribing = shown.subscribing(job)
        if job.record is not None:
            recorder = Recorder(job.record)
            subscribing.in_threads = [*subscribing.in_threads, recorder]
        result = await run_script(job.script, subscribing, interrupts, forward_stdio="events")
        outcome = result.outcome
        job.code, job.reasons = (
            exit_codes.of_outcome(outcome, strict=request.strict),
            outcome.reasons,
        )
    except LaunchError as error:
        job.code, job.reasons = of_launch(error), [str(error)]
    except TimeoutError:
        job.code, job.reasons = exit_codes.TIMEOUT, ["its events were not printed in time"]
    except InvalidParameterError as error:
        job.code, job.reasons = exit_codes.USAGE, [str(error)]
    except PipesError as error:
        job.code, job.reasons = exit_codes.PROTOCOL, [str(error)]
    if outcome is not None and recorder is not None:
        recorder.close(outcome)
        if recorder.error is not None:
            job.code = job.code or exit_codes.OUTPUT
            job.reasons = [*job.reasons, f"cannot write to {job.record}: {recorder.error}"]
    job.seconds = time.monotonic() - job.started
    job.state = "failed" if job.code else "ok"
    if outcome is not None:
        shown.outcome(job, outcome)
