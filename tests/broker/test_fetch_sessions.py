"""Incremental fetch sessions (KIP-227): each rule by its source.

Sources are of Apache Kafka 4.1: FetchManager.newContext, the three kinds of FetchContext,
CachedPartition in FetchSession, FetchSessionCacheShard.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.fetch import (
    FetchPartition,
    FetchTopic,
)
from rpk_py.metadata.state import TopicDeleted
from tests.broker.connection_fakes import (
    NODE,
    OTHER_NODE,
    Shard,
    run,
    running,
    ticks,
    until,
)
from tests.broker.request_builders import BATCH, partitions_of, produce_request, values_of
from tests.broker.session_client import (
    BY_ID,
    BY_NAME,
    WAITS_MS,
    Consumer,
    sessions_of,
    started,
)

# -- ids and epochs: FetchManager.newContext ------------------------------------------------------


@pytest.mark.parametrize("version", [7, 11, BY_NAME, BY_ID, 18])
def test_a_session_goes_on_from_epoch_to_epoch(tmp_path: Path, version: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            await shard.fill("t", 1)
            consumer = await started(shard, {0: 0, 1: 0}, version)
            assert consumer.known == {0: (1, 0), 1: (0, 0)}
            assert await consumer.fetch({0: 1}) == {}
            await shard.fill("t", 2, 1)
            found = await consumer.fetch()
            assert [(i, p.high_watermark, len(values_of(p))) for i, p in found.items()] == [
                (1, 2, 2)
            ]
            assert len(sessions_of(shard)) == 1
            assert sessions_of(shard).partitions == 2

    run(scenario())


@pytest.mark.parametrize(
    ("version", "epoch", "kept"),
    [(4, -1, False), (6, -1, False), (12, -1, False), (12, 0, True), (7, 0, True)],
)
def test_only_epoch_0_of_version_7_and_newer_makes_a_session(
    tmp_path: Path, version: int, epoch: int, kept: bool
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = Consumer(shard, shard.client(), version)
            response = await consumer.ask({0: 0}, session_epoch=epoch)
            assert (bool(response.session_id), len(sessions_of(shard))) == (kept, kept)
            assert len(partitions_of(response)) == 1

    run(scenario())


# Of a session in epoch 1: what a request names, and the error. ("own": its id)
EPOCHS: list[tuple[str | int, int, int, ErrorCode]] = [
    ("own", 1, BY_NAME, ErrorCode.NONE),
    ("own", 2, BY_NAME, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
    ("own", 2**31 - 1, BY_NAME, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
    ("own", -2, BY_NAME, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
    ("own", 1, BY_ID, ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR),
    ("own", 2, BY_ID, ErrorCode.INVALID_FETCH_SESSION_EPOCH),  # epochs are compared first
    (0, 1, BY_NAME, ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
    (-1, 1, BY_NAME, ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
    (2**31 - 1, 1, BY_NAME, ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
]


@pytest.mark.parametrize(("session_id", "epoch", "version", "error"), EPOCHS)
def test_what_does_not_fit_is_refused_and_the_session_lives_on(
    tmp_path: Path, session_id: str | int, epoch: int, version: int, error: ErrorCode
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = await started(shard, {0: 0})
            named = consumer.session_id if session_id == "own" else session_id
            other = Consumer(shard, consumer.client, version)
            response = await other.ask({0: 0}, session_id=named, session_epoch=epoch)
            assert ErrorCode(response.error_code) == error
            if error:
                assert (response.session_id, partitions_of(response)) == (0, [])
                await consumer.fetch()

    run(scenario())


def test_by_id_is_no_session_by_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = await started(shard, {0: 0}, BY_ID)
            consumer.version = BY_NAME
            response = await consumer.ask()
            assert response.error_code == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR

    run(scenario())


def test_the_epoch_after_the_largest_is_1(tmp_path: Path) -> None:
    # FetchMetadata.nextEpoch
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = await started(shard, {0: 0})
            (session,) = sessions_of(shard)._sessions.values()
            session.epoch = consumer.epoch = 2**31 - 1
            await consumer.fetch()
            consumer.epoch = 1
            await consumer.fetch()

    run(scenario())


@pytest.mark.parametrize("epoch", [0, -1])
def test_a_full_request_closes_the_session_that_it_names(tmp_path: Path, epoch: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = await started(shard, {0: 0})
            response = await consumer.ask({0: 0}, session_epoch=epoch)
            assert len(partitions_of(response)) == 1, "full, whatever was told before"
            assert response.session_id != consumer.session_id
            assert bool(response.session_id) == (epoch == 0)
            gone = await consumer.ask()
            assert gone.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
            assert len(sessions_of(shard)) == (epoch == 0)

    run(scenario())


def test_a_session_without_partitions_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            consumer = await started(shard, {0: 0, 1: 0})
            await consumer.fetch(forget=(0,))
            assert sessions_of(shard).partitions == 1
            response = await consumer.ask(forget=(1,), max_wait_ms=WAITS_MS)
            assert (response.error_code, response.session_id) == (0, 0)
            assert len(sessions_of(shard)) == sessions_of(shard).partitions == 0

    run(scenario())


def test_who_goes_on_with_a_session_ends_the_fetch_that_waits_in_it(tmp_path: Path) -> None:
    # IncrementalFetchContext.updateAndGenerateResponseData: the epoch is another by now.
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = await started(shard, {0: 0})
            waiting = consumer.wait()
            await ticks()
            assert shard.broker.metrics.fetch_waiters == 1
            twin = Consumer(shard, shard.client(), session_id=consumer.session_id, epoch=2)
            assert await twin.fetch() == {}
            response = await consumer.client.reply(waiting)
            assert response.error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
            assert response.session_id == consumer.session_id

    run(scenario())


def test_who_closes_a_session_ends_the_fetch_that_waits_in_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = await started(shard, {0: 0})
            waiting = consumer.wait()
            await ticks()
            twin = Consumer(shard, shard.client(), session_id=consumer.session_id)
            await twin.ask({0: 0}, session_epoch=-1)
            response = await consumer.client.reply(waiting)
            assert (response.error_code, partitions_of(response)) == (0, [])

    run(scenario())


# -- what is told: CachedPartition.maybeUpdateResponseData ----------------------------------------


async def _data(shard: Shard) -> None:
    await shard.fill("t", 1)


async def _log_start(shard: Shard) -> None:
    await shard.log_of("t").delete_records(2)
    shard.partition("t").wake_fetches()


async def _error(shard: Shard) -> None:
    shard.partition("t").fail("it broke", ErrorCode.KAFKA_STORAGE_ERROR)


async def _gone(shard: Shard) -> None:
    await shard.controller.commit(TopicDeleted("t", shard.state.topics["t"].topic_id))


async def _moved(shard: Shard) -> None:
    await shard.move("t", OTHER_NODE)


async def _nothing(shard: Shard) -> None:
    pass


async def _not_visible(shard: Shard) -> None:
    shard.disk.hold = True
    shard.client().send(*produce_request("t", BATCH))
    await until(lambda: shard.disk.held)


# What happens to partition 0 of which everything was read: told of, error, high watermark, log
# start, records.
NEWS: list[tuple[Callable[[Shard], Awaitable[None]], tuple[Any, ...] | None]] = [
    (_nothing, None),
    (_not_visible, None),
    (_data, (ErrorCode.NONE, 3, 0, 1)),
    (_log_start, (ErrorCode.NONE, 2, 2, 0)),
    (_error, (ErrorCode.KAFKA_STORAGE_ERROR, -1, -1, 0)),
    (_gone, (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1, -1, 0)),
    (_moved, (ErrorCode.NOT_LEADER_OR_FOLLOWER, -1, -1, 0)),
]


@pytest.mark.parametrize(("event", "told"), NEWS)
@pytest.mark.parametrize("waits", [False, True])
def test_a_partition_is_told_of_when_something_has_changed(
    tmp_path: Path,
    event: Callable[[Shard], Awaitable[None]],
    told: tuple[Any, ...] | None,
    waits: bool,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.create("quiet")
            await shard.fill("t", 2)
            consumer = await started(shard, {0: 2})
            quiet = FetchTopic("quiet", bytes(16), [FetchPartition(0, partition_max_bytes=9)])
            request = consumer.request()
            request.topics.append(quiet)
            response = await consumer.client.ask(request, BY_NAME)
            assert [t.topic for t in response.responses] == ["quiet"], "told of once: it is new"
            consumer.epoch += 1
            assert await consumer.fetch({0: 2}) == {}, "named, and nothing new"
            waiting = consumer.wait(min_bytes=1) if waits else None
            await ticks()
            await event(shard)
            if waiting is None:
                response = await consumer.ask()
            elif event in (_nothing, _not_visible, _log_start):  # these end no wait
                await ticks()
                shard.advance(WAITS_MS / 1000)
                response = await consumer.client.reply(waiting)
            else:
                response = await consumer.client.reply(waiting)
            found = consumer.took(response)
            assert {t.topic for t in response.responses} == ({"t"} if told else set())
            if told:
                answer = found[0]
                told_now = (answer.high_watermark, answer.log_start_offset)
                assert (ErrorCode(answer.error_code), *told_now, len(values_of(answer))) == told
                again = await consumer.fetch({0: 3} if event is _data else {})
                assert list(again) == ([0] if told[0] else []), "an error each time"
            shard.disk.release()

    run(scenario())


def test_after_an_error_a_partition_is_told_of_once_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 1)
            consumer = await started(shard, {0: 1})
            assert await consumer.fetch() == {}
            found = await consumer.fetch({0: 7})
            assert found[0].error_code == ErrorCode.OFFSET_OUT_OF_RANGE
            found = await consumer.fetch({0: 1})
            assert (found[0].error_code, found[0].high_watermark) == (0, 1)
            assert await consumer.fetch() == {}

    run(scenario())


def test_a_topic_that_comes_back_under_its_name_is_found(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = await started(shard, {0: 0})
            assert await consumer.fetch() == {}
            await _gone(shard)
            assert list(await consumer.fetch()) == [0]
            await shard.create("t")
            found = await consumer.fetch()
            assert (found[0].error_code, found[0].high_watermark) == (0, 0)
            waiting = consumer.wait()
            await shard.fill("t", 1)
            assert len(values_of(consumer.took(await consumer.client.reply(waiting))[0])) == 1

    run(scenario())


def test_a_new_leader_epoch_fences_who_names_the_old_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            consumer = Consumer(shard, shard.client())
            request = consumer.request({0: 0})
            request.topics[0].partitions[0].current_leader_epoch = 3
            consumer.took(await consumer.client.ask(request, BY_NAME))
            assert await consumer.fetch() == {}
            shard.partition("t").lead(4)
            found = await consumer.fetch()
            assert found[0].error_code == ErrorCode.FENCED_LEADER_EPOCH

    run(scenario())


def test_cold_records_come_in_a_session_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            await shard.fill("t", 2)
            consumer = await started(shard, {0: 2, 1: 0})
            assert await consumer.fetch() == {}
            shard.forget_cache("t")
            found = await consumer.fetch({0: 0})
            assert [len(values_of(p)) for p in found.values()] == [2]
            assert shard.disk.reads == 1

    run(scenario())


# -- in which order: IncrementalFetchContext ------------------------------------------------------


def test_partitions_take_turns_when_not_all_find_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE, NODE, NODE)
            for index in range(3):
                await shard.fill("t", 3, index)
            consumer = Consumer(shard, shard.client())
            offsets = dict.fromkeys(range(4), 0)
            turns = []
            found = await consumer.fetch(offsets, max_bytes=1)
            while any(given := {i: len(values_of(p)) for i, p in found.items()}.values()):
                (index,) = [i for i, p in found.items() if values_of(p)]
                assert sum(given) == 1
                turns.append(index)
                offsets[index] += 1
                found = await consumer.fetch({index: offsets[index]}, max_bytes=1)
            assert turns == [0, 1, 2] * 3

    run(scenario())


def test_a_busy_partition_does_not_starve_one_that_wakes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            await shard.fill("t", 5, 0)
            consumer = await started(shard, {0: 0, 1: 0})
            assert list(await consumer.fetch({0: 1}, max_bytes=1)) == [0]
            await shard.fill("t", 1, 1)
            turns = []
            for offset in (2, 3):
                found = await consumer.fetch({0: offset}, max_bytes=1)
                turns += [i for i, p in found.items() if values_of(p)]
            assert 1 in turns

    run(scenario())
