"""The producer behind `topic produce`: records to batches, batches to leaders, acknowledgements.

Which process: the operator's. Records of a partition are sent in their order, a window of batches
at a time; a window is settled before the next one leaves, and what failed in a way that may pass is
sent again in order. With acks=all batches carry a producer id and sequence numbers, so that a batch
sent twice is stored once.

Invariants: every record that was added is acknowledged, or counted in `failed`; at most
QUEUED_BYTES_MAX wait, then add() waits. The first failure for good ends the producer: what follows
it in the same partition could only fail as well.

Source: KIP-98 (idempotence), KIP-480 (sticky partitioner), DefaultPartitioner of Kafka's Java
client (murmur2 of the key).
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.init_producer_id import (
    InitProducerIdRequest,
    InitProducerIdResponse,
)
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import NO_PRODUCER_ID, RecordHeaders, frame_batch
from kafka_protocol.wire import write_varlong
from rpk_py.cli.client import Broken, Client, ClientError, Deadline, Unreachable, refused

QUEUED_BYTES_MAX = 32 << 20
WINDOW_MAX = 5  # batches in flight for a partition; brokers remember the sequences of five
_NAMES_VERSION_MAX = 12  # later versions of Produce take topic ids
_REQUEST_TIMEOUT_MS = 30_000
_SEQUENCE_MASK = 0x7FFF_FFFF
_CACHED_VARINTS = 4096
# The leader may have the batch all the same.
_IN_DOUBT = frozenset({ErrorCode.REQUEST_TIMED_OUT, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND})


def _varint(value: int) -> bytes:
    out = bytearray()
    write_varlong(out, value)
    return bytes(out)


_VARINTS = [_varint(value) for value in range(_CACHED_VARINTS)]
_NULL = _varint(-1)


def murmur2(data: bytes) -> int:
    """Kafka's variant of MurmurHash2 (32 bits, its seed), unsigned."""
    mask, m = 0xFFFF_FFFF, 0x5BD1_E995
    length = len(data)
    h = (0x9747_B28C ^ length) & mask
    whole = length & ~3
    for word in struct.unpack_from(f"<{length >> 2}I", data):
        k = word * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if length & 3:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def partition_of_key(key: bytes, partition_count: int) -> int:
    """Where Kafka's clients put a record with this key."""
    return (murmur2(key) & 0x7FFF_FFFF) % partition_count


def encoded_headers(headers: RecordHeaders) -> bytes:
    """The headers' part of a record: their count and each."""
    out = bytearray(_varint(len(headers)))
    for name, value in headers:
        raw = name.encode()
        out += _varint(len(raw)) + raw
        out += _NULL if value is None else _varint(len(value)) + value
    return bytes(out)


@dataclass(slots=True)
class Batch:
    """Records of one partition on their way; `records` only if somebody wants to see them."""

    partition: int
    timestamp: int
    count: int = 0
    size_bytes: int = 0
    pieces: list[bytes] = field(default_factory=list)
    records: list[tuple[bytes | None, bytes | None]] = field(default_factory=list)
    base_sequence: int = -1
    deadline: float = 0.0
    framed: bytearray | None = None
    unanswered: int = 0  # times it was sent and nobody said what became of it


@dataclass(slots=True)
class Counts:
    """What has become of the records so far."""

    added: int = 0
    acknowledged: int = 0
    acknowledged_bytes: int = 0
    unknown: int = 0  # sent, neither acknowledged nor refused: may be stored

    @property
    def failed(self) -> int:
        """Records that were added and never acknowledged."""
        return self.added - self.acknowledged


class Producer:
    """Sends records to one topic; use `start`, `add` and `room`, `close`, in this order.

    Shapes:  partitions       all partitions of the topic, or the one that records go to
             acks             -1 all, 1 the leader, 0 none
             batch_bytes_max  of a batch before compression
             delivered        called for every acknowledged batch: (batch, base offset, timestamp)
             failed           called once `failure` says why no more records are sent
             keep_records     leave keys and values in a batch, for `delivered`
    """

    def __init__(
        self,
        client: Client,
        topic: str,
        partitions: Sequence[int],
        *,
        headers: RecordHeaders = (),
        compression: int = 0,
        acks: int = -1,
        batch_bytes_max: int = 512 << 10,
        delivery_timeout_s: float = 120.0,
        delivered: Callable[[Batch, int, int], None] | None = None,
        failed: Callable[[], None] = lambda: None,
        keep_records: bool = False,
    ) -> None:
        self.counts = Counts()
        self.failure: ClientError | None = None
        self._client = client
        self._topic = topic
        self._partitions = list(partitions)
        self._headers = encoded_headers(headers)
        self._compression = compression
        self._acks = acks
        self._batch_bytes_max = batch_bytes_max
        self._delivery_timeout_s = delivery_timeout_s
        self._delivered = delivered
        self._failed = failed
        self._keep_records = keep_records
        self._producer_id = NO_PRODUCER_ID
        self._producer_epoch = -1
        self._sequences: dict[int, int] = {}
        self._open: dict[int, Batch] = {}
        self._queues: dict[int, deque[Batch]] = {}
        self._wakers: dict[int, asyncio.Event] = {}
        self._queued_bytes = 0
        self._room = asyncio.Event()
        self._sticky = random.choice(self._partitions)
        self._group: asyncio.TaskGroup | None = None
        self._is_closing = False

    # -- records in ------------------------------------------------------------------------

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Get a producer id where sequences are used; senders will run in `group`."""
        self._group = group
        if self._acks != -1:
            return
        deadline = Deadline(self._client.timeout_s)
        while True:
            answer: InitProducerIdResponse = await self._client.ask(
                InitProducerIdRequest(None, 60_000)
            )
            if not answer.error_code:
                if answer.producer_id < 0 or answer.producer_epoch < 0:
                    raise Broken(f"the broker gives producer id {answer.producer_id}")
                self._producer_id = answer.producer_id
                self._producer_epoch = answer.producer_epoch
                return
            if not is_retriable(answer.error_code) or not await deadline.pause():
                raise refused("producer id", answer.error_code)

    def add(self, key: bytes | None, value: bytes | None, partition: int | None) -> None:
        """Put a record into the open batch of its partition; see `room` for back-pressure."""
        if partition is None:
            partition = self._sticky if key is None else self._of_key(key)
        size = 40 + len(self._headers) + len(value or b"") + len(key or b"")
        batch = self._open.get(partition)
        if batch is not None and batch.size_bytes + size > self._batch_bytes_max:
            self._seal(partition)
            if key is None and partition == self._sticky:
                self._sticky = random.choice(self._partitions)
            batch = None
        if batch is None:
            batch = self._open[partition] = Batch(partition, time.time_ns() // 1_000_000)
        count = batch.count
        delta = _VARINTS[count] if count < _CACHED_VARINTS else _varint(count)
        key_part = _NULL if key is None else _length(key) + key
        value_part = _NULL if value is None else _length(value) + value
        tail = self._headers
        length = 2 + len(delta) + len(key_part) + len(value_part) + len(tail)
        prefix = _VARINTS[length] if length < _CACHED_VARINTS else _varint(length)
        batch.pieces.append(b"%b\0\0%b%b%b%b" % (prefix, delta, key_part, value_part, tail))
        batch.count = count + 1
        batch.size_bytes += length + len(prefix)
        self._queued_bytes += length + len(prefix)
        self.counts.added += 1
        if self._keep_records:
            batch.records.append((key, value))

    def _of_key(self, key: bytes) -> int:
        count = len(self._partitions)
        return self._partitions[partition_of_key(key, count) if count > 1 else 0]

    def seal(self) -> None:
        """Send what has been added, however little it is."""
        for partition in list(self._open):
            self._seal(partition)
        self._sticky = random.choice(self._partitions)

    async def room(self) -> None:
        """Wait until fewer than QUEUED_BYTES_MAX wait to be sent; returns early on failure."""
        while self._queued_bytes >= QUEUED_BYTES_MAX and self.failure is None:
            self.seal()
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """Send everything; the senders end when that is done, or has failed."""
        self.seal()
        self._is_closing = True
        for waker in self._wakers.values():
            waker.set()

    def _seal(self, partition: int) -> None:
        batch = self._open.pop(partition)
        batch.deadline = time.monotonic() + self._delivery_timeout_s
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = deque()
            self._wakers[partition] = asyncio.Event()
            assert self._group is not None, "start comes first"
            self._group.create_task(self._send(partition, queue, self._wakers[partition]))
        queue.append(batch)
        self._wakers[partition].set()

    # -- batches out -----------------------------------------------------------------------

    async def _send(self, partition: int, queue: deque[Batch], waker: asyncio.Event) -> None:
        """The sender of one partition; ends when the producer closes or has failed."""
        window_max = {-1: WINDOW_MAX, 1: 1, 0: WINDOW_MAX}[self._acks]
        while self.failure is None:
            if not queue:
                if self._is_closing:
                    return
                waker.clear()
                await waker.wait()
                continue
            window = [queue.popleft() for _ in range(min(window_max, len(queue)))]
            try:
                await self._settle(partition, window)
            except ClientError as error:
                self.failure = self.failure or error
                self._room.set()
                self._is_closing = True
                for each in self._wakers.values():
                    each.set()
                self._failed()

    async def _settle(self, partition: int, window: list[Batch]) -> None:
        """Send the batches of a window until each is acknowledged; ClientError if one cannot be."""
        pause = Deadline(self._delivery_timeout_s)
        while True:
            try:
                node_id = await self._leader(partition)
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._ask(node_id, batch)) for batch in window]
                results = [task.result() for task in tasks]
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
            except Unreachable as error:
                results = [error] * len(window)
            left = []
            for batch, result in zip(window, results, strict=True):
                if isinstance(result, PartitionProduceResponse) and is_stored(result.error_code):
                    self._acknowledge(batch, result)
                else:
                    left.append((batch, result))
            if not left:
                return
            # Only the first failure tells what is wrong; it is what those behind it fail of.
            problem = self._problem(partition, left[0][1])
            window = [batch for batch, _ in left]
            if time.monotonic() >= window[0].deadline or not await pause.pause():
                raise ClientError(f"not delivered within {self._delivery_timeout_s:g} s: {problem}")
            await self._refresh()

    def _problem(
        self, partition: int, result: PartitionProduceResponse | Unreachable
    ) -> ClientError:
        """What is wrong with a batch that may be sent again; raises if it is wrong for good."""
        if isinstance(result, Broken):
            raise result
        if isinstance(result, Unreachable):
            return result
        hint = None
        if result.error_code == ErrorCode.MESSAGE_TOO_LARGE:
            hint = "lower --max-message-bytes, or raise the topic's max.message.bytes"
        where = f"topic {self._topic} partition {partition}"
        error = refused(where, result.error_code, result.error_message, hint)
        if not is_retriable(result.error_code):
            raise error
        return error

    async def _leader(self, partition: int) -> int:
        leader = self._client.leaders.get((self._topic, partition))
        if leader is None or leader.node_id < 0:
            raise Unreachable(f"topic {self._topic} partition {partition}: no leader now")
        return leader.node_id

    async def _refresh(self) -> None:
        try:
            await self._client.metadata([self._topic])
        except ClientError:
            return  # the next try says what is wrong, until the time is up

    async def _ask(self, node_id: int, batch: Batch) -> PartitionProduceResponse | Unreachable:
        """Send one batch; what the broker says, or why nobody says anything."""
        request = ProduceRequest(
            None,
            self._acks,
            _REQUEST_TIMEOUT_MS,
            [
                TopicProduceData(
                    name=self._topic,
                    partition_data=[
                        PartitionProduceData(batch.partition, memoryview(self._framed(batch)))
                    ],
                )
            ],
        )
        try:
            if self._acks == 0:
                link = await self._client.link(node_id)
                link.tell(request, _NAMES_VERSION_MAX)
                await link.drain()
                return PartitionProduceResponse(batch.partition, 0, -1)
            await self._client.link(node_id)  # what fails before it is sent is not in doubt
            self._count_sent(batch)
            answer = await self._client.ask(
                request,
                node_id=node_id,
                timeout_s=_REQUEST_TIMEOUT_MS / 1000 + self._client.timeout_s,
                version_max=_NAMES_VERSION_MAX,
            )
        except Unreachable as error:
            return error
        for topic in answer.responses:
            for each in topic.partition_responses:
                if (topic.name, each.index) == (self._topic, batch.partition):
                    if each.error_code not in _IN_DOUBT:
                        self._count_answered(batch)
                    return each  # type: ignore[no-any-return]
        return Broken(f"node {node_id}: the answer to PRODUCE leaves out what was asked")

    def _count_sent(self, batch: Batch) -> None:
        if batch.unanswered == 0:
            self.counts.unknown += batch.count
        batch.unanswered += 1

    def _count_answered(self, batch: Batch) -> None:
        batch.unanswered -= 1
        if batch.unanswered == 0:
            self.counts.unknown -= batch.count

    def _framed(self, batch: Batch) -> bytearray:
        """The batch as it goes out, every time the same."""
        if batch.framed is None:
            if self._acks == -1:
                sequence = self._sequences.get(batch.partition, 0)
                batch.base_sequence = sequence
                self._sequences[batch.partition] = (sequence + batch.count) & _SEQUENCE_MASK
            batch.framed = frame_batch(
                b"".join(batch.pieces),
                batch.count,
                last_offset_delta=batch.count - 1,
                base_timestamp=batch.timestamp,
                max_timestamp=batch.timestamp,
                compression=self._compression,
                producer_id=self._producer_id,
                producer_epoch=self._producer_epoch,
                base_sequence=batch.base_sequence,
            )
            batch.pieces.clear()
        return batch.framed

    def _acknowledge(self, batch: Batch, result: PartitionProduceResponse) -> None:
        if batch.unanswered:  # an earlier try
            batch.unanswered = 0
            self.counts.unknown -= batch.count
        self.counts.acknowledged += batch.count
        self.counts.acknowledged_bytes += batch.size_bytes
        self._queued_bytes -= batch.size_bytes
        self._room.set()
        if self._delivered is not None:
            timestamp = result.log_append_time_ms
            self._delivered(
                batch, result.base_offset, batch.timestamp if timestamp < 0 else timestamp
            )


def _length(data: bytes) -> bytes:
    size = len(data)
    return _VARINTS[size] if size < _CACHED_VARINTS else _varint(size)


def is_retriable(error_code: int) -> bool:
    """Whether the same request may succeed later."""
    try:
        return ErrorCode(error_code).retriable
    except ValueError:
        return False


def is_stored(error_code: int) -> bool:
    """Whether the batch is in the log: now, or since an earlier try."""
    return error_code in (ErrorCode.NONE, ErrorCode.DUPLICATE_SEQUENCE_NUMBER)
