"""``asyncpipes context``: what the bootstrap variables of this environment say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from ..errors import PipesError
from ..protocol import bootstrap
from ..protocol.codec import dumps, loads
from ..protocol.context import ContextData
from . import exit_codes
from .leaving import leave
from .text import safe


def show(*, show_extras: bool) -> NoReturn:
    """Print it as JSON, and leave."""
    names = f"{bootstrap.CONTEXT_VARIABLE} and {bootstrap.MESSAGES_VARIABLE}"
    if not bootstrap.is_present(os.environ):
        leave(
            exit_codes.FAILED,
            f"asyncpipes: {names} are not in this environment: nothing has launched it as a Pipes"
            " script. Try `asyncpipes run -- asyncpipes context`",
        )
    try:
        params = bootstrap.from_mapping(os.environ, source="the environment")
        context = ContextData.from_wire(_loaded(params.context)).to_wire()
    except (PipesError, ValueError) as error:
        leave(exit_codes.FAILED, f"asyncpipes: {safe(str(error))}")
    if not show_extras:
        context["extras"] = {
            key: f"({type(value).__name__}, hidden: --show-extras shows it)"
            for key, value in context["extras"].items()
        }
    shown = {
        "context": context,
        "context_params": _brief(params.context),
        "messages": params.messages,
    }
    try:
        text = json.dumps(shown, indent=2)
    except RecursionError:
        text = dumps(shown, where="context").decode()  # nested too deeply for a layout
    leave(0, out=text)


def _loaded(params: Any) -> Any:
    """As the loader of scripts has it: inline, or in a file."""
    if "data" in params:
        return params["data"]
    path = params.get("path")
    if not isinstance(path, str):
        raise ValueError(f"the context params {params!r} have neither `data` nor `path`")
    try:
        return loads(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read the context file {path}: {error.strerror}") from error


def _brief(params: Any) -> Any:
    return {key: "(above)" if key == "data" else value for key, value in params.items()}
