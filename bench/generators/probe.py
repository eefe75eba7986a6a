"""A raw probe: one record a request over any number of connections, and latency at a fixed rate.

It takes no part in what it measures: requests are encoded beforehand, answers are looked at in two
places, and it polls its sockets without ever sleeping, on a core of its own. Open loop: a record is
due at its time whether or not those before it were answered, and its latency counts from then, so
that a stall is not left out (coordinated omission). Latencies go into an HdrHistogram of
microseconds with three digits.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import cycle
from struct import Struct

from crc32c import crc32c
from hdrh.histogram import HdrHistogram

from bench.generators.process import Work, serve
from bench.wire import CLIENT_ID, FETCH_VERSION, Connection, error_pos, leaders, produce_frame
from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_protocol.record_batch import build_batch

READ_BYTES = 1 << 20
HIGHEST_US = 60_000_000
WARM_S = 0.3
DRAIN_S_MAX = 5.0
CONSUMER_BYTES_MAX = 1 << 20
_SEQUENCE = Struct(">Q")
_CRC = Struct(">I")
_CRC_POS, _CRC_FROM = 17, 21  # of a batch: where its CRC is, and what it covers from


class Link:
    """A connection that never blocks; answers come to `on_answer` in order, without their size."""

    def __init__(self, address: str, on_answer: Callable[[Link, memoryview], None]) -> None:
        connection = Connection(address)
        self.socket = connection.socket
        self.socket.setblocking(False)
        self.sent_at_s: deque[float] = deque()  # of what is not answered
        self.frames: Iterator[bytes] = iter(())  # the requests to come
        self._on_answer = on_answer
        self._unsent = b""
        self._received = bytearray()

    def send(self, frame: bytes | bytearray, at_s: float) -> None:
        """Send a request, or as much as the kernel takes; `at_s` is when it was due."""
        self.sent_at_s.append(at_s)
        if self._unsent:
            self._unsent += frame
            self.flush()
            return
        try:
            sent = self.socket.send(frame)
        except BlockingIOError:
            sent = 0
        if sent < len(frame):
            self._unsent = bytes(frame[sent:])

    def flush(self) -> None:
        """Send what is left."""
        if self._unsent:
            try:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            except BlockingIOError:
                pass

    def read(self) -> None:
        """Take what has arrived."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise SystemExit("closed by the broker")
        if self._received:
            self._received += data
            data = bytes(self._received)
        pos, end = 0, len(data)
        view = memoryview(data)
        while end - pos >= 4:
            frame_end = pos + 4 + int.from_bytes(view[pos : pos + 4], "big")
            if frame_end > end:
                break
            self._on_answer(self, view[pos + 4 : frame_end])
            pos = frame_end
        self._received = bytearray(data[pos:])


class Poller:
    """Looks for answers on any of its links, without sleeping."""

    def __init__(self, links: list[Link]) -> None:
        self._links = {link.socket.fileno(): link for link in links}
        self._epoll = select.epoll()
        for fd in self._links:
            self._epoll.register(fd, select.EPOLLIN)

    def poll(self) -> None:
        """Once."""
        for fd, _events in self._epoll.poll(0):
            link = self._links[fd]
            link.read()
            link.flush()


class Histogram:
    """Latencies in seconds, kept as an HdrHistogram."""

    def __init__(self) -> None:
        self._values = HdrHistogram(1, HIGHEST_US, 3)

    def add(self, seconds: float) -> None:
        """Count one."""
        self._values.record_value(min(max(int(seconds * 1e6), 1), HIGHEST_US))

    def figures(self, prefix: str = "") -> dict[str, float]:
        """p50, p99, p99.9 and max in milliseconds."""
        values = self._values
        points = {
            f"{prefix}p{p:g}_ms": values.get_value_at_percentile(p) / 1e3 for p in (50, 99, 99.9)
        }
        return points | {f"{prefix}max_ms": values.get_max_value() / 1e3}


def check(answer: memoryview, pos: int) -> None:
    """End the run where a record was refused."""
    code = int.from_bytes(answer[pos : pos + 2], "big")
    if code:
        raise SystemExit(f"a record was refused: {ErrorCode(code).name}")


def closed(
    address: str,
    topic: str,
    seconds: float,
    connections: int = 1,
    in_flight: int = 1,
    partitions: int = 1,
    active: int = 0,
) -> Callable[[], dict[str, float]]:
    """Closed loop: `in_flight` requests of one 100-byte record on each of `connections`, to each
    partition in turn. With `active`, only so many requests are in flight on all connections
    together, on each in turn."""
    batch = build_batch([(None, b"x" * 100)])
    at = error_pos(topic)
    metadata = Connection(address)
    frames: dict[str, list[bytes]] = {}  # by leader
    for index, leader in enumerate(leaders(metadata, topic)):
        frames.setdefault(leader, []).append(produce_frame(topic, index, batch))
    metadata.close()
    histogram, count, wanted, next_link, until_s = Histogram(), 0, 0, 0, 0.0

    def answered(link: Link, answer: memoryview) -> None:
        nonlocal count, next_link
        check(answer, at)
        now_s = time.perf_counter()
        histogram.add(now_s - link.sent_at_s.popleft())
        count += 1
        if now_s < until_s or count < wanted:
            if active:
                link = links[next_link % connections]
                next_link += 1
            link.send(next(link.frames), now_s)

    links = []
    for _, leader in zip(range(connections), cycle(frames), strict=False):
        links.append(link := Link(leader, answered))
        link.frames = cycle(frames[leader])
    poller = Poller(links)

    def drive(duration_s: float, least: int = 0) -> float:
        nonlocal until_s, histogram, count, wanted
        histogram, count, wanted = Histogram(), 0, least
        start_s = time.perf_counter()
        until_s = start_s + duration_s
        for number in range(active or connections * in_flight):
            link = links[number % connections]
            link.send(next(link.frames), time.perf_counter())
        while count < wanted or time.perf_counter() < until_s:
            poller.poll()
        while any(link.sent_at_s for link in links):
            poller.poll()
        return time.perf_counter() - start_s

    drive(WARM_S, 3 * max(partitions, connections))  # each has been used before it counts

    def run() -> dict[str, float]:
        wall_s = drive(seconds)
        return {"records": count, "wall_s": wall_s, "per_s": count / wall_s} | histogram.figures()

    return run


class NumberedBatch:
    """A batch of one 100-byte record whose value ends with a number."""

    def __init__(self, topic: str) -> None:
        batch = build_batch([(None, b"x" * 92 + bytes(8))])
        self.size = len(batch)
        self._frame = bytearray(produce_frame(topic, 0, batch))
        self._start = self._frame.index(batch)
        # Behind the value is the count of headers, one byte.
        self.number_at = self.size - 1 - _SEQUENCE.size

    def frame(self, number: int) -> bytes:
        """The produce request of that record."""
        frame, start = self._frame, self._start
        _SEQUENCE.pack_into(frame, start + self.number_at, number)
        crc = crc32c(memoryview(frame)[start + _CRC_FROM : start + self.size])
        _CRC.pack_into(frame, start + _CRC_POS, crc)
        return bytes(frame)


class TailConsumer:
    """Fetches partition 0 from `offset` on, a long poll after the other."""

    def __init__(
        self, address: str, topic: str, offset: int, on_batches: Callable[[bytes], None]
    ) -> None:
        self._topic = topic
        self._on_batches = on_batches
        self.offset = offset
        self.link = Link(address, self._answered)

    def fetch(self) -> None:
        """Ask for what comes next."""
        partition = FetchPartition(
            0, fetch_offset=self.offset, partition_max_bytes=CONSUMER_BYTES_MAX
        )
        request = FetchRequest(
            max_wait_ms=500,
            min_bytes=1,
            topics=[FetchTopic(topic=self._topic, partitions=[partition])],
        )
        self.link.send(encode_request(request, FETCH_VERSION, 1, CLIENT_ID), 0.0)

    def _answered(self, link: Link, answer: memoryview) -> None:
        link.sent_at_s.popleft()
        response = decode_response(ApiKey.FETCH, FETCH_VERSION, answer)[1]
        data = response.responses[0].partitions[0] if response.responses else None
        if data is not None and data.error_code:
            raise SystemExit(f"a fetch failed: {ErrorCode(data.error_code).name}")
        records = bytes(data.records) if data is not None and data.records else b""
        if records:
            self._on_batches(records)
        self.fetch()


def end_to_end(
    address: str, topic: str, per_s: int, seconds: float, producers: int = 4
) -> Callable[[], dict[str, float]]:
    """Open loop: `per_s` records a second, one a request, over `producers` connections; a consumer
    at the tail. Latency from when a record was due until the consumer has it, and until its
    acknowledgement (`ack_`)."""
    batch, at = NumberedBatch(topic), error_pos(topic)
    due_s: list[float] = []
    seen, acks = Histogram(), Histogram()
    arrived = acknowledged = 0

    def answered(link: Link, answer: memoryview) -> None:
        nonlocal acknowledged
        check(answer, at)
        acks.add(time.perf_counter() - link.sent_at_s.popleft())
        acknowledged += 1

    def came(records: bytes) -> None:
        nonlocal arrived
        now_s = time.perf_counter()
        count = len(records) // batch.size  # the last one may be cut, as Kafka does
        consumer.offset += count
        arrived += count
        for pos in range(0, count * batch.size, batch.size):
            number = _SEQUENCE.unpack_from(records, pos + batch.number_at)[0]
            seen.add(now_s - due_s[number])

    consumer = TailConsumer(address, topic, 0, came)
    links = [Link(address, answered) for _ in range(producers)]
    poller = Poller([*links, consumer.link])
    consumer.fetch()

    def drive(duration_s: float) -> float:
        nonlocal seen, acks, arrived, acknowledged
        seen, acks, arrived, acknowledged = Histogram(), Histogram(), 0, 0
        first, total = len(due_s), int(duration_s * per_s)
        start_s = time.perf_counter()
        sent = 0
        while sent < total:
            at_s = start_s + sent / per_s
            if time.perf_counter() >= at_s:
                due_s.append(at_s)
                links[sent % producers].send(batch.frame(first + sent), at_s)
                sent += 1
            poller.poll()
        end_s = time.perf_counter() + DRAIN_S_MAX
        while (arrived < total or acknowledged < total) and time.perf_counter() < end_s:
            poller.poll()
        wall_s = time.perf_counter() - start_s
        while (arrived < total or acknowledged < total) and time.perf_counter() < end_s + 60:
            poller.poll()  # the next drive must not see what is left of this one
        return wall_s

    drive(1.0)

    def run() -> dict[str, float]:
        wall_s = drive(seconds)
        total = int(seconds * per_s)
        figures = seen.figures() | acks.figures("ack_")
        behind_s = wall_s - seconds
        return figures | {"records": total, "wall_s": wall_s, "behind_s": behind_s}

    return run


def tail(
    address: str, topic: str, seconds: float, consumers: int, batch_records: int = 100
) -> Callable[[], dict[str, float]]:
    """A producer of batches of `batch_records` 100-byte records, five in flight, and `consumers`
    at the tail that each get all of it. Counts records delivered."""
    batch = build_batch([(None, b"x" * 100)] * batch_records)
    frame, at = produce_frame(topic, 0, batch), error_pos(topic)
    until_s, sent, delivered = 0.0, 0, 0

    def answered(link: Link, answer: memoryview) -> None:
        nonlocal sent
        check(answer, at)
        link.sent_at_s.popleft()
        now_s = time.perf_counter()
        if now_s < until_s:
            link.send(frame, now_s)
            sent += 1

    def take(consumer: TailConsumer, records: bytes) -> None:
        nonlocal delivered
        count = len(records) // len(batch) * batch_records  # the last one may be cut, as Kafka does
        consumer.offset += count
        delivered += count

    def new_consumer() -> TailConsumer:
        return (consumer := TailConsumer(address, topic, 0, lambda data: take(consumer, data)))

    tails = [new_consumer() for _ in range(consumers)]
    producer = Link(address, answered)
    poller = Poller([producer, *(consumer.link for consumer in tails)])
    for consumer in tails:
        consumer.fetch()

    def drive(duration_s: float) -> float:
        nonlocal until_s, sent, delivered
        delivered = 0
        before = tails[0].offset if sent else 0
        sent = 0
        start_s = time.perf_counter()
        until_s = start_s + duration_s
        for _ in range(5):
            producer.send(frame, start_s)
            sent += 1
        while time.perf_counter() < until_s or producer.sent_at_s:
            poller.poll()
        end_offset = before + sent * batch_records
        deadline_s = time.perf_counter() + DRAIN_S_MAX
        while any(consumer.offset < end_offset for consumer in tails):
            poller.poll()
            if time.perf_counter() > deadline_s:
                raise SystemExit("a consumer did not get all records")
        return time.perf_counter() - start_s

    drive(WARM_S)

    def run() -> dict[str, float]:
        wall_s = drive(seconds)
        return {
            "records": delivered,
            "wall_s": wall_s,
            "per_s": delivered / wall_s,
            "produced_per_s": sent * batch_records / wall_s,
        }

    return run


def echo(address: str, seconds: float, size: int) -> Callable[[], dict[str, float]]:
    """Frames of `size` bytes that come back as they are, one in flight: the least that any broker
    behind such a socket takes."""
    host, port = address.rsplit(":", 1)
    link = socket.create_connection((host, int(port)))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setblocking(False)
    data = bytes(size)

    def run() -> dict[str, float]:
        histogram, count = Histogram(), 0
        start_s = now_s = time.perf_counter()
        while now_s < start_s + seconds:
            link.send(data)
            left = size
            while left:
                try:
                    left -= len(link.recv(left))
                except BlockingIOError:
                    pass
            sent_s, now_s = now_s, time.perf_counter()
            histogram.add(now_s - sent_s)
            count += 1
        wall_s = now_s - start_s
        return {"records": count, "wall_s": wall_s, "per_s": count / wall_s} | histogram.figures()

    return run


MODES: dict[str, Callable[..., Work]] = {
    "closed": closed,
    "end_to_end": end_to_end,
    "tail": tail,
    "echo": echo,
}

if __name__ == "__main__":
    serve(lambda mode, **arguments: MODES[mode](**arguments))
