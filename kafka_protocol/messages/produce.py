"""Produce (key 0), versions 3-13: append record batches; the request and the response are hot.

v5 log start offset; v6 throttling before the answer; v7 zstd; v8 record errors and a message; v9
flexible; v10 current leader and node endpoints as tagged fields (KIP-951); v12 transactions v2;
v13 topic ids instead of names. Versions 0-2 carried older record formats; Kafka 4 dropped them.

request_decoder and response_encoder are written by hand over the schema of this file: equal to the
compiled closures in value and bytes (tests/protocol/test_parity.py), and faster. They leave tagged
fields, which are rare here, to the compiled readers and writers. Records stay slices of the frame.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from kafka_protocol import wire
from kafka_protocol.api_key import ApiKey
from kafka_protocol.closures import tags_reader, tags_writer
from kafka_protocol.errors import DecodeError
from kafka_protocol.messages.current_leader import LeaderIdAndEpoch, NodeEndpoint
from kafka_protocol.schema import (
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

FLEXIBLE = 9


@struct
class PartitionProduceData:
    index: int = F(INT32)
    records: memoryview | None = F(RECORDS, nullable=0)  # on encode also bytes or a list


@struct
class TopicProduceData:
    name: str = F(STRING, until=12)
    topic_id: bytes = F(UUID, since=13)
    partition_data: list[PartitionProduceData] = F(Array(PartitionProduceData))


@message(api_key=ApiKey.PRODUCE, kind="request", versions=(3, 13), flexible=FLEXIBLE)
class ProduceRequest:
    transactional_id: str | None = F(STRING, nullable=3, default=None)
    acks: int = F(INT16)
    timeout_ms: int = F(INT32)
    topic_data: list[TopicProduceData] = F(Array(TopicProduceData))


@struct
class BatchIndexAndErrorMessage:
    batch_index: int = F(INT32)
    batch_index_error_message: str | None = F(STRING, nullable=8, default=None)


@struct
class PartitionProduceResponse:
    index: int = F(INT32)
    error_code: int = F(INT16)
    base_offset: int = F(INT64)
    log_append_time_ms: int = F(INT64, default=-1)
    log_start_offset: int = F(INT64, since=5, default=-1)
    record_errors: list[BatchIndexAndErrorMessage] = F(Array(BatchIndexAndErrorMessage), since=8)
    error_message: str | None = F(STRING, since=8, nullable=8, default=None)
    current_leader: LeaderIdAndEpoch | None = F(LeaderIdAndEpoch, since=10, tag=0, default=None)


@struct
class TopicProduceResponse:
    name: str = F(STRING, until=12)
    topic_id: bytes = F(UUID, since=13)
    partition_responses: list[PartitionProduceResponse] = F(Array(PartitionProduceResponse))


@message(api_key=ApiKey.PRODUCE, kind="response", versions=(3, 13), flexible=FLEXIBLE)
class ProduceResponse:
    responses: list[TopicProduceResponse] = F(Array(TopicProduceResponse))
    throttle_time_ms: int = F(INT32)
    node_endpoints: list[NodeEndpoint] = F(Array(NodeEndpoint), since=10, tag=0)


_ACKS_TIMEOUT = Struct(">hi").unpack_from
_INDEX_LENGTH = Struct(">ii").unpack_from
_PARTITION_V3 = Struct(">ihqq").pack
_PARTITION_V5 = Struct(">ihqqq").pack


def request_decoder(version: int, counts: CountReaders = UNLIMITED) -> Reader:
    """The hand-written decoder of ProduceRequest: (buf, pos) -> (request, pos)."""
    flexible = version >= FLEXIBLE
    return _flexible_decoder(version, counts) if flexible else _legacy_decoder(counts)


def _legacy_decoder(counts: CountReaders) -> Reader:
    read_count = counts.array

    def decode(buf: memoryview, pos: int) -> tuple[ProduceRequest, int]:
        transactional_id, pos = wire.read_nullable_string(buf, pos)
        acks, timeout_ms = _ACKS_TIMEOUT(buf, pos)
        topic_count, pos = read_count(buf, pos + 6, 6)
        if topic_count < 0:
            raise DecodeError("null array where null is not allowed", pos)
        topics = []
        for _ in range(topic_count):
            name, pos = wire.read_string(buf, pos)
            count, pos = read_count(buf, pos, 8)
            if count < 0:
                raise DecodeError("null array where null is not allowed", pos)
            partitions = []
            for _ in range(count):
                index, length = _INDEX_LENGTH(buf, pos)
                pos += 8
                if length >= 0:
                    end = pos + length
                    partitions.append(PartitionProduceData(index, buf[pos:end]))
                    pos = end
                elif length == -1:
                    partitions.append(PartitionProduceData(index, None))
                else:
                    raise DecodeError(f"negative length {length}", pos - 4)
            topics.append(TopicProduceData(name, wire.NO_UUID, partitions))
        return ProduceRequest(transactional_id, acks, timeout_ms, topics), pos

    return decode


def _flexible_decoder(version: int, counts: CountReaders) -> Reader:
    by_id = version >= 13
    topic_bytes_min = 18 if by_id else 3
    request_tags = tags_reader(ProduceRequest, version, counts)
    topic_tags = tags_reader(TopicProduceData, version, counts)
    partition_tags = tags_reader(PartitionProduceData, version, counts)
    read_count = counts.compact_array

    def decode(buf: memoryview, pos: int) -> tuple[ProduceRequest, int]:
        transactional_id, pos = (
            wire.read_compact_nullable_string(buf, pos) if buf[pos] else (None, pos + 1)
        )
        acks, timeout_ms = _ACKS_TIMEOUT(buf, pos)
        topic_count, pos = read_count(buf, pos + 6, topic_bytes_min)
        if topic_count < 0:
            raise DecodeError("null array where null is not allowed", pos)
        topics = []
        name, topic_id = "", wire.NO_UUID
        for _ in range(topic_count):
            if by_id:
                topic_id = bytes(buf[pos : pos + 16])
                pos += 16
            elif 1 < (length := buf[pos]) < 0x80:  # lengths of one or two bytes are read here
                start = pos + 1
                pos += length
                name = str(buf[start:pos], "utf-8")
            else:
                name, pos = wire.read_compact_string(buf, pos)
            count, pos = read_count(buf, pos, 6)
            if count < 0:
                raise DecodeError("null array where null is not allowed", pos)
            partitions = []
            for _ in range(count):
                index = wire.read_int32s(buf, pos)[0]
                length, high = buf[pos + 4], buf[pos + 5]
                if length < 0x80:
                    pos += 5
                elif high < 0x80:
                    length += (high << 7) - 0x80
                    pos += 6
                else:
                    length, pos = wire.read_uvarint(buf, pos + 4)
                if length:
                    end = pos + length - 1
                    partition = PartitionProduceData(index, buf[pos:end])
                    pos = end
                else:
                    partition = PartitionProduceData(index, None)
                if buf[pos]:
                    pos = partition_tags(buf, pos, partition)
                else:
                    pos += 1
                partitions.append(partition)
            topic = TopicProduceData(name, topic_id, partitions)
            topics.append(topic)
            pos = topic_tags(buf, pos, topic) if buf[pos] else pos + 1
        request = ProduceRequest(transactional_id, acks, timeout_ms, topics)
        pos = request_tags(buf, pos, request) if buf[pos] else pos + 1
        return request, pos

    return decode


def response_encoder(version: int) -> PartsWriter:
    """The hand-written encoder of ProduceResponse: (out, response) -> [out]."""
    return _flexible_encoder(version) if version >= FLEXIBLE else _legacy_encoder(version)


def _legacy_encoder(version: int) -> PartsWriter:
    def encode(out: bytearray, response: Any) -> list[Buffer]:
        out += wire.pack_int32(len(response.responses))
        for topic in response.responses:
            wire.write_string(out, topic.name)
            out += wire.pack_int32(len(topic.partition_responses))
            for p in topic.partition_responses:
                head = (p.index, p.error_code, p.base_offset, p.log_append_time_ms)
                if version < 5:
                    out += _PARTITION_V3(*head)
                    continue
                out += _PARTITION_V5(*head, p.log_start_offset)
                if version >= 8:
                    out += wire.pack_int32(len(p.record_errors))
                    for error in p.record_errors:
                        out += wire.pack_int32(error.batch_index)
                        wire.write_nullable_string(out, error.batch_index_error_message)
                    wire.write_nullable_string(out, p.error_message)
        out += wire.pack_int32(response.throttle_time_ms)
        return [out]

    return encode


def _flexible_encoder(version: int) -> PartsWriter:
    by_id = version >= 13
    write_response_tags = tags_writer(ProduceResponse, version)
    write_partition_tags = tags_writer(PartitionProduceResponse, version)

    def encode(out: bytearray, response: Any) -> list[Buffer]:
        wire.write_uvarint(out, len(response.responses) + 1)
        for topic in response.responses:
            if by_id:
                out += topic.topic_id
            else:
                wire.write_compact_string(out, topic.name)
            wire.write_uvarint(out, len(topic.partition_responses) + 1)
            for p in topic.partition_responses:
                out += _PARTITION_V5(
                    p.index, p.error_code, p.base_offset, p.log_append_time_ms, p.log_start_offset
                )
                if not p.record_errors and p.error_message is None and p.current_leader is None:
                    out += b"\x01\x00\x00"  # no record errors, null message, no tagged fields
                    continue
                wire.write_uvarint(out, len(p.record_errors) + 1)
                for error in p.record_errors:
                    out += wire.pack_int32(error.batch_index)
                    wire.write_compact_nullable_string(out, error.batch_index_error_message)
                    out.append(0)
                wire.write_compact_nullable_string(out, p.error_message)
                write_partition_tags(out, p)
            out.append(0)
        out += wire.pack_int32(response.throttle_time_ms)
        if response.node_endpoints:
            write_response_tags(out, response)
        else:
            out.append(0)
        return [out]

    return encode
