"""The cases, by number, and the decorator that makes a test one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pytest

from tests.faults.mutants import MUTANTS
from tests.faults.subjects import Kind, Side

T = TypeVar("T", bound=Callable[..., Any])

#: What must hold, in a line each.
CASES = {
    1: "A line that arrives in pieces, cut at any byte, arrives once and whole",
    2: "Large messages, one after the other: none is lost, and they stay in order",
    3: "A line that is no message costs itself alone, and the run is not called good",
    4: "A last line that breaks off is reported, whatever the exit code",
    5: "A level, a severity or a type that is unknown loses no other message",
    6: "A script that is killed, or leaves abruptly, has delivered what it reported",
    7: "A run that reported nothing, or hid its failure, is not called good",
    8: "`sys.exit(0)` inside the context is a clean end",
    9: "Every exception of a nested group is visible, with its causes and notes",
    10: "Contexts follow one another, stand side by side, and are silent once closed",
    11: "Ending a run ends all that it started, however stubborn",
    12: "A host that is cancelled at any moment leaves no process and no file",
    13: "Megabytes on stdout and stderr hang nobody, forwarded or not",
    14: "Somebody who goes on writing after the script has ended does not hold the host",
    15: "An upload that fails once loses nothing; one that always fails is raised",
    16: "A backlog at the end is delivered whole, and a channel can be used again",
    17: "Threads and tasks that report at once neither mix lines nor lose their order",
    18: "Workers, forked or spawned, deliver what they report, or say that they cannot",
    19: "A slow subscriber is dealt with as its policy says; one that raises stands alone",
    20: "The script's event loop is not held up by what is reported",
    21: "Any Python value arrives as what it is, or is refused by name",
    22: "Scripts and hosts of ours and of Dagster's work with each other",
    23: "Megabytes of extras reach the script",
    24: "A full disk or a missing file is named, and the script's own work goes on",
    25: "Garbage in the bootstrap is a clear error, and costs no memory",
}


@dataclass(frozen=True)
class Case:
    """What :func:`case` was told, for the table."""

    number: int
    stock: Literal["both", "host", "script"] | None
    fails: str | None
    absent: str | None


def case(
    number: int,
    *,
    stock: Literal["both", "host", "script"] | None = "both",
    fails: str | None = None,
    absent: str | None = None,
    mutants: Sequence[str] = (),
) -> Callable[[T], T]:
    """Make a test one of a case: it runs with ``subject`` for ours, stock and each mutant.

    Args:
        number: of the case; the test's name must have it, as ``test_case_03_...``.
        stock: which half of the stock subject is the stock one; the other is ours. None
            if the stock packages cannot run the case.
        fails: why the stock subject fails: it is a strict xfail. Without it, it passes.
        absent: why there is no stock subject.
        mutants: names in ``mutants*.py``; each must fail.
    """
    assert (absent is not None) == (stock is None), "say why there is no stock subject"
    assert stock is not None or fails is None, "what is not run does not fail"
    assert fails or mutants, "a test that nothing wrong fails proves nothing"
    assert number in CASES

    def wrong(kind: Kind, reason: str, *marks: pytest.MarkDecorator) -> Any:
        failed = (AssertionError, pytest.fail.Exception)
        mark = pytest.mark.xfail(strict=True, raises=failed, reason=reason)
        return pytest.param(kind, id=kind.name, marks=[mark, *marks])

    params = [pytest.param(Kind("ours"), id="ours")]
    if stock is not None:
        host: Side = "ours" if stock == "script" else "stock"
        script: Side = "ours" if stock == "host" else "stock"
        kind = Kind("stock", host=host, script=script, is_wrong=fails is not None)
        params.append(wrong(kind, fails) if fails else pytest.param(kind, id="stock"))
    for name in mutants:
        mutant = MUTANTS[name]
        by: Side = "stock" if stock == "script" and mutant.where == "host" else "ours"
        kind = Kind(name, script=by, mutant=mutant, is_wrong=True)
        params.append(wrong(kind, mutant.description, pytest.mark.mutant))

    def decorate(test: T) -> T:
        name = getattr(test, "__name__", "")
        assert name.startswith(f"test_case_{number:02}_"), f"{name} is not named after its case"
        marked = pytest.mark.case(Case(number, stock, fails, absent))(test)
        return pytest.mark.parametrize("subject", params, indirect=True)(marked)  # type: ignore[no-any-return]  # pytest's decorators are untyped for this

    return decorate
