"""DeleteRecords (key 21), versions 0-2: move the start of logs forward.

v2  flexible

Behaviour:  offset -1 is the high watermark; one above that or below -1 is OFFSET_OUT_OF_RANGE, one
            below the log start succeeds and changes nothing. The answer's low watermark is the log
            start; it is durable when it is told, and whole segments below it are then given up. A
            topic whose cleanup.policy does not contain "delete" is POLICY_VIOLATION. Of a partition
            that stands twice in the request the last offset counts, and it is answered once.
Deviations: timeout_ms is not used: there is one replica, and nothing to wait for but its disk.
Source:     ReplicaManager.deleteRecords and Partition.deleteRecordsOnLeader of Apache Kafka.
"""

from __future__ import annotations

import asyncio
from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.delete_records import (
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from rpk_py.context import RequestContext
from rpk_py.topic_configs import deletes
from storage.errors import StorageError

HIGH_WATERMARK: Final = -1
_NO_LOW_WATERMARK: Final = -1
_MOVING_MAX: Final = 16  # log starts of one request at a time: each costs a sync


async def handle(ctx: RequestContext, request: DeleteRecordsRequest) -> DeleteRecordsResponse:
    """Move every log start that was asked for, and answer when all are durable."""
    wanted: dict[tuple[str, int], int] = {}
    topics: dict[str, DeleteRecordsTopicResult] = {}
    for topic in request.topics:
        topics.setdefault(topic.name, DeleteRecordsTopicResult(topic.name))
        wanted.update(((topic.name, one.partition_index), one.offset) for one in topic.partitions)
    answers: dict[tuple[str, int], DeleteRecordsPartitionResult] = {}
    todo = iter(wanted.items())

    async def move() -> None:
        for (name, index), offset in todo:
            answers[name, index] = await _answer(ctx, name, index, offset)
            await ctx.broker.turns.pause()

    await asyncio.gather(*(move() for _ in range(min(_MOVING_MAX, len(wanted)))))
    for name, index in wanted:
        topics[name].partitions.append(answers[name, index])
    return DeleteRecordsResponse(topics=list(topics.values()))


async def _answer(
    ctx: RequestContext, topic: str, index: int, offset: int
) -> DeleteRecordsPartitionResult:
    error = await _delete(ctx, topic, index, offset)
    partition = ctx.broker.partitions.get(topic, index)
    if error != ErrorCode.NONE or partition is None:
        return DeleteRecordsPartitionResult(index, _NO_LOW_WATERMARK, error)
    return DeleteRecordsPartitionResult(index, partition.log_start_offset, ErrorCode.NONE)


async def _delete(ctx: RequestContext, topic: str, index: int, offset: int) -> ErrorCode:
    """Move one log start; NONE when that is durable."""
    partitions, state = ctx.broker.partitions, ctx.broker.metadata.state
    partition = partitions.get(topic, index)
    if partition is None:
        return partitions.why_missing(state, topic, None, index)[0]
    if partition.offline or partition.log is None:
        return ErrorCode.KAFKA_STORAGE_ERROR
    known = state.topics[topic]
    if known.internal:
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    if not deletes(known.configs, ctx.broker.config):
        return ErrorCode.POLICY_VIOLATION
    if offset == HIGH_WATERMARK:
        offset = partition.high_watermark
    if not 0 <= offset <= partition.high_watermark:
        return ErrorCode.OFFSET_OUT_OF_RANGE
    try:
        await partition.log.delete_records(offset)
        partition.wake_fetches()
    except StorageError:
        if partitions.get(topic, index) is partition:
            return ErrorCode.KAFKA_STORAGE_ERROR
    if partitions.get(topic, index) is not partition:  # it was deleted meanwhile, or moved away
        return partitions.why_missing(ctx.broker.metadata.state, topic, None, index)[0]
    return ErrorCode.NONE
