"""The last message of a context, which tells the host how the script left it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidParameterError
from ..protocol.exceptions import encode_exception
from ..protocol.messages import encode_head, encode_log_head

#: What a context is left with: an exception, one as ``dagster_pipes`` gives it, or None.
Ending = BaseException | Mapping[str, Any] | None

#: The message of a clean end.
CLEAN_END = encode_head("closed", {})


def closing_message(ending: Ending, *, extended: bool, terminated: bool) -> bytes:
    """The ``closed`` message, but for its last brace.

    Args:
        extended: the host is one of ours, and takes more than protocol 0.1 has.
        terminated: SIGTERM is the reason.

    Raises:
        InvalidParameterError: ``ending`` is none of the three.
    """
    if ending is None or (isinstance(ending, SystemExit) and ending.code in (None, 0)):
        return CLEAN_END
    if isinstance(ending, BaseException):
        exception = encode_exception(ending, extended=extended)
    else:
        exception = _given_exception(ending)
    if terminated:
        exception["message"] = f"terminated by SIGTERM: {exception['message']}"
    return encode_head("closed", {"exception": exception})


def told_in_log(ending: Ending) -> bytes:
    """How one of several writers ended, for a stock host, which knows one ``closed`` alone."""
    who = f"process {os.getpid()} left its pipes context with an exception"
    if isinstance(ending, BaseException):
        trace = "".join(traceback.format_exception(type(ending), ending, ending.__traceback__))
        return encode_log_head(f"{who}:\n{trace.rstrip()}", "ERROR")
    return encode_log_head(f"{who}: {_given_exception(ending)['message']}", "ERROR")


def _given_exception(exc: object) -> dict[str, Any]:
    """The wire's form of an exception that is given in that form already."""
    if not isinstance(exc, Mapping) or not isinstance(exc.get("message"), str):
        raise InvalidParameterError(
            "close: `exc` must be an exception, or a mapping with a text under 'message', got"
            f" {type(exc).__name__}: {exc!r:.100}"
        )
    return {"stack": [], "name": None, "cause": None, "context": None, **exc}
