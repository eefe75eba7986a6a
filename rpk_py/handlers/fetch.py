"""Fetch (key 1), versions 4-18.

v5  log_start_offset      v9  current_leader_epoch   v12 flexible, current_leader
v7  sessions (KIP-227)    v10 zstd                   v13 topic ids instead of names
v16 node_endpoints        v15, v17, v18 change what followers send

Behaviour:  answers at once with data, on an error, with max_wait_ms <= 0, or without partitions;
            else waits until the high watermark brings min_bytes or max_wait_ms is over. Whole
            batches, as slices of the record buffers that were written: nothing is copied. Limits
            are soft, as in Kafka: the first partition with data returns at least one batch. Fetch
            sessions are declined: session_id is always 0 and every answer is full; a request that
            goes on with a session gets FETCH_SESSION_ID_NOT_FOUND. A cold read may answer with
            fewer than min_bytes before max_wait_ms.
Deviations: last_fetched_epoch, replica_state and the tags of v17 and v18 belong to followers and
            are ignored until replication exists. read_committed and read_uncommitted are the same
            until transactions exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Final, NamedTuple

from kafka_protocol.api_key import ApiKey
from kafka_protocol.compression import ZSTD
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.current_leader import LeaderIdAndEpoch
from kafka_protocol.messages.fetch import (
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    PartitionData,
)
from kafka_protocol.record_batch import iter_batches
from rpk_py.cluster_view import add_endpoint
from rpk_py.context import RequestContext
from rpk_py.partition import Partition
from rpk_py.pending import Pending
from rpk_py.turns import LARGE_ITEMS, SLICE_ITEMS
from storage.errors import StorageError

_BY_ID_SINCE: Final = 13
_ZSTD_SINCE: Final = 10
_NODE_ENDPOINTS_SINCE: Final = 16
_READ_COMMITTED: Final = 1
_COLD_MAX: Final = 32  # partitions of one request that are read from disk at the same time
LOOK_S: Final = 0.05  # between two looks at very many partitions
STOP_LOOK_S: Final = 0.5  # after which who waits for them sees that the broker stops
_SESSION_FULL: Final = 0  # wants a session, and a full answer
_SESSION_NONE: Final = -1  # none, or closes one


class _Cold(NamedTuple):
    """A partition whose records are not in memory. `first`: nothing stood before it in the
    request, so it gets at least one batch."""

    partition: Partition
    offset: int
    max_bytes: int
    first: bool
    answer: PartitionData


class PendingFetch(Pending):
    """A long poll: a FetchWaiter of every partition that it asked for."""

    __slots__ = ("_ctx", "_looks", "_parked_s", "_partitions", "_request", "_timer")

    def __init__(self, ctx: RequestContext, request: FetchRequest) -> None:
        super().__init__(pipelined=False)
        self._ctx = ctx
        self._request = request
        self._looks = False
        self._parked_s = ctx.broker.clock_s()
        self._partitions = [
            partition
            for topic in request.topics
            for asked in topic.partitions
            if (partition := _find(ctx, topic, asked.partition)) is not None
        ]
        for partition in self._partitions:
            partition.add_fetch_waiter(self)
        ctx.broker.metrics.fetch_waiters += 1
        self._timer = ctx.broker.loop.call_later(request.max_wait_ms / 1000, self._finish)

    def wake(self) -> None:
        """FetchWaiter: look whether there is enough now, once a tick."""
        if not self._looks:
            self._looks = True
            self._ctx.broker.loop.call_soon(self._look)

    def _look(self) -> None:
        self._looks = False
        if self.completed or self._timer.cancelled():
            return
        read = _read_all(self._ctx, self._request)
        if read.cold or read.must_answer or read.bytes >= self._request.min_bytes:
            self._finish()

    def finish_now(self) -> None:
        """The broker stops: answer with what there is."""
        self._finish()

    def cancel(self) -> None:
        """The client is gone."""
        self._stop_waiting()

    def _finish(self) -> None:
        if self.completed:
            return
        self._stop_waiting()
        broker = self._ctx.broker
        self.waited_s = broker.clock_s() - self._parked_s
        broker.metrics.fetch_wait_seconds.observe(self.waited_s)
        read = _read_all(self._ctx, self._request)
        read.count()
        # What is cold by now is left for the client's next fetch, which reads it from disk.
        self.complete(read.response)

    def _stop_waiting(self) -> None:
        if self._timer.cancelled():
            return
        self._timer.cancel()
        for partition in self._partitions:
            partition.remove_fetch_waiter(self)
        self._ctx.broker.metrics.fetch_waiters -= 1


def handle(
    ctx: RequestContext, request: FetchRequest
) -> FetchResponse | PendingFetch | Awaitable[FetchResponse]:
    """Answer from memory at once, from disk later, or wait for data."""
    if request.session_epoch not in (_SESSION_FULL, _SESSION_NONE):
        ctx.broker.metrics.count_error(ApiKey.FETCH, ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        return FetchResponse(error_code=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
    if sum(len(topic.partitions) for topic in request.topics) > LARGE_ITEMS:
        return _answer_large(ctx, request)
    read = _read_all(ctx, request)
    if read.cold:
        return _finish_cold(ctx, read)
    enough = read.bytes >= request.min_bytes
    if enough or read.must_answer or request.max_wait_ms <= 0 or ctx.broker.stopping:
        read.count()
        return read.response
    return PendingFetch(ctx, request)


class _Woken:
    """A FetchWaiter for whoever waits by `await`."""

    __slots__ = ("_event", "forget")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.forget = self._event.clear

    def wake(self) -> None:
        """Something came."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Wait until something has come since `forget`, at most for so long."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            pass


async def _answer_large(ctx: RequestContext, request: FetchRequest) -> FetchResponse:
    """The same over very many partitions: in slices, and while it waits it looks at them again
    at most every LOOK_S, however much comes."""
    broker, woken = ctx.broker, _Woken()
    waits_until_s = broker.clock_s() + request.max_wait_ms / 1000
    partitions = {
        partition
        for topic in request.topics
        for asked in topic.partitions
        if (partition := _find(ctx, topic, asked.partition)) is not None
    }
    waits = False
    try:
        while True:
            woken.forget()
            read = _Read(ctx, request)
            await broker.turns.sliced(read.all(request))
            if read.cold:
                return await _finish_cold(ctx, read)
            left_s = waits_until_s - broker.clock_s()
            enough = read.bytes >= request.min_bytes or read.must_answer
            if enough or left_s <= 0 or broker.stopping:
                read.count()
                return read.response
            if not waits:
                waits = True
                broker.metrics.fetch_waiters += 1
                for partition in partitions:
                    partition.add_fetch_waiter(woken)
                continue  # something may have come meanwhile
            await asyncio.sleep(min(left_s, LOOK_S))
            await woken.wait(min(left_s, STOP_LOOK_S))
    finally:
        if waits:
            broker.metrics.fetch_waiters -= 1
            for partition in partitions:
                partition.remove_fetch_waiter(woken)


def _find(ctx: RequestContext, topic: FetchTopic, index: int) -> Partition | None:
    if ctx.api_version >= _BY_ID_SINCE:
        return ctx.broker.partitions.get_by_id(topic.topic_id, index)
    return ctx.broker.partitions.get(topic.topic, index)


class _Read:
    """One pass over the request's partitions: the response as far as memory has it.

    `must_answer` is set by an error or where nothing was asked for; `cold` lists what is only on
    disk; `errors` and `sent` are counted once the response is the answer.
    """

    __slots__ = (
        "budget_bytes",
        "bytes",
        "cold",
        "ctx",
        "errors",
        "must_answer",
        "response",
        "sent",
    )

    def __init__(self, ctx: RequestContext, request: FetchRequest) -> None:
        broker = ctx.broker
        self.ctx = ctx
        self.response = FetchResponse()
        self.bytes = 0
        self.cold: list[_Cold] = []
        self.errors: list[ErrorCode] = []
        self.sent: list[tuple[Partition, int, int]] = []  # with bytes, records
        self.must_answer = not any(topic.partitions for topic in request.topics)
        # Half of what is left, so that clients that take nothing leave something to the others.
        unsent_room = max(broker.config.reply_bytes_max - broker.unsent_bytes, 0) // 2
        self.budget_bytes = min(request.max_bytes, broker.config.fetch_max_bytes, unsent_room)

    def all(self, request: FetchRequest) -> Generator[None, None, None]:
        """Look at every partition; yields every few of them."""
        ctx = self.ctx
        committed = request.isolation_level == _READ_COMMITTED
        for topic in request.topics:
            answers: list[PartitionData] = []
            for asked in topic.partitions:
                if answers and not len(answers) % SLICE_ITEMS:
                    yield
                answer = PartitionData(asked.partition, 0, -1)
                answer.records = []
                answers.append(answer)
                partition = _find(ctx, topic, asked.partition)
                if partition is None:
                    self._refuse(topic, answer)
                    continue
                error = partition.check_leader_epoch(asked.current_leader_epoch)
                if error:
                    self._fail(answer, error)
                    continue
                if committed:
                    answer.aborted_transactions = []
                self._read(partition, asked, answer)
            topic_answer = FetchableTopicResponse(topic.topic, topic.topic_id, answers)
            self.response.responses.append(topic_answer)
            if not len(self.response.responses) % SLICE_ITEMS:
                yield

    def _read(self, partition: Partition, asked: FetchPartition, answer: PartitionData) -> None:
        log = partition.log
        assert log is not None
        high_watermark = partition.high_watermark
        answer.high_watermark = high_watermark
        answer.last_stable_offset = partition.last_stable_offset
        answer.log_start_offset = log.log_start_offset
        offset = asked.fetch_offset
        if not log.log_start_offset <= offset <= log.log_end_offset:
            self._fail(answer, ErrorCode.OFFSET_OUT_OF_RANGE)
            return
        first = self.bytes == 0 and not self.cold
        max_bytes = min(asked.partition_max_bytes, self.budget_bytes)
        if offset >= high_watermark or (max_bytes <= 0 and not first):
            return
        found = log.read_cached(offset, high_watermark, max_bytes, first)
        if found is None:
            self.cold.append(_Cold(partition, offset, max_bytes, first, answer))
            self.budget_bytes -= max(max_bytes, 0)
        else:
            slices, next_offset = found
            self.budget_bytes -= self.add(answer, partition, slices, next_offset - offset)

    def add(
        self, answer: PartitionData, partition: Partition, slices: list[memoryview], records: int
    ) -> int:
        """Put records into a partition's answer; returns their bytes."""
        size = sum(map(len, slices))
        if self.ctx.api_version < _ZSTD_SINCE and _has_zstd(slices):
            self._fail(answer, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
            return size
        answer.records = list(slices)
        self.bytes += size
        self.sent.append((partition, size, records))
        return size

    def count(self) -> None:
        """This is the answer: count what it sends."""
        metrics = self.ctx.broker.metrics
        metrics.fetched_bytes += self.bytes
        for partition, size, records in self.sent:
            metrics.fetched_records += records
            partition.bytes_out += size
            partition.records_out += records
        for error in self.errors:
            metrics.count_error(ApiKey.FETCH, error)

    def _fail(self, answer: PartitionData, error: ErrorCode) -> None:
        answer.error_code = error
        self.must_answer = True
        self.errors.append(error)

    def _refuse(self, topic: FetchTopic, answer: PartitionData) -> None:
        """The partition is not here: say who leads it (KIP-951), or that it does not exist."""
        ctx = self.ctx
        by_id = topic.topic_id if ctx.api_version >= _BY_ID_SINCE else None
        error, elsewhere = ctx.broker.partitions.why_missing(
            ctx.broker.metadata.state, topic.topic, by_id, answer.partition_index
        )
        self._fail(answer, error)
        if elsewhere is None:
            return
        answer.current_leader = LeaderIdAndEpoch(elsewhere.leader, elsewhere.leader_epoch)
        if ctx.api_version >= _NODE_ENDPOINTS_SINCE:
            add_endpoint(ctx, self.response.node_endpoints, elsewhere.leader)

    def fail_cold(self, cold: _Cold) -> None:
        """The log failed while it was read."""
        self._fail(cold.answer, ErrorCode.KAFKA_STORAGE_ERROR)


def _read_all(ctx: RequestContext, request: FetchRequest) -> _Read:
    read = _Read(ctx, request)
    for _ in read.all(request):
        pass
    return read


async def _finish_cold(ctx: RequestContext, read: _Read) -> FetchResponse:
    """Read what is not in memory, some partitions at the same time."""
    results: list[tuple[list[memoryview], int] | None] = []
    for start in range(0, len(read.cold), _COLD_MAX):
        some = read.cold[start : start + _COLD_MAX]
        results += await asyncio.gather(*(_read_cold(cold) for cold in some))
    for cold, found in zip(read.cold, results, strict=True):
        if found is None:
            read.fail_cold(cold)
        else:
            slices, next_offset = found
            read.add(cold.answer, cold.partition, slices, next_offset - cold.offset)
    read.count()
    return read.response


async def _read_cold(cold: _Cold) -> tuple[list[memoryview], int] | None:
    log = cold.partition.log
    assert log is not None
    try:
        return await log.read(
            cold.offset, cold.partition.high_watermark, cold.max_bytes, cold.first
        )
    except StorageError:
        return None


def _has_zstd(slices: list[memoryview]) -> bool:
    return any(
        batch.compression == ZSTD
        for part in slices
        for _pos, batch in iter_batches(part, 0, len(part))
    )
