"""Targets on a whole shard without its process: a connection, and the produce path.

The shard is the one of tests/broker/connection_fakes.py: the real connection, handlers, partitions
and logs, on files in memory where there is a tmpfs, with a fake socket and controller. It lives
for many inputs, as a shard does, and is replaced before it holds too much.
"""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from crc32c import crc32c
from kafka.record.memory_records import MemoryRecords

from kafka_protocol import frame
from kafka_protocol.api_key import ApiKey
from kafka_protocol.compression import decompress
from kafka_protocol.errors import DecodeError, UnsupportedVersion
from kafka_protocol.record_batch import (
    HEADER,
    RECORD_BATCH_OVERHEAD,
    BatchHeader,
    iter_records,
    parse_header,
    patch,
    set_log_append_time,
)
from kafka_protocol.wire import read_varlong
from tests.broker.connection_fakes import Client, Shard, ticks
from tests.fuzz.target import Target, scratch
from tests.protocol import golden
from tests.protocol.cases import BATCHES

INPUTS_MAX = 1000  # of one shard's life
INFLATED_BYTES_MAX = 1 << 20
TOPICS_MAX = 40
SETTLE_TURNS_MAX = 300
SETTINGS = {"partitions_per_topic_max": 8, "partitions_max": 200, "segment_bytes": 1 << 20}
TOPICS = ("t", "stamped")


class World:
    """The shard of now, in a loop of its own that runs only while an input is tried."""

    def __init__(self, on_new: Callable[[Shard], Coroutine[Any, Any, None]]) -> None:
        self._on_new = on_new
        self._loop: asyncio.AbstractEventLoop | None = None
        self._directory = Path()
        self._shard: Shard | None = None
        self._inputs = 0
        self._reported: list[dict[str, Any]] = []

    def run(self, scenario: Callable[[Shard], Coroutine[Any, Any, None]]) -> None:
        """Try one input on the shard."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(lambda _, what: self._reported.append(what))
        try:
            self._loop.run_until_complete(self._try(scenario))
        except BaseException:
            self._shard = None  # what it holds is in doubt
            raise

    async def _try(self, scenario: Callable[[Shard], Coroutine[Any, Any, None]]) -> None:
        shard = self._shard
        if shard is not None and (
            self._inputs >= INPUTS_MAX or len(shard.state.topics) > TOPICS_MAX
        ):
            await shard.stop()
            self._shard = shard = None
        if shard is None:
            self._remove()
            self._directory = Path(tempfile.mkdtemp(dir=scratch()))
            shard = Shard(self._directory, "held", **SETTINGS)
            await shard.start()
            await self._on_new(shard)
            self._shard, self._inputs = shard, 0
        self._inputs += 1
        await scenario(shard)
        assert self._reported == []
        assert "request failed" not in shard.events, shard.log.lines
        shard.log.lines.clear()

    def close(self) -> None:
        """End the shard and remove its files."""
        if self._loop is not None:
            if self._shard is not None:
                self._loop.run_until_complete(self._shard.stop())
            self._loop.close()
        self._shard = self._loop = None
        self._remove()

    def _remove(self) -> None:
        if self._directory != Path():
            shutil.rmtree(self._directory, ignore_errors=True)


# -- connections -----------------------------------------------------------------------------


def _stream(data: bytes) -> bytes:
    """The bytes on the socket: raw, or frames whose sizes are right. The latter are written as
    2-byte size and body; what is left over is the last frame."""
    if data[0] & 1:
        return data[2:]
    out, pos = bytearray(), 2
    while pos + 2 <= len(data):
        size = int.from_bytes(data[pos : pos + 2], "big")
        body = data[pos + 2 : pos + 2 + size]
        out += len(body).to_bytes(4, "big") + body
        pos += 2 + size
    return bytes(out)


def _expected(stream: bytes) -> list[tuple[int, int, int]]:
    """(api key, version, correlation id) of the replies that are due, in order."""
    due: list[tuple[int, int, int]] = []
    pos = 0
    while pos + 4 <= len(stream):
        size = int.from_bytes(stream[pos : pos + 4], "big", signed=True)
        body = stream[pos + 4 : pos + 4 + size]
        if size < 0 or len(body) < size:
            break
        try:
            header, message = frame.decode_request(memoryview(body))
        except UnsupportedVersion as error:
            if error.api_key != ApiKey.API_VERSIONS or error.correlation_id is None:
                break
            due.append((ApiKey.API_VERSIONS, 0, error.correlation_id))  # KIP-511
        except DecodeError:
            break
        else:
            if header.api_key != ApiKey.PRODUCE or message.acks != 0:
                due.append((header.api_key, header.api_version, header.correlation_id))
        pos += 4 + size
    return due


def _replies(sent: bytes) -> list[bytes]:
    frames, pos = [], 0
    while pos < len(sent):
        size = int.from_bytes(sent[pos : pos + 4], "big", signed=True)
        assert size >= 4
        assert pos + 4 + size <= len(sent), "a reply is cut"
        frames.append(sent[pos + 4 : pos + 4 + size])
        pos += 4 + size
    return frames


FETCH_WAIT_S_MAX = 2**31 // 1000 + 1  # the longest that a client can ask for


async def _settle(shard: Shard, client: Client, count: int) -> None:
    """Let the shard answer; timers are let fire, so that no fetch waits for long."""
    for turn in range(SETTLE_TURNS_MAX):
        await ticks(4)
        if turn > 20:
            await asyncio.sleep(0.001)  # something is done in a thread
        if shard.broker.inflight_bytes == 0 and (
            client.closed or len(_replies(bytes(client.transport.sent))) >= count
        ):
            return
        if turn % 8 == 7:
            shard.advance(FETCH_WAIT_S_MAX)
    raise AssertionError(f"{count} replies are due, not all of them come")


def converse(data: bytes) -> None:
    """Every request is answered once, in order, by what its version can carry, or the connection
    is closed; no handler fails."""
    if len(data) < 3:
        return
    stream = _stream(data)
    due = _expected(stream)

    async def scenario(shard: Shard) -> None:
        client = shard.client(scratch_bytes=(64, 4096)[data[0] >> 1 & 1])
        client.feed(stream, step=data[1] or None)
        await _settle(shard, client, len(due))
        replies = _replies(bytes(client.transport.sent))
        assert len(replies) <= len(due)
        assert client.closed or len(replies) == len(due)
        for (api_key, version, correlation_id), reply in zip(due, replies, strict=False):
            decoded_id, _message = frame.decode_response(api_key, version, memoryview(reply))
            assert decoded_id == correlation_id
        client.vanish()
        await ticks(6)
        shard.clients.remove(client)

    _CONVERSING.run(scenario)


def conversation_seeds() -> Iterator[bytes]:
    frames = [case.frame for case in golden.REQUESTS]
    for body in frames:
        yield b"\0\0" + len(body).to_bytes(2, "big") + body
    for first, second in zip(frames, frames[7:], strict=False):
        yield b"\0\x25" + b"".join(len(f).to_bytes(2, "big") + f for f in (first, second))
        yield b"\3\7" + b"".join(len(f).to_bytes(4, "big") + f for f in (first, second))


# -- the produce path ------------------------------------------------------------------------


def _shaped(data: bytes) -> bytes:
    """The batch of an input: bits of its first byte put right what few variants get right."""
    batch = bytearray(data[2:])
    if len(batch) >= RECORD_BATCH_OVERHEAD:
        flags = data[0]
        fields = list(HEADER.unpack_from(batch))
        if flags & 2:
            fields[0], fields[1], fields[3] = 0, len(batch) - 12, 2
        if flags & 4:
            fields[6] = fields[12] - 1 if fields[12] > -(2**31) else 0
        with suppress(struct.error):
            HEADER.pack_into(batch, 0, *fields)
        if flags & 1:
            batch[17:21] = crc32c(batch[21:]).to_bytes(4, "big")
    return bytes(batch)


def produce(data: bytes) -> None:
    """What is accepted is read back whole, at the next offset, and by another reader."""
    if len(data) < 2:
        return
    batch = _shaped(data)
    topic = TOPICS[data[0] >> 3 & 1]
    version = 3 + data[1] % 10

    async def scenario(shard: Shard) -> None:
        client = shard.client()
        end = shard.log_of(topic).log_end_offset
        answer = await client.produce(topic, batch, version=version)
        if answer.error_code:
            assert answer.base_offset == -1
            assert shard.log_of(topic).log_end_offset == end
        elif answer.base_offset == end:
            if data[0] & 16:
                shard.forget_cache(topic)
            read = await client.fetch(topic, end)
            stored = bytearray(batch)
            if topic == "stamped":
                set_log_append_time(stored, 0, len(stored), answer.log_append_time_ms)
            patch(stored, 0, end, shard.partition(topic).leader_epoch)
            assert read.records == stored
            _compare_readers(bytes(stored))
            log = shard.log_of(topic)
            assert log.log_end_offset == parse_header(stored).last_offset + 1
            await log.max_timestamp_offset(log.log_end_offset)
        else:  # a duplicate, answered with the offset of the original
            assert answer.base_offset < end
            assert parse_header(batch).producer_id >= 0
        client.vanish()
        await ticks(2)
        shard.clients.remove(client)

    _PRODUCING.run(scenario)


def _compare_readers(batch: bytes) -> None:
    """kafka-python reads the batch; its records, where ours can be read: nothing looks inside a
    batch when it is produced."""
    theirs = MemoryRecords(batch).next_batch()
    header = parse_header(batch)
    assert theirs.validate_crc()
    assert (theirs.base_offset, theirs.next_offset) == (header.base_offset, header.last_offset + 1)
    try:
        ours = list(iter_records(batch, INFLATED_BYTES_MAX))
    except DecodeError:
        return
    if any(attributes & 0x80 for attributes in _attributes(header, batch)):
        return  # kafka-python reads a varint there, Kafka (DefaultRecord.readFrom) and we a byte
    rows = [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in ours]
    assert [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in theirs] == rows


def _attributes(header: BatchHeader, batch: bytes) -> Iterator[int]:
    """The first byte of every record of a batch that can be read."""
    body = memoryview(batch)[RECORD_BATCH_OVERHEAD:]
    data = decompress(header.compression, body, INFLATED_BYTES_MAX)
    pos = 0
    for _ in range(header.record_count):
        size, pos = read_varlong(data, pos)
        yield data[pos]
        pos += size


def produce_seeds() -> Iterator[bytes]:
    for flags in (0, 7, 8 + 7, 16 + 7):
        for batch in BATCHES:
            yield bytes((flags, 9)) + batch


async def _topics(shard: Shard) -> None:
    await shard.create("t", topic_id=bytes(range(1, 17)))
    await shard.create("stamped", message_timestamp_type="LogAppendTime")


async def _golden_topics(shard: Shard) -> None:
    """Those that the golden requests name, so that some of them reach something."""
    names: dict[str, None] = {}
    for case in golden.REQUESTS:
        for topic in getattr(case.message, "topic_data", None) or []:
            names[topic.name] = None
    for i, name in enumerate(filter(None, names)):
        await shard.create(name, *([1] * (1 + i % 3)))


_CONVERSING = World(_golden_topics)
_PRODUCING = World(_topics)

TARGETS = [
    Target("connection", converse, conversation_seeds, share=2.0, close=_CONVERSING.close),
    Target("produce", produce, produce_seeds, share=1.5, close=_PRODUCING.close),
]
