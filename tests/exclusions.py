"""What coverage leaves out, and why: ``python -m tests.exclusions``.

A line is left out by ``# pragma: no cover - REASON``, a branch by ``# pragma: no branch -
REASON``, and lines of a kind by a pattern in ``pyproject.toml`` with its reason beside
it. All are listed and counted; one without a reason ends the command with 1.
"""

from __future__ import annotations

import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

_PRAGMA = re.compile(r"#\s*pragma[:\s]\s*no\s*(?P<kind>cover|branch)\b(?P<rest>.*)", re.IGNORECASE)
_REASON = re.compile(r"\s+- (?P<reason>\S.{9,})")
_PATTERNS = re.compile(r"^exclude_also = \[\n(?P<lines>.*?)^\]", re.MULTILINE | re.DOTALL)
_PATTERN = re.compile(r'^\s*"(?P<pattern>.*)",\s*(?:# (?P<reason>.{10,}))?$')


class Exclusion(NamedTuple):
    """One place, or one pattern with the lines that it fits."""

    where: str
    what: str
    reason: str | None
    lines: int = 1


def in_sources(folder: Path) -> Iterator[Exclusion]:
    """The comments in all modules of ``folder``."""
    for path in sorted(folder.rglob("*.py")):
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type != tokenize.COMMENT:
                    continue
                if found := _PRAGMA.search(token.string):
                    reason = _REASON.fullmatch(found["rest"].rstrip())
                    where = f"{path.relative_to(folder.parent)}:{token.start[0]}"
                    yield Exclusion(
                        where, f"no {found['kind'].lower()}", reason and reason["reason"]
                    )


def by_pattern(configuration: str, folder: Path) -> Iterator[Exclusion]:
    """The patterns in the configuration, and how many lines of ``folder`` each fits."""
    block = _PATTERNS.search(configuration)
    lines = [
        line for path in sorted(folder.rglob("*.py")) for line in path.read_text().splitlines()
    ]
    for entry in block["lines"].splitlines() if block else ():
        found = _PATTERN.match(entry)
        if found is None:
            yield Exclusion("pyproject.toml", entry.strip(), None)
            continue
        pattern = found["pattern"].replace("\\\\", "\\")
        count = sum(1 for line in lines if re.search(pattern, line))
        yield Exclusion("pyproject.toml", pattern, found["reason"], count)


def main(root: Path = ROOT) -> int:
    """List and count them; 1 if a reason is missing."""
    folder = root / "asyncpipes"
    found = [*in_sources(folder), *by_pattern((root / "pyproject.toml").read_text(), folder)]
    for each in found:
        times = "" if each.lines == 1 else f" ({each.lines} lines)"
        print(f"  {each.where}  {each.what}{times}: {each.reason or 'WITHOUT A REASON'}")
    nameless = [each for each in found if each.reason is None]
    print(f"{sum(each.lines for each in found)} lines are left out of coverage")
    if nameless:
        print(f"{len(nameless)} of these exclusions have no reason; write one after ' - '")
    return 1 if nameless else 0


if __name__ == "__main__":
    sys.exit(main())
