"""Topics that come and go by the hundred, from three clients at once, each at another shard."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import build_batch
from storage.space import RESERVE_SUFFIX
from tests.clients import via_confluent
from tests.clients.admins import ADMINS, Admin
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import numbered, plain
from tests.clients.wire_client import WireClient

SHARDS = 4
TOPICS = 200
PARTITIONS = 10
BATCH = 5  # topics in one request
ALIVE_MAX = 20  # topics of one client at a time
CONTESTED = 10  # topics that all three create and delete at the same moment
JOIN_S_MAX = 60.0
NAMES_LEFT = {
    "journal",
    "metadata.db",
    "metadata.db-journal",
    "broker.json",
    ".lock",
    "trash",
    "recycle",
}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """Four shards; a producer's look at a deleted topic must not make it again."""
    settings = {"auto_create_topics": False}
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", settings, shards=SHARDS)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


class Churner(threading.Thread):
    """One client: creates topics, writes to them at once through other shards, deletes them.

    codes  what it was answered in the contests, of creations and of deletions
    left   the topics that it did not delete
    """

    def __init__(self, broker: RunningBroker, name: str, shard: int, meet: threading.Barrier):
        super().__init__(daemon=True)
        self.broker = broker
        self.name = name
        self.shard = shard
        self.meet = meet
        self.left: list[str] = []
        self.created: list[Counter[int]] = []
        self.deleted: list[Counter[int]] = []
        self.error: Exception | None = None
        self._rng = random.Random(shard)

    def run(self) -> None:
        """The thread."""
        try:
            with ADMINS[self.name](self.broker.addresses[self.shard]) as admin:
                self._churn(admin)
                self._contest(admin)
        except Exception as error:
            self.error = error
            self.meet.abort()

    def _churn(self, admin: Admin) -> None:
        names = [f"{self.name}-{i}" for i in range(self.shard, TOPICS, len(ADMINS))]
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            assert admin.create_topics(batch, PARTITIONS) == dict.fromkeys(batch, 0)
            for name in batch:
                self._use(name)
            self.left += batch
            while len(self.left) > ALIVE_MAX:
                self._rng.shuffle(self.left)
                gone, self.left = self.left[:BATCH], self.left[BATCH:]
                assert admin.delete_topics(gone) == dict.fromkeys(gone, 0)

    def _use(self, name: str) -> None:
        """Ask one shard for it, write a record to a partition of each shard."""
        [described] = metadata(self.broker, self._rng.randrange(SHARDS), name).topics
        assert (described.error_code, len(described.partitions)) == (0, PARTITIONS)
        by_leader = {partition.leader_id: partition for partition in described.partitions}
        assert len(by_leader) == SHARDS
        batch = memoryview(build_batch([(b"key", bytes(100))]))
        for leader, partition in by_leader.items():
            data = [PartitionProduceData(partition.partition_index, batch)]
            topics = [TopicProduceData(topic_id=described.topic_id, partition_data=data)]
            with WireClient(self.broker, leader) as client:
                answer = client.ask(ProduceRequest(None, -1, 30_000, topics), 13)
            assert answer.responses[0].partition_responses[0].error_code == 0

    def _contest(self, admin: Admin) -> None:
        names = [f"contested-{i}" for i in range(CONTESTED)]
        for name in names:
            self.meet.wait(JOIN_S_MAX)
            self.created.append(Counter(admin.create_topics([name], PARTITIONS).values()))
            self.meet.wait(JOIN_S_MAX)
            self.deleted.append(Counter(admin.delete_topics([name]).values()))


def metadata(broker: RunningBroker, shard: int, *topics: str) -> Any:
    with WireClient(broker, shard) as client:
        wanted = [MetadataRequestTopic(name=name) for name in topics] or None
        return client.ask(MetadataRequest(wanted, allow_auto_topic_creation=False), 12)


def view(broker: RunningBroker, shard: int) -> dict[str, Any]:
    """All that a shard says of topics."""
    return {topic.name: topic for topic in metadata(broker, shard).topics}


def topics_on_disk(broker: RunningBroker) -> Counter[str]:
    """How many partitions of each topic the data directory holds, and what else is there."""
    paths = [path for path in broker.data_dir.iterdir() if path.suffix != RESERVE_SUFFIX]
    names = {path.name for path in paths} - NAMES_LEFT
    return Counter(name.rpartition("-")[0] or name for name in names)


def test_topics_of_three_clients_come_and_go_and_leave_nothing(broker: RunningBroker) -> None:
    meet = threading.Barrier(len(ADMINS))
    churners = [Churner(broker, name, shard, meet) for shard, name in enumerate(ADMINS)]
    for churner in churners:
        churner.start()
    for churner in churners:
        churner.join(JOIN_S_MAX)
        assert churner.error is None, (churner.name, churner.error)
        assert not churner.is_alive(), f"{churner.name} did not end"
    # Of those who do the same at once, one does it, and the others are told why they cannot.
    for codes in zip(*(churner.created for churner in churners), strict=True):
        assert sum(codes, Counter()) == {0: 1, ErrorCode.TOPIC_ALREADY_EXISTS: 2}
    for codes in zip(*(churner.deleted for churner in churners), strict=True):
        assert sum(codes, Counter()) == {0: 1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: 2}

    left = sorted(name for churner in churners for name in churner.left)
    views = [view(broker, shard) for shard in range(SHARDS)]
    assert sorted(views[0]) == left
    assert views[1:] == views[:1] * (SHARDS - 1)
    # Each has a directory of those four partitions that were written to.
    wait_until(lambda: topics_on_disk(broker) == Counter(dict.fromkeys(left, SHARDS)), "tidy disk")

    with ADMINS["aiokafka"](broker.addresses[-1]) as admin:
        assert admin.delete_topics(left) == dict.fromkeys(left, 0)
    assert [view(broker, shard) for shard in range(SHARDS)] == [{}] * SHARDS
    wait_until(lambda: not topics_on_disk(broker), "nothing is left on the disk")
    wait_until(lambda: not list(broker.data_dir.glob("trash/*")), "the trash is empty")
    assert broker.log_events("error", "critical", "raw") == []


def test_what_changes_while_a_shard_is_dead_it_learns_when_it_is_back(
    broker: RunningBroker,
) -> None:
    with ADMINS["confluent"](broker.addresses[0]) as admin:
        assert admin.create_topics(["gone", "grows"], PARTITIONS) == {"gone": 0, "grows": 0}
        for name in ("gone", "grows"):
            for partition in range(PARTITIONS):
                via_confluent.produce(broker, name, plain(3), partition)
        for dead in range(1, SHARDS):
            os.kill(broker.shard_pids[dead], signal.SIGKILL)
            born = f"born-{dead}"
            assert admin.delete_topics(["gone"]) == {"gone": 0}
            assert admin.create_topics([born], PARTITIONS) == {born: 0}
            admin.create_partitions("grows", PARTITIONS * (dead + 1))
            for partition in range(PARTITIONS):
                assert via_confluent.produce(broker, born, plain(2), partition) == [0, 1]
            last = PARTITIONS * (dead + 1) - 1
            assert via_confluent.produce(broker, "grows", plain(2), last) == [0, 1]
            views = [view(broker, shard) for shard in range(SHARDS)]
            assert views[1:] == views[:1] * (SHARDS - 1)
            wait_until(lambda: not topics_on_disk(broker)["gone"], "the deleted topic is gone")
            assert admin.create_topics(["gone"], PARTITIONS) == {"gone": 0}
            for partition in range(PARTITIONS):
                assert via_confluent.produce(broker, "gone", plain(3), partition) == [0, 1, 2]
    assert via_confluent.consume(broker, "grows") == numbered(plain(3))
