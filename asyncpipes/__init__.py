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
    "CustomMessageEvent",
    "EnvContextInjector",
    "EnvParamsLoader",
    "Event",
    "ExternalError",
    "ExternalStreamEvent",
    "GapEvent",
    "HealthEvent",
    "InactiveError",
    "InactiveWarning",
    "IncompleteError",
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
    "PipesContext",
    "PipesError",
    "PipesException",
    "PipesHandler",
    "PipesSession",
    "ProcessFailedError",
    "ProtocolError",
    "RunResult",
    "SessionHealth",
    "SessionStats",
    "SessionTimeoutError",
    "Subscriber",
    "SubscriberError",
    "TempFileContextInjector",
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
    from .external.loaders import CliParamsLoader, EnvParamsLoader, MappingParamsLoader
    from .external.logging import PipesHandler
    from .host.context_injectors import (
        ContextInjector,
        EnvContextInjector,
        TempFileContextInjector,
    )
    from .host.result import RunResult, SessionHealth, SessionStats
    from .host.session import PipesSession, open_pipes_session, run
    from .host.subscribers import Subscriber, to_json_lines, to_list, to_logger
    from .protocol.context import ContextData
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
    "external.loaders": "CliParamsLoader EnvParamsLoader MappingParamsLoader",
    "external.logging": "PipesHandler",
    "host.context_injectors": "ContextInjector EnvContextInjector TempFileContextInjector",
    "host.result": "RunResult SessionHealth SessionStats",
    "host.session": "PipesSession open_pipes_session run",
    "host.subscribers": "Subscriber to_json_lines to_list to_logger",
    "protocol.context": "ContextData",
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
