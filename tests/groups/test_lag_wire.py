"""The lag of groups in GET /metrics of a real broker: groups and partitions on two shards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic

PARTITIONS = 4
RECORDS = 10
GROUPS = ("plain", 'with "quotes" and \\')


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", shards=2)
    try:
        yield running.start()
    finally:
        running.close()


def series(broker: RunningBroker) -> dict[str, float]:
    """The values of /metrics by name and labels."""
    status, text = broker.http_get("/metrics")
    assert status == 200, text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def commit(broker: RunningBroker, group: str, topic: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": group})
    wanted = [TopicPartition(topic, index, offset + index) for index in range(PARTITIONS)]
    assert all(each.error is None for each in consumer.commit(offsets=wanted, asynchronous=False))
    consumer.close()


def produce(broker: RunningBroker, topic: str) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for number in range(PARTITIONS * RECORDS):
        producer.produce(topic, b"x", partition=number % PARTITIONS)
    assert producer.flush(20) == 0


def test_lag_is_told_in_records_and_in_seconds(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=PARTITIONS)
    started_s = time.monotonic()
    produce(broker, topic)
    for group in GROUPS:
        commit(broker, group, topic, 6)
    for group in GROUPS:
        label = group.replace("\\", "\\\\").replace('"', '\\"')
        of_all = [
            f'group="{label}",topic="{topic}",partition="{index}"' for index in range(PARTITIONS)
        ]
        metrics = series(broker)
        for index, labels in enumerate(of_all):
            assert metrics[f"rpk_group_lag_records{{{labels}}}"] == RECORDS - 6 - index
            assert metrics[f"kafka_consumergroup_lag{{consumer{labels}}}"] == RECORDS - 6 - index
            assert metrics[f"kafka_consumergroup_current_offset{{consumer{labels}}}"] == 6 + index
        seconds = f"rpk_group_lag_seconds{{{of_all[0]}}}"
        wait_until(lambda name=seconds: series(broker).get(name, 0) > 0, "it has an age")
        assert series(broker)[seconds] <= time.monotonic() - started_s
    commit(broker, GROUPS[0], topic, RECORDS - PARTITIONS + 1)
    last = f'group="plain",topic="{topic}",partition="{PARTITIONS - 1}"'
    assert series(broker)[f"rpk_group_lag_records{{{last}}}"] == 0
    assert series(broker)[f"rpk_group_lag_seconds{{{last}}}"] == 0
    metrics = series(broker)
    counted = sum(
        value
        for name, value in metrics.items()
        if name.startswith("rpk_groups{") and 'state="Empty",type="classic"' in name
    )
    assert counted == len(GROUPS)
    commits = sum(metrics[f'rpk_offset_commits_total{{shard="{shard}"}}'] for shard in (0, 1))
    assert commits == PARTITIONS * (len(GROUPS) + 1)
