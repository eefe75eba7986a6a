"""rpk_py.handlers.describe_topic_partitions: pages over topics in the order of their names."""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    TopicRequest,
)
from rpk_py.cluster_view import TOPIC_OPERATIONS
from rpk_py.handlers import describe_topic_partitions
from rpk_py.handlers.describe_topic_partitions import PARTITIONS_MAX
from rpk_py.metadata.state import NodeState
from tests.broker.fakes import FakeBroker, ask, topic_id_of


def three_topics() -> FakeBroker:
    broker = FakeBroker()
    broker.add_topic("orders", 0, 1, 1)
    broker.add_topic("clicks", 1, 0)
    broker.add_topic("audit", 0)
    return broker


def describe(
    broker: FakeBroker, *names: str, limit: int = 2000, cursor: Cursor | None = None
) -> DescribeTopicPartitionsResponse:
    request = DescribeTopicPartitionsRequest([TopicRequest(name) for name in names], limit, cursor)
    response = ask(describe_topic_partitions.handle, broker, 0, request)
    assert isinstance(response, DescribeTopicPartitionsResponse)
    return response


def page_of(response: DescribeTopicPartitionsResponse) -> list[tuple[str | None, list[int]]]:
    return [
        (topic.name, [partition.partition_index for partition in topic.partitions])
        for topic in response.topics
    ]


def test_a_topic_is_described_with_its_partitions() -> None:
    response = describe(three_topics(), "orders")
    (topic,) = response.topics
    assert (topic.error_code, topic.name, topic.is_internal) == (ErrorCode.NONE, "orders", False)
    assert topic.topic_id == topic_id_of("orders")
    assert topic.topic_authorized_operations == TOPIC_OPERATIONS
    assert [partition.leader_id for partition in topic.partitions] == [0, 1, 1]
    second = topic.partitions[1]
    assert (second.error_code, second.partition_index) == (ErrorCode.NONE, 1)
    assert (second.leader_epoch, second.replica_nodes, second.isr_nodes) == (5, [1], [1])
    assert second.offline_replicas == []
    assert response.next_cursor is None


def test_kafkas_admin_client_gets_lists_of_eligible_replicas_and_no_null() -> None:
    """DescribeTopicPartitionsResponse.partitionToTopicPartitionInfo streams both, unchecked."""
    (topic,) = describe(three_topics(), "audit").topics
    (partition,) = topic.partitions
    assert (partition.eligible_leader_replicas, partition.last_known_elr) == ([], [])


def test_no_names_ask_for_all_topics_sorted() -> None:
    everything = [("audit", [0]), ("clicks", [0, 1]), ("orders", [0, 1, 2])]
    assert page_of(describe(three_topics())) == everything


def test_a_broker_without_topics_answers_none() -> None:
    response = describe(FakeBroker())
    assert (response.topics, response.next_cursor) == ([], None)


def test_named_topics_are_sorted_too_and_answered_once() -> None:
    response = describe(three_topics(), "orders", "audit", "orders")
    assert page_of(response) == [("audit", [0]), ("orders", [0, 1, 2])]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("names", [(), ("orders", "clicks", "audit")], ids=["all", "named"])
def test_pages_of_any_size_make_the_whole(limit: int, names: tuple[str, ...]) -> None:
    broker = three_topics()
    met: list[tuple[str | None, int]] = []
    cursor: Cursor | None = None
    pages = 0
    while pages == 0 or cursor is not None:
        response = describe(broker, *names, limit=limit, cursor=cursor)
        page = [(name, index) for name, indexes in page_of(response) for index in indexes]
        cursor = response.next_cursor
        assert len(page) == limit or cursor is None
        met += page
        pages += 1
    assert met == [
        (name, index)
        for name, count in (("audit", 1), ("clicks", 2), ("orders", 3))
        for index in range(count)
    ]
    assert pages == -(-6 // limit)


def test_the_cursor_says_where_the_next_page_begins() -> None:
    broker = three_topics()
    assert describe(broker, limit=2).next_cursor == Cursor("clicks", 1)
    assert describe(broker, limit=3).next_cursor == Cursor("orders", 0)
    assert describe(broker, limit=6).next_cursor is None


def test_the_brokers_own_limit_holds_where_the_client_wants_more() -> None:
    broker = FakeBroker()
    broker.add_topic("wide", *[0] * (PARTITIONS_MAX + 5))
    response = describe(broker, limit=2**31 - 1)
    assert len(response.topics[0].partitions) == PARTITIONS_MAX
    assert response.next_cursor == Cursor("wide", PARTITIONS_MAX)
    response = describe(broker, limit=2**31 - 1, cursor=response.next_cursor)
    assert page_of(response) == [("wide", [2000, 2001, 2002, 2003, 2004])]
    assert response.next_cursor is None


@pytest.mark.parametrize("limit", [0, -1, -(2**31)])
def test_a_limit_below_one_is_one_so_that_pages_have_an_end(limit: int) -> None:
    assert describe(three_topics(), limit=limit) == describe(three_topics(), limit=1)


def test_topics_before_the_cursor_are_left_out() -> None:
    broker = three_topics()
    assert page_of(describe(broker, cursor=Cursor("clicks", 1))) == [
        ("clicks", [1]),
        ("orders", [0, 1, 2]),
    ]
    named = describe(broker, "audit", "orders", cursor=Cursor("orders", 2))
    assert page_of(named) == [("orders", [2])]


def test_a_cursor_at_a_topic_that_was_deleted_meanwhile_goes_on_behind_it() -> None:
    assert page_of(describe(three_topics(), cursor=Cursor("bygone", 7))) == [
        ("clicks", [0, 1]),
        ("orders", [0, 1, 2]),
    ]


@pytest.mark.parametrize(("index", "met"), [(2, []), (2**31 - 1, []), (-1, [0, 1]), (1, [1])])
def test_any_index_of_a_cursor_is_taken(index: int, met: list[int]) -> None:
    assert page_of(describe(three_topics(), "clicks", cursor=Cursor("clicks", index))) == [
        ("clicks", met)
    ]


def test_a_cursor_of_another_topic_than_those_named_is_refused() -> None:
    response = describe(three_topics(), "orders", "audit", cursor=Cursor("clicks", 0))
    assert [(topic.name, topic.error_code) for topic in response.topics] == [
        ("audit", ErrorCode.INVALID_REQUEST),
        ("orders", ErrorCode.INVALID_REQUEST),
    ]
    assert all(topic.partitions == [] for topic in response.topics)
    assert response.next_cursor is None


def test_a_missing_topic_is_unknown_and_never_created() -> None:
    broker = three_topics()
    response = describe(broker, "none", "audit")
    assert [(topic.name, topic.error_code) for topic in response.topics] == [
        ("audit", ErrorCode.NONE),
        ("none", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    assert response.topics[1].topic_id == bytes(16)
    assert broker.metadata.auto_created == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "\u00e9", "x" * 250])
def test_a_name_that_cannot_be_a_topic_is_refused(name: str) -> None:
    (topic,) = describe(three_topics(), name).topics
    assert (topic.name, topic.error_code) == (name, ErrorCode.INVALID_TOPIC_EXCEPTION)


def test_topics_with_errors_take_no_place_on_the_page() -> None:
    response = describe(three_topics(), "a/b", "absent", "audit", "bygone", "clicks", limit=3)
    assert [topic.name for topic in response.topics] == [
        "a/b",
        "absent",
        "audit",
        "bygone",
        "clicks",
    ]
    assert response.next_cursor is None


def test_internal_topics_are_marked() -> None:
    broker = FakeBroker()
    broker.add_topic("__consumer_offsets", 1)
    assert describe(broker).topics[0].is_internal


def test_a_partition_without_a_live_leader_has_none() -> None:
    broker = three_topics()
    broker.metadata.state.nodes = {1: NodeState(1, None, 9093)}
    (topic,) = describe(broker, "clicks").topics
    live, dead = topic.partitions
    assert (live.leader_id, live.offline_replicas) == (1, [])
    assert (dead.leader_id, dead.offline_replicas, dead.isr_nodes) == (-1, [0], [0])


def test_a_partition_whose_log_is_offline_here_has_no_leader() -> None:
    broker = three_topics()
    broker.partitions.by_name["clicks", 0].offline = True
    (topic,) = describe(broker, "clicks").topics
    offline, fine = topic.partitions
    assert (offline.leader_id, offline.offline_replicas) == (-1, [1])
    assert (fine.leader_id, fine.offline_replicas) == (0, [])
