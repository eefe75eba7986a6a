"""OffsetCommit (key 8), versions 2-10: note how far a group has come.

v3  throttle_time_ms      v5  retention_time_ms is gone   v6  leader epochs
v7  static members        v8  flexible                    v9  consumer groups (KIP-848)
v10 topic ids instead of names

Behaviour:  the reply leaves when the offsets are durable; the next request of the connection need
            not wait for that. A partition that does not exist is UNKNOWN_TOPIC_OR_PARTITION (an id:
            UNKNOWN_TOPIC_ID), the others of the request are committed. Members of the group must be
            in its generation; anybody may commit with generation -1 while the group is empty.
Deviations: all that stand in one request are durable together, in one batch of at most
            max.message.bytes: INVALID_COMMIT_OFFSET_SIZE above that.
Source:     KafkaApis.handleOffsetCommitRequest, OffsetMetadataManager of Apache Kafka 4.1.
"""

from __future__ import annotations

from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from rpk_py.context import RequestContext
from rpk_py.groups.offsets import CommitRequest, OffsetToCommit
from rpk_py.metadata.state import TopicState
from rpk_py.pending import Pending, reply_of

_BY_ID_SINCE: Final = 10


def handle(ctx: RequestContext, request: OffsetCommitRequest) -> OffsetCommitResponse | Pending:
    """Commit what names partitions that exist; the reply is pending until it is durable."""
    by_id = ctx.api_version >= _BY_ID_SINCE
    response = OffsetCommitResponse()
    commits: list[OffsetToCommit] = []
    waiting: list[OffsetCommitResponsePartition] = []
    for topic in request.topics:
        answers: list[OffsetCommitResponsePartition] = []
        known = _known(ctx, topic, by_id)
        missing = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if known is None and by_id:
            missing = ErrorCode.UNKNOWN_TOPIC_ID
        for each in topic.partitions:
            index = each.partition_index
            answer = OffsetCommitResponsePartition(index, missing)
            answers.append(answer)
            if known is None:
                continue
            if not 0 <= index < len(known.partitions):
                answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                continue
            waiting.append(answer)
            commits.append(
                OffsetToCommit(
                    known.name,
                    index,
                    each.committed_offset,
                    each.committed_leader_epoch,
                    each.committed_metadata,
                    known.topic_id,
                )
            )
        response.topics.append(OffsetCommitResponseTopic(topic.name, topic.topic_id, answers))
    if request.topics and not commits:
        return response
    commit = CommitRequest(
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        generation=request.generation_id_or_member_epoch,
        api_version=ctx.api_version,
        commits=commits,
        retention_ms=request.retention_time_ms,
    )

    def answered(error: ErrorCode, errors: list[ErrorCode]) -> OffsetCommitResponse:
        for i, answer in enumerate(waiting):
            answer.error_code = error or errors[i]
        return response

    groups = ctx.broker.groups
    result: OffsetCommitResponse | Pending = reply_of(
        lambda answer: groups.commit(
            request.group_id, commit, lambda error, errors: answer(answered(error, errors))
        ),
        pipelined=True,
    )
    return result


def _known(ctx: RequestContext, topic: OffsetCommitRequestTopic, by_id: bool) -> TopicState | None:
    state = ctx.broker.metadata.state
    return state.topics_by_id.get(topic.topic_id) if by_id else state.topics.get(topic.name)
