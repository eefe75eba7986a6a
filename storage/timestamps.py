"""Find records by timestamp: exact, also where timestamps are out of order.

The indexes say which stretch of a segment holds a timestamp; the batches of that stretch are
read and the one batch that decides is looked into. Source: ListOffsets, KIP-79 and KIP-734.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import iter_batches, iter_records
from storage.segment import Segment

SEARCH_BYTES = 1 << 20
INFLATED_BYTES_MAX = 64 << 20  # a batch that inflates to more is not looked into


class ReadableLog(Protocol):
    """The part of a log that a search needs."""

    log_start_offset: int

    async def read(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True
    ) -> tuple[list[memoryview], int]:
        """See storage.log.Log.read."""


async def first_at_or_after(
    log: ReadableLog, segments: Sequence[Segment], timestamp: int, limit_offset: int
) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record before `limit_offset` whose timestamp is at least
    `timestamp`, or None."""
    # With write.caching there are records that no segment's index knows yet; those that get there
    # during the search are searched as the rest, too.
    indexed_end = segments[-1].next_offset if segments else log.log_start_offset
    for segment in list(segments):
        after = 0
        while (i := segment.index.entry_for_timestamp(timestamp, after)) is not None:
            after = i + 1
            start, end = _stretch(segment, i)
            found = await _search(log, start, min(end, limit_offset), timestamp)
            if found is not None:
                return found
    return await _search(log, indexed_end, limit_offset, timestamp)


async def largest(
    log: ReadableLog, segments: Sequence[Segment], limit_offset: int
) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record with the largest timestamp before
    `limit_offset`, or None for an empty log (KIP-734)."""
    indexed_end = segments[-1].next_offset if segments else log.log_start_offset
    stretches = [
        (max_timestamp, segment, i)
        for segment in segments
        for i, max_timestamp in enumerate(segment.index.max_timestamps)
    ]
    stretches.sort(key=lambda stretch: -stretch[0])
    best: tuple[int, int] | None = None
    for max_timestamp, segment, i in stretches:
        if best is not None and best[1] >= max_timestamp:
            break
        start, end = _stretch(segment, i)
        found = await _largest_in(log, start, min(end, limit_offset))
        if found is not None and (best is None or found[1] > best[1]):
            best = found
    tail = await _largest_in(log, indexed_end, limit_offset)
    return tail if tail is not None and (best is None or tail[1] > best[1]) else best


def _stretch(segment: Segment, i: int) -> tuple[int, int]:
    """First and exclusive last offset of an index entry."""
    bases = segment.index.base_offsets
    return bases[i], bases[i + 1] if i + 1 < len(bases) else segment.next_offset


async def _search(
    log: ReadableLog, offset: int, end: int, timestamp: int
) -> tuple[int, int] | None:
    while (offset := max(offset, log.log_start_offset)) < end:
        slices, offset = await log.read(offset, end, SEARCH_BYTES)
        for part in slices:
            for pos, batch in iter_batches(part, 0, len(part)):
                if batch.max_timestamp < timestamp:
                    continue
                whole = part[pos : pos + batch.size_bytes]
                for at, found in _record_timestamps(whole, log.log_start_offset):
                    if found >= timestamp:
                        return at, found
    return None


async def _largest_in(log: ReadableLog, offset: int, end: int) -> tuple[int, int] | None:
    best: tuple[int, int] | None = None
    while (offset := max(offset, log.log_start_offset)) < end:
        slices, offset = await log.read(offset, end, SEARCH_BYTES)
        for part in slices:
            for pos, batch in iter_batches(part, 0, len(part)):
                if best is None or batch.max_timestamp > best[1]:
                    whole = part[pos : pos + batch.size_bytes]
                    for at, found in _record_timestamps(whole, log.log_start_offset):
                        if best is None or found > best[1]:
                            best = at, found
    return best


def _record_timestamps(batch: memoryview, first: int) -> Iterator[tuple[int, int]]:
    """(offset, timestamp) of each record of one batch from offset `first` on."""
    _pos, header = next(iter_batches(batch, 0, len(batch)))
    if header.timestamp_type:  # LogAppendTime: one timestamp for the whole batch
        yield max(header.base_offset, first), header.max_timestamp
        return
    try:
        for record in iter_records(batch, INFLATED_BYTES_MAX):
            if record.offset >= first:
                yield record.offset, record.timestamp
    except DecodeError:
        # Nothing looks inside a batch when it is produced: where the inside is nonsense, or too
        # large, what its header says has to do.
        yield max(header.base_offset, first), header.max_timestamp
