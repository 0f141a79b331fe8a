"""Emit: a script reports custom messages to a file, as fast as it can.

The clock runs from just before the first call, in the script, to the moment when
another process, this one, sees the last line complete in the file. It looks every
half a millisecond, and both read the same system-wide monotonic clock. Making the
payloads is in it, the same for all; starting the interpreter, opening and closing
the context are not. Afterwards all lines are parsed again and counted.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from ..launching import bootstrap, environment, script
from ..message import LostMessageError, check_file

Numbers = dict[str, float]

#: More than two lines, and ``closed`` may follow the one that is waited for.
_LOOK_BYTES = 2048


def await_each(messages: int) -> Numbers:
    """Our script, which awaits every report."""
    return timed(script("await_each", messages), messages)


def await_some(messages: int) -> Numbers:
    """Our script, which awaits every hundredth report."""
    return timed(script("await_some", messages), messages)


def plain_with(messages: int) -> Numbers:
    """Our script without a loop, in a plain ``with``."""
    return timed(script("plain_with", messages), messages)


def stock_host(messages: int) -> Numbers:
    """Our script under a stock host, which gets pure protocol 0.1."""
    return timed(script("await_some", messages), messages, ours=False)


def stock(messages: int) -> Numbers:
    """The script of ``dagster_pipes``."""
    return timed(script("stock", messages), messages, ours=False)


def floor(messages: int) -> Numbers:
    """Nothing but ``orjson.dumps`` of the message and one write for 256 KiB."""
    return timed(script("floor", messages), messages, ours=False)


def timed(command: list[str], messages: int, *, ours: bool = True) -> Numbers:
    """Run a script that reports ``messages`` messages and prints when it began.

    Raises:
        LostMessageError: not all of them are in the file.
        subprocess.CalledProcessError: the script failed.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        path = str(Path(directory, "messages"))
        Path(path).touch()
        variables = {**environment(), **bootstrap(path, ours=ours)}
        with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE) as process:
            seen_at = _wait_for_last(path, messages - 1, process)
            output, _ = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        check_file(path, messages)
        size = os.path.getsize(path)
    if seen_at is None:
        raise LostMessageError(f"message {messages - 1} never became the last one of the file")
    seconds = seen_at - float(output)
    return {
        "messages": messages,
        "seconds": seconds,
        "per_second": messages / seconds,
        "line_bytes": size / messages,
    }


def _wait_for_last(path: str, index: int, process: subprocess.Popen[bytes]) -> float | None:
    """When the line of message ``index`` was there; None if the script ended without it."""
    forms = (b'"index":%d,' % index, b'"index": %d,' % index)
    fd = os.open(path, os.O_RDONLY)
    try:
        while True:
            ended = process.poll() is not None  # before the look, so that none is missed
            size = os.fstat(fd).st_size
            end = os.pread(fd, _LOOK_BYTES, max(0, size - _LOOK_BYTES))
            if any(form in line for form in forms for line in end.split(b"\n")[:-1]):
                return time.monotonic()
            if ended:
                return None
            time.sleep(0.0005)
    finally:
        os.close(fd)
