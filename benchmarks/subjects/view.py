"""View: log lines of a script through ``run()``, and through the live view of the command.

The clock runs from before the launch to after the outcome, and after the view's last line.
The view draws on a pseudo-terminal, which a process of its own reads and throws away, as a
terminal on another machine would have its own time. All lines are counted on both sides.
"""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import time

from ..launching import environment, script
from ..message import LostMessageError
from .whole import numbers

Numbers = dict[str, float]


def bare(messages: int) -> Numbers:
    """``run()`` with one sync subscriber that counts."""
    return asyncio.run(_bare(messages))


async def _bare(messages: int) -> Numbers:
    from asyncpipes import LogEvent, run

    count = 0

    def subscriber(event: LogEvent) -> None:
        nonlocal count
        count += 1

    started = time.perf_counter()
    await run(
        script("log_lines", messages),
        env=environment(),
        collect="none",
        subscribers=[(subscriber, LogEvent)],
    )
    ended = time.perf_counter()
    _check(count, messages)
    return numbers(messages, ended - started)


def live(messages: int) -> Numbers:
    """The view, as ``asyncpipes run`` has it on a terminal."""
    from asyncpipes import LogEvent
    from asyncpipes.cli.leaving import PATIENCE
    from asyncpipes.cli.live import Live
    from asyncpipes.cli.running import Interrupts, Script, run_script

    master, slave = pty.openpty()
    with (
        subprocess.Popen(["cat"], stdin=master, stdout=subprocess.DEVNULL) as reader,
        open(slave, "w") as terminal,
    ):
        os.close(master)
        stdout, sys.stdout = sys.stdout, terminal
        os.environ["TERM"] = "xterm-256color"
        command = script("log_lines", messages)
        interrupts = Interrupts()
        started = time.perf_counter()
        view = Live(" ".join(command), "DEBUG", interrupts, PATIENCE)
        running = run_script(
            Script(command, env=environment()),
            view.subscribing(),
            interrupts,
            forward_stdio="events",
        )
        result = asyncio.run(running)
        view.close(result.outcome)
        ended = time.perf_counter()
        sys.stdout = stdout
        if view.error is not None or not result.outcome.ok:
            raise RuntimeError(f"{view.error}, {result.outcome}")
        terminal.close()
        reader.wait()
    _check(view.tally.kinds[LogEvent], messages)
    return numbers(messages, ended - started)


def _check(count: int, messages: int) -> None:
    if count != messages:
        raise LostMessageError(f"{count} lines were counted, and {messages} were logged")
