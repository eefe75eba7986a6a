"""A disk that fills up, as a shard sees it: who is refused, who is served, what goes, what returns.

What the file system says is the test's choice.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.record_batch import Record, build_batch, parse_header
from rpk_py import partition_table
from rpk_py.disk_space import CHECK_S, DiskSpace
from rpk_py.housekeeping import Housekeeping
from rpk_py.partition import Partition
from storage.errors import DiskFull
from storage.open_many import open_logs
from storage.space import WAY_UP, Level, Usage
from tests.broker.connection_fakes import Shard, run, running, ticks, until
from tests.broker.request_builders import BATCH, BATCH_TIMESTAMP_MS, batch_of, values_of

MIB = 1 << 20
TOTAL = 100_000 * MIB
FULL, LOW, OK = (Usage(mib * MIB, TOTAL) for mib in (10, 1000, 50_000))
LIMITS = {
    "storage_min_free_bytes": 100 * MIB,
    "storage_space_alert_free_threshold_bytes": 2000 * MIB,
    "storage_space_alert_free_threshold_percent": 0.0,
    "storage_reserve_bytes": 1 * MIB,
}
STORAGE_ERROR = ErrorCode.KAFKA_STORAGE_ERROR


class Filling:
    """A shard on a disk of which the test says how full it is."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.usage = OK
        self.levels: list[Level] = []
        self.housekeeping = Housekeeping(shard.broker, lambda: BATCH_TIMESTAMP_MS)
        self.space = DiskSpace(
            shard.broker, shard.context, self.housekeeping, self.read, self.levels.append
        )

    def read(self) -> Usage:
        return self.usage

    async def fill(self, usage: Usage) -> None:
        """So full it is now, and the shard has looked."""
        self.usage = usage
        await self.space.check()

    @property
    def reserve(self) -> int:
        """Bytes that are reserved."""
        files = self.shard.config.data_dir.glob("*.reserve")
        return sum(path.stat().st_size for path in files)


@asynccontextmanager
async def filling(directory: Path, **settings: Any) -> AsyncIterator[Filling]:
    async with running(directory, **LIMITS, **settings) as shard:
        disk = Filling(shard)
        try:
            yield disk
        finally:
            await disk.space.close()
            await disk.housekeeping.close()


def test_producers_are_refused_while_it_is_full_and_everybody_else_is_served(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            shard, client = disk.shard, disk.shard.client()
            await shard.create("t")
            await shard.fill("t", 3)
            await disk.fill(FULL)
            refused = await client.produce("t", BATCH)
            assert (refused.error_code, refused.base_offset) == (STORAGE_ERROR, -1)
            assert refused.error_message is not None
            assert "full" in refused.error_message
            assert len(values_of(await client.fetch("t", 0))) == 3
            await shard.log_of("t").delete_records(2)
            below = await client.fetch("t", 1)
            assert (below.error_code, below.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 2)
            await shard.create("new")  # a partition that is opened meanwhile
            assert (await client.produce("new", BATCH)).error_code == STORAGE_ERROR
            for _ in range(5):
                await disk.fill(FULL)
            assert shard.events == ["the disk is full: producers are refused"], "told once"
            assert shard.context.disk_full
            await disk.fill(OK)
            for topic in ("t", "new"):
                assert (await client.produce(topic, BATCH)).error_code == ErrorCode.NONE
            assert not shard.context.disk_full
            assert disk.levels == [Level.FULL, Level.OK]

    run(scenario())


@pytest.mark.parametrize(("before", "after"), [(FULL, OK), (OK, FULL)])
def test_a_partition_that_is_opened_while_that_changes_takes_what_is_so_now(
    tmp_path: Path, before: Usage, after: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:

            async def open_slowly(*args: Any) -> Any:
                logs = await open_logs(*args)
                await disk.fill(after)
                return logs

            monkeypatch.setattr(partition_table, "open_logs", open_slowly)
            await disk.fill(before)
            await disk.shard.create("t")
            answer = await disk.shard.client().produce("t", BATCH)
            assert answer.error_code == (STORAGE_ERROR if after is FULL else ErrorCode.NONE)

    run(scenario())


def test_groups_commit_while_it_is_full(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            disk.shard.broker.groups.create_offsets_topic()
            await until(lambda: len(disk.shard.table))
            partition = next(iter(disk.shard.table))
            await disk.fill(FULL)
            batch = memoryview(batch_of(b"committed"))
            partition.append(batch, parse_header(batch), BATCH_TIMESTAMP_MS)
            await until(lambda: partition.high_watermark == 1)

    run(scenario())


def test_the_reserve_is_there_for_what_must_be_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            await disk.fill(OK)
            assert disk.reserve == MIB
            await disk.fill(LOW)
            assert disk.reserve == MIB
            await disk.fill(FULL)
            assert disk.reserve == 0
            # What was given back does not count as room for producers.
            await disk.fill(Usage(int(125.5 * MIB), TOTAL))
            assert disk.space.level is Level.FULL
            await disk.fill(Usage(127 * MIB, TOTAL))
            assert disk.space.level is Level.LOW
            assert disk.reserve == MIB
            await disk.space.close()
            assert disk.reserve == 0

    run(scenario())


def test_limits_that_are_changed_count_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            await disk.fill(LOW)
            assert disk.space.level is Level.LOW
            broker = disk.shard.broker
            broker.config = replace(broker.config, storage_min_free_bytes=2000 * MIB)
            await disk.fill(LOW)
            assert disk.space.level is Level.FULL
            broker.config = replace(broker.config, storage_min_free_bytes=0)
            await disk.fill(LOW)
            assert disk.space.level is Level.LOW
            assert disk.shard.events == [
                "the disk is nearly full",
                "the disk is full: producers are refused",
            ]

    run(scenario())


async def segments(shard: Shard, topic: str, count: int, ago_ms: int = 1000) -> None:
    """A topic whose log has so many segments, one batch each, a second apart, the last so old."""
    for number in range(count):
        shard.log_of(topic)._appender.roll_next()
        timestamp_ms = BATCH_TIMESTAMP_MS - ago_ms - 1000 * (count - 1 - number)
        batch = bytes(build_batch([Record(0, timestamp_ms, b"key", b"x", ())]))
        assert (await shard.client().produce(topic, batch)).error_code == 0
    log = shard.log_of(topic)
    await until(lambda: not log._tasks)
    assert len(log._segments) == count


def test_what_has_had_its_time_goes_as_soon_as_there_is_little_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            shard = disk.shard
            await shard.create("t", retention_ms="1500")
            await segments(shard, "t", 4)
            disk.housekeeping.start()
            await ticks()
            assert shard.partition("t").log_start_offset == 0
            await disk.fill(LOW)
            await until(lambda: shard.partition("t").log_start_offset == 3)
            assert list((tmp_path / "recycle").rglob("*.retired")) == []
            await until(lambda: shard.broker.metrics.deleted_segments["retention.ms"] == 3)

    run(scenario())


def test_nothing_goes_before_its_time_unless_that_is_set(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            await disk.shard.create("t")
            await segments(disk.shard, "t", 4)
            await disk.fill(FULL)
            assert disk.shard.partition("t").log_start_offset == 0

    run(scenario())


def test_the_oldest_closed_segments_go_where_their_policy_allows_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path, storage_space_trim=True) as disk:
            shard = disk.shard
            await shard.create("old")
            await shard.create("young")
            await shard.create("forever", retention_ms="-1")
            await shard.create("compacted", cleanup_policy="compact")
            for topic, count in (("old", 6), ("young", 3), ("forever", 5), ("compacted", 5)):
                await segments(shard, topic, count)

            def starts() -> dict[str, int]:
                return {p.topic: p.log_start_offset for p in shard.table}

            size = shard.log_of("old")._segments[0].write_pos
            await disk.fill(LOW)
            assert starts() == {"old": 5, "young": 2, "forever": 0, "compacted": 0}
            metrics = shard.broker.metrics
            assert metrics.deleted_segments["storage.space.trim"] == 7
            assert metrics.deleted_bytes["storage.space.trim"] == 7 * size
            for topic in ("old", "young"):
                log = shard.log_of(topic)
                await until(lambda log=log: not log._tasks)
                assert len(log._segments) == 1, "the active one stays"

    run(scenario())


def test_no_more_goes_than_is_needed_and_the_oldest_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            shard = disk.shard
            await shard.create("old")
            await shard.create("young")
            await segments(shard, "old", 6)
            await segments(shard, "young", 4, ago_ms=500)
            size = shard.log_of("old")._segments[0].write_pos
            await disk.fill(LOW)
            shard.broker.config = replace(shard.broker.config, storage_space_trim=True)
            enough = int(2000 * MIB * WAY_UP) + 1
            for missing, starts in ((1, (1, 0)), (size + 1, (3, 0)), (2 * size, (4, 1))):
                await disk.fill(Usage(enough - missing, TOTAL))
                found = [shard.partition(topic).log_start_offset for topic in ("old", "young")]
                assert tuple(found) == starts

    run(scenario())


def test_a_partition_that_found_no_room_goes_on_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            shard = disk.shard
            await shard.create("t")
            await shard.fill("t", 1)
            full = True
            allocate = shard.disk.allocate

            async def no_room(*args: Any) -> None:
                if full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                await allocate(*args)

            faulty: Any = shard.disk
            faulty.allocate = no_room
            disk.space.start()
            client = shard.client()
            answers = [await client.produce("t", batch_of(bytes(100_000))) for _ in range(2)]
            assert [answer.error_code for answer in answers] == [STORAGE_ERROR] * 2
            assert "cannot make room" in (answers[1].error_message or "")
            assert shard.events == ["a partition waits for disk space"]
            assert disk.space.waiting_count == 1
            assert len(values_of(await client.fetch("t", 0))) == 1
            assert not shard.partition("t").offline
            full = False
            shard.advance(CHECK_S)
            await until(lambda: disk.space.waiting_count == 0)
            await until(lambda: shard.partition("t").high_watermark == 2)
            assert (await client.produce("t", BATCH)).base_offset == 2

    run(scenario())


def test_an_idempotent_producer_gets_the_answer_to_what_waited(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            shard = disk.shard
            await shard.create("t")
            await shard.fill("t", 1)
            full = True
            allocate = shard.disk.allocate

            async def no_room(*args: Any) -> None:
                if full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                await allocate(*args)

            faulty: Any = shard.disk
            faulty.allocate = no_room
            batch = batch_of(bytes(100_000), producer_id=7, producer_epoch=0, base_sequence=0)
            client = shard.client()
            assert (await client.produce("t", batch)).error_code == STORAGE_ERROR
            full = False
            await disk.space.check()
            again = await client.produce("t", batch)
            assert (again.error_code, again.base_offset) == (0, 1)
            assert shard.log_of("t").log_end_offset == 2, "once"

    run(scenario())


def test_a_file_system_that_does_not_answer_is_told_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:

            def broken() -> Usage:
                nonlocal looks
                looks += 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            looks = 0
            disk.space._usage = broken
            disk.space.start()
            for look in range(1, 4):
                await until(lambda look=look: looks == look)
                await ticks()
                disk.shard.advance(CHECK_S)
            assert disk.shard.events == ["the disk's space is not known"]
            disk.space._usage = disk.read
            disk.usage = FULL
            await until(lambda: disk.space.level is Level.FULL)
            await asyncio.sleep(0)

    run(scenario())


def test_a_partition_that_was_opened_without_room_refuses_until_there_is_some(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with filling(tmp_path) as disk:
            shard = disk.shard
            await shard.create("t")
            log = shard.log_of("t")
            roller: Any = log._roller
            roller.stalled = DiskFull("no room for what a journal had")
            partition = Partition("t", bytes(16), 0, 3, 1 << 20, False)
            partition.open(log)
            assert partition.produce_refused == "no room for what a journal had"
            assert not partition.offline
            roller._go_on()
            assert partition.produce_refused is None

    run(scenario())
