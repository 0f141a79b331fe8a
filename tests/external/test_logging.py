"""asyncpipes.external.logging: the logger of a context, and the handler for any other."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import logging.config
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asyncpipes import PipesHandler
from asyncpipes.external.connection import PipesContext
from asyncpipes.external.context import open_pipes
from asyncpipes.external.logging import level_name
from tests.support import OURS, RecordingWriter, bootstrap, in_thread, logged


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of the script's own, as it was afterwards."""
    logger = logging.getLogger("my.app")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in logger.handlers:
        if handler not in before[0]:
            handler.close()
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def launched(writer: RecordingWriter, *, ours: bool = True) -> PipesContext:
    return open_pipes(params_loader=bootstrap(OURS if ours else {}), message_writer=writer)


def log_messages(writer: RecordingWriter) -> list[dict[str, Any]]:
    return [m for m in writer.messages if m["method"] == "log"]


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


LEVELS = [
    (1, "DEBUG"),
    (10, "DEBUG"),
    (19, "DEBUG"),
    (20, "INFO"),
    (25, "INFO"),
    (30, "WARNING"),
    (35, "WARNING"),
    (40, "ERROR"),
    (49, "ERROR"),
    (50, "CRITICAL"),
    (1000, "CRITICAL"),
]


@pytest.mark.parametrize(("number", "name"), LEVELS)
@pytest.mark.parametrize("ours", [True, False])
def test_any_level_is_mapped_to_the_next_lower_of_five(number: int, name: str, ours: bool) -> None:
    assert level_name(number) == name
    writer = RecordingWriter()
    with launched(writer, ours=ours) as pipes:
        pipes.log.log(number, "text")
    [message] = log_messages(writer)
    assert message["params"] == {"message": "text", "level": name}
    if ours:
        custom = number not in (10, 20, 30, 40, 50)
        assert message["fields"].get("level") == (f"Level {number}" if custom else None)


def test_a_level_with_a_name_of_its_own_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "_levelToName", {**logging._levelToName, 25: "NOTICE"})
    writer = RecordingWriter()
    with launched(writer) as pipes:
        pipes.log.log(25, "text")
    [message] = log_messages(writer)
    assert message["params"]["level"] == "INFO"
    assert message["fields"]["level"] == "NOTICE"


def test_fields_say_where_a_record_comes_from(logger: logging.Logger) -> None:
    writer = RecordingWriter()
    with launched(writer):
        logger.addHandler(PipesHandler())
        logger.info("in %s", "thread", stack_info=True)
    [message] = log_messages(writer)
    fields = message["fields"]
    assert fields["logger"] == "my.app"
    assert fields["file"] == __file__
    assert isinstance(fields["line"], int)
    assert fields["thread"] == threading.current_thread().name
    assert fields["stack"].startswith("Stack (most recent call last)")
    assert fields.keys() == {"logger", "file", "line", "thread", "stack"}
    assert message["params"]["message"] == "in thread"


async def test_fields_name_task_and_thread() -> None:
    writer = RecordingWriter()

    async def work() -> None:
        PipesContext.get().log.info("in a task")

    async with launched(writer) as pipes:
        await asyncio.create_task(work(), name="worker 7")
        thread = threading.Thread(target=pipes.log.info, args=("in a thread",), name="thread 3")
        thread.start()
        await asyncio.to_thread(thread.join)
    first, second = log_messages(writer)
    assert first["fields"]["task"] == "worker 7"
    assert second["fields"]["thread"] == "thread 3"
    assert "task" not in second["fields"]


def test_extra_is_sent_and_what_json_cannot_hold_is_shown() -> None:
    class BadMapping(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("no items")

    writer = RecordingWriter()
    extra = {
        "user": "ann",
        "nested": {"a": [1, None]},
        "thing": {"x": object},
        "nan": float("nan"),
        "bad": Unprintable(),
        "big": 2**70,
        "mapping": BadMapping(a=1),
    }
    with launched(writer) as pipes:
        pipes.log.info("text", extra=extra)
    [message] = log_messages(writer)
    sent = message["fields"]["extra"]
    assert (sent["user"], sent["nested"], sent["big"]) == ("ann", {"a": [1, None]}, 2**70)
    assert sent["thing"] == "{'x': <class 'object'>}"
    assert sent["nan"] == "nan"
    assert sent["bad"] == "<Unprintable that cannot be shown>"
    assert sent.keys() == extra.keys()


@pytest.mark.parametrize("ours", [True, False])
def test_tracebacks_are_sent(ours: bool) -> None:
    writer = RecordingWriter()
    with launched(writer, ours=ours) as pipes:
        try:
            raise KeyError("lost")
        except KeyError:
            pipes.log.exception("it failed")
    [message] = log_messages(writer)
    assert message["params"]["level"] == "ERROR"
    if ours:
        assert message["params"]["message"] == "it failed"
        text = message["fields"]["traceback"]
    else:
        first, _, text = message["params"]["message"].partition("\n")
        assert first == "it failed"
    assert text.startswith("Traceback (most recent call last):")
    assert text.endswith("KeyError: 'lost'")


def test_a_stack_is_appended_for_a_stock_host() -> None:
    writer = RecordingWriter()
    with launched(writer, ours=False) as pipes:
        pipes.log.info("here", stack_info=True)
    assert logged(writer.messages)[0].startswith("here\nStack (most recent call last)")


@pytest.mark.parametrize("ours", [True, False])
def test_a_formatter_makes_the_message(logger: logging.Logger, ours: bool) -> None:
    writer = RecordingWriter()
    with launched(writer, ours=ours) as pipes:
        handler = PipesHandler(pipes)
        handler.setFormatter(logging.Formatter("<%(name)s> %(message)s"))
        logger.addHandler(handler)
        try:
            raise KeyError("lost")
        except KeyError:
            logger.exception("text")
    [text] = logged(writer.messages)
    if ours:
        assert text == "<my.app> text", "the traceback is a field"
        [message] = log_messages(writer)
        traceback = message["fields"]["traceback"]
        assert traceback.endswith("KeyError: 'lost'")
    else:
        assert text.startswith("<my.app> text\nTraceback")
        assert text.count("Traceback") == 1


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (("%d items", "five"), ["%d items", "'five'"]),
        (("two %s %s", "one"), ["two %s %s", "'one'"]),
        ((Unprintable(),), ["<Unprintable that cannot be shown>"]),
        (("%s", Unprintable()), ["%s", "could not be formatted"]),
    ],
)
def test_a_message_that_cannot_be_formatted_is_sent_in_parts(
    call: tuple[Any, ...], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    writer = RecordingWriter()
    with launched(writer) as pipes:
        pipes.log.warning(*call)
    [text] = logged(writer.messages)
    for part in [*parts, "could not be formatted"]:
        assert part in text


def test_the_standard_library_tells_of_a_broken_format_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with launched(RecordingWriter()) as pipes:
        pipes.log.warning("%d", "x")
    assert "--- Logging error ---" in capsys.readouterr().err


def test_dict_config(logger: logging.Logger) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"pipes": {"class": "asyncpipes.PipesHandler", "level": "WARNING"}},
            "loggers": {"my.app": {"handlers": ["pipes"], "level": "DEBUG"}},
        }
    )
    logger.warning("nowhere yet")
    writers = [RecordingWriter(), RecordingWriter()]
    for writer in writers:
        with launched(writer):
            logger.info("below the level")
            logger.warning("heard")
        logger.warning("nowhere any more")
    assert [logged(writer.messages) for writer in writers] == [["heard"], ["heard"]]


def test_filters_are_asked(logger: logging.Logger) -> None:
    writer = RecordingWriter()
    with launched(writer):
        handler = PipesHandler()
        handler.addFilter(lambda record: "secret" not in record.getMessage())
        logger.addHandler(handler)
        logger.info("secret")
        logger.info("open")
    assert logged(writer.messages) == ["open"]


def test_logging_while_a_record_is_formatted() -> None:
    class Chatty:
        def __str__(self) -> str:
            pipes.log.info("from __str__")
            return "chatty"

    writer = RecordingWriter()
    with launched(writer) as pipes:
        pipes.log.info("%s", Chatty())
    assert logged(writer.messages) == ["from __str__", "chatty"]


def test_endless_recursion_ends() -> None:
    class Endless:
        def __str__(self) -> str:
            pipes.log.info("%s", Endless())
            return "endless"

    writer = RecordingWriter()
    with launched(writer) as pipes:
        pipes.log.info("%s", Endless())
        pipes.log.info("and on")
    texts = logged(writer.messages)
    assert 1 < len(texts) < 20
    assert texts[-1] == "and on"


def test_logging_from_a_del_that_the_collector_runs(logger: logging.Logger) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            logger.warning("collected")

    def run() -> None:
        for _ in range(3000):
            Cycle()
            logger.info("ordinary")

    writer = RecordingWriter()
    with launched(writer):
        logger.addHandler(PipesHandler())
        threshold = gc.get_threshold()
        gc.set_threshold(5, 2, 2)
        try:
            in_thread(run)
        finally:
            gc.set_threshold(*threshold)
            gc.collect()
    texts = logged(writer.messages)
    assert texts.count("ordinary") == 3000
    assert texts.count("collected") == 3000
    numbers = [m["seq"] for m in writer.messages]
    assert numbers == list(range(1, len(numbers) + 1))


def test_two_contexts_and_a_handler_of_neither(logger: logging.Logger) -> None:
    writers = [RecordingWriter(), RecordingWriter()]
    logger.addHandler(PipesHandler())
    with launched(writers[0]) as first, launched(writers[1]):
        logger.addHandler(PipesHandler(first))
        in_thread(lambda: logger.info("from a fresh thread"))
    assert [logged(writer.messages) for writer in writers] == [["from a fresh thread"], []]


def test_after_close_nothing_crashes_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = RecordingWriter()
    with launched(writer) as pipes:
        pass
    count = len(writer.batches)
    pipes.log.error("too late")
    assert len(writer.batches) == count
    assert capsys.readouterr().err == ""


def test_lone_surrogates_and_controls_in_a_message() -> None:
    writer = RecordingWriter()
    text = "a\ud800b\x00c\nd\u2028e"
    with launched(writer) as pipes:
        pipes.log.info(text)
    [message] = log_messages(writer)
    assert json.loads(json.dumps(message))["params"]["message"].startswith("a")
    assert message["params"]["message"].endswith("b\x00c\nd\u2028e")
