"""DescribeCluster (key 60), versions 0-2: cluster id, controller and nodes for admin clients.

v0  cluster id, controller, brokers, authorized operations
v1  endpoint_type (1 brokers, 2 controllers)
v2  include_fenced_brokers, is_fenced

Behaviour:  the same nodes, addresses and controller as Metadata. This is an endpoint of brokers:
            who asks for controllers gets MISMATCHED_ENDPOINT_TYPE, any other type
            UNSUPPORTED_ENDPOINT_TYPE. Authorized operations are all, there is no authorizer.
Deviations: no node is ever fenced: a shard that is not live is not in the list.
"""

from __future__ import annotations

from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)
from kafka_protocol.messages.metadata import OPERATIONS_NOT_ASKED
from rpk_py.cluster_view import CLUSTER_OPERATIONS, advertised_nodes, controller_id
from rpk_py.context import RequestContext

_BROKERS: Final = 1
_CONTROLLERS: Final = 2


def handle(ctx: RequestContext, request: DescribeClusterRequest) -> DescribeClusterResponse:
    """Describe the cluster from the shard's metadata, at once."""
    if request.endpoint_type != _BROKERS:
        return _wrong_endpoint(request.endpoint_type)
    operations = OPERATIONS_NOT_ASKED
    if request.include_cluster_authorized_operations:
        operations = CLUSTER_OPERATIONS
    return DescribeClusterResponse(
        cluster_id=ctx.broker.metadata.state.cluster_id,
        controller_id=controller_id(ctx),
        brokers=[
            DescribeClusterBroker(node.node_id, node.host, node.port, node.rack)
            for node in advertised_nodes(ctx)
        ],
        cluster_authorized_operations=operations,
    )


def _wrong_endpoint(endpoint_type: int) -> DescribeClusterResponse:
    if endpoint_type == _CONTROLLERS:
        error = ErrorCode.MISMATCHED_ENDPOINT_TYPE
        message = "This is an endpoint of brokers; it cannot describe controllers."
    else:
        error = ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
        message = f"Unsupported endpoint type {endpoint_type}"
    return DescribeClusterResponse(error_code=error, error_message=message)
