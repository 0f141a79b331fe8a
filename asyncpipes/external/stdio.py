"""Copying a script's own stdout and stderr into the channel.

The stream's descriptor is replaced by a pipe; a thread reads it, passes every byte
on to where the stream went before, and reports it. So output of C code and of child
processes is caught as well, in order, without a ``tee`` process.
"""

from __future__ import annotations

import codecs
import os
import selectors
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from . import lifecycle

#: How long the end of a capture waits for child processes that still hold the pipe,
#: in seconds, and then for whoever reads the stream. What comes later goes nowhere.
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
        self.stream = stream
        self._report = report
        self._target = -1  # the descriptor that is replaced
        self._original = -1  # a duplicate of what it was
        self._read_end = -1
        self._stop_read, self._stop_write = -1, -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Does nothing where the stream has no descriptor, as in a GUI.

        Nor where another context captures it already: captures that end in any order
        but the reverse would put back each other's pipes.

        Raises:
            OSError: out of descriptors; nothing is changed then.
        """
        file = self._file()
        try:
            if file is None:
                return
            target = file.fileno()
        except (OSError, ValueError):  # replaced by something without one
            return
        if not lifecycle.claim_descriptor(target):
            return
        write_end = -1
        try:
            file.flush()
            self._original = os.dup(target)
            self._read_end, write_end = os.pipe()
            self._stop_read, self._stop_write = os.pipe()
            self._thread = threading.Thread(
                target=self._pump, name=f"asyncpipes-{self.stream}", daemon=True
            )
            self._thread.start()
            os.dup2(write_end, target)  # inheritable, so child processes are captured too
        except BaseException:
            if self._thread is not None and self._thread.ident is not None:
                os.write(self._stop_write, b"x")
                self._thread.join()
            self._thread = None
            self._close()
            lifecycle.release_descriptor(target)
            raise
        finally:
            if write_end >= 0:
                os.close(write_end)
        self._target = target

    def stop(self) -> None:
        """Put the stream back and report what is left. Idempotent.

        Blocks for a second while child processes hold the stream, and for another one
        while nobody reads what it is passed on to.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        file = self._file()
        try:
            if file is not None and not file.closed:
                file.flush()
        except OSError:
            pass  # it keeps what it could not write, and the interpreter's exit will tell
        # This closes our own write end: unless child processes hold it too, the
        # pipe ends here.
        try:
            os.dup2(self._original, self._target)
        finally:
            lifecycle.release_descriptor(self._target)
        thread.join(_LINGER)
        os.write(self._stop_write, b"x")
        thread.join(_LINGER)
        if not thread.is_alive():  # else it is stuck in a write, and uses them
            self._close()

    def _close(self) -> None:
        for fd in (self._read_end, self._original, self._stop_read, self._stop_write):
            if fd >= 0:
                os.close(fd)
        self._read_end = self._original = self._stop_read = self._stop_write = -1

    def _file(self) -> TextIO | None:
        # The interpreter's own streams: sys.stdout may be anything by now.
        return sys.__stdout__ if self.stream == "stdout" else sys.__stderr__

    def _pump(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        stopping = False
        with selectors.DefaultSelector() as selector:
            selector.register(self._read_end, selectors.EVENT_READ)
            selector.register(self._stop_read, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(0 if stopping else None)}
                stopping = stopping or self._stop_read in ready
                if self._read_end not in ready:
                    if stopping:
                        break  # told to stop, and nothing is left
                    continue
                data = os.read(self._read_end, _READ_BYTES)
                if not data:
                    break
                self._pass_on(data)
                if text := decoder.decode(data):
                    self._report(self.stream, text)
        if text := decoder.decode(b"", final=True):
            self._report(self.stream, text)

    def _pass_on(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._original, view) :]
            except BlockingIOError:  # somebody made it so, a child process perhaps
                with selectors.DefaultSelector() as selector:
                    selector.register(self._original, selectors.EVENT_WRITE)
                    selector.select()
            except OSError:
                return  # whoever read the stream has gone; the report is still of use
