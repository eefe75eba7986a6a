"""Fetch (key 1), versions 4-18.

v5  log_start_offset      v9  current_leader_epoch   v12 flexible, current_leader
v7  sessions (KIP-227)    v10 zstd                   v13 topic ids instead of names
v16 node_endpoints        v15, v17, v18 change what followers send

Behaviour:  answers at once with data, on an error, with max_wait_ms <= 0, or without partitions;
            else waits until the high watermark brings min_bytes or max_wait_ms is over. Whole
            batches, as slices of the record buffers that were written: nothing is copied. Limits
            are soft, as in Kafka: the first partition with data returns at least one batch. A cold
            read may answer with fewer than min_bytes before max_wait_ms. Incremental fetch
            sessions as in Kafka; of a session only the partitions are looked at where something
            has happened since (fetch_sessions.py).
Deviations: last_fetched_epoch, replica_state and the tags of v17 and v18 belong to followers and
            are ignored until replication exists. read_committed and read_uncommitted are the same
            until transactions exist. Sessions are bounded by their memory, too. A fetch that waits
            while another request goes on with its session is refused at once, not when its wait is
            over; in a session, a partition that was named twice is served once.
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
from rpk_py.fetch_sessions import (
    FULL,
    NONE,
    FetchSession,
    Looked,
    SessionPartition,
    next_epoch,
)
from rpk_py.partition import Partition
from rpk_py.pending import Pending
from rpk_py.turns import LARGE_ITEMS, SLICE_ITEMS, at_once
from storage.errors import StorageError

_BY_ID_SINCE: Final = 13
_ZSTD_SINCE: Final = 10
_NODE_ENDPOINTS_SINCE: Final = 16
_READ_COMMITTED: Final = 1
_COLD_MAX: Final = 32  # partitions of one request that are read from disk at the same time
LOOK_S: Final = 0.05  # between two looks at very many partitions
STOP_LOOK_S: Final = 0.5  # after which who waits for them sees that the broker stops


class _Cold(NamedTuple):
    """A partition whose records are not in memory. `first`: nothing stood before it in the
    request, so it gets at least one batch."""

    partition: Partition
    offset: int
    max_bytes: int
    first: bool
    answer: PartitionData


class PendingFetch(Pending):
    """A long poll: woken by the partitions of its session, else a FetchWaiter of every partition
    that it asked for."""

    __slots__ = ("_ctx", "_looks", "_parked_s", "_partitions", "_request", "_session", "_timer")

    def __init__(
        self,
        ctx: RequestContext,
        request: FetchRequest,
        session: FetchSession | None,
        partitions: list[Partition],
    ) -> None:
        """`partitions`: who wakes it, where no session does."""
        super().__init__(pipelined=False)
        self._ctx = ctx
        self._request = request
        self._session = session
        self._looks = False
        self._parked_s = ctx.broker.clock_s()
        self._partitions = partitions
        for partition in partitions:
            partition.add_fetch_waiter(self)
        ctx.broker.metrics.fetch_waiters += 1
        self._timer = ctx.broker.loop.call_later(request.max_wait_ms / 1000, self.finish_now)

    def wake(self) -> None:
        """FetchWaiter, Poll: look whether there is enough now, once a tick."""
        if not self._looks:
            self._looks = True
            self._ctx.broker.loop.call_soon(self._look)

    def _look(self) -> None:
        self._looks = False
        if self.completed or self._timer.cancelled():
            return
        read = _look_at_all(self._ctx, self._request, self._session)
        if read.cold or read.must_answer or read.bytes >= self._request.min_bytes:
            self._finish(read)
        elif self._session is not None:
            self._session.park(self, read.looked)

    def finish_now(self) -> None:
        """Answer with what there is: it waited for max_wait_ms, or the broker stops."""
        if not self.completed:
            self._finish(_look_at_all(self._ctx, self._request, self._session))

    def cancel(self) -> None:
        """The client is gone."""
        self._stop_waiting()

    def _finish(self, read: _Read) -> None:
        self._stop_waiting()
        broker = self._ctx.broker
        self.waited_s = broker.clock_s() - self._parked_s
        broker.metrics.fetch_wait_seconds.observe(self.waited_s)
        # What is cold by now is left for the client's next fetch, which reads it from disk.
        self.complete(at_once(read.answer()))

    def _stop_waiting(self) -> None:
        if self._timer.cancelled():
            return
        self._timer.cancel()
        if self._session is not None:
            self._session.unpark(self)
        for partition in self._partitions:
            partition.remove_fetch_waiter(self)
        self._ctx.broker.metrics.fetch_waiters -= 1


def handle(
    ctx: RequestContext, request: FetchRequest
) -> FetchResponse | PendingFetch | Awaitable[FetchResponse]:
    """Answer from memory at once, from disk later, or wait for data."""
    sessions = ctx.broker.fetch_sessions
    session: FetchSession | None = None
    if request.session_epoch not in (FULL, NONE):
        by_id = ctx.api_version >= _BY_ID_SINCE
        found = sessions.go_on(request.session_id, request.session_epoch, by_id)
        if isinstance(found, ErrorCode):
            return _session_error(ctx, found)
        session = found
    elif request.session_id:
        sessions.close(request.session_id)
    named = 0
    for topic in request.topics:
        named += len(topic.partitions)
    count = named
    if session is not None:
        count += sum(len(topic.partitions) for topic in request.forgotten_topics_data)
        count += len(session.due)
    if count > LARGE_ITEMS:
        return _answer_large(ctx, request, session)
    if session is not None:
        updated = at_once(sessions.update(session, request))
        if isinstance(updated, ErrorCode):
            return _session_error(ctx, updated)
        session = updated
    waits = request.max_wait_ms > 0 and request.min_bytes > 0 and not ctx.broker.stopping
    if waits and session is None and (quiet := _all_quiet(ctx, request)):
        return PendingFetch(ctx, request, None, quiet)
    read = _look_at_all(ctx, request, session)
    if read.cold:
        return _finish_cold(read)
    enough = read.bytes >= request.min_bytes or read.must_answer
    if enough or not waits or (session is None and not named):
        return at_once(read.answer())
    if session is None:
        return PendingFetch(ctx, request, None, _partitions_of(ctx, request))
    poll = PendingFetch(ctx, request, session, [])
    session.park(poll, read.looked)
    return poll


def _all_quiet(ctx: RequestContext, request: FetchRequest) -> list[Partition] | None:
    """The partitions of a request where all are here and none has anything to read or to say;
    else None. As at the tail, whose fetches wait: no answer is made before there is one."""
    partitions: list[Partition] = []
    for topic in request.topics:
        for asked in topic.partitions:
            partition = _find(ctx, topic, asked.partition)
            if partition is None or partition.check_leader_epoch(asked.current_leader_epoch):
                return None
            assert partition.log is not None
            if not partition.high_watermark <= asked.fetch_offset <= partition.log.log_end_offset:
                return None
            partitions.append(partition)
    return partitions


def _session_error(ctx: RequestContext, error: ErrorCode, session_id: int = 0) -> FetchResponse:
    ctx.broker.metrics.count_error(ApiKey.FETCH, error)
    return FetchResponse(error_code=error, session_id=session_id)


class _Woken:
    """A FetchWaiter, and the Poll of a session, for whoever waits by `await`."""

    __slots__ = ("_event", "ends", "forget")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.forget = self._event.clear
        self.ends = False

    def wake(self) -> None:
        """Something came."""
        self._event.set()

    def finish_now(self) -> None:
        """Poll: the session goes on without it, or is gone."""
        self.ends = True
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Wait until something has come since `forget`, at most for so long."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            pass


async def _answer_large(
    ctx: RequestContext, request: FetchRequest, session: FetchSession | None
) -> FetchResponse:
    """The same over very many partitions: in slices, and while it waits it looks at them again
    at most every LOOK_S, however much comes."""
    broker, woken = ctx.broker, _Woken()
    waits_until_s = broker.clock_s() + request.max_wait_ms / 1000
    if session is not None:
        updated = await broker.turns.sliced(broker.fetch_sessions.update(session, request))
        if isinstance(updated, ErrorCode):
            return _session_error(ctx, updated)
        session = updated
    partitions = set(_partitions_of(ctx, request)) if session is None else set()
    waits = False
    try:
        while True:
            woken.forget()
            read = _Read(ctx, request, session)
            await broker.turns.sliced(read.all())
            if read.cold:
                return await _finish_cold(read)
            left_s = waits_until_s - broker.clock_s()
            enough = read.bytes >= request.min_bytes or read.must_answer
            if enough or left_s <= 0 or broker.stopping or woken.ends:
                return await broker.turns.sliced(read.answer())
            if session is not None:
                session.park(woken, read.looked)
            if not waits:
                waits = True
                broker.metrics.fetch_waiters += 1
                for partition in partitions:
                    partition.add_fetch_waiter(woken)
                continue  # something may have come meanwhile
            await asyncio.sleep(min(left_s, LOOK_S))
            await woken.wait(min(left_s, STOP_LOOK_S))
    finally:
        if session is not None:
            session.unpark(woken)
        if waits:
            broker.metrics.fetch_waiters -= 1
            for partition in partitions:
                partition.remove_fetch_waiter(woken)


def _partitions_of(ctx: RequestContext, request: FetchRequest) -> list[Partition]:
    return [
        partition
        for topic in request.topics
        for asked in topic.partitions
        if (partition := _find(ctx, topic, asked.partition)) is not None
    ]


def _find(
    ctx: RequestContext, topic: FetchTopic | SessionPartition, index: int
) -> Partition | None:
    if ctx.api_version >= _BY_ID_SINCE:
        return ctx.broker.partitions.get_by_id(topic.topic_id, index)
    return ctx.broker.partitions.get(topic.topic, index)


class _Read:
    """One pass over what a request is about: the answers as far as memory has them.

    That are its partitions, or those of its session that are due. `must_answer` is set by an
    error; `cold` lists what is only on disk; `looked` what was seen
    of a session; `errors` and `sent` are counted once the response is the answer.
    """

    __slots__ = (
        "budget_bytes",
        "bytes",
        "cold",
        "ctx",
        "errors",
        "looked",
        "must_answer",
        "request",
        "response",
        "sent",
        "session",
    )

    def __init__(
        self, ctx: RequestContext, request: FetchRequest, session: FetchSession | None
    ) -> None:
        broker = ctx.broker
        self.ctx = ctx
        self.request = request
        self.session = session
        self.response = FetchResponse()
        self.bytes = 0
        self.cold: list[_Cold] = []
        self.errors: list[ErrorCode] = []
        self.looked: list[Looked] = []
        self.sent: list[tuple[Partition, int, int]] = []  # with bytes, records
        self.must_answer = False
        # Half of what is left, so that clients that take nothing leave something to the others.
        unsent_room = max(broker.config.reply_bytes_max - broker.unsent_bytes, 0) // 2
        self.budget_bytes = min(request.max_bytes, broker.config.fetch_max_bytes, unsent_room)

    def all(self) -> Generator[None, None, None]:
        """Look at every partition; yields every few of them."""
        if self.session is not None:
            for entry in list(self.session.due):
                self.looked.append(Looked(entry, *self._look(entry, entry.asked)))
                if not len(self.looked) % SLICE_ITEMS:
                    yield
            return
        for topic in self.request.topics:
            answers: list[PartitionData] = []
            for asked in topic.partitions:
                if answers and not len(answers) % SLICE_ITEMS:
                    yield
                answers.append(self._look(topic, asked)[1])
            topic_answer = FetchableTopicResponse(topic.topic, topic.topic_id, answers)
            self.response.responses.append(topic_answer)
            if not len(self.response.responses) % SLICE_ITEMS:
                yield

    def _look(
        self, topic: FetchTopic | SessionPartition, asked: FetchPartition
    ) -> tuple[Partition | None, PartitionData]:
        """One partition, if it is here, and its answer."""
        answer = PartitionData(asked.partition, 0, -1)
        answer.records = []
        partition = _find(self.ctx, topic, asked.partition)
        if partition is None:
            self._refuse(topic, answer)
            return None, answer
        error = partition.check_leader_epoch(asked.current_leader_epoch)
        if error:
            self._fail(answer, error)
            return partition, answer
        if self.request.isolation_level == _READ_COMMITTED:
            answer.aborted_transactions = []
        self._read(partition, asked, answer)
        return partition, answer

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

    def answer(self) -> Generator[None, None, FetchResponse]:
        """This is the answer: count what it sends, and have a session remember what was told;
        yields now and then."""
        ctx, response, session = self.ctx, self.response, self.session
        if session is not None:
            if session.epoch != next_epoch(self.request.session_epoch):
                error = ErrorCode.INVALID_FETCH_SESSION_EPOCH  # another request went on with it
                return _session_error(ctx, error, session.session_id)
            response.session_id = session.session_id
            response.responses = yield from session.tell(self.looked)
        elif self.request.session_epoch == FULL:
            by_id = ctx.api_version >= _BY_ID_SINCE
            response.session_id = yield from ctx.broker.fetch_sessions.create(
                self.request, response, by_id
            )
        metrics = ctx.broker.metrics
        metrics.fetched_bytes += self.bytes
        for partition, size, records in self.sent:
            metrics.fetched_records += records
            partition.bytes_out += size
            partition.records_out += records
        for error in self.errors:
            metrics.count_error(ApiKey.FETCH, error)
        return response

    def _fail(self, answer: PartitionData, error: ErrorCode) -> None:
        answer.error_code = error
        self.must_answer = True
        self.errors.append(error)

    def _refuse(self, topic: FetchTopic | SessionPartition, answer: PartitionData) -> None:
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


def _look_at_all(ctx: RequestContext, request: FetchRequest, session: FetchSession | None) -> _Read:
    read = _Read(ctx, request, session)
    at_once(read.all())
    return read


async def _finish_cold(read: _Read) -> FetchResponse:
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
    return await read.ctx.broker.turns.sliced(read.answer())


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
