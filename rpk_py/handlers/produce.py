"""Produce (key 0), versions 3-13 (advertised from 0, see api_versions).

v5  log_start_offset       v8  record_errors, error_message    v10 current_leader, node_endpoints
v7  zstd is allowed        v9  flexible                        v13 topic ids instead of names

Behaviour:  exactly one record batch (v2) a partition. Checked before an offset is assigned: size,
            CRC, header; then the producer's sequence. Two stages: `handle` enqueues, so order is
            fixed and the connection's next request may start; the reply leaves when everything is
            durable (or, with write.caching, in memory). acks=0 is never answered, an error then
            closes the connection, as in Kafka. acks=1 and acks=all mean the same with one replica.
            On a compacted topic every record needs a key: else INVALID_RECORD, and from v8 on the
            records that have none. To look for that a large batch is inflated in a thread.
            To an internal topic only Kafka's own admin client may write (ReplicaManager).
Deviations: nothing looks inside a batch beyond its 61-byte header and CRC, but for the keys of
            compacted topics: a record count, key or timestamp inside that contradicts the header is
            stored as it came. timeout_ms is not enforced: a local disk answers or fails. A
            partition that stands twice in a request gets both batches; Kafka drops all but the
            last. A batch that says LogAppendTime is
            INVALID_TIMESTAMP, Kafka corrects it, and drops what follows a batch. One for a
            compacted topic that inflates to more than 64 MiB is INVALID_RECORD.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias

from kafka_protocol.api_key import ApiKey
from kafka_protocol.compression import NONE, ZSTD
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.current_leader import LeaderIdAndEpoch
from kafka_protocol.messages.produce import (
    BatchIndexAndErrorMessage,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)
from kafka_protocol.record_batch import (
    MAGIC,
    RECORD_BATCH_OVERHEAD,
    BatchHeader,
    parse_header,
    set_log_append_time,
    verify_crc,
)
from rpk_py.cluster_view import add_endpoint
from rpk_py.context import RequestContext
from rpk_py.partition import Partition
from rpk_py.pending import Pending
from rpk_py.producers import Duplicate
from rpk_py.record_keys import AT_ONCE_BYTES, Keyless, check_keys, is_small
from rpk_py.turns import Large, wake
from storage.errors import StorageError

ADMIN_CLIENT_ID: Final = "__admin_client"  # AdminUtils.ADMIN_CLIENT_ID of Apache Kafka
KeylessOf: TypeAlias = dict[int, Keyless]
"""Refused batches, by id() of the request's part that holds them."""

_NOTHING: Final[KeylessOf] = {}
_ACKS: Final = (-1, 0, 1)
_BY_ID_SINCE: Final = 13
_ZSTD_SINCE: Final = 7
_CURRENT_LEADER_SINCE: Final = 10
_LARGE_PARTITIONS: Final = 100
_SLICE_PARTITIONS: Final = 16
_WRITES_MAX: Final = 32  # of one large request at a time: each costs the disk a write


class PendingProduce(Pending):
    """A produce reply that waits for its partitions; a ProduceWaiter of each."""

    __slots__ = ("_ctx", "answer", "waiting")

    def __init__(self, ctx: RequestContext, response: ProduceResponse) -> None:
        super().__init__(pipelined=True)
        self._ctx = ctx
        self.answer = response
        self.waiting = 0

    def settle(self, token: object, error: ErrorCode) -> None:
        """One partition's batch is acknowledged, or lost with `error`."""
        self.note(token, error)
        if self.waiting == 0:
            self.complete(self.answer)

    def note(self, token: object, error: ErrorCode) -> None:
        """Put it into the answer."""
        assert isinstance(token, PartitionProduceResponse)
        if error:
            _fail(self._ctx, token, error)
            token.base_offset = -1
        self.waiting -= 1


class _SlicedProduce(PendingProduce):
    """One that is enqueued in slices: each waits for those before it, so that the writes of others
    do not stand behind thousands of its own."""

    __slots__ = ("_fewer", "_settled")

    def __init__(self, ctx: RequestContext, response: ProduceResponse) -> None:
        super().__init__(ctx, response)
        self._fewer = 0
        self._settled: asyncio.Future[None] | None = None

    async def give_way(self) -> None:
        """After a slice: others first, and not too many writes of its own at the disk."""
        await self.fewer_than(_WRITES_MAX)
        await self._ctx.broker.turns.pause()

    async def fewer_than(self, count: int) -> None:
        """Wait until fewer partitions than that are not acknowledged."""
        if self.waiting >= count:
            self._fewer = count
            self._settled = asyncio.get_running_loop().create_future()
            await self._settled

    def settle(self, token: object, error: ErrorCode) -> None:
        """As above; nobody subscribes, `fewer_than` is asked."""
        self.note(token, error)
        if self._settled is not None and self.waiting < self._fewer:
            wake(self._settled)
            self._settled = None


def handle(
    ctx: RequestContext, request: ProduceRequest
) -> ProduceResponse | PendingProduce | Large:
    """Enqueue every batch; the reply is pending until all of them are acknowledged."""
    keyless: KeylessOf = _NOTHING
    if ctx.broker.partitions.any_compacted:
        looked = _look_inside(ctx, request)
        if looked is None:
            return handle_large(ctx, _copied(request))
        keyless = looked
    response = ProduceResponse([], 0, [])
    pending = PendingProduce(ctx, response)
    for topic in request.topic_data:
        answers: list[PartitionProduceResponse] = []
        for data in topic.partition_data:
            answers.append(_enqueue(ctx, request, topic, data, response, pending, keyless))
        response.responses.append(TopicProduceResponse(topic.name, topic.topic_id, answers))
    return pending if pending.waiting else response


def is_large(request: ProduceRequest) -> bool:
    """Whether it is about so many partitions that others must be served in between."""
    return sum(len(topic.partition_data) for topic in request.topic_data) > _LARGE_PARTITIONS


def handle_large(ctx: RequestContext, request: ProduceRequest) -> Large:
    """The same in slices; its bytes stay as they are until the reply. The next request of the
    connection waits for it, so that order holds."""

    async def make() -> ProduceResponse:
        response = ProduceResponse()
        pending = _SlicedProduce(ctx, response)
        for topic in request.topic_data:
            answers: list[PartitionProduceResponse] = []
            for data in topic.partition_data:
                keyless = await _look_inside_beside(ctx, topic, data)
                answers.append(_enqueue(ctx, request, topic, data, response, pending, keyless))
                if not len(answers) % _SLICE_PARTITIONS:
                    await pending.give_way()
            response.responses.append(TopicProduceResponse(topic.name, topic.topic_id, answers))
            if not len(response.responses) % _SLICE_PARTITIONS:
                await pending.give_way()
        await pending.fewer_than(1)
        return response

    return Large(make)


def _batch_with_keys(
    ctx: RequestContext, topic: TopicProduceData, data: PartitionProduceData
) -> tuple[memoryview, str] | None:
    """What must be looked into: the batch and the name of its partition. None: nothing."""
    if ctx.api_version >= _BY_ID_SINCE:
        partition = ctx.broker.partitions.get_by_id(topic.topic_id, data.index)
    else:
        partition = ctx.broker.partitions.get(topic.name, data.index)
    records = data.records
    if partition is None or not partition.compacted or records is None:
        return None
    header = check_batch(records, partition.max_message_bytes, ctx.api_version)
    if isinstance(header, Refusal):
        return None  # that is what the client is told
    return records, partition.name


def _look_inside(ctx: RequestContext, request: ProduceRequest) -> KeylessOf | None:
    """Which batches lack keys that they need; None where that takes long to find out."""
    keyless: KeylessOf = {}
    for topic in request.topic_data:
        for data in topic.partition_data:
            found = _batch_with_keys(ctx, topic, data)
            if found is None:
                continue
            records, name = found
            if not is_small(parse_header(records), len(records)):
                return None
            refused = check_keys(records, name, AT_ONCE_BYTES)
            if refused is not None:
                if not refused.indexes:
                    return None  # perhaps it is only larger than it looks
                keyless[id(data)] = refused
    return keyless


async def _look_inside_beside(
    ctx: RequestContext, topic: TopicProduceData, data: PartitionProduceData
) -> KeylessOf:
    """The same for one batch of any size."""
    if not ctx.broker.partitions.any_compacted:
        return _NOTHING
    found = _batch_with_keys(ctx, topic, data)
    refused = None if found is None else await ctx.broker.turns.in_thread(check_keys, *found)
    return _NOTHING if refused is None else {id(data): refused}


def _copied(request: ProduceRequest) -> ProduceRequest:
    """The same with bytes of its own: the receive buffer's are valid until the first await."""
    for topic in request.topic_data:
        for data in topic.partition_data:
            if data.records is not None:
                data.records = memoryview(bytes(data.records))
    return request


def _enqueue(
    ctx: RequestContext,
    request: ProduceRequest,
    topic: TopicProduceData,
    data: PartitionProduceData,
    response: ProduceResponse,
    pending: PendingProduce,
    keyless: KeylessOf,
) -> PartitionProduceResponse:
    """Append a partition's batch; returns its place in the answer."""
    answer = PartitionProduceResponse(data.index, 0, -1, -1, -1, [], None, None)
    by_id = ctx.api_version >= _BY_ID_SINCE
    if request.acks not in _ACKS:
        _fail(ctx, answer, ErrorCode.INVALID_REQUIRED_ACKS)
        return answer
    if by_id:
        partition = ctx.broker.partitions.get_by_id(topic.topic_id, data.index)
    else:
        partition = ctx.broker.partitions.get(topic.name, data.index)
    if partition is None:
        _refuse(ctx, response, answer, topic.name, topic.topic_id if by_id else None)
    else:
        _append(ctx, partition, data, answer, pending, keyless)
    return answer


def _append(
    ctx: RequestContext,
    partition: Partition,
    data: PartitionProduceData,
    answer: PartitionProduceResponse,
    pending: PendingProduce,
    keyless: KeylessOf,
) -> None:
    """Validate one batch and append it, or answer its duplicate."""
    if partition.produce_refused is not None:
        _fail(ctx, answer, ErrorCode.KAFKA_STORAGE_ERROR, partition.produce_refused)
        return
    if partition.internal and ctx.client_id != ADMIN_CLIENT_ID:
        text = f"clients may not produce to {partition.topic}"
        _fail(ctx, answer, ErrorCode.INVALID_TOPIC_EXCEPTION, text)
        return
    records = data.records
    assert records is None or isinstance(records, memoryview)
    header = check_batch(records, partition.max_message_bytes, ctx.api_version)
    metrics = ctx.broker.metrics
    if isinstance(header, Refusal):
        _fail(ctx, answer, header.error, header.message)
        return
    assert records is not None
    if keyless and id(data) in keyless:
        _refuse_keyless(ctx, answer, keyless[id(data)])
        return
    answer.log_start_offset = partition.log_start_offset
    if header.producer_id >= 0:
        verdict = partition.producers.check(
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            header.last_offset_delta,
        )
        if isinstance(verdict, Duplicate):
            # Also a duplicate is answered only when the original is durable.
            metrics.duplicate_batches += 1
            answer.base_offset = verdict.base_offset
            if partition.log_append_time:
                answer.log_append_time_ms = verdict.timestamp_ms
            _wait(partition, verdict.base_offset + header.last_offset_delta + 1, answer, pending)
            return
        if verdict:
            _fail(ctx, answer, verdict)
            return
    now_ms = ctx.broker.clock_ms()
    if partition.log_append_time:
        stamped = bytearray(records)
        set_log_append_time(stamped, 0, len(stamped), now_ms)
        records = memoryview(stamped)
        header = parse_header(records)
        answer.log_append_time_ms = now_ms
    try:
        base_offset = partition.append(records, header, now_ms)
    except StorageError as error:
        _fail(ctx, answer, ErrorCode.KAFKA_STORAGE_ERROR, str(error))
        return
    metrics.produced_batches += 1
    metrics.produced_records += header.record_count
    metrics.produced_bytes += len(records)
    answer.base_offset = base_offset
    log = partition.log
    if log is not None and log.write_caching:
        partition.advance()
    _wait(partition, base_offset + header.last_offset_delta + 1, answer, pending)


def _fail(
    ctx: RequestContext,
    answer: PartitionProduceResponse,
    error: ErrorCode,
    message: str | None = None,
) -> None:
    answer.error_code = error
    answer.error_message = message
    ctx.broker.metrics.count_error(ApiKey.PRODUCE, error)


def _refuse_keyless(
    ctx: RequestContext, answer: PartitionProduceResponse, refused: Keyless
) -> None:
    _fail(ctx, answer, ErrorCode.INVALID_RECORD, refused.message)
    answer.record_errors = [
        BatchIndexAndErrorMessage(index, "the record has no key") for index in refused.indexes
    ]


def _wait(
    partition: Partition,
    end_offset: int,
    answer: PartitionProduceResponse,
    pending: PendingProduce,
) -> None:
    if not partition.when_visible(end_offset, pending, answer):
        pending.waiting += 1


class Refusal:
    """Why a batch is not appended."""

    __slots__ = ("error", "message")

    def __init__(self, error: ErrorCode, message: str) -> None:
        self.error = error
        self.message = message


def check_batch(
    records: memoryview | None, max_message_bytes: int, api_version: int
) -> BatchHeader | Refusal:
    """The header of the one whole, sound batch in `records`, or why it is refused."""
    size = len(records) if records is not None else 0
    if records is None or size == 0:
        return Refusal(ErrorCode.INVALID_RECORD, "no record batch for a partition")
    if size < RECORD_BATCH_OVERHEAD:
        return Refusal(ErrorCode.INVALID_RECORD, f"{size} bytes are no record batch")
    magic = records[16]
    if magic != MAGIC:
        # A format that once was is the client's mistake, for good; another one is damage.
        error = ErrorCode.INVALID_RECORD if magic < MAGIC else ErrorCode.CORRUPT_MESSAGE
        return Refusal(error, f"record format v{magic}; only v2 is stored (KIP-98)")
    header = parse_header(records)
    batch_bytes = header.batch_length + 12
    if size > batch_bytes >= RECORD_BATCH_OVERHEAD:
        return Refusal(ErrorCode.INVALID_RECORD, "more than one record batch for a partition")
    if size != batch_bytes:
        # What is cut is not a batch, and will not be one when it is sent again: not retriable.
        error = ErrorCode.INVALID_RECORD if size < batch_bytes else ErrorCode.CORRUPT_MESSAGE
        return Refusal(error, f"the batch says it has {batch_bytes} bytes of {size}")
    if size > max_message_bytes:
        return Refusal(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"the batch has {size} bytes, max.message.bytes is {max_message_bytes}",
        )
    if not verify_crc(records, 0, size, header.crc):
        return Refusal(ErrorCode.CORRUPT_MESSAGE, "the CRC of the batch does not match")
    return _check_header(header, api_version)


def _check_header(header: BatchHeader, api_version: int) -> BatchHeader | Refusal:
    if header.base_offset != 0:
        return Refusal(ErrorCode.INVALID_RECORD, f"base offset {header.base_offset}, not 0")
    if header.record_count <= 0 or header.last_offset_delta != header.record_count - 1:
        return Refusal(
            ErrorCode.INVALID_RECORD,
            f"{header.record_count} records with last offset delta {header.last_offset_delta}",
        )
    if NONE <= header.attributes < ZSTD:  # a codec and no flag: nearly every batch
        return header
    if header.timestamp_type:
        return Refusal(ErrorCode.INVALID_TIMESTAMP, "only the broker may set LogAppendTime")
    if header.is_control:
        return Refusal(ErrorCode.INVALID_RECORD, "clients may not write control batches")
    if header.is_transactional:
        return Refusal(ErrorCode.INVALID_TXN_STATE, "there are no transactions yet")
    if header.delete_horizon_ms is not None:
        return Refusal(ErrorCode.INVALID_RECORD, "only the broker may set a delete horizon")
    if not NONE <= header.compression <= ZSTD:
        return Refusal(ErrorCode.INVALID_RECORD, f"unknown compression {header.compression}")
    if header.compression == ZSTD and api_version < _ZSTD_SINCE:
        return Refusal(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce v7")
    return header


def _refuse(
    ctx: RequestContext,
    response: ProduceResponse,
    answer: PartitionProduceResponse,
    topic: str,
    topic_id: bytes | None,
) -> None:
    """The partition is not here: say who leads it (KIP-951), or that it does not exist."""
    broker = ctx.broker
    error, elsewhere = broker.partitions.why_missing(
        broker.metadata.state, topic, topic_id, answer.index
    )
    _fail(ctx, answer, error)
    if elsewhere is not None and ctx.api_version >= _CURRENT_LEADER_SINCE:
        answer.current_leader = LeaderIdAndEpoch(elsewhere.leader, elsewhere.leader_epoch)
        add_endpoint(ctx, response.node_endpoints, elsewhere.leader)
