"""OffsetFetch (key 9), versions 1-10: how far groups have come.

v2  null topics means all; an error of the group   v7  require_stable     v9  member id and epoch
v3  throttle_time_ms   v5  leader epochs           v8  several groups     v10 topic ids
v6  flexible

Behaviour:  what was never committed, in a group that may not exist, is offset -1 without an error
            (a topic id that does not exist: UNKNOWN_TOPIC_ID). Only durable commits are told.
            In a group of the consumer protocol a member that names itself must be in its epoch.
Deviations: there are no transactions, so every commit is stable.
Source:     KafkaApis.handleOffsetFetchRequest, OffsetMetadataManager.fetchOffsets of Kafka 4.1.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponseTopic,
)
from rpk_py.context import RequestContext
from rpk_py.groups.group import Group
from rpk_py.groups.offsets import NO_TOPIC_ID
from rpk_py.turns import SLICE_ITEMS, Large

_GROUP_ERROR_SINCE: Final = 2
_SEVERAL_SINCE: Final = 8
_BY_ID_SINCE: Final = 10
_NO_OFFSET: Final = -1


def handle(ctx: RequestContext, request: OffsetFetchRequest) -> OffsetFetchResponse | Large:
    """Answer from the groups of this shard."""
    wanted = request.groups
    if ctx.api_version < _SEVERAL_SINCE:
        wanted = [OffsetFetchRequestGroup(request.group_id, topics=request.topics)]
    count = 0
    for each in wanted:
        if each.topics is None:
            group = ctx.broker.groups.find(each.group_id)
            count += len(group.offsets) if isinstance(group, Group) else 1
        else:
            count += sum(len(topic.partition_indexes) for topic in each.topics)
    return ctx.broker.turns.reply(_answer(ctx, wanted), count)


def _answer(
    ctx: RequestContext, wanted: list[OffsetFetchRequestGroup]
) -> Generator[None, None, OffsetFetchResponse]:
    answers: list[OffsetFetchResponseGroup] = []
    for each in wanted:
        answers.append((yield from _fetch(ctx, each)))
    if ctx.api_version >= _SEVERAL_SINCE:
        return OffsetFetchResponse(groups=answers)
    return OffsetFetchResponse(topics=answers[0].topics, error_code=answers[0].error_code)


def _fetch(
    ctx: RequestContext, wanted: OffsetFetchRequestGroup
) -> Generator[None, None, OffsetFetchResponseGroup]:
    group = ctx.broker.groups.check_fetch(wanted.group_id, wanted.member_id, wanted.member_epoch)
    answer = OffsetFetchResponseGroup(wanted.group_id)
    error = ErrorCode.NONE
    if isinstance(group, ErrorCode):
        error, group = group, None
        answer.error_code = error
        if ctx.api_version >= _GROUP_ERROR_SINCE:
            return answer
    topics: Iterable[OffsetFetchRequestTopic] | None = wanted.topics
    if topics is None:
        topics = _all(ctx, group)
    number = 0
    for topic in topics:
        told = OffsetFetchResponseTopic(topic.name, topic.topic_id)
        answer.topics.append(told)
        name: str | None = topic.name
        if ctx.api_version >= _BY_ID_SINCE:
            known = ctx.broker.metadata.state.topics_by_id.get(topic.topic_id)
            name = None if known is None else known.name
        for index in topic.partition_indexes:
            told.partitions.append(_partition(group, name, topic.topic_id, index, error))
            number += 1
            if not number % SLICE_ITEMS:
                yield
    return answer


def _partition(
    group: Group | None, name: str | None, topic_id: bytes, index: int, error: ErrorCode
) -> OffsetFetchResponsePartition:
    if name is None:
        error = ErrorCode.UNKNOWN_TOPIC_ID
    committed = None
    if group is not None and name is not None:
        committed = group.offsets.fetch(name, index)
    if committed is not None and NO_TOPIC_ID not in (topic_id, committed.topic_id):
        if committed.topic_id != topic_id:
            committed = None  # of a topic that had this name before
    if committed is None:
        return OffsetFetchResponsePartition(index, _NO_OFFSET, -1, "", error)
    return OffsetFetchResponsePartition(
        index, committed.committed_offset, committed.leader_epoch, committed.metadata, error
    )


def _all(ctx: RequestContext, group: Group | None) -> list[OffsetFetchRequestTopic]:
    """All that the group has committed, as if it had been asked for."""
    if group is None:
        return []
    by_name: dict[str, list[int]] = {}
    for name, index, _ in group.offsets.all():
        by_name.setdefault(name, []).append(index)
    topics = ctx.broker.metadata.state.topics
    return [
        OffsetFetchRequestTopic(name, topics[name].topic_id, sorted(indexes))
        for name, indexes in by_name.items()
        if name in topics
    ]
