"""rpk_py.broker_configs: names and types, what can change at run time, and the Config in force."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rpk_py import broker_configs
from rpk_py.broker_configs import BROKER_CONFIGS, BY_SETTING, effective_config, in_force
from rpk_py.config import SETTINGS, Config
from rpk_py.config_types import (
    INT_MAX,
    SOURCE_DEFAULT,
    SOURCE_DYNAMIC_DEFAULT,
    SOURCE_NODE,
    SOURCE_STATIC,
    TYPE_CODES,
    DescribedConfig,
    normalize,
)

CONFIG = Config(data_dir=Path("/data"), smp=4)

# name, type, default: read from an Apache Kafka 4.1 broker by DescribeConfigs.
KAFKA = [
    ("auto.create.topics.enable", "boolean", "true"),
    ("broker.rack", "string", None),
    ("connections.max.idle.ms", "long", "600000"),
    ("fetch.max.bytes", "int", "57671680"),
    ("log.cleanup.policy", "list", "delete"),
    ("log.retention.bytes", "long", "-1"),
    ("log.retention.check.interval.ms", "long", "300000"),
    ("log.retention.hours", "int", "168"),
    ("log.retention.minutes", "int", None),
    ("log.retention.ms", "long", None),
    ("log.roll.hours", "int", "168"),
    ("log.roll.jitter.hours", "int", "0"),
    ("log.roll.jitter.ms", "long", None),
    ("log.roll.ms", "long", None),
    ("log.segment.bytes", "int", "1073741824"),
    ("message.max.bytes", "int", "1048588"),
    ("num.partitions", "int", "1"),
    ("producer.id.expiration.ms", "int", "86400000"),
    ("socket.request.max.bytes", "int", "104857600"),
]


def by_name(configs: list[DescribedConfig]) -> dict[str, DescribedConfig]:
    return {config.entry.name: config for config in configs}


@pytest.mark.parametrize(("name", "kind", "default"), KAFKA)
def test_a_config_that_kafka_has_is_as_there(name: str, kind: str, default: str | None) -> None:
    config = BROKER_CONFIGS[name]
    assert (config.kind, config.value(Config(), 0)) == (kind, default)


def test_every_setting_is_in_exactly_one_config() -> None:
    told = [setting for config in BROKER_CONFIGS.values() for setting in config.settings]
    assert sorted(told) == sorted(SETTINGS)
    assert BY_SETTING.keys() == SETTINGS.keys()


def test_every_config_can_be_told_to_a_client() -> None:
    for name, config in BROKER_CONFIGS.items():
        assert config.kind in TYPE_CODES
        assert config.documentation
        assert name == name.lower()
        assert "_" not in name


def test_the_value_in_force_of_every_dynamic_config_can_be_set_again() -> None:
    dynamic = [config for config in BROKER_CONFIGS.values() if config.dynamic]
    assert len(dynamic) > 10
    for config in dynamic:
        text = config.value(CONFIG, 0)
        if text is None:  # as in Kafka, where another config's value counts then
            assert SETTINGS[config.settings[0]].optional
            continue
        assert broker_configs.validate(config.name, text) is None
        found = in_force(CONFIG, {"": {config.name: text}}, 0)
        assert (found.config, found.ignored) == (CONFIG, {})


def test_a_nodes_own_value_wins_over_that_of_all_nodes_and_that_over_the_static_one() -> None:
    dynamic = {
        "": {"flush.ms": "7", "flush.bytes": "8", "write.caching": "true"},
        "3": {"flush.ms": "9"},
    }
    expected = dataclasses.replace(CONFIG, flush_ms=7, flush_bytes=8, write_caching=True)
    assert effective_config(CONFIG, dynamic, None) == expected
    assert effective_config(CONFIG, dynamic, 2) == expected
    assert effective_config(CONFIG, dynamic, 3) == dataclasses.replace(expected, flush_ms=9)
    assert effective_config(CONFIG, {}, 3) is CONFIG


def test_what_another_version_may_have_stored_is_left_out() -> None:
    dynamic = {
        "": {"no.such.config": "1", "log.dirs": "/x", "flush.ms": "soon", "flush.bytes": "8"}
    }
    assert effective_config(CONFIG, dynamic, 0) == dataclasses.replace(CONFIG, flush_bytes=8)


def test_a_value_that_static_settings_no_longer_allow_is_ignored_and_reported() -> None:
    dynamic = {"": {"message.max.bytes": "50000000", "flush.ms": "7"}}
    smaller = dataclasses.replace(CONFIG, frame_bytes_max=10_000_000)
    reports: list[str] = []
    found = effective_config(smaller, dynamic, 0, reports.append)
    assert found == dataclasses.replace(smaller, flush_ms=7)
    assert reports == [
        "Invalid value 50000000 for configuration"
        " message.max.bytes: must not exceed socket.request.max.bytes=10000000"
    ]


# Static settings, and the values of message.max.bytes for all nodes and node 1, with the limit of
# node 1's requests; what node 1 then runs with, and where from.
SMALLER = dataclasses.replace(CONFIG, frame_bytes_max=5500, max_message_bytes=100)


@pytest.mark.parametrize(
    ("all_nodes", "own", "value", "sources"),
    [
        ({}, {}, 100, [SOURCE_STATIC, SOURCE_DEFAULT]),
        ({"message.max.bytes": "9000"}, {}, 100, [SOURCE_STATIC, SOURCE_DEFAULT]),
        # What does not fit on the node hides no default that does, and the other way round.
        (
            {"message.max.bytes": "5000"},
            {"message.max.bytes": "9500"},
            *(5000, [SOURCE_DYNAMIC_DEFAULT, SOURCE_STATIC, SOURCE_DEFAULT]),
        ),
        (
            {"message.max.bytes": "9000"},
            {"message.max.bytes": "5000"},
            *(5000, [SOURCE_NODE, SOURCE_STATIC, SOURCE_DEFAULT]),
        ),
        (
            {"message.max.bytes": "9000"},
            {"message.max.bytes": "9500"},
            *(100, [SOURCE_STATIC, SOURCE_DEFAULT]),
        ),
        # What fits only with another value, whichever of the two has the first name.
        (
            {"message.max.bytes": "9000"},
            {"socket.request.max.bytes": "9000"},
            *(9000, [SOURCE_DYNAMIC_DEFAULT, SOURCE_STATIC, SOURCE_DEFAULT]),
        ),
    ],
)
def test_what_is_told_of_a_node_is_what_it_runs_with(
    all_nodes: dict[str, str], own: dict[str, str], value: int, sources: list[int]
) -> None:
    dynamic = {"": {**all_nodes, "flush.ms": "7"}, "1": own}
    values = in_force(SMALLER, dynamic, 1)
    assert effective_config(SMALLER, dynamic, 1) == values.config
    assert (values.config.max_message_bytes, values.config.flush_ms) == (value, 7)
    told = by_name(broker_configs.describe_node(values))
    for config in BROKER_CONFIGS.values():
        assert told[config.name].entry.value == config.value(values.config, 1)
    assert [s.source for s in told["message.max.bytes"].synonyms] == sources


def test_a_limit_that_its_own_change_could_not_pass_again_is_refused() -> None:
    problem = broker_configs.validate("max.connections", "9")
    assert problem is not None
    assert problem.endswith("Value must be at least 10")
    assert broker_configs.validate("max.connections", "10") is None
    stored_before = {"": {"max.connections": "1"}}
    assert effective_config(CONFIG, stored_before, 0) == CONFIG


@pytest.mark.parametrize("config", BROKER_CONFIGS.values(), ids=list(BROKER_CONFIGS))
def test_what_is_told_to_be_an_int_is_one(config: broker_configs.BrokerConfig) -> None:
    highs = [SETTINGS[name].high for name in config.settings]
    assert config.kind != "int" or all(high is not None and high <= INT_MAX for high in highs)


@pytest.mark.parametrize(
    ("text", "node_id"), [("7", 7), ("+07", 7), ("-1", -1), ("", None), (" 1", None), ("1_0", None)]
)
def test_the_name_of_a_broker_is_its_number(text: str, node_id: int | None) -> None:
    assert broker_configs.parse_node_id(text) == node_id


def test_a_config_names_its_values_from_the_strongest_to_the_default() -> None:
    static = dataclasses.replace(CONFIG, max_message_bytes=2_000_000)
    dynamic = {"": {"message.max.bytes": "3000000"}, "1": {"message.max.bytes": "4000000"}}
    config = by_name(broker_configs.describe_node(in_force(static, dynamic, 1)))[
        "message.max.bytes"
    ]
    assert config.entry == ("message.max.bytes", "4000000", False, SOURCE_NODE, False)
    assert config.synonyms == [
        ("message.max.bytes", "4000000", SOURCE_NODE),
        ("message.max.bytes", "3000000", SOURCE_DYNAMIC_DEFAULT),
        ("message.max.bytes", "2000000", SOURCE_STATIC),
        ("message.max.bytes", "1048588", SOURCE_DEFAULT),
    ]
    other = by_name(broker_configs.describe_node(in_force(static, dynamic, 2)))["message.max.bytes"]
    assert other.synonyms == config.synonyms[1:]


def test_addresses_and_node_id_are_those_of_the_shard() -> None:
    config = dataclasses.replace(
        CONFIG, host_id=1, kafka_host="::1", kafka_port=19092, advertise_host="kafka.example"
    )
    told = by_name(broker_configs.describe_node(in_force(config, {}, 130)))
    assert told["listeners"].entry[1:4] == ("PLAINTEXT://[::1]:19094", True, SOURCE_STATIC)
    assert told["advertised.listeners"].entry.value == "PLAINTEXT://kafka.example:19094"
    assert told["node.id"].entry.value == "130"
    assert told["log.dirs"].entry[1:4] == ("/data", True, SOURCE_STATIC)
    assert by_name(broker_configs.describe_node(in_force(CONFIG, {}, 2)))[
        "advertised.listeners"
    ].entry[1:4] == (None, True, SOURCE_DEFAULT)


def test_all_nodes_together_have_what_was_set_for_all_and_nothing_else() -> None:
    dynamic = {"": {"num.partitions": "3", "flush.ms": "7"}, "1": {"flush.bytes": "8"}}
    found = broker_configs.describe_all_nodes(dynamic)
    assert [config.entry for config in found] == [
        ("flush.ms", "7", False, SOURCE_DYNAMIC_DEFAULT, False),
        ("num.partitions", "3", False, SOURCE_DYNAMIC_DEFAULT, False),
    ]
    assert broker_configs.describe_all_nodes({}) == []


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("log.retention.ms", "0", "must be -1 (unlimited) or at least 1"),
        ("log.retention.ms", "-2", "Value must be at least -1"),
        ("log.roll.ms", "0", "Value must be at least 1"),
        ("log.roll.jitter.ms", "-1", "Value must be at least 0"),
        ("log.retention.check.interval.ms", "0", "Value must be at least 1"),
        ("log.cleanup.policy", "burn", "String must be one of: delete, compact"),
    ],
)
def test_a_wrong_value_of_retention_is_refused(name: str, text: str, says: str) -> None:
    problem = broker_configs.validate(name, text)
    if problem is None:  # right alone
        (error,) = in_force(CONFIG, {"": {name: text}}, 0).ignored.values()
        problem = broker_configs.problem_of(error)
    assert problem.startswith(f"Invalid value {text} for configuration {name}: {says}")


@pytest.mark.parametrize("policy", ["compact", "delete, compact", "compact,delete"])
def test_policies_may_be_combined(policy: str) -> None:
    found = in_force(CONFIG, {"": {"log.cleanup.policy": normalize("list", policy)}}, 0)
    assert found.config.log_cleanup_policy == policy.replace(" ", "")
    assert broker_configs.validate("log.cleanup.policy", policy) is None
