"""Cases 24 and 25: full disks, missing files, no permission, and hostile bootstraps."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import zlib
from pathlib import Path

import pytest

from asyncpipes import ChannelError, open_pipes_session
from asyncpipes.channels import FileChannel
from tests.faults.cases import case
from tests.faults.channels import small_disk
from tests.faults.subjects import Subject
from tests.support import bootstrap, logged, parsed

# 24.


async def _run(
    subject: Subject,
    body: str,
    messages: Path,
    *arguments: str,
    missing: bool = False,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a script whose messages go to this file, without a host."""
    environment = bootstrap({"path": str(messages)})
    messages.touch()  # as a host does
    if missing:
        messages.unlink()
    return await asyncio.to_thread(
        subprocess.run,
        [*subject.command(body), *arguments],
        env={**os.environ, **environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


_GIVE_UP_SOON = """
try:
    import asyncpipes.external.waiting
    asyncpipes.external.waiting.RETRY_SECONDS = 0.2
except ImportError:
    pass
"""

_FULL = f"""{_GIVE_UP_SOON}
import errno

def fill(path):
    with open(path, "ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC

with open_pipes() as pipes:
    pipes.report_asset_check("accepted", True)
    fill(sys.argv[1])
    ends = time.monotonic() + 1  # after which nothing is tried any more
    number = 0
    while time.monotonic() < ends:
        pipes.report_custom_message("x" * 1000)
        pipes.log.info("%d", number)
        number += 1
        time.sleep(0.01)
    print("work done", flush=True)
"""


@case(
    24,
    fails="the first report without room ends the script",
    mutants=["a_fault_ends_the_script", "leaves_a_fault_unsaid"],
)
async def test_case_24_a_disk_that_is_full(subject: Subject) -> None:
    with small_disk(subject.folder / "disk") as disk:
        messages = disk / "messages"
        done = await _run(subject, _FULL, messages, str(disk / "ballast"))
        whole = messages.read_bytes().rpartition(b"\n")
    assert done.stdout == "work done\n"
    delivered = parsed(whole[0] + whole[1])
    assert delivered[1]["params"]["check_name"] == "accepted"
    numbers = [int(text) for text in logged(delivered)]
    assert numbers == list(range(len(numbers)))
    assert done.returncode == 1, "nothing in the script catches the ChannelError"
    line = f"asyncpipes: cannot write to the messages file {messages}: No space left on device"
    assert done.stderr.count(line) == 1
    assert "messages were not delivered" in done.stderr


_REPORTS = """
with open_pipes() as pipes:
    pipes.report_asset_check("fresh", True)
"""


@case(
    24,
    fails="it makes a file of its own, which nobody reads",
    mutants=["makes_its_own_file"],
)
async def test_case_24_the_messages_file_is_deleted_before(subject: Subject) -> None:
    messages = subject.folder / "messages"
    done = await _run(subject, _REPORTS, messages, missing=True)
    assert done.returncode == 1
    assert f"cannot open the messages file {messages}: No such file" in done.stderr
    assert not messages.exists()


@case(
    24,
    fails="what comes after goes into a file of its own, which nobody reads",
    mutants=["looks_at_the_path_for_each_write"],
)
async def test_case_24_the_messages_file_is_deleted_meanwhile(subject: Subject) -> None:
    path = subject.folder / "temporary"
    body = f"""
with open_pipes() as pipes:
    pipes.report_asset_check("before", True)
    for folder, _, names in os.walk({str(path)!r}):
        for name in names:
            os.unlink(os.path.join(folder, name))
    pipes.report_asset_check("after", True)
"""
    report = await subject.run(body, checks=["before", "after"])
    assert [name for _, name, _ in report.checks] == ["before", "after"]
    assert report.ok, report.problems


@case(
    24,
    fails="it shows a traceback of its own, without a word on what to do",
    mutants=["opens_in_silence"],
)
async def test_case_24_no_permission(subject: Subject) -> None:
    folder = subject.folder / "closed"
    folder.mkdir()
    messages = folder / "messages"
    messages.touch(mode=0o600)
    body = (
        """
if os.geteuid() == 0:  # who may do anything
    os.setgid(65534)
    os.setuid(65534)
else:
    os.chmod(sys.argv[1], 0)
"""
        + _REPORTS
    )
    done = await _run(subject, body, messages, str(folder))
    assert done.returncode == 1
    assert f"cannot open the messages file {messages}: Permission denied" in done.stderr
    assert "The host creates it" in done.stderr


@case(
    24,
    stock=None,
    absent="its client has no such option",
    mutants=["makes_missing_directories"],
)
async def test_case_24_a_directory_that_the_host_cannot_write_to(subject: Subject) -> None:
    # Nobody, not even root, makes files in /sys.
    for folder in (subject.folder / "missing", Path("/sys")):
        path = folder / "messages"
        with pytest.raises(ChannelError) as info:
            async with open_pipes_session(channel=FileChannel(path), strict=False):
                pass
        assert f"cannot create the messages file {path}: " in str(info.value)


# 25.


def _bomb(megabytes: int) -> str:
    """A value that decompresses to so many megabytes of JSON."""
    deflater = zlib.compressobj(9)
    parts = [deflater.compress(b'{"data": "')]
    megabyte = b"x" * 1024 * 1024
    parts += [deflater.compress(megabyte) for _ in range(megabytes)]
    parts += [deflater.compress(b'"}'), deflater.flush()]
    return base64.b64encode(b"".join(parts)).decode()


_MEASURED = """
import resource
try:
    with open_pipes() as pipes:
        print("opened")
except Exception as error:
    print("%s: %s" % (type(error).__name__, error))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

_GARBAGE = {
    "text": "no base64 at all!",
    "empty": "",
    "no zlib": base64.b64encode(b"hello").decode(),
    "no JSON": base64.b64encode(zlib.compress(b"hello")).decode(),
    "no object": base64.b64encode(zlib.compress(b"[1]")).decode(),
    "cut off": base64.b64encode(zlib.compress(json.dumps({"data": {}}).encode()))[:-5].decode(),
    "deep": base64.b64encode(zlib.compress(b'{"data":' * 100_000)).decode(),
    "other keys": base64.b64encode(zlib.compress(b'{"other": 1}')).decode(),
}


@case(
    25,
    fails="it decompresses all of it",
    mutants=["takes_any_size"],
)
async def test_case_25_a_bootstrap_that_is_a_bomb(subject: Subject) -> None:
    messages = subject.folder / "messages"
    good = await _run(subject, _MEASURED, messages)
    told, usual = good.stdout.splitlines()
    assert told == "opened"
    # As large as a variable may be. Of it 64 MiB are allowed, which are there twice for a moment.
    bomb = await _run(subject, _MEASURED, messages, DAGSTER_PIPES_CONTEXT=_bomb(92))
    assert bomb.stdout, bomb.stderr
    told, needed = bomb.stdout.splitlines()
    assert int(needed) - int(usual) < 160 * 1024, "in KiB"
    assert told.startswith("BootstrapTooLargeError: environment variable DAGSTER_PIPES_CONTEXT")


_ASKED = """
import json
for name, value in json.loads(os.environ.pop("GARBAGE")):
    usual, os.environ[name] = os.environ[name], value
    try:
        with open_pipes():
            print("opened")
    except Exception as error:
        print("%s: %s" % (type(error).__name__, error))
    os.environ[name] = usual
"""


@case(
    25,
    fails="it raises what zlib or json raises, which names no variable",
    mutants=["garbage_is_no_bootstrap"],
)
async def test_case_25_garbage_in_the_bootstrap(subject: Subject) -> None:
    messages = subject.folder / "messages"
    names = ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES")
    asked = [(name, what) for what in _GARBAGE for name in names]
    values = json.dumps([(name, _GARBAGE[what]) for name, what in asked])
    done = await _run(subject, _ASKED, messages, GARBAGE=values)
    answers = done.stdout.splitlines()
    assert len(answers) == len(asked), done.stderr
    for (name, what), answer in zip(asked, answers, strict=True):
        assert answer.startswith("Bootstrap"), (what, answer)
        # Another host's may hold other keys: then that which is looked for is named.
        assert (name if what != "other keys" else "params hold n") in answer, (what, answer)
    assert messages.read_bytes() == b""
