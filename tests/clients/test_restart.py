"""What survives a restart, graceful or not: everything a client was told.

Each way to end the broker or a part of it is a parameter; what must hold afterwards is the same.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from kafka_protocol.messages.metadata import MetadataRequest
from kafka_protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_protocol.record_batch import build_batch
from tests.clients import via_confluent, via_kafka_python
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import FIRST_MS, MIB, Rec, numbered, plain
from tests.clients.topics import create_topic
from tests.clients.wire_client import WireClient, produce_request, stored_batches


def restart_gracefully(broker: RunningBroker) -> None:
    broker.restart()


def kill_and_start(broker: RunningBroker) -> None:
    broker.kill()
    broker.start()


def kill_supervisor_and_start(broker: RunningBroker) -> None:
    broker.kill_supervisor()
    broker.start()


def kill_shard(broker: RunningBroker) -> None:
    broker.kill_shard()


STOP_IN_RECOVERY_S_MAX = 5.0  # of some milliseconds, on a machine that is busy

# The clients' own waits are for brokers far away.
RECONNECT = {"reconnect_backoff_ms": 10, "reconnect_backoff_max_ms": 50}

Restart = Callable[[RunningBroker], None]
RESTARTS: list[Restart] = [
    restart_gracefully,
    kill_and_start,
    kill_supervisor_and_start,
    kill_shard,
]
every_restart = pytest.mark.parametrize("restart", RESTARTS)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One broker that goes through all restarts of this file."""
    directory = tmp_path_factory.mktemp("restarts")
    running = RunningBroker(
        directory / "data", directory / "broker.log", {"restart_backoff_s": 0.01}
    )
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


def metadata(broker: RunningBroker) -> Any:
    with WireClient(broker) as client:
        return client.ask(MetadataRequest(None), 12)


def facts(broker: RunningBroker) -> tuple[str, dict[str, tuple[bytes, int]]]:
    """Cluster id, and of each topic its id and number of partitions."""
    answer = metadata(broker)
    return answer.cluster_id, {t.name: (t.topic_id, len(t.partitions)) for t in answer.topics}


def leader_epoch(broker: RunningBroker, topic: str) -> int:
    [found] = [t for t in metadata(broker).topics if t.name == topic]
    return int(found.partitions[0].leader_epoch)


def settings_hold(broker: RunningBroker, stamped: str, small: str) -> None:
    """The configs of the two topics have their effect."""
    before = len(via_confluent.consume(broker, stamped))
    via_confluent.produce(broker, stamped, plain(1))
    assert via_confluent.consume(broker, stamped)[before][1].timestamp_ms > FIRST_MS
    with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
        via_confluent.produce(broker, small, [Rec(None, bytes(2_000))])


@every_restart
def test_records_ids_and_configs_are_the_same_afterwards(
    broker: RunningBroker, restart: Restart
) -> None:
    topic = create_topic(broker, partitions=2)
    stamped = create_topic(broker, configs={"message.timestamp.type": "LogAppendTime"})
    small = create_topic(broker, configs={"max.message.bytes": "1000"})
    big = Rec(None, bytes(MIB - 1_000), (), FIRST_MS)
    for partition in range(2):
        via_confluent.produce(broker, topic, [*plain(100), big], partition, message_max_bytes=MIB)
    settings_hold(broker, stamped, small)
    known = facts(broker)
    stored = stored_batches(broker, topic)
    restart(broker)
    assert facts(broker) == known
    assert stored_batches(broker, topic) == stored
    for partition in range(2):
        read = via_confluent.consume(broker, topic, partition=partition)
        assert read == numbered([*plain(100), big])
    settings_hold(broker, stamped, small)
    assert via_confluent.produce(broker, topic, plain(1)) == [101]


@every_restart
def test_confluents_idempotent_producer_goes_on_without_duplicates(
    broker: RunningBroker, restart: Restart
) -> None:
    topic = create_topic(broker)
    producer = via_confluent.make_producer(
        broker, enable_idempotence=True, retry_backoff_ms=10, **RECONNECT
    )
    first, second = plain(300, "before"), plain(300, "after")
    assert via_confluent.produce_with(producer, topic, first) == list(range(300))
    restart(broker)
    assert via_confluent.produce_with(producer, topic, second) == list(range(300, 600))
    assert via_confluent.consume(broker, topic) == numbered([*first, *second])
    headers = [batch.header for batch in stored_batches(broker, topic)]
    assert len({(header.producer_id, header.producer_epoch) for header in headers}) == 1


@every_restart
def test_kafka_pythons_idempotent_producer_goes_on_without_duplicates(
    broker: RunningBroker, restart: Restart
) -> None:
    topic = create_topic(broker)
    producer = via_kafka_python.make_producer(broker, retry_backoff_ms=20, **RECONNECT)
    first, second = plain(50, "before"), plain(50, "after")
    try:
        assert via_kafka_python.produce_with(producer, topic, first) == list(range(50))
        restart(broker)
        assert via_kafka_python.produce_with(producer, topic, second) == list(range(50, 100))
    finally:
        producer.close()
    assert via_kafka_python.consume(broker, topic) == numbered([*first, *second])


@every_restart
def test_a_batch_retried_afterwards_is_answered_with_its_original_offset(
    broker: RunningBroker, restart: Restart
) -> None:
    topic = create_topic(broker)
    with WireClient(broker) as client:
        producer_id = client.ask(InitProducerIdRequest(None, 60_000), 4).producer_id

    def batch(i: int) -> bytearray:
        return build_batch(
            [(None, b"%d" % i)], producer_id=producer_id, producer_epoch=0, base_sequence=i
        )

    def produce(i: int) -> int:
        with WireClient(broker) as client:
            answer = client.ask(produce_request(topic, 0, batch(i), -1), 9)
        result = answer.responses[0].partition_responses[0]
        assert result.error_code == 0
        return int(result.base_offset)

    assert [produce(i) for i in range(8)] == list(range(8))
    restart(broker)
    assert [produce(i) for i in (7, 3, 5)] == [7, 3, 5]
    assert produce(8) == 8
    assert len(stored_batches(broker, topic)) == 9
    with WireClient(broker) as client:
        assert client.ask(InitProducerIdRequest(None, 60_000), 4).producer_id > producer_id


@every_restart
def test_leader_epochs_rise_and_tell_where_they_ended(
    broker: RunningBroker, restart: Restart
) -> None:
    topic = create_topic(broker)
    via_confluent.produce(broker, topic, plain(10))
    before = leader_epoch(broker, topic)
    restart(broker)
    after = leader_epoch(broker, topic)
    assert after > before
    via_confluent.produce(broker, topic, plain(5))
    assert {b.header.partition_leader_epoch for b in stored_batches(broker, topic)} == {
        before,
        after,
    }

    def end_of(epoch: int) -> tuple[int, int]:
        wanted = OffsetForLeaderTopic(topic, [OffsetForLeaderPartition(0, after, epoch)])
        with WireClient(broker) as client:
            answer = client.ask(OffsetForLeaderEpochRequest(topics=[wanted]), 4)
        result = answer.topics[0].partitions[0]
        assert result.error_code == 0
        return result.leader_epoch, result.end_offset

    assert end_of(before) == (before, 10)
    assert end_of(after) == (after, 15)
    assert end_of(after + 1) == (-1, -1)


@every_restart
def test_a_consumer_goes_on_where_it_was(broker: RunningBroker, restart: Restart) -> None:
    topic = create_topic(broker)
    via_confluent.produce(broker, topic, plain(20, "before"))
    consumer = via_confluent.make_consumer(broker, retry_backoff_ms=20, **RECONNECT)
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        read = via_confluent.read_count(consumer, 20)
        restart(broker)
        via_confluent.produce(broker, topic, plain(20, "after"))
        read += via_confluent.read_count(consumer, 20)
    finally:
        consumer.close()
    assert read == numbered([*plain(20, "before"), *plain(20, "after")])


def test_a_consumer_asks_where_its_epoch_ended(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    via_confluent.produce(broker, topic, plain(20))
    consumer = via_confluent.make_consumer(
        broker,
        **RECONNECT,
        topic_metadata_refresh_interval_ms=100,
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        via_confluent.read_count(consumer, 20)
        broker.kill_shard()
        via_confluent.produce(broker, topic, plain(1))
        via_confluent.read_count(consumer, 1)
    finally:
        consumer.close()
    status, text = broker.http_get("/metrics")
    assert status == 200
    assert 'api="OffsetForLeaderEpoch"' in text


def test_an_empty_broker_restarts(own_broker: RunningBroker, tmp_path: Path) -> None:
    own_broker.start()
    own_broker.restart()
    own_broker.kill()
    own_broker.start()
    assert metadata(own_broker).topics == []


def test_a_stop_while_a_shard_recovers_is_immediate_and_loses_nothing(tmp_path: Path) -> None:
    settings = {"restart_backoff_s": 1.0, "lock_wait_s": 3600.0}
    broker = RunningBroker(tmp_path / "data", tmp_path / "broker.log", settings)
    try:
        broker.start()
        topic = create_topic(broker)
        assert via_confluent.produce(broker, topic, plain(10)) == list(range(10))
        broker.kill_shard()
        os.kill(broker.shard_pids[0], signal.SIGKILL)  # again, so that there is a delay
        [path] = (broker.data_dir / f"{topic}-0").glob("*.wal")
        with path.open("rb") as segment:
            # This lock stands for a write that is stuck in the kernel: recovery waits for it.
            wait_until(lambda: locked(segment), "the shard's lock")
            wait_until(lambda: "waiting up to" in broker.log_text(), "a shard that waits for it")
            begun_s = time.monotonic()
            broker.stop()
            assert time.monotonic() - begun_s < STOP_IN_RECOVERY_S_MAX
        broker.start()
        assert via_confluent.consume(broker, topic) == numbered(plain(10))
        broker.stop()
    finally:
        broker.close()


def locked(file: BufferedReader) -> bool:
    """Whether this process has got the lock of a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
