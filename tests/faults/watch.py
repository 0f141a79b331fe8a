"""Whether a mutant is at work, and wrong in the way it says, instead of just broken.

A mutant may replace what has moved since, or call it as it was called once: then it raises,
every test of it fails as expected, and proves nothing. So what a mutant puts in place is
watched, and an error of its own making makes it void, wherever that error ends up.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

from asyncpipes.errors import PipesError

HERE = Path(__file__).parent

#: What code raises that knows another version of what it calls.
BREAKDOWNS = (AttributeError, ImportError, LookupError, NameError, TypeError)
_NAMES = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BREAKDOWNS)
}

_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n((?:[ \t].*\n)+)(\w+)", re.M)
_FILE = re.compile(r'^  File "(.+)", line \d+', re.M)


class VoidMutantError(Exception):
    """A mutant was not at work, or broke down: that a test of it fails proves nothing.

    No AssertionError, which the strict xfail of a mutant takes for what it expects.
    """


def watched(value: Any, tell: Callable[[str], None]) -> Any:
    """``value``, which a mutant puts in place; if a function, ``tell`` is told how it breaks."""
    if not isinstance(value, FunctionType):
        return value

    if inspect.iscoroutinefunction(value):

        @functools.wraps(value)
        async def awaited(*args: Any, **options: Any) -> Any:
            try:
                return await value(*args, **options)
            except BREAKDOWNS as error:
                _judge(error, tell)
                raise

        return awaited

    @functools.wraps(value)
    def called(*args: Any, **options: Any) -> Any:
        try:
            return value(*args, **options)
        except BREAKDOWNS as error:
            _judge(error, tell)
            raise

    return called


def _judge(error: BaseException, tell: Callable[[str], None]) -> None:
    trace = error.__traceback__
    assert trace is not None
    # A module's __getattr__, which says that it has no such name, is not to blame.
    while trace.tb_next is not None and trace.tb_next.tb_frame.f_code.co_name != "__getattr__":
        trace = trace.tb_next
    # Errors of ours are TypeErrors and the like too; a mutant raises them on purpose.
    if not isinstance(error, PipesError) and _is_of_mutants(trace.tb_frame.f_code.co_filename):
        tell(f"line {trace.tb_lineno} of {trace.tb_frame.f_code.co_filename}: {error!r}")


def _is_of_mutants(file: str) -> bool:
    path = Path(file)
    return path.parent == HERE and (path.name.startswith("mutants") or path == Path(__file__))


def breakdowns(problems: list[str], stderr: str) -> list[str]:
    """How a mutant broke down, by what a run has come to.

    Args:
        problems: what our host has against the run.
        stderr: what the script wrote there.
    """
    found = [problem for problem in problems if problem.startswith("the session failed:")]
    for match in _TRACEBACK.finditer(stderr):
        files = _FILE.findall(match[1])
        if files and _is_of_mutants(files[-1]) and match[2] in _NAMES:
            found.append(f"{match[2]} in {files[-1]}")
    return found
