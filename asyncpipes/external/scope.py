"""What a step is about: the read-only half of ``PipesContext``.

The conditions are those of ``dagster_pipes`` 1.13; the words are for a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..errors import NotOpenError, UndefinedError
from ..protocol.context import ContextData, DataProvenance, PartitionKeyRange, TimeWindow

T = TypeVar("T")


class StepScope:
    """Access to the context data, with an error for what this step does not have."""

    _data: ContextData | None = None
    _launched = True

    @property
    def _context(self) -> ContextData:
        if self._data is None:
            raise NotOpenError(
                "this context is not open yet: use it inside `with open_pipes() as pipes:` or"
                " `async with open_pipes() as pipes:`"
            )
        return self._data

    @property
    def is_asset_step(self) -> bool:
        """Whether this step targets assets. False in a process that no host launched."""
        return self._context.asset_keys is not None

    @property
    def asset_key(self) -> str:
        """The key of the one asset of this step.

        Raises:
            UndefinedError: the step has no asset, or more than one.
        """
        return self._one_asset("asset_key")

    @property
    def asset_keys(self) -> Sequence[str]:
        """The keys of all assets of this step.

        Raises:
            UndefinedError: the step has no assets.
        """
        return self._defined(self._context.asset_keys, "asset_keys", "asset")

    @property
    def provenance(self) -> DataProvenance | None:
        """The provenance of the one asset of this step.

        Raises:
            UndefinedError: the step has no asset, or more than one.
        """
        by_key = self._defined(self._context.provenance_by_asset_key, "provenance", "asset")
        return by_key.get(self._one_asset("provenance"))

    @property
    def provenance_by_asset_key(self) -> Mapping[str, DataProvenance | None]:
        """The provenance of each asset of this step.

        Raises:
            UndefinedError: the step has no assets.
        """
        value = self._context.provenance_by_asset_key
        return self._defined(value, "provenance_by_asset_key", "asset")

    @property
    def code_version(self) -> str | None:
        """The code version of the one asset of this step.

        Raises:
            UndefinedError: the step has no asset, or more than one.
        """
        by_key = self._defined(self._context.code_version_by_asset_key, "code_version", "asset")
        return by_key.get(self._one_asset("code_version"))

    @property
    def code_version_by_asset_key(self) -> Mapping[str, str | None]:
        """The code version of each asset of this step.

        Raises:
            UndefinedError: the step has no assets.
        """
        value = self._context.code_version_by_asset_key
        return self._defined(value, "code_version_by_asset_key", "asset")

    @property
    def is_partition_step(self) -> bool:
        """Whether this step is scoped to one or more partitions."""
        return self._context.partition_key_range is not None

    @property
    def partition_key(self) -> str:
        """The key of the one partition of this step.

        Raises:
            UndefinedError: the step has no partition, or several.
        """
        return self._defined(self._context.partition_key, "partition_key", "partition")

    @property
    def partition_key_range(self) -> PartitionKeyRange:
        """The first and the last partition key of this step: ``{"start", "end"}``.

        Raises:
            UndefinedError: the step has no partitions.
        """
        value = self._context.partition_key_range
        return self._defined(value, "partition_key_range", "partition")

    @property
    def partition_time_window(self) -> TimeWindow | None:
        """The time window of the partitions; None where they are not by time.

        Raises:
            UndefinedError: the step has no partitions.
        """
        self._defined(self._context.partition_key_range, "partition_time_window", "partition")
        return self._context.partition_time_window

    @property
    def run_id(self) -> str:
        """The id of the host's run; the empty text in a process that no host launched."""
        return self._context.run_id

    @property
    def job_name(self) -> str | None:
        """The name of the host's job, or None."""
        return self._context.job_name

    @property
    def retry_number(self) -> int:
        """0 for the first try."""
        return self._context.retry_number

    @property
    def extras(self) -> Mapping[str, Any]:
        """All extras that the host passed; empty in a process that no host launched."""
        return self._context.extras

    def get_extra(self, key: str) -> Any:
        """One extra.

        Raises:
            UndefinedError: the host passed none of that name; use ``extras.get(key,
                default)`` where it is optional.
        """
        extras = self._context.extras
        if key not in extras:
            there = f"the host passed {', '.join(sorted(extras)) or 'none'}"
            raise UndefinedError(
                f"extra `{key}` is undefined: {self._by_whom(there)}. Pass it as"
                f" extras={{{key!r}: ...}} on the host, or use extras.get({key!r}, default)"
            )
        return extras[key]

    def _resolve_asset_key(self, asset_key: str | None, method: str) -> str:
        """The asset that a report is about, as ``dagster_pipes`` resolves it."""
        known = self._context.asset_keys
        if asset_key:
            if known and asset_key not in known:
                raise UndefinedError(
                    f"{method}: asset key `{asset_key}` is not in this step's scope; it has"
                    f" {', '.join(known)}"
                )
            return asset_key
        if known and len(known) == 1:
            return known[0]
        if known:
            raise UndefinedError(
                f"{method}: this step targets several assets ({', '.join(known)}): say which with"
                " asset_key="
            )
        if not self._launched:
            # A script run by hand has no scope to check against, and must go on.
            return ""
        raise UndefinedError(
            f"{method}: this step does not target an asset: name one with asset_key="
        )

    def _one_asset(self, name: str) -> str:
        keys = self._defined(self._context.asset_keys, name, "asset")
        if len(keys) != 1:
            raise UndefinedError(
                f"`{name}` is undefined: this step targets {len(keys)} assets"
                f" ({', '.join(keys) or 'an empty list'}); see asset_keys and the *_by_asset_key"
                " properties"
            )
        return keys[0]

    def _defined(self, value: T | None, name: str, what: str) -> T:
        if value is None:
            whose = self._by_whom(f"this step does not target any {what}")
            raise UndefinedError(
                f"`{name}` is undefined: {whose}. Ask is_{what}_step first"
                if what != "partition" or not self._context.partition_key_range
                else f"`{name}` is undefined: this step targets several partitions; see"
                " partition_key_range"
            )
        return value

    def _by_whom(self, otherwise: str) -> str:
        return otherwise if self._launched else "this process was not launched by a host"
