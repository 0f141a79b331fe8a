"""What options take: ``K=V``, ``A..B``, levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..protocol.context import PartitionKeyRange
from ..protocol.events import LEVEL_NUMBERS


class _Pair(click.ParamType[tuple[str, Any]]):
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
            except ValueError:
                return text
        path = text[1:]
        try:
            return json.loads(Path(path).read_bytes())
        except OSError as error:
            self.fail(f"{key}: cannot read {path}: {error.strerror}", param, ctx)
        except ValueError as error:
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


class Range(click.ParamType[PartitionKeyRange]):
    """``A..B``, both ends included."""

    name = "A..B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> PartitionKeyRange:
        if isinstance(value, dict):
            return PartitionKeyRange(start=value["start"], end=value["end"])
        start, dots, end = str(value).partition("..")
        if not (start and dots and end):
            self.fail(f"{value!r} is not FIRST..LAST, as 2026-01-01..2026-01-31", param, ctx)
        return PartitionKeyRange(start=start, end=end)


LEVEL = click.Choice(list(LEVEL_NUMBERS), case_sensitive=False)
SECONDS = click.FloatRange(min=0, min_open=True)
