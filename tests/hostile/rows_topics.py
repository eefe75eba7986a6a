"""Rows: Metadata and everything that makes, changes, describes and deletes topics and configs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages import alter_configs, incremental_alter_configs
from kafka_protocol.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from kafka_protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from kafka_protocol.messages.describe_cluster import DescribeClusterRequest
from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from kafka_protocol.messages.describe_log_dirs import (
    DescribableLogDirTopic,
    DescribeLogDirsRequest,
)
from kafka_protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    TopicRequest,
)
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from tests.hostile.rows_data import BAD_NAMES, INT32_MAX, UNKNOWN_ID
from tests.hostile.table import Expect, Row, answer, asks
from tests.hostile.target import Target

TOPIC_ERROR = "topics.0.error_code"
DELETED = "responses.0.error_code"
RESULT = "results.0.error_code"
_NAMES = "org.apache.kafka.common.internals.Topic"
_CONTROL = "ReplicationControlManager of Apache Kafka"
_CONFIGS = "ConfigurationControlManager, ConfigAdminManager of Apache Kafka"
_HELPER = "ConfigHelper of Apache Kafka"
_TOPIC, _BROKER = 2, 4

Build = Callable[[Target], Any]


def metadata(
    *names: str | None, create: bool = False, topic_id: bytes = bytes(16)
) -> MetadataRequest:
    """Ask for topics by name, or by an id where the name is None."""
    return MetadataRequest([MetadataRequestTopic(topic_id, name) for name in names], create)


def create(
    *topics: CreatableTopic, validate_only: bool = True, timeout_ms: int = 10_000
) -> CreateTopicsRequest:
    """Create topics, or only check whether that is possible."""
    return CreateTopicsRequest(list(topics), timeout_ms, validate_only)


def topic(name: str, partitions: int = 1, replicas: int = 1, **more: Any) -> CreatableTopic:
    """A topic for `create`."""
    return CreatableTopic(name, partitions, replicas, **more)


def _create(
    name: str,
    build: Callable[[str], CreatableTopic],
    error: ErrorCode,
    source: str = _CONTROL,
    **more: Any,
) -> Row:
    """A row of one new topic with a fresh name."""
    return Row(
        f"CreateTopics with {name}",
        asks(lambda target: create(build(target.new_name())), 7),
        answer(TOPIC_ERROR, error),
        source,
        **more,
    )


def _assigned(*partitions: tuple[int, list[int]]) -> Callable[[str], CreatableTopic]:
    items = [CreatableReplicaAssignment(*item) for item in partitions]
    return lambda name: topic(name, -1, -1, assignments=list(items))


def _configured(*configs: tuple[str, str | None]) -> Callable[[str], CreatableTopic]:
    items = [CreatableTopicConfig(*item) for item in configs]
    return lambda name: topic(name, configs=list(items))


def add(
    target: Target, count: int, assignments: list[list[int]] | None = None
) -> CreatePartitionsRequest:
    """Give the topic that holds records so many partitions, but only check."""
    items = None
    if assignments is not None:
        items = [CreatePartitionsAssignment(ids) for ids in assignments]
    wanted = CreatePartitionsTopic(target.topic.name, count, items)
    return CreatePartitionsRequest([wanted], 10_000, True)


def describe(kind: int, name: str, keys: list[str] | None = None) -> DescribeConfigsRequest:
    """Describe the configs of one resource."""
    return DescribeConfigsRequest([DescribeConfigsResource(kind, name, keys)])


def edit(kind: int, name: str, *configs: tuple[str, int, str | None]) -> Any:
    """Change configs of one resource, but only check."""
    items = [incremental_alter_configs.AlterableConfig(*item) for item in configs]
    resource = incremental_alter_configs.AlterConfigsResource(kind, name, items)
    return incremental_alter_configs.IncrementalAlterConfigsRequest([resource], True)


def replace(kind: int, name: str, *configs: tuple[str, str | None]) -> Any:
    """Replace the configs of one resource, but only check."""
    items = [alter_configs.AlterableConfig(*item) for item in configs]
    resource = alter_configs.AlterConfigsResource(kind, name, items)
    return alter_configs.AlterConfigsRequest([resource], True)


def page(*names: str, limit: int = 2_000, cursor: Cursor | None = None) -> Any:
    """A page of topics and their partitions."""
    return DescribeTopicPartitionsRequest([TopicRequest(name) for name in names], limit, cursor)


def _row(name: str, build: Build, version: int, expect: Expect, source: str, **more: Any) -> Row:
    return Row(name, asks(build, version), expect, source, **more)


_INVALID_NAME = ErrorCode.INVALID_TOPIC_EXCEPTION
_UNKNOWN = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

ROWS = [
    # -- names ---------------------------------------------------------------------------------
    *(
        _row(
            f"CreateTopics called {what}",
            lambda _, n=name: create(topic(n)),
            7,
            answer(TOPIC_ERROR, _INVALID_NAME),
            _NAMES,
        )
        for what, name in BAD_NAMES
    ),
    *(
        _row(
            f"Metadata of {what}",
            lambda _, n=name: metadata(n),
            12,
            answer(TOPIC_ERROR, _INVALID_NAME),
            _NAMES,
        )
        for what, name in BAD_NAMES
    ),
    *(
        _row(
            f"DeleteTopics called {what}",
            lambda _, n=name: DeleteTopicsRequest([DeleteTopicState(n)], timeout_ms=10_000),
            6,
            answer(DELETED, _UNKNOWN),
            _CONTROL,
        )
        for what, name in BAD_NAMES
    ),
    *(
        _row(
            f"DescribeTopicPartitions of {what}",
            lambda _, n=name: page(n),
            0,
            answer(TOPIC_ERROR, _INVALID_NAME),
            _NAMES,
        )
        for what, name in BAD_NAMES
    ),
    *(
        _row(
            f"DescribeConfigs of a topic called {what}",
            lambda _, n=name: describe(_TOPIC, n),
            4,
            answer(RESULT, _INVALID_NAME),
            _HELPER,
        )
        for what, name in BAD_NAMES
    ),
    *(
        _row(
            f"IncrementalAlterConfigs of a topic called {what}",
            lambda _, n=name: edit(_TOPIC, n, ("retention.ms", 0, "1")),
            1,
            answer(DELETED, _INVALID_NAME),
            _CONFIGS,
        )
        for what, name in BAD_NAMES
        if name
    ),
    _row(
        "CreateTopics with a name of 249 bytes",
        lambda target: create(topic(target.new_name().ljust(249, "n"))),
        7,
        answer(TOPIC_ERROR, 0),
        _NAMES,
    ),
    _row(
        "CreateTopics of a name that collides with that of a topic",
        lambda target: create(topic(target.dotted.name.replace(".", "_"))),
        7,
        answer(TOPIC_ERROR, _INVALID_NAME),
        _NAMES,
    ),
    _row(
        "CreateTopics of two names that collide",
        lambda target: create(*map(topic, colliding(target))),
        7,
        Expect(({TOPIC_ERROR: 0, "topics.1.error_code": _INVALID_NAME},)),
        _NAMES,
    ),
    # -- CreateTopics --------------------------------------------------------------------------
    *(
        _create(f"{n:,} partitions", lambda name, n=n: topic(name, n), ErrorCode.INVALID_PARTITIONS)
        for n in (0, -2, -(2**31))
    ),
    *(
        _create(
            f"{n:,} partitions",
            lambda name, n=n: topic(name, n),
            ErrorCode.INVALID_PARTITIONS,
        )
        for n in (INT32_MAX, 1_000_000)
    ),
    *(
        _create(
            f"a replication factor of {n}",
            lambda name, n=n: topic(name, 1, n),
            ErrorCode.INVALID_REPLICATION_FACTOR,
        )
        for n in (0, -2, 2**15 - 1, -(2**15))
    ),
    _create(
        "no replicas for its partition",
        _assigned((0, [])),
        ErrorCode.INVALID_REPLICA_ASSIGNMENT,
    ),
    *(
        _create(
            f"an assignment to node {n:,}",
            _assigned((0, [n])),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
        )
        for n in (-1, 100_000, INT32_MAX, -(2**31))
    ),
    _row(
        "CreateTopics with an assignment of partition 1 alone",
        lambda target: create(_assigned((1, [target.node_id]))(target.new_name())),
        7,
        answer(TOPIC_ERROR, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        _CONTROL,
    ),
    _row(
        "CreateTopics with an assignment of partition -1",
        lambda target: create(_assigned((-1, [target.node_id]))(target.new_name())),
        7,
        answer(TOPIC_ERROR, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        _CONTROL,
    ),
    _row(
        "CreateTopics with a partition assigned twice",
        lambda target: create(
            _assigned((0, [target.node_id]), (0, [target.node_id]))(target.new_name())
        ),
        7,
        answer(TOPIC_ERROR, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        _CONTROL,
    ),
    _row(
        "CreateTopics with a node twice among its replicas",
        lambda target: create(_assigned((0, [target.node_id] * 2))(target.new_name())),
        7,
        answer(TOPIC_ERROR, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        _CONTROL,
    ),
    _row(
        "CreateTopics with an assignment and a partition count",
        lambda target: create(
            CreatableTopic(
                target.new_name(), 1, 1, [CreatableReplicaAssignment(0, [target.node_id])]
            )
        ),
        7,
        answer(TOPIC_ERROR, ErrorCode.INVALID_REQUEST),
        _CONTROL,
    ),
    *(
        _create(
            f"the config {name[:20]!r} = {str(value)[:20]!r}", _configured((name, value)), error
        )
        for name, value, error in (
            ("no.such.config", "1", ErrorCode.INVALID_CONFIG),
            ("", "1", ErrorCode.INVALID_CONFIG),
            ("retention.ms", "", ErrorCode.INVALID_CONFIG),
            ("retention.ms", "many", ErrorCode.INVALID_CONFIG),
            ("retention.ms", "9" * 30, ErrorCode.INVALID_CONFIG),
            ("max.message.bytes", "-1", ErrorCode.INVALID_CONFIG),
            ("cleanup.policy", "burn", ErrorCode.INVALID_CONFIG),
            ("n" * 32_000, "v" * 32_000, ErrorCode.INVALID_CONFIG),
        )
    ),
    _create(
        "a null config",
        _configured(("retention.ms", None)),
        ErrorCode.INVALID_CONFIG,
    ),
    _row(
        "CreateTopics of one name twice",
        lambda target: create(*[topic(target.new_name("twice"))] * 2),
        7,
        answer(TOPIC_ERROR, ErrorCode.INVALID_REQUEST, **{"topics.#": 1}),
        _CONTROL,
    ),
    _row(
        "CreateTopics of a topic that exists",
        lambda target: create(topic(target.topic.name)),
        7,
        answer(TOPIC_ERROR, ErrorCode.TOPIC_ALREADY_EXISTS),
        _CONTROL,
    ),
    *(
        _row(
            f"CreateTopics with a timeout of {n:,} ms, only checked",
            lambda target, n=n: create(topic(target.new_name()), timeout_ms=n),
            7,
            answer(TOPIC_ERROR, 0),
            _CONTROL,
        )
        for n in (INT32_MAX,)
    ),
    _row("CreateTopics of nothing", lambda _: create(), 7, answer("topics.#", 0), _CONTROL),
    # -- CreatePartitions ----------------------------------------------------------------------
    *(
        _row(
            f"CreatePartitions to {n:,}",
            lambda target, n=n: add(target, n),
            3,
            answer(RESULT, ErrorCode.INVALID_PARTITIONS),
            _CONTROL,
        )
        for n in (0, -1, 1, 2, -(2**31))
    ),
    *(
        _row(
            f"CreatePartitions to {n:,}",
            lambda target, n=n: add(target, n),
            3,
            answer(RESULT, ErrorCode.INVALID_PARTITIONS),
            "partitions_per_topic_max of docs/CONFIGURATION.md",
        )
        for n in (1_000_000, INT32_MAX)
    ),
    *(
        _row(
            f"CreatePartitions with {what}",
            lambda target, ids=ids: add(target, 3, ids),
            3,
            answer(RESULT, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
            _CONTROL,
        )
        for what, ids in (
            ("no assignments", []),
            ("two assignments for one partition", [[1], [1]]),
            ("an assignment to nobody", [[]]),
            ("an assignment to an unknown node", [[100_000]]),
        )
    ),
    _row(
        "CreatePartitions of one topic twice",
        lambda target: CreatePartitionsRequest(add(target, 3).topics * 2, 10_000, True),
        3,
        answer(RESULT, ErrorCode.INVALID_REQUEST, **{"results.#": 1}),
        _CONTROL,
    ),
    # -- DeleteTopics --------------------------------------------------------------------------
    _row(
        "DeleteTopics of an unknown id",
        lambda _: DeleteTopicsRequest([DeleteTopicState(None, UNKNOWN_ID)], timeout_ms=10_000),
        6,
        answer(DELETED, ErrorCode.UNKNOWN_TOPIC_ID),
        "KIP-516",
    ),
    _row(
        "DeleteTopics by name and id",
        lambda _: DeleteTopicsRequest([DeleteTopicState("x", UNKNOWN_ID)], timeout_ms=10_000),
        6,
        answer(DELETED, ErrorCode.INVALID_REQUEST),
        "KIP-516",
    ),
    _row(
        "DeleteTopics by neither name nor id",
        lambda _: DeleteTopicsRequest([DeleteTopicState()], timeout_ms=10_000),
        6,
        answer(DELETED, ErrorCode.INVALID_REQUEST),
        "KIP-516",
    ),
    # -- Metadata ------------------------------------------------------------------------------
    _row(
        "Metadata of an unknown name",
        lambda t: metadata(t.new_name()),
        12,
        answer(TOPIC_ERROR, _UNKNOWN),
        _HELPER,
    ),
    _row(
        "Metadata of an unknown id",
        lambda _: metadata(None, topic_id=UNKNOWN_ID),
        12,
        answer(TOPIC_ERROR, ErrorCode.UNKNOWN_TOPIC_ID),
        "KIP-516",
    ),
    _row(
        "Metadata of neither name nor id",
        lambda _: metadata(None),
        12,
        answer(TOPIC_ERROR, ErrorCode.UNKNOWN_TOPIC_ID),
        "KIP-516",
    ),
    _row(
        "Metadata by id before v12",
        lambda _: metadata(None, topic_id=UNKNOWN_ID),
        11,
        answer(TOPIC_ERROR, ErrorCode.INVALID_REQUEST),
        "KafkaApis.handleTopicMetadataRequest",
    ),
    _row(
        "Metadata of one name 1,000 times",
        lambda target: metadata(*[target.topic.name] * 1_000),
        12,
        answer("topics.#", 1),
        "KafkaApis.handleTopicMetadataRequest: a set of names",
    ),
    # -- DescribeTopicPartitions ---------------------------------------------------------------
    _row(
        "DescribeTopicPartitions with a cursor at a topic that is not asked for",
        lambda target: page(target.topic.name, cursor=Cursor("another", 0)),
        0,
        answer(TOPIC_ERROR, ErrorCode.INVALID_REQUEST),
        "DescribeTopicPartitionsRequestHandler of Apache Kafka",
    ),
    *(
        _row(
            f"DescribeTopicPartitions from partition {n:,}",
            lambda target, n=n: page(target.topic.name, cursor=Cursor(target.topic.name, n)),
            0,
            answer("topics.0.partitions.#", found),
            "DescribeTopicPartitionsRequestHandler of Apache Kafka",
        )
        for n, found in ((INT32_MAX, 0),)
    ),
    *(
        _row(
            f"DescribeTopicPartitions of at most {n:,}",
            lambda target, n=n: page(target.topic.name, limit=n),
            0,
            answer("topics.0.partitions.#", 1, **{"next_cursor.partition_index": 1}),
            "DescribeTopicPartitionsRequestHandler of Apache Kafka",
        )
        for n in (0, -1, -(2**31))
    ),
    # -- DescribeCluster, DescribeLogDirs ------------------------------------------------------
    _row(
        "DescribeCluster of controllers at a broker",
        lambda _: DescribeClusterRequest(False, 2),
        1,
        answer("error_code", ErrorCode.MISMATCHED_ENDPOINT_TYPE),
        "KIP-919",
    ),
    *(
        _row(
            f"DescribeCluster of endpoint type {n}",
            lambda _, n=n: DescribeClusterRequest(False, n),
            1,
            answer("error_code", ErrorCode.UNSUPPORTED_ENDPOINT_TYPE),
            "KIP-919",
        )
        for n in (0, 3, 127, -128)
    ),
    _row(
        "DescribeLogDirs of what is not there",
        lambda _: DescribeLogDirsRequest([DescribableLogDirTopic("..", [-1, INT32_MAX])]),
        4,
        answer("results.0.error_code", 0, **{"results.0.topics.#": 0}),
        "ReplicaManager.describeLogDirs of Apache Kafka",
    ),
    # -- configs -------------------------------------------------------------------------------
    *(
        _row(
            f"DescribeConfigs of {what}",
            lambda _, kind=kind, name=name: describe(kind, name),
            4,
            answer(RESULT, ErrorCode.INVALID_REQUEST),
            _HELPER,
        )
        for what, kind, name in (
            ("broker 100,000", _BROKER, "100000"),
            ("broker -1", _BROKER, "-1"),
            ("a broker that is no number", _BROKER, "one"),
            ("a broker with a long name", _BROKER, "9" * 32_767),
        )
    ),
    *(
        _row(
            f"DescribeConfigs of resource type {kind}",
            lambda _, kind=kind: describe(kind, "x"),
            4,
            answer(RESULT, ErrorCode.INVALID_REQUEST),
            _HELPER,
        )
        for kind in (0, 1, 3, 127, -1)
    ),
    _row(
        "DescribeConfigs of keys that do not exist",
        lambda target: describe(_TOPIC, target.topic.name, ["", "x", "x" * 32_767]),
        4,
        answer(RESULT, 0, **{"results.0.configs.#": 0}),
        _HELPER,
    ),
    *(
        _row(
            f"IncrementalAlterConfigs with {what}",
            lambda target, configs=configs: edit(_TOPIC, target.topic.name, *configs),
            1,
            answer(DELETED, error),
            _CONFIGS,
        )
        for what, configs, error in (
            ("a null value", [("retention.ms", 0, None)], ErrorCode.INVALID_REQUEST),
            ("one key twice", [("retention.ms", 0, "1")] * 2, ErrorCode.INVALID_REQUEST),
            ("an unknown key", [("no.such.config", 0, "1")], ErrorCode.INVALID_CONFIG),
            ("a bad value", [("retention.ms", 0, "x" * 32_767)], ErrorCode.INVALID_CONFIG),
            ("an append to a number", [("retention.ms", 2, "1")], ErrorCode.INVALID_CONFIG),
        )
    ),
    *(
        _row(
            f"IncrementalAlterConfigs with operation {n}",
            lambda target, n=n: edit(_TOPIC, target.topic.name, ("retention.ms", n, "1")),
            1,
            answer(DELETED, ErrorCode.INVALID_REQUEST),
            _CONFIGS,
        )
        for n in (4, -1, 127)
    ),
    *(
        _row(
            f"{api} of resource type {kind}",
            lambda _, change=change, kind=kind: change(kind, "x"),
            version,
            answer(DELETED, ErrorCode.INVALID_REQUEST),
            _CONFIGS,
        )
        for api, change, version in (
            ("AlterConfigs", replace, 2),
            ("IncrementalAlterConfigs", edit, 1),
        )
        for kind in (0, 1, 127, -1)
    ),
    *(
        _row(
            f"{api} of the topic ''",
            lambda _, change=change: change(_TOPIC, ""),
            version,
            answer(DELETED, ErrorCode.INVALID_REQUEST),
            _CONFIGS,
        )
        for api, change, version in (
            ("AlterConfigs", replace, 2),
            ("IncrementalAlterConfigs", edit, 1),
        )
    ),
]


def colliding(target: Target) -> list[str]:
    """Two new names that differ in a dot."""
    name = target.new_name("a.b")
    return [name, name.replace(".", "_")]
