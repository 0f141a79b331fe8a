"""What a person at the script's terminal is told."""

from __future__ import annotations

import sys


def complain(text: str) -> None:
    """One line on stderr, wherever that is by now."""
    stream = sys.stderr or sys.__stderr__
    if stream is not None:
        try:
            print(text, file=stream, flush=True)
        except (OSError, ValueError):
            pass  # stderr is closed: there is nobody left to tell
