"""CreatePartitions (key 37), versions 0-3: more partitions for topics that exist.

v1 the same; v2 flexible; v3 quota errors (KIP-599). Count is the new total and not an increment;
assignments are the replicas of the new partitions only, null leaves them to the broker.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import BOOL, INT16, INT32, STRING, Array, F, message, struct


@struct
class CreatePartitionsAssignment:
    broker_ids: list[int] = F(Array(INT32))


@struct
class CreatePartitionsTopic:
    name: str = F(STRING)
    count: int = F(INT32)
    assignments: list[CreatePartitionsAssignment] | None = F(
        Array(CreatePartitionsAssignment), nullable=0
    )


@message(api_key=ApiKey.CREATE_PARTITIONS, kind="request", versions=(0, 3), flexible=2)
class CreatePartitionsRequest:
    topics: list[CreatePartitionsTopic] = F(Array(CreatePartitionsTopic))
    timeout_ms: int = F(INT32)
    validate_only: bool = F(BOOL)


@struct
class CreatePartitionsTopicResult:
    name: str = F(STRING)
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, nullable=0, default=None)


@message(api_key=ApiKey.CREATE_PARTITIONS, kind="response", versions=(0, 3), flexible=2)
class CreatePartitionsResponse:
    throttle_time_ms: int = F(INT32)
    results: list[CreatePartitionsTopicResult] = F(Array(CreatePartitionsTopicResult))
