"""Rows: what is no request at all, headers, and how frames may arrive."""

from __future__ import annotations

import random
import struct

from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import encode_request
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.describe_cluster import DescribeClusterRequest
from kafka_protocol.messages.metadata import MetadataRequest
from tests.hostile.table import (
    CLIENT_ID,
    CLOSE,
    FIRST_ID,
    NO_ANSWER,
    Asked,
    Expect,
    Row,
    Sent,
    answer,
    ask,
    ask_all,
    raw,
)
from tests.hostile.target import Target

_RECEIVE = "NetworkReceive of Apache Kafka: a size below 0 or above socket.request.max.bytes"
_PARSE = "RequestHeader.parse, Processor.processCompletedReceives of Apache Kafka"
_KIP_511 = "KIP-511"
_KIP_482 = "KIP-482"

# As openssl sends it: a record of 517 bytes, handshake, client hello.
_TLS_HELLO = bytes.fromhex("16030102000100") + random.Random(1).randbytes(510)
_HTTP = b"GET / HTTP/1.1\r\nHost: broker:9092\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"


def frame(body: bytes, size: int | None = None) -> bytes:
    """A frame of this body; `size` is a lie about it."""
    return struct.pack(">i", len(body) if size is None else size) + body


def header(api_key: int, version: int, correlation_id: int = FIRST_ID) -> bytes:
    """A request header v1."""
    return struct.pack(">hhih4s", api_key, version, correlation_id, 4, b"host")


def flexible(body: bytes, tags: bytes = b"\0", client_id: bytes = b"\0\4host") -> bytes:
    """A DescribeCluster v0 with this body; header v2 with this section of tagged fields."""
    head = struct.pack(">hhi", ApiKey.DESCRIBE_CLUSTER, 0, FIRST_ID)
    return frame(head + client_id + tags + body)


def random_bytes(seed: int) -> bytes:
    """Noise that does not begin with a size that could be one."""
    return b"\x7f" + random.Random(seed).randbytes(2_000)


def random_frame(seed: int) -> bytes:
    """Noise in a frame whose size is true."""
    return frame(random.Random(seed).randbytes(200))


def unserved(api_key: int, version: int) -> Sent:
    """A header and some body of an API or version."""
    return Sent((frame(header(api_key, version) + bytes(8)),), (Asked(api_key, version, FIRST_ID),))


def api_versions(version: int) -> Sent:
    """ApiVersions in a version that nobody knows, with a body that nobody can read."""
    body = header(ApiKey.API_VERSIONS, version) + b"\0 what may be here"
    return Sent((frame(body),), (Asked(ApiKey.API_VERSIONS, version, FIRST_ID),))


def tagged(tags: bytes) -> Sent:
    """A sound request whose header has this section of tagged fields."""
    body = b"\0\0"  # include_cluster_authorized_operations, no tagged fields
    return Sent((flexible(body, tags),), (Asked(ApiKey.DESCRIBE_CLUSTER, 0, FIRST_ID),))


def with_client_id(client_id: str | None) -> Sent:
    """A sound request of a client with this name."""
    return ask(MetadataRequest([]), 1, client_id=client_id)


def with_correlation_id(correlation_id: int) -> Sent:
    """A sound request with this correlation id."""
    data = encode_request(MetadataRequest([]), 1, correlation_id, CLIENT_ID)
    return Sent((data,), (Asked(ApiKey.METADATA, 1, correlation_id),))


def byte_by_byte(_target: Target) -> Sent:
    """Two requests, each byte in a segment of its own."""
    whole = ask_all([(MetadataRequest([]), 12), (DescribeClusterRequest(), 0)])
    return Sent(tuple(bytes([byte]) for byte in whole.pieces[0]), whole.asked)


def good_then(hostile: bytes) -> Sent:
    """Three sound requests and something else in one segment."""
    good = ask_all([(MetadataRequest([]), 12)] * 3)
    return Sent((good.pieces[0] + hostile,), good.asked)


def cut(after: int) -> Sent:
    """A sound request that ends after so many of its bytes, and then the connection ends."""
    whole = ask(MetadataRequest([]), 12).pieces[0]
    return Sent((whole[:after],), eof=True)


_THREE = ({"brokers.0.node_id": lambda target: min(target.node_ids)},) * 3

ROWS = [
    # -- another protocol ----------------------------------------------------------------------
    *(
        Row(f"random bytes, seed {seed}", raw(random_bytes(seed)), CLOSE, _RECEIVE)
        for seed in range(5)
    ),
    *(
        Row(f"a frame of random bytes, seed {seed}", raw(random_frame(seed)), CLOSE, _PARSE)
        for seed in range(20)
    ),
    Row("a TLS client hello", raw(_TLS_HELLO), CLOSE, _RECEIVE),
    Row("HTTP", raw(_HTTP), CLOSE, _RECEIVE),
    Row("SSH", raw(b"SSH-2.0-OpenSSH_9.2p1\r\n"), CLOSE, _RECEIVE),
    # -- sizes ---------------------------------------------------------------------------------
    *(
        Row(f"a frame of {size:,} bytes, as it says", raw(frame(bytes(16), size)), CLOSE, _RECEIVE)
        for size in (-1, -(2**31), 2**31 - 1, 104_857_601)
    ),
    *(
        Row(f"a frame of {size} bytes", raw(frame(bytes(size))), CLOSE, _PARSE)
        for size in (0, 1, 4, 7, 8, 9)
    ),
    *(
        Row(
            f"a frame that is cut after {size} bytes", lambda _, size=size: cut(size), CLOSE, _PARSE
        )
        for size in (1, 3, 4, 5, 20)
    ),
    # -- arrival -------------------------------------------------------------------------------
    Row("a byte at a time", byte_by_byte, Expect(({}, {})), "TCP has no messages"),
    Row("several requests in one segment", lambda _: good_then(b""), Expect(_THREE), "pipelining"),
    Row(
        "several requests and an impossible size in one segment",
        lambda _: good_then(frame(b"", -1)),
        Expect(_THREE, closes=True),
        "what was asked before is answered",
    ),
    Row(
        "several requests and an unknown API in one segment",
        lambda _: good_then(frame(header(999, 0))),
        Expect(_THREE, closes=True),
        _PARSE,
    ),
    # -- headers -------------------------------------------------------------------------------
    *(
        Row(f"API {key}", lambda _, key=key: unserved(key, 0), CLOSE, _PARSE)
        for key in (-1, 999, 32767, -32768)
    ),
    Row(
        "ControlledShutdown, which Kafka 4 removed",
        lambda _: unserved(ApiKey.CONTROLLED_SHUTDOWN, 0),
        CLOSE,
        "KIP-896",
    ),
    *(
        Row(
            f"{key.name} version {version}",
            lambda _, k=key, v=version: unserved(k, v),
            CLOSE,
            _PARSE,
        )
        for key, version in (
            (ApiKey.PRODUCE, 2),
            (ApiKey.PRODUCE, -1),
            (ApiKey.FETCH, 3),
            (ApiKey.FETCH, 32767),
            (ApiKey.METADATA, 99),
            (ApiKey.LIST_OFFSETS, 0),
            (ApiKey.CREATE_TOPICS, 1),
        )
    ),
    *(
        Row(
            f"ApiVersions version {version}",
            lambda _, version=version: api_versions(version),
            answer("error_code", ErrorCode.UNSUPPORTED_VERSION, **{"api_keys.0.api_key": 18}),
            _KIP_511,
        )
        for version in (5, 127, 32767)
    ),
    Row(
        "ApiVersions version -1",
        lambda _: api_versions(-1),
        answer("error_code", ErrorCode.UNSUPPORTED_VERSION, **{"api_keys.0.api_key": 18}),
        _KIP_511,
    ),
    *(
        Row(
            f"ApiVersions of the software {name[:12]!r}",
            lambda _, name=name: ask(ApiVersionsRequest(name, "1"), 3),
            answer("error_code", ErrorCode.INVALID_REQUEST),
            _KIP_511,
        )
        for name in ("", "-", "a b", "a\0", "ключ", "-a", "a-", "a\n", " " * 30_000)
    ),
    Row("no client id", lambda _: with_client_id(None), answer(), _PARSE),
    Row("an empty client id", lambda _: with_client_id(""), answer(), _PARSE),
    Row("a client id of 32,767 bytes", lambda _: with_client_id("c" * 32_767), answer(), _PARSE),
    Row(
        "a client id of control characters",
        lambda _: with_client_id("\0\n\x1b[31m"),
        answer(),
        _PARSE,
    ),
    Row(
        "a client id of -2 bytes",
        raw(flexible(b"\0\0", client_id=b"\xff\xfe")),
        CLOSE,
        _PARSE,
    ),
    Row(
        "a client id longer than the frame",
        raw(flexible(b"\0\0", client_id=b"\x7f\xff")),
        CLOSE,
        _PARSE,
    ),
    Row(
        "a client id that is not UTF-8",
        lambda _: Sent(
            (flexible(b"\0\0", client_id=b"\0\2\xff\xfe"),),
            (Asked(ApiKey.DESCRIBE_CLUSTER, 0, FIRST_ID),),
        ),
        CLOSE,
        "strings are UTF-8",
    ),
    *(
        Row(f"correlation id {n}", lambda _, n=n: with_correlation_id(n), answer(), _PARSE)
        for n in (-1, -(2**31), 2**31 - 1, 0)
    ),
    Row(
        "an unknown tagged field in the header",
        lambda _: tagged(b"\x01\x63\x03abc"),
        answer(),
        _KIP_482,
    ),
    Row(
        "an unknown tagged field in the header twice",
        lambda _: tagged(b"\x02\x63\x01a\x63\x01b"),
        answer(),
        _KIP_482,
    ),
    Row(
        "2^31-1 tagged fields in the header",
        raw(flexible(b"", b"\xff\xff\xff\xff\x07")),
        CLOSE,
        _KIP_482,
    ),
    Row(
        "a tagged field of 2^31-1 bytes in the header",
        raw(flexible(b"", b"\x01\x63\xff\xff\xff\xff\x07")),
        CLOSE,
        _KIP_482,
    ),
    Row("a varint of 6 bytes", raw(flexible(b"", b"\xff\xff\xff\xff\xff\x01")), CLOSE, _KIP_482),
    Row("nothing, and the end", raw(eof=True), CLOSE, "TCP"),
    Row("nothing", raw(), NO_ANSWER, "TCP"),
]
