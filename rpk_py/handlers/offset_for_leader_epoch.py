"""OffsetForLeaderEpoch (key 23), versions 2-4: where an epoch ended, so that a consumer finds out
whether the log was cut behind its back.

v2  current_leader_epoch in the request; the newest that librdkafka sends
v3  replica_id; the oldest that Java uses
v4  flexible

Behaviour:  for the largest epoch at or below the asked one, its number and its end offset, which
            for the current epoch is the log end. An epoch that the log knows nothing of is answered
            with epoch -1 and offset -1 and no error. current_leader_epoch is checked first (older
            than ours: FENCED_LEADER_EPOCH, newer: UNKNOWN_LEADER_EPOCH, -1: not checked).
Deviations: none known.
"""

from __future__ import annotations

from collections.abc import Generator

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
)
from rpk_py.context import RequestContext
from rpk_py.turns import SLICE_ITEMS, Large


def handle(
    ctx: RequestContext, request: OffsetForLeaderEpochRequest
) -> OffsetForLeaderEpochResponse | Large:
    """Answer from the logs' epoch histories, in the order of the request."""
    count = sum(len(topic.partitions) for topic in request.topics)
    return ctx.broker.turns.reply(_answer(ctx, request), count)


def _answer(
    ctx: RequestContext, request: OffsetForLeaderEpochRequest
) -> Generator[None, None, OffsetForLeaderEpochResponse]:
    response = OffsetForLeaderEpochResponse()
    for topic in request.topics:
        result = OffsetForLeaderTopicResult(topic.topic)
        response.topics.append(result)
        for asked in topic.partitions:
            result.partitions.append(_end_offset(ctx, topic.topic, asked))
            if not len(result.partitions) % SLICE_ITEMS:
                yield
        yield
    return response


def _end_offset(ctx: RequestContext, topic: str, asked: OffsetForLeaderPartition) -> EpochEndOffset:
    answer = EpochEndOffset(partition=asked.partition)
    partitions = ctx.broker.partitions
    partition = partitions.get(topic, asked.partition)
    if partition is None:
        state = ctx.broker.metadata.state
        answer.error_code, _ = partitions.why_missing(state, topic, None, asked.partition)
        return answer
    answer.error_code = partition.check_leader_epoch(asked.current_leader_epoch)
    if answer.error_code == ErrorCode.NONE:
        log = partition.log
        assert log is not None  # it would be offline, which is an error above
        answer.leader_epoch, answer.end_offset = log.end_offset_for_epoch(asked.leader_epoch)
    return answer
