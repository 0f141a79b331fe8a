"""Loss: our script and a stock script, in turn, under the stock ``PipesSubprocessClient``.

The client reads what the script appends to a file in the temporary directory. Where it
finds half a line, its reader dies, the run goes on, and the messages from there on are lost.

Dagster reads the op's annotations when it is defined, so they must not be postponed, and
``dagster`` must be imported by the module.
"""

import sys
from pathlib import Path
from typing import Any

from dagster import OpExecutionContext, PipesSubprocessClient, job, op
from dagster._core.errors import DagsterPipesExecutionError

from ..launching import environment
from ..patterns import PATTERNS, WAYS, Pattern

_SCRIPTS = Path(__file__).parents[1] / "scripts"
_SUBJECTS = {"stock": _SCRIPTS / "pattern_stock.py", "ours": _SCRIPTS / "pattern.py"}


def one_round(divisor: int) -> dict[str, list[dict[str, Any]]]:
    """Every pattern in every way, by both scripts; only every ``divisor``-th message."""
    runs: list[dict[str, Any]] = []

    @op
    def launch(context: OpExecutionContext) -> None:
        for pattern in PATTERNS:
            for way in WAYS:
                for subject in _SUBJECTS:
                    runs.append(_run(context, subject, pattern, way, divisor))

    @job
    def benchmark() -> None:
        launch()

    benchmark.execute_in_process()
    return {"runs": runs}


def _run(
    context: OpExecutionContext, subject: str, pattern: Pattern, way: str, divisor: int
) -> dict[str, Any]:
    command = [sys.executable, str(_SCRIPTS / _SUBJECTS[subject]), pattern.name, way, str(divisor)]
    expected = [payload["index"] for payload in pattern.payloads(divisor)]
    client = PipesSubprocessClient(env=environment())
    failure = ""
    indices: list[int] = []
    try:
        completed = client.run(context=context, command=command)
    except DagsterPipesExecutionError as error:
        failure = str(error)
    else:
        indices = [payload["index"] for payload in completed.get_custom_messages()]
        if indices != expected[: len(indices)]:
            failure = "messages came twice or out of order"
    return {
        "pattern": pattern.name,
        "way": way,
        "subject": subject,
        "messages": len(expected),
        "lost": len(expected) - len(indices),
        "failure": failure,
    }
