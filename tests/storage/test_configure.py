"""Log.configure: an open log goes on with other settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.storage.builder import BLOCK, Driven, HeldDisk, Host, drive

NEVER = (1 << 63) - 1


async def caching(path: Path, disk: HeldDisk | None = None) -> Driven:
    """A log with write.caching that flushes by itself never, and one batch in memory."""
    host = Host(path, disk, write_caching=True, flush_ms=NEVER, flush_bytes=NEVER)
    driven = await host.open()
    driven.append(b"cached")
    assert (driven.log.durable_offset, driven.log.visible_offset) == (0, 1)
    return driven


def configure(driven: Driven, **changes: Any) -> None:
    driven.log.configure(replace(driven.host.config, **changes))


async def until_held(disk: HeldDisk) -> None:
    while not disk.held:  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "changes",
    [{"write_caching": False}, {"flush_ms": 1}, {"flush_bytes": 1}],
    ids=["write.caching", "flush.ms", "flush.bytes"],
)
def test_what_waits_under_the_old_settings_is_written_at_once(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    async def scenario() -> None:
        driven = await caching(tmp_path)
        configure(driven, **changes)
        for _ in range(20):
            await asyncio.sleep(0)
        assert driven.log.durable_offset == 1
        await driven.check()

    drive(scenario())


def test_without_write_caching_only_what_is_durable_becomes_visible(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = HeldDisk(auto=False)
        driven = await caching(tmp_path, disk)
        configure(driven, write_caching=False)
        assert not driven.log.write_caching
        driven.append(b"durable")
        assert driven.log.visible_offset == 0
        await until_held(disk)
        assert driven.log.visible_offset == 0
        disk.land()
        assert driven.log.visible_offset == driven.log.durable_offset == 2
        configure(driven, write_caching=True)
        driven.append(b"cached again")
        assert (driven.log.durable_offset, driven.log.visible_offset) == (2, 3)

    drive(scenario())


def test_flush_bytes_and_flush_ms_take_effect(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await caching(tmp_path)
        configure(driven, flush_bytes=1)
        await driven.owner.until_durable(1)
        await driven.append_durably(b"more than a byte")
        configure(driven, flush_ms=1)
        await driven.append_durably(b"a millisecond later")
        assert driven.log.durable_offset == 3

    drive(scenario())


def test_segments_roll_at_the_new_size(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        for i in range(12):
            await driven.append_durably(b"%d" % i * 500)
        assert len(driven.segments) == 1
        configure(driven, segment_bytes=8 * BLOCK)
        for i in range(12):
            await driven.append_durably(b"%d" % i * 500)
        sizes = [segment.write_pos for segment in driven.segments]
        assert sizes[0] == 25 * BLOCK  # what it had: it was left at the next record
        assert max(sizes[1:]) <= 8 * BLOCK
        configure(driven, segment_bytes=100 * BLOCK)
        before = len(driven.segments)
        for i in range(20):
            await driven.append_durably(b"%d" % i * 500)
        assert len(driven.segments) == before
        driven = await driven.host.reopen(driven)
        await driven.check()

    drive(scenario())


def test_a_failed_log_can_be_configured(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = HeldDisk(auto=False)
        driven = await caching(tmp_path, disk)
        driven.log._appender.flush_now()
        await until_held(disk)
        disk.land(*disk.held, res=-5)
        assert driven.log.failed is not None
        configure(driven, write_caching=False, segment_bytes=1 << 20)

    drive(scenario())
