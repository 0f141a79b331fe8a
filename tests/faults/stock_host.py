"""Dagster's own host, in a process that forks for each run: it is imported once.

It reads requests from stdin, a JSON object each (see :class:`Request`), and answers with
two lines: the pid of the fork, and "over" when that has ended. The report is in
``folder/report``; there is none if the fork was killed. The fork leads a process group, so
that the harness can end it with all that it has started.
"""

# Without postponed annotations: Dagster looks at the one of an asset's ``context``.
import json
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from tests.interop.stock_host import from_log


@dataclass(frozen=True)
class Request:
    """A run, as ``tests.faults.runs.Options`` describes it."""

    command: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    keys: Sequence[str]
    checks: Sequence[str]
    extras: Mapping[str, Any]
    include_stdio: bool
    forward: bool
    grace: float


class Reader(dg.PipesTempFileMessageReader):
    """The stock reader of the stock client; remembers who handles its messages."""

    handler: Any = None

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[Any]:
        self.handler = handler
        with super().read_messages(handler) as params:
            yield params


def serve(request: Request) -> None:
    """Run the script under Dagster, and write the report."""
    os.setsid()
    os.environ.clear()
    os.environ.update(request.environment)
    os.environ["TMPDIR"] = str(Path(request.folder, "temporary"))
    os.environ["DAGSTER_HOME"] = request.folder
    tempfile.tempdir = None
    for descriptor, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        opened = os.open(Path(request.folder, name), flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    report = _report(request)
    path = Path(request.folder, "report")
    path.with_suffix(".new").write_text(json.dumps(report))
    path.with_suffix(".new").rename(path)


def _report(request: Request) -> dict[str, Any]:
    reader = Reader(include_stdio_in_messages=request.include_stdio)
    client = dg.PipesSubprocessClient(
        message_reader=reader,
        forward_stdio=request.forward,
        termination_timeout_seconds=request.grace,
    )
    custom: list[Any] = []

    @dg.multi_asset(
        name="step",
        outs={
            f"result_{number}": dg.AssetOut(key=dg.AssetKey([key]), dagster_type=dg.Nothing)
            for number, key in enumerate(request.keys)
        },
        check_specs=[dg.AssetCheckSpec(name, asset=request.keys[0]) for name in request.checks],
    )
    def step(context: dg.AssetExecutionContext) -> Iterator[Any]:
        done = client.run(context=context, command=request.command, extras=dict(request.extras))
        custom.extend(done.get_custom_messages())
        yield from done.get_results()

    ok, problems = False, []
    with dg.DagsterInstance.ephemeral() as instance:
        try:
            ok = dg.materialize([step], instance=instance, raise_on_error=False).success
        except BaseException as error:  # an interruption, which it hands on
            problems.append(repr(error))
        entries = [entry for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
    log = from_log(entries)
    problems += [each.message.strip() for each in log["reader_errors"]]
    problems += [
        entry.dagster_event.step_failure_data.error_display_string
        for entry in entries
        if entry.dagster_event is not None and entry.dagster_event.is_step_failure
    ]
    handler = reader.handler
    return {
        "ok": ok,
        "problems": problems,
        "opened": handler is not None and handler.received_opened_message,
        "closed": handler is not None and handler.received_closed_message,
        "custom": custom,
        "logs": log["logs"],
        "materializations": [
            (each.asset_key.to_user_string(), _plain(each.metadata))
            for each in log["materializations"]
        ],
        "checks": [
            (each.asset_key.to_user_string(), each.check_name, each.passed)
            for each in log["checks"]
        ],
        "exception": log["exceptions"][0].to_string() if log["exceptions"] else None,
    }


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without what Dagster itself adds, and without types."""
    return {
        label: value.value for label, value in metadata.items() if not label.startswith("dagster/")
    }


def _warm_up() -> None:
    """Have imported what a run imports, once for all forks."""

    @dg.asset
    def nothing() -> None:
        pass

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([nothing], instance=instance).success


def main() -> None:
    """Serve until stdin ends."""
    warnings.simplefilter("ignore")  # Dagster's own, about its own
    _warm_up()
    assert threading.active_count() == 1, "a fork has none of the other threads"
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                serve(Request(**json.loads(line)))
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(0)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("over", flush=True)


if __name__ == "__main__":
    main()
