"""The context of a script: what Dagster's injectors are given, and what they have put somewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from dagster import DagsterError, DagsterInvariantViolationError, PipesContextInjector

from ..errors import InvalidParameterError
from ..host.context_injectors import ContextInjector, InjectedContext
from ..protocol.context import ContextData
from .internals import ExecutionContext
from .message_readers import named_after


class Injected(ContextInjector):
    """The context is where Dagster's injector has put it."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    async def inject(self, data: ContextData) -> InjectedContext:
        return InjectedContext(self._params)


class _Completed(PipesContextInjector):
    """The user's injector, with what Dagster leaves out of the context data.

    A run of several partitions has a range of keys and a time window, but Dagster's clients
    send them with single partitions alone (``build_external_execution_context_data``).
    """

    def __init__(self, injector: PipesContextInjector, context: ExecutionContext) -> None:
        self._injector = injector
        self._context = context

    @contextmanager
    def inject_context(self, context_data: Any) -> Iterator[Mapping[str, Any]]:
        with self._injector.inject_context(_completed(context_data, self._context)) as params:
            yield params

    def no_messages_debug_text(self) -> str:
        return self._injector.no_messages_debug_text()


def completing(injector: PipesContextInjector, context: ExecutionContext) -> PipesContextInjector:
    completing = named_after(injector, _Completed)
    return completing(injector, context)


def checked_extras(extras: object) -> dict[str, Any]:
    if not isinstance(extras, Mapping) or not all(isinstance(key, str) for key in extras):
        raise InvalidParameterError(f"`extras` must map str to JSON values, got {extras!r}")
    try:
        json.dumps(dict(extras))  # as Dagster's context injectors do
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParameterError(f"`extras` hold what JSON cannot: {error}") from error
    return dict(extras)


def _completed(data: Any, context: ExecutionContext) -> Any:
    try:
        if data["partition_key"] is not None or not context.has_partition_key_range:
            return data
    except (AttributeError, DagsterError):  # a step that is invoked directly has no run to ask
        return data
    keys = context.partition_key_range
    completed = {**data, "partition_key_range": {"start": keys.start, "end": keys.end}}
    with suppress(DagsterInvariantViolationError):  # they are no partitions by time
        window = context.partition_time_window
        completed["partition_time_window"] = {
            "start": window.start.isoformat(),
            "end": window.end.isoformat(),
        }
    return completed
