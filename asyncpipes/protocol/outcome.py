"""How a run ended: a value that tells the truth, and says why in words."""

from __future__ import annotations

from dataclasses import dataclass

from .exceptions import PipesException
from .state import MAX_WRITERS, SessionState

#: Processes that a reason names; more of them say nothing new.
MAX_PIDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. It is ``ok`` only if there is no reason against it.

    Attributes:
        exit_code: the process's exit code; None without a process, after a signal, or if it
            could not be ended.
        signal: the number of the signal that ended the process, or None.
        opened: whether any script opened its context.
        closed: whether all that opened have closed.
        exception: what the first script that failed left its context with.
        malformed: lines that were no messages; each is a MalformedEvent.
        missing: messages that writers numbered and that never arrived (GapEvents).
        dropped: log and stream records that writers dropped over their buffer limit.
        undelivered: events that a subscriber did not get, since it raised or was
            cut off when the run was cancelled.
        timed_out: a limit of time passed: ``timeout``, ``open_timeout``, ``silent_timeout``,
            ``blocked_timeout`` or ``dead_timeout``.
        cancelled: the host ended the run: cancellation, or an exception in its body.
        duration: seconds from the session's start to its outcome.
        reasons: why it is not ok, in words; empty if it is.
    """

    exit_code: int | None = None
    signal: int | None = None
    opened: bool = False
    closed: bool = False
    exception: PipesException | None = None
    malformed: int = 0
    missing: int = 0
    dropped: int = 0
    undelivered: int = 0
    timed_out: bool = False
    cancelled: bool = False
    duration: float = 0.0
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if nothing was lost, everything was closed and nothing failed."""
        return not self.reasons


def judge(
    state: SessionState,
    *,
    exit_code: int | None = None,
    signal: int | None = None,
    undelivered: int = 0,
    timed_out: str | None = None,
    cancelled: str | None = None,
    failures: tuple[str, ...] = (),
    duration: float = 0.0,
) -> Outcome:
    """Put the state of the session and the end of the process into an outcome.

    ``timed_out`` and ``cancelled`` are the reasons in words if that happened;
    ``failures`` are reasons from outside the protocol, such as a subscriber that
    raised.
    """
    reasons = [reason for reason in (timed_out, cancelled) if reason]
    if signal is not None:
        reasons.append(f"the process was ended by signal {signal}")
    elif exit_code:
        reasons.append(f"the process ended with exit code {exit_code}")
    reasons.extend(_protocol_reasons(state, exit_code))
    if undelivered:
        reasons.append(f"{_count(undelivered, 'event')} did not reach a subscriber")
    reasons.extend(failures)
    return Outcome(
        exit_code=exit_code,
        signal=signal,
        opened=state.opened,
        closed=state.closed,
        exception=state.exception,
        malformed=state.malformed,
        missing=state.missing,
        dropped=state.dropped,
        undelivered=undelivered,
        timed_out=timed_out is not None,
        cancelled=cancelled is not None,
        duration=duration,
        reasons=tuple(reasons),
    )


def _protocol_reasons(state: SessionState, exit_code: int | None) -> list[str]:
    reasons = []
    if state.exception is not None and not _is_clean_exit(state.exception, exit_code):
        summary = state.exception.message.strip().splitlines() or [state.exception.name or "?"]
        reasons.append(f"the script failed: {summary[0]}")
    if not state.opened:
        reasons.append(
            "the script never opened pipes: it must call open_pipes() (or open_dagster_pipes())"
        )
    elif not state.closed:
        reasons.append(_unclosed_reason(state))
    if state.malformed:
        reasons.append(f"{_count(state.malformed, 'line')} could not be read as messages")
    if state.missing:
        reasons.append(f"{_count(state.missing, 'message')} never arrived")
    if state.dropped:
        reasons.append(f"the script dropped {_count(state.dropped, 'log or stream record')}")
    if state.unfollowed:
        reasons.append(
            f"over {MAX_WRITERS} writers were open at once: {_count(state.unfollowed, 'message')}"
            " of others came, and nobody knows whether more of theirs are missing"
        )
    reasons.extend(state.violations)
    hidden = state.violation_count - len(state.violations)
    if hidden:
        reasons.append(f"{hidden} more messages came out of turn")
    return reasons


def _unclosed_reason(state: SessionState) -> str:
    if state.contexts == 1:
        return "the script never closed its context: it crashed, or left it open"
    who, pids = "", sorted({writer.pid for writer in state.unclosed if writer.pid is not None})
    if pids:
        shown = ", ".join(map(str, pids[:MAX_PIDS])) + (", …" if len(pids) > MAX_PIDS else "")
        who = f" (process{'es' if len(pids) > 1 else ''} {shown})"
    left = state.open_writers
    what = "was never closed" if left == 1 else "were never closed"
    owner = "it crashed, was ended, or left it open"
    if left > 1:
        owner = "their scripts crashed, were ended, or left them open"
    return f"{left} of {state.contexts} contexts {what}{who}: {owner}"


def _is_clean_exit(exception: PipesException, exit_code: int | None) -> bool:
    """Whether it is a ``sys.exit(0)``, which stock scripts report as an exception."""
    message = exception.message.strip()
    is_exit = exception.name == "SystemExit" and message in ("SystemExit", "SystemExit: 0")
    return is_exit and not exit_code


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
