"""Committed offsets of one group: what is committed, what may be committed, what expires when.

What:       offsets by topic and partition, changed only by what the log has: `plan_*` say which
            records to write, `written` takes them over when they are durable. `replay` is the same
            for records that are read at a start.
Where:      the coordinator of the group. Sans-io.
Invariants: - a fetch sees durable commits only, so that no answer is lost by a crash;
            - writes end in the order in which they were planned, as the log has them;
            - nothing is expired or dropped under a commit that is on its way: its record would
              come before the tombstone and be lost.
Source:     OffsetMetadataManager, OffsetAndMetadata and ClassicGroup.offsetExpirationCondition of
            Apache Kafka 4.1; KIP-211 for expiry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, Protocol

from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.groups.classic_values import CONSUMER_PROTOCOL_TYPE
from rpk_py.groups.timeline import TopicPartition

METADATA_CHARACTERS_MAX: Final = 4096  # offset.metadata.max.bytes, which Kafka takes as a length
NO_TOPIC_ID: Final = bytes(16)
ANY_VERSION_KNOWS_THE_GROUP: Final = 9  # OffsetCommit from here on: GROUP_ID_NOT_FOUND


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """One committed offset, as it is persisted. Times are epoch ms; -1: none."""

    committed_offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_ms: int = -1
    expire_ms: int = -1  # OffsetCommit v2-4 with its own retention
    topic_id: bytes = NO_TOPIC_ID  # which of the topics of that name


@dataclass(frozen=True, slots=True)
class OffsetRecord:
    """One record to write; None as `value` deletes."""

    topic: str
    partition_index: int
    value: CommittedOffset | None


@dataclass(frozen=True, slots=True)
class OffsetToCommit:
    """One partition of an OffsetCommit."""

    topic: str
    partition_index: int
    committed_offset: int
    leader_epoch: int = -1
    metadata: str | None = None
    topic_id: bytes = NO_TOPIC_ID


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """One OffsetCommit. `generation` is the member's epoch in a consumer group; -1: no member."""

    member_id: str
    instance_id: str | None
    generation: int
    api_version: int
    commits: Sequence[OffsetToCommit]
    retention_ms: int = -1


class Owner(Protocol):
    """What offsets need to know of their group, of either protocol."""

    @property
    def protocol_type(self) -> str | None:
        """None: nobody has ever joined."""

    @property
    def subscribed_topics(self) -> frozenset[str] | None:
        """None: not known."""

    @property
    def is_dead(self) -> bool: ...
    @property
    def is_empty(self) -> bool: ...
    @property
    def is_stable(self) -> bool: ...
    @property
    def empty_since_ms(self) -> int | None:
        """When an empty group became so; None: not known."""


def missing_group_error(generation: int, api_version: int) -> ErrorCode:
    """The answer to a commit to a group that is not there; NONE: make it, and commit."""
    if generation < 0:
        return ErrorCode.NONE
    if api_version >= ANY_VERSION_KNOWS_THE_GROUP:
        return ErrorCode.GROUP_ID_NOT_FOUND
    return ErrorCode.ILLEGAL_GENERATION


def is_subscribed(group: Owner, topic: str) -> bool:
    """Whether members consume it. A consumer group whose subscriptions are unknown: yes."""
    if group.subscribed_topics is not None:
        return topic in group.subscribed_topics
    return group.protocol_type == CONSUMER_PROTOCOL_TYPE


class Offsets:
    """The offsets of one group."""

    __slots__ = ("_by_topic", "_metadata_max", "_planned", "_planned_counts")

    def __init__(self, metadata_max: int = METADATA_CHARACTERS_MAX) -> None:
        self._by_topic: dict[str, dict[int, CommittedOffset]] = {}
        self._metadata_max = metadata_max
        self._planned: deque[tuple[OffsetRecord, ...]] = deque()
        self._planned_counts: dict[TopicPartition, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_topic.values()))

    @property
    def is_empty(self) -> bool:
        """Nothing is committed, and nothing is on its way."""
        return not self._by_topic and not self._planned

    def fetch(self, topic: str, partition_index: int) -> CommittedOffset | None:
        """None is no error for a client: offset -1, epoch -1, metadata ""."""
        return self._by_topic.get(topic, {}).get(partition_index)

    def all(self) -> Iterator[tuple[str, int, CommittedOffset]]:
        for topic, partitions in self._by_topic.items():
            for partition_index, value in partitions.items():
                yield topic, partition_index, value

    def plan_commit(
        self, commits: Iterable[OffsetToCommit], now_ms: int, retention_ms: int = -1
    ) -> tuple[list[ErrorCode], tuple[OffsetRecord, ...]]:
        """One error a partition, in order, and the records of those that have none.

        After `ClassicGroup.check_commit`. If there are records, `written` must follow.
        """
        errors: list[ErrorCode] = []
        records: list[OffsetRecord] = []
        expire_ms = -1 if retention_ms == -1 else now_ms + retention_ms
        for commit in commits:
            metadata = commit.metadata or ""
            if len(metadata) > self._metadata_max:
                errors.append(ErrorCode.OFFSET_METADATA_TOO_LARGE)
                continue
            errors.append(ErrorCode.NONE)
            value = CommittedOffset(
                commit.committed_offset,
                commit.leader_epoch,
                metadata,
                now_ms,
                expire_ms,
                commit.topic_id,
            )
            records.append(OffsetRecord(commit.topic, commit.partition_index, value))
        return errors, self._plan(records)

    def plan_delete(
        self, group: Owner, partitions: Iterable[TopicPartition]
    ) -> tuple[ErrorCode, list[ErrorCode], tuple[OffsetRecord, ...]]:
        """OffsetDelete: an error of the group, or one a partition, and the tombstones."""
        if group.is_dead:
            return ErrorCode.GROUP_ID_NOT_FOUND, [], ()
        is_consumer = group.protocol_type == CONSUMER_PROTOCOL_TYPE
        if not group.is_empty and not is_consumer:
            return ErrorCode.NON_EMPTY_GROUP, [], ()
        errors: list[ErrorCode] = []
        wanted: list[TopicPartition] = []
        for topic, index in partitions:
            if is_subscribed(group, topic):
                errors.append(ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC)
                continue
            errors.append(ErrorCode.NONE)
            if self.fetch(topic, index) is not None or (topic, index) in self._planned_counts:
                wanted.append((topic, index))
        return ErrorCode.NONE, errors, self._plan(_tombstones(wanted))

    def plan_delete_all(self) -> tuple[OffsetRecord, ...]:
        """Tombstones of everything, also of what is on its way: the group is deleted."""
        keys = dict.fromkeys((topic, index) for topic, index, _ in self.all())
        return self._plan(_tombstones(keys | dict.fromkeys(self._planned_counts)))

    def plan_topics_deleted(self, topics: Collection[str]) -> tuple[OffsetRecord, ...]:
        """Tombstones of what is committed, or being committed, for topics that are gone."""
        keys = {(topic, i) for topic in topics for i in self._by_topic.get(topic, ())}
        keys |= {key for key in self._planned_counts if key[0] in topics}
        return self._plan(_tombstones(sorted(keys)))

    def plan_gone(self, id_of: Callable[[str], bytes | None]) -> tuple[OffsetRecord, ...]:
        """Tombstones of what is committed for topics that went while nobody looked.

        id_of  the id of the topic that has this name now; None: there is none
        """
        gone: list[TopicPartition] = []
        for topic, index, value in self.settled():
            topic_id = id_of(topic)
            if topic_id is None or value.topic_id not in (NO_TOPIC_ID, topic_id):
                gone.append((topic, index))
        return self._plan(_tombstones(gone))

    def settled_at(self, topic: str, partition_index: int) -> CommittedOffset | None:
        """What is committed of one partition, if it has no other record on its way."""
        if (topic, partition_index) in self._planned_counts:
            return None
        return self.fetch(topic, partition_index)

    def settled(self) -> Iterator[tuple[str, int, CommittedOffset]]:
        """What is committed and has no other record on its way."""
        planned = self._planned_counts
        return (each for each in self.all() if each[:2] not in planned)

    def plan_expired(
        self, group: Owner, now_ms: int, retention_ms: int
    ) -> tuple[OffsetRecord, ...]:
        """Tombstones of what has expired.

        A group without members: `retention_ms` after it became empty, all at once. A simple group
        (no protocol type), and topics that a stable consumer group has given up: that long after
        the commit. Anything else stays.
        """
        if group.protocol_type is None:
            since_ms, by_commit = None, True
        elif group.is_empty:
            since_ms, by_commit = group.empty_since_ms, group.empty_since_ms is None
        elif group.is_stable and group.subscribed_topics is not None:
            since_ms, by_commit = None, True
        else:
            return ()
        expired: list[TopicPartition] = []
        for topic, index, value in self.all():
            if is_subscribed(group, topic) or (topic, index) in self._planned_counts:
                continue
            if value.expire_ms != -1:
                is_over = now_ms >= value.expire_ms
            else:
                base_ms = value.commit_ms if by_commit or since_ms is None else since_ms
                is_over = now_ms - base_ms >= retention_ms
            if is_over:
                expired.append((topic, index))
        return self._plan(_tombstones(expired))

    def written(self, records: tuple[OffsetRecord, ...], error: ErrorCode) -> None:
        """The oldest planned records have ended: durable if `error` is NONE."""
        assert self._planned
        assert self._planned[0] is records, "writes end in the order of their plans"
        self._planned.popleft()
        for record in records:
            key = (record.topic, record.partition_index)
            left = self._planned_counts[key] - 1
            if left:
                self._planned_counts[key] = left
            else:
                del self._planned_counts[key]
            if not error:
                self.replay(record)

    def replay(self, record: OffsetRecord) -> None:
        """Take over one durable record."""
        partitions = self._by_topic.setdefault(record.topic, {})
        if record.value is not None:
            partitions[record.partition_index] = record.value
            return
        partitions.pop(record.partition_index, None)
        if not partitions:
            del self._by_topic[record.topic]

    def _plan(self, records: Iterable[OffsetRecord]) -> tuple[OffsetRecord, ...]:
        planned = tuple(records)
        if planned:
            self._planned.append(planned)
        for record in planned:
            key = (record.topic, record.partition_index)
            self._planned_counts[key] = self._planned_counts.get(key, 0) + 1
        return planned


def _tombstones(keys: Iterable[TopicPartition]) -> Iterator[OffsetRecord]:
    return (OffsetRecord(topic, index, None) for topic, index in keys)
