"""Fetch: what is visible, how much it gives, from memory or disk, and what it refuses.

When it answers: test_fetch_wait.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kafka_protocol import compression
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.fetch import FetchTopic
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
from tests.broker.request_builders import (
    BATCH,
    asked,
    batch_of,
    fetch_request,
    partitions_of,
    produce_request,
    records_of,
    request_of,
    values_of,
)

VERSIONS = range(4, 19)


# -- what is visible -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gets_the_records_and_real_offsets(tmp_path: Path, version: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t")
            await shard.fill("t", 3)
            name = topic.topic_id if version >= 13 else "t"
            request, _ = fetch_request(name, 1, isolation_level=1)
            response = await shard.client().ask(request, version)
            assert (response.error_code, response.session_id) == (0, 0)
            assert [t.topic if version < 13 else t.topic_id for t in response.responses] == [name]
            (found,) = partitions_of(response)
            assert (found.partition_index, found.error_code) == (0, 0)
            assert (found.high_watermark, found.last_stable_offset) == (3, 3)
            assert found.log_start_offset == (0 if version >= 5 else -1)
            assert found.aborted_transactions == []
            assert found.preferred_read_replica == -1
            assert [offset for offset, _ in values_of(found)] == [1, 2]

    run(scenario())


def test_read_uncommitted_gets_no_list_of_aborted_transactions(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            found = await shard.client().fetch("t", 0)
            assert found.aborted_transactions is None
            assert records_of(found) == b""

    run(scenario())


def test_nothing_that_is_not_durable_is_ever_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            shard.disk.hold = True
            writer, reader = shard.client(), shard.client()
            for i in range(6):
                writer.send(*produce_request("t", batch_of(b"%d" % i)))
                await until(lambda: shard.disk.held)
                await ticks()
                log, partition = shard.log_of("t"), shard.partition("t")
                for offset in range(log.log_end_offset + 1):
                    found = await reader.fetch("t", offset, max_bytes=1 << 20)
                    durable = log.durable_offset
                    expected = [(o, b"%d" % o) for o in range(offset, durable)]
                    assert values_of(found) == expected
                    assert found.high_watermark == partition.high_watermark == durable
                if i % 2:
                    shard.disk.release(1)
            shard.disk.release()
            await until(lambda: len(writer.order) == 6)
            assert len(values_of(await reader.fetch("t", 0))) == 6

    run(scenario())


def test_offsets_outside_the_log_are_refused_with_the_ones_that_exist(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 3)
            shard.log_of("t").log_start_offset = 1
            reader = shard.client()
            for offset in (-1, 0, 4, 2**62):
                found = await reader.fetch("t", offset)
                assert found.error_code == ErrorCode.OFFSET_OUT_OF_RANGE
                assert (found.high_watermark, found.last_stable_offset) == (3, 3)
                assert found.log_start_offset == 1
                assert records_of(found) == b""
            end = await reader.fetch("t", 3)
            assert (end.error_code, records_of(end)) == (0, b"")

    run(scenario())


def test_an_offset_between_high_watermark_and_log_end_is_an_empty_success(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 1)
            shard.disk.hold = True
            shard.client().send(*produce_request("t", batch_of(b"a", b"b", b"c")))
            for offset in (1, 2, 4):
                found = await shard.client().fetch("t", offset)
                assert (found.error_code, found.high_watermark) == (0, 1)
                assert records_of(found) == b""

    run(scenario())


def test_a_fetch_inside_a_batch_gets_the_whole_batch(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 3, batch=batch_of(b"a", b"b", b"c"))
            for cold in (False, True):
                if cold:
                    shard.forget_cache("t")
                found = await shard.client().fetch("t", 4)
                assert [offset for offset, _ in values_of(found)] == [3, 4, 5, 6, 7, 8]

    run(scenario())


def test_leader_epochs_are_compared(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 1)
            reader = shard.client()
            for epoch, error in (
                (-1, ErrorCode.NONE),
                (3, ErrorCode.NONE),
                (2, ErrorCode.FENCED_LEADER_EPOCH),
                (4, ErrorCode.UNKNOWN_LEADER_EPOCH),
            ):
                found = await reader.fetch("t", 0, leader_epoch=epoch)
                assert ErrorCode(found.error_code) == error
                assert bool(records_of(found)) == (error == ErrorCode.NONE)

    run(scenario())


def test_zstd_is_for_version_10_and_newer_cached_or_cold(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 1, batch=batch_of(b"z" * 50, compression=compression.ZSTD))
            reader = shard.client()
            for cold in (False, True):
                for version in (4, 9, 10, 12):
                    if cold:
                        shard.forget_cache("t")
                    found = await reader.fetch("t", 0, version=version)
                    refused = ErrorCode.UNSUPPORTED_COMPRESSION_TYPE if version < 10 else 0
                    assert found.error_code == refused
                    assert bool(records_of(found)) == (version >= 10)
                    assert found.high_watermark == 1

    run(scenario())


# -- every partition that was asked for ----------------------------------------------------------


@pytest.mark.parametrize("version", [11, 12, 13, 16, 18])
def test_every_partition_is_answered_in_the_order_of_the_request(
    tmp_path: Path, version: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            a = await shard.create("a", NODE, OTHER_NODE, NODE)
            b = await shard.create("b")
            await shard.fill("a", 2, index=2)
            ids = [b.topic_id, a.topic_id, b"\7" * 16]
            rows = [[(0, 0)], [(2, 1), (1, 0), (0, 0), (9, 0), (2, 5)], [(0, 0)]]
            topics = [
                FetchTopic(name, topic_id, asked(*row))
                for name, topic_id, row in zip(("b", "a", "no"), ids, rows, strict=True)
            ]
            request = request_of(*topics, max_wait_ms=500_000)
            response = await shard.client().ask(request, version)  # an error: at once
            unknown = "UNKNOWN_TOPIC_ID" if version >= 13 else "UNKNOWN_TOPIC_OR_PARTITION"
            assert [
                [(p.partition_index, ErrorCode(p.error_code).name) for p in topic.partitions]
                for topic in response.responses
            ] == [
                [(0, "NONE")],
                [
                    (2, "NONE"),
                    (1, "NOT_LEADER_OR_FOLLOWER"),
                    (0, "NONE"),
                    (9, "UNKNOWN_TOPIC_OR_PARTITION"),
                    (2, "OFFSET_OUT_OF_RANGE"),
                ],
                [(0, unknown)],
            ]
            assert [topic.topic_id for topic in response.responses if version >= 13] == (
                ids if version >= 13 else []
            )
            moved = response.responses[1].partitions[1]
            if version >= 12:
                leader = moved.current_leader
                assert (leader.leader_id, leader.leader_epoch) == (OTHER_NODE, 3)
            nodes = [(n.node_id, n.host, n.port) for n in response.node_endpoints]
            assert nodes == ([(OTHER_NODE, "other.example", 9093)] if version >= 16 else [])

    run(scenario())


def test_several_partitions_give_their_records_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE, NODE)
            for index in range(3):
                await shard.fill("t", 1 + index, index, batch_of(b"%d" % index * 2000))
            shard.forget_cache("t", 1)
            request, version = fetch_request("t", 0, 0, 0)
            found = partitions_of(await shard.client().ask(request, version))
            assert [
                [(offset, value) for offset, value in values_of(partition)] for partition in found
            ] == [[(o, b"%d" % index * 2000) for o in range(1 + index)] for index in range(3)]

    run(scenario())


# -- how much ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cold", [False, True])
def test_limits_are_soft_for_the_first_batch_and_hard_after_it(tmp_path: Path, cold: bool) -> None:
    size = len(BATCH)

    async def sizes(shard: Shard, *offsets: int, **limits: int) -> list[int]:
        if cold:
            for index in range(len(offsets)):
                shard.forget_cache("t", index)
        request, version = fetch_request("t", *offsets, **limits)
        found = partitions_of(await shard.client().ask(request, version))
        assert all(p.error_code == 0 for p in found)
        return [len(records_of(p)) // size for p in found]

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE, NODE)
            for index in range(3):
                await shard.fill("t", 4, index)
            assert await sizes(shard, 0, 0, 0) == [4, 4, 4]
            assert await sizes(shard, 0, 0, 0, partition_max_bytes=2 * size) == [2, 2, 2]
            assert await sizes(shard, 0, 0, 0, partition_max_bytes=3 * size - 1) == [2, 2, 2]
            assert await sizes(shard, 0, 0, 0, partition_max_bytes=1) == [1, 0, 0]
            assert await sizes(shard, 0, 0, 0, partition_max_bytes=0) == [1, 0, 0]
            assert await sizes(shard, 4, 0, 0, partition_max_bytes=1) == [0, 1, 0]
            assert await sizes(shard, 0, 0, 0, max_bytes=1) == [1, 0, 0]
            assert await sizes(shard, 0, 0, 0, max_bytes=4 * size) == [4, 0, 0]
            assert await sizes(shard, 4, 4, 0, max_bytes=2 * size) == [0, 0, 2]
            limits = {"max_bytes": 3 * size, "partition_max_bytes": 2 * size}
            assert await sizes(shard, 0, 0, 0, **limits) == [2, 1, 0]
            assert await sizes(shard, 0, max_bytes=-5, partition_max_bytes=-5) == [1]

    run(scenario())


def test_the_first_partition_gets_on_when_only_it_is_cold(tmp_path: Path) -> None:
    # It lags with batches above partition_max_bytes while the others always have fresh data.
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            await shard.fill("t", 2, 0)
            shard.forget_cache("t", 0)
            await shard.fill("t", 1, 1, batch_of(b"small"))
            limit = len(BATCH) - 1
            request, version = fetch_request("t", 0, 0, partition_max_bytes=limit)
            found = partitions_of(await shard.client().ask(request, version))
            assert [len(values_of(p)) for p in found] == [1, 1]

    run(scenario())


def test_the_brokers_own_limits_bound_a_reply(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(
            tmp_path, fetch_max_bytes=3 * len(BATCH), reply_bytes_max=65536
        ) as shard:
            await shard.create("t")
            await shard.fill("t", 5)
            reader = shard.client()
            assert len(values_of(await reader.fetch("t", 0))) == 3
            shard.broker.unsent_bytes = 65536 - 4 * len(BATCH)  # half of it is for one reply
            assert len(values_of(await reader.fetch("t", 0))) == 2
            shard.broker.unsent_bytes = 1 << 20
            assert len(values_of(await reader.fetch("t", 0))) == 1, "some progress for everybody"
            shard.broker.unsent_bytes = 0

    run(scenario())


# -- cold reads ----------------------------------------------------------------------------------


def test_cold_records_are_read_from_disk_and_equal_the_cached_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, segment_bytes=65536) as shard:
            await shard.create("t")
            for i in range(30):
                await shard.fill("t", 1, batch=batch_of(b"%d" % i * 3000))
            reader = shard.client()
            cached = records_of(await reader.fetch("t", 0))
            shard.forget_cache("t")
            shard.broker.metrics.fetched_bytes = 0
            parts: list[bytes] = []
            offset = 0
            while offset < 30:
                found = await reader.fetch("t", offset)
                assert found.error_code == 0
                parts.append(records_of(found))
                offset = values_of(found)[-1][0] + 1
            assert b"".join(parts) == cached
            assert shard.disk.reads > 0
            assert shard.broker.metrics.fetched_bytes == len(cached)

    run(scenario())


def test_a_cold_read_does_not_hold_up_other_connections(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.create("u")
            await shard.fill("t", 1)
            await shard.fill("u", 1)
            shard.forget_cache("t")
            shard.disk.reads_wait = asyncio.Event()
            reader, other = shard.client(), shard.client()
            waiting = reader.send(*fetch_request("t", 0))
            behind = reader.send(*fetch_request("u", 0))
            await until(lambda: shard.disk.reads_waiting)
            assert len(values_of(await other.fetch("u", 0))) == 1
            assert reader.order == []
            shard.disk.reads_wait.set()
            await reader.reply(behind)
            assert reader.order == [waiting, behind]

    run(scenario())


def test_an_unreadable_disk_fails_one_partition_of_the_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE, NODE)
            for index in range(3):
                await shard.fill("t", 1, index)
            shard.forget_cache("t", 0)
            shard.forget_cache("t", 2)
            shard.disk.unreadable = "t-0"
            request, version = fetch_request("t", 0, 0, 0)
            found = partitions_of(await shard.client().ask(request, version))
            errors = [ErrorCode(p.error_code) for p in found]
            assert errors == [ErrorCode.KAFKA_STORAGE_ERROR, 0, 0]
            assert [len(records_of(p)) > 0 for p in found] == [False, True, True]

    run(scenario())


def test_damage_under_a_cold_read_is_never_served_and_takes_the_partition_offline(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 1)
            shard.forget_cache("t")
            (path,) = (tmp_path / "t-0").glob("*.wal")
            data = bytearray(path.read_bytes())
            data[data.index(BATCH[61:]) + 5] ^= 1
            path.write_bytes(data)
            reader = shard.client()
            for _ in range(2):
                found = await reader.fetch("t", 0)
                assert found.error_code == ErrorCode.KAFKA_STORAGE_ERROR
                assert records_of(found) == b""
            answer = await reader.produce("t", BATCH)
            assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            assert "a partition went offline" in shard.events

    run(scenario())


def test_a_cold_read_under_which_its_topic_is_deleted_is_answered_with_what_it_read(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t")
            await shard.fill("t", 1)
            shard.forget_cache("t")
            shard.disk.reads_wait = asyncio.Event()
            reader = shard.client()
            waiting = reader.send(*fetch_request("t", 0))
            await until(lambda: shard.disk.reads_waiting)
            await shard.controller.commit(TopicDeleted("t", topic.topic_id))
            shard.disk.reads_wait.set()
            (found,) = partitions_of(await reader.reply(waiting))
            assert found.error_code == 0
            assert records_of(found)[61:] == BATCH[61:]
            assert not reader.closed

    run(scenario())
