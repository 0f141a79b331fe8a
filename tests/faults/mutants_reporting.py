"""More wrong versions of ours: of what reports, of its channels, and of who listens."""

from __future__ import annotations

from typing import Any

from tests.faults.mutants import Patch, mutant

# Of the host.


@mutant("host")
def waits_for_all_that_was_started(patch: Patch) -> None:
    """The host waits until every process of the group has ended, however long that takes."""
    from anyio import CancelScope

    from asyncpipes.host import supervisor

    patch(supervisor, "move_on_after", lambda *args, **options: CancelScope())


@mutant("host")
def drops_the_backlog(patch: Patch) -> None:
    """What is not read when the process ends is not read any more."""
    from asyncpipes.host.runner import SessionRunner

    async def hasty(self: SessionRunner, *args: Any, **options: Any) -> None:
        await self._intake.finish()

    patch(SessionRunner, "_drain", hasty)


@mutant("host")
def keeps_the_file_in_the_channel(patch: Patch) -> None:
    """A channel has one file for all of its sessions."""
    import os
    import tempfile

    from asyncpipes.channels.file import FileChannel

    open_reader, directory = FileChannel.open_reader, tempfile.mkdtemp()

    async def remember(self: FileChannel) -> Any:
        self.path = self.path or os.path.join(directory, "messages")
        return await open_reader(self)

    patch(FileChannel, "open_reader", remember)


@mutant("host")
def makes_missing_directories(patch: Patch) -> None:
    """A directory that is missing is made."""
    import asyncio
    import os

    from asyncpipes.channels.file import FileChannel

    open_reader = FileChannel.open_reader

    async def make(self: FileChannel) -> Any:
        if self.path is not None:
            folder = os.path.dirname(self.path)
            await asyncio.to_thread(os.makedirs, folder, exist_ok=True)
        return await open_reader(self)

    patch(FileChannel, "open_reader", make)


@mutant("host")
def mixes_up_oldest_and_newest(patch: Patch) -> None:
    """`drop_oldest` drops the newest events, and the other way round."""
    from asyncpipes.host.subscription import Subscription

    init = Subscription.__init__
    other = {"drop_oldest": "drop_newest", "drop_newest": "drop_oldest"}

    def mixed_up(self: Subscription, *args: Any, overflow: Any, **options: Any) -> None:
        init(self, *args, overflow=other.get(overflow, overflow), **options)

    patch(Subscription, "__init__", mixed_up)


@mutant("host")
def never_holds_the_reader(patch: Patch) -> None:
    """A full queue with `wait` grows on, and nobody waits."""
    from asyncpipes.host.subscription import Subscription

    overflowed = Subscription._overflowed

    def grow(self: Subscription, *args: Any, **options: Any) -> Any:
        return None if self._overflow == "wait" else overflowed(self, *args, **options)

    patch(Subscription, "_overflowed", grow)


@mutant("host")
def drops_in_silence(patch: Patch) -> None:
    """What a policy drops is not counted."""
    from asyncpipes.host.subscription import Subscription

    overflowed = Subscription._overflowed

    def uncounted(self: Subscription, *args: Any, **options: Any) -> None:
        overflowed(self, *args, **options)
        self.dropped = 0

    patch(Subscription, "_overflowed", uncounted)


@mutant("host")
def forgets_who_raised(patch: Patch) -> None:
    """A subscriber that raises is stopped, and nobody is told."""
    from asyncpipes.host.subscription import CallbackSubscription

    patch(CallbackSubscription, "_fail", lambda self, *args, **options: self.detach())


@mutant("host")
def one_subscriber_stops_all(patch: Patch) -> None:
    """When a subscriber raises, the others get no more events either."""
    from asyncpipes.host.hub import Hub

    publish = Hub.publish

    async def stop(self: Hub, *batch: Any) -> None:
        await publish(self, *batch)
        if self.failed:
            self.cut_off()

    patch(Hub, "publish", stop)


@mutant("host")
def waits_for_idle_iterators(patch: Patch) -> None:
    """Leaving the block waits for iterators that nobody pulls at."""
    from asyncpipes.host.hub import Hub

    patch(Hub, "detach_iterators", lambda *args, **options: None)


@mutant("host")
def reads_integers_as_floats(patch: Patch) -> None:
    """An integer beyond 64 bits is read as a float."""
    import orjson

    from asyncpipes.protocol import codec, reading

    patch(codec, "has_long_digits", lambda *args, **options: False)
    patch(reading, "_load_exactly", orjson.loads)


@mutant("host")
def reads_messages_with_numbers_only(patch: Patch) -> None:
    """A message without `seq`, as other packages send it, is dropped."""
    from asyncpipes.protocol.reading import SessionReader

    decode = SessionReader._decode

    def strict(self: SessionReader, message: Any, *args: Any, **options: Any) -> Any:
        if isinstance(message, dict) and "seq" not in message:
            from asyncpipes.errors import MalformedMessageError

            raise MalformedMessageError("no number")
        return decode(self, message, *args, **options)

    patch(SessionReader, "_decode", strict)


@mutant("host")
def cuts_off_a_large_context(patch: Patch) -> None:
    """Of a context file only the first MiB is written."""
    from asyncpipes.host.context_injectors import InjectedContext

    write = InjectedContext.write
    patch(InjectedContext, "write", lambda self, content: write(self, content[: 1024 * 1024]))


@mutant("host")
def leaves_a_large_context_out(patch: Patch) -> None:
    """Extras of more than 100 kB are left out of the context."""
    import dataclasses

    from asyncpipes.host.context_injectors import AutoContextInjector

    inject = AutoContextInjector.inject

    async def without(self: AutoContextInjector, data: Any) -> Any:
        large = len(repr(data.extras)) > 100_000
        return await inject(self, dataclasses.replace(data, extras={}) if large else data)

    patch(AutoContextInjector, "inject", without)


@mutant("host")
def counts_one_closed_for_all(patch: Patch) -> None:
    """One writer's `closed` counts for all writers."""
    from asyncpipes.protocol.state import SessionState

    patch(SessionState, "unclosed", property(lambda self: []))
    patch(SessionState, "closed", property(lambda self: self.opened))


@mutant("host")
def memory_keeps_the_latest(patch: Patch) -> None:
    """In a memory channel only two writes wait; what came between is forgotten."""
    from asyncpipes.channels.memory import _Pipe

    put = _Pipe.put

    def forget(self: _Pipe, data: bytes) -> None:
        with self._lock:
            while len(self._chunks) > 1:
                self._size -= len(self._chunks.pop())
        put(self, data)

    patch(_Pipe, "put", forget)


@mutant("host")
def gives_up_at_the_first_fault(patch: Patch) -> None:
    """A fault that would pass makes the channel fail for good."""
    from asyncpipes.external.waiting import Retry

    patch(Retry, "wait", lambda *args, **options: False)


@mutant("host")
def writes_in_the_callers_thread(patch: Patch) -> None:
    """Who reports writes to the channel."""
    from asyncpipes.external.outbox import Outbox

    put = Outbox.put

    def and_write(self: Outbox, *args: Any, **options: Any) -> Any:
        taken = put(self, *args, **options)
        self._write_batch()
        return taken

    patch(Outbox, "put", and_write)


# Of the script.


@mutant("script")
def leaves_a_fault_unsaid(patch: Patch) -> None:
    """A clean exit says nothing of what was not delivered."""
    from asyncpipes.external.connection import PipesContext

    patch(PipesContext, "_check_delivered", lambda *args, **options: None)


@mutant("script")
def never_tries_again(patch: Patch) -> None:
    """A fault that would pass makes the channel fail for good."""
    from asyncpipes.external.waiting import Retry

    patch(Retry, "wait", lambda *args, **options: False)


@mutant("script")
def writes_a_batch_backwards(patch: Patch) -> None:
    """Messages that are written together are written last to first."""
    from asyncpipes.external.writing import Finisher

    finish = Finisher.finish
    patch(
        Finisher,
        "finish",
        lambda self, lines, *args: finish(self, [*lines][::-1], *args),
    )


@mutant("script")
def writes_without_a_lock(patch: Patch) -> None:
    """Lines are written in pieces, and another thread may write between them."""
    import os
    import threading

    from asyncpipes.channels.file import FileWriter

    def in_pieces(self: FileWriter, lines: bytes) -> None:
        def write(part: bytes) -> None:
            for start in range(0, len(part), 50):
                os.write(self._fd, part[start : start + 50])

        half = len(lines) // 2
        threads = [threading.Thread(target=write, args=(p,)) for p in (lines[:half], lines[half:])]
        for thread in reversed(threads):
            thread.start()
        for thread in threads:
            thread.join()

    patch(FileWriter, "write", in_pieces)


@mutant("script")
def awaiting_gives_no_turn(patch: Patch) -> None:
    """Awaiting a report returns at once, whatever waits."""
    from asyncpipes.external.waiting import Room

    patch(Room, "__await__", lambda *args, **options: iter(()))


@mutant("script")
def forks_report_to_nobody(patch: Patch) -> None:
    """What a forked process reports goes nowhere."""
    from asyncpipes.external.connection import PipesContext
    from asyncpipes.external.inactive import NullSink

    follow = PipesContext.follow_fork

    def silent(self: PipesContext, *args: Any, **options: Any) -> None:
        follow(self, *args, **options)
        self._sink = NullSink()

    patch(PipesContext, "follow_fork", silent)


@mutant("script")
def forks_are_announced_late(patch: Patch) -> None:
    """A fork's `opened` leaves with its first message, which is written a moment after the call."""
    from asyncpipes.external.outbox import Outbox
    from tests.faults.mutants_endings import slow_writes

    init = Outbox.__init__

    def known(self: Outbox, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._is_known = True

    slow_writes(patch)
    patch(Outbox, "__init__", known)


@mutant("script")
def all_writers_have_one_id(patch: Patch) -> None:
    """Every process that reports does so under the same writer id."""
    import os

    patch(os, "urandom", bytes)


@mutant("script")
def workers_do_not_close(patch: Patch) -> None:
    """A worker that ends, by itself or by SIGTERM, leaves its writer open."""
    from asyncpipes.external.connection import PipesContext

    patch(PipesContext, "close_fork", lambda *args, **options: None)
    patch(PipesContext, "end_by_signal", lambda *args, **options: None)


@mutant("script")
def workers_leave_sigterm_to_the_first_report(patch: Patch) -> None:
    """A worker looks after SIGTERM from its first report on, if its main thread makes that."""
    from asyncpipes.external.forking import ForkGuard

    begins = ForkGuard._worker_begins

    def unguarded(self: ForkGuard, *args: Any, **options: Any) -> None:
        close, self._close = self._close, None
        begins(self, *args, **options)
        self._close = close

    patch(ForkGuard, "_worker_begins", unguarded)


@mutant("script")
def sends_no_checks(patch: Patch) -> None:
    """Results of checks are not sent."""
    from asyncpipes.external.connection import PipesContext

    patch(PipesContext, "report_asset_check", lambda *args, **options: None)


@mutant("script")
def closes_without_the_exception(patch: Patch) -> None:
    """An exception of the script is not told to the host."""
    from asyncpipes.external.connection import PipesContext

    closing_message = PipesContext._closing_message
    patch(
        PipesContext,
        "_closing_message",
        lambda self, error, *args, **options: closing_message(self, None, *args, **options),
    )


@mutant("script")
def sends_nan(patch: Patch) -> None:
    """Numbers that JSON has not are sent as `null`."""
    import math

    from asyncpipes.protocol import codec

    walk = codec._walk

    def lenient(value: Any, *args: Any, **options: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return walk(value, *args, **options)

    patch(codec, "_walk", lenient)


@mutant("script")
def makes_its_own_file(patch: Patch) -> None:
    """A messages file that is missing is made anew, where nobody reads it."""
    import os

    from asyncpipes.channels import file_writer

    open_unfollowed = file_writer.open_unfollowed
    patch(
        file_writer,
        "open_unfollowed",
        lambda path, flags, *args: open_unfollowed(path, flags | os.O_CREAT, *args),
    )


@mutant("script")
def looks_at_the_path_for_each_write(patch: Patch) -> None:
    """The messages file is opened for each write, and made if it is missing."""
    import os

    from asyncpipes.channels.file import FileWriter

    def anew(self: FileWriter, lines: bytes) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, lines)
        os.close(fd)

    patch(FileWriter, "write", anew)


@mutant("script")
def opens_in_silence(patch: Patch) -> None:
    """A channel that cannot be opened is passed over."""
    from asyncpipes.channels.file import FileWriter
    from asyncpipes.errors import ChannelError

    opening = FileWriter.open

    def silent(*args: Any, **options: Any) -> None:
        try:
            opening(*args, **options)
        except ChannelError:
            pass

    patch(FileWriter, "open", silent)


@mutant("script")
def a_fault_ends_the_script(patch: Patch) -> None:
    """A channel that fails raises where the script reports."""
    from asyncpipes.external.outbox import Outbox

    put = Outbox.put

    def raising(self: Outbox, *args: Any, **options: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        return put(self, *args, **options)

    patch(Outbox, "put", raising)


@mutant("script")
def takes_any_size(patch: Patch) -> None:
    """The bootstrap may be of any size."""
    from asyncpipes.protocol import bootstrap

    decode = bootstrap.decode_param
    patch(
        bootstrap,
        "decode_param",
        lambda value, *, name: decode(value, name=name, limit=2**40),
    )


@mutant("script")
def garbage_is_no_bootstrap(patch: Patch) -> None:
    """A bootstrap that cannot be read counts as none."""
    from asyncpipes.external import loaders

    patch(loaders.MappingParamsLoader, "is_dagster_pipes_process", lambda *args, **options: False)
