"""Offsets by timestamp against a plain list of records, in and out of order."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kafka_protocol.record_batch import Record, build_batch, parse_header, set_log_append_time
from storage import timestamps
from tests.storage.builder import BLOCK, Driven, Host, drive

Timed = list[tuple[int, int]]  # (offset, timestamp) of every record


async def timed_log(
    path: Path, disorder: int, compression: int = 0, log_append_time: bool = False
) -> tuple[Driven, Timed]:
    """A log over several segments whose timestamps rise by about ten a record, plus or minus
    `disorder`."""
    driven = await Host(path, segment_bytes=60 * BLOCK).open()
    rng, records = random.Random(3), []
    for _ in range(60):
        offset = driven.log.log_end_offset
        rows = []
        for i in range(rng.randint(1, 6)):
            timestamp = 10_000 + 10 * (offset + i) + rng.randint(-disorder, disorder)
            rows.append(Record(i, timestamp, None, rng.randbytes(3000), ()))
        batch = build_batch(rows, compression=compression)
        if log_append_time:
            timestamp = 10_000 + 10 * offset
            set_log_append_time(batch, 0, len(batch), timestamp)
            rows = [row._replace(timestamp=timestamp) for row in rows]
        driven.append_batch(batch)
        records += [(offset + row.offset, row.timestamp) for row in rows]
        if rng.random() < 0.5:
            await driven.durable()
    await driven.durable()
    assert len(driven.segments) > 2
    return driven, records


@pytest.mark.parametrize(
    ("disorder", "compression", "log_append_time"),
    [(0, 0, False), (500, 0, False), (100_000, 0, False), (500, 4, False), (0, 0, True)],
    ids=["in order", "a little disorder", "chaos", "compressed", "log append time"],
)
def test_a_timestamp_finds_the_first_record_that_is_not_older(
    tmp_path: Path, disorder: int, compression: int, log_append_time: bool
) -> None:
    async def scenario() -> None:
        driven, records = await timed_log(tmp_path, disorder, compression, log_append_time)
        log, end = driven.log, driven.log.log_end_offset
        times = sorted(timestamp for _, timestamp in records)
        wanted = {0, times[0], times[-1], times[-1] + 1, 1 << 50}
        wanted |= {t + d for t in times[:: len(times) // 20] for d in (-1, 0, 1)}
        limits = (end, parse_header(driven.appended[31].data).base_offset)
        for round_number in range(2):
            for limit in limits:
                before = [record for record in records if record[0] < limit]
                for timestamp in sorted(wanted):
                    expected = next((record for record in before if record[1] >= timestamp), None)
                    assert await log.offset_for_timestamp(timestamp, limit) == expected
                largest = max(timestamp for _, timestamp in before)
                expected = next(record for record in before if record[1] == largest)
                assert await log.max_timestamp_offset(limit) == expected
            if round_number == 0:  # cold, with indexes from files and from a scan
                await driven.close()
                driven = await driven.host.next_life().open(appended=driven.appended)
                log = driven.log

    drive(scenario())


def test_an_empty_log_has_no_timestamp(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        assert await driven.log.offset_for_timestamp(0, 0) is None
        assert await driven.log.max_timestamp_offset(0) is None

    drive(scenario())


def test_records_that_only_memory_holds_are_found_with_write_caching(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, write_caching=True, flush_ms=3_600_000).open()
        driven.append(b"a", timestamp_ms=100)
        driven.append(b"b", timestamp_ms=300)
        driven.append(b"c", timestamp_ms=200)
        assert driven.log.durable_offset == 0
        assert await driven.log.offset_for_timestamp(150, 3) == (1, 300)
        assert await driven.log.offset_for_timestamp(301, 3) is None
        assert await driven.log.max_timestamp_offset(3) == (1, 300)
        await driven.close()

    drive(scenario())


def test_records_without_a_timestamp_are_found_by_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        driven.append_batch(build_batch([(None, b"v")]))
        await driven.durable()
        assert await driven.log.offset_for_timestamp(0, 1) is None

    drive(scenario())


def test_of_searches_whose_clients_left_one_inflates_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread cannot be stopped: the next search waits for that of the one before."""
    started, may_end = threading.Semaphore(0), threading.Event()
    take = timestamps._take

    def held(records: Iterator[Record]) -> list[Record]:
        started.release()
        assert may_end.wait(10)
        return take(records)

    async def scenario() -> None:
        batch = memoryview(build_batch([Record(0, 7, None, bytes(100), ())], compression=1))
        header = parse_header(batch)
        log: Any = SimpleNamespace(log_start_offset=0, looks_inside=asyncio.Lock())
        first, second = (
            asyncio.ensure_future(timestamps._look_into(log, header, batch, 1)) for _ in range(2)
        )
        assert await asyncio.to_thread(started.acquire, True, 10)
        first.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not first.done()
        assert log.looks_inside.locked()
        assert not started.acquire(timeout=0.1)  # the second has no thread yet
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == (0, 7)

    monkeypatch.setattr(timestamps, "_take", held)
    asyncio.run(asyncio.wait_for(scenario(), 20))
