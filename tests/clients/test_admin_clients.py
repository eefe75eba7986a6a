"""The admin clients of three libraries, each at each of four shards: any of them forwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from tests.clients import via_confluent
from tests.clients.admins import (
    ADMINS,
    BROKER,
    TOPIC,
    Admin,
    ConfluentAdmin,
    KafkaPythonAdmin,
    Node,
    Refused,
    change_cluster_default,
)
from tests.clients.broker import RunningBroker
from tests.clients.records import MIB, Rec, numbered, plain
from tests.clients.steady import read_numbers
from tests.clients.topics import create_topic, new_topic_name

SHARDS = 4
NO_SUCH_TOPIC = "no-such-topic"
Changing = ConfluentAdmin | KafkaPythonAdmin  # aiokafka has no IncrementalAlterConfigs


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Four shards that all tests of this file share; nothing may have gone wrong in them."""
    directory = tmp_path_factory.mktemp("admin-clients")
    # kafka-python and aiokafka create a topic by describing it where that is allowed.
    settings = {"auto_create_topics": False}
    running = RunningBroker(directory / "data", directory / "broker.log", settings, shards=SHARDS)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()
    assert running.log_events("error", "critical", "raw") == []


@pytest.fixture(params=range(SHARDS))
def shard(request: pytest.FixtureRequest) -> int:
    """Each shard in turn."""
    return int(request.param)


@pytest.fixture(params=ADMINS)
def admin(request: pytest.FixtureRequest, broker: RunningBroker, shard: int) -> Iterator[Admin]:
    """Each admin client in turn, connected to that shard."""
    with ADMINS[request.param](broker.addresses[shard]) as client:
        yield client


@pytest.fixture(params=["confluent", "kafka-python"])
def changing(
    request: pytest.FixtureRequest, broker: RunningBroker, shard: int
) -> Iterator[Changing]:
    """Those that can change single configs."""
    with ADMINS[request.param](broker.addresses[shard]) as client:
        assert isinstance(client, ConfluentAdmin | KafkaPythonAdmin)
        yield client


@pytest.fixture
def other(broker: RunningBroker, shard: int) -> Iterator[ConfluentAdmin]:
    """A client at another shard, to see what the first one did."""
    with ConfluentAdmin(broker.addresses[shard - 1]) as client:
        yield client


def test_topics_are_created_described_listed_and_deleted(admin: Admin, other: Admin) -> None:
    names = [new_topic_name("admin") for _ in range(3)]
    assert admin.create_topics(names, 5) == dict.fromkeys(names, 0)
    exists = dict.fromkeys(names, ErrorCode.TOPIC_ALREADY_EXISTS)
    assert admin.create_topics(names, 5) == exists
    for client in (admin, other):
        assert set(names) <= client.list_topics()
        assert sorted(client.describe_topic(names[0])) == [0, 1, 2, 3, 4]
        assert set(client.describe_topic(names[0]).values()) == set(range(SHARDS))
    assert admin.delete_topics(names) == dict.fromkeys(names, 0)
    for client in (admin, other):
        assert not set(names) & client.list_topics()
        with pytest.raises(Refused, match="UNKNOWN_TOPIC_OR_PARTITION"):
            client.describe_topic(names[0])
    gone = dict.fromkeys(names, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    assert admin.delete_topics(names) == gone


def test_the_cluster_is_described(broker: RunningBroker, admin: Admin) -> None:
    expected = [Node(index, "127.0.0.1", port) for index, port in enumerate(broker.ports)]
    assert admin.describe_cluster() == expected


def test_wrong_topics_are_refused_one_by_one(admin: Admin) -> None:
    good = new_topic_name("good")
    assert admin.create_topics([good], 0) == {good: ErrorCode.INVALID_PARTITIONS}
    assert admin.create_topics([good, "not a name"], 1) == {
        good: 0,
        "not a name": ErrorCode.INVALID_TOPIC_EXCEPTION,
    }
    wrong = {"max.message.bytes": "many"}
    other = new_topic_name("wrong")
    assert admin.create_topics([other], 1, wrong) == {other: ErrorCode.INVALID_CONFIG}
    assert admin.delete_topics([good, NO_SUCH_TOPIC]) == {
        good: 0,
        NO_SUCH_TOPIC: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    }


def test_a_topic_gets_more_partitions_that_serve_at_once(
    broker: RunningBroker, admin: Admin, other: Admin
) -> None:
    topic = create_topic(broker, partitions=2)
    before = other.describe_topic(topic)
    via_confluent.produce(broker, topic, plain(3))
    admin.create_partitions(topic, 7)
    after = other.describe_topic(topic)
    assert sorted(after) == list(range(7))
    assert before.items() <= after.items()
    assert set(after.values()) == set(range(SHARDS))
    assert via_confluent.produce(broker, topic, plain(2), partition=6) == [0, 1]
    assert via_confluent.consume(broker, topic) == numbered(plain(3))
    for total in (7, 3):
        with pytest.raises(Refused, match="INVALID_PARTITIONS"):
            admin.create_partitions(topic, total)
    with pytest.raises(Refused, match="UNKNOWN_TOPIC_OR_PARTITION"):
        admin.create_partitions(NO_SUCH_TOPIC, 2)


def test_configs_of_a_topic_are_set_described_and_have_their_effect(
    broker: RunningBroker, admin: Admin, other: Admin
) -> None:
    configs = {"max.message.bytes": "5000", "message.timestamp.type": "LogAppendTime"}
    topic = create_topic(broker, configs={"segment.bytes": "20000000"})
    before = admin.describe_configs(TOPIC, topic)
    assert before["segment.bytes"] == "20000000"
    assert before["max.message.bytes"] != "5000"
    admin.set_configs(TOPIC, topic, configs)
    after = other.describe_configs(TOPIC, topic)
    assert configs.items() <= after.items()
    assert after == admin.describe_configs(TOPIC, topic)
    if not isinstance(admin, KafkaPythonAdmin):  # which adds what is set and was not named
        assert after["segment.bytes"] != "20000000"
    with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
        via_confluent.produce(broker, topic, [Rec(None, bytes(6_000))])
    via_confluent.produce(broker, topic, plain(1))
    assert via_confluent.consume(broker, topic)[0][1].timestamp_ms != plain(1)[0].timestamp_ms
    admin.reset_configs(TOPIC, topic)
    changed = {**configs, "segment.bytes": "20000000"}
    assert not changed.items() & other.describe_configs(TOPIC, topic).items()
    via_confluent.produce(broker, topic, [Rec(None, bytes(6_000))])


def test_wrong_configs_are_refused_and_change_nothing(
    broker: RunningBroker, admin: Admin, other: Admin
) -> None:
    topic = create_topic(broker)
    before = other.describe_configs(TOPIC, topic)
    for wrong in ({"no.such.config": "1"}, {"max.message.bytes": "many"}, {"flush.ms": "-5"}):
        with pytest.raises(Refused, match="INVALID_CONFIG"):
            admin.set_configs(TOPIC, topic, {"segment.bytes": "20000000", **wrong})
    assert other.describe_configs(TOPIC, topic) == before
    with pytest.raises(Refused, match="UNKNOWN_TOPIC_OR_PARTITION"):
        other.describe_configs(TOPIC, NO_SUCH_TOPIC)
    with pytest.raises(Refused, match="UNKNOWN_TOPIC_OR_PARTITION"):
        admin.set_configs(TOPIC, NO_SUCH_TOPIC, {"segment.bytes": "20000000"})


def test_single_configs_of_a_topic_are_changed(
    broker: RunningBroker, changing: Changing, other: Admin
) -> None:
    topic = create_topic(broker, configs={"segment.bytes": "20000000"})
    default = other.describe_configs(TOPIC, topic)["max.message.bytes"]
    changing.change_configs(TOPIC, topic, {"max.message.bytes": ("SET", "5000")})
    after = other.describe_configs(TOPIC, topic)
    assert (after["max.message.bytes"], after["segment.bytes"]) == ("5000", "20000000")
    with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
        via_confluent.produce(broker, topic, [Rec(None, bytes(6_000))])
    changing.change_configs(TOPIC, topic, {"max.message.bytes": ("DELETE", None)})
    after = other.describe_configs(TOPIC, topic)
    assert (after["max.message.bytes"], after["segment.bytes"]) == (default, "20000000")
    via_confluent.produce(broker, topic, [Rec(None, bytes(6_000))])


def test_a_default_of_all_brokers_is_what_topics_inherit(broker: RunningBroker, shard: int) -> None:
    topic = create_topic(broker)
    name = "message.max.bytes"
    before = configs_everywhere(broker, topic)
    change_cluster_default(broker, name, "5000", shard)
    try:
        assert configs_everywhere(broker, topic) == {"5000"}
        with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
            via_confluent.produce(broker, topic, [Rec(None, bytes(6_000))])
    finally:
        change_cluster_default(broker, name, None, shard)
    assert configs_everywhere(broker, topic) == before
    via_confluent.produce(broker, topic, [Rec(None, bytes(6_000))])


def configs_everywhere(broker: RunningBroker, topic: str) -> set[str | None]:
    """The largest record of a topic and of all brokers, as each shard tells it."""
    values = set()
    for address in broker.addresses:
        with ConfluentAdmin(address) as admin:
            values.add(admin.describe_configs(TOPIC, topic)["max.message.bytes"])
            for node in range(SHARDS):
                values.add(admin.describe_configs(BROKER, str(node))["message.max.bytes"])
    return values


def test_a_config_of_one_broker_is_its_own(
    broker: RunningBroker, admin: Admin, other: Admin, shard: int
) -> None:
    name = "message.max.bytes"
    default = admin.describe_configs(BROKER, str(shard))[name]
    admin.set_configs(BROKER, str(shard), {name: "123456"})
    try:
        assert admin.describe_configs(BROKER, str(shard))[name] == "123456"
        assert other.describe_configs(BROKER, str(shard))[name] == "123456"
        neighbour = str((shard + 1) % SHARDS)
        assert admin.describe_configs(BROKER, neighbour)[name] == default
    finally:
        admin.reset_configs(BROKER, str(shard))
    assert other.describe_configs(BROKER, str(shard))[name] == default


def test_records_are_deleted_at_all_shards(
    broker: RunningBroker, admin: Admin, other: Admin
) -> None:
    topic = create_topic(broker, partitions=SHARDS)
    for partition in range(SHARDS):
        records = [Rec(None, b"%d" % number) for number in range(10)]
        via_confluent.produce(broker, topic, records, partition)
    wanted = {0: 4, 1: 0, 2: 10, 3: -1}  # -1: all that there is
    expected = {0: 4, 1: 0, 2: 10, 3: 10}
    assert admin.delete_records(topic, wanted) == expected
    left = {p: [(n, n) for n in range(start, 10)] for p, start in expected.items()}
    assert read_numbers(broker, topic, SHARDS, expected) == left
    with pytest.raises(AssertionError, match="out of range"):
        via_confluent.consume(broker, topic, 3)
    with pytest.raises(Refused, match="OFFSET_OUT_OF_RANGE"):
        admin.delete_records(topic, {0: 11})
    assert other.delete_records(topic, {0: 2}) == {0: 4}  # already gone
    assert via_confluent.produce(broker, topic, plain(1), 2) == [10]


@pytest.fixture
def kafka_python(broker: RunningBroker, shard: int) -> Iterator[Any]:
    """The one of the three that asks for log directories and DescribeTopicPartitions."""
    with KafkaPythonAdmin(broker.addresses[shard]) as admin:
        yield admin.client


def test_log_dirs_tell_the_size_of_every_partition(
    broker: RunningBroker, kafka_python: Any
) -> None:
    topic = create_topic(broker, partitions=8)
    for partition in range(8):
        via_confluent.produce(broker, topic, [Rec(None, bytes(MIB // 2))], partition)
    answers = kafka_python.describe_log_dirs([topic])
    sizes: dict[int, int] = {}
    for answer in answers:
        [log_dir] = answer["log_dirs"]
        assert (log_dir["error_code"], log_dir["log_dir"]) == (0, str(broker.data_dir))
        [described] = log_dir["topics"]
        assert described["name"] == topic
        assert len(described["partitions"]) == 8 // SHARDS  # those that this node leads
        for partition in described["partitions"]:
            sizes[partition["partition_index"]] = partition["partition_size"]
            assert partition["offset_lag"] == 0
    assert sorted(answer["broker"] for answer in answers) == list(range(SHARDS))
    assert sorted(sizes) == list(range(8))
    assert all(size >= MIB // 2 for size in sizes.values())


def test_partitions_of_topics_are_described_page_by_page(
    broker: RunningBroker, kafka_python: Any
) -> None:
    topics = sorted(create_topic(broker, partitions=7) for _ in range(3))
    seen: list[tuple[str, int]] = []
    cursor = None
    pages = 0
    while pages == 0 or cursor is not None:
        answer = kafka_python.describe_topic_partitions(topics, 5, cursor)
        page = [
            (topic["name"], partition["partition_index"])
            for topic in answer["topics"]
            for partition in topic["partitions"]
        ]
        assert len(page) <= 5
        seen += page
        cursor = answer["next_cursor"]
        pages += 1
    assert seen == [(topic, index) for topic in topics for index in range(7)]
    assert pages == 5  # 21 partitions, five at a time
