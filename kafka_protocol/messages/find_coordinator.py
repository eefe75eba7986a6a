"""FindCoordinator (key 10), versions 0-6: the broker that coordinates a group or a transaction.

v1 key type (group or transaction), throttle time and error message; v3 flexible; v4 many keys at
once (KIP-699); v5 error TRANSACTION_ABORTABLE (KIP-890); v6 key type share (KIP-932).
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT8, INT16, INT32, STRING, Array, F, message, struct

# Values of key_type.
KEY_TYPE_GROUP = 0
KEY_TYPE_TRANSACTION = 1
KEY_TYPE_SHARE = 2


@message(api_key=ApiKey.FIND_COORDINATOR, kind="request", versions=(0, 6), flexible=3)
class FindCoordinatorRequest:
    key: str = F(STRING, until=3)
    key_type: int = F(INT8, since=1)
    coordinator_keys: list[str] = F(Array(STRING), since=4)


@struct
class Coordinator:
    key: str = F(STRING)
    node_id: int = F(INT32)
    host: str = F(STRING)
    port: int = F(INT32)
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, nullable=0)


@message(api_key=ApiKey.FIND_COORDINATOR, kind="response", versions=(0, 6), flexible=3)
class FindCoordinatorResponse:
    throttle_time_ms: int = F(INT32, since=1)
    error_code: int = F(INT16, until=3)
    error_message: str | None = F(STRING, since=1, until=3, nullable=1)
    node_id: int = F(INT32, until=3)
    host: str = F(STRING, until=3)
    port: int = F(INT32, until=3)
    coordinators: list[Coordinator] = F(Array(Coordinator), since=4)
