"""The commands and their options."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import InvalidParameterError, LaunchError, PipesError
from ..host.result import RunResult
from ..host.session import open_pipes_session
from .render import JsonPrinter, LinePrinter, Printer, summary

#: Exit codes of our own; the script's is passed on otherwise. 124 is what timeout(1)
#: uses, 126 and 127 what shells use, 74 and 76 are EX_IOERR and EX_PROTOCOL of
#: sysexits.h.
EXIT_OUTPUT = 74
EXIT_PROTOCOL = 76
EXIT_TIMEOUT = 124
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127

#: How long our own stdout and stderr may take for the last line, in seconds.
_PATIENCE = 2.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="asyncpipes %(version)s")
def cli() -> None:
    """Dagster Pipes for asyncio: run scripts and see what they report."""


class _Extra(click.ParamType[tuple[str, Any]]):
    """``KEY=VALUE``, where the value is JSON, or else text."""

    name = "KEY=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not separator or not key:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            return key, text


@cli.command("run", context_settings={"allow_interspersed_args": False})
@click.option(
    "--asset",
    "assets",
    multiple=True,
    metavar="KEY",
    help="An asset the script is to materialize; repeatable. Parts of a key are joined by '/'.",
)
@click.option("--partition", metavar="KEY", help="The partition it is to work on.")
@click.option(
    "--extra",
    "extras",
    multiple=True,
    type=_Extra(),
    help="A value for the script; JSON, or else text. Repeatable.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End the script (SIGINT, SIGTERM, SIGKILL) after this long.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object a line for each event, and nothing else, on stdout.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(
    assets: tuple[str, ...],
    partition: str | None,
    extras: tuple[tuple[str, Any], ...],
    timeout: float | None,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND as a Pipes script, and show what it reports while it runs.

    Put -- before it. Its stdout and stderr are passed on; with --json they are events.

    \b
    Examples:
      asyncpipes run --asset orders -- python external_code.py
      asyncpipes run --asset sales/2024 --extra limit=10 --timeout 60 -- python job.py
      asyncpipes run --json -- python job.py > events.jsonl

    \b
    Exit code: that of COMMAND; 128 + N if signal N ended it; otherwise
      74   it ended well, but stdout did not take what was to be printed
      76   it ended with 0, but messages were lost or malformed, it failed inside
           its context, never opened or closed one, or left processes running
      124  --timeout passed
      126  COMMAND cannot be started
      127  COMMAND was not found
      2    the options are wrong
    """
    printer: Printer = JsonPrinter() if as_json else LinePrinter()
    try:
        result = asyncio.run(
            _run(
                list(command),
                printer,
                timeout=timeout,
                forward_stdio="events" if as_json else True,
                asset_keys=list(assets) or None,
                partition_key=partition,
                extras=dict(extras),
            )
        )
    except InvalidParameterError as error:
        raise click.UsageError(str(error)) from error
    except LaunchError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        _leave(EXIT_NOT_FOUND if missing else EXIT_NOT_EXECUTABLE, f"asyncpipes: {error}")
    except PipesError as error:
        _leave(EXIT_PROTOCOL, f"asyncpipes: {error}")
    except KeyboardInterrupt:
        _leave(128 + signal.SIGINT, "asyncpipes: interrupted; the script has been ended")
    except TimeoutError:
        _leave(EXIT_TIMEOUT, "asyncpipes: --timeout passed, and stdout has not taken all events")
    except asyncio.CancelledError:  # SIGTERM: see _run()
        _leave(128 + signal.SIGTERM, "asyncpipes: terminated; the script has been ended")
    else:
        code = exit_code(result)
        if printer.error is not None:
            text = f"asyncpipes: cannot write to stdout: {printer.error}"
            _leave(code or EXIT_OUTPUT, f"{text}\n{summary(result)}")
        _leave(code, summary(result), err=as_json)


def _leave(code: int, text: str, *, err: bool = True) -> NoReturn:
    """Say ``text`` and exit with ``code``, also where nobody reads what we write."""

    def say() -> None:
        try:
            click.echo(text, err=err)
            if sys.stdout is not None:
                sys.stdout.flush()
        except (OSError, ValueError):
            pass  # our own output is closed: there is nobody to tell

    # A write that stalls never returns, and the interpreter would wait for its thread.
    threading.Thread(target=say).start()
    ends_at = time.monotonic() + _PATIENCE
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(ends_at - time.monotonic(), 0))
            if thread.is_alive():
                os._exit(code)
    sys.exit(code)


async def _run(
    command: list[str], printer: Printer, *, timeout: float | None, **options: Any
) -> RunResult:
    task = asyncio.current_task()
    assert task is not None, "run by asyncio.run()"
    if sys.platform != "win32":
        # Ctrl-C is asyncio.run()'s; SIGTERM ends the script in the same way.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    loop, late = asyncio.get_running_loop(), False
    watchdog: asyncio.TimerHandle | None = None
    ends_at = math.inf if timeout is None else loop.time() + timeout

    def too_late() -> None:
        nonlocal late
        late = True
        task.cancel()

    try:
        async with open_pipes_session(strict=False, **options) as session:
            session.subscribe(printer, in_thread=True)
            await session.launch(command)
            if await session.wait_drained(timeout) and timeout is not None:
                # The script has ended in time; to print what it said must not take longer.
                watchdog = loop.call_at(ends_at, too_late)
    except asyncio.CancelledError:
        if late:
            raise TimeoutError from None
        raise
    finally:
        if watchdog is not None:
            watchdog.cancel()
    return session.result


def exit_code(result: RunResult) -> int:
    """The exit code of ``asyncpipes run`` for ``result``."""
    outcome = result.outcome
    if outcome.timed_out:
        return EXIT_TIMEOUT
    if outcome.signal is not None:
        return 128 + outcome.signal
    if outcome.exit_code:
        return outcome.exit_code
    return 0 if outcome.ok else EXIT_PROTOCOL
