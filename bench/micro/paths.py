"""The hot paths, one call each, and how much memory each call may take.

A path is made once and then called many times in steady state. Three figures of a call are the
same on every machine, so that tests/test_allocations.py can hold them; `Bound` names them. Where a
bound is broken on purpose, it is raised here, next to its path.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kafka_protocol.api_key import ApiKey
from kafka_protocol.frame import decode_request, encode_request, encode_response
from kafka_protocol.messages import fetch, metadata, offset_commit, produce
from kafka_protocol.record_batch import (
    BatchHeader,
    Record,
    build_batch,
    parse_header,
    patch,
    verify_crc,
)
from rpk_py.groups.classic import ClassicGroup
from rpk_py.groups.classic_values import GroupSettings, JoinRequest, Protocol, SyncRequest
from rpk_py.groups.offsets import Offsets, OffsetToCommit
from storage.buffers import aligned_buffer
from storage.committer import Committer
from storage.errors import StorageError
from storage.log_context import LogConfig, LogContext
from storage.open_log import open_log
from storage.record_buffer import RecordCache
from storage.recycle import SegmentPool

T = TypeVar("T")
Call = Callable[[], object]

TOPIC_ID = bytes(range(16))
BLOCK_BYTES = 4096
CALLS = 100
WARM_UP_CALLS = 300


@dataclass(frozen=True, slots=True)
class Bound:
    """What a call takes, or may take at most.

    held        blocks of memory that its result is made of
    left        blocks that outlive the result: state that grows, or cycles for the collector
    peak_bytes  most bytes in use at a time during the call, beyond those before it
    """

    held: float
    left: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class HotPath:
    """A path: `make` gets a directory for its files and a loop that is not running."""

    name: str
    make: Callable[[Path, asyncio.AbstractEventLoop], Call]
    bound: Bound


def measure(call: Call) -> Bound:
    """What a call takes in steady state, the collector off."""
    for _ in range(WARM_UP_CALLS):
        call()
    results: list[object] = [None] * CALLS
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(CALLS):
            call()  # results go at once: many that go together would fill CPython's free lists
        after = sys.getallocatedblocks()
        for index in range(CALLS):
            results[index] = call()
        with_results = sys.getallocatedblocks()
        peaks = []
        tracemalloc.start()
        for _ in range(5):
            tracemalloc.reset_peak()
            in_use, _ = tracemalloc.get_traced_memory()
            call()
            peaks.append(tracemalloc.get_traced_memory()[1] - in_use)
        tracemalloc.stop()
    finally:
        gc.enable()
    left = (after - before) / CALLS
    held = (with_results - after) / CALLS - left
    return Bound(held, left, sorted(peaks)[len(peaks) // 2])


# --- the codec ------------------------------------------------------------------------------------


def batch_of(size_bytes: int) -> bytes:
    return bytes(build_batch([Record(0, 1_600_000_000_000, None, bytes(size_bytes), ())]))


def decoding(request: Any, version: int) -> Call:
    frame = memoryview(bytes(encode_request(request, version, 1, "client")))[4:]
    return lambda: decode_request(frame)


def decode_produce(partitions: int) -> Call:
    data: list[Any] = [
        produce.PartitionProduceData(index, memoryview(batch_of(100)))
        for index in range(partitions)
    ]
    topics = [produce.TopicProduceData("a-topic", TOPIC_ID, data)]
    return decoding(produce.ProduceRequest(None, -1, 30_000, topics), 9)


def encode_produce(partitions: int) -> Call:
    data = [produce.PartitionProduceResponse(i, 0, 1_000_000 + i) for i in range(partitions)]
    topics = [produce.TopicProduceResponse("a-topic", TOPIC_ID, data)]
    response = produce.ProduceResponse(topics)
    return lambda: encode_response(ApiKey.PRODUCE, 9, 1, response)


def decode_fetch(partitions: int) -> Call:
    data = [fetch.FetchPartition(i, 3, 1_000_000, -1, -1, 1 << 20) for i in range(partitions)]
    topic = fetch.FetchTopic("a-topic", TOPIC_ID, data)
    return decoding(fetch.FetchRequest(max_wait_ms=500, min_bytes=1, topics=[topic]), 12)


def encode_fetch(partitions: int) -> Call:
    records = memoryview(batch_of(1000))
    data = [fetch.PartitionData(i, 0, 10, 10, 0, records=[records]) for i in range(partitions)]
    topic = fetch.FetchableTopicResponse("a-topic", TOPIC_ID, data)
    response = fetch.FetchResponse(responses=[topic])
    return lambda: encode_response(ApiKey.FETCH, 12, 1, response)


def encode_metadata(partitions: int) -> Call:
    data = [metadata.MetadataResponsePartition(0, i, 1, 5, [1], [1], []) for i in range(partitions)]
    response = metadata.MetadataResponse(
        0,
        [metadata.MetadataResponseBroker(1, "broker.example", 9092)],
        "c2hhcmQtb2YtYS1icm9rZX",
        1,
        [metadata.MetadataResponseTopic(0, "a-topic", TOPIC_ID, False, data)],
        error_code=0,
    )
    return lambda: encode_response(ApiKey.METADATA, 12, 1, response)


def decode_offset_commit() -> Call:
    part = offset_commit.OffsetCommitRequestPartition(0, 7, 3, "")
    topic = offset_commit.OffsetCommitRequestTopic("a-topic", TOPIC_ID, [part])
    return decoding(offset_commit.OffsetCommitRequest("g", 1, "m", None, -1, [topic]), 8)


def check_and_patch() -> Call:
    batch = bytearray(batch_of(1000))
    crc = parse_header(batch).crc

    def call() -> None:
        assert verify_crc(batch, 0, len(batch), crc)
        patch(batch, 0, 1_000_000, 3)

    return call


# --- the log --------------------------------------------------------------------------------------


class InstantDisk:
    """A Disk that writes nothing and says at once, when asked to, that it has."""

    name = "instant"

    def __init__(self) -> None:
        self.writes = self.write_bytes = self.reads = self.read_bytes = self.submits = 0
        self._answers: list[tuple[Callable[[int], None], int]] = []

    @property
    def in_flight(self) -> int:
        return len(self._answers)

    def write(self, fd: int, view: memoryview, pos: int, done: Callable[[int], None]) -> None:
        self._answers.append((done, len(view)))

    def submit(self) -> None:
        """Nothing to do: `complete` answers."""

    def complete(self) -> None:
        """Answer every write."""
        answers, self._answers = self._answers, []
        for done, size in answers:
            done(size)

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        raise AssertionError("everything is in memory")

    async def allocate(self, fd: int, pos: int, size: int) -> None:
        """Space that nothing is written to need not be there."""

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    async def close(self) -> None:
        self.complete()


class NoProducers:
    """A ProducerState that remembers nobody."""

    def load(self, snapshot: bytes) -> None:
        """Nothing to know."""

    def snapshot(self) -> bytes:
        return b""

    def replay(self, batch: BatchHeader) -> None:
        """Nothing to note."""


class Owner:
    """A LogOwner that waits for nothing."""

    def on_durable(self, durable_offset: int) -> None:
        """Nobody to wake."""

    def on_log_stalled(self, error: StorageError, from_offset: int) -> None:
        """Nobody makes room here."""
        raise error

    def on_log_resumed(self) -> None:
        """Does not happen."""

    def on_log_failed(self, error: StorageError) -> None:
        raise error


def turn(loop: asyncio.AbstractEventLoop) -> None:
    """Run what is ready, once."""
    loop.call_soon(loop.stop)
    loop.run_forever()


class OneLog:
    """A log on an InstantDisk."""

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop, cache_bytes: int) -> None:
        self.loop = loop
        self.disk = InstantDisk()
        context = LogContext(
            disk=self.disk,
            committer=Committer(self.disk, loop, time.perf_counter),
            cache=RecordCache(cache_bytes),
            pool=SegmentPool(directory / "recycle", 0),
            block_bytes=BLOCK_BYTES,
            checkpoint_bytes=1 << 40,
            lock_wait_s=1.0,
            now_ms=lambda: 1_700_000_000_000,
            rng=random.Random(1),
            report=lambda event, detail: None,
        )
        opening = open_log(
            context,
            LogConfig(segment_bytes=1 << 40),
            directory / "a-topic-0",
            TOPIC_ID,
            0,
            NoProducers(),
            directory / "trash",
            lambda topic_id: False,
        )
        self.log = loop.run_until_complete(opening)
        self.log.attach(Owner())

    def append(self, batch: memoryview, header: BatchHeader) -> None:
        """Append a batch and have it written."""
        self.log.append(batch, header, 1)
        turn(self.loop)
        self.disk.complete()

    def settle(self) -> None:
        """Go on until all is durable."""
        while self.log.durable_offset < self.log.log_end_offset:
            turn(self.loop)
            self.disk.complete()


def append(size_bytes: int) -> Callable[[Path, asyncio.AbstractEventLoop], Call]:
    def make(directory: Path, loop: asyncio.AbstractEventLoop) -> Call:
        one = OneLog(directory, loop, 1 << 20)
        batch = memoryview(batch_of(size_bytes))
        header = parse_header(batch)
        one.append(batch, header)
        one.settle()
        return lambda: one.append(batch, header)

    return make


def fetch_cached(directory: Path, loop: asyncio.AbstractEventLoop) -> Call:
    one = OneLog(directory, loop, 16 << 20)
    batch = memoryview(batch_of(16_000))
    header = parse_header(batch)
    for _ in range(80):
        one.append(batch, header)
    one.settle()
    end = one.log.log_end_offset
    return lambda: one.log.read_cached(0, end, 1 << 20, True)


# --- groups ---------------------------------------------------------------------------------------


def heartbeat() -> Call:
    """A member of a stable group of one."""
    settings = GroupSettings(lambda data: frozenset(), lambda data: frozenset())
    group, now_ms = ClassicGroup("g", settings, lambda: "m", 0), 0
    join = JoinRequest(
        "",
        protocol_type="consumer",
        protocols=(Protocol("range", b""),),
        session_timeout_ms=10_000,
        rebalance_timeout_ms=60_000,
        client_id="c",
        requires_known_member_id=False,
    )
    replies = list(group.join(1, join, now_ms).replies)
    while not replies:
        assert group.wake_ms is not None
        now_ms = group.wake_ms
        replies += group.tick(now_ms).replies
    joined: Any = replies[0][1]
    member, generation = joined.member_id, group.core.generation
    sync = SyncRequest(member, generation, assignments={member: b""})
    for write in group.sync(2, sync, now_ms).writes:
        group.persisted(write.write_id, 0, now_ms)  # type: ignore[arg-type]
    assert group.heartbeat(member, None, generation, now_ms) == 0
    return lambda: group.heartbeat(member, None, generation, now_ms)


def commit() -> Call:
    offsets = Offsets()
    commits = [OffsetToCommit("a-topic", 0, 7, 3, "")]

    def call() -> None:
        errors, records = offsets.plan_commit(commits, 10)
        offsets.written(records, errors[0])

    return call


def alone(make: Callable[[], Call]) -> Callable[[Path, asyncio.AbstractEventLoop], Call]:
    """A path without files or loop."""
    return lambda directory, loop: make()


PATHS = (
    HotPath(
        "Produce request decode, 1 partition", alone(lambda: decode_produce(1)), Bound(15, 0.6, 921)
    ),
    HotPath(
        "Produce request decode, 200 partitions",
        alone(lambda: decode_produce(200)),
        Bound(433, 0.6, 53536),
    ),
    HotPath(
        "Produce response encode, 1 partition", alone(lambda: encode_produce(1)), Bound(6, 0.5, 492)
    ),
    HotPath(
        "Produce response encode, 200 partitions",
        alone(lambda: encode_produce(200)),
        Bound(6, 0.5, 8427),
    ),
    HotPath(
        "Fetch request decode, 1 partition", alone(lambda: decode_fetch(1)), Bound(18, 0.6, 1062)
    ),
    HotPath(
        "Fetch request decode, 200 partitions",
        alone(lambda: decode_fetch(200)),
        Bound(645, 0.6, 37863),
    ),
    HotPath(
        "Fetch response encode, 1 partition", alone(lambda: encode_fetch(1)), Bound(8, 0.5, 621)
    ),
    HotPath(
        "Fetch response encode, 200 partitions",
        alone(lambda: encode_fetch(200)),
        Bound(426, 0.5, 26016),
    ),
    HotPath(
        "Metadata response encode, 1 partition",
        alone(lambda: encode_metadata(1)),
        Bound(6, 0.5, 801),
    ),
    HotPath(
        "Metadata response encode, 1,000 partitions",
        alone(lambda: encode_metadata(1000)),
        Bound(6, 0.5, 29431),
    ),
    HotPath("OffsetCommit request decode", alone(decode_offset_commit), Bound(13, 0.6, 1000)),
    HotPath("CRC of 1 KiB and patch", alone(check_and_patch), Bound(1, 0.5, 812)),
    HotPath(
        "aligned buffer of 8 KiB",
        alone(lambda: lambda: aligned_buffer(8192, 4096)),
        Bound(7, 0.5, 14392),
    ),
    HotPath("log append of 1 KiB, written", append(1000), Bound(0, 3.0, 16323)),
    HotPath("log append of 64 KiB, written", append(65536), Bound(1, 0.7, 88413)),
    HotPath("fetch of a cached 1 MiB", fetch_cached, Bound(67, 0.5, 12978)),
    HotPath("classic group heartbeat", alone(heartbeat), Bound(1, 0.5, 253)),
    HotPath("offset commit, planned and written", alone(commit), Bound(1, 0.6, 508)),
)
