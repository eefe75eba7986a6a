"""Fetch (key 1), versions 4-18: read record batches; the request and the response are hot.

v5 log start offset; v7 sessions, forgotten topics and a top-level error; v9 current leader epoch;
v10 zstd; v11 rack and preferred replica; v12 flexible, last fetched epoch, diverging epoch; v13
topic ids instead of names; v15 replica state as a tagged field; v16 node endpoints; v17 directory
ids; v18 the follower's high watermark. Versions 0-3 read older record formats; Kafka 4 dropped
them.

request_decoder and response_encoder are written by hand over the schema of this file: equal to the
compiled closures in value and bytes (tests/protocol/test_parity.py). The response's records are not
copied: the encoder returns a list of buffers in which large records are the caller's own views.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

from kafka_protocol import wire
from kafka_protocol.api_key import ApiKey
from kafka_protocol.closures import compile_reader, tags_reader, tags_writer
from kafka_protocol.errors import DecodeError
from kafka_protocol.messages.current_leader import LeaderIdAndEpoch, NodeEndpoint
from kafka_protocol.schema import (
    INT8,
    INT16,
    INT32,
    INT64,
    RECORDS,
    STRING,
    UUID,
    Array,
    F,
    message,
    struct,
)
from kafka_protocol.wire import UNLIMITED, Buffer, CountReaders, PartsWriter, Reader

FLEXIBLE = 12
# Records up to this size are copied into the reply: one more buffer costs the transport more.
COPIED_BYTES_MAX = 1024


@struct
class ReplicaState:
    replica_id: int = F(INT32, default=-1)
    replica_epoch: int = F(INT64, default=-1)


@struct
class FetchPartition:
    partition: int = F(INT32)
    current_leader_epoch: int = F(INT32, since=9, default=-1)
    fetch_offset: int = F(INT64)
    last_fetched_epoch: int = F(INT32, since=12, default=-1)
    log_start_offset: int = F(INT64, since=5, default=-1)
    partition_max_bytes: int = F(INT32)
    replica_directory_id: bytes = F(UUID, since=17, tag=0)
    high_watermark: int = F(INT64, since=18, default=2**63 - 1, tag=1)


@struct
class FetchTopic:
    topic: str = F(STRING, until=12)
    topic_id: bytes = F(UUID, since=13)
    partitions: list[FetchPartition] = F(Array(FetchPartition))


@struct
class ForgottenTopic:
    topic: str = F(STRING, until=12)
    topic_id: bytes = F(UUID, since=13)
    partitions: list[int] = F(Array(INT32))


@message(api_key=ApiKey.FETCH, kind="request", versions=(4, 18), flexible=FLEXIBLE)
class FetchRequest:
    cluster_id: str | None = F(STRING, since=12, nullable=12, default=None, tag=0)
    replica_id: int = F(INT32, until=14, default=-1)
    replica_state: ReplicaState | None = F(ReplicaState, since=15, tag=1, default=None)
    max_wait_ms: int = F(INT32)
    min_bytes: int = F(INT32)
    max_bytes: int = F(INT32, default=2**31 - 1)
    isolation_level: int = F(INT8)
    session_id: int = F(INT32, since=7)
    session_epoch: int = F(INT32, since=7, default=-1)
    topics: list[FetchTopic] = F(Array(FetchTopic))
    forgotten_topics_data: list[ForgottenTopic] = F(Array(ForgottenTopic), since=7)
    rack_id: str = F(STRING, since=11)


@struct
class EpochEndOffset:
    epoch: int = F(INT32, default=-1)
    end_offset: int = F(INT64, default=-1)


@struct
class SnapshotId:
    end_offset: int = F(INT64, default=-1)
    epoch: int = F(INT32, default=-1)


@struct
class AbortedTransaction:
    producer_id: int = F(INT64)
    first_offset: int = F(INT64)


@struct
class PartitionData:
    partition_index: int = F(INT32)
    error_code: int = F(INT16)
    high_watermark: int = F(INT64)
    last_stable_offset: int = F(INT64, default=-1)
    log_start_offset: int = F(INT64, since=5, default=-1)
    diverging_epoch: EpochEndOffset | None = F(EpochEndOffset, since=12, tag=0, default=None)
    current_leader: LeaderIdAndEpoch | None = F(LeaderIdAndEpoch, since=12, tag=1, default=None)
    snapshot_id: SnapshotId | None = F(SnapshotId, since=12, tag=2, default=None)
    aborted_transactions: list[AbortedTransaction] | None = F(
        Array(AbortedTransaction), nullable=4, default=None
    )
    preferred_read_replica: int = F(INT32, since=11, default=-1)
    records: Buffer | list[memoryview] | None = F(RECORDS, nullable=0)


@struct
class FetchableTopicResponse:
    topic: str = F(STRING, until=12)
    topic_id: bytes = F(UUID, since=13)
    partitions: list[PartitionData] = F(Array(PartitionData))


@message(api_key=ApiKey.FETCH, kind="response", versions=(4, 18), flexible=FLEXIBLE)
class FetchResponse:
    throttle_time_ms: int = F(INT32)
    error_code: int = F(INT16, since=7)
    session_id: int = F(INT32, since=7)
    responses: list[FetchableTopicResponse] = F(Array(FetchableTopicResponse))
    node_endpoints: list[NodeEndpoint] = F(Array(NodeEndpoint), since=16, tag=0)


_HEAD_V4 = Struct(">iiiib")
_HEAD_V7 = Struct(">iiiibii")
_HEAD_V15 = Struct(">iiibii")
_PARTITION_V4 = Struct(">iqi")
_PARTITION_V5 = Struct(">iqqi")
_PARTITION_V9 = Struct(">iiqqi")
_PARTITION_V12 = Struct(">iiqiqi")


def _partition_v4(partition: int, fetch_offset: int, max_bytes: int) -> FetchPartition:
    return FetchPartition(partition, -1, fetch_offset, -1, -1, max_bytes)


def _partition_v5(
    partition: int, fetch_offset: int, log_start_offset: int, max_bytes: int
) -> FetchPartition:
    return FetchPartition(partition, -1, fetch_offset, -1, log_start_offset, max_bytes)


def _partition_v9(
    partition: int, leader_epoch: int, fetch_offset: int, log_start_offset: int, max_bytes: int
) -> FetchPartition:
    return FetchPartition(partition, leader_epoch, fetch_offset, -1, log_start_offset, max_bytes)


def _legacy_partition_layout(version: int) -> tuple[Struct, Callable[..., FetchPartition]]:
    if version >= 9:
        return _PARTITION_V9, _partition_v9
    if version >= 5:
        return _PARTITION_V5, _partition_v5
    return _PARTITION_V4, _partition_v4


def request_decoder(version: int, counts: CountReaders = UNLIMITED) -> Reader:
    """The hand-written decoder of FetchRequest: (buf, pos) -> (request, pos)."""
    flexible = version >= FLEXIBLE
    make_topics = _flexible_topics if flexible else _legacy_topics
    read_topics = make_topics(version, counts)
    read_rack = wire.read_compact_string if flexible else wire.read_string
    read_forgotten = compile_reader(Array(ForgottenTopic), version, flexible, False, counts)
    request_tags = tags_reader(FetchRequest, version, counts)

    def decode(buf: memoryview, pos: int) -> tuple[FetchRequest, int]:
        replica, session, epoch = -1, 0, -1
        forgotten: list[ForgottenTopic] = []
        rack = ""
        if version >= 15:
            wait, least, most, isolation, session, epoch = _HEAD_V15.unpack_from(buf, pos)
            pos += 21
        elif version >= 7:
            replica, wait, least, most, isolation, session, epoch = _HEAD_V7.unpack_from(buf, pos)
            pos += 25
        else:
            replica, wait, least, most, isolation = _HEAD_V4.unpack_from(buf, pos)
            pos += 17
        topics, pos = read_topics(buf, pos)
        if version >= 7:
            forgotten, pos = read_forgotten(buf, pos)
        if version >= 11:
            rack, pos = read_rack(buf, pos)
        request = FetchRequest(
            None,
            replica,
            None,
            wait,
            least,
            most,
            isolation,
            session,
            epoch,
            topics,
            forgotten,
            rack,
        )
        if flexible:
            pos = request_tags(buf, pos, request) if buf[pos] else pos + 1
        return request, pos

    return decode


def _legacy_topics(version: int, counts: CountReaders) -> Reader:
    layout, make = _legacy_partition_layout(version)
    unpack, size = layout.unpack_from, layout.size
    read_count = counts.array

    def read(buf: memoryview, pos: int) -> tuple[list[FetchTopic], int]:
        topic_count, pos = read_count(buf, pos, 6)
        if topic_count < 0:
            raise DecodeError("null array where null is not allowed", pos)
        topics = []
        for _ in range(topic_count):
            name, pos = wire.read_string(buf, pos)
            count, pos = read_count(buf, pos, size)
            if count < 0:
                raise DecodeError("null array where null is not allowed", pos)
            partitions = []
            for _ in range(count):
                partitions.append(make(*unpack(buf, pos)))
                pos += size
            topics.append(FetchTopic(name, wire.NO_UUID, partitions))
        return topics, pos

    return read


def _flexible_topics(version: int, counts: CountReaders) -> Reader:
    by_id = version >= 13
    topic_bytes_min = 18 if by_id else 3
    unpack, size = _PARTITION_V12.unpack_from, _PARTITION_V12.size
    topic_tags = tags_reader(FetchTopic, version, counts)
    partition_tags = tags_reader(FetchPartition, version, counts)
    read_count = counts.compact_array

    def read(buf: memoryview, pos: int) -> tuple[list[FetchTopic], int]:
        topic_count, pos = read_count(buf, pos, topic_bytes_min)
        if topic_count < 0:
            raise DecodeError("null array where null is not allowed", pos)
        topics = []
        name, topic_id = "", wire.NO_UUID
        for _ in range(topic_count):
            if by_id:
                topic_id = bytes(buf[pos : pos + 16])
                pos += 16
            else:
                name, pos = wire.read_compact_string(buf, pos)
            count, pos = read_count(buf, pos, size + 1)
            if count < 0:
                raise DecodeError("null array where null is not allowed", pos)
            partitions = []
            for _ in range(count):
                partition = FetchPartition(*unpack(buf, pos))
                pos += size
                pos = partition_tags(buf, pos, partition) if buf[pos] else pos + 1
                partitions.append(partition)
            topic = FetchTopic(name, topic_id, partitions)
            topics.append(topic)
            pos = topic_tags(buf, pos, topic) if buf[pos] else pos + 1
        return topics, pos

    return read


def response_encoder(version: int) -> PartsWriter:
    """The hand-written encoder of FetchResponse: (out, response) -> [out, records, more, ...]."""
    return _flexible_encoder(version) if version >= FLEXIBLE else _legacy_encoder(version)


_RESPONSE_V7 = Struct(">ihi").pack
_DATA_V4 = Struct(">ihqq").pack
_DATA_V5 = Struct(">ihqqq").pack


def _legacy_encoder(version: int) -> PartsWriter:
    def encode(out: bytearray, response: Any) -> list[Buffer]:
        parts: list[Buffer] = [out]
        if version >= 7:
            out += _RESPONSE_V7(response.throttle_time_ms, response.error_code, response.session_id)
        else:
            out += wire.pack_int32(response.throttle_time_ms)
        out += wire.pack_int32(len(response.responses))
        for topic in response.responses:
            wire.write_string(out, topic.topic)
            out += wire.pack_int32(len(topic.partitions))
            for p in topic.partitions:
                head = (p.partition_index, p.error_code, p.high_watermark, p.last_stable_offset)
                out += _DATA_V5(*head, p.log_start_offset) if version >= 5 else _DATA_V4(*head)
                aborted = p.aborted_transactions
                out += wire.pack_int32(-1 if aborted is None else len(aborted))
                for each in aborted or ():
                    out += _ABORTED(each.producer_id, each.first_offset)
                if version >= 11:
                    out += wire.pack_int32(p.preferred_read_replica)
                records = p.records
                if records is None:
                    out += b"\xff\xff\xff\xff"
                    continue
                pieces = records if isinstance(records, list) else (records,)
                size_bytes = sum(map(len, pieces))
                out += wire.pack_int32(size_bytes)
                if size_bytes > COPIED_BYTES_MAX:
                    parts += pieces
                    out = bytearray()
                    parts.append(out)
                else:
                    for piece in pieces:
                        out += piece
        return parts

    return encode


def _flexible_encoder(version: int) -> PartsWriter:
    by_id = version >= 13
    write_response_tags = tags_writer(FetchResponse, version)
    write_partition_tags = tags_writer(PartitionData, version)

    def encode(out: bytearray, response: Any) -> list[Buffer]:
        parts: list[Buffer] = [out]
        out += _RESPONSE_V7(response.throttle_time_ms, response.error_code, response.session_id)
        wire.write_uvarint(out, len(response.responses) + 1)
        for topic in response.responses:
            if by_id:
                out += topic.topic_id
            else:
                wire.write_compact_string(out, topic.topic)
            wire.write_uvarint(out, len(topic.partitions) + 1)
            for p in topic.partitions:
                out += _DATA_V5(
                    p.partition_index,
                    p.error_code,
                    p.high_watermark,
                    p.last_stable_offset,
                    p.log_start_offset,
                )
                _write_aborted(out, p.aborted_transactions)
                out += wire.pack_int32(p.preferred_read_replica)
                records = p.records
                if records is None:
                    out.append(0)
                else:
                    pieces = records if isinstance(records, list) else (records,)
                    size_bytes = sum(map(len, pieces))
                    wire.write_uvarint(out, size_bytes + 1)
                    if size_bytes > COPIED_BYTES_MAX:
                        parts += pieces
                        out = bytearray()
                        parts.append(out)
                    else:
                        for piece in pieces:
                            out += piece
                if p.diverging_epoch or p.current_leader or p.snapshot_id:
                    write_partition_tags(out, p)
                else:
                    out.append(0)
            out.append(0)
        if response.node_endpoints:
            write_response_tags(out, response)
        else:
            out.append(0)
        return parts

    return encode


_ABORTED = Struct(">qq").pack


def _write_aborted(out: bytearray, aborted: list[AbortedTransaction] | None) -> None:
    if aborted is None:
        out.append(0)
        return
    wire.write_uvarint(out, len(aborted) + 1)
    for each in aborted:
        out += _ABORTED(each.producer_id, each.first_offset)
        out.append(0)
