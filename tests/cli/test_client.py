"""The client against peers that are no Kafka brokers, or bad ones: a clear error, in time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import pytest

from rpk_py.cli.client import parse_brokers
from rpk_py.cli.link import REPLY_BYTES_MAX
from tests.cli.commands import run
from tests.cli.listener import listening

Answer = Callable[[bytes], bytes]  # the request's correlation id -> all that the peer says


@contextmanager
def peer(answer: Answer) -> Iterator[str]:
    """A listener that answers the first request of every connection so, and closes."""

    def serve(connections: Iterator[socket.socket]) -> None:
        for connection in connections:
            with connection:
                request = connection.recv(4096)
                connection.sendall(answer(request[8:12]))

    with listening(serve) as address:
        yield address


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


TABLE: list[tuple[str, Answer, str]] = [
    ("closes", lambda _: b"", "the connection was closed instead of answering API_VERSIONS"),
    ("tls alert", lambda _: b"\x15\x03\x03\x00\x02\x02\x28", "the answer is TLS"),
    ("http", lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP server answered"),
    ("ssh", lambda _: b"SSH-2.0-OpenSSH\r\n", "begins with 'SSH-'"),
    ("huge", lambda _: (REPLY_BYTES_MAX + 1).to_bytes(4, "big"), "bytes, 268435456 are allowed"),
    ("negative", lambda _: b"\xff\xff\xff\xff", "says that it has -1 bytes"),
    ("tiny", lambda _: b"\0\0\0\3abc", "says that it has 3 bytes"),
    ("truncated", lambda cid: b"\0\0\1\0" + cid, "was closed inside the answer to API_VERSIONS"),
    ("wrong id", lambda _: framed(b"\0\0\x30\x39\0\0"), "answer 12345 where answer 1"),
    ("garbage", lambda cid: framed(cid + b"\0\0" + b"\xff" * 30), "cannot be read"),
    ("count", lambda cid: framed(cid + b"\0\0\xff\xff\xff\xff\x0f"), "cannot be read"),
    ("short", lambda cid: framed(cid), "cannot be read"),
    ("refuses", lambda cid: framed(cid + b"\0\x1f\x01\0\0\0\0\0"), "CLUSTER_AUTHORIZATION_FAILED"),
    ("serves none", lambda cid: framed(cid + b"\0\0\x01\0\0\0\0\0"), "does not serve METADATA"),
]


@pytest.mark.parametrize(("answer", "text"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE])
def test_a_peer_that_is_no_good_broker_is_named(answer: Answer, text: str) -> None:
    with peer(answer) as address:
        result = run("consume", address, "t")
    stderr = result.stderr.decode()
    assert result.returncode in (1, 3), stderr
    assert stderr.startswith("rpk-py: ")
    assert stderr.count("\n") == 1
    assert address in stderr
    assert text in stderr


@pytest.mark.parametrize(
    ("text", "brokers"),
    [
        ("a", ["a:9092"]),
        ("a:1, b:65535", ["a:1", "b:65535"]),
        ("[::1],[::1]:7", ["[::1]:9092", "[::1]:7"]),
    ],
)
def test_brokers_are_hosts_and_ports(text: str, brokers: list[str]) -> None:
    assert parse_brokers(text) == brokers


@pytest.mark.parametrize(
    "text", ["", "a,", ":1", "a:0", "a:65536", "a:x", "::1", "[::1", "x://a:1"]
)
def test_what_is_no_broker_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="--brokers"):
        parse_brokers(text)
