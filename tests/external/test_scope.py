"""asyncpipes.external.scope: what a step is about, and when it is undefined."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from asyncpipes.errors import InvalidParameterError, UndefinedError
from asyncpipes.external.context import open_pipes
from tests.support import DATA, RecordingWriter, bootstrap

RANGE = {"start": "a", "end": "c"}
WINDOW = {"start": "2026-01-01T00:00:00", "end": "2026-01-02T00:00:00"}
PROVENANCE = {"code_version": "1", "input_data_versions": {"x": "1"}, "is_user_provided": False}

STEPS: dict[str, dict[str, Any]] = {
    "one asset": {},
    "two assets": {
        "asset_keys": ["a", "b"],
        "code_version_by_asset_key": {"a": "1", "b": None},
        "provenance_by_asset_key": {"a": PROVENANCE, "b": None},
    },
    "no asset": {
        "asset_keys": None,
        "code_version_by_asset_key": None,
        "provenance_by_asset_key": None,
    },
    "an empty list of assets": {
        "asset_keys": [],
        "code_version_by_asset_key": {},
        "provenance_by_asset_key": {},
    },
    "an asset without versions": {
        "code_version_by_asset_key": None,
        "provenance_by_asset_key": None,
    },
    "one partition": {
        "partition_key": "a",
        "partition_key_range": {"start": "a", "end": "a"},
    },
    "a range": {"partition_key_range": RANGE},
    "a time window": {"partition_key_range": RANGE, "partition_time_window": WINDOW},
    "extras and a job": {"extras": {"day": "monday", "none": None}, "job_name": "j"},
}

PROPERTIES = (
    "asset_key asset_keys is_asset_step partition_key partition_key_range partition_time_window"
    " is_partition_step provenance provenance_by_asset_key code_version code_version_by_asset_key"
    " run_id job_name retry_number extras"
).split()


def report(method: str, asset_key: Any) -> Callable[[Any], Any]:
    arguments = ("c", True) if method == "report_asset_check" else ()
    return lambda pipes: getattr(pipes, method)(*arguments, asset_key=asset_key)


def report_twice(pipes: Any) -> None:
    pipes.report_asset_materialization(asset_key="orders")
    pipes.report_asset_materialization(asset_key="orders")


CALLS: dict[str, Callable[[Any], Any]] = {
    **{name: operator.attrgetter(name) for name in PROPERTIES},
    **{f"get_extra {key}": operator.methodcaller("get_extra", key) for key in ("day", "none")},
    **{
        f"{method} {key!r}": report(method, key)
        for method in ("report_asset_materialization", "report_asset_check")
        for key in (None, "", "a", "orders", "other", 5)
    },
    "twice": report_twice,
}


def outcome(call: Callable[[Any], Any], pipes: Any) -> tuple[str, Any]:
    """What the call gives, or that it raises; awaitables and None count as alike."""
    try:
        value = call(pipes)
    except Exception:
        return "raises", None
    if isinstance(value, tuple):  # our context data cannot be changed
        value = list(value)
    return "gives", None if hasattr(value, "__await__") else value


@pytest.mark.host
@pytest.mark.parametrize(("step", "call"), list(itertools.product(STEPS, CALLS)))
def test_the_conditions_are_those_of_dagster_pipes(step: str, call: str) -> None:
    import dagster_pipes as stock

    data = {**DATA, **STEPS[step]}

    class Loader(stock.PipesContextLoader):
        def load_context(self, params: Any) -> Any:
            return nullcontext(data)

    class Channel(stock.PipesMessageWriterChannel):
        def write_message(self, message: Any) -> None:
            pass

    class Writer(stock.PipesMessageWriter[Any]):
        def open(self, params: Any) -> Any:
            return nullcontext(Channel())

    values = bootstrap({}, **STEPS[step])
    theirs = stock.PipesContext(stock.PipesMappingParamsLoader(values), Loader(), Writer())
    with open_pipes(params_loader=values, message_writer=RecordingWriter()) as ours:
        assert outcome(CALLS[call], ours) == outcome(CALLS[call], theirs)


def errors_of(step: Mapping[str, Any], call: str) -> str:
    with open_pipes(params_loader=bootstrap({}, **step), message_writer=RecordingWriter()) as pipes:
        with pytest.raises(UndefinedError) as caught:
            CALLS[call](pipes)
        return str(caught.value)


WORDS = [
    ("two assets", "asset_key", "`asset_key` is undefined: this step targets 2 assets (a, b)"),
    ("two assets", "report_asset_check None", "several assets (a, b): say which with asset_key="),
    ("two assets", "report_asset_check 'other'", "asset key `other` is not in this step's scope"),
    ("no asset", "asset_key", "does not target any asset. Ask is_asset_step first"),
    ("no asset", "report_asset_check None", "name one with asset_key="),
    ("one asset", "partition_key", "does not target any partition. Ask is_partition_step first"),
    ("a range", "partition_key", "this step targets several partitions; see partition_key_range"),
    ("one asset", "get_extra day", "extra `day` is undefined: the host passed none"),
    ("one asset", "twice", "asset `orders` has been materialized already"),
]


@pytest.mark.parametrize(("step", "call", "words"), WORDS)
def test_errors_say_what_is_there_and_what_to_do(step: str, call: str, words: str) -> None:
    assert words in errors_of(STEPS[step], call)


def test_an_undefined_extra_names_those_that_are_there() -> None:
    text = errors_of({"extras": {"month": 1, "year": 2}}, "get_extra day")
    assert "the host passed month, year" in text
    assert "extras.get('day', default)" in text


def test_values_come_through() -> None:
    step = {
        **STEPS["one partition"],
        "partition_time_window": WINDOW,
        "code_version_by_asset_key": {"orders": "7"},
        "provenance_by_asset_key": {"orders": PROVENANCE},
        "retry_number": 2,
        "job_name": "nightly",
        "extras": {"deep": {"list": [1]}},
    }
    with open_pipes(params_loader=bootstrap({}, **step), message_writer=RecordingWriter()) as pipes:
        assert pipes.asset_key == "orders"
        assert list(pipes.asset_keys) == ["orders"]
        assert pipes.partition_key == "a"
        assert pipes.partition_key_range["start"] == "a"
        assert pipes.partition_time_window == WINDOW
        assert pipes.code_version == "7"
        assert pipes.provenance == PROVENANCE
        assert (pipes.run_id, pipes.job_name, pipes.retry_number) == ("0c3f2a", "nightly", 2)
        assert pipes.get_extra("deep") == {"list": [1]}


def test_a_wrong_asset_key_is_a_type_error() -> None:
    with (
        open_pipes(params_loader=bootstrap({}), message_writer=RecordingWriter()) as pipes,
        pytest.raises(InvalidParameterError, match="`asset_key` must be str or None, got int"),
    ):
        CALLS["report_asset_check 5"](pipes)
