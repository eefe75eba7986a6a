"""A coordinator's values as the records of __consumer_offsets, and back.

What:       GroupRecord, OffsetRecord and KIP-848 records <-> (key bytes, value bytes).
Where:      the coordinator of the group. Pure; the formats are kafka_protocol/group_records.py's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from kafka_protocol import group_records as records
from kafka_protocol.errors import DecodeError
from rpk_py.groups.classic_values import GroupRecord, MemberRecord
from rpk_py.groups.offsets import CommittedOffset, OffsetRecord
from rpk_py.groups.timeline import TopicPartition

KeyValue: TypeAlias = tuple[bytes, bytes | None]
"""One record; without a value it deletes its key."""


def encode_group(group_id: str, record: GroupRecord | None) -> KeyValue:
    """A classic group, or its tombstone."""
    key = records.encode_key(records.GroupMetadataKey(group_id))
    if record is None:
        return key, None
    members = [
        records.MemberMetadata(
            member_id=each.member_id,
            group_instance_id=each.instance_id,
            client_id=each.client_id,
            client_host=each.client_host,
            rebalance_timeout=each.rebalance_timeout_ms,
            session_timeout=each.session_timeout_ms,
            subscription=each.subscription,
            assignment=each.assignment,
        )
        for each in record.members
    ]
    value = records.GroupMetadataValue(
        protocol_type=record.protocol_type,
        generation=record.generation,
        protocol=record.protocol_name,
        leader=record.leader,
        current_state_timestamp=record.state_timestamp_ms,
        members=members,
    )
    return key, records.encode_value(value)


def decode_group(value: records.GroupMetadataValue) -> GroupRecord:
    """Inverse of encode_group, for all versions of the value."""
    return GroupRecord(
        protocol_type=value.protocol_type,
        generation=value.generation,
        protocol_name=value.protocol,
        leader=value.leader,
        state_timestamp_ms=value.current_state_timestamp,
        members=tuple(
            MemberRecord(
                member_id=each.member_id,
                instance_id=each.group_instance_id,
                client_id=each.client_id,
                client_host=each.client_host,
                rebalance_timeout_ms=each.rebalance_timeout,
                session_timeout_ms=each.session_timeout,
                subscription=bytes(each.subscription),
                assignment=bytes(each.assignment),
            )
            for each in value.members
        ),
    )


def encode_offset(group_id: str, record: OffsetRecord) -> KeyValue:
    """A committed offset, or its tombstone."""
    key = records.encode_key(
        records.OffsetCommitKey(group_id, record.topic, record.partition_index)
    )
    committed = record.value
    if committed is None:
        return key, None
    value = records.OffsetCommitValue(
        offset=committed.committed_offset,
        leader_epoch=committed.leader_epoch,
        metadata=committed.metadata,
        commit_timestamp=committed.commit_ms,
        expire_timestamp=committed.expire_ms,
        topic_id=committed.topic_id,
    )
    return key, records.encode_value(value)


def decode_offset(
    value: records.OffsetCommitValue | records.LegacyOffsetCommitValue,
) -> CommittedOffset:
    """Inverse of encode_offset, for all versions of the value."""
    if isinstance(value, records.LegacyOffsetCommitValue):
        return CommittedOffset(value.offset, -1, value.metadata, value.commit_timestamp)
    return CommittedOffset(
        value.offset,
        value.leader_epoch,
        value.metadata,
        value.commit_timestamp,
        value.expire_timestamp,
        bytes(value.topic_id),
    )


def encode_records(
    wanted: Iterable[tuple[records.Key, records.Value | None]],
) -> list[KeyValue]:
    """Records of a consumer group, in order."""
    return [
        (records.encode_key(key), None if value is None else records.encode_value(value))
        for key, value in wanted
    ]


def topics_of(subscription: bytes) -> frozenset[str] | None:
    """The topics of a classic consumer's subscription; None if it cannot be read."""
    try:
        return frozenset(records.decode_subscription(subscription).topics)
    except DecodeError:
        return None


def partitions_of(assignment: bytes) -> frozenset[TopicPartition] | None:
    """The partitions of a classic consumer's assignment; None if it cannot be read."""
    if not assignment:
        return frozenset()
    try:
        assigned = records.decode_assignment(assignment).assigned_partitions
    except DecodeError:
        return None
    return frozenset((each.topic, index) for each in assigned for index in each.partitions)
