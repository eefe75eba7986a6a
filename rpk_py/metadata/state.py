"""The cluster's metadata as plain data, and the deltas that change it.

Which process: the controller (supervisor) holds the authoritative copy, every shard a replica.
Invariants: revisions are consecutive, so `apply` of a delta whose revision is not exactly one
higher raises; a topic stands in `topics` and `topics_by_id` or in neither; partitions stand in
index order without a hole; leader epochs never go down; topic ids are never reused.
Pure: no clock, no I/O.  Everything is JSON-able, with topic ids as 32 hex digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeAlias

from kafka_protocol.lazy_dataclass import dataclass

Json: TypeAlias = dict[str, Any]

# Ids of deleted topics that are remembered, so that a shard which was down during the deletion may
# remove their directories; those of topics that nobody deleted are never touched.
DELETED_TOPICS_MAX = 10_000

INTERNAL_TOPICS = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state"})


class RevisionGap(Exception):
    """A delta does not follow on the state; the holder must ask for a snapshot."""


@dataclass(slots=True)
class NodeState:
    """One Kafka node, which is one shard.

    host  None: answer with the address that the asking client connected to
    """

    node_id: int
    host: str | None
    port: int
    rack: str | None = None


@dataclass(slots=True)
class PartitionState:
    """Leadership of one partition; `leader`, `replicas` and `isr` are node ids."""

    index: int
    leader: int
    leader_epoch: int
    replicas: list[int]
    isr: list[int]


@dataclass(slots=True)
class TopicState:
    """One topic.  `configs` holds only what was set on the topic, by Kafka's names."""

    name: str
    topic_id: bytes  # 16 bytes, never zero
    partitions: list[PartitionState]
    configs: dict[str, str] = field(default_factory=dict)

    @property
    def internal(self) -> bool:
        """Whether Metadata marks the topic as one of the broker's own."""
        return self.name in INTERNAL_TOPICS


@dataclass(slots=True)
class ClusterState:
    """Everything that shards and controller agree on, as of `revision`.

    broker_configs  dynamic configs by Kafka's names: of "" for every node, of "3" for node 3
    """

    revision: int = 0
    cluster_id: str = ""  # 22 characters, base64 of a uuid, as Kafka writes it
    topics: dict[str, TopicState] = field(default_factory=dict)
    topics_by_id: dict[bytes, TopicState] = field(default_factory=dict)
    nodes: dict[int, NodeState] = field(default_factory=dict)
    broker_configs: dict[str, dict[str, str]] = field(default_factory=dict)  # never an empty one
    deleted_topic_ids: dict[bytes, None] = field(default_factory=dict)  # oldest first, bounded

    def add_topic(self, topic: TopicState) -> None:
        """Add a topic that does not exist yet."""
        assert topic.name not in self.topics
        assert topic.topic_id not in self.topics_by_id
        self.topics[topic.name] = topic
        self.topics_by_id[topic.topic_id] = topic

    def note_deleted(self, topic_id: bytes) -> None:
        """Remember a deleted topic's id, at most DELETED_TOPICS_MAX of them."""
        self.deleted_topic_ids[topic_id] = None
        while len(self.deleted_topic_ids) > DELETED_TOPICS_MAX:
            del self.deleted_topic_ids[next(iter(self.deleted_topic_ids))]

    def replace(self, other: ClusterState) -> None:
        """Become `other`, whose parts this takes over; holders of this object see it at once."""
        self.revision = other.revision
        self.cluster_id = other.cluster_id
        self.topics = other.topics
        self.topics_by_id = other.topics_by_id
        self.nodes = other.nodes
        self.broker_configs = other.broker_configs
        self.deleted_topic_ids = other.deleted_topic_ids


@dataclass(frozen=True, slots=True)
class TopicCreated:
    """A topic with all its partitions and configs exists from now on."""

    topic: TopicState


@dataclass(frozen=True, slots=True)
class TopicDeleted:
    """A topic is gone; its id never comes back, its name may, with another id."""

    name: str
    topic_id: bytes


@dataclass(frozen=True, slots=True)
class PartitionsChanged:
    """Partitions of one topic have new leadership, or (index beyond the last one) are new."""

    topic_id: bytes
    partitions: tuple[PartitionState, ...]


@dataclass(frozen=True, slots=True)
class TopicConfigsChanged:
    """The configs that are set on a topic are exactly these from now on."""

    topic_id: bytes
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BrokerConfigsChanged:
    """The dynamic configs of one node, or of all ("") are exactly these from now on."""

    node: str  # a node id in decimal, or "" for the default of all nodes
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NodesChanged:
    """The nodes of the cluster are exactly these from now on."""

    nodes: tuple[NodeState, ...]


Change: TypeAlias = (
    TopicCreated
    | TopicDeleted
    | PartitionsChanged
    | TopicConfigsChanged
    | BrokerConfigsChanged
    | NodesChanged
)


@dataclass(frozen=True, slots=True)
class Delta:
    """All changes of one commit: applied together, acknowledged together."""

    revision: int
    changes: tuple[Change, ...]


def apply(state: ClusterState, delta: Delta) -> None:
    """Bring a state one revision further, in place.

    Raises: RevisionGap  the delta is not the next one; the state is unchanged
    """
    if delta.revision != state.revision + 1:
        raise RevisionGap(f"state is at {state.revision}, delta is {delta.revision}")
    for change in delta.changes:
        _apply_change(state, change)
    state.revision = delta.revision


def _apply_change(state: ClusterState, change: Change) -> None:
    if isinstance(change, TopicCreated):
        # A copy: the delta stays what was committed while the state's topic changes later.
        state.add_topic(decode_topic(encode_topic(change.topic)))
    elif isinstance(change, TopicDeleted):
        topic = state.topics_by_id.pop(change.topic_id)
        assert topic.name == change.name
        del state.topics[change.name]
        state.note_deleted(change.topic_id)
    elif isinstance(change, PartitionsChanged):
        _apply_partitions(state.topics_by_id[change.topic_id], change.partitions)
    elif isinstance(change, TopicConfigsChanged):
        state.topics_by_id[change.topic_id].configs = dict(change.configs)
    elif isinstance(change, BrokerConfigsChanged):
        state.broker_configs.pop(change.node, None)
        if change.configs:
            state.broker_configs[change.node] = dict(change.configs)
    else:
        state.nodes = {node.node_id: node for node in change.nodes}


def _apply_partitions(topic: TopicState, changed: tuple[PartitionState, ...]) -> None:
    for new in changed:
        copy = decode_partition(encode_partition(new))
        if new.index == len(topic.partitions):
            topic.partitions.append(copy)
            continue
        assert new.leader_epoch >= topic.partitions[new.index].leader_epoch
        topic.partitions[new.index] = copy


# The wire form, between supervisor and shards.  Short keys: a snapshot has one row a partition.


def encode_partition(partition: PartitionState) -> list[Any]:
    """One partition as [index, leader, leader_epoch, replicas, isr]."""
    return [
        partition.index,
        partition.leader,
        partition.leader_epoch,
        list(partition.replicas),
        list(partition.isr),
    ]


def decode_partition(row: list[Any]) -> PartitionState:
    """Inverse of encode_partition."""
    index, leader, leader_epoch, replicas, isr = row
    return PartitionState(index, leader, leader_epoch, list(replicas), list(isr))


def encode_topic(topic: TopicState) -> Json:
    """One topic with its partitions."""
    return {
        "name": topic.name,
        "id": topic.topic_id.hex(),
        "partitions": [encode_partition(partition) for partition in topic.partitions],
        "configs": dict(topic.configs),
    }


def decode_topic(message: Json) -> TopicState:
    """Inverse of encode_topic."""
    return TopicState(
        message["name"],
        bytes.fromhex(message["id"]),
        [decode_partition(row) for row in message["partitions"]],
        dict(message["configs"]),
    )


def encode_node(node: NodeState) -> list[Any]:
    """One node as [node_id, host, port, rack]."""
    return [node.node_id, node.host, node.port, node.rack]


def encode_state(state: ClusterState) -> Json:
    """The whole state, for a shard that starts or that missed a delta."""
    return {
        "revision": state.revision,
        "cluster_id": state.cluster_id,
        "topics": [encode_topic(topic) for topic in state.topics.values()],
        "nodes": [encode_node(node) for node in state.nodes.values()],
        "broker_configs": {node: dict(c) for node, c in state.broker_configs.items()},
        "deleted_topic_ids": [topic_id.hex() for topic_id in state.deleted_topic_ids],
    }


def decode_state(message: Json) -> ClusterState:
    """Inverse of encode_state."""
    state = ClusterState(message["revision"], message["cluster_id"])
    for topic in message["topics"]:
        state.add_topic(decode_topic(topic))
    state.nodes = {row[0]: NodeState(*row) for row in message["nodes"]}
    state.broker_configs = {node: dict(c) for node, c in message["broker_configs"].items()}
    for topic_id in message["deleted_topic_ids"]:
        state.note_deleted(bytes.fromhex(topic_id))
    return state


def encode_delta(delta: Delta) -> Json:
    """One commit: {"revision": n, "changes": [{"kind": ..., ...}, ...]}."""
    return {"revision": delta.revision, "changes": [_encode_change(c) for c in delta.changes]}


def decode_delta(message: Json) -> Delta:
    """Inverse of encode_delta."""
    return Delta(message["revision"], tuple(_decode_change(c) for c in message["changes"]))


def _encode_change(change: Change) -> Json:
    if isinstance(change, TopicCreated):
        return {"kind": "topic_created", "topic": encode_topic(change.topic)}
    if isinstance(change, TopicDeleted):
        return {"kind": "topic_deleted", "name": change.name, "id": change.topic_id.hex()}
    if isinstance(change, PartitionsChanged):
        rows = [encode_partition(partition) for partition in change.partitions]
        return {"kind": "partitions_changed", "id": change.topic_id.hex(), "partitions": rows}
    if isinstance(change, TopicConfigsChanged):
        configs = dict(change.configs)
        return {"kind": "topic_configs", "id": change.topic_id.hex(), "configs": configs}
    if isinstance(change, BrokerConfigsChanged):
        configs = dict(change.configs)
        return {"kind": "broker_configs", "node": change.node, "configs": configs}
    return {"kind": "nodes", "nodes": [encode_node(node) for node in change.nodes]}


def _decode_change(message: Json) -> Change:
    kind = message["kind"]
    if kind == "topic_created":
        return TopicCreated(decode_topic(message["topic"]))
    if kind == "topic_deleted":
        return TopicDeleted(message["name"], bytes.fromhex(message["id"]))
    if kind == "partitions_changed":
        partitions = tuple(decode_partition(row) for row in message["partitions"])
        return PartitionsChanged(bytes.fromhex(message["id"]), partitions)
    if kind == "topic_configs":
        return TopicConfigsChanged(bytes.fromhex(message["id"]), message["configs"])
    if kind == "broker_configs":
        return BrokerConfigsChanged(message["node"], message["configs"])
    assert kind == "nodes", kind
    return NodesChanged(tuple(NodeState(*row) for row in message["nodes"]))
