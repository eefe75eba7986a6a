"""Heartbeat (key 12), versions 0-4: a member of a classic group says that it lives.

v1 throttle time; v3 group instance id (KIP-345); v4 flexible.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, STRING, F, message


@message(api_key=ApiKey.HEARTBEAT, kind="request", versions=(0, 4), flexible=4)
class HeartbeatRequest:
    group_id: str = F(STRING)
    generation_id: int = F(INT32)
    member_id: str = F(STRING)
    group_instance_id: str | None = F(STRING, since=3, nullable=3, default=None)


@message(api_key=ApiKey.HEARTBEAT, kind="response", versions=(0, 4), flexible=4)
class HeartbeatResponse:
    throttle_time_ms: int = F(INT32, since=1)
    error_code: int = F(INT16)
