"""ConsumerGroupDescribe (key 69), versions 0-1: members and assignments of KIP-848 groups.

v1  the type of each member

Behaviour:  a group that does not exist, or is a classic one, is GROUP_ID_NOT_FOUND. What a member
            has and what it is to have are told apart. Partitions of topics that are gone are left
            out.
Deviations: none known.
Source:     GroupCoordinatorService.consumerGroupDescribe of Apache Kafka 4.1.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.consumer_group_describe import (
    Assignment,
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    DescribedGroup,
    Member,
    TopicPartitions,
)
from rpk_py.cluster_view import GROUP_OPERATIONS
from rpk_py.context import RequestContext
from rpk_py.groups.consumer_members import ConsumerMember
from rpk_py.groups.group import Group
from rpk_py.groups.timeline import bounded_text
from rpk_py.metadata.state import TopicState
from rpk_py.turns import SLICE_ITEMS, Large

_MEMBER_OF_CONSUMER_PROTOCOL: Final = 1


def handle(
    ctx: RequestContext, request: ConsumerGroupDescribeRequest
) -> ConsumerGroupDescribeResponse | Large:
    """Answer from the groups of this shard."""
    count = len(request.group_ids)
    for group_id in request.group_ids:
        group = ctx.broker.groups.find(group_id)
        if isinstance(group, Group) and group.consumer is not None:
            count += len(group.consumer.members)
    return ctx.broker.turns.reply(_answer(ctx, request), count)


def _answer(
    ctx: RequestContext, request: ConsumerGroupDescribeRequest
) -> Generator[None, None, ConsumerGroupDescribeResponse]:
    response = ConsumerGroupDescribeResponse()
    for group_id in request.group_ids:
        told = yield from _describe(ctx, group_id)
        if request.include_authorized_operations and not told.error_code:
            told.authorized_operations = GROUP_OPERATIONS
        response.groups.append(told)
        yield
    return response


def _describe(ctx: RequestContext, group_id: str) -> Generator[None, None, DescribedGroup]:
    found = ctx.broker.groups.find(group_id)
    told = DescribedGroup(group_id=group_id)
    if isinstance(found, ErrorCode):
        told.error_code = found
        if found is ErrorCode.GROUP_ID_NOT_FOUND:
            told.error_message = bounded_text(f"Group {group_id} not found.")
        return told
    if found.consumer is None:
        told.error_code = ErrorCode.GROUP_ID_NOT_FOUND
        told.error_message = bounded_text(f"Group {group_id} is not a consumer group.")
        return told
    group = found.consumer
    told.group_state = group.state_name
    told.group_epoch, told.assignment_epoch = group.epoch, group.assignment_epoch
    told.assignor_name = group.assignor
    topics = ctx.broker.metadata.state.topics_by_id
    for number, member in enumerate(list(group.members.values()), 1):
        target = group.target.get(member.member_id, {})
        told.members.append(_member(member, target, topics))
        if not number % SLICE_ITEMS:
            yield
    return told


def _member(
    member: ConsumerMember,
    target: Mapping[bytes, frozenset[int]],
    topics: Mapping[bytes, TopicState],
) -> Member:
    return Member(
        member_id=member.member_id,
        instance_id=member.instance_id,
        rack_id=member.rack_id,
        member_epoch=member.member_epoch,
        client_id=member.client_id,
        client_host=member.client_host,
        subscribed_topic_names=list(member.subscribed_topics),
        subscribed_topic_regex=member.subscribed_regex,
        assignment=_assignment(member.assigned, topics),
        target_assignment=_assignment(target, topics),
        member_type=_MEMBER_OF_CONSUMER_PROTOCOL,
    )


def _assignment(
    owned: Mapping[bytes, frozenset[int]], topics: Mapping[bytes, TopicState]
) -> Assignment:
    return Assignment(
        [
            TopicPartitions(topic_id, topics[topic_id].name, sorted(indexes))
            for topic_id, indexes in owned.items()
            if topic_id in topics
        ]
    )
