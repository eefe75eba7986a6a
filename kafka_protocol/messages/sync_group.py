"""SyncGroup (key 14), versions 0-5: the leader hands in the assignments, each member gets its own.

v1 throttle time; v3 group instance id (KIP-345); v4 flexible; v5 protocol type and name, in both
directions (KIP-559).
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import BYTES, INT16, INT32, STRING, Array, F, message, struct


@struct
class SyncGroupRequestAssignment:
    member_id: str = F(STRING)
    assignment: bytes = F(BYTES)


@message(api_key=ApiKey.SYNC_GROUP, kind="request", versions=(0, 5), flexible=4)
class SyncGroupRequest:
    group_id: str = F(STRING)
    generation_id: int = F(INT32)
    member_id: str = F(STRING)
    group_instance_id: str | None = F(STRING, since=3, nullable=3, default=None)
    protocol_type: str | None = F(STRING, since=5, nullable=5, default=None)
    protocol_name: str | None = F(STRING, since=5, nullable=5, default=None)
    assignments: list[SyncGroupRequestAssignment] = F(Array(SyncGroupRequestAssignment))


@message(api_key=ApiKey.SYNC_GROUP, kind="response", versions=(0, 5), flexible=4)
class SyncGroupResponse:
    throttle_time_ms: int = F(INT32, since=1)
    error_code: int = F(INT16)
    protocol_type: str | None = F(STRING, since=5, nullable=5, default=None)
    protocol_name: str | None = F(STRING, since=5, nullable=5, default=None)
    assignment: bytes = F(BYTES)
