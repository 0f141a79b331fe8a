"""Wrong versions of ours: each a small change that one clause of the promise forbids.

A mutant is a function that is given ``patch(target, name, value)``, which is ``setattr``
or undone after the test. ``where`` says which process gets it: the host, which runs in the
test's own process, or each script. Its docstring is what the table in README.md says of
it. Mutants of a script are imported by scripts, so they import what they change inside.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tests.faults.watch import watched

Patch = Callable[[Any, str, Any], object]
Where = Literal["host", "script"]


@dataclass(frozen=True)
class Mutant:
    """A wrong version of ours."""

    name: str
    where: Where
    apply: Callable[[Patch], None]

    @property
    def description(self) -> str:
        """What is wrong with it, in one sentence without its full stop."""
        return " ".join((inspect.getdoc(self.apply) or "").split()).rstrip(".")


MUTANTS: dict[str, Mutant] = {}


def mutant(where: Where) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Put a function among the :data:`MUTANTS`, under its own name."""

    def register(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        name = apply.__name__
        assert name not in MUTANTS, f"two mutants are called {name}"
        MUTANTS[name] = Mutant(name, where, apply)
        return apply

    return register


def apply_in_script(name: str, broken: str) -> None:
    """Make this process run the mutant of this name; how it breaks is added to a file.

    Raises:
        AttributeError: what it replaces is not there any more.
    """

    def tell(how: str) -> None:
        with open(broken, "a", encoding="utf-8") as file:
            file.write(f"{how}\n")

    def replace(target: Any, name: str, value: Any) -> None:
        getattr(target, name)
        setattr(target, name, watched(value, tell))

    MUTANTS[name].apply(replace)


def module(name: str) -> Any:
    """A module of asyncpipes, with what it has imported from others."""
    return importlib.import_module(f"asyncpipes.{name}")


# At the end, since each of them imports what is above; importing them registers theirs.
from tests.faults import mutants_endings as mutants_endings  # noqa: E402
from tests.faults import mutants_processes as mutants_processes  # noqa: E402
from tests.faults import mutants_reading as mutants_reading  # noqa: E402
from tests.faults import mutants_reporting as mutants_reporting  # noqa: E402
