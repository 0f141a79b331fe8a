"""Whole run, the stock side: a ``dagster_pipes`` script under ``PipesSubprocessClient``.

The clock is around the client alone, inside an op of an ephemeral run, since the client
needs an op's context. Dagster reads the op's annotations when it is defined, so they
must not be postponed, and ``dagster`` must be imported by the module.
"""

import time

from dagster import OpExecutionContext, PipesSubprocessClient, job, op

from ..launching import environment, script
from ..message import lost_at_end
from .whole import Numbers, numbers


def stock(messages: int) -> Numbers:
    """The stock script under the stock client."""
    indices: list[int] = []
    seconds: list[float] = []

    @op
    def launch(context: OpExecutionContext) -> None:
        client = PipesSubprocessClient(env=environment())
        started = time.perf_counter()
        completed = client.run(context=context, command=script("stock", messages))
        seconds.append(time.perf_counter() - started)
        indices.extend(payload["index"] for payload in completed.get_custom_messages())

    @job
    def benchmark() -> None:
        launch()

    benchmark.execute_in_process()
    # Where the stock host reads half a line, its reader dies and the run is a success.
    return {**numbers(messages, seconds[0]), "lost": lost_at_end(indices, messages)}
