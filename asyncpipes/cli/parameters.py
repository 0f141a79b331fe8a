"""What options take: ``K=V``, ``A..B``, levels."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..protocol.context import PartitionKeyRange
from ..protocol.events import LEVEL_NUMBERS

if TYPE_CHECKING:
    _PairType = click.ParamType[tuple[str, Any]]
    _RangeType = click.ParamType[PartitionKeyRange]
else:  # generic since click 8.4 only
    _PairType = _RangeType = click.ParamType


class _Pair(_PairType):
    name = "K=V"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not separator or not key:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, self.value(key, text, param, ctx)

    def value(
        self, key: str, text: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """What the text stands for."""
        raise NotImplementedError


class Extra(_Pair):
    """``K=V`` where the value is JSON, or else text; ``K=@file.json`` for what is in a file."""

    def value(
        self, key: str, text: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """JSON, or else text."""
        if not text.startswith("@"):
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                return text
        path = text[1:]
        try:
            return json.loads(Path(path).read_bytes())
        except OSError as error:
            self.fail(f"{key}: cannot read {path}: {error.strerror}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(
                f"{key}: {path} is not JSON: {error}. For a text that begins with @, give it as"
                " JSON: 'K=\"@text\"'",
                param,
                ctx,
            )


class Variable(_Pair):
    """``K=V`` of the environment."""

    def value(
        self, key: str, text: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """The text."""
        return text


def to_range(text: str) -> PartitionKeyRange:
    """The range that ``A..B`` stands for.

    Raises:
        ValueError: it is none, or could be several; says how to write one.
    """
    ends = text.split("..")
    if len(ends) != 2 or not all(ends):
        raise ValueError(f"{text!r} is not FIRST..LAST, as 2026-01-01..2026-01-31")
    return PartitionKeyRange(start=ends[0], end=ends[1])


class Range(_RangeType):
    """``A..B``, both ends included."""

    name = "A..B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> PartitionKeyRange:
        if isinstance(value, dict):
            return PartitionKeyRange(start=value["start"], end=value["end"])
        try:
            return to_range(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


LEVEL = click.Choice(list(LEVEL_NUMBERS), case_sensitive=False)


class Positive(click.FloatRange):
    """A finite number above 0."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):  # click lets nan pass: it is not below 0
            self.fail(f"{value!r} is no finite number above 0", param, ctx)
        return number


POSITIVE = Positive()
