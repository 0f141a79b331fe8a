"""What a fault is put to: our host and script, the stock ones, or a wrong version of ours.

How to write a case
===================

::

    @case(3, fails="its reader's thread dies at such a line", mutants=["stops_at_bad_line"])
    async def test_case_03_garbage_amid_good_lines(subject: Subject) -> None:
        report = await subject.run("opened(); custom(1); raw(b'?'); custom(2); closed()", raw=True)
        assert report.custom == [1, 2]
        assert not report.ok

The body runs once for each *subject*: ``ours``, which has to pass; ``stock``, a strict
xfail where ``fails`` says why it fails; and each mutant (``mutants*.py``), a strict xfail
too. A body that our own wrong version passes, or that the stock packages pass against
expectation, fails the run. What counts as failing is an AssertionError alone. A mutant that
could not be put in place, was not at work or broke down is an error: see ``watch.py``.
``stock`` says which half is the stock one, ``absent`` why there is none; see
:func:`tests.faults.cases.case`. Every test is in the table of README.md, which
`python -m pytest tests/faults --write-table` writes and a complete run of this folder
compares. Tests of the long form (``@pytest.mark.soak``) are not.

What a body has
---------------

``await subject.run(script, **options)`` runs a script under the subject's host and returns a
:class:`Report`; :class:`Options` are its options. ``subject.start(...)`` returns at once:
``run.interrupt()`` ends the run from outside (our task is cancelled, the stock host gets
SIGINT, as Dagster sends it), ``await run.report()`` waits for its end. Both take the source
of a script, or a command: a list.

A source finds ``open_pipes`` and ``PipesContext`` of its subject's package imported, with
``asyncio os signal sys time`` and two functions of the harness. ``note(name, text="")`` tells
the test something: ``await subject.noted(name)`` waits for it and returns the text,
``has_noted`` does not wait. ``wait_for(path)`` waits for the test: ``gate = subject.gate("go")``
has the ``path``, and ``await gate.open()`` ends the waiting. With ``raw=True`` a source has,
instead of a library, what ``tests.support_host.RAW`` gives: ``opened() custom(...) raw(bytes)``.
``subject.command(script)`` makes the command without running it.

``subject.alive()`` are the processes that the subject has left, however they are related;
``subject.left_behind()`` the files in its TMPDIR. What it leaves is ended after the test.

A test that needs none of this, since it calls asyncpipes itself, has ``subject`` all the
same, for its mutants; they are applied in this process, or in each script.

What the stock host is
----------------------

Dagster's tutorial: ``yield from client.run(...).get_results()`` of a
``PipesSubprocessClient`` in an asset, materialized with an ephemeral instance, in a process
of its own (``stock_host.py``). Its report says what Dagster's event log says, and ``ok`` is
the success of the run. Custom messages are those of the returned invocation, so a run that
raised has none.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.faults.mutants import Mutant
from tests.faults.runs import MARK, Options, OurRun, Report, Run, StockHosts, StockRun
from tests.faults.watch import VoidMutantError, breakdowns, watched
from tests.support import PATIENCE
from tests.support_host import RAW, Gate, until

Side = Literal["ours", "stock"]

#: Seconds after which a run is called hung that is expected to fail: see Subject.pauses().
HUNG = 3.0
_LOOK = 0.02

#: The note of a script that begins with what its test gave it: its mutant is in place.
_BEGUN = "begun"

_IMPORTS: dict[Side, str] = {
    "ours": "from asyncpipes import PipesContext, open_pipes",
    "stock": "from dagster_pipes import PipesContext, open_dagster_pipes as open_pipes",
}

_PRELUDE = """\
import asyncio, os, signal, sys, time

def note(name, text=""):
    path = os.path.join({folder!r}, "note-" + name)
    new = path + ".new-%d" % os.getpid()  # spawned workers run the script's beginning too
    with open(new, "w") as file:
        file.write(str(text))
    os.rename(new, path)

def wait_for(gate):
    open(gate).read()

"""


@dataclass(frozen=True)
class Kind:
    """A subject as a test is parametrized with it.

    Attributes:
        is_wrong: it is expected to fail the test.
    """

    name: str
    host: Side = "ours"
    script: Side = "ours"
    mutant: Mutant | None = None
    is_wrong: bool = False


class Subject:
    """A host and a package for scripts; made by the fixture of this name."""

    def __init__(
        self, kind: Kind, folder: Path, patch: pytest.MonkeyPatch, stock: StockHosts
    ) -> None:
        self.name = kind.name
        self._is_wrong = kind.is_wrong
        self.host = kind.host
        self.script = kind.script
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self._mutant = kind.mutant
        self._patch = patch
        #: Where stock hosts come from.
        self.stock_hosts = stock
        self._runs: list[Run] = []
        self._mark = f"{MARK}={folder}"
        patch.setenv(MARK, str(folder))
        self._broken = folder / "broken"
        self._breakdowns: list[str] = []
        if self._mutant is not None and self._mutant.where == "host":
            self._mutant.apply(self._put_in_place)

    def _put_in_place(self, target: Any, name: str, value: Any) -> None:
        self._patch.setattr(target, name, watched(value, self._breakdowns.append))

    async def run(self, script: str | Sequence[str], **options: Any) -> Report:
        """Run a script, or a command, to its end."""
        return await self.start(script, **options).report()

    def start(self, script: str | Sequence[str], *, raw: bool = False, **options: Any) -> Run:
        """Begin a run. Options are those of :class:`Options`."""
        command = self.command(script, raw=raw) if isinstance(script, str) else list(script)
        self._note(_BEGUN).unlink(missing_ok=True)  # of the run before
        kind = OurRun if self.host == "ours" else StockRun
        run = kind(self, command, Options(**options))
        self._runs.append(run)
        return run

    def pauses(self, hung: float = HUNG) -> Iterator[float]:
        """Seconds to wait for the end of a run, time and again; with the last one it has hung.

        A run that has to end well may take as long as any machine needs. From the others only
        a test of hanging expects it, so they have ``hung`` seconds, but from the moment at which
        their script has begun: one that is ended before has shown nothing.
        """
        ends = time.monotonic() + PATIENCE
        begins = self._is_wrong
        while (left := ends - time.monotonic()) > 0:
            if begins and self.has_noted(_BEGUN):
                begins, left = False, hung
                ends = time.monotonic() + hung
            yield min(left, _LOOK) if begins else left

    async def ends(self, run: asyncio.Task[Any], hung: float = HUNG) -> bool:
        """Wait for the end of a run of our host; False if it hangs."""
        for pause in self.pauses(hung):
            done, _ = await asyncio.wait([run], timeout=pause)
            if done:
                return True
        return False

    def command(self, script: str, *, raw: bool = False, file: str = "script.py") -> list[str]:
        """The command for the source of a script."""
        source = _PRELUDE.format(folder=str(self.folder))
        if raw:
            source = RAW + source
        else:
            if self._mutant is not None and self._mutant.where == "script":
                name = self._mutant.name
                source += (
                    "from tests.faults.mutants import apply_in_script\n"
                    f"apply_in_script({name!r}, {str(self._broken)!r})\n"
                )
            source += f"{_IMPORTS[self.script]}\n"
        if self._is_wrong:
            source += f"note({_BEGUN!r})\n"
        path = self.folder / file
        path.write_text(source + textwrap.dedent(script), encoding="utf-8")
        return [sys.executable, *(["-S", "-E"] if raw else []), str(path)]

    async def noted(self, name: str) -> str:
        """Wait until the script has made this note; return its text."""
        await until(lambda: self.has_noted(name), f"the script's note {name!r}")
        return self._note(name).read_text()

    def has_noted(self, name: str) -> bool:
        """Whether the script has made this note."""
        return self._note(name).exists()

    def _note(self, name: str) -> Path:
        return self.folder / f"note-{name}"

    def gate(self, name: str) -> Gate:
        """What a script waits for with ``wait_for(path)``; ``.path`` is its path."""
        return Gate(self.folder, name)

    def alive(self) -> list[int]:
        """The processes that the subject's host has started, and theirs, if they live."""
        pids = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                if self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    pids.append(int(entry.name))
            except OSError:
                continue  # somebody else's, or gone meanwhile; a zombie's is empty
        return pids

    def left_behind(self) -> list[str]:
        """What is in the TMPDIR of the subject's host."""
        return sorted(os.listdir(self.temporary))

    def look_at(self, report: Report) -> None:
        """Note what a run of our host shows of how the mutant broke down."""
        if self._mutant is not None:
            stderr = report.stderr.decode(errors="replace")
            self._breakdowns += breakdowns(report.problems, stderr)

    def check_mutant(self) -> None:
        """See that the mutant, if there is one, was at work, and no more broken than it says.

        Raises:
            VoidMutantError: else; then a test that it failed has proved nothing.
        """
        if self._mutant is None:
            return
        if self._mutant.where == "script" and not self.has_noted(_BEGUN):
            raise VoidMutantError(f"no script ran with {self.name}")
        if self._broken.exists():
            self._breakdowns += self._broken.read_text(encoding="utf-8").splitlines()
        if self._breakdowns:
            raise VoidMutantError(f"{self.name} broke down: " + "; ".join(self._breakdowns))

    def close(self) -> None:
        """End what it has left, and the runs that its test has not seen the end of."""
        self.end()
        for run in self._runs:
            run.close()

    def end(self) -> None:
        """End the processes that it has left."""
        for pid in self.alive():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it went by itself
