"""``open_pipes_session`` and ``run``: where a host program begins."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..channels.base import Channel
from ..channels.file import FileChannel
from ..errors import InvalidParameterError
from ..protocol.context import ContextData, build_context
from .context_injectors import AutoContextInjector, ContextInjector
from .pipes_session import PipesSession
from .process import Command
from .result import RunResult
from .settings import Collect, ForwardStdio, Settings, check_seconds
from .subscribers import Subscriber
from .subscription import Callback

__all__ = ["PipesSession", "open_pipes_session", "run"]

#: Seconds between SIGINT, SIGTERM and SIGKILL, by default: time for a script to write
#: what it has, and short enough for a person who waits.
DEFAULT_GRACE = 10.0
#: Seconds between heartbeats, by default: seldom enough that thousands of scripts cost a
#: host nothing, and a script that hangs is known to within half a minute.
DEFAULT_HEARTBEAT = 10.0


def open_pipes_session(
    context: ContextData | None = None,
    *,
    channel: Channel | None = None,
    context_injector: ContextInjector | None = None,
    strict: bool = True,
    collect: Collect = "results",
    drain_timeout: float = 2.0,
    open_timeout: float | None = None,
    forward_stdio: ForwardStdio = True,
    grace: float = DEFAULT_GRACE,
    heartbeat: float | None = DEFAULT_HEARTBEAT,
    silent_timeout: float | None = None,
    blocked_timeout: float | None = None,
    dead_timeout: float | None = None,
    until_finish: bool = False,
    **fields: Any,
) -> PipesSession:
    """Open a session with a script; use it with ``async with``.

    ::

        async with open_pipes_session(asset_keys=["orders"]) as session:
            session.subscribe(print, LogEvent)
            await session.launch([sys.executable, "external_code.py"])
        session.outcome.ok

    Leaving the block waits until the process has ended, everything is read and the
    subscribers have had it.

    Args:
        context: what the script is to know. Or give the fields of ``ContextData`` as
            keywords: ``asset_keys``, ``partition_key``, ``extras``, ``run_id`` …
        channel: how messages come; a ``FileChannel()`` by default.
        context_injector: how the context gets to the script; by default inline, or in
            a temporary file when it is large.
        strict: raise an ``OutcomeError`` on leaving a clean block whose run did not
            end well. With False, look at ``session.outcome``.
        collect: what ``session.result`` keeps: ``"results"`` (materializations, checks,
            custom messages), ``"all"`` events, or ``"none"``.
        drain_timeout: seconds to wait, after the process has ended, for writers that
            have not closed, for processes that still hold its stdout, and for the rest
            of its group; after the last ``closed`` of stock scripts that somebody else
            launched, for the output they copy until ``finish()``; also what subscribers
            have left once a stopped run has ended, and what this process's stdout may take
            for the rest of the forwarded output.
            What was written before the process ended is read, however long that takes. Of
            what others write later, no more than 32 MiB are read once this time is over.
            Nobody waits for writers whose processes are known to have ended.
        open_timeout: seconds from here within which a script must open its context; None
            to wait as long as the process runs, or for ever without one.
        forward_stdio: True copies the process's stdout and stderr to this process's (and
            waits for who reads that, as the script itself would; see ``drain_timeout``),
            False drops them, ``"events"`` makes them ``ExternalStreamEvent``,
            ``"both"`` does both.
        grace: seconds between SIGINT, SIGTERM and SIGKILL when the process must be ended.
        heartbeat: seconds between the heartbeats that asyncpipes scripts are to send, from
            0.01 to 86,400; None for none. They cost nothing where no such script opens,
            and a stock script sends none.
        silent_timeout: seconds after which the run is ended, as ``timed_out``, when a
            script has become *silent*: for 2.5 times ``heartbeat`` nothing has come from
            it, neither a message nor a heartbeat, though its process lives or nobody can
            tell. None, the default, never ends it for that.
        blocked_timeout: the same for one that is *blocked*: its heartbeats come, and say
            that its event loop has not answered for 1 s or longer.
        dead_timeout: the same for one that is *dead*: its process has ended and it has
            not closed. The launched process is seen to end at once, and the run ends with
            it; a worker of its process group is looked for when it has been silent for
            2.5 times ``heartbeat`` (where there is a /proc).
        until_finish: for scripts that somebody else launches: read until ``finish()`` is
            called, whoever has closed by then. For launchers that may start another script
            after one that has closed.

    How a script is doing is in ``session.health`` and told by ``HealthEvent``.

    Raises (on entering):
        InvalidParameterError: a field of the context is wrong; names it.
        ChannelError: the channel cannot be created.

    Raises (on leaving, if strict and the block was clean):
        OutcomeError: one of its subclasses; ``.result`` has all that was received.

    Cancellation, and an exception of the block, end the process group (SIGINT,
    SIGTERM, SIGKILL) and are raised unchanged afterwards; the rest is read first.
    """
    _check_names(fields)
    if context is not None and fields:
        raise InvalidParameterError(
            f"open_pipes_session: give either `context` or its fields, not both: {sorted(fields)}"
        )
    if context is not None and not isinstance(context, ContextData):
        raise InvalidParameterError(
            "open_pipes_session: `context` must be a ContextData, or give its fields as keywords;"
            f" got {context!r}"
        )
    settings = Settings(
        channel=FileChannel() if channel is None else channel,
        context_injector=AutoContextInjector() if context_injector is None else context_injector,
        strict=strict,
        collect=collect,
        drain_timeout=drain_timeout,
        open_timeout=open_timeout,
        forward_stdio=forward_stdio,
        grace=grace,
        heartbeat=heartbeat,
        silent_timeout=silent_timeout,
        blocked_timeout=blocked_timeout,
        dead_timeout=dead_timeout,
        until_finish=until_finish,
    )
    return PipesSession(context if context is not None else build_context(**fields), settings)


async def run(
    command: Command,
    *,
    subscribers: Sequence[Callback | tuple[Any, ...] | Subscriber] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    grace: float = DEFAULT_GRACE,
    **session_options: Any,
) -> RunResult:
    """Run a script to its end and return all that it reported.

    Args:
        command: program and arguments; a single text is run by the shell.
        subscribers: callbacks for every event, tuples ``(callback, LogEvent, ...)`` of a
            callback and the types it wants, or ``Subscriber(callback, LogEvent, ...,
            in_thread=True)`` with options.
        env: variables on top of this process's environment.
        cwd: the script's working directory.
        timeout: seconds after which the process group is ended; None for no limit. If
            the process has ended by then, what is left to read has ``drain_timeout``.
        grace: seconds between SIGINT, SIGTERM and SIGKILL when it must be ended.
        session_options: those of :func:`open_pipes_session`, with the fields of the
            context among them.

    Raises:
        LaunchError: the command cannot be started.
        OutcomeError: under ``strict`` (the default), if the run did not end well;
            ``.result`` has all that was received.
        InvalidParameterError, ChannelError: as :func:`open_pipes_session`.

    Cancelling it ends the process group and leaves neither process nor file behind.
    """
    check_seconds("run", "timeout", timeout, optional=True)
    if not isinstance(subscribers, Iterable):
        raise InvalidParameterError(f"run: `subscribers` must be a list, got {subscribers!r}")
    session = open_pipes_session(grace=grace, **session_options)
    async with session:
        for subscriber in subscribers:
            if isinstance(subscriber, Subscriber):
                session.subscribe(subscriber.callback, *subscriber.types, **subscriber.options)
            elif isinstance(subscriber, tuple):
                session.subscribe(*subscriber)
            else:
                session.subscribe(subscriber)
        await session.launch(command, env=env, cwd=cwd)
        await session.wait_drained(timeout)
    return session.result


_CONTEXT_FIELDS = tuple(field.name for field in dataclasses.fields(ContextData))


def _check_names(fields: Mapping[str, Any]) -> None:
    """Refuse what is no field of the context, which is how a misspelt option arrives here."""
    unknown = [name for name in fields if name not in _CONTEXT_FIELDS]
    if unknown:
        import difflib

        options = [*_CONTEXT_FIELDS, *inspect.signature(open_pipes_session).parameters]
        close = difflib.get_close_matches(unknown[0], options, n=1)
        raise InvalidParameterError(
            f"open_pipes_session: there is no option `{unknown[0]}`"
            + (f"; did you mean `{close[0]}`?" if close else f"; there are {', '.join(options)}")
        )
