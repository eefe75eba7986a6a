"""Configs that are changed while two shards run: each takes effect at once, and stays.

Changes go through the admin clients of confluent-kafka, kafka-python and aiokafka; what they do is
seen in what a produce, a connection or a creation is answered, and in the files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin.config_resource import ConfigResource as AioConfigResource
from aiokafka.admin.config_resource import ConfigResourceType as AioConfigResourceType
from confluent_kafka.admin import ConfigResource
from kafka.admin import ConfigResource as KpConfigResource
from kafka.admin import ConfigResourceType as KpConfigResourceType

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
from kafka_protocol.record_batch import Record, build_batch, iter_batches
from rpk_py.data_dir import file_system
from tests.clients.admins import (
    ADMINS,
    BROKER,
    TOPIC,
    Admin,
    AiokafkaAdmin,
    ConfluentAdmin,
    KafkaPythonAdmin,
    Refused,
)
from tests.clients.broker import RunningBroker, shared_broker, wait_until
from tests.clients.topics import create_topic, new_topic_name
from tests.clients.wire_client import (
    ConnectionClosed,
    WireClient,
    fetch_request,
    produce_request,
    stored_batches,
)

SET, DELETE = 0, 1
TOO_LARGE = ErrorCode.MESSAGE_TOO_LARGE
LEAST_CONNECTIONS = 10  # that max.connections can be set to
TOPIC_CONFIG, NODE, ALL_NODES, DEFAULT = 1, 2, 3, 5  # sources


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Two shards that all tests of this file share; nothing may have gone wrong in them."""
    with shared_broker(tmp_path_factory.mktemp("broker"), shards=2) as running:
        yield running
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


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningBroker]:
    """Two shards that run and that a test may kill."""
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", shards=2)
    try:
        running.start()
        yield running
    finally:
        running.close()


def leader_of(broker: RunningBroker, topic: str, index: int = 0) -> int:
    """The shard that leads a partition."""
    with WireClient(broker) as client:
        request = MetadataRequest([MetadataRequestTopic(name=topic)], False)
        [told] = client.ask(request, 8).topics
    leaders = {partition.partition_index: partition.leader_id for partition in told.partitions}
    node: int = leaders[index]
    return node


def produce(broker: RunningBroker, topic: str, size: int, index: int = 0) -> int:
    """Send one record of about `size` bytes to the leader of a partition; the error code."""
    batch = build_batch([Record(0, 1_600_000_000_000, None, bytes(size), ())])
    with WireClient(broker, leader_of(broker, topic, index)) as client:
        answer = client.ask(produce_request(topic, index, batch, -1), 9)
    code: int = answer.responses[0].partition_responses[0].error_code
    return code


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


def test_every_client_tells_where_a_value_comes_from(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs={"max.message.bytes": "3000000"})
    change_all_nodes(broker, {"flush.ms": "70"})
    expected = {
        "max.message.bytes": ("3000000", TOPIC_CONFIG),
        "flush.ms": ("70", ALL_NODES),
        "segment.ms": ("604800000", DEFAULT),
    }
    try:
        with ConfluentAdmin(broker.address) as confluent:
            [future] = confluent.client.describe_configs([ConfigResource(TOPIC, topic)]).values()
            found = {e.name: (e.value, e.source) for e in future.result(20).values()}
        assert expected.items() <= found.items()
        with KafkaPythonAdmin(broker.address) as kafka_python:
            wanted = KpConfigResource(KpConfigResourceType.TOPIC, topic)
            answer = kafka_python.client.describe_configs([wanted], config_filter="all")
        names = {TOPIC_CONFIG: "DYNAMIC_TOPIC_CONFIG", DEFAULT: "DEFAULT_CONFIG"}
        names[ALL_NODES] = "DYNAMIC_DEFAULT_BROKER_CONFIG"
        for name, (value, source) in expected.items():
            entry = answer[TOPIC][topic][name]
            assert (entry["value"], entry["config_source"]) == (value, names[source])
        with AiokafkaAdmin(broker.address) as aio:
            aio_wanted = AioConfigResource(AioConfigResourceType.TOPIC, topic)
            [aio_answer] = aio._run(aio.client.describe_configs([aio_wanted]))
        [(_, _, _, _, entries)] = aio_answer.resources
        assert expected.items() <= {name: (value, s) for name, value, _, s, *_ in entries}.items()
    finally:
        change_all_nodes(broker, {"flush.ms": None})


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
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(WireClient(broker, 0)) for _ in range(LEAST_CONNECTIONS)]
        for client in held:
            client.ask(MetadataRequest([]), 8)
        with pytest.raises(Refused) as too_low:
            confluent.change_configs(
                BROKER, "0", {"max.connections": ("SET", str(LEAST_CONNECTIONS - 1))}
            )
        assert too_low.value.code == ErrorCode.INVALID_REQUEST
        least = {"max.connections": ("SET", str(LEAST_CONNECTIONS))}
        confluent.change_configs(BROKER, "0", least)
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


def test_the_banner_of_a_restart_promises_what_was_set_before_it(own: RunningBroker) -> None:
    starts = 0

    def promised() -> str:
        nonlocal starts
        starts += 1

        def said() -> list[str]:
            return [str(e["durability"]) for e in own.log_events() if "durability" in e]

        # broker.json, by which a start is waited for, comes just before the banner.
        wait_until(lambda: len(said()) == starts, "the banner of this start")
        return said()[-1]

    if file_system(own.data_dir) in ("tmpfs", "ramfs"):
        pytest.skip("in memory nothing is promised")
    assert promised() == "acknowledged means durable: on disk before the reply"
    with ConfluentAdmin(own.address) as admin:
        admin.set_configs(TOPIC, create_topic(own), {"write.caching": "true"})
        admin.change_configs(BROKER, "1", {"write.caching": ("SET", "true")})
    own.kill()
    own.start()
    assert promised() == (
        "acknowledged means durable: on disk before the reply; not so with write caching: node 1,"
        " topics with write.caching=true: 1"
    )
    change_all_nodes(own, {"write.caching": "true"})
    own.kill()
    own.start()
    assert promised() == "write caching: acknowledged records may be lost at a power cut"


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


def test_the_largest_reply_to_a_fetch_follows(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    for _ in range(3):
        assert produce(broker, topic, 5_000) == 0

    def fetched() -> int:
        with WireClient(broker, leader_of(broker, topic)) as client:
            answer = client.ask(fetch_request(topic, 0, 0), 12)
        records = answer.responses[0].partitions[0].records
        return len(list(iter_batches(records, 0, len(records))))

    assert fetched() == 3
    change_all_nodes(broker, {"fetch.max.bytes": "6000"})
    try:
        assert fetched() == 1
    finally:
        change_all_nodes(broker, {"fetch.max.bytes": None})
    assert fetched() == 3


def test_the_largest_request_follows(broker: RunningBroker) -> None:
    topic = create_topic(broker, configs={"max.message.bytes": "4000000"})
    assert produce(broker, topic, 3_000_000) == 0
    change_all_nodes(broker, {"socket.request.max.bytes": "2000000"})
    try:
        with pytest.raises((ConnectionClosed, ConnectionError)):
            produce(broker, topic, 3_000_000)
        assert produce(broker, topic, 1_000_000) == 0
    finally:
        change_all_nodes(broker, {"socket.request.max.bytes": None})
    assert produce(broker, topic, 3_000_000) == 0


def test_write_caching_is_turned_on_and_off_where_partitions_are_open(own: RunningBroker) -> None:
    topics = [create_topic(own) for _ in range(3)]
    cached = {"write.caching": "true", "flush.ms": "600000", "flush.bytes": "1000000"}
    with ConfluentAdmin(own.address) as admin:
        for topic in topics[1:]:
            admin.set_configs(TOPIC, topic, cached)
        admin.set_configs(TOPIC, topics[2], {"write.caching": "false"})
    assert [produce(own, topic, 1_000) for topic in topics] == [0, 0, 0]
    own.kill()
    own.start()
    kept = [len(stored_batches(own, topic, 0, leader_of(own, topic))) for topic in topics]
    assert kept == [1, 0, 1], "what was in memory alone is lost with the process, nothing else"


def test_changes_outlive_a_restart(own: RunningBroker) -> None:
    topic = create_topic(own)
    with ConfluentAdmin(own.address) as admin:
        admin.change_configs(TOPIC, topic, {"cleanup.policy": ("APPEND", "compact")})
        admin.change_configs(BROKER, "1", {"flush.ms": ("SET", "9")})
    change_all_nodes(own, {"message.max.bytes": "2000"})

    def told() -> list[dict[str, Any]]:
        of_topic = [described(own, shard, 2, topic) for shard in (0, 1)]
        return of_topic + [described(own, shard, 4, str(shard)) for shard in (0, 1)]

    before = told()
    own.kill()
    own.start()
    assert told() == before
    assert before[1]["cleanup.policy"] == ("delete,compact", TOPIC_CONFIG)
    assert before[1]["max.message.bytes"] == ("2000", ALL_NODES)
    assert [configs["flush.ms"] for configs in before[:2]] == [("100", DEFAULT), ("9", NODE)]
    assert produce(own, topic, 3_000) == TOO_LARGE
    assert produce(own, topic, 1_000) == 87, "INVALID_RECORD: compacted, and without a key"
