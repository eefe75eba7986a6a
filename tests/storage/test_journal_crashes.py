"""Random lives and deaths of logs that share a journal: what was acknowledged survives any crash.

The fault model is HeldDisk's (builder.py), with the journal's files among those that are torn. Some
starts die as well, between any two writes of what they take over from the journal.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import journal as journal_module
from tests.storage.builder import BLOCK, Driven, HeldDisk, Host, batch_of_size, drive
from tests.storage.test_crash_model import assert_lies_are_caught, keep_what_survived, tick
from tests.storage.test_journal import (
    COUNT,
    check_and_close,
    entries_of,
    next_life,
    open_all,
    started,
    topic_id,
)

LIVES = 5
SEEDS = 24


async def live(logs: list[Driven], rng: random.Random) -> None:
    """Append to some, delete records, close and open, land writes, at random."""
    disk = logs[0].host.held
    for _ in range(rng.randint(5, 60)):
        what = rng.random()
        if what < 0.6:
            for driven in rng.sample(logs, rng.randint(1, COUNT)):
                for _ in range(rng.choice([1, 1, 1, 3])):
                    size = rng.choice([80, 80, 300, BLOCK - 70, BLOCK, 5 * BLOCK])
                    driven.append_batch(batch_of_size(size), 1 + len(driven.appended) // 7)
        elif what < 0.65:
            log = rng.choice(logs).log
            deleting = asyncio.ensure_future(log.delete_records(log.durable_offset))
            while not deleting.done():
                disk.land()
                await tick(1)
            deleting.result()
        elif disk.held:
            disk.land(*rng.sample(disk.held, rng.randint(1, len(disk.held))))
        await tick(rng.choice([0, 1, 4]))


async def lives_and_deaths(path: Path, seed: int, make_disk: Callable[[], HeldDisk]) -> int:
    """Returns how many journal writes there were."""
    rng = random.Random(seed)
    host = Host(
        path,
        make_disk(),
        segment_bytes=rng.choice([12, 1000]) * BLOCK,
        checkpoint_bytes=rng.choice([6, 40]) * BLOCK,
        cache_bytes=rng.choice([0, 1000]) * BLOCK,
    )
    logs, writes = await open_all(host), 0
    for _ in range(LIVES):
        journal = host.begin_journal()
        await live(logs, rng)
        writes += journal.writes
        facts = [(one.log.durable_offset, one.log.log_start_offset) for one in logs]
        await host.crash(rng)
        for _ in range(rng.choice([0, 0, 1, 3])):  # starts that are killed before they serve
            host = host.next_life(HeldDisk(auto=False))
            await killed_start(host, rng)
        host = host.next_life(HeldDisk())
        host.read_journal()
        logs = await open_all(host, logs)
        for driven, (acknowledged, start) in zip(logs, facts, strict=True):
            assert driven.log.log_end_offset >= acknowledged, (
                f"seed {seed}: an acknowledged one lost"
            )
            assert driven.log.log_start_offset == start, f"seed {seed}: the log start moved"
            keep_what_survived(driven)
            await driven.check()
        host.context.committer.disk = host.context.disk = host.disk = make_disk()
    host.held.auto = True
    for driven in logs:
        await driven.append_durably(b"the end")
        await driven.check()
        await driven.close()
    return writes


async def killed_start(host: Host, rng: random.Random) -> None:
    """Recover some logs; the end comes between two of their writes."""
    disk = host.held
    host.read_journal()
    opening = [
        asyncio.ensure_future(host.open(f"t{i}-0", topic_id=topic_id(i)))
        for i in rng.sample(range(COUNT), 2)
    ]
    for _ in range(rng.choice([0, 1, 2, 4, 40])):
        await tick(8)
        if disk.held:
            disk.land(rng.choice(disk.held))
    disk.tear(rng)
    await cut_off(host, opening)


async def cut_off(host: Host, opening: list[asyncio.Future[Driven]]) -> None:
    """The end of a host that opens logs; no more of its writes in flight gets there."""
    for one in opening:
        one.cancel()
    while not all(one.done() for one in opening):
        host.held.land(res=-errno.EIO)  # who was cancelled closes its files
        await tick(1)
    await host.crash()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_was_acknowledged_survives_any_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(journal_module, "FILE_BYTES", 16 * BLOCK)
    monkeypatch.setattr(journal_module, "PARTITIONS_MIN", 2)
    assert drive(lives_and_deaths(tmp_path, seed, lambda: HeldDisk(auto=False))) > 0


def test_the_model_catches_a_disk_that_acknowledges_before_it_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FILE_BYTES", 16 * BLOCK)
    assert_lies_are_caught(tmp_path, lives_and_deaths)


def test_a_start_that_was_killed_in_the_middle_of_an_entry_is_gone_on_with(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, logs = await started(tmp_path)
        for driven in logs:
            driven.append_batch(batch_of_size(2 * BLOCK - 100))  # so the next record is as large
            await driven.log.store(1)
        for driven in logs:
            for _ in range(2):  # batches of one entry, which a start puts into two records
                driven.append_batch(batch_of_size(BLOCK - 1000))
        await asyncio.gather(*(driven.durable() for driven in logs))
        await host.crash()
        assert [len(of) for of in entries_of(tmp_path).values()] == [1] * COUNT
        host = host.next_life(HeldDisk(auto=False))
        host.read_journal()
        opening = asyncio.ensure_future(host.open("t0-0", topic_id=topic_id(0)))
        while not host.held.held:
            await tick(1)
        host.held.land()
        await tick(8)
        await cut_off(host, [opening])
        host = host.next_life()
        driven = await host.open("t0-0", topic_id=topic_id(0))
        assert driven.log.log_end_offset == 2
        await host.crash()
        host, logs = await next_life(host, logs)
        assert [driven.log.log_end_offset for driven in logs] == [3] * COUNT
        await check_and_close(logs)

    drive(scenario())
