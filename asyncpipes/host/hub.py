"""The hub: every event to every subscriber that wants it, through a bounded queue each.

::

                      ┌─ queue ─▶ task ─▶ callback
    reader ─publish()─┼─ queue ─▶ task ─▶ worker thread ─▶ callback
                      └─ queue ─▶ events() iterator

Batches move, not events: the reader publishes what one read gave, a subscriber's
task takes all that waits. The queues and their bounds are in ``subscription``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..protocol.events import Event
from .subscription import CallbackSubscription, Subscription


class Hub:
    """All subscribers of a session."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self._ended = False
        self._is_cut_off = False

    def add(self, subscription: Subscription) -> None:
        """Begin to offer events to it."""
        self.subscriptions.append(subscription)
        if self._ended:
            subscription.end()
        if self._is_cut_off:
            subscription.cut_off()

    async def publish(self, events: Sequence[Event], sizes: Sequence[int]) -> None:
        """Offer events to all; then wait until nobody who must not lose any is full.

        Cancelling the wait loses nothing: all queues have the events by then.
        """
        for subscription in self.subscriptions:
            subscription.offer(events, sizes)
        for subscription in self.holding:
            await subscription.wait_for_room()

    def publish_captured(self, event: Event) -> None:
        """Offer a piece of captured output. Never waits."""
        for subscription in self.subscriptions:
            subscription.offer_captured(event)

    @property
    def holding(self) -> list[Subscription]:
        """The subscribers that the reader waits for."""
        return [subscription for subscription in self.subscriptions if subscription.is_full]

    @property
    def depths(self) -> dict[str, int]:
        """For each subscriber's name, the events that wait for it."""
        depths: dict[str, int] = {}
        for subscription in self.subscriptions:
            depths[subscription.name] = depths.get(subscription.name, 0) + subscription.depth
        return depths

    @property
    def drops(self) -> dict[str, int]:
        """For each subscriber's name, the events it did not get by its own policy."""
        drops: dict[str, int] = {}
        for subscription in self.subscriptions:
            drops[subscription.name] = drops.get(subscription.name, 0) + subscription.dropped
        return drops

    @property
    def failed(self) -> list[Subscription]:
        """The subscribers that raised."""
        return [s for s in self.subscriptions if s.error is not None]

    def end(self) -> None:
        """No more events: each subscriber ends when its queue is empty."""
        self._ended = True
        for subscription in self.subscriptions:
            subscription.end()

    def detach_iterators(self) -> None:
        """The session's block is left: nobody pulls at the iterators any more."""
        for subscription in self.subscriptions:
            if not isinstance(subscription, CallbackSubscription):
                subscription.detach()

    def cut_off(self) -> None:
        """The run was stopped, and nobody is waited for any more; see ``undelivered``."""
        self._is_cut_off = True
        for subscription in self.subscriptions:
            subscription.cut_off()

    def close(self) -> None:
        """All callbacks have ended: what they still have is undelivered."""
        for subscription in self.subscriptions:
            if isinstance(subscription, CallbackSubscription):
                subscription.cut_off()

    @property
    def undelivered(self) -> int:
        """Events that subscribers should have got, and did not."""
        return sum(subscription.undelivered for subscription in self.subscriptions)
