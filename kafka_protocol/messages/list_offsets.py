"""ListOffsets (key 2), versions 1-11: the offset at a timestamp, or at the start or end of a log.

v2 isolation level and throttle time; v4 leader epochs; v6 flexible; v7 timestamp -3 (the greatest
timestamp); v8 -4 (earliest local); v9 -5 (latest tiered); v10 timeout; v11 -6 (earliest pending).
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT8, INT16, INT32, INT64, STRING, Array, F, message, struct


@struct
class ListOffsetsPartition:
    partition_index: int = F(INT32)
    current_leader_epoch: int = F(INT32, since=4, default=-1)
    timestamp: int = F(INT64)


@struct
class ListOffsetsTopic:
    name: str = F(STRING)
    partitions: list[ListOffsetsPartition] = F(Array(ListOffsetsPartition))


@message(api_key=ApiKey.LIST_OFFSETS, kind="request", versions=(1, 11), flexible=6)
class ListOffsetsRequest:
    replica_id: int = F(INT32)
    isolation_level: int = F(INT8, since=2)
    topics: list[ListOffsetsTopic] = F(Array(ListOffsetsTopic))
    timeout_ms: int = F(INT32, since=10)


@struct
class ListOffsetsPartitionResponse:
    partition_index: int = F(INT32)
    error_code: int = F(INT16)
    timestamp: int = F(INT64, default=-1)
    offset: int = F(INT64, default=-1)
    leader_epoch: int = F(INT32, since=4, default=-1)


@struct
class ListOffsetsTopicResponse:
    name: str = F(STRING)
    partitions: list[ListOffsetsPartitionResponse] = F(Array(ListOffsetsPartitionResponse))


@message(api_key=ApiKey.LIST_OFFSETS, kind="response", versions=(1, 11), flexible=6)
class ListOffsetsResponse:
    throttle_time_ms: int = F(INT32, since=2)
    topics: list[ListOffsetsTopicResponse] = F(Array(ListOffsetsTopicResponse))
