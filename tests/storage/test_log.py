"""A log on a real disk, and its reads at every offset against a plain list of batches."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.disk import Disk
from storage.errors import DiskFailed
from storage.record_buffer import READ_BYTES_MAX, READ_BYTES_MIN, RecordBuffer
from tests.storage.builder import (
    BLOCK,
    OTHER_TOPIC_ID,
    Driven,
    HeldDisk,
    Host,
    Stored,
    batch_of_size,
    drive,
)

RunOnDisk = Callable[[Callable[[Disk], Awaitable[None]]], None]


def greedy(
    stored: list[Stored], offset: int, limit_offset: int, max_bytes: int, at_least_one: bool
) -> tuple[bytes, int]:
    """The model: whole batches from the one that holds `offset` while they fit."""
    taken = b""
    for batch in stored:
        if batch.next_offset <= offset or batch.base_offset >= limit_offset:
            continue
        if len(taken) + len(batch.data) > max_bytes and (taken or not at_least_one):
            break
        taken += batch.data
        offset = batch.next_offset
    return taken, offset


# --- on a real disk -------------------------------------------------------------------------------


def test_what_is_appended_is_read_back_cached_cold_and_after_a_restart(
    run_on_disk: RunOnDisk, tmp_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        rng = random.Random(2)
        host = Host(tmp_path, disk, segment_bytes=64 * BLOCK, checkpoint_bytes=20 * BLOCK)
        driven = await host.open()
        for i in range(150):
            driven.append(
                rng.randbytes(rng.choice([10, 1000, 30_000])), b"%d" % i, epoch=1 + i // 60
            )
            if rng.random() < 0.3:
                await asyncio.sleep(0)
            if rng.random() < 0.1:
                await driven.durable()
        await driven.check()
        assert len(driven.segments) > 5
        epochs = list(driven.log.epochs)
        await driven.close()
        driven = await host.next_life(disk).open(appended=driven.appended)
        assert driven.log.epochs == epochs
        await driven.check()
        await driven.append_durably(b"after the restart", epoch=4)
        await driven.check()
        await driven.close()

    run_on_disk(scenario)


def test_many_logs_append_at_once(run_on_disk: RunOnDisk, tmp_path: Path) -> None:
    async def scenario(disk: Disk) -> None:
        host = Host(tmp_path, disk)
        logs = [await host.open(f"events-{i}", partition=i) for i in range(30)]
        for round_number in range(4):
            for driven in logs:
                driven.append(b"%d" % round_number)
            for driven in logs[round_number::3]:
                await driven.durable()
        for driven in logs:
            await driven.check()
            await driven.close()

    run_on_disk(scenario)


def test_a_write_that_the_device_refuses_fails_the_log(
    run_on_disk: RunOnDisk, tmp_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        driven = await Host(tmp_path, disk).open()
        await driven.append_durably(b"first")
        good = os.dup(driven.active.fd)
        read_only = os.open(driven.active.path, os.O_RDONLY | os.O_DIRECT)
        os.dup2(read_only, driven.active.fd)
        driven.append(b"lost")
        with pytest.raises(DiskFailed, match="Bad file descriptor"):
            await driven.durable()
        assert driven.log.durable_offset == 1
        os.close(good)
        os.close(read_only)
        await driven.close()
        driven = await driven.host.next_life(disk).open(appended=driven.appended[:1])
        await driven.check()
        await driven.close()

    run_on_disk(scenario)


# --- reads against the model ----------------------------------------------------------------------


async def mixed_log(path: Path, *, cache_bytes: int = 1 << 24) -> Driven:
    """Records of one and of many batches, batches of one and of several records, large and small,
    over several segments."""
    driven = await Host(path, cache_bytes=cache_bytes, segment_bytes=24 * BLOCK).open()
    rng = random.Random(5)
    for i in range(14):
        for _ in range(rng.choice([1, 1, 3, 8])):
            if rng.random() < 0.2:
                driven.append_batch(batch_of_size(rng.choice([BLOCK - 1, BLOCK, 5 * BLOCK + 3])))
            else:
                driven.append(*[b"%d" % i] * rng.randint(1, 5))
        await driven.durable()
    assert len(driven.segments) > 2
    return driven


MAX_BYTES = (0, 1, 60, 75, 100, 200, 1000, BLOCK, 20_000, 1 << 20)


def test_cached_reads_at_every_offset_are_the_model(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await mixed_log(tmp_path)
        log, end = driven.log, driven.log.log_end_offset
        limits = [batch.next_offset for batch in driven.appended]
        for offset in range(end):
            for max_bytes in MAX_BYTES:
                for limit in (end, *random.Random(offset).sample(limits, 3)):
                    if limit <= offset:
                        continue
                    for at_least_one in (True, False):
                        found = log.read_cached(offset, limit, max_bytes, at_least_one)
                        assert found is not None
                        taken, next_offset = greedy(
                            driven.appended, offset, limit, max_bytes, at_least_one
                        )
                        assert (b"".join(found[0]), found[1]) == (taken, next_offset)

    drive(scenario())


def test_cold_reads_at_every_offset_are_a_beginning_of_the_model(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await mixed_log(tmp_path)
        log, end = driven.log, driven.log.log_end_offset
        for offset in range(end):
            for max_bytes in MAX_BYTES[::3]:
                for limit in (end, driven.appended[-3].next_offset):
                    if limit <= offset:
                        continue
                    log._spans.clear()
                    slices, next_offset = await log.read(offset, limit, max_bytes)
                    expected, end_offset = greedy(driven.appended, offset, limit, max_bytes, True)
                    data = b"".join(slices)
                    assert data
                    assert expected.startswith(data)
                    assert offset < next_offset <= end_offset
                    if len(data) == len(expected):
                        assert next_offset == end_offset

    drive(scenario())


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(70, 9000), min_size=1, max_size=25),
    flushes=st.sets(st.integers(0, 24)),
    reads=st.lists(
        st.tuples(st.integers(0, 24), st.integers(1, 25), st.integers(0, 40_000), st.booleans()),
        max_size=20,
    ),
    evicted=st.sets(st.integers(0, 24)),
)
def test_reads_with_holes_in_the_cache_are_a_beginning_of_the_model(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    flushes: set[int],
    reads: list[tuple[int, int, int, bool]],
    evicted: set[int],
) -> None:
    async def scenario() -> None:
        path = tmp_path_factory.mktemp("log")
        driven = await Host(path, segment_bytes=12 * BLOCK).open()
        for i, size in enumerate(sizes):
            driven.append_batch(batch_of_size(size))
            if i in flushes:
                await driven.durable()
        await driven.durable()
        spans, end = driven.log._spans, len(sizes)
        for i, record in enumerate(list(spans._records)):
            if i in evicted:
                spans.drop(record)
        for offset, limit, max_bytes, at_least_one in reads:
            offset, limit = offset % end, min(limit, end)
            if limit <= offset:
                continue
            cached = driven.log.read_cached(offset, limit, max_bytes, at_least_one)
            slices, next_offset = await driven.log.read(offset, limit, max_bytes, at_least_one)
            if cached is not None:
                assert ([bytes(part) for part in slices], next_offset) == (
                    [bytes(part) for part in cached[0]],
                    cached[1],
                )
            expected, end_offset = greedy(driven.appended, offset, limit, max_bytes, at_least_one)
            data = b"".join(slices)
            assert expected.startswith(data)
            assert bool(data) == bool(expected)
            assert offset <= next_offset <= end_offset
        await driven.check()
        await driven.host.crash()

    drive(scenario())


def test_records_of_another_epoch_or_in_flight_are_not_shown_beyond_the_limit(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        disk = HeldDisk()
        driven = await Host(tmp_path, disk).open()
        await driven.append_durably(b"durable")
        disk.auto = False
        driven.append(b"in flight")
        await asyncio.sleep(0)
        driven.append(b"open", epoch=2)
        assert driven.log.log_end_offset == 3
        assert driven.log.visible_offset == 1
        found = driven.log.read_cached(0, driven.log.visible_offset, 1 << 20, True)
        assert found is not None
        assert (b"".join(found[0]), found[1]) == (driven.appended[0].data, 1)
        assert driven.log.read_cached(1, 1, 1 << 20, True) == ([], 1)
        assert driven.log.read_cached(3, 3, 1 << 20, True) is None
        disk.auto = True
        disk.land()
        await driven.check()

    drive(scenario())


# --- the cache ------------------------------------------------------------------------------------


def test_a_tiny_cache_stays_within_its_budget_and_reads_stay_right(tmp_path: Path) -> None:
    async def scenario() -> None:
        budget = 6 * BLOCK
        driven = await mixed_log(tmp_path, cache_bytes=budget)
        cache = driven.host.context.cache
        assert cache.used_bytes <= budget
        assert cache.evictions > 10
        await driven.check()
        assert cache.used_bytes <= budget
        rng = random.Random(1)

        async def reader() -> None:
            for _ in range(30):
                offset = rng.randrange(driven.log.log_end_offset)
                slices, _ = await driven.log.read(offset, driven.log.durable_offset, 5000)
                expected, _ = greedy(driven.appended, offset, 1 << 60, 5000, True)
                assert expected.startswith(b"".join(slices))

        async def writer() -> None:
            for i in range(30):
                await driven.append_durably(b"%d" % i * 100)

        await asyncio.gather(reader(), writer(), reader(), reader())
        assert cache.used_bytes <= budget
        await driven.check()

    drive(scenario())


def test_evicted_bytes_stay_whole_for_who_still_holds_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, cache_bytes=4 * BLOCK).open()
        driven.append(b"kept by its reader")
        found = driven.log.read_cached(0, 1, 1000, True)
        assert found is not None
        for i in range(50):
            await driven.append_durably(b"%d" % i)
        assert driven.log.read_cached(0, 1, 1000, True) is None
        assert b"".join(found[0]) == driven.appended[0].data

    drive(scenario())


def test_a_cold_read_is_cached_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await mixed_log(tmp_path)
        cache, disk, log = driven.host.context.cache, driven.host.held, driven.log
        log._spans.clear()
        assert log.read_cached(0, 1, 1, True) is None
        await log.read(0, log.durable_offset, 1 << 20)
        reads = disk.reads
        assert log.read_cached(0, log.durable_offset, 1 << 20, True) is not None
        await log.read(0, log.durable_offset, 1 << 20)
        assert disk.reads == reads
        assert (cache.misses, cache.hits) == (1, 1)

    drive(scenario())


def test_records_larger_than_a_read_are_read_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, cache_bytes=0).open()
        for size in (READ_BYTES_MIN - BLOCK, READ_BYTES_MIN, 3 * READ_BYTES_MIN + 1, 1_500_000, 90):
            driven.append_batch(batch_of_size(size))
            await driven.durable()
        for offset in (3, 1, 4, 0, 2):
            slices, next_offset = await driven.log.read(offset, 5, 1)
            assert b"".join(slices) == driven.appended[offset].data
            assert next_offset == offset + 1
        await driven.check()

    drive(scenario())


def test_a_sequential_reader_reads_ahead_twice_as_far_each_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, cache_bytes=64 << 20, segment_bytes=1 << 30).open()
        for _ in range(400):
            driven.append_batch(batch_of_size(30_000))
        await driven.durable()
        disk = driven.host.held
        driven.forget_cache()
        disk.read_sizes.clear()
        assert await driven.read_all() == b"".join(batch.data for batch in driven.appended)
        sizes = disk.read_sizes
        assert READ_BYTES_MIN // 2 < sizes[0] <= READ_BYTES_MIN
        assert READ_BYTES_MAX // 2 < max(sizes) <= READ_BYTES_MAX
        records = [segment.durable_pos - BLOCK for segment in driven.segments]
        assert sum(sizes) == sum(records), "reads end where records end: nothing is read twice"
        assert len(sizes) < 24
        # Somewhere else: back to small reads.
        driven.forget_cache()
        disk.read_sizes.clear()
        await driven.log.read(5, 400, 1000)  # where no read has ended
        assert disk.read_sizes == [pytest.approx(READ_BYTES_MIN, rel=0.5)]

    drive(scenario())


def test_an_error_of_the_device_while_reading_is_told_and_fails_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await mixed_log(tmp_path)
        driven.forget_cache()

        async def refuse(_fd: int, _pos: int, _size: int) -> memoryview:
            raise OSError(errno.EIO, "Input/output error")

        good = driven.host.held.read
        driven.host.held.read = refuse  # type: ignore[method-assign,assignment]
        with pytest.raises(DiskFailed, match="Input/output error"):
            await driven.log.read(0, 1, 1000)
        driven.host.held.read = good  # type: ignore[method-assign]
        await driven.check()

    drive(scenario())


# --- epochs ---------------------------------------------------------------------------------------


def test_epochs_answer_as_kip_101_says(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        log = driven.log
        assert log.end_offset_for_epoch(1) == (-1, -1)
        log.start_epoch(1)
        assert log.end_offset_for_epoch(1) == (1, 0)
        for epoch in (1, 1, 3, 6):
            await driven.append_durably(b"x", epoch=epoch)
        log.start_epoch(7)
        log.start_epoch(8)
        log.start_epoch(5)
        assert log.epochs == [(1, 0), (3, 2), (6, 3), (8, 4)]
        answers = {epoch: log.end_offset_for_epoch(epoch) for epoch in range(-1, 10)}
        assert answers == {
            -1: (-1, -1),
            0: (0, 0),
            1: (1, 2),
            2: (1, 2),
            3: (3, 3),
            4: (3, 3),
            5: (3, 3),
            6: (6, 4),
            7: (6, 4),
            8: (8, 4),
            9: (-1, -1),
        }
        assert [log.epoch_for_offset(offset) for offset in range(5)] == [1, 1, 3, 6, 8]
        driven = await driven.host.reopen(driven)
        assert driven.log.epochs == [(1, 0), (3, 2), (6, 3)]

    drive(scenario())


# --- delete ---------------------------------------------------------------------------------------


def test_a_deleted_log_leaves_nothing_and_its_name_starts_anew(
    run_on_disk: RunOnDisk, tmp_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        host = Host(tmp_path, disk, segment_bytes=16 * BLOCK)
        driven = await host.open()
        for i in range(30):
            await driven.append_durably(b"old %d" % i)
        driven.append(b"never acknowledged")
        discarded = await driven.log.delete(tmp_path / "trash")
        assert discarded is not None
        assert discarded.parent == tmp_path / "trash"
        assert not (tmp_path / "events-0").exists()
        assert host.messages == []
        assert len(driven.owner.errors) == 1
        again = await host.open(topic_id=OTHER_TOPIC_ID)
        assert again.log.log_end_offset == 0
        await again.append_durably(b"new")
        await again.check()
        await again.close()

    run_on_disk(scenario)


def test_a_log_that_was_never_written_leaves_no_directory(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path)
        driven = await host.open()
        assert not (tmp_path / "events-0").exists()
        await driven.close()
        driven = await host.open()
        assert await driven.log.delete(tmp_path / "trash") is None
        assert os.listdir(tmp_path) == []

    drive(scenario())


def test_a_record_buffer_has_room_that_follows_the_load(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()

        def newest() -> RecordBuffer:
            return driven.log._spans._records[-1]

        await driven.append_durably(b"small")
        assert newest().capacity_bytes == 2 * BLOCK
        for _ in range(40):
            driven.append_batch(batch_of_size(100_000))
        await driven.durable()
        assert newest().capacity_bytes > 1 << 19
        for i in range(30):
            await driven.append_durably(b"%d" % i)
        assert newest().capacity_bytes == 2 * BLOCK
        await driven.check()

    drive(scenario())
