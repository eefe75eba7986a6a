"""Which node leads a partition: round-robin, and what a start or a restart changes.

Pure: no clock, no I/O, no randomness.  Invariants: new partitions of one topic spread over the
nodes as evenly as their number allows; a partition whose leader still exists keeps it, unless at
a start another node has nothing to lead; whoever takes leadership gets the next leader epoch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from rpk_py.metadata.state import (
    ClusterState,
    PartitionsChanged,
    PartitionState,
    TopicState,
)


def leader_counts(topics: Iterable[TopicState], node_ids: Iterable[int]) -> dict[int, int]:
    """How many partitions each of these nodes leads."""
    counts = dict.fromkeys(node_ids, 0)
    for topic in topics:
        for partition in topic.partitions:
            if partition.leader in counts:
                counts[partition.leader] += 1
    return counts


def place(
    partition_count: int, counts: dict[int, int], of_topic: dict[int, int] | None = None
) -> list[int]:
    """Leaders of a topic's new partitions: each goes to the node with the fewest of that topic,
    among those to the one that leads the fewest partitions at all.

    So a new topic goes round the nodes, no topic piles up on a node that is new and empty, and
    topics of one partition spread too.

    Shapes:  counts    node id -> partitions led; updated, for the next topic of the request
             of_topic  the same of this topic alone, for the same nodes; None: it has none yet
    """
    assert counts
    heap = [(of_topic[n] if of_topic else 0, count, n) for n, count in counts.items()]
    heapq.heapify(heap)
    leaders = []
    for _ in range(partition_count):
        of_node, count, node_id = heap[0]
        heapq.heapreplace(heap, (of_node + 1, count + 1, node_id))
        counts[node_id] += 1
        leaders.append(node_id)
    return leaders


def led_by(index: int, leader: int, leader_epoch: int) -> PartitionState:
    """A partition with one replica, its leader."""
    return PartitionState(index, leader, leader_epoch, [leader], [leader])


def take_leadership(state: ClusterState, node_id: int) -> list[PartitionsChanged]:
    """The changes to commit before one node serves again: the next epoch for what it leads."""
    changes = []
    for topic in state.topics.values():
        led = tuple(
            led_by(partition.index, node_id, partition.leader_epoch + 1)
            for partition in topic.partitions
            if partition.leader == node_id
        )
        if led:
            changes.append(PartitionsChanged(topic.topic_id, led))
    return changes


def start_leadership(state: ClusterState, node_ids: Sequence[int]) -> list[PartitionsChanged]:
    """The changes to commit before the nodes of a starting host serve: every partition has a
    leader among them, and the next leader epoch.

    Partitions of nodes that do not exist any more are placed like new ones.  Then nodes that
    lead nothing get their share of the others; who moves costs nothing, because directories
    belong to the host.
    """
    leaders = {
        topic.topic_id: [partition.leader for partition in topic.partitions]
        for topic in state.topics.values()
    }
    counts = leader_counts(state.topics.values(), node_ids)
    empty = [node_id for node_id, count in counts.items() if count == 0]
    for topic_leaders in leaders.values():
        lost = [index for index, leader in enumerate(topic_leaders) if leader not in counts]
        if lost:
            of_topic = {node_id: topic_leaders.count(node_id) for node_id in counts}
            for index, leader in zip(lost, place(len(lost), counts, of_topic), strict=True):
                topic_leaders[index] = leader
    _share(leaders, counts, empty)
    return [
        PartitionsChanged(
            topic.topic_id,
            tuple(
                led_by(partition.index, leader, partition.leader_epoch + 1)
                for partition, leader in zip(topic.partitions, leaders[topic.topic_id], strict=True)
            ),
        )
        for topic in state.topics.values()
        if topic.partitions
    ]


def _share(leaders: dict[bytes, list[int]], counts: dict[int, int], empty: Sequence[int]) -> None:
    """Give nodes that led nothing their share: from whoever leads the most, one partition at a
    time, until nobody leads two more than one of them.

    Each time it is a partition of the topic that the giver has the most more of, so topics spread
    too.  Those differences only fall, therefore a heap whose entries may be too high suffices.
    """
    givers = [node_id for node_id in counts if node_id not in empty]
    if not givers or not empty:
        return
    led: dict[int, dict[bytes, list[int]]] = {node_id: {} for node_id in counts}
    for topic_id, topic_leaders in leaders.items():
        for index, leader in enumerate(topic_leaders):
            led[leader].setdefault(topic_id, []).append(index)

    def surplus(giver: int, taker: int, topic_id: bytes) -> tuple[int, int]:
        has = len(led[giver].get(topic_id, ()))
        return len(led[taker].get(topic_id, ())) - has, -has  # the largest difference sorts first

    heaps: dict[tuple[int, int], list[tuple[tuple[int, int], int, bytes]]] = {}
    while True:
        giver = max(givers, key=lambda node_id: (counts[node_id], -node_id))
        taker = min(empty, key=lambda node_id: (counts[node_id], node_id))
        if counts[giver] - counts[taker] < 2:
            return
        if (giver, taker) not in heaps:
            fresh = [(surplus(giver, taker, t), i, t) for i, t in enumerate(led[giver])]
            heapq.heapify(fresh)
            heaps[giver, taker] = fresh
        heap = heaps[giver, taker]
        while True:
            noted, order, topic_id = heap[0]
            now = surplus(giver, taker, topic_id)
            if now == noted:
                break
            heapq.heapreplace(heap, (now, order, topic_id))
        index = led[giver][topic_id].pop()
        led[taker].setdefault(topic_id, []).append(index)
        leaders[topic_id][index] = taker
        counts[giver] -= 1
        counts[taker] += 1
