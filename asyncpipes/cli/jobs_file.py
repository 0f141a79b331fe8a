"""The file of ``asyncpipes run --file``: its jobs, checked before the first one starts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidParameterError
from .parameters import to_range
from .running import Request, Script, check_context
from .tally import Tally
from .words import duration

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

State = Literal["waiting", "running", "ok", "failed", "not started"]

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


@dataclass
class Job:
    """A script of the file, and how it is doing.

    Attributes:
        name: of the file, or made of its number.
        script: what is run.
        record: where to, if it is to be recorded.
        state: how it is doing.
        tally: its counts.
        session_state: what its session is doing, asked whenever it is shown.
        seconds: how long it took, or since when it runs.
        code: its exit code, once it has ended.
        reasons: why it failed.
        stderr: the last lines that it wrote there.
        left_out: pieces of its output that came too fast, by for what.
    """

    name: str
    script: Script
    record: str | None = None
    state: State = "waiting"
    tally: Tally = field(default_factory=Tally)
    session_state: Callable[[], str] = lambda: "starting"
    started: float = 0.0
    seconds: float = 0.0
    code: int = 0
    reasons: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """How it ended, in words."""
        if self.state == "not started":
            return "not started"
        verdict = "ok" if self.state == "ok" else f"NOT OK ({self.code})"
        return f"{verdict} after {duration(self.seconds)}: {self.tally.results()}"


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
    for key in data if isinstance(data, dict) else ():
        if key != "job":
            raise InvalidParameterError(f"{path}: {key!r} is not known, `job` is all it has")
    if not isinstance(rows, list) or not rows:
        what = '{"job": [...]}' if path.endswith(".json") else "[[job]]"
        raise InvalidParameterError(f"{path} has no jobs: it needs {what}, each with a `command`")
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
    if "\0" in row.get("record", "") or row.get("record") == "":
        raise InvalidParameterError(f"{where}: `record` is no file's name: {row['record']!r}")
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
        if not 0 < row.get(key, 1) <= sys.float_info.max:  # JSON has integers beyond it
            raise InvalidParameterError(f"{where}: `{key}` must be above 0, got {row[key]!r}")
    if not os.path.isdir(cwd := row.get("cwd", ".")):
        raise InvalidParameterError(f"{where}: `cwd` is no directory: {cwd!r}")
    script = replace(
        request.script(row["command"]),
        context=_context(where, row, request),
        env={**request.env, **row.get("env", {})},
        cwd=row.get("cwd", request.cwd),
        timeout=row.get("timeout", request.timeout),
        grace=row.get("grace", request.grace),
    )
    return Job(row.get("name", f"job {number}"), script, row.get("record"))


def _context(where: str, row: Mapping[str, Any], request: Request) -> Mapping[str, Any]:
    """The fields of a job's context, over those of the options."""
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
        check_context(context)
    except InvalidParameterError as error:
        raise InvalidParameterError(f"{where}: {error}") from error
    return context


def _listed(command: str | list[str]) -> list[str]:
    return [command] if isinstance(command, str) else command
