"""Runs of a script, by our host or the stock one, and what each of them reports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from asyncpipes import (
    CustomMessageEvent,
    LogEvent,
    NotOpenError,
    OutcomeError,
    RunResult,
    open_pipes_session,
)
from asyncpipes.channels import FileChannel
from tests.support import PATIENCE

if TYPE_CHECKING:
    from tests.faults.subjects import Subject

#: Marks the processes of one subject, in their environments.
MARK = "ASYNCPIPES_FAULT_SUBJECT"


@dataclass
class Report:
    """What a run has come to, by the host that ran it.

    Attributes:
        ok: whether the host calls the run a success.
        problems: what it has against it, in words.
        opened, closed: whether the script's messages of that name arrived.
        custom: payloads of custom messages.
        logs: level and message.
        materializations: asset key and metadata, of which only the plain values.
        checks: asset key, name and whether it passed.
        exception: the one with which the script closed, as the host shows it.
        stdout, stderr: what the host forwarded of the script's output.
        hung: the harness had to end the run.
        result: what our host returned.
    """

    ok: bool = False
    problems: list[str] = field(default_factory=list)
    opened: bool = False
    closed: bool = False
    custom: list[Any] = field(default_factory=list)
    logs: list[tuple[str, str]] = field(default_factory=list)
    materializations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    checks: list[tuple[str, str, bool]] = field(default_factory=list)
    exception: str | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    hung: bool = False
    result: RunResult | None = None


@dataclass(frozen=True)
class Options:
    """Of a run.

    Attributes:
        keys: the assets of the step.
        checks: the checks that are declared for the first asset.
        extras: for the script.
        include_stdio: ask the script to copy its output into its messages.
        forward: whether the host forwards the script's output to its own.
        grace: seconds that a script is given when it is to end.
        drain: seconds that our host waits for writers that have not closed.
        ours: more options of our session.
    """

    keys: Sequence[str] = ("orders",)
    checks: Sequence[str] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)
    include_stdio: bool = False
    forward: bool = True
    grace: float = 10.0
    drain: float = 0.5
    ours: Mapping[str, Any] = field(default_factory=dict)


class Run:
    """A run that goes on. One at a time for a subject."""

    def interrupt(self) -> None:
        """End it from outside: our host is cancelled, the stock one gets SIGINT."""
        raise NotImplementedError

    async def report(self) -> Report:
        """Wait for the end."""
        raise NotImplementedError

    def close(self) -> None:
        """Have it leave nothing to who runs next, whatever became of its test."""


class OurRun(Run):
    def __init__(self, subject: Subject, command: list[str], options: Options) -> None:
        self._subject = subject
        self._session = open_pipes_session(
            asset_keys=list(options.keys),
            extras=dict(options.extras),
            **{
                "channel": FileChannel(include_stdio_in_messages=options.include_stdio),
                "collect": "all",
                "forward_stdio": options.forward,
                "grace": options.grace,
                "drain_timeout": options.drain,
                **options.ours,
            },
        )
        self._task = asyncio.ensure_future(self._run(command))

    def interrupt(self) -> None:
        self._task.cancel()

    async def _run(self, command: list[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            files = [self._open(patch, stream) for stream in ("stdout", "stderr")]
            try:
                async with self._session as session:
                    await session.launch(command)
                    await session.wait_drained()
            finally:
                for file in files:
                    file.close()

    def _open(self, patch: pytest.MonkeyPatch, stream: str) -> TextIO:
        """Put a file in the place of one of this process's streams, as a shell would."""
        file = open(self._subject.folder / stream, "w", encoding="utf-8")  # noqa: SIM115
        patch.setattr(sys, stream, file)
        patch.setattr(sys, f"__{stream}__", file)
        return file

    async def report(self) -> Report:
        if not await self._subject.ends(self._task):
            # The processes first: a host that hangs because of them can go on then.
            self._subject.end()
            self._task.cancel()
            done, _ = await asyncio.wait([self._task], timeout=PATIENCE)
            assert done, "the host hangs, with no process left"
            return Report(problems=["the run hung"], hung=True)
        if self._task.cancelled():
            report = self._cancelled_report()
        else:
            error = self._task.exception()
            if error is not None and not isinstance(error, OutcomeError):
                raise error
            report = _our_report(self._session.result)
            assert report.ok is (error is None), "strict, the default, raises unless all is well"
        report.stdout, report.stderr = _outputs(self._subject.folder)
        self._subject.look_at(report)
        return report

    def _cancelled_report(self) -> Report:
        try:
            return _our_report(self._session.result)
        except NotOpenError:
            return Report(problems=["cancelled while the session opened"])


def _our_report(result: RunResult) -> Report:
    outcome = result.outcome
    return Report(
        ok=outcome.ok,
        problems=list(outcome.reasons),
        opened=outcome.opened,
        closed=outcome.closed,
        custom=[e.payload for e in result.events if isinstance(e, CustomMessageEvent)],
        logs=[(e.level, e.message) for e in result.events if isinstance(e, LogEvent)],
        materializations=[
            (e.asset_key, {label: value.raw_value for label, value in e.metadata.items()})
            for e in result.materializations
        ],
        checks=[(e.asset_key, e.check_name, e.passed) for e in result.checks],
        exception=None if outcome.exception is None else str(outcome.exception),
        result=result,
    )


class StockHosts:
    """The process that forks a stock host for each run; started when first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self, request: Mapping[str, Any]) -> int:
        """Begin a run; return the pid of its host, which leads a process group."""
        if self._process is None:
            # It outlives the subject of the test that is the first to need it.
            environment = {name: value for name, value in os.environ.items() if name != MARK}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.stock_host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
                env=environment,
            )
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._answer())

    def wait(self) -> None:
        """Wait until the run that was begun is over."""
        assert self._answer() == "over"

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks stock hosts has ended: see its stderr"
        return line.strip()

    def close(self) -> None:
        """End that process."""
        process, self._process = self._process, None
        if process is not None:
            with process:
                assert process.stdin is not None
                process.stdin.close()  # at whose end it returns


class StockRun(Run):
    def __init__(self, subject: Subject, command: list[str], options: Options) -> None:
        self._folder = subject.folder
        self._hosts = subject.stock_hosts
        request = asdict(options)
        del request["ours"], request["drain"]
        request.update(command=command, folder=str(subject.folder), environment=dict(os.environ))
        self._pid = self._hosts.start(request)
        self._hung = False
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._give_up, args=(subject.pauses(),))
        self._watch.start()

    def _give_up(self, pauses: Iterator[float]) -> None:
        if not any(self._over.wait(pause) for pause in pauses):
            self._hung = True
            self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(self._pid, signal.SIGKILL)

    def interrupt(self) -> None:
        with suppress(ProcessLookupError):  # it was given up: its report says so
            os.kill(self._pid, signal.SIGINT)

    def _wait(self) -> None:
        self._hosts.wait()
        self._over.set()
        self._watch.join()

    def close(self) -> None:
        if not self._over.is_set():
            self._kill()
            self._wait()

    async def report(self) -> Report:
        await asyncio.to_thread(self._wait)
        path = self._folder / "report"
        if not path.exists():
            return Report(problems=["the host was ended"], hung=self._hung)
        report = Report(**json.loads(path.read_text()))
        path.unlink()
        for name in ("logs", "materializations", "checks"):
            setattr(report, name, [tuple(entry) for entry in getattr(report, name)])
        report.stdout, report.stderr = _outputs(self._folder)
        return report


def _outputs(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "stdout").read_bytes(), (folder / "stderr").read_bytes()
