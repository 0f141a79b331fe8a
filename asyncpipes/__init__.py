"""Dagster Pipes for asyncio, both ends.

In the script: :func:`open_pipes`. In the host: :func:`open_pipes_session` or
:func:`run`. Names are loaded when they are first used, so a script needs and loads
``orjson`` alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "AmbiguousContextError",
    "AssetCheckEvent",
    "BinaryWriter",
    "BootstrapEncodingError",
    "BootstrapError",
    "BootstrapMissingError",
    "BootstrapTooLargeError",
    "BootstrapTruncatedError",
    "BufferFullError",
    "ChannelError",
    "CliParamsLoader",
    "ClosedError",
    "ClosedEvent",
    "ContextData",
    "ContextInjector",
    "ContextLoader",
    "CustomMessageEvent",
    "DataProvenance",
    "EnvContextInjector",
    "EnvParamsLoader",
    "Event",
    "EventIterator",
    "ExternalError",
    "ExternalStreamEvent",
    "GapEvent",
    "HealthEvent",
    "InactiveError",
    "InactiveWarning",
    "IncompleteError",
    "InjectedContext",
    "InvalidParameterError",
    "LaunchError",
    "LogEvent",
    "MalformedEvent",
    "MalformedMessageError",
    "MappingParamsLoader",
    "MaterializationEvent",
    "MetadataValue",
    "NotOpenError",
    "OpenedEvent",
    "Outcome",
    "OutcomeError",
    "ParamsLoader",
    "PartitionKeyRange",
    "PipesContext",
    "PipesError",
    "PipesException",
    "PipesHandler",
    "PipesProcess",
    "PipesSession",
    "ProcessFailedError",
    "ProtocolError",
    "RunResult",
    "SessionHealth",
    "SessionStats",
    "SessionTimeoutError",
    "Subscriber",
    "SubscriberError",
    "Subscription",
    "TempFileContextInjector",
    "TimeWindow",
    "TransitionError",
    "UndefinedError",
    "UsageError",
    "WriterHealth",
    "__version__",
    "open_pipes",
    "open_pipes_session",
    "run",
    "to_json_lines",
    "to_list",
    "to_logger",
]

if TYPE_CHECKING:
    from .errors import (
        AmbiguousContextError,
        BootstrapEncodingError,
        BootstrapError,
        BootstrapMissingError,
        BootstrapTooLargeError,
        BootstrapTruncatedError,
        BufferFullError,
        ChannelError,
        ClosedError,
        ExternalError,
        InactiveError,
        IncompleteError,
        InvalidParameterError,
        LaunchError,
        MalformedMessageError,
        NotOpenError,
        OutcomeError,
        PipesError,
        ProcessFailedError,
        ProtocolError,
        SessionTimeoutError,
        SubscriberError,
        TransitionError,
        UndefinedError,
        UsageError,
    )
    from .external.connection import PipesContext
    from .external.context import open_pipes
    from .external.inactive import InactiveWarning
    from .external.loaders import (
        CliParamsLoader,
        ContextLoader,
        EnvParamsLoader,
        MappingParamsLoader,
        ParamsLoader,
    )
    from .external.logging import PipesHandler
    from .host.context_injectors import (
        ContextInjector,
        EnvContextInjector,
        InjectedContext,
        TempFileContextInjector,
    )
    from .host.process import PipesProcess
    from .host.result import RunResult, SessionHealth, SessionStats
    from .host.session import PipesSession, open_pipes_session, run
    from .host.subscribers import BinaryWriter, Subscriber, to_json_lines, to_list, to_logger
    from .host.subscription import EventIterator, Subscription
    from .protocol.context import ContextData, DataProvenance, PartitionKeyRange, TimeWindow
    from .protocol.events import (
        AssetCheckEvent,
        ClosedEvent,
        CustomMessageEvent,
        Event,
        ExternalStreamEvent,
        GapEvent,
        HealthEvent,
        LogEvent,
        MalformedEvent,
        MaterializationEvent,
        OpenedEvent,
    )
    from .protocol.exceptions import PipesException
    from .protocol.liveness import WriterHealth
    from .protocol.metadata import MetadataValue
    from .protocol.outcome import Outcome

_MODULES = {
    "errors": (
        "AmbiguousContextError BootstrapEncodingError BootstrapError BootstrapMissingError"
        " BootstrapTooLargeError BootstrapTruncatedError BufferFullError ChannelError ClosedError"
        " ExternalError InactiveError IncompleteError InvalidParameterError LaunchError"
        " MalformedMessageError NotOpenError OutcomeError PipesError ProcessFailedError"
        " ProtocolError SessionTimeoutError SubscriberError TransitionError UndefinedError"
        " UsageError"
    ),
    "external.connection": "PipesContext",
    "external.context": "open_pipes",
    "external.inactive": "InactiveWarning",
    "external.loaders": (
        "CliParamsLoader ContextLoader EnvParamsLoader MappingParamsLoader ParamsLoader"
    ),
    "external.logging": "PipesHandler",
    "host.context_injectors": (
        "ContextInjector EnvContextInjector InjectedContext TempFileContextInjector"
    ),
    "host.process": "PipesProcess",
    "host.result": "RunResult SessionHealth SessionStats",
    "host.session": "PipesSession open_pipes_session run",
    "host.subscribers": "BinaryWriter Subscriber to_json_lines to_list to_logger",
    "host.subscription": "EventIterator Subscription",
    "protocol.context": "ContextData DataProvenance PartitionKeyRange TimeWindow",
    "protocol.events": (
        "AssetCheckEvent ClosedEvent CustomMessageEvent Event ExternalStreamEvent GapEvent"
        " HealthEvent LogEvent MalformedEvent MaterializationEvent OpenedEvent"
    ),
    "protocol.exceptions": "PipesException",
    "protocol.liveness": "WriterHealth",
    "protocol.metadata": "MetadataValue",
    "protocol.outcome": "Outcome",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
