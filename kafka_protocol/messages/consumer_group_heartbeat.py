"""ConsumerGroupHeartbeat (key 68), versions 0-1: join, stay in or leave a consumer group (KIP-848).

v1 subscription by regular expression; the client makes its own member id (KIP-1082). A null, or a
rebalance timeout of -1, means that nothing changed since the last heartbeat.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, STRING, UUID, Array, F, message, struct

# Values of member_epoch in a request that are no epochs.
EPOCH_JOIN = 0
EPOCH_LEAVE = -1
EPOCH_LEAVE_STATIC = -2  # the member will be back under its instance id


@struct
class TopicPartitions:
    topic_id: bytes = F(UUID)
    partitions: list[int] = F(Array(INT32))


@message(api_key=ApiKey.CONSUMER_GROUP_HEARTBEAT, kind="request", versions=(0, 1), flexible=0)
class ConsumerGroupHeartbeatRequest:
    group_id: str = F(STRING)
    member_id: str = F(STRING)
    member_epoch: int = F(INT32)
    instance_id: str | None = F(STRING, nullable=0, default=None)
    rack_id: str | None = F(STRING, nullable=0, default=None)
    rebalance_timeout_ms: int = F(INT32, default=-1)
    subscribed_topic_names: list[str] | None = F(Array(STRING), nullable=0, default=None)
    subscribed_topic_regex: str | None = F(STRING, since=1, nullable=1, default=None)
    server_assignor: str | None = F(STRING, nullable=0, default=None)
    topic_partitions: list[TopicPartitions] | None = F(
        Array(TopicPartitions), nullable=0, default=None
    )


@struct
class Assignment:
    topic_partitions: list[TopicPartitions] = F(Array(TopicPartitions))


@message(api_key=ApiKey.CONSUMER_GROUP_HEARTBEAT, kind="response", versions=(0, 1), flexible=0)
class ConsumerGroupHeartbeatResponse:
    throttle_time_ms: int = F(INT32)
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, nullable=0, default=None)
    member_id: str | None = F(STRING, nullable=0, default=None)
    member_epoch: int = F(INT32)
    heartbeat_interval_ms: int = F(INT32)
    assignment: Assignment | None = F(Assignment, nullable=0, default=None)
