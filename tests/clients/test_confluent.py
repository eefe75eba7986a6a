"""confluent-kafka (librdkafka) against a real broker."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import CODECS, FIRST_MS, MIB, STEP_MS, Rec, numbered, plain, sample
from tests.clients.topics import create_topic
from tests.clients.via_confluent import (
    consume,
    make_consumer,
    make_producer,
    produce,
    produce_with,
    read_count,
)
from tests.clients.wire_client import stored_batches

BIG = {"max.message.bytes": str(2 * MIB)}
OFFSET_BEGINNING = -2
OFFSET_END = -1


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_it_reads_what_it_wrote(broker: RunningBroker, acks: str) -> None:
    topic = create_topic(broker)
    offsets = produce(broker, topic, sample(200), acks=acks, batch_num_messages=17)
    assert offsets == ([None] * 200 if acks == "0" else list(range(200)))
    if acks == "0":  # the broker may still be reading what was sent
        wait_until(lambda: len(consume(broker, topic)) == 200, "the records are there")
    assert consume(broker, topic) == numbered(sample(200))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("idempotent", [False, True])
def test_every_compression_is_stored_as_it_came(
    broker: RunningBroker, codec: str, idempotent: bool
) -> None:
    topic = create_topic(broker)
    config = {"compression_codec": codec, "enable_idempotence": idempotent}
    assert produce(broker, topic, sample(50), **config) == list(range(50))
    assert consume(broker, topic) == numbered(sample(50))
    headers = [batch.header for batch in stored_batches(broker, topic)]
    assert {CODECS[header.compression] for header in headers} == {codec}
    assert all((header.producer_id >= 0) == idempotent for header in headers)


def test_records_of_many_partitions_stay_apart(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=5)
    producer = make_producer(broker, enable_idempotence=True)
    for partition in range(5):
        produce_with(producer, topic, plain(20, f"p{partition}"), partition)
    for partition in range(5):
        read = consume(broker, topic, partition=partition)
        assert read == numbered(plain(20, f"p{partition}"))


def test_a_record_of_one_mib_comes_back_whole(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs=BIG)
    record = Rec(b"big", bytes(range(256)) * (MIB // 256))
    produce(broker, topic, [record, *plain(2)], message_max_bytes=2 * MIB)
    assert consume(broker, topic) == numbered([record, *plain(2)])
    small = {"fetch_message_max_bytes": 1_000, "fetch_max_bytes": 2 * MIB}
    assert consume(broker, topic, **small) == numbered([record, *plain(2)])


def test_a_record_above_the_limit_is_refused_and_the_next_is_taken(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    producer = make_producer(broker, message_max_bytes=2 * MIB)
    with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
        produce_with(producer, topic, [Rec(None, bytes(MIB))])
    assert produce_with(producer, topic, plain(1)) == [0]


def test_consuming_starts_where_the_assignment_says(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, plain(50), batch_num_messages=7)
    everything = numbered(plain(50))
    assert consume(broker, topic, OFFSET_BEGINNING) == everything
    assert consume(broker, topic, OFFSET_END) == []
    assert consume(broker, topic, 33) == everything[33:]
    assert consume(broker, topic, 50) == []


def test_a_consumer_at_the_end_gets_what_is_written_later(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    consumer = make_consumer(broker, fetch_wait_max_ms=10_000)
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        for i in range(5):
            wait_until(lambda: broker.metrics()["rpk_fetch_waiters"], "a long poll")
            produce(broker, topic, plain(1, f"late {i}"))
            assert [offset for offset, _ in read_count(consumer, 1)] == [i]
    finally:
        consumer.close()


def test_an_offset_outside_the_log_is_an_error(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, plain(3))
    with pytest.raises(AssertionError, match="out of range"):
        consume(broker, topic, 4)


def test_offsets_are_found_by_timestamp(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, plain(50), batch_num_messages=7)
    consumer = make_consumer(broker)

    def offset_at(timestamp_ms: int) -> int:
        [found] = consumer.offsets_for_times([TopicPartition(topic, 0, timestamp_ms)], timeout=20)
        return int(found.offset)

    try:
        assert offset_at(0) == 0
        for i in (0, 6, 7, 31, 49):
            assert offset_at(FIRST_MS + i * STEP_MS) == i
            assert offset_at(FIRST_MS + i * STEP_MS - 1) == i
        assert offset_at(FIRST_MS + 50 * STEP_MS) == OFFSET_END
        assert (
            consume(broker, topic, offset_at(FIRST_MS + 40 * STEP_MS)) == numbered(plain(50))[40:]
        )
    finally:
        consumer.close()


def test_watermarks_tell_both_ends(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    consumer = make_consumer(broker)
    try:
        assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20) == (0, 0)
        produce(broker, topic, plain(9))
        assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20) == (0, 9)
    finally:
        consumer.close()


def test_a_topic_with_log_append_time_stamps_records_itself(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs={"message.timestamp.type": "LogAppendTime"})
    produce(broker, topic, plain(10), compression_codec="zstd")
    read = consume(broker, topic)
    assert [record.value for _, record in read] == [record.value for record in plain(10)]
    times = {record.timestamp_ms for _, record in read}
    assert min(times) > FIRST_MS + 10 * STEP_MS  # the clock's time, and one for the batch
    assert len(times) == 1


def test_crcs_hold_when_the_consumer_checks_them(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, sample(20), compression_codec="lz4")
    assert consume(broker, topic, check_crcs=True) == numbered(sample(20))


def test_the_cluster_is_described(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=2)
    admin = AdminClient({"bootstrap.servers": broker.address})
    metadata = admin.list_topics(timeout=20)
    assert [(node.host, node.port) for node in metadata.brokers.values()] == [
        ("127.0.0.1", broker.port)
    ]
    assert sorted(metadata.topics[topic].partitions) == [0, 1]
    cluster = admin.describe_cluster().result(timeout=20)
    assert cluster.cluster_id == metadata.cluster_id
    assert cluster.controller.id == 0
    assert [node.port for node in cluster.nodes] == [broker.port]
    [described] = admin.describe_topics(TopicCollection([topic])).values()
    assert len(described.result(timeout=20).partitions) == 2


def test_describing_an_unknown_topic_is_an_error(broker: RunningBroker) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    [missing] = admin.describe_topics(TopicCollection(["no-such-topic"])).values()
    with pytest.raises(KafkaException) as failure:
        missing.result(timeout=20)
    assert failure.value.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
