"""kafka-python 3 against a real broker: idempotent unless told otherwise, newest API versions."""

from __future__ import annotations

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError, MessageSizeTooLargeError, OffsetOutOfRangeError

from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import CODECS, FIRST_MS, MIB, STEP_MS, Rec, numbered, plain, sample
from tests.clients.topics import create_topic, new_topic_name
from tests.clients.via_kafka_python import (
    consume,
    make_consumer,
    make_producer,
    produce,
    produce_with,
    read_to_end,
)
from tests.clients.wire_client import stored_batches

BIG = {"max.message.bytes": str(2 * MIB)}


@pytest.mark.parametrize("acks", [0, 1, "all"])
def test_it_reads_what_it_wrote(broker: RunningBroker, acks: int | str) -> None:
    topic = create_topic(broker)
    records = sample(200, null_header=False)
    offsets = produce(broker, topic, records, acks=acks, enable_idempotence=False)
    if acks == 0:  # the broker tells no offsets, and may still be reading what was sent
        wait_until(lambda: len(consume(broker, topic)) == 200, "the records are there")
    else:
        assert offsets == list(range(200))
    assert consume(broker, topic) == numbered(records)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("idempotent", [False, True])
def test_every_compression_is_stored_as_it_came(
    broker: RunningBroker, codec: str, idempotent: bool
) -> None:
    topic = create_topic(broker)
    config = {
        "compression_type": None if codec == "none" else codec,
        "enable_idempotence": idempotent,
    }
    records = [Rec(b"shrinks", b"x" * 500), *sample(30, null_header=False)]
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
    producer = make_producer(broker, enable_idempotence=False)
    try:
        with pytest.raises(MessageSizeTooLargeError):
            produce_with(producer, topic, [Rec(None, bytes(MIB))])
        assert produce_with(producer, topic, plain(1)) == [0]
    finally:
        producer.close()


def test_consuming_starts_where_it_seeks(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, plain(50))
    everything = numbered(plain(50))
    assigned = TopicPartition(topic, 0)
    consumer = make_consumer(broker)
    try:
        consumer.assign([assigned])
        consumer.seek_to_beginning(assigned)
        assert read_to_end(consumer, assigned) == everything
        consumer.seek_to_end(assigned)
        assert consumer.position(assigned) == 50
        assert read_to_end(consumer, assigned) == []
        consumer.seek(assigned, 33)
        assert read_to_end(consumer, assigned) == everything[33:]
        found = consumer.offsets_for_times({assigned: FIRST_MS + 40 * STEP_MS - 1})[assigned]
        assert (found.offset, found.timestamp) == (40, FIRST_MS + 40 * STEP_MS)
        consumer.seek(assigned, found.offset)
        assert read_to_end(consumer, assigned) == everything[40:]
        later = consumer.offsets_for_times({assigned: FIRST_MS + 50 * STEP_MS})[assigned]
        assert later is None
        assert consumer.beginning_offsets([assigned]) == {assigned: 0}
        assert consumer.end_offsets([assigned]) == {assigned: 50}
    finally:
        consumer.close()


def test_an_offset_outside_the_log_is_an_error(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, plain(3))
    with pytest.raises(OffsetOutOfRangeError):
        consume(broker, topic, 4)


def test_a_consumer_at_the_end_gets_what_is_written_later(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    assigned = TopicPartition(topic, 0)
    consumer = make_consumer(broker, fetch_max_wait_ms=10_000)
    try:
        consumer.assign([assigned])
        consumer.seek(assigned, 0)
        for i in range(3):
            produce(broker, topic, plain(1, f"late {i}"))
            assert [offset for offset, _ in read_to_end(consumer, assigned)] == [i]
    finally:
        consumer.close()


def test_a_topic_with_log_append_time_stamps_records_itself(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs={"message.timestamp.type": "LogAppendTime"})
    producer = make_producer(broker, compression_type="gzip")
    try:
        metadata = producer.send(topic, b"v", timestamp_ms=FIRST_MS).get(20)
    finally:
        producer.close()
    assert metadata.timestamp > FIRST_MS
    [(_, record)] = consume(broker, topic)
    assert record.timestamp_ms == metadata.timestamp


def test_topics_are_created_described_and_deleted(broker: RunningBroker) -> None:
    topic = new_topic_name("admin")
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    try:
        admin.create_topics({topic: {"num_partitions": 3, "replication_factor": 1}})
        assert topic in admin.list_topics()
        [described] = admin.describe_topics([topic])
        partitions = described["partitions"]
        assert sorted(partition["partition_index"] for partition in partitions) == [0, 1, 2]
        with pytest.raises(KafkaError, match="already exists"):
            admin.create_topics({topic: {"num_partitions": 3, "replication_factor": 1}})
        admin.delete_topics([topic])
        assert topic not in admin.list_topics()
        cluster = admin.describe_cluster()
        assert [node["port"] for node in cluster["brokers"]] == [broker.port]
    finally:
        admin.close()


def test_a_topic_is_created_by_its_first_record(broker: RunningBroker) -> None:
    topic = new_topic_name("automatic")
    assert produce(broker, topic, plain(3)) == [0, 1, 2]
    assert consume(broker, topic) == numbered(plain(3))
