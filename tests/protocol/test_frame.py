"""Frames: headers, truncation, trailing bytes, unknown tags, and what is not served."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kafka_protocol import closures, frame, wire
from kafka_protocol.api import SUPPORTED, ApiKey
from kafka_protocol.errors import DecodeError, ErrorCode, UnsupportedVersion
from kafka_protocol.messages import api_versions, fetch, metadata, produce
from kafka_protocol.schema import info_of
from tests.protocol.cases import Case
from tests.protocol.cases_requests import REQUESTS
from tests.protocol.cases_responses import RESPONSES
from tests.protocol.values import random_value

FLEXIBLE = [
    (spec.key, version)
    for spec in SUPPORTED.values()
    for version in range(spec.first_flexible, spec.max_version + 1)
]


def _id(value: Any) -> str:
    if isinstance(value, Case):
        return f"{type(value.message).__name__}-v{value.version}"
    return value.name if isinstance(value, ApiKey) else str(value)


def _decode_response(case: Case, data: bytes) -> None:
    api_key = info_of(type(case.message)).api_key
    frame.decode_response(api_key, case.version, memoryview(data))


@pytest.mark.parametrize("case", REQUESTS, ids=_id)
def test_every_truncated_request_is_a_decode_error(case: Case) -> None:
    for size in range(len(case.frame)):
        with pytest.raises(DecodeError):
            frame.decode_request(memoryview(case.frame)[:size])


@pytest.mark.parametrize("case", RESPONSES, ids=_id)
def test_every_truncated_response_is_a_decode_error(case: Case) -> None:
    for size in range(len(case.frame)):
        with pytest.raises(DecodeError):
            _decode_response(case, case.frame[:size])


@pytest.mark.parametrize("case", REQUESTS, ids=_id)
def test_bytes_after_a_request_are_a_decode_error(case: Case) -> None:
    with pytest.raises(DecodeError, match="after the end"):
        frame.decode_request(memoryview(case.frame + b"\0"))


@pytest.mark.parametrize(
    ("version", "body"),
    [
        (13, "00000000 01 00 00"),  # sent by 2.16.0: auto creation, topic operations, no tags
        (12, "00000000 00 00 00"),
        (9, "00000000 00 00 00 00"),  # v9 and v10 have cluster operations too
        (9, "00000000 01 00 00 00"),  # auto creation is read as the count of tagged fields
        (10, "00000000 01 00 00 00"),
    ],
)
def test_librdkafka_asks_for_all_topics_with_stray_bytes(version: int, body: str) -> None:
    """It writes null as 4 zero bytes instead of 1; the fields are read as Kafka reads them."""
    data = bytes.fromhex(f"0003{version:04x}000000030007 72646b61666b61 00" + body)
    header, request = frame.decode_request(memoryview(data))
    assert header.client_id == "rdkafka"
    assert request.topics is None
    assert not request.allow_auto_topic_creation
    with pytest.raises(DecodeError, match="after the end"):
        frame.decode_request(memoryview(data + b"\0"))


@pytest.mark.parametrize("stray_bytes", [1, 3])
@pytest.mark.parametrize(("version", "topics"), [(9, ["t"]), (12, []), (8, None), (1, None)])
def test_stray_bytes_are_refused_where_librdkafka_sends_none(
    version: int, topics: list[str] | None, stray_bytes: int
) -> None:
    request = metadata.MetadataRequest(None)
    if topics is not None:
        request.topics = [metadata.MetadataRequestTopic(name=name) for name in topics]
    data = frame.encode_request(request, version, 1, None)[4:]
    with pytest.raises(DecodeError, match=f"{stray_bytes} bytes after the end"):
        frame.decode_request(memoryview(data + bytes(stray_bytes)))


@pytest.mark.parametrize("case", RESPONSES, ids=_id)
def test_bytes_after_a_response_are_a_decode_error(case: Case) -> None:
    with pytest.raises(DecodeError, match="after the end"):
        _decode_response(case, case.frame + b"\0")


@pytest.mark.parametrize(("api_key", "version"), FLEXIBLE, ids=_id)
def test_unknown_tagged_fields_are_skipped_wherever_tags_may_stand(
    api_key: int, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SUPPORTED[api_key]
    write_known = closures.tags_writer

    def tags_writer(cls: type, version: int) -> wire.Writer:
        known = write_known.__wrapped__(cls, version)

        def write(out: bytearray, obj: Any) -> None:
            section = bytearray()
            known(section, obj)
            count, pos = wire.read_uvarint(memoryview(section), 0)
            wire.write_uvarint(out, count + 2)
            out += bytes(section[pos:])
            out += b"\xe7\x07\x03abc"  # tag 999 with three bytes
            out += b"\xe8\x07\x00"  # tag 1000, empty

        return write

    monkeypatch.setattr(closures, "tags_writer", tags_writer)
    rng = random.Random(f"{api_key}-{version}")
    for cls in (spec.request, spec.response):
        value = random_value(cls, version, rng)
        out = bytearray()
        closures.compile_encoder.__wrapped__(cls, version)(out, value)
        if cls is spec.request:
            head = wire.pack_int32((api_key << 16) | version) + b"\0\0\0\1" + b"\xff\xff"
            data = memoryview(head + b"\x01\x8f\x4e\x02xy" + out)  # also in the header
            assert frame.decode_request(data)[1] == value
        else:
            tags = b"" if api_key == ApiKey.API_VERSIONS else b"\x01\x8f\x4e\x02xy"
            data = memoryview(b"\0\0\0\1" + tags + out)
            assert frame.decode_response(api_key, version, data) == (1, value)


@pytest.mark.parametrize("version", range(5))
def test_the_response_header_of_api_versions_has_no_tagged_fields(version: int) -> None:
    response = api_versions.ApiVersionsResponse(api_keys=[api_versions.ApiVersion(18, 0, 4)])
    (data,) = frame.encode_response(ApiKey.API_VERSIONS, version, 7, response)
    assert data[4:10] == b"\0\0\0\7" + b"\0\0"  # correlation id, then at once the error code


def test_an_unsupported_version_keeps_what_a_reply_needs() -> None:
    """KIP-511: ApiVersions v99 is answered with v0, so its body must not be looked at."""
    data = bytes.fromhex("0012 0063 0000002a 0003") + b"cli" + b"\xff\xff\xff"
    with pytest.raises(UnsupportedVersion) as caught:
        frame.decode_request(memoryview(data))
    error = caught.value
    assert (error.api_key, error.api_version, error.correlation_id) == (18, 99, 42)
    assert error.client_id == "cli"


@pytest.mark.parametrize(
    ("api_key", "version"),
    [(0, 0), (0, 2), (0, 14), (1, 3), (1, 19), (3, 14), (3, -1), (22, 6), (4, 0), (99, 0), (-1, 0)],
)
def test_what_is_not_served_is_an_unsupported_version(api_key: int, version: int) -> None:
    head = api_key.to_bytes(2, "big", signed=True) + version.to_bytes(2, "big", signed=True)
    with pytest.raises(UnsupportedVersion) as caught:
        frame.decode_request(memoryview(head + b"\0\0\0\5" + b"\xff\xff"))
    assert caught.value.correlation_id == 5
    assert caught.value.client_id is None
    with pytest.raises(KeyError):
        frame.encode_response(api_key, version, 1, None)


def test_produce_is_advertised_from_version_0_but_served_from_3() -> None:
    spec = SUPPORTED[ApiKey.PRODUCE]
    assert (spec.advertised_min, spec.min_version, spec.max_version) == (0, 3, 13)
    others = [s for s in SUPPORTED.values() if s.key != ApiKey.PRODUCE]
    assert all(s.advertised_min == s.min_version for s in others)


@pytest.mark.parametrize("client_id", [None, "", "kcat", "ä☃" * 100])
@pytest.mark.parametrize("version", [8, 9])  # header v1 and v2: the client id is the same in both
def test_client_id_may_be_null_empty_or_long(client_id: str | None, version: int) -> None:
    data = frame.encode_request(metadata.MetadataRequest(), version, -1, client_id)
    header, _ = frame.decode_request(memoryview(data)[4:])
    assert header == frame.RequestHeader(3, version, -1, client_id)


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("client id length", "0003 0000 00000001 fffe 00000000"),
        ("ends inside", "0003 0000 00000001 7fff 00000000"),
        ("not UTF-8", "0003 0000 00000001 0002 c328 00000000"),
        ("null array", "0003 0000 00000001 ffff ffffffff"),
        ("negative length", "0003 0001 00000001 ffff fffffffe"),
        ("do not fit", "0003 0001 00000001 ffff 7fffffff"),
        ("null is not allowed", "0003 0001 00000001 ffff 00000001 ffff"),
        ("not UTF-8", "0003 0001 00000001 ffff 00000001 0001 80"),
        ("null string", "0003 0009 00000001 ffff 00 02 00 00 00000000"),
        ("32 bits", "0003 0009 00000001 ffff 00 ffffffff1f 00 00000000"),
        ("5 bytes", "0003 0009 00000001 ffff 00 808080808001 00 00000000"),
        ("tagged field 1 ends", "0012 0003 00000001 ffff 00 02 61 02 61 01 00 05"),
    ],
)
def test_malformed_requests_say_what_is_wrong_and_where(reason: str, body: str) -> None:
    data = bytes.fromhex(body.replace(" ", ""))
    if reason.startswith("tagged"):
        # The request of ApiVersions has no tagged fields of its own: Fetch does.
        fetch_frame = frame.encode_request(fetch.FetchRequest(cluster_id="c"), 12, 1, None)[4:]
        assert fetch_frame.endswith(b"\x01\x00\x02\x02c")
        data = fetch_frame[:-3] + b"\x03\x02c!"
        reason = "tagged field 0 ends"
    with pytest.raises(DecodeError, match=reason) as caught:
        frame.decode_request(memoryview(data))
    assert caught.value.api_key == int.from_bytes(data[:2], "big")
    assert caught.value.api_version == int.from_bytes(data[2:4], "big")
    assert f"api key {caught.value.api_key} v{caught.value.api_version}" in str(caught.value)


def test_a_frame_shorter_than_a_header_is_a_decode_error_without_an_api() -> None:
    with pytest.raises(DecodeError) as caught:
        frame.decode_request(memoryview(b"\0\3\0"))
    assert caught.value.api_key is None


def test_records_of_a_decoded_request_are_slices_of_the_frame() -> None:
    data = produce.PartitionProduceData(0, memoryview(b"records"))
    request = produce.ProduceRequest(topic_data=[produce.TopicProduceData("t", b"i" * 16, [data])])
    for version in range(3, 14):
        whole = frame.encode_request(request, version, 1, None)
        _, decoded = frame.decode_request(memoryview(whole)[4:])
        assert decoded.topic_data[0].partition_data[0].records.obj is whole


def test_a_fetch_response_begins_with_its_size_and_keeps_large_records_apart() -> None:
    records = memoryview(b"x" * 100_000)
    partition = fetch.PartitionData(records=records)
    response = fetch.FetchResponse(
        responses=[fetch.FetchableTopicResponse("t", b"i" * 16, [partition])]
    )
    for version in range(4, 19):
        parts = frame.encode_response(ApiKey.FETCH, version, 9, response)
        assert parts[1] is records
        assert int.from_bytes(parts[0][:4], "big") == sum(map(len, parts)) - 4
        assert sum(len(part) for part in parts if part is not records) < 200


def test_error_codes_know_what_may_be_retried() -> None:
    assert ErrorCode.NOT_LEADER_OR_FOLLOWER.retriable
    assert not ErrorCode.INVALID_RECORD.retriable
    assert ErrorCode.NONE == 0
    assert not ErrorCode.NONE.retriable


def test_error_codes_are_those_of_kio() -> None:
    from kio.schema.errors import ErrorCode as Theirs

    ours = {code.name.lower(): (code.value, code.retriable) for code in ErrorCode}
    assert ours == {code.name: (int(code.value), code.retriable) for code in Theirs}


def test_null_where_it_is_not_allowed_cannot_be_encoded() -> None:
    """Our own mistake must not reach a client as a malformed response."""
    topic = metadata.MetadataResponseTopic(name=None)
    response = metadata.MetadataResponse(topics=[topic])
    assert frame.encode_response(ApiKey.METADATA, 12, 1, response)
    for version in (0, 9, 11):
        with pytest.raises((AttributeError, ValueError)):
            frame.encode_response(ApiKey.METADATA, version, 1, response)
    response = metadata.MetadataResponse(topics=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not allowed"):
        frame.encode_response(ApiKey.METADATA, 12, 1, response)
