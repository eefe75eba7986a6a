"""rpk_py.handlers.metadata: which topics, in which order, with which errors, in every version."""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
)
from rpk_py.handlers import metadata
from rpk_py.metadata.state import NodeState
from tests.broker.fakes import CLUSTER_ID, LOCAL_HOST, FakeBroker, ask, topic_id_of

ALL_VERSIONS = range(14)
UNKNOWN = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
NO_ID = bytes(16)


def named(*names: str, create: bool = True) -> MetadataRequest:
    return MetadataRequest([MetadataRequestTopic(name=name) for name in names], create)


def by_id(*topic_ids: bytes) -> MetadataRequest:
    return MetadataRequest([MetadataRequestTopic(topic_id, None) for topic_id in topic_ids])


def two_topics(**settings: object) -> FakeBroker:
    broker = FakeBroker(**settings)
    broker.add_topic("orders", 0, 1)
    broker.add_topic("clicks", 1)
    return broker


def names_and_errors(response: MetadataResponse) -> list[tuple[str | None, int]]:
    return [(topic.name, topic.error_code) for topic in response.topics]


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_topic_is_described_with_its_partitions(version: int) -> None:
    response = ask(metadata.handle, two_topics(), version, named("orders"))
    (topic,) = response.topics
    assert (topic.error_code, topic.name, topic.is_internal) == (ErrorCode.NONE, "orders", False)
    assert topic.topic_id == (topic_id_of("orders") if version >= 10 else NO_ID)
    first, second = topic.partitions
    assert (first.partition_index, first.leader_id, first.error_code) == (0, 0, ErrorCode.NONE)
    assert (second.partition_index, second.leader_id) == (1, 1)
    assert (second.replica_nodes, second.isr_nodes, second.offline_replicas) == ([1], [1], [])
    assert second.leader_epoch == (5 if version >= 7 else -1)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_nodes_controller_and_cluster_id_are_told(version: int) -> None:
    response = ask(metadata.handle, two_topics(), version, named())
    assert [(node.node_id, node.host, node.port) for node in response.brokers] == [
        (0, "broker.example", 9092),
        (1, LOCAL_HOST, 9093),
    ]
    assert [node.rack for node in response.brokers] == ["host-0" if version else None] * 2
    assert response.controller_id == (1 if version >= 1 else -1)
    assert response.cluster_id == (CLUSTER_ID if version >= 2 else None)
    assert response.error_code == ErrorCode.NONE


def test_the_controller_is_a_live_node_even_while_this_one_is_not_listed() -> None:
    broker = two_topics()
    broker.metadata.state.nodes = {4: NodeState(4, "other", 9096), 2: NodeState(2, "other", 9094)}
    assert ask(metadata.handle, broker, 9, named()).controller_id == 2


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_all_topics_are_asked_for_by_null_and_in_version_0_by_an_empty_list(version: int) -> None:
    everything = MetadataRequest([] if version == 0 else None)
    response = ask(metadata.handle, two_topics(), version, everything)
    assert names_and_errors(response) == [("orders", 0), ("clicks", 0)]
    assert [len(topic.partitions) for topic in response.topics] == [2, 1]


@pytest.mark.parametrize("version", ALL_VERSIONS[1:])
def test_an_empty_list_asks_for_no_topics(version: int) -> None:
    assert ask(metadata.handle, two_topics(), version, named()).topics == []


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_topics_are_answered_in_the_order_of_the_request_each_once(version: int) -> None:
    request = named("clicks", "none", "orders", "clicks", "none", create=False)
    response = ask(metadata.handle, two_topics(), version, request)
    assert names_and_errors(response) == [("clicks", 0), ("none", UNKNOWN), ("orders", 0)]


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
def test_a_missing_topic_is_created_if_client_and_broker_allow_it(
    version: int, client: bool, allowed: bool
) -> None:
    """The client's flag exists from v4; before, every client means yes."""
    broker = two_topics(auto_create_topics=allowed)
    response = ask(metadata.handle, broker, version, named("new", "orders", create=client))
    assert names_and_errors(response) == [("new", UNKNOWN), ("orders", 0)]
    wanted = allowed and (client or version < 4)
    assert broker.metadata.auto_created == (["new"] if wanted else [])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "\u00e9", "x" * 250, "a\n"])
def test_a_name_that_cannot_be_a_topic_is_refused_and_never_created(name: str) -> None:
    broker = two_topics()
    response = ask(metadata.handle, broker, 9, named(name))
    assert names_and_errors(response) == [(name, ErrorCode.INVALID_TOPIC_EXCEPTION)]
    assert broker.metadata.auto_created == []


def test_the_longest_name_and_every_legal_character_are_fine() -> None:
    broker = two_topics()
    ask(metadata.handle, broker, 9, named("x" * 249, "A.b_c-9", "..."))
    assert broker.metadata.auto_created == ["x" * 249, "A.b_c-9", "..."]


def test_asking_for_all_topics_creates_none() -> None:
    broker = two_topics()
    ask(metadata.handle, broker, 9, MetadataRequest(None))
    assert broker.metadata.auto_created == []


@pytest.mark.parametrize("version", [12, 13])
def test_topics_are_found_by_id(version: int) -> None:
    broker = two_topics()
    unknown = b"\7" * 16
    request = by_id(topic_id_of("clicks"), unknown, topic_id_of("orders"), unknown)
    response = ask(metadata.handle, broker, version, request)
    assert [(t.name, t.topic_id, t.error_code) for t in response.topics] == [
        ("clicks", topic_id_of("clicks"), ErrorCode.NONE),
        (None, unknown, ErrorCode.UNKNOWN_TOPIC_ID),
        ("orders", topic_id_of("orders"), ErrorCode.NONE),
    ]
    assert broker.metadata.auto_created == []


@pytest.mark.parametrize("version", [12, 13])
def test_ids_and_names_may_be_mixed_and_an_id_counts_more_than_its_name(version: int) -> None:
    request = MetadataRequest(
        [
            MetadataRequestTopic(topic_id_of("clicks"), "renamed"),
            MetadataRequestTopic(name="orders"),
            MetadataRequestTopic(NO_ID, None),
        ]
    )
    response = ask(metadata.handle, two_topics(), version, request)
    assert names_and_errors(response) == [
        ("clicks", 0),
        ("orders", 0),
        (None, ErrorCode.UNKNOWN_TOPIC_ID),
    ]


@pytest.mark.parametrize("version", [10, 11])
@pytest.mark.parametrize(
    "wrong",
    [MetadataRequestTopic(topic_id_of("orders"), "orders"), MetadataRequestTopic(NO_ID, None)],
    ids=["an id", "a null name"],
)
def test_ids_before_version_12_refuse_the_whole_request(
    version: int, wrong: MetadataRequestTopic
) -> None:
    request = MetadataRequest([MetadataRequestTopic(name="clicks"), wrong])
    response = ask(metadata.handle, two_topics(), version, request)
    assert names_and_errors(response) == [
        ("clicks", ErrorCode.INVALID_REQUEST),
        (wrong.name or "", ErrorCode.INVALID_REQUEST),
    ]


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_authorized_operations_are_told_only_when_asked_for(version: int) -> None:
    silent = ask(metadata.handle, two_topics(), version, named("orders"))
    assert silent.cluster_authorized_operations == -(2**31)
    assert silent.topics[0].topic_authorized_operations == -(2**31)
    request = named("orders", "none", create=False)
    request.include_cluster_authorized_operations = True
    request.include_topic_authorized_operations = True
    response = ask(metadata.handle, two_topics(), version, request)
    cluster = 8_096 if 8 <= version <= 10 else -(2**31)
    topic = 3_576 if version >= 8 else -(2**31)
    assert response.cluster_authorized_operations == cluster
    assert response.topics[0].topic_authorized_operations == topic
    assert response.topics[1].topic_authorized_operations == -(2**31)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_partition_whose_leader_is_gone_says_so(version: int) -> None:
    broker = FakeBroker()
    broker.add_topic("orders", 9, 1)
    response = ask(metadata.handle, broker, version, named("orders"))
    lost, fine = response.topics[0].partitions
    assert (lost.error_code, lost.leader_id) == (ErrorCode.LEADER_NOT_AVAILABLE, -1)
    assert lost.replica_nodes == [9]
    assert lost.offline_replicas == ([9] if version >= 5 else [])
    assert (fine.error_code, fine.leader_id) == (ErrorCode.NONE, 1)
    assert response.topics[0].error_code == ErrorCode.NONE


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("everything", [True, False])
def test_a_partition_that_is_offline_here_has_no_leader(version: int, everything: bool) -> None:
    broker = FakeBroker()
    broker.add_topic("orders", 1, 1)
    broker.partitions.by_name["orders", 0].offline = True
    request = MetadataRequest([] if version == 0 else None) if everything else named("orders")
    (topic,) = ask(metadata.handle, broker, version, request).topics
    offline, fine = topic.partitions
    assert (offline.error_code, offline.leader_id) == (ErrorCode.LEADER_NOT_AVAILABLE, -1)
    assert (offline.replica_nodes, offline.isr_nodes) == ([1], [1])
    assert offline.offline_replicas == ([1] if version >= 5 else [])
    assert (fine.error_code, fine.leader_id, fine.offline_replicas) == (ErrorCode.NONE, 1, [])
    assert topic.error_code == ErrorCode.NONE


def test_internal_topics_are_marked() -> None:
    broker = FakeBroker()
    broker.add_topic("__consumer_offsets", 1)
    assert ask(metadata.handle, broker, 1, named("__consumer_offsets")).topics[0].is_internal
