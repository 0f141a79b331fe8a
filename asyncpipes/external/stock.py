"""What a script brings along from ``dagster_pipes``: its message writers, its ``get()``.

The package itself is loaded for ``register_stock`` alone. Its params and context
loaders need nothing here: ours have the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..channels.base import ChannelWriter, Guarantees
from ..errors import ChannelError, InvalidParameterError
from ..protocol.codec import loads
from .loaders import default_writer

if TYPE_CHECKING:
    from .connection import PipesContext


def check_writer(given: object) -> None:
    """Refuse what is no message writer, neither ours nor of ``dagster_pipes``.

    Raises:
        InvalidParameterError: ``given`` is something else.
    """
    if given is None or isinstance(given, ChannelWriter):
        return
    if isinstance(given, type) or not (
        hasattr(given, "open") and hasattr(given, "get_opened_payload")
    ):
        raise InvalidParameterError(
            "open_pipes: `message_writer` must be a ChannelWriter or a message writer of"
            f" dagster_pipes, got {type(given).__name__}"
        )


def make_writer(given: Any, params: Mapping[str, Any]) -> ChannelWriter:
    """The channel's end that the caller gave, or the one that the host asks for.

    Raises:
        BootstrapEncodingError: the host asks for a channel that is not known.
    """
    if given is None:
        return default_writer(params)
    return given if isinstance(given, ChannelWriter) else StockWriter(given, params)


def register_stock(context: PipesContext) -> Callable[[], None]:
    """Make ``dagster_pipes`` find our context; return what puts it back.

    Raises:
        InvalidParameterError: the package is not installed.
    """
    try:
        from dagster_pipes import PipesContext as Stock  # an extra of the script's own
    except ImportError as error:
        raise InvalidParameterError(
            "open_pipes: register_stock=True needs the package dagster-pipes, which is not"
            " installed here"
        ) from error
    context.replaced_stock = Stock._instance
    Stock.set(context)  # type: ignore[arg-type]  # the same methods, no common class

    def restore() -> None:
        # Contexts that overlap may be left in any order, and somebody else may have
        # taken the place meanwhile.
        current: object = Stock._instance
        if current is context:
            Stock._instance = _still_open(context.replaced_stock)

    return restore


def _still_open(before: Any) -> Any:
    """``before``, or what it had taken the place of if it is closed by now."""
    while getattr(before, "is_closed", False) is True:
        before = getattr(before, "replaced_stock", None)
    return before


class StockWriter(ChannelWriter):
    """A message writer of ``dagster_pipes``, or a subclass, as a channel of ours.

    Nothing is known of where it writes, so nothing is promised.
    """

    guarantees = Guarantees(ordered=True, immediate=False, acknowledged=False, durable=False)

    def __init__(self, writer: Any, params: Mapping[str, Any]) -> None:
        self._writer = writer
        self._params = params
        self._scope: AbstractContextManager[Any] | None = None
        self._channel: Any = None
        # How many lines of a batch are through, should one of them fail.
        self._through = 0

    def open(self) -> None:
        try:
            scope = self._writer.open(self._params)
            self._channel = scope.__enter__()
        except Exception as error:  # it may talk to anything, and fail in its own way
            raise ChannelError(
                f"the message writer {type(self._writer).__name__} cannot be opened: {error!r}"
            ) from error
        self._scope = scope

    def opened_extras(self) -> Mapping[str, Any]:
        payload = self._writer.get_opened_payload()
        return dict(payload.get("extras") or {})

    def write(self, lines: bytes) -> None:
        for line in lines.split(b"\n")[self._through : -1]:
            self._channel.write_message(loads(line))
            self._through += 1
        self._through = 0

    def close(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.__exit__(None, None, None)
