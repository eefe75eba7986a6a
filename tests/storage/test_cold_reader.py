"""Cold reads: one that is under way is shared, and the next is under way before it is wanted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from storage.cold_reader import READS_AHEAD
from storage.errors import CorruptRecord
from storage.record_buffer import READ_BYTES_MAX, READ_BYTES_MIN, RecordBuffer, RecordCache, Spans
from storage.wal_format import record_bytes
from tests.storage.builder import BLOCK, Driven, Host, batch_of_size, drive

BATCH_BYTES = 30_000


class GatedReads:
    """Takes the place of a disk's `read`: holds it while `gate` is clear, and may fail it.

    `free` reads are not held.
    """

    def __init__(self, driven: Driven) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = self.free = 0
        self.error: OSError | None = None
        self._disk = driven.host.held
        self._read = self._disk.read
        self._disk.read = self.read  # type: ignore[method-assign]

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        """See Disk.read."""
        if self.free:
            self.free -= 1
        else:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        if self.error is not None:
            raise self.error
        return await self._read(fd, pos, size)


async def cold_log(path: Path, batches: int = 200, **settings: int) -> Driven:
    """A log of records on disk, in segments of 4 MiB, of which none is in memory."""
    limits = {"cache_bytes": 64 << 20, "segment_bytes": 4 << 20, **settings}
    driven = await Host(path, **limits).open()
    for _ in range(batches):
        driven.append_batch(batch_of_size(BATCH_BYTES))
        await driven.durable()
    driven.forget_cache()
    driven.host.held.read_sizes.clear()
    driven.host.held.reads = 0
    return driven


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_who_goes_on_finds_the_next_records_in_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await cold_log(tmp_path)
        log, limit = driven.log, driven.log.durable_offset
        offset = waits = 0
        parts: list[memoryview] = []
        while offset < limit:
            found = log.read_cached(offset, limit, 64 * 1024, True)
            if found is None:
                waits += 1
                found = await log.read(offset, limit, 64 * 1024)
            parts += found[0]
            offset = found[1]
            await settle()
        assert b"".join(parts) == b"".join(batch.data for batch in driven.appended)
        assert waits == 2, "the first, and the one that showed that it goes on"
        assert len(driven.segments) > 1
        read_bytes, held = sum(driven.host.held.read_sizes), limit * BATCH_BYTES
        assert read_bytes < 1.4 * held, "hardly anything is read twice"

    drive(scenario())


def test_those_who_want_the_same_share_one_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await cold_log(tmp_path, 20)
        reads = GatedReads(driven)
        reads.gate.clear()
        wanted = [asyncio.ensure_future(driven.log.read(3, 20, 1 << 20)) for _ in range(5)]
        await settle()
        assert reads.waiting == 1
        wanted.pop(2).cancel()
        reads.gate.set()
        for found, _next_offset in await asyncio.gather(*wanted):
            assert b"".join(found).startswith(driven.appended[3].data)
        assert driven.host.held.reads == 1

    drive(scenario())


def test_who_shares_a_read_whose_owner_left_reads_for_himself(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await cold_log(tmp_path, 20)
        reads = GatedReads(driven)
        reads.gate.clear()
        wanted = [asyncio.ensure_future(driven.log.read(3, 20, 1 << 20)) for _ in range(3)]
        await settle()
        wanted.pop(0).cancel()
        await settle()
        reads.gate.set()
        for found, _next_offset in await asyncio.gather(*wanted):
            assert b"".join(found).startswith(driven.appended[3].data)

    drive(scenario())


async def reader_with_a_read_ahead(driven: Driven, reads: GatedReads) -> int:
    """Go on twice, and hold the reads that are then under way; the offset where they begin."""
    log, limit = driven.log, driven.log.durable_offset
    reads.free = 2
    reads.gate.clear()
    _slices, offset = await log.read(0, limit, 1 << 20)
    _slices, offset = await log.read(offset, limit, 1 << 20)
    await settle()
    assert reads.waiting == READS_AHEAD, "nobody asked for them yet"
    return offset


def test_who_comes_to_what_is_being_read_ahead_waits_for_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await cold_log(tmp_path)
        reads = GatedReads(driven)
        offset = await reader_with_a_read_ahead(driven, reads)
        count = driven.host.held.reads
        wanted = asyncio.ensure_future(driven.log.read(offset, 200, BATCH_BYTES))
        await settle()
        assert reads.waiting == READS_AHEAD
        reads.gate.set()
        found, _next_offset = await wanted
        assert b"".join(found) == driven.appended[offset].data
        assert driven.host.held.read_sizes[count] <= READ_BYTES_MAX
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("problem", ["device", "damage"])
def test_what_fails_ahead_is_told_to_who_gets_there(tmp_path: Path, problem: str) -> None:
    async def scenario() -> None:
        driven = await cold_log(tmp_path)
        reads = GatedReads(driven)
        offset = await reader_with_a_read_ahead(driven, reads)
        if problem == "device":
            reads.error = OSError(5, "Input/output error")
        else:
            pos = BLOCK + offset * record_bytes(BATCH_BYTES, BLOCK)
            with driven.segments[0].path.open("r+b") as file:
                file.seek(pos + BLOCK)
                file.write(b"\xff" * BLOCK)
        reads.gate.set()
        await settle()
        assert driven.log.failed is None
        assert driven.log.read_cached(offset, 200, 1, True) is None
        reads.error = None
        if problem == "device":
            await driven.check()
            return
        with pytest.raises(CorruptRecord):
            await driven.log.read(offset, 200, 1 << 20)
        assert driven.log.failed is not None

    drive(scenario())


def test_a_log_that_closes_waits_for_what_is_read_ahead(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await cold_log(tmp_path)
        reads = GatedReads(driven)
        await reader_with_a_read_ahead(driven, reads)
        closing = asyncio.ensure_future(driven.close())
        await settle()
        assert not closing.done()
        reads.gate.set()
        await closing
        assert driven.host.context.cache.reading_bytes == 0

    drive(scenario())


@pytest.mark.parametrize("cache_bytes", [0, 512 * 1024])
def test_without_room_nothing_is_read_ahead(tmp_path: Path, cache_bytes: int) -> None:
    async def scenario() -> None:
        driven = await cold_log(tmp_path, cache_bytes=cache_bytes)
        reads = GatedReads(driven)
        log, offset = driven.log, 0
        while offset < 200:
            _slices, offset = await log.read(offset, 200, 1 << 20)
            reads.gate.clear()
            await settle()
            assert reads.waiting == 0
            reads.gate.set()

    drive(scenario())


# -- the cache ------------------------------------------------------------------------------------


def record_at(offset: int, size: int) -> RecordBuffer:
    return RecordBuffer.from_disk(memoryview(bytes(size)), offset, offset + 1, 1)


def test_what_is_read_back_takes_at_most_half_of_a_full_cache() -> None:
    cache, spans = RecordCache(1000), Spans()
    for offset in range(1000, 1010):
        record = record_at(offset, 100)
        spans.add(record)
        cache.admit(record, spans)
    for offset in range(50):
        record = record_at(offset, 100)
        spans.add(record)
        cache.admit_read(record, spans)
    held = [offset for offset in range(1010) if spans.holds(offset)]
    assert held == [*range(45, 50), *range(1005, 1010)]
    assert cache.used_bytes == cache.budget_bytes
    for offset in range(1010, 1015):  # the tail goes on: what is oldest leaves, read back or not
        record = record_at(offset, 100)
        spans.add(record)
        cache.admit(record, spans)
    assert [offset for offset in range(1020) if spans.holds(offset)] == [
        *range(45, 50),
        *range(1010, 1015),
    ]
    for offset in range(1015, 1020):
        record = record_at(offset, 100)
        spans.add(record)
        cache.admit(record, spans)
    assert [offset for offset in range(1020) if spans.holds(offset)] == list(range(1010, 1020))


def test_reads_become_smaller_when_what_is_read_ahead_leaves_before_it_is_wanted() -> None:
    cache, spans = RecordCache(1000), Spans()
    assert cache.larger(READ_BYTES_MAX) == READ_BYTES_MAX
    for offset in range(30):
        record = record_at(offset, 400)
        record.read_ahead = cache.read_ahead_pays
        spans.add(record)
        cache.admit_read(record, spans)
    assert cache.larger(READ_BYTES_MAX) == READ_BYTES_MIN
    record = record_at(99, 400)
    record.read_ahead = cache.read_ahead_pays
    spans.add(record)
    for _ in range(2):
        assert spans.read(99, 100, 1000, False) is not None
    assert cache.larger(READ_BYTES_MAX) == 2 * READ_BYTES_MIN, "once"
