"""write.caching when the disk is slow: it waits, and for the disk alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.storage.builder import HeldDisk, Host, batch_of_size, drive


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
        for _ in range(200):
            await asyncio.sleep(0)
        assert driven.log.durable_offset == 5
        await driven.check()

    drive(scenario())
