"""Server-side assignors of consumer groups (KIP-848): who gets which partition.

What:       pure functions from members' subscriptions, what they have and the topics' partitions to
            a target assignment. "uniform" is balanced and moves as little as it can; "range" gives
            each member a run of every topic, the same run of topics that are partitioned alike.
Where:      the coordinator of the group, when the group's epoch has grown.
Invariants: every partition of a subscribed topic has exactly one owner, who subscribes to it;
            the answer depends on nothing but the arguments.
Source:     UniformAssignor and RangeAssignor of Apache Kafka 4.1.
Deviations: racks are not looked at: all replicas of a partition are on this host.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from heapq import heappush, heapreplace
from typing import Final, TypeAlias

from kafka_protocol.lazy_dataclass import dataclass

Owned: TypeAlias = dict[bytes, frozenset[int]]
"""Partitions by topic id; no topic is there without a partition."""

Partition: TypeAlias = tuple[bytes, int]
"""Topic id, index."""


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A member as assignors see it."""

    topic_ids: frozenset[bytes]
    owned: Mapping[bytes, frozenset[int]]  # its target so far
    instance_id: str | None = None


Assignor: TypeAlias = Callable[[Mapping[str, Subscriber], Mapping[bytes, int]], dict[str, Owned]]
"""(members, topic id -> number of partitions) -> what each member is to have."""


def uniform(members: Mapping[str, Subscriber], counts: Mapping[bytes, int]) -> dict[str, Owned]:
    """Counts that differ by at most 1 where all subscribe to the same; as few moves as that takes.

    Where subscriptions differ, a partition goes from who has most to who has least as long as
    that helps, so that no member has 2 more than another who could take one of its partitions.
    """
    if not members:
        return {}
    kept: dict[str, list[Partition]] = {}
    free = {
        (topic, index)
        for topic in set().union(*(m.topic_ids for m in members.values()))
        for index in range(counts.get(topic, 0))
    }
    total = len(free)
    is_homogeneous = len({m.topic_ids for m in members.values()}) == 1
    quota, extra = divmod(total, len(members))
    for member_id, member in sorted(members.items()):
        wanted = [
            (topic, index)
            for topic, indexes in sorted(member.owned.items())
            if topic in member.topic_ids
            for index in sorted(indexes)
            if (topic, index) in free
        ]
        if is_homogeneous:
            most = quota + (1 if extra > 0 and len(wanted) > quota else 0)
            extra -= len(wanted) > quota
            wanted = wanted[:most]
        free.difference_update(wanted)
        kept[member_id] = wanted
    loads = _Loads(members, kept)
    _give(loads, kept, sorted(free))
    if not is_homogeneous:
        _balance(loads, kept)
    return {member_id: _grouped(have) for member_id, have in kept.items()}


class _Loads:
    """How many partitions each member has, and who of a topic's subscribers has the fewest.

    Topics with the same subscribers share a heap. An entry that is too low is put right when it
    comes up; a member that gives a partition away is pushed once more, so none is too high.
    """

    def __init__(self, members: Mapping[str, Subscriber], kept: Mapping[str, list[Partition]]):
        self.sizes = {member_id: len(have) for member_id, have in kept.items()}
        self._heap_of: dict[bytes, list[tuple[int, str]]] = {}
        self._heaps_with: dict[str, list[list[tuple[int, str]]]] = defaultdict(list)
        self._shared: dict[tuple[str, ...], list[tuple[int, str]]] = {}
        self._subscribers: dict[bytes, list[str]] = defaultdict(list)
        for member_id in sorted(members):
            for topic in members[member_id].topic_ids:
                self._subscribers[topic].append(member_id)

    def _make_heap(self, topic: bytes) -> list[tuple[int, str]]:
        takers = tuple(self._subscribers[topic])
        heap = self._shared.get(takers)
        if heap is None:
            heap = self._shared[takers] = sorted((self.sizes[m], m) for m in takers)
            for member_id in takers:
                self._heaps_with[member_id].append(heap)
        self._heap_of[topic] = heap
        return heap

    def fewest(self, topic: bytes) -> str:
        heap = self._heap_of.get(topic) or self._make_heap(topic)
        while heap[0][0] != self.sizes[heap[0][1]]:
            heapreplace(heap, (self.sizes[heap[0][1]], heap[0][1]))
        return heap[0][1]

    def gave(self, member_id: str) -> None:
        """A member has one less."""
        self.sizes[member_id] -= 1
        for heap in self._heaps_with[member_id]:
            heappush(heap, (self.sizes[member_id], member_id))


def _give(loads: _Loads, kept: dict[str, list[Partition]], free: list[Partition]) -> None:
    """Each free partition to the subscriber with the fewest."""
    for partition in free:
        member_id = loads.fewest(partition[0])
        kept[member_id].append(partition)
        loads.sizes[member_id] += 1


def _balance(loads: _Loads, kept: dict[str, list[Partition]]) -> None:
    """Move partitions from those who have many to those who have few, while that helps.

    It ends: each move makes the sum of the squares of all sizes smaller.
    """
    moved = True
    while moved:
        moved = False
        smallest = min(loads.sizes.values())
        for giver in sorted(kept, key=lambda m: (-len(kept[m]), m)):
            if loads.sizes[giver] < smallest + 2:
                break  # nor has anybody after it too many, but for what moved meanwhile
            stays: list[Partition] = []
            for partition in kept[giver]:
                taker = loads.fewest(partition[0])
                if loads.sizes[taker] + 1 < loads.sizes[giver]:
                    kept[taker].append(partition)
                    loads.sizes[taker] += 1
                    loads.gave(giver)
                    moved = True
                else:
                    stays.append(partition)
            kept[giver] = stays


def range_(members: Mapping[str, Subscriber], counts: Mapping[bytes, int]) -> dict[str, Owned]:
    """Of every topic a run of partitions for each subscriber, in the order of instance or member
    ids; the first ones get one more where it does not come out even."""
    target: dict[str, Owned] = {member_id: {} for member_id in members}
    order = sorted(members, key=lambda m: (members[m].instance_id is None, _name(members, m), m))
    for topic in sorted(counts):
        takers = [m for m in order if topic in members[m].topic_ids]
        if not takers:
            continue
        quota, extra = divmod(counts[topic], len(takers))
        start = 0
        for position, member_id in enumerate(takers):
            end = start + quota + (1 if position < extra else 0)
            if end > start:
                target[member_id][topic] = frozenset(range(start, end))
            start = end
    return target


def _name(members: Mapping[str, Subscriber], member_id: str) -> str:
    return members[member_id].instance_id or member_id


def _grouped(partitions: list[Partition]) -> Owned:
    by_topic: dict[bytes, set[int]] = {}
    for topic, index in partitions:
        by_topic.setdefault(topic, set()).add(index)
    return {topic: frozenset(indexes) for topic, indexes in by_topic.items()}


DEFAULT_ASSIGNOR: Final = "uniform"
ASSIGNORS: Final[dict[str, Assignor]] = {"uniform": uniform, "range": range_}
