"""Seeded runs of the real storage on a simulated disk, and planted bugs that they have to find.

RPK_PY_SEED picks the first seed; it is printed first. `make sim` runs more of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from storage import load_segment
from storage.appender import SegmentAppender
from storage.wal_format import decode_record_header
from tests.sim.storage.kernel import Kernel
from tests.sim.storage.world import Plant, World, simulate

SEED = int(os.environ.get("RPK_PY_SEED", "1"))
RUNS = 400
RUNS_TO_FIND_A_BUG = 1000


def test_storage_keeps_its_promises_through_crashes_and_faults() -> None:
    print(f"RPK_PY_SEED={SEED}")
    counts: Counter[str] = Counter()
    for seed in range(SEED, SEED + RUNS):
        try:
            counts.update(simulate(seed).machine.counts)
        except AssertionError as error:
            raise AssertionError(f"RPK_PY_SEED={seed}: {error!r}") from error
    assert counts["crashes"] > RUNS
    assert counts["writes under way at a power cut"] > RUNS // 4
    assert counts["writes that landed after their process"] > RUNS // 8
    assert counts["rotten bytes"] > RUNS // 4
    assert counts["reads checked"] > 20 * RUNS
    assert counts["clean stops"] > RUNS


def test_a_seed_gives_the_same_run_every_time() -> None:
    print(f"RPK_PY_SEED={SEED}")
    assert simulate(SEED).machine.trace.digest == simulate(SEED).machine.trace.digest
    command = [sys.executable, "-m", "tests.sim.storage", "--seed", str(SEED)]
    outputs = set()
    for salt in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": salt}
        done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
        outputs.add(done.stdout.decode())
    assert len(outputs) == 1
    assert simulate(SEED).machine.trace.digest in outputs.pop()


# --- planted bugs ---------------------------------------------------------------------------------


class Agreeable(int):
    """A checksum that is equal to every other."""

    def __ne__(self, _other: object) -> bool:
        return False


Patch = pytest.MonkeyPatch


def _nothing(*_args: Any) -> None:
    """What should be done is not."""


def _lies(_patch: Patch) -> Plant:
    def plant(world: World) -> None:
        world.machine.lies = True

    return plant


def _any_incarnation(patch: Patch) -> None:
    def decode(buf: memoryview, segment: Any, pos: int) -> Any:
        incarnation = int.from_bytes(bytes(buf[24:32]), "big")
        return decode_record_header(buf, segment._replace(incarnation=incarnation), pos)

    patch.setattr("storage.recovery.decode_record_header", decode)
    patch.setattr("storage.cold_reader.decode_record_header", decode)


def _no_chain(patch: Patch) -> None:
    def decode(buf: memoryview, segment: Any, pos: int) -> Any:
        header = decode_record_header(buf, segment, pos)
        return header and header._replace(prev_header_crc=Agreeable(header.prev_header_crc))

    patch.setattr("storage.recovery.decode_record_header", decode)
    scan_file = load_segment.scan_file

    async def scan(disk: Any, progress: Any, found: Any, *rest: Any) -> Any:
        next_offset = found.next_offset
        result = await scan_file(disk, progress, found, *rest)
        if next_offset > found.base_offset:
            found.next_offset = next_offset
        return result

    patch.setattr(load_segment, "scan_file", scan)
    patch.setattr(load_segment, "check_end", _nothing)
    patch.setattr(load_segment, "_known_end", lambda _segment: 0)


def _no_directory_syncs(patch: Patch) -> None:
    modules = ("disk", "segment", "journal", "log_start", "recycle", "open_log", "small_files")
    for module in (*modules, "replacement", "compaction"):
        patch.setattr(f"storage.{module}.fsync_dir", _nothing)


def _writes_again(patch: Patch) -> None:
    written = SegmentAppender._written

    def again(self: SegmentAppender, record: Any, total: int, res: int) -> None:
        if res == total or self.failed is not None or self.segment is None:
            written(self, record, total, res)
            return
        done = partial(again, self, record, total)
        self._committer.disk.write(self.segment.fd, record.view[:total], record.pos, done)
        self._committer.disk.submit()

    patch.setattr(SegmentAppender, "_written", again)


def _syncs_again(patch: Patch) -> None:
    fsync = Kernel.fsync

    def again(self: Kernel, fd: int) -> None:
        try:
            fsync(self, fd)
        except OSError:
            fsync(self, fd)

    patch.setattr(Kernel, "fsync", again)


def _no_replay(_patch: Patch) -> Plant:
    def plant(world: World) -> None:
        world.replays_journal = False

    return plant


def _patches(*names: str, stand_in: Callable[..., Any] = _nothing) -> Callable[[Patch], None]:
    def patch_all(patch: Patch) -> None:
        for name in names:
            patch.setattr(name, stand_in)

    return patch_all


# What each breaks, and how it is planted.
BUGS: dict[str, Callable[[Patch], Plant | None]] = {
    "acknowledged before it is synced": _lies,
    "a record of any incarnation": _any_incarnation,
    "a chain that nobody follows": _no_chain,
    "directories that are not synced": _no_directory_syncs,
    "a failed write that is tried again": _writes_again,
    "a failed sync that is tried again": _syncs_again,
    "a journal that is not replayed": _no_replay,
    "locks that are not taken": _patches(
        "storage.segment.lock_exclusive", "storage.journal.lock_exclusive"
    ),
    "checksums of bodies that are not checked": _patches(
        "storage.recovery.body_crc_holds",
        "storage.cold_reader.body_crc_holds",
        stand_in=lambda *_args: True,
    ),
    "names that a start believes": _patches(
        "storage.open_log.sync_names", "storage.open_many.sync_names"
    ),
    "a tail that is not cut": _patches("storage.load_segment.cut"),
    "log starts that are not written": _patches("storage.log_head.move_start"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"RPK_PY_SEED={SEED}")
    plant = BUGS[bug](monkeypatch)
    for seed in range(SEED, SEED + RUNS_TO_FIND_A_BUG):
        try:
            simulate(seed, plant)
        except AssertionError as error:
            print(f"found with {seed}: {error!r}")
            return
    pytest.fail(f"{RUNS_TO_FIND_A_BUG} seeds have not found it")
