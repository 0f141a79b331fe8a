"""Wrong options are refused before anything is created, and named."""

from __future__ import annotations

from typing import Any

import pytest

from asyncpipes import InvalidParameterError, open_pipes_session, run
from asyncpipes.protocol.context import build_context
from tests.support_host import raw_child


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"collect": "some"}, "`collect` must be one of results, all, none, got 'some'"),
        ({"forward_stdio": "no"}, "`forward_stdio` must be True, False, 'events' or 'both'"),
        ({"forward_stdio": None}, "`forward_stdio` must be"),
        ({"strict": "yes"}, "`strict` must be True or False, got 'yes'"),
        ({"channel": "messages"}, "`channel` must be a Channel, got 'messages'"),
        ({"context_injector": dict}, "`context_injector` must be a ContextInjector"),
        ({"drain_timeout": -1}, "`drain_timeout` must be a number of seconds, 0 or more, got -1"),
        ({"drain_timeout": None}, "`drain_timeout` must be a number"),
        ({"drain_timeout": True}, "`drain_timeout` must be a number"),
        ({"open_timeout": "5"}, "`open_timeout` must be a number of seconds, 0 or more, or None"),
        ({"grace": float("nan")}, "`grace` must be a number of seconds"),
        (
            {"heartbeat": 0},
            "`heartbeat` must be from 0.01 to 86400 seconds, or None for none, got 0",
        ),
        ({"heartbeat": 1e9}, "`heartbeat` must be from 0.01 to 86400 seconds"),
        ({"heartbeat": "10"}, "`heartbeat` must be a number of seconds"),
        (
            {"silent_timeout": -1},
            "`silent_timeout` must be a number of seconds, 0 or more, or None",
        ),
        ({"blocked_timeout": True}, "`blocked_timeout` must be a number of seconds"),
        ({"dead_timeout": "5"}, "`dead_timeout` must be a number of seconds"),
        ({"heartbeat": None, "silent_timeout": 5}, "`silent_timeout` needs heartbeats: give"),
        ({"heartbeat": None, "blocked_timeout": 5}, "`blocked_timeout` needs heartbeats: give"),
        ({"context": {"extras": {}}}, "`context` must be a ContextData"),
        ({"context": build_context(), "extras": {}}, "either `context` or its fields"),
        ({"asset_keys": "orders"}, "asset_keys"),
        ({"extras": 5}, "extras"),
        ({"assets": ["orders"]}, "assets"),
    ],
)
def test_options_of_a_session(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):  # InvalidParameterError is one
        open_pipes_session(**options)


@pytest.mark.parametrize("timeout", ["1", -1, True])
async def test_timeouts(timeout: Any) -> None:
    with pytest.raises(InvalidParameterError, match="run: `timeout` must be a number of seconds"):
        await run(raw_child("pass"), timeout=timeout)
    async with open_pipes_session(strict=False) as session:
        with pytest.raises(InvalidParameterError, match="wait_drained: `timeout` must be"):
            await session.wait_drained(timeout)


@pytest.mark.parametrize(
    ("command", "env", "message"),
    [
        ([], None, "`command` is empty"),
        ("", None, "`command` is empty"),
        (5, None, "`command` must be a str or a sequence of str and paths, got 5"),
        (["python", 5], None, "`command` must be a str or a sequence of str and paths"),
        (b"python", None, "`command` must be a str or a sequence"),
        (["python", "a\0b"], None, "`command` has a null byte in"),
        (["python"], {"A": 1}, "`env` must map str to str; 'A' is mapped to 1"),
        (["python"], {"A": "\0"}, "`env` has a null byte in 'A'"),
        (["python"], "A=1", "`env` must be a mapping, got 'A=1'"),
    ],
)
async def test_what_cannot_be_a_command(
    any_loop: None, command: Any, env: Any, message: str
) -> None:
    async with open_pipes_session() as session:
        with pytest.raises(InvalidParameterError, match=message):
            await session.launch(command, env=env)
        # Nothing was launched: the right command still can be.
        await session.launch(raw_child("opened(); closed()"))
    assert session.outcome.ok


@pytest.mark.parametrize(
    ("name", "meant"), [("asset_key", "asset_keys"), ("drain_timeot", "drain_timeout")]
)
def test_a_misspelt_option_is_named_with_the_one_that_is_meant(name: str, meant: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"no option `{name}`; did you mean `{meant}`"):
        options: dict[str, Any] = {name: "x"}
        open_pipes_session(**options)


async def test_on_without_its_parentheses_is_refused() -> None:
    async with open_pipes_session(strict=False) as session:
        with pytest.raises(InvalidParameterError, match=r"write @session.on\(\)"):
            session.on(print)  # type: ignore[arg-type]  # the mistake
