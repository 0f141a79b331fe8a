"""The entry point: there for everybody, so it explains itself without its extra."""

from __future__ import annotations

import io
import sys


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
    from .commands import cli

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the terminal's encoding cannot show must not be an error.
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="asyncpipes")
