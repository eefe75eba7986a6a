"""rpk_py.handlers.create_topics: the request reaches the controller whole, so does the answer.

What the controller refuses, and with which error, is tested with the controller.
"""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from rpk_py.config_types import SOURCE_DEFAULT, SOURCE_TOPIC
from rpk_py.handlers import create_topics
from rpk_py.metadata.requests import TopicSpec
from rpk_py.topic_configs import TOPIC_CONFIGS
from tests.broker.fakes import NEW_TOPIC_ID, FakeBroker, ask

VERSIONS = range(2, 8)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_created_topic_is_told_as_far_as_the_version_goes(version: int) -> None:
    config = CreatableTopicConfig("retention.ms", "1000")
    request = CreateTopicsRequest([CreatableTopic("orders", 3, 1, [], [config])], 5_000)
    response = ask(create_topics.handle, FakeBroker(), version, request)
    (topic,) = response.topics
    assert (topic.name, topic.error_code, topic.error_message) == ("orders", ErrorCode.NONE, None)
    assert topic.topic_id == (NEW_TOPIC_ID if version >= 7 else bytes(16))
    if version < 5:
        assert (topic.num_partitions, topic.replication_factor) == (-1, -1)
        return
    assert (topic.num_partitions, topic.replication_factor) == (3, 1)
    sources = {entry.name: (entry.value, entry.config_source) for entry in topic.configs}
    assert sources.keys() == TOPIC_CONFIGS.keys()
    assert sources["retention.ms"] == ("1000", SOURCE_TOPIC)
    assert sources["cleanup.policy"] == ("delete", SOURCE_DEFAULT)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("validate_only", [True, False])
def test_the_controller_gets_everything_that_the_client_sent(
    version: int, validate_only: bool
) -> None:
    broker = FakeBroker()
    request = CreateTopicsRequest(
        [
            CreatableTopic("orders", 3, 1, [], [CreatableTopicConfig("retention.ms", None)]),
            CreatableTopic("clicks", -1, -1, [CreatableReplicaAssignment(0, [1])], []),
        ],
        1_234,
        validate_only,
    )
    ask(create_topics.handle, broker, version, request)
    (sent,) = broker.metadata.requests
    assert sent == (
        [
            TopicSpec("orders", 3, 1, [], [("retention.ms", None)]),
            TopicSpec("clicks", -1, -1, [(0, [1])], []),
        ],
        1_234,
        validate_only,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refused_topic_has_an_error_and_a_reason_and_nothing_else(version: int) -> None:
    broker = FakeBroker()
    broker.add_topic("orders", 1)
    request = CreateTopicsRequest(
        [CreatableTopic("orders", 1, 1), CreatableTopic("clicks", 1, 1), CreatableTopic("a/b")]
    )
    response = ask(create_topics.handle, broker, version, request)
    assert [(topic.name, topic.error_code) for topic in response.topics] == [
        ("orders", ErrorCode.TOPIC_ALREADY_EXISTS),
        ("clicks", ErrorCode.NONE),
        ("a/b", ErrorCode.INVALID_TOPIC_EXCEPTION),
    ]
    refused = response.topics[0]
    assert "already exists" in refused.error_message
    assert (refused.topic_id, refused.num_partitions) == (bytes(16), -1)
    assert not refused.configs


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "config",
    [
        CreatableTopicConfig("x" * 32_767, "1"),
        CreatableTopicConfig("retention.ms", "\u00e9" * 16_000),
    ],
    ids=["name", "value"],
)
def test_a_refusal_of_something_huge_fits_into_every_version(
    version: int, config: CreatableTopicConfig
) -> None:
    request = CreateTopicsRequest([CreatableTopic("orders", 1, 1, [], [config])])
    (topic,) = ask(create_topics.handle, FakeBroker(), version, request).topics
    assert topic.error_code == ErrorCode.INVALID_CONFIG
    assert len(topic.error_message) == 1000
    assert topic.error_message.endswith("...")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_name_that_stands_twice_is_answered_once(version: int) -> None:
    request = CreateTopicsRequest([CreatableTopic(name, 1, 1) for name in ("a", "b", "a")])
    response = ask(create_topics.handle, FakeBroker(), version, request)
    assert [(topic.name, topic.error_code) for topic in response.topics] == [
        ("a", ErrorCode.INVALID_REQUEST),
        ("b", ErrorCode.NONE),
    ]
