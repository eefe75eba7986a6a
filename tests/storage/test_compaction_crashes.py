"""A compaction that is cut short anywhere loses no key's newest record, and can be done again."""

from __future__ import annotations

import contextlib
import itertools
import random
from pathlib import Path

import pytest

from tests.storage.builder import drive
from tests.storage.test_compaction import CONFIG, Keyed, some_keys
from tests.storage.test_crash_model import tick
from tests.storage.test_rewrite_crashes import SwapCut, kill_after


def assert_newest(log: Keyed, seen: list[tuple[bytes | None, bytes | None]]) -> None:
    assert dict(seen) == {record.key: record.value for record in log.records}


async def seen_by_a_consumer(log: Keyed) -> list[tuple[bytes | None, bytes | None]]:
    records = await log.read()
    by_offset = {record.offset: record for record in log.records}
    assert all(by_offset[record.offset] == record for record in records)
    assert [r.offset for r in records] == sorted({r.offset for r in records})
    return [(record.key, record.value) for record in records]


def test_a_log_killed_between_any_two_calls_of_a_compaction(tmp_path: Path) -> None:
    async def one_death(path: Path, calls_left: int) -> bool:
        """Whether it came to its end before `calls_left` calls were made."""
        log = await some_keys(path, count=24)
        with pytest.MonkeyPatch.context() as patched:
            kill_after(patched, log.driven.host, calls_left)
            with contextlib.suppress(OSError):
                await log.compact()
            await tick(30)
        was_killed = log.driven.host.held.dead
        for _ in range(2):
            log = await log.next_life()
            assert_newest(log, await seen_by_a_consumer(log))
            assert not list(log.driven.log.directory.glob("*.tmp"))
        await log.append((b"k1", b"goes on"))
        await log.roll()
        assert await log.compact() is not None
        await log.check()
        return not was_killed

    for calls in itertools.count(0, 2):
        path = tmp_path / str(calls)
        path.mkdir()
        if drive(one_death(path, calls)):
            break
        assert calls < 1000
    assert calls > 40


@pytest.mark.parametrize("seed", range(12))
def test_a_power_cut_in_a_compaction(tmp_path: Path, seed: int) -> None:
    async def scenario() -> None:
        rng = random.Random(seed)
        log = await some_keys(tmp_path, seed=seed, count=40)
        with pytest.MonkeyPatch.context() as patched:
            cut = SwapCut(patched, log.driven.log.directory, tmp_path / "attic")
            if rng.random() < 0.5:
                await log.compact()
                await log.roll()
            with pytest.MonkeyPatch.context() as killed:
                kill_after(killed, log.driven.host, rng.randrange(150))
                log.compactor._dirty_offset = 0
                with contextlib.suppress(OSError):
                    await log.compact(CONFIG)
                await tick(30)
            await log.driven.host.crash(rng)
            cut.cut(rng)
        host = log.driven.host.next_life()
        host.pool.load()
        log = Keyed(await host.open(), log.now_ms, log.records, log.last_batches)
        assert_newest(log, await seen_by_a_consumer(log))
        await log.roll()
        assert await log.compact() is not None
        assert_newest(log, await seen_by_a_consumer(log))

    drive(scenario())
