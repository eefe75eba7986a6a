"""Rows: Produce, Fetch, ListOffsets, DeleteRecords and OffsetForLeaderEpoch around the records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from tests.hostile.rows_batches import batch
from tests.hostile.rows_batches import produce as produce_batch
from tests.hostile.table import CLOSE, NO_ANSWER, Expect, Row, answer, ask_all, asks
from tests.hostile.target import HELD_RECORDS, Target, Topic

PRODUCED = "responses.0.partition_responses.0.error_code"
FETCHED = "responses.0.partitions.0.error_code"
ANSWERED = "topics.0.partitions.0.error_code"
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
UNKNOWN_ID = bytes([7] * 16)
_NAMES = "org.apache.kafka.common.internals.Topic"
_MANAGER = "ReplicaManager of Apache Kafka"
_KIP_516, _KIP_320, _KIP_227, _KIP_951 = "KIP-516", "KIP-320", "KIP-227", "KIP-951"

Where = Callable[[Target], Topic]


def here(target: Target) -> Topic:
    """The topic whose partition `here` holds records."""
    return target.topic


def other_node(target: Target) -> Topic:
    """The same, but its partition of another node."""
    return target.topic._replace(here=target.topic.elsewhere)


def with_index(index: int) -> Where:
    """The same, but a partition that does not exist."""
    return lambda target: target.topic._replace(here=index)


def named(name: str) -> Where:
    """A topic of this name, which does not exist."""
    return lambda target: target.topic._replace(name=name)


def with_id(topic_id: bytes) -> Where:
    """The same, but by an id that no topic has."""
    return lambda target: target.topic._replace(topic_id=topic_id)


def _leader(target: Target) -> int:
    return target.topic.elsewhere_leader


def _leader_epoch(target: Target) -> int:
    return target.topic.elsewhere_epoch


# -- requests ------------------------------------------------------------------------------------


def produce(target: Target, where: Where = here, times: int = 1, **more: Any) -> ProduceRequest:
    """Produce a sound batch; `times` is how often the partition stands in the request."""
    topic = where(target)
    data = [PartitionProduceData(topic.here, memoryview(batch())) for _ in range(times)]
    if where is here:
        topic = target.dump
    topics = [TopicProduceData(topic.name, topic.topic_id, data)]
    return ProduceRequest(
        more.pop("transactional_id", None), more.pop("acks", -1), **more, topic_data=topics
    )


def fetch(
    target: Target,
    where: Where = here,
    *,
    offset: int = 0,
    epoch: int = -1,
    partition_max_bytes: int = 1 << 20,
    times: int = 1,
    **more: Any,
) -> FetchRequest:
    """Fetch from a partition; by default one that holds records."""
    topic = where(target)
    wanted = FetchPartition(topic.here, epoch, offset, partition_max_bytes=partition_max_bytes)
    values = {"max_wait_ms": 100, "min_bytes": 1, **more}
    return FetchRequest(**values, topics=[FetchTopic(topic.name, topic.topic_id, [wanted] * times)])


def list_offsets(
    target: Target,
    where: Where = here,
    *,
    timestamp: int = -1,
    epoch: int = -1,
    times: int = 1,
    **more: Any,
) -> ListOffsetsRequest:
    """Ask for an offset of a partition."""
    topic = where(target)
    asked = [ListOffsetsPartition(topic.here, epoch, timestamp)] * times
    return ListOffsetsRequest(
        **{"replica_id": -1, **more}, topics=[ListOffsetsTopic(topic.name, asked)]
    )


def delete_records(
    target: Target,
    where: Where = here,
    *,
    offset: int = 0,
    times: int = 1,
    timeout_ms: int = 10_000,
) -> DeleteRecordsRequest:
    """Move the log start of a partition."""
    topic = where(target)
    asked = [DeleteRecordsPartition(topic.here, offset)] * times
    return DeleteRecordsRequest([DeleteRecordsTopic(topic.name, asked)], timeout_ms)


def epoch_end(
    target: Target, where: Where = here, *, epoch: int = -1, asked: int = 0, replica_id: int = -2
) -> OffsetForLeaderEpochRequest:
    """Ask where an epoch ended."""
    topic = where(target)
    partition = OffsetForLeaderPartition(topic.here, epoch, asked)
    return OffsetForLeaderEpochRequest(replica_id, [OffsetForLeaderTopic(topic.name, [partition])])


_Build = Callable[[Target, Where], Any]
_UNKNOWN = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
_BY_NAME: list[tuple[str, _Build, int, str]] = [
    ("Produce", produce, 9, PRODUCED),
    ("Fetch", fetch, 12, FETCHED),
    ("ListOffsets", list_offsets, 7, ANSWERED),
    ("DeleteRecords", delete_records, 2, ANSWERED),
    ("OffsetForLeaderEpoch", epoch_end, 4, ANSWERED),
]
_BY_ID: list[tuple[str, _Build, int, str]] = [
    ("Produce", produce, 13, PRODUCED),
    ("Fetch", fetch, 13, FETCHED),
]
BAD_NAMES = [
    ("'.'", "."),
    ("'..'", ".."),
    ("'/'", "/"),
    ("'../../etc/passwd'", "../../etc/passwd"),
    ("'a/../b'", "a/../b"),
    ("NUL", "a\0b"),
    ("an empty name", ""),
    ("250 bytes", "n" * 250),
    ("32,767 bytes", "n" * 32_767),
    ("non-ASCII letters", "тема"),
    ("a blank", "a b"),
    ("a line end", "a\n"),
    ("a character beyond 16 bits", "\N{GRINNING FACE}"),
]


def _of(build: _Build, where: Where, version: int) -> Callable[[Target], Any]:
    return asks(lambda target: build(target, where), version)


def _produce(name: str, expect: Expect, source: str, version: int = 9, **more: Any) -> Row:
    answered = more.pop("answered", True)
    send = asks(lambda target: produce(target, **more), version, answered=answered)
    return Row(f"Produce with {name}", send, expect, source)


def _fetch(name: str, expect: Expect, source: str, version: int = 12, **more: Any) -> Row:
    return Row(
        f"Fetch with {name}",
        asks(lambda target: fetch(target, **more), version),
        expect,
        source,
    )


def _offsets(name: str, error: ErrorCode, source: str, version: int = 7, **more: Any) -> Row:
    return Row(
        f"ListOffsets with {name}",
        asks(lambda target: list_offsets(target, **more), version),
        answer(ANSWERED, error),
        source,
    )


def _stale(target: Target, build: Callable[..., Any], step: int) -> Any:
    return build(target, epoch=target.topic.leader_epoch + step)


def _session(session_id: int, epoch: int) -> dict[str, int]:
    return {"session_id": session_id, "session_epoch": epoch}


_SMALL_BUDGET = {FETCHED: 0, "responses.0.partitions.0.high_watermark": HELD_RECORDS}

ROWS = [
    # -- what is not there ---------------------------------------------------------------------
    *(
        Row(
            f"{api} v{version} of partition {index:,}",
            _of(build, with_index(index), version),
            answer(path, _UNKNOWN),
            _MANAGER,
        )
        for api, build, version, path in _BY_NAME + _BY_ID
        for index in (-1, 1_000, INT32_MAX, -(2**31))
    ),
    *(
        Row(
            f"{api} of a topic called {what}",
            _of(build, named(name), version),
            answer(path, _UNKNOWN),
            _MANAGER,
        )
        for api, build, version, path in _BY_NAME
        for what, name in BAD_NAMES
    ),
    *(
        Row(
            f"{api} of an unknown topic id",
            _of(build, with_id(UNKNOWN_ID), version),
            answer(path, ErrorCode.UNKNOWN_TOPIC_ID),
            _KIP_516,
        )
        for api, build, version, path in _BY_ID
    ),
    *(
        Row(
            f"{api} of topic id 0",
            _of(build, with_id(bytes(16)), version),
            answer(path, ErrorCode.UNKNOWN_TOPIC_ID),
            _KIP_516,
        )
        for api, build, version, path in _BY_ID
    ),
    # -- the wrong node ------------------------------------------------------------------------
    *(
        Row(
            f"{api} v{version} at a node that does not lead",
            _of(build, other_node, version),
            answer(path, ErrorCode.NOT_LEADER_OR_FOLLOWER),
            _MANAGER,
            nodes=2,
        )
        for api, build, version, path in _BY_NAME
    ),
    Row(
        "Produce v10 at a node that does not lead: who does",
        _of(produce, other_node, 10),
        answer(
            PRODUCED,
            ErrorCode.NOT_LEADER_OR_FOLLOWER,
            **{
                "responses.0.partition_responses.0.current_leader.leader_id": _leader,
                "responses.0.partition_responses.0.current_leader.leader_epoch": _leader_epoch,
                "node_endpoints.0.node_id": _leader,
            },
        ),
        _KIP_951,
        nodes=2,
    ),
    Row(
        "Fetch v16 at a node that does not lead: who does",
        _of(fetch, other_node, 16),
        answer(
            FETCHED,
            ErrorCode.NOT_LEADER_OR_FOLLOWER,
            **{
                "responses.0.partitions.0.current_leader.leader_id": _leader,
                "responses.0.partitions.0.current_leader.leader_epoch": _leader_epoch,
                "node_endpoints.0.node_id": _leader,
            },
        ),
        _KIP_951,
        nodes=2,
    ),
    # -- epochs --------------------------------------------------------------------------------
    *(
        Row(
            f"{api} in a {when} leader epoch",
            asks(lambda target, build=build, step=step: _stale(target, build, step), version),
            answer(path, error),
            _KIP_320,
        )
        for api, build, version, path in (
            ("Fetch", fetch, 12, FETCHED),
            ("ListOffsets", list_offsets, 7, ANSWERED),
            ("OffsetForLeaderEpoch", epoch_end, 4, ANSWERED),
        )
        for when, step, error in (
            ("future", 1, ErrorCode.UNKNOWN_LEADER_EPOCH),
            ("far future", INT32_MAX - 1_000, ErrorCode.UNKNOWN_LEADER_EPOCH),
        )
    ),
    *(
        Row(
            f"{api} in leader epoch -2",
            asks(lambda target, build=build: build(target, epoch=-2), version),
            answer(path, ErrorCode.FENCED_LEADER_EPOCH),
            f"{_KIP_320}; only -1 means that none is known",
        )
        for api, build, version, path in (
            ("Fetch", fetch, 12, FETCHED),
            ("ListOffsets", list_offsets, 7, ANSWERED),
            ("OffsetForLeaderEpoch", epoch_end, 4, ANSWERED),
        )
    ),
    Row(
        "the end of an epoch to come",
        asks(lambda target: epoch_end(target, asked=INT32_MAX), 4),
        answer(ANSWERED, 0, **{"topics.0.partitions.0.end_offset": -1}),
        _KIP_320,
    ),
    Row(
        "the end of epoch -2",
        asks(lambda target: epoch_end(target, asked=-2), 4),
        answer(ANSWERED, 0, **{"topics.0.partitions.0.end_offset": -1}),
        _KIP_320,
    ),
    # -- Produce -------------------------------------------------------------------------------
    *(
        _produce(f"acks {n}", answer(PRODUCED, ErrorCode.INVALID_REQUIRED_ACKS), _MANAGER, acks=n)
        for n in (2, -2, 32767, -32768)
    ),
    *(
        _produce(f"a timeout of {n:,} ms", answer(PRODUCED), _MANAGER, timeout_ms=n)
        for n in (-1, -(2**31), INT32_MAX, 0)
    ),
    _produce("acks 0", NO_ANSWER, "no answer to acks=0", answered=False, acks=0),
    _produce(
        "acks 0 and an error",
        CLOSE,
        "KafkaApis.sendResponseCallback",
        answered=False,
        acks=0,
        where=with_index(-1),
    ),
    _produce(
        "a transactional id",
        answer(PRODUCED),
        "the batch says whether it is transactional, the request only whose it is",
        transactional_id="t",
    ),
    Row(
        "Produce of nothing",
        asks(lambda _: ProduceRequest(None, -1, 0, []), 9),
        answer("responses.#", 0),
        _MANAGER,
    ),
    Row(
        "Produce of a topic without partitions",
        asks(lambda target: produce(target, times=0), 9),
        answer("responses.#", 1, **{"responses.0.partition_responses.#": 0}),
        _MANAGER,
    ),
    Row(
        "Produce to one partition twice",
        asks(lambda target: produce(target, times=2), 9),
        Expect(({PRODUCED: 0, "responses.0.partition_responses.1.error_code": 0},)),
        "each batch is a batch",
    ),
    # -- Fetch ---------------------------------------------------------------------------------
    *(
        _fetch(f"offset {n:,}", answer(FETCHED, ErrorCode.OFFSET_OUT_OF_RANGE), _MANAGER, offset=n)
        for n in (-1, -2, -(2**63), 7, INT64_MAX)
    ),
    *(
        _fetch(f"max_bytes {n:,}", answer(FETCHED), "KIP-74", max_bytes=n)
        for n in (0, -1, -(2**31), 1, INT32_MAX)
    ),
    *(
        _fetch(
            f"partition_max_bytes {n:,}", Expect((_SMALL_BUDGET,)), "KIP-74", partition_max_bytes=n
        )
        for n in (0, -1, -(2**31), INT32_MAX)
    ),
    _fetch(
        "min_bytes 2^31-1",
        answer(FETCHED),
        "DelayedFetch: max_wait_ms ends it",
        min_bytes=INT32_MAX,
    ),
    _fetch("min_bytes -1", answer(FETCHED), _MANAGER, min_bytes=-1),
    _fetch("max_wait_ms 2^31-1 and data", answer(FETCHED), _MANAGER, max_wait_ms=INT32_MAX),
    _fetch("max_wait_ms -1 and no data", answer(FETCHED), _MANAGER, max_wait_ms=-1, offset=6),
    _fetch(
        "max_wait_ms -2^31 and no data", answer(FETCHED), _MANAGER, max_wait_ms=-(2**31), offset=6
    ),
    *(
        _fetch(
            f"session {s:,} epoch {e:,}",
            answer("error_code", ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
            _KIP_227,
            **_session(s, e),
        )
        for s, e in ((1, 1), (-1, 5), (INT32_MAX, INT32_MAX), (123, 2))
    ),
    *(
        _fetch(f"session {s:,} epoch {e:,}", answer(FETCHED, 0), _KIP_227, **_session(s, e))
        for s, e in ((0, -1), (0, 0), (123, 0), (123, -1))
    ),
    _fetch(
        "session 0 epoch 1",
        answer("error_code", ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
        _KIP_227,
        **_session(0, 1),
    ),
    _fetch(
        "session epoch -2",
        answer("error_code", ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
        _KIP_227,
        **_session(123, -2),
    ),
    _fetch("isolation level 7", answer(FETCHED), _MANAGER, isolation_level=7),
    _fetch("isolation level -128", answer(FETCHED), _MANAGER, isolation_level=-128),
    _fetch("replica id 5", answer(FETCHED), _MANAGER, replica_id=5),
    _fetch("replica id -2", answer(FETCHED), _MANAGER, replica_id=-2),
    _fetch("an unknown cluster id", answer(FETCHED), _MANAGER, cluster_id="another"),
    _fetch("a rack of 32,767 bytes", answer(FETCHED), _MANAGER, rack_id="r" * 32_767),
    _fetch(
        "one partition twice",
        Expect(({FETCHED: 0, "responses.0.partitions.1.error_code": 0},)),
        "each is answered",
        times=2,
    ),
    Row(
        "Fetch of nothing that waits 2^31-1 ms",
        asks(lambda _: FetchRequest(max_wait_ms=INT32_MAX, min_bytes=1), 12),
        answer("responses.#", 0),
        "nothing will come of nothing: ReplicaManager.fetchMessages",
    ),
    Row(
        "a Fetch that waits for ever, and its client gone",
        lambda target: ask_eof(fetch(target, max_wait_ms=INT32_MAX, min_bytes=INT32_MAX), 12),
        CLOSE,
        "a client that is gone takes its requests along",
    ),
    # -- ListOffsets ---------------------------------------------------------------------------
    *(
        _offsets(
            f"timestamp {n:,}", ErrorCode.UNSUPPORTED_VERSION, "KIP-734, KIP-1005", timestamp=n
        )
        for n in (-4, -7, -(2**63))
    ),
    _offsets("timestamp 2^63-1", ErrorCode.NONE, _MANAGER, timestamp=INT64_MAX),
    _offsets("timestamp -4 in v8", ErrorCode.NONE, "KIP-405", version=8, timestamp=-4),
    _offsets("isolation level 7", ErrorCode.NONE, _MANAGER, isolation_level=7),
    _offsets("replica id 5", ErrorCode.NONE, _MANAGER, replica_id=5),
    _offsets("replica id -3", ErrorCode.NONE, _MANAGER, replica_id=-3),
    _offsets("timeout -1", ErrorCode.NONE, "KIP-1075", version=10, timeout_ms=-1),
    _offsets(
        "one partition twice",
        ErrorCode.INVALID_REQUEST,
        "KafkaApis.handleListOffsetRequest",
        times=2,
    ),
    # -- DeleteRecords -------------------------------------------------------------------------
    *(
        Row(
            f"DeleteRecords to offset {n:,}",
            asks(lambda target, n=n: delete_records(target, offset=n), 2),
            answer(ANSWERED, ErrorCode.OFFSET_OUT_OF_RANGE),
            "Partition.deleteRecordsOnLeader of Apache Kafka",
        )
        for n in (7, -2, -(2**63), INT64_MAX)
    ),
    Row(
        "DeleteRecords of a compacted topic",
        asks(lambda target: delete_records(target, lambda t: t.compacted), 2),
        answer(ANSWERED, ErrorCode.POLICY_VIOLATION),
        "Partition.deleteRecordsOnLeader of Apache Kafka",
    ),
    Row(
        "DeleteRecords of one partition twice",
        asks(lambda target: delete_records(target, times=2), 2),
        answer(ANSWERED, 0, **{"topics.0.partitions.#": 1}),
        "KafkaApis.handleDeleteRecordsRequest",
    ),
    *(
        Row(
            f"DeleteRecords with a timeout of {n:,} ms",
            asks(lambda target, n=n: delete_records(target, timeout_ms=n), 2),
            answer(ANSWERED),
            _MANAGER,
        )
        for n in (-1, INT32_MAX)
    ),
    # -- InitProducerId ------------------------------------------------------------------------
    *(
        Row(
            f"InitProducerId with id {n:,} and epoch {e}",
            asks(lambda _, n=n, e=e: InitProducerIdRequest(None, 60_000, n, e), 4),
            answer("error_code", error),
            "KafkaApis.handleInitProducerIdRequest",
        )
        for n, e, error in (
            (1, -1, ErrorCode.INVALID_REQUEST),
            (-1, 1, ErrorCode.INVALID_REQUEST),
            (INT64_MAX, 32767, ErrorCode.NONE),
            (-2, -2, ErrorCode.NONE),
        )
    ),
    *(
        Row(
            f"InitProducerId with a transaction timeout of {n:,} ms",
            asks(lambda _, n=n: InitProducerIdRequest(None, n), 4),
            answer("error_code"),
            "it is for transactions",
        )
        for n in (-1, 0, INT32_MAX)
    ),
]


def ask_eof(request: Any, version: int) -> Any:
    """A request whose client leaves before the answer."""
    sent = ask_all([(request, version)])
    return type(sent)(sent.pieces, eof=True)


def produce_bytes(records: bytes) -> Callable[[Target], Any]:
    """For a row: these records, produced."""
    return asks(lambda target: produce_batch(records, target), 9)
