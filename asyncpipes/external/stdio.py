"""Copying a script's own stdout and stderr into the channel.

The stream's descriptor is replaced by a pipe; a thread reads it, passes every byte
on to where the stream went before, and reports it. So output of C code and of child
processes is caught as well, in order, without a ``tee`` process.
"""

from __future__ import annotations

import codecs
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import TextIO

#: How long the end of a capture waits for child processes that still hold the pipe,
#: in seconds. What they write later goes nowhere the script could report it.
_LINGER = 1.0
_READ_BYTES = 65536

Report = Callable[[str, str], None]


class StreamCapture:
    """Captures one stream from :meth:`start` to :meth:`stop`.

    Args:
        stream: ``"stdout"`` or ``"stderr"``.
        report: called with the stream's name and a piece of text, from the capture's
            thread. It must not block, or the script's ``print`` would.
    """

    def __init__(self, stream: str, report: Report) -> None:
        self._stream = stream
        self._report = report
        self._target = -1  # the descriptor that is replaced
        self._original = -1  # a duplicate of what it was
        self._read_end = -1
        self._stop_read, self._stop_write = -1, -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Does nothing where the stream has no descriptor, as in a GUI."""
        file = self._file()
        try:
            if file is None:
                return
            target = file.fileno()
        except (OSError, ValueError):  # replaced by something without one
            return
        file.flush()
        self._original = os.dup(target)
        self._read_end, write_end = os.pipe()
        self._stop_read, self._stop_write = os.pipe()
        os.dup2(write_end, target)  # inheritable, so child processes are captured too
        os.close(write_end)
        self._target = target
        self._thread = threading.Thread(
            target=self._pump, name=f"asyncpipes-{self._stream}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Put the stream back and report what is left. Idempotent. Blocks up to a second."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        file = self._file()
        if file is not None and not file.closed:
            file.flush()
        # This closes our own write end: unless child processes hold it too, the
        # pipe ends here.
        os.dup2(self._original, self._target)
        thread.join(_LINGER)
        os.write(self._stop_write, b"x")
        thread.join()
        for fd in (self._read_end, self._original, self._stop_read, self._stop_write):
            os.close(fd)

    def _file(self) -> TextIO | None:
        # The interpreter's own streams: sys.stdout may be anything by now.
        return sys.__stdout__ if self._stream == "stdout" else sys.__stderr__

    def _pump(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        stopping = False
        while True:
            readable, _, _ = select.select(
                [self._read_end, self._stop_read], [], [], 0 if stopping else None
            )
            stopping = stopping or self._stop_read in readable
            if self._read_end not in readable:
                break  # told to stop, and nothing is left
            data = os.read(self._read_end, _READ_BYTES)
            if not data:
                break
            self._pass_on(data)
            if text := decoder.decode(data):
                self._report(self._stream, text)
        if text := decoder.decode(b"", final=True):
            self._report(self._stream, text)

    def _pass_on(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._original, view) :]
        except OSError:
            pass  # whoever read the stream has gone; the report is still of use
