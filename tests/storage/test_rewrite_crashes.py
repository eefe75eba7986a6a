"""A rewriting of segments that is cut short anywhere leaves the old ones or the new one."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage import replacement
from storage.errors import CorruptRecord
from storage.replacement import put_in_place
from storage.segment import SEGMENT_SUFFIX
from tests.storage.builder import BLOCK, Host, drive
from tests.storage.test_crash_model import DirectoryCut, keep_what_survived, tick
from tests.storage.test_rewrite import padded

KILLED_IN = (
    "pwritev", "pwrite", "fsync", "rename", "ftruncate", "unlink", "link", "preadv", "open",
    "write",
)  # fmt: skip


def kill_after(patched: pytest.MonkeyPatch, host: Host, calls_left: int) -> None:
    """The process dies when it has made so many of these calls."""

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls_left
            calls_left -= 1
            if calls_left < 0:
                host.held.dead = True
                raise OSError("killed here")
            return real(*args, **kwargs)

        return call

    for name in KILLED_IN:
        patched.setattr(os, name, counted(name, getattr(os, name)))


@pytest.mark.parametrize("count", [1, 3], ids=["one segment", "three segments"])
def test_a_log_killed_between_any_two_calls_of_a_rewriting_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Writing, swapping and giving up are cut short after each of their calls in turn."""
    seen: set[str] = set()

    async def one_death(path: Path, calls_left: int) -> bool:
        """Whether it came to its end before `calls_left` calls were made."""
        driven = await padded(path)
        disk, base = driven.host.held, driven.segments[0].base_offset
        with monkeypatch.context() as patched:
            kill_after(patched, driven.host, calls_left)
            olds = driven.segments[:count]
            end = olds[-1].next_offset
            await driven.log.rewriter.rewrite_dense(olds)
            await tick(30)
        was_killed, appended = disk.dead, driven.appended
        await driven.host.crash()
        host = driven.host.next_life()
        for _ in range(2):
            driven = await host.open(appended=appended)
            first = driven.segments[0]
            assert first.base_offset == base
            await host.context.files.load(first, driven.segments)
            seen.add("old" if first.header.replaced is None else "new")
            assert (first.next_offset == end) or first.header.replaced is None
            await driven.check()
            await driven.append_durably(b"goes on")
            await driven.log.delete_records(base + 1)
            names = set(os.listdir(driven.log.directory))
            assert {s.path.name for s in driven.segments} == {
                name for name in names if name.endswith(SEGMENT_SUFFIX)
            }
            assert not [name for name in names if name.endswith(".tmp")]
            appended = driven.appended
            await host.crash()
            host = host.next_life()
        return not was_killed

    for calls in itertools.count():
        path = tmp_path / str(calls)
        path.mkdir()
        if drive(one_death(path, calls)):
            break
        assert calls < 300
    assert calls > 15
    assert seen == {"old", "new"}


class SwapCut(DirectoryCut):
    """The same for replacing: renames within the directory, over a name that is taken too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, attic: Path) -> None:
        super().__init__(monkeypatch, directory, attic)
        self._overwritten: dict[str, Path] = {}
        monkeypatch.setattr(replacement, "fsync_dir", self.fsync_dir)
        monkeypatch.setattr("storage.disk.fsync_dir", self.fsync_dir)

    def rename(self, source: Any, target: Any) -> None:
        if self._is_ours(target) and os.path.exists(target):
            kept = self._attic / f"over-{next(self._kept)}"
            os.link(target, kept)
            self._overwritten.setdefault(Path(target).name, kept)
        super().rename(source, target)

    def fsync_dir(self, path: Any) -> None:
        super().fsync_dir(path)
        if Path(path) == self._directory:
            self._overwritten.clear()

    def cut(self, rng: random.Random) -> None:
        super().cut(rng)
        for name, kept in self._overwritten.items():
            if rng.getrandbits(1):
                self._unlink(self._directory / name)
                os.link(kept, self._directory / name)


async def rewritings_and_a_power_cut(
    path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    host = Host(path, segment_bytes=20 * BLOCK, checkpoint_bytes=8 * BLOCK)
    host.pool.load()
    driven = await host.open()
    with monkeypatch.context() as patched:
        cut = SwapCut(patched, driven.log.directory, path / "attic")
        for i in range(110):
            await driven.append_durably(b"%d" % i * 90)
        await tick(20)
        for _ in range(rng.randint(1, 5)):
            if rng.random() < 0.4:
                end = driven.log.durable_offset
                await driven.log.delete_records(rng.randint(driven.log.log_start_offset, end))
            sealed = driven.log.rewriter.sealed()
            if sealed:
                i = rng.randrange(len(sealed))
                await driven.log.rewriter.rewrite_dense(sealed[i : i + rng.randint(1, 4)])
            await tick(rng.choice([0, 3, 30]))
            for _ in range(rng.randint(0, 12)):
                await driven.append_durably(b"more" * 300)
        start, appended = driven.log.log_start_offset, driven.appended
        if sealed := driven.log.rewriter.sealed():
            with pytest.MonkeyPatch.context() as killed:
                kill_after(killed, host, rng.randrange(8, 32))
                await driven.log.rewriter.rewrite_dense(sealed[-rng.randint(1, 4) :])
                await tick(30)
        await host.crash(rng)
        cut.cut(rng)
    host = host.next_life()
    host.pool.load()
    for _ in range(2):
        driven = await host.open(appended=appended)
        assert driven.log.log_start_offset == start
        keep_what_survived(driven)
        await driven.append_durably(b"goes on")
        await driven.check()
        sealed = driven.log.rewriter.sealed()
        await driven.log.rewriter.rewrite_dense(sealed[:2]) if sealed else None
        await driven.check()
        appended = driven.appended
        await host.crash()
        host = host.next_life()


@pytest.mark.parametrize("seed", range(20))
def test_a_power_cut_leaves_the_old_or_the_new_segment(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(rewritings_and_a_power_cut(tmp_path, seed, monkeypatch))


@pytest.mark.parametrize("synced", [True, False], ids=["synced", "negative control"])
def test_a_power_cut_right_behind_a_swap_needs_its_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: bool
) -> None:
    async def one_cut(path: Path, seed: int) -> None:
        driven = await padded(path)
        with pytest.MonkeyPatch.context() as patched:
            cut = SwapCut(patched, driven.log.directory, path / "attic")
            if not synced:
                patched.setattr(replacement, "fsync_dir", lambda _path: None)

            def swap_and_die(*args: Any) -> None:
                put_in_place(*args)
                raise OSError("killed here")

            patched.setattr("storage.rewrite.put_in_place", swap_and_die)
            assert not await driven.log.rewriter.rewrite_dense(driven.segments[:3])
            await driven.host.crash()
            cut.cut(random.Random(seed))
        host = driven.host.next_life()
        host.pool.load()
        await (await host.open(appended=driven.appended)).check()

    caught = 0
    for seed in range(12):
        (tmp_path / str(seed)).mkdir()
        try:
            drive(one_cut(tmp_path / str(seed), seed))
        except CorruptRecord:
            caught += 1
    assert (caught == 0) == synced
