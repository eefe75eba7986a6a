"""write.caching: when what was appended is written, also while the disk is slow."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.storage.builder import HeldDisk, Host, batch_of_size, drive
from tests.storage.test_crash_model import tick


def test_write_caching_waits_where_too_much_is_not_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = HeldDisk(auto=False)
        host = Host(tmp_path, disk, write_caching=True, flush_ms=3_600_000, flush_bytes=1)
        host.context.committer.pending_bytes_max = 10_000
        driven = await host.open()
        driven.append_batch(batch_of_size(6_000))
        assert driven.log.visible_offset == 1
        driven.append_batch(batch_of_size(6_000))
        assert driven.log.visible_offset == 0
        while driven.log.durable_offset < 1:
            await asyncio.sleep(0)
            disk.land()
        assert driven.log.visible_offset == 2
        disk.auto = True
        disk.land()
        await driven.check()

    drive(scenario())


def test_write_caching_that_waits_does_not_wait_for_a_timer(tmp_path: Path) -> None:
    async def scenario() -> None:
        never = (1 << 63) - 1
        host = Host(tmp_path, write_caching=True, flush_ms=never, flush_bytes=never)
        host.context.committer.pending_bytes_max = 10_000
        driven = await host.open()
        for _ in range(5):
            driven.append_batch(batch_of_size(6_000))
        await tick(200)
        assert driven.log.durable_offset == 5
        await driven.check()

    drive(scenario())


def test_what_is_appended_during_a_write_waits_for_its_own_time(tmp_path: Path) -> None:
    """Else each completion would write the few records that came meanwhile, without an end."""

    async def scenario() -> None:
        disk = HeldDisk(auto=False)
        host = Host(tmp_path, disk, write_caching=True, flush_ms=3_600_000, flush_bytes=10_000)
        driven = await host.open()
        driven.append_batch(batch_of_size(10_000))
        await tick(20)
        assert disk.held
        driven.append(b"meanwhile")
        disk.land()
        await tick(20)
        assert (driven.log.durable_offset, driven.log.visible_offset, disk.held) == (1, 2, [])
        driven.append_batch(batch_of_size(10_000))
        while driven.log.durable_offset < 3:
            await asyncio.sleep(0)
            disk.land()
        disk.auto = True
        await driven.check()

    drive(scenario())


def test_small_records_that_wait_are_written_as_few_large_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = HeldDisk()
        host = Host(tmp_path, disk, write_caching=True, flush_ms=3_600_000, flush_bytes=1 << 20)
        driven = await host.open()
        while driven.log.durable_offset == 0:
            driven.append_batch(batch_of_size(200))
            await asyncio.sleep(0)
        await driven.log.store(driven.log.log_end_offset)
        assert disk.writes <= 10  # of 4 KiB, 8 KiB, ..., 1 MiB at most
        await driven.check()

    drive(scenario())
