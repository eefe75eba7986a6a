"""DescribeLogDirs (key 35), versions 1-5: the directories of a broker and the logs in them.

v2 flexible; v3 error code of the whole answer; v4 size and free bytes of the volume (KIP-827);
v5 cordoned directories (KIP-1066).
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import BOOL, INT16, INT32, INT64, STRING, Array, F, message, struct


@struct
class DescribableLogDirTopic:
    topic: str = F(STRING)
    partitions: list[int] = F(Array(INT32))


@message(api_key=ApiKey.DESCRIBE_LOG_DIRS, kind="request", versions=(1, 5), flexible=2)
class DescribeLogDirsRequest:
    topics: list[DescribableLogDirTopic] | None = F(  # null: all of them
        Array(DescribableLogDirTopic), nullable=0
    )


@struct
class DescribeLogDirsPartition:
    partition_index: int = F(INT32)
    partition_size: int = F(INT64)
    offset_lag: int = F(INT64)
    is_future_key: bool = F(BOOL)


@struct
class DescribeLogDirsTopic:
    name: str = F(STRING)
    partitions: list[DescribeLogDirsPartition] = F(Array(DescribeLogDirsPartition))


@struct
class DescribeLogDirsResult:
    error_code: int = F(INT16)
    log_dir: str = F(STRING)
    topics: list[DescribeLogDirsTopic] = F(Array(DescribeLogDirsTopic))
    total_bytes: int = F(INT64, since=4, default=-1)
    usable_bytes: int = F(INT64, since=4, default=-1)
    is_cordoned: bool = F(BOOL, since=5)


@message(api_key=ApiKey.DESCRIBE_LOG_DIRS, kind="response", versions=(1, 5), flexible=2)
class DescribeLogDirsResponse:
    throttle_time_ms: int = F(INT32)
    error_code: int = F(INT16, since=3)
    results: list[DescribeLogDirsResult] = F(Array(DescribeLogDirsResult))
