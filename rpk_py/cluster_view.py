"""The cluster as one client is told about it: nodes with addresses, controller, leaders.

What:       what Metadata, DescribeCluster and DescribeTopicPartitions answer alike.
Where:      on a shard's loop, within a handler; reads the shard's metadata replica.
Invariants: the controller is always one of the advertised nodes, because admin clients send
            their requests to it by id.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kafka_protocol.messages.current_leader import NodeEndpoint
from rpk_py.context import RequestContext
from rpk_py.metadata.state import PartitionState, TopicState

# Bit n stands for Kafka's AclOperation n. Without an authorizer every operation that a resource
# type has is allowed: read 3, write 4, create 5, delete 6, alter 7, describe 8, cluster action 9,
# describe configs 10, alter configs 11, idempotent write 12.
TOPIC_OPERATIONS: Final = sum(1 << bit for bit in (3, 4, 5, 6, 7, 8, 10, 11))
CLUSTER_OPERATIONS: Final = sum(1 << bit for bit in (5, 7, 8, 9, 10, 11, 12))

GROUP_OPERATIONS: Final = sum(1 << bit for bit in (3, 6, 8, 10, 11))


class AdvertisedNode(NamedTuple):
    """One node as this client is to reach it."""

    node_id: int
    host: str
    port: int
    rack: str | None


def advertised_nodes(ctx: RequestContext) -> list[AdvertisedNode]:
    """Every live node by ascending id; one without a host of its own has the address that this
    client connected to, since that is one the client is known to reach."""
    nodes = ctx.broker.metadata.state.nodes
    return [
        AdvertisedNode(node.node_id, node.host or ctx.local_host, node.port, node.rack)
        for _, node in sorted(nodes.items())
    ]


def controller_id(ctx: RequestContext) -> int:
    """The node to send admin requests to: any shard forwards them to the real controller, so it
    is the one that this client is connected to already. -1 where no node is live."""
    nodes = ctx.broker.metadata.state.nodes
    if ctx.broker.node_id in nodes:
        return ctx.broker.node_id
    return min(nodes, default=-1)


def leader_and_offline(
    ctx: RequestContext, topic: TopicState, partition: PartitionState
) -> tuple[int, list[int]]:
    """The leader, -1 while it cannot serve, and the replicas that are not live or whose log is
    offline as far as this shard knows."""
    nodes = ctx.broker.metadata.state.nodes
    offline = [node_id for node_id in partition.replicas if node_id not in nodes]
    led = ctx.broker.partitions.get_by_id(topic.topic_id, partition.index)
    if led is not None and led.offline:
        offline.append(ctx.broker.node_id)
    leader = partition.leader
    return (-1 if leader not in nodes or leader in offline else leader), offline


def add_endpoint(ctx: RequestContext, endpoints: list[NodeEndpoint], leader: int) -> None:
    """Name where `leader` is in an answer's node_endpoints, once (KIP-951)."""
    if all(endpoint.node_id != leader for endpoint in endpoints):
        endpoints.extend(
            NodeEndpoint(*node) for node in advertised_nodes(ctx) if node.node_id == leader
        )
