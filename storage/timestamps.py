"""Find records by timestamp: exact, also where timestamps are out of order.

The indexes say which stretch of a segment holds a timestamp; the batches of that stretch are
read and the one batch that decides is looked into. Source: ListOffsets, KIP-79 and KIP-734.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import BatchHeader, Record, iter_batches, iter_records
from storage.segment import Segment
from storage.segment_files import SegmentFiles

SEARCH_BYTES = 1 << 20
INFLATED_BYTES_MAX = 64 << 20  # a batch that inflates to more is not looked into
LOOKED_INTO_RECORDS_MAX = 1_000_000  # nor one of more records: that is a second of Python
SLICE_RECORDS = 500  # looked at between two turns of the loop: below a millisecond
LIES_MAX = 4  # headers of a search whose timestamp no record had; the next one is believed


class ReadableLog(Protocol):
    """The part of a log that a search needs."""

    log_start_offset: int
    looks_inside: asyncio.Lock
    """Held by the one search of a shard that looks into a batch."""

    async def read(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True
    ) -> tuple[list[memoryview], int]:
        """See storage.log.Log.read."""


async def first_at_or_after(
    log: ReadableLog,
    files: SegmentFiles,
    segments: Sequence[Segment],
    timestamp: int,
    limit_offset: int,
) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record before `limit_offset` whose timestamp is at least
    `timestamp`, or None."""
    # With write.caching there are records that no segment's index knows yet; those that get there
    # during the search are searched as the rest, too.
    indexed_end = segments[-1].next_offset if segments else log.log_start_offset
    offset = log.log_start_offset
    while offset < indexed_end:
        segment = _holder(segments, offset)
        max_timestamp = await files.max_timestamp(segment, segments)
        if max_timestamp is None or max_timestamp >= timestamp:
            async with files.used(segment, segments):
                if segment.fd < 0:
                    continue  # replaced: look at what has its offsets now
                for start, end in _stretches(segment, timestamp):
                    found = await _search(log, start, min(end, limit_offset), timestamp)
                    if found is not None:
                        return found
        offset = max(segment.next_offset, log.log_start_offset)
    return await _search(log, indexed_end, limit_offset, timestamp)


def _stretches(segment: Segment, timestamp: int) -> Iterator[tuple[int, int]]:
    """The parts of a segment that hold a timestamp that is not smaller."""
    after = 0
    while (i := segment.index.entry_for_timestamp(timestamp, after)) is not None:
        after = i + 1
        yield _stretch(segment, i)


async def largest(
    log: ReadableLog, files: SegmentFiles, segments: Sequence[Segment], limit_offset: int
) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record with the largest timestamp before
    `limit_offset`, or None for an empty log (KIP-734)."""
    indexed_end = segments[-1].next_offset if segments else log.log_start_offset
    offset, candidates = log.log_start_offset, []
    while offset < indexed_end:
        segment = _holder(segments, offset)
        if (max_timestamp := await files.max_timestamp(segment, segments)) is None:
            continue  # replaced: look at what has its offsets now
        candidates.append((max_timestamp, offset))
        offset = max(segment.next_offset, log.log_start_offset)
    best: tuple[int, int] | None = None
    for max_timestamp, offset in sorted(candidates, key=lambda candidate: -candidate[0]):
        if best is not None and best[1] >= max_timestamp:
            break
        found = False
        while not found:
            segment = _holder(segments, max(offset, log.log_start_offset))
            async with files.used(segment, segments):
                if found := segment.fd >= 0:
                    best = await _largest_of_segment(log, segment, limit_offset, best)
    tail = await _largest_in(log, indexed_end, limit_offset)
    return tail if tail is not None and (best is None or tail[1] > best[1]) else best


def _holder(segments: Sequence[Segment], offset: int) -> Segment:
    """The segment that holds `offset`, which is in the log."""
    segment = segments[bisect_right(segments, offset, key=lambda one: one.base_offset) - 1]
    assert segment.base_offset <= offset < segment.next_offset
    return segment


async def _largest_of_segment(
    log: ReadableLog, segment: Segment, limit_offset: int, best: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The same of one segment, or `best` where that is not smaller."""
    stretches = sorted(enumerate(segment.index.max_timestamps), key=lambda entry: -entry[1])
    for i, max_timestamp in stretches:
        if best is not None and best[1] >= max_timestamp:
            break
        start, end = _stretch(segment, i)
        found = await _largest_in(log, start, min(end, limit_offset))
        if found is not None and (best is None or found[1] > best[1]):
            best = found
    return best


def _stretch(segment: Segment, i: int) -> tuple[int, int]:
    """First and exclusive last offset of an index entry."""
    bases = segment.index.base_offsets
    return bases[i], bases[i + 1] if i + 1 < len(bases) else segment.next_offset


async def _search(
    log: ReadableLog, offset: int, end: int, timestamp: int
) -> tuple[int, int] | None:
    lies = 0
    while (offset := max(offset, log.log_start_offset)) < end:
        slices, offset = await log.read(offset, end, SEARCH_BYTES)
        for part in slices:
            for pos, header in iter_batches(part, 0, len(part)):
                if header.max_timestamp < timestamp or not header.record_count:
                    continue
                if lies >= LIES_MAX:
                    return max(header.base_offset, log.log_start_offset), header.max_timestamp
                batch = part[pos : pos + header.size_bytes]
                found = await _look_into(log, header, batch, timestamp)
                if found is not None:
                    return found
                lies += 1
    return None


async def _largest_in(log: ReadableLog, offset: int, end: int) -> tuple[int, int] | None:
    """By the headers: only the batch that has it is looked into, and one that the log start cuts,
    whose largest may be gone."""
    best: tuple[int, int] | None = None
    holder: tuple[BatchHeader, memoryview] | None = None
    while (offset := max(offset, log.log_start_offset)) < end:
        slices, offset = await log.read(offset, end, SEARCH_BYTES)
        for part in slices:
            for pos, header in iter_batches(part, 0, len(part)):
                if not header.record_count or (best and header.max_timestamp <= best[1]):
                    continue
                batch = part[pos : pos + header.size_bytes]
                if header.base_offset < log.log_start_offset:
                    found = await _look_into(log, header, batch, None)
                    if found is not None and (best is None or found[1] > best[1]):
                        best, holder = found, None
                else:
                    best, holder = (header.base_offset, header.max_timestamp), (header, batch)
    if holder is None:
        return best
    return await _look_into(log, *holder, holder[0].max_timestamp) or best


async def _look_into(
    log: ReadableLog, header: BatchHeader, batch: memoryview, at_least: int | None
) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record of a batch that is not older than `at_least`, or
    (None) of the one with the largest timestamp; of those that the log has not deleted.

    Nothing looks inside a batch when it is produced: where the inside is nonsense, or too large,
    what its header says has to do. Others are served while it is walked, and it is inflated in a
    thread, both for one batch of a shard at a time: inflated, it may be large.
    """
    first = log.log_start_offset
    by_header = max(header.base_offset, first), header.max_timestamp
    if header.timestamp_type and header.last_offset_delta + 1 == header.record_count:
        return by_header  # LogAppendTime: one timestamp for the whole batch, and its first is there
    if header.record_count > LOOKED_INTO_RECORDS_MAX:
        return by_header
    records = iter_records(batch, INFLATED_BYTES_MAX)
    best: tuple[int, int] | None = None
    async with log.looks_inside:
        try:
            some = await _inflate(records) if header.compression else _take(records)
            while some:
                for record in some:
                    at, found = record.offset, record.timestamp
                    if at > header.last_offset or not -(2**63) <= found < 2**63:
                        return by_header
                    if at < first or (best is not None and found <= best[1]):
                        continue
                    if at_least is None:
                        best = at, found
                    elif found >= at_least:
                        return at, found
                await asyncio.sleep(0)
                some = _take(records)
        except DecodeError:
            return by_header
    return best


async def _inflate(records: Iterator[Record]) -> list[Record]:
    """The first records of a compressed batch, by a thread, which nothing can stop.

    So a search that is cancelled, as its client left, ends only when the thread does: else clients
    that come and go would have many batches inflated at once.
    """
    work = asyncio.ensure_future(asyncio.to_thread(_take, records))
    try:
        return await asyncio.shield(work)
    finally:
        await asyncio.wait((work,))


def _take(records: Iterator[Record]) -> list[Record]:
    """The next records, so few that walking them holds up nobody."""
    return list(islice(records, SLICE_RECORDS))
