"""DeleteRecords (key 21), versions 0-2: drop what lies before an offset of a partition.

v1 the same; v2 flexible. Offset -1 is the high watermark; the answer's low watermark is the first
offset that is left, -1 beside an error.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, INT64, STRING, Array, F, message, struct


@struct
class DeleteRecordsPartition:
    partition_index: int = F(INT32)
    offset: int = F(INT64)


@struct
class DeleteRecordsTopic:
    name: str = F(STRING)
    partitions: list[DeleteRecordsPartition] = F(Array(DeleteRecordsPartition))


@message(api_key=ApiKey.DELETE_RECORDS, kind="request", versions=(0, 2), flexible=2)
class DeleteRecordsRequest:
    topics: list[DeleteRecordsTopic] = F(Array(DeleteRecordsTopic))
    timeout_ms: int = F(INT32)


@struct
class DeleteRecordsPartitionResult:
    partition_index: int = F(INT32)
    low_watermark: int = F(INT64)
    error_code: int = F(INT16)


@struct
class DeleteRecordsTopicResult:
    name: str = F(STRING)
    partitions: list[DeleteRecordsPartitionResult] = F(Array(DeleteRecordsPartitionResult))


@message(api_key=ApiKey.DELETE_RECORDS, kind="response", versions=(0, 2), flexible=2)
class DeleteRecordsResponse:
    throttle_time_ms: int = F(INT32)
    topics: list[DeleteRecordsTopicResult] = F(Array(DeleteRecordsTopicResult))
