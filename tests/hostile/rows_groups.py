"""Rows: members, generations, epochs and offsets of consumer groups that are not what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from kafka_protocol.messages.delete_groups import DeleteGroupsRequest
from kafka_protocol.messages.describe_groups import DescribeGroupsRequest
from kafka_protocol.messages.find_coordinator import FindCoordinatorRequest
from kafka_protocol.messages.heartbeat import HeartbeatRequest
from kafka_protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from kafka_protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from kafka_protocol.messages.list_groups import ListGroupsRequest
from kafka_protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from kafka_protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from kafka_protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
)
from kafka_protocol.messages.sync_group import SyncGroupRequest
from tests.hostile.rows_data import INT32_MAX, UNKNOWN_ID
from tests.hostile.table import Expect, Row, answer, asks
from tests.hostile.target import SESSION_MS, Member, Target

ERROR = "error_code"
PARTITION = "topics.0.partitions.0.error_code"
_SERVICE = "GroupCoordinatorService of Apache Kafka"
_MANAGER = "GroupMetadataManager of Apache Kafka"
_CLASSIC = "ClassicGroup of Apache Kafka"
_CONSUMER = "ConsumerGroup of Apache Kafka"
_OFFSETS = "OffsetMetadataManager of Apache Kafka"
_APIS = "KafkaApis of Apache Kafka"
_KIP_345, _KIP_394, _KIP_848, _KIP_1043 = "KIP-345", "KIP-394", "KIP-848", "KIP-1043"

Build = Callable[[Target], Any]


def row(name: str, build: Build, version: int, expect: Expect, source: str) -> Row:
    return Row(name, asks(build, version), expect, source)


# -- the classic protocol --------------------------------------------------------------------------


def join(member: Member, **changes: Any) -> JoinGroupRequest:
    """A join of a member that is in the group, but for what is changed."""
    protocols = [JoinGroupRequestProtocol("range", b"")]
    request = JoinGroupRequest(
        member.group, SESSION_MS, SESSION_MS, member.member_id, None, "consumer", protocols
    )
    return replace(request, **changes)


def newcomer(target: Target) -> Member:
    """Who has not joined yet, in a group that is not there yet."""
    return Member(target.new_group(), "", -1)


def stranger(target: Target) -> Member:
    """A member id that nobody was given, in a group with a member."""
    return target.join()._replace(member_id="stranger")


def outsider(target: Target) -> Member:
    """The same in a group that is not there."""
    return Member(target.new_group(), "outsider", 1)


def fenced(target: Target) -> Member:
    """Who says it is the static member `instance` and is not."""
    return target.join("instance")._replace(member_id="another")


def member(target: Target) -> Member:
    """A member of a classic group."""
    return target.join()


Who = Callable[[Target], Member]


def _join(
    name: str, who: Who, error: ErrorCode, source: str, version: int = 9, **changes: Any
) -> Row:
    return row(
        f"JoinGroup {name}",
        lambda target: join(who(target), **changes),
        version,
        answer(ERROR, error),
        source,
    )


_JOINS = [
    _join("without a group id", newcomer, ErrorCode.INVALID_GROUP_ID, _SERVICE, group_id=""),
    *(
        _join(
            f"with a session timeout of {timeout_ms} ms",
            newcomer,
            ErrorCode.INVALID_SESSION_TIMEOUT,
            _SERVICE,
            session_timeout_ms=timeout_ms,
        )
        for timeout_ms in (-1, 0, 5_999, 1_800_001, INT32_MAX)
    ),
    _join("for the first time", newcomer, ErrorCode.MEMBER_ID_REQUIRED, _KIP_394),
    _join(
        "by a member of a group that is not there", outsider, ErrorCode.UNKNOWN_MEMBER_ID, _MANAGER
    ),
    _join(
        "by a member that the group does not have", stranger, ErrorCode.UNKNOWN_MEMBER_ID, _MANAGER
    ),
    _join(
        "without a protocol",
        newcomer,
        ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        _CLASSIC,
        protocols=[],
    ),
    _join(
        "without a protocol type",
        newcomer,
        ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        _CLASSIC,
        protocol_type="",
    ),
    _join(
        "with another protocol type than the group's",
        lambda target: target.join()._replace(member_id=""),
        ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        _CLASSIC,
        protocol_type="connect",
    ),
    _join(
        "with no protocol that the others have",
        lambda target: target.join()._replace(member_id=""),
        ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        _CLASSIC,
        protocols=[JoinGroupRequestProtocol("of its own", b"")],
    ),
    _join(
        "in a group whose members speak the consumer protocol, of another type",
        lambda target: target.join_consumer()._replace(member_id=""),
        ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        _MANAGER,
        protocol_type="connect",
    ),
    _join(
        "under another's instance id",
        fenced,
        ErrorCode.FENCED_INSTANCE_ID,
        _KIP_345,
        group_instance_id="instance",
    ),
    _join(
        "under an instance id that nobody has",
        member,
        ErrorCode.UNKNOWN_MEMBER_ID,
        _KIP_345,
        group_instance_id="nobody's",
    ),
]


def sync(who: Member, **changes: Any) -> SyncGroupRequest:
    request = SyncGroupRequest(
        who.group, who.generation, who.member_id, None, "consumer", "range", []
    )
    return replace(request, **changes)


def _sync(name: str, who: Who, error: ErrorCode, source: str, **changes: Any) -> Row:
    return row(
        f"SyncGroup {name}",
        lambda target: sync(who(target), **changes),
        5,
        answer(ERROR, error),
        source,
    )


_SYNCS = [
    _sync("without a group id", newcomer, ErrorCode.INVALID_GROUP_ID, _SERVICE, group_id=""),
    _sync("in a group that is not there", outsider, ErrorCode.UNKNOWN_MEMBER_ID, _MANAGER),
    _sync("by a stranger", stranger, ErrorCode.UNKNOWN_MEMBER_ID, _MANAGER),
    _sync("of another generation", member, ErrorCode.ILLEGAL_GENERATION, _MANAGER, generation_id=7),
    _sync(
        "with another protocol",
        member,
        ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        _MANAGER,
        protocol_name="sticky",
    ),
    _sync(
        "without a protocol",
        member,
        ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        _SERVICE,
        protocol_name=None,
    ),
    _sync(
        "under another's instance id",
        fenced,
        ErrorCode.FENCED_INSTANCE_ID,
        _KIP_345,
        group_instance_id="instance",
    ),
]


def _beat(name: str, who: Who, error: ErrorCode, source: str, **changes: Any) -> Row:
    def build(target: Target) -> HeartbeatRequest:
        one = who(target)
        return replace(HeartbeatRequest(one.group, one.generation, one.member_id), **changes)

    return row(f"Heartbeat {name}", build, 4, answer(ERROR, error), source)


_BEATS = [
    _beat("without a group id", newcomer, ErrorCode.INVALID_GROUP_ID, _SERVICE, group_id=""),
    _beat("in a group that is not there", outsider, ErrorCode.UNKNOWN_MEMBER_ID, _MANAGER),
    _beat("by a stranger", stranger, ErrorCode.UNKNOWN_MEMBER_ID, _MANAGER),
    _beat("of another generation", member, ErrorCode.ILLEGAL_GENERATION, _MANAGER, generation_id=7),
    _beat(
        "under another's instance id",
        fenced,
        ErrorCode.FENCED_INSTANCE_ID,
        _KIP_345,
        group_instance_id="instance",
    ),
]


def leave(who: Member, instance_id: str | None = None) -> LeaveGroupRequest:
    return LeaveGroupRequest(
        who.group, who.member_id, [MemberIdentity(who.member_id, instance_id, "hostile")]
    )


_LEAVES = [
    row(
        "LeaveGroup of a group that is not there",
        lambda target: leave(outsider(target)),
        5,
        answer("members.0.error_code", ErrorCode.UNKNOWN_MEMBER_ID, error_code=0),
        _MANAGER,
    ),
    row(
        "LeaveGroup of a stranger",
        lambda target: leave(stranger(target)),
        5,
        answer("members.0.error_code", ErrorCode.UNKNOWN_MEMBER_ID, error_code=0),
        _MANAGER,
    ),
    row(
        "LeaveGroup v2 of a stranger",
        lambda target: leave(stranger(target)),
        2,
        answer(ERROR, ErrorCode.UNKNOWN_MEMBER_ID),
        _MANAGER,
    ),
    row(
        "LeaveGroup of another's instance id",
        lambda target: leave(fenced(target), "instance"),
        5,
        answer("members.0.error_code", ErrorCode.FENCED_INSTANCE_ID, error_code=0),
        _KIP_345,
    ),
]

# -- offsets ---------------------------------------------------------------------------------------


def commit(target: Target, who: Member, **changes: Any) -> OffsetCommitRequest:
    """A commit of one partition."""
    name = changes.pop("topic", target.topic.name)
    topic_id = changes.pop("topic_id", target.topic.topic_id)
    part = replace(OffsetCommitRequestPartition(target.topic.here, 1, -1, ""), **changes)
    topics = [OffsetCommitRequestTopic(name, topic_id, [part])]
    return OffsetCommitRequest(who.group, who.generation, who.member_id, None, -1, topics)


def _commit(
    name: str, who: Who, error: ErrorCode, source: str, version: int = 9, **changes: Any
) -> Row:
    return row(
        f"OffsetCommit {name}",
        lambda target: commit(target, who(target), **changes),
        version,
        answer(PARTITION, error),
        source,
    )


def _admin_of_living(target: Target) -> Member:
    return target.join()._replace(member_id="", generation=-1)


def _late(target: Target) -> Member:
    one = target.join()
    return one._replace(generation=one.generation - 1)


def consumer(target: Target) -> Member:
    return target.join_consumer()


def _late_consumer(target: Target) -> Member:
    one = target.join_consumer()
    return one._replace(generation=one.generation - 1)


_COMMITS = [
    _commit(
        "by nobody while there are members", _admin_of_living, ErrorCode.UNKNOWN_MEMBER_ID, _CLASSIC
    ),
    _commit("by a stranger", stranger, ErrorCode.UNKNOWN_MEMBER_ID, _CLASSIC),
    _commit("of a generation that is over", _late, ErrorCode.ILLEGAL_GENERATION, _CLASSIC),
    _commit("in a group that is not there", outsider, ErrorCode.GROUP_ID_NOT_FOUND, _OFFSETS),
    _commit("v8 in a group that is not there", outsider, ErrorCode.ILLEGAL_GENERATION, _OFFSETS, 8),
    _commit(
        "with too much metadata",
        newcomer,
        ErrorCode.OFFSET_METADATA_TOO_LARGE,
        _OFFSETS,
        committed_metadata="x" * 4097,
    ),
    _commit(
        "of a partition that is not there",
        newcomer,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        _APIS,
        partition_index=99,
    ),
    _commit(
        "of a partition below 0",
        newcomer,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        _APIS,
        partition_index=-1,
    ),
    _commit(
        "of a topic that is not there",
        newcomer,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        _APIS,
        topic="hostile-absent",
    ),
    _commit(
        "of a topic id that is not there",
        newcomer,
        ErrorCode.UNKNOWN_TOPIC_ID,
        "KIP-848, KIP-516",
        10,
        topic_id=UNKNOWN_ID,
    ),
    _commit("of an epoch that is over", _late_consumer, ErrorCode.STALE_MEMBER_EPOCH, _CONSUMER),
    _commit("v8 by a member of epochs", consumer, ErrorCode.UNSUPPORTED_VERSION, _CONSUMER, 8),
]


def fetch(target: Target, who: Member, **changes: Any) -> OffsetFetchRequest:
    """Ask for the offset of one partition, as nobody in particular."""
    index = changes.pop("index", target.topic.here)
    topic_id = changes.pop("topic_id", target.topic.topic_id)
    topics = [OffsetFetchRequestTopic(target.topic.name, topic_id, [index])]
    group = replace(OffsetFetchRequestGroup(who.group, None, -1, topics), **changes)
    return OffsetFetchRequest(groups=[group])


_FETCHED = "groups.0.topics.0.partitions.0."
_NOTHING = answer(
    _FETCHED + "committed_offset", -1, **{_FETCHED + "error_code": 0, "groups.0.error_code": 0}
)
_FETCHES = [
    row(
        "OffsetFetch of a group that is not there",
        lambda target: fetch(target, outsider(target)),
        9,
        _NOTHING,
        _OFFSETS,
    ),
    row(
        "OffsetFetch of a partition that is not there",
        lambda target: fetch(target, member(target), index=99),
        9,
        _NOTHING,
        _OFFSETS,
    ),
    row(
        "OffsetFetch of all of a group that is not there",
        lambda target: fetch(target, outsider(target), topics=None),
        9,
        answer("groups.0.topics.#", 0, **{"groups.0.error_code": 0}),
        _OFFSETS,
    ),
    row(
        "OffsetFetch of a topic id that is not there",
        lambda target: fetch(target, member(target), topic_id=UNKNOWN_ID),
        10,
        answer(_FETCHED + "error_code", ErrorCode.UNKNOWN_TOPIC_ID),
        _APIS,
    ),
    row(
        "OffsetFetch of an epoch that is over",
        lambda target: (
            lambda one: fetch(target, one, member_id=one.member_id, member_epoch=one.generation - 1)
        )(consumer(target)),
        9,
        answer("groups.0.error_code", ErrorCode.STALE_MEMBER_EPOCH),
        _CONSUMER,
    ),
    row(
        "OffsetFetch by a stranger to a group of epochs",
        lambda target: fetch(target, consumer(target), member_id="stranger", member_epoch=1),
        9,
        answer("groups.0.error_code", ErrorCode.UNKNOWN_MEMBER_ID),
        _CONSUMER,
    ),
]


def _offset_delete(target: Target, group: str, index: int | None = None) -> OffsetDeleteRequest:
    part = OffsetDeleteRequestPartition(target.topic.here if index is None else index)
    return OffsetDeleteRequest(group, [OffsetDeleteRequestTopic(target.topic.name, [part])])


def _far_id(target: Target) -> str:
    """The longest group id there can be, of a group that is not there."""
    return target.new_group(32_767)


# -- administration --------------------------------------------------------------------------------

_ADMIN = [
    row(
        "FindCoordinator of a kind that there is not",
        lambda target: FindCoordinatorRequest(key_type=9, coordinator_keys=["key"]),
        6,
        answer("coordinators.0.error_code", ErrorCode.INVALID_REQUEST),
        _APIS,
    ),
    row(
        "ListGroups in a state that there is not",
        lambda target: ListGroupsRequest(["Confused"]),
        5,
        answer("groups.#", 0, error_code=0),
        _SERVICE,
    ),
    row(
        "DescribeGroups v5 of a group that is not there",
        lambda target: DescribeGroupsRequest([target.new_group()]),
        5,
        answer("groups.0.error_code", 0, **{"groups.0.group_state": "Dead"}),
        _MANAGER,
    ),
    row(
        "DescribeGroups of a group that is not there",
        lambda target: DescribeGroupsRequest([target.new_group()]),
        6,
        answer("groups.0.error_code", ErrorCode.GROUP_ID_NOT_FOUND),
        _KIP_1043,
    ),
    row(
        "DescribeGroups of a group id of 32,767 bytes",
        lambda target: DescribeGroupsRequest([_far_id(target)]),
        6,
        answer("groups.0.error_code", ErrorCode.GROUP_ID_NOT_FOUND),
        _KIP_1043,
    ),
    row(
        "ConsumerGroupDescribe of a group id of 32,767 bytes",
        lambda target: ConsumerGroupDescribeRequest([_far_id(target)]),
        1,
        answer("groups.0.error_code", ErrorCode.GROUP_ID_NOT_FOUND),
        _KIP_848,
    ),
    row(
        "DescribeGroups of a group of epochs",
        lambda target: DescribeGroupsRequest([consumer(target).group]),
        6,
        answer("groups.0.error_code", ErrorCode.GROUP_ID_NOT_FOUND),
        _KIP_1043,
    ),
    row(
        "ConsumerGroupDescribe of a group that is not there",
        lambda target: ConsumerGroupDescribeRequest([target.new_group()]),
        1,
        answer("groups.0.error_code", ErrorCode.GROUP_ID_NOT_FOUND),
        _KIP_848,
    ),
    row(
        "ConsumerGroupDescribe of a classic group",
        lambda target: ConsumerGroupDescribeRequest([member(target).group]),
        1,
        answer("groups.0.error_code", ErrorCode.GROUP_ID_NOT_FOUND),
        _KIP_848,
    ),
    row(
        "DeleteGroups of a group that is not there",
        lambda target: DeleteGroupsRequest([target.new_group()]),
        2,
        answer("results.0.error_code", ErrorCode.GROUP_ID_NOT_FOUND),
        _MANAGER,
    ),
    *(
        row(
            f"DeleteGroups of a group with {words}",
            lambda target, who=who: DeleteGroupsRequest([who(target).group]),
            2,
            answer("results.0.error_code", ErrorCode.NON_EMPTY_GROUP),
            _MANAGER,
        )
        for words, who in (("members", member), ("members of epochs", consumer))
    ),
    row(
        "OffsetDelete in a group that is not there",
        lambda target: _offset_delete(target, target.new_group()),
        0,
        answer(ERROR, ErrorCode.GROUP_ID_NOT_FOUND),
        _OFFSETS,
    ),
    *(
        row(
            f"OffsetDelete of a topic that {words} read",
            lambda target, who=who: _offset_delete(target, who(target).group),
            0,
            answer(PARTITION, ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, error_code=0),
            _OFFSETS,
        )
        for words, who in (("members", member), ("members of epochs", consumer))
    ),
    row(
        "OffsetDelete of a partition that is not there",
        lambda target: _offset_delete(target, member(target).group, 99),
        0,
        answer(PARTITION, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, error_code=0),
        _APIS,
    ),
]

ROWS: list[Row] = [
    *_JOINS,
    *_SYNCS,
    *_BEATS,
    *_LEAVES,
    *_COMMITS,
    *_FETCHES,
    *_ADMIN,
]
