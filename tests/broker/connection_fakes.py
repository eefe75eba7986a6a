"""A real shard below a fake socket: what the tests of connections and handlers drive.

`Shard` is the real Broker, PartitionTable, Log and a real Disk (threads, unless told) in a test's
directory; only the controller and the sockets are fakes. `Client` speaks through the real codec to
a real Connection over a `Transport` that behaves as asyncio's does, but for two things that make
tests sharper: bytes arrive exactly as the test cuts them, and the shard's scratch buffer is
overwritten after every read, so that whoever keeps a piece of it shows.

The disk's answers are the test's where it wants (gated_disk.py). The backend "held" is the
HeldDisk of tests.storage below that: without threads, so a run is the same each time. Time is the
loop's plus what the test added by `Shard.advance`: timers of minutes fire at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.messages.fetch import PartitionData
from kafka_protocol.messages.produce import PartitionProduceResponse
from kafka_protocol.schema import info_of
from rpk_py.config import Config
from rpk_py.connection import Connection
from rpk_py.context import Broker
from rpk_py.metadata.config_plan import plan_alter_configs
from rpk_py.metadata.requests import (
    ConfigResource,
    ConfigResult,
    DeleteResult,
    PartitionsResult,
    PartitionsSpec,
    TopicResult,
    TopicSpec,
)
from rpk_py.metadata.state import (
    Change,
    ClusterState,
    Delta,
    NodeState,
    PartitionsChanged,
    PartitionState,
    TopicCreated,
    TopicState,
    apply,
)
from rpk_py.metadata.topic_plan import (
    plan_create_partitions,
    plan_create_topics,
    plan_delete_topics,
)
from rpk_py.metrics import ShardMetrics
from rpk_py.partition import Partition
from rpk_py.partition_table import PartitionTable
from rpk_py.producer_ids import ProducerIds
from rpk_py.server import Server
from storage.backend import open_disk
from storage.committer import Committer
from storage.disk import Disk, alignment
from storage.log import Log
from storage.log_context import LogContext
from storage.record_buffer import RecordCache
from storage.recycle import SegmentPool
from tests.broker.gated_disk import GatedDisk
from tests.broker.request_builders import BATCH, fetch_request, produce_request
from tests.storage.builder import HeldDisk

T = TypeVar("T")

NODE = 1  # the shard under test
OTHER_NODE = 2  # a shard that does not exist but may lead
LOCAL = ("192.0.2.7", 9092)  # the address that clients connected to
NOW_MS = 1_700_000_000_000
PATIENCE_S = 20.0  # a wait for the real disk that is longer is a failure, never a pass


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine in a loop of its own; what the loop's handler is told is an error."""
    reported: list[dict[str, Any]] = []

    async def guarded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        return await scenario

    result = asyncio.run(guarded())
    assert reported == []
    return result


async def until(condition: Callable[[], object]) -> None:
    """Let the loop and the real disk work until `condition` holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        await asyncio.sleep(0.0005)


async def ticks(count: int = 10) -> None:
    """Let everything happen that needs the loop alone."""
    for _ in range(count):
        await asyncio.sleep(0)


class LogLines:
    """A logger that keeps (event, facts) of warnings and worse."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    error = exception = warning
    debugs = False

    def info(self, event: str, **facts: Any) -> None:
        """Not kept."""


class Controller:
    """The shard's replica; its controller answers by the real rules, once `gate` is open."""

    def __init__(self, config: Config) -> None:
        self.node_id = NODE
        self.config = config
        self.state = ClusterState(revision=1, cluster_id="c2hhcmQtb2YtYS1icm9rZX")
        self.state.nodes = {
            NODE: NodeState(NODE, None, 9092, "host-0"),
            OTHER_NODE: NodeState(OTHER_NODE, "other.example", 9093, "host-1"),
        }
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.on_delta: Callable[[Delta | None, ClusterState], Awaitable[None]] | None = None
        self._rng = random.Random(1)

    def new_id(self) -> bytes:
        return self._rng.randbytes(16)

    async def commit(self, *changes: Change) -> None:
        """Apply changes here and in the shard, as one revision."""
        delta = Delta(self.state.revision + 1, changes)
        apply(self.state, delta)
        assert self.on_delta is not None
        await self.on_delta(delta, self.state)

    async def replace(self) -> None:
        """Tell the shard that the whole state is new, as after a gap."""
        assert self.on_delta is not None
        await self.on_delta(None, self.state)

    async def create_topics(
        self, specs: list[TopicSpec], timeout_ms: int, validate_only: bool
    ) -> list[TopicResult]:
        await self._wait()
        results, created = plan_create_topics(self.state, specs, self.config, self.new_id)
        if created and not validate_only:
            await self.commit(*created)
        return results

    async def delete_topics(
        self, topics: list[tuple[str | None, bytes | None]], timeout_ms: int
    ) -> list[DeleteResult]:
        await self._wait()
        results, deleted = plan_delete_topics(self.state, topics)
        if deleted:
            await self.commit(*deleted)
        return results

    async def create_partitions(
        self, specs: list[PartitionsSpec], timeout_ms: int, validate_only: bool
    ) -> list[PartitionsResult]:
        await self._wait()
        results, changes = plan_create_partitions(self.state, specs, self.config)
        if changes and not validate_only:
            await self.commit(*changes)
        return results

    async def alter_configs(
        self, resources: list[ConfigResource], incremental: bool, validate_only: bool
    ) -> list[ConfigResult]:
        await self._wait()
        results, changes = plan_alter_configs(self.state, self.config, resources, incremental)
        if changes and not validate_only:
            await self.commit(*changes)
        return results

    async def allocate_producer_ids(self) -> tuple[int, int]:
        await self._wait()
        return 1000, 1000

    def auto_create(self, name: str) -> None:
        """Nothing creates topics by itself here."""

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1


class Transport:
    """One accepted socket, as asyncio's transports behave; the test holds its other end."""

    def __init__(self, shard: Shard, scratch_bytes: int, read_bytes_max: int) -> None:
        self.loop = shard.loop
        self.scratch = memoryview(bytearray(scratch_bytes))
        self.connection = Connection(shard.broker, self.scratch, shard.server)
        self.read_bytes_max = read_bytes_max
        self.unread = bytearray()  # what the client sent and the broker has not read
        self.sent = bytearray()  # what the client got
        self.sends = 0
        self.taking = True
        self.unsent = bytearray()  # what waits for a client that takes nothing
        self.high_bytes = self.low_bytes = 0
        self.reading = True
        self.buffer_bytes_max = 0  # the largest buffer that was offered for a read
        self.writing_paused = False
        self.closing = False
        self.lost = False
        self.peer = ("192.0.2.99", 40000)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self.peer, "sockname": LOCAL}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is not None
        self.high_bytes, self.low_bytes = high, low

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.lost or (self.closing and not self.unsent):
            return
        self.sends += 1
        (self.sent if self.taking else self.unsent).extend(data)
        if not self.writing_paused and len(self.unsent) > self.high_bytes:
            self.writing_paused = True
            self.connection.pause_writing()

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(parts))

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self.closing:
            assert not self.reading, "resumed without a pause"
            self.reading = True
            self.loop.call_soon(self.turn)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The client sees the end of the stream, and closes too where it reads at all."""
        if self.taking:
            self.loop.call_soon(self._end, True)

    def close(self) -> None:
        self._end(not self.unsent)

    def abort(self) -> None:
        self.unsent.clear()
        self._end(True)

    def _end(self, now: bool) -> None:
        self.closing = True
        self.reading = False
        if now and not self.lost:
            self.lost = True
            self.loop.call_soon(self.connection.connection_lost, None)

    # -- the client's end ------------------------------------------------------------------

    def turn(self) -> None:
        """The loop's reading: once a tick, as long as there is something to read."""
        self.read(reads_max=1)
        if self.unread and self.reading:
            self.loop.call_soon(self.turn)

    def read(self, reads_max: int = 1 << 30) -> None:
        """Read what has arrived, while that is allowed."""
        while self.unread and self.reading and reads_max > 0:
            reads_max -= 1
            buffer = self.connection.get_buffer(-1)
            count = min(len(buffer), len(self.unread), self.read_bytes_max)
            assert count > 0, "no room for what is read"
            self.buffer_bytes_max = max(self.buffer_bytes_max, len(buffer))
            buffer[:count] = self.unread[:count]
            del self.unread[:count]
            self.connection.buffer_updated(count)
            self.scratch[:] = b"\xa5" * len(self.scratch)

    def take(self) -> None:
        """The client takes everything that waits for it, and goes on taking."""
        self.taking = True
        self.sent += self.unsent
        self.unsent.clear()
        if self.closing:
            self._end(True)
        elif self.writing_paused:
            self.writing_paused = False
            self.connection.resume_writing()


class Client:
    """A client on one connection: requests in, decoded replies out."""

    def __init__(self, shard: Shard, scratch_bytes: int, read_bytes_max: int) -> None:
        self.shard = shard
        self.transport = Transport(shard, scratch_bytes, read_bytes_max)
        self.connection = self.transport.connection
        self._asked: dict[int, tuple[int, int]] = {}
        self._next_id = 1
        self._parsed = 0
        self._replies: list[tuple[int, Any]] = []

    def frame(self, request: Any, version: int, client_id: str | None = "test") -> bytes:
        """A request's bytes; its reply will be known by its correlation id."""
        correlation_id = self._next_id
        self._next_id += 1
        info = info_of(type(request))
        self._asked[correlation_id] = (info.api_key, version)
        return bytes(encode_request(request, version, correlation_id, client_id))

    def feed(self, data: bytes, step: int | None = None) -> None:
        """Let bytes arrive, at most `step` a read."""
        for pos in range(0, len(data), step or len(data) or 1):
            self.transport.unread += data[pos : pos + (step or len(data))]
            self.transport.read()

    def send(self, request: Any, version: int) -> int:
        """Send a request; returns its correlation id."""
        self.feed(self.frame(request, version))
        return self.last_id

    def expect(self, correlation_id: int, api_key: int, version: int) -> None:
        """Say how the reply to a frame that was made by hand is to be decoded."""
        self._asked[correlation_id] = (api_key, version)

    @property
    def last_id(self) -> int:
        """The correlation id of the newest frame."""
        return self._next_id - 1

    @property
    def replies(self) -> list[tuple[int, Any]]:
        """(correlation id, message) of every reply so far, in the order of arrival."""
        sent = self.transport.sent
        while len(sent) - self._parsed >= 4:
            size = int.from_bytes(sent[self._parsed : self._parsed + 4], "big")
            end = self._parsed + 4 + size
            if len(sent) < end:
                break
            frame = memoryview(bytes(sent[self._parsed + 4 : end]))
            asked = self._asked[int.from_bytes(frame[:4], "big")]
            self._replies.append(decode_response(*asked, frame))
            self._parsed = end
        return self._replies

    @property
    def order(self) -> list[int]:
        """The correlation ids of the replies so far."""
        return [correlation_id for correlation_id, _ in self.replies]

    async def reply(self, correlation_id: int) -> Any:
        """Wait for one reply."""
        await until(lambda: correlation_id in self.order or self.closed)
        return dict(self.replies)[correlation_id]

    async def ask(self, request: Any, version: int) -> Any:
        """Send a request and wait for its reply."""
        return await self.reply(self.send(request, version))

    @property
    def closed(self) -> bool:
        """The broker has closed the connection."""
        return self.transport.closing

    def vanish(self) -> None:
        """The client is gone, and the loop says so."""
        self.transport.abort()

    async def produce(
        self,
        topic: str | bytes,
        *batches: bytes | bytearray | None,
        index: int = 0,
        version: int | None = None,
        acks: int = -1,
    ) -> PartitionProduceResponse:
        """Produce to one partition (bytes: a topic id) and wait for its answer."""
        request, default = produce_request(topic, *batches, index=index, acks=acks)
        response = await self.ask(request, version or default)
        found: PartitionProduceResponse = response.responses[0].partition_responses[0]
        return found

    async def fetch(
        self, topic: str | bytes, offset: int, version: int | None = None, **fields: int
    ) -> PartitionData:
        """Fetch from one partition (bytes: a topic id) without waiting for data."""
        request, default = fetch_request(topic, offset, **fields)
        response = await self.ask(request, version or default)
        assert response.error_code == 0
        found: PartitionData = response.responses[0].partitions[0]
        return found


class Shard:
    """One shard without a process; see the module."""

    def __init__(self, directory: Path, backend: str = "threads", **settings: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self._skew_s = 0.0
        real_time = self.loop.time
        self.loop.time = lambda: real_time() + self._skew_s  # type: ignore[method-assign]
        self.log = LogLines()
        self.config = Config(data_dir=directory, lock_wait_s=1.0, **settings)
        held = backend == "held"
        inner: Disk = HeldDisk() if held else open_disk(backend, self.loop, self.log.warning)
        self.disk = GatedDisk(inner)
        self.controller = Controller(self.config)
        self.context = LogContext(
            disk=self.disk,
            committer=Committer(self.disk, self.loop, time.perf_counter),
            cache=RecordCache(self.config.cache_bytes),
            pool=SegmentPool(directory / "recycle" / str(NODE), self.config.recycle_bytes),
            block_bytes=alignment(directory),
            checkpoint_bytes=self.config.checkpoint_bytes,
            lock_wait_s=self.config.lock_wait_s,
            now_ms=lambda: NOW_MS,
            rng=random.Random(2),
            report=lambda event, detail: self.log.warning(event, detail=detail),
        )
        self.table = PartitionTable(self.config, NODE, self.context, self.log)
        self.controller.on_delta = self.table.on_delta
        replica: Any = self.controller
        self.broker = Broker(
            NODE,
            self.config,
            replica,
            self.table,
            ProducerIds(replica),
            ShardMetrics(),
            self.loop,
            self.log,
        )
        self.broker.turns.slice_s = 1e9  # how long a request takes here says nothing
        self.server = Server(self.broker)
        self.clients: list[Client] = []

    async def start(self) -> None:
        """Open what the metadata says is here."""
        await self.disk.run(self.context.pool.load)
        await self.controller.replace()

    def client(self, scratch_bytes: int = 4096, read_bytes_max: int = 1 << 30) -> Client:
        """A new connection."""
        client = Client(self, scratch_bytes, read_bytes_max)
        self.clients.append(client)
        transport: Any = client.transport
        client.connection.connection_made(transport)
        return client

    async def create(
        self, name: str, *leaders: int, topic_id: bytes | None = None, **configs: str
    ) -> TopicState:
        """Create a topic with a partition for each leader (none: one, led here)."""
        partitions = [
            PartitionState(index, leader, 3, [leader], [leader])
            for index, leader in enumerate(leaders or (NODE,))
        ]
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        topic = TopicState(name, topic_id or self.controller.new_id(), partitions, settings)
        await self.controller.commit(TopicCreated(topic))
        return self.controller.state.topics[name]

    async def move(self, name: str, leader: int) -> None:
        """Give every partition of a topic to `leader`, in a new epoch."""
        topic = self.controller.state.topics[name]
        moved = [
            PartitionState(p.index, leader, p.leader_epoch + 1, [leader], [leader])
            for p in topic.partitions
        ]
        await self.controller.commit(PartitionsChanged(topic.topic_id, tuple(moved)))

    def partition(self, topic: str, index: int = 0) -> Partition:
        """A partition that must be here."""
        found = self.table.get(topic, index)
        assert found is not None
        return found

    def log_of(self, topic: str, index: int = 0) -> Log:
        """The log of a partition that must be here and not offline."""
        found = self.partition(topic, index).log
        assert found is not None
        return found

    async def fill(self, topic: str, count: int, index: int = 0, batch: bytes = BATCH) -> None:
        """Produce `count` batches, each durable before the next: a WAL record each."""
        client = self.client()
        for _ in range(count):
            assert (await client.produce(topic, batch, index=index)).error_code == 0

    def forget_cache(self, topic: str, index: int = 0) -> None:
        """Make what is durable in a partition cold."""
        log = self.log_of(topic, index)
        assert log.durable_offset == log.log_end_offset
        log._spans.clear()

    def advance(self, seconds: float) -> None:
        """Let time pass: timers that are due fire in the next tick."""
        self._skew_s += seconds

    @property
    def state(self) -> ClusterState:
        """The metadata, for the next shard in this directory."""
        return self.controller.state

    @property
    def events(self) -> list[str]:
        """What was logged at warning or above."""
        return [event for event, _ in self.log.lines]

    def check_nothing_is_left(self) -> None:
        """Every budget is exactly back where it started and nobody waits."""
        broker = self.broker
        assert (broker.inflight_bytes, broker.unsent_bytes) == (0, 0)
        assert broker.metrics.connections == 0
        assert broker.metrics.fetch_waiters == 0
        broker.fetch_sessions.clear()
        assert broker.fetch_sessions.partitions == 0
        for partition in self.table:
            assert not partition._produce_waiters
            assert not partition._fetch_waiters

    async def stop(self) -> None:
        """End every connection and close the disk; the budgets must be whole."""
        self.disk.release()
        self.controller.gate.set()
        if self.disk.reads_wait is not None:
            self.disk.reads_wait.set()
        for client in self.clients:
            client.vanish()
        await until(lambda: self.broker.inflight_bytes == 0)
        await ticks()
        self.check_nothing_is_left()
        await self.table.close()
        await self.disk.close()


@asynccontextmanager
async def running(
    directory: Path,
    /,
    backend: str = "threads",
    state: ClusterState | None = None,
    **settings: Any,
) -> AsyncIterator[Shard]:
    """A shard that serves, with the checks of `Shard.stop` at the end. `state` is what the
    controller kept of a shard that ran in this directory before."""
    shard = Shard(directory, backend, **settings)
    if state is not None:
        shard.controller.state = state
    try:
        await shard.start()
        yield shard
    except BaseException:
        await shard.disk.close()
        raise
    await shard.stop()
