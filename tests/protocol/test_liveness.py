"""asyncpipes.protocol.liveness: who is alive, silent, blocked or dead, by a clock of our own."""

from __future__ import annotations

from typing import Any

import pytest

from asyncpipes.protocol.events import HealthEvent, Status
from asyncpipes.protocol.liveness import BLOCKED_LAG, Liveness, WriterHealth
from asyncpipes.protocol.messages import (
    encode_custom_head,
    encode_head,
    encode_heartbeat,
    extension_tail,
)
from asyncpipes.protocol.reading import SessionReader

WALL = 1767225600.5


class Session:
    """A reader, what judges it, and a clock that only :meth:`pass_time` moves."""

    def __init__(self, interval: float | None = 10.0, **limits: float) -> None:
        self.reader = SessionReader()
        self.now = 1000.0
        by_status: Any = limits
        self.liveness = Liveness(self.reader.state, interval, by_status)
        self.numbers: dict[str, int] = {}

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def read(self, data: bytes) -> list[Status]:
        """Read ``data``; what the session then says."""
        self.reader.receive_data(data, WALL, self.now)
        return [event.status for event in self.liveness.take_notice(self.now, WALL)]

    def numbered(self, head: bytes, writer: str = "w") -> bytes:
        self.numbers[writer] = number = self.numbers.get(writer, 0) + 1
        return head + extension_tail(writer, number, WALL)

    def opens(self, writer: str = "w", pid: int | None = 7) -> list[Status]:
        head = encode_head("opened", {}) + (b"" if pid is None else b',"pid":%d' % pid)
        return self.read(self.numbered(head, writer))

    def closes(self, writer: str = "w") -> list[Status]:
        return self.read(self.numbered(encode_head("closed", {}), writer))

    def reports(self, writer: str = "w") -> list[Status]:
        return self.read(self.numbered(encode_custom_head(1), writer))

    def beats(
        self, lag: float | None = 0.0, writer: str = "w", interval: float = 10.0
    ) -> list[Status]:
        return self.read(encode_heartbeat(writer, interval, lag, 7, WALL))

    def look(self) -> list[HealthEvent]:
        return self.liveness.look(self.now, WALL)

    def statuses(self) -> list[Status]:
        return [event.status for event in self.look()]


def test_a_look_judges_as_of_the_time_when_it_was_begun() -> None:
    """What was read then may have taken long to publish, and nobody read on meanwhile."""
    session = Session()
    session.opens()
    session.pass_time(24)
    as_of = session.now
    session.reports()
    session.pass_time(60)
    assert session.liveness.look(as_of, WALL) == []
    assert session.liveness.overdue(as_of) is None
    # Which is not the last word: the next look is due at once.
    following = session.liveness.next_look()
    assert following is not None
    assert following < session.now
    assert session.statuses() == ["silent"]


def test_who_is_read_after_long_is_alive_as_of_the_reading() -> None:
    session = Session()
    session.opens()
    session.pass_time(25)
    assert session.statuses() == ["silent"]
    heard_at = session.now
    session.reader.receive_data(session.numbered(encode_custom_head(1)), WALL, heard_at)
    session.pass_time(60)
    assert [e.status for e in session.liveness.take_notice(heard_at, WALL)] == ["alive"]
    assert session.statuses() == ["silent"]


def test_nobody_is_silent_by_what_was_not_read() -> None:
    session = Session()
    session.opens()
    session.opens("d")
    session.pass_time(60)
    session.liveness.mark_ended("d", session.now)
    found = session.liveness.look(session.now, WALL, may_be_silent=False)
    assert [(event.writer, event.status) for event in found] == [("d", "dead")]
    assert session.statuses() == ["silent"]


def test_who_is_heard_is_alive() -> None:
    session = Session()
    assert session.opens() == []
    for _ in range(20):
        session.pass_time(24.9)
        assert session.beats(0.01) == []
        session.pass_time(24.9)
        assert session.reports() == []
        assert session.look() == []
    assert session.liveness.worst == "alive"


def test_silence_is_told_once_and_so_is_its_end() -> None:
    session = Session()
    session.opens()
    session.beats(0.25)
    session.pass_time(24.9)
    assert session.look() == []
    session.pass_time(0.1)
    # Not by reading something of another one: what matters is what the channel holds.
    assert session.opens("other") == []
    assert session.look() == [HealthEvent("silent", 0.25, 7, writer="w", received_at=WALL)]
    session.pass_time(10)
    assert session.look() == []
    assert session.reports() == ["alive"]
    assert session.reports() == []


@pytest.mark.parametrize("how", ["beats", "reports"])
def test_any_sign_of_life_ends_a_silence(how: str) -> None:
    session = Session()
    session.opens()
    session.pass_time(25)
    assert session.statuses() == ["silent"]
    assert getattr(session, how)() == ["alive"]


def test_a_script_that_sends_no_heartbeat_at_all_is_silent_too() -> None:
    session = Session()
    session.opens(pid=None)
    session.pass_time(25)
    assert session.look() == [HealthEvent("silent", None, None, writer="w", received_at=WALL)]


def test_the_interval_is_the_one_that_the_heartbeat_names() -> None:
    session = Session(interval=10.0)
    session.opens()
    session.beats(interval=100.0)
    session.pass_time(249.9)
    assert session.look() == []
    session.pass_time(0.1)
    assert session.statuses() == ["silent"]


def test_without_heartbeats_nobody_is_silent() -> None:
    session = Session(interval=None)
    session.opens()
    session.pass_time(1e6)
    assert session.look() == []
    assert session.liveness.next_look() is None


def test_a_stock_script_is_never_silent() -> None:
    session = Session()
    session.read(encode_head("opened", {}) + b"}\n")
    session.pass_time(1e6)
    assert session.look() == []
    assert session.liveness.next_look() is None
    [health] = session.liveness.health(session.now)
    assert health == WriterHealth(None, None, "alive", None, None)


def test_a_blocked_loop() -> None:
    session = Session()
    session.opens()
    assert session.beats(BLOCKED_LAG - 0.001) == []
    assert session.beats(BLOCKED_LAG) == ["blocked"]
    assert session.beats(11.0) == []
    # Another thread goes on reporting; the loop is no less blocked for that.
    assert session.reports() == []
    assert session.look() == []
    assert session.beats(0.5) == ["alive"]
    assert session.beats(3.0) == ["blocked"]
    assert session.beats(None) == ["alive"]


def test_a_blocked_loop_whose_heartbeats_end_is_silent_then() -> None:
    session = Session()
    session.opens()
    assert session.beats(5.0) == ["blocked"]
    session.pass_time(25)
    assert session.statuses() == ["silent"]
    assert session.reports() == ["blocked"]


def test_who_has_ended_is_dead_whatever_it_was() -> None:
    session = Session()
    session.opens()
    session.beats(5.0)
    session.liveness.mark_ended("w", session.now)
    assert session.look() == [HealthEvent("dead", 5.0, 7, writer="w", received_at=WALL)]
    session.pass_time(100)
    assert session.look() == []
    # It was another process, then.
    assert session.beats(0.0) == ["alive"]
    session.pass_time(25)
    assert session.statuses() == ["silent"]


def test_a_stock_script_can_be_dead() -> None:
    session = Session()
    session.read(encode_head("opened", {}) + b"}\n")
    session.liveness.mark_ended(None, session.now)
    assert session.look() == [HealthEvent("dead", received_at=WALL)]


def test_who_has_closed_is_judged_no_more() -> None:
    session = Session()
    session.opens()
    session.beats(5.0)
    session.pass_time(25)
    assert session.statuses() == ["silent"]
    assert session.closes() == []
    session.liveness.mark_ended("w", session.now)
    session.pass_time(100)
    assert session.look() == []
    assert session.liveness.health(session.now) == ()
    assert session.liveness.next_look() is None
    assert session.liveness.is_quiet


def test_each_writer_is_judged_for_itself() -> None:
    session = Session()
    for name in ("a", "b", "c", "d"):
        session.opens(name)
    session.pass_time(20)
    session.beats(2.0, writer="b")
    session.beats(0.0, writer="c")
    session.pass_time(5)
    session.liveness.mark_ended("d", session.now)
    assert [(e.writer, e.status) for e in session.look()] == [("a", "silent"), ("d", "dead")]
    assert [(h.writer, h.status) for h in session.liveness.health(session.now)] == [
        ("a", "silent"),
        ("b", "blocked"),
        ("c", "alive"),
        ("d", "dead"),
    ]
    assert [h.last_heard for h in session.liveness.health(session.now)] == [25, 5, 5, 25]
    order: list[Status] = ["dead", "silent", "blocked", "alive"]
    for name, worst in zip(("d", "a", "b", "c"), order, strict=True):
        assert session.liveness.worst == worst
        session.closes(name)


def test_nothing_is_judged_while_nothing_changes() -> None:
    session = Session()
    session.opens()
    assert session.liveness.is_quiet
    for data in (encode_custom_head(1), encode_custom_head(2)):
        session.reader.receive_data(session.numbered(data), WALL, session.now)
        assert session.liveness.is_quiet
    session.reader.receive_data(encode_heartbeat("w", 10.0, 0.0, 7, WALL), WALL, session.now)
    assert not session.liveness.is_quiet


# When to look again.


def test_the_next_look_is_when_somebody_could_have_gone_silent() -> None:
    session = Session()
    assert session.liveness.next_look() is None
    start = session.now
    session.opens("a")
    assert session.liveness.next_look() == start + 25
    session.pass_time(5)
    session.opens("b")
    assert session.liveness.next_look() == start + 25
    session.reports("a")
    session.pass_time(1)
    session.beats(writer="b")
    assert session.liveness.next_look() == start + 30
    session.pass_time(24)
    assert session.statuses() == ["silent"]
    assert session.liveness.next_look() == start + 31


def test_the_next_look_for_some_writers() -> None:
    session = Session()
    start = session.now
    session.opens("a")
    session.pass_time(5)
    session.opens("b")
    session.opens("c")
    session.closes("c")
    assert session.liveness.next_look(["b"]) == start + 30
    assert session.liveness.next_look(["b", "a"]) == start + 25
    assert session.liveness.next_look(["c", "absent", None]) is None


def test_those_are_concerned_who_may_have_changed() -> None:
    session = Session()
    session.opens("a")
    session.opens("b")
    assert session.liveness.concerned == set()
    session.pass_time(25)
    session.reader.receive_data(session.numbered(encode_custom_head(1), "b"), WALL, session.now)
    assert session.statuses() == ["silent"]
    # A message that is no heartbeat may end it, and none other is there to be judged.
    assert session.liveness.concerned == {"a"}
    session.reader.receive_data(encode_heartbeat("b", 10.0, 0.0, 7, WALL), WALL, session.now)
    assert session.liveness.concerned == {"a", "b"}


def test_who_is_silent_is_asked_about_again_if_anybody_can_tell() -> None:
    session = Session()
    session.opens("a")
    session.opens("b")
    session.liveness.mark_known("a", session.now)
    assert session.liveness.to_ask_about(session.now) == []
    session.pass_time(25)
    assert [writer.name for writer in session.liveness.to_ask_about(session.now)] == ["a"]
    assert session.statuses() == ["silent", "silent"]
    assert session.liveness.next_look() == session.now + 10
    session.liveness.mark_ended("a", session.now)
    assert session.statuses() == ["dead"]
    assert session.liveness.to_ask_about(session.now) == []
    assert session.liveness.next_look() is None


# Limits.


@pytest.mark.parametrize("status", ["silent", "blocked", "dead"])
def test_a_limit_counts_from_the_change_and_is_told_once(status: Any) -> None:
    session = Session(**{status: 60.0})
    session.opens()
    if status == "silent":
        session.pass_time(25)
    elif status == "blocked":
        session.beats(1.5, interval=1000.0)
    else:
        session.liveness.mark_ended("w", session.now)
    session.look()
    assert session.liveness.worst == status
    assert session.liveness.next_look() == session.now + 60
    session.pass_time(59.9)
    session.look()
    assert session.liveness.overdue(session.now) is None
    session.pass_time(0.1)
    session.look()
    reason = f"writer w (process 7) has been {status} for {status}_timeout=60 seconds"
    assert session.liveness.overdue(session.now) == reason
    assert session.liveness.overdue(session.now) is None
    # Nor is there anything left that would wake somebody at once, again and again.
    following = session.liveness.next_look()
    assert following is None or following > session.now


def test_a_limit_for_stock_scripts() -> None:
    session = Session(dead=0.0)
    session.read(encode_head("opened", {}) + b"}\n")
    session.liveness.mark_ended(None, session.now)
    session.look()
    reason = session.liveness.overdue(session.now)
    assert reason == "the script has been dead for dead_timeout=0 seconds"


def test_who_recovers_is_given_its_time_anew() -> None:
    session = Session(blocked=60.0)
    session.opens()
    session.beats(2.0, interval=1000.0)
    session.pass_time(50)
    session.beats(0.0, interval=1000.0)
    session.beats(2.0, interval=1000.0)
    session.pass_time(50)
    session.look()
    assert session.liveness.overdue(session.now) is None
    session.pass_time(10)
    assert session.liveness.overdue(session.now) is not None
