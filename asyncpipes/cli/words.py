"""Amounts in words."""

from __future__ import annotations


def count(number: int, what: str) -> str:
    """``1 check``, ``2 checks``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration(seconds: float) -> str:
    """``7.2 s``, ``1:07``, ``2:00:07``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
