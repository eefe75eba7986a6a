"""The write path on a disk that the test holds in its hand: group commit, order, roll, failure."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import CorruptRecord, DiskFailed, DiskFull, StorageError
from storage.recycle import RETIRED_BYTES_MIN
from storage.segment import create_segment
from storage.wal_format import record_bytes
from tests.storage.builder import (
    BLOCK,
    Driven,
    HeldDisk,
    HeldWrite,
    Host,
    batch_of_size,
    drive,
    flip,
)


async def tick(times: int = 5) -> None:
    """Let everything run that is ready."""
    for _ in range(times):
        await asyncio.sleep(0)


async def several_in_flight(disk: HeldDisk, driven: Driven) -> list[HeldWrite]:
    """Append 6 MB at once: more than four records that are in flight together."""
    for _ in range(30):
        driven.append_batch(batch_of_size(200_000))
    await tick(50)
    assert len(disk.held) > 4
    return list(disk.held)


async def started(path: Path, **config: Any) -> tuple[HeldDisk, Driven]:
    """A log with one durable record (so with a segment), on a disk that holds from now on."""
    disk = HeldDisk()
    driven = await Host(path, disk, **config).open()
    await driven.append_durably(b"first")
    disk.auto = False
    return disk, driven


# --- group commit ---------------------------------------------------------------------------------


def test_batches_of_one_tick_are_one_write_and_one_submit(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        before = disk.writes, disk.submits
        for i in range(5):
            driven.append(b"%d" % i)
        await tick()
        assert (disk.writes - before[0], disk.submits - before[1]) == (1, 1)
        assert driven.log.durable_offset == 1
        disk.land()
        assert driven.log.durable_offset == 6
        disk.auto = True
        await driven.check()

    drive(scenario())


def test_what_arrives_while_a_write_is_in_flight_shares_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        driven.append(b"a")
        await tick()
        for i in range(10):
            driven.append(b"%d" % i)
            await tick()
        assert len(disk.held) == 1
        disk.land()
        assert driven.log.durable_offset == 2
        await tick()
        assert len(disk.held) == 1
        disk.land()
        assert driven.log.durable_offset == driven.log.log_end_offset == 12
        assert disk.writes == 3
        disk.auto = True
        await driven.check()

    drive(scenario())


def test_logs_of_one_shard_share_a_submit(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path)
        logs = [await host.open(f"events-{i}", partition=i) for i in range(4)]
        for driven in logs:
            await driven.append_durably(b"first")
        before = host.held.submits
        for driven in logs:
            driven.append(b"second")
        for driven in logs:
            await driven.durable()
        assert host.held.submits == before + 1
        for driven in logs:
            await driven.check()

    drive(scenario())


def test_bulk_keeps_several_records_in_flight_and_durability_follows_their_order(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        first, *others, last = await several_in_flight(disk, driven)
        durable = driven.log.durable_offset
        disk.land(last)
        disk.land(*others)
        assert driven.log.durable_offset == durable
        disk.land(first)
        assert driven.log.durable_offset > durable
        disk.auto = True
        disk.land()
        await driven.check()

    drive(scenario())


def test_batches_of_different_epochs_lie_in_different_records(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        driven.append(b"one", epoch=1)
        driven.append(b"two", epoch=2)
        driven.append(b"more", epoch=2)
        driven.append(b"three", epoch=3)
        await tick()
        disk.auto = True
        disk.land()
        await driven.check()
        assert driven.log.epochs == [(1, 0), (2, 2), (3, 4)]

    drive(scenario())


# --- roll -----------------------------------------------------------------------------------------


def test_a_log_rolls_and_every_segment_chains_to_the_one_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=16 * BLOCK).open()
        for i in range(60):
            await driven.append_durably(b"%d" % i * 100)
        assert len(driven.segments) > 5
        for old, new in itertools.pairwise(driven.segments):
            assert new.header.prev_base_offset == old.base_offset
            assert new.header.prev_end_pos == old.durable_pos <= 16 * BLOCK
            assert new.header.prev_header_crc == old.last_header_crc
            assert old.path.stat().st_size == old.durable_pos
        await driven.check()
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("blocks", [1, 6])
def test_a_record_that_exactly_fits_does_not_roll_and_one_byte_more_does(
    tmp_path: Path, over: int, blocks: int
) -> None:
    async def scenario() -> None:
        # Header block, the first record's two blocks, then a header block and `blocks` of body.
        driven = await Host(tmp_path, segment_bytes=(4 + blocks) * BLOCK).open()
        await driven.append_durably(b"first")
        driven.append_batch(batch_of_size(blocks * BLOCK + over))
        await driven.durable()
        assert len(driven.segments) == (2 if over > 0 else 1)
        if over <= 0:
            assert driven.active.write_pos == driven.host.config.segment_bytes
        await driven.append_durably(b"after")
        assert len(driven.segments) == (3 if over > 0 else 2)
        await driven.check()
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("size", [15 * BLOCK, 16 * BLOCK, 100 * BLOCK + 17])
def test_a_batch_larger_than_a_segment_gets_a_segment_of_its_own(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=16 * BLOCK).open()
        for _ in range(3):
            driven.append_batch(batch_of_size(size))
            await driven.durable()
        assert [segment.base_offset for segment in driven.segments] == [0, 1, 2]
        await driven.append_durably(b"small")
        assert driven.active.base_offset == 3
        await driven.check()
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


def test_a_roll_waits_until_everything_before_it_is_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path, segment_bytes=64 * BLOCK)
        for _ in range(6):
            driven.append_batch(batch_of_size(20 * BLOCK))
        await tick()
        first, second, *others = disk.held
        assert not others
        assert driven.log.log_end_offset == 7
        disk.land(second)
        await tick()
        assert len(driven.segments) == 1
        disk.land(first)
        await tick()
        assert len(driven.segments) == 2
        assert driven.active.header.prev_end_pos == driven.segments[0].durable_pos
        disk.auto = True
        disk.land()
        await driven.check()
        assert len(driven.segments) > 2

    drive(scenario())


def test_appends_during_a_roll_queue_behind_it_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path, segment_bytes=32 * BLOCK)
        driven = await host.open()
        added = 0

        def append_in_the_middle(fn: Callable[..., Any]) -> None:
            nonlocal added
            if fn is create_segment and added < 40:
                for size in (100, 9 * BLOCK, 150, 20 * BLOCK, 80):
                    driven.append_batch(batch_of_size(size), epoch=1 + added // 10)
                    added += 1

        host.held.before_run = append_in_the_middle
        for i in range(20):
            driven.append_batch(batch_of_size(7 * BLOCK + i), epoch=1 + added // 10)
        await driven.check()
        assert added == 40
        driven = await host.reopen(driven)
        await driven.check()
        assert driven.log.epochs[0] == (1, 0)

    drive(scenario())


# --- failure --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("res", "kind", "words"),
    [
        (-errno.EIO, DiskFailed, "Input/output error"),
        (-errno.ENOSPC, DiskFull, "no space left"),
        (0, DiskFailed, "short write: 0 of 8192 bytes"),
        (BLOCK, DiskFailed, "short write: 4096 of 8192 bytes"),
    ],
)
def test_a_failed_or_short_write_is_final(
    tmp_path: Path, res: int, kind: type[StorageError], words: str
) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        driven.append(b"lost")
        await tick()
        driven.append(b"never written")
        (write,) = disk.held
        disk.land(write, res=res)
        (error,) = driven.owner.errors
        assert type(error) is kind
        assert words in str(error)
        assert "00000000000000000000.wal" in str(error)
        assert driven.log.failed is error
        assert driven.log.durable_offset == 1
        with pytest.raises(kind):
            driven.append(b"refused")
        with pytest.raises(kind):
            await driven.log.read(0, 1, 1000)
        await tick()
        assert disk.in_flight == 0
        assert disk.writes == 2  # nothing is retried, nothing else is written
        assert len(driven.host.messages) == 1
        await driven.close()
        driven = await driven.host.next_life().open(appended=driven.appended[:1])
        await driven.check()

    drive(scenario())


def test_success_behind_a_failed_write_is_never_claimed_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        for failing, late in itertools.product(range(3), repeat=2):
            path = tmp_path / f"{failing}{late}"
            path.mkdir()
            disk, driven = await started(path)
            writes = await several_in_flight(disk, driven)
            order = [write for write in writes if write is not writes[failing]]
            order.insert(late, writes[failing])
            whole = {id(write) for write in writes[:failing]}
            for write in order:
                disk.land(write, res=-errno.EIO if write is writes[failing] else None)
            landed_before = [write for write in order[:late] if id(write) in whole]
            assert driven.log.durable_offset <= 1 + 5 * len(landed_before)
            assert len(driven.owner.errors) == 1
            assert disk.in_flight == 0
            await asyncio.wait_for(driven.log.delete(path / "trash"), 5)

    drive(scenario())


def test_a_failed_log_closes_only_when_its_last_write_has_come_back(tmp_path: Path) -> None:
    """A descriptor that is closed under a write may be another file's when the write starts."""

    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        _first, second, *_ = await several_in_flight(disk, driven)
        disk.land(second)
        disk.land(disk.held[0], res=-errno.EIO)
        closing = asyncio.ensure_future(driven.close())
        await tick()
        assert driven.active.fd >= 0
        assert not closing.done()
        disk.land()
        await asyncio.wait_for(closing, 5)
        assert driven.active.fd == -1

    drive(scenario())


def test_a_full_device_is_filled_to_its_last_block(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        disk.auto = True
        disk.space_end_pos = 101 * BLOCK  # the header, and fifty records of two blocks
        for i in range(1, 50):
            await driven.append_durably(b"%d" % i)
        driven.append(b"one too many")
        while driven.log.stalled is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert driven.log.durable_offset == 50

    drive(scenario())


def test_a_log_whose_flush_raises_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path)
        logs = [await host.open(f"events-{i}", partition=i) for i in range(3)]
        for driven in logs:
            await driven.append_durably(b"first")
        host.held.refused_fd = logs[1].active.fd
        for driven in logs:
            driven.append(b"second")
        await logs[0].check()
        await logs[2].check()
        with pytest.raises(DiskFailed, match="as a bug would"):
            await logs[1].durable()
        assert host.context.committer.pending_bytes == 0
        for driven in logs:
            await driven.close()

    drive(scenario())


def test_a_retired_file_that_somebody_still_writes_is_not_used(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path, lock_wait_s=0.01)
        host.pool.load()
        retired = tmp_path / "old.wal"
        retired.write_bytes(bytes(RETIRED_BYTES_MIN))
        host.pool.retire(retired)
        (left,) = (tmp_path / "recycle").glob("*")
        with left.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            driven = await host.open()
            await driven.append_durably(b"first")
            assert any("cannot be reused" in message for message in host.messages)
            await driven.check()
        await driven.close()

    drive(scenario())


@pytest.mark.parametrize("when", ["the first segment", "a roll"])
def test_a_segment_that_cannot_be_made_is_final(tmp_path: Path, when: str) -> None:
    async def scenario() -> None:
        disk = HeldDisk()
        driven = await Host(tmp_path, disk, segment_bytes=8 * BLOCK).open()
        if when == "a roll":
            for i in range(3):
                await driven.append_durably(b"%d" % i)

        def refuse(fn: Callable[..., Any]) -> None:
            if fn is create_segment:
                raise OSError(errno.EIO, "Input/output error")

        disk.before_run = refuse
        kept = driven.log.log_end_offset
        driven.append(b"lost")
        driven.append(b"lost too")
        with pytest.raises(DiskFailed, match=r"cannot make room in .*events-0"):
            await driven.durable()
        assert driven.log.durable_offset == kept
        await driven.close()
        driven = await driven.host.next_life().open(appended=driven.appended[:kept])
        await driven.check()

    drive(scenario())


def test_a_log_that_is_deleted_in_the_middle_of_a_roll_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = HeldDisk()
        driven = await Host(tmp_path, disk, segment_bytes=8 * BLOCK).open()
        for i in range(3):
            await driven.append_durably(b"%d" % i)
        deleting: list[asyncio.Task[Path | None]] = []

        def delete(fn: Callable[..., Any]) -> None:
            if fn is create_segment:
                deleting.append(asyncio.ensure_future(driven.log.delete(tmp_path / "trash")))
                driven.log._appender.fail(StorageError("as delete does at once"))

        disk.before_run = delete
        driven.append(b"lost")
        await tick(20)
        where = await asyncio.wait_for(deleting[0], 5)
        assert where is not None
        assert not (tmp_path / "events-0").exists()
        assert [segment.fd for segment in driven.segments] == [-1, -1]

    drive(scenario())


# --- write caching --------------------------------------------------------------------------------


def test_write_caching_counts_an_append_at_once_and_writes_by_bytes(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = HeldDisk()
        host = Host(tmp_path, disk, write_caching=True, flush_ms=3_600_000, flush_bytes=20_000)
        driven = await host.open()
        for i in range(10):
            driven.append(b"%d" % i)
        await tick()
        assert disk.writes == 0
        assert driven.log.visible_offset == 10
        assert driven.log.durable_offset == 0
        everything = b"".join(stored.data for stored in driven.appended)
        assert await driven.read_all(limit_offset=10) == everything
        driven.append_batch(batch_of_size(20_000))
        await driven.durable()
        assert driven.log.durable_offset == 11
        await driven.check()

    drive(scenario())


def test_write_caching_writes_after_its_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, write_caching=True, flush_ms=1).open()
        driven.append(b"a")
        assert driven.log.durable_offset == 0
        await driven.durable()
        await driven.check()

    drive(scenario())


def test_close_writes_what_write_caching_held_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path, write_caching=True, flush_ms=3_600_000)
        driven = await host.open()
        for i in range(100):
            driven.append(b"%d" % i * 100)
        await driven.close()
        driven = await host.next_life().open(appended=driven.appended)
        assert driven.log.log_end_offset == 100
        await driven.check()

    drive(scenario())


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoints(driven: Driven) -> list[str]:
    return sorted(path.name for path in driven.log.directory.glob("*.checkpoint"))


def test_a_checkpoint_is_written_every_so_many_bytes_and_two_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, checkpoint_bytes=10 * BLOCK).open()
        seen = set()
        for i in range(60):
            await driven.append_durably(b"%d" % i)
            await tick()
            names = checkpoints(driven)
            assert len(names) <= 2
            seen.update(names)
        assert len(seen) == 60 * 2 // 10 - 1
        driven = await driven.host.reopen(driven)
        assert driven.notes.base_offsets == list(range(60))
        await driven.check()

    drive(scenario())


def test_a_checkpoint_waits_until_everything_before_it_is_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path, checkpoint_bytes=10 * BLOCK)
        first, *others = await several_in_flight(disk, driven)
        disk.land(*others)
        await tick()
        assert checkpoints(driven) == []
        disk.auto = True
        disk.land(first)
        await driven.durable()
        await tick()
        assert len(checkpoints(driven)) == 2
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


def test_a_closed_log_gives_back_its_unused_space_and_reopens_at_its_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path)
        driven = await host.open()
        await driven.append_durably(b"only")
        await driven.close()
        assert driven.segments[0].path.stat().st_size == BLOCK + record_bytes(80, BLOCK)
        assert checkpoints(driven) == ["00000000000000000001.checkpoint"]
        # Nothing is scanned: not even damage before the checkpoint is seen, until it is read.
        flip(driven.segments[0].path, BLOCK)
        driven = await host.next_life().open(appended=driven.appended)
        assert driven.notes.base_offsets == [0]
        with pytest.raises(CorruptRecord):
            await driven.read_all()

    drive(scenario())
