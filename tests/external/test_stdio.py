"""asyncpipes.external.stdio: one captured stream, in this process."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest

from asyncpipes.external.stdio import StreamCapture
from tests.support import PATIENCE, open_fds, settled_fds


class Captured:
    """A capture of a stream of the test's own instead of the interpreter's stdout."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: TextIO | None) -> None:
        self.texts: list[str] = []
        self.capture = StreamCapture("stdout", lambda stream, text: self.texts.append(text))
        monkeypatch.setattr(self.capture, "_file", lambda: file)


def test_what_is_written_is_passed_on_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = settled_fds()
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        captured = Captured(monkeypatch, file)
        captured.capture.start()
        file.write("before ")
        file.flush()
        os.write(file.fileno(), "Ω".encode()[:1])  # and never the rest of it
        captured.capture.stop()
        captured.capture.stop()
        file.write(" after")
    assert "".join(captured.texts) == "before �"
    assert (tmp_path / "out").read_bytes() == b"before \xce after"
    assert open_fds() == before


def test_a_reader_that_is_slow_or_gone_costs_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipe is full, and does not block: somebody has made it so."""
    before = settled_fds()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    write, full = os.write, threading.Event()

    def told(fd: int, data: bytes) -> int:
        try:
            return write(fd, data)
        except BlockingIOError:
            full.set()
            raise

    monkeypatch.setattr(os, "write", told)
    with os.fdopen(write_end, "w", encoding="utf-8") as file:
        while not full.is_set():
            with suppress(BlockingIOError):
                os.write(write_end, b"x" * 4096)
        full.clear()
        captured = Captured(monkeypatch, file)
        captured.capture.start()
        os.write(file.fileno(), b"late")
        assert full.wait(PATIENCE)
        passed = b""
        while not passed.endswith(b"late"):
            passed += os.read(read_end, 65536)
        os.close(read_end)
        os.write(file.fileno(), b" and for nobody")
        captured.capture.stop()
    assert "".join(captured.texts) == "late and for nobody"
    assert open_fds() == before


@pytest.mark.parametrize("state", ["none", "closed"])
def test_a_stream_without_a_descriptor_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    before = settled_fds()
    file = (tmp_path / "out").open("w", encoding="utf-8")
    file.close()
    captured = Captured(monkeypatch, None if state == "none" else file)
    captured.capture.start()
    captured.capture.stop()
    assert open_fds() == before


def test_a_stream_that_was_closed_meanwhile_is_stopped_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = settled_fds()
    file = (tmp_path / "out").open("w", encoding="utf-8")
    target = file.fileno()
    captured = Captured(monkeypatch, file)
    captured.capture.start()
    file.close()
    captured.capture.stop()
    os.close(target)  # which has been put back
    assert open_fds() == before


@pytest.mark.parametrize("fails", ["dup", "dup2"])
def test_a_start_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = settled_fds()
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        captured = Captured(monkeypatch, file)
        with monkeypatch.context() as patched, pytest.raises(OSError, match="Too many open files"):
            patched.setattr(os, fails, full)
            captured.capture.start()
        captured.capture.start()
        file.write("text")
        captured.capture.stop()
    assert captured.texts == ["text"]
    assert open_fds() == before
