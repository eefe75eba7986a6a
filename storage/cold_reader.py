"""Read records that are not in memory: whole ones, checked, into the cache.

Reads are aligned and cover at least READ_BYTES_MIN. While a reader goes on where a read ended,
they double, and the next one is under way while the reader is given what the last one brought.
Whoever wants what is being read waits for that read. Every record's header and CRC are checked,
so that damage is found here and never served. One instance a log, on its shard.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from storage.errors import CorruptRecord
from storage.log_context import LogContext
from storage.record_buffer import READ_BYTES_MIN, RecordBuffer, Spans
from storage.segment import Segment
from storage.wal_format import body_crc_holds, decode_record_header, record_bytes

READERS_MAX = 8  # places of one log that are remembered, for who goes on there


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
        self._spawn = spawn
        # Where reads ended: the offset after them -> segment, position, size of the read.
        self._ends: OrderedDict[int, tuple[Segment, int, int]] = OrderedDict()
        self._reading: dict[int, asyncio.Future[list[RecordBuffer]]] = {}  # by first offset

    async def load(self, segments: Sequence[Segment], offset: int) -> list[RecordBuffer]:
        """The record that holds `offset`, and the whole ones that were read along behind it.

        Raises CorruptRecord where it is not there as it was written, OSError.
        """
        while (reading := self._reading.get(offset)) is not None:
            if records := await asyncio.shield(reading):
                return records
        goes_on = offset in self._ends
        records = await self._load(segments, offset)
        if goes_on:
            self._read_ahead(segments, records[-1].next_offset)
        return records

    async def _load(self, segments: Sequence[Segment], offset: int) -> list[RecordBuffer]:
        segment, pos, size = self._place(segments, offset)
        reading = asyncio.get_running_loop().create_future()
        self._reading[offset] = reading
        records: list[RecordBuffer] = []
        segment.pin()
        try:
            records, chunk, pos = await self._read(segment, pos, size, offset)
        finally:  # who waits for a read that failed reads for himself
            segment.unpin()
            del self._reading[offset]
            reading.set_result(records)
        self._ends[records[-1].next_offset] = segment, pos, size
        if len(self._ends) > READERS_MAX:
            self._ends.popitem(last=False)
        fresh = [record for record in records if self._spans.add(record)]
        if 2 * sum(record.size for record in fresh) < len(chunk):
            for record in fresh:  # a few slices must not keep the whole chunk in memory
                record.body = memoryview(bytes(record.body))
        for record in fresh:
            self._cache.admit_read(record, self._spans)
        return records

    def _place(self, segments: Sequence[Segment], offset: int) -> tuple[Segment, int, int]:
        """Where and how much to read for `offset`."""
        i = bisect_right(segments, offset, key=lambda segment: segment.base_offset) - 1
        pos = segments[i].index.pos_for_offset(offset) if i >= 0 else None
        if pos is None:
            raise CorruptRecord(f"{self._directory}: no segment holds offset {offset}")
        if offset not in self._ends:
            return segments[i], pos, READ_BYTES_MIN
        segment, end_pos, size = self._ends.pop(offset)
        return segments[i], end_pos if segment is segments[i] else pos, self._cache.larger(size)

    def _read_ahead(self, segments: Sequence[Segment], offset: int) -> None:
        """Somebody goes through the log and was given what lies before `offset`."""
        if offset not in self._ends:
            return
        segment, pos, size = self._ends[offset]
        if (segment is segments[-1] and pos >= segment.durable_pos) or segment not in segments:
            return  # what comes there is in memory
        size = self._cache.larger(size)
        if self._cache.may_read_ahead(size):
            self._spawn(self._load_ahead(segments, offset, size))

    async def _load_ahead(self, segments: Sequence[Segment], offset: int, size: int) -> None:
        if offset in self._reading or self._spans.holds(offset):
            return
        self._cache.reading_bytes += size
        try:
            records = await self._load(segments, offset)
        except (CorruptRecord, OSError):
            return  # who gets there finds it
        finally:
            self._cache.reading_bytes -= size
        if self._spans.holds(offset):
            records[0].read_ahead = partial(self._entered, segments, records[-1].next_offset)

    def _entered(self, segments: Sequence[Segment], next_offset: int) -> None:
        """A reader has come to what was read ahead: go on behind it."""
        self._cache.read_ahead_pays()
        self._read_ahead(segments, next_offset)

    async def _read(
        self, segment: Segment, pos: int, size: int, offset: int
    ) -> tuple[list[RecordBuffer], memoryview, int]:
        """Records from the one that holds `offset`, the memory they lie in, and the position
        behind them."""
        records: list[RecordBuffer] = []
        end_pos = segment.durable_pos
        chunk = memoryview(b"")
        while not records:
            if pos >= end_pos:
                raise CorruptRecord(f"{segment.path}: offset {offset} is not where it should be")
            size = min(size, end_pos - pos)
            chunk = await self._disk.read(segment.fd, pos, size)
            if len(chunk) < size:
                raise CorruptRecord(
                    f"{segment.path}: the file ends at {pos + len(chunk)}, and {end_pos} bytes "
                    "of it had been durable"
                )
            pos, needed = _parse_chunk(segment, chunk, pos, offset, records)
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
