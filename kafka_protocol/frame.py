"""Frames: a size, a header and a message. Here bad bytes of the network become DecodeError.

A request frame is decoded without its 4-byte size, which the connection has already used; a
response is encoded with it. Records are slices of the frame on decode and stay separate buffers on
encode, so that megabytes are never copied here.

Invariants: any bytes give a message, a DecodeError or an UnsupportedVersion, and in bounded time:
a request has at most wire.ITEMS_MAX items, or as many as the caller says, and only Produce may be
larger than api.REQUEST_BYTES_MAX. A message ends exactly where its frame ends.

That last rule is ours: Kafka ignores the bytes that follow a request (RequestContext.parseRequest
does not look at what remains). Here they are a DecodeError, since they show that one side
misunderstands the other; the one known client that sends some is let through, see _is_stray_end.

Source: Kafka's RequestHeader v1 and v2, ResponseHeader v0 and v1 (KIP-482, KIP-511).
"""

from __future__ import annotations

import functools
import struct as pystruct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kafka_protocol import wire
from kafka_protocol.api import SUPPORTED, ApiSpec
from kafka_protocol.api_key import ApiKey
from kafka_protocol.closures import compile_decoder, compile_encoder, limited_decoder
from kafka_protocol.errors import BAD_BYTES, DecodeError, UnsupportedVersion
from kafka_protocol.messages import fetch, produce
from kafka_protocol.schema import info_of
from kafka_protocol.wire import (
    ITEMS_MAX,
    UNLIMITED,
    Buffer,
    CountReaders,
    PartsWriter,
    Reader,
    limited_counts,
)

# The four hot messages: functions by hand that are used instead of the compiled closures.
HAND_DECODERS: dict[type, Callable[[int, CountReaders], Reader]] = {
    produce.ProduceRequest: produce.request_decoder,
    fetch.FetchRequest: fetch.request_decoder,
}
HAND_ENCODERS: dict[type, Callable[[int], PartsWriter]] = {
    produce.ProduceResponse: produce.response_encoder,
    fetch.FetchResponse: fetch.response_encoder,
}

_REQUEST_HEADER = pystruct.Struct(">hhih")
_REQUEST_HEADER_FIXED = pystruct.Struct(">hhi")
_RESPONSE_HEADER = pystruct.Struct(">ii")
_SIZE = pystruct.Struct(">i")


@dataclass(slots=True)
class RequestHeader:
    """The header of a request; client_id is None where the client sent null."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None


def decode_request(frame: memoryview, items_max: int = ITEMS_MAX) -> tuple[RequestHeader, Any]:
    """Decode one request frame.

    Shapes:  frame  everything after the 4-byte size, format "B"; records in the message are
                    slices of it, so they live as long as the frame's bytes do
             items_max  array items and tagged fields that it may have together
    Returns: the header and the request dataclass
    Raises:  DecodeError         the bytes are not what they say; close the connection. TooManyItems
                                 where they only say too much
             UnsupportedVersion  the api key or version is not in api.SUPPORTED
    """
    header = None
    try:
        api_key, api_version, correlation_id, length = _REQUEST_HEADER.unpack_from(frame, 0)
        decode, flexible = _request_decoder(api_key, api_version)
        if decode is None:
            raise UnsupportedVersion(
                api_key, api_version, correlation_id, _client_id_or_none(frame, length)
            )
        header = RequestHeader(api_key, api_version, correlation_id, None)
        pos = 10
        if length >= 0:
            pos += length
            header.client_id = str(frame[10:pos], "utf-8")
        elif length != -1:
            raise DecodeError(f"negative client id length {length}", 8)
        counts = UNLIMITED
        if len(frame) > items_max:  # a shorter one cannot have more items: each takes a byte
            decode, counts = _limited_decoder(
                SUPPORTED[api_key], api_version, len(frame), items_max
            )
        if flexible:
            pos = wire.skip_tagged_fields(frame, pos, counts) if frame[pos] else pos + 1
        message, pos = decode(frame, pos)
        if pos != len(frame) and not _is_stray_end(header, message, len(frame) - pos):
            raise _wrong_end(pos, len(frame))
    except DecodeError as error:
        if header is not None:
            error.api_key, error.api_version = header.api_key, header.api_version
        raise
    except BAD_BYTES as error:
        raise _bad_bytes(error, header) from error
    return header, message


def encode_response(api_key: int, version: int, correlation_id: int, message: Any) -> list[Buffer]:
    """Encode one response with its size and header.

    Returns: buffers to be sent one after the other; the first begins with the size, large records
             are the caller's own views, which must stay unchanged until they are sent
    Raises:  KeyError for an API or version that is not served, struct.error and the like for
             values that do not fit their field: our own mistakes
    """
    encode, flexible = _response_encoder(api_key, version)
    out = bytearray(8)
    if flexible:
        out.append(0)
    parts = encode(out, message)
    size_bytes = len(out) if len(parts) == 1 else sum(map(len, parts))
    _RESPONSE_HEADER.pack_into(out, 0, size_bytes - 4, correlation_id)
    return parts


def encode_request(message: Any, version: int, correlation_id: int, client_id: str | None) -> bytes:
    """Encode one request with its size and header (for clients: the command line, tests)."""
    cls: Any = type(message)
    info = info_of(cls)
    out = bytearray(4)
    out += _REQUEST_HEADER_FIXED.pack(info.api_key, version, correlation_id)
    wire.write_nullable_string(out, client_id)
    if version >= info.flexible:
        out.append(0)
    compile_encoder(cls, version)(out, message)
    _SIZE.pack_into(out, 0, len(out) - 4)
    return bytes(out)


def decode_response(api_key: int, version: int, frame: memoryview) -> tuple[int, Any]:
    """Decode one response frame without its size (for clients); (correlation_id, message).

    Raises DecodeError as decode_request does.
    """
    spec = SUPPORTED[api_key]
    header = RequestHeader(api_key, version, 0, None)
    try:
        (correlation_id,) = wire.read_int32s(frame, 0)
        pos = 4
        if _has_flexible_header(api_key, version):
            pos = wire.skip_tagged_fields(frame, pos)
        message, pos = compile_decoder(spec.response, version)(frame, pos)
        if pos != len(frame):
            raise _wrong_end(pos, len(frame))
    except DecodeError as error:
        error.api_key, error.api_version = api_key, version
        raise
    except BAD_BYTES as error:
        raise _bad_bytes(error, header) from error
    return correlation_id, message


@functools.cache
def _decoder(api_key: int, version: int) -> tuple[Reader, bool]:
    spec = SUPPORTED[api_key]
    by_hand = HAND_DECODERS.get(spec.request)
    if by_hand is not None:
        return by_hand(version, UNLIMITED), version >= spec.first_flexible
    return compile_decoder(spec.request, version), version >= spec.first_flexible


def _limited_decoder(
    spec: ApiSpec, version: int, size_bytes: int, items_max: int
) -> tuple[Reader, CountReaders]:
    """A decoder for one large request only, that counts its items; made in some microseconds."""
    bytes_max = spec.request_bytes_max
    if bytes_max is not None and size_bytes > bytes_max:
        raise DecodeError(f"request of {size_bytes} bytes, {bytes_max} allowed (REQUEST_BYTES_MAX)")
    counts = limited_counts(items_max)
    by_hand = HAND_DECODERS.get(spec.request)
    if by_hand is not None:
        return by_hand(version, counts), counts
    return limited_decoder(spec.request, version, counts), counts


def _request_decoder(api_key: int, version: int) -> tuple[Reader | None, bool]:
    """The decoder of a served request, or None; not cached for what a peer merely invents."""
    spec = SUPPORTED.get(api_key)
    if spec is None or not spec.min_version <= version <= spec.max_version:
        return None, False
    return _decoder(api_key, version)


@functools.cache
def _response_encoder(api_key: int, version: int) -> tuple[PartsWriter, bool]:
    spec = SUPPORTED[api_key]
    if not spec.min_version <= version <= spec.max_version:
        raise KeyError(f"{spec.key.name} version {version} is not served")
    by_hand = HAND_ENCODERS.get(spec.response)
    if by_hand is not None:
        return by_hand(version), _has_flexible_header(api_key, version)
    write = compile_encoder(spec.response, version)

    def encode(out: bytearray, message: Any) -> list[Buffer]:
        write(out, message)
        return [out]

    return encode, _has_flexible_header(api_key, version)


def _has_flexible_header(api_key: int, version: int) -> bool:
    """ApiVersions always has response header v0: its client does not know our versions yet."""
    return api_key != ApiKey.API_VERSIONS and version >= SUPPORTED[api_key].first_flexible


def _client_id_or_none(frame: memoryview, length: int) -> str | None:
    """The client id of a request whose header we may misread: only for a log line or a reply."""
    if length < 0 or 10 + length > len(frame):
        return None
    return str(frame[10 : 10 + length], "utf-8", "replace")


def _is_stray_end(header: RequestHeader, message: Any, stray_bytes: int) -> bool:
    """Whether these are the bytes that librdkafka (2.1.0 and newer) sends too many.

    It asks for all topics with Metadata v9+ by a null array that it writes as 4 zero bytes, where
    a compact null is one (confluentinc/librdkafka#5049). Kafka reads the other three as the fields
    that follow, all false, and ignores the rest. That is 3 bytes, or 1 in v9 and v10 if auto
    creation is allowed: its flag then stands where the count of tagged fields is read.
    """
    return (
        header.api_key == ApiKey.METADATA
        and header.api_version >= SUPPORTED[ApiKey.METADATA].first_flexible
        and message.topics is None
        and (stray_bytes == 3 or (stray_bytes == 1 and header.api_version <= 10))
    )


def _wrong_end(pos: int, size_bytes: int) -> DecodeError:
    if pos > size_bytes:
        return DecodeError("the frame ends inside a field", size_bytes)
    return DecodeError(f"{size_bytes - pos} bytes after the end of the message", pos)


def _bad_bytes(error: Exception, header: RequestHeader | None) -> DecodeError:
    if isinstance(error, UnicodeDecodeError):
        reason = "a string is not UTF-8"
    else:
        reason = "the frame ends inside a field"
    if header is None:
        return DecodeError(reason)
    return DecodeError(reason, None, header.api_key, header.api_version)
