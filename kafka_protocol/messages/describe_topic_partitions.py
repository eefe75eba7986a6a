"""DescribeTopicPartitions (key 75), version 0: topics and their partitions, page by page (KIP-966).

No topics mean all of them. The cursor of a request is the first partition that it wants, the one
of an answer where the next request goes on, null after the last page.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.messages.metadata import OPERATIONS_NOT_ASKED
from kafka_protocol.schema import BOOL, INT16, INT32, STRING, UUID, Array, F, message, struct


@struct
class TopicRequest:
    name: str = F(STRING)


@struct
class Cursor:
    topic_name: str = F(STRING)
    partition_index: int = F(INT32)


@message(api_key=ApiKey.DESCRIBE_TOPIC_PARTITIONS, kind="request", versions=(0, 0), flexible=0)
class DescribeTopicPartitionsRequest:
    topics: list[TopicRequest] = F(Array(TopicRequest))
    response_partition_limit: int = F(INT32, default=2000)
    cursor: Cursor | None = F(Cursor, nullable=0, default=None)


@struct
class DescribeTopicPartitionsResponsePartition:
    error_code: int = F(INT16)
    partition_index: int = F(INT32)
    leader_id: int = F(INT32)
    leader_epoch: int = F(INT32, default=-1)
    replica_nodes: list[int] = F(Array(INT32))
    isr_nodes: list[int] = F(Array(INT32))
    eligible_leader_replicas: list[int] | None = F(Array(INT32), nullable=0, default=None)
    last_known_elr: list[int] | None = F(Array(INT32), nullable=0, default=None)
    offline_replicas: list[int] = F(Array(INT32))


@struct
class DescribeTopicPartitionsResponseTopic:
    error_code: int = F(INT16)
    name: str | None = F(STRING, nullable=0)
    topic_id: bytes = F(UUID)
    is_internal: bool = F(BOOL)
    partitions: list[DescribeTopicPartitionsResponsePartition] = F(
        Array(DescribeTopicPartitionsResponsePartition)
    )
    topic_authorized_operations: int = F(INT32, default=OPERATIONS_NOT_ASKED)


@message(api_key=ApiKey.DESCRIBE_TOPIC_PARTITIONS, kind="response", versions=(0, 0), flexible=0)
class DescribeTopicPartitionsResponse:
    throttle_time_ms: int = F(INT32)
    topics: list[DescribeTopicPartitionsResponseTopic] = F(
        Array(DescribeTopicPartitionsResponseTopic)
    )
    next_cursor: Cursor | None = F(Cursor, nullable=0, default=None)
