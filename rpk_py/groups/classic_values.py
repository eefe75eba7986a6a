"""Values that go into a classic group and come out of it: requests, replies, records, settings.

What:       plain values. The messages of the wire stay in the handlers, the bytes of records with
            the coordinator; each of these values maps one to one onto its counterpart there.
Where:      the coordinator of the group.
Source:     GroupMetadataValue.json, JoinGroup, SyncGroup and LeaveGroup of Apache Kafka 4.1;
            GroupCoordinatorConfig for the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from enum import Enum
from typing import Final, TypeAlias

from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.groups.timeline import Event, TopicPartition

CONSUMER_PROTOCOL_TYPE: Final = "consumer"
UNKNOWN_MEMBER_ID: Final = ""
NEW_MEMBER_JOIN_TIMEOUT_MS: Final = 5 * 60 * 1000

Token: TypeAlias = object
"""Who waits for a reply. Opaque here: it comes in with a request and goes out with its reply."""


class GroupState(Enum):
    """The states of a classic group, under the names that clients see."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way of assigning that a member offers, most wanted first, and its subscription."""

    name: str
    metadata: bytes


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """One JoinGroup. Versions decide by `requires_known_member_id` (v4) and `may_skip` (v9)."""

    member_id: str
    protocol_type: str
    protocols: tuple[Protocol, ...]
    session_timeout_ms: int
    rebalance_timeout_ms: int
    instance_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    reason: str = ""
    requires_known_member_id: bool = True
    supports_skipping_assignment: bool = True


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """One SyncGroup. A protocol type or name of None (before v5) is not checked."""

    member_id: str
    generation: int
    instance_id: str | None = None
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignments: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leaver:
    """One member of a LeaveGroup: by member id, or by instance id with an empty member id."""

    member_id: str
    instance_id: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JoinedMember:
    """What the leader is told of a member."""

    member_id: str
    instance_id: str | None
    metadata: bytes


@dataclass(frozen=True, slots=True)
class JoinReply:
    """The answer to a JoinGroup. `members` is for the leader only."""

    error: ErrorCode
    member_id: str
    generation: int = -1
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[JoinedMember, ...] = ()


@dataclass(frozen=True, slots=True)
class SyncReply:
    """The answer to a SyncGroup."""

    error: ErrorCode
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


@dataclass(frozen=True, slots=True)
class LeaveReply:
    """The answer to a LeaveGroup: one error a leaver, in the order of the request.

    Up to v2 there is one leaver, whose error is the error of the response.
    """

    error: ErrorCode
    members: tuple[tuple[Leaver, ErrorCode], ...] = ()


Reply: TypeAlias = JoinReply | SyncReply | LeaveReply


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """One member as it is persisted."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int  # -1 in records older than version 1: the session timeout
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group as it is persisted."""

    protocol_type: str
    generation: int
    protocol_name: str | None
    leader: str | None
    state_timestamp_ms: int  # since when it is in its state; -1 in records older than version 2
    members: tuple[MemberRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Write:
    """A record to persist; None deletes the group. Its end comes back by `persisted`."""

    write_id: int
    record: GroupRecord | None


@dataclass(slots=True)
class Effects:
    """What a call asks of the outside, in order within each list."""

    replies: list[tuple[Token, Reply]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """Kafka's settings of classic groups, with its defaults, and what reads consumers' bytes.

    Shapes:  topics_of      a subscription -> its topics; None if it cannot be read
             partitions_of  an assignment -> its partitions; None if it cannot be read
    """

    topics_of: Callable[[bytes], frozenset[str] | None]
    partitions_of: Callable[[bytes], frozenset[TopicPartition] | None]
    session_timeout_ms_min: int = 6_000
    session_timeout_ms_max: int = 1_800_000
    initial_rebalance_delay_ms: int = 3_000
    members_max: int = 2**31 - 1
    new_member_join_timeout_ms: int = NEW_MEMBER_JOIN_TIMEOUT_MS


def join_refusal(group_id: str, session_timeout_ms: int, settings: GroupSettings) -> ErrorCode:
    """What is wrong with a join, before a group is looked at or made: GroupCoordinatorService."""
    if not group_id:
        return ErrorCode.INVALID_GROUP_ID
    low, high = settings.session_timeout_ms_min, settings.session_timeout_ms_max
    if not low <= session_timeout_ms <= high:
        return ErrorCode.INVALID_SESSION_TIMEOUT
    return ErrorCode.NONE


_WRITE_ERRORS: Final[dict[ErrorCode, ErrorCode]] = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.REQUEST_TIMED_OUT: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.INVALID_FETCH_SIZE: ErrorCode.UNKNOWN_SERVER_ERROR,
}


def write_error(error: ErrorCode) -> ErrorCode:
    """What a member is told when the record of its group could not be written."""
    return _WRITE_ERRORS.get(error, error)
