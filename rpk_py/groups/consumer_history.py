"""What happened to a consumer group, told from the changes of its members and epochs.

What:       writes a group's Timeline. A rebalance begins with a new epoch and ends when every
            member has reached the target; what moved is the difference between two such moments.
Where:      the coordinator of the group. Sans-io.
"""

from __future__ import annotations

from collections.abc import Iterable

from rpk_py.groups.consumer_members import ConsumerMember, partitions_in
from rpk_py.groups.timeline import (
    Event,
    EventKind,
    Timeline,
    TopicPartition,
    bounded_text,
    moves_between,
)


class ConsumerHistory:
    """The timeline of one group. `rebalancing` until everybody is where the target wants it."""

    __slots__ = ("_names", "_owners", "_since_ms", "timeline")

    def __init__(self) -> None:
        self.timeline = Timeline()
        self._since_ms: int | None = None
        self._names: dict[bytes, str] = {}
        self._owners: dict[TopicPartition, str] = {}

    @property
    def rebalancing(self) -> bool:
        return self._since_ms is not None

    def name(self, topic_id: bytes, topic: str) -> None:
        """Under which name a topic is told, also after it is gone."""
        self._names[topic_id] = topic

    def tell(
        self,
        now_ms: int,
        kind: EventKind,
        epoch: int,
        member: ConsumerMember | None = None,
        reason: str = "",
        duration_ms: int = -1,
    ) -> None:
        """One event, of a member or of the group."""
        self.timeline.add(
            Event(
                now_ms,
                kind,
                epoch,
                member.name if member else "",
                member.client_id if member else "",
                member.client_host if member else "",
                bounded_text(reason),
                duration_ms,
            )
        )

    def begin(self, now_ms: int, epoch: int, reason: str) -> None:
        """The epoch has grown; a rebalance that is under way goes on."""
        if self._since_ms is None:
            self._since_ms = now_ms
            self.tell(now_ms, EventKind.REBALANCE_STARTED, epoch, reason=reason)

    def end(self, now_ms: int, epoch: int, members: Iterable[ConsumerMember]) -> None:
        """Everybody is where the target wants it."""
        assert self._since_ms is not None
        owners = {
            (self._names.get(topic, topic.hex()), index): member.name
            for member in members
            for topic, index in partitions_in(member.assigned)
        }
        count, moves = moves_between(self._owners, owners)
        self.timeline.add(
            Event(
                now_ms,
                EventKind.STABLE if owners else EventKind.EMPTY,
                epoch,
                duration_ms=now_ms - self._since_ms,
                moved_count=count,
                moves=moves,
            )
        )
        self._since_ms, self._owners = None, owners
