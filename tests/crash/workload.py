"""An idempotent producer that never gives up, writing numbered records and noting every ack.

Record n of a partition carries n, the partition, filler of a random length and a CRC, so that the
log itself says what is missing, doubled, torn or out of order (checker.py). It runs in a thread of
its own and goes on by itself while the broker is killed and restarted under it; nothing here
knows about crashes.
"""

from __future__ import annotations

import random
import struct
import threading
import zlib
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.clients.broker import wait_until

_HEAD = struct.Struct(">QI")  # identity, partition
_CRC = struct.Struct(">I")
FILLER_BYTES_MAX = 600
DRAIN_S_MAX = 60.0
CONSUME_S_MAX = 60.0
# A fatal error of the client is raised out of poll, flush and produce. Where a delivery report
# follows in the same call, it is called with that exception set, which Python complains about.
FATAL = (KafkaException, SystemError)


def identity(writer: int, number: int) -> int:
    """What a record is known by within its partition; writer 0's records by their number."""
    return writer << 48 | number


def writer_and_number(record: int) -> tuple[int, int]:
    """Who wrote a record, and as which of its records, from 0."""
    return record >> 48, record & (1 << 48) - 1


def encode_payload(record: int, partition: int, filler: bytes) -> bytes:
    """A record's value; `record` is its identity."""
    body = _HEAD.pack(record, partition) + filler
    return body + _CRC.pack(zlib.crc32(body))


def decode_payload(value: bytes, partition: int) -> int | None:
    """The record's identity, or None if the value is not one written to `partition`."""
    if len(value) < _HEAD.size + _CRC.size:
        return None
    if zlib.crc32(value[: -_CRC.size]) != _CRC.unpack_from(value, len(value) - _CRC.size)[0]:
        return None
    record, written_to = _HEAD.unpack_from(value)
    return int(record) if written_to == partition else None


class NumberedProducer:
    """The producer and what it knows: how many records it sent and which were acknowledged.

    Shapes:  acked       partition -> number -> (offset, cycle that the ack came in)
             sent        partition -> how many records were handed to the client, numbered from 0
             cycle       set by the test, to say later when a lost record had been acknowledged
    """

    def __init__(self, address: str, topic: str, partitions: int, seed: int) -> None:
        self.topic = topic
        self.sent = [0] * partitions
        self.acked: list[dict[int, tuple[int, int]]] = [{} for _ in range(partitions)]
        self.acked_count = 0
        self.errors: list[str] = []
        self.cycle = 0
        self._rng = random.Random(seed)
        self._filler = self._rng.randbytes(FILLER_BYTES_MAX)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="numbered-producer", daemon=True)
        config: Mapping[str, Any] = {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": 0,  # forever
            "linger.ms": 1,
            "batch.num.messages": 100,
            "queue.buffering.max.messages": 3000,
            "reconnect.backoff.ms": 10,
            "reconnect.backoff.max.ms": 30,
            "retry.backoff.ms": 20,
            "retry.backoff.max.ms": 100,
            "topic.metadata.refresh.interval.ms": 1000,
            "log_level": 0,
            "error_cb": self._on_error,
        }
        self._producer = Producer(dict(config))

    def start(self) -> None:
        """Begin writing."""
        self._thread.start()

    @property
    def in_flight_count(self) -> int:
        """Records that were produced and are not acknowledged yet."""
        return len(self._producer)

    @property
    def failed(self) -> bool:
        """Whether a record was given up or the client stopped for good: an error of the broker."""
        return bool(self.errors)

    def wait_for_acks(self, count: int, timeout_s: float = 60.0) -> None:
        """Return after `count` more acknowledgements, or when the producer has failed."""
        goal = self.acked_count + count
        wait_until(
            lambda: self.acked_count >= goal or self.failed,
            f"{count} new acknowledgements",
            timeout_s,
        )

    def stop(self, drain: bool = True) -> None:
        """End the thread; with `drain` after every record that was sent is acknowledged."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(DRAIN_S_MAX)
        try:
            if drain and not self.failed:
                left = self._producer.flush(DRAIN_S_MAX)
                assert left == 0 or self.failed, f"{left} records still not acknowledged"
            else:
                self._producer.purge()
                self._producer.flush(5)
        except FATAL as error:
            self.errors.append(f"the client stopped: {error}")

    def _run(self) -> None:
        while not self._stopping.is_set() and not self.failed:
            try:
                self._fill_queue()
            except FATAL as error:
                self.errors.append(f"the client stopped: {error}")

    def _fill_queue(self) -> None:
        try:
            for partition in range(len(self.sent)):
                self._produce(partition)
        except BufferError:
            self._producer.poll(0.005)
        else:
            self._producer.poll(0)

    def _produce(self, partition: int) -> None:
        number = self.sent[partition]
        filler = self._filler[: self._rng.randrange(FILLER_BYTES_MAX)]
        value = encode_payload(number, partition, filler)
        self._producer.produce(self.topic, value, partition=partition, on_delivery=self._delivered)
        self.sent[partition] = number + 1

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            if not self._stopping.is_set():
                self.errors.append(f"record given up: {error}")
            return
        partition, offset, value = message.partition(), message.offset(), message.value()
        assert partition is not None
        assert offset is not None
        assert value is not None
        number = _HEAD.unpack_from(value)[0]
        self.acked[partition][number] = (offset, self.cycle)
        self.acked_count += 1

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.errors.append(f"the client stopped: {error}")


def read_log(address: str, topic: str, partitions: int) -> list[list[tuple[int, bytes]]]:
    """Everything that is in the topic: partition -> (offset, value) in the order it is served."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "unused",  # the client asks for one; assignment needs no group
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "queued.min.messages": 100_000,
            "fetch.wait.max.ms": 10,
        }
    )
    log: list[list[tuple[int, bytes]]] = [[] for _ in range(partitions)]
    try:
        consumer.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
        ends = [
            consumer.get_watermark_offsets(TopicPartition(topic, index), timeout=20)[1]
            for index in range(partitions)
        ]
        nexts = [0] * partitions

        def all_read() -> bool:
            for message in consumer.consume(10_000, timeout=0.05):
                assert message.error() is None, message.error()
                index, offset, value = message.partition(), message.offset(), message.value()
                assert index is not None
                assert offset is not None
                log[index].append((offset, value or b""))
                nexts[index] = offset + 1
            return all(n >= end for n, end in zip(nexts, ends, strict=True))

        wait_until(all_read, f"all of {topic} is consumed", CONSUME_S_MAX)
    finally:
        consumer.close()
    return log
