"""A real full disk: what is accepted waits for room, or is counted; the script goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import run
from asyncpipes.channels import FileChannel
from tests.faults.channels import disk_in_namespace, fill, small_disk
from tests.support import OURS, PATIENCE, bootstrap, logged, methods, parsed, started_script
from tests.support_host import script

ON_A_DISK = """
import sys
from asyncpipes import open_pipes
from asyncpipes.external import waiting

waiting.RETRY_SECONDS = {seconds}

def wait(word):
    print(word, flush=True)
    sys.stdin.readline()

with open_pipes() as pipes:
    pipes.report_asset_check("before", True)
    wait("opened")
    for number in range(200):
        pipes.log.info("%0100d", number)
    pipes.report_asset_check("while it is full", True)
    print("reported", flush=True)
    {then}
print("left", flush=True)
"""


@pytest.mark.parametrize("disk", [small_disk, disk_in_namespace])
@pytest.mark.parametrize("messages", [{}, OURS])
def test_a_full_disk_that_is_freed_has_all_of_it(
    tmp_path: Path, messages: dict[str, Any], disk: Callable[..., Any]
) -> None:
    code = ON_A_DISK.format(seconds=PATIENCE, then="pipes.flush(); print('flushed', flush=True)")
    with disk(tmp_path / "disk", 256) as folder:
        path = folder / "messages"
        path.touch()
        with started_script(code, bootstrap({"path": str(path), **messages})) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "opened\n"
            ballast = fill(folder)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "reported\n", "its work goes on"
            lines = path.read_bytes().splitlines(keepends=True)
            assert b"while it is full" not in lines[-1]
            ballast.unlink()
            assert process.stdout.read() == "flushed\nleft\n"
            assert process.stderr is not None
            assert process.stderr.read() == ""
            assert process.wait() == 0
        told = [m for m in parsed(path.read_bytes()) if m["method"] != "log_external_stream"]
    assert [int(text) for text in logged(told)] == list(range(200))
    assert methods(told)[:2] == ["opened", "report_asset_check"]
    assert methods(told)[-2:] == ["report_asset_check", "closed"]


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("", 1),  # an error that nobody caught
        ("sys.exit(7)", 7),
        ("raise KeyError('mine')", 1),
        ("import os; os._exit(5)", 5),
    ],
)
def test_a_disk_that_stays_full_is_named_and_the_exit_code_is_the_scripts_own(
    tmp_path: Path, then: str, code: int
) -> None:
    source = ON_A_DISK.format(seconds=0.2, then=then)
    with small_disk(tmp_path / "disk") as folder:
        path = folder / "messages"
        path.touch()
        with started_script(source, bootstrap({"path": str(path), **OURS})) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "opened\n"
            fill(folder)
            output, errors = process.communicate("\n", timeout=PATIENCE)
        delivered = path.read_bytes().splitlines(keepends=True)
    assert (output, process.returncode) == ("reported\n", code)
    if delivered and not delivered[-1].endswith(b"\n"):
        delivered.pop()
    numbers = [int(text) for text in logged(parsed(b"".join(delivered)))]
    assert numbers == list(range(len(numbers))), "no gap in what there is"
    assert len(numbers) < 200
    if "os._exit" in then:
        return
    line = f"asyncpipes: cannot write to the messages file {path}: No space left on device"
    assert errors.count(line) == 1
    assert errors.startswith(line)
    assert ("messages were not delivered" in errors) is (then == "")
    assert ("KeyError: 'mine'" in errors) is ("KeyError" in then)


@pytest.mark.parametrize("code", [0, 7])
async def test_the_host_of_a_script_whose_disk_is_full_tells_the_truth(
    tmp_path: Path, code: int
) -> None:
    source = f"""
        import sys
        from pathlib import Path
        from asyncpipes import ChannelError, open_pipes
        from asyncpipes.external import waiting
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.faults.channels import fill
        waiting.RETRY_SECONDS = 0.2
        try:
            with open_pipes() as pipes:
                pipes.report_asset_materialization({{"rows": 1}})
                fill(Path(sys.argv[1]))
                for number in range(200):
                    pipes.log.info("%0100d", number)
        except ChannelError:
            sys.exit({code})
    """
    with small_disk(tmp_path / "disk") as folder:
        result = await run(
            [*script(tmp_path, source), str(folder)],
            asset_keys=["orders"],
            channel=FileChannel(folder / "messages"),
            strict=False,
            collect="all",
            drain_timeout=0.1,
            forward_stdio=False,
        )
    assert result.outcome.exit_code == code
    assert len(result.materializations) == 1, "accepted before, so it is there"
    assert not result.outcome.closed
    assert not result.outcome.ok
    assert f"cannot write to the messages file {folder / 'messages'}" in result.stderr
