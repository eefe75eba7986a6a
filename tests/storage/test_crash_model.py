"""Random lives and deaths of a log against a model: what was acknowledged survives any crash.

A life appends, deletes records, lets writes land in any order, and dies with writes in flight of
which any sectors may be on the disk. The next life must hold everything that was acknowledged and
not deleted, and nothing but a beginning of what was appended; its log start is the acknowledged one
or one that was asked for. See the fault model in builder.py. A failing seed reproduces it.

DirectoryCut is the fault model of names: a power cut may undo any of the creations, renames and
removals in a directory since it was last synced.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage import log_start
from storage.errors import StorageError
from storage.recycle import RETIRED_BYTES_MIN, empty_directory
from tests.storage.builder import (
    BLOCK,
    NOW_MS,
    OTHER_TOPIC_ID,
    Driven,
    HeldDisk,
    Host,
    batch_of_size,
    drive,
)

LIVES = 5
SEEDS = 24


async def tick(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


class LyingDisk(HeldDisk):
    """Answers before it has written: the negative control."""

    def submit(self) -> None:
        super().submit()
        for write in list(self.held):
            asyncio.get_running_loop().call_soon(write.done, len(write.view))
            write.done = lambda _res: None


async def live(driven: Driven, rng: random.Random) -> None:
    """Append and land at random."""
    disk, epoch = driven.host.held, (driven.log.epochs[-1][0] if driven.log.epochs else 0) + 1
    for _ in range(rng.randint(1, 25)):
        what = rng.random()
        if what < 0.55:
            for _ in range(rng.choice([1, 1, 2, 12])):
                size = rng.choice([80, 300, BLOCK - 70, BLOCK, 3 * BLOCK, 9 * BLOCK])
                driven.append_batch(batch_of_size(size), epoch)
        elif what < 0.6:
            epoch += 1
        elif what < 0.66:
            start = rng.randint(driven.log.log_start_offset, driven.log.durable_offset)
            await driven.log.delete_records(start)
        elif what < 0.72:
            await expire(driven, rng)
        elif disk.held:
            some = rng.sample(disk.held, rng.randint(1, len(disk.held)))
            disk.land(*some)
        await tick(rng.choice([0, 1, 4]))


async def expire(driven: Driven, rng: random.Random) -> None:
    """Retention by size, or by time, which may leave nothing; what is not durable stays."""
    now_ms, config = rng.choice([(NOW_MS, 0), (NOW_MS, 20 * BLOCK), (NOW_MS << 1, -1)])
    driven.log.configure(replace(driven.log.config, retention_bytes=config))
    before = driven.log.log_start_offset
    work = asyncio.create_task(driven.log.enforce_retention(now_ms))
    while not work.done():  # it may have what has expired written first
        await tick(1)
        driven.host.held.land()
    deleted = await work
    assert deleted or driven.log.log_start_offset == before
    assert driven.log.log_start_offset <= driven.log.durable_offset


def keep_what_survived(driven: Driven) -> None:
    """The model loses what the log lost; what it has must be a beginning."""
    end = driven.log.log_end_offset
    driven.appended = [stored for stored in driven.appended if stored.next_offset <= end]
    assert (driven.appended[-1].next_offset if driven.appended else 0) == end


async def lives_and_deaths(
    path: Path, seed: int, make_disk: Callable[[], HeldDisk], **config: Any
) -> None:
    rng = random.Random(seed)
    settings = {
        "segment_bytes": rng.choice([12, 30, 1000]) * BLOCK,
        "checkpoint_bytes": rng.choice([6, 40]) * BLOCK,
        "cache_bytes": rng.choice([0, 8, 1000]) * BLOCK,
    }
    host = Host(path, make_disk(), **(settings | config))
    host.pool.load()
    driven = await host.open()
    for _ in range(LIVES):
        await live(driven, rng)
        acknowledged = driven.log.durable_offset
        start = driven.log.log_start_offset
        appended = driven.appended
        await host.crash(rng)
        host = host.next_life(make_disk())
        host.pool.load()
        driven = await host.open(appended=appended)
        assert driven.log.log_end_offset >= acknowledged, f"seed {seed}: an acknowledged one lost"
        assert driven.log.log_start_offset == start, f"seed {seed}: the log start moved"
        keep_what_survived(driven)
        await driven.check()
    host.held.auto = True
    await driven.append_durably(b"the end")
    await driven.check()
    await driven.close()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_was_acknowledged_survives_any_crash(tmp_path: Path, seed: int) -> None:
    drive(lives_and_deaths(tmp_path, seed, lambda: HeldDisk(auto=False)))


def assert_lies_are_caught(
    tmp_path: Path,
    live_and_die: Callable[[Path, int, Callable[[], HeldDisk]], Coroutine[Any, Any, Any]],
) -> None:
    """On a LyingDisk no seed gets through."""
    for seed in range(8):
        path = tmp_path / str(seed)
        path.mkdir()
        # Lost, or recovery calls it damage, or the file went before the write landed.
        with pytest.raises((AssertionError, StorageError, OSError)):
            drive(live_and_die(path, seed, lambda: LyingDisk(auto=False)))


def test_the_model_catches_a_disk_that_acknowledges_before_it_has_written(tmp_path: Path) -> None:
    assert_lies_are_caught(tmp_path, lives_and_deaths)


# --- names that a power cut forgets ---------------------------------------------------------------


class DirectoryCut:
    """Undoes any of the changes of names in `directory` that were not synced; see the module.

    A removed file is kept by a link of its own, so that it can come back: with what is in it by
    then, as a file does that was renamed away and written by another log.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, attic: Path) -> None:
        self._directory = directory
        self._attic = attic
        attic.mkdir()
        self._created: set[str] = set()
        self._removed: dict[str, Path] = {}
        self._kept = itertools.count()
        self._open, self._unlink, self._rename = os.open, os.unlink, os.rename
        self._fsync_dir = log_start.fsync_dir
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "unlink", self.unlink)
        monkeypatch.setattr(os, "rename", self.rename)
        monkeypatch.setattr(log_start, "fsync_dir", self.fsync_dir)

    def open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT and self._is_ours(path) and not os.path.exists(path):
            self._created.add(Path(path).name)
        return self._open(path, flags, *args, **kwargs)

    def unlink(self, path: Any, **kwargs: Any) -> None:
        if self._is_ours(path) and os.path.exists(path):
            self._keep(Path(path))
        self._unlink(path, **kwargs)

    def rename(self, source: Any, target: Any) -> None:
        if self._is_ours(source) and not self._is_ours(target):
            self._keep(Path(source))
        self._rename(source, target)

    def fsync_dir(self, path: Any) -> None:
        self._fsync_dir(path)
        if Path(path) == self._directory:
            self._created.clear()
            self._removed.clear()

    def cut(self, rng: random.Random) -> None:
        """The power goes: each change that was not synced is undone or not."""
        for name in sorted(self._created):
            if rng.getrandbits(1) and (self._directory / name).exists():
                self._unlink(self._directory / name)
        for name, kept in sorted(self._removed.items()):
            if rng.getrandbits(1) and not (self._directory / name).exists():
                os.link(kept, self._directory / name)

    def _is_ours(self, path: Any) -> bool:
        return Path(path).parent == self._directory and Path(path).suffix != ".tmp"

    def _keep(self, path: Path) -> None:
        kept = self._attic / str(next(self._kept))
        os.link(path, kept)
        self._removed[path.name] = kept


async def deletions_and_a_power_cut(path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Delete records, some of which segments other logs use again, and cut the power. Returns the
    log start that was acknowledged last."""
    rng = random.Random(seed)
    host = Host(path, segment_bytes=20 * BLOCK, checkpoint_bytes=8 * BLOCK)
    host.pool.load()
    driven = await host.open()
    with monkeypatch.context() as patched:
        cut = DirectoryCut(patched, driven.log.directory, path / "attic")
        for i in range(70):
            await driven.append_durably(b"%d" % i * 900)
        other = await host.open("other-0", topic_id=OTHER_TOPIC_ID)
        for _ in range(rng.randint(1, 4)):
            end = driven.log.durable_offset
            await driven.log.delete_records(rng.randint(driven.log.log_start_offset, end))
            await tick(rng.choice([0, 3, 30]))
            for _ in range(rng.randint(0, 30)):
                await other.append_durably(b"elsewhere" * 300)
        await tick(30)
        start, appended = driven.log.log_start_offset, driven.appended
        await host.crash(rng)
        cut.cut(rng)
    host = host.next_life()
    for _ in range(2):
        driven = await host.open(appended=appended)
        assert driven.log.log_start_offset == start
        await driven.append_durably(b"goes on")
        await driven.check()
        appended = driven.appended
        await host.crash()
        host = host.next_life()
    return start


@pytest.mark.parametrize("seed", range(12))
def test_a_power_cut_undoes_no_acknowledged_deletion_and_damages_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(deletions_and_a_power_cut(tmp_path, seed, monkeypatch))


def test_the_model_catches_a_log_start_that_is_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_sync(directory: Path, start_offset: int) -> None:
        path = directory / log_start.start_name(start_offset)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))

    monkeypatch.setattr("storage.log_head.move_start", without_sync)
    caught = 0
    for seed in range(8):
        (tmp_path / str(seed)).mkdir()
        try:
            drive(deletions_and_a_power_cut(tmp_path / str(seed), seed, monkeypatch))
        except (AssertionError, StorageError):  # the old start is back, or its segments are missed
            caught += 1
    assert caught >= 4


# --- killed between two system calls --------------------------------------------------------------

KILLED_IN = ("pwrite", "fsync", "rename", "ftruncate", "unlink", "mkdir")


async def filled_pool(host: Host, count: int) -> None:
    """Retired segments of another topic in the pool, full of its records."""
    other = await host.open("old-0", topic_id=OTHER_TOPIC_ID)
    while len(other.segments) <= count:
        await other.append_durably(b"of a former life" * 200)
    discarded = await other.log.delete(host.path / "trash")
    assert discarded is not None
    empty_directory(discarded, host.pool)
    host.open_logs.remove(other)


async def trim(driven: Driven, expiring: bool) -> set[int]:
    """Delete some records, or all that there are by retention. Returns where the log may start
    then: if that was cut short, where it did, or on the way."""
    log, end = driven.log, driven.log.durable_offset
    on_the_way = {log.log_start_offset, driven.active.base_offset, end - 2, end}
    with contextlib.suppress(StorageError):
        if expiring:
            await log.enforce_retention(NOW_MS << 1)
            assert log.log_start_offset == end or driven.host.held.dead
        else:
            await log.delete_records(end - 2)
        return {log.log_start_offset}
    return on_the_way


@pytest.mark.parametrize("recycling", [False, True], ids=["new files", "recycled files"])
@pytest.mark.parametrize("expiring", [False, True], ids=["delete records", "expire all"])
def test_a_log_killed_between_any_two_system_calls_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recycling: bool, expiring: bool
) -> None:
    """Roll, seal and checkpoint are cut short after each of their calls in turn."""
    real = {name: getattr(os, name) for name in KILLED_IN}

    async def one_death(path: Path, calls_left: int) -> bool:
        """Whether the life ended before `calls_left` calls were made."""
        host = Host(path, segment_bytes=20 * BLOCK, checkpoint_bytes=5 * BLOCK)
        host.pool.load()
        if recycling:
            await filled_pool(host, 3)
        driven = await host.open()
        disk = host.held
        starts = {0}  # where the log may start

        def counted(name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls_left
                calls_left -= 1
                if calls_left < 0:
                    disk.dead = True
                    raise OSError("killed here")
                return real[name](*args, **kwargs)

            return call

        for name in KILLED_IN:
            monkeypatch.setattr(os, name, counted(name))
        for i in range(24):
            if disk.dead:
                break
            driven.append(b"%d" % i * 300)
            await tick(30)
            if i % 5 == 4 and not disk.dead:
                starts = await trim(driven, expiring)
        for name in KILLED_IN:
            monkeypatch.setattr(os, name, real[name])
        was_killed, acknowledged = disk.dead, driven.log.durable_offset
        assert was_killed or host.pool.reused_count or (expiring and not recycling)
        appended = driven.appended
        await host.crash()
        host = host.next_life()
        host.pool.load()
        for _ in range(2):
            driven = await host.open(appended=appended)
            assert driven.log.log_end_offset >= acknowledged
            assert driven.log.log_start_offset in starts
            keep_what_survived(driven)
            await driven.check()
            await driven.append_durably(b"goes on")
            await driven.check()
            appended = driven.appended
            await host.crash()
            host = host.next_life()
        return not was_killed

    for calls in itertools.count():
        path = tmp_path / str(calls)
        path.mkdir()
        if drive(one_death(path, calls)):
            break
        assert calls < 200
    assert calls > 20


@pytest.mark.parametrize("cut_short", ["before", "header", "record"])
def test_records_of_a_recycled_files_former_life_never_reappear(
    tmp_path: Path, cut_short: str
) -> None:
    async def scenario() -> None:
        host = Host(tmp_path, segment_bytes=40 * BLOCK)
        host.pool.load()
        await filled_pool(host, 4)
        # The same topic in the same partition: only the incarnation tells the lives apart.
        driven = await host.open()
        while len(driven.segments) < 4:
            await driven.append_durably(b"x" * 3000)
        assert host.pool.reused_count >= 3
        assert driven.active.path.stat().st_size > RETIRED_BYTES_MIN
        await driven.check()
        if cut_short != "before":
            host.held.auto = False
            while len(driven.segments) < 5:
                driven.append(b"y" * 3000)
                await tick(10)
                if not host.held.held:
                    continue
                if cut_short == "record" or len(driven.segments) < 5:
                    host.held.land()
        appended, acknowledged = driven.appended, driven.log.durable_offset
        await host.crash()
        host = host.next_life()
        for _ in range(3):
            driven = await host.open(appended=appended)
            assert driven.log.log_end_offset >= acknowledged
            keep_what_survived(driven)
            await driven.check()
            for _ in range(5):
                await driven.append_durably(b"z" * 100)
            await driven.check()
            appended = driven.appended
            await host.crash()
            host = host.next_life()

    drive(scenario())


def test_a_file_is_used_again_by_its_own_partition(tmp_path: Path) -> None:
    """Same topic, same partition, same positions, same offsets: a life that is over."""

    async def scenario() -> None:
        host = Host(tmp_path, segment_bytes=40 * BLOCK)
        host.pool.load()
        for life in range(4):
            driven = await host.open()
            assert driven.log.log_end_offset == 0
            for i in range(3 + (3 - life) * 10):  # each life shorter than the one before
                await driven.append_durably(b"life %d" % life * 200, b"%d" % i)
            await driven.check()
            await host.crash()
            host = host.next_life()
            host.pool.load()
            driven = await host.open(appended=driven.appended)
            await driven.check()
            discarded = await driven.log.delete(tmp_path / "trash")
            assert discarded is not None
            empty_directory(discarded, host.pool)
            host.open_logs.clear()

    drive(scenario())
