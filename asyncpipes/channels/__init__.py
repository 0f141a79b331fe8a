"""Message channels: one module a transport, both of its ends side by side.

A channel moves bytes and never looks inside them.
"""

from __future__ import annotations

from .base import Channel, ChannelReader, ChannelWriter, Guarantees
from .file import FileChannel
from .memory import MemoryChannel

__all__ = [
    "Channel",
    "ChannelReader",
    "ChannelWriter",
    "FileChannel",
    "Guarantees",
    "MemoryChannel",
]
