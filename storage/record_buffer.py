"""One buffer a record: filled once, written, cached and served from the same bytes.

`RecordBuffer` is the memory of one WAL record. `Spans` are one partition's records that are in
memory, by offset. `RecordCache` is the shard's byte budget over all of them: it evicts whole
buffers, oldest first, and counts their capacity. What was read back from disk has at most half of
the budget, so that a consumer that lags leaves those at the tail theirs. A buffer is never reused:
whoever still sends from it keeps it alive by its reference count.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable

from kafka_protocol.record_batch import iter_batches
from storage.buffers import aligned_buffer

READ_BYTES_MIN = 128 * 1024  # of one read from disk
READ_BYTES_MAX = 1 << 20  # larger ones are no faster, and hold up the loop when they are checked


class RecordBuffer:
    """The bytes of one WAL record and where its batches start.

    `view` is the header block and the body's capacity, block-aligned (empty for a record that
    was read back from disk); `body` is the body's part of it, of which `size` bytes are filled.
    `next_offset` is exclusive. `batch_bases` and `batch_starts` are the base offset and the
    position in the body of each batch; offsets that compaction left without a record count to the
    batch behind them, so that whoever asks for one is given what takes him further. `pos` and
    `end_pos` are file positions, known from the submit on. `owner` is where the cache has to drop
    it from. `checkpoint_state`, where not None, is the producer state before this record.
    `admitted` numbers what the cache was given. `read_ahead`, where not None, is called once, when
    the record is read: it is the first of those that were read ahead.
    """

    __slots__ = (
        "admitted",
        "base_offset",
        "batch_bases",
        "batch_starts",
        "body",
        "capacity_bytes",
        "checkpoint_state",
        "done",
        "end_pos",
        "header_crc",
        "journaled_batches",
        "journaled_bytes",
        "journaled_end",
        "journaled_offset",
        "leader_epoch",
        "max_timestamp",
        "next_offset",
        "owner",
        "pos",
        "prev_header_crc",
        "read_ahead",
        "rolls",
        "size",
        "submitted_s",
        "view",
    )

    def __init__(
        self, view: memoryview, body: memoryview, base_offset: int, leader_epoch: int
    ) -> None:
        self.view = view
        self.body = body
        self.capacity_bytes = len(view)
        self.size = 0
        self.base_offset = base_offset
        self.next_offset = base_offset
        self.max_timestamp = -1
        self.leader_epoch = leader_epoch
        # Arrays, since the garbage collector looks into lists and not into these.
        self.batch_bases = array("q")
        self.batch_starts = array("q")
        self.pos = -1
        self.end_pos = -1
        self.prev_header_crc = 0
        self.header_crc = 0
        self.submitted_s = 0.0
        self.owner: Spans | None = None
        self.admitted = 0
        self.read_ahead: Callable[[], None] | None = None
        self.done = False
        self.rolls = False
        self.checkpoint_state: bytes | None = None
        # Handed to the journal: bytes and batches from the start on, and the offset after them.
        self.journaled_end = self.journaled_batches = 0
        self.journaled_offset = base_offset
        self.journaled_bytes = 0  # of them durable there

    @classmethod
    def allocate(
        cls, body_capacity: int, block_bytes: int, base_offset: int, leader_epoch: int
    ) -> RecordBuffer:
        """A zeroed buffer for one header block and `body_capacity` bytes (a block multiple)."""
        _memory, view = aligned_buffer(block_bytes + body_capacity, block_bytes)
        return cls(view, view[block_bytes:], base_offset, leader_epoch)

    @classmethod
    def from_disk(
        cls, body: memoryview, base_offset: int, next_offset: int, leader_epoch: int
    ) -> RecordBuffer:
        """A record that was read back; `body` is exactly its batches."""
        record = cls(memoryview(b""), body, base_offset, leader_epoch)
        record.size = record.capacity_bytes = len(body)
        record.next_offset = next_offset
        record.done = True
        return record

    def slice(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool
    ) -> tuple[memoryview, int]:
        """Whole batches from the one that holds `offset`, all before `limit_offset`, of at most
        `max_bytes`, or one batch if `at_least_one` and it is larger; and the offset after them.
        May be empty (then the offset is `offset`)."""
        if (
            offset <= self.base_offset
            and self.next_offset <= limit_offset
            and self.size <= max_bytes
        ):
            return self.body[: self.size], self.next_offset
        starts, bases = self.batch_starts, self.batch_bases
        if not starts:  # read back from disk: find its batches once
            base = self.base_offset
            for pos, batch in iter_batches(self.body, 0, self.size):
                starts.append(pos)
                bases.append(base)
                base = batch.last_offset + 1
        count = len(starts)
        first = max(bisect_right(bases, offset) - 1, 0)
        last = bisect_left(bases, limit_offset)  # exclusive; limits lie between batches
        end = starts[last] if last < count else self.size
        if end - starts[first] > max_bytes:
            # The last boundary within max_bytes; batch `last` would end beyond it.
            last = bisect_right(starts, starts[first] + max_bytes, first, last) - 1
            if last <= first and at_least_one:
                last = first + 1
            end = starts[last] if last < count else self.size
        if last <= first:
            return self.body[:0], offset
        return self.body[starts[first] : end], bases[last] if last < count else self.next_offset


class Spans:
    """One partition's records in memory, ordered by base offset; there may be holes."""

    __slots__ = ("_bases", "_records")

    def __init__(self) -> None:
        self._bases: list[int] = []
        self._records: list[RecordBuffer] = []

    def add(self, record: RecordBuffer) -> bool:
        """Add a record, at the end or in a hole. False if one with its base is here already."""
        bases = self._bases
        if not bases or record.base_offset > bases[-1]:
            bases.append(record.base_offset)
            self._records.append(record)
            return True
        i = bisect_left(bases, record.base_offset)
        if bases[i] == record.base_offset:
            return False
        bases.insert(i, record.base_offset)
        self._records.insert(i, record)
        return True

    def holds(self, offset: int) -> bool:
        """Whether `offset` is in memory."""
        i = bisect_right(self._bases, offset) - 1
        return i >= 0 and offset < self._records[i].next_offset

    def drop(self, record: RecordBuffer) -> None:
        """Forget a record (the cache evicts it); whoever still sends from it keeps its bytes."""
        i = bisect_left(self._bases, record.base_offset)
        if i < len(self._bases) and self._records[i] is record:
            del self._bases[i]
            del self._records[i]

    def drop_between(self, start_offset: int, end_offset: int) -> None:
        """Forget the records that begin between these two, the second exclusive: what they hold
        is in other records now."""
        i, j = bisect_left(self._bases, start_offset), bisect_left(self._bases, end_offset)
        del self._bases[i:j]
        del self._records[i:j]

    def clear(self) -> None:
        """Forget all of them."""
        self._bases.clear()
        self._records.clear()

    def read(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool
    ) -> tuple[list[memoryview], int] | None:
        """Slices of whole batches from `offset` up to `limit_offset`, contiguous in offsets, and
        the first offset after them. None where `offset` is not in memory. See RecordBuffer.slice.
        """
        i = bisect_right(self._bases, offset) - 1
        if i < 0 or offset >= self._records[i].next_offset:
            return None
        slices: list[memoryview] = []
        while True:
            record = self._records[i]
            if record.read_ahead is not None:
                read_ahead, record.read_ahead = record.read_ahead, None
                read_ahead()
            part, next_offset = record.slice(offset, limit_offset, max_bytes, at_least_one)
            if not len(part):
                return slices, offset
            slices.append(part)
            at_least_one = False
            max_bytes -= len(part)
            offset = next_offset
            i += 1
            if offset != record.next_offset or offset >= limit_offset or max_bytes <= 0:
                return slices, offset
            if i == len(self._bases) or self._bases[i] != offset:
                return slices, offset


class RecordCache:
    """The shard's budget of record bytes in memory, and how much is read ahead. One shard, one
    instance. `reading_bytes` are those of reads ahead that are under way."""

    __slots__ = (
        "_admitted",
        "_read",
        "_read_bytes",
        "_read_bytes_max",
        "_written",
        "budget_bytes",
        "evictions",
        "hits",
        "misses",
        "reading_bytes",
        "used_bytes",
    )

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self.reading_bytes = 0
        self._written: deque[RecordBuffer] = deque()
        self._read: deque[RecordBuffer] = deque()  # back from disk
        self._read_bytes = 0
        self._read_bytes_max = READ_BYTES_MAX  # of the next read
        self._admitted = 0

    def admit(self, record: RecordBuffer, spans: Spans) -> None:
        """Count a record that is durable; evict the oldest beyond the budget. Records that are
        not durable yet are bounded by the bytes in flight instead."""
        self._written.append(record)
        self._admit(record, spans)

    def admit_read(self, record: RecordBuffer, spans: Spans) -> None:
        """The same for one that was read back from disk."""
        self._read.append(record)
        self._read_bytes += record.capacity_bytes
        while self._read_bytes > self.budget_bytes // 2 and len(self._read) > 1:
            self._evict(self._read)
        self._admit(record, spans)

    def _admit(self, record: RecordBuffer, spans: Spans) -> None:
        record.owner = spans
        record.admitted = self._admitted = self._admitted + 1
        self.used_bytes += record.capacity_bytes
        written, read = self._written, self._read
        while self.used_bytes > self.budget_bytes:
            is_read = not written or (read and read[0].admitted < written[0].admitted)
            self._evict(read if is_read else written)

    def _evict(self, records: deque[RecordBuffer]) -> None:
        old = records.popleft()
        self.used_bytes -= old.capacity_bytes
        self.evictions += 1
        if records is self._read:
            self._read_bytes -= old.capacity_bytes
            if old.read_ahead is not None:  # for nothing: there is more of it than room
                old.read_ahead = None
                self._read_bytes_max = max(self._read_bytes_max // 2, READ_BYTES_MIN)
        assert old.owner is not None
        old.owner.drop(old)

    # -- reading from disk -----------------------------------------------------------------

    def larger(self, size: int) -> int:
        """How much to read after a read of `size`, for who goes on there."""
        return min(2 * size, self._read_bytes_max)

    def may_read_ahead(self, size: int) -> bool:
        """Whether there is room for a read of `size` before anybody wants it."""
        return self.reading_bytes + size <= self.budget_bytes // 8

    def read_ahead_pays(self) -> None:
        """What was read ahead is wanted."""
        self._read_bytes_max = min(self._read_bytes_max + READ_BYTES_MIN, READ_BYTES_MAX)
