"""Recovery of whole logs from real files: crashes, cuts, and what an operator is told.

What had been durable and is damaged: test_damaged_log.py.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from storage.disk import Disk
from storage.errors import CorruptRecord, LockTimeout, StorageError
from storage.queued_disk import QueuedDisk
from storage.segment import file_name
from storage.threaded import ThreadQueue
from tests.storage.builder import (
    BLOCK,
    OTHER_TOPIC_ID,
    TOPIC_ID,
    HeldDisk,
    Host,
    Stored,
    batch_of_size,
    contents,
    crashed,
    drive,
    flip,
    records_of,
    segmented,
    wal,
)
from tests.storage.conftest import open_or_skip

# --- what survives --------------------------------------------------------------------------------


def test_a_killed_log_comes_back_with_offsets_epochs_and_producer_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=32 * BLOCK, checkpoint_bytes=9 * BLOCK).open()
        for i in range(40):
            await driven.append_durably(b"%d" % i, epoch=1 + i // 7)
        epochs = list(driven.log.epochs)
        for _ in range(3):
            driven = await driven.host.reopen(driven)
            assert driven.log.log_end_offset == driven.log.durable_offset == 40
            assert driven.log.log_start_offset == 0
            assert driven.log.epochs == epochs
            await driven.check()
            await driven.append_durably(b"one more", epoch=6)
            driven.appended.pop()
            driven.notes.base_offsets.pop()
            await driven.close()
            for path in driven.log.directory.iterdir():  # back to before that one more
                if path.name == file_name(41, ".checkpoint"):
                    path.unlink()
            os.truncate(wal(driven), driven.active.write_pos - 2 * BLOCK)

    drive(scenario())


def test_recovery_needs_neither_checkpoints_nor_index_files(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await crashed(tmp_path, 40, segment_bytes=32 * BLOCK, checkpoint_bytes=9 * BLOCK)
        for path in driven.log.directory.iterdir():
            if path.suffix != ".wal":
                path.unlink()
        host = driven.host.next_life()
        driven = await host.open(appended=driven.appended)
        await driven.check()
        indexes = sorted(path.stem for path in driven.log.directory.glob("*.index"))
        assert indexes == [segment.path.stem for segment in driven.segments[:-1]]

    drive(scenario())


@pytest.mark.parametrize("what", ["flip", "cut", "empty", "another file's"])
def test_a_bad_index_file_is_rebuilt(tmp_path: Path, what: str) -> None:
    async def scenario() -> None:
        driven = await crashed(tmp_path, 60, segment_bytes=32 * BLOCK)
        first, second = sorted(driven.log.directory.glob("*.index"))[:2]
        whole = first.read_bytes()
        damaged = {
            "flip": whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
            "cut": whole[:-3],
            "empty": b"",
            "another file's": second.read_bytes(),
        }[what]
        first.write_bytes(damaged)
        host = driven.host.next_life()
        driven = await host.open(appended=driven.appended)
        await driven.check()
        assert first.read_bytes() == whole
        assert any("an index is damaged" in message for message in host.messages)

    drive(scenario())


def test_a_damaged_checkpoint_costs_a_longer_scan_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await crashed(tmp_path, 40, segment_bytes=32 * BLOCK, checkpoint_bytes=9 * BLOCK)
        appended = driven.appended
        older, newer = sorted(driven.log.directory.glob("*.checkpoint"))
        for count, path in enumerate((newer, older)):
            flip(path, 30)
            host = driven.host.next_life()
            driven = await host.open(appended=appended)
            assert sum("a checkpoint is damaged" in m for m in host.messages) == count + 1
            assert any("the whole partition is scanned" in m for m in host.messages) == (count == 1)
            await driven.check()
            await host.crash()

    drive(scenario())


def test_a_checkpoint_whose_state_is_unreadable_is_not_used(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        for i in range(5):
            await driven.append_durably(b"%d" % i)
        driven.notes.snapshot = lambda: b"written by a newer release"  # type: ignore[method-assign]
        await driven.close()
        host = driven.host.next_life()
        driven = await host.open(appended=driven.appended)
        await driven.check()
        assert any("a checkpoint is damaged" in message for message in host.messages)

    drive(scenario())


def test_temporary_files_of_a_crash_are_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await crashed(tmp_path)
        left = [driven.log.directory / name for name in ("9.wal.tmp", "9.index.tmp")]
        for path in left:
            path.write_bytes(b"half")
        driven = await driven.host.next_life().open(appended=driven.appended)
        assert not any(path.exists() for path in left)
        await driven.check()

    drive(scenario())


def test_a_crash_between_roll_and_first_write_leaves_an_empty_segment(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=8 * BLOCK).open()
        for i in range(3):
            await driven.append_durably(b"%d" % i)
        driven.host.held.auto = False
        lost = driven.append(b"lost")
        while len(driven.segments) == 1 or not driven.host.held.held:
            await driven.host.disk.run(lambda: None)
            await _yield()
        driven.appended.pop()
        driven = await driven.host.reopen(driven)
        assert driven.active.base_offset == lost == driven.log.log_end_offset
        await driven.check()
        assert await driven.append_durably(b"again") == lost
        for i in range(9):
            await driven.append_durably(b"%d" % i)
        await driven.check()
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


RunOnDisk = Callable[[Callable[[Disk], Awaitable[None]]], None]


async def _yield() -> None:
    await asyncio.sleep(0)


def test_a_crash_with_writes_on_their_way_on_a_real_disk(
    run_on_disk: RunOnDisk, tmp_path: Path
) -> None:
    async def scenario(disk: Disk) -> None:
        host = Host(tmp_path, disk, segment_bytes=60 * BLOCK)
        appended: list[Stored] = []
        for cut_bytes in (0, 1, 700, BLOCK + 3):
            driven = await host.open(appended=appended)
            await driven.check()
            for i in range(8):
                await driven.append_durably(b"%d" % i * 500)
            acknowledged = driven.log.durable_offset
            for _ in range(6):
                driven.append_batch(batch_of_size(5 * BLOCK))
            await _yield()
            path = driven.active.path
            await host.crash()
            # What landed after the acknowledgement may be torn anywhere, also within a block.
            end_pos = driven.segments[-1].durable_pos
            os.truncate(path, max(path.stat().st_size - cut_bytes, end_pos))
            host = host.next_life(open_or_skip(disk.name, asyncio.get_running_loop()))
            driven = await host.open(appended=driven.appended)
            end = driven.log.log_end_offset
            assert end >= acknowledged
            appended = driven.appended = [s for s in driven.appended if s.next_offset <= end]
            await driven.check()
            await driven.close()
            host = host.next_life(host.disk)
        await host.disk.close()

    run_on_disk(scenario)


# --- a torn tail ----------------------------------------------------------------------------------


def test_a_segment_cut_anywhere_recovers_and_goes_on(tmp_path: Path) -> None:
    """Byte by byte in memory: test_recovery.py. Here: files, the cut itself, and what follows."""

    async def scenario() -> None:
        driven = await crashed(tmp_path)
        path, whole = wal(driven), wal(driven).read_bytes()
        records, appended = records_of(driven), driven.appended
        interesting = {BLOCK, BLOCK + 1, driven.active.write_pos}
        for pos, body_end, _ in records:
            interesting |= {pos - 1, pos, pos + 1, pos + 77, pos + BLOCK - 1, pos + BLOCK}
            interesting |= {pos + BLOCK + 1, body_end - 1, body_end, body_end + 1}
        interesting |= {random.Random(4).randrange(BLOCK, len(whole)) for _ in range(20)}
        for cut_pos in sorted(interesting):
            path.write_bytes(whole[:cut_pos])
            survivors = [record for record in records if record[1] <= cut_pos]
            end = survivors[-1][2] if survivors else 0
            host = Host(tmp_path, life=cut_pos)
            driven = await host.open(appended=appended[: len(survivors)])
            assert driven.log.log_end_offset == end, f"cut at {cut_pos}"
            await driven.check()
            assert await driven.append_durably(b"after the crash") == end
            await driven.check()
            again = await host.reopen(driven)
            await again.check()
            await again.host.crash()

    drive(scenario())


def test_a_torn_tail_is_said_and_cut_before_the_next_append(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await crashed(tmp_path)
        pos, body_end, _ = records_of(driven)[-1]
        flip(wal(driven), body_end - 1)
        host = driven.host.next_life()
        driven = await host.open(appended=driven.appended[:-1])
        assert wal(driven).stat().st_size == pos
        (message,) = host.messages
        assert f"at position {pos}; cut at offset" in message
        assert message.startswith("a torn tail is cut: ")
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("size", [400_000, 20_000])
def test_old_records_behind_a_torn_one_never_come_back(tmp_path: Path, size: int) -> None:
    """Three writes in flight, the first is lost, the others landed: after the cut, a record of
    the same size takes the lost one's place, and nothing may follow it."""

    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        await driven.append_durably(b"first")
        await driven.append_durably(bytes(5 * size))  # so that there is room for what follows
        disk = driven.host.held
        disk.auto = False
        kept = len(driven.appended)
        for _ in range(max(10, 800_000 // size)):
            driven.append_batch(batch_of_size(size))
        for _ in range(20):
            await _yield()
        lost, *others = disk.held
        assert len(others) >= 2
        for write in others:
            disk.land(write)
        driven.appended[kept:] = []
        driven = await driven.host.reopen(driven)
        assert wal(driven).stat().st_size == lost.pos
        await driven.check()
        driven.append_batch(batch_of_size(len(lost.view) - 2 * BLOCK))
        await driven.durable()
        assert driven.active.write_pos == lost.pos + len(lost.view) - BLOCK
        for _ in range(2):
            driven = await driven.host.reopen(driven)
            await driven.check()
            await driven.append_durably(b"more")

    drive(scenario())


# --- locks, topics, devices -----------------------------------------------------------------------


def test_a_log_that_another_process_still_writes_is_not_touched(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        await driven.append_durably(b"mine")
        before = contents(tmp_path)
        host = driven.host.next_life(lock_wait_s=0.02)
        with pytest.raises(LockTimeout, match="is still locked by"):
            await host.open()
        assert "waiting up to 0.02 s" in host.messages[0]
        assert contents(tmp_path) == before
        await driven.append_durably(b"still mine")
        await driven.check()

    drive(scenario())


def test_what_the_lock_holder_rolls_to_meanwhile_is_recovered_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=8 * BLOCK).open()
        await driven.append_durably(b"first")
        threads = QueuedDisk(asyncio.get_running_loop(), ThreadQueue())
        host = driven.host.next_life(threads)
        opening = asyncio.ensure_future(host.open(appended=driven.appended))
        while not host.messages:  # noqa: ASYNC110 - a thread says so, without an event
            await asyncio.sleep(0.001)
        assert "waiting up to 5 s" in host.messages[0]
        for i in range(20):
            await driven.append_durably(b"%d" % i)
        assert len(driven.segments) > 4
        await driven.host.crash()
        recovered = await opening
        recovered.appended = driven.appended
        assert recovered.log.log_end_offset == 21
        await recovered.check()
        await recovered.close()
        await threads.close()

    drive(scenario())


def test_a_topic_created_again_under_the_same_name_has_no_old_data(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        host = driven.host.next_life()
        host.deleted_ids = {TOPIC_ID}
        new = await host.open(topic_id=OTHER_TOPIC_ID)
        assert new.log.log_end_offset == 0
        assert new.notes.base_offsets == []
        assert host.messages == ["a partition of a deleted topic is discarded: events-0"]
        await new.append_durably(b"new")
        await new.check()
        await host.crash()
        again = await host.next_life().open(topic_id=OTHER_TOPIC_ID, appended=new.appended)
        await again.check()

    drive(scenario())


def test_a_directory_of_a_topic_that_was_not_deleted_is_left_alone(tmp_path: Path) -> None:
    """The metadata was lost or is an old copy: what lies here is somebody's data."""

    async def scenario() -> None:
        driven = await segmented(tmp_path)
        before = contents(tmp_path)
        with pytest.raises(CorruptRecord, match="belongs to topic id"):
            await driven.host.next_life().open(topic_id=OTHER_TOPIC_ID)
        assert contents(tmp_path) == before
        await (await driven.host.next_life().open(appended=driven.appended)).check()

    drive(scenario())


@pytest.mark.parametrize("empty", [False, True], ids=["with records", "empty"])
def test_a_segment_of_smaller_blocks_than_the_device_is_left(tmp_path: Path, empty: bool) -> None:
    """A data directory that moved: 8 KiB blocks for what was written with 4 KiB."""

    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=8 * BLOCK).open()
        for i in range(4):
            await driven.append_durably(b"%d" % i)
        if empty:
            await driven.host.crash()
            os.truncate(driven.active.path, BLOCK)
            for path in driven.log.directory.glob("*.checkpoint"):
                path.unlink()
            del driven.appended[-1]
        driven = await driven.host.reopen(driven, block_bytes=2 * BLOCK, segment_bytes=64 * BLOCK)
        await driven.check()
        for i in range(20):
            await driven.append_durably(b"%d" % i * 3000)
        assert driven.active.header.block_bytes == 2 * BLOCK
        await driven.check()
        # And back: larger blocks than the device needs stay as they are.
        driven = await driven.host.reopen(driven, block_bytes=BLOCK)
        await driven.check()
        for i in range(20):
            await driven.append_durably(b"%d" % i * 3000)
        await driven.check()
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


def test_what_recovery_accepts_is_synced_before_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write may have landed and its process died before the sync: the record is whole, and a
    power cut could still take it. It must not be called durable before it is."""

    async def scenario() -> None:
        driven = await crashed(tmp_path)
        os.truncate(wal(driven), driven.active.write_pos)
        synced: list[int] = []
        real_fsync = os.fsync

        def noted_fsync(fd: int) -> None:
            synced.append(os.fstat(fd).st_ino)
            real_fsync(fd)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        driven = await driven.host.next_life().open(appended=driven.appended)
        assert wal(driven).stat().st_ino in synced
        await driven.check()

    drive(scenario())


def test_opening_what_fails_in_the_middle_releases_the_locks(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await segmented(tmp_path)
        flip(driven.segments[2].path, 3)
        driven.segments[1].path.with_suffix(".index").unlink()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            with pytest.raises(StorageError):
                await driven.host.next_life(HeldDisk(), lock_wait_s=0).open()
        assert len(os.listdir("/proc/self/fd")) == before

    drive(scenario())


def test_a_stop_after_which_nothing_was_appended_writes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        await driven.append_durably(b"one")
        await driven.close()
        (checkpoint,) = driven.log.directory.glob("*.checkpoint")
        before = checkpoint.stat().st_mtime_ns, checkpoint.stat().st_ino
        driven = await driven.host.reopen(driven)
        await driven.close()
        assert (checkpoint.stat().st_mtime_ns, checkpoint.stat().st_ino) == before
        driven = await driven.host.reopen(driven)
        await driven.append_durably(b"two")
        await driven.close()
        assert len(list(driven.log.directory.glob("*.checkpoint"))) == 2

    drive(scenario())


def test_a_damaged_end_checkpoint_is_written_anew_at_the_next_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        await driven.append_durably(b"one")
        await driven.close()
        (checkpoint,) = driven.log.directory.glob("*.checkpoint")
        flip(checkpoint, 20)
        driven = await driven.host.reopen(driven)
        assert any("is damaged" in message for message in driven.host.messages)
        await driven.close()
        driven = await driven.host.reopen(driven)
        assert not driven.host.messages
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("large", [True, False])
def test_what_one_recovery_scanned_the_next_one_does_not(tmp_path: Path, large: bool) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        for _ in range(5):
            driven.append_batch(batch_of_size((1 << 20 if large else 1 << 16) - 100))
            await driven.durable()
        for life in range(3):
            driven = await driven.host.reopen(driven)
            scanned = sum(driven.host.held.read_sizes)
            assert (scanned > driven.active.write_pos - BLOCK) == (large and life == 0)
            assert len(list(driven.log.directory.glob("*.checkpoint"))) == large
            await driven.check()
            assert driven.notes.base_offsets == list(range(5))

    drive(scenario())
