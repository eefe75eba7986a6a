"""DescribeCluster (key 60), versions 0-2, flexible from the start.

v1 endpoint type (1 brokers, 2 controllers); v2 fenced brokers.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.messages.metadata import OPERATIONS_NOT_ASKED
from kafka_protocol.schema import BOOL, INT8, INT16, INT32, STRING, Array, F, message, struct


@message(api_key=ApiKey.DESCRIBE_CLUSTER, kind="request", versions=(0, 2), flexible=0)
class DescribeClusterRequest:
    include_cluster_authorized_operations: bool = F(BOOL)
    endpoint_type: int = F(INT8, since=1, default=1)
    include_fenced_brokers: bool = F(BOOL, since=2)


@struct
class DescribeClusterBroker:
    broker_id: int = F(INT32)
    host: str = F(STRING)
    port: int = F(INT32)
    rack: str | None = F(STRING, nullable=0, default=None)
    is_fenced: bool = F(BOOL, since=2)


@message(api_key=ApiKey.DESCRIBE_CLUSTER, kind="response", versions=(0, 2), flexible=0)
class DescribeClusterResponse:
    throttle_time_ms: int = F(INT32)
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, nullable=0, default=None)
    endpoint_type: int = F(INT8, since=1, default=1)
    cluster_id: str = F(STRING)
    controller_id: int = F(INT32, default=-1)
    brokers: list[DescribeClusterBroker] = F(Array(DescribeClusterBroker))
    cluster_authorized_operations: int = F(INT32, default=OPERATIONS_NOT_ASKED)
