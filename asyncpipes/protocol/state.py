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
skipped is a gap, counted as missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..errors import TransitionError
from .events import GapEvent
from .exceptions import PipesException

#: Violations and reasons are shown to people; more of them say nothing new.
MAX_VIOLATIONS = 20


class WriterState(Enum):
    """Where one writer is in its life."""

    UNSEEN = "not opened"
    OPEN = "open"
    CLOSED = "closed"


class Kind(Enum):
    """What a message does to the state."""

    OPENED = "opened"
    MESSAGE = "message"
    CLOSED = "closed"


#: (state, kind) to (next state, whether that is allowed).
TRANSITIONS: dict[tuple[WriterState, Kind], tuple[WriterState, bool]] = {
    (WriterState.UNSEEN, Kind.OPENED): (WriterState.OPEN, True),
    (WriterState.UNSEEN, Kind.MESSAGE): (WriterState.UNSEEN, False),
    (WriterState.UNSEEN, Kind.CLOSED): (WriterState.CLOSED, False),
    (WriterState.OPEN, Kind.OPENED): (WriterState.OPEN, False),
    (WriterState.OPEN, Kind.MESSAGE): (WriterState.OPEN, True),
    (WriterState.OPEN, Kind.CLOSED): (WriterState.CLOSED, True),
    (WriterState.CLOSED, Kind.OPENED): (WriterState.OPEN, True),
    (WriterState.CLOSED, Kind.MESSAGE): (WriterState.CLOSED, False),
    (WriterState.CLOSED, Kind.CLOSED): (WriterState.CLOSED, False),
}


@dataclass(slots=True)
class _Writer:
    """What is known of one writer."""

    name: str | None
    state: WriterState = WriterState.UNSEEN
    openings: int = 0
    last_sequence: int = 0
    dropped: int = 0


@dataclass(slots=True)
class SessionState:
    """Follows every writer of a session; fed by :class:`~.reading.SessionReader`."""

    malformed: int = 0
    missing: int = 0
    exception: PipesException | None = None
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    _writers: dict[str | None, _Writer] = field(default_factory=dict)
    # The writer of the last message, since nearly always it is the writer of the next one.
    _current: _Writer = field(default_factory=lambda: _Writer(None))

    def __post_init__(self) -> None:
        self._current = self._writers[None] = _Writer(None)

    @property
    def opened(self) -> bool:
        """Whether any writer has opened."""
        return any(writer.openings for writer in self._writers.values())

    @property
    def open_writers(self) -> int:
        """How many openings have not been closed yet."""
        return sum(
            writer.openings if writer.name is None else writer.state is WriterState.OPEN
            for writer in self._writers.values()
            if writer.state is WriterState.OPEN
        )

    @property
    def closed(self) -> bool:
        """Whether some writer opened and all that did have closed."""
        return self.opened and not self.open_writers

    @property
    def dropped(self) -> int:
        """Log and stream records that writers said they had to drop."""
        return sum(writer.dropped for writer in self._writers.values())

    def message(self, writer: str | None) -> bool:
        """An ordinary message of ``writer`` came; return whether that writer is open."""
        found = self._find(writer)
        self._advance(found, Kind.MESSAGE)
        return found.state is WriterState.OPEN

    def open(self, writer: str | None) -> None:
        """``opened`` came."""
        found = self._find(writer)
        if writer is None and found.state is WriterState.OPEN:
            found.openings += 1
            return
        self._advance(found, Kind.OPENED)
        # An anonymous writer counts the openings that are not closed, to find the last.
        found.openings = 1 if writer is None else found.openings + 1

    def close(self, writer: str | None, exception: PipesException | None) -> None:
        """``closed`` came. The first exception of a session is the one that is kept."""
        found = self._find(writer)
        if exception is not None and self.exception is None:
            self.exception = exception
        if writer is None and found.state is WriterState.OPEN and found.openings > 1:
            found.openings -= 1
            return
        self._advance(found, Kind.CLOSED)

    def number(self, writer: str, sequence: int) -> GapEvent | None:
        """Check a message's number; return the gap in front of it, if there is one.

        Raises:
            TransitionError: the number has been used before.
        """
        current = self._current
        if current.name != writer:
            current = self._find(writer)
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
        found.dropped = max(found.dropped, total)

    def _find(self, writer: str | None) -> _Writer:
        found = self._writers.get(writer)
        if found is None:
            found = self._writers[writer] = _Writer(writer)
        self._current = found
        return found

    def _advance(self, writer: _Writer, kind: Kind) -> None:
        before = writer.state
        writer.state, allowed = TRANSITIONS[before, kind]
        if allowed:
            return
        self.violation_count += 1
        if len(self.violations) < MAX_VIOLATIONS:
            who = "the script" if writer.name is None else f"writer {writer.name}"
            what = "a message" if kind is Kind.MESSAGE else f"'{kind.value}'"
            self.violations.append(f"{what} came from {who} while its context was {before.value}")
