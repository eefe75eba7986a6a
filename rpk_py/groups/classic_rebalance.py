"""A classic group's rebalance: everybody joins, one leads, the leader assigns.

What:       PreparingRebalance until all members have joined or the rebalance timeout is over (or,
            for a group that was empty, the initial delay); CompletingRebalance until the leader's
            assignment is durable; then Stable. A member that misses its part is out.
Where:      the coordinator of the group. Sans-io.
Invariants: - a generation begins when a join phase ends, and only there;
            - nobody is told an assignment that is not durable, or that belongs to an older
              generation;
            - static members stay though they missed the join phase: their sessions decide.
Source:     GroupMetadataManager (prepareRebalance, completeClassicGroupJoin, expirePendingSync,
            tryCompleteInitialRebalanceElseSchedule) of Apache Kafka 4.1; KIP-134, KIP-345.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.groups.classic_core import GroupCore
from rpk_py.groups.classic_values import GroupState, SyncReply
from rpk_py.groups.timeline import EventKind, TopicPartition, moves_between

EMPTY, PREPARING = GroupState.EMPTY, GroupState.PREPARING_REBALANCE
COMPLETING, STABLE, DEAD = GroupState.COMPLETING_REBALANCE, GroupState.STABLE, GroupState.DEAD

ACTIVE: Final = (STABLE, COMPLETING)


@dataclass(slots=True)
class InitialDelay:
    """The wait for more members of a group that was empty."""

    delay_ms: int
    remaining_ms: int
    member_added: bool = False


class Rebalance:
    """The rebalance of one group, under way or not."""

    __slots__ = (
        "_core",
        "initial_delay",
        "join_deadline_ms",
        "owners",
        "pending_sync",
        "rebalance_since_ms",
        "sync_deadline_ms",
    )

    def __init__(self, core: GroupCore) -> None:
        self._core = core
        self.initial_delay: InitialDelay | None = None
        self.join_deadline_ms: int | None = None
        self.sync_deadline_ms: int | None = None
        self.pending_sync: set[str] = set()  # who has yet to ask for its assignment
        self.rebalance_since_ms = core.now_ms
        self.owners: dict[TopicPartition, str] = {}  # of the last stable generation

    def prepare(self, reason: str) -> None:
        """Begin a rebalance: everybody has to join anew within the rebalance timeout."""
        if self._core.state is COMPLETING:
            self.propagate({}, ErrorCode.REBALANCE_IN_PROGRESS)
        self.pending_sync.clear()
        self.sync_deadline_ms = None
        self.rebalance_since_ms = self._core.now_ms
        was_empty = self._core.state is EMPTY
        self._core.go_to(PREPARING)
        self._core.tell(EventKind.REBALANCE_STARTED, reason=reason)
        if was_empty:
            delay_ms = self._core.settings.initial_rebalance_delay_ms
            remaining_ms = max(self._core.members.rebalance_timeout_ms - delay_ms, 0)
            self.initial_delay = InitialDelay(delay_ms, remaining_ms)
            self.join_by(delay_ms)
        elif self._core.members.all_joined:
            self.complete_join()
        else:
            self.join_by(self._core.members.rebalance_timeout_ms)

    def prepare_or_complete(self, reason: str) -> None:
        if self._core.state is PREPARING:
            self.complete_join_if_all_are_in()
        else:
            self.prepare(reason)

    def complete_join_if_all_are_in(self) -> None:
        """An initial rebalance always lasts its delay, for members that are on their way."""
        if self._core.previous_state is not EMPTY and self._core.members.all_joined:
            self.complete_join()

    def join_phase_expired(self) -> None:
        if self._core.state is not PREPARING:
            return
        delay = self.initial_delay
        if delay is not None and delay.member_added and delay.remaining_ms:
            next_ms = min(self._core.settings.initial_rebalance_delay_ms, delay.remaining_ms)
            remaining_ms = max(delay.remaining_ms - delay.delay_ms, 0)
            self.initial_delay = InitialDelay(next_ms, remaining_ms)
            self.join_by(next_ms)
        else:
            self.complete_join()

    def complete_join(self) -> None:
        """End the join phase: who has not come is out, unless it is static; then assign."""
        self.join_deadline_ms = None
        for member in self._core.members.all():
            if member.join_token is None and member.instance_id is None:
                self._core.members.remove(member.member_id)
                self._core.tell(EventKind.MISSED_REBALANCE, who=member)
        if not self._core.members.elect_joined_leader() and len(self._core.members):
            # Only static members, all silent: their sessions decide.
            self.join_by(self._core.members.rebalance_timeout_ms)
            self._core.tell(EventKind.REBALANCE_WAITS, reason="no member has rejoined")
            return
        self.initial_delay = None
        self._core.generation += 1
        self.pending_sync.clear()
        if not len(self._core.members):
            self._core.protocol_name = None
            self._core.subscribed_topics = self._core.topics()
            self._core.go_to(EMPTY)
            self.owners = {}
            self._core.tell(EventKind.EMPTY)
            self._core.write(self._core.record({}), self._core.empty_recorded)
            return
        self._core.protocol_name = self._core.members.select_protocol()
        self._core.subscribed_topics = self._core.topics()
        self._core.go_to(COMPLETING)
        waited_ms = self._core.now_ms - self.rebalance_since_ms
        self._core.tell(
            EventKind.GENERATION, reason=self._core.protocol_name, duration_ms=waited_ms
        )
        for member in self._core.members.all():
            leads = self._core.members.leader == member.member_id
            self._core.answer_join(member, self._core.join_reply(member, tell_members=leads))
            self._core.expect_heartbeat(member, self._core.now_ms)
            member.is_new = False
            self.pending_sync.add(member.member_id)
        self.sync_deadline_ms = self._core.now_ms + self._core.members.rebalance_timeout_ms
        self._core.wake_by(self.sync_deadline_ms)

    def sync_phase_expired(self) -> None:
        late = [self._core.members[member_id] for member_id in self.pending_sync]
        if self._core.state not in ACTIVE or not late:
            return
        for member in sorted(late, key=lambda each: each.member_id):
            self._core.members.remove(member.member_id)
            self._core.tell(EventKind.MISSED_SYNC, who=member)
        self.prepare("members did not ask for their assignment")

    def assigned(
        self, assignments: Mapping[str, bytes], generation: int, failed: ErrorCode
    ) -> None:
        """The leader's assignment is durable, or is not; a newer rebalance has overtaken it."""
        if self._core.state is not COMPLETING or self._core.generation != generation:
            return
        if failed:
            self.propagate({}, failed)
            self.prepare("the assignment could not be written")
            return
        self.propagate(assignments, ErrorCode.NONE)
        self._core.go_to(STABLE)
        owners = self._core.owned(self._core.members.all())
        moved_count, moves = moves_between(self.owners, owners)
        self.owners = owners
        self._core.tell(
            EventKind.STABLE,
            duration_ms=self._core.now_ms - self.rebalance_since_ms,
            moved_count=moved_count,
            moves=moves,
        )

    def propagate(self, assignments: Mapping[str, bytes], error: ErrorCode) -> None:
        kind, name = (None, None) if error else (self._core.protocol_type, self._core.protocol_name)
        for member in self._core.members.all():
            member.assignment = assignments.get(member.member_id, b"")
            if member.sync_token is not None:
                self._core.answer_sync(member, SyncReply(error, kind, name, member.assignment))
                self._core.expect_heartbeat(member, self._core.now_ms)

    def join_by(self, delay_ms: int) -> None:
        self.join_deadline_ms = self._core.now_ms + delay_ms
        self._core.wake_by(self.join_deadline_ms)
