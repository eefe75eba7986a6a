"""A classic group as ListGroups, DescribeGroups and DeleteGroups show it, there or not.

Where:      the coordinator of the group. Pure.
Source:     GroupMetadataManager.describeGroups, ClassicGroup.asListedGroup, and KIP-1043 for the
            error of a missing group, of Apache Kafka 4.1.
"""

from __future__ import annotations

from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.groups.classic_core import GroupCore
from rpk_py.groups.classic_values import GroupState
from rpk_py.groups.timeline import bounded_text

CLASSIC_TYPE: Final = "classic"
MISSING_IS_AN_ERROR_VERSION: Final = 6  # of DescribeGroups
NOT_FOUND_MESSAGE: Final = "Group {group_id} not found."


@dataclass(frozen=True, slots=True)
class ListedGroup:
    group_id: str
    protocol_type: str
    state: str
    group_type: str = CLASSIC_TYPE


@dataclass(frozen=True, slots=True)
class DescribedMember:
    """`metadata` and `assignment` are told of a stable group only."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class DescribedGroup:
    error: ErrorCode
    error_message: str | None
    group_id: str
    state: str
    protocol_type: str = ""
    protocol_name: str = ""
    members: tuple[DescribedMember, ...] = ()


def listed(group: GroupCore) -> ListedGroup:
    return ListedGroup(group.group_id, group.protocol_type or "", group.state.value)


def described(group: GroupCore) -> DescribedGroup:
    name = group.protocol_name if group.state is GroupState.STABLE else None
    members = tuple(
        DescribedMember(
            member_id=each.member_id,
            instance_id=each.instance_id,
            client_id=each.client_id,
            client_host=each.client_host,
            metadata=b"" if name is None else each.metadata(name),
            assignment=b"" if name is None else each.assignment,
        )
        for each in group.members.all()
    )
    return DescribedGroup(
        error=ErrorCode.NONE,
        error_message=None,
        group_id=group.group_id,
        state=group.state.value,
        protocol_type=group.protocol_type or "",
        protocol_name=name or "",
        members=members,
    )


def described_missing(group_id: str, api_version: int) -> DescribedGroup:
    """Dead without an error up to v5, and with GROUP_ID_NOT_FOUND from v6 on."""
    if api_version < MISSING_IS_AN_ERROR_VERSION:
        return DescribedGroup(ErrorCode.NONE, None, group_id, GroupState.DEAD.value)
    message = bounded_text(NOT_FOUND_MESSAGE.format(group_id=group_id))
    return DescribedGroup(ErrorCode.GROUP_ID_NOT_FOUND, message, group_id, GroupState.DEAD.value)
