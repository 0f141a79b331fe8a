"""Why a step fails, for a person who looks at its run page."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetMaterialization,
    Failure,
    MaterializeResult,
    MetadataValue,
)

from ..host.result import RunResult
from ..protocol.exceptions import PipesException
from .internals import ExecutionContext

Result = MaterializeResult[Any] | AssetCheckResult

#: Lines of stderr that the failure shows; what is kept of it is 4 KiB at most.
_STDERR_LINES = 20
#: Characters of an exception that the failure shows: it goes into the event log.
_EXCEPTION_CHARS = 32_768


class PipesFailure(Failure):
    """A script failed, or, under ``strict``, something of its run was lost.

    It is a ``dagster.Failure``: the step's retry policy applies, and its metadata stand on
    the run page:

    ============= ====================================================================
    ``reasons``   why the run is not ok, one line each
    ``exit_code`` the process's exit code, or ``signal``, what ended it
    ``exception`` what the script left its context with: causes, notes, group members
    ``stderr``    the last lines that it wrote there
    ============= ====================================================================

    Attributes:
        result: the :class:`~asyncpipes.RunResult`, with the outcome.
        results: what the script had reported by then.
    """

    def __init__(
        self,
        description: str,
        metadata: dict[str, Any],
        result: RunResult,
        results: Sequence[Result],
    ) -> None:
        super().__init__(description=description, metadata=metadata)
        self.result = result
        self.results = tuple(results)

    def __str__(self) -> str:
        return self.description or ""


def reasons_against(result: RunResult, faults: Sequence[str]) -> list[str]:
    """Why the run is not ok, in words; ``faults`` are those that this adapter has found."""
    return [*result.outcome.reasons, *faults]


def has_failed(result: RunResult) -> bool:
    """Whether the process itself failed, so that the step does even without ``strict``."""
    outcome = result.outcome
    return bool(outcome.exit_code) or outcome.signal is not None or outcome.cancelled


def failure(result: RunResult, reasons: Sequence[str], results: Sequence[Result]) -> PipesFailure:
    """The failure of a run that is not ok, for ``reasons``."""
    outcome = result.outcome
    description = f"[pipes] {'; '.join(reasons)}"
    if not has_failed(result):
        description += (
            ". The process itself ended well; to let such a run pass, set strict=False, and where"
            " nothing was reported implicit_materializations=True"
        )
    metadata: dict[str, Any] = {"reasons": MetadataValue.text("\n".join(reasons))}
    if outcome.exit_code is not None:
        metadata["exit_code"] = MetadataValue.int(outcome.exit_code)
    if outcome.signal is not None:
        metadata["signal"] = MetadataValue.text(_signal_name(outcome.signal))
    if outcome.exception is not None:
        metadata["exception"] = MetadataValue.md(_block(_shown(outcome.exception)))
    if result.stderr.strip():
        lines = result.stderr.rstrip().splitlines()[-_STDERR_LINES:]
        metadata["stderr"] = MetadataValue.md(_block("\n".join(lines)))
    return PipesFailure(description, metadata, result, results)


def keep(context: ExecutionContext, results: Sequence[Result]) -> None:
    """Put results into the event log of a step that fails and cannot yield them. Blocks.

    A step that is invoked directly has no event log, and nothing is kept there.

    Raises:
        Exception: Dagster did not take one of them; the others are kept.
    """
    failed: Exception | None = None
    for event in (event for result in results for event in _events(context, result)):
        try:
            context.log_event(event)
        except Exception as error:  # Dagster's, of many kinds
            failed = failed or error
    if failed is not None:
        raise failed


def _events(context: ExecutionContext, result: Result) -> list[Any]:
    if isinstance(result, MaterializeResult):
        assert result.asset_key is not None, "every materialization that a script reports has one"
        version = result.data_version
        return [
            AssetMaterialization(
                asset_key=result.asset_key,
                metadata=dict(result.metadata or {}),
                partition=partition,
                tags={} if version is None else _tags(version.value),
            )
            for partition in _partitions(context)
        ]
    if result.asset_key is None or result.check_name is None:
        return []
    return [
        AssetCheckEvaluation(
            asset_key=result.asset_key,
            check_name=result.check_name,
            passed=result.passed,
            metadata=dict(result.metadata or {}),
            severity=result.severity,
        )
    ]


def _tags(data_version: str) -> dict[str, str]:
    """As Dagster has them on a materialization whose step gave the version (``execute_step``)."""
    return {
        "dagster/data_version": data_version,
        "dagster/data_version_is_user_provided": "true",
    }


def _partitions(context: ExecutionContext) -> Sequence[str | None]:
    """As Dagster does it: a run of several partitions has an event for each."""
    if context.has_partition_key:
        return [context.partition_key]
    return context.partition_keys if context.has_partition_key_range else [None]


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return str(number)


def _shown(exception: PipesException) -> str:
    text = exception.with_stacks()
    if len(text) > _EXCEPTION_CHARS:
        text = text[:_EXCEPTION_CHARS] + "\n[the rest was left out]"
    return text


def _block(text: str) -> str:
    """``text`` as a block of code in Markdown, whatever is in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
