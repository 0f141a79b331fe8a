"""How the context gets to the script: in the environment, or in a file.

Made for each session. The default decides by size: Linux takes at most 128 KiB in
one environment variable, and 300 KB of extras are real.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiofiles
from anyio import CancelScope, to_thread

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
        """Put it there.

        Raises:
            InvalidParameterError: the extras hold what JSON cannot.
            PipesError: the file cannot be written.
        """


class InjectedContext:
    """The params that lead a script to its context, and the file to remove, if any."""

    def __init__(self, params: Mapping[str, Any], path: str | None = None) -> None:
        self.params = params
        self._path = path

    async def aclose(self) -> None:
        """Remove the file. Idempotent."""
        path, self._path = self._path, None
        if path is not None:
            with CancelScope(shield=True):
                await to_thread.run_sync(_remove, path)


class EnvContextInjector(ContextInjector):
    """Inline, as ``{"data": {...}}``, wherever the bootstrap goes (usually the environment)."""

    async def inject(self, data: ContextData) -> InjectedContext:
        return InjectedContext({"data": data.to_wire()})


class TempFileContextInjector(ContextInjector):
    """In a temporary file of mode 0600, as ``{"path": ...}``; removed with the session."""

    async def inject(self, data: ContextData) -> InjectedContext:
        content = dumps(data.to_wire(), where="context")
        with CancelScope(shield=True):  # or nobody would know of the file
            path = await to_thread.run_sync(_create)
            injected = InjectedContext({"path": path}, path)
            try:
                async with aiofiles.open(path, "wb") as file:
                    await file.write(content)
            except OSError as error:
                await injected.aclose()
                raise PipesError(
                    f"cannot write the context file {path}: {error.strerror}. Make room, or choose"
                    " another temporary directory with TMPDIR"
                ) from error
        return injected


class AutoContextInjector(ContextInjector):
    """Inline while it is small, else in a temporary file."""

    async def inject(self, data: ContextData) -> InjectedContext:
        if len(encode_param({"data": data.to_wire()})) <= ENVIRONMENT_LIMIT:
            return await EnvContextInjector().inject(data)
        return await TempFileContextInjector().inject(data)


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
