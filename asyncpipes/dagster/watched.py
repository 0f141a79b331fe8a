"""A script of a step, as those see it who may have to end it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ..errors import PipesError
from ..host.pipes_session import PipesSession
from ..host.process import PipesProcess
from .failures import Result
from .internals import ExecutionContext


class Watched:
    """A script that is to end when the step is interrupted.

    Attributes:
        interrupted: the step has been.
        forward: whether the script is to end then.
        session: the script's session, once it is open.
        process: its process, once it runs.
        has_task: a task awaits its end, which goes on whenever the loop does; a stream may be
            held by somebody who asks for no more of it.
        in_hand: the result that the asset got last, as long as it has yielded nothing since.
        step_failed: whether its step, which has ended without it, has failed; None as long as
            the step goes on.
    """

    def __init__(self, context: ExecutionContext, *, forward: bool, has_task: bool = False) -> None:
        self.has_task = has_task
        self.context = context
        self.interrupted = False
        self.forward = forward
        self.session: PipesSession | None = None
        self.process: PipesProcess | None = None
        self.in_hand: Result | None = None
        self.step_failed: bool | None = None
        self._left = asyncio.Event()

    @property
    def is_left_behind(self) -> bool:
        """Whether its step has ended without it."""
        return self.step_failed is not None

    def signal(self) -> None:
        """Send it SIGINT, once. May be called from a signal's handler."""
        if self.forward and self.process is not None:
            self.process.interrupt()

    def interrupt(self) -> None:
        """End it in an orderly way; or, without ``forward``, let it end by itself."""
        self.interrupted = True
        if self.forward:
            self.end("Dagster interrupted the step")

    def end(self, reason: str) -> None:
        """End it in an orderly way."""
        if self.session is not None:
            self.session.stop(reason)

    def kill(self) -> None:
        """End it now."""
        self.end("Dagster interrupted the step")
        if self.process is not None:
            with suppress(PipesError):
                self.process.kill()

    async def wait_over(self) -> None:
        """Wait until it has ended, whoever awaits its results."""
        if self.session is not None:
            await self.session.wait_over()

    async def wait_left(self) -> None:
        """Wait until nobody watches it any more: all of it is told and put away."""
        await self._left.wait()

    def leave(self) -> None:
        """Nobody watches it any more."""
        self._left.set()
