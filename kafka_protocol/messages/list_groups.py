"""ListGroups (key 16), versions 0-5: the groups that a broker coordinates.

v1 throttle time; v3 flexible; v4 state, and a filter of states (KIP-518); v5 type, and a filter of
types (KIP-848). An empty filter lets all pass.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, STRING, Array, F, message, struct


@message(api_key=ApiKey.LIST_GROUPS, kind="request", versions=(0, 5), flexible=3)
class ListGroupsRequest:
    states_filter: list[str] = F(Array(STRING), since=4)
    types_filter: list[str] = F(Array(STRING), since=5)


@struct
class ListedGroup:
    group_id: str = F(STRING)
    protocol_type: str = F(STRING)
    group_state: str = F(STRING, since=4)
    group_type: str = F(STRING, since=5)


@message(api_key=ApiKey.LIST_GROUPS, kind="response", versions=(0, 5), flexible=3)
class ListGroupsResponse:
    throttle_time_ms: int = F(INT32, since=1)
    error_code: int = F(INT16)
    groups: list[ListedGroup] = F(Array(ListedGroup))
