"""Read records that are not in memory: whole ones, checked, into the cache.

Reads are aligned and cover at least READ_BYTES_MIN; while a reader goes on where the last read
ended, the read-ahead doubles. Every record's header and CRC are checked, so that damage is found
here and never served. One instance a log, on its shard.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from storage.disk import Disk
from storage.errors import CorruptRecord
from storage.record_buffer import RecordBuffer, RecordCache, Spans
from storage.segment import Segment
from storage.wal_format import body_crc_holds, decode_record_header, record_bytes

READ_BYTES_MIN = 128 * 1024
READ_BYTES_MAX = 4 << 20


class ColdReader:
    """Brings records of one log from disk into its spans and the shard's cache."""

    def __init__(self, directory: Path, disk: Disk, spans: Spans, cache: RecordCache) -> None:
        self._directory = directory
        self._disk = disk
        self._spans = spans
        self._cache = cache
        self._last_read: tuple[Segment, int] | None = None
        self._read_ahead_bytes = READ_BYTES_MIN

    async def load(self, segments: Sequence[Segment], offset: int) -> list[RecordBuffer]:
        """The record that holds `offset`, and the whole ones that were read along behind it.

        Raises CorruptRecord where it is not there as it was written, OSError.
        """
        i = bisect_right(segments, offset, key=lambda segment: segment.base_offset) - 1
        pos = segments[i].index.pos_for_offset(offset) if i >= 0 else None
        if pos is None:
            raise CorruptRecord(f"{self._directory}: no segment holds offset {offset}")
        segment = segments[i]
        segment.pin()
        try:
            records, chunk, pos = await self._read(segment, pos, offset)
        finally:
            segment.unpin()
        self._last_read = (segment, pos)
        fresh = [record for record in records if self._spans.add(record)]
        if 2 * sum(record.size for record in fresh) < len(chunk):
            for record in fresh:  # a few slices must not keep the whole chunk in memory
                record.body = memoryview(bytes(record.body))
        for record in fresh:
            self._cache.admit(record, self._spans)
        return records

    async def _read(
        self, segment: Segment, pos: int, offset: int
    ) -> tuple[list[RecordBuffer], memoryview, int]:
        """Records from the one that holds `offset`, the memory they lie in, and the position
        behind them."""
        last_segment, last_end_pos = self._last_read or (None, 0)
        if last_segment is segment and pos <= last_end_pos <= pos + self._read_ahead_bytes:
            self._read_ahead_bytes = min(2 * self._read_ahead_bytes, READ_BYTES_MAX)
        else:
            self._read_ahead_bytes = READ_BYTES_MIN
        size = self._read_ahead_bytes
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
