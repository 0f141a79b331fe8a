"""Every error that asyncpipes raises, under one root.

::

    PipesError
    ├── UsageError                      the caller's fault
    │   ├── InvalidParameterError       a wrong type or value, also a TypeError
    │   ├── UndefinedError              an asset key, partition or extra that is not in scope
    │   ├── InactiveError               not launched by a host, and ``inactive="error"``
    │   ├── NotOpenError                no context is open, or this one is not open yet
    │   ├── ClosedError                 the context or session is closed already
    │   ├── AmbiguousContextError       several contexts are open and none is this task's
    │   └── BufferFullError             a custom message above twice the buffer limit
    ├── BootstrapError                  what the host handed over cannot be read
    │   ├── BootstrapMissingError       one of the two values is there, the other is not
    │   ├── BootstrapEncodingError      not base64, not zlib, not JSON, or not the right shape
    │   ├── BootstrapTruncatedError     cut off: the end of the compressed data is missing
    │   └── BootstrapTooLargeError      more than the limit once decompressed
    ├── ProtocolError                   the peer's fault
    │   ├── MalformedMessageError       a line that is no message of protocol 0.1
    │   └── TransitionError             a message that the session's state does not allow
    ├── ChannelError                    the transport's fault
    ├── LaunchError                     the command could not be started
    └── OutcomeError                    strict sessions: the run did not end well
        ├── ProcessFailedError          exit code other than 0, or a signal
        ├── ExternalError               the script closed its context with an exception
        ├── IncompleteError             something was lost, malformed, or never opened or closed
        ├── SessionTimeoutError         ``timeout`` or ``open_timeout`` passed
        └── SubscriberError             a subscriber raised

The three sides are different classes on purpose: a :exc:`UsageError` is mended
in the calling code, a :exc:`ProtocolError` in the peer, a :exc:`ChannelError`
in the machine between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .host.result import RunResult


class PipesError(Exception):
    """Root of every error that asyncpipes raises."""


class UsageError(PipesError):
    """The calling code asked for something that cannot be done."""


class InvalidParameterError(UsageError, TypeError):
    """A parameter has a wrong type or value; the message names method and parameter."""


class UndefinedError(UsageError):
    """An asset key, partition property or extra that is not in this step's scope."""


class InactiveError(UsageError):
    """This process was not launched by a host, and ``inactive="error"`` was asked for."""


class NotOpenError(UsageError):
    """No context is open here, or the object has not been entered yet."""


class ClosedError(UsageError):
    """The context or session has been closed: nothing more can go through it."""


class AmbiguousContextError(UsageError):
    """Several contexts are open, and none of them belongs to the current task."""


class BufferFullError(UsageError):
    """A custom message met a buffer above twice its limit, on the event loop's thread.

    Await what ``report_custom_message`` returns: the await is the brake.
    """


class BootstrapError(PipesError):
    """The values that a host hands to the external process cannot be used."""


class BootstrapMissingError(BootstrapError):
    """One of the two bootstrap values is present and the other is missing."""


class BootstrapEncodingError(BootstrapError):
    """A bootstrap value is not base64 of zlib of JSON, or not of the right shape."""


class BootstrapTruncatedError(BootstrapError):
    """A bootstrap value ends before its compressed data does."""


class BootstrapTooLargeError(BootstrapError):
    """A bootstrap value decompresses to more than the limit."""


class ProtocolError(PipesError):
    """The peer sent something that protocol 0.1 does not allow."""


class MalformedMessageError(ProtocolError):
    """A line is no message of the protocol; ``str()`` of it is the reason."""


class TransitionError(ProtocolError):
    """A message came in a state that does not allow it; names both."""


class ChannelError(PipesError):
    """A message channel could not be opened, read or written.

    Attributes:
        transient: trying again may help (a full disk, a busy server).
        undelivered: messages that were accepted and never reached the channel.
    """

    def __init__(self, message: str, *, transient: bool = False, undelivered: int = 0) -> None:
        super().__init__(message)
        self.transient = transient
        self.undelivered = undelivered


class LaunchError(PipesError):
    """The command could not be started: not found, not executable, or too large."""


class OutcomeError(PipesError):
    """A strict session's run did not end well.

    Attributes:
        result: the :class:`~asyncpipes.RunResult` with all that was received,
            so that nothing is lost by raising.
    """

    def __init__(self, message: str, result: RunResult) -> None:
        super().__init__(message)
        self.result = result


class ProcessFailedError(OutcomeError):
    """The process ended with an exit code other than 0, or by a signal."""


class ExternalError(OutcomeError):
    """The script left its context with an exception, and said so."""


class IncompleteError(OutcomeError):
    """Messages were lost or malformed, or the context was never opened or closed."""


class SessionTimeoutError(OutcomeError):
    """``timeout`` or ``open_timeout`` passed before the run was over."""


class SubscriberError(OutcomeError):
    """A subscriber raised; its exception is the ``__cause__``."""
