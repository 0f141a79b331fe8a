"""``open_pipes``: what a script calls, and what it may ask for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, get_args

from ..errors import InvalidParameterError
from .connection import Inactive, Options, PipesContext
from .loaders import ContextLoader, MappingParamsLoader, ParamsLoader
from .stock import check_writer

#: What may wait for the channel, in bytes: half a minute of messages for a channel
#: that takes 2 MB/s, and little enough for a small container.
DEFAULT_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
DEFAULT_CLOSE_TIMEOUT = 30.0


def open_pipes(
    *,
    params_loader: ParamsLoader | Mapping[str, Any] | None = None,
    context_loader: ContextLoader | None = None,
    message_writer: Any = None,
    inactive: Inactive = "warn",
    capture_stdio: bool | None = None,
    handle_signals: bool = True,
    register_stock: bool = False,
    max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES,
    close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
) -> PipesContext:
    """Connect this process to the host that launched it.

    Use it with ``async with`` or plain ``with``; nothing happens before that::

        async with open_pipes() as pipes:
            pipes.log.info("starting")
            pipes.report_asset_materialization(metadata={"rows": 2})

    Leaving the block sends what is left and the ``closed`` message. An exception of
    the block goes to the host with it, and on to the caller unchanged;
    ``sys.exit(0)`` is a clean end.

    Workers: a forked process (``os.fork``, multiprocessing) that reports through the
    context of its parent becomes a writer of its own, from its first report to its end; one
    that ends by ``os._exit``, or is killed, has delivered its results, and the outcome says
    that it never closed. Workers that are spawned, or come from a fork server, have the
    same bootstrap in their environment and call ``open_pipes()`` themselves.

    Args:
        params_loader: where the bootstrap is. By default the environment, else the
            command line. A mapping with the two ``DAGSTER_PIPES_*`` entries, a loader
            of ours, or any loader of ``dagster_pipes`` will do.
        context_loader: reads the context data; loaders of ``dagster_pipes`` work.
        message_writer: where messages go, instead of what the host asks for: a
            message writer of ``dagster_pipes``, or a ``ChannelWriter``.
        inactive: what to do when no host launched this process. ``"warn"``: one
            warning, then everything is validated and sent nowhere; ``"error"``:
            raise; ``"console"``: print reports readably to stderr.
        capture_stdio: copy stdout and stderr to the host. By default if it asks.
        handle_signals: close properly on SIGTERM. Only where SIGTERM has its default
            action and this is the main thread; the exit status stays that of SIGTERM.
        register_stock: make this the context of ``dagster_pipes.PipesContext.get()``
            too, for libraries that call it, until the block is left.
        max_buffered_bytes: what may wait for a channel that is slower than the
            script; see ``report_*`` for what happens above it.
        close_timeout: how long leaving the block waits for the channel, in seconds; half
            of it, at most, for captured output.

    Raises:
        InvalidParameterError: a wrong option; names it.

    Raises (on entering):
        BootstrapError: the bootstrap or the context data cannot be used.
        ChannelError: the message channel cannot be opened.
        InactiveError: no host launched this process, and ``inactive="error"``.

    Raises (on leaving, after a clean block only):
        ChannelError: not everything was delivered; ``undelivered`` counts it.

    Cancellation: leaving the block is shielded from it, for ``close_timeout`` at most;
    it is raised afterwards.
    """
    if inactive not in get_args(Inactive):
        raise InvalidParameterError(
            f"open_pipes: `inactive` must be one of {', '.join(get_args(Inactive))}, got"
            f" {inactive!r}"
        )
    _check_number(max_buffered_bytes, int, 1, "max_buffered_bytes")
    _check_number(close_timeout, (int, float), 0, "close_timeout", threading.TIMEOUT_MAX)
    if capture_stdio is not None:
        _check_bool(capture_stdio, "capture_stdio")
    _check_bool(handle_signals, "handle_signals")
    _check_bool(register_stock, "register_stock")
    if isinstance(params_loader, Mapping):
        params_loader = MappingParamsLoader(params_loader)
    _check_loader(params_loader, ParamsLoader, "params_loader")
    _check_loader(context_loader, ContextLoader, "context_loader")
    check_writer(message_writer)
    return PipesContext(
        Options(
            params_loader=params_loader,
            context_loader=context_loader,
            message_writer=message_writer,
            inactive=inactive,
            capture_stdio=capture_stdio,
            handle_signals=handle_signals,
            register_stock=register_stock,
            max_buffered_bytes=max_buffered_bytes,
            close_timeout=close_timeout,
        )
    )


def _check_number(
    value: Any,
    kinds: type[Any] | tuple[type[Any], ...],
    least: int,
    parameter: str,
    most: float | None = None,
) -> None:
    valid = isinstance(value, kinds) and not isinstance(value, bool) and value >= least
    if not valid or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most:.0f}"
        raise InvalidParameterError(
            f"open_pipes: `{parameter}` must be a number of at least {least}{upper}, got"
            f" {value!r:.100}"
        )


def _check_bool(value: object, parameter: str) -> None:
    if not isinstance(value, bool):
        raise InvalidParameterError(
            f"open_pipes: `{parameter}` must be True or False, got {value!r:.100}"
        )


def _check_loader(loader: object, expected: type[Any], parameter: str) -> None:
    if loader is not None and not isinstance(loader, expected):
        raise InvalidParameterError(
            f"open_pipes: `{parameter}` must be a loader of asyncpipes or dagster_pipes, got"
            f" {type(loader).__name__}"
        )
