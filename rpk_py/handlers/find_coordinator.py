"""FindCoordinator (key 10), versions 0-6: which node coordinates a group.

v1  key types, throttle_time_ms, error_message      v4  several keys
v3  flexible                                        v6  share groups' key type

Behaviour:  the coordinator of a group is the shard that leads its partition of __consumer_offsets,
            which is created when it is first asked for; the answer waits for that a little while.
            A shard that is not live is COORDINATOR_NOT_AVAILABLE, which clients ask again after.
Deviations: there are no transactions and no share groups yet: their key types are INVALID_REQUEST
            with a message that says so, since COORDINATOR_NOT_AVAILABLE would be asked for ever.
Source:     KafkaApis.handleFindCoordinatorRequest of Apache Kafka 4.1; KIP-699 for several keys.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.find_coordinator import (
    Coordinator,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
)
from rpk_py.cluster_view import AdvertisedNode, advertised_nodes, leader_and_offline
from rpk_py.context import RequestContext
from rpk_py.groups.coordinator import OFFSETS_TOPIC
from rpk_py.turns import SLICE_ITEMS, Large

GROUP: Final = 0
_SEVERAL_KEYS_SINCE: Final = 4
_CREATION_WAIT_S: Final = 5.0
_OTHERS: Final = {1: "there are no transactions yet", 2: "there are no share groups yet"}


def handle(
    ctx: RequestContext, request: FindCoordinatorRequest
) -> FindCoordinatorResponse | Large | Awaitable[FindCoordinatorResponse]:
    """Answer from the metadata; the topic of committed offsets is made where it is missing."""
    if request.key_type == GROUP and ctx.broker.groups.partition_of("") is None:
        return _after_creation(ctx, request)
    count = len(request.coordinator_keys)
    return ctx.broker.turns.reply(_answer(ctx, request), count)


async def _after_creation(
    ctx: RequestContext, request: FindCoordinatorRequest
) -> FindCoordinatorResponse:
    await ctx.broker.groups.offsets_topic_exists(_CREATION_WAIT_S)
    return await ctx.broker.turns.sliced(_answer(ctx, request))


def _answer(
    ctx: RequestContext, request: FindCoordinatorRequest
) -> Generator[None, None, FindCoordinatorResponse]:
    nodes = {node.node_id: node for node in advertised_nodes(ctx)}
    if ctx.api_version < _SEVERAL_KEYS_SINCE:
        found = _find(ctx, request.key, request.key_type, nodes)
        return FindCoordinatorResponse(
            error_code=found.error_code,
            error_message=found.error_message,
            node_id=found.node_id,
            host=found.host,
            port=found.port,
        )
    response = FindCoordinatorResponse()
    for number, key in enumerate(request.coordinator_keys, 1):
        if not number % SLICE_ITEMS:
            yield
        response.coordinators.append(_find(ctx, key, request.key_type, nodes))
    return response


def _find(
    ctx: RequestContext, key: str, key_type: int, nodes: dict[int, AdvertisedNode]
) -> Coordinator:
    if key_type != GROUP:
        text = _OTHERS.get(key_type, f"unknown key type {key_type}")
        return _nowhere(key, ErrorCode.INVALID_REQUEST, text)
    topic = ctx.broker.metadata.state.topics.get(OFFSETS_TOPIC)
    index = ctx.broker.groups.partition_of(key)
    if topic is None or index is None:
        return _nowhere(key, ErrorCode.COORDINATOR_NOT_AVAILABLE, "__consumer_offsets is not there")
    leader, _ = leader_and_offline(ctx, topic, topic.partitions[index])
    node = nodes.get(leader)
    if node is None:
        text = f"{OFFSETS_TOPIC}-{index} has no leader now"
        return _nowhere(key, ErrorCode.COORDINATOR_NOT_AVAILABLE, text)
    return Coordinator(key, node.node_id, node.host, node.port, ErrorCode.NONE, None)


def _nowhere(key: str, error: ErrorCode, text: str) -> Coordinator:
    return Coordinator(key, -1, "", -1, error, text)
