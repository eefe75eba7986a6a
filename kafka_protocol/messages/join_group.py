"""JoinGroup (key 11), versions 0-9: become, or stay, a member of a classic group.

v1 rebalance timeout (v0: the session timeout stands for it); v2 throttle time; v4 the first join
answers MEMBER_ID_REQUIRED with an id (KIP-394); v5 group instance id (KIP-345); v6 flexible; v7
the answer names the protocol type, and its protocol may be null (KIP-559); v8 reason (KIP-800);
v9 skip assignment (KIP-814).
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import BOOL, BYTES, INT16, INT32, STRING, Array, F, message, struct


@struct
class JoinGroupRequestProtocol:
    name: str = F(STRING)
    metadata: bytes = F(BYTES)


@message(api_key=ApiKey.JOIN_GROUP, kind="request", versions=(0, 9), flexible=6)
class JoinGroupRequest:
    group_id: str = F(STRING)
    session_timeout_ms: int = F(INT32)
    rebalance_timeout_ms: int = F(INT32, since=1, default=-1)
    member_id: str = F(STRING)
    group_instance_id: str | None = F(STRING, since=5, nullable=5, default=None)
    protocol_type: str = F(STRING)
    protocols: list[JoinGroupRequestProtocol] = F(Array(JoinGroupRequestProtocol))
    reason: str | None = F(STRING, since=8, nullable=8, default=None)


@struct
class JoinGroupResponseMember:
    member_id: str = F(STRING)
    group_instance_id: str | None = F(STRING, since=5, nullable=5, default=None)
    metadata: bytes = F(BYTES)


@message(api_key=ApiKey.JOIN_GROUP, kind="response", versions=(0, 9), flexible=6)
class JoinGroupResponse:
    throttle_time_ms: int = F(INT32, since=2)
    error_code: int = F(INT16)
    generation_id: int = F(INT32, default=-1)
    protocol_type: str | None = F(STRING, since=7, nullable=7, default=None)
    protocol_name: str | None = F(STRING, nullable=7)
    leader: str = F(STRING)
    skip_assignment: bool = F(BOOL, since=9)
    member_id: str = F(STRING)
    members: list[JoinGroupResponseMember] = F(Array(JoinGroupResponseMember))
