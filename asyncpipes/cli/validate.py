"""``asyncpipes validate``: each bad line of a file by its number, position and reason."""

from __future__ import annotations

from typing import NoReturn

import click

from ..errors import PipesError
from ..protocol.events import LogEvent
from ..protocol.outcome import Outcome
from . import exit_codes
from .leaving import leave
from .recording import StreamFile
from .tally import Tally
from .text import one_line, safe
from .words import count

#: Characters of a reason: the line's own text may be part of it.
_SHOWN = 400


def validate(path: str) -> NoReturn:
    """Name the bad lines, and leave."""
    tally, bad = Tally(), 0
    try:
        file = StreamFile(path)
        for line in file.lines():
            if not isinstance(line.what, Outcome):
                tally.add(line.what)
            if line.fault is not None:
                bad += 1
                where = f"{safe(path)}:{line.number}: byte {line.position}"
                click.echo(f"{where}: {one_line(line.fault, _SHOWN)}")
    except PipesError as error:
        leave(exit_codes.USAGE, f"asyncpipes: {safe(str(error))}")
    except OSError as error:
        leave(exit_codes.OUTPUT, f"asyncpipes: cannot write to stdout: {error.strerror}")
    verdict = f"NOT OK: {count(bad, 'bad line')}" if bad else "ok: no bad line"
    what = "recording" if file.is_recording else "messages file"
    text = f"asyncpipes: {verdict} in this {what}: {tally.results()}"
    if tally.kinds[LogEvent]:
        text += f", {tally.log_lines()}"
    if file.outcome is None:
        text += "\n  - it has no outcome at its end: it was cut off, or the run goes on"
    elif not file.has_jobs:  # whose they are is not told
        text += "".join(f"\n  - {safe(reason)}" for reason in file.outcome.reasons)
    leave(exit_codes.FAILED if bad else 0, out=text)
