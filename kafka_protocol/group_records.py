"""Records of the topic __consumer_offsets; subscription and assignment of classic consumers.

What:       a key is an int16 type and its fields, a value an int16 version and its fields; a record
            without a value deletes its key. Subscription and assignment of a classic consumer,
            which to JoinGroup and SyncGroup are mere bytes, are an int16 version and fields too.
Where:      the coordinator of the group. Sans-io.
Invariants: any bytes give a value or a DecodeError; what clients wrote has at most wire.ITEMS_MAX
            items. Records end with their last field; behind a subscription or assignment may be
            what a later version added.
Source:     the schemas in group-coordinator/src/main/resources/common/message of Apache Kafka 4.1,
            CoordinatorRecordSerde, GroupCoordinatorRecordHelpers (versions that are written),
            ConsumerProtocol; KIP-848, KIP-1101 (metadata hash), KIP-915 (only tagged fields from
            now on).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, TypeAlias, get_args

from kafka_protocol import wire
from kafka_protocol.closures import compile_decoder, compile_encoder, limited_decoder
from kafka_protocol.errors import BAD_BYTES, DecodeError
from kafka_protocol.schema import (
    BYTES,
    INT8,
    INT32,
    INT64,
    NEVER,
    STRING,
    UUID,
    Array,
    F,
    info_of,
    message,
    struct,
)


class RecordType(IntEnum):
    """The types known here; Kafka has more, for share groups (10-15) and streams groups (17-23)."""

    LEGACY_OFFSET_COMMIT = 0  # only in old logs; Kafka takes it as OFFSET_COMMIT
    OFFSET_COMMIT = 1
    GROUP_METADATA = 2
    CONSUMER_GROUP_METADATA = 3
    CONSUMER_GROUP_PARTITION_METADATA = 4
    CONSUMER_GROUP_MEMBER_METADATA = 5
    CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA = 6
    CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER = 7
    CONSUMER_GROUP_CURRENT_MEMBER_ASSIGNMENT = 8
    CONSUMER_GROUP_REGULAR_EXPRESSION = 16


# --- committed offsets ---------------------------------------------------------------------------


@message(api_key=RecordType.LEGACY_OFFSET_COMMIT, kind="key", versions=(0, 0), flexible=NEVER)
class LegacyOffsetCommitKey:
    group: str = F(STRING)
    topic: str = F(STRING)
    partition: int = F(INT32)


@message(api_key=RecordType.LEGACY_OFFSET_COMMIT, kind="value", versions=(0, 0), flexible=NEVER)
class LegacyOffsetCommitValue:
    offset: int = F(INT64)
    metadata: str = F(STRING)
    commit_timestamp: int = F(INT64)


@message(api_key=RecordType.OFFSET_COMMIT, kind="key", versions=(0, 0), flexible=NEVER)
class OffsetCommitKey:
    group: str = F(STRING)
    topic: str = F(STRING)
    partition: int = F(INT32)


@message(api_key=RecordType.OFFSET_COMMIT, kind="value", versions=(0, 4), flexible=4)
class OffsetCommitValue:
    """Timestamps are epoch ms. Only v1 can hold an expiry, and it holds no leader epoch."""

    offset: int = F(INT64)
    leader_epoch: int = F(INT32, since=3, default=-1)
    metadata: str = F(STRING)
    commit_timestamp: int = F(INT64)
    expire_timestamp: int = F(INT64, since=1, until=1, default=-1)
    topic_id: bytes = F(UUID, since=4, tag=0)


# --- classic groups ------------------------------------------------------------------------------


@message(api_key=RecordType.GROUP_METADATA, kind="key", versions=(0, 0), flexible=NEVER)
class GroupMetadataKey:
    group: str = F(STRING)


@struct
class MemberMetadata:
    member_id: str = F(STRING)
    group_instance_id: str | None = F(STRING, since=3, nullable=3, default=None)
    client_id: str = F(STRING)
    client_host: str = F(STRING)
    rebalance_timeout: int = F(INT32, since=1, default=-1)
    session_timeout: int = F(INT32)
    subscription: bytes = F(BYTES)
    assignment: bytes = F(BYTES)


@message(api_key=RecordType.GROUP_METADATA, kind="value", versions=(0, 4), flexible=4)
class GroupMetadataValue:
    protocol_type: str = F(STRING)
    generation: int = F(INT32)
    protocol: str | None = F(STRING, nullable=0, default=None)
    leader: str | None = F(STRING, nullable=0, default=None)
    current_state_timestamp: int = F(INT64, since=2, default=-1)
    members: list[MemberMetadata] = F(Array(MemberMetadata))


# --- consumer groups (KIP-848) -------------------------------------------------------------------


@struct
class TopicPartitions:
    topic_id: bytes = F(UUID)
    partitions: list[int] = F(Array(INT32))


@message(api_key=RecordType.CONSUMER_GROUP_METADATA, kind="key", versions=(0, 0), flexible=NEVER)
class ConsumerGroupMetadataKey:
    group_id: str = F(STRING)


@message(api_key=RecordType.CONSUMER_GROUP_METADATA, kind="value", versions=(0, 0), flexible=0)
class ConsumerGroupMetadataValue:
    epoch: int = F(INT32)
    metadata_hash: int = F(INT64, tag=0)


@message(
    api_key=RecordType.CONSUMER_GROUP_PARTITION_METADATA,
    kind="key",
    versions=(0, 0),
    flexible=NEVER,
)
class ConsumerGroupPartitionMetadataKey:
    """Kafka 4.1 only deletes them: the hash in the group's metadata took over (KIP-1101)."""

    group_id: str = F(STRING)


@struct
class PartitionMetadata:
    partition: int = F(INT32)
    racks: list[str] = F(Array(STRING))


@struct
class TopicMetadata:
    topic_id: bytes = F(UUID)
    topic_name: str = F(STRING)
    num_partitions: int = F(INT32)
    partition_metadata: list[PartitionMetadata] = F(Array(PartitionMetadata))


@message(
    api_key=RecordType.CONSUMER_GROUP_PARTITION_METADATA,
    kind="value",
    versions=(0, 0),
    flexible=0,
)
class ConsumerGroupPartitionMetadataValue:
    topics: list[TopicMetadata] = F(Array(TopicMetadata))


@message(
    api_key=RecordType.CONSUMER_GROUP_MEMBER_METADATA, kind="key", versions=(0, 0), flexible=NEVER
)
class ConsumerGroupMemberMetadataKey:
    group_id: str = F(STRING)
    member_id: str = F(STRING)


@struct
class ClassicProtocol:
    name: str = F(STRING)
    metadata: bytes = F(BYTES)


@struct
class ClassicMemberMetadata:
    session_timeout_ms: int = F(INT32)
    supported_protocols: list[ClassicProtocol] = F(Array(ClassicProtocol))


@message(
    api_key=RecordType.CONSUMER_GROUP_MEMBER_METADATA, kind="value", versions=(0, 0), flexible=0
)
class ConsumerGroupMemberMetadataValue:
    """What a member said of itself; the classic part is there if it speaks the classic protocol."""

    instance_id: str | None = F(STRING, nullable=0, default=None)
    rack_id: str | None = F(STRING, nullable=0, default=None)
    client_id: str = F(STRING)
    client_host: str = F(STRING)
    subscribed_topic_names: list[str] = F(Array(STRING))
    subscribed_topic_regex: str | None = F(STRING, nullable=0, default=None)
    rebalance_timeout_ms: int = F(INT32, default=-1)
    server_assignor: str | None = F(STRING, nullable=0, default=None)
    classic_member_metadata: ClassicMemberMetadata | None = F(
        ClassicMemberMetadata, nullable=0, default=None, tag=0
    )


@message(
    api_key=RecordType.CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA,
    kind="key",
    versions=(0, 0),
    flexible=NEVER,
)
class ConsumerGroupTargetAssignmentMetadataKey:
    group_id: str = F(STRING)


@message(
    api_key=RecordType.CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA,
    kind="value",
    versions=(0, 0),
    flexible=0,
)
class ConsumerGroupTargetAssignmentMetadataValue:
    assignment_epoch: int = F(INT32)


@message(
    api_key=RecordType.CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER,
    kind="key",
    versions=(0, 0),
    flexible=NEVER,
)
class ConsumerGroupTargetAssignmentMemberKey:
    group_id: str = F(STRING)
    member_id: str = F(STRING)


@message(
    api_key=RecordType.CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER,
    kind="value",
    versions=(0, 0),
    flexible=0,
)
class ConsumerGroupTargetAssignmentMemberValue:
    topic_partitions: list[TopicPartitions] = F(Array(TopicPartitions))


@message(
    api_key=RecordType.CONSUMER_GROUP_CURRENT_MEMBER_ASSIGNMENT,
    kind="key",
    versions=(0, 0),
    flexible=NEVER,
)
class ConsumerGroupCurrentMemberAssignmentKey:
    group_id: str = F(STRING)
    member_id: str = F(STRING)


@message(
    api_key=RecordType.CONSUMER_GROUP_CURRENT_MEMBER_ASSIGNMENT,
    kind="value",
    versions=(0, 0),
    flexible=0,
)
class ConsumerGroupCurrentMemberAssignmentValue:
    """state is the number of Kafka's MemberState: 0 stable, 1 and 2 unrevoked and unreleased."""

    member_epoch: int = F(INT32)
    previous_member_epoch: int = F(INT32)
    state: int = F(INT8)
    assigned_partitions: list[TopicPartitions] = F(Array(TopicPartitions))
    partitions_pending_revocation: list[TopicPartitions] = F(Array(TopicPartitions))


@message(
    api_key=RecordType.CONSUMER_GROUP_REGULAR_EXPRESSION,
    kind="key",
    versions=(0, 0),
    flexible=NEVER,
)
class ConsumerGroupRegularExpressionKey:
    group_id: str = F(STRING)
    regular_expression: str = F(STRING)


@message(
    api_key=RecordType.CONSUMER_GROUP_REGULAR_EXPRESSION, kind="value", versions=(0, 0), flexible=0
)
class ConsumerGroupRegularExpressionValue:
    """The topics it matched, the version of the metadata that says so, and when (epoch ms)."""

    topics: list[str] = F(Array(STRING))
    version: int = F(INT64)
    timestamp: int = F(INT64)


# --- subscription and assignment of classic consumers --------------------------------------------


@struct
class TopicPartition:
    topic: str = F(STRING)
    partitions: list[int] = F(Array(INT32))


@message(api_key=-1, kind="data", versions=(0, 3), flexible=NEVER)
class ConsumerProtocolSubscription:
    """v1 partitions owned so far; v2 the generation they are of (KIP-792); v3 rack (KIP-881)."""

    topics: list[str] = F(Array(STRING))
    user_data: bytes | None = F(BYTES, nullable=0, default=None)
    owned_partitions: list[TopicPartition] = F(Array(TopicPartition), since=1)
    generation_id: int = F(INT32, since=2, default=-1)
    rack_id: str | None = F(STRING, since=3, nullable=3, default=None)


@message(api_key=-1, kind="data", versions=(0, 3), flexible=NEVER)
class ConsumerProtocolAssignment:
    """All versions are the same."""

    assigned_partitions: list[TopicPartition] = F(Array(TopicPartition))
    user_data: bytes | None = F(BYTES, nullable=0, default=None)


# --- bytes ---------------------------------------------------------------------------------------

Key: TypeAlias = (
    LegacyOffsetCommitKey
    | OffsetCommitKey
    | GroupMetadataKey
    | ConsumerGroupMetadataKey
    | ConsumerGroupPartitionMetadataKey
    | ConsumerGroupMemberMetadataKey
    | ConsumerGroupTargetAssignmentMetadataKey
    | ConsumerGroupTargetAssignmentMemberKey
    | ConsumerGroupCurrentMemberAssignmentKey
    | ConsumerGroupRegularExpressionKey
)
Value: TypeAlias = (
    LegacyOffsetCommitValue
    | OffsetCommitValue
    | GroupMetadataValue
    | ConsumerGroupMetadataValue
    | ConsumerGroupPartitionMetadataValue
    | ConsumerGroupMemberMetadataValue
    | ConsumerGroupTargetAssignmentMetadataValue
    | ConsumerGroupTargetAssignmentMemberValue
    | ConsumerGroupCurrentMemberAssignmentValue
    | ConsumerGroupRegularExpressionValue
)

# By type of record.
KEYS: Final[dict[int, type[Key]]] = {info_of(cls).api_key: cls for cls in get_args(Key)}
VALUES: Final[dict[int, type[Value]]] = {info_of(cls).api_key: cls for cls in get_args(Value)}

GROUP_METADATA_VERSION: Final = 3  # what Kafka 4.1 writes, though it reads 4
OFFSET_COMMIT_VERSION: Final = 4
OFFSET_COMMIT_VERSION_WITH_EXPIRY: Final = 1


def encode_key(key: Key) -> bytes:
    """The key of a record: its type and its fields."""
    return _encode(key, info_of(type(key)).api_key, 0)


def decode_key(data: wire.Buffer) -> Key | None:
    """The key in these bytes, None for a type that is not known here; raises DecodeError.

    Kafka logs and skips a record of a type that it does not know (CoordinatorLoaderImpl).
    """
    cls = KEYS.get(_number(data))
    return None if cls is None else _decode(cls, 0, data)


def encode_value(value: Value, version: int | None = None) -> bytes:
    """The value of a record, in the version that Kafka 4.1 writes unless another is asked for."""
    if version is None:
        version = _version_to_write(value)
    return _encode(value, version, version)


def decode_value(key: Key, data: wire.Buffer) -> Value:
    """The value of a record with this key; raises DecodeError, for unknown versions too."""
    info = info_of(type(key))
    cls = VALUES[info.api_key]
    version = _number(data)
    low, high = info_of(cls).versions
    if not low <= version <= high:
        raise DecodeError(f"{cls.__name__} has no version {version}", 0)
    value: Value = _decode(cls, version, data)
    return value


def encode_subscription(subscription: ConsumerProtocolSubscription, version: int = 3) -> bytes:
    """The metadata of a protocol in JoinGroup."""
    return _encode(subscription, version, version)


def decode_subscription(data: wire.Buffer) -> ConsumerProtocolSubscription:
    """What a classic consumer subscribed to; raises DecodeError.

    A later version is read as the last that is known, as Kafka does.
    """
    value: ConsumerProtocolSubscription = _decode_of_client(ConsumerProtocolSubscription, data)
    return value


def encode_assignment(assignment: ConsumerProtocolAssignment, version: int = 3) -> bytes:
    """The assignment of a member in SyncGroup."""
    return _encode(assignment, version, version)


def decode_assignment(data: wire.Buffer) -> ConsumerProtocolAssignment:
    """What a leader assigned to a classic consumer; raises DecodeError. Later versions as above."""
    value: ConsumerProtocolAssignment = _decode_of_client(ConsumerProtocolAssignment, data)
    return value


def _version_to_write(value: Value) -> int:
    if isinstance(value, GroupMetadataValue):
        return GROUP_METADATA_VERSION
    if isinstance(value, OffsetCommitValue):
        has_expiry = value.expire_timestamp != -1
        return OFFSET_COMMIT_VERSION_WITH_EXPIRY if has_expiry else OFFSET_COMMIT_VERSION
    return 0


def _encode(value: Any, prefix: int, version: int) -> bytes:
    cls: Any = type(value)
    out = bytearray(wire.pack_int16(prefix))
    compile_encoder(cls, version)(out, value)
    return bytes(out)


def _number(data: wire.Buffer) -> int:
    """The int16 that comes first: the type of a key, the version of anything else."""
    if len(data) < 2:
        raise DecodeError("ends before its type or version", 0)
    number: int = wire.read_int16s(data, 0)[0]
    return number


def _decode(cls: Any, version: int, data: wire.Buffer) -> Any:
    """A key or value, which these bytes hold and nothing else."""
    value, pos = _read(cls, compile_decoder(cls, version), data)
    if pos != len(data):
        raise DecodeError(f"bytes after the end of {cls.__name__}", pos)
    return value


def _decode_of_client(cls: Any, data: wire.Buffer) -> Any:
    version = _number(data)
    if version < 0:
        raise DecodeError(f"{cls.__name__} has no version {version}", 0)
    version = min(version, info_of(cls).versions[1])
    if len(data) > wire.ITEMS_MAX:  # a shorter one cannot have more items: each takes a byte
        decode = limited_decoder(cls, version, wire.limited_counts(wire.ITEMS_MAX))
    else:
        decode = compile_decoder(cls, version)
    return _read(cls, decode, data)[0]


def _read(cls: Any, decode: wire.Reader, data: wire.Buffer) -> tuple[Any, int]:
    try:
        value, pos = decode(memoryview(data), 2)
    except BAD_BYTES as error:
        raise DecodeError(f"{cls.__name__}: {error}") from error
    if pos > len(data):
        raise DecodeError(f"{cls.__name__} ends inside a field", len(data))
    return value, pos
