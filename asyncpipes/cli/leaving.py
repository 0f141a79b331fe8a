"""The end of the command: the last words, and the exit code, whatever our output does."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import click

from .exit_codes import OUTPUT

#: How long our own stdout, stderr and files may take for the last of it, in seconds.
PATIENCE = 2.0
#: What ends the command. Windows knows the first two alone.
ENDING_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)
)


class Signalled(KeyboardInterrupt):
    """We were told to end.

    Attributes:
        number: by which signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(interrupted(number))
        self.number = number


def interrupted(number: int) -> str:
    """What happened to us, by the signal's number."""
    return "interrupted" if number == signal.SIGINT else "terminated"


def raise_when_signalled() -> None:
    """Have the signals that end us raise :class:`Signalled` in the main thread.

    For commands without an event loop, so that they put the terminal in order. Those that are
    ignored stay so: ``nohup`` and a shell's ``&`` ask for that.
    """
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Signalled(number)


def in_time(call: Callable[[], object]) -> bool:
    """Whether a call that may stall has returned within :data:`PATIENCE`.

    A write that stalls never returns, so it is left to itself.
    """
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


def leave(code: int, err: str = "", out: str = "") -> NoReturn:
    """Say ``out`` on stdout, ``err`` on stderr, and exit, also where nobody reads that."""
    faults: list[str] = []

    def say_out() -> None:
        fault = _say(out, err=False)
        if fault is not None and out:
            faults.append(fault)

    try:
        is_out_said = in_time(say_out)
        if faults:
            # The verdict is not to be lost with it.
            code = code or OUTPUT
            err = "\n".join(
                filter(None, [err, f"asyncpipes: cannot write to stdout: {faults[0]}", out])
            )
        is_err_said = in_time(lambda: _say(err, err=True))
        if not (is_out_said and is_err_said):
            os._exit(code)  # the interpreter would wait for the lock of the stream
        ends_at = time.monotonic() + PATIENCE
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join(max(ends_at - time.monotonic(), 0))
                if thread.is_alive():
                    os._exit(code)
    except KeyboardInterrupt:  # somebody is in a hurry
        os._exit(code)
    sys.exit(code)


def leave_at_once(code: int, err: str) -> NoReturn:
    """The same without waiting for anything but these words."""
    in_time(lambda: _say(err, err=True))
    os._exit(code)


def _say(text: str, *, err: bool) -> str | None:
    """Why it could not be said, if so."""
    stream = sys.stderr if err else sys.stdout
    if stream is None:
        return "it is closed"
    try:
        if text:
            click.echo(text, err=err)
        stream.flush()
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # closed
        return str(error)
    return None
