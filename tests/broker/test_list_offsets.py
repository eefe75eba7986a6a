"""rpk_py.handlers.list_offsets: special timestamps, times, limits and refusals."""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from rpk_py.handlers import list_offsets
from tests.broker.fakes import FakeBroker, FakePartition, ask

VERSIONS = range(1, 12)
T0 = 1_700_000_000_000


def broker_with_records() -> tuple[FakeBroker, FakePartition]:
    """orders/0 holds offsets 10 to 99, a second apart; 90 are acknowledged, 80 are decided."""
    broker = FakeBroker()
    broker.add_topic("orders", 1, 0)
    partition = broker.partitions.by_name["orders", 0]
    partition.log_start_offset = 10
    partition.high_watermark = 90
    partition.last_stable_offset = 80
    partition.log.log_end_offset = 100
    partition.log.epochs = [(2, 0), (3, 20), (5, 50)]
    partition.log.records = [(offset, T0 + 1_000 * (offset - 10)) for offset in range(10, 100)]
    return broker, partition


def request(*asked: tuple[str, int, int], epoch: int = -1, **facts: int) -> ListOffsetsRequest:
    """(topic, partition, timestamp)... of a consumer."""
    facts.setdefault("replica_id", -1)
    return ListOffsetsRequest(
        topics=[
            ListOffsetsTopic(topic, [ListOffsetsPartition(partition, epoch, timestamp)])
            for topic, partition, timestamp in asked
        ],
        **facts,
    )


def ask_one(
    broker: FakeBroker, version: int, asked: ListOffsetsRequest
) -> ListOffsetsPartitionResponse:
    response = ask(list_offsets.handle, broker, version, asked)
    ((answer,),) = [topic.partitions for topic in response.topics]
    return answer


def epoch_in(version: int, epoch: int) -> int:
    return epoch if version >= 4 else -1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("timestamp", "offset", "epoch"), [(-1, 90, 5), (-2, 10, 2)], ids=["latest", "earliest"]
)
def test_start_and_end_have_no_timestamp(
    version: int, timestamp: int, offset: int, epoch: int
) -> None:
    broker, partition = broker_with_records()
    answer = ask_one(broker, version, request(("orders", 0, timestamp)))
    assert answer.error_code == ErrorCode.NONE
    assert (answer.offset, answer.timestamp) == (offset, -1)
    assert answer.leader_epoch == epoch_in(version, epoch)
    assert partition.log.searches == []


@pytest.mark.parametrize("version", range(2, 12))
def test_read_committed_ends_at_the_last_stable_offset(version: int) -> None:
    broker, partition = broker_with_records()
    committed = request(("orders", 0, -1), isolation_level=1)
    assert ask_one(broker, version, committed).offset == 80
    ask_one(broker, version, request(("orders", 0, T0), isolation_level=1))
    assert partition.log.searches == [("timestamp", 80)]


@pytest.mark.parametrize("replica_id", [-2, 0, 3])
def test_replicas_are_told_the_log_end(replica_id: int) -> None:
    broker, _ = broker_with_records()
    assert ask_one(broker, 5, request(("orders", 0, -1), replica_id=replica_id)).offset == 100


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("timestamp", "offset", "found", "epoch"),
    [
        (0, 10, T0, 2),
        (T0, 10, T0, 2),
        (T0 + 1, 11, T0 + 1_000, 2),
        (T0 + 40_000, 50, T0 + 40_000, 5),
        (T0 + 79_000, 89, T0 + 79_000, 5),
    ],
)
def test_a_time_is_the_first_record_at_or_after_it(
    version: int, timestamp: int, offset: int, found: int, epoch: int
) -> None:
    broker, _ = broker_with_records()
    answer = ask_one(broker, version, request(("orders", 0, timestamp)))
    assert (answer.error_code, answer.offset, answer.timestamp) == (ErrorCode.NONE, offset, found)
    assert answer.leader_epoch == epoch_in(version, epoch)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("timestamp", [T0 + 79_001, T0 + 89_000, 2**63 - 1])
def test_a_time_after_the_last_acknowledged_record_is_no_offset_and_no_error(
    version: int, timestamp: int
) -> None:
    broker, _ = broker_with_records()
    answer = ask_one(broker, version, request(("orders", 0, timestamp)))
    assert (answer.error_code, answer.offset, answer.timestamp) == (ErrorCode.NONE, -1, -1)
    assert answer.leader_epoch == -1


@pytest.mark.parametrize("version", range(7, 12))
def test_the_greatest_timestamp_is_found_below_the_high_watermark(version: int) -> None:
    broker, partition = broker_with_records()
    partition.log.records[30] = (40, T0 + 500_000)
    partition.log.records[85] = (95, T0 + 900_000)
    answer = ask_one(broker, version, request(("orders", 0, -3)))
    assert (answer.offset, answer.timestamp, answer.leader_epoch) == (40, T0 + 500_000, 3)
    assert partition.log.searches == [("max", 90)]


def test_the_greatest_timestamp_of_an_empty_log_is_no_offset_and_no_error() -> None:
    broker, partition = broker_with_records()
    partition.log.records = []
    answer = ask_one(broker, 7, request(("orders", 0, -3)))
    assert (answer.error_code, answer.offset, answer.timestamp) == (ErrorCode.NONE, -1, -1)


@pytest.mark.parametrize(
    ("timestamp", "since", "offset", "epoch"),
    [(-4, 8, 10, 2), (-5, 9, -1, -1), (-6, 11, -1, -1)],
    ids=["earliest local", "latest tiered", "earliest pending upload"],
)
def test_a_log_that_is_not_tiered_answers_so(
    timestamp: int, since: int, offset: int, epoch: int
) -> None:
    broker, _ = broker_with_records()
    for version in range(since, 12):
        answer = ask_one(broker, version, request(("orders", 0, timestamp)))
        assert answer.error_code == ErrorCode.NONE
        assert (answer.offset, answer.timestamp, answer.leader_epoch) == (offset, -1, epoch)


@pytest.mark.parametrize(("timestamp", "since"), [(-3, 7), (-4, 8), (-5, 9), (-6, 11), (-7, 99)])
def test_a_special_timestamp_before_its_version_is_unsupported(timestamp: int, since: int) -> None:
    broker, _ = broker_with_records()
    for version in range(1, min(since, 12)):
        answer = ask_one(broker, version, request(("orders", 0, timestamp)))
        assert (answer.error_code, answer.offset) == (ErrorCode.UNSUPPORTED_VERSION, -1)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("topic", "partition", "error"),
    [
        ("orders", 1, ErrorCode.NOT_LEADER_OR_FOLLOWER),
        ("orders", 2, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("orders", -1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("none", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ],
)
@pytest.mark.parametrize("timestamp", [-1, -2, T0])
def test_a_partition_that_is_not_here_is_refused(
    version: int, topic: str, partition: int, error: ErrorCode, timestamp: int
) -> None:
    broker, _ = broker_with_records()
    answer = ask_one(broker, version, request((topic, partition, timestamp)))
    assert (answer.partition_index, answer.error_code) == (partition, error)
    assert (answer.offset, answer.timestamp, answer.leader_epoch) == (-1, -1, -1)


@pytest.mark.parametrize("version", range(4, 12))
@pytest.mark.parametrize(
    ("epoch", "error"),
    [
        (-1, ErrorCode.NONE),
        (5, ErrorCode.NONE),
        (4, ErrorCode.FENCED_LEADER_EPOCH),
        (6, ErrorCode.UNKNOWN_LEADER_EPOCH),
    ],
)
def test_the_leader_epoch_of_the_client_is_checked(
    version: int, epoch: int, error: ErrorCode
) -> None:
    broker, _ = broker_with_records()
    assert ask_one(broker, version, request(("orders", 0, -1), epoch=epoch)).error_code == error


def test_a_partition_named_twice_is_refused_and_the_others_are_answered() -> None:
    broker, partition = broker_with_records()
    asked = request(("orders", 0, -1), ("orders", 1, -1), ("orders", 0, T0))
    response = ask(list_offsets.handle, broker, 11, asked)
    assert [(t.name, t.partitions[0].error_code) for t in response.topics] == [
        ("orders", ErrorCode.INVALID_REQUEST),
        ("orders", ErrorCode.NOT_LEADER_OR_FOLLOWER),
        ("orders", ErrorCode.INVALID_REQUEST),
    ]
    assert partition.log.searches == []


def test_an_offline_partition_is_a_storage_error() -> None:
    broker, partition = broker_with_records()
    partition.offline = True
    answer = ask_one(broker, 11, request(("orders", 0, -1)))
    assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR


def test_a_log_that_fails_during_the_search_is_a_storage_error_for_its_partition_alone() -> None:
    broker, partition = broker_with_records()
    partition.log.broken = True
    broker.add_topic("clicks", 1)
    broker.partitions.by_name["clicks", 0].log.records = [(0, T0)]
    broker.partitions.by_name["clicks", 0].high_watermark = 1
    asked = request(("orders", 0, T0), ("clicks", 0, T0))
    response = ask(list_offsets.handle, broker, 11, asked)
    broken, fine = (topic.partitions[0] for topic in response.topics)
    assert (broken.error_code, broken.offset) == (ErrorCode.KAFKA_STORAGE_ERROR, -1)
    assert (fine.error_code, fine.offset) == (ErrorCode.NONE, 0)
