"""The message that all subjects report, and the check that every one of them arrived.

It is a custom message that takes 235 bytes as a compact protocol 0.1 line, newline
included, when its index has six digits. The stock writer puts blanks into its JSON,
which makes the same message 15 bytes longer; our writer, towards a host of ours, adds
writer, number and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

LINE_BYTES = 235
_METHOD = "report_custom_message"
_TEXT = "a file of the day was read, checked and added to the table of orders, as was planned"
_HEAD = b'{"__dagster_pipes_version":"0.1","method":"%b","params":%b}\n'


class LostMessageError(Exception):
    """A subject lost, doubled or misplaced messages: its time is worth nothing."""


def payload(index: int) -> dict[str, Any]:
    """What message ``index`` reports; made anew for each, as a script would."""
    return {"index": index, "step": "load", "done": 0.25, "ok": True, "text": _TEXT}


def message(index: int) -> dict[str, Any]:
    """Message ``index`` as protocol 0.1 has it."""
    return {
        "__dagster_pipes_version": "0.1",
        "method": _METHOD,
        "params": {"payload": payload(index)},
    }


def write_backlog(path: str, messages: int, *, extended: bool) -> None:
    """Append what a script leaves: ``opened``, the messages, ``closed``.

    ``extended`` gives the lines the members that our scripts add for our host.
    """
    with open(path, "ab", buffering=1024 * 1024) as file:
        for number, line in enumerate(_lines(messages), 1):
            if extended:
                tail = b',"writer":"0123456789ab","seq":%d,"sent_at":1767225600.123456}\n'
                line = line[:-2] + tail % number
            file.write(line)


def _lines(messages: int) -> Iterator[bytes]:
    yield _HEAD % (b"opened", b'{"extras":{}}')
    for index in range(messages):
        yield orjson.dumps(message(index), option=orjson.OPT_APPEND_NEWLINE)
    yield _HEAD % (b"closed", b"{}")


def check_file(path: str, messages: int) -> None:
    """Parse every line again, and check that messages 0 to ``messages`` - 1 are there.

    Raises:
        LostMessageError: they are not, or not in order, or a line is not JSON.
    """
    check_indices(_indices(path), messages)


def _indices(path: str) -> Iterator[int]:
    with open(path, "rb") as file:
        for line in file:
            try:
                parsed = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise LostMessageError(f"a line is not JSON: {error}: {line[:80]!r}") from error
            if parsed["method"] == _METHOD:
                yield parsed["params"]["payload"]["index"]


def lost_at_end(indices: Sequence[int], messages: int) -> int:
    """How many of the last messages are missing; for subjects whose reader may die.

    Raises:
        LostMessageError: others are missing, or misplaced.
    """
    check_indices(indices, len(indices))
    return messages - len(indices)


def check_indices(indices: Iterable[int], messages: int) -> None:
    """Check that ``indices`` are 0 to ``messages`` - 1, in order.

    Raises:
        LostMessageError: they are not.
    """
    expected = 0
    for index in indices:
        if index != expected:
            raise LostMessageError(f"message {index} came where message {expected} belongs")
        expected += 1
    if expected != messages:
        raise LostMessageError(f"{expected} messages came of {messages} that were reported")
