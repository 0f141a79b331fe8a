"""The commands and their options."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import click

from .. import __version__
from ..errors import InvalidParameterError, LaunchError, OutcomeError, PipesError
from ..host.result import RunResult
from ..host.session import run
from .render import JsonPrinter, LinePrinter, summary

#: Exit codes of our own; the script's is passed on otherwise. 124 is what timeout(1)
#: uses, 126 and 127 what shells use, 76 is EX_PROTOCOL of sysexits.h.
EXIT_PROTOCOL = 76
EXIT_TIMEOUT = 124
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


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
      76   it ended with 0, but messages were lost or malformed, it failed inside
           its context, or it never opened or closed one
      124  --timeout passed
      126  COMMAND cannot be started
      127  COMMAND was not found
      2    the options are wrong
    """
    printer = JsonPrinter() if as_json else LinePrinter()
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
        click.echo(f"asyncpipes: {error}", err=True)
        missing = isinstance(error.__cause__, FileNotFoundError)
        sys.exit(EXIT_NOT_FOUND if missing else EXIT_NOT_EXECUTABLE)
    except PipesError as error:
        click.echo(f"asyncpipes: {error}", err=True)
        sys.exit(EXIT_PROTOCOL)
    except KeyboardInterrupt:
        click.echo("asyncpipes: interrupted; the script has been ended", err=True)
        sys.exit(128 + signal.SIGINT)
    except asyncio.CancelledError:  # SIGTERM: see _run()
        click.echo("asyncpipes: terminated; the script has been ended", err=True)
        sys.exit(128 + signal.SIGTERM)
    click.echo(summary(result), err=as_json)
    sys.exit(exit_code(result))


async def _run(command: list[str], printer: Any, **options: Any) -> RunResult:
    task = asyncio.current_task()
    assert task is not None, "run by asyncio.run()"
    if sys.platform != "win32":
        # Ctrl-C is asyncio.run()'s; SIGTERM ends the script in the same way.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await run(command, subscribers=[printer], **options)
    except OutcomeError as error:
        return error.result


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
