"""A full disk is a normal state: producers are refused, everybody else is served, and it passes.

A real broker on a small ext4 file system which somebody else fills, or which turns read-only.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tests.clients.admins import ConfluentAdmin
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.crash.cut_disk import CutDisk, CutDiskUnavailable

MIB = 1 << 20
DISK_BYTES = 160 * MIB
SETTINGS = {
    "storage_min_free_bytes": 6 * MIB,
    "storage_space_alert_free_threshold_bytes": 12 * MIB,
    "storage_space_alert_free_threshold_percent": 0,
    "storage_reserve_bytes": 1 * MIB,
    "segment_bytes": 1 * MIB,
    "log_cleaner_backoff_ms": 3_600_000,
}
FULL = "the disk is full: producers are refused"


class SmallDisk:
    """A broker on a small disk, and the somebody who fills it."""

    def __init__(self, directory: Path, settings: Mapping[str, object]) -> None:
        self.disk = CutDisk(directory, size_bytes=DISK_BYTES)
        all_settings = {**SETTINGS, **settings}
        self.broker = RunningBroker(self.disk.path / "data", directory / "log", all_settings)
        self._ballast = self.disk.path / "ballast"

    def leave(self, free_bytes: int) -> None:
        """Have so much free, about."""
        with self._ballast.open("ab") as file:
            size = file.tell() + self.free_bytes - free_bytes
            if size > file.tell():
                os.posix_fallocate(file.fileno(), file.tell(), size - file.tell())
            else:
                file.truncate(size)
            os.fsync(file.fileno())

    @property
    def free_bytes(self) -> int:
        found = os.statvfs(self.disk.path)
        return found.f_bavail * found.f_frsize

    def events(self, name: str) -> int:
        return sum(event["message"] == name for event in self.broker.log_events())

    def is_full(self) -> bool:
        return self.broker.metrics()["rpk_disk_level"] == 2

    def close(self) -> None:
        self.broker.close()
        self.disk.close()


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    """It runs, and there is room."""
    try:
        made = SmallDisk(tmp_path, getattr(request, "param", {}))
    except CutDiskUnavailable as error:
        pytest.skip(str(error))
    try:
        made.broker.start()
        yield made
    finally:
        made.close()


def produce(broker: RunningBroker, topic: str, value: bytes) -> int | None:
    """One record, without a second try: the code of why it was refused, or None."""
    outcome: list[KafkaError | None] = []
    settings = {"bootstrap.servers": broker.address, "message.send.max.retries": 0}
    producer = Producer(settings)
    producer.produce(topic, value, partition=0, on_delivery=lambda error, _m: outcome.append(error))
    assert producer.flush(30) == 0
    (error,) = outcome
    return None if error is None else error.code()


def values(broker: RunningBroker, topic: str, offset: int = 0) -> list[bytes]:
    """What a consumer gets from there to the end."""
    settings = {"bootstrap.servers": broker.address, "group.id": "reader"}
    consumer = Consumer({**settings, "enable.partition.eof": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, offset)])
    found = []
    while (message := consumer.poll(20)) is not None and message.error() is None:
        found.append(message.value() or b"")
    assert message is not None
    assert message.error().code() == KafkaError._PARTITION_EOF
    consumer.close()
    return found


def commit(broker: RunningBroker, topic: str, offset: int) -> int:
    """A group commits; what it is told of its offset afterwards."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "a-group"})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    (committed,) = consumer.committed([TopicPartition(topic, 0)], timeout=20)
    consumer.close()
    return int(committed.offset)


def start_of(broker: RunningBroker, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "nobody"})
    low, _high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)
    consumer.close()
    return int(low)


def check_what_goes_on(small: SmallDisk, topic: str, acknowledged: list[bytes]) -> None:
    """While it is full: fetches, groups, deletions, metadata, probes."""
    broker = small.broker
    assert produce(broker, topic, b"refused") == KafkaError.KAFKA_STORAGE_ERROR
    start = start_of(broker, topic)
    assert values(broker, topic, start) == acknowledged[start:]
    assert commit(broker, topic, 7) == 7
    with ConfluentAdmin(broker.address) as admin:
        low = {0: start + 2}
        assert admin.delete_records(topic, low) == low
        made = create_topic(broker)
        assert admin.delete_topics([made]) == {made: 0}
    assert start_of(broker, topic) == start + 2
    status, body = broker.http_get("/v1/status/ready")
    assert (status, json.loads(body)["storage"]) == (200, "full"), "consumers are to be sent here"


def test_producers_are_refused_until_there_is_room_and_all_else_goes_on(small: SmallDisk) -> None:
    broker, topic = small.broker, create_topic(small.broker)
    acknowledged = [b"%d" % number + bytes(10_000) for number in range(20)]
    for value in acknowledged:
        assert produce(broker, topic, value) is None
    commit(broker, topic, 5)  # groups are there
    small.leave(3 * MIB)
    wait_until(small.is_full, "the disk is full")
    check_what_goes_on(small, topic, acknowledged)
    assert small.events(FULL) == 1
    broker.kill()
    broker.start()  # on a full disk
    wait_until(small.is_full, "the disk is full")
    check_what_goes_on(small, topic, acknowledged)
    broker.stop()
    broker.start()
    wait_until(small.is_full, "the disk is full")
    assert produce(broker, topic, b"refused") == KafkaError.KAFKA_STORAGE_ERROR
    small.leave(100 * MIB)
    wait_until(lambda: produce(broker, topic, b"again") is None, "producers go on by themselves")
    assert values(broker, topic, 4) == [*acknowledged[4:], b"again"]
    assert broker.metrics()["rpk_disk_level"] == 0
    assert broker.metrics()["rpk_partitions_offline"] == 0
    assert {e["message"] for e in broker.log_events("error", "critical", "raw")} == {FULL}


@pytest.mark.parametrize("small", [{"storage_min_free_bytes": 0}], indirect=True)
def test_a_disk_that_is_filled_to_the_last_block_loses_nothing(small: SmallDisk) -> None:
    """Without a hard limit: the logs themselves find no room."""
    broker = small.broker
    topics = [create_topic(broker) for _ in range(3)]
    acknowledged: dict[str, list[bytes]] = {topic: [] for topic in topics}
    small.leave(8 * MIB)
    refused: set[str] = set()
    for number, topic in zip(range(3000), itertools.cycle(topics), strict=False):
        value = b"%d" % number + bytes(50_000)
        code = produce(broker, topic, value)
        if code is None:
            acknowledged[topic].append(value)
        else:
            assert code == KafkaError.KAFKA_STORAGE_ERROR
            refused.add(topic)
            if len(refused) == len(topics):
                break
    assert refused == set(topics)
    for topic in topics:
        assert values(broker, topic)[: len(acknowledged[topic])] == acknowledged[topic]
    assert broker.metrics()["rpk_partitions_offline"] == 0
    small.leave(100 * MIB)
    for topic in topics:
        wait_until(lambda topic=topic: produce(broker, topic, b"again") is None, "room for more")
        found = values(broker, topic)
        assert found[: len(acknowledged[topic])] == acknowledged[topic]
        assert found[-1] == b"again"
    broker.kill()
    broker.start()
    for topic in topics:
        assert values(broker, topic)[: len(acknowledged[topic])] == acknowledged[topic]


@pytest.mark.parametrize("small", [{"storage_space_trim": True}], indirect=True)
def test_old_segments_make_room_for_new_ones_where_that_is_set(small: SmallDisk) -> None:
    broker = small.broker
    kept = create_topic(broker, configs={"retention.ms": "-1"})
    trimmed = create_topic(broker, configs={"retention.ms": "604800000"})
    producer = Producer({"bootstrap.servers": broker.address})
    for topic in (kept, trimmed):
        for _ in range(40):
            producer.produce(topic, bytes(200_000), partition=0)
        assert producer.flush(30) == 0
    small.leave(10 * MIB)
    wait_until(lambda: start_of(broker, trimmed) > 0, "old segments go")
    for _ in range(100):  # more than there is room for: others make it
        producer.produce(trimmed, bytes(200_000), partition=0)
        assert producer.flush(30) == 0
    assert start_of(broker, kept) == 0
    assert small.events(FULL) == 0
    broker.stop()


def test_a_file_system_that_turns_read_only_takes_only_writes(small: SmallDisk) -> None:
    broker = small.broker
    written, idle = create_topic(broker), create_topic(broker)
    for topic in (written, idle):
        assert produce(broker, topic, b"acknowledged") is None
    small.disk.go_read_only()
    assert produce(broker, written, b"refused") == KafkaError.KAFKA_STORAGE_ERROR
    assert values(broker, idle) == [b"acknowledged"]
    assert broker.metrics()["rpk_partitions_offline"] == 1
    with ConfluentAdmin(broker.address) as admin:
        assert admin.delete_topics([idle])[idle] == KafkaError.KAFKA_STORAGE_ERROR
    assert values(broker, idle) == [b"acknowledged"]
    broker.kill()
    small.disk.restore()
    broker.start()
    for topic in (written, idle):
        assert produce(broker, topic, b"again") is None
        assert values(broker, topic) == [b"acknowledged", b"again"]
