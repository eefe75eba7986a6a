"""Produce: what is refused and how, idempotence, and when it is answered.

On a real log: what was accepted is read back, what was refused left no trace.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from struct import pack_into
from typing import Any

import pytest

from kafka_protocol import compression
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import parse_header, verify_crc
from rpk_py.handlers import produce as produce_handler
from rpk_py.metadata.state import ClusterState, TopicConfigsChanged
from tests.broker.connection_fakes import (
    LOCAL,
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
    batch_of,
    produce_request,
    records_of,
    resummed,
    values_of,
)

VERSIONS = range(3, 14)
Make = Callable[[], bytes | None]


def patched(pos: int, kind: str, value: int) -> bytes:
    """A batch with one field of its header changed, and a CRC that holds."""
    batch = bytearray(batch_of(b"value", b"other"))
    pack_into(kind, batch, pos, value)
    return resummed(batch)


def flipped(pos: int) -> bytes:
    """A batch with one bit flipped, CRC untouched."""
    batch = bytearray(batch_of(b"value", b"other"))
    batch[pos] ^= 1
    return bytes(batch)


REFUSALS: list[tuple[str, Make, ErrorCode]] = [
    ("null", lambda: None, ErrorCode.INVALID_RECORD),
    ("empty", lambda: b"", ErrorCode.INVALID_RECORD),
    ("60 bytes", lambda: batch_of(b"value")[:60], ErrorCode.INVALID_RECORD),
    ("cut by one", lambda: batch_of(b"value")[:-1], ErrorCode.INVALID_RECORD),
    ("one byte more", lambda: batch_of(b"value") + b"\0", ErrorCode.INVALID_RECORD),
    ("two batches", lambda: batch_of(b"a") + batch_of(b"b"), ErrorCode.INVALID_RECORD),
    ("magic 0", lambda: patched(16, "b", 0), ErrorCode.INVALID_RECORD),
    ("magic 1", lambda: patched(16, "b", 1), ErrorCode.INVALID_RECORD),
    ("magic 3", lambda: patched(16, "b", 3), ErrorCode.CORRUPT_MESSAGE),
    ("length 0", lambda: patched(8, ">i", 0), ErrorCode.CORRUPT_MESSAGE),
    ("length -13", lambda: patched(8, ">i", -13), ErrorCode.CORRUPT_MESSAGE),
    ("length max", lambda: patched(8, ">i", 2**31 - 1), ErrorCode.INVALID_RECORD),
    ("bit of the CRC", lambda: flipped(20), ErrorCode.CORRUPT_MESSAGE),
    ("bit of the attributes", lambda: flipped(22), ErrorCode.CORRUPT_MESSAGE),
    ("last bit", lambda: flipped(-1), ErrorCode.CORRUPT_MESSAGE),
    ("base offset 1", lambda: batch_of(b"value", base_offset=1), ErrorCode.INVALID_RECORD),
    ("base offset -1", lambda: patched(0, ">q", -1), ErrorCode.INVALID_RECORD),
    ("count 0", lambda: patched(57, ">i", 0), ErrorCode.INVALID_RECORD),
    ("count -1", lambda: patched(57, ">i", -1), ErrorCode.INVALID_RECORD),
    ("count too high", lambda: patched(57, ">i", 3), ErrorCode.INVALID_RECORD),
    ("delta -1", lambda: patched(23, ">i", -1), ErrorCode.INVALID_RECORD),
    ("delta too high", lambda: patched(23, ">i", 2), ErrorCode.INVALID_RECORD),
    ("control", lambda: batch_of(b"value", control=True), ErrorCode.INVALID_RECORD),
    ("transaction", lambda: batch_of(b"v", transactional=True), ErrorCode.INVALID_TXN_STATE),
    ("codec 5", lambda: patched(21, ">h", 5), ErrorCode.INVALID_RECORD),
    ("log append time", lambda: patched(21, ">h", 8), ErrorCode.INVALID_TIMESTAMP),
    ("codec 7", lambda: patched(21, ">h", 7), ErrorCode.INVALID_RECORD),
    ("no sequence", lambda: batch_of(b"v", producer_id=7), ErrorCode.INVALID_RECORD),
    (
        "no epoch",
        lambda: batch_of(b"v", producer_id=7, base_sequence=0),
        ErrorCode.INVALID_PRODUCER_EPOCH,
    ),
]


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_a_batch_that_is_not_sound_is_refused_and_leaves_no_trace(
    tmp_path: Path, make: Make, error: ErrorCode
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            answer = await client.produce("t", make())
            assert (ErrorCode(answer.error_code), answer.base_offset) == (error, -1)
            assert answer.log_append_time_ms == -1
            assert shard.log_of("t").log_end_offset == 0
            assert shard.broker.metrics.produced_batches == 0
            assert len(shard.partition("t").producers) == 0
            good = await client.produce("t", batch_of(b"good"))
            assert (good.error_code, good.base_offset) == (0, 0)

    run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sound_batch_is_stored_and_served_as_it_came_by_every_version(
    tmp_path: Path, version: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t")
            client = shard.client()
            batch = batch_of(b"one", b"two", b"three")
            for i in range(2):
                name = topic.topic_id if version >= 13 else "t"
                answer = await client.produce(name, batch, version=version)
                assert (answer.error_code, answer.base_offset) == (0, 3 * i)
                assert answer.log_append_time_ms == -1
                assert answer.log_start_offset == (0 if version >= 5 else -1)
                assert answer.error_message is None
            stored = records_of(await client.fetch("t", 0))
            assert len(stored) == 2 * len(batch)
            second = stored[len(batch) :]
            assert second[61:] == batch[61:]
            header = parse_header(second)
            assert (header.base_offset, header.partition_leader_epoch) == (3, 3)
            assert verify_crc(second, 0, len(second), header.crc)

    run(scenario())


@pytest.mark.parametrize("codec", range(5))
def test_every_codec_is_stored_unopened_and_zstd_needs_version_7(
    tmp_path: Path, codec: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            batch = batch_of(b"value" * 100, compression=codec)
            old = await client.produce("t", batch, version=6)
            if codec == compression.ZSTD:
                assert old.error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
                assert shard.log_of("t").log_end_offset == 0
                old = await client.produce("t", batch, version=7)
            assert (old.error_code, old.base_offset) == (0, 0)
            assert values_of(await client.fetch("t", 0)) == [(0, b"value" * 100)]

    run(scenario())


def test_max_message_bytes_counts_the_whole_batch_and_follows_the_topic(tmp_path: Path) -> None:
    async def scenario() -> None:
        batch = batch_of(bytes(1000))
        async with running(tmp_path, max_message_bytes=len(batch)) as shard:
            topic = await shard.create("t")
            client = shard.client()
            assert (await client.produce("t", batch)).error_code == 0
            answer = await client.produce("t", batch_of(bytes(1001)))
            assert answer.error_code == ErrorCode.MESSAGE_TOO_LARGE
            assert str(len(batch)) in (answer.error_message or "")
            smaller = {"max.message.bytes": str(len(batch) - 1)}
            await shard.controller.commit(TopicConfigsChanged(topic.topic_id, smaller))
            assert (await client.produce("t", batch)).error_code == ErrorCode.MESSAGE_TOO_LARGE
            await shard.controller.commit(TopicConfigsChanged(topic.topic_id, {}))
            assert (await client.produce("t", batch)).base_offset == 1

    run(scenario())


@pytest.mark.parametrize("acks", [2, -2, 3, 32767])
def test_acks_that_do_not_exist_are_refused(tmp_path: Path, acks: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            answer = await client.produce("t", batch_of(b"v"), acks=acks)
            assert answer.error_code == ErrorCode.INVALID_REQUIRED_ACKS
            assert shard.log_of("t").log_end_offset == 0

    run(scenario())


# -- who leads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_partition_of_another_node_is_refused_with_its_leader(
    tmp_path: Path, version: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t", NODE, OTHER_NODE)
            client = shard.client()
            name = topic.topic_id if version >= 13 else "t"
            request, _ = produce_request(name, batch_of(b"v"), index=1)
            response = await client.ask(request, version)
            (answer,) = response.responses[0].partition_responses
            assert answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            assert (answer.index, answer.base_offset) == (1, -1)
            if version < 10:
                assert answer.current_leader is None
                assert response.node_endpoints == []
                return
            leader = answer.current_leader
            assert (leader.leader_id, leader.leader_epoch) == (OTHER_NODE, 3)
            (node,) = response.node_endpoints
            assert (node.node_id, node.host, node.port) == (OTHER_NODE, "other.example", 9093)

    run(scenario())


def test_a_leader_without_an_address_of_its_own_gets_the_one_the_client_used(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", OTHER_NODE, OTHER_NODE)
            shard.controller.state.nodes[OTHER_NODE].host = None
            data = [PartitionProduceData(i, memoryview(batch_of(b"v"))) for i in (0, 1)]
            request = ProduceRequest(None, -1, 1000, [TopicProduceData("t", bytes(16), data)])
            response = await shard.client().ask(request, 10)
            (node,) = response.node_endpoints
            assert (node.host, node.port) == (LOCAL[0], 9093)

    run(scenario())


@pytest.mark.parametrize(
    ("topic", "index", "version", "error"),
    [
        ("unknown", 0, 9, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("t", 1, 9, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("t", -1, 9, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (b"\7" * 16, 0, 13, ErrorCode.UNKNOWN_TOPIC_ID),
        (bytes(16), 0, 13, ErrorCode.UNKNOWN_TOPIC_ID),
    ],
)
def test_what_does_not_exist_is_refused(
    tmp_path: Path, topic: str | bytes, index: int, version: int, error: ErrorCode
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            answer = await client.produce(topic, batch_of(b"v"), index=index, version=version)
            assert (ErrorCode(answer.error_code), answer.base_offset) == (error, -1)
            assert answer.current_leader is None

    run(scenario())


def test_one_failing_partition_does_not_touch_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("a", NODE, OTHER_NODE, NODE)
            await shard.create("b")
            batches = [batch_of(b"a0"), batch_of(b"a1"), flipped(-1), batch_of(b"a3")]
            rows = [PartitionProduceData(i, memoryview(b)) for i, b in enumerate(batches)]
            twice = [PartitionProduceData(0, memoryview(batch_of(b"b%d" % i))) for i in range(2)]
            topics = [
                TopicProduceData("a", bytes(16), rows),
                TopicProduceData("nowhere", bytes(16), [rows[0]]),
                TopicProduceData("b", bytes(16), twice),
                TopicProduceData("empty", bytes(16), []),
            ]
            client = shard.client()
            response = await client.ask(ProduceRequest(None, -1, 1000, topics), 9)
            answers = [
                (topic.name, p.index, ErrorCode(p.error_code).name, p.base_offset)
                for topic in response.responses
                for p in topic.partition_responses
            ]
            assert answers == [
                ("a", 0, "NONE", 0),
                ("a", 1, "NOT_LEADER_OR_FOLLOWER", -1),
                ("a", 2, "CORRUPT_MESSAGE", -1),
                ("a", 3, "UNKNOWN_TOPIC_OR_PARTITION", -1),
                ("nowhere", 0, "UNKNOWN_TOPIC_OR_PARTITION", -1),
                ("b", 0, "NONE", 0),
                ("b", 0, "NONE", 1),
            ]
            assert [topic.name for topic in response.responses] == ["a", "nowhere", "b", "empty"]
            assert values_of(await client.fetch("b", 0)) == [(0, b"b0"), (1, b"b1")]

    run(scenario())


# -- durability ----------------------------------------------------------------------------------


@pytest.mark.parametrize("acks", [1, -1])
def test_nothing_is_acknowledged_before_it_is_durable(tmp_path: Path, acks: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", NODE, NODE)
            shard.disk.hold = True
            client = shard.client()
            rows = [PartitionProduceData(i, memoryview(batch_of(b"v"))) for i in (0, 1)]
            request = ProduceRequest(None, acks, 1000, [TopicProduceData("t", bytes(16), rows)])
            asked = client.send(request, 9)
            await until(lambda: len(shard.disk.held) == 2)
            await ticks()
            assert client.order == []
            shard.disk.release(1)
            await ticks()
            assert client.order == [], "one of two partitions is not durable"
            marks = sorted(shard.partition("t", i).high_watermark for i in (0, 1))
            assert marks == [0, 1]
            shard.disk.release()
            response = await client.reply(asked)
            answers = response.responses[0].partition_responses
            assert [(p.error_code, p.base_offset) for p in answers] == [(0, 0), (0, 0)]

    run(scenario())


def test_with_write_caching_the_reply_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", write_caching="true", flush_ms="1000")
            await shard.create("u")
            shard.disk.hold = True
            client, other = shard.client(), shard.client()
            late = other.send(*produce_request("u", batch_of(b"durable")))
            answer = await client.produce("t", batch_of(b"cached"))
            assert (answer.error_code, answer.base_offset) == (0, 0)
            log = shard.log_of("t")
            assert (log.durable_offset, log.log_end_offset) == (0, 1)
            assert values_of(await client.fetch("t", 0)) == [(0, b"cached")]
            assert other.order == []
            await until(lambda: shard.disk.held)
            shard.disk.release()
            await other.reply(late)
            assert log.durable_offset == 0
            shard.advance(1.1)
            await until(lambda: log.durable_offset == 1)

    run(scenario())


def test_a_failing_disk_is_told_once_to_each_that_waits_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[tuple[object, ErrorCode]] = []
    real_settle = produce_handler.PendingProduce.settle

    def settle(self: Any, token: object, error: ErrorCode) -> None:
        settled.append((token, error))
        real_settle(self, token, error)

    monkeypatch.setattr(produce_handler.PendingProduce, "settle", settle)

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("bad")
            await shard.create("good")
            clients = [shard.client() for _ in range(3)]
            await clients[0].produce("bad", batch_of(b"before"))
            settled.clear()
            shard.disk.hold = True
            shard.disk.broken = "bad-0"
            asked = [client.send(*both(b"v")) for client in clients for _ in range(2)]
            await until(lambda: len(shard.disk.held) == 2)
            await ticks()
            shard.disk.release()
            await until(lambda: all(len(c.order) == 2 + (c is clients[0]) for c in clients))
            for client in clients:
                for _, message in client.replies[-2:]:
                    answers = [t.partition_responses[0] for t in message.responses]
                    assert answers[0].error_code == ErrorCode.KAFKA_STORAGE_ERROR
                    assert answers[0].base_offset == -1
                    assert answers[1].error_code == 0
            assert len(asked) == 6
            assert len({id(token) for token, _ in settled}) == len(settled) == 12
            answer = await clients[0].produce("bad", batch_of(b"after"))
            assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            assert "bad-0" in (answer.error_message or "")
            assert (await clients[0].produce("good", batch_of(b"after"))).base_offset == 6
            assert shard.events.count("a partition went offline") == 1
            assert shard.partition("bad").high_watermark == 1

    def both(value: bytes) -> tuple[ProduceRequest, int]:
        rows = [PartitionProduceData(0, memoryview(batch_of(value)))]
        topics = [TopicProduceData(name, bytes(16), rows) for name in ("bad", "good")]
        return ProduceRequest(None, -1, 1000, topics), 9

    run(scenario())


# -- idempotence ---------------------------------------------------------------------------------


def sequenced(sequence: int, count: int = 1, epoch: int = 0, producer_id: int = 5) -> bytes:
    values = [b"%d" % (sequence + i) for i in range(count)]
    return batch_of(*values, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)


def test_a_duplicate_is_answered_with_the_offset_of_the_original(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            for i in range(7):
                assert (await client.produce("t", sequenced(2 * i, 2))).base_offset == 2 * i
            for i in range(2, 7):  # the window of five
                answer = await client.produce("t", sequenced(2 * i, 2))
                assert (answer.error_code, answer.base_offset) == (0, 2 * i)
            assert shard.broker.metrics.duplicate_batches == 5
            assert shard.log_of("t").log_end_offset == 14
            old = await client.produce("t", sequenced(2, 2))
            assert old.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    run(scenario())


def test_a_duplicate_is_answered_only_when_the_original_is_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            shard.disk.hold = True
            first, second = shard.client(), shard.client()
            asked = first.send(*produce_request("t", sequenced(0)))
            await until(lambda: shard.disk.held)
            first.vanish()  # the client gives up and connects anew
            await ticks()
            again = second.send(*produce_request("t", sequenced(0)))
            newer = second.send(*produce_request("t", sequenced(1)))
            await ticks()
            assert second.order == []
            assert shard.log_of("t").log_end_offset == 2
            shard.disk.release(1)
            response = await second.reply(again)
            (answer,) = response.responses[0].partition_responses
            assert (answer.error_code, answer.base_offset) == (0, 0)
            assert newer not in second.order
            shard.disk.release()
            await second.reply(newer)
            assert asked not in first.order

    run(scenario())


def test_a_duplicate_of_a_lost_batch_is_lost_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            shard.disk.hold = True
            shard.disk.broken = "t-0"
            client = shard.client()
            for _ in range(2):
                client.send(*produce_request("t", sequenced(0)))
            await until(lambda: shard.disk.held)
            shard.disk.release()
            await until(lambda: len(client.order) == 2)
            for _, message in client.replies:
                (answer,) = message.responses[0].partition_responses
                assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
                assert answer.base_offset == -1

    run(scenario())


def test_gaps_old_epochs_and_new_epochs_are_judged_as_kafka_does(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()

            async def error_of(batch: bytes) -> ErrorCode:
                return ErrorCode((await client.produce("t", batch)).error_code)

            gap, fenced = ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode.INVALID_PRODUCER_EPOCH
            assert await error_of(sequenced(0, 3)) == 0
            assert await error_of(sequenced(4)) == gap
            assert await error_of(sequenced(0, 2)) == gap, "neither new nor one of the window"
            assert await error_of(sequenced(3)) == 0
            assert await error_of(sequenced(1, epoch=1)) == gap, "a new epoch starts at 0"
            assert await error_of(sequenced(0, epoch=1)) == 0
            assert await error_of(sequenced(4)) == fenced
            assert await error_of(sequenced(70, producer_id=6)) == 0, "unknown: any sequence"
            assert shard.log_of("t").log_end_offset == 6

    run(scenario())


def test_idempotence_survives_a_restart(tmp_path: Path) -> None:
    async def before() -> ClusterState:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            for i in range(3):
                await client.produce("t", sequenced(i))
            return shard.state

    async def after(state: ClusterState) -> None:
        async with running(tmp_path, state=state) as shard:
            client = shard.client()
            again = await client.produce("t", sequenced(2))
            assert (again.error_code, again.base_offset) == (0, 2)
            gap = await client.produce("t", sequenced(4))
            assert gap.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            assert (await client.produce("t", sequenced(3))).base_offset == 3

    run(after(run(before())))


# -- log append time -----------------------------------------------------------------------------


def test_log_append_time_is_written_with_a_crc_that_holds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t", message_timestamp_type="LogAppendTime")
            client = shard.client()
            times = await produce_twice(shard, client)
            stored = records_of(await client.fetch("t", 0))
            header = parse_header(stored)
            assert (header.timestamp_type, header.max_timestamp) == (1, times[0])
            assert verify_crc(stored, 0, header.size_bytes, header.crc)
            assert values_of(await client.fetch("t", 0)) == [(0, b"0"), (1, b"1")]
            found = await shard.log_of("t").offset_for_timestamp(times[0], 2)
            assert found == (0, times[0]), "it is found by the time it was given"
            await shard.controller.commit(TopicConfigsChanged(topic.topic_id, {}))
            answer = await client.produce("t", sequenced(2))
            assert answer.log_append_time_ms == -1

    async def produce_twice(shard: Shard, client: Client) -> list[int]:
        times = []
        for i in range(2):
            before_ms = shard.broker.clock_ms()
            answer = await client.produce("t", sequenced(i))
            assert before_ms <= answer.log_append_time_ms <= shard.broker.clock_ms()
            times.append(answer.log_append_time_ms)
        again = await client.produce("t", sequenced(0))
        assert (again.base_offset, again.log_append_time_ms) == (0, times[0])
        return times

    run(scenario())
