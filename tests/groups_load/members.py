"""The processes of the load: members of groups, one client library each, and the producer.

A member processes records, tells so in its file (history.py), and only then commits: whatever it
is killed in the middle of, another member must be given again what it had not committed. It knows
nothing of the schedule; it runs until `stop` is set, and then commits and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import aiokafka
import confluent_kafka
import kafka

from tests.clients.via_confluent import NO_REBOOTSTRAP

COMMIT_S = 0.3
POLL_S = 0.1
RECORDS_MAX = 2000  # of one poll, so that commits are not held up
SESSION_MS = 6000  # the least that Kafka allows
HEARTBEAT_MS = 1000
REBALANCE_MS = 20_000
REQUEST_MS_MAX = 5000
BACKOFF_MS_MAX = 500
FLUSH_S_MAX = 60.0
NICE = 5  # the load gives way to the broker
VALUE_BYTES = 64
_NUMBER = struct.Struct(">Q")

# Groups of the load: name -> client
CLIENTS = ("kafka-python", "confluent-classic", "confluent-consumer", "aiokafka")


@dataclass(frozen=True)
class Job:
    """What a process is to do. Shapes: account  the file that it tells its life in."""

    client: str
    servers: str
    topic: str
    group: str
    account: Path
    partitions: int = 0  # the producer's
    per_s: int = 0
    fetch_wait_ms: int = 100


class Process:
    """The load's end of a process; it dies with the load, however that ends."""

    def __init__(self, work: Callable[[Job, Event], None], job: Job) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.job = job
        self.name = job.account.stem
        self.stop = context.Event()
        self._process = context.Process(
            target=_run, args=(work, job, self.stop), name=self.name, daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.exitcode

    def join(self, timeout_s: float) -> int | None:
        """Wait for its end; returns the exit code, None if it still runs."""
        self._process.join(timeout_s)
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL, to this one process."""
        self._process.kill()


def _run(work: Callable[[Job, Event], None], job: Job, stop: Event) -> None:
    threading.Thread(target=_end_with_the_load, daemon=True).start()
    with job.account.with_suffix(".log").open("wb") as log:
        os.dup2(log.fileno(), 2)  # what the client says
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    os.nice(NICE)
    try:
        work(job, stop)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # client threads must not hold it up


def _end_with_the_load() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# -- what a member does, whatever its client -------------------------------------------------


class Account:
    """A member's file, and how far it has come: partition -> the next offset to commit."""

    def __init__(self, job: Job) -> None:
        self.nexts: dict[int, int] = {}
        self._owned: set[int] = set()
        self._fd = os.open(job.account, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._commit_ns = 0

    def _tell(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def assigned(self, partitions: Iterable[int]) -> None:
        """The start of the callback that gives partitions."""
        given = sorted(partitions)
        self._owned.update(given)
        self._tell("assigned", time.monotonic_ns(), ",".join(map(str, given)))

    def revoked(self, partitions: Iterable[int]) -> None:
        """The end of the callback that takes partitions away, or says that they are lost."""
        taken = sorted(partitions)
        self._owned.difference_update(taken)
        for partition in taken:
            self.nexts.pop(partition, None)
        self._tell("revoked", time.monotonic_ns(), ",".join(map(str, taken)))

    def process(self, partition: int, records: Sequence[tuple[int, bytes]]) -> None:
        """Records of a partition, in order: (offset, value). What is no longer owned is left."""
        if partition not in self._owned or not records:
            return
        now_ns = time.monotonic_ns()
        first = last = _NUMBER.unpack_from(records[0][1])[0]
        for _, value in records[1:]:
            number = _NUMBER.unpack_from(value)[0]
            if number != last + 1:
                self._tell("read", now_ns, partition, first, last)
                first = number
            last = number
        self._tell("read", now_ns, partition, first, last)
        self.nexts[partition] = records[-1][0] + 1

    @property
    def commit_is_due(self) -> bool:
        """Whether it is time to commit."""
        return bool(self.nexts) and time.monotonic_ns() - self._commit_ns > COMMIT_S * 1e9

    def committing(self) -> int:
        """A commit is about to be sent; give what is returned to `accepted`."""
        self._commit_ns = time.monotonic_ns()
        return self._commit_ns

    def accepted(self, sent_ns: int) -> None:
        """The coordinator accepted it."""
        self._tell("accepted", sent_ns)

    def refused(self, error: object) -> None:
        """It did not, or nobody knows: nothing is proven. What it said goes to the log."""
        logging.warning("commit: %r", error)

    def left(self) -> None:
        """The member is about to close its client."""
        self._tell("left", time.monotonic_ns())


def _confluent_config(job: Job) -> dict[str, Any]:
    if job.client == "confluent-consumer":
        protocol: dict[str, Any] = {"group.protocol": "consumer"}
    else:
        protocol = {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": HEARTBEAT_MS,
        }
    return {
        **protocol,
        **NO_REBOOTSTRAP,
        "bootstrap.servers": job.servers,
        "group.id": job.group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "max.poll.interval.ms": REBALANCE_MS,
        "socket.timeout.ms": REQUEST_MS_MAX,
        "reconnect.backoff.max.ms": BACKOFF_MS_MAX,
        "fetch.wait.max.ms": job.fetch_wait_ms,
        "fetch.min.bytes": 16 * 1024,
        "error_cb": lambda error: logging.warning("client: %s", error),
    }


def run_confluent(job: Job, stop: Event) -> None:
    """confluent-kafka: classic with the cooperative assignor, or group.protocol=consumer."""
    account = Account(job)
    consumer = confluent_kafka.Consumer(_confluent_config(job))

    def commit() -> None:
        sent_ns = account.committing()
        offsets = [
            confluent_kafka.TopicPartition(job.topic, partition, offset)
            for partition, offset in account.nexts.items()
        ]
        if not offsets:
            return
        try:
            results = consumer.commit(offsets=offsets, asynchronous=False)
        except confluent_kafka.KafkaException as error:
            account.refused(error)
            return
        errors = [one.error for one in results or () if one.error is not None]
        account.refused(errors) if errors else account.accepted(sent_ns)

    def on_assign(_: Any, partitions: list[Any]) -> None:
        account.assigned(one.partition for one in partitions)

    def on_revoke(_: Any, partitions: list[Any]) -> None:
        commit()
        account.revoked(one.partition for one in partitions)

    def on_lost(_: Any, partitions: list[Any]) -> None:
        account.revoked(one.partition for one in partitions)

    consumer.subscribe([job.topic], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost)
    while not stop.is_set():
        found: dict[int, list[tuple[int, bytes]]] = {}
        for message in consumer.consume(RECORDS_MAX, timeout=POLL_S):
            if (error := message.error()) is not None:
                logging.warning("record: %s", error)
            else:
                found.setdefault(message.partition(), []).append(
                    (message.offset(), message.value())
                )
        for partition, records in found.items():
            account.process(partition, records)
        if account.commit_is_due:
            commit()
    commit()
    account.left()
    consumer.close()


def run_kafka_python(job: Job, stop: Event) -> None:
    """kafka-python: classic and eager."""
    account = Account(job)
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=job.servers.split(","),
        group_id=job.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        max_poll_interval_ms=REBALANCE_MS,
        max_poll_records=RECORDS_MAX,
        fetch_max_wait_ms=job.fetch_wait_ms,
        fetch_min_bytes=16 * 1024,
        reconnect_backoff_max_ms=BACKOFF_MS_MAX,
    )

    def commit() -> None:
        offsets = {
            kafka.TopicPartition(job.topic, partition): kafka.OffsetAndMetadata(offset, "", -1)
            for partition, offset in account.nexts.items()
        }
        if not offsets:
            return
        sent_ns = account.committing()
        try:
            consumer.commit(offsets, timeout_ms=REQUEST_MS_MAX)
        except kafka.errors.KafkaError as error:
            account.refused(error)
        else:
            account.accepted(sent_ns)

    class Listener(kafka.ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
            account.assigned(one.partition for one in assigned)

        def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
            # No commit: this runs on the client's own thread, which a commit would wait for.
            account.revoked(one.partition for one in revoked)

        def on_partitions_lost(self, lost: Iterable[Any]) -> None:
            account.revoked(one.partition for one in lost)

    # Without metadata a first leader assigns no partition, and lets it rest at that.
    consumer.partitions_for_topic(job.topic)
    consumer.subscribe([job.topic], listener=Listener())
    while not stop.is_set():
        for partition, records in consumer.poll(timeout_ms=int(POLL_S * 1000)).items():
            found = [(one.offset, one.value) for one in records]
            account.process(partition.partition, found)
        if account.commit_is_due:
            commit()
    commit()
    account.left()
    consumer.close()


def run_aiokafka(job: Job, stop: Event) -> None:
    """aiokafka: classic and eager; its group work runs beside the loop that reads."""
    asyncio.run(_run_aiokafka(job, stop))


async def _run_aiokafka(job: Job, stop: Event) -> None:
    account = Account(job)
    one_at_a_time = asyncio.Lock()
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=job.servers.split(","),
        group_id=job.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        max_poll_interval_ms=REBALANCE_MS,
        rebalance_timeout_ms=REBALANCE_MS,
        request_timeout_ms=REBALANCE_MS + REQUEST_MS_MAX,
        fetch_max_wait_ms=job.fetch_wait_ms,
        fetch_min_bytes=16 * 1024,
    )

    async def commit() -> None:
        offsets = {
            aiokafka.TopicPartition(job.topic, partition): offset
            for partition, offset in account.nexts.items()
        }
        if not offsets:
            return
        sent_ns = account.committing()
        try:
            async with asyncio.timeout(REQUEST_MS_MAX / 1e3):
                await consumer.commit(offsets)
        except (aiokafka.errors.KafkaError, TimeoutError) as error:
            account.refused(error)
        else:
            account.accepted(sent_ns)

    class Listener(aiokafka.ConsumerRebalanceListener):
        async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
            account.assigned(one.partition for one in assigned)

        async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
            async with one_at_a_time:
                await commit()
                account.revoked(one.partition for one in revoked)

    await consumer.start()
    consumer.subscribe([job.topic], listener=Listener())
    while not stop.is_set():
        many = await consumer.getmany(timeout_ms=int(POLL_S * 1000), max_records=RECORDS_MAX)
        for partition, records in many.items():
            account.process(partition.partition, [(one.offset, one.value) for one in records])
        if account.commit_is_due:
            async with one_at_a_time:
                await commit()
    async with one_at_a_time:
        await commit()
        account.left()
    await consumer.stop()


MEMBERS: Mapping[str, Callable[[Job, Event], None]] = {
    "kafka-python": run_kafka_python,
    "confluent-classic": run_confluent,
    "confluent-consumer": run_confluent,
    "aiokafka": run_aiokafka,
}


def produce(job: Job, stop: Event) -> None:
    """Write records numbered from 0 in each partition at a fixed rate until told to stop; at the
    end the account names, for each partition, how many were acknowledged.

    Raises: AssertionError  a record was given up, or lies at another offset than its number
    """
    acked = [0] * job.partitions
    sent = [0] * job.partitions
    wrong: list[str] = []
    filler = bytes(VALUE_BYTES - _NUMBER.size)

    def delivered(error: Any, message: Any) -> None:
        if error is not None:
            wrong.append(str(error))
            return
        acked[message.partition()] += 1
        if message.offset() != _NUMBER.unpack_from(message.value())[0]:
            wrong.append(f"offset {message.offset()} of partition {message.partition()}")

    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": job.servers,
            "enable.idempotence": True,
            "message.timeout.ms": 600_000,
            "socket.timeout.ms": REQUEST_MS_MAX,
            "request.timeout.ms": REQUEST_MS_MAX,
            "reconnect.backoff.max.ms": BACKOFF_MS_MAX,
            "linger.ms": 50,
            "log_level": 0,
        }
    )
    next_s = time.monotonic()
    while not stop.is_set() and not wrong:
        behind = min(int((time.monotonic() - next_s) * job.per_s), job.per_s)
        if len(producer) > 50_000:
            behind = 0
        for index in range(behind):
            partition = index % job.partitions
            value = _NUMBER.pack(sent[partition]) + filler
            producer.produce(job.topic, value, partition=partition, on_delivery=delivered)
            sent[partition] += 1
        next_s += behind / job.per_s
        producer.poll(0.02)
    producer.flush(FLUSH_S_MAX)
    assert not wrong, wrong[:5]
    assert acked == sent, f"not acknowledged within {FLUSH_S_MAX:g} s: {acked} of {sent}"
    job.account.write_text(" ".join(map(str, acked)))
