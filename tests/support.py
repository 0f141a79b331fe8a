"""What several test files need: channel writers that misbehave, and scripts in processes."""

from __future__ import annotations

import base64
import gc
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asyncpipes.channels.base import ChannelWriter, Guarantees
from asyncpipes.errors import ChannelError

#: For what must happen, in seconds: long enough for any machine, and only ever waited
#: for by a test that fails.
PATIENCE = 120.0

DATA: dict[str, Any] = {
    "asset_keys": ["orders"],
    "code_version_by_asset_key": {"orders": None},
    "provenance_by_asset_key": {"orders": None},
    "partition_key": None,
    "partition_key_range": None,
    "partition_time_window": None,
    "run_id": "0c3f2a",
    "job_name": None,
    "retry_number": 0,
    "extras": {},
}
OURS = {"asyncpipes": {"v": 1}}


def encoded(value: Any) -> str:
    """A bootstrap value as hosts encode it: JSON, zlib, base64."""
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


def bootstrap(messages: Mapping[str, Any] | None = None, **data: Any) -> dict[str, str]:
    """Both bootstrap variables; ``messages`` are the messages params.

    The messages file is there already, as a host would have it.
    """
    path = (messages or {}).get("path")
    if path is not None and os.path.isabs(path) and os.path.isdir(os.path.dirname(path)):
        Path(path).touch()
    return {
        "DAGSTER_PIPES_CONTEXT": encoded({"data": {**DATA, **data}}),
        "DAGSTER_PIPES_MESSAGES": encoded(dict(messages or {})),
    }


def parsed(lines: bytes) -> list[dict[str, Any]]:
    """The messages in bytes of a channel, every line of which must be complete JSON."""
    assert not lines or lines.endswith(b"\n"), lines[-100:]
    return [json.loads(line) for line in lines.splitlines()]


def methods(messages: list[dict[str, Any]]) -> list[str]:
    return [message["method"] for message in messages]


def logged(messages: list[dict[str, Any]]) -> list[str]:
    """The texts of the log messages."""
    return [m["params"]["message"] for m in messages if m["method"] == "log"]


class RecordingWriter(ChannelWriter):
    """Keeps what it is given. ``immediate`` decides whether results are written inline."""

    def __init__(self, *, immediate: bool = False) -> None:
        self.guarantees = Guarantees(
            ordered=True, immediate=immediate, acknowledged=False, durable=False
        )
        self.batches: list[bytes] = []
        self.opened = 0
        self.closed = 0

    def open(self) -> None:
        self.opened += 1

    def write(self, lines: bytes) -> None:
        self.batches.append(lines)

    def close(self) -> None:
        self.closed += 1

    @property
    def messages(self) -> list[dict[str, Any]]:
        return parsed(b"".join(self.batches))


class GatedWriter(RecordingWriter):
    """A slow channel: every write waits until the test lets it through."""

    def __init__(self, *, immediate: bool = False) -> None:
        super().__init__(immediate=immediate)
        self.entered = threading.Semaphore(0)
        self._gate = threading.Semaphore(0)
        self._open = threading.Event()

    def write(self, lines: bytes) -> None:
        self.entered.release()
        if not self._open.is_set():
            self._gate.acquire()
        super().write(lines)

    def let_through(self) -> None:
        """Let one write through."""
        self._gate.release()

    def open_for_good(self) -> None:
        """Let this and all other writes through."""
        self._open.set()
        self._gate.release()

    def wait_entered(self) -> None:
        """Wait until another write has begun."""
        assert self.entered.acquire(timeout=PATIENCE), "no write has begun"


class FailingWriter(RecordingWriter):
    """Raises at writes: the first ``times`` of them, or all."""

    def __init__(
        self, error: Exception, *, times: int | None = None, immediate: bool = False
    ) -> None:
        super().__init__(immediate=immediate)
        self.error = error
        self.left = times
        self.failed = threading.Event()

    def write(self, lines: bytes) -> None:
        if self.left is None or self.left > 0:
            if self.left is not None:
                self.left -= 1
            self.failed.set()
            raise self.error
        super().write(lines)


def broken() -> ChannelError:
    return ChannelError("the cable is cut")


def busy() -> ChannelError:
    return ChannelError("the disk is full", transient=True)


def run_script(
    code: str, environment: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@contextmanager
def started_script(
    code: str, environment: Mapping[str, str], **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A script that runs beside the test, its stdin and stdout pipes; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again; for what another process does to a file, and tells nobody."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError(f"in vain: {what}")


def wait_for_line(path: Path, part: str) -> None:
    """Wait until a complete line with ``part`` in it is in the file."""
    wait_until(
        lambda: any(
            part.encode() in line and line.endswith(b"\n")
            for line in path.read_bytes().splitlines(keepends=True)
        ),
        f"{part!r} in {path}",
    )


def in_thread(function: Callable[[], Any]) -> Any:
    """What ``function`` returns or raises in a thread of its own, with no running loop."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert outcome, f"{function} does not return"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def open_fds() -> set[int]:
    """The descriptors of this process that stay open."""
    # One of those listed was open for the listing alone.
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


def settled_fds() -> set[int]:
    """The same, when what earlier tests have left to the garbage collector is closed."""
    gc.collect()
    return open_fds()


def refuse_threads(loop: Any) -> None:
    """Have no thread any more in the running loop, as when the interpreter's main one has ended."""

    def refuse(*args: object) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    loop.run_in_executor = refuse
