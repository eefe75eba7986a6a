"""CreateTopics (key 19), versions 2-7.

v4 partitions and replication factor -1 mean the broker's default (KIP-464); v5 flexible, the answer
tells partitions, replication factor and configs; v6 quota errors; v7 topic id.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
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


@struct
class CreatableReplicaAssignment:
    partition_index: int = F(INT32)
    broker_ids: list[int] = F(Array(INT32))


@struct
class CreatableTopicConfig:
    name: str = F(STRING)
    value: str | None = F(STRING, nullable=0, default=None)


@struct
class CreatableTopic:
    name: str = F(STRING)
    num_partitions: int = F(INT32)
    replication_factor: int = F(INT16)
    assignments: list[CreatableReplicaAssignment] = F(Array(CreatableReplicaAssignment))
    configs: list[CreatableTopicConfig] = F(Array(CreatableTopicConfig))


@message(api_key=ApiKey.CREATE_TOPICS, kind="request", versions=(2, 7), flexible=5)
class CreateTopicsRequest:
    topics: list[CreatableTopic] = F(Array(CreatableTopic))
    timeout_ms: int = F(INT32, default=60000)
    validate_only: bool = F(BOOL)


@struct
class CreatableTopicConfigs:
    name: str = F(STRING)
    value: str | None = F(STRING, nullable=5, default=None)
    read_only: bool = F(BOOL)
    config_source: int = F(INT8, default=-1)
    is_sensitive: bool = F(BOOL)


@struct
class CreatableTopicResult:
    name: str = F(STRING)
    topic_id: bytes = F(UUID, since=7)
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, nullable=0, default=None)
    topic_config_error_code: int = F(INT16, since=5, tag=0)
    num_partitions: int = F(INT32, since=5, default=-1)
    replication_factor: int = F(INT16, since=5, default=-1)
    configs: list[CreatableTopicConfigs] | None = F(
        Array(CreatableTopicConfigs), since=5, nullable=5
    )


@message(api_key=ApiKey.CREATE_TOPICS, kind="response", versions=(2, 7), flexible=5)
class CreateTopicsResponse:
    throttle_time_ms: int = F(INT32)
    topics: list[CreatableTopicResult] = F(Array(CreatableTopicResult))
