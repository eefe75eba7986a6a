"""Metadata (key 3), versions 0-13: the brokers, the topics and who leads each partition.

v1 rack, controller, internal topics, null for all topics (v0: an empty list); v2 cluster id;
v3 throttle time; v4 allow_auto_topic_creation; v5 offline replicas; v7 leader epoch; v8 authorized
operations; v9 flexible; v10 topic ids; v11 no cluster operations; v12 topics by id; v13 error code.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import BOOL, INT16, INT32, STRING, UUID, Array, F, message, struct

# The value of the authorized operations where the client did not ask for them.
OPERATIONS_NOT_ASKED = -(2**31)


@struct
class MetadataRequestTopic:
    topic_id: bytes = F(UUID, since=10)
    name: str | None = F(STRING, nullable=10)


@message(api_key=ApiKey.METADATA, kind="request", versions=(0, 13), flexible=9)
class MetadataRequest:
    topics: list[MetadataRequestTopic] | None = F(Array(MetadataRequestTopic), nullable=1)
    allow_auto_topic_creation: bool = F(BOOL, since=4, default=True)
    include_cluster_authorized_operations: bool = F(BOOL, since=8, until=10)
    include_topic_authorized_operations: bool = F(BOOL, since=8)


@struct
class MetadataResponseBroker:
    node_id: int = F(INT32)
    host: str = F(STRING)
    port: int = F(INT32)
    rack: str | None = F(STRING, since=1, nullable=1, default=None)


@struct
class MetadataResponsePartition:
    error_code: int = F(INT16)
    partition_index: int = F(INT32)
    leader_id: int = F(INT32)
    leader_epoch: int = F(INT32, since=7, default=-1)
    replica_nodes: list[int] = F(Array(INT32))
    isr_nodes: list[int] = F(Array(INT32))
    offline_replicas: list[int] = F(Array(INT32), since=5)


@struct
class MetadataResponseTopic:
    error_code: int = F(INT16)
    name: str | None = F(STRING, nullable=12)
    topic_id: bytes = F(UUID, since=10)
    is_internal: bool = F(BOOL, since=1)
    partitions: list[MetadataResponsePartition] = F(Array(MetadataResponsePartition))
    topic_authorized_operations: int = F(INT32, since=8, default=OPERATIONS_NOT_ASKED)


@message(api_key=ApiKey.METADATA, kind="response", versions=(0, 13), flexible=9)
class MetadataResponse:
    throttle_time_ms: int = F(INT32, since=3)
    brokers: list[MetadataResponseBroker] = F(Array(MetadataResponseBroker))
    cluster_id: str | None = F(STRING, since=2, nullable=2, default=None)
    controller_id: int = F(INT32, since=1, default=-1)
    topics: list[MetadataResponseTopic] = F(Array(MetadataResponseTopic))
    cluster_authorized_operations: int = F(INT32, since=8, until=10, default=OPERATIONS_NOT_ASKED)
    error_code: int = F(INT16, since=13)
