"""Fetch: when it answers at once, when it waits, and what wakes it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.fetch import FetchTopic
from rpk_py.metadata.state import TopicDeleted
from tests.broker.connection_fakes import (
    NODE,
    OTHER_NODE,
    Client,
    Shard,
    run,
    running,
    ticks,
    until,
)
from tests.broker.request_builders import (
    BATCH,
    FETCH_VERSION,
    asked,
    fetch_request,
    partitions_of,
    produce_request,
    request_of,
    values_of,
)


def poll(client: Client, topic: str, *offsets: int, min_bytes: int = 1) -> int:
    request, version = fetch_request(topic, *offsets, max_wait_ms=500_000, min_bytes=min_bytes)
    return client.send(request, version)


def test_without_partitions_or_patience_the_answer_is_immediate(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            reader = shard.client()
            nothing = [request_of(max_wait_ms=500_000)]
            nothing += [request_of(FetchTopic("t", bytes(16), []), max_wait_ms=500_000)]
            for wait_ms in (0, -1):
                topic = FetchTopic("t", bytes(16), asked((0, 0)))
                nothing += [request_of(topic, max_wait_ms=wait_ms)]
            nothing += [fetch_request("t", 0, max_wait_ms=500_000, min_bytes=0)[0]]
            for request in nothing:
                assert partitions_of(await reader.ask(request, FETCH_VERSION)) is not None
            assert shard.broker.metrics.fetch_waiters == 0

    run(scenario())


def test_a_long_poll_ends_at_max_wait_with_what_there_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            await shard.fill("t", 1)
            reader = shard.client()
            waiting = poll(reader, "t", 0, 0, min_bytes=1 << 20)
            shard.advance(499)
            await ticks()
            assert reader.order == []
            assert shard.broker.metrics.fetch_waiters == 1
            shard.advance(1.1)
            first, second = partitions_of(await reader.reply(waiting))
            assert [len(values_of(first)), len(values_of(second))] == [1, 0]
            assert shard.broker.metrics.fetch_waiters == 0

    run(scenario())


def test_a_long_poll_wakes_when_min_bytes_are_durable_and_not_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            reader, writer = shard.client(), shard.client()
            waiting = poll(reader, "t", 0, 0, min_bytes=2 * len(BATCH))
            await writer.produce("t", BATCH)
            await ticks()
            assert reader.order == [], "half of it"
            shard.disk.hold = True
            writer.send(*produce_request("t", BATCH, index=1))
            await until(lambda: shard.disk.held)
            await ticks()
            assert reader.order == [], "appended is not enough"
            shard.disk.release()
            found = partitions_of(await reader.reply(waiting))
            assert [len(values_of(p)) for p in found] == [1, 1]
            assert [p.high_watermark for p in found] == [1, 1]

    run(scenario())


def test_many_long_polls_on_one_partition_all_wake(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            readers = [shard.client() for _ in range(20)]
            for reader in readers:
                poll(reader, "t", 0)
            assert shard.broker.metrics.fetch_waiters == 20
            readers[3].vanish()
            await shard.fill("t", 1)
            await until(lambda: sum(len(reader.order) for reader in readers) == 19)
            assert shard.broker.metrics.fetch_waiters == 0

    run(scenario())


@pytest.mark.parametrize("cause", ["disk", "deletion", "leader", "stop"])
def test_a_long_poll_wakes_when_its_partition_fails_or_goes(tmp_path: Path, cause: str) -> None:
    expected = {
        "disk": ErrorCode.KAFKA_STORAGE_ERROR,
        "deletion": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        "leader": ErrorCode.NOT_LEADER_OR_FOLLOWER,
        "stop": ErrorCode.NONE,
    }

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t")
            await shard.create("quiet")
            reader = shard.client()
            names = ("quiet", "t")
            topics = [FetchTopic(name, bytes(16), asked((0, 0))) for name in names]
            waiting = reader.send(request_of(*topics, max_wait_ms=500_000), FETCH_VERSION)
            await ticks()
            assert reader.order == []
            await strike(shard, topic.topic_id)
            quiet, struck = partitions_of(await reader.reply(waiting))
            assert (quiet.error_code, struck.error_code) == (0, expected[cause])
            if cause == "leader":
                assert struck.current_leader is not None
                assert struck.current_leader.leader_id == OTHER_NODE

    async def strike(shard: Shard, topic_id: bytes) -> None:
        if cause == "disk":
            shard.disk.broken = "t-0"
            await shard.client().produce("t", BATCH)
        elif cause == "deletion":
            await shard.controller.commit(TopicDeleted("t", topic_id))
        elif cause == "leader":
            await shard.move("t", OTHER_NODE)
        else:
            stopping = asyncio.ensure_future(shard.server.stop())
            await until(lambda: not shard.broker.metrics.connections)
            await stopping

    run(scenario())


def test_what_was_evicted_while_a_long_poll_waited_comes_with_the_next_fetch(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, cache_bytes=0) as shard:
            await shard.create("t")
            reader = shard.client()
            waiting = poll(reader, "t", 0)
            await shard.fill("t", 1)
            (found,) = partitions_of(await reader.reply(waiting))
            assert (found.error_code, found.high_watermark) == (0, 1)
            assert len(values_of(await reader.fetch("t", 0))) == 1

    run(scenario())
