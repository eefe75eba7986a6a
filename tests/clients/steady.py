"""Clients that go on by themselves: writers and readers of each library, a thread each.

A writer writes 0, 1, 2, ... to every partition, idempotent and a few in flight; a reader reads all
partitions from their beginning. Both run until they are told to stop, whatever happens to the
broker meanwhile, and keep every error that their library passes on to its user.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import aiokafka
import confluent_kafka
import kafka
from kafka.errors import UnknownBrokerIdError

from tests.clients import via_confluent
from tests.clients.broker import RunningBroker, wait_until

IN_FLIGHT_MAX = 20  # records of one partition
TURN_S = 0.005
END_S_MAX = 30.0
# The clients' own waits are for brokers far away.
CONFLUENT_RECONNECT = {
    "reconnect.backoff.ms": 10,
    "reconnect.backoff.max.ms": 50,
    "log_level": 2,  # not every connection that is refused
}
KAFKA_PYTHON_RECONNECT = {
    "reconnect_backoff_ms": 10,
    "reconnect_backoff_max_ms": 50,
    "retry_backoff_ms": 20,
}


class Client(threading.Thread, ABC):
    """A library at work on `partitions` partitions of a topic; a context manager.

    seen    of each partition: (offset, number), in the order in which the library told them
    times   of each partition: when, by the monotonic clock
    errors  what went wrong, in words
    """

    def __init__(
        self, broker: RunningBroker, topic: str, partitions: int, bootstrap: int = 0
    ) -> None:
        super().__init__(daemon=True)
        self.topic = topic
        self.partitions = partitions
        self.address = broker.addresses[bootstrap]
        self.seen: list[list[tuple[int, int]]] = [[] for _ in range(partitions)]
        self.times: list[list[float]] = [[] for _ in range(partitions)]
        self.errors: list[str] = []
        self.stop_wanted = threading.Event()

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self.stop_wanted.set()
        self.join(END_S_MAX)  # only a test that passes so far can fail for this
        assert kind is not None or not self.is_alive(), f"{self} did not end"

    def run(self) -> None:
        """The thread."""
        try:
            self.work()
        except Exception as error:
            self.errors.append(repr(error))

    @abstractmethod
    def work(self) -> None:
        """Until `stop_wanted`."""

    def note(self, partition: int, offset: int, number: int) -> None:
        """The library told of a record."""
        self.seen[partition].append((offset, number))
        self.times[partition].append(time.monotonic())

    def counts(self) -> list[int]:
        """How many records of each partition the library has told of."""
        return [len(seen) for seen in self.seen]

    def wait_for(self, count: int) -> None:
        """Return when every partition has `count` records. Raises AssertionError."""
        self._wait([count] * self.partitions)

    def wait_for_more(self, more: int = 1) -> None:
        """Return when every partition has `more` records than now. Raises AssertionError."""
        self._wait([count + more for count in self.counts()])

    def _wait(self, wanted: list[int]) -> None:
        def came() -> bool:
            return bool(self.errors) or all(map(int.__ge__, self.counts(), wanted))

        try:
            wait_until(came, "enough records", END_S_MAX)
        except AssertionError:
            raise AssertionError(f"{self} did not get to {wanted}") from None
        assert not self.errors, f"{self}: {self.errors}"

    def longest_gap_s(self, since_s: float) -> float:
        """The longest time in which a partition stood still, from `since_s` on."""
        return max(
            later - max(earlier, since_s)
            for times in self.times
            for earlier, later in itertools.pairwise(times)
            if later > since_s
        )

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.topic}, {self.counts()})"


class Writer(Client):
    """Writes numbers, the next of a partition when not too many of it are in flight."""

    def __init__(
        self,
        broker: RunningBroker,
        topic: str,
        partitions: int,
        bootstrap: int = 0,
        count: int | None = None,
    ) -> None:
        super().__init__(broker, topic, partitions, bootstrap)
        self.sent = [0] * partitions
        self.count = count  # of each partition, then it only waits

    def turn(self) -> Iterator[tuple[int, int]]:
        """What to send now: (partition, number)."""
        for partition, number in enumerate(self.sent):
            in_flight = number - len(self.seen[partition])
            if in_flight < IN_FLIGHT_MAX and number != self.count:
                self.sent[partition] += 1
                yield partition, number

    def check(self, stored: Mapping[int, list[tuple[int, int]]]) -> None:
        """Every number was acknowledged, and is stored once, in order, where it was said to be."""
        assert not self.errors, f"{self}: {self.errors}"
        for partition, sent in enumerate(self.sent):
            expected = [(number, number) for number in range(sent)]
            assert self.seen[partition] == expected, f"{self}, partition {partition}"
            assert stored[partition] == expected, f"{self}, partition {partition}"


class ConfluentWriter(Writer):
    """librdkafka."""

    def work(self) -> None:
        config = {"bootstrap.servers": self.address, "enable.idempotence": True, "linger.ms": 2}
        producer = confluent_kafka.Producer(
            {**config, "retry.backoff.ms": 10, **CONFLUENT_RECONNECT}
        )

        def delivered(number: int, error: object, message: confluent_kafka.Message) -> None:
            if error is not None:
                self.errors.append(str(error))
            partition, offset = message.partition(), message.offset()
            self.note(partition or 0, -1 if offset is None else offset, number)

        while not self.stop_wanted.is_set():
            for partition, number in self.turn():
                producer.produce(
                    self.topic,
                    b"%d" % number,
                    partition=partition,
                    on_delivery=partial(delivered, number),
                )
            producer.poll(TURN_S)
        assert producer.flush(END_S_MAX) == 0


class KafkaPythonWriter(Writer):
    """kafka-python: idempotent unless told otherwise."""

    def work(self) -> None:
        producer = kafka.KafkaProducer(
            bootstrap_servers=self.address, linger_ms=2, **KAFKA_PYTHON_RECONNECT
        )

        def delivered(number: int, answer: Any) -> None:
            self.note(answer.partition, answer.offset, number)

        def failed(error: Exception) -> None:
            self.errors.append(repr(error))

        try:
            while not self.stop_wanted.wait(TURN_S):
                for partition, number in self.turn():
                    future = producer.send(self.topic, b"%d" % number, partition=partition)
                    future.add_callback(delivered, number)
                    future.add_errback(failed)
            producer.flush(END_S_MAX)
        finally:
            producer.close()


class AiokafkaWriter(Writer):
    """aiokafka, in a loop of its own."""

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        def delivered(number: int, answer: asyncio.Future[Any]) -> None:
            if error := answer.exception():
                self.errors.append(repr(error))
            else:
                result = answer.result()
                self.note(result.partition, result.offset, number)

        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.address,
            enable_idempotence=True,
            linger_ms=2,
            retry_backoff_ms=20,
        )
        async with producer:
            while not self.stop_wanted.is_set():
                for partition, number in self.turn():
                    sent = await producer.send(self.topic, b"%d" % number, partition=partition)
                    sent.add_done_callback(partial(delivered, number))
                await asyncio.sleep(TURN_S)
            await asyncio.wait_for(producer.flush(), END_S_MAX)


class ConfluentReader(Client):
    """librdkafka."""

    def work(self) -> None:
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "unused",  # the client asks for one; assignment needs no group
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 20,
                **CONFLUENT_RECONNECT,
                **via_confluent.NO_REBOOTSTRAP,
            }
        )
        try:
            consumer.assign(
                [confluent_kafka.TopicPartition(self.topic, p, 0) for p in range(self.partitions)]
            )
            while not self.stop_wanted.is_set():
                for message in consumer.consume(1_000, timeout=TURN_S):
                    if error := message.error():
                        self.errors.append(str(error))
                    else:
                        partition, offset = message.partition(), message.offset()
                        assert partition is not None
                        assert offset is not None
                        self.note(partition, offset, int(message.value() or b"-1"))
        finally:
            consumer.close()


class KafkaPythonReader(Client):
    """kafka-python.

    Its consumer (3.0.12) never again fetches from a node that left the cluster while it wanted to:
    it counts the request as pending that it could not send. It says so by an error, upon which a
    user begins anew where it was.
    """

    def work(self) -> None:
        while not self.stop_wanted.is_set():
            try:
                self._read()
            except UnknownBrokerIdError:
                pass

    def _read(self) -> None:
        consumer = kafka.KafkaConsumer(
            bootstrap_servers=self.address,
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
            **KAFKA_PYTHON_RECONNECT,
        )
        try:
            assigned = [kafka.TopicPartition(self.topic, p) for p in range(self.partitions)]
            consumer.assign(assigned)
            for partition, seen in zip(assigned, self.seen, strict=True):
                consumer.seek(partition, seen[-1][0] + 1 if seen else 0)
            while not self.stop_wanted.is_set():
                for record in itertools.chain(*consumer.poll(timeout_ms=20).values()):
                    self.note(record.partition, record.offset, int(record.value))
        finally:
            consumer.close()


class AiokafkaReader(Client):
    """aiokafka, in a loop of its own."""

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self.address,
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
            retry_backoff_ms=20,
        )
        async with consumer:
            assigned = [aiokafka.TopicPartition(self.topic, p) for p in range(self.partitions)]
            consumer.assign(assigned)
            for partition in assigned:
                consumer.seek(partition, 0)
            while not self.stop_wanted.is_set():
                for records in (await consumer.getmany(timeout_ms=20)).values():
                    for record in records:
                        self.note(record.partition, record.offset, int(record.value))


WRITERS: dict[str, type[Writer]] = {
    "confluent": ConfluentWriter,
    "kafka-python": KafkaPythonWriter,
    "aiokafka": AiokafkaWriter,
}
READERS: dict[str, type[Client]] = {
    "confluent": ConfluentReader,
    "kafka-python": KafkaPythonReader,
    "aiokafka": AiokafkaReader,
}


def read_numbers(
    broker: RunningBroker,
    topic: str,
    partitions: int,
    starts: Mapping[int, int] | None = None,
) -> dict[int, list[tuple[int, int]]]:
    """All that is stored: (offset, number) of each partition, in its order.

    starts  where partitions begin that do not begin at 0
    """
    starts = starts or {}
    consumer = via_confluent.make_consumer(broker)
    stored: dict[int, list[tuple[int, int]]] = {p: [] for p in range(partitions)}
    ended: set[int] = set()
    try:
        consumer.assign(
            [confluent_kafka.TopicPartition(topic, p, starts.get(p, 0)) for p in range(partitions)]
        )

        def at_the_ends() -> bool:
            for message in consumer.consume(5_000, timeout=0.02):
                partition, error = message.partition(), message.error()
                assert partition is not None
                if error is None:
                    offset = message.offset()
                    assert offset is not None
                    stored[partition].append((offset, int(message.value() or b"-1")))
                elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    ended.add(partition)
                else:
                    raise AssertionError(error)
            return len(ended) == partitions

        wait_until(at_the_ends, f"the ends of {topic}")
    finally:
        consumer.close()
    return stored
