"""rpk_py.handlers.api_versions: the table of what is served, and the two refusals."""

from __future__ import annotations

import pytest

from kafka_protocol.api import SUPPORTED, ApiKey
from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import decode_response, encode_response
from kafka_protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from rpk_py.handlers import api_versions
from tests.broker.fakes import FakeBroker, ask


def ranges(response: ApiVersionsResponse) -> dict[int, tuple[int, int]]:
    return {entry.api_key: (entry.min_version, entry.max_version) for entry in response.api_keys}


def request(name: str = "librdkafka", version: str = "2.16.1") -> ApiVersionsRequest:
    return ApiVersionsRequest(client_software_name=name, client_software_version=version)


@pytest.mark.parametrize("version", range(5))
def test_every_version_lists_exactly_what_is_served(version: int) -> None:
    response = ask(api_versions.handle, FakeBroker(), version, request())
    assert response.error_code == ErrorCode.NONE
    assert ranges(response) == {
        spec.key: (spec.advertised_min, spec.max_version) for spec in SUPPORTED.values()
    }
    keys = [entry.api_key for entry in response.api_keys]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        (ApiKey.PRODUCE, 0, 13),
        (ApiKey.FETCH, 4, 18),
        (ApiKey.LIST_OFFSETS, 1, 11),
        (ApiKey.METADATA, 0, 13),
        (ApiKey.API_VERSIONS, 0, 4),
        (ApiKey.CREATE_TOPICS, 2, 7),
        (ApiKey.DELETE_TOPICS, 1, 6),
        (ApiKey.INIT_PRODUCER_ID, 0, 5),
        (ApiKey.OFFSET_FOR_LEADER_EPOCH, 2, 4),
        (ApiKey.DESCRIBE_CLUSTER, 0, 2),
    ],
)
def test_the_ranges_are_the_ones_that_clients_need(key: ApiKey, low: int, high: int) -> None:
    response = ask(api_versions.handle, FakeBroker(), 4, request())
    assert ranges(response)[key] == (low, high)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("bad", ["", "-", "a b", "a-", ".a", "a\n", "ä", "a_b"])
def test_a_software_name_that_is_none_is_refused_with_an_empty_list(version: int, bad: str) -> None:
    for refused in (request(name=bad), request(version=bad)):
        response = ask(api_versions.handle, FakeBroker(), version, refused)
        assert response.error_code == ErrorCode.INVALID_REQUEST
        assert response.api_keys == []


@pytest.mark.parametrize("good", ["a", "7", "apache-kafka-java", "4.1.0", "kafka-python.x"])
def test_a_software_name_that_is_one_is_accepted(good: str) -> None:
    response = ask(api_versions.handle, FakeBroker(), 3, request(name=good, version=good))
    assert response.error_code == ErrorCode.NONE


def test_an_unknown_version_is_told_our_range_in_version_zero() -> None:
    frame = b"".join(encode_response(ApiKey.API_VERSIONS, 0, 9, api_versions.error_response()))
    correlation_id, response = decode_response(ApiKey.API_VERSIONS, 0, memoryview(frame)[4:])
    assert correlation_id == 9
    assert response.error_code == ErrorCode.UNSUPPORTED_VERSION
    assert ranges(response) == {ApiKey.API_VERSIONS: (0, 4)}
    assert frame[4:10] == bytes.fromhex("00000009 0023")  # no tag byte after the correlation id


def test_no_feature_is_announced() -> None:
    response = ask(api_versions.handle, FakeBroker(), 4, request())
    assert response.finalized_features_epoch == -1
    assert response.supported_features == []
    assert response.finalized_features == []
