"""The least that reporting can cost: encode, gather 256 KiB, write. No context, no thread."""

from __future__ import annotations

import os
import sys
import time

import orjson

from asyncpipes.protocol.bootstrap import from_mapping
from benchmarks.message import message

_WRITE_BYTES = 256 * 1024


def main(messages: int) -> None:
    """Write ``messages`` messages."""
    path = from_mapping(os.environ, source="the environment").messages["path"]
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    started = time.monotonic()
    # Copied into one buffer at once: orjson makes its results in blocks of 1 KiB, and
    # to keep a thousand of those for a join takes the allocator three times as long as
    # all the rest.
    buffer = bytearray()
    for index in range(messages):
        buffer += orjson.dumps(message(index), option=orjson.OPT_APPEND_NEWLINE)
        if len(buffer) >= _WRITE_BYTES:
            os.write(fd, buffer)
            buffer.clear()
    os.write(fd, buffer)
    os.close(fd)
    print(started)


main(int(sys.argv[1]))
