"""A consumer group with topics, a clock and a log, for tests that go one heartbeat at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from kafka_protocol import group_records
from kafka_protocol.errors import ErrorCode
from rpk_py.groups.classic_values import Leaver
from rpk_py.groups.consumer import ConsumerGroup
from rpk_py.groups.consumer_values import (
    ConsumerSettings,
    HeartbeatReply,
    HeartbeatRequest,
    Records,
    TopicIdPartitions,
)
from rpk_py.metadata.state import ClusterState, PartitionState, TopicState

SESSION_MS, REBALANCE_MS = 45_000, 60_000
SETTINGS = ConsumerSettings(session_timeout_ms=SESSION_MS)
NOTHING: TopicIdPartitions = ()


def partitions(count_of: int) -> list[PartitionState]:
    return [PartitionState(index, 0, 0, [0], [0]) for index in range(count_of)]


def set_topic(state: ClusterState, name: str, count_of: int, topic_id: bytes = b"") -> bytes:
    """Create a topic, let it grow, or with no partitions delete it; its id."""
    state.revision += 1
    topic = state.topics.get(name)
    if topic is None:
        topic = TopicState(name, topic_id or name.encode().ljust(16, b"."), partitions(count_of))
        state.add_topic(topic)
    elif count_of == 0:
        del state.topics[name], state.topics_by_id[topic.topic_id]
    else:
        topic.partitions = partitions(count_of)
    return topic.topic_id


class Bench:
    """`log` is what a compacted log holds: the last value of every key."""

    def __init__(self, settings: ConsumerSettings = SETTINGS, **topics: int) -> None:
        ids = count(1)
        self.settings = settings
        self.new_id = lambda: f"made-{next(ids)}"
        self.now_ms = 1_000_000
        self.state = ClusterState()
        self.ids = {name: set_topic(self.state, name, size) for name, size in topics.items()}
        self.log: dict[bytes, tuple[group_records.Key, group_records.Value]] = {}
        self.written: Records = []  # all of them, in order
        self.group = ConsumerGroup("g", settings, self.new_id, self.now_ms)

    def write(self, records: Records) -> Records:
        self.written += records
        for key, value in records:
            encoded = group_records.encode_key(key)
            self.log.pop(encoded, None)
            if value is not None:
                self.log[encoded] = (key, value)
        return records

    def send(self, member_id: str, epoch: int, **changes: Any) -> HeartbeatReply:
        """One heartbeat, that changes nothing else unless told."""
        request = HeartbeatRequest(member_id, epoch, **changes)
        reply, records = self.group.heartbeat(request, self.state, self.now_ms)
        assert not (reply.error and records), "errors have no records"
        self.write(records)
        return reply

    def join(self, member_id: str, *topics: str, **changes: Any) -> HeartbeatReply:
        values: dict[str, Any] = {
            "rebalance_timeout_ms": REBALANCE_MS,
            "subscribed_topics": topics,
            "owned": NOTHING,
        }
        return self.send(member_id, 0, **(values | changes))

    def leave(self, *leavers: Leaver) -> Sequence[ErrorCode]:
        errors, records = self.group.leave(leavers, self.now_ms)
        self.write(records)
        return errors

    def pass_time(self, duration_ms: int) -> Records:
        """Move the clock and tick when the group wants it, and at the end; what it wrote."""
        end_ms = self.now_ms + duration_ms
        records: Records = []
        while (wake_ms := self.group.wake_ms) is not None and wake_ms <= end_ms:
            self.now_ms = max(wake_ms, self.now_ms)
            records += self.write(self.group.tick(self.state, self.now_ms))
            assert self.group.wake_ms is None or self.group.wake_ms > self.now_ms
        self.now_ms = end_ms
        return records

    def owns(self, topic: str, *indexes: int) -> TopicIdPartitions:
        return ((self.ids[topic], indexes),) if indexes else ()

    def reload(self) -> ConsumerGroup:
        """Another coordinator's group, from the log alone."""
        group = ConsumerGroup("g", self.settings, self.new_id, self.now_ms)
        for key, value in self.log.values():
            group.replay(key, value)
        group.start_loaded(self.now_ms)
        return group

    def settle(self, *member_ids: str) -> dict[str, TopicIdPartitions]:
        """Heartbeats of members who do at once what they are told, until the group is stable."""
        for _ in range(10):
            for member_id in member_ids:
                member = self.group.members[member_id]
                owned = tuple((t, tuple(sorted(p))) for t, p in sorted(member.assigned.items()))
                reply = self.send(member_id, member.member_epoch, owned=owned)
                assert reply.error is ErrorCode.NONE, reply
            if self.group.state_name == "Stable":
                break
        assert self.group.state_name == "Stable"
        return {
            member_id: tuple((t, tuple(sorted(p))) for t, p in sorted(member.assigned.items()))
            for member_id, member in self.group.members.items()
        }
