"""Which writers are alive, silent, blocked or dead: decisions, without clock or I/O.

=========== ==========================================================================
``alive``   nothing to say
``blocked`` heartbeats come, and say that the script's event loop has not answered for
            :data:`BLOCKED_LAG` or longer; a context must have been entered inside that
            loop for this: one of a plain ``with`` outside watches none, its lag is None
``silent``  nothing has come, neither a message nor a heartbeat, for
            :data:`SILENT_INTERVALS` intervals of its heartbeat; its process lives, or
            nobody can tell
``dead``    its process has ended, and it has not closed
=========== ==========================================================================

Only writers that have opened and not closed are judged. Heartbeats are an extension:
stock scripts send none, and are never silent nor blocked.

Silence is a claim about the channel and not about a timer. So whoever calls
:meth:`Liveness.look` takes the time, reads what the channel holds by then, and has it
judged as of that time: a host that was busy itself finds the heartbeats there, and one
that waits for a slow subscriber meanwhile knows nothing of what was written since.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .events import HealthEvent, Status
from .state import SessionState, Writer, WriterState

#: A loop that takes this long to answer, in seconds, is blocked: far above what a busy
#: loop takes (milliseconds), and the same however often the heartbeat comes, so that a
#: short interval finds it sooner and calls no other thing so.
BLOCKED_LAG = 1.0
#: Two heartbeats may be late, or one lost, before a writer is silent.
SILENT_INTERVALS = 2.5

#: From good to bad.
_ORDER: tuple[Status, ...] = ("alive", "blocked", "silent", "dead")


@dataclass(slots=True)
class _Watch:
    """What was said last of a writer, and since when that is so."""

    status: Status = "alive"
    since: float = 0.0
    can_be_asked: bool = False
    ended_at: float | None = None
    looked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class WriterHealth:
    """How one writer is doing.

    Attributes:
        writer: its id; None for stock scripts.
        pid: its process, as it said itself.
        status: ``"alive"``, ``"blocked"``, ``"silent"`` or ``"dead"``.
        last_heard: seconds since anything came from it; None for stock scripts.
        lag: seconds that its event loop took to answer, by its latest heartbeat.
    """

    writer: str | None
    pid: int | None
    status: Status
    last_heard: float | None
    lag: float | None


class Liveness:
    """Judges the open writers of a session.

    Args:
        state: the session's; its ``begin`` gets the same clock as the methods here.
        interval: seconds between the heartbeats that scripts were asked for; None if
            they were asked for none.
        limits: seconds that a writer may be in a status until :meth:`overdue` names it.
    """

    def __init__(
        self, state: SessionState, interval: float | None, limits: Mapping[Status, float | None]
    ) -> None:
        self._state = state
        self._interval = interval
        self._limits = limits
        self._watches: dict[str | None, _Watch] = {}
        self._troubled: set[str | None] = set()

    @property
    def is_quiet(self) -> bool:
        """Whether what has just been read changes nothing here. Asked after each read."""
        return not self._state.touched and not self._troubled

    @property
    def concerned(self) -> set[str | None]:
        """The writers of whom :meth:`take_notice` is to judge."""
        return self._state.touched | self._troubled

    @property
    def worst(self) -> Status:
        """The worst status of an open writer."""
        return max((h.status for h in self.health(0.0)), key=_ORDER.index, default="alive")

    def health(self, now: float) -> tuple[WriterHealth, ...]:
        """Each open writer, as it was judged last."""
        found = []
        for writer in self._state.unclosed:
            watch = self._watches.get(writer.name, _Watch())
            heard = None if writer.name is None else max(now - writer.heard_at, 0.0)
            found.append(WriterHealth(writer.name, writer.pid, watch.status, heard, writer.lag))
        return tuple(found)

    def take_notice(self, now: float, received_at: float) -> list[HealthEvent]:
        """Judge those of whom something has just been read, at ``now``.

        None of them becomes silent by that: see :meth:`look`. ``received_at`` is for the
        events: seconds since the epoch.
        """
        names = self.concerned
        self._state.touched.clear()
        return self._judge(names, now, received_at, may_be_silent=False)

    def look(
        self, now: float, received_at: float, *, may_be_silent: bool = True
    ) -> list[HealthEvent]:
        """Judge all, as of ``now``.

        What the channel held at that time must have been read; ``may_be_silent=False`` if
        it has not. What was heard later counts too, and when it was read since does not.
        """
        self._state.touched.clear()
        names = self._watches.keys() | {writer.name for writer in self._state.unclosed}
        return self._judge(names, now, received_at, may_be_silent=may_be_silent)

    def mark_known(self, name: str, now: float) -> None:
        """It can be asked whether the process of that writer lives: see :meth:`to_ask_about`."""
        self._watch(name, now).can_be_asked = True

    def mark_ended(self, name: str | None, now: float) -> None:
        """The process of that writer has ended. Something heard later says otherwise."""
        self._watch(name, now).ended_at = now

    def to_ask_about(self, now: float) -> list[Writer]:
        """The writers that have gone silent, or are to by now: do their processes live?"""
        return [
            writer
            for writer in self._state.unclosed
            if (watch := self._watch(writer.name, now)).can_be_asked
            and watch.ended_at is None
            and self._is_silent(writer, now)
        ]

    def next_look(self, names: Collection[str | None] | None = None) -> float | None:
        """When something may change with nothing being read; None for never.

        Of the writers ``names`` alone, or of all: which, after each read, would take as long
        as there are writers.
        """
        writers = self._state.unclosed if names is None else map(self._state.get, names)
        return min(
            (
                when
                for writer in writers
                if writer is not None
                and writer.state is WriterState.OPEN
                and (when := self._next_look(writer)) is not None
            ),
            default=None,
        )

    def overdue(self, now: float) -> str | None:
        """Why the run is to be ended, if a writer has been in a status for too long.

        It is said once: there are no limits after that.
        """
        for writer in self._state.unclosed:
            watch = self._watch(writer.name, now)
            limit = self._limits.get(watch.status)
            if limit is not None and now >= watch.since + limit:
                self._limits = {}
                who = "the script" if writer.name is None else f"writer {writer.name}"
                process = "" if writer.pid is None else f" (process {writer.pid})"
                return (
                    f"{who}{process} has been {watch.status} for"
                    f" {watch.status}_timeout={limit:g} seconds"
                )
        return None

    def _judge(
        self,
        names: Collection[str | None],
        now: float,
        received_at: float,
        *,
        may_be_silent: bool,
    ) -> list[HealthEvent]:
        events = []
        for name in sorted(names, key=str):
            writer = self._state.get(name)
            if writer is None or writer.state is not WriterState.OPEN:
                self._watches.pop(name, None)
                self._troubled.discard(name)
                continue
            watch = self._watch(name, now)
            if may_be_silent:
                watch.looked_at = now
            status = self._status(writer, watch, now, may_be_silent)
            if status == watch.status:
                continue
            watch.status, watch.since = status, now
            # Each read may be the end of it, be it of ordinary messages.
            (self._troubled.add if status in ("silent", "dead") else self._troubled.discard)(name)
            events.append(
                HealthEvent(status, writer.lag, writer.pid, writer=name, received_at=received_at)
            )
        return events

    def _status(self, writer: Writer, watch: _Watch, now: float, may_be_silent: bool) -> Status:
        if watch.ended_at is not None:
            if writer.name is None or writer.heard_at <= watch.ended_at:
                return "dead"
            watch.ended_at = None
        # Who is silent already stays so until something comes.
        if (may_be_silent or watch.status == "silent") and self._is_silent(writer, now):
            return "silent"
        if writer.lag is not None and writer.lag >= BLOCKED_LAG:
            return "blocked"
        return "alive"

    def _is_silent(self, writer: Writer, now: float) -> bool:
        after = self._silent_after(writer)
        return after is not None and now >= writer.heard_at + after

    def _silent_after(self, writer: Writer) -> float | None:
        """Seconds; None for a writer that was asked for no heartbeats."""
        if writer.name is None or self._interval is None:
            return None
        return SILENT_INTERVALS * (writer.interval or self._interval)

    def _next_look(self, writer: Writer) -> float | None:
        watch = self._watches.get(writer.name)
        if watch is None:
            watch = _Watch(since=writer.heard_at)
        moments = []
        after = self._silent_after(writer)
        if after is not None and watch.status in ("alive", "blocked"):
            moments.append(writer.heard_at + after)
        elif after is not None and watch.status == "silent" and watch.can_be_asked:
            moments.append(watch.looked_at + after / SILENT_INTERVALS)
        limit = self._limits.get(watch.status)
        if limit is not None:
            moments.append(watch.since + limit)
        return min(moments, default=None)

    def _watch(self, name: str | None, now: float) -> _Watch:
        watch = self._watches.get(name)
        if watch is None:
            watch = self._watches[name] = _Watch(since=now)
        return watch
