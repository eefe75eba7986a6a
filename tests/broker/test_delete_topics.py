"""rpk_py.handlers.delete_topics: by name, by id, and every mixture that is none."""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from rpk_py.handlers import delete_topics
from tests.broker.fakes import FakeBroker, ask, topic_id_of

UNKNOWN_ID = b"\7" * 16


def two_topics() -> FakeBroker:
    broker = FakeBroker()
    broker.add_topic("orders", 0, 1)
    broker.add_topic("clicks", 1)
    return broker


@pytest.mark.parametrize("version", range(1, 6))
def test_topics_are_deleted_by_name(version: int) -> None:
    broker = two_topics()
    request = DeleteTopicsRequest(topic_names=["clicks", "none", "orders"], timeout_ms=1_234)
    response = ask(delete_topics.handle, broker, version, request)
    assert [(result.name, result.error_code) for result in response.responses] == [
        ("clicks", ErrorCode.NONE),
        ("none", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("orders", ErrorCode.NONE),
    ]
    reasons = [bool(result.error_message) for result in response.responses]
    assert reasons == [False, version >= 5, False]
    names = [("clicks", None), ("none", None), ("orders", None)]
    assert broker.metadata.requests == [(names, 1_234)]


def test_from_version_6_topics_are_deleted_by_name_or_id_and_answered_with_both() -> None:
    request = DeleteTopicsRequest(
        [
            DeleteTopicState("clicks"),
            DeleteTopicState(None, topic_id_of("orders")),
            DeleteTopicState("none"),
            DeleteTopicState(None, UNKNOWN_ID),
        ]
    )
    response = ask(delete_topics.handle, two_topics(), 6, request)
    assert [(r.name, r.topic_id, r.error_code) for r in response.responses] == [
        ("clicks", topic_id_of("clicks"), ErrorCode.NONE),
        ("orders", topic_id_of("orders"), ErrorCode.NONE),
        ("none", bytes(16), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (None, UNKNOWN_ID, ErrorCode.UNKNOWN_TOPIC_ID),
    ]


@pytest.mark.parametrize(
    "wrong",
    [DeleteTopicState("orders", topic_id_of("orders")), DeleteTopicState(None, bytes(16))],
    ids=["both", "neither"],
)
def test_name_and_id_together_or_neither_is_refused_for_this_topic_alone(
    wrong: DeleteTopicState,
) -> None:
    request = DeleteTopicsRequest([wrong, DeleteTopicState("clicks")])
    response = ask(delete_topics.handle, two_topics(), 6, request)
    refused, deleted = response.responses
    assert (refused.name, refused.topic_id) == (wrong.name, wrong.topic_id)
    assert refused.error_code == ErrorCode.INVALID_REQUEST
    assert refused.error_message
    assert deleted.error_code == ErrorCode.NONE


def test_a_topic_that_is_given_twice_is_not_deleted() -> None:
    request = DeleteTopicsRequest(
        [
            DeleteTopicState("orders"),
            DeleteTopicState("clicks"),
            DeleteTopicState(None, topic_id_of("orders")),
        ]
    )
    response = ask(delete_topics.handle, two_topics(), 6, request)
    assert [result.error_code for result in response.responses] == [
        ErrorCode.INVALID_REQUEST,
        ErrorCode.NONE,
        ErrorCode.INVALID_REQUEST,
    ]
