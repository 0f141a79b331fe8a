"""Build the API reference from the docstrings: ``python docs/reference.py [DIRECTORY]``.

A warning is an error, and so is a public name without a docstring. Nothing in the pages
comes from another address.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "build" / "docs"

#: What is public, and behind it the modules whose docstrings have the tables and forms
#: that the public ones speak of.
PUBLIC = ("asyncpipes", "asyncpipes.channels", "asyncpipes.dagster")
DETAILS = (
    "asyncpipes.errors",
    "asyncpipes.external.logging",
    "asyncpipes.host.event_json",
    "asyncpipes.protocol.codec",
    "asyncpipes.protocol.metadata",
)

#: What belongs to the host itself in classes that users hold: nothing for them to call.
INTERNAL = {
    "PipesProcess": "end follow gone interrupt kill_and_reap leave",
    "Subscription": "cut_off end hand_over offer offer_captured take wait_for_room",
}

#: The rule above, in and below a simple table of reStructuredText.
_RULE = re.compile(r" *=+(?: +=+)+")


def prepared(docstring: str) -> str:
    """A docstring of ours as pdoc understands it: tables of Markdown, ``::`` as a colon."""
    blocks = re.split(r"\n{2,}", docstring)
    return "\n\n".join(_block(block) for block in blocks if block.strip() != "::")


def _block(block: str) -> str:
    if _RULE.fullmatch(block.partition("\n")[0]):
        return _table(block.splitlines())
    return re.sub(r"(?<=\S)::$", ":", block)


def _table(lines: list[str]) -> str:
    columns = [match.span() for match in re.finditer("=+", lines[0])]
    spans = [(start, end) for (start, _), (end, _) in pairwise([*columns, (len(lines[0]) + 99, 0)])]
    rows: list[list[str]] = []
    rules = 0
    for line in lines:
        if _RULE.fullmatch(line):
            rules += 1
            continue
        cells = [line[start:end].strip().replace("|", r"\|") for start, end in spans]
        if cells[0]:
            rows.append(cells)
        else:  # the line before goes on
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    if rules < 3:  # without a head, which Markdown insists on
        rows.insert(0, [""] * len(columns))
    rows.insert(1, ["---"] * len(columns))
    indent = " " * columns[0][0]
    return "\n".join(f"{indent}| {' | '.join(cells)} |" for cells in rows)


def without_docstring() -> Iterator[str]:
    """Public names, and methods and properties of public classes, that have no docstring."""
    for name in PUBLIC:
        module = importlib.import_module(name)
        for each in module.__all__:
            value = getattr(module, each)
            if each != "__version__" and not value.__doc__:
                yield f"{name}.{each}"
            for member in _members(value) if isinstance(value, type) else ():
                if not inspect.getdoc(getattr(value, member)):
                    yield f"{name}.{each}.{member}"


def _members(kind: type) -> set[str]:
    """The methods and properties that the class and those it builds on have of ours."""
    return {
        name
        for base in kind.__mro__
        if base.__module__.partition(".")[0] == "asyncpipes"
        for name, value in vars(base).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, (classmethod, property, staticmethod)))
    }


def hide_internals() -> None:
    """Mark :data:`INTERNAL` as pdoc wants it."""
    import asyncpipes

    for kind, names in INTERNAL.items():
        for name in names.split():
            getattr(asyncpipes, kind).__dict__[name].__doc__ = "@private"


def build(output: Path) -> None:
    """Write the pages.

    Raises:
        Warning: whatever pdoc warns of.
        ValueError: a public name, or a part of a public class, has no docstring.
    """
    # Dagster asks for the name of the machine's architecture when it is imported.
    os.environ["PDOC_ALLOW_EXEC"] = "1"
    import pdoc
    from pdoc import docstrings, render

    if bare := ", ".join(without_docstring()):
        raise ValueError(f"without a docstring: {bare}")
    hide_internals()
    original = docstrings.rst
    docstrings.rst = lambda contents, source_file: original(prepared(contents), source_file)
    try:
        render.configure(docformat="google", show_source=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pdoc.pdoc(*PUBLIC, *DETAILS, output_directory=output)
    finally:
        docstrings.rst = original


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    sys.path.insert(0, str(ROOT))  # these sources, wherever it is called from
    build(target)
    print(f"the reference is in {target / 'index.html'}")
