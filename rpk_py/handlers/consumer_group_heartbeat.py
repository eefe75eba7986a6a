"""ConsumerGroupHeartbeat (key 68), versions 0-1: join, live in and leave a group of KIP-848.

v1  subscription by a regular expression; the client makes its member id

Behaviour:  an epoch of 0 joins, -1 leaves, -2 leaves for a while (static members). The reply waits
            until what it says is durable. A classic group changes to this protocol while it is
            empty.
Deviations: a classic group with members does not take new ones of this protocol:
            GROUP_ID_NOT_FOUND, as Kafka with group.consumer.migration.policy=disabled. See
            rpk_py/groups/consumer.py.
Source:     GroupCoordinatorService.consumerGroupHeartbeat of Apache Kafka 4.1; KIP-848.
"""

from __future__ import annotations

from kafka_protocol.messages.consumer_group_heartbeat import (
    Assignment,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from rpk_py.context import RequestContext
from rpk_py.groups.consumer_values import HeartbeatReply, HeartbeatRequest, TopicIdPartitions
from rpk_py.pending import Pending, reply_of


def handle(
    ctx: RequestContext, request: ConsumerGroupHeartbeatRequest
) -> ConsumerGroupHeartbeatResponse | Pending:
    """Hand the heartbeat to its group."""
    names = request.subscribed_topic_names
    beat = HeartbeatRequest(
        member_id=request.member_id,
        member_epoch=request.member_epoch,
        instance_id=request.instance_id,
        rack_id=request.rack_id,
        rebalance_timeout_ms=request.rebalance_timeout_ms,
        subscribed_topics=None if names is None else tuple(names),
        subscribed_regex=request.subscribed_topic_regex,
        server_assignor=request.server_assignor,
        owned=_owned(request.topic_partitions),
        client_id=ctx.client_id or "",
        client_host=ctx.client_host,
        api_version=ctx.api_version,
    )
    groups = ctx.broker.groups
    result: ConsumerGroupHeartbeatResponse | Pending = reply_of(
        lambda answer: groups.consumer_heartbeat(
            request.group_id, beat, lambda reply: answer(_response(reply))
        )
    )
    return result


def _owned(partitions: list[TopicPartitions] | None) -> TopicIdPartitions | None:
    if partitions is None:
        return None
    return tuple((bytes(each.topic_id), tuple(each.partitions)) for each in partitions)


def _response(reply: HeartbeatReply) -> ConsumerGroupHeartbeatResponse:
    assignment = None
    if reply.assignment is not None:
        assignment = Assignment(
            [TopicPartitions(topic_id, list(indexes)) for topic_id, indexes in reply.assignment]
        )
    return ConsumerGroupHeartbeatResponse(
        error_code=reply.error,
        error_message=reply.error_message,
        member_id=reply.member_id,
        member_epoch=reply.member_epoch,
        heartbeat_interval_ms=reply.heartbeat_interval_ms,
        assignment=assignment,
    )
