"""Produce and consume through confluent-kafka, which is librdkafka."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import Rec

FLUSH_S = 20.0
# For consumers that outlive brokers: where all brokers are down, librdkafka begins anew with the
# bootstrap servers, and deadlocks for good while an OffsetForLeaderEpoch is in flight
# (confluentinc/librdkafka#5476, seen with 2.16.1).
NO_REBOOTSTRAP = {"metadata.recovery.strategy": "none"}


def make_producer(broker: RunningBroker, **config: Any) -> Producer:
    """A producer; config names are given with underscores for dots."""
    dotted = {name.replace("_", "."): value for name, value in config.items()}
    return Producer({"bootstrap.servers": broker.address, "linger.ms": 2, **dotted})


def produce(
    broker: RunningBroker, topic: str, records: Iterable[Rec], partition: int = 0, **config: Any
) -> list[int | None]:
    """Write records; returns their offsets in order. Raises the first delivery's error."""
    return produce_with(make_producer(broker, **config), topic, records, partition)


def produce_with(
    producer: Producer, topic: str, records: Iterable[Rec], partition: int = 0
) -> list[int | None]:
    """The same through a producer that exists."""
    offsets: list[int | None] = []
    errors: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            errors.append(error)
        offsets.append(message.offset())

    for record in records:
        producer.produce(
            topic,
            record.value,
            record.key,
            partition,
            headers=list(record.headers),
            timestamp=record.timestamp_ms,
            on_delivery=delivered,
        )
    left = producer.flush(FLUSH_S)
    assert left == 0, f"{left} records are not acknowledged"
    assert not errors, errors
    return offsets


def make_consumer(broker: RunningBroker, **config: Any) -> Consumer:
    """A consumer without a group that knows when it is at the end."""
    dotted = {name.replace("_", "."): value for name, value in config.items()}
    return Consumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": "unused",  # the client asks for one; assignment needs no group
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
            "auto.offset.reset": "error",
            **dotted,
        }
    )


def consume(
    broker: RunningBroker, topic: str, start: int = 0, partition: int = 0, **config: Any
) -> list[tuple[int, Rec]]:
    """Read from an offset to the end of the partition: (offset, record)."""
    consumer = make_consumer(broker, **config)
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        return read_to_end(consumer)
    finally:
        consumer.close()


def read_to_end(consumer: Consumer) -> list[tuple[int, Rec]]:
    """What an assigned consumer gets until the end of its partition."""
    read: list[tuple[int, Rec]] = []

    def at_end() -> bool:
        for message in consumer.consume(1_000, timeout=0.02):
            error = message.error()
            if error is None:
                read.append(_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                return True
            else:
                raise AssertionError(error)
        return False

    wait_until(at_end, "the end of the partition")
    return read


def read_count(consumer: Consumer, count: int) -> list[tuple[int, Rec]]:
    """The next `count` records of an assigned consumer, past any end or passing error."""
    read: list[tuple[int, Rec]] = []

    def enough() -> bool:
        for message in consumer.consume(count - len(read), timeout=0.02):
            if message.error() is None:
                read.append(_record(message))
        return len(read) >= count

    wait_until(enough, f"{count} records")
    return read


def _record(message: Message) -> tuple[int, Rec]:
    offset = message.offset()
    assert offset is not None
    headers: Sequence[tuple[str, Any]] = message.headers() or ()  # type: ignore[assignment]
    record = Rec(message.key(), message.value(), tuple(headers), message.timestamp()[1])
    return offset, record
