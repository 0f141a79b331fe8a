"""A mutant that is not at work, or breaks down, is an error, and no failure that was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import asyncpipes.errors
from tests.faults.mutants import MUTANTS, Mutant, Patch, Where, apply_in_script
from tests.faults.runs import Report, StockHosts
from tests.faults.subjects import Kind, Subject
from tests.faults.watch import HERE, VoidMutantError, breakdowns, watched

FILE = str(HERE / "mutants_of_this_test.py")


def written(source: str, name: str) -> Any:
    """What has this name in a module of mutants."""
    module = ModuleType("mutants_of_this_test")
    exec(compile(source, FILE, "exec"), vars(module))
    return getattr(module, name)


MOVED = written("def moved(): import asyncpipes; return asyncpipes.has_moved", "moved")
FEWER = written("def fewer(self): return self", "fewer")
MISCALLS = written("def miscalls(length): return length()", "miscalls")
ASYNC = written("async def later(): return [][0]", "later")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda tell: watched(MOVED, tell)(), "AttributeError"),
        (lambda tell: watched(FEWER, tell)(1, 2), "TypeError"),
        (lambda tell: watched(MISCALLS, tell)(lambda length: length), "TypeError"),
    ],
    ids=["what moved", "called with more than it takes", "calls with less"],
)
def test_a_function_that_breaks_is_told_of(
    call: Callable[[Callable[[str], None]], object], told: str
) -> None:
    heard: list[str] = []
    with pytest.raises((AttributeError, TypeError)):
        call(heard.append)
    assert len(heard) == 1
    assert told in heard[0]


async def test_a_coroutine_function_too() -> None:
    heard: list[str] = []
    with pytest.raises(IndexError):
        await watched(ASYNC, heard.append)()
    assert "IndexError" in heard[0]


def test_what_is_raised_on_purpose_or_by_asyncpipes_is_not() -> None:
    heard: list[str] = []
    refuse = written(
        "from asyncpipes.errors import InvalidParameterError\n"
        "def refuse(): raise InvalidParameterError('on purpose')",
        "refuse",
    )
    with pytest.raises(asyncpipes.errors.InvalidParameterError):
        watched(refuse, heard.append)()

    def elsewhere() -> None:
        raise TypeError

    with pytest.raises(TypeError):
        watched(written("def through(call): call()", "through"), heard.append)(elsewhere)
    assert heard == []


def traceback(file: str, last: str) -> str:
    return (
        "before\nTraceback (most recent call last):\n"
        f'  File "/script.py", line 1, in <module>\n    work()\n'
        f'  File "{file}", line 2, in work\n    call()\n{last}\nafter\n'
    )


def test_what_a_run_shows() -> None:
    broken = traceback(FILE, "TypeError: f() takes 1 argument")
    assert breakdowns([], broken) == [f"TypeError in {FILE}"]
    assert breakdowns(["the session failed: KeyError(1)"], "") == [
        "the session failed: KeyError(1)"
    ]
    assert breakdowns(["a line could not be read"], "") == []
    assert breakdowns([], traceback("/elsewhere/mutants.py", "TypeError: x")) == []
    assert breakdowns([], traceback(FILE, "asyncpipes.errors.ChannelError: x")) == []


def _replacing(target: Any) -> Callable[[Patch], None]:
    def replace(patch: Patch) -> None:
        patch(target, "f", FEWER)

    return replace


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Subject]:
    """Make the subject of a mutant that replaces ``f`` of a target by a function that breaks."""

    def make(where: Where, target: Any) -> Subject:
        mutant = Mutant("void", where, _replacing(target))
        monkeypatch.setitem(MUTANTS, "void", mutant)
        return Subject(Kind("void", mutant=mutant), tmp_path, monkeypatch, StockHosts())

    return make


def test_a_broken_mutant_of_the_host_is_void(make: Callable[..., Subject]) -> None:
    target = SimpleNamespace(f=len)
    subject = make("host", target)
    subject.check_mutant()
    with pytest.raises(TypeError):
        target.f(1, 2)
    with pytest.raises(VoidMutantError, match=r"void broke down: line .* TypeError"):
        subject.check_mutant()


def test_a_broken_mutant_of_a_script_is_void(make: Callable[..., Subject], tmp_path: Path) -> None:
    target = SimpleNamespace(f=len)
    subject = make("script", target)
    with pytest.raises(VoidMutantError, match="no script ran with void"):
        subject.check_mutant()
    (tmp_path / "note-begun").touch()
    subject.check_mutant()
    apply_in_script("void", str(tmp_path / "broken"))
    with pytest.raises(TypeError):
        target.f(1, 2)
    with pytest.raises(VoidMutantError, match=r"void broke down: line .* TypeError"):
        subject.check_mutant()


def test_a_mutant_that_breaks_the_session_is_void(make: Callable[..., Subject]) -> None:
    subject = make("host", SimpleNamespace(f=len))
    subject.look_at(Report(problems=["the session failed: KeyError('x')"]))
    with pytest.raises(VoidMutantError, match="the session failed: KeyError"):
        subject.check_mutant()


def test_no_xfail_takes_it_for_what_it_expects() -> None:
    assert not issubclass(VoidMutantError, (AssertionError, pytest.fail.Exception))
