"""How our script ends under Dagster's own host, and its captured output there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.interop import scripts
from tests.interop.stock_host import run_both, run_ours


def test_an_exception_arrives_with_cause_and_context(tmp_path: Path) -> None:
    stock, ours = run_both(tmp_path, scripts.FAIL)

    def flat(error: Any, folder: str) -> Any:
        if error is None:
            return None
        return (
            error.message,
            error.cls_name,
            [entry.replace(folder, "") for entry in error.stack],
            flat(error.cause, folder),
            flat(error.context, folder),
        )

    for run in (stock, ours):
        assert not run.ok
        assert run.reader_errors == []
    (expected,), (error,) = stock.exceptions, ours.exceptions
    assert flat(error, str(tmp_path / "asyncpipes")) == flat(
        expected, str(tmp_path / "dagster_pipes")
    )
    assert error.message == "RuntimeError: of two lines\nand ü\n"
    assert error.cause.cls_name == "LookupError"
    assert error.cause.context.cls_name == "ValueError"
    assert "in parse" in error.cause.context.stack[-1]
    assert ours.messages()[:-1] == stock.messages()[:-1]
    assert ours.messages()[1]["params"] == {"payload": "before"}


def test_every_leaf_of_a_group_is_visible(tmp_path: Path) -> None:
    body = """
import sys
if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

def leaf(error, cause=None):
    try:
        raise error from cause
    except Exception as raised:
        return raised

with open_pipes() as pipes:
    first = leaf(KeyError("leaf one"), leaf(OSError("cause of one")))
    inner = ExceptionGroup("inner", [leaf(TypeError("leaf two")), leaf(EOFError("leaf three"))])
    raise ExceptionGroup("outer", [first, inner])
"""
    run = run_ours(tmp_path, body)
    assert not run.ok
    assert run.reader_errors == []
    (error,) = run.exceptions
    assert error.cls_name == "ExceptionGroup"
    assert "outer (2 sub-exceptions)" in error.message
    shown = error.to_string()
    for text in ("leaf one", "cause of one", "inner (2 sub-exceptions)", "leaf two", "leaf three"):
        assert text in shown


@pytest.mark.parametrize(
    ("code", "shown"),
    [("", None), ("0", None), ("3", "SystemExit: 3\n"), ("'why'", "SystemExit: why\n")],
)
def test_the_exit_code_decides_what_sys_exit_means(
    code: str, shown: str | None, tmp_path: Path
) -> None:
    body = f"""
import sys
with open_pipes() as pipes:
    pipes.report_asset_materialization()
    sys.exit({code})
"""
    run = run_ours(tmp_path, body)
    assert run.ok is (shown is None)
    assert run.reader_errors == []
    assert [error.message for error in run.exceptions] == ([] if shown is None else [shown])
    assert run.messages()[-1]["method"] == "closed"


def test_an_exception_after_the_block_fails_the_run_only(tmp_path: Path) -> None:
    body = """
with open_pipes() as pipes:
    pipes.log.info("inside")
raise ValueError("outside")
"""
    stock, ours = run_both(tmp_path, body)
    for run in (stock, ours):
        assert not run.ok
        assert run.exceptions == []
    assert ours.messages() == stock.messages()


def test_captured_output_reaches_dagsters_own_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = """
import os, subprocess, sys
with open_pipes() as pipes:
    print("printed: ü 𝄞")
    print("to stderr", file=sys.stderr)
    os.write(1, b"written\\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    print("without newline", end="")
    pipes.report_asset_materialization()
print("after")
"""
    # The script itself writes to the descriptors; capsys has what this process writes.
    run = run_ours(tmp_path, body, include_stdio=True)
    assert run.ok
    assert run.reader_errors == []
    streams = [message["params"] for message in run.messages() if "stream" in message["params"]]
    assert all(set(params) == {"stream", "text", "extras"} for params in streams)
    out = "".join(params["text"] for params in streams if params["stream"] == "stdout")
    err = "".join(params["text"] for params in streams if params["stream"] == "stderr")
    assert err == "to stderr\n"
    for text in ("printed: ü 𝄞\n", "written\n", "by a child\n", "without newline"):
        assert text in out
    assert "after" not in out
    seen = capsys.readouterr()
    assert out in seen.out
    assert err in seen.err
    assert run.messages()[-1]["method"] == "closed"
