"""DescribeTopicPartitions (key 75), version 0: topics and their partitions, page by page.

Behaviour:  no topics in the request mean all of them. Topics are answered in the order of their
            names, each once, however often it is named, and those before the cursor's topic not
            at all. A page has at most response_partition_limit partitions, and never more than
            PARTITIONS_MAX, but always room for one, so that each page gets the client further;
            next_cursor says where the next page begins, null that this was the last. Topics with an
            error take no place on the page: an unknown name is UNKNOWN_TOPIC_OR_PARTITION, one that
            cannot exist INVALID_TOPIC_EXCEPTION; nothing is created. A cursor whose topic is not
            among those named is INVALID_REQUEST for each of them. A partition whose leader is not
            live, or whose log is offline on this shard, has leader -1 and its leader among the
            offline replicas. Authorized operations are all of them, and always told, as in Kafka.
            Leaders are never elected from outside the ISR, so the lists of eligible replicas are
            empty (Kafka's admin client does not take null).
Deviations: none known.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
)
from rpk_py.cluster_view import TOPIC_OPERATIONS, leader_and_offline
from rpk_py.context import RequestContext
from rpk_py.metadata.state import PartitionState, TopicState
from rpk_py.metadata.topic_plan import name_problem
from rpk_py.turns import SLICE_ITEMS, Large

PARTITIONS_MAX: Final = 2000  # Kafka's default of max.request.partition.size.limit


def handle(
    ctx: RequestContext, request: DescribeTopicPartitionsRequest
) -> DescribeTopicPartitionsResponse | Large:
    """Answer one page from the shard's replica of the metadata, a large one in slices."""
    topics = len(request.topics) or len(ctx.broker.metadata.state.topics)
    count = max(topics, request.response_partition_limit)
    return ctx.broker.turns.reply(_answer(ctx, request), count)


def _answer(
    ctx: RequestContext, request: DescribeTopicPartitionsRequest
) -> Generator[None, None, DescribeTopicPartitionsResponse]:
    topics = ctx.broker.metadata.state.topics
    cursor = request.cursor or Cursor()
    asked = {topic.name for topic in request.topics} or set(topics)
    if request.topics and request.cursor is not None and cursor.topic_name not in asked:
        return DescribeTopicPartitionsResponse(
            topics=[
                DescribeTopicPartitionsResponseTopic(ErrorCode.INVALID_REQUEST, name)
                for name in sorted(asked)
            ]
        )
    response = DescribeTopicPartitionsResponse()
    room = max(min(request.response_partition_limit, PARTITIONS_MAX), 1)
    for number, name in enumerate(sorted(name for name in asked if name >= cursor.topic_name), 1):
        if not number % SLICE_ITEMS:
            yield
        start = max(cursor.partition_index, 0) if name == cursor.topic_name else 0
        if room <= 0:
            response.next_cursor = Cursor(name, start)
            break
        topic = topics.get(name)
        if topic is None:
            response.topics.append(_unknown(name))
            continue
        page = topic.partitions[start : start + room]
        response.topics.append((yield from _found(ctx, topic, page)))
        if start + len(page) < len(topic.partitions):
            response.next_cursor = Cursor(name, start + len(page))
            break
        room -= len(page)
    return response


def _unknown(name: str) -> DescribeTopicPartitionsResponseTopic:
    error = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if name_problem(name) is not None:
        error = ErrorCode.INVALID_TOPIC_EXCEPTION
    return DescribeTopicPartitionsResponseTopic(
        error, name, topic_authorized_operations=TOPIC_OPERATIONS
    )


def _found(
    ctx: RequestContext, topic: TopicState, page: list[PartitionState]
) -> Generator[None, None, DescribeTopicPartitionsResponseTopic]:
    answer = DescribeTopicPartitionsResponseTopic(
        ErrorCode.NONE, topic.name, topic.topic_id, topic.internal, [], TOPIC_OPERATIONS
    )
    for partition in page:
        answer.partitions.append(_partition(ctx, topic, partition))
        if not len(answer.partitions) % SLICE_ITEMS:
            yield
    return answer


def _partition(
    ctx: RequestContext, topic: TopicState, partition: PartitionState
) -> DescribeTopicPartitionsResponsePartition:
    leader, offline = leader_and_offline(ctx, topic, partition)
    return DescribeTopicPartitionsResponsePartition(
        ErrorCode.NONE,
        partition.index,
        leader,
        partition.leader_epoch,
        partition.replicas,
        partition.isr,
        eligible_leader_replicas=[],
        last_known_elr=[],
        offline_replicas=offline,
    )
