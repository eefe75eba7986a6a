"""SegmentAppender: fills a partition's record buffers and moves its three offsets.

Contract: `append` copies one batch into the open record in memory; a flush closes the open
record and hands it to the disk; everything before `durable_offset` is on stable storage. One
record is one flush: the batches that arrived while the write before it was in flight. A record
that is full is handed over at once, so bulk keeps several writes in flight.

    durable_offset <= written_offset (handed to the disk) <= appended_offset     (all exclusive)

Where many partitions are dirty, what is new in the open record goes through the shard's journal
(journal.py): it is durable then, and the record stays open. `stored_offset` <= durable_offset is
what segments hold: a start appends the rest from the journal.

Where a record goes in the file is decided when its buffer is opened (`_plan_pos`), its header is
stamped when it is submitted. A record that does not fit in its segment `rolls`: it waits until
everything before it is durable, a new segment is made, and it becomes its first record.

A failed or short write is final: nothing is retried and nothing more is written until restart,
because a retried sync may report success for lost data (Rebello et al., USENIX ATC 2020).
Runs on the partition's shard only; all its state changes are synchronous.
"""

from __future__ import annotations

import errno
import os
from asyncio import TimerHandle
from collections.abc import Callable
from functools import partial
from typing import Protocol

from kafka_protocol.checksum import crc32c
from kafka_protocol.record_batch import patch
from storage.committer import Committer
from storage.errors import DiskFailed, DiskFull, StorageError
from storage.record_buffer import RecordBuffer, RecordCache, Spans
from storage.retention import first_timestamp, must_roll
from storage.segment import Segment
from storage.wal_format import encode_record_header, record_bytes, round_up

WRITTEN = memoryview(b"")
RECORD_BYTES_MAX = 1 << 20  # one record's usual upper bound; a larger batch gets its own record
JOURNALED_BYTES_MAX = 64 << 10  # the same of one that fills slowly, by way of the journal


class AppenderOwner(Protocol):
    """What an appender asks of its log."""

    def on_durable(self, durable_offset: int) -> None:
        """Everything before `durable_offset` is durable now."""

    def on_failed(self, error: StorageError) -> None:
        """Nothing more will be written."""

    def on_settled(self) -> None:
        """A write came back that made nothing durable: after the failure, or of what the journal
        held already."""

    def on_checkpoint(self, record: RecordBuffer) -> None:
        """Everything before `record`, which carries a checkpoint_state, is durable."""

    def prepare(self, record: RecordBuffer) -> None:
        """Make room for `record` (roll, or allocate), then call `prepared`."""

    def producer_state(self) -> bytes:
        """A snapshot of the producer state as of the last append."""


class SegmentAppender:
    """The write side of one partition; see the module's contract."""

    __slots__ = (
        "_cache",
        "_committer",
        "_flush_timer",
        "_group_bytes",
        "_in_flight",
        "_must_store",
        "_open",
        "_owner",
        "_pending_bytes",
        "_plan_pos",
        "_preparing",
        "_queued",
        "_rolls_next",
        "_spans",
        "_unchecked_bytes",
        "_unflushed_bytes",
        "appended_offset",
        "block_bytes",
        "checkpoint_bytes",
        "dirty",
        "durable_offset",
        "failed",
        "first_timestamp",
        "flush_bytes",
        "flush_ms",
        "journal_marks",
        "partition",
        "roll_ms",
        "segment",
        "segment_bytes",
        "stored_offset",
        "topic_id",
        "write_caching",
        "write_seconds",
        "writes",
        "written_offset",
    )

    def __init__(
        self,
        owner: AppenderOwner,
        committer: Committer,
        cache: RecordCache,
        spans: Spans,
        segment: Segment | None,
        next_offset: int,
        block_bytes: int,
        topic_id: bytes = bytes(16),
        partition: int = 0,
    ) -> None:
        self._owner = owner
        self._committer = committer
        self._cache = cache
        self._spans = spans
        self.segment = segment
        if segment is not None:
            segment.writer = self
        in_use = segment.header.block_bytes if segment else 0
        self.block_bytes = max(block_bytes, in_use)
        self._rolls_next = 0 < in_use < block_bytes  # the device's blocks are larger
        if segment is not None and segment.header.replaced is not None:
            self._rolls_next = True  # nothing is added to it; what was behind it was cut by hand
        self.topic_id, self.partition = topic_id, partition
        self.appended_offset = self.written_offset = self.durable_offset = next_offset
        self.stored_offset = next_offset
        self.journal_marks = 0
        self._must_store = False
        self._plan_pos = segment.write_pos if segment else 0
        self._open: RecordBuffer | None = None
        # Lists, though they are taken from at the front: they are short, and an empty deque, of
        # which there would be two in each idle partition, takes 700 bytes.
        self._queued: list[RecordBuffer] = []
        self._in_flight: list[RecordBuffer] = []
        self._group_bytes = self.block_bytes
        self._preparing = False
        self._pending_bytes = 0
        self._flush_timer: TimerHandle | None = None
        self._unflushed_bytes = 0
        self._unchecked_bytes = 0
        self.writes = 0  # durable ones, and their seconds from submit to durable
        self.write_seconds = 0.0
        self.dirty = False
        self.failed: StorageError | None = None
        # Of the first batch of the segment that the open record is planned for; None: it is empty.
        self.first_timestamp: int | None = None
        if segment is not None and segment.index.max_timestamps:
            created_ms = segment.header.created_ms
            self.first_timestamp = first_timestamp(segment.index.max_timestamps[0], created_ms)
        self.segment_bytes = 1 << 30
        self.roll_ms = 1 << 62
        self.checkpoint_bytes = 64 << 20
        self.write_caching = False
        self.flush_ms = 100
        self.flush_bytes = 256 << 10

    def append(
        self,
        batch: memoryview,
        base_offset: int,
        next_offset: int,
        leader_epoch: int,
        max_timestamp: int,
    ) -> None:
        """Copy one whole record batch into the open record; see Log.append."""
        assert base_offset == self.appended_offset
        size = len(batch)
        record = self._open
        if (
            record is None
            or record.size + size > len(record.body)
            or record.leader_epoch != leader_epoch
        ):
            record = self._open_record(size, base_offset, leader_epoch, max_timestamp)
        start = record.size
        end = start + size
        record.body[start:end] = batch
        patch(record.body, start, base_offset, leader_epoch)
        record.batch_bases.append(base_offset)
        record.batch_starts.append(start)
        record.size = end
        record.next_offset = next_offset
        if max_timestamp > record.max_timestamp:
            record.max_timestamp = max_timestamp
        self.appended_offset = next_offset
        self._pending_bytes += size
        self._committer.pending_bytes += size
        if not self.write_caching:
            if not self.dirty:
                self._committer.mark_dirty(self)
        elif self._committer.may_cache:
            self._flush_later(size)
        else:
            self.flush_now()

    def flush_now(self) -> None:
        """Have everything appended so far written at the end of this tick."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._unflushed_bytes = 0
        self._committer.mark_dirty(self)

    def store(self) -> None:
        """The same, to the segment: also what is durable in the journal."""
        if self._open is not None:
            self._must_store = True
        self.flush_now()

    def flush(self) -> None:
        """Queue at the disk every write that may start now. Called by the committer."""
        if self._preparing or self.failed is not None:
            return
        queued, record = self._queued, self._open
        if not queued and not self._in_flight and record is not None:
            if self._must_store or record.journaled_end < record.size:
                self._close_record(record)
        while queued:
            record = queued[0]
            segment = self.segment
            if record.rolls or segment is None:
                if self._in_flight:
                    return  # the segment must be durable to its end before it is left
                self._prepare(record)
                return
            total = record_bytes(record.size, self.block_bytes)
            if segment.fd < 0 or segment.write_pos + total > segment.allocated_bytes:
                self._prepare(record)
                return
            del queued[0]
            self._submit(record, segment, total)

    # -- the journal -----------------------------------------------------------------------

    @property
    def unstored_bytes(self) -> int:
        """Bytes that are durable in the journal and not on their way to a segment."""
        waiting = sum(record.journaled_bytes for record in self._queued)
        return waiting + (self._open.journaled_bytes if self._open is not None else 0)

    def journal_bytes(self) -> int:
        """How much of the open record is new; 0 where it waits for a direct write."""
        record = self._open
        if record is None or self._queued or self._in_flight or self._must_store:
            return 0
        return 0 if self._preparing or self.failed else record.size - record.journaled_end

    def journal_slice(self) -> tuple[RecordBuffer, int]:
        """The open record, and where in its body the new bytes begin."""
        record = self._open
        assert record is not None
        self.written_offset = record.next_offset
        return record, record.journaled_end

    def on_journaled(
        self, record: RecordBuffer, end: int, next_offset: int, seconds: float
    ) -> None:
        """`record` is durable up to the byte `end`, unless it failed meanwhile."""
        if self.failed is not None:
            return
        self.writes += 1
        self.write_seconds += seconds
        if not record.done:  # else its direct write was faster, and has counted it
            size = end - record.journaled_bytes
            record.journaled_bytes = end
            self._pending_bytes -= size
            self._committer.pending_bytes -= size
        if next_offset > self.durable_offset:
            self.durable_offset = next_offset
            self._owner.on_durable(next_offset)

    # -- direct writes ---------------------------------------------------------------------

    def prepared(self, segment: Segment) -> None:
        """The log has made room in `segment`: go on."""
        self._preparing = False
        if self.failed is not None:
            return
        if segment is not self.segment:
            self.segment = segment
            segment.writer = self
            if self._queued:  # not after begin_roll
                self._queued[0].rolls = False
        self._committer.mark_dirty(self)

    def roll_next(self) -> None:
        """Have the next record that is opened begin a new segment; close the open one soon."""
        self._rolls_next = True
        self.store()

    def begin_roll(self) -> bool:
        """Plan for a new segment, which the log makes, although there is no record for it; then
        `prepared` or `roll_refused`. False: something is on its way, or the segment is empty."""
        segment = self.segment
        if not self.idle or self.failed is not None or segment is None:
            return False
        if segment.next_offset == segment.base_offset:
            return False
        self._preparing = True
        self._rolls_next = False
        self._plan_pos = self.block_bytes
        self.first_timestamp = None
        return True

    def roll_refused(self, state: bytes) -> None:
        """There is no new segment: the next record has to begin it. `state`: the producer state
        before that."""
        self._preparing = False
        if self.failed is not None:
            return
        record = self._queued[0] if self._queued else self._open
        if record is None:
            self._rolls_next = True
        else:
            record.rolls = True
            record.checkpoint_state = state
            self._committer.mark_dirty(self)

    @property
    def waiting_timestamp(self) -> int | None:
        """The largest timestamp of the records that are not handed to the disk, None: none is."""
        waiting = [*self._queued, *([self._open] if self._open is not None else [])]
        return max((record.max_timestamp for record in waiting), default=None)

    def fail(self, error: StorageError) -> None:
        """Stop for good: forget what is not durable and tell the log. Only the first counts."""
        if self.failed is None:
            self.failed = error
            self._queued.clear()
            self._open = None
            self._must_store = False
            self._committer.pending_bytes -= self._pending_bytes
            self._pending_bytes = 0
            self._owner.on_failed(error)

    @property
    def idle(self) -> bool:
        """Nothing is open, queued, in flight or being prepared."""
        return not (self._open or self._queued or self._in_flight or self._preparing)

    @property
    def lets_go(self) -> bool:
        """Writer: nothing is on its way to the segment, or about to be in this tick."""
        # Not `_in_flight`: behind a write that failed, those that are done stay in it.
        return not self.in_flight_count and (self._preparing or not self._queued)

    @property
    def in_flight_count(self) -> int:
        """Writes that the disk has not answered yet."""
        return sum(not record.done for record in self._in_flight)

    def _open_record(
        self, size: int, base_offset: int, leader_epoch: int, max_timestamp: int
    ) -> RecordBuffer:
        """Close the open record and open one with room for `size` bytes and likely more.

        Only here a segment is left: a record is closed within moments, or by housekeeping.
        """
        block_bytes = self.block_bytes
        full = self._open
        if full is not None:
            self._close_record(full)
            if full.leader_epoch == leader_epoch:  # it overflowed: bulk, so think bigger
                most = JOURNALED_BYTES_MAX if full.journaled_end else RECORD_BYTES_MAX
                self._group_bytes = min(2 * len(full.body), most)
        needed = round_up(size, block_bytes)
        room = self.segment_bytes - self._plan_pos - block_bytes
        first = self._plan_pos == 0  # of the partition: there is no segment yet
        if must_roll(self.first_timestamp, max_timestamp, self.roll_ms):
            self._rolls_next = True
        rolls = first or self._rolls_next or (needed > room and self._plan_pos > block_bytes)
        if rolls:
            self._rolls_next = False
            self._plan_pos = block_bytes
            self.first_timestamp = None
            room = self.segment_bytes - 2 * block_bytes
        if self.first_timestamp is None:
            self.first_timestamp = max_timestamp
        usual = min(self._group_bytes, room & -block_bytes)
        record = RecordBuffer.allocate(max(needed, usual), block_bytes, base_offset, leader_epoch)
        record.rolls = rolls
        if (rolls and not first) or self._unchecked_bytes >= self.checkpoint_bytes:
            record.checkpoint_state = self._owner.producer_state()
            self._unchecked_bytes = 0
        self._spans.add(record)
        self._open = record
        return record

    def _close_record(self, record: RecordBuffer) -> None:
        total = record_bytes(record.size, self.block_bytes)
        self._plan_pos += total
        self._unchecked_bytes += total
        decayed = self._group_bytes * 3 // 4 & -self.block_bytes  # down: it must reach one block
        self._group_bytes = round_up(max(record.size, decayed), self.block_bytes)
        self._group_bytes = min(self._group_bytes, RECORD_BYTES_MAX)
        self._queued.append(record)
        self._open = None
        self._must_store = False

    def _flush_later(self, size: int) -> None:
        """write.caching: flush after flush_bytes or flush_ms, whichever comes first."""
        self._unflushed_bytes += size
        if self._unflushed_bytes >= self.flush_bytes:
            self.flush_now()
        elif self._flush_timer is None:
            self._flush_timer = self._committer.call_later(self.flush_ms, self.flush_now)

    def _prepare(self, record: RecordBuffer) -> None:
        self._preparing = True
        self._owner.prepare(record)

    def _submit(self, record: RecordBuffer, segment: Segment, total: int) -> None:
        """Stamp the record's header and queue its write."""
        pos = segment.write_pos
        view = record.view
        record.pos = pos
        record.end_pos = pos + total
        record.prev_header_crc = segment.last_header_crc
        record.header_crc = encode_record_header(
            view,
            record.size,
            crc32c(record.body[: record.size]),
            segment.header,
            pos,
            segment.last_header_crc,
            segment.durable_pos,
            record.base_offset,
            record.next_offset - 1,
            record.max_timestamp,
            record.leader_epoch,
            len(record.batch_bases),
        )
        record.submitted_s = self._committer.clock_s()
        done: Callable[[int], None] = partial(self._written, record, total)
        self._committer.disk.write(segment.fd, view[:total], pos, done)
        segment.write_pos = record.end_pos
        segment.last_header_crc = record.header_crc
        segment.next_offset = record.next_offset
        segment.index.append(record.base_offset, pos, record.max_timestamp)
        self.written_offset = record.next_offset
        self._in_flight.append(record)
        assert self.durable_offset <= self.written_offset <= self.appended_offset

    def _written(self, record: RecordBuffer, total: int, res: int) -> None:
        """A write's completion: `res` bytes are durable, or -errno."""
        if self.failed is not None or res != total:
            self._in_flight.remove(record)
            self.fail(self._write_error(record, total, res))
            self._owner.on_settled()
            return
        record.done = True
        record.view = WRITTEN  # the body is what is served; one object less for each record kept
        committer = self._committer
        seconds = committer.clock_s() - record.submitted_s
        self.writes += 1
        self.write_seconds += seconds
        committer.observe_write(seconds, len(record.batch_bases), total)
        in_flight, segment = self._in_flight, self.segment
        assert segment is not None
        if not in_flight[0].done:
            return
        durable_before = self.durable_offset
        while in_flight and in_flight[0].done:
            durable = in_flight.pop(0)
            assert segment.durable_pos == durable.pos
            segment.durable_pos = durable.end_pos
            self.durable_offset = self.stored_offset = durable.next_offset
            size = durable.size - durable.journaled_bytes
            self._pending_bytes -= size
            committer.pending_bytes -= size
            self._cache.admit(durable, self._spans)
            if durable.checkpoint_state is not None:
                self._owner.on_checkpoint(durable)
        if self._queued or (self._open is not None and self._flush_timer is None):
            committer.mark_dirty(self)  # where there is a timer, nobody waits for the open record
        if self.journal_marks and committer.journal is not None:
            committer.journal.stored(self)
        if self.durable_offset > durable_before:
            self._owner.on_durable(self.durable_offset)
        else:
            self._owner.on_settled()

    def _write_error(self, record: RecordBuffer, total: int, res: int) -> StorageError:
        segment = self.segment
        path = segment.path if segment else "?"
        where = f"{path} at position {record.pos}"
        if res >= 0:
            return DiskFailed(f"short write: {res} of {total} bytes reached {where}")
        if -res == errno.ENOSPC:
            return DiskFull(f"no space left on the device, writing {total} bytes to {where}")
        return DiskFailed(f"{os.strerror(-res)}, writing {total} bytes to {where}")
