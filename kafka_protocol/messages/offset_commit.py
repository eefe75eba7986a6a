"""OffsetCommit (key 8), versions 2-10: how far a group has come in its partitions.

v3 throttle time; v5 no more retention time; v6 leader epoch; v7 group instance id (KIP-345); v8
flexible; v9 the generation may be a member epoch (KIP-848); v10 topics by id, not by name.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, INT64, STRING, UUID, Array, F, message, struct


@struct
class OffsetCommitRequestPartition:
    partition_index: int = F(INT32)
    committed_offset: int = F(INT64)
    committed_leader_epoch: int = F(INT32, since=6, default=-1)
    committed_metadata: str | None = F(STRING, nullable=0)


@struct
class OffsetCommitRequestTopic:
    name: str = F(STRING, until=9)
    topic_id: bytes = F(UUID, since=10)
    partitions: list[OffsetCommitRequestPartition] = F(Array(OffsetCommitRequestPartition))


@message(api_key=ApiKey.OFFSET_COMMIT, kind="request", versions=(2, 10), flexible=8)
class OffsetCommitRequest:
    group_id: str = F(STRING)
    generation_id_or_member_epoch: int = F(INT32, default=-1)
    member_id: str = F(STRING)
    group_instance_id: str | None = F(STRING, since=7, nullable=7, default=None)
    retention_time_ms: int = F(INT64, until=4, default=-1)
    topics: list[OffsetCommitRequestTopic] = F(Array(OffsetCommitRequestTopic))


@struct
class OffsetCommitResponsePartition:
    partition_index: int = F(INT32)
    error_code: int = F(INT16)


@struct
class OffsetCommitResponseTopic:
    name: str = F(STRING, until=9)
    topic_id: bytes = F(UUID, since=10)
    partitions: list[OffsetCommitResponsePartition] = F(Array(OffsetCommitResponsePartition))


@message(api_key=ApiKey.OFFSET_COMMIT, kind="response", versions=(2, 10), flexible=8)
class OffsetCommitResponse:
    throttle_time_ms: int = F(INT32, since=3)
    topics: list[OffsetCommitResponseTopic] = F(Array(OffsetCommitResponseTopic))
