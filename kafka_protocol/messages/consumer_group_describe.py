"""ConsumerGroupDescribe (key 69), versions 0-1: state and members of consumer groups (KIP-848).

v1 member type (KIP-1099).
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.messages.metadata import OPERATIONS_NOT_ASKED
from kafka_protocol.schema import (
    BOOL,
    INT8,
    INT16,
    INT32,
    STRING,
    UUID,
    Array,
    F,
    message,
    struct,
)

# Values of member_type.
MEMBER_TYPE_UNKNOWN = -1
MEMBER_TYPE_CLASSIC = 0
MEMBER_TYPE_CONSUMER = 1


@message(api_key=ApiKey.CONSUMER_GROUP_DESCRIBE, kind="request", versions=(0, 1), flexible=0)
class ConsumerGroupDescribeRequest:
    group_ids: list[str] = F(Array(STRING))
    include_authorized_operations: bool = F(BOOL)


@struct
class TopicPartitions:
    topic_id: bytes = F(UUID)
    topic_name: str = F(STRING)
    partitions: list[int] = F(Array(INT32))


@struct
class Assignment:
    topic_partitions: list[TopicPartitions] = F(Array(TopicPartitions))


@struct
class Member:
    member_id: str = F(STRING)
    instance_id: str | None = F(STRING, nullable=0, default=None)
    rack_id: str | None = F(STRING, nullable=0, default=None)
    member_epoch: int = F(INT32)
    client_id: str = F(STRING)
    client_host: str = F(STRING)
    subscribed_topic_names: list[str] = F(Array(STRING))
    subscribed_topic_regex: str | None = F(STRING, nullable=0, default=None)
    assignment: Assignment = F(Assignment)
    target_assignment: Assignment = F(Assignment)
    member_type: int = F(INT8, since=1, default=MEMBER_TYPE_UNKNOWN)


@struct
class DescribedGroup:
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, nullable=0, default=None)
    group_id: str = F(STRING)
    group_state: str = F(STRING)
    group_epoch: int = F(INT32)
    assignment_epoch: int = F(INT32)
    assignor_name: str = F(STRING)
    members: list[Member] = F(Array(Member))
    authorized_operations: int = F(INT32, default=OPERATIONS_NOT_ASKED)


@message(api_key=ApiKey.CONSUMER_GROUP_DESCRIBE, kind="response", versions=(0, 1), flexible=0)
class ConsumerGroupDescribeResponse:
    throttle_time_ms: int = F(INT32)
    groups: list[DescribedGroup] = F(Array(DescribedGroup))
