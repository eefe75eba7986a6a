"""rpk_py.handlers.describe_cluster: the same cluster as in Metadata, for admin clients."""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.describe_cluster import DescribeClusterRequest
from rpk_py.handlers import describe_cluster
from tests.broker.fakes import CLUSTER_ID, LOCAL_HOST, FakeBroker, ask


@pytest.mark.parametrize("version", range(3))
def test_the_cluster_is_described(version: int) -> None:
    response = ask(describe_cluster.handle, FakeBroker(), version, DescribeClusterRequest())
    assert response.error_code == ErrorCode.NONE
    assert response.error_message is None
    assert response.cluster_id == CLUSTER_ID
    assert response.controller_id == 1
    assert [(b.broker_id, b.host, b.port, b.rack) for b in response.brokers] == [
        (0, "broker.example", 9092, "host-0"),
        (1, LOCAL_HOST, 9093, "host-0"),
    ]
    assert not any(broker.is_fenced for broker in response.brokers)
    assert response.endpoint_type == 1
    assert response.cluster_authorized_operations == -(2**31)


@pytest.mark.parametrize("version", range(3))
def test_authorized_operations_are_all_of_them_when_asked_for(version: int) -> None:
    request = DescribeClusterRequest(include_cluster_authorized_operations=True)
    response = ask(describe_cluster.handle, FakeBroker(), version, request)
    assert response.cluster_authorized_operations == 0b1_1111_1010_0000


def test_fenced_brokers_can_be_asked_for_and_there_are_none() -> None:
    request = DescribeClusterRequest(include_fenced_brokers=True)
    response = ask(describe_cluster.handle, FakeBroker(), 2, request)
    assert [broker.is_fenced for broker in response.brokers] == [False, False]


@pytest.mark.parametrize(
    ("endpoint_type", "error"),
    [
        (2, ErrorCode.MISMATCHED_ENDPOINT_TYPE),
        (0, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE),
        (3, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_controllers_are_not_described_here(
    version: int, endpoint_type: int, error: ErrorCode
) -> None:
    request = DescribeClusterRequest(endpoint_type=endpoint_type)
    response = ask(describe_cluster.handle, FakeBroker(), version, request)
    assert response.error_code == error
    assert response.error_message
    assert response.brokers == []
