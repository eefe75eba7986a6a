"""The kinds of abuse that bench/abuse.py measures, each a function that goes on until it is killed.

What they send is legal where its name does not say otherwise; nothing here waits longer than it
must. Each runs in a process of its own, on the address of one shard.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.wire import Connection, create_topic, produce_frame
from kafka_protocol.frame import encode_request
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from kafka_protocol.messages.describe_log_dirs import DescribeLogDirsRequest
from kafka_protocol.messages.describe_topic_partitions import (
    DescribeTopicPartitionsRequest,
    TopicRequest,
)
from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_protocol.record_batch import build_batch

WIDE: Final = "wide"  # a topic of many partitions
WIDE_PARTITIONS: Final = 2000
BULK: Final = "bulk"  # a topic with records to fetch
BULK_MB: Final = 48
NAMES: Final = 90_000  # topics of the widest requests, near the limit of items
IDLE: Final = 2000
PIPELINED: Final = 10_000
CLIENTS: Final = 8  # that ask for much at the same time
MIB: Final = 1 << 20


def prepare(connection: Connection) -> None:
    """The topics that the abusers use."""
    create_topic(connection, WIDE, WIDE_PARTITIONS)
    create_topic(connection, BULK, 1)
    batch = build_batch([(None, bytes(900_000))])
    for _ in range(BULK_MB):
        connection.ask_frame(produce_frame(BULK, 0, batch))


def _frame(request: Any, version: int) -> bytes:
    return encode_request(request, version, 1, "abuser")


def _fetch(topic: str, partitions: Sequence[int], wait_ms: int, min_bytes: int) -> bytes:
    wanted = [FetchPartition(index, -1, 0, -1, -1, 55 * MIB) for index in partitions]
    topics = [FetchTopic(topic=topic, partitions=wanted)]
    request = FetchRequest(
        max_wait_ms=wait_ms, min_bytes=min_bytes, max_bytes=55 * MIB, topics=topics
    )
    return _frame(request, 12)


def _sleep_forever() -> None:
    while True:
        time.sleep(60)


def _connect(address: str, receive_bytes: int | None = None) -> socket.socket:
    host, port = address.rsplit(":", 1)
    sock = socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    while True:
        try:
            sock.connect((host, int(port)))
            return sock
        except OSError:  # the backlog, or no port is free: it tries again
            time.sleep(0.01)


# -- who takes no replies ------------------------------------------------------------------------


def never_reads(address: str) -> None:
    """Asks for 55 MB of records again and again on many connections, and never reads."""
    _take_slowly(address, 0)


def reads_a_byte_a_second(address: str) -> None:
    """The same, but a byte a second is taken."""
    _take_slowly(address, 1)


def _take_slowly(address: str, bytes_a_second: int) -> None:
    ask = _fetch(BULK, [0], 0, 1)
    socks: list[socket.socket] = []
    while True:
        for number in range(20):
            try:
                if number >= len(socks):
                    socks.append(_connect(address, 4096))
                    socks[-1].sendall(ask * 20)
                    socks[-1].setblocking(False)
                if bytes_a_second:
                    socks[number].recv(bytes_a_second)
            except BlockingIOError:
                pass
            except OSError:
                socks.pop(number).close()
        time.sleep(1)


# -- who sends slowly, or never ends -------------------------------------------------------------


def sends_a_byte_a_second(address: str) -> None:
    """Announces frames of 100 MB on many connections and sends a byte a second of each."""
    head = struct.pack(">ihh", 100 * MIB - 8, 0, 9)
    socks = [_connect(address) for _ in range(200)]
    for sock in socks:
        sock.sendall(head)
    while True:
        for sock in socks:
            sock.sendall(b"\0")
        time.sleep(1)


def huge_frames(address: str) -> None:
    """Sends as much as it can of frames of 100 MB on many connections, and never their ends."""
    head, piece = struct.pack(">ihh", 100 * MIB - 8, 0, 9), bytes(256 << 10)
    socks: list[socket.socket] = []
    while True:
        for number in range(20):
            try:
                if number >= len(socks):
                    socks.append(_connect(address))
                    socks[-1].sendall(head)
                    socks[-1].settimeout(0.05)
                socks[number].sendall(piece)
            except TimeoutError:
                pass
            except OSError:
                socks.pop(number).close()


# -- connections ---------------------------------------------------------------------------------


def idle_connections(address: str) -> None:
    """Opens 2,000 connections and says nothing."""
    kept = [_connect(address) for _ in range(IDLE)]
    _sleep_forever()
    del kept


def connects_and_closes(address: str) -> None:
    """Connects and closes 1,000 times a second."""
    start_s, done = time.perf_counter(), 0
    while True:
        while done < (time.perf_counter() - start_s) * 1000:
            sock = _connect(address)
            # A reset: else the ports wait for a minute after their end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            done += 1
        time.sleep(0.001)


def garbage(address: str) -> None:
    """Connects, sends what is not Kafka's protocol and connects again, as fast as it can."""
    texts = (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0\0\0\x20" + b"\xff" * 32)
    number = 0
    while True:
        sock = _connect(address)
        try:
            sock.sendall(texts[number % len(texts)])
            sock.recv(1)
        except OSError:
            pass
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        number += 1


# -- requests ------------------------------------------------------------------------------------


def _pipelined(frame: bytes, clients: int = 4) -> Callable[[str], None]:
    """10,000 of a request at once on each connection, replies read as they come, for ever."""

    def run(address: str) -> None:
        selector = selectors.DefaultSelector()
        waiting: dict[socket.socket, memoryview] = {}
        whole = memoryview(frame * PIPELINED)
        while True:
            while len(waiting) < clients:
                sock = _connect(address)
                sock.setblocking(False)
                waiting[sock] = whole
                selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
            for key, events in selector.select():
                client = key.fileobj
                assert isinstance(client, socket.socket)
                try:
                    if events & selectors.EVENT_READ and not client.recv(MIB):
                        raise ConnectionError
                    if events & selectors.EVENT_WRITE:
                        left = waiting[client][client.send(waiting[client]) :]
                        waiting[client] = left or whole
                except OSError:
                    selector.unregister(client)
                    client.close()
                    del waiting[client]

    return run


def _in_a_loop(*frames: bytes, clients: int = CLIENTS) -> Callable[[str], None]:
    """Some clients that each ask one thing after the other, as fast as they are answered."""

    def run(address: str) -> None:
        selector = selectors.DefaultSelector()
        for number in range(clients):
            _start(selector, address, frames[number % len(frames)])
        while True:
            for key, events in selector.select():
                _step(selector, address, key, events)

    return run


class _Asking:
    """One request: what is still to be sent, and how much of its answer is still to come."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.unsent = memoryview(frame)
        self.answer = b""
        self.left = -1


def _start(selector: selectors.BaseSelector, address: str, frame: bytes) -> None:
    sock = _connect(address)
    sock.setblocking(False)
    selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, _Asking(frame))


def _step(
    selector: selectors.BaseSelector, address: str, key: selectors.SelectorKey, events: int
) -> None:
    sock, asking = key.fileobj, key.data
    assert isinstance(sock, socket.socket)
    try:
        if events & selectors.EVENT_WRITE and asking.unsent:
            asking.unsent = asking.unsent[sock.send(asking.unsent) :]
            if not asking.unsent:
                selector.modify(sock, selectors.EVENT_READ, asking)
        if events & selectors.EVENT_READ:
            data = sock.recv(MIB)
            if not data:
                raise ConnectionError
            if asking.left < 0:
                asking.answer += data
                if len(asking.answer) < 4:
                    return
                asking.left = int.from_bytes(asking.answer[:4], "big") + 4 - len(asking.answer)
            else:
                asking.left -= len(data)
            if asking.left <= 0:
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                selector.modify(sock, both, _Asking(asking.frame))
    except OSError:
        selector.unregister(sock)
        sock.close()
        _start(selector, address, asking.frame)


def _names(count: int) -> list[str]:
    return [f"no-such-{number}" for number in range(count)]


def _metadata_names() -> bytes:
    topics = [MetadataRequestTopic(bytes(16), name) for name in _names(NAMES)]
    return _frame(MetadataRequest(topics, allow_auto_topic_creation=False), 12)


def _describe_topics() -> bytes:
    return _frame(DescribeTopicPartitionsRequest([TopicRequest(n) for n in _names(NAMES)], 2000), 0)


def _describe_configs() -> bytes:
    keys = [[f"k{number}"] for number in range(NAMES // 2)]
    resources = [DescribeConfigsResource(2, WIDE, key) for key in keys]
    return _frame(DescribeConfigsRequest(resources, True, True), 4)


def _describe_all_configs() -> bytes:
    keys = [None, *([f"k{number}"] for number in range(1000))]
    resources = [DescribeConfigsResource(2, WIDE, key) for key in keys]
    return _frame(DescribeConfigsRequest(resources, True, True), 4)


def _list_offsets(timestamp: int) -> bytes:
    partitions = [ListOffsetsPartition(n, -1, timestamp) for n in range(WIDE_PARTITIONS)]
    return _frame(ListOffsetsRequest(-1, 0, [ListOffsetsTopic(WIDE, partitions)]), 8)


def _epochs() -> bytes:
    partitions = [OffsetForLeaderPartition(n % WIDE_PARTITIONS, -1, 0) for n in range(NAMES)]
    return _frame(OffsetForLeaderEpochRequest(-2, [OffsetForLeaderTopic(WIDE, partitions)]), 4)


def _create_topics() -> bytes:
    topics = [CreatableTopic(name, 1, 1, [], []) for name in _names(5000)]
    return _frame(CreateTopicsRequest(topics, 30_000, validate_only=True), 7)


def _produce_wide(batch: bytes | bytearray) -> bytes:
    data = [PartitionProduceData(n, memoryview(batch)) for n in range(WIDE_PARTITIONS)]
    return _frame(ProduceRequest(None, -1, 30_000, [TopicProduceData(WIDE, bytes(16), data)]), 9)


_TINY: Final = build_batch([(None, b"x")])
_BROKEN: Final = bytes(_TINY[:-1]) + bytes([_TINY[-1] ^ 1])
_WHOLE_TOPIC: Final = range(WIDE_PARTITIONS)

ABUSES: Final[dict[str, Callable[[str], None]]] = {
    "never reads": never_reads,
    "reads a byte/s": reads_a_byte_a_second,
    "sends a byte/s": sends_a_byte_a_second,
    "huge frames": huge_frames,
    "2,000 idle": idle_connections,
    "connects 1,000/s": connects_and_closes,
    "garbage": garbage,
    "pipelines ApiVersions": _pipelined(_frame(ApiVersionsRequest("abuser", "1.0"), 3)),
    "pipelines Metadata": _pipelined(_frame(MetadataRequest(None), 12)),
    "pipelines Produce": _pipelined(produce_frame(BULK, 0, _TINY)),
    "pipelines bad Produce": _pipelined(produce_frame(BULK, 0, _BROKEN)),
    "Produce, 2,000 parts": _in_a_loop(_produce_wide(_TINY), clients=2),
    "Metadata, 90,000 names": _in_a_loop(_metadata_names()),
    "Metadata, all": _in_a_loop(_frame(MetadataRequest(None), 12)),
    "DescribeTopicPartitions": _in_a_loop(_describe_topics()),
    "DescribeConfigs, 45,000": _in_a_loop(_describe_configs()),
    "DescribeConfigs, all": _in_a_loop(_describe_all_configs()),
    "DescribeLogDirs": _in_a_loop(_frame(DescribeLogDirsRequest(None), 4)),
    "ListOffsets, latest": _in_a_loop(_list_offsets(-1)),
    "ListOffsets, by time": _in_a_loop(_list_offsets(1)),
    "OffsetForLeaderEpoch": _in_a_loop(_epochs()),
    "CreateTopics, 5,000": _in_a_loop(_create_topics(), clients=2),
    "Fetch, 2,000 parts": _in_a_loop(_fetch(WIDE, _WHOLE_TOPIC, 0, 1)),
    "Fetch, long poll": _in_a_loop(
        _fetch(WIDE, _WHOLE_TOPIC, 30_000, 1 << 30), _produce_wide(_TINY), clients=4
    ),
}
