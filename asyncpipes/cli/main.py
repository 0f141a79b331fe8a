"""The entry point: there for everybody, so it explains itself without its extra."""

from __future__ import annotations

import io
import os
import sys
from traceback import walk_tb


def main() -> None:
    """Run the command and exit with its code."""
    try:
        import click  # noqa: F401  # only to see whether they are there
        import rich  # noqa: F401
    except ImportError:
        print(
            "asyncpipes: the command needs the packages of its extra:\n"
            "    pip install 'asyncpipes[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        _main()
    except KeyboardInterrupt:  # while it was being imported
        sys.exit(130)
    except OSError as error:
        if not _is_of_echo(error):  # a fault of ours, which is not to look like one of stdout
            raise
        print(f"asyncpipes: cannot write to stdout: {error.strerror}", file=sys.stderr)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # or the interpreter tries again
        sys.exit(74)


def _is_of_echo(error: OSError) -> bool:
    """Whether it came of writing click's own words: help, a version, completion."""
    from click import echo

    return any(frame.f_code is echo.__code__ for frame, _ in walk_tb(error.__traceback__))


def _main() -> None:
    from .commands import cli

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the terminal's encoding cannot show must not be an error.
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="asyncpipes")
