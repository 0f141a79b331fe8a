"""How the context gets to the script: in the environment, or in a file.

Made for each session. The default decides by size: Linux takes at most 128 KiB in
one environment variable, and 300 KB of extras are real.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..channels.finishing import to_its_end
from ..errors import PipesError
from ..protocol.bootstrap import encode_param
from ..protocol.codec import dumps
from ..protocol.context import ContextData

#: The longest encoded context that goes through the environment, in bytes. Linux:
#: MAX_ARG_STRLEN, 128 KiB for name and value; macOS and Windows have less room in
#: all, so a good part is left.
ENVIRONMENT_LIMIT = 32 * 1024


class ContextInjector(ABC):
    """Puts the context where the script can load it. Serves any number of sessions."""

    @abstractmethod
    async def inject(self, data: ContextData) -> InjectedContext:
        """Put it there. Where it is cancelled or fails, nothing may be left behind.

        Raises:
            InvalidParameterError: the extras hold what JSON cannot.
            PipesError: the file cannot be written.
        """


class InjectedContext:
    """The params that lead a script to its context, and the file to remove, if any.

    What :meth:`ContextInjector.inject` returns; the session closes it at its end.

    Args:
        params: what the script's context loader gets: ``{"data": {...}}``, or whatever a
            loader of one's own takes.

    Attributes:
        params: these, or what :meth:`write` has put in their place.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = {} if params is None else params
        self._path: str | None = None

    def write(self, content: bytes) -> None:
        """Put ``content`` into a file of its own, and lead there. Blocks.

        Raises:
            PipesError: the file cannot be written; :meth:`aclose` removes it all the same.
        """
        self._path = path = _create()
        self.params = {"path": path}
        try:
            Path(path).write_bytes(content)
        except OSError as error:
            raise PipesError(
                f"cannot write the context file {path}: {error.strerror}. Make room, or choose"
                " another temporary directory with TMPDIR"
            ) from error

    async def aclose(self) -> None:
        """Remove the file. Idempotent. A cancellation does not keep it from being removed."""
        path, self._path = self._path, None
        if path is not None:
            await to_its_end(_remove, path)


class EnvContextInjector(ContextInjector):
    """Inline, as ``{"data": {...}}``, wherever the bootstrap goes (usually the environment)."""

    async def inject(self, data: ContextData) -> InjectedContext:
        return InjectedContext({"data": data.to_wire()})


class TempFileContextInjector(ContextInjector):
    """In a temporary file of mode 0600, as ``{"path": ...}``; removed with the session."""

    async def inject(self, data: ContextData) -> InjectedContext:
        injected = InjectedContext()
        return await _see_through(injected, lambda: injected.write(_encode(data)))


class AutoContextInjector(ContextInjector):
    """Inline while it is small, else in a temporary file."""

    async def inject(self, data: ContextData) -> InjectedContext:
        injected = InjectedContext()
        return await _see_through(injected, lambda: _choose(injected, data))


async def _see_through(injected: InjectedContext, step: Callable[[], None]) -> InjectedContext:
    """Run ``step`` in a worker thread; if it fails or is cancelled, remove what it left.

    To encode and compress 5 MB takes some 0.1 s.
    """
    try:
        await to_its_end(step)
    except BaseException:
        await injected.aclose()
        raise
    return injected


def _choose(injected: InjectedContext, data: ContextData) -> None:
    params = {"data": data.to_wire()}
    if len(encode_param(params)) <= ENVIRONMENT_LIMIT:
        injected.params = params
    else:
        injected.write(_encode(data))


def _encode(data: ContextData) -> bytes:
    return dumps(data.to_wire(), where="context")


def _create() -> str:
    import tempfile

    try:
        descriptor, path = tempfile.mkstemp(prefix="asyncpipes-context-")  # mode 0600
    except OSError as error:
        raise PipesError(
            f"cannot create a context file in {tempfile.gettempdir()}: {error.strerror}. Choose"
            " another temporary directory with TMPDIR"
        ) from error
    os.close(descriptor)
    return path


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
