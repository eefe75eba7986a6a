"""How far groups are behind: in records, and since when.

What:       `Watermarks` remembers when the high watermark of each partition was where, a sample a
            second at most, so that the age of a record can be told without reading it. `lag_rows`
            joins what groups have committed with where partitions end.
Where:      Watermarks on the shard that leads the partition, lag_rows in the supervisor, which
            alone knows both.
Invariants: at most SAMPLES_MAX samples a partition: when they are too many every other one goes,
            so that old times are less exact than new ones; the first sample stays.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

SAMPLES_MAX: Final = 32

TopicPartition: TypeAlias = tuple[str, int]


class Watermarks:
    """High watermarks of one shard's partitions, and when they were first seen."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        # Of a partition: offsets, and the epoch ms of each.
        self._samples: dict[TopicPartition, tuple[array[int], array[int]]] = {}

    def note(self, topic: str, index: int, high_watermark: int, now_ms: int) -> None:
        """Take a sample, if the partition has moved since the last."""
        found = self._samples.get((topic, index))
        if found is None:
            self._samples[topic, index] = array("q", [high_watermark]), array("q", [now_ms])
            return
        offsets, times = found
        if high_watermark == offsets[-1]:
            return
        if high_watermark < offsets[-1]:  # another topic of the same name
            del self._samples[topic, index]
            return self.note(topic, index, high_watermark, now_ms)
        offsets.append(high_watermark)
        times.append(now_ms)
        if len(offsets) > SAMPLES_MAX:
            # The newest stays as well, whatever its place.
            kept = [*range(0, len(offsets) - 1, 2), len(offsets) - 1]
            self._samples[topic, index] = (
                array("q", [offsets[i] for i in kept]),
                array("q", [times[i] for i in kept]),
            )

    def forget(self, present: Mapping[TopicPartition, object]) -> None:
        """Drop the samples of partitions that are here no more."""
        for key in self._samples.keys() - present.keys():
            del self._samples[key]

    def age_s(self, topic: str, index: int, offset: int, now_ms: int) -> float | None:
        """How long ago the record at `offset` was seen first: at most a sample's interval less
        than it is old, and not more than since the shard started. None: there is none."""
        found = self._samples.get((topic, index))
        if found is None or offset >= found[0][-1]:
            return None
        offsets, times = found
        return max(now_ms - times[bisect_right(offsets, offset)], 0) / 1000


class Lag(NamedTuple):
    """Of one group in one partition. seconds None: the leader did not say."""

    group: str
    topic: str
    partition: int
    offset: int
    records: int
    seconds: float | None


Committed: TypeAlias = tuple[str, str, int, int]
"""Group, topic, partition, committed offset."""


def lag_rows(
    committed: Iterable[Committed],
    ends: Mapping[TopicPartition, tuple[int, int, int]],
    ages: Mapping[tuple[str, int, int], float],
) -> Iterator[Lag]:
    """One row for each committed offset of a partition whose leader is there.

    Shapes:  ends  (topic, partition) -> (node id of the leader, log start, high watermark)
             ages  (topic, partition, offset) -> seconds, of those that lag
    """
    for group, topic, partition, offset in committed:
        end = ends.get((topic, partition))
        if end is None:
            continue
        _, start, high_watermark = end
        # What was deleted cannot be consumed any more.
        records = max(high_watermark - max(offset, start), 0)
        seconds = 0.0 if not records else ages.get((topic, partition, max(offset, start)))
        yield Lag(group, topic, partition, offset, records, seconds)


def lagging(
    committed: Iterable[Committed], ends: Mapping[TopicPartition, tuple[int, int, int]]
) -> dict[int, list[list[Any]]]:
    """Node id -> [topic, partition, offset] of what its leader is to tell the age of."""
    wanted: dict[int, dict[tuple[str, int, int], None]] = {}
    for _, topic, partition, offset in committed:
        end = ends.get((topic, partition))
        if end is None:
            continue
        node_id, start, high_watermark = end
        first = max(offset, start)
        if first < high_watermark:
            wanted.setdefault(node_id, {})[topic, partition, first] = None
    return {node_id: [list(key) for key in keys] for node_id, keys in wanted.items()}
