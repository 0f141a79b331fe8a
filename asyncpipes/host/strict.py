"""Which error a strict session raises for an outcome that is not ok."""

from __future__ import annotations

from ..errors import (
    ExternalError,
    IncompleteError,
    OutcomeError,
    ProcessFailedError,
    SessionTimeoutError,
    SubscriberError,
)
from .result import RunResult

#: How much of the process's stderr a message shows, in lines.
_STDERR_LINES = 10


def strict_error(result: RunResult, cause: BaseException | None) -> OutcomeError:
    """The error for ``result``; its message holds all reasons.

    The class is that of the first that applies: timeout, the process's own failure,
    the script's exception, a subscriber's, then what is missing. ``cause`` is the
    exception of a subscriber, or of the session itself, if there was one.
    """
    outcome = result.outcome
    kind: type[OutcomeError]
    if outcome.timed_out:
        kind = SessionTimeoutError
    elif outcome.signal is not None or outcome.exit_code:
        kind = ProcessFailedError
    elif outcome.exception is not None:
        kind = ExternalError
    elif result.subscriber_failed:
        kind = SubscriberError
    else:
        kind = IncompleteError
    error = kind(_message(result), result)
    error.__cause__ = cause
    return error


def unwrapped(error: BaseException) -> BaseException:
    """The exception itself, where a task group has wrapped a single one."""
    while True:
        inner = getattr(error, "exceptions", None)
        if not isinstance(inner, tuple) or len(inner) != 1:
            return error
        error = inner[0]


def described(error: BaseException) -> str:
    """``repr(error)``, which may be anybody's code: its class where that fails."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__


def _message(result: RunResult) -> str:
    outcome = result.outcome
    parts = ["; ".join(outcome.reasons)]
    if outcome.exception is not None:
        parts.append(f"the script's exception:\n{outcome.exception}")
    if (outcome.exit_code or outcome.signal) and result.stderr.strip():
        lines = result.stderr.rstrip().splitlines()[-_STDERR_LINES:]
        parts.append("the end of its stderr:\n" + "\n".join(f"  {line}" for line in lines))
    return "\n".join(parts)
