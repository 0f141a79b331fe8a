"""The options of a session, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..channels.base import Channel
from ..errors import InvalidParameterError
from ..protocol.messages import MAX_HEARTBEAT, MIN_HEARTBEAT
from .context_injectors import ContextInjector

Collect = Literal["results", "all", "none"]
ForwardStdio = bool | Literal["events", "both"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of ``open_pipes_session``; see there.

    Raises:
        InvalidParameterError: one has a wrong type or value; names it.
    """

    channel: Channel
    context_injector: ContextInjector
    strict: bool
    collect: Collect
    drain_timeout: float
    open_timeout: float | None
    forward_stdio: ForwardStdio
    grace: float
    heartbeat: float | None
    silent_timeout: float | None
    blocked_timeout: float | None
    dead_timeout: float | None
    until_finish: bool

    def __post_init__(self) -> None:
        _check(isinstance(self.channel, Channel), "channel", "a Channel", self.channel)
        _check(
            isinstance(self.context_injector, ContextInjector),
            "context_injector",
            "a ContextInjector",
            self.context_injector,
        )
        for name in ("strict", "until_finish"):
            value = getattr(self, name)
            _check(isinstance(value, bool), name, "True or False", value)
        collects = get_args(Collect)
        _check(self.collect in collects, "collect", f"one of {', '.join(collects)}", self.collect)
        _check(
            isinstance(self.forward_stdio, bool) or self.forward_stdio in ("events", "both"),
            "forward_stdio",
            "True, False, 'events' or 'both'",
            self.forward_stdio,
        )
        check_seconds("open_pipes_session", "drain_timeout", self.drain_timeout)
        check_seconds("open_pipes_session", "open_timeout", self.open_timeout, optional=True)
        check_seconds("open_pipes_session", "grace", self.grace)
        check_seconds("open_pipes_session", "heartbeat", self.heartbeat, optional=True)
        if self.heartbeat is not None:
            _check(
                MIN_HEARTBEAT <= self.heartbeat <= MAX_HEARTBEAT,
                "heartbeat",
                f"from {MIN_HEARTBEAT:g} to {MAX_HEARTBEAT:g} seconds, or None for none",
                self.heartbeat,
            )
        for name in ("silent_timeout", "blocked_timeout", "dead_timeout"):
            value = getattr(self, name)
            check_seconds("open_pipes_session", name, value, optional=True)
            if value is not None and self.heartbeat is None and name != "dead_timeout":
                raise InvalidParameterError(
                    f"open_pipes_session: `{name}` needs heartbeats: give `heartbeat` a number"
                    " of seconds"
                )


def check_seconds(method: str, name: str, value: object, *, optional: bool = False) -> None:
    """Refuse what is no length of time.

    Raises:
        InvalidParameterError: it names ``method`` and ``name``.
    """
    if optional and value is None:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or math.isnan(value) or value < 0:  # type: ignore[arg-type,operator]  # a number
        or_none = ", or None" if optional else ""
        raise InvalidParameterError(
            f"{method}: `{name}` must be a number of seconds, 0 or more{or_none}, got {value!r}"
        )


def _check(is_right: bool, name: str, expected: str, value: object) -> None:
    if not is_right:
        raise InvalidParameterError(
            f"open_pipes_session: `{name}` must be {expected}, got {value!r}"
        )
