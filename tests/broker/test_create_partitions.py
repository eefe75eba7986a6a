"""rpk_py.handlers.create_partitions: the request reaches the controller whole, so does the answer.

What the controller refuses, and with which error, is tested with the controller.
"""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from rpk_py.handlers import create_partitions
from rpk_py.metadata.requests import PartitionsSpec
from tests.broker.fakes import FakeBroker, ask

VERSIONS = range(4)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("validate_only", [True, False])
def test_the_controller_gets_everything_that_the_client_sent(
    version: int, validate_only: bool
) -> None:
    broker = FakeBroker()
    request = CreatePartitionsRequest(
        [
            CreatePartitionsTopic("orders", 3, None),
            CreatePartitionsTopic("clicks", 5, []),
            CreatePartitionsTopic(
                "audit", 2, [CreatePartitionsAssignment([1]), CreatePartitionsAssignment([0, 1])]
            ),
        ],
        1_234,
        validate_only,
    )
    ask(create_partitions.handle, broker, version, request)
    (sent,) = broker.metadata.requests
    assert sent == (
        [
            PartitionsSpec("orders", 3, None),
            PartitionsSpec("clicks", 5, []),
            PartitionsSpec("audit", 2, [[1], [0, 1]]),
        ],
        1_234,
        validate_only,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_each_topic_has_its_own_answer_in_the_order_of_the_request(version: int) -> None:
    broker = FakeBroker()
    broker.add_topic("orders", 1)
    broker.add_topic("clicks", 0, 1)
    request = CreatePartitionsRequest(
        [
            CreatePartitionsTopic("orders", 3, None),
            CreatePartitionsTopic("none", 3, None),
            CreatePartitionsTopic("clicks", 2, None),
        ],
        30_000,
    )
    response = ask(create_partitions.handle, broker, version, request)
    assert [(row.name, row.error_code, row.error_message) for row in response.results] == [
        ("orders", ErrorCode.NONE, None),
        ("none", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None),
        ("clicks", ErrorCode.INVALID_PARTITIONS, "Topic already has 2 partition(s)."),
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_name_that_stands_twice_is_answered_once(version: int) -> None:
    broker = FakeBroker()
    for name in "ab":
        broker.add_topic(name, 1)
    topics = [CreatePartitionsTopic(name, 2, None) for name in "aba"]
    response = ask(create_partitions.handle, broker, version, CreatePartitionsRequest(topics))
    assert [(row.name, row.error_code, row.error_message) for row in response.results] == [
        ("a", ErrorCode.INVALID_REQUEST, "Duplicate topic name."),
        ("b", ErrorCode.NONE, None),
    ]


def test_an_assignment_of_the_wrong_length_is_refused() -> None:
    broker = FakeBroker()
    broker.add_topic("orders", 1)
    request = CreatePartitionsRequest(
        [CreatePartitionsTopic("orders", 4, [CreatePartitionsAssignment([0])])]
    )
    (row,) = ask(create_partitions.handle, broker, 3, request).results
    assert row.error_code == ErrorCode.INVALID_REPLICA_ASSIGNMENT
    assert "3 additional partition(s), but only 1 assignment(s)" in row.error_message


def test_a_request_without_topics_is_answered_without_results() -> None:
    request = CreatePartitionsRequest()
    assert ask(create_partitions.handle, FakeBroker(), 3, request).results == []
