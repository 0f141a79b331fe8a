"""The session's state: who has opened, who has closed, what is missing.

Theory of operation. A session has any number of *writers*. A writer is one
opening of the channel in one process: an asyncpipes script gives itself an id,
a stock script has none, and all stock scripts of a session share the *anonymous*
writer. Each writer goes through the table below. A message that the table does
not allow is still delivered, since it was reported; but the violation is kept
and makes the outcome not ok.

=========  ==================  ==================  ==================
state      opened              message             closed
=========  ==================  ==================  ==================
UNSEEN     OPEN                violation           violation, CLOSED
OPEN       violation (*)       OPEN                CLOSED
CLOSED     OPEN                violation           violation
=========  ==================  ==================  ==================

(*) Not for the anonymous writer: there it is a second script that shares the
bootstrap, and ``closed`` must come as often as ``opened`` did. CLOSED goes to
OPEN again when scripts run one after the other (``sh -c "a.py; b.py"``), or a
script opens twice; each opening of ours has an id of its own.

Numbers. Writers of ours count their messages from 1 without a hole. What is
skipped is a gap, counted as missing. A line that comes a second time, byte for
byte, is a duplicate, counted and no reason against the outcome.

Bounds. At most :data:`MAX_WRITERS` writers that have not closed are followed, each for
itself. Any that come on top are taken for the anonymous writer: what they report is
delivered, but their numbers are not checked, which is a reason against the outcome. Of
those that have closed the last :data:`MAX_CLOSED` are known, so that what comes a second
time is told from what is new; one that writes on when it has been forgotten is a new one.

Liveness. Of writers of ours the state also knows when something came last, and
what their heartbeats say; see ``liveness`` for what follows from that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..errors import TransitionError
from .events import GapEvent
from .exceptions import PipesException

#: Violations and reasons are shown to people; more of them say nothing new.
MAX_VIOLATIONS = 20
#: Writers that have not closed, the anonymous one aside. Each is a process or a context
#: that runs now, so it is more of them than a machine has room for (40 GB at 10 MB each,
#: a bare interpreter); and looking through all of them takes the host a few milliseconds.
MAX_WRITERS = 4096
#: Writers that have closed: more than can do so within what ``recent`` keeps, so that none
#: is forgotten before its last line is. (11,000: :data:`MAX_WRITERS` were open before, and
#: each of the others leaves its ``opened`` there too.) All writers together take about 8 MB.
MAX_CLOSED = 16_384


class WriterState(Enum):
    """Where one writer is in its life."""

    UNSEEN = "not opened"
    OPEN = "open"
    CLOSED = "closed"


class Step(Enum):
    """What a message does to the state."""

    OPENED = "opened"
    MESSAGE = "message"
    CLOSED = "closed"


#: (state, step) to (next state, whether that is allowed).
TRANSITIONS: dict[tuple[WriterState, Step], tuple[WriterState, bool]] = {
    (WriterState.UNSEEN, Step.OPENED): (WriterState.OPEN, True),
    (WriterState.UNSEEN, Step.MESSAGE): (WriterState.UNSEEN, False),
    (WriterState.UNSEEN, Step.CLOSED): (WriterState.CLOSED, False),
    (WriterState.OPEN, Step.OPENED): (WriterState.OPEN, False),
    (WriterState.OPEN, Step.MESSAGE): (WriterState.OPEN, True),
    (WriterState.OPEN, Step.CLOSED): (WriterState.CLOSED, True),
    (WriterState.CLOSED, Step.OPENED): (WriterState.OPEN, True),
    (WriterState.CLOSED, Step.MESSAGE): (WriterState.CLOSED, False),
    (WriterState.CLOSED, Step.CLOSED): (WriterState.CLOSED, False),
}


@dataclass(slots=True)
class Writer:
    """What is known of one writer.

    Attributes:
        name: its id; None for the anonymous writer.
        openings: of the anonymous writer, contexts that are not closed yet.
        pid: its process, if it said so.
        heard_at: when anything came from it last, by the clock of
            :meth:`SessionState.begin`; not kept for the anonymous writer.
        interval: seconds between its heartbeats, once one has come.
        lag: what its latest heartbeat said of its event loop, in seconds.
    """

    name: str | None
    state: WriterState = WriterState.UNSEEN
    openings: int = 0
    last_sequence: int = 0
    dropped: int = 0
    pid: int | None = None
    heard_at: float = 0.0
    interval: float | None = None
    lag: float | None = None


@dataclass(slots=True)
class SessionState:
    """Follows every writer of a session; fed by :class:`~.reading.SessionReader`.

    Attributes:
        contexts: how often a context was opened, by whomever.
        dropped: log and stream records that writers said they had to drop.
        unfollowed: messages of writers beyond :data:`MAX_WRITERS`.
        duplicates: lines that came a second time, byte for byte.
        touched: writers that opened, closed or sent a heartbeat since this was cleared.
    """

    malformed: int = 0
    missing: int = 0
    duplicates: int = 0
    contexts: int = 0
    dropped: int = 0
    unfollowed: int = 0
    exception: PipesException | None = None
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    touched: set[str | None] = field(default_factory=set)
    _now: float = 0.0
    _writers: dict[str | None, Writer] = field(default_factory=dict)
    # Of these, the open ones, and the names of the closed ones in the order of that.
    _open: dict[str | None, Writer] = field(default_factory=dict)
    _closed: dict[str | None, None] = field(default_factory=dict)
    # The writer of the last message, since nearly always it is the writer of the next one.
    _current: Writer = field(default_factory=lambda: Writer(None))

    def __post_init__(self) -> None:
        self._current = self._writers[None] = Writer(None)

    @property
    def opened(self) -> bool:
        """Whether any writer has opened."""
        return self.contexts > 0

    @property
    def open_writers(self) -> int:
        """How many openings have not been closed yet."""
        anonymous = self._open.get(None)
        return len(self._open) + (0 if anonymous is None else anonymous.openings - 1)

    @property
    def closed(self) -> bool:
        """Whether some writer opened and all that did have closed."""
        return self.opened and not self.open_writers

    @property
    def unclosed(self) -> list[Writer]:
        """The writers that are open."""
        return list(self._open.values())

    @property
    def is_numbered(self) -> bool:
        """Whether a writer of ours has come, and so messages with numbers."""
        return len(self._writers) > 1

    def get(self, writer: str | None) -> Writer | None:
        """What is known of ``writer``, if it has come and is followed."""
        return self._writers.get(writer)

    def has_closed(self, writer: str | None) -> bool:
        """Whether ``writer`` opened and has closed."""
        found = self._writers.get(writer)
        return found is not None and found.state is WriterState.CLOSED

    def begin(self, now: float) -> None:
        """What comes from here on was heard at ``now``, by whatever clock the caller has."""
        self._now = now
        # So that each writer is looked up, and its `heard_at` set, once for each read; the
        # anonymous writer has no numbers, and so is never taken for the current one.
        self._current = self._writers[None]

    def message(self, writer: str | None) -> bool:
        """An ordinary message of ``writer`` came; return whether that writer is open."""
        found = self._find(writer)
        self._advance(found, Step.MESSAGE)
        return found.state is WriterState.OPEN

    def open(self, writer: str | None, pid: int | None = None) -> None:
        """``opened`` came, from process ``pid`` if it said so."""
        found = self._find(writer)
        self.contexts += 1
        self.touched.add(found.name)
        if found.name is None:
            if found.state is WriterState.OPEN:
                found.openings += 1
                return
            found.openings = 1
        else:
            found.pid = pid
        self._advance(found, Step.OPENED)

    def close(self, writer: str | None, exception: PipesException | None) -> None:
        """``closed`` came. The first exception of a session is the one that is kept."""
        found = self._find(writer)
        self.touched.add(found.name)
        if exception is not None and self.exception is None:
            self.exception = exception
        if found.name is None and found.state is WriterState.OPEN and found.openings > 1:
            found.openings -= 1
            return
        self._advance(found, Step.CLOSED)

    def beat(self, writer: str, pid: int, interval: float, lag: float | None) -> None:
        """A heartbeat of ``writer`` came.

        Raises:
            TransitionError: it is not open.
        """
        found = self._writers.get(writer)
        if found is None and self._is_full:
            return  # of one that is not followed
        if found is None or found.state is not WriterState.OPEN:
            state = WriterState.UNSEEN if found is None else found.state
            raise TransitionError(
                f"a heartbeat came from writer {writer} while its context was {state.value}"
            )
        found.heard_at = self._now
        found.pid, found.interval, found.lag = pid, interval, lag
        self.touched.add(writer)

    def number(self, writer: str, sequence: int) -> GapEvent | None:
        """Check a message's number; return the gap in front of it, if there is one.

        Raises:
            TransitionError: the number has been used before.
        """
        current = self._current
        if current.name != writer:
            current = self._find(writer)
            if current.name is None:
                self.unfollowed += 1
                return None
        expected = current.last_sequence + 1
        if sequence == expected:
            current.last_sequence = sequence
            return None
        if sequence < expected:
            raise TransitionError(
                f"message number {sequence} of writer {writer} came after number"
                f" {current.last_sequence}"
            )
        current.last_sequence = sequence
        self.missing += sequence - expected
        return GapEvent(expected, sequence - 1, writer=writer)

    def drop(self, writer: str, total: int) -> None:
        """``writer`` says that it has dropped ``total`` records so far."""
        found = self._find(writer)
        if found.name is not None and total > found.dropped:
            self.dropped += total - found.dropped
            found.dropped = total

    @property
    def _is_full(self) -> bool:
        """Whether who comes now is not followed; for good, or it would be later, as a new one."""
        return self.unfollowed > 0 or len(self._writers) - len(self._closed) > MAX_WRITERS

    def _find(self, writer: str | None) -> Writer:
        found = self._writers.get(writer)
        if found is None:
            if self._is_full:
                found = self._writers[None]
            else:
                found = self._writers[writer] = Writer(writer)
        found.heard_at = self._now
        self._current = found
        return found

    def _advance(self, writer: Writer, step: Step) -> None:
        before = writer.state
        writer.state, allowed = TRANSITIONS[before, step]
        if writer.state is not before:
            self._sort(writer, before)
        if allowed:
            return
        self.violation_count += 1
        if len(self.violations) < MAX_VIOLATIONS:
            who = "the script" if writer.name is None else f"writer {writer.name}"
            what = "a message" if step is Step.MESSAGE else f"'{step.value}'"
            self.violations.append(f"{what} came from {who} while its context was {before.value}")

    def _sort(self, writer: Writer, before: WriterState) -> None:
        """Put a writer, whose state has changed, to its like."""
        if before is WriterState.OPEN:
            del self._open[writer.name]
        elif before is WriterState.CLOSED:
            self._closed.pop(writer.name, None)
        if writer.state is WriterState.OPEN:
            self._open[writer.name] = writer
        elif writer.name is not None:  # the anonymous one is never forgotten
            self._closed[writer.name] = None
            if len(self._closed) > MAX_CLOSED:
                oldest = next(iter(self._closed))
                del self._closed[oldest], self._writers[oldest]
