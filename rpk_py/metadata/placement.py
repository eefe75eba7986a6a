"""Which node leads a partition: round-robin, and what a start or a restart changes.

Pure: no clock, no I/O, no randomness.  Invariants: the partitions of one topic spread over the
nodes as evenly as their number allows; a partition whose leader still exists keeps it; whoever
takes leadership gets a leader epoch that is one higher.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rpk_py.metadata.state import (
    ClusterState,
    PartitionsChanged,
    PartitionState,
    TopicState,
)


def leader_counts(topics: Iterable[TopicState], node_ids: Sequence[int]) -> dict[int, int]:
    """How many partitions each of these nodes leads."""
    counts = dict.fromkeys(node_ids, 0)
    for topic in topics:
        for partition in topic.partitions:
            if partition.leader in counts:
                counts[partition.leader] += 1
    return counts


def place(partition_count: int, counts: dict[int, int]) -> list[int]:
    """Leaders of new partitions: round-robin, beginning at the node that leads the fewest.

    Pure round-robin within one topic, so that no topic piles up on a node that is new and empty.
    `counts` (node id -> partitions led) is updated, for the next topic of the same request.
    """
    assert counts
    node_ids = sorted(counts)
    first = min(range(len(node_ids)), key=lambda position: counts[node_ids[position]])
    leaders = [node_ids[(first + index) % len(node_ids)] for index in range(partition_count)]
    for leader in leaders:
        counts[leader] += 1
    return leaders


def led_by(index: int, leader: int, leader_epoch: int) -> PartitionState:
    """A partition with one replica, its leader."""
    return PartitionState(index, leader, leader_epoch, [leader], [leader])


def take_leadership(
    state: ClusterState, node_ids: Sequence[int], starting: Iterable[int]
) -> list[PartitionsChanged]:
    """The changes to commit before the nodes in `starting` serve.

    Every partition that one of them leads, or whose leader is none of `node_ids` (the host now
    runs fewer shards), gets a leader among `node_ids` and the next leader epoch.
    """
    starting = frozenset(starting)
    live = frozenset(node_ids)
    counts = leader_counts(state.topics.values(), node_ids)
    changes = []
    for topic in state.topics.values():
        moved = [partition for partition in topic.partitions if partition.leader not in live]
        new_leaders = dict(
            zip([m.index for m in moved], place(len(moved), counts), strict=True) if moved else ()
        )
        changed = tuple(
            led_by(
                partition.index,
                new_leaders.get(partition.index, partition.leader),
                partition.leader_epoch + 1,
            )
            for partition in topic.partitions
            if partition.index in new_leaders or partition.leader in starting
        )
        if changed:
            changes.append(PartitionsChanged(topic.topic_id, changed))
    return changes
