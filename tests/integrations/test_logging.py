"""Logging libraries in scripts that run under a host: levels, texts and fields arrive."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from asyncpipes import LogEvent, RunResult, run
from tests.support_host import script

pytestmark = pytest.mark.host


async def logs_of(tmp_path: Path, body: str) -> list[LogEvent]:
    """What a script logs, when it runs under a host to a good end."""
    result: RunResult = await run(script(tmp_path, body), collect="all", forward_stdio=False)
    return [event for event in result.events if isinstance(event, LogEvent)]


def brief(events: list[LogEvent]) -> list[tuple[str, str]]:
    return [(event.level, event.message) for event in events]


def extra(event: LogEvent) -> Any:
    return event.fields.get("extra", {})


DICT_CONFIG = """
    import asyncio
    import logging
    import logging.config

    from asyncpipes import open_pipes

    logging.config.dictConfig({
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"short": {"format": "[%(name)s] %(message)s"}},
        "filters": {"no_noise": {"()": "logging.Filter", "name": "my"}},
        "handlers": {
            "pipes": {"class": "asyncpipes.PipesHandler", "level": "INFO"},
            "formatted": {
                "class": "asyncpipes.PipesHandler", "formatter": "short", "filters": ["no_noise"],
            },
        },
        "loggers": {"my.formatted": {"handlers": ["formatted"], "propagate": False}},
        "root": {"handlers": ["pipes"], "level": "DEBUG"},
    })

    async def main():
        async with open_pipes():
            log = logging.getLogger("my.library")
            log.debug("below the handler's level")
            log.info("%d rows", 3, extra={"day": "2026-01-01", "sizes": [1, 2]})
            log.log(25, "between the levels")
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("it failed")
            await asyncio.to_thread(log.warning, "from a thread")
            logging.getLogger("my.formatted").critical("formatted")

    asyncio.run(main())
"""


async def test_dict_config_of_the_standard_library(tmp_path: Path) -> None:
    events = await logs_of(tmp_path, DICT_CONFIG)
    assert brief(events) == [
        ("INFO", "3 rows"),
        ("INFO", "between the levels"),
        ("ERROR", "it failed"),
        ("WARNING", "from a thread"),
        ("CRITICAL", "[my.formatted] formatted"),
    ]
    rows, between, failed, threaded, _ = events
    assert rows.fields["logger"] == "my.library"
    assert rows.fields["file"] == str(tmp_path / "external_code.py")
    assert rows.fields["line"] > 20
    assert extra(rows) == {"day": "2026-01-01", "sizes": [1, 2]}
    assert between.fields["level"] == "Level 25"
    assert "ZeroDivisionError: division by zero" in failed.fields["traceback"]
    assert threaded.fields["thread"] != rows.fields["thread"]


STRUCTLOG = """
    import asyncio
    import logging

    import structlog

    from asyncpipes import PipesHandler, open_pipes

    root = logging.getLogger()
    root.addHandler(PipesHandler())
    root.setLevel("INFO")
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )

    async def main():
        async with open_pipes():
            log = structlog.get_logger("my.app")
            structlog.contextvars.bind_contextvars(request="r-1")
            log.debug("below the level")
            log.bind(day="2026-01-01").info("rows read", rows=3, sizes={2, 1})
            await log.awarning("%s of %s", 1, 2)
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("it failed", table="orders")

    asyncio.run(main())
"""


async def test_structlog(tmp_path: Path) -> None:
    events = await logs_of(tmp_path, STRUCTLOG)
    assert brief(events) == [("INFO", "rows read"), ("WARNING", "1 of 2"), ("ERROR", "it failed")]
    read, warned, failed = events
    assert read.fields["logger"] == "my.app"
    assert read.fields["file"] == str(tmp_path / "external_code.py")
    assert extra(read) == {"request": "r-1", "day": "2026-01-01", "rows": 3, "sizes": [1, 2]}
    assert extra(warned) == {"request": "r-1"}
    assert extra(failed) == {"request": "r-1", "table": "orders"}
    assert "ZeroDivisionError: division by zero" in failed.fields["traceback"]


LOGURU = """
    import asyncio

    from loguru import logger

    from asyncpipes import PipesHandler, open_pipes

    logger.remove()
    logger.add(PipesHandler(), format=lambda record: "{message}", level="TRACE")

    async def main():
        async with open_pipes():
            logger.trace("deep inside")
            logger.bind(day="2026-01-01").info("{} rows", 3)
            with logger.contextualize(request="r-1"):
                logger.success("stored", rows=3)
            await asyncio.to_thread(logger.warning, "from a thread")
            try:
                1 / 0
            except ZeroDivisionError:
                logger.exception("it failed")
            logger.critical("the end")

    asyncio.run(main())
"""


async def test_loguru(tmp_path: Path) -> None:
    events = await logs_of(tmp_path, LOGURU)
    assert brief(events) == [
        ("DEBUG", "deep inside"),
        ("INFO", "3 rows"),
        ("INFO", "stored"),
        ("WARNING", "from a thread"),
        ("ERROR", "it failed"),
        ("CRITICAL", "the end"),
    ]
    deep, rows, stored, threaded, failed, _ = events
    assert deep.fields["level"] == "TRACE"
    assert stored.fields["level"] == "SUCCESS"
    assert rows.fields["logger"] == "__main__"
    assert rows.fields["file"] == str(tmp_path / "external_code.py")
    # loguru hands its own fields on as the attribute `extra` of the record.
    assert extra(rows) == {"extra": {"day": "2026-01-01"}}
    assert extra(stored) == {"extra": {"request": "r-1", "rows": 3}}
    assert threaded.fields["thread"] != rows.fields["thread"]
    assert failed.fields["traceback"].count("ZeroDivisionError: division by zero") == 1


LIBRARIES = {"dictConfig": DICT_CONFIG, "structlog": STRUCTLOG, "loguru": LOGURU}


@pytest.mark.parametrize("body", LIBRARIES.values(), ids=LIBRARIES)
async def test_by_hand_the_same_script_ends_well(tmp_path: Path, body: str) -> None:
    """Without a host the records go nowhere, and nothing fails."""
    process = await asyncio.create_subprocess_exec(
        *script(tmp_path, body), stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in stderr
