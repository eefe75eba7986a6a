"""Levels of a disk that fills up, and the reserve. The tests of logs are in test_full_disk.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from storage.recycle import RETIRED_BYTES_MIN, SegmentPool
from storage.space import (
    WAY_UP,
    Level,
    Limits,
    Reserve,
    Usage,
    bytes_until_ok,
    judge,
    read_usage,
    release_all,
)

MIB, GIB = 1 << 20, 1 << 30
LIMITS = Limits(100 * MIB, 1 * GIB, 2.0)


def test_the_way_up_is_longer_than_the_way_down() -> None:
    total, level, seen = 50 * GIB, Level.OK, []
    free_mib = (50_000, 1025, 1024, 1100, 1281, 1024, 101, 100, 125, 126, 1281)
    for free in free_mib:
        level = judge(level, Usage(free * MIB, total), LIMITS)
        seen.append(level.name)
    ok, low, full = (one.name for one in Level)
    assert seen == [ok, ok, low, low, ok, low, low, full, full, low, ok]


@pytest.mark.parametrize(
    ("limits", "total", "full", "low"),
    [
        (LIMITS, 1000 * GIB, 100 * MIB, 20 * GIB),  # the share is more
        (LIMITS, 10 * GIB, 100 * MIB, 1 * GIB),
        (LIMITS, 1000 * MIB, 50 * MIB, 1 * GIB),  # the hard limit is at most 5%
        (Limits(100 * MIB, 0, 0.0), 100 * GIB, 100 * MIB, 200 * MIB),
        (Limits(0, 0, 0.0), 100 * GIB, 0, 0),  # only a disk without any room is full
    ],
)
def test_limits_fit_the_file_system(limits: Limits, total: int, full: int, low: int) -> None:
    for level, bound in ((Level.FULL, full), (Level.LOW, low)):
        assert judge(Level.OK, Usage(bound, total), limits) >= level
        assert judge(Level.OK, Usage(bound + 1, total), limits) < level
    missing = bytes_until_ok(Usage(0, total), limits)
    assert missing == int(low * WAY_UP) + 1
    assert judge(Level.FULL, Usage(missing, total), limits) is Level.OK
    assert bytes_until_ok(Usage(missing, total), limits) == 0


def test_the_reserve_takes_space_and_gives_it_back(tmp_path: Path) -> None:
    usage = read_usage(tmp_path)
    assert 0 < usage.free_bytes <= usage.total_bytes
    reserve = Reserve(tmp_path / "1.reserve", 8 * MIB, shards=2)
    claimed = Usage(GIB, 100 * GIB)
    assert reserve.without(claimed).free_bytes == GIB - 8 * MIB
    reserve.claim(claimed)
    assert reserve.held_bytes == 4 * MIB
    assert (tmp_path / "1.reserve").stat().st_blocks * 512 >= 4 * MIB
    assert reserve.without(claimed) == claimed
    reserve.claim(claimed)  # once is enough
    reserve.release()
    assert not (tmp_path / "1.reserve").exists()
    assert reserve.without(Usage(MIB, 100 * GIB)).free_bytes == 0
    reserve.claim(Usage(GIB, 200 * MIB))
    assert reserve.held_bytes == MIB, "a hundredth of a small disk, of all shards"


def test_a_reserve_is_written_where_space_cannot_be_taken_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sparse(fd: int, _pos: int, size: int) -> None:
        os.ftruncate(fd, size)

    monkeypatch.setattr("storage.space.allocate", sparse)
    Reserve(tmp_path / "1.reserve", 3 * MIB + 5, shards=1).claim(Usage(GIB, 100 * GIB))
    status = (tmp_path / "1.reserve").stat()
    assert status.st_size == 3 * MIB + 5
    assert status.st_blocks * 512 >= 3 * MIB


def test_a_reserve_that_finds_no_room_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, _pos: int, size: int) -> None:
        os.ftruncate(fd, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reserve = Reserve(tmp_path / "1.reserve", MIB, shards=1)
    with monkeypatch.context() as patched:
        patched.setattr("storage.space.allocate", full)
        with pytest.raises(OSError, match="No space left"):
            reserve.claim(Usage(0, 100 * GIB))
    assert reserve.held_bytes == 0
    assert (tmp_path / "1.reserve").stat().st_blocks == 0
    reserve.claim(Usage(GIB, 100 * GIB))
    assert reserve.held_bytes == MIB


def test_a_start_gives_back_what_was_reserved_before(tmp_path: Path) -> None:
    for name in ("0.reserve", "7.reserve", "other"):
        (tmp_path / name).write_bytes(b"x")
    release_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_no_file_is_kept_for_reuse_while_there_is_little_room(tmp_path: Path) -> None:
    pool = SegmentPool(tmp_path / "recycle", GIB)
    pool.load()

    def retire(name: str) -> None:
        (tmp_path / name).write_bytes(bytes(RETIRED_BYTES_MIN))
        pool.retire(tmp_path / name)

    retire("first")
    retire("second")
    pool.keep(False)
    retire("third")
    assert list((tmp_path / "recycle").iterdir()) == []
    assert pool.take(GIB) is None
    pool.keep(True)
    retire("fourth")
    assert pool.take(GIB) is not None
