"""rpk_py.metadata.config_plan: what a change of configs is answered, and what it changes.

The table was compared with the answers of an Apache Kafka 4.1 broker to the same requests, code and
message; a row that says "deviates" differs on purpose, as the module's docstring says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_protocol.errors import ErrorCode
from rpk_py.config import Config
from rpk_py.metadata.config_plan import APPEND, DELETE, SET, SUBTRACT, plan_alter_configs
from rpk_py.metadata.requests import ConfigResource, ConfigResult
from rpk_py.metadata.state import (
    BrokerConfigsChanged,
    Change,
    ClusterState,
    Delta,
    NodeState,
    TopicConfigsChanged,
    TopicState,
    apply,
)

TOPIC, BROKER = 2, 4
CONFIG = Config(data_dir=Path("/data"), smp=2)
TOPIC_ID = bytes(range(16))
BAD_CONFIG = ErrorCode.INVALID_CONFIG
BAD_REQUEST = ErrorCode.INVALID_REQUEST


def make_state(
    configs: dict[str, str] | None = None, dynamic: dict[str, dict[str, str]] | None = None
) -> ClusterState:
    """Nodes 0 and 1, and a topic `orders`."""
    state = ClusterState(nodes={node: NodeState(node, None, 9092 + node) for node in (0, 1)})
    state.add_topic(TopicState("orders", TOPIC_ID, [], configs or {}))
    state.broker_configs = dynamic or {}
    return state


def change(
    state: ClusterState, *resources: ConfigResource, incremental: bool = True
) -> list[ConfigResult]:
    """Plan and apply."""
    results, changes = plan_alter_configs(state, CONFIG, resources, incremental)
    if changes:
        apply(state, Delta(state.revision + 1, tuple(changes)))
    return results


def codes(results: list[ConfigResult]) -> list[int]:
    return [result.error_code for result in results]


# Kind, name, operations; error code, and how the message begins.
REFUSED: list[tuple[int, str, list[tuple[str, int, str | None]], ErrorCode, str]] = [
    # Form: ConfigAdminManager.preprocess
    (
        TOPIC,
        "orders",
        [("retention.ms", SET, "5"), ("retention.ms", DELETE, None)],
        BAD_REQUEST,
        "Error due to duplicate config keys",
    ),
    (
        TOPIC,
        "orders",
        [("retention.ms", SET, None), ("segment.ms", APPEND, None)],
        BAD_REQUEST,
        "Null value not supported for : retention.ms, segment.ms",
    ),
    (0, "orders", [], BAD_REQUEST, "Unknown resource type 0"),
    (99, "orders", [], BAD_REQUEST, "Unknown resource type 99"),
    (8, "0", [("root", SET, "INFO")], BAD_REQUEST, "Unknown resource type 8: there are no"),
    (16, "x", [("interval.ms", SET, "5")], BAD_REQUEST, "Unknown resource type 16: there are"),
    (32, "g", [], BAD_REQUEST, "Unknown resource type 32: there are no configs of groups here"),
    # deviates: for a topic Kafka answers UNKNOWN_SERVER_ERROR
    (TOPIC, "orders", [("retention.ms", 9, "5")], BAD_REQUEST, "Unknown operations type 9"),
    (BROKER, "0", [("message.max.bytes", -1, "5")], BAD_REQUEST, "Unknown operations type -1"),
    # Topics: ControllerConfigurationValidator, ConfigurationControlManager
    (TOPIC, "", [], BAD_REQUEST, "Default topic resources are not allowed."),
    (TOPIC, "a/b", [], ErrorCode.INVALID_TOPIC_EXCEPTION, "Topic name is invalid: it may only"),
    (TOPIC, "clicks", [], ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "The topic 'clicks' does not"),
    (TOPIC, "clicks", [("no", SET, "1")], BAD_CONFIG, "Unknown topic config name: no"),
    (TOPIC, "orders", [("no", SET, "1")], BAD_CONFIG, "Unknown topic config name: no"),
    (
        TOPIC,
        "orders",
        [("retention.ms", SET, "abc")],
        BAD_CONFIG,
        "Invalid value abc for configuration retention.ms: Not a number of type LONG",
    ),
    (
        TOPIC,
        "orders",
        [("segment.bytes", SET, "3000000000")],
        BAD_CONFIG,
        "Invalid value 3000000000 for configuration segment.bytes: Not a number of type INT",
    ),
    (
        TOPIC,
        "orders",
        [("retention.ms", SET, "-5")],
        BAD_CONFIG,
        "Invalid value -5 for configuration retention.ms: Value must be at least -1",
    ),
    (
        TOPIC,
        "orders",
        [("compression.gzip.level", SET, "10")],
        BAD_CONFIG,
        "Invalid value 10 for configuration compression.gzip.level: Value must be between 1 and 9"
        " or equal to -1",
    ),
    (
        TOPIC,
        "orders",
        [("preallocate", SET, "maybe")],
        BAD_CONFIG,
        "Invalid value maybe for configuration preallocate: Expected value to be either true or",
    ),
    (
        TOPIC,
        "orders",
        [("cleanup.policy", SET, "burn")],
        BAD_CONFIG,
        "Invalid value burn for configuration cleanup.policy: String must be one of: compact, del",
    ),
    (
        TOPIC,
        "orders",
        [("retention.ms", APPEND, "5")],
        BAD_CONFIG,
        "Can't APPEND to key retention.ms because its type is not LIST.",
    ),
    (
        TOPIC,
        "orders",
        [("no", SUBTRACT, "5")],
        BAD_CONFIG,
        "Can't SUBTRACT to key no because its type is not LIST.",
    ),
    (
        TOPIC,
        "orders",
        [("compression.lz4.level", SET, "18")],
        BAD_CONFIG,
        "Invalid value 18 for configuration compression.lz4.level: Value must be no more than 17",
    ),
    # Brokers: DynamicBrokerConfig.validate; a bad value is INVALID_REQUEST there (KAFKA-13609)
    (BROKER, "x", [], BAD_REQUEST, "Node id must be an integer, but it is: x"),
    (BROKER, " 1", [], BAD_REQUEST, "Node id must be an integer, but it is:  1"),
    # deviates: any node of the cluster is expected, in Kafka only the one that is asked
    (BROKER, "77", [], BAD_REQUEST, "Unexpected broker id, expected one of 0, 1, but received 77"),
    (BROKER, "-1", [], BAD_REQUEST, "Unexpected broker id, expected one of 0, 1, but received -1"),
    (
        BROKER,
        "0",
        [("log.dirs", SET, "/x"), ("node.id", SET, "1"), ("flush.ms", SET, "1")],
        BAD_REQUEST,
        "Cannot update these configs dynamically: log.dirs, node.id",
    ),
    (
        BROKER,
        "0",
        [("message.max.bytes", SET, "abc")],
        BAD_REQUEST,
        "Invalid value abc for configuration message.max.bytes: Not a number of type INT",
    ),
    (
        BROKER,
        "",
        [("message.max.bytes", SET, "-1")],
        BAD_REQUEST,
        "Invalid value -1 for configuration message.max.bytes: Value must be at least 1",
    ),
    (BROKER, "0", [("message.max.bytes", APPEND, "1")], BAD_CONFIG, "Can't APPEND to key message"),
    # deviates: Kafka stores what it does not know
    (BROKER, "0", [("no", SET, "1")], BAD_CONFIG, "Unknown broker config name: no"),
    # deviates: no such scope in Kafka
    (
        BROKER,
        "1",
        [("num.partitions", SET, "3")],
        BAD_REQUEST,
        "Cannot update these configs of one broker, the resource name must be empty: num.partit",
    ),
    # deviates: Kafka takes 0, too
    (
        BROKER,
        "1",
        [("max.connections", SET, "1")],
        BAD_REQUEST,
        "Invalid value 1 for configuration max.connections: Value must be at least 10",
    ),
    (
        BROKER,
        "",
        [("num.partitions", SET, "3"), ("partitions.per.topic.max", SET, "2")],
        BAD_REQUEST,
        "Invalid value 3 for configuration num.partitions: must not exceed"
        " partitions.per.topic.max=2",
    ),
    (
        BROKER,
        "",
        [("message.max.bytes", SET, "200000000")],
        BAD_REQUEST,
        "Invalid value 200000000 for configuration message.max.bytes: must not exceed"
        " socket.request.max.bytes=104857600",
    ),
]


@pytest.mark.parametrize(("kind", "name", "configs", "code", "message"), REFUSED)
def test_what_is_not_right_is_refused_and_changes_nothing(
    kind: int,
    name: str,
    configs: list[tuple[str, int, str | None]],
    code: ErrorCode,
    message: str,
) -> None:
    resource = ConfigResource(kind, name, configs)
    results, changes = plan_alter_configs(make_state(), CONFIG, [resource], True)
    assert [(r.kind, r.name, r.error_code) for r in results] == [(kind, name, code)]
    assert (results[0].error_message or "").startswith(message)
    assert not changes


# Configs of the topic, operations, configs after.
CHANGED: list[tuple[dict[str, str], list[tuple[str, int, str | None]], dict[str, str]]] = [
    ({}, [("retention.ms", SET, " +05 ")], {"retention.ms": "5"}),
    ({"retention.ms": "5"}, [("retention.ms", SET, "6")], {"retention.ms": "6"}),
    ({"retention.ms": "5"}, [("segment.ms", SET, "6")], {"retention.ms": "5", "segment.ms": "6"}),
    ({"retention.ms": "5"}, [("retention.ms", DELETE, None)], {}),
    ({"retention.ms": "5"}, [("retention.ms", DELETE, "not looked at")], {}),
    ({}, [("retention.ms", DELETE, None)], {}),
    ({}, [("no", DELETE, None)], {}),
    ({}, [("cleanup.policy", APPEND, "compact")], {"cleanup.policy": "delete,compact"}),
    (
        {"cleanup.policy": "delete,compact"},
        [("cleanup.policy", APPEND, "compact, delete")],
        {"cleanup.policy": "delete,compact"},
    ),
    (
        {"cleanup.policy": "delete,compact"},
        [("cleanup.policy", SUBTRACT, "delete,nothing")],
        {"cleanup.policy": "compact"},
    ),
    # Neither is a policy, too, as in Kafka 4.1: nothing is ever removed.
    ({}, [("cleanup.policy", SUBTRACT, "delete")], {"cleanup.policy": ""}),
    (
        {"cleanup.policy": ""},
        [("cleanup.policy", APPEND, "compact")],
        {"cleanup.policy": "compact"},
    ),
    (
        {},
        [("leader.replication.throttled.replicas", APPEND, "0:1,1:1")],
        {"leader.replication.throttled.replicas": "0:1,1:1"},
    ),
    (
        {"leader.replication.throttled.replicas": "0:1"},
        [("leader.replication.throttled.replicas", SUBTRACT, "0:1")],
        {"leader.replication.throttled.replicas": ""},
    ),
]


@pytest.mark.parametrize(("before", "operations", "after"), CHANGED)
def test_single_configs_of_a_topic_change(
    before: dict[str, str], operations: list[tuple[str, int, str | None]], after: dict[str, str]
) -> None:
    state = make_state(before)
    (result,) = change(state, ConfigResource(TOPIC, "orders", operations))
    assert result == ConfigResult(TOPIC, "orders")
    assert state.topics["orders"].configs == after


def test_a_change_to_what_is_there_already_commits_nothing() -> None:
    state = make_state({"retention.ms": "5"}, {"": {"flush.ms": "7"}})
    resources = [
        ConfigResource(TOPIC, "orders", [("retention.ms", SET, "5"), ("segment.ms", DELETE, None)]),
        ConfigResource(BROKER, "", [("flush.ms", SET, "7")]),
        ConfigResource(BROKER, "0", [("flush.ms", DELETE, None)]),
    ]
    results, changes = plan_alter_configs(state, CONFIG, resources, True)
    assert (codes(results), changes) == ([0, 0, 0], [])


def test_alter_configs_replaces_all_that_was_set() -> None:
    state = make_state(
        {"retention.ms": "5", "segment.ms": "6"}, {"": {"flush.ms": "7", "flush.bytes": "8"}}
    )
    results = change(
        state,
        ConfigResource(TOPIC, "orders", [("segment.ms", SET, "9")]),
        ConfigResource(BROKER, "", [("flush.bytes", SET, "10")]),
        incremental=False,
    )
    assert codes(results) == [0, 0]
    assert state.topics["orders"].configs == {"segment.ms": "9"}
    assert state.broker_configs == {"": {"flush.bytes": "10"}}
    assert codes(change(state, ConfigResource(BROKER, ""), incremental=False)) == [0]
    assert state.broker_configs == {}


def test_each_resource_stands_for_itself_and_fails_as_a_whole() -> None:
    state = make_state({"retention.ms": "5"})
    results = change(
        state,
        ConfigResource(TOPIC, "orders", [("retention.ms", SET, "6"), ("no", SET, "1")]),
        ConfigResource(BROKER, "1", [("flush.ms", SET, "7")]),
        ConfigResource(TOPIC, "clicks", []),
    )
    assert codes(results) == [BAD_CONFIG, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert state.topics["orders"].configs == {"retention.ms": "5"}
    assert state.broker_configs == {"1": {"flush.ms": "7"}}


def test_a_resource_that_stands_twice_is_refused_both_times() -> None:
    state = make_state()
    results = change(
        state,
        ConfigResource(TOPIC, "orders", [("retention.ms", SET, "6")]),
        ConfigResource(BROKER, "1", [("flush.ms", SET, "7")]),
        ConfigResource(TOPIC, "orders", [("segment.ms", SET, "6")]),
    )
    assert codes(results) == [BAD_REQUEST, 0, BAD_REQUEST]
    assert results[0].error_message == "Each resource must appear at most once."
    assert state.topics["orders"].configs == {}


def test_a_node_is_known_by_its_number_however_it_is_written() -> None:
    state = make_state()
    assert codes(change(state, ConfigResource(BROKER, "+01", [("flush.ms", SET, "7")]))) == [0]
    assert state.broker_configs == {"1": {"flush.ms": "7"}}


def test_a_refusal_of_something_huge_fits_into_every_version() -> None:
    resource = ConfigResource(TOPIC, "orders", [("retention.ms", SET, "x" * 30_000)])
    (result,), _ = plan_alter_configs(make_state(), CONFIG, [resource], True)
    assert len(result.error_message or "") == 1000


# Broker configs that do not agree with each other.


def test_a_default_that_one_node_could_not_run_with_is_refused() -> None:
    state = make_state(dynamic={"1": {"socket.request.max.bytes": "2000000"}})
    (result,) = change(state, ConfigResource(BROKER, "", [("message.max.bytes", SET, "3000000")]))
    assert result.error_code == BAD_REQUEST
    assert result.error_message == (
        "Invalid value 3000000 for configuration message.max.bytes: must not exceed"
        " socket.request.max.bytes=2000000 (node 1)"
    )
    assert "" not in state.broker_configs


def test_resources_of_one_request_must_agree_with_each_other() -> None:
    state = make_state()
    results = change(
        state,
        ConfigResource(BROKER, "0", [("socket.request.max.bytes", SET, "2000000")]),
        ConfigResource(BROKER, "", [("message.max.bytes", SET, "3000000")]),
        ConfigResource(BROKER, "1", [("message.max.bytes", SET, "3000000")]),
    )
    assert codes(results) == [0, BAD_REQUEST, 0]


def test_a_node_that_is_away_keeps_its_configs_and_can_lose_them() -> None:
    state = make_state(dynamic={"7": {"socket.request.max.bytes": "2000000"}})
    largest = ConfigResource(BROKER, "", [("message.max.bytes", SET, "3000000")])
    assert codes(change(state, largest)) == [BAD_REQUEST]
    gone = ConfigResource(BROKER, "7", [("socket.request.max.bytes", DELETE, None)])
    assert codes(change(state, gone, largest)) == [0, 0]
    assert state.broker_configs == {"": {"message.max.bytes": "3000000"}}
    assert codes(change(state, ConfigResource(BROKER, "7"))) == [BAD_REQUEST]


def test_two_configs_that_agree_only_together_are_set_together() -> None:
    state = make_state()
    both: list[tuple[str, int, str | None]] = [
        ("message.max.bytes", SET, "200000000"),
        ("socket.request.max.bytes", SET, "300000000"),
    ]
    assert codes(change(state, ConfigResource(BROKER, "", both))) == [0]
    smaller = ConfigResource(BROKER, "", [("socket.request.max.bytes", SET, "150000000")])
    assert codes(change(state, smaller)) == [BAD_REQUEST]
    alone = ConfigResource(BROKER, "", [("socket.request.max.bytes", DELETE, None)])
    assert codes(change(state, alone)) == [0], "a deletion may always be made"


# Set by a broker that was then started with these static settings: all three are ignored now.
SMALLER = Config(data_dir=Path("/data"), smp=2, frame_bytes_max=5500, max_message_bytes=100)
IGNORED = {"": {"message.max.bytes": "9000"}, "1": {"message.max.bytes": "9500"}}


@pytest.mark.parametrize(
    ("name", "operation", "expected"),
    [
        ("", ("message.max.bytes", DELETE, None), 0),
        ("1", ("message.max.bytes", DELETE, None), 0),
        ("", ("flush.ms", SET, "7"), 0),  # has nothing to do with it
        ("0", ("flush.ms", SET, "7"), 0),
        ("1", ("message.max.bytes", SET, "9500"), 0),  # is ignored already
        ("1", ("message.max.bytes", SET, "5500"), 0),
        ("", ("socket.request.max.bytes", SET, "9500"), 0),
        ("1", ("message.max.bytes", SET, "5501"), BAD_REQUEST),  # would be ignored from now on
        ("", ("message.max.bytes", SET, "8000"), BAD_REQUEST),
    ],
)
def test_what_static_settings_made_wrong_can_be_set_right(
    name: str, operation: tuple[str, int, str | None], expected: int
) -> None:
    resource = ConfigResource(BROKER, name, [operation])
    results, _ = plan_alter_configs(make_state(dynamic=IGNORED), SMALLER, [resource], True)
    assert codes(results) == [expected], results


def test_what_static_settings_made_wrong_can_be_removed_at_once() -> None:
    resources = [ConfigResource(BROKER, name) for name in ("", "1")]
    results, changes = plan_alter_configs(make_state(dynamic=IGNORED), SMALLER, resources, False)
    assert codes(results) == [0, 0]
    assert changes == [BrokerConfigsChanged("", {}), BrokerConfigsChanged("1", {})]


# Against a model: a dictionary of sets of list elements and of numbers.

ELEMENTS = ["0:1", "1:1", "2:0", "3:0"]
LISTS = ["leader.replication.throttled.replicas", "follower.replication.throttled.replicas"]
NUMBERS = ["retention.ms", "segment.ms"]
some_elements = st.lists(st.sampled_from(ELEMENTS), min_size=1, unique=True)
operations = st.one_of(
    st.tuples(st.sampled_from(NUMBERS), st.just(SET), st.integers(1, 9).map(str)),
    st.tuples(st.sampled_from(NUMBERS + LISTS), st.just(DELETE), st.none()),
    st.tuples(
        st.sampled_from(LISTS),
        st.sampled_from([SET, APPEND, SUBTRACT]),
        some_elements.map(",".join),
    ),
)
requests = st.lists(
    st.lists(operations, unique_by=lambda operation: operation[0], max_size=4), max_size=12
)


@given(requests)
def test_changes_one_after_the_other_are_what_a_dictionary_does(
    rounds: list[list[tuple[str, int, str | None]]],
) -> None:
    state = make_state()
    model: dict[str, Any] = {}
    for changes in rounds:
        (result,) = change(state, ConfigResource(TOPIC, "orders", changes))
        assert result.error_code == 0
        for name, operation, value in changes:
            if operation == DELETE:
                model.pop(name, None)
            elif name in NUMBERS:
                model[name] = value
            elif operation == SET:
                model[name] = set(value.split(",") if value else [])
            elif operation == APPEND:
                model[name] = model.get(name, set()) | set((value or "").split(","))
            else:
                model[name] = model.get(name, set()) - set((value or "").split(","))
        configs = state.topics["orders"].configs
        assert configs.keys() == model.keys()
        for name, text in configs.items():
            parts = text.split(",") if text else []
            assert len(parts) == len(set(parts)), "an element twice"
            assert (set(parts) if name in LISTS else text) == model[name]


def test_changes_are_told_by_topic_id_and_node() -> None:
    resources = [
        ConfigResource(TOPIC, "orders", [("retention.ms", SET, "6")]),
        ConfigResource(BROKER, "", [("flush.ms", SET, "7")]),
    ]
    changes: list[Change] = plan_alter_configs(make_state(), CONFIG, resources, True)[1]
    assert changes == [
        TopicConfigsChanged(TOPIC_ID, {"retention.ms": "6"}),
        BrokerConfigsChanged("", {"flush.ms": "7"}),
    ]
