"""The commands and their options."""

from __future__ import annotations

import signal
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from .. import __version__
from ..errors import InvalidParameterError
from . import exit_codes
from .display import Display
from .leaving import leave
from .parameters import LEVEL, POSITIVE, Extra, Range, Variable
from .run import run_one
from .running import Request

#: Any argument of a script may be a file.
_A_FILE = CompletionItem("", type="file")
_SETTINGS = {"help_option_names": ["-h", "--help"]}


class _Group(click.Group):
    """Ctrl-C where nobody else takes it: click would exit with 1, which says something else."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            leave(exit_codes.of_signal(signal.SIGINT), "asyncpipes: interrupted")


@click.group(cls=_Group, context_settings=_SETTINGS)
@click.version_option(__version__, message="asyncpipes %(version)s")
def cli() -> None:
    """Dagster Pipes for asyncio: run scripts and see what they report.

    \b
    Examples:
      asyncpipes run --asset orders -- python external_code.py
      asyncpipes run --file jobs.toml --jobs 4
      asyncpipes replay run.jsonl
      asyncpipes COMMAND --help
    """


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
    "--partition-range", type=Range(), help="The partitions it is to work on, both included."
)
@click.option(
    "--extra",
    "extras",
    multiple=True,
    type=Extra(),
    help="A value for the script: JSON, or else text; K=@file.json takes it from a file."
    " Repeatable.",
)
@click.option("--run-id", metavar="ID", help="The run's id; a random one by default.")
@click.option("--job-name", metavar="NAME", help="The name of the job.")
@click.option(
    "--env", "env", multiple=True, type=Variable(), help="A variable for the script. Repeatable."
)
@click.option(
    "--cwd", metavar="DIR", type=click.Path(exists=True, file_okay=False), help="Where it runs."
)
@click.option(
    "--timeout", type=POSITIVE, metavar="S", help="End it after this many seconds, as Ctrl-C does."
)
@click.option(
    "--grace",
    type=POSITIVE,
    metavar="S",
    default=10.0,
    show_default=True,
    help="Seconds between SIGINT, SIGTERM and SIGKILL when it must be ended.",
)
@click.option(
    "--log-level",
    type=LEVEL,
    default="DEBUG",
    help="Show log lines from this level on; all are counted. With --file, a terminal shows none"
    " below WARNING.",
)
@click.option("--no-strict", is_flag=True, help="Exit with 0 although something was lost (76).")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a line, and nothing else."
)
@click.option(
    "--record",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the events into FILE, as --json has them; what was in it is replaced.",
)
@click.option(
    "--file",
    "file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Run the scripts of a TOML or JSON file, several at once.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many of them at once; as many as there are CPUs by default.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=lambda *_: [_A_FILE])
@click.pass_context
def run_command(
    ctx: click.Context,
    *,
    assets: tuple[str, ...],
    partition: str | None,
    partition_range: Any,
    extras: tuple[tuple[str, Any], ...],
    run_id: str | None,
    job_name: str | None,
    env: tuple[tuple[str, str], ...],
    cwd: str | None,
    timeout: float | None,
    grace: float,
    log_level: str,
    no_strict: bool,
    as_json: bool,
    record: str | None,
    file: str | None,
    jobs: int | None,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND as a Pipes script, and show what it reports while it runs.

    Put -- before it. On a terminal there is a live view, or, with NO_COLOR or TERM=dumb, plain
    lines. Where the output goes elsewhere there are plain lines too, and the script's own stdout
    and stderr are passed on as they are.

    \b
    Examples:
      asyncpipes run --asset orders -- python external_code.py
      asyncpipes run --asset sales/2024 --extra limit=10 --timeout 60 -- python job.py
      asyncpipes run --json -- python job.py > events.jsonl
      asyncpipes run --record run.jsonl -- python job.py; asyncpipes replay run.jsonl
      asyncpipes run --file jobs.toml --jobs 4

    \b
    Ctrl-C ends the script in an orderly way (SIGINT, SIGTERM, SIGKILL); a second
    one, half a second later, at once.

    \b
    A custom message of this form is a progress bar; total and description may be left out:
      {"progress": {"completed": 7, "total": 12, "description": "months"}}

    \b
    The file of --file, as TOML; command alone is needed:
      [[job]]
      name = "january"
      command = ["python", "flights.py"]
      assets = ["flights"]
      partition = "2013-01"
      extras = {limit = 10}
      env = {TZ = "UTC"}
      cwd = "jobs"
      timeout = 60
    What a job does not say is as the options say. As JSON: {"job": [{"command": ...}]}

    \b
    Exit code: that of COMMAND, of the first that failed with --file; 128 + N if signal N
    ended it, or us; otherwise
      74   it ended well, but stdout or --record did not take what was to be written;
           or what --record names cannot be opened, and nothing is launched
      76   it ended with 0, but messages were lost or malformed, it failed inside
           its context, never opened or closed one, or left processes running
      124  --timeout passed
      126  COMMAND cannot be started
      127  COMMAND was not found
      2    the options are wrong
    """
    if partition is not None and partition_range is not None:
        raise click.UsageError("give either --partition or --partition-range")
    if command and file is not None:
        raise click.UsageError("give either COMMAND or --file, not both")
    if not command and file is None:
        raise click.UsageError("Missing argument 'COMMAND...' or --file FILE: the script to run")
    if record == "":
        raise click.UsageError("--record has no file's name")
    if file is None and jobs is not None:
        raise click.UsageError("--jobs is for --file")
    context: dict[str, Any] = {
        "asset_keys": list(assets) or None,
        "partition_key": partition,
        "partition_key_range": partition_range,
        "run_id": run_id,
        "job_name": job_name,
        "extras": dict(extras),
    }
    request = Request(
        context={name: value for name, value in context.items() if value is not None},
        env=dict(env),
        cwd=cwd,
        timeout=timeout,
        grace=grace,
        strict=not no_strict,
        record=record,
    )
    display = Display.chosen(log_level, as_json=as_json)
    try:
        if file is None:
            run_one(list(command), request, display)
        else:
            from .jobs import run_file

            run_file(file, jobs, request, display)
    except InvalidParameterError as error:
        raise click.UsageError(str(error)) from error


@cli.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--speed",
    type=POSITIVE,
    metavar="X",
    help="So many times as fast as it was, where the lines say when, but no pause over 10 s; by"
    " default as fast as it can be shown.",
)
@click.option("--log-level", type=LEVEL, default="DEBUG", help="Show log lines from this level on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def replay_command(file: str, speed: float | None, log_level: str, as_json: bool) -> None:
    """Show a recorded run, or a messages file, as it was shown.

    FILE is what --record or --json of `asyncpipes run` wrote, or the messages file of any
    Pipes script, of dagster_pipes too. A messages file does not tell how the process ended.

    \b
    Examples:
      asyncpipes replay run.jsonl
      asyncpipes replay --speed 10 run.jsonl
      asyncpipes replay --log-level ERROR /tmp/messages

    \b
    Exit code: 0 if FILE could be read; otherwise
      2    it cannot be read, or has the events of several jobs, or the options are wrong
      74   stdout did not take what was to be written
      130  Ctrl-C; after another signal N, 128 + N
    """
    from .replay import replay

    replay(file, speed, Display.chosen(log_level, as_json=as_json))


@cli.command("validate")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def validate_command(file: str) -> None:
    """Name each bad line of FILE: its number, where it starts, and what is wrong.

    FILE is a messages file of any Pipes script, or what --record or --json wrote.

    \b
    Examples:
      asyncpipes validate /tmp/messages
      asyncpipes validate run.jsonl && echo all is well

    \b
    Exit code: 0 if there is no bad line; otherwise
      1    there is one
      2    FILE cannot be read, or the options are wrong
      74   stdout did not take what was to be written
      130  Ctrl-C; after another signal N, 128 + N
    """
    from .validate import validate

    validate(file)


@cli.command("context")
@click.option(
    "--show-extras", is_flag=True, help="Show the values of the extras, which may be secrets."
)
def context_command(show_extras: bool) -> None:
    """Decode the bootstrap variables of this environment, for debugging.

    Prints the context of the step and where messages go, as JSON; null for what cannot be told,
    and why not on stderr.

    \b
    Examples:
      asyncpipes run --no-strict --asset orders -- asyncpipes context
      asyncpipes context --show-extras

    \b
    Exit code: 0; otherwise
      1    there are no bootstrap variables, or not all of it can be told
      2    the options are wrong
      74   stdout did not take what was to be written
    """
    from .context import show

    show(show_extras=show_extras)


@cli.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print what makes SHELL complete commands and options.

    \b
    Examples:
      asyncpipes completion bash >> ~/.bashrc
      asyncpipes completion zsh >> ~/.zshrc
      asyncpipes completion fish > ~/.config/fish/completions/asyncpipes.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click has those three"
    click.echo(kind(cli, {}, "asyncpipes", "_ASYNCPIPES_COMPLETE").source())


__all__ = ["cli"]
