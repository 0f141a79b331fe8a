"""How the writers of a session are doing, as time goes by.

The decisions are in ``protocol.liveness``; here are the clock, the timer, and the
question whether a process lives. The timer never judges: it wakes the reader, which
reads first what the channel holds, and then calls :meth:`LivenessMonitor.look`. Without
a writer of ours there is no timer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Set

from anyio import to_thread

from ..protocol.events import HealthEvent
from ..protocol.liveness import Liveness, WriterHealth
from ..protocol.state import SessionState, WriterState
from .process import PipesProcess, process_identity
from .settings import Settings


class LivenessMonitor:
    """Watches the writers of a session.

    Args:
        state: the session's.
        wake: called when it :attr:`is_due`.
        process: tells the process that the session has launched, if it has.

    Attributes:
        is_due: something may have changed with nothing being read: it wants
            :meth:`ask_processes`, a reading of the channel, and :meth:`look`.
    """

    def __init__(
        self,
        state: SessionState,
        settings: Settings,
        wake: Callable[[], None],
        process: Callable[[], PipesProcess | None],
    ) -> None:
        self._state = state
        self._wake = wake
        self._process = process
        self._liveness = Liveness(
            state,
            settings.heartbeat,
            {
                "silent": settings.silent_timeout,
                "blocked": settings.blocked_timeout,
                "dead": settings.dead_timeout,
            },
        )
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # By writer: its process, and when that was started, which tells it from a later
        # one with the same number.
        self._workers: dict[str, tuple[int, str | None]] = {}
        self._looked_up: set[str] = set()
        # Whether the numbers that scripts give for their processes are those of this
        # machine; in a container they may be anybody's here.
        self._numbers_are_ours = False
        self.is_due = False

    @property
    def now(self) -> float:
        """The clock by which writers are heard: the loop's."""
        return self._loop.time()

    @property
    def state(self) -> str:
        """``"open"``, or the worst that an open writer is."""
        worst = self._liveness.worst
        return "open" if worst == "alive" else worst

    @property
    def writers(self) -> tuple[WriterHealth, ...]:
        """Each open writer."""
        return self._liveness.health(self.now)

    @property
    def all_have_ended(self) -> bool:
        """Whether nobody is to be waited for: open writers are known to be dead, if there are any.

        What they wrote has been read by then.
        """
        return all(writer.status == "dead" for writer in self.writers)

    async def take_notice(self, heard_at: float) -> list[HealthEvent]:
        """Something was read at ``heard_at``: what has changed by that."""
        if self._liveness.is_quiet:
            return []
        names = self._liveness.concerned
        await self._identify(self._state.touched)
        events = self._liveness.take_notice(heard_at, time.time())
        self._arm(self._liveness.next_look(names))
        return events

    async def ask_processes(self, *, ended: bool = False) -> Collection[str | None]:
        """The open writers whose processes have ended; to be called before the reading.

        Args:
            ended: the launched process has, so all are asked about; otherwise those that
                have gone silent.
        """
        process, now = self._process(), self.now
        if process is None or not self._state.open_writers:
            return ()
        asked = self._state.unclosed if ended else self._liveness.to_ask_about(now)
        found: set[str | None] = set()
        alone = ended and not await process.survivors()
        for writer in asked:
            worker = self._workers.get(writer.name or "")
            if ended and writer.pid == process.pid:
                if process.returncode is not None:  # or it could not be ended
                    found.add(writer.name)
            elif writer.name is None:
                # Any process of the group may have been the one that opened.
                if alone:
                    found.add(None)
            elif worker is not None:
                pid, started = worker
                identity = await to_thread.run_sync(process_identity, pid)
                if identity is None or identity[1] != started:
                    found.add(writer.name)
        return found

    def look(
        self, ended: Collection[str | None], as_of: float, *, all_is_read: bool
    ) -> tuple[list[HealthEvent], str | None]:
        """The channel has been read as far as it had come by ``as_of``: judge all.

        Not as of now: publishing what was read may have had to wait for a subscriber, and
        nobody has read what the scripts wrote meanwhile.

        Args:
            ended: what :meth:`ask_processes` said before that.
            as_of: the time, by :attr:`now`, from before the reading and after the asking.
            all_is_read: False if the reading was broken off: then nobody is silent by it.

        Returns:
            What has changed, and why the run is to be ended, if it is.
        """
        self.is_due = False
        for name in ended:
            self._liveness.mark_ended(name, self.now)
        events = self._liveness.look(as_of, time.time(), may_be_silent=all_is_read)
        reason = self._liveness.overdue(as_of) if all_is_read else None
        self._arm(self._liveness.next_look())
        return events, reason

    def close(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _identify(self, names: Set[str | None]) -> None:
        """Of open writers in workers of the launched process, remember who they are."""
        process = self._process()
        if process is None:
            return
        new: list[tuple[str, int]] = []
        for name in names:
            writer = self._state.get(name)
            if name is None or writer is None or writer.pid is None:
                continue
            if writer.pid == process.pid:
                self._numbers_are_ours = True  # and the supervisor sees that one end
            elif writer.state is not WriterState.OPEN:
                self._looked_up.discard(name)
                self._workers.pop(name, None)
            elif name not in self._looked_up:
                self._looked_up.add(name)
                new.append((name, writer.pid))
        for name, pid in new:
            identity = await to_thread.run_sync(process_identity, pid)
            if identity is not None and identity[0] == process.pid:
                self._numbers_are_ours = True
            if self._numbers_are_ours:  # so it has ended already, if it is not there
                self._workers[name] = (pid, identity[1] if identity is not None else None)
                self._liveness.mark_known(name, self.now)

    def _arm(self, moment: float | None) -> None:
        """Have :meth:`_fire` called at ``moment``, or before that."""
        # A later moment leaves the timer as it is: each heartbeat makes it later, and there
        # are other writers.
        if moment is not None and (self._timer is None or moment < self._timer.when()):
            self.close()
            self._timer = self._loop.call_at(moment, self._fire)

    def _fire(self) -> None:
        self._timer = None
        moment = self._liveness.next_look()
        if moment is not None and moment > self.now:
            self._arm(moment)
        elif moment is not None:
            self.is_due = True
            self._wake()
