"""asyncpipes.protocol.messages: the seven messages as bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncpipes.errors import InvalidParameterError
from asyncpipes.protocol.messages import (
    METHODS,
    PLAIN_TAIL,
    encode_custom_head,
    encode_head,
    encode_heartbeat,
    encode_log_head,
    extension_tail,
    heartbeat_interval,
    speaks_extension,
)


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_message_is_one_line_of_protocol_0_1(method: str) -> None:
    line = encode_head(method, {"text": "two\nlines", "ä": "€"}) + PLAIN_TAIL
    assert line.count(b"\n") == 1
    assert list(json.loads(line).items()) == [
        ("__dagster_pipes_version", "0.1"),
        ("method", method),
        ("params", {"text": "two\nlines", "ä": "€"}),
    ]


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_a_log_line(level: str) -> None:
    plain = json.loads(encode_log_head('quo"te\n', level) + PLAIN_TAIL)
    assert plain == json.loads(
        encode_head("log", {"message": 'quo"te\n', "level": level}) + PLAIN_TAIL
    )
    ours = json.loads(encode_log_head("x", level, {"line": 3}) + PLAIN_TAIL)
    assert ours["fields"] == {"line": 3}
    assert ours["params"] == {"message": "x", "level": level}


@pytest.mark.parametrize("payload", [None, 1, "x", [], {"a": {"b": [1.5, 2**70]}}])
def test_a_custom_message(payload: Any) -> None:
    message = json.loads(encode_custom_head(payload) + PLAIN_TAIL)
    assert message["method"] == "report_custom_message"
    assert message["params"] == {"payload": payload}


def test_the_extension_goes_on_top() -> None:
    line = encode_head("closed", {}) + extension_tail("w1", 17, 1767225600.123456)
    assert json.loads(line) == {
        "__dagster_pipes_version": "0.1",
        "method": "closed",
        "params": {},
        "writer": "w1",
        "seq": 17,
        "sent_at": 1767225600.123456,
    }
    dropped = json.loads(encode_head("closed", {}) + extension_tail("w1", 1, 2.0, 5))
    assert dropped["dropped"] == 5
    assert isinstance(dropped["sent_at"], float)


@pytest.mark.parametrize(
    ("encode", "where"),
    [
        (lambda: encode_head("opened", {"extras": object()}), "opened"),
        (lambda: encode_log_head("x", "INFO", {"f": object()}), "log: fields"),
        (lambda: encode_custom_head([float("nan")]), "report_custom_message: payload"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(encode: Any, where: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        encode()
    assert str(caught.value).startswith(where)


@pytest.mark.parametrize(
    ("params", "speaks"),
    [
        ({}, False),
        ({"path": "x"}, False),
        ({"asyncpipes": {"v": 1}}, True),
        ({"asyncpipes": {"v": 2, "more": 1}}, True),
        ({"asyncpipes": {"v": 0}}, False),
        ({"asyncpipes": {"v": "1"}}, False),
        ({"asyncpipes": {"v": True}}, False),
        ({"asyncpipes": {}}, False),
        ({"asyncpipes": 1}, False),
        ({"asyncpipes": None}, False),
    ],
)
def test_whether_the_host_is_ours(params: dict[str, Any], speaks: bool) -> None:
    assert speaks_extension(params) is speaks


@pytest.mark.parametrize("lag", [None, 0.0125, 1e-9, 12345.5])
def test_a_heartbeat_is_one_line_without_a_number(lag: float | None) -> None:
    line = encode_heartbeat("w1", 0.5, lag, 4711, 1767225600.25)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    message = json.loads(line)
    sent = message["params"].pop("lag")
    assert sent is None if lag is None else sent == pytest.approx(lag, abs=1e-6)
    assert message == {
        "__dagster_pipes_version": "0.1",
        "method": "asyncpipes.heartbeat",
        "params": {"interval": 0.5, "pid": 4711},
        "writer": "w1",
        "sent_at": 1767225600.25,
    }


@pytest.mark.parametrize(
    ("offer", "interval"),
    [
        ({"v": 1, "heartbeat": 10.0}, 10.0),
        ({"v": 1, "heartbeat": 10}, 10.0),
        ({"v": 2, "heartbeat": 0.01}, 0.01),
        ({"v": 1, "heartbeat": 86_400}, 86_400.0),
        ({"v": 1}, None),
        ({"v": 1, "heartbeat": None}, None),
        ({"v": 1, "heartbeat": 0}, None),
        ({"v": 1, "heartbeat": 0.009}, None),
        ({"v": 1, "heartbeat": 86_401}, None),
        ({"v": 1, "heartbeat": -1.0}, None),
        ({"v": 1, "heartbeat": 10**400}, None),
        ({"v": 1, "heartbeat": float("nan")}, None),
        ({"v": 1, "heartbeat": True}, None),
        ({"v": 1, "heartbeat": "10"}, None),
        ({"v": 0, "heartbeat": 10.0}, None),
        ("10", None),
    ],
)
def test_how_often_the_host_wants_a_heartbeat(offer: Any, interval: float | None) -> None:
    found = heartbeat_interval({"path": "x", "asyncpipes": offer})
    assert found == interval
    assert found is None or type(found) is float
