"""DescribeGroups (key 15), versions 0-6: state, members and assignments of classic groups.

v1 throttle time; v3 authorized operations (KIP-430); v4 group instance id (KIP-345); v5 flexible;
v6 error message, and GROUP_ID_NOT_FOUND where a group is missing (KIP-1043; before: state Dead).
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.messages.metadata import OPERATIONS_NOT_ASKED
from kafka_protocol.schema import BOOL, BYTES, INT16, INT32, STRING, Array, F, message, struct


@message(api_key=ApiKey.DESCRIBE_GROUPS, kind="request", versions=(0, 6), flexible=5)
class DescribeGroupsRequest:
    groups: list[str] = F(Array(STRING))
    include_authorized_operations: bool = F(BOOL, since=3)


@struct
class DescribedGroupMember:
    member_id: str = F(STRING)
    group_instance_id: str | None = F(STRING, since=4, nullable=4, default=None)
    client_id: str = F(STRING)
    client_host: str = F(STRING)
    member_metadata: bytes = F(BYTES)
    member_assignment: bytes = F(BYTES)


@struct
class DescribedGroup:
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, since=6, nullable=6, default=None)
    group_id: str = F(STRING)
    group_state: str = F(STRING)
    protocol_type: str = F(STRING)
    protocol_data: str = F(STRING)
    members: list[DescribedGroupMember] = F(Array(DescribedGroupMember))
    authorized_operations: int = F(INT32, since=3, default=OPERATIONS_NOT_ASKED)


@message(api_key=ApiKey.DESCRIBE_GROUPS, kind="response", versions=(0, 6), flexible=5)
class DescribeGroupsResponse:
    throttle_time_ms: int = F(INT32, since=1)
    groups: list[DescribedGroup] = F(Array(DescribedGroup))
