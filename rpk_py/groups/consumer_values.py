"""Values that go into a consumer group (KIP-848) and come out of it: requests, replies, settings.

What:       plain values. The messages of the wire stay in the handlers; records are those of
            kafka_protocol/group_records.py, which the coordinator writes as they are.
Where:      the coordinator of the group.
Source:     ConsumerGroupHeartbeat of Apache Kafka 4.1; GroupCoordinatorConfig for the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from kafka_protocol import group_records
from kafka_protocol.errors import ErrorCode

JOIN_EPOCH: Final = 0
LEAVE_EPOCH: Final = -1
LEAVE_STATIC_EPOCH: Final = -2

Records: TypeAlias = list[tuple[group_records.Key, group_records.Value | None]]
"""Records to write in one batch, in order; None as a value deletes the key."""

TopicIdPartitions: TypeAlias = tuple[tuple[bytes, tuple[int, ...]], ...]
"""Partitions by topic id."""


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    """One ConsumerGroupHeartbeat. None, and -1 as a timeout: as it was before.

    member_epoch  0: join; -1: leave; -2: a static member leaves for a while; else where it is
    """

    member_id: str
    member_epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    subscribed_topics: tuple[str, ...] | None = None
    subscribed_regex: str | None = None
    server_assignor: str | None = None
    owned: TopicIdPartitions | None = None
    client_id: str = ""
    client_host: str = ""
    api_version: int = 1


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The answer. An assignment of None: the member has the newest one."""

    error: ErrorCode
    error_message: str | None = None
    member_id: str | None = None
    member_epoch: int = 0
    heartbeat_interval_ms: int = 0
    assignment: TopicIdPartitions | None = None


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """Kafka's settings of consumer groups, with its defaults."""

    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 5_000
    members_max: int = 2**31 - 1
