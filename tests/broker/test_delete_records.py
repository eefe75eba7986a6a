"""DeleteRecords: what moves, what is refused, and what other requests say afterwards.

On real logs, through the real codec.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from rpk_py.metadata.state import TopicDeleted
from storage.errors import StorageError
from tests.broker.connection_fakes import NODE, OTHER_NODE, Client, run, running, until
from tests.broker.request_builders import KEYED, batch_of, values_of

VERSIONS = range(3)
Answer = tuple[int, int, ErrorCode]  # partition, low watermark, error
Asked = tuple[str, int, int]  # topic, partition, offset


def request(*asked: Asked) -> DeleteRecordsRequest:
    return DeleteRecordsRequest(
        [
            DeleteRecordsTopic(topic, [DeleteRecordsPartition(index, offset)])
            for topic, index, offset in asked
        ],
        timeout_ms=1000,
    )


async def ask(client: Client, *asked: Asked, version: int = 2) -> list[Answer]:
    response = await client.ask(request(*asked), version)
    return [
        (p.partition_index, p.low_watermark, ErrorCode(p.error_code))
        for topic in response.topics
        for p in topic.partitions
    ]


async def earliest(client: Client, topic: str, timestamp: int = -2) -> int:
    response = await client.ask(
        ListOffsetsRequest(
            -1, topics=[ListOffsetsTopic(topic, [ListOffsetsPartition(0, -1, timestamp)])]
        ),
        7,
    )
    (answer,) = response.topics[0].partitions
    assert answer.error_code == 0
    found: int = answer.offset
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_records_before_the_offset_are_gone_for_every_request(tmp_path: Path, version: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 5, batch=batch_of(b"a", b"b"))
            client = shard.client()
            assert await ask(client, ("t", 0, 3), version=version) == [(0, 3, ErrorCode.NONE)]
            below = await client.fetch("t", 2)
            assert (below.error_code, below.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 3)
            left = await client.fetch("t", 3)
            assert left.error_code == 0
            assert values_of(left)[:2] == [(2, b"a"), (3, b"b")]  # a batch comes whole
            assert len(values_of(left)) == 8
            assert await earliest(client, "t") == 3
            assert await earliest(client, "t", timestamp=0) == 3
            produced = await client.produce("t", batch_of(b"c"), version=5)
            assert (produced.base_offset, produced.log_start_offset) == (10, 3)

    run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_minus_one_is_the_high_watermark(tmp_path: Path, version: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 3)
            shard.disk.hold = True
            client = shard.client()
            producing = asyncio.create_task(shard.client().produce("t", batch_of(b"held")))
            await until(lambda: shard.log_of("t").log_end_offset == 4)
            assert await ask(client, ("t", 0, 4), version=version) == [
                (0, -1, ErrorCode.OFFSET_OUT_OF_RANGE)
            ]
            assert await ask(client, ("t", 0, -1), version=version) == [(0, 3, ErrorCode.NONE)]
            shard.disk.release()
            assert (await producing).base_offset == 3
            assert values_of(await client.fetch("t", 3)) == [(3, b"held")]

    run(scenario())


def test_what_is_refused_moves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, OTHER_NODE)
            await shard.create("compacted", cleanup_policy="compact")
            await shard.create("both", cleanup_policy="compact, delete")
            await shard.create("__consumer_offsets")
            for topic in ("t", "compacted", "both"):  # nobody may fill the internal one
                await shard.fill(topic, 3, batch=KEYED)
            client = shard.client()
            refused = {
                ("t", 0, 4): ErrorCode.OFFSET_OUT_OF_RANGE,
                ("t", 0, -2): ErrorCode.OFFSET_OUT_OF_RANGE,
                ("t", 0, 2**63 - 1): ErrorCode.OFFSET_OUT_OF_RANGE,
                ("t", 1, 0): ErrorCode.NOT_LEADER_OR_FOLLOWER,
                ("t", 2, 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                ("t", -1, 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                ("unknown", 0, 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                ("compacted", 0, 1): ErrorCode.POLICY_VIOLATION,
                ("__consumer_offsets", 0, 1): ErrorCode.INVALID_TOPIC_EXCEPTION,
            }
            for asked, error in refused.items():
                assert await ask(client, asked) == [(asked[1], -1, error)], asked
            assert all(partition.log_start_offset == 0 for partition in shard.table)
            assert await ask(client, ("both", 0, 1)) == [(0, 1, ErrorCode.NONE)]

    run(scenario())


def test_an_offset_below_the_start_succeeds_with_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 3)
            client = shard.client()
            for offset, start in ((0, 0), (2, 2), (1, 2), (0, 2), (2, 2)):
                assert await ask(client, ("t", 0, offset)) == [(0, start, ErrorCode.NONE)]

    run(scenario())


def test_many_partitions_are_answered_each_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("a", NODE, NODE)
            await shard.create("b")
            for topic, index in (("a", 0), ("a", 1), ("b", 0)):
                await shard.fill(topic, 5, index)
            asked = [("a", 0, 1), ("b", 0, 2), ("a", 1, 3), ("a", 0, 4), ("b", 9, 1)]
            assert await ask(shard.client(), *asked) == [
                (0, 4, ErrorCode.NONE),
                (1, 3, ErrorCode.NONE),
                (0, 2, ErrorCode.NONE),
                (9, -1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            ]

    run(scenario())


def test_the_start_is_there_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", segment_bytes="16384")
            await shard.fill("t", 20)
            before = shard.log_of("t").size_bytes
            assert await ask(shard.client(), ("t", 0, 17)) == [(0, 17, ErrorCode.NONE)]
            await until(lambda: shard.log_of("t").size_bytes < before // 2)
        async with running(tmp_path, state=shard.state) as shard:
            client = shard.client()
            assert await earliest(client, "t") == 17
            assert values_of(await client.fetch("t", 17))[0][0] == 17
            assert await ask(client, ("t", 0, -1)) == [(0, 20, ErrorCode.NONE)]
        async with running(tmp_path, state=shard.state) as shard:
            client = shard.client()
            assert await earliest(client, "t") == 20
            assert (await client.produce("t", batch_of(b"next"))).base_offset == 20

    run(scenario())


def test_an_offline_partition_is_a_storage_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 2)
            shard.partition("t").on_log_failed(StorageError("as the test asked"))
            answer = await ask(shard.client(), ("t", 0, 1))
            assert answer == [(0, -1, ErrorCode.KAFKA_STORAGE_ERROR)]

    run(scenario())


@pytest.mark.parametrize("fate", ["deleted", "moved"])
def test_a_partition_that_goes_away_meanwhile_is_answered_as_such(
    tmp_path: Path, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t")
            await shard.fill("t", 2)
            log = shard.log_of("t")
            real, gate, arrived = log.delete_records, asyncio.Event(), asyncio.Event()

            async def slow(before_offset: int) -> None:
                arrived.set()
                await gate.wait()
                await real(before_offset)

            monkeypatch.setattr(type(log), "delete_records", lambda _log, offset: slow(offset))
            asking = asyncio.create_task(ask(shard.client(), ("t", 0, 1)))
            await arrived.wait()
            if fate == "deleted":
                await shard.controller.commit(TopicDeleted("t", topic.topic_id))
                error = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            else:
                await shard.move("t", OTHER_NODE)
                error = ErrorCode.NOT_LEADER_OR_FOLLOWER
            gate.set()
            assert await asking == [(0, -1, error)]

    run(scenario())


def test_a_request_of_many_partitions_moves_a_few_starts_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", *[NODE] * 40)
            moving, most = 0, 0

            async def slow(_log: object, _offset: int) -> None:
                nonlocal moving, most
                moving += 1
                most = max(most, moving)
                await asyncio.sleep(0)
                moving -= 1

            monkeypatch.setattr(type(shard.log_of("t")), "delete_records", slow)
            answers = await ask(shard.client(), *[("t", index, 0) for index in range(40)])
            assert answers == [(index, 0, ErrorCode.NONE) for index in range(40)]
            assert most == 16

    run(scenario())
