"""asyncpipes.external.writing: the bytes of one write."""

from __future__ import annotations

import pytest

from asyncpipes.external.writing import Finisher
from asyncpipes.protocol.messages import encode_log_head
from tests.support import logged, parsed


@pytest.mark.parametrize("heads", [[], [b""], [encode_log_head("last", "INFO")]])
def test_a_stock_host_is_told_of_drops_with_a_message_or_without(heads: list[bytes]) -> None:
    finisher = Finisher(None, 1_000)
    lines = [(head, 0.0, None) for head in heads]
    told, *others = logged(parsed(finisher.finish(lines, 3)))
    assert told == (
        "asyncpipes: 3 log or stream records were dropped so far, because 1000 bytes were"
        " waiting for the channel"
    )
    assert others == (["last"] if heads and heads[0] else [])
    assert logged(parsed(finisher.finish(lines, 3))) == others, "once"
    assert len(logged(parsed(finisher.finish([], 4)))) == 1


def test_nothing_to_tell_is_no_bytes() -> None:
    assert Finisher(None, 1_000).finish([(b"", 0.0, None)], 0) == b""
    assert Finisher("a" * 8, 1_000).finish([(b"", 0.0, None)], 0) == b""
