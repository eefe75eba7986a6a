"""Log.delete_records: the start moves durably, segments go, readers and recovery do not mind."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.record_batch import set_log_append_time
from storage import small_files
from storage.disk import fd_path
from storage.errors import CorruptRecord, DiskFailed, StorageError
from storage.log_start import (
    give_up,
    start_name,
    trim_epochs,
)
from tests.storage.builder import (
    BLOCK,
    NOW_MS,
    Driven,
    HeldDisk,
    Host,
    batch_of,
    drive,
)


async def rolled(path: Path, count: int = 40, **config: Any) -> Driven:
    """An open log of several segments, two records a batch."""
    driven = await Host(path, **{"segment_bytes": 16 * BLOCK, **config}).open()
    for i in range(count):
        await driven.append_durably(b"%d" % i * (1 + 700 * (i % 3)), b"second")
    assert count < 40 or len(driven.segments) > 4
    return driven


def files(driven: Driven, suffix: str) -> list[int]:
    return sorted(int(path.stem[:20]) for path in driven.log.directory.glob(f"*{suffix}"))


async def settled(driven: Driven) -> None:
    while driven.log._tasks:
        await asyncio.wait(driven.log._tasks)


def test_the_start_moves_and_survives_a_kill(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await rolled(tmp_path, 3)
        await driven.log.delete_records(3)
        assert driven.log.log_start_offset == 3
        assert files(driven, ".start") == [3]
        driven = await driven.host.reopen(driven)
        assert driven.log.log_start_offset == 3
        await driven.check()
        assert driven.notes.base_offsets == [0, 2, 4]  # producers are kept

    drive(scenario())


def test_whole_segments_below_the_start_go_and_the_active_one_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await rolled(tmp_path)
        bases = [segment.base_offset for segment in driven.segments]
        size_bytes = driven.log.size_bytes
        assert size_bytes == sum(segment.write_pos for segment in driven.segments)
        for start, kept in (
            (bases[2] - 1, bases[1:]),
            (bases[2], bases[2:]),
            (bases[3] + 1, bases[3:]),
            (driven.log.log_end_offset, bases[-1:]),
        ):
            await driven.log.delete_records(start)
            await settled(driven)
            assert [segment.base_offset for segment in driven.segments] == kept
            assert files(driven, ".wal") == kept
            assert files(driven, ".index") == kept[:-1]
            assert files(driven, ".start") == [start]
            assert driven.log.log_start_offset == start
            await driven.check()
        assert driven.log.size_bytes == driven.active.write_pos < size_bytes
        await driven.append_durably(b"goes on")
        driven = await driven.host.reopen(driven)
        await driven.check()
        await driven.close()

    drive(scenario())


def test_a_lower_start_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await rolled(tmp_path, 5)
        await driven.log.delete_records(4)
        for lower in (0, 3, 4):
            await driven.log.delete_records(lower)
            assert driven.log.log_start_offset == 4
        assert files(driven, ".start") == [4]

    drive(scenario())


def test_of_moves_at_the_same_time_the_furthest_counts(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await rolled(tmp_path)
        moves = [driven.log.delete_records(start) for start in (20, 60, 5, 41)]
        await asyncio.gather(*moves)
        assert driven.log.log_start_offset == 60
        await settled(driven)
        driven = await driven.host.reopen(driven)
        assert driven.log.log_start_offset == 60
        await driven.check()

    drive(scenario())


def test_what_is_only_cached_is_written_before_it_is_deleted(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path, write_caching=True, flush_ms=3_600_000)
        driven = await host.open()
        driven.append(b"one")
        driven.append(b"two")
        assert (driven.log.durable_offset, driven.log.visible_offset) == (0, 2)
        await driven.log.delete_records(2)
        assert driven.log.durable_offset == 2
        driven = await host.reopen(driven)
        assert (driven.log.log_start_offset, driven.log.log_end_offset) == (2, 2)

    drive(scenario())


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("open", errno.ENOSPC),
        ("open", errno.EDQUOT),
        ("open", errno.EMFILE),
        ("open", errno.ENFILE),
        ("open", errno.EIO),
        ("open the directory", errno.EMFILE),
        ("open the directory", errno.ENFILE),
        ("sync", errno.EIO),
        ("sync", errno.ENOSPC),
        ("sync the file", errno.EIO),  # as XFS that has shut itself down
        ("unlink", errno.EIO),
    ],
)
def test_only_a_sync_that_fails_takes_the_log_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    async def scenario() -> None:
        driven = await rolled(tmp_path)
        before = len(driven.segments)
        await driven.log.delete_records(1)

        def fails(*args: Any, **_: object) -> Any:
            if step not in ("open", "unlink") or str(args[0]).endswith(".start"):
                raise OSError(code, os.strerror(code))
            return {"open": os_open, "unlink": os_unlink}[step](*args)

        def fails_of_the_file(fd: int) -> None:
            if fd_path(fd).endswith(".start"):
                raise OSError(code, os.strerror(code))
            os_fsync(fd)

        os_open, os_unlink, os_fsync = os.open, os.unlink, os.fsync
        with monkeypatch.context() as patched:
            if step in ("open", "unlink"):
                patched.setattr(os, step, fails)
            elif step == "sync the file":
                patched.setattr(os, "fsync", fails_of_the_file)
            else:
                patched.setattr("storage.log_start.fsync_dir", fails)
            if step == "unlink":
                await driven.log.delete_records(60)
            else:
                with pytest.raises(DiskFailed if step.startswith("sync") else StorageError):
                    await driven.log.delete_records(60)
        moved = step == "unlink"
        assert driven.log.log_start_offset == (60 if moved else 1)
        assert (len(driven.segments) < before) == moved
        assert (driven.log.failed is not None) == step.startswith("sync")
        assert os.strerror(code) in driven.host.messages[-1]
        if not step.startswith("sync"):
            await driven.log.delete_records(61)
            assert driven.log.log_start_offset == 61
            assert files(driven, ".start") == [61]
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


# --- what recovery needs of the producers ---------------------------------------------------------


async def about_to_roll(path: Path) -> Driven:
    """A log whose only segment has no room for another batch of 6000 bytes."""
    host = Host(path, segment_bytes=16 * BLOCK)
    host.pool.load()
    driven = await host.open()
    while not driven.segments or driven.active.write_pos + 3 * BLOCK <= 16 * BLOCK:
        await driven.append_durably(b"v" * 6000)
    assert len(driven.segments) == 1
    return driven


@pytest.mark.parametrize("end", ["killed", "goes on"])
def test_a_deleted_segment_stays_until_its_producers_are_in_a_checkpoint(
    tmp_path: Path, end: str
) -> None:
    async def scenario() -> None:
        driven = await about_to_roll(tmp_path)
        durable = driven.log.durable_offset
        driven.host.held.auto = False
        driven.append(b"w" * 6000)
        while not driven.host.held.held:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await driven.log.delete_records(durable)
        await settled(driven)
        assert files(driven, ".wal") == [0, durable]
        if end == "killed":
            driven.appended.pop()
        else:
            driven.host.held.land()
            driven.host.held.auto = True
            await driven.durable()
            await settled(driven)
            assert files(driven, ".wal") == [durable]
        for _ in range(3):
            driven = await driven.host.reopen(driven)
            await driven.check()
            assert driven.log.log_start_offset == durable

    drive(scenario())


def test_without_a_checkpoint_no_segment_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await about_to_roll(tmp_path)

        def no_checkpoints(fn: object) -> None:
            if fn is small_files._write_all:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        driven.host.held.before_run = no_checkpoints
        await driven.append_durably(b"w" * 6000)
        await driven.log.delete_records(driven.log.durable_offset)
        await settled(driven)
        bases = files(driven, ".wal")
        assert len(bases) == 2
        assert files(driven, ".checkpoint") == []
        driven = await driven.host.reopen(driven)
        assert files(driven, ".wal") == bases
        await driven.check()
        while len(driven.segments) < 3:  # the next checkpoint
            await driven.append_durably(b"x" * 6000)
        await settled(driven)
        await driven.log.delete_records(driven.active.base_offset)
        await settled(driven)
        assert files(driven, ".wal") == [driven.active.base_offset]
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


def test_a_kill_before_the_retirement_costs_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await rolled(tmp_path)
        await settled(driven)
        bases = files(driven, ".wal")

        def not_yet(fn: object) -> None:
            if fn is give_up:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        driven.host.held.before_run = not_yet
        await driven.log.delete_records(driven.segments[3].base_offset)
        await settled(driven)
        assert files(driven, ".wal") == bases
        driven = await driven.host.reopen(driven)
        await driven.check()
        assert files(driven, ".wal") == bases[3:]

    drive(scenario())


def test_a_log_that_is_closed_meanwhile_moves_its_start_no_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path, write_caching=True, flush_ms=3_600_000)
        driven = await host.open()
        driven.append(b"cached")
        asked = asyncio.create_task(driven.log.delete_records(1))
        await asyncio.sleep(0)
        assert not asked.done()
        await driven.close()
        with pytest.raises(StorageError, match="is closed"):
            await asked
        with pytest.raises(StorageError, match="is closed"):
            await driven.log.delete_records(1)
        assert files(driven, ".start") == []
        assert driven.log.durable_offset == 1

    drive(scenario())


def test_a_log_start_that_only_a_checkpoint_remembers_is_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        await driven.append_durably(b"one")
        await driven.append_durably(b"two")
        await driven.log.delete_records(1)
        await driven.close()
        (driven.log.directory / start_name(1)).unlink()
        with pytest.raises(CorruptRecord, match="started at offset 1 when its newest checkpoint"):
            await driven.host.next_life().open()

    drive(scenario())


# --- readers --------------------------------------------------------------------------------------


class SlowReads(HeldDisk):
    """Reads wait for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reading = asyncio.Event()  # somebody waits

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        if not self.gate.is_set():
            self.reading.set()
            await self.gate.wait()
        return await super().read(fd, pos, size)


@pytest.mark.parametrize("end", ["delete_records", "delete", "close"])
def test_a_read_under_way_gets_its_records_though_the_segment_goes(
    tmp_path: Path, end: str
) -> None:
    async def scenario() -> None:
        disk = SlowReads()
        host = Host(tmp_path, disk, segment_bytes=30 * BLOCK)
        host.pool.load()
        driven = await host.open()
        for i in range(60):
            await driven.append_durably(b"%d" % i * 700)
        await settled(driven)
        assert len(driven.segments) > 3
        driven.forget_cache()
        first = driven.segments[0]
        disk.gate.clear()
        reading = asyncio.create_task(driven.log.read(0, first.next_offset, 1 << 20))
        await disk.reading.wait()
        if end == "delete_records":
            await driven.log.delete_records(first.next_offset)
            ending = asyncio.create_task(settled(driven))
        elif end == "delete":
            deleting = driven.log.delete(tmp_path / "trash")
            ending = asyncio.create_task(deleting)  # type: ignore[arg-type]
        else:
            ending = asyncio.create_task(driven.log.close())
        for _ in range(20):
            await asyncio.sleep(0)
        assert ending.done() == (end != "delete_records")
        assert first.fd >= 0
        disk.gate.set()
        slices, next_offset = await reading
        expected = [s.data for s in driven.appended if s.next_offset <= next_offset]
        assert b"".join(slices) == b"".join(expected)
        assert expected
        await ending
        await settled(driven)
        assert first.fd == -1
        if end == "delete_records":
            assert not first.path.exists()
            assert await driven.log.read(0, 10, 1000) == ([], 0)
            assert driven.log.failed is None
            await driven.check()

    drive(scenario())


def test_a_search_by_time_finds_nothing_below_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path, segment_bytes=16 * BLOCK).open()
        for i in range(30):  # batches of three records, a millisecond apart
            driven.append(b"a" * 2000, b"b", b"c", timestamp_ms=NOW_MS + 10 * i)
            await driven.durable()
        log, end = driven.log, driven.log.log_end_offset
        for start in (1, 31, 62):
            await driven.log.delete_records(start)
            await settled(driven)
            time = NOW_MS + 10 * (start // 3) + start % 3
            assert await log.offset_for_timestamp(0, end) == (start, time)
            assert await log.offset_for_timestamp(time + 1, end) != (start, time)
        assert await log.max_timestamp_offset(end) == (end - 1, NOW_MS + 292)
        await driven.log.delete_records(end)
        assert await log.offset_for_timestamp(0, end) is None
        assert await log.max_timestamp_offset(end) is None

    drive(scenario())


def test_a_search_by_time_inside_a_batch_with_the_time_of_its_append(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        batch = batch_of(b"a", b"b", b"c")
        set_log_append_time(batch, 0, len(batch), NOW_MS + 2)
        driven.append_batch(batch)
        await driven.durable()
        await driven.log.delete_records(1)
        assert await driven.log.offset_for_timestamp(0, 3) == (1, NOW_MS + 2)
        assert await driven.log.max_timestamp_offset(3) == (1, NOW_MS + 2)

    drive(scenario())


def test_a_search_by_time_goes_on_where_the_start_has_moved_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = SlowReads()
        driven = await Host(tmp_path, disk, segment_bytes=16 * BLOCK).open()
        for i in range(40):
            await driven.append_durably(b"%d" % i * 700)
        await settled(driven)
        driven.forget_cache()
        disk.gate.clear()
        searching = asyncio.create_task(driven.log.offset_for_timestamp(0, 40))
        await disk.reading.wait()
        await driven.log.delete_records(30)
        disk.gate.set()
        assert await searching == (30, NOW_MS)

    drive(scenario())


# --- epochs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "left"),
    [
        (0, [(1, 0), (3, 10), (4, 20)]),
        (5, [(1, 5), (3, 10), (4, 20)]),
        (10, [(3, 10), (4, 20)]),
        (19, [(3, 19), (4, 20)]),
        (20, [(4, 20)]),
        (99, [(4, 99)]),
    ],
)
def test_epochs_below_the_start_are_forgotten(start: int, left: list[tuple[int, int]]) -> None:
    epochs = [(1, 0), (3, 10), (4, 20)]
    trim_epochs(epochs, start)
    assert epochs == left


def test_an_epoch_that_was_deleted_ends_where_the_next_one_begins(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        for epoch in (1, 1, 2, 2, 5, 5):
            await driven.append_durably(b"x", epoch=epoch)
        await driven.log.delete_records(3)
        for _ in range(2):
            assert driven.log.epochs == [(2, 3), (5, 4)]
            assert driven.log.end_offset_for_epoch(1) == (1, 3)
            assert driven.log.end_offset_for_epoch(2) == (2, 4)
            assert driven.log.end_offset_for_epoch(5) == (5, 6)
            assert driven.log.epoch_for_offset(3) == 2
            driven = await driven.host.reopen(driven)

    drive(scenario())


# --- recovery -------------------------------------------------------------------------------------


def drop_checkpoints(driven: Driven, which: slice) -> None:
    for path in sorted(driven.log.directory.glob("*.checkpoint"))[which]:
        path.write_bytes(b"rot")


@pytest.mark.parametrize("which", [slice(0), slice(-1, None), slice(None)])
def test_a_damaged_checkpoint_brings_back_neither_the_start_nor_a_verdict(
    tmp_path: Path, which: slice
) -> None:
    async def scenario() -> None:
        driven = await rolled(tmp_path)
        await driven.log.delete_records(driven.segments[3].base_offset + 1)
        await settled(driven)
        drop_checkpoints(driven, which)
        host, model = driven.host, driven.appended
        await host.crash()
        host = host.next_life()
        driven = await host.open(appended=model)
        assert driven.log.log_start_offset == driven.segments[0].base_offset + 1
        assert await driven.read_all() == b"".join(s.data for s in driven.model)

    drive(scenario())


@pytest.mark.parametrize("leftover", ["whole", "overwritten", "empty", "index only", "a hole"])
def test_what_a_crash_left_of_retired_segments_is_removed_unseen(
    tmp_path: Path, leftover: str
) -> None:
    """A power cut may forget that a file was renamed away, which is another segment by now."""

    async def scenario() -> None:
        driven = await rolled(tmp_path)
        old = driven.segments[:3]
        kept = {path.name: path.read_bytes() for path in driven.log.directory.iterdir()}
        await driven.log.delete_records(driven.segments[3].base_offset)
        await settled(driven)
        await driven.host.crash()
        for i, segment in enumerate(old):
            if leftover == "a hole" and i == 1:
                continue
            for path in (segment.path, segment.path.with_suffix(".index")):
                data = kept[path.name]
                if path.suffix == ".wal" and leftover == "overwritten":
                    data = bytes(reversed(data))
                if leftover != "index only" or path.suffix == ".index":
                    path.write_bytes(b"" if leftover == "empty" else data)
        host = driven.host.next_life()
        host.pool.load()
        driven = await host.open(appended=driven.appended)
        await driven.check()
        base = driven.segments[0].base_offset
        assert min(files(driven, ".wal")) == base
        assert min(files(driven, ".index")) == base

    drive(scenario())


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_segment_at_or_above_the_start_is_damage(tmp_path: Path, which: int) -> None:
    async def scenario() -> None:
        driven = await rolled(tmp_path)
        await driven.log.delete_records(driven.segments[2].base_offset + 1)
        await settled(driven)
        driven.segments[which].path.unlink()
        drop_checkpoints(driven, slice(None))
        before = sorted(os.listdir(driven.log.directory))
        words = "the log starts at offset" if which == 0 else "a segment is missing"
        with pytest.raises(CorruptRecord, match=words):
            await driven.host.reopen(driven)
        assert sorted(os.listdir(driven.log.directory)) == before

    drive(scenario())


def test_all_segments_missing_behind_a_start_are_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await rolled(tmp_path, 3)
        await driven.log.delete_records(2)
        driven.active.path.unlink()
        with pytest.raises(CorruptRecord, match="starts at offset 2, and none"):
            await driven.host.reopen(driven)

    drive(scenario())
