"""asyncpipes.external.stock: what scripts bring along from dagster_pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncpipes.errors import BootstrapMissingError, ChannelError, InvalidParameterError
from asyncpipes.external.context import open_pipes
from tests.support import DATA, RecordingWriter, bootstrap, encoded, logged, methods, parsed


class FakeChannel:
    """What a stock writer's ``open`` gives: it fails when told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.error = error
        self.closed = 0

    def write_message(self, message: dict[str, Any]) -> None:
        if self.error is not None:
            raise self.error
        self.messages.append(message)


class FakeWriter:
    """The methods of a stock message writer, without the package."""

    def __init__(self, channel: FakeChannel) -> None:
        self.channel = channel
        self.params: Mapping[str, Any] = {}

    @contextmanager
    def open(self, params: Mapping[str, Any]) -> Iterator[FakeChannel]:
        self.params = params
        try:
            yield self.channel
        finally:
            self.channel.closed += 1

    def get_opened_payload(self) -> dict[str, Any]:
        return {"extras": {"where": "here"}}


def test_a_stock_writer_gets_parsed_messages_one_by_one() -> None:
    channel = FakeChannel()
    writer = FakeWriter(channel)
    params = {"anything": 1}
    with open_pipes(params_loader=bootstrap(params), message_writer=writer) as pipes:
        pipes.report_custom_message(2**70)
        pipes.report_asset_materialization()
    assert writer.params == params
    assert channel.closed == 1
    assert methods(channel.messages) == [
        "opened",
        "report_custom_message",
        "report_asset_materialization",
        "closed",
    ]
    assert channel.messages[0]["params"] == {"extras": {"where": "here"}}
    assert channel.messages[1]["params"]["payload"] == 2**70


def test_a_stock_writer_that_fails_is_a_failed_channel() -> None:
    channel = FakeChannel(ConnectionError("gone"))
    with (
        pytest.raises(ChannelError, match=r"1 message was not delivered: .*gone") as caught,
        open_pipes(params_loader=bootstrap({}), message_writer=FakeWriter(channel)) as pipes,
    ):
        pipes.report_custom_message(1)
    assert caught.value.undelivered == 1
    assert channel.closed == 1


def test_a_stock_writer_that_cannot_be_opened_is_named() -> None:
    class Unopenable(FakeWriter):
        def open(self, params: Mapping[str, Any]) -> Any:
            raise ConnectionError("no route")

    with pytest.raises(ChannelError, match=r"Unopenable cannot be opened: .*no route") as caught:
        open_pipes(
            params_loader=bootstrap({}), message_writer=Unopenable(FakeChannel())
        ).__enter__()
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_without_the_package_register_stock_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster_pipes", None)
    writer = RecordingWriter()
    with pytest.raises(InvalidParameterError, match="needs the package dagster-pipes"):
        open_pipes(
            params_loader=bootstrap({}), message_writer=writer, register_stock=True
        ).__enter__()
    assert writer.closed == 1


# With the package itself.


@pytest.fixture
def stock() -> ModuleType:
    import dagster_pipes

    return dagster_pipes


@pytest.mark.host
@pytest.mark.parametrize("before", [None, "another"])
def test_register_stock_sets_and_restores(
    stock: ModuleType, before: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock.PipesContext, "_instance", before)
    writer = RecordingWriter()
    with open_pipes(
        params_loader=bootstrap({}), message_writer=writer, register_stock=True
    ) as pipes:
        assert stock.PipesContext.get() is pipes
        stock.PipesContext.get().log.info("from a library")
    assert stock.PipesContext._instance is before
    assert logged(writer.messages) == ["from a library"]


@pytest.mark.host
def test_register_stock_restores_after_a_failed_entry(
    stock: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock.PipesContext, "_instance", None)
    with pytest.raises(UserWarning):
        open_pipes(register_stock=True).__enter__()  # warnings are errors here
    assert stock.PipesContext._instance is None


@pytest.mark.host
@pytest.mark.filterwarnings("ignore::asyncpipes.external.inactive.InactiveWarning")
def test_register_stock_in_a_process_that_no_host_launched(
    stock: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock.PipesContext, "_instance", None)
    with open_pipes(register_stock=True) as pipes:
        assert stock.PipesContext.get() is pipes
    assert stock.PipesContext._instance is None


@pytest.mark.host
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_stock_loaders_and_writers_and_their_subclasses(
    stock: ModuleType, tmp_path: Path, asynchronous: bool
) -> None:
    seen: list[str] = []

    class MyParams(stock.PipesMappingParamsLoader):  # type: ignore[misc,name-defined,unused-ignore]
        def load_context_params(self) -> Any:
            seen.append("params")
            return super().load_context_params()

    class MyContext(stock.PipesDefaultContextLoader):  # type: ignore[misc,name-defined,unused-ignore]
        @contextmanager
        def load_context(self, params: Any) -> Iterator[Any]:
            with super().load_context(params) as data:
                seen.append("context")
                yield {**data, "extras": {"mine": 1}}
            seen.append("context left")

    class MyWriter(stock.PipesDefaultMessageWriter):  # type: ignore[misc,name-defined,unused-ignore]
        def get_opened_extras(self) -> Any:
            return {"sent by": "mine"}

    file = tmp_path / "messages"
    pipes = open_pipes(
        params_loader=MyParams(bootstrap({"path": str(file)})),
        context_loader=MyContext(),
        message_writer=MyWriter(),
    )
    if asynchronous:
        async with pipes:
            assert pipes.get_extra("mine") == 1
            pipes.report_asset_materialization({"n": 1})
    else:
        with pipes:
            assert pipes.get_extra("mine") == 1
            pipes.report_asset_materialization({"n": 1})
    assert seen == ["params", "context", "context left"]
    messages = parsed(file.read_bytes())
    assert methods(messages) == ["opened", "report_asset_materialization", "closed"]
    assert messages[0]["params"] == {"extras": {"sent by": "mine"}}


@pytest.mark.host
def test_the_stock_environment_loader(
    stock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bootstrap({"path": str(tmp_path / "m")}).items():
        monkeypatch.setenv(name, value)
    with open_pipes(params_loader=stock.PipesEnvVarParamsLoader()) as pipes:
        assert pipes.run_id == DATA["run_id"]


@pytest.mark.host
def test_what_a_stock_script_writes_is_what_ours_writes(stock: ModuleType, tmp_path: Path) -> None:
    """Key for key, in the same order, but for what is ours alone."""

    def report(pipes: Any) -> None:
        pipes.log.warning("w %s", 1)
        pipes.report_asset_materialization({"n": 1, "t": {"type": "md", "raw_value": "*"}}, "v")
        pipes.report_asset_check("c", False, "WARN", {"f": 0.5})
        pipes.report_custom_message({"a": [None, True]})
        pipes.log_external_stream("stdout", "x", {"y": 1})

    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    with stock.open_dagster_pipes(
        params_loader=stock.PipesMappingParamsLoader(bootstrap({"path": str(theirs)}))
    ) as pipes:
        report(pipes)
    stock.PipesContext._instance = None
    with open_pipes(params_loader=bootstrap({"path": str(ours)})) as pipes:
        report(pipes)
    assert parsed(ours.read_bytes()) == parsed(theirs.read_bytes())


def test_a_mapping_of_half_a_bootstrap_is_refused() -> None:
    with pytest.raises(BootstrapMissingError, match="DAGSTER_PIPES_MESSAGES"):
        open_pipes(params_loader={"DAGSTER_PIPES_CONTEXT": encoded({})}).__enter__()
