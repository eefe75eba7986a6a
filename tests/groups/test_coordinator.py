"""The coordinator against a real broker: its log is bounded, and whatever was told survives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol import group_records
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.delete_groups import DeleteGroupsRequest
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from kafka_protocol.messages.find_coordinator import FindCoordinatorRequest
from kafka_protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from kafka_protocol.messages.list_groups import ListGroupsRequest
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from kafka_protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
)
from kafka_protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from kafka_protocol.record_batch import build_batch, iter_records
from rpk_py.groups.coordinator import OFFSETS_TOPIC, java_hash
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.clients.wire_client import WireClient, produce_request, stored_batches

EARLIEST = -2
REWRITES = 6
ROUNDS_MAX = 1000  # of commits, until there were as many rewrites
UNANSWERED_MAX = 500


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """One partition of __consumer_offsets that is rewritten from 64 KiB on."""
    running = RunningBroker(
        tmp_path / "data",
        tmp_path / "broker.log",
        settings={
            "offsets_topic_num_partitions": 1,
            "offsets_topic_bytes": 65536,
            "offsets_retention_check_interval_ms": 50,
        },
    )
    try:
        yield running.start()
    finally:
        running.close()


def find(client: WireClient, group: str) -> Any:
    """Have __consumer_offsets made."""
    answer = client.ask(FindCoordinatorRequest(coordinator_keys=[group]), 6)
    assert answer.coordinators[0].error_code == ErrorCode.NONE
    return answer.coordinators[0]


def commit_request(
    group: str, topic: str, offsets: dict[int, int], metadata: str = "", retention_ms: int = -1
) -> OffsetCommitRequest:
    partitions = [
        OffsetCommitRequestPartition(index, offset, committed_metadata=metadata)
        for index, offset in offsets.items()
    ]
    return OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=-1,
        member_id="",
        retention_time_ms=retention_ms,
        topics=[OffsetCommitRequestTopic(name=topic, partitions=partitions)],
    )


def codes(answer: Any) -> list[int]:
    return [each.error_code for topic in answer.topics for each in topic.partitions]


def committed(client: WireClient, group: str) -> dict[tuple[str, int], tuple[int, str]]:
    """All that the group has committed."""
    answer = client.ask(OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group, topics=None)]), 8)
    assert answer.groups[0].error_code == ErrorCode.NONE
    return {
        (topic.name, each.partition_index): (each.committed_offset, each.metadata)
        for topic in answer.groups[0].topics
        for each in topic.partitions
    }


def loaded(client: WireClient) -> list[str]:
    """The groups, once all are there."""
    answer = wait_until(
        lambda: (told := client.ask(ListGroupsRequest(), 5)).error_code == ErrorCode.NONE and told,
        "groups are loaded",
    )
    return sorted(group.group_id for group in answer.groups)


def log_start(client: WireClient) -> int:
    """The first offset of the log of committed offsets."""
    topic = ListOffsetsTopic(OFFSETS_TOPIC, [ListOffsetsPartition(0, timestamp=EARLIEST)])
    answer = client.ask(ListOffsetsRequest(topics=[topic]), 7)
    return int(answer.topics[0].partitions[0].offset)


@pytest.mark.parametrize(
    ("group_id", "hash_code"),
    [
        ("", 0),
        ("a", 97),
        ("my-group", 240985886),
        ("gr\u00fc\u00dfe", 98768023),
        ("\U0001f600", 1772899),  # a surrogate pair in Java
    ],
)
def test_a_group_has_the_partition_that_java_would_give_it(group_id: str, hash_code: int) -> None:
    assert java_hash(group_id) == hash_code


def test_the_log_is_bounded_and_holds_what_is_in_force(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=4)
    with WireClient(broker) as client:
        find(client, "steady")
        steady = commit_request("steady", topic, {0: 7, 3: 9}, "since the start")
        assert codes(client.ask(steady, 8)) == [0, 0]
        for offset in range(1500):
            client.ask(commit_request("busy", topic, {offset % 4: offset}), 8)
        wait_until(lambda: log_start(client) > 0, "the log is rewritten")
        expected = {(topic, index): (1496 + index, "") for index in range(4)}
        assert committed(client, "busy") == expected
        log_dir = Path(broker.data_dir) / f"{OFFSETS_TOPIC}-0"
        wait_until(lambda: len(list(log_dir.glob("*.wal"))) < 16, "old files are given up")
    broker.kill()
    broker.start()
    with WireClient(broker) as client:
        assert loaded(client) == ["busy", "steady"]
        assert committed(client, "busy") == expected
        assert committed(client, "steady") == {
            (topic, 0): (7, "since the start"),
            (topic, 3): (9, "since the start"),
        }


def test_no_offset_goes_back_when_commits_and_rewrites_take_turns(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=1)
    groups = [f"g{number}" for number in range(400)]
    with WireClient(broker) as client:
        find(client, "g0")
        unanswered = rounds = rewrites = 0
        while rewrites < REWRITES and rounds < ROUNDS_MAX:
            rounds += 1
            for group in groups:
                client.send(commit_request(group, topic, {0: rounds}), 8)
                unanswered += 1
                if unanswered > UNANSWERED_MAX:  # so that requests arrive all the time
                    assert codes(client.receive()[1]) == [0]
                    unanswered -= 1
            rewrites = int(broker.metrics()["rpk_group_log_rewrites_total"])
        for _ in range(unanswered):
            assert codes(client.receive()[1]) == [0]
    assert rewrites >= REWRITES
    broker.kill()
    broker.start()
    with WireClient(broker) as client:
        assert loaded(client) == sorted(groups)
        found = {group: committed(client, group)[topic, 0][0] for group in groups}
    assert found == dict.fromkeys(groups, rounds)


def test_the_records_are_kafkas(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=1)
    with WireClient(broker) as client:
        find(client, "g")
        client.ask(commit_request("g", topic, {0: 42}, "why"), 8)
    (batch,) = stored_batches(broker, OFFSETS_TOPIC)
    (record,) = iter_records(batch.data, 1 << 20)
    assert record.key is not None
    assert record.value is not None
    key = group_records.decode_key(record.key)
    assert key == group_records.OffsetCommitKey("g", topic, 0)
    value = group_records.decode_value(key, record.value)
    assert isinstance(value, group_records.OffsetCommitValue)
    assert (value.offset, value.metadata, value.leader_epoch) == (42, "why", -1)


def test_clients_do_not_write_to_the_topic_of_committed_offsets(broker: RunningBroker) -> None:
    with WireClient(broker) as client:
        find(client, "g")
        batch = build_batch([(b"key", b"value")], timestamp_ms=1)
        answer = client.ask(produce_request(OFFSETS_TOPIC, 0, batch, -1), 12)
    (part,) = answer.responses[0].partition_responses
    assert part.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert stored_batches(broker, OFFSETS_TOPIC) == []


def test_offsets_of_a_deleted_topic_go_and_stay_gone(broker: RunningBroker) -> None:
    kept, gone = create_topic(broker, partitions=1), create_topic(broker, partitions=1)
    with WireClient(broker) as client:
        find(client, "g")
        client.ask(commit_request("g", kept, {0: 1}), 8)
        client.ask(commit_request("g", gone, {0: 2}), 8)
        client.ask(DeleteTopicsRequest([DeleteTopicState(name=gone)], timeout_ms=10_000), 6)
        assert committed(client, "g") == {(kept, 0): (1, "")}
    broker.restart()
    with WireClient(broker) as client:
        loaded(client)
        assert committed(client, "g") == {(kept, 0): (1, "")}


def test_a_deleted_group_is_gone_after_a_kill(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=1)
    with WireClient(broker) as client:
        find(client, "g")
        client.ask(commit_request("g", topic, {0: 1}), 8)
        client.ask(commit_request("other", topic, {0: 1}), 8)
        answer = client.ask(DeleteGroupsRequest(["g", "g", "nobody"]), 2)
        assert [(each.group_id, each.error_code) for each in answer.results] == [
            ("g", ErrorCode.NONE),
            ("nobody", ErrorCode.GROUP_ID_NOT_FOUND),
        ]
        assert committed(client, "g") == {}
    broker.kill()
    broker.start()
    with WireClient(broker) as client:
        assert loaded(client) == ["other"]


def test_an_offset_expires_after_its_own_retention(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=1)
    with WireClient(broker) as client:
        find(client, "g")
        client.ask(commit_request("g", topic, {0: 1}, retention_ms=1), 2)
        wait_until(lambda: loaded(client) == [], "the offset and its group have expired")
        assert committed(client, "g") == {}


def test_an_assignment_that_no_record_can_hold_is_refused_and_the_group_lives_on(
    broker: RunningBroker,
) -> None:
    """GroupMetadataManager of Apache Kafka: RecordTooLargeException is UNKNOWN_SERVER_ERROR."""
    protocols = [JoinGroupRequestProtocol("range", b"")]
    join = JoinGroupRequest("g", 60_000, 60_000, "", None, "consumer", protocols)
    with WireClient(broker) as client:
        find(client, "g")
        for assignment, error in (
            (bytes(2 << 20), ErrorCode.UNKNOWN_SERVER_ERROR),
            (b"small", ErrorCode.NONE),
        ):
            joined = client.ask(join, 3)
            assert joined.error_code == ErrorCode.NONE
            join.member_id = joined.member_id
            assigned = [SyncGroupRequestAssignment(joined.member_id, assignment)]
            sync = SyncGroupRequest(
                "g", joined.generation_id, joined.member_id, None, None, None, assigned
            )
            answer = client.ask(sync, 3)
            assert answer.error_code == error
        assert bytes(answer.assignment) == b"small"


def test_only_the_shard_that_leads_the_partition_coordinates(tmp_path: Path) -> None:
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", shards=2)
    try:
        broker = running.start()
        topic = create_topic(broker, partitions=1)
        with WireClient(broker, 0) as first, WireClient(broker, 1) as second:
            for group in ("a", "b", "c", "d"):
                told = find(first, group)
                assert told.node_id == find(second, group).node_id
                right, wrong = (first, second) if told.node_id == 0 else (second, first)
                assert codes(right.ask(commit_request(group, topic, {0: 5}), 8)) == [0]
                assert codes(wrong.ask(commit_request(group, topic, {0: 6}), 8)) == [
                    ErrorCode.NOT_COORDINATOR
                ]
                assert committed(right, group) == {(topic, 0): (5, "")}
    finally:
        running.close()
