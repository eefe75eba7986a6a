"""rpk_py.handlers.describe_configs: what a client is told about configs, in every version."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, cast

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResult,
)
from rpk_py.broker_configs import BROKER_CONFIGS
from rpk_py.handlers import describe_configs
from rpk_py.topic_configs import TOPIC_CONFIGS
from rpk_py.turns import Large, Turns
from tests.broker.fakes import FakeBroker, FakeContext, ask

VERSIONS = range(1, 5)
TOPIC, BROKER = 2, 4


def describe(
    broker: FakeBroker,
    *resources: tuple[int, str],
    keys: list[str] | None = None,
    version: int = 4,
    synonyms: bool = False,
    documentation: bool = False,
) -> list[DescribeConfigsResult]:
    request = DescribeConfigsRequest(
        [DescribeConfigsResource(kind, name, keys) for kind, name in resources], synonyms
    )
    request.include_documentation = documentation
    results: list[DescribeConfigsResult] = ask(
        describe_configs.handle, broker, version, request
    ).results
    return results


def broker_with_topic() -> FakeBroker:
    """Node 1, with a topic and broker configs on every level."""
    broker = FakeBroker(max_message_bytes=2_000_000)
    broker.add_topic("orders", 0).configs["retention.ms"] = "5"
    broker.metadata.state.broker_configs = {
        "": {"message.max.bytes": "3000000", "flush.ms": "7"},
        "1": {"flush.ms": "8"},
    }
    return broker


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("keys", [None, []])
def test_all_configs_of_a_topic_are_told_by_any_node(version: int, keys: list[str] | None) -> None:
    (result,) = describe(broker_with_topic(), (TOPIC, "orders"), keys=keys, version=version)
    assert (result.error_code, result.error_message) == (ErrorCode.NONE, "")
    assert (result.resource_type, result.resource_name) == (TOPIC, "orders")
    assert [config.name for config in result.configs] == sorted(TOPIC_CONFIGS)
    told = {config.name: config for config in result.configs}
    assert (told["retention.ms"].value, told["retention.ms"].config_source) == ("5", 1)
    assert (told["flush.ms"].value, told["flush.ms"].config_source) == ("8", 2)
    largest = told["max.message.bytes"]
    assert (largest.value, largest.config_source, largest.read_only) == ("3000000", 3, False)
    assert (told["segment.ms"].value, told["segment.ms"].config_source) == ("604800000", 5)
    assert all(config.synonyms == [] for config in result.configs)
    assert not any(config.documentation for config in result.configs)
    types = {name: config.config_type for name, config in told.items()}
    wanted = {"retention.ms": 5, "max.message.bytes": 3, "cleanup.policy": 7, "preallocate": 1}
    wanted |= {"compression.type": 2, "min.cleanable.dirty.ratio": 6}
    assert {name: types[name] for name in wanted} == (
        wanted if version >= 3 else dict.fromkeys(wanted, 0)
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_synonyms_of_a_topic_config_go_down_to_the_brokers_default(version: int) -> None:
    broker = broker_with_topic()
    broker.metadata.state.topics["orders"].configs["max.message.bytes"] = "4000000"
    keys = ["max.message.bytes", "retention.ms"]
    (result,) = describe(
        broker, (TOPIC, "orders"), keys=keys, version=version, synonyms=True, documentation=True
    )
    largest, retention = result.configs
    assert [(s.name, s.value, s.source) for s in largest.synonyms] == [
        ("max.message.bytes", "4000000", 1),
        ("message.max.bytes", "3000000", 3),
        ("message.max.bytes", "2000000", 4),
        ("message.max.bytes", "1048588", 5),
    ]
    assert [(s.name, s.value, s.source) for s in retention.synonyms] == [
        ("retention.ms", "5", 1),
        ("log.retention.hours", "168", 5),
    ]
    assert bool(largest.documentation) == (version >= 3)


def test_a_config_that_the_broker_has_in_several_units_is_told_in_its_own() -> None:
    broker = FakeBroker(log_retention_hours=2, log_retention_minutes=3)
    broker.add_topic("orders", 0)
    keys = ["retention.ms", "segment.ms"]
    (result,) = describe(broker, (TOPIC, "orders"), keys=keys, synonyms=True)
    retention, segment = result.configs
    assert (retention.value, retention.config_source) == ("180000", 4)
    assert [(s.name, s.value, s.source) for s in retention.synonyms] == [
        ("log.retention.minutes", "3", 4),
        ("log.retention.hours", "2", 4),
        ("log.retention.hours", "168", 5),
    ]
    assert (segment.value, segment.config_source) == ("604800000", 5)
    assert [(s.name, s.value, s.source) for s in segment.synonyms] == [("log.roll.hours", "168", 5)]
    broker.metadata.state.broker_configs = {"": {"log.retention.ms": "7"}}
    (result,) = describe(broker, (TOPIC, "orders"), keys=keys)
    assert (result.configs[0].value, result.configs[0].config_source) == ("7", 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_node_tells_its_own_configs(version: int) -> None:
    (result,) = describe(broker_with_topic(), (BROKER, "1"), version=version, synonyms=True)
    assert result.error_code == ErrorCode.NONE
    assert [config.name for config in result.configs] == sorted(BROKER_CONFIGS)
    told = {config.name: config for config in result.configs}
    flush = told["flush.ms"]
    assert (flush.value, flush.config_source, flush.read_only) == ("8", 2, False)
    assert [s.source for s in flush.synonyms] == [2, 3, 5]
    assert told["log.dirs"].read_only
    assert told["node.id"].value == "1"
    assert (told["broker.rack"].value, told["broker.rack"].synonyms) == (None, [])


def test_the_empty_name_tells_what_was_set_for_all_nodes() -> None:
    (result,) = describe(broker_with_topic(), (BROKER, ""), synonyms=True)
    assert [(c.name, c.value, c.config_source) for c in result.configs] == [
        ("flush.ms", "7", 3),
        ("message.max.bytes", "3000000", 3),
    ]
    assert [s.source for config in result.configs for s in config.synonyms] == [3, 3]


@pytest.mark.parametrize(
    ("kind", "name", "code", "message"),
    [
        (TOPIC, "clicks", 3, "This server does not host this topic-partition."),
        (TOPIC, "a/b", 17, "Topic name is invalid: "),
        (TOPIC, "", 17, "Topic name is invalid: the empty string is not allowed"),
        (BROKER, "0", 42, "Unexpected broker id, expected 1 or empty string, but received 0"),
        (BROKER, "x", 42, "Broker id must be an integer, but it is: x"),
        (8, "1", 42, "Unknown resource type 8: there are no configs of loggers of a broker here"),
        (16, "x", 42, "Unknown resource type 16: there are no configs of client metrics here"),
        (32, "g", 42, "Unknown resource type 32: there are no configs of groups here"),
        (99, "x", 42, "Unknown resource type 99"),
    ],
)
def test_a_resource_that_is_not_here_has_an_error_and_others_are_told(
    kind: int, name: str, code: int, message: str
) -> None:
    refused, told = describe(broker_with_topic(), (kind, name), (TOPIC, "orders"))
    assert (refused.resource_type, refused.resource_name) == (kind, name)
    assert (refused.error_code, refused.configs) == (code, [])
    assert (refused.error_message or "").startswith(message)
    assert (told.error_code, len(told.configs)) == (0, len(TOPIC_CONFIGS))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_error_about_something_huge_fits_into_every_version(version: int) -> None:
    (refused,) = describe(broker_with_topic(), (BROKER, "x" * 32_767), version=version)
    assert refused.error_code == ErrorCode.INVALID_REQUEST
    assert len(refused.error_message or "") == 1000


def test_keys_that_do_not_exist_are_left_out() -> None:
    keys = ["no", "segment.ms", "segment.ms"]
    (result,) = describe(broker_with_topic(), (TOPIC, "orders"), keys=keys)
    assert [config.name for config in result.configs] == ["segment.ms"]


def test_a_resource_is_told_once_with_the_same_keys_in_the_order_of_the_request() -> None:
    asked = [
        *((BROKER, "1", ["flush.ms", "no"]), (TOPIC, "orders", None), (TOPIC, "clicks", None)),
        *((BROKER, "1", ["no", "flush.ms"]), (TOPIC, "orders", ["flush.ms"])),
        *((TOPIC, "orders", []), (TOPIC, "clicks", None)),
    ]
    resources = [DescribeConfigsResource(kind, name, keys) for kind, name, keys in asked]
    request = DescribeConfigsRequest(resources)
    results = ask(describe_configs.handle, broker_with_topic(), 4, request).results
    assert [(r.resource_type, r.resource_name, len(r.configs)) for r in results] == [
        (BROKER, "1", 1),
        (TOPIC, "orders", len(TOPIC_CONFIGS)),
        (TOPIC, "clicks", 0),
        (TOPIC, "orders", 1),
    ]


def test_a_reply_has_a_bound_and_what_fits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe_configs, "CONFIGS_MAX", 2 * len(TOPIC_CONFIGS) + 1)
    broker = broker_with_topic()
    for name in ("a", "b", "c"):
        broker.add_topic(name, 0)
    results = describe(broker, *((TOPIC, name) for name in ("a", "b", "c", "no", "orders")))
    codes = [result.error_code for result in results]
    assert codes == [0, 0, ErrorCode.INVALID_REQUEST, 3, ErrorCode.INVALID_REQUEST]
    assert [len(result.configs) for result in results] == [*([len(TOPIC_CONFIGS)] * 2), 0, 0, 0]


def test_others_are_served_while_many_resources_are_described() -> None:
    broker = broker_with_topic()
    names = [f"topic-{number}" for number in range(500)]
    request = DescribeConfigsRequest([DescribeConfigsResource(TOPIC, n, None) for n in names])

    async def scenario() -> int:
        turns = 0
        broker.turns = Turns(count(0, 0.0003).__next__, 4)  # each look at the clock takes 0.3 ms
        large = describe_configs.handle(cast(Any, FakeContext(broker, 4)), request)
        assert isinstance(large, Large)
        task = asyncio.ensure_future(large.make())
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert len((await task).results) == 500
        return turns

    assert asyncio.run(scenario()) > 10


def test_a_value_that_the_node_ignores_is_not_told_as_one() -> None:
    broker = FakeBroker(frame_bytes_max=5500, max_message_bytes=100)
    broker.add_topic("orders", 0)
    broker.metadata.state.broker_configs = {
        "": {"message.max.bytes": "5000"},
        "1": {"message.max.bytes": "9500"},
    }
    keys = ["message.max.bytes", "max.message.bytes"]
    for result in describe(broker, (BROKER, "1"), (TOPIC, "orders"), keys=keys, synonyms=True):
        [config] = result.configs
        assert (config.value, config.config_source) == ("5000", 3)
        assert [(s.value, s.source) for s in config.synonyms][1:] == [("100", 4), ("1048588", 5)]
