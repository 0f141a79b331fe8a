"""Exit codes of the command; a script's own are passed on, and a signal N is 128 + N."""

from __future__ import annotations

import signal

from ..protocol.outcome import Outcome

#: What is to be validated is not right, or what is to be shown is not there.
FAILED = 1
#: The options are wrong, as click has it.
USAGE = 2
#: EX_IOERR of sysexits.h: stdout, or the file to record, did not take what was to be written.
OUTPUT = 74
#: EX_PROTOCOL of sysexits.h.
PROTOCOL = 76
#: As timeout(1) has it.
TIMEOUT = 124
#: As shells have them.
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def of_signal(number: int) -> int:
    """As shells have it."""
    return 128 + number


def of_outcome(outcome: Outcome, *, strict: bool = True) -> int:
    """The exit code of a run; without ``strict`` what was lost does not count."""
    if outcome.timed_out:
        return TIMEOUT
    if outcome.signal is not None:
        return of_signal(outcome.signal)
    if outcome.exit_code:
        return outcome.exit_code
    if outcome.cancelled:
        return of_signal(signal.SIGINT)
    return PROTOCOL if strict and not outcome.ok else 0
