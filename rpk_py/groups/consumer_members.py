"""A member of a consumer group (KIP-848), and its way from what it has to what it is to have.

What:       first it gives up what is no longer its own and says so, then it is moved to the group's
            epoch and given what nobody else holds; what others still hold it waits for.
Where:      the coordinator of the group. Sans-io.
Invariants: a partition is given to a member only if no other has it, or has yet to give it up.
Source:     CurrentAssignmentBuilder and ConsumerGroupMember of Apache Kafka 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from enum import IntEnum

from kafka_protocol import group_records
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.groups.assignors import Owned
from rpk_py.groups.consumer_values import TopicIdPartitions


class MemberState(IntEnum):
    """Kafka's numbers, which stand in records."""

    STABLE = 0
    UNREVOKED_PARTITIONS = 1
    UNRELEASED_PARTITIONS = 2


@dataclass(slots=True)
class ConsumerMember:
    """One member. `assigned` it may consume, `revoking` it has to give up and has not said so."""

    member_id: str
    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    subscribed_topics: tuple[str, ...] = ()
    subscribed_regex: str | None = None
    rebalance_timeout_ms: int = -1
    server_assignor: str | None = None
    member_epoch: int = 0
    previous_epoch: int = 0
    state: MemberState = MemberState.STABLE
    assigned: Owned = field(default_factory=dict)
    revoking: Owned = field(default_factory=dict)
    heard_ms: int = 0
    session_deadline_ms: int | None = None
    revoke_deadline_ms: int | None = None

    @property
    def name(self) -> str:
        """What people know it by."""
        return self.instance_id or self.member_id

    @property
    def subscription(self) -> tuple[tuple[str, ...], str | None]:
        return self.subscribed_topics, self.subscribed_regex

    def has_reached(self, epoch: int) -> bool:
        """Whether it has all that the target of this epoch gives it, and nothing else."""
        return self.state is MemberState.STABLE and self.member_epoch == epoch

    def held(self) -> Iterator[tuple[bytes, int]]:
        """What nobody else may be given: what it has, and what it has yet to give up."""
        yield from partitions_in(self.assigned)
        yield from partitions_in(self.revoking)

    def metadata_record(self) -> group_records.ConsumerGroupMemberMetadataValue:
        return group_records.ConsumerGroupMemberMetadataValue(
            instance_id=self.instance_id,
            rack_id=self.rack_id,
            client_id=self.client_id,
            client_host=self.client_host,
            subscribed_topic_names=list(self.subscribed_topics),
            subscribed_topic_regex=self.subscribed_regex,
            rebalance_timeout_ms=self.rebalance_timeout_ms,
            server_assignor=self.server_assignor,
        )

    def take_metadata(self, value: group_records.ConsumerGroupMemberMetadataValue) -> None:
        """Inverse of metadata_record."""
        self.instance_id, self.rack_id = value.instance_id, value.rack_id
        self.client_id, self.client_host = value.client_id, value.client_host
        self.subscribed_topics = tuple(value.subscribed_topic_names)
        self.subscribed_regex = value.subscribed_topic_regex
        self.rebalance_timeout_ms = value.rebalance_timeout_ms
        self.server_assignor = value.server_assignor

    def assignment_record(self) -> group_records.ConsumerGroupCurrentMemberAssignmentValue:
        return group_records.ConsumerGroupCurrentMemberAssignmentValue(
            member_epoch=self.member_epoch,
            previous_member_epoch=self.previous_epoch,
            state=self.state,
            assigned_partitions=to_record(self.assigned),
            partitions_pending_revocation=to_record(self.revoking),
        )

    def take_assignment(
        self, value: group_records.ConsumerGroupCurrentMemberAssignmentValue
    ) -> None:
        """Inverse of assignment_record."""
        self.member_epoch = value.member_epoch
        self.previous_epoch = value.previous_member_epoch
        self.state = MemberState(value.state)
        self.assigned = from_record(value.assigned_partitions)
        self.revoking = from_record(value.partitions_pending_revocation)


def reconcile(
    member: ConsumerMember,
    target: Owned,
    target_epoch: int,
    owned: TopicIdPartitions | None,
    is_free: Callable[[bytes, int], bool],
) -> bool:
    """Take a member one step towards its target; whether anything changed.

    owned    what the member says it has; None: it does not say
    is_free  whether nobody but this member holds a partition
    """
    if member.has_reached(target_epoch):
        return False
    if member.state is MemberState.UNREVOKED_PARTITIONS and _has(owned, member.revoking):
        return False  # it has yet to give them up
    # Who has given up what it was asked for is an epoch further, also where it is asked for more.
    gave_up = member.state is MemberState.UNREVOKED_PARTITIONS
    epoch = member.member_epoch + 1 if gave_up else member.member_epoch
    before = (member.member_epoch, member.state, member.assigned, member.revoking)
    assigned: Owned = {}
    revoking: Owned = {}
    coming: Owned = {}
    waits = False
    for topic in member.assigned.keys() | target.keys():
        has, gets = member.assigned.get(topic, frozenset()), target.get(topic, frozenset())
        free = frozenset(index for index in gets - has if is_free(topic, index))
        waits = waits or len(free) < len(gets - has)
        for owner, indexes in ((assigned, has & gets), (revoking, has - gets), (coming, free)):
            if indexes:
                owner[topic] = indexes
    if revoking and _has(owned, revoking):
        member.state = MemberState.UNREVOKED_PARTITIONS
        member.assigned, member.revoking = assigned, revoking
    else:
        epoch = target_epoch
        member.state = MemberState.UNRELEASED_PARTITIONS if waits else MemberState.STABLE
        member.assigned, member.revoking = merged(assigned, coming), {}
    if member.member_epoch != epoch:
        member.previous_epoch, member.member_epoch = member.member_epoch, epoch
    return before != (member.member_epoch, member.state, member.assigned, member.revoking)


def _has(owned: TopicIdPartitions | None, wanted: Mapping[bytes, frozenset[int]]) -> bool:
    """Whether a member has any of these, or does not say what it has."""
    if owned is None:
        return True
    return any(not wanted.get(topic, frozenset()).isdisjoint(indexes) for topic, indexes in owned)


def is_subset(owned: TopicIdPartitions | None, of: Mapping[bytes, frozenset[int]]) -> bool:
    """Whether a member says what it has, and that it has nothing else."""
    if owned is None:
        return False
    return all(of.get(topic, frozenset()).issuperset(indexes) for topic, indexes in owned)


def merged(one: Owned, other: Owned) -> Owned:
    """All partitions of both."""
    return {
        topic: one.get(topic, frozenset()) | other.get(topic, frozenset())
        for topic in one.keys() | other.keys()
    }


def partitions_in(owned: Mapping[bytes, frozenset[int]]) -> Iterator[tuple[bytes, int]]:
    for topic, indexes in owned.items():
        for index in indexes:
            yield topic, index


def to_record(owned: Mapping[bytes, frozenset[int]]) -> list[group_records.TopicPartitions]:
    """As records hold partitions."""
    return [
        group_records.TopicPartitions(topic, sorted(indexes))
        for topic, indexes in sorted(owned.items())
    ]


def from_record(rows: list[group_records.TopicPartitions]) -> Owned:
    """Inverse of to_record."""
    return {bytes(row.topic_id): frozenset(row.partitions) for row in rows if row.partitions}


def to_reply(owned: Mapping[bytes, frozenset[int]]) -> TopicIdPartitions:
    """As replies hold partitions."""
    return tuple((topic, tuple(sorted(indexes))) for topic, indexes in sorted(owned.items()))
