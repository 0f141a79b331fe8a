"""What this adapter uses of Dagster that is not marked public, all of it and nothing else.

===============================  ===========================================================
name                             why, and what there is instead
===============================  ===========================================================
``TreatAsResourceParam``         lets ``pipes: AsyncPipesSubprocessClient`` be a parameter of
                                 an asset, as Dagster's own clients are. Public is the longer
                                 ``ResourceParam[AsyncPipesSubprocessClient]``
``DagsterEvent.engine_event``,   start and end of a process as engine events. Public ways make
``EngineEventData``,             user events or log lines
``get_step_execution_context``
``set_requires_typed_event_``    says what to do when a script reported no materialization:
``stream``                       Dagster's own words for it are of the code of the asset
``PipesClientCompleted``         what Dagster's clients return: public, but not exported by
``Invocation``                   ``dagster`` before 1.13
``check_captured_interrupt``,    tells a step that runs in a thread, where no signal arrives,
``dagster._utils.interrupts``    that the process was asked to end; whose a handler is
===============================  ===========================================================

Of public classes it uses members that are documented but not marked public: the contexts'
``op_execution_context`` and ``run_id``; of ``PipesMessageHandler`` ``handle_message``,
``received_opened_message``, ``received_closed_message`` and
``report_pipes_framework_exception``, and of ``PipesMessageReader`` ``on_opened`` and
``expected_writer_count``: what every message reader is written with.

And it counts on what Dagster does: one module's functions handle signals while a step runs
(:func:`is_signal_handler_of_dagster`), an async asset is run by
``run_until_complete(generator.__anext__())``, its loop is closed after
``shutdown_asyncgens()``, and materializations have their versions in tags.

``tests/dagster/test_internals.py`` fails by name when one of them has gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetExecutionContext,
    DagsterEvent,
    OpExecutionContext,
)
from dagster._core.definitions.resource_annotation import TreatAsResourceParam
from dagster._core.events import EngineEventData
from dagster._core.pipes.client import PipesClientCompletedInvocation
from dagster._utils import interrupts
from dagster._utils.interrupts import check_captured_interrupt

from ..errors import InvalidParameterError

__all__ = [
    "AnyContext",
    "ExecutionContext",
    "PipesClientCompletedInvocation",
    "TreatAsResourceParam",
    "check_captured_interrupt",
    "engine_event",
    "execution_context",
    "explain_missing_results",
    "has_event_log",
    "is_signal_handler_of_dagster",
]

#: What Dagster hands to an op or an asset.
ExecutionContext = OpExecutionContext | AssetExecutionContext
#: And to an asset check, which Dagster's own clients do not take.
AnyContext = ExecutionContext | AssetCheckExecutionContext


def execution_context(context: AnyContext) -> ExecutionContext:
    """The context as Dagster's sessions take it."""
    if isinstance(context, AssetCheckExecutionContext):
        return context.op_execution_context
    if not isinstance(context, (OpExecutionContext, AssetExecutionContext)):
        raise InvalidParameterError(
            "`context` must be what Dagster hands to the asset, the op or the asset check, got"
            f" {context!r}"
        )
    return context


def has_event_log(context: ExecutionContext) -> bool:
    """Whether there is a run behind it; not where a step is invoked directly."""
    try:
        context.get_step_execution_context()
    except Exception:  # what is raised there differs between versions
        return False
    return True


def engine_event(context: ExecutionContext, message: str, metadata: Mapping[str, Any]) -> None:
    """Put an engine event into the step's event log. Blocks, for as long as a commit takes.

    A step that is invoked directly, as in a test, has no event log: there it is a log line.
    """
    if not has_event_log(context):
        context.log.info(message)
        return
    step = context.get_step_execution_context()
    DagsterEvent.engine_event(step, message, EngineEventData(metadata=dict(metadata)))


def is_signal_handler_of_dagster(handler: object) -> bool:
    """Whether a signal's handler is one that Dagster has put there for the time of a step."""
    return callable(handler) and getattr(handler, "__module__", None) == interrupts.__name__


def explain_missing_results(context: ExecutionContext, message: str) -> None:
    """What Dagster adds when a step ends and one of its assets was not materialized."""
    if context.has_assets_def:
        context.set_requires_typed_event_stream(error_message=message)
