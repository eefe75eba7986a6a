"""Send a row's bytes on a new connection and say what the broker did."""

from __future__ import annotations

import time
from typing import Any

from kafka_protocol.api import SUPPORTED
from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import DecodeError
from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from tests.hostile.table import Asked, Observed, Sent
from tests.hostile.target import DEADLINE_S, Closed, Socket, Target

PROBE_ID = 0x0B5E55ED  # the correlation id of the request that shows whether a connection lives


def observe(target: Target, sent: Sent, deadline_s: float = DEADLINE_S) -> Observed:
    """Send it, read every answer, then ask something sound on the same connection.

    The last shows in a moment, without a time-out, that a connection is closed, or lives on and
    is still in step. It is sent once the expected answers are here: a broker that closes with
    unread bytes resets the connection, and a reset may take answers with it.
    """
    seen = Observed()
    started = time.monotonic()
    deadline = started + deadline_s
    connection = Socket(target.address)
    try:
        for piece in sent.pieces:
            connection.send(piece, deadline_s)
        if sent.eof:
            connection.end()
        for _ in sent.asked:
            if not _take(connection.frame(deadline), sent.asked, seen):
                return seen
        if not sent.eof:
            connection.send(encode_request(ApiVersionsRequest("probe", "1"), 0, PROBE_ID, None))
        while _take(connection.frame(deadline), sent.asked, seen):
            pass
    except Closed:
        seen.closed = True
    except TimeoutError:
        seen.hung = True
    except ValueError as error:
        seen.problem = str(error)
    finally:
        seen.took_s = time.monotonic() - started
        connection.close()
    return seen


def _take(frame: memoryview, asked: tuple[Asked, ...], seen: Observed) -> bool:
    """Note one answer; False after the probe's, or when nothing more can be learned."""
    correlation_id = int.from_bytes(frame[:4], "big", signed=True)
    if correlation_id == PROBE_ID:
        return False
    number = len(seen.answers)
    if number >= len(asked):
        seen.answers.append(None)
        return True
    wanted = asked[number]
    if correlation_id != wanted.correlation_id:
        seen.problem = f"correlation id {correlation_id} instead of {wanted.correlation_id}"
        return False
    try:
        seen.answers.append(_decode(wanted, frame))
    except DecodeError as error:
        seen.problem = f"an answer that cannot be decoded: {error}"
        return False
    return True


def _decode(asked: Asked, frame: memoryview) -> Any:
    if asked.api_key not in SUPPORTED:
        return None
    if asked.api_key == ApiKey.API_VERSIONS and not 0 <= asked.version <= 4:
        return decode_response(ApiKey.API_VERSIONS, 0, frame)[1]  # KIP-511
    return decode_response(asked.api_key, asked.version, frame)[1]
