"""The golden frames: bytes of real clients and of kio, in both directions."""

from __future__ import annotations

import pytest

from kafka_protocol import frame
from kafka_protocol.api import SUPPORTED
from kafka_protocol.schema import info_of
from tests.protocol.cases import Case
from tests.protocol.declared import DECLARED
from tests.protocol.golden import REQUESTS, RESPONSES


def _served(cases: list[Case]) -> list[Case]:
    return [case for case in cases if info_of(type(case.message)).api_key in SUPPORTED]


def _id(case: Case) -> str:
    return f"{type(case.message).__name__}-v{case.version}-{case.source.replace(' ', '-')}"


@pytest.mark.parametrize("case", _served(REQUESTS), ids=_id)
def test_request_decodes_to_its_message_and_back(case: Case) -> None:
    header, message = frame.decode_request(memoryview(case.frame))
    assert message == case.message
    assert header == frame.RequestHeader(
        info_of(type(case.message)).api_key, case.version, case.correlation_id, case.client_id
    )
    encoded = frame.encode_request(message, case.version, case.correlation_id, case.client_id)
    assert encoded[4:].hex() == case.frame.hex()
    assert int.from_bytes(encoded[:4], "big") == len(case.frame)


@pytest.mark.parametrize("case", _served(RESPONSES), ids=_id)
def test_response_encodes_to_its_bytes_and_back(case: Case) -> None:
    api_key = info_of(type(case.message)).api_key
    parts = frame.encode_response(api_key, case.version, case.correlation_id, case.message)
    encoded = b"".join(parts)
    assert encoded[4:].hex() == case.frame.hex()
    assert int.from_bytes(encoded[:4], "big") == len(case.frame)
    assert frame.decode_response(api_key, case.version, memoryview(case.frame)) == (
        case.correlation_id,
        case.message,
    )


@pytest.mark.parametrize("cases", [REQUESTS, RESPONSES], ids=["requests", "responses"])
def test_every_api_has_a_golden_case(cases: list[Case]) -> None:
    declared = {info_of(cls).api_key for cls, _ in DECLARED}
    assert {info_of(type(case.message)).api_key for case in cases} == declared
