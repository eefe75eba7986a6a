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


def _share(leaders: dict[bytes, list[int]], counts: dict[int, int], takers: Sequence[int]) -> None:
    """Give nodes that led nothing their share, in as few moves as that takes.

    Afterwards nobody leads more than one partition more than one of them.  First every topic
    that a giver has two more of than the taker that leads the fewest spreads to that one; what is
    missing comes from the topics that a giver has the most more of.  Where all came from one node,
    every topic is then as even as its size allows.

    Shapes:  leaders  topic id -> leader of each partition; changed, like counts
    """
    give = _surplus(counts, takers)
    led: dict[int, dict[bytes, list[int]]] = {node_id: {} for node_id in counts}
    for topic_id, topic_leaders in leaders.items():
        for index, leader in enumerate(topic_leaders):
            led[leader].setdefault(topic_id, []).append(index)

    def has(node_id: int, topic_id: bytes) -> int:
        return len(led[node_id].get(topic_id, ()))

    def move(topic_id: bytes, giver: int, taker: int) -> None:
        index = led[giver][topic_id].pop()
        led[taker].setdefault(topic_id, []).append(index)
        leaders[topic_id][index] = taker
        give[giver] -= 1
        counts[giver] -= 1
        counts[taker] += 1

    for topic_id in leaders:
        while givers := [node_id for node_id, surplus in give.items() if surplus]:
            giver = max(givers, key=lambda node_id: has(node_id, topic_id))
            taker = min(takers, key=lambda node_id: (counts[node_id], has(node_id, topic_id)))
            if has(giver, topic_id) - has(taker, topic_id) < 2:
                break
            move(topic_id, giver, taker)
    # From here on a difference only falls, so a heap whose entries may be too high suffices.
    heaps: dict[tuple[int, int], list[tuple[int, int, bytes]]] = {}
    while any(give.values()):
        giver = max(give, key=lambda node_id: give[node_id])
        taker = min(takers, key=lambda node_id: counts[node_id])
        heap = heaps.get((giver, taker))
        if heap is None:
            heap = [(has(taker, t) - has(giver, t), i, t) for i, t in enumerate(led[giver])]
            heapq.heapify(heap)
            heaps[giver, taker] = heap
        while (now := has(taker, heap[0][2]) - has(giver, heap[0][2])) != heap[0][0]:
            heapq.heapreplace(heap, (now, *heap[0][1:]))
        move(heap[0][2], giver, taker)


def _surplus(counts: dict[int, int], takers: Sequence[int]) -> dict[int, int]:
    """How many each other node gives, if always the one that leads the most gives one to the
    taker that leads the fewest, until that is less than two fewer."""
    left = dict(counts)
    givers = [node_id for node_id in counts if node_id not in takers]
    while takers and givers:
        giver = max(givers, key=lambda node_id: left[node_id])
        taker = min(takers, key=lambda node_id: left[node_id])
        if left[giver] - left[taker] < 2:
            break
        left[giver] -= 1
        left[taker] += 1
    return {node_id: counts[node_id] - left[node_id] for node_id in givers}
