"""Read records that are not in memory: whole ones, checked, into the cache.

Reads are aligned, cover at least READ_BYTES_MIN, and end where a record ends as far as the index
knows, so that nothing is read twice. While a reader goes on where a read ended, they double, and
the next READS_AHEAD are under way while the reader is given what the last one brought. Whoever
wants what is being read waits for that read. Every record's header and CRC are checked, so that
damage is found here and never served. One instance a log, on its shard.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from storage.errors import CorruptRecord
from storage.log_context import LogContext
from storage.record_buffer import READ_BYTES_MIN, RecordBuffer, Spans
from storage.segment import Segment
from storage.wal_format import body_crc_holds, decode_record_header, record_bytes

READERS_MAX = 8  # places of one log that are remembered, for who goes on there
READS_AHEAD = 2  # of one reader: the disk works on one while the other is checked


class _Read(NamedTuple):
    """A read under way, from the record that holds `offset` on; its segment is pinned.

    `wanted_bytes` is what it was allowed, `size` what it takes. `next_offset` is the one behind
    it, -1 where only the read can tell.
    """

    segment: Segment
    offset: int
    pos: int
    size: int
    wanted_bytes: int
    next_offset: int
    done: asyncio.Future[list[RecordBuffer]]


class ColdReader:
    """Brings records of one log from disk into its spans and the shard's cache."""

    def __init__(
        self,
        directory: Path,
        context: LogContext,
        spans: Spans,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`spawn`: run what reads ahead; the log's, which waits for it at its end."""
        self._directory = directory
        self._disk = context.disk
        self._spans = spans
        self._cache = context.cache
        self._files = context.files
        self._spawn = spawn
        # Where reads end: the offset after them -> segment, position, size of the read.
        self._ends: OrderedDict[int, tuple[Segment, int, int]] = OrderedDict()
        self._reading: dict[int, _Read] = {}  # by first offset
        # What was read ahead and nobody has come to: first offset -> the one behind it.
        self._ahead: OrderedDict[int, int] = OrderedDict()

    async def load(self, segments: Sequence[Segment], offset: int) -> list[RecordBuffer]:
        """The record that holds `offset`, and the whole ones that were read along behind it.

        Nothing where it was deleted meanwhile.
        Raises CorruptRecord where it is not there as it was written, StorageError, OSError.
        """
        while (segment := self._holder(segments, offset)) is not None:
            async with self._files.used(segment, segments):
                if (reading := self._under_way(offset)) is not None:
                    if records := await asyncio.shield(reading.done):
                        return records
                elif segment is self._holder(segments, offset):
                    return await self._load(segments, offset)
        return []

    async def _load(self, segments: Sequence[Segment], offset: int) -> list[RecordBuffer]:
        goes_on = offset in self._ends
        read = self._start(segments, offset)
        if goes_on and read.next_offset >= 0:
            self._read_ahead(segments, read.next_offset)
        records = await self._finish(read)
        if goes_on and read.next_offset < 0:
            self._read_ahead(segments, records[-1].next_offset)
        return records

    def _under_way(self, offset: int) -> _Read | None:
        """The read that brings the record of `offset`."""
        exact = self._reading.get(offset)
        if exact is not None:
            return exact
        for read in self._reading.values():
            if read.offset < offset < read.next_offset:
                return read
        return None

    def _start(self, segments: Sequence[Segment], offset: int) -> _Read:
        """Decide what is read for `offset`, and say so to all who come."""
        segment, pos, wanted = self._place(segments, offset)
        end_pos = segment.durable_pos
        size, next_offset = min(wanted, end_pos - pos), -1
        found = segment.index.record_at(pos, pos + wanted)
        if found is not None and found[0] <= end_pos:
            size, next_offset = found[0] - pos, found[1]
        elif end_pos - pos <= 2 * wanted:
            size = end_pos - pos
            if segment is not segments[-1]:
                next_offset = segment.next_offset
        done = asyncio.get_running_loop().create_future()
        read = _Read(segment, offset, pos, size, wanted, next_offset, done)
        self._reading[offset] = read
        if next_offset >= 0:
            self._note_end(next_offset, segment, pos + size, wanted)
        segment.pin()
        return read

    async def _finish(self, read: _Read) -> list[RecordBuffer]:
        """Read, check, keep in memory."""
        records: list[RecordBuffer] = []
        try:
            records, chunk, end_pos = await self._read(read)
        finally:  # who waits for a read that failed reads for himself
            read.segment.unpin()
            del self._reading[read.offset]
            read.done.set_result(records)
        if read.next_offset < 0:
            self._note_end(records[-1].next_offset, read.segment, end_pos, read.wanted_bytes)
        # What a replaced segment held is laid out otherwise now: it must not stand beside that.
        replaced = read.segment.replaced
        fresh = [record for record in records if not replaced and self._spans.add(record)]
        if 2 * sum(record.size for record in fresh) < len(chunk):
            for record in fresh:  # a few slices must not keep the whole chunk in memory
                record.body = memoryview(bytes(record.body))
        for record in fresh:
            self._cache.admit_read(record, self._spans)
        return records

    def _place(self, segments: Sequence[Segment], offset: int) -> tuple[Segment, int, int]:
        """From where to read for `offset`, and about how much."""
        holder = self._holder(segments, offset)
        pos = holder.index.pos_for_offset(offset) if holder is not None else None
        if holder is None or pos is None:
            raise CorruptRecord(f"{self._directory}: no segment holds offset {offset}")
        if offset not in self._ends:
            return holder, pos, READ_BYTES_MIN
        segment, end_pos, size = self._ends.pop(offset)
        return holder, end_pos if segment is holder else pos, self._cache.larger(size)

    def _holder(self, segments: Sequence[Segment], offset: int) -> Segment | None:
        """The segment that holds `offset`, None where it is below all of them."""
        i = bisect_right(segments, offset, key=lambda segment: segment.base_offset) - 1
        return segments[i] if i >= 0 else None

    def _note_end(self, next_offset: int, segment: Segment, pos: int, size: int) -> None:
        """A read of `size` ends at `pos`, where `next_offset` begins."""
        self._ends[next_offset] = segment, pos, size
        if len(self._ends) > READERS_MAX:
            self._ends.popitem(last=False)

    def _read_ahead(self, segments: Sequence[Segment], offset: int) -> None:
        """Somebody goes through the log and is given what lies before `offset`."""
        for _ in range(READS_AHEAD):
            if offset not in self._ahead:
                if not self._may_read_ahead(segments, offset):
                    return
                read = self._start(segments, offset)
                self._ahead[offset] = read.next_offset
                if len(self._ahead) > READERS_MAX * READS_AHEAD:
                    self._ahead.popitem(last=False)
                self._cache.reading_bytes += read.size
                self._spawn(self._finish_ahead(segments, read))
            offset = self._ahead[offset]
            if offset < 0:
                return

    def _may_read_ahead(self, segments: Sequence[Segment], offset: int) -> bool:
        if offset not in self._ends or self._under_way(offset) or self._spans.holds(offset):
            return False
        holder = self._holder(segments, offset)
        if holder is None or holder.fd < 0:
            return False  # who gets there opens it
        segment, pos, size = self._ends[offset]
        last = segments[-1]
        if segment is not last and last.base_offset <= offset:
            pos = last.header.block_bytes  # it goes on in the next file
        elif segment not in segments:
            return False
        if last.base_offset <= offset and pos >= last.durable_pos:
            return False  # what comes there is in memory
        return self._cache.may_read_ahead(self._cache.larger(size))

    async def _finish_ahead(self, segments: Sequence[Segment], read: _Read) -> None:
        try:
            records = await self._finish(read)
        except (CorruptRecord, OSError):
            self._ahead.pop(read.offset, None)
            return  # who gets there finds it
        finally:
            self._cache.reading_bytes -= read.size
        if not self._spans.holds(read.offset):
            self._ahead.pop(read.offset, None)
            return
        next_offset = records[-1].next_offset
        if read.offset in self._ahead:
            self._ahead[read.offset] = next_offset
        records[0].read_ahead = partial(self._entered, segments, read.offset, next_offset)

    def _entered(self, segments: Sequence[Segment], offset: int, next_offset: int) -> None:
        """A reader has come to what was read ahead from `offset` on: go on behind it."""
        self._ahead.pop(offset, None)
        self._cache.read_ahead_pays()
        self._read_ahead(segments, next_offset)

    async def _read(self, read: _Read) -> tuple[list[RecordBuffer], memoryview, int]:
        """Records from the one that holds the offset, the memory they lie in, and the position
        behind them."""
        segment, pos, size = read.segment, read.pos, read.size
        records: list[RecordBuffer] = []
        end_pos = segment.durable_pos
        chunk = memoryview(b"")
        while not records:
            if pos >= end_pos:
                raise CorruptRecord(
                    f"{segment.path}: offset {read.offset} is not where it should be"
                )
            size = min(size, end_pos - pos)
            chunk = await self._disk.read(segment.fd, pos, size)
            if len(chunk) < size:
                raise CorruptRecord(
                    f"{segment.path}: the file ends at {pos + len(chunk)}, and {end_pos} bytes "
                    "of it had been durable"
                )
            pos, needed = _parse_chunk(segment, chunk, pos, read.offset, records)
            size = max(size, needed)
        return records, chunk, pos


def _parse_chunk(
    segment: Segment, chunk: memoryview, pos: int, offset: int, records: list[RecordBuffer]
) -> tuple[int, int]:
    """Append the whole records of `chunk` that reach `offset` or lie behind it. Returns the
    position after the last whole record and how many bytes the next one has (0: unknown)."""
    block_bytes = segment.header.block_bytes
    at = 0
    while len(chunk) - at >= block_bytes:
        header = decode_record_header(chunk[at:], segment.header, pos + at)
        if header is None:
            raise CorruptRecord(f"{segment.path}: no valid record header at {pos + at}")
        total = record_bytes(header.body_length, block_bytes)
        if total > len(chunk) - at:
            if pos + at + total > segment.durable_pos:
                raise CorruptRecord(f"{segment.path}: the record at {pos + at} is too long")
            return pos + at, total
        if header.last_offset >= offset:
            body = chunk[at + block_bytes : at + block_bytes + header.body_length]
            if not body_crc_holds(header, body):
                raise CorruptRecord(
                    f"{segment.path}: the CRC of the record at {pos + at} (offsets "
                    f"{header.base_offset} to {header.last_offset}) does not match"
                )
            next_offset = header.last_offset + 1
            records.append(
                RecordBuffer.from_disk(body, header.base_offset, next_offset, header.leader_epoch)
            )
        at += total
    return pos + at, 0
