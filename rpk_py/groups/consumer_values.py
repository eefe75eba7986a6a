"""Values that go into a consumer group (KIP-848) and come out of it: requests, replies, settings.

What:       plain values. The messages of the wire stay in the handlers; records are those of
            kafka_protocol/group_records.py, which the coordinator writes as they are.
Where:      the coordinator of the group.
Source:     ConsumerGroupHeartbeat of Apache Kafka 4.1; GroupCoordinatorConfig for the defaults.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from kafka_protocol import group_records
from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.groups.assignors import ASSIGNORS

JOIN_EPOCH: Final = 0
LEAVE_EPOCH: Final = -1
LEAVE_STATIC_EPOCH: Final = -2
TEXT_CHARACTERS_MAX: Final = 4000  # of an answer; the protocol's limit is 32,767 bytes
CLIENT_MEMBER_ID_SINCE: Final = 1  # of ConsumerGroupHeartbeat

Records: TypeAlias = list[tuple[group_records.Key, group_records.Value | None]]
"""Records to write in one batch, in order; None as a value deletes the key."""

TopicIdPartitions: TypeAlias = tuple[tuple[bytes, tuple[int, ...]], ...]
"""Partitions by topic id."""


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    """One ConsumerGroupHeartbeat. None, and -1 as a timeout: as it was before.

    member_epoch  0: join; -1: leave; -2: a static member leaves for a while; else where it is
    """

    member_id: str
    member_epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    subscribed_topics: tuple[str, ...] | None = None
    subscribed_regex: str | None = None
    server_assignor: str | None = None
    owned: TopicIdPartitions | None = None
    client_id: str = ""
    client_host: str = ""
    api_version: int = 1


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The answer. An assignment of None: the member has the newest one."""

    error: ErrorCode
    error_message: str | None = None
    member_id: str | None = None
    member_epoch: int = 0
    heartbeat_interval_ms: int = 0
    assignment: TopicIdPartitions | None = None


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """Kafka's settings of consumer groups, with its defaults."""

    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 5_000
    members_max: int = 2**31 - 1


class Refused(Exception):
    """Why a heartbeat is refused; the text is for the client.

    It is cut, since it quotes what the client sent, and a text of the protocol has a limit.
    """

    def __init__(self, error: ErrorCode, text: str) -> None:
        super().__init__(text[:TEXT_CHARACTERS_MAX])
        self.error = error


def check_request(request: HeartbeatRequest) -> None:
    """What is wrong with a heartbeat by itself: GroupCoordinatorService.

    Raises: Refused
    """
    epoch = request.member_epoch
    problem = None
    if not request.member_id and (request.api_version >= CLIENT_MEMBER_ID_SINCE or epoch != 0):
        problem = "MemberId can't be empty."
    elif request.instance_id == "":
        problem = "InstanceId can't be empty."
    elif request.rack_id == "":
        problem = "RackId can't be empty."
    elif epoch == JOIN_EPOCH:
        problem = _join_problem(request)
    elif epoch == LEAVE_STATIC_EPOCH and request.instance_id is None:
        problem = "InstanceId can't be null."
    elif epoch < LEAVE_STATIC_EPOCH:
        problem = "MemberEpoch is invalid."
    if problem is not None:
        raise Refused(ErrorCode.INVALID_REQUEST, problem)
    if request.server_assignor is not None and request.server_assignor not in ASSIGNORS:
        text = f"ServerAssignor {request.server_assignor} is not supported. Supported assignors: "
        raise Refused(ErrorCode.UNSUPPORTED_ASSIGNOR, text + ", ".join(ASSIGNORS) + ".")


def _join_problem(request: HeartbeatRequest) -> str | None:
    if request.rebalance_timeout_ms == -1:
        return "RebalanceTimeoutMs must be provided in first request."
    if request.owned is None or request.owned:
        return "TopicPartitions must be empty when (re-)joining."
    if request.subscribed_topics is None and request.subscribed_regex is None:
        either = "Either SubscribedTopicNames or SubscribedTopicRegex"
        return f"{either} must be non-null when (re-)joining."
    return None
