"""OffsetDelete (key 47), version 0: some of a group's committed offsets go.

Behaviour:  a topic that members subscribe to is GROUP_SUBSCRIBED_TO_TOPIC; a group that is not of
            consumers must be empty. A partition that does not exist is UNKNOWN_TOPIC_OR_PARTITION.
            What was not committed is deleted without an error.
Deviations: none known.
Source:     KafkaApis.handleOffsetDeleteRequest of Apache Kafka 4.1; KIP-496.
"""

from __future__ import annotations

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from rpk_py.context import RequestContext
from rpk_py.groups.timeline import TopicPartition
from rpk_py.pending import Pending, reply_of


def handle(ctx: RequestContext, request: OffsetDeleteRequest) -> OffsetDeleteResponse | Pending:
    """Delete them; the reply is pending until that is durable."""
    topics = ctx.broker.metadata.state.topics
    response = OffsetDeleteResponse(error_code=ErrorCode.NONE)
    waiting: list[OffsetDeleteResponsePartition] = []
    wanted: list[TopicPartition] = []
    for topic in request.topics:
        known = topics.get(topic.name)
        answers: list[OffsetDeleteResponsePartition] = []
        for each in topic.partitions:
            answer = OffsetDeleteResponsePartition(
                each.partition_index, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            )
            answers.append(answer)
            if known is not None and 0 <= each.partition_index < len(known.partitions):
                waiting.append(answer)
                wanted.append((topic.name, each.partition_index))
        response.topics.append(OffsetDeleteResponseTopic(topic.name, answers))

    def answered(error: ErrorCode, errors: list[ErrorCode]) -> OffsetDeleteResponse:
        if error:
            return OffsetDeleteResponse(error_code=error)
        for answer, own in zip(waiting, errors, strict=True):
            answer.error_code = own
        return response

    groups = ctx.broker.groups
    result: OffsetDeleteResponse | Pending = reply_of(
        lambda answer: groups.delete_offsets(
            request.group_id, wanted, lambda error, errors: answer(answered(error, errors))
        )
    )
    return result
