"""A disk that refuses: no room, errors, read-only. What stalls, what is final, what is served."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.disk import write_file_atomic
from storage.errors import DiskFailed, DiskFull, StorageError
from storage.log_start import move_start
from storage.segment import create_segment
from storage.small_files import SmallFiles, _write_all
from tests.storage.builder import BLOCK, NOW_MS, Driven, HeldDisk, Host, batch_of_size, drive

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EIO, errno.EROFS)


class Refusing(HeldDisk):
    """Calls fail with `code` where `refuses` is true of them: allocate, or what run is given."""

    def __init__(self) -> None:
        super().__init__()
        self.code = 0
        self.refuses: Callable[[Any], bool] = lambda call: False
        self.refused = 0

    def _check(self, call: Any) -> None:
        if self.code and self.refuses(call):
            self.refused += 1
            raise OSError(self.code, os.strerror(self.code))

    async def allocate(self, fd: int, pos: int, size: int) -> None:
        self._check("allocate")
        await super().allocate(fd, pos, size)

    async def run(self, fn: Callable[..., Any], *args: object) -> Any:
        await asyncio.sleep(0)  # as threads do
        self._check(fn)
        return await super().run(fn, *args)

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        self._check("read")
        return await super().read(fd, pos, size)


async def started(path: Path, **config: Any) -> tuple[Refusing, Driven]:
    """A log with a few durable records."""
    disk = Refusing()
    host = Host(path, disk, **config)
    driven = await host.open()
    for i in range(3):
        await driven.append_durably(b"%d" % i)
    return disk, driven


async def until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def settled(driven: Driven) -> None:
    while driven.log._tasks:
        await asyncio.wait(driven.log._tasks)


# --- no room before anything was written: the log stalls ------------------------------------------

# What is refused, and a batch that needs it.
ROOM = {
    "space ahead": ("allocate", 1 << 20),
    "a new segment": (create_segment, 1 << 20),
}


def refuse(disk: Refusing, code: int, *calls: object) -> None:
    disk.code, disk.refuses = code, lambda call: call in calls


async def stalled(driven: Driven, disk: Refusing, what: str, code: int) -> None:
    """Append what there is no room for; what was durable before is what there is."""
    call, size = ROOM[what]
    if call is create_segment:
        driven.log._appender.roll_next()
    refuse(disk, code, call)
    driven.append_batch(batch_of_size(size))
    await until(lambda: driven.log.stalled)
    assert driven.log.failed is None
    assert driven.log.durable_offset == 3


@pytest.mark.parametrize("what", ROOM)
@pytest.mark.parametrize("code", NO_ROOM, ids=errno.errorcode.__getitem__)
def test_without_room_a_log_stalls_and_goes_on_when_there_is_some(
    tmp_path: Path, what: str, code: int
) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        told: list[object] = []
        driven.host.context.no_space = told.append
        await stalled(driven, disk, what, code)
        assert told == [driven.log]
        assert len(driven.owner.stalls) == 1
        assert "cannot make room" in driven.owner.stalls[0]
        assert os.strerror(code) in driven.owner.stalls[0]
        held = b"".join(stored.data for stored in driven.appended[:3])
        assert await driven.read_all() == held, "what is durable is served"
        for _ in range(3):  # still none
            await driven.log.retry()
            assert driven.log.stalled
        assert disk.refused >= 4
        driven.append(b"of the broker's own")  # internal topics go on in memory
        disk.code = 0
        await driven.log.retry()
        await driven.durable()
        assert driven.owner.stalls[1:] == ["resumed"]
        assert driven.log.stalled is None
        await driven.append_durably(b"more")
        await driven.check()
        driven = await driven.host.reopen(driven, HeldDisk())
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("what", ROOM)
def test_a_kill_while_it_stalls_loses_nothing_durable(tmp_path: Path, what: str) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        await stalled(driven, disk, what, errno.ENOSPC)
        driven.appended.pop()
        driven = await driven.host.reopen(driven, HeldDisk())
        await driven.check()
        assert list(driven.log.directory.glob("*.tmp")) == []

    drive(scenario())


@pytest.mark.parametrize("end", ["close", "close with room", "delete"])
def test_a_log_that_stalls_can_be_closed_and_deleted(tmp_path: Path, end: str) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        await stalled(driven, disk, "space ahead", errno.ENOSPC)
        if end == "delete":
            assert await driven.log.delete(tmp_path / "trash") is not None
            return
        if end == "close with room":
            disk.code = 0
        else:
            driven.appended.pop()
        await driven.close()
        assert isinstance(driven.log.failed, DiskFull) == (end == "close")
        driven = await driven.host.next_life(HeldDisk()).open(appended=driven.appended)
        await driven.check()

    drive(scenario())


def test_what_was_acknowledged_from_memory_is_kept_while_it_stalls(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        driven.log.configure(replace(driven.log.config, write_caching=True, flush_ms=3_600_000))
        refuse(disk, errno.ENOSPC, "allocate")
        driven.append_batch(batch_of_size(1 << 20))
        assert driven.log.visible_offset == 4
        driven.log._appender.flush_now()
        await until(lambda: driven.log.stalled)
        assert driven.log.visible_offset == 4
        await driven.read_all(max_bytes=1 << 22, limit_offset=4)
        disk.code = 0
        await driven.log.retry()
        await driven.durable()
        await driven.check()

    drive(scenario())


def test_records_are_deleted_while_a_log_stalls(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path, segment_ms=1000, retention_ms=1000)
        for seconds in (10, 20, 30):
            driven.append(b"x", timestamp_ms=NOW_MS + seconds * 1000)
            await driven.durable()
        await settled(driven)
        refuse(disk, errno.ENOSPC, "allocate", create_segment)
        driven.append_batch(batch_of_size(1 << 20, timestamp_ms=NOW_MS))
        await until(lambda: driven.log.stalled)
        assert len(driven.segments) == 4
        await driven.log.delete_records(2)
        with pytest.raises(DiskFull):
            await driven.log.delete_records(driven.log.log_end_offset)
        deleted = await driven.log.enforce_retention(NOW_MS + 60_000)
        assert len(deleted) == 3
        await settled(driven)
        assert len(list(driven.log.directory.glob("*.wal"))) == 1
        assert driven.log.log_start_offset == 5
        disk.code = 0
        await driven.log.retry()
        await driven.durable()
        await driven.check()

    drive(scenario())


def test_what_the_journal_holds_is_stored_when_there_is_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = Refusing()
        host = Host(tmp_path, disk)
        logs = [await host.open(f"events-{i}", partition=i) for i in range(6)]
        (tmp_path / "journal" / "0").mkdir(parents=True)
        host.begin_journal()
        refuse(disk, errno.ENOSPC, create_segment)
        for driven in logs:
            driven.append(b"small")
        for driven in logs:
            await driven.durable()
        driven = logs[0]
        with pytest.raises(DiskFull):
            await driven.log.store(1)
        assert driven.log.durable_offset == 1
        assert driven.log.log_end_offset == 1
        disk.code = 0
        await driven.log.retry()
        await driven.log.store(1)
        await driven.check()

    drive(scenario())


def test_what_only_the_journal_has_waits_for_room_at_a_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path)
        logs = [await host.open(f"events-{i}", partition=i) for i in range(6)]
        (tmp_path / "journal" / "0").mkdir(parents=True)
        host.begin_journal()
        for driven in logs:
            driven.append(b"small")
        for driven in logs:
            await driven.durable()
            assert driven.log._appender.stored_offset == 0
        await host.crash()
        full = Refusing()
        refuse(full, errno.ENOSPC, create_segment)
        host = host.next_life(full)
        told: list[object] = []
        host.context.no_space = told.append
        host.read_journal()
        again = await host.open("events-0", appended=logs[0].appended)
        assert told == [again.log]
        assert again.log.stalled
        assert (again.log.durable_offset, again.log.log_end_offset) == (0, 1)
        full.code = 0
        await again.log.retry()
        await again.check()
        again = await host.reopen(again, HeldDisk())
        await again.check()

    drive(scenario())


def test_nothing_is_rewritten_while_the_disk_is_full(tmp_path: Path) -> None:
    async def scenario() -> None:
        _disk, driven = await started(tmp_path)
        for _ in range(20):
            await driven.append_durably(b"x")
        driven.log._appender.roll_next()
        await driven.append_durably(b"next")
        await settled(driven)
        driven.host.context.disk_full = True
        assert not await driven.log.rewriter.rewrite_padded()
        driven.host.context.disk_full = False
        assert await driven.log.rewriter.rewrite_padded()
        await driven.check()

    drive(scenario())


# --- what is final --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ROOM)
@pytest.mark.parametrize("code", BROKEN, ids=errno.errorcode.__getitem__)
def test_a_broken_disk_is_final(tmp_path: Path, what: str, code: int) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        call, size = ROOM[what]
        if call is create_segment:
            driven.log._appender.roll_next()
        refuse(disk, code, call)
        driven.append_batch(batch_of_size(size))
        await until(lambda: driven.log.failed)
        assert os.strerror(code) in str(driven.log.failed)
        assert driven.log.stalled is None
        disk.code = 0
        await driven.log.retry()
        with pytest.raises(DiskFailed):
            driven.append(b"x")
        driven.appended.pop()
        driven = await driven.host.reopen(driven, HeldDisk())
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("res", [-errno.ENOSPC, -errno.EIO, -errno.EROFS, 0, BLOCK])
def test_a_write_that_fails_is_final_also_for_want_of_space(tmp_path: Path, res: int) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        disk.auto = False
        driven.append(b"lost")
        await until(lambda: disk.held)
        disk.land(res=res)
        assert isinstance(driven.log.failed, DiskFull) == (res == -errno.ENOSPC)
        disk.auto = True
        await driven.log.retry()
        with pytest.raises(DiskFailed):
            driven.append(b"x")
        driven.appended.pop()
        driven = await driven.host.reopen(driven, HeldDisk())
        await driven.check()

    drive(scenario())


def test_a_segment_whose_name_may_not_be_durable_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        _disk, driven = await started(tmp_path)
        driven.log._appender.roll_next()

        def fails(_path: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr("storage.segment.fsync_dir", fails)
            driven.append(b"x")
            await until(lambda: driven.log.failed)
        assert "cannot make names durable" in str(driven.log.failed)
        assert driven.log.stalled is None
        driven.appended.pop()
        driven = await driven.host.reopen(driven, HeldDisk())
        await driven.check()

    drive(scenario())


# --- what can wait --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*NO_ROOM, *BROKEN], ids=errno.errorcode.__getitem__)
def test_an_index_that_cannot_be_written_is_made_when_it_is_needed(
    tmp_path: Path, code: int
) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        disk.code = code
        disk.refuses = lambda call: call is _write_all
        driven.log._appender.roll_next()
        await driven.append_durably(b"next")
        await settled(driven)
        index = driven.segments[0].path.with_suffix(".index")
        assert not index.exists()
        assert driven.segments[0].path.stat().st_size == driven.segments[0].write_pos, "it is cut"
        disk.code = 0
        await driven.check()
        driven = await driven.host.reopen(driven, HeldDisk())
        await driven.check()
        assert index.exists()

    drive(scenario())


def test_a_checkpoint_that_found_no_room_does_not_keep_old_segments_for_ever(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        disk.code = errno.ENOSPC
        disk.refuses = lambda call: call is _write_all
        driven.log._appender.roll_next()
        await driven.append_durably(b"next")
        await driven.log.delete_records(3)
        await settled(driven)
        assert len(driven.segments) == 2, "the producers are in no checkpoint"
        disk.code = 0
        await driven.log.retry()
        await settled(driven)
        assert len(driven.segments) == 1
        await driven.log.retry()  # nothing is left to do
        await driven.check()
        driven = await driven.host.reopen(driven, HeldDisk())
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("code", [*NO_ROOM, *BROKEN], ids=errno.errorcode.__getitem__)
def test_a_log_start_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, code: int) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        refuse(disk, code, move_start)
        with pytest.raises(StorageError):
            await driven.log.delete_records(2)
        assert (driven.log.log_start_offset, driven.log.failed) == (0, None)
        await driven.append_durably(b"goes on")
        disk.code = 0
        await driven.log.delete_records(2)
        assert driven.log.log_start_offset == 2
        await driven.check()

    drive(scenario())


def test_a_read_that_fails_is_told_and_the_next_one_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, driven = await started(tmp_path)
        driven.forget_cache()
        refuse(disk, errno.EIO, "read")
        with pytest.raises(DiskFailed, match="cannot read"):
            await driven.log.read(0, 3, 1 << 20)
        assert driven.log.failed is None
        await driven.append_durably(b"goes on")
        disk.code = 0
        await driven.check()

    drive(scenario())


def test_a_log_opens_on_a_full_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        _disk, driven = await started(tmp_path)
        driven.log._appender.roll_next()
        await driven.append_durably(b"next")
        await settled(driven)
        driven.segments[0].path.with_suffix(".index").unlink()
        for path in driven.log.directory.glob("*.checkpoint"):
            path.unlink()
        await driven.host.crash()
        full = Refusing()
        full.code = errno.ENOSPC
        full.refuses = lambda call: (
            call in (write_file_atomic, _write_all, create_segment, "allocate")
        )
        driven = await driven.host.next_life(full).open(appended=driven.appended)
        assert full.refused
        await driven.check()

    drive(scenario())


def test_room_that_was_refused_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def scenario() -> None:
        _disk, driven = await started(tmp_path)
        driven.log._appender.roll_next()
        before = sorted(driven.log.directory.iterdir())
        with monkeypatch.context() as patched:
            patched.setattr("storage.segment.allocate", full)
            driven.append(b"x")
            await until(lambda: driven.log.stalled)
        assert sorted(driven.log.directory.iterdir()) == before
        await driven.log.retry()
        await driven.check()

    drive(scenario())


def test_a_small_file_that_cannot_be_replaced_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_file_atomic(tmp_path / "file", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_file_atomic(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("count", [1, 20], ids=["synced by itself", "synced together"])
def test_small_files_that_cannot_be_written_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def scenario() -> None:
        files = SmallFiles(HeldDisk())
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            patched.setattr("storage.small_files.sync_file_system", full)
            writes = [files.write(tmp_path / str(i), b"x") for i in range(count)]
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [getattr(error, "errno", 0) for error in outcomes] == [errno.ENOSPC] * count
        assert os.listdir(tmp_path) == []
        await files.write(tmp_path / "0", b"x")
        assert os.listdir(tmp_path) == ["0"]

    drive(scenario())
