"""Script bodies that run with ``dagster_pipes`` and with ``asyncpipes`` alike.

Only the first line of a script tells which of the two it uses, so what differs
between two runs of one body is what the two packages do differently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

Package = Literal["dagster_pipes", "asyncpipes"]

_IMPORTS: dict[Package, str] = {
    "dagster_pipes": "from dagster_pipes import PipesContext, open_dagster_pipes as open_pipes",
    "asyncpipes": "from asyncpipes import PipesContext, open_pipes",
}


def write_script(folder: Path, package: Package, body: str) -> Path:
    """``body`` as a script that uses ``package``, in a folder of its own."""
    path = folder / package / "script.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{_IMPORTS[package]}\n{body}", encoding="utf-8")
    return path


_COLUMNS = [
    {"name": "item", "type": "string"},
    {
        "name": "price",
        "type": "float",
        "description": "in euro",
        "tags": {"unit": "EUR"},
        "constraints": {"nullable": False, "unique": True, "other": ["> 0"]},
    },
]

#: A raw value for each of the seventeen metadata types of protocol 0.1.
TYPED: dict[str, Any] = {
    "__infer__": "inferred",
    "text": "a text",
    "url": "https://example.org/a?b=c",
    "path": "/data/orders.csv",
    "notebook": "/data/orders.ipynb",
    "json": {"a": [1, 2.5, None, {"b": True}], "": "é"},
    "md": "# title\n\n| a |\n|---|\n| 1 |",
    "float": 1.5,
    "int": 3,
    "bool": True,
    "dagster_run": "1a2b3c4d-0000-0000-0000-000000000000",
    "asset": "shop/orders",
    "null": None,
    "table": {
        "records": [{"item": "pen", "price": 1.5}, {"item": None, "price": 2}],
        "schema": _COLUMNS,
    },
    "table_schema": {"columns": _COLUMNS},
    "table_column_lineage": {
        "deps_by_column": {
            "price": [
                {"asset_key": "raw", "column_name": "cents"},
                {"asset_key": ["shop", "rates"], "column_name": "rate"},
            ]
        }
    },
    "timestamp": 1767225600.25,
}

#: Untyped values that both packages take. Expressions, since repr() is not always one.
INFERRED: dict[str, str] = {
    "str": "'ü 𝄞 \\u2028 \\x85 \\r\\n \\x00'",
    "empty str": "''",
    "int": "-7",
    "int of 70 bits": "2**70",
    "float": "0.1",
    "float without fraction": "3.0",
    "tiny float": "5e-324",
    "bool": "False",
    "None": "None",
    "list": "[1, 'a', [None, 2.5], {'k': (1, 2)}]",
    "empty list": "[]",
    "tuple": "(1, 2)",
}

_INFERRED_SOURCE = ", ".join(f"{name!r}: {value}" for name, value in INFERRED.items())

#: Custom messages: any JSON value.
PAYLOADS = (
    "None, True, 0, -2**63, 2**64 - 1, 2**70, 1.5, 1e300, '', 'text', '\\ud800 alone',"
    " [], {}, [1, [2, {'a': None}]], {'k': {'ü': ['\\u2028', '\\n']}}, {1: 'a', None: 'b'}"
)

#: Everything that a script can report, but for what only one of the packages takes.
REPORT = f"""
import logging
with open_pipes() as pipes:
    pipes.log.debug("debug %s of %d", "one", 5)
    pipes.log.info("info")
    pipes.log.warning("warning \\u2028 \\x85 \\r\\n second line")
    pipes.log.error("error 𝄞")
    pipes.log.critical("critical")
    pipes.log.log(logging.INFO, "by number")
    for payload in ({PAYLOADS}):
        pipes.report_custom_message(payload)
    pipes.report_asset_materialization(
        {{label: {{"raw_value": value, "type": label}} for label, value in {TYPED!r}.items()}},
        "version 1",
        "orders",
    )
    pipes.report_asset_materialization({{{_INFERRED_SOURCE}}}, asset_key="shop/it\\\\/em")
    pipes.report_asset_materialization(asset_key="bare")
    for severity in ("WARN", "ERROR"):
        for passed in (True, False):
            pipes.report_asset_check(
                f"{{severity}}_{{passed}}".lower(),
                passed,
                severity,
                {{"rows": 3, "typed": {{"raw_value": "**x**", "type": "md"}}}},
                "orders",
            )
    pipes.report_asset_check(check_name="bare", passed=True, asset_key="bare")
    pipes.log_external_stream("stdout", "out, no newline")
    pipes.log_external_stream("stderr", "err\\n", {{"step": 1}})
"""
REPORT_KEYS = ("orders", "shop/it\\/em", "bare")
REPORT_CHECKS = {
    "orders": ("warn_true", "warn_false", "error_true", "error_false"),
    "bare": ("bare",),
}

#: One custom message that holds all that a script can ask its context.
ASK = """
def ask(read):
    try:
        return read()
    except Exception:
        return "refused"

NAMES = (
    "is_asset_step asset_key asset_keys provenance provenance_by_asset_key code_version"
    " code_version_by_asset_key is_partition_step partition_key partition_key_range"
    " partition_time_window run_id job_name retry_number extras is_closed"
).split()
with open_pipes() as pipes:
    answers = {name: ask(lambda: getattr(pipes, name)) for name in NAMES}
    answers["get_extra"] = ask(lambda: pipes.get_extra("day"))
    answers["no extra"] = ask(lambda: pipes.get_extra("none of this name"))
    answers["get"] = PipesContext.get() is pipes and PipesContext.is_initialized()
    pipes.report_custom_message(answers)
assert pipes.is_closed
"""

#: Calls, and for each whether the package took it.
CALLS = """
def is_taken(call):
    try:
        call()
    except Exception:
        return False
    return True

with open_pipes() as pipes:
    materialize, check = pipes.report_asset_materialization, pipes.report_asset_check
    pipes.report_custom_message([is_taken(call) for call in (
        lambda: materialize(),
        lambda: materialize(asset_key="unknown"),
        lambda: materialize(asset_key=1),
        lambda: materialize(data_version=1, asset_key="a"),
        lambda: materialize("no mapping", asset_key="a"),
        lambda: materialize({1: 2}, asset_key="a"),
        lambda: materialize({"k": {"type": "unknown", "raw_value": 1}}, asset_key="a"),
        lambda: materialize({"k": object()}, asset_key="a"),
        lambda: materialize({}, asset_key="a"),
        lambda: materialize(asset_key="a"),
        lambda: check("c", True),
        lambda: check("c", True, asset_key="unknown"),
        lambda: check(1, True, asset_key="a"),
        lambda: check("c", 1, asset_key="a"),
        lambda: check("c", None, asset_key="a"),
        lambda: check("c", True, metadata=[1], asset_key="a"),
        lambda: check("c", True, asset_key="a"),
        lambda: check("c", True, asset_key="a"),
        lambda: pipes.report_custom_message(object()),
    )])
assert not is_taken(lambda: pipes.report_custom_message(1)), "the context is closed"
pipes.close()
"""

#: Leaves with an exception that has both a cause and, further down, a context.
FAIL = """
def parse(text):
    return int(text)

def load():
    try:
        try:
            parse("x")
        except ValueError:
            raise LookupError("while handling")
    except LookupError as error:
        raise RuntimeError("of two lines\\nand ü") from error

with open_pipes() as pipes:
    pipes.report_custom_message("before")
    load()
"""
