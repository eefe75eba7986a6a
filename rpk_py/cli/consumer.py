"""The consumer behind `topic consume`: long polls at all leaders at once, batches to records.

Which process: the operator's. One loop for each node that leads something; when a leader moves or a
node goes away, all loops end at their next reply, metadata is asked for, and new ones begin.

Invariants: the records of a partition come in order, each once; offsets below the wanted one,
control batches and what lies at or behind the end are left out; a batch is decompressed to at most
RECORDS_BYTES_MAX. Everything a broker sends is checked: CRC, sizes, order of offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kafka_protocol.errors import DecodeError, ErrorCode
from kafka_protocol.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionData,
)
from kafka_protocol.record_batch import (
    LENGTH_OVERHEAD,
    MAGIC,
    RECORD_BATCH_OVERHEAD,
    BatchHeader,
    Record,
    iter_records,
    parse_header,
    verify_crc,
)
from rpk_py.cli.client import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    LEADER_MOVED,
    Broken,
    Client,
    ClientError,
    Deadline,
    TopicPartition,
    Unreachable,
    refused,
)
from rpk_py.cli.offset_range import Span
from rpk_py.cli.output import note

FETCH_BYTES_MAX = 8 << 20
PARTITION_BYTES_MAX = 1 << 20
FETCH_WAIT_MS_MAX = 500
RECORDS_BYTES_MAX = 256 << 20
OUTAGE_S_MAX = 60.0  # how long a cluster may be away or without a leader
_NAMES_VERSION_MAX = 12  # later versions of Fetch take topic ids
_NO_SESSION_EPOCH = -1

# Called for each record: (topic, its partition's reply, batch header, record); True: enough.
Taker = Callable[[str, PartitionData, BatchHeader, Record], bool]


@dataclass(slots=True)
class Position:
    """Where we are in a partition; done when offset has reached end."""

    offset: int
    end: int | None

    @property
    def is_done(self) -> bool:
        return self.end is not None and self.offset >= self.end


class Consumer:
    """Reads spans of partitions and hands every record to `take`.

    Shapes:  spans    what to read of each partition
             take     gets a record and says whether that was enough
             settled  called when all of a reply has been taken: time to flush
    """

    def __init__(
        self,
        client: Client,
        spans: Mapping[TopicPartition, Span],
        take: Taker,
        settled: Callable[[], None],
    ) -> None:
        self._client = client
        self._positions = {key: Position(span.first, span.end) for key, span in spans.items()}
        self._take = take
        self._settled = settled
        self._is_enough = False
        self._deadline: Deadline | None = None  # runs from the first of failures in a row
        self._problem: ClientError | None = None

    @property
    def _wanted(self) -> list[TopicPartition]:
        return [key for key, position in self._positions.items() if not position.is_done]

    async def run(self) -> None:
        """Read until all spans are read or `take` has enough; ClientError if that cannot be."""
        while (wanted := self._wanted) and not self._is_enough:
            self._problem = None
            nodes: dict[int, list[TopicPartition]] = {}
            for key in wanted:
                leader = self._client.leaders.get(key)
                nodes.setdefault(leader.node_id if leader else -1, []).append(key)
            if waiting := nodes.pop(-1, None):
                self._problem = refused(_name(waiting[0]), ErrorCode.LEADER_NOT_AVAILABLE)
            if nodes:
                await self._follow(nodes)
            if self._problem is not None:
                await self._recover(self._problem)

    async def _follow(self, nodes: dict[int, list[TopicPartition]]) -> None:
        """Poll all nodes until the first of them has a problem, or everything is read."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._poll(*each)) for each in nodes.items()]
            left = set(tasks)
            while left:
                _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                if self._problem is not None or self._is_enough:
                    for task in left:
                        task.cancel()
                    return

    async def _recover(self, problem: ClientError) -> None:
        """Wait a little and ask who leads; ClientError when that has gone on for too long."""
        self._deadline = self._deadline or Deadline(OUTAGE_S_MAX)
        if not await self._deadline.pause():
            raise problem
        try:
            await self._client.metadata(sorted({topic for topic, _ in self._positions}))
        except Unreachable:
            return  # asked again in a moment; `problem` is what is told in the end

    async def _poll(self, node_id: int, keys: list[TopicPartition]) -> None:
        """Fetch from one node until its partitions are done or something has changed."""
        while self._problem is None and not self._is_enough:
            keys = [key for key in keys if not self._positions[key].is_done]
            if not keys:
                return
            keys.append(keys.pop(0))  # a reply is filled in this order: let everybody be first
            try:
                answer = await self._client.ask(
                    self._request(keys),
                    node_id=node_id,
                    timeout_s=FETCH_WAIT_MS_MAX / 1000 + self._client.timeout_s,
                    version_max=_NAMES_VERSION_MAX,
                )
            except Broken:
                raise
            except Unreachable as error:
                self._problem = error
                return
            if answer.error_code:
                raise refused(f"fetch from node {node_id}", answer.error_code)
            named = {
                (topic.topic, data.partition_index)
                for topic in answer.responses
                for data in topic.partitions
            }
            if not named.issuperset(keys):
                raise Broken(f"node {node_id}: the answer to FETCH leaves out partitions")
            await self._receive(answer, set(keys))

    def _request(self, keys: list[TopicPartition]) -> FetchRequest:
        topics: dict[str, list[FetchPartition]] = {}
        for topic, index in keys:
            offset = self._positions[topic, index].offset
            topics.setdefault(topic, []).append(
                FetchPartition(index, fetch_offset=offset, partition_max_bytes=PARTITION_BYTES_MAX)
            )
        return FetchRequest(
            replica_id=-1,
            max_wait_ms=FETCH_WAIT_MS_MAX,
            min_bytes=1,
            max_bytes=FETCH_BYTES_MAX,
            session_epoch=_NO_SESSION_EPOCH,
            topics=[FetchTopic(topic=name, partitions=each) for name, each in topics.items()],
        )

    async def _receive(self, answer: Any, asked: set[TopicPartition]) -> None:
        """Hand out the records of a reply; notes that a leader has moved."""
        lost = []
        for topic in answer.responses:
            for data in topic.partitions:
                key = (topic.topic, data.partition_index)
                if key not in asked or self._is_enough:
                    continue
                code = data.error_code
                if code == ErrorCode.OFFSET_OUT_OF_RANGE:
                    lost.append(key)
                elif code in LEADER_MOVED or code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                    self._problem = refused(_name(key), code)
                elif code:
                    raise refused(_name(key), code)
                else:
                    self._deadline = None
                    self._take_records(key, data)
        self._settled()
        if lost:
            await self._find_again(lost)

    def _take_records(self, key: TopicPartition, data: PartitionData) -> None:
        position = self._positions[key]
        first = position.offset
        topic = key[0]
        try:
            for header, batch in _batches(data.records):
                if header.last_offset < position.offset:
                    continue
                if not header.is_control:
                    for record in iter_records(batch, RECORDS_BYTES_MAX):
                        if record.offset < position.offset:
                            continue
                        if position.end is not None and record.offset >= position.end:
                            break
                        position.offset = record.offset + 1
                        if self._take(topic, data, header, record):
                            self._is_enough = True
                            return
                position.offset = max(position.offset, header.last_offset + 1)
                if position.is_done:
                    return
            if data.records and position.offset == first:
                raise DecodeError("records before it are sent again")
        except DecodeError as error:
            raise ClientError(f"{_name(key)} offset {position.offset}: {error.reason}") from error

    async def _find_again(self, lost: list[TopicPartition]) -> None:
        """Move to the edge that a position has fallen off, and say so."""
        starts = await self._client.list_offsets(dict.fromkeys(lost, EARLIEST_TIMESTAMP))
        ends = await self._client.list_offsets(dict.fromkeys(lost, LATEST_TIMESTAMP))
        for key in lost:
            position = self._positions[key]
            old = position.offset
            position.offset = min(max(old, starts[key].offset), ends[key].offset)
            if position.offset == old:
                self._problem = refused(_name(key), ErrorCode.OFFSET_OUT_OF_RANGE)
            else:
                note(f"{_name(key)}: offset {old} is gone, going on at {position.offset}")


def _name(key: TopicPartition) -> str:
    return f"topic {key[0]} partition {key[1]}"


def _batches(records: Any) -> Iterator[tuple[BatchHeader, memoryview]]:
    """The whole batches of a reply, verified; what is cut off at its end is left for the next.

    Raises DecodeError, also where not even the first one is whole: asking again would not help.
    """
    if records is None:
        return
    pos, end = 0, len(records)
    while end - pos > LENGTH_OVERHEAD:
        length = int.from_bytes(records[pos + 8 : pos + LENGTH_OVERHEAD], "big", signed=True)
        size_bytes = LENGTH_OVERHEAD + length
        if length < 0:
            raise DecodeError(f"record batch of {length} bytes")
        if size_bytes > end - pos:
            if pos == 0:
                raise DecodeError(f"the broker sends {end} of a record batch's {size_bytes} bytes")
            return
        if end - pos > 16 and records[pos + 16] != MAGIC:
            raise DecodeError(
                f"records of format {records[pos + 16]}; only format 2, since Kafka 0.11, is read"
            )
        if size_bytes < RECORD_BATCH_OVERHEAD:
            raise DecodeError(f"record batch of {size_bytes} bytes")
        header = parse_header(records, pos)
        batch = records[pos : pos + size_bytes]
        if not verify_crc(batch, 0, size_bytes, header.crc):
            raise DecodeError(f"the CRC of the batch at offset {header.base_offset} is wrong")
        if header.base_offset < 0 or header.last_offset < header.base_offset:
            raise DecodeError(f"a batch from offset {header.base_offset} to {header.last_offset}")
        yield header, batch
        pos += size_bytes
