"""Where a script finds its bootstrap: environment, command line, or a mapping.

A *params loader* is anything with the three methods of
:class:`ParamsLoader`, so the ones of ``dagster_pipes`` and their subclasses are
taken as they are; likewise its context loaders and message writers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

from ..channels.base import ChannelWriter
from ..channels.file import PATH_KEY, FileWriter
from ..errors import BootstrapEncodingError, BootstrapError
from ..protocol import bootstrap
from ..protocol.codec import loads
from ..protocol.context import ContextData
from ..protocol.messages import speaks_extension

_DATA_KEY = "data"


@runtime_checkable
class ParamsLoader(Protocol):
    """Where the bootstrap is: what ``dagster_pipes.PipesParamsLoader`` asks for.

    (Dagster Pipes 0.1.) Its methods are called where the context is entered, which ``async
    with`` may do on the loop's thread, so they must not block. What they raise is raised there.
    """

    def is_dagster_pipes_process(self) -> bool:
        """Whether a host launched this process."""

    def load_context_params(self) -> Mapping[str, Any]:
        """The params of the context loader."""

    def load_messages_params(self) -> Mapping[str, Any]:
        """The params of the message writer."""


@runtime_checkable
class ContextLoader(Protocol):
    """How the context is read: what ``dagster_pipes.PipesContextLoader`` asks for.

    (Dagster Pipes 0.1.) It may block: ``async with open_pipes()`` calls it in a worker thread,
    and is seen through even if that is cancelled. What it raises is raised there.
    """

    def load_context(self, params: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """Give the context data while the ``with`` lasts.

        Args:
            params: the context params of the bootstrap, ``{"path": ...}`` for one.
        """


class MappingParamsLoader:
    """The bootstrap in a mapping, such as a Lambda event or a job's parameters.

    Args:
        mapping: holds ``DAGSTER_PIPES_CONTEXT`` and ``DAGSTER_PIPES_MESSAGES``.
        source: how errors call it.
    """

    def __init__(self, mapping: Mapping[str, Any], *, source: str = "mapping") -> None:
        self._mapping = mapping
        self._source = source

    def is_dagster_pipes_process(self) -> bool:
        """Whether at least one of the two values is there."""
        return bootstrap.is_present(self._mapping)

    def _load(self) -> bootstrap.Bootstrap:
        return bootstrap.from_mapping(self._mapping, source=self._source)

    def load_context_params(self) -> Mapping[str, Any]:
        """The params of the context loader.

        Raises:
            BootstrapError: one of the two values is missing, or cannot be decoded.
        """
        return self._load().context

    def load_messages_params(self) -> Mapping[str, Any]:
        """The params of the message writer.

        Raises:
            BootstrapError: one of the two values is missing, or cannot be decoded.
        """
        return self._load().messages


class EnvParamsLoader(MappingParamsLoader):
    """The bootstrap in the environment of this process."""

    def __init__(self) -> None:
        super().__init__(os.environ, source="environment variable")


class CliParamsLoader:
    """The bootstrap on the command line: ``--dagster-pipes-context X`` or ``...=X``.

    Args:
        arguments: the command line without the program; ``sys.argv[1:]`` by default.
    """

    def __init__(self, arguments: Sequence[str] | None = None) -> None:
        self._arguments = sys.argv[1:] if arguments is None else arguments

    def is_dagster_pipes_process(self) -> bool:
        """Whether both values are there.

        Raises:
            BootstrapError: only one of them is, or one cannot be decoded.
        """
        return bootstrap.from_arguments(self._arguments) is not None

    def _load(self) -> bootstrap.Bootstrap:
        found = bootstrap.from_arguments(self._arguments)
        if found is None:
            raise BootstrapError(
                "the command line holds no --dagster-pipes-context and --dagster-pipes-messages"
            )
        return found

    def load_context_params(self) -> Mapping[str, Any]:
        """The params of the context loader.

        Raises:
            BootstrapError: one of the two values is missing, or cannot be decoded.
        """
        return self._load().context

    def load_messages_params(self) -> Mapping[str, Any]:
        """The params of the message writer.

        Raises:
            BootstrapError: one of the two values is missing, or cannot be decoded.
        """
        return self._load().messages


def default_params_loader() -> ParamsLoader:
    """The environment if it holds a bootstrap, else the command line."""
    environment = EnvParamsLoader()
    if environment.is_dagster_pipes_process():
        return environment
    return CliParamsLoader()


class DefaultContextLoader:
    """Context data inline (``{"data": {...}}``) or in a JSON file (``{"path": ...}``)."""

    @contextmanager
    def load_context(self, params: Mapping[str, Any]) -> Iterator[Any]:
        """Give the context data.

        Raises:
            BootstrapError: the params hold neither, or the file cannot be read, or what
                is there is something else than context data.
        """
        if isinstance(path := params.get(PATH_KEY), str):
            try:
                with open(path, "rb") as file:
                    raw = file.read()
            except OSError as error:
                raise BootstrapError(
                    f"cannot read the context file {path}: {error.strerror}. The host writes it,"
                    " and this process must reach it under the same path"
                ) from error
            try:
                data = loads(raw)
            except ValueError as error:
                raise BootstrapEncodingError(
                    f"the context file {path} holds no JSON: {error}"
                ) from error
            _check_keys(data, f"the context file {path}")
            yield data
        elif _DATA_KEY in params:
            _check_keys(params[_DATA_KEY], "the context data in DAGSTER_PIPES_CONTEXT")
            yield params[_DATA_KEY]
        else:
            raise BootstrapEncodingError(
                f"the context params hold neither 'path' nor 'data' but {sorted(params)}: the host"
                " uses another context injector; pass the matching context_loader to open_pipes()"
            )


def _check_keys(data: object, source: str) -> None:
    """Refuse an object that was never meant as context data; its values are checked later."""
    known = {field.name for field in fields(ContextData)}
    if isinstance(data, dict) and data and known.isdisjoint(data):
        raise BootstrapEncodingError(
            f"{source} holds none of the keys of context data but {sorted(data)[:10]}: the host"
            " does not keep to protocol 0.1, or this is another file or variable than it wrote"
        )


def default_writer(params: Mapping[str, Any]) -> ChannelWriter:
    """The writer that the messages params lead to.

    Raises:
        BootstrapEncodingError: none of the known channels is meant.
    """
    path = params.get(PATH_KEY)
    if isinstance(path, str):
        return FileWriter(path, untearable=not speaks_extension(params))
    raise BootstrapEncodingError(
        f"the messages params hold no 'path' but {sorted(params)}: the host reads messages from"
        " somewhere else; pass the matching message_writer to open_pipes()"
    )
