"""The pool of retired segments: its limits, and what it adopts of an earlier run."""

from __future__ import annotations

from pathlib import Path

from storage.recycle import RETIRED_BYTES_MIN, SegmentPool
from storage.segment import ALLOCATE_BYTES_MIN
from tests.storage.builder import BLOCK, Host, drive


def retired(pool: SegmentPool, path: Path, size: int) -> None:
    path.write_bytes(bytes([size % 251]) * size)
    pool.retire(path)
    assert not path.exists()


def pool_below(path: Path, bytes_max: int) -> SegmentPool:
    pool = SegmentPool(path / "recycle", bytes_max)
    pool.load()
    return pool


def test_a_retired_file_is_taken_once_oldest_first(tmp_path: Path) -> None:
    pool = pool_below(tmp_path, 1 << 20)
    for i in range(3):
        retired(pool, tmp_path / f"{i}.wal", RETIRED_BYTES_MIN + i)
    sizes = []
    while (path := pool.take(1 << 20)) is not None:
        sizes.append(path.stat().st_size - RETIRED_BYTES_MIN)
        path.unlink()
    assert sizes == [0, 1, 2]
    assert pool.reused_count == 3


def test_only_a_file_that_is_not_too_large_is_taken(tmp_path: Path) -> None:
    pool = pool_below(tmp_path, 1 << 20)
    retired(pool, tmp_path / "a.wal", 300_000)
    retired(pool, tmp_path / "b.wal", 200_000)
    assert pool.take(199_999) is None
    path = pool.take(200_000)
    assert path is not None
    assert path.stat().st_size == 200_000
    assert pool.take(299_999) is None
    assert pool.take(300_000) is not None


def test_small_files_and_what_goes_beyond_the_budget_are_deleted(tmp_path: Path) -> None:
    pool = pool_below(tmp_path, 250_000)
    retired(pool, tmp_path / "small.wal", RETIRED_BYTES_MIN - 1)
    retired(pool, tmp_path / "a.wal", 100_000)
    retired(pool, tmp_path / "b.wal", 150_000)
    retired(pool, tmp_path / "c.wal", RETIRED_BYTES_MIN)
    assert sorted(p.stat().st_size for p in (tmp_path / "recycle").iterdir()) == [100_000, 150_000]
    taken = pool.take(100_000)
    assert taken is not None
    taken.unlink()
    retired(pool, tmp_path / "d.wal", 100_000)  # there is room again
    assert len(list((tmp_path / "recycle").iterdir())) == 2


def test_files_of_an_earlier_run_are_adopted_within_the_budget(tmp_path: Path) -> None:
    pool = pool_below(tmp_path, 1 << 20)
    for i in range(5):
        retired(pool, tmp_path / f"{i}.wal", 100_000 + i)
    pool = pool_below(tmp_path, 250_000)
    assert len(list((tmp_path / "recycle").iterdir())) == 2
    first = pool.take(1 << 20)
    assert first is not None
    assert first.stat().st_size == 100_000
    retired(pool, tmp_path / "new.wal", 120_000)
    sizes = sorted(p.stat().st_size for p in (tmp_path / "recycle").iterdir())
    assert sizes == [100_000, 100_001, 120_000]  # nobody's name was overwritten


def test_no_budget_keeps_nothing(tmp_path: Path) -> None:
    pool = pool_below(tmp_path, 0)
    retired(pool, tmp_path / "a.wal", RETIRED_BYTES_MIN)
    assert pool.take(1 << 30) is None
    assert list((tmp_path / "recycle").iterdir()) == []


def test_a_partition_of_little_data_takes_no_large_file(tmp_path: Path) -> None:
    """An empty partition's disk space is ALLOCATE_BYTES_MIN, whatever lies ready."""

    async def scenario() -> None:
        pool_path = tmp_path / "recycle"
        pool_path.mkdir()
        (pool_path / "0000000001.retired").write_bytes(bytes(300 * BLOCK))
        host = Host(tmp_path, segment_bytes=400 * BLOCK)
        host.pool.load()
        driven = await host.open()
        await driven.append_durably(b"first")
        assert host.pool.reused_count == 0
        assert driven.active.path.stat().st_size == ALLOCATE_BYTES_MIN
        while len(driven.segments) == 1:
            await driven.append_durably(bytes(20 * BLOCK))
        assert host.pool.reused_count == 1, "of a partition that fills its segments"
        await driven.check()
        await driven.close()

    drive(scenario())
