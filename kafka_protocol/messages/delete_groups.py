"""DeleteGroups (key 42), versions 0-2: groups without members go, with their offsets.

v1 as v0; v2 flexible.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, STRING, Array, F, message, struct


@message(api_key=ApiKey.DELETE_GROUPS, kind="request", versions=(0, 2), flexible=2)
class DeleteGroupsRequest:
    groups_names: list[str] = F(Array(STRING))


@struct
class DeletableGroupResult:
    group_id: str = F(STRING)
    error_code: int = F(INT16)


@message(api_key=ApiKey.DELETE_GROUPS, kind="response", versions=(0, 2), flexible=2)
class DeleteGroupsResponse:
    throttle_time_ms: int = F(INT32)
    results: list[DeletableGroupResult] = F(Array(DeletableGroupResult))
