"""Retention: which segments go, when the active one is left, and what readers and crashes see."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.log_head import BY_SIZE, BY_TIME, Deleted
from storage.retention import first_timestamp, is_old, jittered, must_roll, rolls_by_clock
from storage.segment import create_segment
from tests.storage.builder import BLOCK, NOW_MS, Driven, HeldDisk, Host, drive

HOUR_MS = 3_600_000


async def settled(driven: Driven) -> None:
    while driven.log._tasks:
        await asyncio.wait(driven.log._tasks)


async def hourly(path: Path, count: int = 6, **config: Any) -> Driven:
    """A log of `count` segments, one an hour, each of one batch of two records."""
    driven = await Host(path, **{"segment_ms": HOUR_MS - 1, **config}).open()
    for i in range(count):
        driven.append(b"hour", b"%d" % i, timestamp_ms=NOW_MS + i * HOUR_MS)
        await driven.durable()
    await settled(driven)
    assert bases(driven) == [2 * i for i in range(count)]
    return driven


def bases(driven: Driven) -> list[int]:
    return [segment.base_offset for segment in driven.segments]


def files(driven: Driven, suffix: str) -> list[int]:
    return sorted(int(path.stem[:20]) for path in driven.log.directory.glob(f"*{suffix}"))


def configure(driven: Driven, **changes: Any) -> None:
    driven.log.configure(replace(driven.log.config, **changes))


# --- by time --------------------------------------------------------------------------------------


def test_segments_go_when_their_youngest_record_is_older_than_retention_ms(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await hourly(tmp_path, retention_ms=10 * HOUR_MS)
        youngest_of_second = NOW_MS + HOUR_MS + 1
        assert await driven.log.enforce_retention(youngest_of_second + 10 * HOUR_MS) == [
            Deleted(BY_TIME, 3 * BLOCK)
        ]
        assert driven.log.log_start_offset == 2
        assert [d.reason for d in await driven.log.enforce_retention(
            youngest_of_second + 10 * HOUR_MS + 1
        )] == [BY_TIME]  # fmt: skip
        await settled(driven)
        assert files(driven, ".wal") == [4, 6, 8, 10]
        assert files(driven, ".index") == [4, 6, 8]
        assert files(driven, ".start") == [4]
        await driven.check()
        driven = await driven.host.reopen(driven)
        assert driven.log.log_start_offset == 4
        await driven.check()

    drive(scenario())


def test_all_of_a_log_expires_and_it_goes_on_at_the_same_offset(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await hourly(tmp_path, 3, retention_ms=HOUR_MS)
        late_ms = NOW_MS + 9 * HOUR_MS
        assert len(await driven.log.enforce_retention(late_ms)) == 3
        await settled(driven)
        log = driven.log
        assert (log.log_start_offset, log.log_end_offset, log.durable_offset) == (6, 6, 6)
        assert files(driven, ".wal") == [6]
        assert driven.active.write_pos == BLOCK
        assert driven.active.path.stat().st_size <= 64 * 1024
        assert await log.enforce_retention(late_ms) == []
        assert await log.offset_for_timestamp(0, 6) is None
        for _ in range(2):
            driven = await driven.host.reopen(driven)
            assert (driven.log.log_start_offset, driven.log.log_end_offset) == (6, 6)
            assert driven.notes.base_offsets == [0, 2, 4], "the producers are kept"
        driven.append(b"later", timestamp_ms=late_ms)
        await driven.check()
        driven = await driven.host.reopen(driven)
        await driven.check()
        assert files(driven, ".wal") == [6]
        await driven.close()

    drive(scenario())


def test_unlimited_retention_and_other_policies_delete_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await hourly(tmp_path, 3, retention_ms=-1)
        assert await driven.log.enforce_retention(NOW_MS << 1) == []
        configure(driven, retention_ms=0, retention_bytes=0, deletes=False)
        assert await driven.log.enforce_retention(NOW_MS << 1) == []
        assert driven.log.log_start_offset == 0

    drive(scenario())


def test_a_young_segment_keeps_the_old_ones_behind_it(tmp_path: Path) -> None:
    """As in Kafka: segments go from the oldest on, and a wrong clock holds them all up."""

    async def scenario() -> None:
        driven = await Host(tmp_path, segment_ms=HOUR_MS, retention_ms=HOUR_MS).open()
        for hours in (24, 0, 2):  # the second is older, which is no reason to roll
            driven.append(b"x", timestamp_ms=NOW_MS + hours * HOUR_MS)
            await driven.durable()
        for segment_ms in (1, HOUR_MS):
            configure(driven, segment_ms=segment_ms)
            driven.append(b"x", timestamp_ms=NOW_MS + (25 + segment_ms) * HOUR_MS)
            await driven.durable()
        assert len(driven.segments) == 3
        for _ in range(2):
            assert await driven.log.enforce_retention(NOW_MS + 4 * HOUR_MS) == []
        told = [line for line in driven.host.messages if "timestamps in the future" in line]
        assert len(told) == 1, "once a segment"
        assert f"up to {NOW_MS + 24 * HOUR_MS}" in told[0]
        assert len(await driven.log.enforce_retention(NOW_MS + 25 * HOUR_MS + 1)) == 1

    drive(scenario())


def test_records_without_timestamps_are_as_old_as_their_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, retention_ms=HOUR_MS).open()
        driven.append(b"never", timestamp_ms=-1)
        await driven.durable()
        path = driven.active.path
        os.utime(path, (NOW_MS / 1000, NOW_MS / 1000))
        assert await driven.log.enforce_retention(NOW_MS + HOUR_MS) == []
        assert len(await driven.log.enforce_retention(NOW_MS + HOUR_MS + 1)) == 1

    drive(scenario())


# --- by size --------------------------------------------------------------------------------------


def test_at_least_retention_bytes_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await hourly(tmp_path, 6, retention_ms=-1)
        size, each = driven.log.size_bytes, 3 * BLOCK
        assert size == 6 * each
        for limit, kept in ((size, 6), (size - each + 1, 6), (size - each, 5), (each + 1, 2)):
            configure(driven, retention_bytes=limit)
            await driven.log.enforce_retention(NOW_MS)
            await settled(driven)
            assert len(files(driven, ".wal")) == kept
            assert driven.log.size_bytes >= limit
        await driven.check()
        configure(driven, retention_bytes=0)
        assert await driven.log.enforce_retention(NOW_MS) == [Deleted(BY_SIZE, each)] * 2
        assert driven.log.log_start_offset == driven.log.log_end_offset == 12

    drive(scenario())


def test_what_goes_by_size_goes_before_what_goes_by_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await hourly(tmp_path, 6, retention_bytes=12 * BLOCK, retention_ms=HOUR_MS)
        deleted = await driven.log.enforce_retention(NOW_MS + 4 * HOUR_MS + 1)
        assert [one.reason for one in deleted] == [BY_SIZE, BY_SIZE, BY_TIME]

    drive(scenario())


def test_what_lies_below_the_start_already_does_not_count(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await hourly(tmp_path, 6, retention_ms=-1, retention_bytes=9 * BLOCK)
        await driven.log.delete_records(6)
        assert await driven.log.enforce_retention(NOW_MS) == []
        assert driven.log.log_start_offset == 6

    drive(scenario())


# --- readers, writers, failures -------------------------------------------------------------------


def test_a_segment_that_is_read_stays_until_it_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await hourly(tmp_path, 3, retention_ms=HOUR_MS)
        first = driven.segments[0]
        first.pin()
        assert len(await driven.log.enforce_retention(NOW_MS << 1)) == 3
        for _ in range(20):
            await asyncio.sleep(0)
        assert first.fd >= 0
        assert first.path.exists()
        first.unpin()
        await settled(driven)
        assert files(driven, ".wal") == [6]

    drive(scenario())


class GivesWay(HeldDisk):
    """Metadata calls take a turn of the loop, so that others go on meanwhile."""

    async def run(self, fn: Any, *args: object) -> Any:
        await asyncio.sleep(0)
        return await super().run(fn, *args)


@pytest.mark.parametrize("delay", range(12))
def test_appends_while_the_active_segment_is_left_are_kept(tmp_path: Path, delay: int) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, GivesWay(), retention_ms=HOUR_MS).open()
        await driven.append_durably(b"old")
        work = asyncio.create_task(driven.log.enforce_retention(NOW_MS << 1))
        for _ in range(delay):
            await asyncio.sleep(0)
        driven.append(b"new", timestamp_ms=NOW_MS << 1)
        await work
        await driven.durable()
        await settled(driven)
        assert driven.log.log_start_offset in (0, 1)
        await driven.check()
        driven = await driven.host.reopen(driven, GivesWay())
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("appended", [False, True], ids=["nothing comes", "a batch comes"])
def test_without_room_for_a_new_segment_the_old_one_stays(tmp_path: Path, appended: bool) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, GivesWay(), retention_ms=HOUR_MS).open()
        await driven.append_durably(b"old")
        full = True

        def no_room(fn: Any) -> None:
            if fn is create_segment and full:
                if appended and driven.log.log_end_offset == 1:
                    driven.append(b"new", timestamp_ms=NOW_MS << 1)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        driven.host.held.before_run = no_room
        if appended:  # its record has to make the segment then, and cannot either
            full_once = no_room

            def only_once(fn: Any) -> None:
                nonlocal full
                try:
                    full_once(fn)
                finally:
                    full = full and fn is not create_segment

            driven.host.held.before_run = only_once
        assert await driven.log.enforce_retention(NOW_MS << 1) == []
        assert "a segment cannot be left" in driven.host.messages[-1]
        assert driven.log.failed is None
        await driven.durable()
        assert driven.log.log_start_offset == 0
        await driven.check()
        full = False
        deleted = await driven.log.enforce_retention(NOW_MS << 1)
        assert len(deleted) == 1
        assert driven.log.log_start_offset == 1
        driven = await driven.host.reopen(driven, GivesWay())
        await driven.check()

    drive(scenario())


# --- when segments roll ---------------------------------------------------------------------------


def test_a_segment_is_left_when_a_batch_is_segment_ms_younger_than_its_first(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_ms=HOUR_MS).open()
        for later_ms in (0, HOUR_MS, HOUR_MS - 5, HOUR_MS + 1, 2 * HOUR_MS + 1, 2 * HOUR_MS + 2):
            driven.append(b"x", timestamp_ms=NOW_MS + later_ms)
            await driven.durable()
        assert bases(driven) == [0, 3, 5]
        await driven.check()

    drive(scenario())


def test_a_start_goes_on_from_when_the_segment_was_made(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_ms=HOUR_MS).open()
        for minutes in (0, 30):  # both in the first entry of the index
            driven.append(b"x", timestamp_ms=NOW_MS + minutes * 60_000)
            await driven.durable()
        driven = await driven.host.reopen(driven)
        driven.append(b"x", timestamp_ms=NOW_MS + HOUR_MS)
        await driven.durable()
        assert bases(driven) == [0]
        driven.append(b"x", timestamp_ms=NOW_MS + HOUR_MS + 1)
        await driven.durable()
        assert bases(driven) == [0, 3]

    drive(scenario())


def test_segments_without_timestamps_are_left_by_the_clock(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_ms=HOUR_MS).open()
        driven.append(b"x", timestamp_ms=-1)
        await driven.durable()
        for now_ms, count in ((NOW_MS + HOUR_MS, 1), (NOW_MS + HOUR_MS + 1, 2)):
            driven.log.roll_if_due(now_ms)
            driven.append(b"x", timestamp_ms=-1)
            await driven.durable()
            assert len(driven.segments) == count

    drive(scenario())


async def journaling(path: Path, **config: Any) -> list[Driven]:
    """Logs each with a batch that only the journal holds."""
    host = Host(path, **config)
    logs = [await host.open(f"events-{i}", partition=i) for i in range(6)]
    (path / "journal" / "0").mkdir(parents=True)
    host.begin_journal()
    for driven in logs:
        driven.append(b"small")
    for driven in logs:
        await driven.durable()
        assert driven.log._appender.stored_offset == 0
    return logs


def test_a_record_that_the_journal_keeps_open_does_not_hold_up_the_roll(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven, *_ = await journaling(tmp_path, segment_ms=HOUR_MS)
        for now_ms in (NOW_MS + HOUR_MS, NOW_MS + HOUR_MS + 1):
            driven.log.roll_if_due(now_ms)
            await asyncio.sleep(0)
        await driven.log.store(1)
        assert bases(driven) == [0]
        driven.append(b"small", timestamp_ms=NOW_MS + HOUR_MS + 1)
        await driven.log.store(2)
        assert bases(driven) == [0, 1]

    drive(scenario())


def test_what_only_the_journal_holds_expires(tmp_path: Path) -> None:
    async def scenario() -> None:
        logs = await journaling(tmp_path, retention_ms=HOUR_MS)
        driven = logs[0]
        assert await driven.log.enforce_retention(NOW_MS + HOUR_MS) == []
        assert driven.log._appender.stored_offset == 0
        assert len(await driven.log.enforce_retention(NOW_MS + HOUR_MS + 1)) == 1
        assert driven.log.log_start_offset == driven.log.log_end_offset == 1
        await driven.host.crash()
        host = driven.host.next_life()
        host.read_journal()
        again = await host.open("events-0", appended=driven.appended)
        assert again.log.log_start_offset == again.log.log_end_offset == 1
        await again.append_durably(b"goes on")
        await again.check()

    drive(scenario())


# --- the decisions --------------------------------------------------------------------------------


def test_the_decisions_at_their_bounds() -> None:
    assert not is_old(100, 50, 150)
    assert is_old(100, 50, 151)
    assert is_old(100, 0, 101)
    assert not is_old(0, -1, 1 << 60)
    assert not must_roll(None, 1 << 60, 5)
    assert not must_roll(-1, 1 << 60, 5)
    assert not must_roll(100, 105, 5)
    assert must_roll(100, 106, 5)
    assert not must_roll(100, -1, 5)
    assert not rolls_by_clock(None, 0, 5, 100)
    assert not rolls_by_clock(7, 0, 5, 100)
    assert not rolls_by_clock(-1, 95, 5, 100)
    assert rolls_by_clock(-1, 94, 5, 100)
    assert (first_timestamp(5, 9), first_timestamp(9, 5), first_timestamp(-1, 5)) == (5, 5, -1)


@pytest.mark.parametrize(("jitter_ms", "low"), [(0, 100), (40, 60), (500, 0)])
def test_jitter_shortens_a_segments_time_by_up_to_itself(jitter_ms: int, low: int) -> None:
    assert jittered(100, jitter_ms, 0.0) == 100
    assert low <= jittered(100, jitter_ms, 0.999) <= low + 1
