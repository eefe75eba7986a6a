"""Metadata (key 3), versions 0-13: the nodes, the topics and who leads each partition.

v0     an empty list of topics means all
v1     null means all, empty means none; rack, controller, internal topics
v2     cluster id                  v3  throttle_time_ms
v4     allow_auto_topic_creation   v5  offline replicas
v7     leader epochs               v8  authorized operations (of the cluster only to v10)
v9     flexible                    v10 topic ids in the answer
v12    topics by id                v13 top-level error code

Behaviour:  topics are answered in the order of the request, each once, however often it is named.
            Names must be legal (17). An unknown name is answered with UNKNOWN_TOPIC_OR_PARTITION;
            where client and broker allow it, its creation starts then, and the client's
            retry finds it. An unknown id is UNKNOWN_TOPIC_ID with a null name; ids never create.
            An id or a null name before v12 is INVALID_REQUEST for every topic of the request.
            A partition whose leader is not live, or whose log is offline on this shard, has
            LEADER_NOT_AVAILABLE, leader -1 and its leader among the offline replicas. Nodes
            without an address of their own are answered with the one this client connected to.
            The controller is a live node. Authorized operations are all of them, when asked for.
Deviations: Kafka ignores topics given by name in a v12+ request that also has ids; here each
            stands for itself. v0's REPLICA_NOT_AVAILABLE is not sent.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.metadata import (
    OPERATIONS_NOT_ASKED,
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from rpk_py.cluster_view import (
    CLUSTER_OPERATIONS,
    TOPIC_OPERATIONS,
    advertised_nodes,
    controller_id,
    leader_and_offline,
)
from rpk_py.context import RequestContext
from rpk_py.metadata.state import PartitionState, TopicState
from rpk_py.metadata.topic_plan import name_problem
from rpk_py.turns import LARGE_ITEMS, SLICE_ITEMS, Large

_NO_ID: Final = bytes(16)
_NULL_MEANS_ALL_SINCE: Final = 1
_AUTO_CREATE_FLAG_SINCE: Final = 4
_TOPICS_BY_ID_SINCE: Final = 12


def handle(ctx: RequestContext, request: MetadataRequest) -> MetadataResponse | Large:
    """Answer from the shard's replica of the metadata: at once, or in slices where it is much."""
    asked, topics = request.topics, ctx.broker.metadata.state.topics
    named = None
    if asked is not None and (asked or ctx.api_version >= _NULL_MEANS_ALL_SINCE):
        named = asked
    found: Iterable[TopicState | None] = topics.values()
    if named is not None:
        by_id = ctx.broker.metadata.state.topics_by_id
        found = (
            topics.get(topic.name or "") or by_id.get(topic.topic_id)
            for topic in named[:LARGE_ITEMS]
        )
    count = len(topics) if named is None else len(named)
    if count <= LARGE_ITEMS:
        count += sum(len(topic.partitions) for topic in found if topic is not None)
    return ctx.broker.turns.reply(_answer(ctx, request, named), count)


def _answer(
    ctx: RequestContext, request: MetadataRequest, named: list[MetadataRequestTopic] | None
) -> Generator[None, None, MetadataResponse]:
    """The response; without names, about all topics."""
    state = ctx.broker.metadata.state
    response = MetadataResponse(
        brokers=[
            MetadataResponseBroker(node.node_id, node.host, node.port, node.rack)
            for node in advertised_nodes(ctx)
        ],
        cluster_id=state.cluster_id,
        controller_id=controller_id(ctx),
    )
    if request.include_cluster_authorized_operations:
        response.cluster_authorized_operations = CLUSTER_OPERATIONS
    operations = OPERATIONS_NOT_ASKED
    if request.include_topic_authorized_operations:
        operations = TOPIC_OPERATIONS
    if named is None:
        for topic in list(state.topics.values()):
            response.topics.append((yield from _found(ctx, topic, operations)))
    elif ctx.api_version < _TOPICS_BY_ID_SINCE and any(map(_is_by_id, named)):
        response.error_code = ErrorCode.INVALID_REQUEST
        response.topics = [
            MetadataResponseTopic(ErrorCode.INVALID_REQUEST, topic.name or "", topic.topic_id)
            for topic in named
        ]
    else:
        response.topics = yield from _lookup(ctx, request, named, operations)
    return response


def _is_by_id(topic: MetadataRequestTopic) -> bool:
    return topic.name is None or topic.topic_id != _NO_ID


def _lookup(
    ctx: RequestContext,
    request: MetadataRequest,
    asked: list[MetadataRequestTopic],
    operations: int,
) -> Generator[None, None, list[MetadataResponseTopic]]:
    """Each topic that was asked for, once, in order.

    Once, also because 100 MiB of one name repeated would otherwise make gigabytes of answer.
    """
    state = ctx.broker.metadata.state
    may_create = ctx.broker.config.auto_create_topics and (
        ctx.api_version < _AUTO_CREATE_FLAG_SINCE or request.allow_auto_topic_creation
    )
    answers: dict[str | bytes, MetadataResponseTopic] = {}
    for number, item in enumerate(asked, 1):
        if not number % SLICE_ITEMS:
            yield
        by_name = item.topic_id == _NO_ID and item.name is not None
        key = item.name if by_name and item.name is not None else item.topic_id
        if key in answers:
            continue
        if isinstance(key, bytes):
            topic = state.topics_by_id.get(key)
        else:
            topic = state.topics.get(key)
        if topic is not None:
            answers[key] = yield from _found(ctx, topic, operations)
        elif isinstance(key, bytes):
            answers[key] = MetadataResponseTopic(ErrorCode.UNKNOWN_TOPIC_ID, None, key)
        else:
            answers[key] = MetadataResponseTopic(_unknown_name(ctx, key, may_create), key)
    return list(answers.values())


def _unknown_name(ctx: RequestContext, name: str, may_create: bool) -> ErrorCode:
    """The error for a name that does not exist; its creation starts here where it may."""
    if name_problem(name) is not None:
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    if may_create:
        ctx.broker.metadata.auto_create(name)
    return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def _found(
    ctx: RequestContext, topic: TopicState, operations: int
) -> Generator[None, None, MetadataResponseTopic]:
    answer = MetadataResponseTopic(
        ErrorCode.NONE, topic.name, topic.topic_id, topic.internal, [], operations
    )
    for partition in list(topic.partitions):
        answer.partitions.append(_partition(ctx, topic, partition))
        if not len(answer.partitions) % SLICE_ITEMS:
            yield
    yield
    return answer


def _partition(
    ctx: RequestContext, topic: TopicState, partition: PartitionState
) -> MetadataResponsePartition:
    leader, offline = leader_and_offline(ctx, topic, partition)
    return MetadataResponsePartition(
        ErrorCode.LEADER_NOT_AVAILABLE if leader == -1 else ErrorCode.NONE,
        partition.index,
        leader,
        partition.leader_epoch,
        partition.replicas,
        partition.isr,
        offline,
    )
