r"""The context that a host hands to an external process: what to do, and for whom.

The wire's form is the ``PipesContextData`` of Dagster Pipes 0.1, ten keys, which
``build_external_execution_context_data`` of ``dagster`` fills. Real hosts send
nulls where the public JSON schemas forbid them, so a null is a missing key here.

Asset keys are texts: the parts joined by ``/``, with ``\`` in front of a ``/``
or ``\`` that belongs to a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypedDict, cast

from ..errors import BootstrapEncodingError, InvalidParameterError


class DataProvenance(TypedDict):
    """Where an asset's last materialization came from."""

    code_version: str
    input_data_versions: Mapping[str, str]
    is_user_provided: bool


class PartitionKeyRange(TypedDict):
    """A range of partition keys, both ends included."""

    start: str
    end: str


class TimeWindow(TypedDict):
    """A span of time as ISO 8601 texts; ``end`` is not included."""

    start: str
    end: str


@dataclass(frozen=True, slots=True)
class ContextData:
    """Context data of one step, as both ends see it.

    Attributes:
        asset_keys: the assets of this step; None when the step has none.
        code_version_by_asset_key: code version, or None, for each asset key.
        provenance_by_asset_key: :class:`DataProvenance`, or None, for each asset key.
        partition_key: the one partition of this step; None without partitions.
        partition_key_range: first and last partition of this step.
        partition_time_window: for partitions by time.
        run_id: id of the host's run; the empty text when the host has none.
        job_name: name of the host's job.
        retry_number: 0 for the first try.
        extras: whatever the host wants the script to know: JSON values by name.
    """

    asset_keys: tuple[str, ...] | None = None
    code_version_by_asset_key: Mapping[str, str | None] | None = None
    provenance_by_asset_key: Mapping[str, DataProvenance | None] | None = None
    partition_key: str | None = None
    partition_key_range: PartitionKeyRange | None = None
    partition_time_window: TimeWindow | None = None
    run_id: str = ""
    job_name: str | None = None
    retry_number: int = 0
    extras: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_wire(cls, raw: Any) -> ContextData:
        """Read the wire's form; missing keys and nulls become the defaults.

        Keys that this version does not know are ignored.

        Raises:
            BootstrapEncodingError: not an object, or a key has a wrong type; names the key.
        """
        checked = _Checker(_bad_wire)
        data = checked.mapping(raw, "context data") or {}
        keys = checked.texts(data.get("asset_keys"), "asset_keys")
        return cls(
            asset_keys=keys,
            code_version_by_asset_key=checked.versions(data.get("code_version_by_asset_key")),
            provenance_by_asset_key=checked.provenances(data.get("provenance_by_asset_key")),
            partition_key=checked.text(data.get("partition_key"), "partition_key"),
            partition_key_range=cast(
                "PartitionKeyRange | None",
                checked.span(data.get("partition_key_range"), "partition_key_range"),
            ),
            partition_time_window=cast(
                "TimeWindow | None",
                checked.span(data.get("partition_time_window"), "partition_time_window"),
            ),
            run_id=checked.text(data.get("run_id"), "run_id") or "",
            job_name=checked.text(data.get("job_name"), "job_name"),
            retry_number=checked.count(data.get("retry_number"), "retry_number"),
            extras=checked.mapping(data.get("extras"), "extras") or {},
        )

    def to_wire(self) -> dict[str, Any]:
        """The wire's form: all ten keys, null for what is not set."""
        return {
            "asset_keys": None if self.asset_keys is None else list(self.asset_keys),
            "code_version_by_asset_key": _copy(self.code_version_by_asset_key),
            "provenance_by_asset_key": _copy(self.provenance_by_asset_key),
            "partition_key": self.partition_key,
            "partition_key_range": _copy(self.partition_key_range),
            "partition_time_window": _copy(self.partition_time_window),
            "run_id": self.run_id,
            "job_name": self.job_name,
            "retry_number": self.retry_number,
            "extras": dict(self.extras),
        }


def build_context(
    *,
    asset_keys: Sequence[str] | None = None,
    code_version_by_asset_key: Mapping[str, str | None] | None = None,
    provenance_by_asset_key: Mapping[str, DataProvenance | None] | None = None,
    partition_key: str | None = None,
    partition_key_range: PartitionKeyRange | None = None,
    partition_time_window: TimeWindow | None = None,
    run_id: str | None = None,
    job_name: str | None = None,
    retry_number: int = 0,
    extras: Mapping[str, Any] | None = None,
) -> ContextData:
    """Build the context of a host's session, with what Dagster would derive.

    A lone ``partition_key`` is also the range from itself to itself; each asset
    key without code version or provenance gets None there; without ``run_id``
    a random UUID is made. ``extras`` are encoded later, by the context injector.

    Raises:
        InvalidParameterError: a field has a wrong type or names an asset that is
            not among ``asset_keys``, or an asset key is empty; names the field.
    """
    checked = _Checker(_bad_parameter)
    if isinstance(asset_keys, str):
        _bad_parameter("asset_keys", f"is the str {asset_keys!r}; write [{asset_keys!r}]")
    keys = checked.texts(asset_keys, "asset_keys")
    if keys is not None and len(set(keys)) != len(keys):
        _bad_parameter("asset_keys", "names an asset twice; name each one once")
    if keys is not None and "" in keys:
        _bad_parameter("asset_keys", "holds an empty key; leave it out, or name the asset")
    one = checked.text(partition_key, "partition_key")
    span = checked.span(partition_key_range, "partition_key_range")
    if span is None and one is not None:
        span = {"start": one, "end": one}
    window = checked.span(partition_time_window, "partition_time_window")
    versions = checked.versions(code_version_by_asset_key)
    provenances = checked.provenances(provenance_by_asset_key)
    return ContextData(
        asset_keys=keys,
        code_version_by_asset_key=_for_each(keys, versions, "code_version_by_asset_key"),
        provenance_by_asset_key=_for_each(keys, provenances, "provenance_by_asset_key"),
        partition_key=one,
        partition_key_range=cast("PartitionKeyRange | None", span),
        partition_time_window=cast("TimeWindow | None", window),
        run_id=_new_run_id() if run_id is None else checked.text(run_id, "run_id") or "",
        job_name=checked.text(job_name, "job_name"),
        retry_number=checked.count(retry_number, "retry_number"),
        extras=checked.mapping(extras, "extras") or {},
    )


def to_asset_key_path(key: str) -> list[str]:
    r"""The parts of an asset key: ``/`` separates, ``\X`` stands for ``X``.

    An empty last part is left out, as in ``dagster_pipes.to_asset_key_path``.
    """
    parts: list[str] = []
    part: list[str] = []
    characters = iter(key)
    for character in characters:
        if character == "\\":
            part.append(next(characters, ""))
        elif character == "/":
            parts.append("".join(part))
            part = []
        else:
            part.append(character)
    if any(part):
        parts.append("".join(part))
    return parts


def from_asset_key_path(parts: Sequence[str]) -> str:
    r"""The asset key of these parts, with ``/`` and ``\`` inside a part escaped.

    Raises:
        InvalidParameterError: ``parts`` is one str, or holds something else than str.
    """
    if isinstance(parts, str):
        _bad_parameter("parts", f"is the str {parts!r}; write [{parts!r}]")
    checked = _Checker(_bad_parameter).texts(parts, "parts") or ()
    return "/".join(part.replace("\\", "\\\\").replace("/", "\\/") for part in checked)


def _bad_wire(name: str, what: str) -> NoReturn:
    raise BootstrapEncodingError(
        f"context data from the host: {name} {what}; the host does not keep to protocol 0.1"
    )


def _bad_parameter(name: str, what: str) -> NoReturn:
    raise InvalidParameterError(f"context: {name} {what}")


def _new_run_id() -> str:
    from uuid import uuid4  # only hosts need it, and scripts import this module too

    return str(uuid4())


def _copy(mapping: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if mapping is None else dict(mapping)


def _for_each(
    keys: tuple[str, ...] | None, given: Mapping[str, Any] | None, name: str
) -> dict[str, Any] | None:
    given = given or {}
    unknown = [key for key in given if key not in (keys or ())]
    if unknown:
        _bad_parameter(name, f"names {unknown[0]!r}, which is not among asset_keys; add it there")
    return None if keys is None else {key: given.get(key) for key in keys}


class _Checker:
    """Type checks that report through ``fail``: the peer's fault or the caller's."""

    def __init__(self, fail: Any) -> None:
        self._fail = fail

    def _wrong(self, name: str, expected: str, value: Any) -> NoReturn:
        self._fail(name, f"must be {expected}, not {type(value).__name__}")
        raise AssertionError("unreachable: fail() raises")

    def text(self, value: Any, name: str) -> str | None:
        if value is not None and not isinstance(value, str):
            self._wrong(name, "a str", value)
        return value

    def count(self, value: Any, name: str) -> int:
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool):
            self._wrong(name, "an int", value)
        if value < 0:
            self._fail(name, f"must be 0 or more, not {value}")
        return value

    def texts(self, value: Any, name: str) -> tuple[str, ...] | None:
        if value is None:
            return None
        if not isinstance(value, (list, tuple)):
            self._wrong(name, "a list of str", value)
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self._wrong(f"{name}[{index}]", "a str", item)
        return tuple(value)

    def mapping(self, value: Any, name: str) -> dict[str, Any] | None:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._wrong(name, "a mapping", value)
        for key in value:
            if not isinstance(key, str):
                self._wrong(f"each key of {name}", "a str", key)
        return dict(value)

    def span(self, value: Any, name: str) -> dict[str, Any] | None:
        span = self.mapping(value, name)
        if span is None:
            return None
        for end in ("start", "end"):
            if end not in span:
                self._fail(name, f"has no {end!r}; it needs 'start' and 'end'")
            if not isinstance(span[end], str):
                self._wrong(f"{name}.{end}", "a str", span[end])
        return {"start": span["start"], "end": span["end"]}

    def versions(self, value: Any) -> dict[str, str | None] | None:
        versions = self.mapping(value, "code_version_by_asset_key")
        for key, version in (versions or {}).items():
            self.text(version, f"code_version_by_asset_key[{key!r}]")
        return versions

    def provenances(self, value: Any) -> dict[str, DataProvenance | None] | None:
        provenances = self.mapping(value, "provenance_by_asset_key")
        if provenances is None:
            return None
        for key, each in provenances.items():
            name = f"provenance_by_asset_key[{key!r}]"
            each = self.mapping(each, name)
            if each is None:
                continue
            self.text(each.get("code_version"), f"{name}.code_version")
            self.mapping(each.get("input_data_versions"), f"{name}.input_data_versions")
            flag = each.get("is_user_provided")
            if flag is not None and not isinstance(flag, bool):
                self._wrong(f"{name}.is_user_provided", "a bool", flag)
        return provenances
