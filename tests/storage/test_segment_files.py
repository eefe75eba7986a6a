"""A bounded number of open segments: opened when used, closed when idle, never under work."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from storage import segment_files
from storage.disk import POOL_THREADS, Disk
from storage.errors import CorruptRecord, StorageError
from storage.segment import INDEX_SUFFIX, Segment
from storage.segment_files import FILES_MIN
from tests.storage.builder import BLOCK, NOW_MS, Driven, Host, Stored, contents, drive, flip

RunOnDisk = Callable[[Callable[[Disk], Awaitable[None]]], None]


def open_segments(path: Path) -> list[str]:
    """The segments below `path` that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith(str(path)) and target.endswith(".wal"):
            found.append(target)
    return found


async def until(done: Callable[[], bool]) -> None:
    """Let the loop run until `done`."""
    for _ in range(1000):
        if done():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come")


async def many_segments(path: Path, count: int, **config: int) -> Driven:
    """A log of `count` segments and more, stopped."""
    driven = await Host(path, segment_bytes=16 * BLOCK, **config).open()
    while len(driven.segments) < count:
        await driven.append_durably(b"%d" % len(driven.appended), bytes(3 * BLOCK))
    await driven.close()
    return driven


def test_a_start_opens_the_newest_segment_and_readers_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        old = await many_segments(tmp_path, 40)
        host = old.host.next_life()
        driven = await host.open(appended=old.appended)
        assert [segment.fd >= 0 for segment in driven.segments] == [False] * 39 + [True]
        assert len(open_segments(tmp_path)) == 1
        assert driven.log.size_bytes == old.log.size_bytes
        assert driven.log.log_end_offset == old.log.log_end_offset
        await driven.check()
        assert len(open_segments(tmp_path)) == 40
        await driven.close()
        assert open_segments(tmp_path) == []

    drive(scenario())


def test_all_of_200_segments_are_read_with_few_descriptors(tmp_path: Path) -> None:
    async def scenario() -> None:
        old = await many_segments(tmp_path, 200)
        host = old.host.next_life(files_max=FILES_MIN)
        driven = await host.open(appended=old.appended)
        files = host.context.files
        for _ in range(2):
            await driven.check()
            assert len(open_segments(tmp_path)) == len(files) <= FILES_MIN
        assert files.opened_count >= 2 * (199 - FILES_MIN)
        assert sum(hasattr(segment, "index") for segment in driven.segments) <= FILES_MIN
        await driven.close()

    drive(scenario())


def test_a_partition_without_checkpoint_and_indexes_is_recovered_with_few_descriptors(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        old = await many_segments(tmp_path, 100)
        for path in old.log.directory.iterdir():
            if path.suffix != ".wal":
                path.unlink()
        host = old.host.next_life(files_max=FILES_MIN)
        most = 0

        def look(_fn: object) -> None:
            nonlocal most
            most = max(most, len(open_segments(tmp_path)))

        host.held.before_run = look
        driven = await host.open(appended=old.appended)
        assert 0 < most <= FILES_MIN + 1  # one that is being opened
        await driven.check()
        await driven.close()

    drive(scenario())


def test_more_partitions_than_descriptors_are_written_read_and_recovered(
    run_on_disk: RunOnDisk, tmp_path: Path
) -> None:
    """All at once, so that there is no room, and one by one; stopped and killed."""
    count, rng = 3 * FILES_MIN, random.Random(5)

    async def scenario(disk: Disk) -> None:
        appended: list[list[Stored]] = [[] for _ in range(count)]
        host = Host(tmp_path, disk, files_max=FILES_MIN, segment_bytes=12 * BLOCK)
        for life in range(3):
            logs = await asyncio.gather(
                *(host.open(f"t-{i}", partition=i, appended=appended[i]) for i in range(count))
            )
            for turn in range(4):
                some = list(logs) if turn % 2 else rng.sample(logs, 5)
                for driven in some:
                    driven.append(b"%d %d" % (life, turn), bytes(rng.choice((10, 9_000))))
                await asyncio.gather(*(driven.durable() for driven in some))
                assert len(open_segments(tmp_path)) <= FILES_MIN + 3 * POOL_THREADS
            await asyncio.gather(*(driven.check() for driven in logs))
            assert len(open_segments(tmp_path)) <= FILES_MIN
            assert not any(driven.log.failed for driven in logs)
            appended = [driven.appended for driven in logs]
            if life == 1:
                await asyncio.gather(*(driven.close() for driven in logs))
                host = host.next_life(disk)
            elif life == 0:
                host = await _kill(host, disk)
        await asyncio.gather(*(driven.close() for driven in logs))
        assert open_segments(tmp_path) == []

    run_on_disk(scenario)


async def _kill(host: Host, disk: Disk) -> Host:
    """All is durable and nothing is closed: as after a kill, but for the disk, which goes on."""
    logs, host.open_logs = host.open_logs, []
    for driven in logs:
        for task in list(driven.log._tasks):
            await task
        for segment in driven.segments:
            segment.close()
    return host.next_life(disk)


def test_a_segment_is_not_closed_while_a_write_is_on_its_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path, files_max=FILES_MIN)
        logs = [await host.open(f"t-{i}", partition=i) for i in range(FILES_MIN)]
        for driven in logs:
            await driven.append_durably(b"first")
        host.held.auto = False
        for driven in logs:
            driven.append(b"on its way")
        await until(lambda: len(host.held.held) == FILES_MIN)
        waits = await host.open("waits-0", partition=99)
        waits.append(b"makes its first segment, which is not waited for")
        for _ in range(20):
            await asyncio.sleep(0)
        assert all(driven.active.fd >= 0 for driven in logs)
        host.held.land()
        host.held.auto = True
        for driven in [*logs, waits]:
            await driven.check()
        assert len(open_segments(tmp_path)) <= FILES_MIN

    drive(scenario())


def test_who_needs_a_descriptor_waits_until_a_write_has_landed(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path, files_max=FILES_MIN)
        logs = [await host.open(f"t-{i}", partition=i) for i in range(FILES_MIN + 1)]
        for driven in logs:
            await driven.append_durably(b"first")
        (closed,) = [driven for driven in logs if driven.active.fd < 0]
        busy = [driven for driven in logs if driven is not closed]
        host.held.auto = False
        for driven in busy:
            driven.append(b"on its way")
        await until(lambda: len(host.held.held) == FILES_MIN)
        closed.forget_cache()
        reading = asyncio.ensure_future(closed.log.read(0, 1, 1000))
        for _ in range(20):
            await asyncio.sleep(0)
        assert closed.active.fd < 0
        assert not reading.done()
        host.held.land(host.held.held[0])
        slices, _next_offset = await reading
        assert slices
        closed.append(b"goes on")
        host.held.auto = True
        host.held.land()
        for driven in logs:
            await driven.check()

    drive(scenario())


def test_all_who_wait_for_a_segment_go_on_when_it_is_open(tmp_path: Path) -> None:
    """The first of them opens it, and keeps it: nothing is released that would wake the others."""

    async def scenario() -> None:
        old = await many_segments(tmp_path, FILES_MIN + 2)
        host = old.host.next_life(files_max=FILES_MIN)
        driven = await host.open(appended=old.appended)
        files, segments = host.context.files, driven.segments
        busy = [files.used(segment, segments) for segment in segments[:FILES_MIN]]
        for one in busy:
            await one.__aenter__()
        went_on, leave = [], asyncio.Event()

        async def use(segment: Segment) -> None:
            async with files.used(segment, segments):
                went_on.append(segment)
                await leave.wait()

        wanted = segments[FILES_MIN]
        users = [asyncio.ensure_future(use(wanted)) for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert went_on == []
        await busy.pop().__aexit__(None, None, None)
        await until(lambda: went_on == [wanted] * 3)
        leave.set()
        await asyncio.gather(*users)
        for one in busy:
            await one.__aexit__(None, None, None)
        await driven.check()

    drive(scenario())


def test_a_segment_is_read_that_is_retired_while_it_waits_for_a_descriptor(
    tmp_path: Path,
) -> None:
    """It has no index: only the segment behind it says where it ends."""

    async def scenario() -> None:
        old = await many_segments(tmp_path, FILES_MIN + 4)
        first = old.segments[0].path
        host = old.host.next_life(files_max=FILES_MIN)
        driven = await host.open(appended=old.appended)
        first.with_suffix(INDEX_SUFFIX).unlink()
        files, segments = host.context.files, driven.segments
        busy = [files.used(segment, segments) for segment in segments[2 : FILES_MIN + 2]]
        for one in busy:
            await one.__aenter__()
        reading = asyncio.ensure_future(driven.log.read(0, 1, 1000))
        for _ in range(20):
            await asyncio.sleep(0)
        deleting = asyncio.ensure_future(driven.log.delete_records(segments[2].base_offset))
        await until(lambda: driven.segments[0].path != first)
        for one in busy:
            await one.__aexit__(None, None, None)
        slices, _next_offset = await reading
        assert not slices or bytes(slices[0]) == driven.appended[0].data
        await deleting
        assert driven.log.failed is None
        await driven.check()

    drive(scenario())


def test_a_waiter_that_leaves_passes_its_turn_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        old = await many_segments(tmp_path, FILES_MIN + 3)
        host = old.host.next_life(files_max=FILES_MIN)
        driven = await host.open(appended=old.appended)
        files, segments = host.context.files, driven.segments
        busy = [files.used(segment, segments) for segment in segments[:FILES_MIN]]
        for one in busy:
            await one.__aenter__()
        first, second = (
            asyncio.ensure_future(files.use(segment, segments))
            for segment in segments[FILES_MIN : FILES_MIN + 2]
        )
        for _ in range(20):
            await asyncio.sleep(0)
        await busy.pop().__aexit__(None, None, None)
        first.cancel()
        await asyncio.wait((first, second), timeout=5)
        assert first.cancelled()
        assert second.done()
        for one in busy:
            await one.__aexit__(None, None, None)
        await driven.check()

    drive(scenario())


def test_a_log_that_failed_lets_go_of_its_descriptor(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host(tmp_path)
        driven = await host.open()
        await driven.append_durably(b"first")
        host.held.auto = False
        for _ in range(8):
            driven.append(bytes(3 * BLOCK))
        await until(lambda: len(host.held.held) > 1)
        fails, *others = host.held.held
        host.held.land(*others)
        host.held.land(fails, res=-errno.EIO)
        assert driven.log.failed is not None
        assert driven.active.idle

    drive(scenario())


def test_a_descriptor_whose_close_fails_is_not_counted_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_close = os.close

    def close(fd: int) -> None:
        real_close(fd)
        raise OSError(errno.EIO, "Input/output error")

    async def scenario() -> None:
        host = Host(tmp_path)
        driven = await host.open()
        await driven.append_durably(b"first")
        assert len(host.context.files) == 1
        with monkeypatch.context() as patched:
            patched.setattr(os, "close", close)
            with pytest.raises(OSError, match="Input/output"):
                driven.active.close()
        assert len(host.context.files) == 0
        await driven.check()

    drive(scenario())


def test_a_reader_that_leaves_takes_nobody_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        old = await many_segments(tmp_path, 3)
        host = old.host.next_life()
        driven = await host.open(appended=old.appended)
        readers = [asyncio.ensure_future(driven.log.read(0, 1, 1000)) for _ in range(3)]
        await asyncio.sleep(0)
        readers[0].cancel()
        for reader in readers[1:]:
            slices, _next_offset = await reader
            assert slices
        assert driven.segments[0].pins == 0
        await driven.close()
        assert open_segments(tmp_path) == []

    drive(scenario())


# --- what was closed is looked at again -----------------------------------------------------------


async def with_closed(path: Path) -> Driven:
    """A log whose segments are all closed, the newest one, too."""
    driven = await Host(path, segment_bytes=16 * BLOCK).open()
    for i in range(8):
        await driven.append_durably(b"%d" % i, bytes(3 * BLOCK))
    for task in list(driven.log._tasks):
        await task
    for segment in driven.segments:
        assert segment.idle
        segment.close()
    driven.forget_cache()
    return driven


def test_an_idle_log_goes_on_where_it_was(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await with_closed(tmp_path)
        assert open_segments(tmp_path) == []
        await driven.append_durably(b"goes on")
        await driven.check()
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


def test_an_idle_log_that_rolls_seals_what_was_closed_with_the_index_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To load it would find no index file, and write the one that is being written."""
    loaded: list[str] = []

    async def load_sealed(*facts: Any) -> None:
        loaded.append(facts[3].path.name)
        raise StorageError("not now")

    async def scenario() -> None:
        driven = await with_closed(tmp_path)
        left = driven.active
        monkeypatch.setattr(segment_files, "load_sealed", load_sealed)
        driven.append(bytes(14 * BLOCK))
        await until(lambda: left.sealed)
        slices, _next_offset = await driven.log.read(left.base_offset, left.next_offset, 1000)
        assert slices
        await driven.durable()
        while driven.log._tasks:
            await asyncio.wait(driven.log._tasks)
        assert loaded == []
        assert left.path.with_suffix(".index").exists()
        assert left.path.stat().st_size == left.write_pos
        monkeypatch.undo()
        await driven.check()
        await driven.close()

    drive(scenario())


def test_an_idle_log_is_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await with_closed(tmp_path)
        end_pos = driven.active.write_pos
        await driven.close()
        assert driven.active.path.stat().st_size == end_pos, "it is cut at its end"
        driven = await driven.host.next_life().open(appended=driven.appended)
        await driven.check()
        await driven.close()

    drive(scenario())


def test_an_idle_log_is_deleted(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await with_closed(tmp_path)
        assert await driven.log.delete(tmp_path / "trash") is not None
        assert not driven.log.directory.exists()
        assert open_segments(tmp_path) == []

    drive(scenario())


def test_a_directory_that_was_moved_away_and_made_anew_is_not_touched(tmp_path: Path) -> None:
    """The topic was deleted and made again while this shard had its segments closed: another shard
    has the name now, and holds the lock."""

    async def scenario() -> None:
        driven = await with_closed(tmp_path)
        driven.log.directory.rename(tmp_path / "moved")
        other = Host(tmp_path, life=7)
        new = await other.open()
        await new.append_durably(b"another topic's")
        before = contents(new.log.directory)
        started_s = time.monotonic()
        driven.append(b"too late")
        await until(lambda: driven.log.failed is not None)
        assert isinstance(driven.log.failed, StorageError)
        assert await driven.log.delete(tmp_path / "trash") is None
        assert time.monotonic() - started_s < 2, "the lock is not waited for"
        assert contents(new.log.directory) == before
        await new.check()

    drive(scenario())


@pytest.mark.parametrize("change", ["cut", "longer", "another"])
def test_an_active_segment_that_changed_while_it_was_closed_is_not_written(
    tmp_path: Path, change: str
) -> None:
    async def scenario() -> None:
        driven = await with_closed(tmp_path)
        path = driven.active.path
        if change == "another":
            flip(path, 20)
        else:
            os.truncate(path, path.stat().st_size + (BLOCK if change == "longer" else -BLOCK))
        before = contents(driven.log.directory)
        driven.append(b"not written")
        await until(lambda: driven.log.failed is not None)
        assert contents(driven.log.directory) == before
        await driven.close()
        assert contents(driven.log.directory) == before

    drive(scenario())


def test_a_bad_index_of_a_sealed_segment_is_made_anew_and_nothing_durable_is_cut(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        old = await many_segments(tmp_path, 5)
        second = old.segments[1]
        index = second.path.with_suffix(".index")
        whole = index.read_bytes()
        index.write_bytes(b"")
        host = old.host.next_life()
        driven = await host.open(appended=old.appended)
        await driven.check()
        assert index.read_bytes() == whole
        await driven.close()

        index.write_bytes(b"")
        flip(second.path, second.write_pos - 2 * BLOCK)
        before = second.path.read_bytes()
        driven = await old.host.next_life().open(appended=old.appended)
        with pytest.raises(CorruptRecord, match="is known to have been durable"):
            await driven.log.read(second.base_offset, second.base_offset + 1, 1000)
        assert second.path.read_bytes() == before
        await driven.close()

    drive(scenario())


def test_indexes_in_memory_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        old = await many_segments(tmp_path, 30)
        host = old.host.next_life()
        driven = await host.open(appended=old.appended)
        files = host.context.files
        files._index_bytes_max = 100
        await driven.check()
        indexes = [segment for segment in driven.segments[:-1] if hasattr(segment, "index")]
        assert sum(24 * len(segment.index.positions) for segment in indexes) <= 100
        assert files._index_bytes_sum <= 100
        assert driven.active.fd >= 0
        found = await driven.log.max_timestamp_offset(driven.log.log_end_offset)
        assert found == (1, NOW_MS + 1)
        await driven.close()
        assert files._index_bytes_sum == 0

    drive(scenario())
