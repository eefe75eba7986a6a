"""Incremental fetch sessions: what they cost, how many there are, and that all of it adds up.

The rules are in test_fetch_sessions.py.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kafka_protocol.errors import ErrorCode
from rpk_py.fetch_sessions import IDLE_S
from rpk_py.partition import Partition
from tests.broker.connection_fakes import NODE, Shard, run, running, ticks, until
from tests.broker.request_builders import partitions_of, values_of
from tests.broker.session_client import (
    BY_ID,
    BY_NAME,
    WAITS_MS,
    Consumer,
    sessions_of,
    started,
)

# -- what it costs --------------------------------------------------------------------------------


class Looks:
    """Counts how many partitions fetches look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        check = Partition.check_leader_epoch

        def counted(partition: Partition, epoch: int) -> ErrorCode:
            self.count += 1
            return check(partition, epoch)

        monkeypatch.setattr(Partition, "check_leader_epoch", counted)

    def taken(self) -> int:
        """How many since this was asked before."""
        count, self.count = self.count, 0
        return count


@pytest.mark.parametrize("partitions", [200, 400])  # below and above what is done in slices
def test_a_fetch_looks_at_what_changed_and_not_at_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partitions: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", *[NODE] * partitions)
            consumer = await started(shard, dict.fromkeys(range(partitions), 0))
            looks = Looks(monkeypatch)
            assert await consumer.fetch() == {}
            assert partitions <= looks.taken() <= 2 * partitions, "after the full one, once"
            assert await consumer.fetch() == {}
            assert looks.taken() == 0
            waiting = consumer.wait()
            await ticks()
            assert looks.taken() == 0
            await shard.fill("t", 1, 77)
            found = consumer.took(await consumer.client.reply(waiting))
            assert [(i, len(values_of(p))) for i, p in found.items()] == [(77, 1)]
            assert looks.taken() <= 3
            waiting = consumer.wait({77: 1})
            await ticks()
            looks.taken()
            shard.advance(WAITS_MS / 1000)
            assert consumer.took(await consumer.client.reply(waiting)) == {}
            assert looks.taken() <= 2

    run(scenario())


def test_a_forsaken_session_is_woken_once_and_never_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = await started(shard, {0: 0})
            assert await consumer.fetch() == {}
            assert len(shard.partition("t")._fetch_waiters) == 1
            consumer.client.vanish()
            await shard.fill("t", 1)
            assert not shard.partition("t")._fetch_waiters

    run(scenario())


def test_a_client_that_leaves_while_it_waits_leaves_its_session(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = await started(shard, {0: 0})
            consumer.wait()
            await ticks()
            consumer.client.vanish()
            await until(lambda: shard.broker.metrics.fetch_waiters == 0)
            await shard.fill("t", 1)
            consumer.client, consumer.epoch = shard.client(), 2
            assert len(values_of((await consumer.fetch())[0])) == 1

    run(scenario())


# -- how many: FetchSessionCacheShard -------------------------------------------------------------


def test_there_are_so_many_sessions_and_no_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, fetch_sessions_max=2) as shard:
            await shard.create("t", NODE, NODE, NODE)
            old = [await started(shard, {0: 0}), await started(shard, {0: 0, 1: 0})]
            response = await Consumer(shard, shard.client()).ask(dict.fromkeys(range(3), 0))
            assert (response.error_code, response.session_id) == (0, 0)
            assert len(partitions_of(response)) == 3, "a full answer"
            for consumer in old:
                await consumer.fetch()
            await old[0].ask(session_epoch=-1)
            await started(shard, {0: 0})

    run(scenario())


@pytest.mark.parametrize(
    ("idle_s", "used", "size", "evicted"),
    [
        (IDLE_S - 1, False, 3, None),  # not stale, and no session is old
        (IDLE_S + 1, False, 1, 0),  # stale: the one that was not used for longest
        (IDLE_S + 1, True, 1, None),  # old and used: not by one that is as small
        (IDLE_S + 1, True, 2, 0),  # by a larger one: the smallest
        (IDLE_S + 1, True, 3, 0),
    ],
)
def test_who_makes_room_for_a_new_session(
    tmp_path: Path, idle_s: float, used: bool, size: int, evicted: int | None
) -> None:
    # FetchSessionCacheShard.tryEvict
    async def scenario() -> None:
        async with running(tmp_path, fetch_sessions_max=2) as shard:
            await shard.create("t", NODE, NODE, NODE)
            now_s = 0.0
            sessions_of(shard)._clock_s = lambda: now_s
            old = [await started(shard, {0: 0}), await started(shard, {0: 0, 1: 0})]
            now_s = idle_s
            for consumer in old if used else []:
                await consumer.fetch()
            new = Consumer(shard, shard.client())
            response = await new.ask(dict.fromkeys(range(size), 0))
            assert bool(response.session_id) == (evicted is not None)
            assert sessions_of(shard).evictions == (evicted is not None)
            for number, consumer in enumerate(old):
                error = (await consumer.ask()).error_code
                gone = ErrorCode.FETCH_SESSION_ID_NOT_FOUND if number == evicted else 0
                assert error == gone

    run(scenario())


def test_the_memory_of_sessions_is_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, fetch_session_bytes_max=5000) as shard:
            await shard.create("t", *[NODE] * 8)
            sessions = sessions_of(shard)
            now_s = 0.0
            sessions._clock_s = lambda: now_s
            large = await Consumer(shard, shard.client()).ask(dict.fromkeys(range(8), 0))
            assert (large.session_id, len(partitions_of(large))) == (0, 8)
            old = await started(shard, {0: 0, 1: 0, 2: 0})
            consumer = await started(shard, {0: 0, 1: 0})
            assert (await Consumer(shard, shard.client()).ask({0: 0, 1: 0})).session_id == 0
            grown = await consumer.ask(dict.fromkeys(range(6), 0))
            assert grown.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND, "it begins anew"
            assert (len(sessions), sessions.partitions) == (1, 3)
            await old.fetch()
            now_s = IDLE_S + 1
            await started(shard, dict.fromkeys(range(6), 0))
            assert (len(sessions), sessions.partitions, sessions.evictions) == (1, 6, 1)

    run(scenario())


# -- all together ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_what_a_client_was_told_adds_up_to_what_is(tmp_path: Path, seed: int) -> None:
    async def scenario() -> None:
        rng = random.Random(seed)
        async with running(tmp_path) as shard:
            await shard.create("t", *[NODE] * 6)
            consumer = Consumer(shard, shard.client(), rng.choice((BY_NAME, BY_ID)))
            read: dict[int, list[int]] = {index: [] for index in range(6)}
            wanted = {index: 0 for index in range(6) if rng.random() < 0.8} or {0: 0}
            offsets, forget = dict(wanted), ()
            for step in range(60):
                last = step >= 40  # only fetches: everything comes
                waiting = consumer.wait(offsets, forget) if rng.random() < 0.5 else None
                if waiting is None:
                    response = await consumer.ask(
                        offsets, forget, max_bytes=rng.choice((1, 1 << 30))
                    )
                else:
                    await _random_events(rng, shard, 0 if last else rng.randrange(3))
                    shard.advance(WAITS_MS / 1000)
                    response = await consumer.client.reply(waiting)
                offsets, forget = {}, ()
                for index, answer in consumer.took(response).items():
                    if answer.error_code:
                        offsets[index] = wanted[index] = answer.log_start_offset
                    elif given := values_of(answer):
                        read[index] += [offset for offset, _ in given]
                        offsets[index] = wanted[index] = given[-1][0] + 1
                if not last:
                    await _random_events(rng, shard, rng.randrange(3))
                    index = rng.randrange(6)
                    if index not in wanted:
                        offsets[index] = wanted[index] = max([-1, *read[index]]) + 1
                    elif len(wanted) > 1 and rng.random() < 0.3:
                        forget = (index,)
                        del wanted[index]
                        offsets.pop(index, None)
            for index in wanted:
                partition = shard.partition("t", index)
                start = partition.log_start_offset
                assert wanted[index] == partition.high_watermark
                assert consumer.known[index] == (partition.high_watermark, start)
                assert read[index] == sorted(set(read[index]))
                assert {o for o in read[index] if o >= start} == set(
                    range(start, partition.high_watermark)
                )

    run(scenario())


async def _random_events(rng: random.Random, shard: Shard, count: int) -> None:
    for _ in range(count):
        index = rng.randrange(6)
        if rng.random() < 0.8:
            await shard.fill("t", 1, index)
            continue
        partition = shard.partition("t", index)
        await shard.log_of("t", index).delete_records(rng.randint(0, partition.high_watermark))
        partition.wake_fetches()
