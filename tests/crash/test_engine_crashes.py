"""Short forms of what `make crash` does in full; tests/crash/__main__.py says what these are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash import failing, points, power, rot
from tests.crash.cut_disk import CutDisk, CutDiskUnavailable
from tests.crash.engine import Shared
from tests.crash.fuse_disk import Fault, FuseUnavailable, PassThrough

Note = Callable[[str], None]


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: a kill and a flipped bit need no disk."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="crash.") as folder:
        yield Path(folder)


def disk_of(folder: Path, kind: str) -> CutDisk:
    try:
        return CutDisk(folder, kind)
    except CutDiskUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("kind", "cycles"), [("ext4", 40), ("xfs", 20)])
def test_power_cuts_of_the_engine_lose_nothing(
    tmp_path: Path, seed: int, note: Note, kind: str, cycles: int
) -> None:
    disk = disk_of(tmp_path, kind)
    try:
        result = power.run(disk, seed, cycles)
    finally:
        disk.close()
    note(f"{kind}: {result}")
    assert result.lost is None
    assert result.cycles == cycles
    assert result.records > cycles


def test_what_is_acknowledged_after_the_power_went_counts_for_nothing() -> None:
    shared = Shared()
    shared.put(1, 5, 9, 2, 2)
    shared.hold_to_this()
    shared.put(1, 7, 12, 3, 4)  # acknowledged up to 7, deleted up to 3, 4 is asked for
    assert shared.promised(1) == (5, 2)
    assert shared.get(1) == (7, 12, 3, 4)
    shared.forget_promises()
    assert shared.promised(1) == (7, 3)


def test_an_engine_that_does_not_sync_loses_something_within_twenty_cuts(
    tmp_path: Path, note: Note
) -> None:
    disk = disk_of(tmp_path, "ext4")
    try:
        results = []
        for seed in range(1, 4):  # moments are not repeatable: three tries
            results.append(power.run(disk, seed, 20, lying=True))
            if results[-1].lost is not None:
                break
    finally:
        disk.close()
    note(f"without a sync: lost in cycle {results[-1].cycles}")
    assert results[-1].lost is not None


@pytest.mark.skipif(shutil.which("strace") is None, reason="crash points need strace")
def test_a_kill_at_system_calls_loses_nothing(in_memory: Path, note: Note) -> None:
    result = points.run(in_memory, seed=7, step=70, first=5)
    note(f"crash points: {result}")
    assert result.lost is None
    assert result.points >= 15
    assert result.control is not None, "acknowledging early is not found out"


def test_a_sync_that_fails_drops_what_was_written_since_the_last_one(tmp_path: Path) -> None:
    fault = Fault("fsync", 2, "EIO")
    below = PassThrough(str(tmp_path), fault, lambda code: OSError(code, "refused"))
    fh = below.create("/a", 0o644)
    below.write("/a", b"synced", 0, fh)
    below.fsync("/a", 0, fh)
    below.write("/a", b"lost", 2, fh)
    below.write("/a", b" and longer", 6, fh)
    with pytest.raises(OSError, match="refused"):
        below.fsync("/a", 0, fh)
    below.fsync("/a", 0, fh)
    below.release("/a", fh)
    assert (tmp_path / "a").read_bytes() == b"synced"


def test_a_disk_that_fails_takes_nothing_with_it(tmp_path: Path, note: Note) -> None:
    kinds = (("write", "EIO"), ("write", "ENOSPC"), ("write", "short"), ("fsync", "EIO"))
    try:
        result = failing.run(tmp_path, seed=7, step=90, kinds=(*kinds, ("fallocate", "ENOSPC")))
    except FuseUnavailable as error:
        pytest.skip(str(error))
    note(f"failing disk: {result}")
    assert result.lost is None
    assert len(result.faults) == 5
    assert result.offline > 0, "a fault takes a partition offline"
    assert result.served > 0, "and others go on"
    assert result.control is not None, "acknowledging early is not found out"


def test_flipped_bits_are_told_or_harmless(in_memory: Path, note: Note) -> None:
    result = rot.run(in_memory, seed=7, step=150)
    note(f"bit rot: {result}")
    assert result.lost is None
    assert set(result.flips) == {"wal", "index", "checkpoint", "start", "journal"}
    assert result.told > 300
    assert result.control is not None, "a reader that checks nothing is not found out"
