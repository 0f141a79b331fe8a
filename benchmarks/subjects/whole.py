"""Whole run: a host starts a script, the script reports, and the outcome is there.

The clock runs from before the launch to after the outcome, so the script's start is
in it, and the host's is not. Each host keeps the custom messages for its result, as
both do by default; their order and number is checked afterwards. The stock side is in
``whole_stock``.
"""

from __future__ import annotations

import asyncio
import time

from ..launching import environment, script
from ..message import check_indices

Numbers = dict[str, float]


def ours(messages: int) -> Numbers:
    """Our script under our host, with one sync subscriber."""
    return asyncio.run(_ours(messages))


async def _ours(messages: int) -> Numbers:
    from asyncpipes import CustomMessageEvent, run

    indices: list[int] = []

    def subscriber(event: CustomMessageEvent) -> None:
        indices.append(event.payload["index"])

    started = time.perf_counter()
    result = await run(
        script("await_some", messages),
        env=environment(),
        subscribers=[(subscriber, CustomMessageEvent)],
    )
    ended = time.perf_counter()
    check_indices(indices, messages)
    check_indices((event.payload["index"] for event in result.custom_messages), messages)
    return numbers(messages, ended - started)


def numbers(messages: int, seconds: float) -> Numbers:
    """What a whole run's subject returns."""
    return {"messages": messages, "seconds": seconds, "per_second": messages / seconds}
