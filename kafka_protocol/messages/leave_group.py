"""LeaveGroup (key 13), versions 0-5: members go, or are removed by an administrator.

v1 throttle time; v3 many members at once, each by member id or group instance id (KIP-345); v4
flexible; v5 reason (KIP-800).
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, STRING, Array, F, message, struct


@struct
class MemberIdentity:
    member_id: str = F(STRING)
    group_instance_id: str | None = F(STRING, nullable=0, default=None)
    reason: str | None = F(STRING, since=5, nullable=5, default=None)


@message(api_key=ApiKey.LEAVE_GROUP, kind="request", versions=(0, 5), flexible=4)
class LeaveGroupRequest:
    group_id: str = F(STRING)
    member_id: str = F(STRING, until=2)
    members: list[MemberIdentity] = F(Array(MemberIdentity), since=3)


@struct
class MemberResponse:
    member_id: str = F(STRING)
    group_instance_id: str | None = F(STRING, nullable=0)
    error_code: int = F(INT16)


@message(api_key=ApiKey.LEAVE_GROUP, kind="response", versions=(0, 5), flexible=4)
class LeaveGroupResponse:
    throttle_time_ms: int = F(INT32, since=1)
    error_code: int = F(INT16)
    members: list[MemberResponse] = F(Array(MemberResponse), since=3)
