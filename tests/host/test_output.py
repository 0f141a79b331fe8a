"""stdout and stderr of a script: always drained, forwarded, captured."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncpipes import ExternalStreamEvent, open_pipes_session, run
from asyncpipes.host.output import OutputPipe, _write_all, drain
from asyncpipes.host.subscription import MAX_CAPTURED
from tests.support import PATIENCE
from tests.support_host import Gate, asyncio_timeout, raw_child, until

TEN_MB = """
opened()
line = b"0123456789" * 9 + b"abcdefghi\\n"
for _ in range(100):
    for fd in (1, 2):
        data = line * 1000
        while data:
            data = data[os.write(fd, data):]
closed()
"""


@pytest.mark.parametrize("forward", [True, False, "events", "both"])
async def test_ten_megabytes_on_both_streams_hang_nobody(
    capfd: pytest.CaptureFixture[str], forward: Any
) -> None:
    sizes = {"stdout": 0, "stderr": 0}

    def count(event: ExternalStreamEvent) -> None:
        sizes[event.stream] += len(event.text)

    async with open_pipes_session(forward_stdio=forward) as session:
        subscription = session.subscribe(count, ExternalStreamEvent)
        await session.launch(raw_child(TEN_MB))
    assert session.outcome.ok
    out, err = capfd.readouterr()
    expected = 10_000_000 if forward in (True, "both") else 0
    assert (len(out), len(err)) == (expected, expected)
    captured = sum(sizes.values())
    if forward in ("events", "both"):
        assert (captured == 20_000_000) == (subscription.dropped == 0)
        assert captured + subscription.dropped * 65536 >= 20_000_000
    else:
        assert (captured, subscription.delivered) == (0, 0)
    assert session.result.stderr == (100 * ("0123456789" * 9 + "abcdefghi\n"))[-4096:]


async def test_captured_output_is_complete_and_marked(any_loop: None) -> None:
    pieces: list[ExternalStreamEvent] = []
    body = r"""
        opened()
        os.write(1, "grüße €".encode()[:4])
        os.write(1, "grüße €".encode()[4:] + b"\n")
        os.write(2, b"err\xff")
        closed()
    """
    result = await run(
        raw_child(body),
        forward_stdio="events",
        collect="all",
        subscribers=[(pieces.append, ExternalStreamEvent)],
    )
    assert {(e.position, e.writer, e.extras["source"]) for e in pieces} == {(None, None, "host")}
    texts = {
        stream: "".join(e.text for e in pieces if e.stream == stream)
        for stream in ("stdout", "stderr")
    }
    assert texts == {"stdout": "grüße €\n", "stderr": "err\ufffd"}
    assert [e for e in result.events if isinstance(e, ExternalStreamEvent)] == pieces


async def test_captured_characters_are_whole_wherever_a_read_cuts_them() -> None:
    pieces: list[ExternalStreamEvent] = []
    body = 'opened(); sys.stdout.write("x" + "€" * 100_000); closed()'
    await run(
        raw_child(body, options=["-S", "-E", "-X", "utf8"]),
        forward_stdio="events",
        subscribers=[(pieces.append, ExternalStreamEvent)],
    )
    assert "".join(event.text for event in pieces) == "x" + "€" * 100_000


async def test_captured_output_waits_for_nobody(any_loop: None) -> None:
    release = asyncio.Event()
    texts: list[str] = []

    async def slow(event: ExternalStreamEvent) -> None:
        await release.wait()
        if event.stream == "stdout":
            texts.append(event.text)

    async with open_pipes_session(forward_stdio="events") as session:
        subscription = session.subscribe(slow, ExternalStreamEvent)
        process = await session.launch(raw_child(TEN_MB + "\nos.write(1, b'last')"))
        await process.wait()
        await session.wait_drained()
        assert session.health.held_by == ()
        assert subscription.dropped > 0
        # 256 pieces wait at most, and as many may be in its hands.
        assert subscription.depth <= 2 * MAX_CAPTURED
        release.set()
    assert session.outcome.ok
    assert texts[-1].endswith("last")


async def test_the_last_captured_output_is_delivered_before_the_end(
    any_loop: None, tmp_path: Path
) -> None:
    # The channel is at its end when the script is; its child writes only after that.
    gate = Gate(tmp_path)
    body = f"""
        opened(); closed()
        if not os.fork():
            wait_for({gate.path!r})
            os.write(1, b"late")
            os._exit(0)
    """
    texts: list[str] = []
    async with open_pipes_session(forward_stdio="events", drain_timeout=20) as session:
        session.subscribe(lambda event: texts.append(event.text), ExternalStreamEvent)
        events = session.events(ExternalStreamEvent)
        process = await session.launch(raw_child(body))
        await process.wait()
        next_event = asyncio.ensure_future(events.__anext__())
        # Long enough for a session that does not wait to end; one that waits does not care.
        await asyncio.wait([next_event], timeout=0.2)
        assert not next_event.done()
        await gate.open()
        assert isinstance(await next_event, ExternalStreamEvent)
    assert texts == ["late"]


async def test_output_without_end_leaves_the_loop_its_turns(any_loop: None) -> None:
    # As from a script that writes as fast as this reads: there is always something.
    pipe = OutputPipe()
    zero = os.open("/dev/zero", os.O_RDONLY)
    os.dup2(zero, pipe._read_end)
    os.set_blocking(pipe._read_end, False)
    os.close(zero)
    reads = 0

    async def count(data: bytes) -> None:
        nonlocal reads
        reads += 1
        assert reads < 10_000, "neither the loop nor the cancellation got a turn"

    await drain(pipe, count, anyio.CancelScope(deadline=anyio.current_time()))


async def test_a_grandchild_that_holds_stdout_does_not_hold_the_exit(
    any_loop: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gate = Gate(tmp_path)
    body = f"""
        opened()
        pid = os.fork()
        if not pid:
            os.setsid()
            wait_for({gate.path!r})
            os._exit(0)
        while os.getsid(pid) != pid: time.sleep(0.001)  # or it is one of the script's group
        os.write(1, b"from the script")
        closed()
    """
    async with asyncio_timeout(PATIENCE):
        result = await run(raw_child(body), drain_timeout=0.2)
    assert result.outcome.ok
    assert capfd.readouterr().out == "from the script"
    await gate.open()


async def test_a_grandchild_that_never_stops_writing_does_not_hold_the_exit(
    any_loop: None, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    body = f"""
        opened()
        pid = os.fork()
        if not pid:
            os.setsid()
            while True:
                os.write(1, b"y" * 65536)
        open({str(pid_file)!r}, "w").write(str(pid))
        while os.getsid(pid) != pid: time.sleep(0.001)  # or it is one of the script's group
        closed()
    """
    try:
        async with asyncio_timeout(PATIENCE):
            result = await run(raw_child(body), drain_timeout=0.2, forward_stdio=False)
        assert result.outcome.ok
    finally:
        with suppress(ProcessLookupError):  # nobody reads its pipe any more: it may have ended
            os.kill(int(pid_file.read_text()), 9)


async def test_a_script_that_writes_all_the_time_leaves_the_loop_its_turns(any_loop: None) -> None:
    body = """
        opened()
        while True:
            os.write(1, b"y" * 65536)
    """
    async with open_pipes_session(forward_stdio=False, strict=False, drain_timeout=0.2) as session:
        await session.launch(raw_child(body))
        await until(lambda: session.health.state == "open", "the script is at work")
        turns = 0
        while turns < 100:
            await asyncio.sleep(0)
            turns += 1
        assert not await session.wait_drained(timeout=0.05)
    assert session.outcome.timed_out


async def test_forwarding_keeps_lines_whole_and_the_rest_at_the_end(
    capfd: pytest.CaptureFixture[str],
) -> None:
    await run(raw_child('opened(); print("a\\nb", end=""); closed()'))
    assert capfd.readouterr().out == "a\nb"


BYTES_CHILD = r"opened(); os.write(1, b'\xff\xe2\x82\xac\n'); closed()"


async def test_a_stream_in_place_of_stdout_gets_all_that_its_encoding_can_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    await run(raw_child(BYTES_CHILD))
    assert raw.getvalue() == rb"\xff\u20ac" + b"\n"


async def test_the_real_stdout_gets_the_bytes_as_they_are(tmp_path: Path) -> None:
    script = tmp_path / "host.py"
    script.write_text(
        "import asyncio\nfrom asyncpipes import run\n"
        f"asyncio.run(run({raw_child(BYTES_CHILD)!r}))\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.getcwd()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, stdout=asyncio.subprocess.PIPE, env=environment
    )
    stdout, _ = await process.communicate()
    assert (process.returncode, stdout) == (0, b"\xff\xe2\x82\xac\n")


async def test_captured_output_comes_in_whole_lines() -> None:
    pieces = "for piece in (b'one ', b'line\\nand', b' the ', b'end'):\n    os.write(1, piece)\n"
    child = raw_child(f"opened()\n{pieces}closed()\n")
    result = await run(child, forward_stdio="events", collect="all")
    texts = [e.text for e in result.events if isinstance(e, ExternalStreamEvent)]
    assert texts == ["one line\n", "and the end"]


async def test_a_non_blocking_stdout_gets_everything(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    data = b"0123456789abcdef" * 65536  # 1 MiB, more than a pipe holds
    got = asyncio.get_running_loop().run_in_executor(None, read_exactly, read_end, len(data))
    await asyncio.to_thread(_write_all, write_end, data)
    assert await got == data
    os.close(write_end)
    os.close(read_end)


def read_exactly(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, 65536)
    return data


async def test_forwarding_to_a_stream_of_text_or_to_none_or_to_a_closed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = raw_child("opened(); print('text'); closed()")
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    assert (await run(child)).outcome.ok
    assert text.getvalue() == "text\n"
    text.close()
    assert (await run(child)).outcome.ok
    monkeypatch.setattr(sys, "stdout", None)
    assert (await run(child)).outcome.ok


#: Its time is over when its own stdout is full.
STALLING_HOST = """
import asyncio, select, sys
from asyncpipes import open_pipes_session

async def main():
    async with open_pipes_session(strict=False, grace=0.2, drain_timeout=0.2) as session:
        await session.launch({child!r})
        while select.select([], [1], [], 0)[1]:
            await asyncio.sleep(0.01)
        assert not await session.wait_drained(timeout=0)
    print(*session.outcome.reasons, sep="\\n", file=sys.stderr)

asyncio.run(main())
"""


async def test_a_stdout_that_nobody_reads_does_not_hold_the_run(tmp_path: Path) -> None:
    child = raw_child("opened()\nwhile True: print('x' * 1000)")
    script = tmp_path / "host.py"
    script.write_text(STALLING_HOST.format(child=child))
    read_end, write_end = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, script, stdout=write_end, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio_timeout(PATIENCE):
            _, stderr = await process.communicate()
    finally:
        os.close(read_end)
        os.close(write_end)
    assert process.returncode == 0
    assert b"not all of stdout was forwarded" in stderr
