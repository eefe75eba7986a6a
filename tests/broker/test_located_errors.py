"""What a debug event names of the errors in a response."""

from __future__ import annotations

import pytest

from kafka_protocol.api import SUPPORTED
from kafka_protocol.api_key import ApiKey
from kafka_protocol.messages.create_topics import CreatableTopicResult, CreateTopicsResponse
from kafka_protocol.messages.describe_cluster import DescribeClusterResponse
from kafka_protocol.messages.fetch import FetchableTopicResponse, FetchResponse, PartitionData
from kafka_protocol.messages.produce import (
    PartitionProduceResponse,
    ProduceResponse,
    TopicProduceResponse,
)
from rpk_py.response_errors import LOCATED_CHARS_MAX, located_errors

TOPIC_ID = bytes(range(16))


def test_an_error_is_named_with_its_topic_and_partition() -> None:
    fine, broken = PartitionProduceResponse(0), PartitionProduceResponse(3, error_code=6)
    topics = [TopicProduceResponse(name="orders", partition_responses=[fine, broken])]
    assert located_errors(ProduceResponse(topics), 5) == ["orders 3 NOT_LEADER_OR_FOLLOWER"]


def test_a_topic_without_a_name_is_named_by_its_id() -> None:
    data = PartitionData(2, error_code=1)
    response = FetchResponse(responses=[FetchableTopicResponse("", TOPIC_ID, [data])])
    assert located_errors(response, 5) == [f"{TOPIC_ID.hex()} 2 OFFSET_OUT_OF_RANGE"]


def test_an_error_of_the_whole_request_stands_alone() -> None:
    assert located_errors(DescribeClusterResponse(error_code=42), 5) == ["INVALID_REQUEST"]
    assert located_errors(DescribeClusterResponse(error_code=9999), 5) == ["9999"]


def test_only_the_first_are_named_and_names_are_cut() -> None:
    results = [CreatableTopicResult(name="x" * 40_000, error_code=17) for _ in range(9)]
    response = CreateTopicsResponse(topics=results)
    assert located_errors(response, 2) == [f"{'x' * LOCATED_CHARS_MAX} INVALID_TOPIC_EXCEPTION"] * 2


@pytest.mark.parametrize("api_key", SUPPORTED, ids=lambda key: ApiKey(key).name)
def test_every_response_can_be_searched(api_key: int) -> None:
    assert located_errors(SUPPORTED[api_key].response(), 5) == []
