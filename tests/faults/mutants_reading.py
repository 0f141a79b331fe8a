"""Wrong versions of ours: of what the host makes of lines, and of what a script may send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.faults.mutants import Patch, module, mutant


def on_reading(patch: Patch, change: Callable[..., tuple[list[Any], list[int]]]) -> None:
    """Change what the reader makes of bytes; ``change(reader, events, sizes)``."""
    from asyncpipes.protocol.reading import SessionReader

    receive_data, receive_end = SessionReader.receive_data, SessionReader.receive_end

    def data(self: SessionReader, *args: Any, **options: Any) -> Any:
        return change(self, *receive_data(self, *args, **options))

    def end(self: SessionReader, *args: Any, **options: Any) -> Any:
        return change(self, *receive_end(self, *args, **options))

    patch(SessionReader, "receive_data", data)
    patch(SessionReader, "receive_end", end)


# Of the host: lines and messages.


@mutant("host")
def gives_out_unfinished_lines(patch: Patch) -> None:
    """A line is given out before its newline has come."""
    from asyncpipes.protocol.framing import LineFramer

    feed = LineFramer.feed

    def hasty(self: LineFramer, data: bytes) -> list[Any]:
        lines = feed(self, data)
        rest = self.finish()
        return lines if rest is None else [*lines, rest]

    patch(LineFramer, "feed", hasty)


@mutant("host")
def decodes_what_it_reads_piece_by_piece(patch: Patch) -> None:
    """Each read is decoded by itself, so a character that is cut is replaced."""
    from asyncpipes.protocol.framing import LineFramer

    feed = LineFramer.feed

    def decoded(self: LineFramer, data: bytes) -> list[Any]:
        return feed(self, data.decode("utf-8", "replace").encode())

    patch(LineFramer, "feed", decoded)


@mutant("host")
def refuses_lines_over_64_kib(patch: Patch) -> None:
    """A line over 64 KiB is no message."""
    from functools import partial

    from asyncpipes.host import intake
    from asyncpipes.protocol.reading import SessionReader

    patch(intake, "SessionReader", partial(SessionReader, 64 * 1024))


@mutant("host")
def lets_messages_overtake(patch: Patch) -> None:
    """A message waits for what is read next, and comes after it."""
    held: list[tuple[Any, int]] = []

    def later(reader: Any, events: list[Any], sizes: list[int]) -> tuple[list[Any], list[int]]:
        if not events:
            return events, sizes
        pairs = [*zip(events, sizes, strict=True), *held]
        held[:] = [] if held else [pairs.pop()]
        return [event for event, _ in pairs], [size for _, size in pairs]

    on_reading(patch, later)


@mutant("host")
def stops_at_bad_lines(patch: Patch) -> None:
    """A line that is no message ends the reading."""
    from asyncpipes import MalformedEvent

    ended: list[Any] = []

    def cut(reader: Any, events: list[Any], sizes: list[int]) -> tuple[list[Any], list[int]]:
        if ended:
            return [], []
        for number, event in enumerate(events):
            if isinstance(event, MalformedEvent):
                ended.append(event)
                return events[: number + 1], sizes[: number + 1]
        return events, sizes

    on_reading(patch, cut)


@mutant("host")
def passes_over_bad_lines(patch: Patch) -> None:
    """A line that is no message is passed over in silence."""

    def uncounted(reader: Any, events: list[Any], sizes: list[int]) -> tuple[list[Any], list[int]]:
        reader.state.malformed = 0
        return events, sizes

    on_reading(patch, uncounted)


@mutant("host")
def drops_what_follows_the_last_newline(patch: Patch) -> None:
    """What follows the last newline is not looked at."""
    from asyncpipes.protocol.reading import SessionReader

    patch(SessionReader, "receive_end", lambda *args, **options: ([], []))


@mutant("host")
def takes_any_version(patch: Patch) -> None:
    """The protocol's version is not looked at."""
    reading = module("protocol.reading")
    load = reading.orjson.loads

    class Loader:
        @staticmethod
        def loads(line: bytes) -> Any:
            message = load(line)
            if isinstance(message, dict) and reading.VERSION_FIELD in message:
                message[reading.VERSION_FIELD] = reading.PROTOCOL_VERSION
            return message

    patch(reading, "orjson", Loader)


# Of the script: what it may send.


@mutant("script")
def sends_levels_by_their_own_names(patch: Patch) -> None:
    """A record goes out under its level's own name."""
    import logging as standard

    from asyncpipes.external import logging

    patch(logging, "level_name", standard.getLevelName)


@mutant("script")
def sends_any_severity(patch: Patch) -> None:
    """A check is sent with whatever severity it is given."""
    from asyncpipes.external import reporting

    patch(reporting, "SEVERITIES", ("INFO", "WARN", "ERROR"))


@mutant("script")
def sends_any_metadata_type(patch: Patch) -> None:
    """Metadata is sent with whatever type it is given."""
    from asyncpipes.protocol import metadata

    patch(metadata, "_typed", lambda kind, raw_value, *args, **options: (kind, raw_value))
