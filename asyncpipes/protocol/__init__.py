"""Dagster Pipes protocol 0.1 without any I/O: bytes and values in, bytes and values out.

Nothing here imports asyncio, anyio, threading, sockets or files (a test holds
it to that), so both ends and every transport share one implementation.
"""
