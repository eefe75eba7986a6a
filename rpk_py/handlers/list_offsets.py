"""ListOffsets (key 2), versions 1-11: the offset at a timestamp, or at the start or end of a log.

v1   timestamps -1 latest, -2 earliest      v2   isolation level, throttle_time_ms
v4   leader epochs                          v6   flexible
v7   -3 greatest timestamp                  v8   -4 earliest local offset
v9   -5 latest tiered offset                v10  timeout_ms (of remote storage)
v11  -6 earliest offset to be tiered

Behaviour:  a time is answered with the first record at or after it and that record's timestamp;
            nothing found is offset -1 and no error. Consumers see records below the high watermark,
            with read_committed below the last stable offset; -1 is that bound itself, to other
            replica ids the log end. The log is not tiered: -4 is the log start, -5 and -6 are -1
            without an error. A negative timestamp that does not exist in the request's version is
            UNSUPPORTED_VERSION, a partition that stands twice in the request INVALID_REQUEST.
Deviations: timeout_ms is not used, nothing here waits for remote storage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Generator
from typing import Final, TypeAlias

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from rpk_py.context import RequestContext
from rpk_py.partition import Partition
from rpk_py.turns import LARGE_ITEMS, SLICE_ITEMS, Large, at_once
from storage.errors import StorageError

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4
LATEST_TIERED: Final = -5
EARLIEST_PENDING_UPLOAD: Final = -6

_SINCE: Final = {
    LATEST: 1,
    EARLIEST: 1,
    MAX_TIMESTAMP: 7,
    EARLIEST_LOCAL: 8,
    LATEST_TIERED: 9,
    EARLIEST_PENDING_UPLOAD: 11,
}
_CONSUMER: Final = -1  # as replica_id
_READ_COMMITTED: Final = 1

_Search: TypeAlias = tuple[Partition, int, int, ListOffsetsPartitionResponse]
"""Partition, timestamp, exclusive upper bound of the offset, and the answer to fill in."""


def handle(
    ctx: RequestContext, request: ListOffsetsRequest
) -> ListOffsetsResponse | Awaitable[ListOffsetsResponse] | Large:
    """Answer at once where no log has to be searched, else when all searches are done."""
    response, searches = ListOffsetsResponse(), []  # type: ListOffsetsResponse, list[_Search]
    work = _look_up(ctx, request, response, searches)
    if sum(len(topic.partitions) for topic in request.topics) > LARGE_ITEMS:

        async def make() -> ListOffsetsResponse:
            await ctx.broker.turns.sliced(work)
            return await _search(searches, response)

        return Large(make)
    at_once(work)
    return _search(searches, response) if searches else response


def _look_up(
    ctx: RequestContext,
    request: ListOffsetsRequest,
    response: ListOffsetsResponse,
    searches: list[_Search],
) -> Generator[None, None, None]:
    """Fill in the response, but for what the logs must be searched for."""
    counts = Counter(
        (topic.name, asked.partition_index)
        for topic in request.topics
        for asked in topic.partitions
    )
    for topic in request.topics:
        answers = ListOffsetsTopicResponse(topic.name)
        response.topics.append(answers)
        for asked in topic.partitions:
            answer = ListOffsetsPartitionResponse(asked.partition_index)
            answers.partitions.append(answer)
            if counts[topic.name, asked.partition_index] > 1:
                answer.error_code = ErrorCode.INVALID_REQUEST
            else:
                answer.error_code = _answer(ctx, request, topic.name, asked, answer, searches)
            if not len(answers.partitions) % SLICE_ITEMS:
                yield
        yield


def _answer(
    ctx: RequestContext,
    request: ListOffsetsRequest,
    topic: str,
    asked: ListOffsetsPartition,
    answer: ListOffsetsPartitionResponse,
    searches: list[_Search],
) -> ErrorCode:
    """Fill in one partition's answer, or add to `searches` what needs the log to be read."""
    timestamp = asked.timestamp
    if timestamp < 0 and ctx.api_version < _SINCE.get(timestamp, ctx.api_version + 1):
        return ErrorCode.UNSUPPORTED_VERSION
    partitions = ctx.broker.partitions
    partition = partitions.get(topic, asked.partition_index)
    if partition is None:
        state = ctx.broker.metadata.state
        return partitions.why_missing(state, topic, None, asked.partition_index)[0]
    error = partition.check_leader_epoch(asked.current_leader_epoch)
    if error != ErrorCode.NONE:
        return error
    log = partition.log
    assert log is not None  # it would be offline, which is an error above
    if request.replica_id != _CONSUMER:
        end_offset = log.log_end_offset
    elif request.isolation_level == _READ_COMMITTED:
        end_offset = partition.last_stable_offset
    else:
        end_offset = partition.high_watermark
    if timestamp == LATEST:
        answer.offset = end_offset
        answer.leader_epoch = partition.leader_epoch
    elif timestamp in (EARLIEST, EARLIEST_LOCAL):
        answer.offset = partition.log_start_offset
        answer.leader_epoch = log.epoch_for_offset(answer.offset)
    elif timestamp not in (LATEST_TIERED, EARLIEST_PENDING_UPLOAD):
        searches.append((partition, timestamp, end_offset, answer))
    return ErrorCode.NONE


async def _search(searches: list[_Search], response: ListOffsetsResponse) -> ListOffsetsResponse:
    """Search the logs one after the other, which bounds what one request has in flight."""
    for partition, timestamp, end_offset, answer in searches:
        log = partition.log
        assert log is not None
        try:
            if timestamp == MAX_TIMESTAMP:
                found = await log.max_timestamp_offset(end_offset)
            else:
                found = await log.offset_for_timestamp(timestamp, end_offset)
        except StorageError:
            answer.error_code = ErrorCode.KAFKA_STORAGE_ERROR
            continue
        if found is not None:
            answer.offset, answer.timestamp = found
            answer.leader_epoch = log.epoch_for_offset(answer.offset)
    return response
