"""OffsetFetch (key 9), versions 1-10: the committed offsets of groups.

v2 null for all topics, error code of the whole answer; v3 throttle time; v5 leader epoch; v6
flexible; v7 require stable (KIP-447); v8 many groups at once (KIP-709), the fields of the one
group are gone; v9 member id and epoch (KIP-848); v10 topics by id, not by name.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import (
    BOOL,
    INT16,
    INT32,
    INT64,
    STRING,
    UUID,
    Array,
    F,
    message,
    struct,
)


@struct
class OffsetFetchRequestTopic:
    name: str = F(STRING, until=9)
    topic_id: bytes = F(UUID, since=10)
    partition_indexes: list[int] = F(Array(INT32))


@struct
class OffsetFetchRequestGroup:
    group_id: str = F(STRING)
    member_id: str | None = F(STRING, since=9, nullable=9, default=None)
    member_epoch: int = F(INT32, since=9, default=-1)
    topics: list[OffsetFetchRequestTopic] | None = F(Array(OffsetFetchRequestTopic), nullable=8)


@message(api_key=ApiKey.OFFSET_FETCH, kind="request", versions=(1, 10), flexible=6)
class OffsetFetchRequest:
    group_id: str = F(STRING, until=7)
    topics: list[OffsetFetchRequestTopic] | None = F(
        Array(OffsetFetchRequestTopic), until=7, nullable=2
    )
    groups: list[OffsetFetchRequestGroup] = F(Array(OffsetFetchRequestGroup), since=8)
    require_stable: bool = F(BOOL, since=7)


@struct
class OffsetFetchResponsePartition:
    partition_index: int = F(INT32)
    committed_offset: int = F(INT64)
    committed_leader_epoch: int = F(INT32, since=5, default=-1)
    metadata: str | None = F(STRING, nullable=0)
    error_code: int = F(INT16)


@struct
class OffsetFetchResponseTopic:
    name: str = F(STRING, until=9)
    topic_id: bytes = F(UUID, since=10)
    partitions: list[OffsetFetchResponsePartition] = F(Array(OffsetFetchResponsePartition))


@struct
class OffsetFetchResponseGroup:
    group_id: str = F(STRING)
    topics: list[OffsetFetchResponseTopic] = F(Array(OffsetFetchResponseTopic))
    error_code: int = F(INT16)


@message(api_key=ApiKey.OFFSET_FETCH, kind="response", versions=(1, 10), flexible=6)
class OffsetFetchResponse:
    throttle_time_ms: int = F(INT32, since=3)
    topics: list[OffsetFetchResponseTopic] = F(Array(OffsetFetchResponseTopic), until=7)
    error_code: int = F(INT16, since=2, until=7)
    groups: list[OffsetFetchResponseGroup] = F(Array(OffsetFetchResponseGroup), since=8)
