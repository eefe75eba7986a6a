"""Every field of every served request in every version, with each of its hostile values.

The oracle is the codec: a body that decodes is answered, with its own correlation id, in a frame
that decodes, within the deadline; one that does not closes the connection. What it must be answered
with is the table's matter.
"""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest

from kafka_protocol.api import SUPPORTED, ApiSpec
from kafka_protocol.errors import DecodeError
from kafka_protocol.frame import decode_request, decode_response, encode_request
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from tests.hostile.conftest import BrokerLog
from tests.hostile.fields import Mutant, mutants, pieces
from tests.hostile.target import DEADLINE_S, Closed, Socket, Target
from tests.hostile.valid import requests

CLIENT_ID = b"\0\7hostile"
VERSIONS = [
    pytest.param(spec, version, id=f"{spec.key.name}-v{version}")
    for spec in SUPPORTED.values()
    for version in range(spec.min_version, spec.max_version + 1)
]


def base(spec: ApiSpec, version: int, target: Target) -> Any:
    """The sound request of this API."""
    (found,) = [each for each in requests(target, version) if type(each) is spec.request]
    return found


def frame(spec: ApiSpec, version: int, correlation_id: int, body: bytes) -> bytes:
    """A frame of this body, without its size."""
    header = struct.pack(">hhi", spec.key, version, correlation_id) + CLIENT_ID
    return header + (b"\0" if version >= spec.first_flexible else b"") + body


@pytest.mark.parametrize(("spec", "version"), VERSIONS)
def test_pieces_are_what_the_codec_writes(spec: ApiSpec, version: int, target: Target) -> None:
    request = base(spec, version, target)
    body = b"".join(piece.data for piece in pieces(request, version))
    written = encode_request(request, version, 5, "hostile")
    assert written[4:] == frame(spec, version, 5, body)


@pytest.mark.parametrize(("spec", "version"), VERSIONS)
def test_every_field_is_exchanged(spec: ApiSpec, version: int, target: Target) -> None:
    request = base(spec, version, target)
    exchanged = {mutant.name.partition(":")[0] for mutant in mutants(request, version)}
    assert {piece.path for piece in pieces(request, version)} <= exchanged


@pytest.mark.parametrize(("spec", "version"), VERSIONS)
def test_every_field_with_hostile_values_is_answered_or_closes(
    spec: ApiSpec, version: int, target: Target, broker_log: BrokerLog
) -> None:
    connection = Socket(target.address)
    for number, mutant in enumerate(mutants(base(spec, version, target), version), 1):
        sent = frame(spec, version, number, mutant.body)
        try:
            header_and_request = decode_request(memoryview(sent))
        except DecodeError:
            decodes, answered = False, False
        else:
            decodes = True
            answered = getattr(header_and_request[1], "acks", -1) != 0
        closed = _exchange(connection, spec, version, number, mutant, sent, answered)
        if answered:
            assert not closed, f"{mutant.name}: closed, but it decodes"
        elif not decodes:
            assert closed, f"{mutant.name}: it does not decode, and yet no close"
        if closed:
            connection.close()
            connection = Socket(target.address)
    connection.close()
    assert target.check_health() < 1.0
    assert broker_log.complaints() == []


def _exchange(
    connection: Socket,
    spec: ApiSpec,
    version: int,
    correlation_id: int,
    mutant: Mutant,
    sent: bytes,
    answered: bool,
) -> bool:
    """Send a frame; True if the broker closed the connection, False if it answered rightly."""
    probe = b"" if answered else encode_request(_PROBE, 0, _PROBE_ID, None)
    try:
        connection.send(struct.pack(">i", len(sent)) + sent + probe)
        answer = connection.frame(time.monotonic() + DEADLINE_S)
    except Closed:
        return True
    except TimeoutError:
        raise AssertionError(f"{mutant.name}: neither an answer nor a close") from None
    if answered:
        decoded = decode_response(spec.key, version, answer)
        assert decoded[0] == correlation_id, mutant.name
    else:
        assert int.from_bytes(answer[:4], "big") == _PROBE_ID, f"{mutant.name}: an answer"
    return False


_PROBE_ID = 0x0B5E55ED
_PROBE = ApiVersionsRequest("probe", "1")
