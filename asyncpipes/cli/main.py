"""The entry point: there for everybody, so it explains itself without its extra."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command and exit with its code."""
    try:
        import click  # noqa: F401  # only to see whether it is there
    except ImportError:
        print(
            "asyncpipes: the command needs the packages of its extra:\n"
            "    pip install 'asyncpipes[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from .commands import cli

    cli(prog_name="asyncpipes")
