"""The end of the command: the last words, and the exit code, whatever our output does."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import NoReturn

import click

#: How long our own stdout and stderr may take for the last line, in seconds.
PATIENCE = 2.0


def leave(code: int, text: str = "", *, err: bool = True) -> NoReturn:
    """Say ``text`` and exit with ``code``, also where nobody reads what we write."""

    def say() -> None:
        try:
            if text:
                click.echo(text, err=err)
            if sys.stdout is not None:
                sys.stdout.flush()
        except (OSError, ValueError):
            pass  # our own output is closed: there is nobody to tell

    # A write that stalls never returns, and the interpreter would wait for its thread.
    threading.Thread(target=say).start()
    ends_at = time.monotonic() + PATIENCE
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(ends_at - time.monotonic(), 0))
            if thread.is_alive():
                os._exit(code)
    sys.exit(code)
