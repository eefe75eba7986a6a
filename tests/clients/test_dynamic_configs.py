"""Configs that are changed while two shards run: each takes effect at once, and stays.

Changes go through the admin clients of confluent-kafka, kafka-python and aiokafka; what they do is
seen in what a produce, a connection or a creation is answered, and in the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from kafka_protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import Record, build_batch
from tests.clients.admins import ADMINS, BROKER, TOPIC, Admin, ConfluentAdmin, Refused
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic, new_topic_name
from tests.clients.wire_client import ConnectionClosed, WireClient

SET, DELETE = 0, 1
TOO_LARGE = ErrorCode.MESSAGE_TOO_LARGE
TOPIC_CONFIG, NODE, ALL_NODES, DEFAULT = 1, 2, 3, 5  # sources


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Two shards that all tests of this file share; nothing may have gone wrong in them."""
    directory = tmp_path_factory.mktemp("broker")
    running = RunningBroker(directory / "data", directory / "broker.log", shards=2)
    try:
        running.start()
        yield running
        running.stop()
    finally:
        running.close()
    assert running.log_events("error", "critical", "raw") == []


@pytest.fixture(params=ADMINS)
def admin(request: pytest.FixtureRequest, broker: RunningBroker) -> Iterator[Admin]:
    """Each admin client in turn, bootstrapped by the second shard."""
    with ADMINS[request.param](broker.addresses[1]) as client:
        yield client


@pytest.fixture
def confluent(broker: RunningBroker) -> Iterator[ConfluentAdmin]:
    """The one that can do everything."""
    with ConfluentAdmin(broker.addresses[1]) as client:
        yield client


def produce(broker: RunningBroker, topic: str, size: int, index: int = 0) -> int:
    """Send one record of about `size` bytes to the leader of a partition; the error code."""
    batch = bytes(build_batch([Record(0, 1_600_000_000_000, None, bytes(size), ())]))
    data = [TopicProduceData(topic, bytes(16), [PartitionProduceData(index, batch)])]
    for shard in range(broker.shards):
        with WireClient(broker, shard) as client:
            answer = client.ask(ProduceRequest(None, -1, 20_000, data), 9)
        code: int = answer.responses[0].partition_responses[0].error_code
        if code != ErrorCode.NOT_LEADER_OR_FOLLOWER:
            return code
    raise AssertionError(f"nobody leads {topic}-{index}")


def change_all_nodes(broker: RunningBroker, configs: Mapping[str, str | None]) -> None:
    """Set, or with None delete, dynamic configs of all nodes; the clients here cannot name them."""
    changes = [
        AlterableConfig(name, SET if value is not None else DELETE, value)
        for name, value in configs.items()
    ]
    request = IncrementalAlterConfigsRequest([AlterConfigsResource(4, "", changes)])
    with WireClient(broker) as client:
        [answer] = client.ask(request, 1).responses
    assert answer.error_code == ErrorCode.NONE, answer.error_message


def described(broker: RunningBroker, shard: int, kind: int, name: str) -> dict[str, Any]:
    """Name -> (value, source) as one shard tells them."""
    resource = DescribeConfigsResource(kind, name, None)
    with WireClient(broker, shard) as client:
        [result] = client.ask(DescribeConfigsRequest([resource]), 4).results
    assert result.error_code == ErrorCode.NONE, result.error_message
    return {config.name: (config.value, config.config_source) for config in result.configs}


def test_a_topics_limit_holds_for_the_next_produce(broker: RunningBroker, admin: Admin) -> None:
    topic = create_topic(broker)
    assert produce(broker, topic, 2_000_000) == TOO_LARGE
    admin.set_configs(TOPIC, topic, {"max.message.bytes": "3000000"})
    assert produce(broker, topic, 2_000_000) == 0
    admin.set_configs(TOPIC, topic, {"max.message.bytes": "1000"})
    assert produce(broker, topic, 2_000) == TOO_LARGE
    assert admin.describe_configs(TOPIC, topic)["max.message.bytes"] == "1000"
    admin.set_configs(TOPIC, topic, {"max.message.bytes": "50000"})
    assert produce(broker, topic, 2_000) == 0
    assert admin.describe_configs(TOPIC, topic)["max.message.bytes"] == "50000"


def test_a_refusal_reaches_every_client(broker: RunningBroker, admin: Admin) -> None:
    topic = create_topic(broker)
    with pytest.raises(Refused) as refused:
        admin.set_configs(TOPIC, topic, {"retention.ms": "soon"})
    assert refused.value.code == ErrorCode.INVALID_CONFIG
    with pytest.raises(Refused) as refused:
        admin.set_configs(TOPIC, topic, {"no.such.config": "1"})
    assert refused.value.code == ErrorCode.INVALID_CONFIG


def test_broker_wide_and_node_limits_hold_where_the_partition_is_led(
    broker: RunningBroker, confluent: ConfluentAdmin
) -> None:
    topic = create_topic(broker, partitions=2)
    leaders = confluent.describe_topic(topic)
    assert set(leaders.values()) == {0, 1}
    on = {node: index for index, node in leaders.items()}
    try:
        change_all_nodes(broker, {"message.max.bytes": "2000"})
        assert [produce(broker, topic, 3_000, on[node]) for node in (0, 1)] == [TOO_LARGE] * 2
        confluent.change_configs(BROKER, "1", {"message.max.bytes": ("SET", "4000")})
        assert [produce(broker, topic, 3_000, on[node]) for node in (0, 1)] == [TOO_LARGE, 0]
        told = [described(broker, shard, 2, topic)["max.message.bytes"] for shard in (0, 1)]
        assert told == [("2000", ALL_NODES), ("4000", NODE)]
        assert described(broker, 1, 4, "")["message.max.bytes"] == ("2000", ALL_NODES)
        with pytest.raises(Refused) as refused:
            confluent.change_configs(BROKER, "0", {"log.dirs": ("SET", "/tmp")})
        assert refused.value.code == ErrorCode.INVALID_REQUEST
    finally:
        change_all_nodes(broker, {"message.max.bytes": None})
        confluent.change_configs(BROKER, "1", {"message.max.bytes": ("DELETE", None)})
    assert [produce(broker, topic, 3_000, on[node]) for node in (0, 1)] == [0, 0]
    assert described(broker, 1, 4, "1")["message.max.bytes"] == ("1048588", DEFAULT)


def test_a_created_topic_is_told_the_configs_that_describe_tells(broker: RunningBroker) -> None:
    change_all_nodes(broker, {"flush.ms": "70", "num.partitions": "3"})
    try:
        name = new_topic_name()
        config = CreatableTopicConfig("retention.ms", "5000")
        request = CreateTopicsRequest([CreatableTopic(name, -1, -1, [], [config])], 20_000)
        with WireClient(broker) as client:
            [topic] = client.ask(request, 7).topics
        assert (topic.error_code, topic.num_partitions) == (0, 3)
        told = {entry.name: (entry.value, entry.config_source) for entry in topic.configs}
        assert told["retention.ms"] == ("5000", TOPIC_CONFIG)
        assert told["flush.ms"] == ("70", ALL_NODES)
        assert told == described(broker, 0, 2, name)
    finally:
        change_all_nodes(broker, {"flush.ms": None, "num.partitions": None})


def test_topics_are_created_automatically_as_long_as_the_broker_may(
    broker: RunningBroker, confluent: ConfluentAdmin
) -> None:
    def is_created(name: str) -> bool:
        with WireClient(broker) as client:
            request = MetadataRequest([MetadataRequestTopic(name=name)], True)
            [topic] = client.ask(request, 8).topics
        return bool(topic.error_code == ErrorCode.NONE)

    change_all_nodes(broker, {"auto.create.topics.enable": "false"})
    refused, allowed = new_topic_name(), new_topic_name()
    assert not is_created(refused)
    change_all_nodes(broker, {"auto.create.topics.enable": None})
    wait_until(lambda: is_created(allowed), "the topic is created")
    assert refused not in confluent.list_topics()


def test_the_limit_of_connections_follows(broker: RunningBroker, confluent: ConfluentAdmin) -> None:
    with WireClient(broker, 0) as held:
        held.ask(MetadataRequest([]), 8)
        confluent.change_configs(BROKER, "0", {"max.connections": ("SET", "1")})
        try:
            with (
                pytest.raises((ConnectionClosed, ConnectionError)),
                WireClient(broker, 0) as refused,
            ):
                refused.ask(MetadataRequest([]), 8)
        finally:  # over the connection that is there
            confluent.change_configs(BROKER, "0", {"max.connections": ("DELETE", None)})
    with WireClient(broker, 0) as again:
        again.ask(MetadataRequest([]), 8)


def test_a_smaller_segment_is_rolled_without_a_restart(broker: RunningBroker) -> None:
    topic = create_topic(broker)

    def segments() -> list[Path]:
        return sorted((broker.data_dir / f"{topic}-0").glob("*.wal"))

    for _ in range(4):
        assert produce(broker, topic, 20_000) == 0
    assert len(segments()) == 1
    change_all_nodes(broker, {"log.segment.bytes": "65536"})
    try:
        for _ in range(8):
            assert produce(broker, topic, 20_000) == 0
        assert len(segments()) >= 3
    finally:
        change_all_nodes(broker, {"log.segment.bytes": None})


def test_changes_outlive_a_restart(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path / "data", tmp_path / "broker.log", shards=2)
    try:
        broker.start()
        topic = create_topic(broker)
        with ConfluentAdmin(broker.address) as admin:
            admin.change_configs(TOPIC, topic, {"cleanup.policy": ("APPEND", "compact")})
            change_all_nodes(broker, {"message.max.bytes": "2000"})
            admin.change_configs(BROKER, "1", {"flush.ms": ("SET", "9")})
        before = [described(broker, shard, 2, topic) for shard in (0, 1)]
        nodes = [described(broker, shard, 4, str(shard)) for shard in (0, 1)]
        broker.kill()
        broker.start()
        assert [described(broker, shard, 2, topic) for shard in (0, 1)] == before
        assert [described(broker, shard, 4, str(shard)) for shard in (0, 1)] == nodes
        assert before[1]["cleanup.policy"] == ("delete,compact", TOPIC_CONFIG)
        assert before[1]["max.message.bytes"] == ("2000", ALL_NODES)
        assert [told["flush.ms"] for told in before] == [("100", DEFAULT), ("9", NODE)]
        assert produce(broker, topic, 3_000) == TOO_LARGE
        assert produce(broker, topic, 1_000) == 0
        broker.stop()
    finally:
        broker.close()
