"""Produce and consume through kafka-python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import MIB, Rec

SEND_S = 20.0


def make_producer(broker: RunningBroker, **config: Any) -> KafkaProducer:
    """A producer; kafka-python 3 has idempotence on unless told otherwise."""
    defaults = {"bootstrap_servers": broker.address, "max_request_size": 8 * MIB}
    return KafkaProducer(**{**defaults, **config})


def produce(
    broker: RunningBroker, topic: str, records: Iterable[Rec], partition: int = 0, **config: Any
) -> list[int]:
    """Write records; returns their offsets in order. Raises the first error."""
    producer = make_producer(broker, **config)
    try:
        return produce_with(producer, topic, records, partition)
    finally:
        producer.close()


def produce_with(
    producer: KafkaProducer, topic: str, records: Iterable[Rec], partition: int = 0
) -> list[int]:
    """The same through a producer that exists."""
    futures = [
        producer.send(
            topic,
            record.value,
            record.key,
            list(record.headers),
            partition,
            record.timestamp_ms,
        )
        for record in records
    ]
    return [future.get(SEND_S).offset for future in futures]


def make_consumer(broker: RunningBroker, **config: Any) -> KafkaConsumer:
    """A consumer without a group."""
    defaults = {
        "bootstrap_servers": broker.address,
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
        "fetch_max_wait_ms": 20,
    }
    return KafkaConsumer(**{**defaults, **config})


def consume(
    broker: RunningBroker, topic: str, start: int = 0, partition: int = 0, **config: Any
) -> list[tuple[int, Rec]]:
    """Read from an offset to the end of the partition: (offset, record)."""
    consumer = make_consumer(broker, **config)
    try:
        assigned = TopicPartition(topic, partition)
        consumer.assign([assigned])
        consumer.seek(assigned, start)
        return read_to_end(consumer, assigned)
    finally:
        consumer.close()


def read_to_end(consumer: KafkaConsumer, assigned: TopicPartition) -> list[tuple[int, Rec]]:
    """What an assigned consumer gets until the end of its partition as it is now."""
    end = consumer.end_offsets([assigned])[assigned]
    read: list[tuple[int, Rec]] = []

    def at_end() -> bool:
        for message in consumer.poll(timeout_ms=20).get(assigned, []):
            headers = tuple((name, value) for name, value in message.headers)
            record = Rec(message.key, message.value, headers, message.timestamp)
            read.append((message.offset, record))
        return bool(consumer.position(assigned) >= end)

    wait_until(at_end, "the end of the partition")
    return read
