"""Events as what rich draws: metadata each by its type, all text made harmless first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.padding import Padding
from rich.style import Style
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ..host.subscribers import describe_health
from ..protocol.events import (
    AssetCheckEvent,
    ClosedEvent,
    CustomMessageEvent,
    Event,
    ExternalStreamEvent,
    GapEvent,
    HealthEvent,
    LogEvent,
    MalformedEvent,
    MaterializationEvent,
    OpenedEvent,
)
from ..protocol.metadata import INFER, MetadataValue
from .render import clock, metadata_text
from .text import json_text, one_line, safe
from .words import count

LEVEL_STYLES: Mapping[str, str] = {
    "DEBUG": "dim",
    "INFO": "blue",
    "WARNING": "yellow",
    "ERROR": "bold red",
    "CRITICAL": "bold white on red",
}
#: What is drawn of a value: a table of more rows, or a longer text, is cut, and says so.
MAX_ROWS = 20
MAX_LINES = 40
_MAX_CHARS = 400
MAX_COLUMNS = 20
MAX_LABELS = 100
#: Values of one event that are drawn by types that take long; more of them are a line each.
MAX_COSTLY = 10
_COSTLY = frozenset({"md", "json", "table", "table_schema"})
_MAX_LINE = 2000
#: Under the text of a log line: clock, space, level, space.
_INDENT = 18


def render(event: Event) -> RenderableType:
    """An event as it stands above the live lines."""
    match event:
        case LogEvent():
            return _log(event)
        case MaterializationEvent():
            head = _head(event, "◆", "bold green")
            head.append(one_line(event.asset_key, _MAX_CHARS), "bold")
            head.append(" materialized", "green")
            if event.data_version is not None:
                head.append(f"  data version {one_line(event.data_version, _MAX_CHARS)}", "dim")
            return _with_metadata(head, event.metadata)
        case AssetCheckEvent():
            mark, style = ("✓", "green") if event.passed else ("✗", _failed_style(event))
            head = _head(event, mark, style)
            head.append(one_line(event.check_name, _MAX_CHARS), "bold")
            head.append(f" of {one_line(event.asset_key, _MAX_CHARS)} ")
            head.append("passed" if event.passed else f"failed ({event.severity})", style)
            return _with_metadata(head, event.metadata)
        case CustomMessageEvent():
            return _line(event, "▪", "cyan", one_line(json_text(event.payload), _MAX_CHARS), "dim")
        case ExternalStreamEvent():
            return _output(event)
        case MalformedEvent():
            raw = one_line(event.raw.decode("utf-8", "backslashreplace"), 100)
            return _line(
                event,
                "✗",
                "bold red",
                f"bad line: {one_line(event.reason, _MAX_CHARS)}: {raw}",
                "red",
            )
        case GapEvent():
            text = f"messages {event.first} to {event.last} never arrived"
            return _line(event, "✗", "bold red", text, "red")
        case HealthEvent():
            style = "green" if event.status == "alive" else "yellow"
            return _line(event, "♥", style, safe(describe_health(event)), style)
        case OpenedEvent():
            return _line(event, "▶", "green", "the script opened its context", "dim")
        case ClosedEvent(exception=None):
            return _line(event, "■", "green", "the script closed its context", "dim")
        case ClosedEvent():
            text = "\n".join(_lines(str(event.exception)))
            head = _head(event, "■", "bold red")
            head.append("the script left its context with an exception:", "red")
            return Group(head, _indented(Text(text, "red")))
    raise AssertionError(f"no such event: {event!r}")


def _head(event: Event, mark: str, style: str) -> Text:
    return Text.assemble((f"{clock(event)} ", "dim"), (f"{mark} ", style))


def _line(event: Event, mark: str, style: str, text: str, text_style: str) -> Text:
    return _head(event, mark, style).append(text, text_style)


def _failed_style(event: AssetCheckEvent) -> str:
    return "yellow" if event.severity == "WARN" else "bold red"


def _log(event: LogEvent) -> RenderableType:
    first, *rest = _lines(event.message) or [""]
    style = LEVEL_STYLES[event.level]
    line = Text.assemble((f"{clock(event)} ", "dim"), (f"{event.level:<8} ", style), first)
    if traceback := event.fields.get("traceback"):
        rest += _lines(str(traceback))
    if not rest:
        return line
    return Group(line, _indented(Text("\n".join(rest), "dim")))


def _output(event: ExternalStreamEvent) -> RenderableType:
    label, style = ("out", "cyan") if event.stream == "stdout" else ("err", "magenta")
    lines = [
        Text.assemble((f"         {label} │ ", style), (line, "" if label == "out" else "magenta"))
        for line in _lines(event.text)
    ]
    return lines[0] if len(lines) == 1 else Group(*lines)


def _with_metadata(head: Text, metadata: Mapping[str, MetadataValue]) -> RenderableType:
    if not metadata:
        return head
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(style="cyan", no_wrap=True, max_width=30)
    grid.add_column(overflow="fold")
    costly = 0
    for label, value in islice(metadata.items(), MAX_LABELS):
        costly += _kind(value) in _COSTLY
        drawn = metadata_value(value) if costly <= MAX_COSTLY else Text(metadata_text(value))
        grid.add_row(one_line(label, 100), drawn)
    if len(metadata) > MAX_LABELS:
        grid.add_row("…", f"({count(len(metadata) - MAX_LABELS, 'more label')})")
    return Group(head, _indented(grid, 11))


def metadata_value(value: MetadataValue) -> RenderableType:
    """A metadata value by its type; one that is not what its type says, as JSON."""
    raw = value.raw_value
    try:
        match _kind(value):
            case "md":
                return Markdown("\n".join(_lines(raw)), hyperlinks=False)
            case "json":
                return _json(raw)
            case "url":
                return _link(raw)
            case "table":
                return _table(raw["records"], raw.get("schema") or [])
            case "table_schema":
                return _schema(raw["columns"])
            case "timestamp":
                moment = datetime.fromtimestamp(raw, timezone.utc)
                return Text(moment.isoformat(sep=" ", timespec="seconds"))
            case "null":
                return Text("null", "dim")
            case "bool":
                return Text(json_text(raw), "green" if raw else "red")
            case "int":
                return Text(f"{raw:,}", "bold")
            case "float":
                return Text(f"{raw:,}", "bold")
            case _:
                return _text(raw if isinstance(raw, str) else json_text(raw))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return _text(json_text(raw))


def _kind(value: MetadataValue) -> str:
    """Its type; as Dagster takes a value that comes without one."""
    raw = value.raw_value
    if value.type != INFER:
        return value.type
    if raw is None:
        return "null"
    names = {bool: "bool", int: "int", float: "float", str: "text"}
    return names.get(type(raw), "json")


def _text(text: str) -> Text:
    return Text("\n".join(_lines(text)))


def _link(url: str) -> Text:
    # What a terminal makes clickable is what it shows, and a page on the web.
    is_page = url.isprintable() and url.startswith(("https://", "http://"))
    return Text(safe(url), Style(color="blue", underline=True, link=url if is_page else None))


def _json(value: Any) -> RenderableType:
    if isinstance(value, str):  # which may be JSON itself
        value = json.loads(value)
    lines = _lines(json.dumps(value, indent=2, ensure_ascii=False))
    return Syntax("\n".join(lines), "json", theme="ansi_dark", background_color="default")


def _table(records: list[dict[str, Any]], schema: Iterable[Mapping[str, Any]]) -> RenderableType:
    names = [str(column["name"]) for column in schema]
    names = names or list(dict.fromkeys(str(name) for record in records for name in record))
    more = [count(len(records) - MAX_ROWS, "more row")] if len(records) > MAX_ROWS else []
    if len(names) > MAX_COLUMNS:
        more.append(count(len(names) - MAX_COLUMNS, "more column"))
        names = names[:MAX_COLUMNS]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        numbers = all(_is_number(record.get(name)) for record in records[:MAX_ROWS])
        table.add_column(one_line(name, 40), justify="right" if numbers else "left")
    for record in records[:MAX_ROWS]:
        table.add_row(*(_cell(record.get(name)) for name in names))
    return Group(table, Text(f"… {', '.join(more)}", "dim")) if more else table


def _schema(columns: list[Mapping[str, Any]]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("column", "type", "description"):
        table.add_column(name)
    for column in columns[:MAX_ROWS]:
        cells = (column["name"], column.get("type", ""), column.get("description") or "")
        table.add_row(*(Text(one_line(str(cell), 100)) for cell in cells))
    if len(columns) <= MAX_ROWS:
        return table
    more = count(len(columns) - MAX_ROWS, "more column")
    return Group(table, Text(f"… {more}", "dim"))


def _cell(value: Any) -> Text:
    if value is None:
        return Text("")
    return Text(one_line(value if isinstance(value, str) else json_text(value), 60))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _lines(text: str) -> list[str]:
    """Harmless lines, as much of them as is drawn; what is left out is said."""
    lines = text.rstrip("\n").split("\n")
    more = len(lines) - MAX_LINES
    # Cut twice: what is a character here may be ten once it is shown.
    shown = [safe(line[: _MAX_LINE + 1]) for line in lines[:MAX_LINES]]
    shown = [line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}…" for line in shown]
    return [*shown, f"… ({count(more, 'more line')})"] if more > 0 else shown


@dataclass
class _Indented:
    """Less on a narrow terminal, where little would be left."""

    what: RenderableType
    by: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Padding(self.what, (0, 0, 0, min(self.by, options.max_width // 4)))


def _indented(what: RenderableType, by: int = _INDENT) -> RenderableType:
    return _Indented(what, by)
