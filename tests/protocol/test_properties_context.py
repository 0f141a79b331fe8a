"""Context data: what a host says arrives; what is no context is refused with the key's name."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asyncpipes.errors import BootstrapEncodingError, InvalidParameterError
from asyncpipes.protocol import codec
from asyncpipes.protocol.context import ContextData, build_context
from tests.protocol.strategies import as_received, json_values, texts

spans = st.none() | st.fixed_dictionaries({"start": texts, "end": texts})
provenances = st.none() | st.fixed_dictionaries(
    {
        "code_version": texts,
        "input_data_versions": st.dictionaries(texts, texts, max_size=2),
        "is_user_provided": st.booleans(),
    }
)


@st.composite
def contexts(draw: st.DrawFn) -> dict[str, Any]:
    """What a host may hand to build_context()."""
    keys = draw(st.none() | st.lists(texts.filter(bool), max_size=3, unique=True))
    of_assets = st.sampled_from(keys) if keys else st.nothing()
    return {
        "asset_keys": keys,
        "code_version_by_asset_key": draw(st.dictionaries(of_assets, st.none() | texts)),
        "provenance_by_asset_key": draw(st.dictionaries(of_assets, provenances)),
        "partition_key": draw(st.none() | texts),
        "partition_key_range": draw(spans),
        "partition_time_window": draw(spans),
        "run_id": draw(texts),
        "job_name": draw(st.none() | texts),
        "retry_number": draw(st.integers(0)),
        "extras": draw(st.dictionaries(texts, json_values, max_size=3)),
    }


@given(contexts())
def test_what_a_host_says_arrives(fields: dict[str, Any]) -> None:
    wire = codec.loads(codec.dumps(build_context(**fields).to_wire(), where="context"))
    data = ContextData.from_wire(wire)
    expected = as_received(fields)
    if fields["partition_key_range"] is None and (one := expected["partition_key"]) is not None:
        expected["partition_key_range"] = {"start": one, "end": one}
    for of_assets in ("code_version_by_asset_key", "provenance_by_asset_key"):
        keys = expected["asset_keys"]
        given_values = expected[of_assets]
        expected[of_assets] = keys and {key: given_values.get(key) for key in keys}
        if keys == []:
            expected[of_assets] = {}
    assert data.asset_keys == (None if keys is None else tuple(keys))
    for name in {*expected} - {"asset_keys"}:
        assert getattr(data, name) == expected[name], name


KEYS = [*ContextData().to_wire(), "unknown"]


def assert_typed(data: ContextData) -> None:
    """Each field is what its annotation says, as far as a checked value can be wrong."""
    assert data.asset_keys is None or all(isinstance(key, str) for key in data.asset_keys)
    assert isinstance(data.run_id, str)
    assert type(data.retry_number) is int
    assert data.retry_number >= 0
    assert isinstance(data.extras, dict)
    for text in (data.partition_key, data.job_name):
        assert text is None or isinstance(text, str)
    for span in (data.partition_key_range, data.partition_time_window):
        assert span is None or [type(end) for end in span.values()] == [str, str]
    for version in (data.code_version_by_asset_key or {}).values():
        assert version is None or isinstance(version, str)


@given(contexts(), st.dictionaries(st.sampled_from(KEYS), json_values, min_size=1))
def test_any_json_is_a_context_or_refused(fields: dict[str, Any], changed: dict[str, Any]) -> None:
    raw = {**build_context(**fields).to_wire(), **changed}
    try:
        found = ContextData.from_wire(raw)
    except BootstrapEncodingError as error:
        assert str(error).startswith("context data from the host: ")
        assert any(key in str(error) for key in changed)
    else:
        assert_typed(found)


@given(json_values)
def test_any_json_value(raw: Any) -> None:
    try:
        found = ContextData.from_wire(raw)
    except BootstrapEncodingError as error:
        assert str(error).startswith("context data from the host: ")
    else:
        assert isinstance(found, ContextData)


@given(contexts(), st.dictionaries(st.sampled_from(KEYS[:-1]), json_values, min_size=1))
def test_any_argument_is_taken_or_refused(fields: dict[str, Any], changed: dict[str, Any]) -> None:
    try:
        found = build_context(**{**fields, **changed})
    except InvalidParameterError as error:
        assert str(error).startswith("context: ")
    else:
        assert_typed(found)
