"""``asyncpipes validate``: each bad line of a file by its number, position and reason."""

from __future__ import annotations

from typing import NoReturn

import click

from ..errors import PipesError
from ..protocol.outcome import Outcome
from . import exit_codes
from .leaving import leave
from .recording import StreamFile
from .tally import Tally, count
from .text import safe


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
                click.echo(f"{path}:{line.number}: byte {line.position}: {safe(line.fault)}")
    except PipesError as error:
        leave(exit_codes.USAGE, f"asyncpipes: {error}")
    except OSError as error:
        leave(exit_codes.OUTPUT, f"asyncpipes: cannot write to stdout: {error.strerror}")
    what = "recording" if file.is_recording else "messages file"
    lines = [f"{what}: {tally.results()}", tally.others(), count(bad, "bad line")]
    text = f"asyncpipes: {'NOT OK' if bad else 'ok'}: {', '.join(filter(None, lines))}"
    if file.outcome is None:
        text += "\n  - it has no outcome at its end: it was cut off, or the run goes on"
    else:
        text += "".join(f"\n  - {safe(reason)}" for reason in file.outcome.reasons)
    leave(exit_codes.FAILED if bad else 0, text, err=False)
