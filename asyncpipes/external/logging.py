"""Log records into the channel: the logger of a context, and a handler for any other.

Towards a host of ours, a record's ``fields`` go with it, under these keys:

=================== ==============================================================
``logger``          name of the logger
``file``, ``line``  where the call was made
``task``            name of the asyncio task, if there was one
``thread``          name of the thread
``traceback``       the formatted traceback of ``log.exception`` or ``exc_info=``
``stack``           the formatted stack of ``stack_info=True``
``level``           the level's own name where it is none of the protocol's five
``extra``           what the call passed as ``extra=``
=================== ==============================================================

Protocol 0.1 has no place for them, so towards a stock host traceback and stack are
appended to the message, as the standard library's formatters do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from copy import copy
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..protocol.codec import dumps, loads
from . import lifecycle

if TYPE_CHECKING:
    from .reporting import Reporter

#: A record logged while another one is being made into a message (by a ``__str__``
#: that logs) is a message of its own, but only so deep: it might go on for ever.
_MAX_DEPTH = 8

_STANDARD_ATTRIBUTES = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


def level_name(number: int) -> str:
    """The highest of the protocol's five levels that is not above ``number``."""
    if number >= logging.CRITICAL:
        return "CRITICAL"
    if number >= logging.ERROR:
        return "ERROR"
    if number >= logging.WARNING:
        return "WARNING"
    return "INFO" if number >= logging.INFO else "DEBUG"


class PipesHandler(logging.Handler):
    """Sends log records through a pipes context.

    Attach it to any logger, or name it in ``logging.config.dictConfig``
    (``"class": "asyncpipes.PipesHandler"``).

    Args:
        context: where records go. By default, the context that is open when the
            record comes, as :meth:`PipesContext.get` finds it; while none is open,
            records go nowhere.
        level: the lowest level that is sent.

    It never raises into the code that logs and never blocks the event loop, but for the
    first report of a forked process, which waits until a file channel has it. A record
    whose message cannot be formatted is sent with its parts as they are. A formatter that
    was set is used for the message; a traceback is a field of its own, and not in there too,
    towards a host that takes fields.
    """

    def __init__(self, context: Reporter | None = None, level: int | str = 0) -> None:
        super().__init__(level)
        self._target = context
        self._depth = threading.local()

    def handle(self, record: logging.LogRecord) -> bool:
        """Send a record that the filters let through.

        Without the handler's lock, which the base class holds here: another thread
        that waits for room in the buffer would hold it, and the loop wait for that thread.
        """
        # From Python 3.12 on a filter may give another record instead.
        passed: Any = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        depth = getattr(self._depth, "value", 0)
        if depth >= _MAX_DEPTH:
            return
        self._depth.value = depth + 1
        try:
            target = self._target or _open_context()
            if target is not None and not target.is_closed:
                self._send(target, record)
        except Exception:  # logging's own rule: a handler tells on stderr and never raises
            self.handleError(record)
        finally:
            self._depth.value = depth

    def _send(self, target: Reporter, record: logging.LogRecord) -> None:
        message = self._message(record, has_fields=target.has_log_fields)
        traceback = self._traceback(record)
        if target.has_log_fields:
            fields = _fields(record)
            if traceback:
                fields["traceback"] = traceback
            if record.stack_info:
                fields["stack"] = record.stack_info
            target.send_log(message, level_name(record.levelno), fields)
        else:
            if self.formatter is None:  # a formatter has appended them already
                parts = [message, traceback, record.stack_info]
                message = "\n".join(part for part in parts if part)
            target.send_log(message, level_name(record.levelno), None)

    def _message(self, record: logging.LogRecord, *, has_fields: bool) -> str:
        try:
            if self.formatter is not None:
                if has_fields:  # or the formatter would append what is a field as well
                    record = copy(record)
                    record.exc_info = record.exc_text = record.stack_info = None
                return self.formatter.format(record)
            return record.getMessage()
        except Exception as error:  # a __str__ or a %-format of the caller's: say what was meant
            self.handleError(record)
            message = record.msg if isinstance(record.msg, str) else _safe_repr(record.msg)
            return (
                f"{message} {_safe_repr(record.args)} (the message could not be formatted:"
                f" {_safe_repr(error)})"
            )

    def _traceback(self, record: logging.LogRecord) -> str | None:
        if record.exc_info and record.exc_info[0] is not None:
            return _FORMATTER.formatException(record.exc_info)
        return record.exc_text


_FORMATTER = logging.Formatter()


def _open_context() -> Reporter | None:
    try:
        return lifecycle.find()
    except UsageError:  # none is open, or several and none is this task's
        return None


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "logger": record.name,
        "file": record.pathname,
        "line": record.lineno,
        "thread": record.threadName,
    }
    task = _task_name(record)
    if task is not None:
        fields["task"] = task
    if record.levelname != level_name(record.levelno):
        fields["level"] = record.levelname
    extra = {k: v for k, v in record.__dict__.items() if k not in _STANDARD_ATTRIBUTES}
    if extra:
        fields["extra"] = {key: _jsonable(value) for key, value in extra.items()}
    return fields


def _task_name(record: logging.LogRecord) -> str | None:
    name = getattr(record, "taskName", None)
    if isinstance(name, str):
        return name
    if asyncio._get_running_loop() is None:
        return None
    task = asyncio.current_task()
    return None if task is None else task.get_name()


def _jsonable(value: Any) -> Any:
    """``extra=`` may hold anything; what JSON cannot is shown as its repr."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    try:
        return loads(dumps(value, where="extra"))
    except Exception:  # of JSON, or of a mapping of the caller's
        return _safe_repr(value)


def _safe_repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # a __repr__ of the caller's
        return f"<{type(value).__name__} that cannot be shown>"
