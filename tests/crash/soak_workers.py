"""The clients of the soak, a process each: producers that account for every acknowledgement, and
consumers that account for every record they are given.

A worker writes its account as fixed rows to a file, and tells the soak by shared memory how far it
has come with each shard. It knows nothing of crashes: it must go on by itself. A record's value
carries who wrote it, its number, and when it was handed to the client (CLOCK_MONOTONIC, which all
processes of the machine share), so that an acknowledgement is known to come from a broker that
lived after a moment: its record was not even sent before.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import re
import select
import struct
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import aiokafka
import confluent_kafka
import kafka

from bench.wire import SequentialProducer
from tests.clients.via_confluent import NO_REBOOTSTRAP
from tests.crash.workload import decode_payload, encode_payload, identity

ACK = struct.Struct("<HQqdd")  # partition, identity, offset, sent at s, acknowledged at s
READ = struct.Struct("<HqQ")  # partition, offset, identity
NO_RECORD = 2**64 - 1  # the identity of a value that nobody wrote

TICK_S = 0.01
RUNS = (1, 1, 1, 5, 20)  # records in a row for one partition, so that batches differ in size
FILLER_BYTES_MAX = 200
UNACKED_MAX = 3000
PROBE_BEHIND_S_MAX = 1.0
GIVE_UP_MS = 600_000  # longer than any outage of the soak: nothing may be given up
REQUEST_MS_MAX = 2000  # until a client gives up an answer and asks again; shorter than a freeze
BACKOFF_MS_MAX = 500  # between attempts to connect; the clients' own defaults go to 10 and 30 s
# The consumers in Python ask for more at a time, or they would take most of the machine; librdkafka
# asks for whatever there is.
FETCH_BYTES_MIN = 64 * 1024
FETCH_WAIT_MS_MAX = 100
NICE = 10  # the load gives way to the broker and to the probe, which measures the broker
_SENT = struct.Struct(">d")
_SENT_POS = 12  # behind number and partition


@dataclass(frozen=True)
class Job:
    """What a worker is to do. Shapes: shard_of  partition -> index of the shard that leads it."""

    client: str
    servers: str
    topic: str
    shard_of: tuple[int, ...]
    account: Path
    writer: int
    per_s: int
    seed: int
    flush_s_max: float


@dataclass(frozen=True)
class Shared:
    """Shared memory and events of one worker.

    Shapes:  reached  shard -> when the newest record was sent that was acknowledged or read
             ends     consumers: partition -> where to stop, -1 until that is known
    """

    reached: Any
    ends: Any
    stop: Event


class Worker:
    """The soak's end of a worker process."""

    def __init__(self, name: str, work: Callable[[Job, Shared], list[str]], job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.job = job
        self.shared = Shared(
            context.RawArray("d", max(job.shard_of) + 1),
            context.RawArray("q", [-1] * len(job.shard_of)),
            context.Event(),
        )
        self._errors, errors = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run, args=(work, job, self.shared, errors), name=name, daemon=True
        )
        self._process.start()
        errors.close()

    @property
    def ended(self) -> bool:
        """Whether it has ended, asked to or not."""
        return not self._process.is_alive()

    def join(self, timeout_s: float) -> list[str]:
        """Wait for its end; returns what went wrong, in its words and ours."""
        try:
            found = self._errors.recv() if self._errors.poll(timeout_s) else ["it did not end"]
        except EOFError:
            found = [f"it died: exit code {self._process.exitcode}"]
        self._process.join(1)
        self._process.kill()
        return [f"{self.name}: {text}" for text in found]

    def rows(self, layout: struct.Struct) -> Iterator[tuple[Any, ...]]:
        """Its account; of a worker that was killed without the row it was writing."""
        data = self.job.account.read_bytes()
        return layout.iter_unpack(data[: len(data) // layout.size * layout.size])


def _run(work: Callable[[Job, Shared], list[str]], job: Job, shared: Shared, errors: Any) -> None:
    threading.Thread(target=_end_with_the_soak, daemon=True).start()
    with job.account.with_name(f"{job.account.name}.log").open("wb") as log:
        os.dup2(log.fileno(), 2)  # what the client says
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    if work is not probe:
        os.nice(NICE)
    try:
        found = work(job, shared)
    except BaseException:
        found = [traceback.format_exc()]
    errors.send(found)
    errors.close()


def _end_with_the_soak() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# -- producers -------------------------------------------------------------------------------


class Ledger:
    """What one producer is to write, and what was acknowledged of it."""

    def __init__(self, job: Job, shared: Shared) -> None:
        self.errors: list[str] = []
        self._job = job
        self._shared = shared
        self._file = job.account.open("wb")
        self._rng = random.Random(job.seed * 100 + job.writer)
        self._filler = self._rng.randbytes(FILLER_BYTES_MAX)
        self._sent = [0] * len(job.shard_of)
        self._sent_count = 0
        self._settled_count = 0  # apart, because a client may settle in a thread of its own
        self._next_s = time.monotonic()

    @property
    def going(self) -> bool:
        """Whether there is more to write."""
        return not self._shared.stop.is_set() and not self.errors

    @property
    def unacked(self) -> int:
        """Records that were handed to the client and are not settled."""
        return self._sent_count - self._settled_count

    def due(self) -> list[int]:
        """The partitions of the records that are to be written now."""
        now_s = time.monotonic()
        self._next_s = max(self._next_s, now_s - 10 * TICK_S)  # no burst after a stall
        partitions: list[int] = []
        while self._next_s <= now_s and self.unacked + len(partitions) < UNACKED_MAX:
            run = self._rng.choice(RUNS)
            partitions += [self._rng.randrange(len(self._sent))] * run
            self._next_s += run / self._job.per_s
        return partitions

    def write(self, partition: int) -> tuple[int, float, bytes]:
        """A new record: (identity, when it is sent, value)."""
        number = identity(self._job.writer, self._sent[partition])
        self._sent[partition] += 1
        self._sent_count += 1
        sent_s = time.monotonic()
        filler = self._filler[: self._rng.randrange(FILLER_BYTES_MAX)]
        return number, sent_s, encode_payload(number, partition, _SENT.pack(sent_s) + filler)

    def acked(self, partition: int, number: int, sent_s: float, offset: int) -> None:
        """One record is acknowledged."""
        self._settled_count += 1
        self._file.write(ACK.pack(partition, number, offset, sent_s, time.monotonic()))
        shard = self._job.shard_of[partition]
        self._shared.reached[shard] = max(self._shared.reached[shard], sent_s)

    def failed(self, what: object) -> None:
        """One record was given up, or the client stopped: that must not happen."""
        self._settled_count += 1
        self.errors.append(f"{type(what).__name__}: {what}")

    def close(self) -> list[str]:
        """All that went wrong."""
        if self.unacked and not self.errors:
            limit = f"{self._job.flush_s_max:g} s"
            self.errors.append(f"{self.unacked} records not acknowledged after {limit}")
        self._file.close()
        return self.errors[:5]


def produce_confluent(job: Job, shared: Shared) -> list[str]:
    """confluent-kafka."""
    ledger = Ledger(job, shared)

    def on_error(error: confluent_kafka.KafkaError) -> None:
        if error.fatal():
            ledger.failed(error)

    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": job.servers,
            "enable.idempotence": True,
            "message.timeout.ms": GIVE_UP_MS,
            "socket.timeout.ms": REQUEST_MS_MAX,
            "request.timeout.ms": REQUEST_MS_MAX,
            "reconnect.backoff.max.ms": BACKOFF_MS_MAX,
            "error_cb": on_error,
            "log_level": 0,
        }
    )

    def send(partition: int) -> None:
        number, sent_s, value = ledger.write(partition)

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                ledger.failed(error)
            else:
                ledger.acked(partition, number, sent_s, message.offset())

        producer.produce(job.topic, value, partition=partition, on_delivery=delivered)

    try:
        while ledger.going:
            for partition in ledger.due():
                send(partition)
            producer.poll(TICK_S)
        if not ledger.errors:
            producer.flush(job.flush_s_max)
    except (confluent_kafka.KafkaException, SystemError) as error:
        ledger.failed(error)
    return ledger.close()


def produce_kafka_python(job: Job, shared: Shared) -> list[str]:
    """kafka-python; its callbacks come from a thread of its own."""
    ledger = Ledger(job, shared)
    producer = kafka.KafkaProducer(
        bootstrap_servers=job.servers.split(","),
        enable_idempotence=True,
        acks="all",
        delivery_timeout_ms=GIVE_UP_MS,
        request_timeout_ms=REQUEST_MS_MAX,
        reconnect_backoff_max_ms=BACKOFF_MS_MAX,
    )

    def send(partition: int) -> None:
        number, sent_s, value = ledger.write(partition)
        future = producer.send(job.topic, value, partition=partition)
        future.add_callback(lambda done: ledger.acked(partition, number, sent_s, done.offset))
        future.add_errback(ledger.failed)

    try:
        while ledger.going:
            for partition in ledger.due():
                send(partition)
            shared.stop.wait(TICK_S)
        if not ledger.errors:
            producer.flush(job.flush_s_max)
    except kafka.errors.KafkaError as error:
        ledger.failed(error)
    producer.close(0)
    return ledger.close()


def produce_aiokafka(job: Job, shared: Shared) -> list[str]:
    """aiokafka."""
    return asyncio.run(_produce_aiokafka(job, shared))


async def _produce_aiokafka(job: Job, shared: Shared) -> list[str]:
    ledger = Ledger(job, shared)
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=job.servers.split(","), enable_idempotence=True, acks="all"
    )

    async def send(partition: int) -> None:
        number, sent_s, value = ledger.write(partition)
        future = await producer.send(job.topic, value, partition=partition)

        def settled(done: asyncio.Future[Any]) -> None:
            if error := done.exception():
                ledger.failed(error)
            else:
                ledger.acked(partition, number, sent_s, done.result().offset)

        future.add_done_callback(settled)

    await producer.start()
    try:
        while ledger.going:
            for partition in ledger.due():
                await send(partition)
            await asyncio.sleep(TICK_S)
        if not ledger.errors:
            async with asyncio.timeout(job.flush_s_max):
                await producer.flush()
    except (aiokafka.errors.KafkaError, TimeoutError) as error:
        ledger.failed(error)
    async with asyncio.timeout(job.flush_s_max):
        await producer.stop()
    return ledger.close()


def probe(job: Job, shared: Shared) -> list[str]:
    """One sequential producer a shard, at a fixed rate: `per_s` each.

    A record counts as sent when it was due, so a stall counts for all records that it held up;
    those of more than PROBE_BEHIND_S_MAX are left out, or a machine that is too slow for the rate
    would be ever further behind.
    """
    ledger = Ledger(job, shared)
    addresses = job.servers.split(",")
    partitions = [job.shard_of.index(shard) for shard in range(len(addresses))]
    lock = threading.Lock()

    def run(shard: int, partition: int) -> None:
        producer = SequentialProducer(addresses[shard], job.topic, partition)
        due_s = time.monotonic()
        while not shared.stop.wait(max(0.0, due_s - time.monotonic())):
            with lock:
                number, _, value = ledger.write(partition)
            offset = producer.produce(value)
            with lock:
                ledger.acked(partition, number, due_s, offset)
            due_s = max(due_s + 1 / job.per_s, time.monotonic() - PROBE_BEHIND_S_MAX)
        producer.close()

    def guarded(shard: int, partition: int) -> None:
        try:
            run(shard, partition)
        except Exception:
            ledger.errors.append(traceback.format_exc())

    threads = [threading.Thread(target=guarded, args=pair) for pair in enumerate(partitions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ledger.close()


# -- consumers -------------------------------------------------------------------------------


class Reader:
    """What one consumer was given."""

    def __init__(self, job: Job, shared: Shared) -> None:
        self.errors: list[str] = []
        self._job = job
        self._shared = shared
        self._file = job.account.open("wb")
        self._nexts = [0] * len(job.shard_of)
        self._give_up_s: float | None = None

    @property
    def going(self) -> bool:
        """Whether there is more to read: until the ends are known and reached."""
        if self.errors:
            return False
        if not self._shared.stop.is_set():
            return True
        if self._give_up_s is None:
            self._give_up_s = time.monotonic() + self._job.flush_s_max
        ends = self._shared.ends
        behind = any(n < end for n, end in zip(self._nexts, ends, strict=True))
        return behind and time.monotonic() < self._give_up_s

    def take(self, partition: int, offset: int, value: bytes | None) -> None:
        """One record came."""
        number = decode_payload(value or b"", partition)
        self._file.write(READ.pack(partition, offset, NO_RECORD if number is None else number))
        self._nexts[partition] = offset + 1
        if number is not None and value is not None:
            sent_s = _SENT.unpack_from(value, _SENT_POS)[0]
            shard = self._job.shard_of[partition]
            self._shared.reached[shard] = max(self._shared.reached[shard], sent_s)

    def failed(self, what: object) -> None:
        """The client reported an error that it does not get over by itself."""
        self.errors.append(f"{type(what).__name__}: {what}")

    def close(self) -> list[str]:
        """All that went wrong."""
        self._file.close()
        return self.errors[:5]


def consume_confluent(job: Job, shared: Shared) -> list[str]:
    """confluent-kafka."""
    reader = Reader(job, shared)
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": job.servers,
            "group.id": "unused",  # the client asks for one; assignment needs no group
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            **NO_REBOOTSTRAP,
            "reconnect.backoff.max.ms": BACKOFF_MS_MAX,
            "log_level": 0,
        }
    )
    partitions = range(len(job.shard_of))
    consumer.assign([confluent_kafka.TopicPartition(job.topic, one, 0) for one in partitions])
    while reader.going:
        for message in consumer.consume(1000, timeout=0.05):
            partition, offset = message.partition(), message.offset()
            if message.error() is not None:
                reader.failed(message.error())
                continue
            assert partition is not None
            assert offset is not None
            reader.take(partition, offset, message.value())
    consumer.close()
    return reader.close()


def consume_kafka_python(job: Job, shared: Shared) -> list[str]:
    """kafka-python."""
    reader = Reader(job, shared)
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=job.servers.split(","),
        auto_offset_reset="none",
        enable_auto_commit=False,
        reconnect_backoff_max_ms=BACKOFF_MS_MAX,
        fetch_min_bytes=FETCH_BYTES_MIN,
        fetch_max_wait_ms=FETCH_WAIT_MS_MAX,
    )
    assigned = [kafka.TopicPartition(job.topic, one) for one in range(len(job.shard_of))]
    consumer.assign(assigned)
    for one in assigned:
        consumer.seek(one, 0)
    while reader.going:
        for one, messages in consumer.poll(timeout_ms=50).items():
            for message in messages:
                reader.take(one.partition, message.offset, message.value)
    consumer.close()
    return reader.close()


def consume_aiokafka(job: Job, shared: Shared) -> list[str]:
    """aiokafka."""
    return asyncio.run(_consume_aiokafka(job, shared))


async def _consume_aiokafka(job: Job, shared: Shared) -> list[str]:
    reader = Reader(job, shared)
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=job.servers.split(","),
        auto_offset_reset="none",
        enable_auto_commit=False,
        fetch_min_bytes=FETCH_BYTES_MIN,
        fetch_max_wait_ms=FETCH_WAIT_MS_MAX,
    )
    await consumer.start()
    assigned = [aiokafka.TopicPartition(job.topic, one) for one in range(len(job.shard_of))]
    consumer.assign(assigned)
    for one in assigned:
        consumer.seek(one, 0)
    while reader.going:
        for one, messages in (await consumer.getmany(timeout_ms=50)).items():
            for message in messages:
                reader.take(one.partition, message.offset, message.value)
    await consumer.stop()
    return reader.close()


_KCAT_RECORD = re.compile(rb"(\d+) (\d+) (-?\d+)\n")


def consume_kcat(job: Job, shared: Shared) -> list[str]:
    """kcat, one process for the whole soak; -E: it goes on after what passes."""
    reader = Reader(job, shared)
    command = ["kcat", "-C", "-b", job.servers, "-t", job.topic, "-o", "beginning", "-E", "-q"]
    command += ["-u", "-f", "%p %o %S\n%s", "-X", f"reconnect.backoff.max.ms={BACKOFF_MS_MAX}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pending = b""
        while reader.going:
            if not select.select([process.stdout], [], [], 0.05)[0]:
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                reader.failed(f"kcat ended, exit code {process.wait()}")
                break
            pending = _take_whole(reader, pending + data)
        process.kill()
    return reader.close()


def _take_whole(reader: Reader, data: bytes) -> bytes:
    """Take the records that are whole; returns the rest."""
    pos = 0
    while head := _KCAT_RECORD.match(data, pos):
        end = head.end() + max(int(head[3]), 0)
        if end > len(data):
            break
        reader.take(int(head[1]), int(head[2]), data[head.end() : end])
        pos = end
    return data[pos:]


PRODUCERS: dict[str, Callable[[Job, Shared], list[str]]] = {
    "confluent-kafka": produce_confluent,
    "kafka-python": produce_kafka_python,
    "aiokafka": produce_aiokafka,
}
CONSUMERS: dict[str, Callable[[Job, Shared], list[str]]] = {
    "confluent-kafka": consume_confluent,
    "kafka-python": consume_kafka_python,
    "aiokafka": consume_aiokafka,
    "kcat": consume_kcat,
}
