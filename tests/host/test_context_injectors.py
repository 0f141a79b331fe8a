"""How the context gets to a script: inline while it is small, else in a file."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import (
    EnvContextInjector,
    InvalidParameterError,
    LaunchError,
    PipesError,
    TempFileContextInjector,
    open_pipes_session,
    run,
)
from asyncpipes.channels import FileChannel
from asyncpipes.host import context_injectors
from asyncpipes.host.context_injectors import AutoContextInjector, ContextInjector
from asyncpipes.protocol.bootstrap import encode_param
from asyncpipes.protocol.context import build_context
from tests.support_host import raw_child, script

ECHO = """
opened()
extras = context()["extras"]
custom("path" in _param("DAGSTER_PIPES_CONTEXT"), extras["x"][:1], len(extras["x"]))
closed()
"""


def incompressible(size: int) -> str:
    return os.urandom(size // 2).hex()


async def payloads(**options: Any) -> list[Any]:
    result = await run(raw_child(ECHO), **options)
    return [event.payload for event in result.custom_messages]


async def test_a_small_context_goes_inline(any_loop: None) -> None:
    assert await payloads(extras={"x": "small"}) == [False, "s", 5]


@pytest.mark.parametrize("size", [300_000, 5_000_000])
async def test_a_large_context_goes_through_a_file(any_loop: None, size: int) -> None:
    assert (await payloads(extras={"x": incompressible(size)}))[::2] == [True, size]


async def test_what_compresses_well_goes_inline() -> None:
    assert await payloads(extras={"x": "y" * 300_000}) == [False, "y", 300_000]


@pytest.mark.parametrize("source", ["asyncpipes", "dagster_pipes"])
async def test_real_scripts_load_a_large_context(tmp_path: Path, source: str) -> None:
    opener = {"asyncpipes": "open_pipes", "dagster_pipes": "open_dagster_pipes"}[source]
    command = script(
        tmp_path,
        f"""
        from {source} import {opener}
        with {opener}() as pipes:
            pipes.report_custom_message(len(pipes.get_extra("x")))
        """,
    )
    result = await run(command, extras={"x": incompressible(300_000)})
    assert [event.payload for event in result.custom_messages] == [300_000]


async def test_the_file_is_for_its_owner_alone_and_goes_with_the_session(temporary: Path) -> None:
    async with open_pipes_session(
        extras={"x": 1}, context_injector=TempFileContextInjector(), strict=False
    ) as session:
        await session.launch(raw_child("pass"))
        (path,) = [p for p in temporary.iterdir() if p.is_file()]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(path.read_bytes())["extras"] == {"x": 1}
        assert len(list(temporary.iterdir())) == 2
    assert list(temporary.iterdir()) == []


async def test_one_injector_serves_several_sessions() -> None:
    injector = TempFileContextInjector()
    for x in ("ab", "abc"):
        assert await payloads(extras={"x": x}, context_injector=injector) == [True, "a", len(x)]


async def test_inline_by_order_fails_where_it_is_too_large_and_says_so() -> None:
    with pytest.raises(LaunchError, match="arguments and environment are too large"):
        await run(
            raw_child(ECHO),
            extras={"x": incompressible(300_000)},
            context_injector=EnvContextInjector(),
        )


async def test_a_file_that_cannot_be_made_is_named(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = FileChannel(tmp_path / "messages")
    temporary.rmdir()
    try:
        with pytest.raises(PipesError, match=r"cannot create a context file in .*TMPDIR"):
            await run(
                raw_child(ECHO),
                extras={"x": incompressible(300_000)},
                channel=channel,
                context_injector=_In(temporary, monkeypatch),
            )
    finally:
        temporary.mkdir()
    assert not (tmp_path / "messages").exists()


def _In(directory: Path, monkeypatch: pytest.MonkeyPatch) -> TempFileContextInjector:
    # gettempdir() itself would look for another directory that can be written to.
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return TempFileContextInjector()


@pytest.mark.parametrize("kind", [AutoContextInjector, TempFileContextInjector])
async def test_a_context_is_encoded_off_the_loop(
    kind: type[ContextInjector], any_loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def noted(name: str) -> None:
        function: Callable[..., Any] = getattr(context_injectors, name)

        def note(*args: Any, **options: Any) -> Any:
            threads.append(threading.get_ident())
            return function(*args, **options)

        monkeypatch.setattr(context_injectors, name, note)

    noted("encode_param")
    noted("dumps")
    injected = await kind().inject(build_context(extras={"x": incompressible(100_000)}))
    await injected.aclose()
    assert len(threads) == (2 if kind is AutoContextInjector else 1)
    assert threading.get_ident() not in threads


async def test_a_choice_that_is_cancelled_leaves_no_file(
    any_loop: None, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, go = threading.Event(), threading.Event()

    def slow(params: Any) -> str:
        encoding.set()
        go.wait()
        return encode_param(params)

    monkeypatch.setattr(context_injectors, "encode_param", slow)
    data = build_context(extras={"x": incompressible(100_000)})
    task = asyncio.ensure_future(AutoContextInjector().inject(data))
    await asyncio.to_thread(encoding.wait)
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(temporary.iterdir()) == []


async def test_extras_that_json_has_not_are_refused_on_the_way_in() -> None:
    with pytest.raises(InvalidParameterError, match="extras"):
        async with open_pipes_session(extras={"x": object()}):
            raise AssertionError("unreachable")


async def test_the_choice_is_made_by_size() -> None:
    auto = AutoContextInjector()
    small = await auto.inject(build_context(extras={"x": "s"}))
    assert "data" in small.params
    await small.aclose()
    large = await auto.inject(build_context(extras={"x": incompressible(100_000)}))
    path = Path(large.params["path"])
    assert path.exists()
    await large.aclose()
    await large.aclose()
    assert not path.exists()
