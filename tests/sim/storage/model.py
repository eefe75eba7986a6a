"""What a partition must hold: the model that everything read and recovered is compared with."""

from __future__ import annotations

import random
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from kafka_protocol.record_batch import (
    BatchHeader,
    Record,
    build_batch,
    iter_batches,
    iter_records,
    parse_header,
    patch,
)
from rpk_py.producers import NEW, WINDOW_BATCHES_MAX, Duplicate, Producers

_COUNT = struct.Struct(">qI")
_INFLATED_BYTES_MAX = 1 << 20

KEYS = 12

Row = tuple[int, bytes | None, bytes | None]
"""Timestamp, key and value of a record."""


class Batch(NamedTuple):
    """One batch as a consumer must get it. `sequence` is its first; producer -1: not idempotent."""

    base_offset: int
    next_offset: int
    data: bytes
    rows: tuple[Row, ...]
    producer: int
    epoch: int
    sequence: int


class State:
    """ProducerState of a partition: the broker's own, and a checksum that tells whether recovery
    has replayed each batch once and in order."""

    def __init__(self) -> None:
        self.producers = Producers()
        self.count = self.crc = 0

    def load(self, snapshot: bytes) -> None:
        if len(snapshot) < _COUNT.size:
            raise ValueError("too short")
        self.count, self.crc = _COUNT.unpack_from(snapshot)
        self.producers.load(snapshot[_COUNT.size :])

    def snapshot(self) -> bytes:
        return _COUNT.pack(self.count, self.crc) + self.producers.snapshot()

    def replay(self, batch: BatchHeader) -> None:
        self.add(batch.base_offset)
        self.producers.replay(batch)

    def add(self, base_offset: int) -> None:
        self.count += 1
        self.crc = crc32(struct.pack(">q", base_offset), self.crc)


@dataclass(slots=True, eq=False)
class Partition:
    """The model of one partition, over all lives; `fail` is told what does not hold."""

    name: str
    topic_id: bytes
    fail: Callable[[str], None]
    batches: list[Batch] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    durable: int = 0  # everything before it was acknowledged
    start: int = 0  # the log start that was acknowledged
    asked: set[int] = field(default_factory=set)  # log starts that were asked for
    retained_ms: int = -1  # the newest time of which retention was enforced
    forgets_producers: bool = False  # a checkpoint rotted
    compacted: bool = False
    deletes_at_ms: int | None = None  # retention.ms, where only that deletes

    @property
    def end(self) -> int:
        return self.batches[-1].next_offset if self.batches else 0

    def appended(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.bases.append(batch.base_offset)

    def on_durable(self, offset: int) -> None:
        if not self.durable < offset <= self.end:
            self.fail(f"{self.name}: durable offset {offset} after {self.durable}, end {self.end}")
        self.durable = offset

    # -- what a recovery found -------------------------------------------------------------

    def recovered(self, start: int, end: int, state: State) -> None:
        """A log was opened anew: nothing acknowledged is missing, and what is there counts."""
        if end < self.durable:
            self.fail(f"{self.name}: acknowledged to {self.durable}, and the log ends at {end}")
        count = bisect_left(self.bases, end)
        del self.batches[count:], self.bases[count:]
        if self.end != end:
            self.fail(f"{self.name}: the log ends at {end}, which is no end of a batch")
        self.started(start)
        self.durable = end
        self.asked = {asked for asked in self.asked if asked >= start}
        if not self.forgets_producers:
            self.check_producers(state)

    def started(self, start: int) -> None:
        """The log starts there: where that was acknowledged, or asked for, or by retention."""
        if start < self.start:
            self.fail(f"{self.name}: the log starts at {start}, acknowledged was {self.start}")
        if start != self.start and start not in self.asked:
            if self.retained_ms < 0 or (start != self.end and start not in self.bases):
                self.fail(f"{self.name}: the log starts at {start}, which nobody has asked for")
            if self.deletes_at_ms is not None:
                self._check_old(start)
        self.start = start

    def _check_old(self, start: int) -> None:
        """Retention by time takes what is older, and no more."""
        oldest = self.retained_ms - (self.deletes_at_ms or 0)
        for batch in self.batches:
            if self.start < batch.next_offset <= start:
                newest = max(row[0] for row in batch.rows)
                if newest >= oldest and not self.compacted:
                    self.fail(f"{self.name}: offset {batch.base_offset} of {newest} was deleted")

    def check_producers(self, state: State) -> None:
        """The producer state is that of all batches, each once."""
        expected = State()
        windows: dict[int, list[Batch]] = {}
        for batch in self.batches:
            expected.add(batch.base_offset)
            if batch.producer >= 0:
                window = windows.setdefault(batch.producer, [])
                if window and window[-1].epoch != batch.epoch:
                    window.clear()
                window.append(batch)
        exact = not self.compacted  # else a scan finds less
        if exact and (state.count, state.crc) != (expected.count, expected.crc):
            self.fail(
                f"{self.name}: {state.count} batches make the producer state, of {expected.count}"
            )
        for producer, window in windows.items():
            newest = window[-1]
            after = newest.sequence + len(newest.rows)
            if state.producers.check(producer, newest.epoch, after, 0) is not NEW:
                self.fail(f"{self.name}: producer {producer} cannot go on at {after}")
            for batch in window[-WINDOW_BATCHES_MAX if exact else -1 :]:
                verdict = state.producers.check(
                    producer, batch.epoch, batch.sequence, len(batch.rows) - 1
                )
                if not isinstance(verdict, Duplicate) or verdict.base_offset != batch.base_offset:
                    self.fail(f"{self.name}: a retry of offset {batch.base_offset}: {verdict}")
        if len(state.producers) != len(windows):
            self.fail(f"{self.name}: {len(state.producers)} producers, not {len(windows)}")

    # -- what a reader got -----------------------------------------------------------------

    def check_read(
        self, offset: int, limit: int, max_bytes: int, slices: list[memoryview], next_offset: int
    ) -> None:
        """Whole batches, from the one that holds `offset` on, without a hole, as they were."""
        data = b"".join(slices)
        if next_offset == offset and not data:
            return
        if self.compacted:
            self._check_compacted(offset, limit, data, next_offset)
            return
        first = bisect_right(self.bases, offset) - 1
        last = bisect_left(self.bases, next_offset)
        expected = b"".join(batch.data for batch in self.batches[first:last])
        if data != expected:
            self.fail(
                f"{self.name}: reading {offset} gave {len(data)} bytes up to {next_offset}; "
                f"{len(expected)} others were appended"
            )
        if not offset < next_offset <= limit or self.batches[last - 1].next_offset != next_offset:
            self.fail(f"{self.name}: reading {offset} of {limit} ends at {next_offset}")
        if len(data) > max_bytes and last - first > 1:
            self.fail(f"{self.name}: reading {max_bytes} bytes at {offset} gave {len(data)}")

    def _check_compacted(self, offset: int, limit: int, data: bytes, next_offset: int) -> None:
        """Records as they were, in order; one may be missing that a later one of its key
        supersedes."""
        if not offset < next_offset <= limit:
            self.fail(f"{self.name}: reading {offset} of {limit} ends at {next_offset}")
        rows: dict[int, Row] = {}
        last = -1
        for pos, header in iter_batches(data, 0, len(data)):
            if header.base_offset <= last or header.last_offset >= next_offset:
                self.fail(f"{self.name}: reading {offset}: batch {header.base_offset} after {last}")
            last = header.last_offset
            if header.record_count:
                batch = data[pos : pos + header.size_bytes]
                for record in iter_records(batch, _INFLATED_BYTES_MAX):
                    rows[record.offset] = record.timestamp, record.key, record.value
        newest = {
            row[1]: batch.base_offset + i
            for batch in self.batches
            for i, row in enumerate(batch.rows)
        }
        for batch in self.batches[max(bisect_right(self.bases, offset) - 1, 0) :]:
            for i, row in enumerate(batch.rows):
                at = batch.base_offset + i
                found = rows.pop(at, None)
                if at >= next_offset or found == row:
                    continue
                if found is not None:
                    self.fail(f"{self.name}: another record is at {at}")
                if at >= offset and newest[row[1]] == at:
                    self.fail(f"{self.name}: the newest record of its key, at {at}, is missing")
        if rows:
            self.fail(f"{self.name}: there are records at {sorted(rows)}, which nobody sent")

    def at_or_after(self, timestamp: int, start: int, limit: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the first record that is not older."""
        for batch in self.batches[max(bisect_right(self.bases, start) - 1, 0) :]:
            for i, (found, _key, _value) in enumerate(batch.rows):
                offset = batch.base_offset + i
                if offset >= limit:
                    return None
                if offset >= start and found >= timestamp:
                    return offset, found
        return None


class BatchMaker:
    """Batches of random sizes, some of idempotent producers, with timestamps out of order."""

    def __init__(self, rng: random.Random, now_ms: Callable[[], int], size_max: int) -> None:
        self._rng = rng
        self._now_ms = now_ms
        self._size_max = size_max
        self._made = 0

    def make(self, partition: Partition) -> tuple[bytearray, tuple[Row, ...]]:
        """A batch and its records; now and then one that was appended already."""
        rng = self._rng
        producer = rng.choice((-1, -1, 1, 2, 3))
        if producer < 0:
            return self._build(-1, -1, -1)
        sent = [batch for batch in partition.batches[-60:] if batch.producer == producer]
        if sent and rng.random() < 0.15:
            known = 1 if partition.compacted else WINDOW_BATCHES_MAX
            again = rng.choice([one for one in sent if one.epoch == sent[-1].epoch][-known:])
            return bytearray(again.data), again.rows
        newest = next((b for b in reversed(partition.batches) if b.producer == producer), None)
        if newest is None:
            return self._build(producer, 0, 0)
        if rng.random() < 0.05:
            return self._build(producer, newest.epoch + 1, 0)
        return self._build(producer, newest.epoch, newest.sequence + len(newest.rows))

    def _build(self, producer: int, epoch: int, sequence: int) -> tuple[bytearray, tuple[Row, ...]]:
        rng = self._rng
        self._made += 1
        count = rng.choice((1, 1, 1, 2, 5))
        size = int(self._size_max ** rng.uniform(0.3, 1)) // count
        base = self._now_ms() + rng.randrange(-50, 50)
        rows = [
            Record(
                i,
                base + rng.randrange(100),
                b"%d" % rng.randrange(KEYS),
                b"%d." % self._made * (1 + size // 8) if rng.random() < 0.9 else None,
                (),
            )
            for i in range(count)
        ]
        data = build_batch(rows, producer_id=producer, producer_epoch=epoch, base_sequence=sequence)
        return data, tuple((row.timestamp, row.key, row.value) for row in rows)


def noted(batch: bytearray, base_offset: int, leader_epoch: int, rows: tuple[Row, ...]) -> Batch:
    """A batch that was appended, as it must be read."""
    header = parse_header(batch)
    patch(batch, 0, base_offset, leader_epoch)
    return Batch(
        base_offset,
        base_offset + header.last_offset_delta + 1,
        bytes(batch),
        rows,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
    )
