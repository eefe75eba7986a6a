"""aiokafka against a real broker: the client that lives in an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError, OffsetOutOfRangeError

from tests.clients.broker import RunningBroker
from tests.clients.records import CODECS, FIRST_MS, MIB, STEP_MS, Rec, numbered, plain, sample
from tests.clients.topics import create_topic, new_topic_name
from tests.clients.via_aiokafka import (
    consume,
    make_consumer,
    make_producer,
    produce,
    produce_with,
    read_to_end,
)
from tests.clients.wire_client import stored_batches

BIG = {"max.message.bytes": str(2 * MIB)}


@pytest.mark.parametrize("acks", [1, "all"])
def test_it_reads_what_it_wrote(broker: RunningBroker, acks: int | str) -> None:
    topic = create_topic(broker)
    assert produce(broker, topic, sample(200), acks=acks) == list(range(200))
    assert consume(broker, topic) == numbered(sample(200))


def test_what_is_sent_with_acks_0_arrives(broker: RunningBroker) -> None:
    topic = create_topic(broker)

    async def run() -> None:
        # Not closed before all is there: aiokafka leaves what its socket has not taken to a loop
        # that ends.
        async with make_producer(broker, acks=0) as producer, make_consumer(broker) as consumer:
            await produce_with(producer, topic, sample(200))
            assigned = TopicPartition(topic, 0)
            consumer.assign([assigned])
            consumer.seek(assigned, 0)
            messages = [await asyncio.wait_for(consumer.getone(), 20) for _ in range(200)]
        assert [message.offset for message in messages] == list(range(200))

    asyncio.run(run())
    assert consume(broker, topic) == numbered(sample(200))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("idempotent", [False, True])
def test_every_compression_is_stored_as_it_came(
    broker: RunningBroker, codec: str, idempotent: bool
) -> None:
    topic = create_topic(broker)
    config: dict[str, Any] = {
        "compression_type": None if codec == "none" else codec,
        "enable_idempotence": idempotent,
    }
    records = [Rec(b"shrinks", b"x" * 500), *sample(30)]
    assert produce(broker, topic, records, linger_ms=5, **config) == list(range(31))
    assert consume(broker, topic) == numbered(records)
    headers = [batch.header for batch in stored_batches(broker, topic)]
    # A batch that would not shrink is left as it is, so "none" may be among them.
    assert {CODECS[header.compression] for header in headers} - {"none"} == {codec} - {"none"}
    assert all((header.producer_id >= 0) == idempotent for header in headers)


def test_a_record_of_one_mib_comes_back_whole(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs=BIG)
    record = Rec(b"big", bytes(range(256)) * (MIB // 256))
    produce(broker, topic, [record, *plain(2)])
    assert consume(broker, topic) == numbered([record, *plain(2)])
    small = {"max_partition_fetch_bytes": 1_000}
    assert consume(broker, topic, **small) == numbered([record, *plain(2)])


def test_a_record_above_the_limit_is_refused_and_the_next_is_taken(broker: RunningBroker) -> None:
    topic = create_topic(broker)

    async def run() -> None:
        async with make_producer(broker) as producer:
            with pytest.raises(MessageSizeTooLargeError):
                await produce_with(producer, topic, [Rec(None, bytes(MIB))])
            assert await produce_with(producer, topic, plain(1)) == [0]

    asyncio.run(run())


def test_consuming_starts_where_it_seeks(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, plain(50))
    everything = numbered(plain(50))
    assigned = TopicPartition(topic, 0)

    async def run() -> None:
        async with make_consumer(broker) as consumer:
            consumer.assign([assigned])
            await consumer.seek_to_beginning(assigned)
            assert await read_to_end(consumer, assigned) == everything
            await consumer.seek_to_end(assigned)
            assert await consumer.position(assigned) == 50
            assert await read_to_end(consumer, assigned) == []
            consumer.seek(assigned, 33)
            assert await read_to_end(consumer, assigned) == everything[33:]
            wanted = {assigned: FIRST_MS + 40 * STEP_MS - 1}
            found = (await consumer.offsets_for_times(wanted))[assigned]
            assert found is not None
            assert (found.offset, found.timestamp) == (40, FIRST_MS + 40 * STEP_MS)
            wanted = {assigned: FIRST_MS + 50 * STEP_MS}
            assert await consumer.offsets_for_times(wanted) == {assigned: None}
            assert await consumer.beginning_offsets([assigned]) == {assigned: 0}
            assert await consumer.end_offsets([assigned]) == {assigned: 50}

    asyncio.run(run())


def test_an_offset_outside_the_log_is_an_error(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, plain(3))
    with pytest.raises(OffsetOutOfRangeError):
        consume(broker, topic, 4)


def test_a_consumer_at_the_end_gets_what_is_written_later(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    assigned = TopicPartition(topic, 0)

    async def run() -> None:
        async with (
            make_consumer(broker, fetch_max_wait_ms=10_000) as consumer,
            make_producer(broker) as producer,
        ):
            consumer.assign([assigned])
            consumer.seek(assigned, 0)
            for i in range(3):
                waiting = asyncio.ensure_future(consumer.getone(assigned))
                await produce_with(producer, topic, plain(1, f"late {i}"))
                message = await asyncio.wait_for(waiting, 20)
                assert (message.offset, message.value) == (i, f"late {i} 0".encode())

    asyncio.run(run())


def test_a_topic_with_log_append_time_stamps_records_itself(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs={"message.timestamp.type": "LogAppendTime"})

    async def run() -> int:
        async with make_producer(broker, compression_type="gzip") as producer:
            sent = await producer.send_and_wait(topic, b"v", timestamp_ms=FIRST_MS)
            return int(sent.timestamp)

    stamp = asyncio.run(run())
    assert stamp > FIRST_MS
    [(_, record)] = consume(broker, topic)
    assert record.timestamp_ms == stamp


def test_a_topic_is_created_by_its_first_record(broker: RunningBroker) -> None:
    topic = new_topic_name("automatic")
    assert produce(broker, topic, plain(3)) == [0, 1, 2]
    assert consume(broker, topic) == numbered(plain(3))
