"""kafka_protocol.group_records against bytes of Kafka's own classes, and against any bytes.

The bytes are in group_records.txt and were made by GroupRecords.java, which says how.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_protocol import group_records as g
from kafka_protocol.errors import DecodeError
from kafka_protocol.schema import info_of
from kafka_protocol.wire import ITEMS_MAX
from tests.protocol.cases import TOPIC_ID
from tests.protocol.values import mutants, random_value

NOW = 1700000000123
PARTITIONS = [g.TopicPartitions(TOPIC_ID, [0, 2])]
MEMBER = g.ConsumerGroupMemberMetadataValue(
    instance_id="i-1",
    rack_id="r-1",
    client_id="cli",
    client_host="/::1",
    subscribed_topic_names=["clicks", "orders"],
    subscribed_topic_regex="ord.*",
    rebalance_timeout_ms=300000,
    server_assignor="uniform",
)

KEYS: dict[str, g.Key | None] = {
    "legacy_offset_commit_key": g.LegacyOffsetCommitKey("billing", "orders", 3),
    "offset_commit_key": g.OffsetCommitKey("täglich", "orders", 3),
    "group_metadata_key": g.GroupMetadataKey("billing"),
    "consumer_group_metadata_key": g.ConsumerGroupMetadataKey("billing"),
    "consumer_group_partition_metadata_key": g.ConsumerGroupPartitionMetadataKey("billing"),
    "consumer_group_member_metadata_key": g.ConsumerGroupMemberMetadataKey("billing", "m-1"),
    "consumer_group_target_assignment_metadata_key": g.ConsumerGroupTargetAssignmentMetadataKey(
        "billing"
    ),
    "consumer_group_target_assignment_member_key": g.ConsumerGroupTargetAssignmentMemberKey(
        "billing", "m-1"
    ),
    "consumer_group_current_member_assignment_key": g.ConsumerGroupCurrentMemberAssignmentKey(
        "billing", "m-1"
    ),
    "consumer_group_regular_expression_key": g.ConsumerGroupRegularExpressionKey(
        "billing", "ord.*"
    ),
    "unknown_key": None,
}


def _offset(version: int) -> g.OffsetCommitValue:
    return g.OffsetCommitValue(
        offset=12345,
        leader_epoch=7 if version >= 3 else -1,
        metadata="here",
        commit_timestamp=NOW,
        expire_timestamp=NOW + 1000 if version == 1 else -1,
        topic_id=TOPIC_ID if version >= 4 else bytes(16),
    )


def _group(version: int) -> g.GroupMetadataValue:
    def member(member_id: str, instance_id: str | None, data: bytes) -> g.MemberMetadata:
        return g.MemberMetadata(
            member_id=member_id,
            group_instance_id=instance_id if version >= 3 else None,
            client_id="cli",
            client_host="/::1",
            rebalance_timeout=300000 if version >= 1 else -1,
            session_timeout=45000,
            subscription=data,
            assignment=data,
        )

    return g.GroupMetadataValue(
        protocol_type="consumer",
        generation=5,
        protocol="range",
        leader="m-1",
        current_state_timestamp=NOW if version >= 2 else -1,
        members=[member("m-1", "i-1", b"\1\2"), member("m-2", None, b"")],
    )


VALUES: dict[tuple[str, int], g.Value] = {
    ("legacy_offset_commit_value", 0): g.LegacyOffsetCommitValue(12345, "here", NOW),
    **{("offset_commit_value", version): _offset(version) for version in range(5)},
    **{("group_metadata_value", version): _group(version) for version in range(5)},
    **{
        ("group_metadata_value_empty", version): g.GroupMetadataValue(generation=6)
        for version in range(5)
    },
    ("consumer_group_metadata_value", 0): g.ConsumerGroupMetadataValue(5, 0x0102030405060708),
    ("consumer_group_partition_metadata_value", 0): g.ConsumerGroupPartitionMetadataValue(
        [g.TopicMetadata(TOPIC_ID, "orders", 2, [g.PartitionMetadata(1, ["r-1", "r-2"])])]
    ),
    ("consumer_group_member_metadata_value", 0): MEMBER,
    ("consumer_group_member_metadata_value_null", 0): g.ConsumerGroupMemberMetadataValue(
        client_id="cli", client_host="/::1"
    ),
    ("consumer_group_member_metadata_value_classic", 0): dataclasses.replace(
        MEMBER,
        classic_member_metadata=g.ClassicMemberMetadata(
            45000, [g.ClassicProtocol("range", b"\1\2")]
        ),
    ),
    (
        "consumer_group_target_assignment_metadata_value",
        0,
    ): g.ConsumerGroupTargetAssignmentMetadataValue(5),
    (
        "consumer_group_target_assignment_member_value",
        0,
    ): g.ConsumerGroupTargetAssignmentMemberValue(PARTITIONS),
    (
        "consumer_group_current_member_assignment_value",
        0,
    ): g.ConsumerGroupCurrentMemberAssignmentValue(
        5, 4, 1, PARTITIONS, [g.TopicPartitions(TOPIC_ID, [1])]
    ),
    (
        "consumer_group_regular_expression_value",
        0,
    ): g.ConsumerGroupRegularExpressionValue(["order", "orders"], 99, NOW),
}

OFFSET_KEY = g.OffsetCommitKey("billing", "orders", 3)
WRITTEN: dict[str, tuple[g.Key, g.Value | None]] = {
    "written_offset": (OFFSET_KEY, g.OffsetCommitValue(12345, 7, "", NOW, topic_id=TOPIC_ID)),
    "written_offset_without_id": (OFFSET_KEY, g.OffsetCommitValue(12345, -1, "", NOW)),
    "written_offset_expiring": (OFFSET_KEY, g.OffsetCommitValue(12345, -1, "", NOW, NOW + 1000)),
    "deleted_offset": (OFFSET_KEY, None),
    "written_epoch": (g.ConsumerGroupMetadataKey("billing"), g.ConsumerGroupMetadataValue(5)),
    "deleted_group": (g.GroupMetadataKey("billing"), None),
}

OWNED = [g.TopicPartition("orders", [0, 2])]


def _subscription(version: int) -> g.ConsumerProtocolSubscription:
    return g.ConsumerProtocolSubscription(
        topics=["orders", "clicks"],
        user_data=b"\1\2",
        owned_partitions=OWNED if version >= 1 else [],
        generation_id=5 if version >= 2 else -1,
        rack_id="r-1" if version >= 3 else None,
    )


SUBSCRIPTIONS = {
    **{("subscription", version): _subscription(version) for version in range(4)},
    ("subscription_empty", 3): g.ConsumerProtocolSubscription(),
}
ASSIGNMENTS = {("assignment", version): g.ConsumerProtocolAssignment(OWNED) for version in range(4)}


def _golden() -> dict[tuple[str, int | None], bytes | None]:
    lines = Path(__file__).with_name("group_records.txt").read_text(encoding="ascii").splitlines()
    rows = (line.split() for line in lines)
    return {
        (name, None if version == "-" else int(version)): (
            None if data == "-" else bytes.fromhex(data)
        )
        for name, version, data in rows
    }


GOLDEN = _golden()


def _bytes(name: str, version: int | None = None) -> bytes:
    data = GOLDEN[name, version]
    assert data is not None
    return data


def _key_of(value: Any) -> g.Key:
    return g.KEYS[info_of(type(value)).api_key]()


def test_every_line_of_kafkas_bytes_is_compared() -> None:
    written = {(f"{name}_{part}", None) for name in WRITTEN for part in ("key", "value")}
    keys = {(name, None) for name in KEYS}
    others = {("subscription_later", None)}
    assert set(GOLDEN) == {*keys, *VALUES, *written, *SUBSCRIPTIONS, *ASSIGNMENTS, *others}


def test_every_type_and_version_has_bytes_of_kafka() -> None:
    assert {info_of(type(key)).api_key for key in KEYS.values() if key} == set(g.RecordType)
    assert list(g.KEYS) == list(g.VALUES) == list(g.RecordType)
    compared = {(type(value), version) for (_, version), value in VALUES.items()}
    for cls in g.VALUES.values():
        low, high = info_of(cls).versions
        assert {(cls, version) for version in range(low, high + 1)} <= compared


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_those_of_kafka(name: str) -> None:
    key = KEYS[name]
    assert g.decode_key(_bytes(name)) == key
    assert key is None or g.encode_key(key) == _bytes(name)


@pytest.mark.parametrize(("name", "version"), VALUES)
def test_values_are_those_of_kafka(name: str, version: int) -> None:
    value, data = VALUES[name, version], _bytes(name, version)
    assert g.encode_value(value, version) == data
    assert g.decode_value(_key_of(value), memoryview(data)) == value


@pytest.mark.parametrize("name", WRITTEN)
def test_the_versions_we_write_are_those_that_kafkas_coordinator_writes(name: str) -> None:
    key, value = WRITTEN[name]
    assert g.encode_key(key) == _bytes(f"{name}_key")
    data = GOLDEN[f"{name}_value", None]
    assert data == (None if value is None else g.encode_value(value))
    assert value is None or g.decode_value(key, _bytes(f"{name}_value")) == value


def test_a_group_is_written_in_the_version_of_kafkas_coordinator() -> None:
    """GROUP_METADATA_VALUE_VERSION in GroupCoordinatorRecordHelpers; its group is hard to build."""
    assert g.encode_value(_group(3)) == _bytes("group_metadata_value", 3)


@pytest.mark.parametrize(("name", "version"), SUBSCRIPTIONS)
def test_subscriptions_are_those_of_kafka(name: str, version: int) -> None:
    value = SUBSCRIPTIONS[name, version]
    assert g.encode_subscription(value, version) == _bytes(name, version)
    assert g.decode_subscription(_bytes(name, version)) == value


@pytest.mark.parametrize(("name", "version"), ASSIGNMENTS)
def test_assignments_are_those_of_kafka(name: str, version: int) -> None:
    value = ASSIGNMENTS[name, version]
    assert g.encode_assignment(value, version) == _bytes(name, version)
    assert g.decode_assignment(_bytes(name, version)) == value


def test_a_later_version_of_a_client_is_read_as_the_last_we_know() -> None:
    assert g.decode_subscription(_bytes("subscription_later")) == _subscription(3)
    data = b"\x7f\xff" + g.encode_assignment(ASSIGNMENTS["assignment", 3])[2:] + b"more"
    assert g.decode_assignment(data) == ASSIGNMENTS["assignment", 3]


@pytest.mark.parametrize("version", [-1, -32768])
def test_a_negative_version_of_a_client_is_refused(version: int) -> None:
    data = struct.pack(">h", version) + bytes(20)
    for decode in (g.decode_subscription, g.decode_assignment):
        with pytest.raises(DecodeError, match="no version"):
            decode(data)


@pytest.mark.parametrize("version", [-1, 5])
def test_an_unknown_version_of_a_value_is_refused(version: int) -> None:
    data = struct.pack(">h", version) + g.encode_value(g.OffsetCommitValue())[2:]
    with pytest.raises(DecodeError, match=f"no version {version}"):
        g.decode_value(OFFSET_KEY, data)


@pytest.mark.parametrize("cut", ["", "00", "0001", "000100", "00010003666f6f"])
def test_a_cut_key_is_refused(cut: str) -> None:
    with pytest.raises(DecodeError):
        g.decode_key(bytes.fromhex(cut))


def test_bytes_after_a_record_are_refused() -> None:
    with pytest.raises(DecodeError, match="after the end"):
        g.decode_key(_bytes("offset_commit_key") + b"\0")
    with pytest.raises(DecodeError, match="after the end"):
        g.decode_value(OFFSET_KEY, _bytes("offset_commit_value", 3) + b"\0")


def test_a_client_may_subscribe_to_the_most_items_and_not_one_more() -> None:
    """Names without bytes, the costly shape: the coordinator reads them for each member."""
    most = g.ConsumerProtocolSubscription(topics=[""] * ITEMS_MAX)
    assert g.decode_subscription(g.encode_subscription(most)) == most
    most.topics.append("")
    with pytest.raises(DecodeError, match="array items"):
        g.decode_subscription(g.encode_subscription(most))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_values_or_refused(data: bytes) -> None:
    _decode_all(data)
    for version in range(4):
        _decode_all(struct.pack(">h", version) + data)


@pytest.mark.parametrize("record_type", list(g.RecordType), ids=str)
def test_mutants_of_good_records_are_values_or_refused(record_type: g.RecordType) -> None:
    rng = random.Random(int(record_type))
    key_class, value_class = g.KEYS[record_type], g.VALUES[record_type]
    for version in range(info_of(value_class).versions[1] + 1):
        key, value = random_value(key_class, 0, rng), random_value(value_class, version, rng)
        assert g.decode_key(g.encode_key(key)) == key
        assert g.decode_value(key, g.encode_value(value, version)) == value
        for data in mutants(g.encode_key(key), 40, rng):
            _decode_all(data)
        for data in mutants(g.encode_value(value, version), 40, rng):
            _decode_all(data)


def _decode_all(data: bytes) -> None:
    """Nothing but DecodeError comes out of any decoder."""
    for decode in (g.decode_key, g.decode_subscription, g.decode_assignment):
        _allow_refusal(decode, data)
    for key_class in g.KEYS.values():
        _allow_refusal(functools.partial(g.decode_value, key_class()), data)


def _allow_refusal(decode: Any, data: bytes) -> None:
    try:
        decode(data)
    except DecodeError:
        pass
