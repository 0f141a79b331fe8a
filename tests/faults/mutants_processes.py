"""Wrong versions of ours: of the host's processes, their output and its files."""

from __future__ import annotations

from typing import Any

from tests.faults.mutants import Patch, module, mutant


@mutant("host")
def asks_and_never_kills(patch: Patch) -> None:
    """SIGINT and SIGTERM are all that a process gets."""
    from asyncpipes.host.process import PipesProcess

    patch(PipesProcess, "kill", lambda *args, **options: None)


@mutant("host")
def signals_the_script_alone(patch: Patch) -> None:
    """A signal goes to the process that was started, not to its group."""
    import os

    from asyncpipes.host.process import PipesProcess

    def one(self: PipesProcess, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    patch(PipesProcess, "send_signal", one)


@mutant("host")
def leaves_its_files(patch: Patch) -> None:
    """What was made in the temporary directory stays there."""
    import shutil

    patch(shutil, "rmtree", lambda *args, **options: None)


@mutant("host")
def starts_what_was_cancelled(patch: Patch) -> None:
    """A process that starts while its run is cancelled is not ended."""
    from asyncpipes.host.supervisor import Supervisor

    end = Supervisor.end

    def too_early(self: Supervisor, *args: Any, **options: Any) -> Any:
        return None if self.process is None else end(self, *args, **options)

    patch(Supervisor, "end", too_early)


@mutant("host")
def forwards_with_gaps(patch: Patch) -> None:
    """Output that comes faster than it can be forwarded is dropped."""
    from asyncpipes.host.output import Forward

    forward = Forward.__call__
    turns = iter(range(1_000_000_000))

    async def sometimes(*args: Any, **options: Any) -> None:
        if next(turns) % 10 < 9:
            await forward(*args, **options)

    patch(Forward, "__call__", sometimes)


@mutant("host")
def reads_no_output_that_it_does_not_forward(patch: Patch) -> None:
    """A pipe whose output is not forwarded is not read."""
    import asyncio

    supervisor = module("host.supervisor")
    drain = supervisor.drain

    async def idle(pipe: Any, lines: Any, reading: Any) -> None:
        if any(isinstance(sink, supervisor.Forward) for sink in lines._sinks):
            await drain(pipe, lines, reading)
        else:
            with reading:
                await asyncio.Event().wait()

    patch(supervisor, "drain", idle)
