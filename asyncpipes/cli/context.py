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

_HIDDEN = "hidden: --show-extras shows it"


def show(*, show_extras: bool) -> NoReturn:
    """Print as JSON what can be decoded of it, say what cannot, and leave."""
    names = f"{bootstrap.CONTEXT_VARIABLE} and {bootstrap.MESSAGES_VARIABLE}"
    if not bootstrap.is_present(os.environ):
        leave(
            exit_codes.FAILED,
            f"asyncpipes: {names} are not in this environment: nothing has launched it as a Pipes"
            " script. Try `asyncpipes run -- asyncpipes context`",
        )
    faults: list[str] = []
    params = _params(bootstrap.CONTEXT_VARIABLE, faults)
    messages = _params(bootstrap.MESSAGES_VARIABLE, faults)
    context = None if params is None else _context(params, faults)
    if params is not None and "data" in params and (context is not None or not show_extras):
        params = {**params, "data": "(above)" if context is not None else f"({_HIDDEN})"}
    if context is not None and not show_extras:
        context["extras"] = {
            key: f"({type(value).__name__}, {_HIDDEN})" for key, value in context["extras"].items()
        }
    shown = {"context": context, "context_params": params, "messages": messages}
    try:
        text = json.dumps(shown, indent=2)
    except RecursionError:
        text = dumps(shown, where="context").decode()  # nested too deeply for a layout
    leave(
        exit_codes.FAILED if faults else 0,
        err="\n".join(f"asyncpipes: {safe(fault)}" for fault in faults),
        out=text,
    )


def _params(variable: str, faults: list[str]) -> dict[str, Any] | None:
    """What a variable holds; None if it cannot be told, and why not among the faults."""
    name = f"environment variable {variable}"
    value = os.environ.get(variable)
    if value is None:
        faults.append(f"{name} is missing: a host sets both, so something has dropped it")
        return None
    try:
        return bootstrap.decode_param(value, name=name)
    except PipesError as error:
        faults.append(str(error))
        return None


def _context(params: dict[str, Any], faults: list[str]) -> dict[str, Any] | None:
    """The context that they lead to, in the same way."""
    try:
        return ContextData.from_wire(_loaded(params)).to_wire()
    except (PipesError, ValueError) as error:
        faults.append(str(error))
        return None


def _loaded(params: dict[str, Any]) -> Any:
    """As the loader of scripts has it: inline, or in a file."""
    if "data" in params:
        return params["data"]
    path = params.get("path")
    if not isinstance(path, str):
        raise ValueError(
            "the context params have neither `data` nor `path`: the context is where only a"
            " loader that the script is given for it can read it"
        )
    try:
        return loads(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read the context file {path}: {error.strerror}") from error
