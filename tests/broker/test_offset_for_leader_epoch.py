"""rpk_py.handlers.offset_for_leader_epoch: the end of an epoch, and who may ask."""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from rpk_py.handlers import offset_for_leader_epoch
from tests.broker.fakes import FakeBroker, FakePartition, ask

VERSIONS = [2, 3, 4]


def broker_with_history() -> tuple[FakeBroker, FakePartition]:
    """Partition orders/0: epoch 0 from offset 0, epoch 3 from 40, epoch 5 (current) from 70."""
    broker = FakeBroker()
    broker.add_topic("orders", 1, 0)
    partition = broker.partitions.by_name["orders", 0]
    partition.log.epochs = [(0, 0), (3, 40), (5, 70)]
    partition.log.log_end_offset = 100
    return broker, partition


def request(*asked: tuple[str, int, int, int]) -> OffsetForLeaderEpochRequest:
    """(topic, partition, current leader epoch, leader epoch)..."""
    return OffsetForLeaderEpochRequest(
        topics=[
            OffsetForLeaderTopic(topic, [OffsetForLeaderPartition(partition, current, epoch)])
            for topic, partition, current, epoch in asked
        ]
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("epoch", "answer"),
    [(5, (5, 100)), (4, (3, 70)), (3, (3, 70)), (2, (0, 40)), (0, (0, 40)), (6, (-1, -1))],
)
def test_the_largest_epoch_at_or_below_the_asked_one_ends_there(
    version: int, epoch: int, answer: tuple[int, int]
) -> None:
    broker, _ = broker_with_history()
    response = ask(
        offset_for_leader_epoch.handle, broker, version, request(("orders", 0, 5, epoch))
    )
    (result,) = response.topics[0].partitions
    assert result.error_code == ErrorCode.NONE
    assert (result.leader_epoch, result.end_offset) == answer


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("topic", "partition", "current", "error"),
    [
        ("orders", 0, -1, ErrorCode.NONE),
        ("orders", 0, 4, ErrorCode.FENCED_LEADER_EPOCH),
        ("orders", 0, 6, ErrorCode.UNKNOWN_LEADER_EPOCH),
        ("orders", 1, 5, ErrorCode.NOT_LEADER_OR_FOLLOWER),
        ("orders", 2, 5, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("orders", -1, 5, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("none", 0, 5, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ],
)
def test_who_asks_with_the_wrong_epoch_or_at_the_wrong_node_is_told(
    version: int, topic: str, partition: int, current: int, error: ErrorCode
) -> None:
    broker, _ = broker_with_history()
    response = ask(
        offset_for_leader_epoch.handle, broker, version, request((topic, partition, current, 3))
    )
    (result,) = response.topics[0].partitions
    assert (result.partition, result.error_code) == (partition, error)
    if error != ErrorCode.NONE:
        assert (result.leader_epoch, result.end_offset) == (-1, -1)


def test_an_offline_partition_is_a_storage_error() -> None:
    broker, partition = broker_with_history()
    partition.offline = True
    response = ask(offset_for_leader_epoch.handle, broker, 4, request(("orders", 0, 5, 3)))
    assert response.topics[0].partitions[0].error_code == ErrorCode.KAFKA_STORAGE_ERROR


def test_answers_stand_in_the_order_of_the_request() -> None:
    broker, _ = broker_with_history()
    asked = request(("orders", 1, 5, 3), ("none", 7, 5, 3), ("orders", 0, 5, 3))
    response = ask(offset_for_leader_epoch.handle, broker, 4, asked)
    assert [(t.topic, [p.partition for p in t.partitions]) for t in response.topics] == [
        ("orders", [1]),
        ("none", [7]),
        ("orders", [0]),
    ]
