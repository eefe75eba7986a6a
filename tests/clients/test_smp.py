"""The number of shards changes between two starts, and nothing that a client was told does.

What was known under 1 shard is looked for under 4, 2 and 3: topics, ids, configs, records, the
start of a log, and what idempotent producers have written. Partitions move, their epochs grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.current_leader import LeaderIdAndEpoch
from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.record_batch import build_batch
from tests.clients.admins import BROKER, TOPIC, ConfluentAdmin, change_cluster_default
from tests.clients.broker import RunningBroker
from tests.clients.steady import read_numbers
from tests.clients.topics import create_topic
from tests.clients.wire_client import WireClient, fetch_request, produce_request

SMP = (1, 4, 2, 3, 4)
PARTITIONS = 24
DELETED = 3  # records of partition 0
CONFIGS = {"max.message.bytes": "77777", "message.timestamp.type": "CreateTime"}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker that is started by the test, with up to four shards."""
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", shards=max(SMP))
    try:
        yield running
        running.stop()
    finally:
        running.close()
    assert running.log_events("error", "critical", "raw") == []


class WireProducer:
    """An idempotent producer that keeps its id, epoch and sequences whatever happens."""

    def __init__(self, broker: RunningBroker, topic: str) -> None:
        self.broker = broker
        self.topic = topic
        self.next = [0] * PARTITIONS  # sequence and offset, since nobody else writes
        with WireClient(broker) as client:
            self.producer_id = client.ask(InitProducerIdRequest(None, 60_000), 4).producer_id

    def write(self, partition: int, number: int, shard: int) -> tuple[int, int]:
        """Send the batch of one record with this number: (error code, offset)."""
        batch = build_batch(
            [(None, b"%d" % number)],
            producer_id=self.producer_id,
            producer_epoch=0,
            base_sequence=number,
        )
        with WireClient(self.broker, shard) as client:
            answer = client.ask(produce_request(self.topic, partition, batch, -1), 9)
        result = answer.responses[0].partition_responses[0]
        return result.error_code, result.base_offset

    def write_next(self, leaders: list[int]) -> None:
        """The next record of every partition."""
        for partition, leader in enumerate(leaders):
            number = self.next[partition]
            assert self.write(partition, number, leader) == (0, number)
            self.next[partition] += 1

    def repeat(self, leaders: list[int]) -> None:
        """A retry of an old batch has its old offset, one that is missing shows."""
        for partition, leader in enumerate(leaders):
            for number in range(max(0, self.next[partition] - 5), self.next[partition]):
                assert self.write(partition, number, leader) == (0, number)
            gap = self.write(partition, self.next[partition] + 1, leader)
            assert gap[0] == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def described(broker: RunningBroker, topic: str, shard: int = 0) -> Any:
    with WireClient(broker, shard) as client:
        [found] = client.ask(MetadataRequest([MetadataRequestTopic(name=topic)]), 12).topics
    found.partitions.sort(key=lambda partition: partition.partition_index)
    return found


def leadership(topic: Any) -> list[LeaderIdAndEpoch]:
    return [LeaderIdAndEpoch(p.leader_id, p.leader_epoch) for p in topic.partitions]


def start_with(broker: RunningBroker, shards: int) -> None:
    broker.stop()
    broker.shards = shards
    broker.start()


def test_data_topics_configs_and_producers_stay(broker: RunningBroker) -> None:
    broker.shards = SMP[0]
    broker.start()
    topic = create_topic(broker, partitions=PARTITIONS, configs=CONFIGS)
    producer = WireProducer(broker, topic)
    for _ in range(7):
        producer.write_next([0] * PARTITIONS)
    with ConfluentAdmin(broker.address) as admin:
        assert admin.delete_records(topic, {0: DELETED}) == {0: DELETED}
        change_cluster_default(broker, "message.max.bytes", "2000000")
        configs = admin.describe_configs(TOPIC, topic)
    assert CONFIGS.items() <= configs.items()
    before = described(broker, topic)
    for shards in SMP[1:]:
        start_with(broker, shards)
        now = described(broker, topic)
        assert all(described(broker, topic, shard) == now for shard in range(shards))
        assert now.topic_id == before.topic_id
        leaders = [leader.leader_id for leader in leadership(now)]
        assert Counter(leaders) == dict.fromkeys(range(shards), PARTITIONS // shards)
        for old, new in zip(leadership(before), leadership(now), strict=True):
            assert new.leader_epoch > old.leader_epoch
        with ConfluentAdmin(broker.addresses[-1]) as admin:
            assert admin.describe_configs(TOPIC, topic) == configs
            assert admin.describe_configs(BROKER, "0")["message.max.bytes"] == "2000000"
        expected = {p: [(n, n) for n in range(sent)] for p, sent in enumerate(producer.next)}
        del expected[0][:DELETED]
        assert read_numbers(broker, topic, PARTITIONS, {0: DELETED}) == expected
        old_leaders_refuse(broker, topic, leadership(before), leadership(now))
        producer.repeat(leaders)
        producer.write_next(leaders)
        before = now


def old_leaders_refuse(
    broker: RunningBroker,
    topic: str,
    before: list[LeaderIdAndEpoch],
    now: list[LeaderIdAndEpoch],
) -> None:
    """A client whose metadata is of the last start is told where the leader is now."""
    for partition, (old, new) in enumerate(zip(before, now, strict=True)):
        if old.leader_id == new.leader_id or old.leader_id >= broker.shards:
            continue
        with WireClient(broker, old.leader_id) as client:
            answer = client.ask(fetch_request(topic, partition, DELETED), 12)
        refused = answer.responses[0].partitions[0]
        assert refused.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert refused.current_leader == new
