"""What only the journals hold survives kill -9, power cuts, and a start with other shards.

Twenty-four partitions, so that nearly every write is a journal's. The negative control is the same
run without the journals.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.clients.broker import RunningBroker, wait_until
from tests.crash.cut_disk import CutDisk
from tests.crash.cycles import SETTINGS, TOPIC, create_numbered_topic, run_cycles
from tests.storage.builder import BLOCK, flip

PARTITIONS = 24
CYCLES = 8
Note = Callable[[str], None]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """Three shards, of which a start may take fewer."""
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", SETTINGS, shards=3)
    try:
        yield running.start()
    finally:
        running.close()


def journal_writes(broker: RunningBroker) -> float:
    """Of all shards of this life so far."""
    return broker.metrics()["rpk_journal_writes_total"]


def run(broker: RunningBroker, crash: Callable[[], None], seed: int, note: Note) -> None:
    """Crash under load; the journals were in use before every crash."""

    def crash_in_use() -> None:
        wait_until(lambda: journal_writes(broker) > 0, "a journal is used")
        crash()

    create_numbered_topic(broker, PARTITIONS)
    outcome = run_cycles(broker, crash_in_use, seed, cycles=CYCLES, partitions=PARTITIONS)
    note(outcome.summary())
    assert not outcome.producer_errors, outcome.producer_errors
    assert not outcome.verdict.faults, outcome.verdict.report()
    assert outcome.cycles == CYCLES


def test_kills_with_as_many_shards(broker: RunningBroker, seed: int, note: Note) -> None:
    def crash() -> None:
        broker.kill()
        broker.start()

    run(broker, crash, seed, note)


def test_kills_with_other_shards_at_each_start(
    broker: RunningBroker, seed: int, note: Note
) -> None:
    counts = itertools.cycle((1, 3, 2))

    def crash() -> None:
        broker.kill()
        broker.shards = next(counts)
        broker.start()

    run(broker, crash, seed, note)


def test_power_cuts(cut_disk: CutDisk, tmp_path: Path, seed: int, note: Note) -> None:
    broker = RunningBroker(cut_disk.path / "data", tmp_path / "broker.log", SETTINGS)

    def crash() -> None:
        cut_disk.cut_power()
        broker.kill()
        cut_disk.restore()
        broker.start()

    try:
        broker.start()
        run(broker, crash, seed, note)
    finally:
        broker.close()


def test_without_the_journals_acknowledged_records_are_lost(
    broker: RunningBroker, seed: int, note: Note
) -> None:
    def crash() -> None:
        broker.kill()
        shutil.rmtree(broker.data_dir / "journal")
        broker.start()

    create_numbered_topic(broker, PARTITIONS)
    outcome = run_cycles(
        broker, crash, seed, stop_at_loss=True, cycles=CYCLES, partitions=PARTITIONS
    )
    note(outcome.summary())
    assert outcome.verdict.lost


def test_an_offline_partition_keeps_the_journals_until_it_is_whole(broker: RunningBroker) -> None:
    create_numbered_topic(broker, PARTITIONS)
    producer = Producer({"bootstrap.servers": broker.address, "acks": "all", "linger.ms": "20"})
    for size in (50_000, 10):  # to the segments, then to the journals
        for index in range(PARTITIONS):
            producer.produce(TOPIC, b"x" * size, partition=index)
        assert producer.flush(20) == 0
    assert journal_writes(broker) > 0
    broker.kill()
    segment = broker.data_dir / f"{TOPIC}-5" / f"{0:020d}.wal"
    flip(segment, 3 * BLOCK)
    broker.start()
    assert "journals are kept and not used" in broker.log_text()
    assert counts(broker) == [0 if index == 5 else 2 for index in range(PARTITIONS)]
    assert journal_writes(broker) == 0
    broker.kill()
    flip(segment, 3 * BLOCK)
    broker.start()
    assert counts(broker) == [2] * PARTITIONS


def counts(broker: RunningBroker) -> list[int]:
    """How many records of each partition are served, 0 where it is offline."""
    found = []
    for index in range(PARTITIONS):
        consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "counts"})
        try:
            there = consumer.get_watermark_offsets(TopicPartition(TOPIC, index), timeout=2)
            found.append(there[1])
        except KafkaException:
            found.append(0)
        finally:
            consumer.close()
    return found
