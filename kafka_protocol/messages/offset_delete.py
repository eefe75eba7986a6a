"""OffsetDelete (key 47), version 0: committed offsets of single partitions go (KIP-496).

It has no flexible version.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, NEVER, STRING, Array, F, message, struct


@struct
class OffsetDeleteRequestPartition:
    partition_index: int = F(INT32)


@struct
class OffsetDeleteRequestTopic:
    name: str = F(STRING)
    partitions: list[OffsetDeleteRequestPartition] = F(Array(OffsetDeleteRequestPartition))


@message(api_key=ApiKey.OFFSET_DELETE, kind="request", versions=(0, 0), flexible=NEVER)
class OffsetDeleteRequest:
    group_id: str = F(STRING)
    topics: list[OffsetDeleteRequestTopic] = F(Array(OffsetDeleteRequestTopic))


@struct
class OffsetDeleteResponsePartition:
    partition_index: int = F(INT32)
    error_code: int = F(INT16)


@struct
class OffsetDeleteResponseTopic:
    name: str = F(STRING)
    partitions: list[OffsetDeleteResponsePartition] = F(Array(OffsetDeleteResponsePartition))


@message(api_key=ApiKey.OFFSET_DELETE, kind="response", versions=(0, 0), flexible=NEVER)
class OffsetDeleteResponse:
    error_code: int = F(INT16)
    throttle_time_ms: int = F(INT32)
    topics: list[OffsetDeleteResponseTopic] = F(Array(OffsetDeleteResponseTopic))
