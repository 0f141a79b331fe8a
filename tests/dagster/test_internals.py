"""What the adapter uses of Dagster that is not public: a clear failure when it has gone."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path

import dagster as dg
import pytest

import asyncpipes

PACKAGE = Path(asyncpipes.__file__).parent / "dagster"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("dagster._core.definitions.resource_annotation", "TreatAsResourceParam"),
        ("dagster._core.events", "EngineEventData"),
        ("dagster._core.pipes.client", "PipesClientCompletedInvocation"),
        ("dagster._utils.interrupts", "check_captured_interrupt"),
    ],
)
def test_a_name_is_where_it_was(module: str, name: str) -> None:
    assert hasattr(import_module(module), name), f"{module}.{name} has gone: see dagster/internals"


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (dg.DagsterEvent, "engine_event", ["plan_context", "message", "event_specific_data"]),
        (dg.OpExecutionContext, "get_step_execution_context", ["self"]),
        (dg.AssetExecutionContext, "get_step_execution_context", ["self"]),
        (dg.OpExecutionContext, "set_requires_typed_event_stream", ["self", "error_message"]),
        (dg.AssetExecutionContext, "set_requires_typed_event_stream", ["self", "error_message"]),
    ],
)
def test_a_method_takes_what_it_did(owner: type, name: str, parameters: list[str]) -> None:
    method = getattr(owner, name, None)
    assert method is not None, f"{owner.__name__}.{name} has gone: see dagster/internals"
    assert list(inspect.signature(method).parameters) == parameters


def test_nothing_else_that_is_private_is_used() -> None:
    """No other module of the adapter imports from inside Dagster, or asks for ``_names``."""
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text())
        imported = [
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None
        ]
        private = [name for name in imported if name.startswith("dagster.")]
        assert path.name == "internals.py" or not private, path
        asked = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        }
        # Of our own classes, in the modules that define them.
        assert asked <= {
            "_closing",
            "_look",
            "_watched",
            "_all_have_left",
            "_getframe",
        }, (path, asked)


def test_all_of_it_is_in_the_modules_list() -> None:
    from asyncpipes.dagster import internals

    assert internals.__doc__ is not None
    for name in (
        "TreatAsResourceParam",
        "engine_event",
        "EngineEventData",
        "get_step_execution_context",
        "set_requires_typed_event_",
        "PipesClientCompleted",
        "check_captured_interrupt",
    ):
        assert name in internals.__doc__
