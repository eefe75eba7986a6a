"""OffsetForLeaderEpoch (key 23), versions 2-4: where does an epoch end in the leader's log?

v2 current leader epoch and throttle time; v3 replica id; v4 flexible.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, INT64, STRING, Array, F, message, struct


@struct
class OffsetForLeaderPartition:
    partition: int = F(INT32)
    current_leader_epoch: int = F(INT32, default=-1)
    leader_epoch: int = F(INT32)


@struct
class OffsetForLeaderTopic:
    topic: str = F(STRING)
    partitions: list[OffsetForLeaderPartition] = F(Array(OffsetForLeaderPartition))


@message(api_key=ApiKey.OFFSET_FOR_LEADER_EPOCH, kind="request", versions=(2, 4), flexible=4)
class OffsetForLeaderEpochRequest:
    replica_id: int = F(INT32, since=3, default=-2)
    topics: list[OffsetForLeaderTopic] = F(Array(OffsetForLeaderTopic))


@struct
class EpochEndOffset:
    error_code: int = F(INT16)
    partition: int = F(INT32)
    leader_epoch: int = F(INT32, default=-1)
    end_offset: int = F(INT64, default=-1)


@struct
class OffsetForLeaderTopicResult:
    topic: str = F(STRING)
    partitions: list[EpochEndOffset] = F(Array(EpochEndOffset))


@message(api_key=ApiKey.OFFSET_FOR_LEADER_EPOCH, kind="response", versions=(2, 4), flexible=4)
class OffsetForLeaderEpochResponse:
    throttle_time_ms: int = F(INT32)
    topics: list[OffsetForLeaderTopicResult] = F(Array(OffsetForLeaderTopicResult))
