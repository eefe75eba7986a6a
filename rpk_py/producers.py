"""Idempotent producers of one partition: which batch is new, which a retry, which out of order.

What:       for every producer id the epoch and the last five batches that it appended, the same
            window as Kafka's. `check` judges a batch before its append and changes nothing;
            `update` takes it over after the append. `snapshot` and `load` carry the whole state
            over a restart, `replay` adds what the log has beyond the snapshot.
Where:      home shard of the partition only. Sans-io: no clock, no await, no log line.
Invariants: - a window holds 1 to 5 batches of one epoch, oldest first, base offsets ascending;
            - the window's last sequence is the last one that was appended, so the next batch of
              that epoch must start one above it (0 follows 2147483647);
            - at most `producers_max` producers: beyond that the least recently active go, and
              are then unknown, as after an expiry.
Rules:      the ones of Kafka's broker (KIP-98; ProducerAppendInfo and ProducerStateEntry in
            org.apache.kafka.storage.internals.log): a batch that equals one of the window in
            epoch, first and last sequence is a duplicate; else the sequence must go on without a
            gap (45), an older epoch is refused (47), a new epoch starts at 0 (45) and an unknown
            producer may start anywhere. A retry that is older than the window is out of order
            (45): the broker knows no offset for it, and Kafka has not sent
            DUPLICATE_SEQUENCE_NUMBER (46) from this path for years.
Deviation:  Kafka has no bound on producers a partition, only the expiry. We have both.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, TypeAlias

from kafka_protocol.errors import ErrorCode
from kafka_protocol.record_batch import BatchHeader

SEQUENCE_MAX: Final = 2**31 - 1
WINDOW_BATCHES_MAX: Final = 5
PRODUCERS_MAX: Final = 10_000  # about 1 KiB each; a shell loop around kcat makes one id a call

NEW: Final = ErrorCode.NONE
"""The verdict on a batch that is to be appended."""

_SNAPSHOT_VERSION: Final = 1
_SNAPSHOT_HEADER: Final = struct.Struct(">HI")  # version, producer count
_SNAPSHOT_PRODUCER: Final = struct.Struct(">qhqB")  # id, epoch, last activity in ms, batch count
_SNAPSHOT_BATCH: Final = struct.Struct(">iiqq")  # first, last sequence, base offset, timestamp


class Duplicate(NamedTuple):
    """The verdict on a batch that the log already holds: answer with these, append nothing."""

    base_offset: int
    timestamp_ms: int  # what `update` was given: the append time where the topic asks for it


_Batch: TypeAlias = tuple[int, int, int, int]
"""First sequence, last sequence (inclusive), base offset, timestamp. A plain tuple: it is built
once a produced batch, and a named one costs three times as much."""


class _Producer:
    """One producer's epoch and window. `next_sequence` saves a look into the window per batch."""

    __slots__ = ("epoch", "next_sequence", "timestamp_ms", "window")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.next_sequence = 0
        self.timestamp_ms = 0
        self.window: list[_Batch] = []


class Producers:
    """The producers of one partition. Ids below 0 (not idempotent) never come here."""

    __slots__ = ("_producers", "_producers_max", "_restored")

    def __init__(self, producers_max: int = PRODUCERS_MAX) -> None:
        assert producers_max > 0
        self._producers: dict[int, _Producer] = {}
        self._producers_max = producers_max
        self._restored = False  # loaded or replayed, and not yet seen by `expire`

    def __len__(self) -> int:
        return len(self._producers)

    def __contains__(self, producer_id: int) -> bool:
        return producer_id in self._producers

    def check(
        self, producer_id: int, producer_epoch: int, base_sequence: int, last_offset_delta: int
    ) -> ErrorCode | Duplicate:
        """Judge a batch that is about to be appended; nothing changes.

        Returns: NEW                              append it, then call `update`
                 Duplicate(base_offset, ...)      it is in the log already, at that offset
                 INVALID_PRODUCER_EPOCH           a newer epoch of this producer was here
                 OUT_OF_ORDER_SEQUENCE_NUMBER     a gap, a retry older than the window, or a new
                                                  epoch that does not start at 0
                 INVALID_RECORD                   an unknown producer with a negative sequence
        No await may come between this and the append that it allows.
        """
        producer = self._producers.get(producer_id)
        if producer is None:  # never seen, expired or evicted: Kafka accepts any sequence
            if base_sequence < 0:
                return ErrorCode.INVALID_RECORD
            return NEW if producer_epoch >= 0 else ErrorCode.INVALID_PRODUCER_EPOCH
        if producer_epoch != producer.epoch:
            if producer_epoch < producer.epoch:
                return ErrorCode.INVALID_PRODUCER_EPOCH
            return NEW if base_sequence == 0 else ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        # In sequence cannot be in the window too: that would need 2^31 records in five batches.
        if base_sequence == producer.next_sequence:
            return NEW
        last_sequence = (base_sequence + last_offset_delta) & SEQUENCE_MAX
        for batch in producer.window:
            if batch[0] == base_sequence and batch[1] == last_sequence:
                return Duplicate(batch[2], batch[3])
        return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    def update(
        self,
        producer_id: int,
        producer_epoch: int,
        base_sequence: int,
        last_offset_delta: int,
        base_offset: int,
        timestamp_ms: int,
    ) -> None:
        """Take over a batch that was appended at base_offset; it trusts its caller.

        timestamp_ms is the time of the append: what `expire` goes by and what a duplicate is
        answered with. What `check` never lets pass, an older epoch or a negative sequence,
        changes nothing, so that a fenced producer stays fenced in a replay too.
        """
        if base_sequence < 0 or producer_epoch < 0:
            return
        producer = self._producers.get(producer_id)
        if producer is None:
            if len(self._producers) >= self._producers_max:
                self._evict()
            producer = self._producers[producer_id] = _Producer(producer_epoch)
        elif producer_epoch != producer.epoch:
            if producer_epoch < producer.epoch:
                return
            producer.epoch = producer_epoch
            producer.window.clear()
        # 2^31 is a power of two, so the wrap from 2147483647 to 0 is a mask.
        last_sequence = (base_sequence + last_offset_delta) & SEQUENCE_MAX
        window = producer.window
        if len(window) == WINDOW_BATCHES_MAX:
            del window[0]
        window.append((base_sequence, last_sequence, base_offset, timestamp_ms))
        producer.next_sequence = (last_sequence + 1) & SEQUENCE_MAX
        producer.timestamp_ms = timestamp_ms

    def replay(self, batch: BatchHeader) -> None:
        """Take over a batch that recovery found in the log; never raises.

        A replay may have gaps (compaction), start anywhere, and begin before the end of the
        snapshot that was loaded: what the window has already is passed over.
        """
        producer_id = batch.producer_id
        if producer_id < 0:
            return
        self._restored = True
        producer = self._producers.get(producer_id)
        if producer is not None and batch.base_offset <= producer.window[-1][2]:
            return
        self.update(
            producer_id,
            batch.producer_epoch,
            batch.base_sequence,
            batch.last_offset_delta,
            batch.base_offset,
            batch.max_timestamp,
        )

    def last_batches(self) -> list[int]:
        """The base offset of each producer's last batch, which says its sequence."""
        return [producer.window[-1][2] for producer in self._producers.values()]

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget producers that have appended nothing for expiration_ms; returns how many.

        After a restart the time runs anew: a replay knows only the records' timestamps, which a
        client may set years back, and a producer that waited for us must not be forgotten.
        """
        if self._restored:
            self._restored = False
            for producer in self._producers.values():
                producer.timestamp_ms = max(producer.timestamp_ms, now_ms)
        expired = [
            producer_id
            for producer_id, producer in self._producers.items()
            if now_ms - producer.timestamp_ms >= expiration_ms
        ]
        for producer_id in expired:
            del self._producers[producer_id]
        return len(expired)

    def truncate_to(self, end_offset: int) -> None:
        """Forget every batch at or above end_offset (exclusive end of the log that remains).

        A producer whose window runs empty is forgotten: what it wrote before those five batches
        is not known here, and a wrong guess would refuse its next batch.
        """
        for producer_id, producer in list(self._producers.items()):
            window = producer.window
            while window and window[-1][2] >= end_offset:
                window.pop()
            if not window:
                del self._producers[producer_id]
                continue
            producer.next_sequence = (window[-1][1] + 1) & SEQUENCE_MAX

    def snapshot(self) -> bytes:
        """Encode the whole state, for `load`. Integrity of the bytes is the checkpoint's duty.

        Shape: version u16, producer count u32, then for each producer: id i64, epoch i16, last
               activity i64 (ms), batch count u8 and for each batch first and last sequence i32,
               base offset i64, timestamp i64. Big-endian throughout.
        """
        parts = [_SNAPSHOT_HEADER.pack(_SNAPSHOT_VERSION, len(self._producers))]
        for producer_id, producer in self._producers.items():
            window = producer.window
            parts.append(
                _SNAPSHOT_PRODUCER.pack(
                    producer_id, producer.epoch, producer.timestamp_ms, len(window)
                )
            )
            parts.extend(_SNAPSHOT_BATCH.pack(*batch) for batch in window)
        return b"".join(parts)

    def load(self, snapshot: bytes | memoryview) -> None:
        """Replace the state by a snapshot's. Raises ValueError on nonsense and changes nothing.

        More producers than producers_max (a lowered limit): the most recently active are kept.
        """
        try:
            producers = _decode_snapshot(snapshot)
        except struct.error as error:
            raise ValueError(f"producer snapshot is cut short: {error}") from None
        self._producers = producers
        self._restored = True
        while len(self._producers) > self._producers_max:
            self._evict()

    def _evict(self) -> None:
        """Make room: drop the least recently active eighth, so that a full table costs a sort
        once in many producers and not at each."""
        by_activity = sorted(self._producers, key=lambda key: self._producers[key].timestamp_ms)
        for producer_id in by_activity[: max(1, len(by_activity) // 8)]:
            del self._producers[producer_id]


def _decode_snapshot(data: bytes | memoryview) -> dict[int, _Producer]:
    """The producers in a snapshot. Raises ValueError, or struct.error where the bytes end early.

    The counts bound nothing by themselves: every entry must really be there, so memory and time
    are bounded by the length of data.
    """
    version, count = _SNAPSHOT_HEADER.unpack_from(data, 0)
    if version != _SNAPSHOT_VERSION:
        raise ValueError(f"producer snapshot has version {version}, not {_SNAPSHOT_VERSION}")
    producers: dict[int, _Producer] = {}
    pos = _SNAPSHOT_HEADER.size
    for _ in range(count):
        producer_id, epoch, timestamp_ms, batch_count = _SNAPSHOT_PRODUCER.unpack_from(data, pos)
        pos += _SNAPSHOT_PRODUCER.size
        if producer_id < 0 or producer_id in producers:
            raise ValueError(f"producer snapshot has an invalid or repeated id {producer_id}")
        if epoch < 0 or not 1 <= batch_count <= WINDOW_BATCHES_MAX:
            raise ValueError(
                f"producer snapshot: id {producer_id} has epoch {epoch}, {batch_count} batches"
            )
        producer = producers[producer_id] = _Producer(epoch)
        producer.timestamp_ms = timestamp_ms
        end_offset = 0
        for _ in range(batch_count):
            batch = _SNAPSHOT_BATCH.unpack_from(data, pos)
            pos += _SNAPSHOT_BATCH.size
            first_sequence, last_sequence, base_offset, _ = batch
            if first_sequence < 0 or last_sequence < 0:
                raise ValueError(f"producer snapshot: producer {producer_id}: negative sequence")
            if base_offset < end_offset:
                raise ValueError(f"producer snapshot: producer {producer_id}: offsets descend")
            end_offset = base_offset + ((last_sequence - first_sequence) & SEQUENCE_MAX) + 1
            producer.window.append(batch)
        producer.next_sequence = (producer.window[-1][1] + 1) & SEQUENCE_MAX
    if pos != len(data):
        raise ValueError(f"producer snapshot has {len(data) - pos} bytes too many")
    return producers
