"""Produce and consume through aiokafka; each function runs an event loop of its own.

aiokafka 0.14 asks for ApiVersions 0 only, so it never sees what later versions add, and sends the
records of one partition in one request at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.clients.broker import RunningBroker
from tests.clients.records import MIB, Rec

SEND_S = 20.0
READ_S_MAX = 20.0


def make_producer(broker: RunningBroker, **config: Any) -> AIOKafkaProducer:
    """A producer, to be made and started in the loop that uses it."""
    defaults = {"bootstrap_servers": broker.address, "max_request_size": 8 * MIB}
    return AIOKafkaProducer(**{**defaults, **config})


def produce(
    broker: RunningBroker, topic: str, records: Iterable[Rec], partition: int = 0, **config: Any
) -> list[int]:
    """Write records; returns their offsets in order. Raises the first error."""

    async def run() -> list[int]:
        async with make_producer(broker, **config) as producer:
            return await produce_with(producer, topic, records, partition)

    return asyncio.run(run())


async def produce_with(
    producer: AIOKafkaProducer, topic: str, records: Iterable[Rec], partition: int = 0
) -> list[int]:
    """The same through a producer that is started."""
    sent = [
        await producer.send(
            topic,
            record.value,
            record.key,
            partition,
            record.timestamp_ms,
            list(record.headers),
        )
        for record in records
    ]
    answers = await asyncio.wait_for(asyncio.gather(*sent), SEND_S)
    return [answer.offset if answer is not None else -1 for answer in answers]


def make_consumer(broker: RunningBroker, **config: Any) -> AIOKafkaConsumer:
    """A consumer without a group, to be made and started in the loop that uses it."""
    defaults = {
        "bootstrap_servers": broker.address,
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
        "fetch_max_wait_ms": 20,
    }
    return AIOKafkaConsumer(**{**defaults, **config})


def consume(
    broker: RunningBroker, topic: str, start: int = 0, partition: int = 0, **config: Any
) -> list[tuple[int, Rec]]:
    """Read from an offset to the end of the partition: (offset, record)."""

    async def run() -> list[tuple[int, Rec]]:
        async with make_consumer(broker, **config) as consumer:
            assigned = TopicPartition(topic, partition)
            consumer.assign([assigned])
            consumer.seek(assigned, start)
            return await read_to_end(consumer, assigned)

    return asyncio.run(run())


async def read_to_end(
    consumer: AIOKafkaConsumer, assigned: TopicPartition
) -> list[tuple[int, Rec]]:
    """What an assigned consumer gets until the end of its partition as it is now."""
    end = (await consumer.end_offsets([assigned]))[assigned]
    deadline = time.monotonic() + READ_S_MAX
    read: list[tuple[int, Rec]] = []
    while True:
        for message in (await consumer.getmany(assigned, timeout_ms=20)).get(assigned, []):
            record = Rec(message.key, message.value, message.headers, message.timestamp)
            read.append((message.offset, record))
        if await consumer.position(assigned) == end:
            return read
        assert time.monotonic() < deadline, f"not at {end} within {READ_S_MAX:g} s"
