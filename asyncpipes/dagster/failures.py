"""Why a step fails, for a person who looks at its run page."""

from __future__ import annotations

import signal
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetKey,
    AssetMaterialization,
    Failure,
    MaterializeResult,
    MetadataValue,
)

from ..host.result import RunResult
from ..protocol.context import from_asset_key_path
from ..protocol.exceptions import PipesException
from .internals import ExecutionContext, has_event_log

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
        results: what the script had reported by then. Of ``run()`` they are in the event log
            already: an asset that goes on must not yield them again.
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

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.description, self.metadata, self.result, self.results)


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


def keep(
    context: ExecutionContext, results: Sequence[Result], code_versions: Mapping[str, str | None]
) -> None:
    """Put results into the event log of a step that fails and cannot yield them. Blocks.

    They are as Dagster makes them of results that are yielded, but for what it works out
    itself: data versions that the script did not give, and the materialization that a check
    is about. What Dagster would refuse, since the step has no such asset or check, is left
    out, and a WARNING says so. A step that is invoked directly has no event log, and nothing
    is kept there.

    Args:
        context: the step's.
        results: what was reported.
        code_versions: by asset key.

    Raises:
        Exception: Dagster did not take one of them; the others are kept.
    """
    if not has_event_log(context):
        return
    failed: Exception | None = None
    declared = _declared(context)
    for result in results:
        try:
            events: Sequence[Any] = (
                _materializations(context, result, declared, code_versions)
                if isinstance(result, MaterializeResult)
                else _evaluations(context, result, declared)
            )
            for event in events:
                context.log_event(event)
        except Exception as error:  # Dagster's, of many kinds
            failed = failed or error
    if failed is not None:
        raise failed


class _Declared(NamedTuple):
    """What a step may yield."""

    assets: Container[AssetKey]
    blocking: Mapping[tuple[AssetKey, str], bool]


def _declared(context: ExecutionContext) -> _Declared | None:
    """None for a step of no assets, an op's, which may log what it will."""
    if not context.has_assets_def:
        return None
    checks = {
        (spec.asset_key, spec.name): bool(spec.blocking) for spec in context.assets_def.check_specs
    }
    return _Declared(context.selected_asset_keys, checks)


def _materializations(
    context: ExecutionContext,
    result: MaterializeResult[Any],
    declared: _Declared | None,
    code_versions: Mapping[str, str | None],
) -> list[AssetMaterialization]:
    key = result.asset_key
    assert key is not None, "every materialization that a script reports has one"
    key = AssetKey.from_coercible(key)
    if declared is not None and key not in declared.assets:
        return _left_out(context, f"the materialization of {key.to_user_string()}")
    tags = {}
    code_version = code_versions.get(from_asset_key_path(key.path))
    if code_version is not None:
        tags["dagster/code_version"] = code_version
    if result.data_version is not None:
        # As `execute_step` has them where the step gave the version.
        tags["dagster/data_version"] = result.data_version.value
        tags["dagster/data_version_is_user_provided"] = "true"
    return [
        AssetMaterialization(
            asset_key=key, metadata=dict(result.metadata or {}), partition=partition, tags=tags
        )
        for partition in _partitions(context)
    ]


def _evaluations(
    context: ExecutionContext, result: AssetCheckResult, declared: _Declared | None
) -> list[AssetCheckEvaluation]:
    if result.asset_key is None or result.check_name is None:
        return []
    key = AssetKey.from_coercible(result.asset_key)
    blocking = None
    if declared is not None:
        if (key, result.check_name) not in declared.blocking:
            return _left_out(context, f"the check {result.check_name} of {key.to_user_string()}")
        blocking = declared.blocking[key, result.check_name]
    return [
        AssetCheckEvaluation(
            asset_key=key,
            check_name=result.check_name,
            passed=result.passed,
            metadata=dict(result.metadata or {}),
            severity=result.severity,
            blocking=blocking,
        )
    ]


def _left_out(context: ExecutionContext, what: str) -> list[Any]:
    context.log.warning(f"[pipes] {what} is not kept: the step has no such asset or check")
    return []


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
