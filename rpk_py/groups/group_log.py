"""One partition of __consumer_offsets that this shard leads: its groups, their writes, their load.

What:       the log of the groups whose ids hash to the partition. `append` queues records; those of
            one turn of the loop go into one batch. `load` rebuilds the groups from the log.
            `rewrite` bounds the log: what is in force is written again at its end, and the log
            start moves behind the rest, which is what compaction would leave of it.
Where:      the shard that leads the partition, which thereby is the coordinator of its groups.
Invariants: - `done` is called once for each append, in order, NONE when it is durable;
            - no group is seen before all of the log was read;
            - a write that fails is final, as for any partition: all waiters get
              NOT_COORDINATOR, and the groups are gone from here until the shard starts again;
            - a rewrite skips what has a record on its way: that record lies behind the new start;
            - no await lies between reading what is in force and appending it.
Source:     CoordinatorRuntime and CoordinatorLoaderImpl of Apache Kafka 4.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from kafka_protocol import group_records
from kafka_protocol.errors import DecodeError, ErrorCode
from kafka_protocol.record_batch import build_batch, iter_batches, iter_records, parse_header
from rpk_py.groups.group import Group, GroupFactory
from rpk_py.groups.records import KeyValue
from rpk_py.partition import Partition
from rpk_py.turns import Turns
from storage.errors import StorageError

BATCH_BYTES: Final = 64 * 1024  # appends of one turn go on in another batch beyond it
CHUNK_RECORDS: Final = 200  # of records that need not stand in one batch: about 2 ms to encode
READ_BYTES: Final = 1024 * 1024
SLICE_RECORDS: Final = 50  # between two looks at the clock
RECORDS_BYTES_MAX: Final = 256 * 1024 * 1024  # of one batch, decompressed: they are our own
_RECORD_OVERHEAD: Final = 32  # of one record in a batch, at most
_CHECK_EVERY: Final = 64  # flushes between two looks at the size of the log

Done: TypeAlias = Callable[[ErrorCode], None]


class GroupLog:
    """The groups of one partition. Usable from when `load` is done until `close`, or a failure."""

    __slots__ = (
        "_appends",
        "_flush_scheduled",
        "_flushes",
        "_loop",
        "_queue",
        "_rewriting",
        "_size_after",
        "_turns",
        "_unknown",
        "error",
        "factory",
        "groups",
        "loading",
        "log",
        "partition",
        "rewrites",
    )

    def __init__(
        self,
        partition: Partition,
        factory: GroupFactory,
        turns: Turns,
        loop: asyncio.AbstractEventLoop,
        log: Any,
    ) -> None:
        self.partition = partition
        self.factory = factory
        self.log = log
        self.groups: dict[str, Group] = {}
        self.loading = True
        self.error: ErrorCode = ErrorCode.NONE  # why there are no groups here
        self.rewrites = 0
        self._turns = turns
        self._loop = loop
        self._queue: list[tuple[Sequence[KeyValue], int, Done]] = []
        self._unknown: dict[bytes, bytes] = {}  # records of other versions of Kafka, kept
        self._flush_scheduled = False
        self._flushes = 0
        self._rewriting = False
        self._size_after = 0

    # --- writing ---------------------------------------------------------------------------------

    def append(self, records: Sequence[KeyValue], done: Done, bytes_max: int = 2**31) -> None:
        """Write records in one batch, with others of this turn. Without records: wait for those
        before.

        bytes_max  of the records; larger ones end with MESSAGE_TOO_LARGE, when it is their turn
        """
        self._queue.append((records, bytes_max, done))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)

    def append_all(self, records: Sequence[KeyValue], done: Done) -> None:
        """Write records that need not stand in one batch; `done` once, after the last."""
        failures: list[ErrorCode] = []

        def part_done(error: ErrorCode) -> None:
            if error:
                failures.append(error)

        def all_done(error: ErrorCode) -> None:
            done(failures[0] if failures else error)

        for start in range(0, len(records), CHUNK_RECORDS):
            chunk = records[start : start + CHUNK_RECORDS]
            is_last = start + CHUNK_RECORDS >= len(records)
            self.append(chunk, all_done if is_last else part_done)
        if not records:
            self.append((), done)

    def flush(self) -> None:
        """Hand over what is queued, now and not at the end of the turn."""
        self._flush_scheduled = False
        queue, self._queue = self._queue, []
        batch: list[KeyValue] = []
        waiting: list[Done] = []
        batch_bytes = 0
        for records, bytes_max, done in queue:
            size = sum(
                len(key) + (len(value) if value is not None else 0) + _RECORD_OVERHEAD
                for key, value in records
            )
            if size > bytes_max:
                self._write(batch, waiting)
                self._await([_with(done, ErrorCode.MESSAGE_TOO_LARGE)])
                batch, waiting, batch_bytes = [], [], 0
                continue
            if batch and batch_bytes + size > BATCH_BYTES:
                self._write(batch, waiting)
                batch, waiting, batch_bytes = [], [], 0
            batch.extend(records)
            waiting.append(done)
            batch_bytes += size
        self._write(batch, waiting)
        self._flushes += 1
        if not self._flushes % _CHECK_EVERY:
            self._check_size()

    def _write(self, records: list[KeyValue], waiting: list[Done]) -> None:
        if not waiting:
            return
        if self.error:
            _tell(waiting, self.error)
            return
        if records:
            now_ms = self.factory.now_ms()
            batch = memoryview(build_batch(records, timestamp_ms=now_ms))
            try:
                self.partition.append(batch, parse_header(batch), now_ms)
            except StorageError:
                self.settle(waiting, ErrorCode.KAFKA_STORAGE_ERROR)
                return
        self._await(waiting)

    def _await(self, waiting: list[Done]) -> None:
        log = self.partition.log
        if log is None or log.failed is not None:
            self.settle(waiting, ErrorCode.KAFKA_STORAGE_ERROR)
        elif self.partition.when_visible(log.log_end_offset, self, waiting):
            _tell(waiting, ErrorCode.NONE)

    def settle(self, token: object, error: ErrorCode) -> None:
        """ProduceWaiter: a batch is durable, or lost with its partition."""
        assert isinstance(token, list)
        _tell(token, error)
        if error and not self.error:
            self.close(ErrorCode.NOT_COORDINATOR)

    # --- the end ---------------------------------------------------------------------------------

    def close(self, error: ErrorCode) -> None:
        """Have no groups any more; `error` is what clients are told from now on."""
        self.error = error
        groups, self.groups = self.groups, {}
        for group in groups.values():
            group.unload()

    # --- loading ---------------------------------------------------------------------------------

    async def load(self) -> None:
        """Rebuild the groups from the log. Gives way; ends early if the partition fails."""
        try:
            live = await self._read_live()
        except (StorageError, DecodeError) as error:
            self.log.error("groups cannot be loaded", partition=self.name, reason=str(error))
            self.loading = False
            self.close(ErrorCode.NOT_COORDINATOR)
            return
        for number, (key_bytes, value_bytes) in enumerate(live.items()):
            if not number % SLICE_RECORDS:
                await self._turns.pause()
            self._replay(key_bytes, value_bytes)
        for group in list(self.groups.values()):
            await self._turns.pause()
            group.start_loaded()
        log = self.partition.log
        self._size_after = log.size_bytes if log is not None else 0
        self._size_after = min(self._size_after, 2 * sum(len(k) + len(v) for k, v in live.items()))
        if not self.error:
            self.loading = False

    async def _read_live(self) -> dict[bytes, bytes]:
        """The last value of each key that is not deleted, in the order in which they were written.

        It is all that a compacted log would hold, so it is enough; and nothing is decoded that a
        later record replaces.
        """
        live: dict[bytes, bytes] = {}
        log, end_offset = self.partition.log, self.partition.high_watermark
        offset = self.partition.log_start_offset
        while log is not None and offset < end_offset:
            slices, offset = await log.read(offset, end_offset, READ_BYTES)
            if not slices:  # the start has moved
                offset = max(offset, log.log_start_offset)
            for part in slices:
                for pos, header in iter_batches(part, 0, len(part)):
                    await self._turns.pause()
                    if header.is_control:
                        continue
                    batch = part[pos : pos + header.size_bytes]
                    for record in iter_records(batch, RECORDS_BYTES_MAX):
                        if record.key is None:
                            continue
                        live.pop(record.key, None)
                        if record.value is not None:
                            live[record.key] = record.value
        return live

    def _replay(self, key_bytes: bytes, value_bytes: bytes) -> None:
        try:
            key = group_records.decode_key(key_bytes)
            value = None if key is None else group_records.decode_value(key, value_bytes)
        except DecodeError as error:
            self.log.warning("a group record is left alone", partition=self.name, reason=str(error))
            key = value = None
        if key is None or value is None:
            self._unknown[key_bytes] = value_bytes
            return
        group_id = key.group_id if hasattr(key, "group_id") else key.group
        group = self.groups.get(group_id)
        if group is None:
            group = self.groups[group_id] = self.factory.make(group_id, self)
        group.replay(key, value, key_bytes, value_bytes)

    # --- bounding the log ------------------------------------------------------------------------

    def _check_size(self) -> None:
        log = self.partition.log
        if self._rewriting or self.loading or self.error or log is None:
            return
        grown = log.size_bytes - self._size_after
        if grown > max(self.factory.settings.offsets_bytes, self._size_after):
            self._rewriting = True
            self.factory.spawn(self.rewrite())

    async def rewrite(self) -> None:
        """Write what is in force at the end of the log, and give up what lies before."""
        try:
            await self._rewrite()
            self.rewrites += 1
        except StorageError as error:
            self.log.error("groups cannot be rewritten", partition=self.name, reason=str(error))
        finally:
            self._rewriting = False

    async def _rewrite(self) -> None:
        log = self.partition.log
        assert log is not None
        self.flush()
        size_before, start_offset = log.size_bytes, log.log_end_offset
        await self._written(())  # what stands before it is in the groups now
        await self._written(list(self._unknown.items()))
        # What is taken from a group is appended before anything else can happen to it: later it
        # would stand behind newer records, and a tombstone.
        part: list[KeyValue] = []
        for group in list(self.groups.values()):
            keys = group.keys()
            for start in range(0, len(keys), CHUNK_RECORDS):
                if self.groups.get(group.group_id) is group:
                    part += group.in_force(keys[start : start + CHUNK_RECORDS])
                if len(part) >= CHUNK_RECORDS:
                    await self._written(part)
                    part = []
        await self._written(part)
        if self.error:
            return
        await log.delete_records(start_offset)
        self._size_after = max(log.size_bytes - size_before, 0)
        self.log.info(
            "groups rewritten",
            partition=self.name,
            log_start_offset=start_offset,
            groups=len(self.groups),
        )

    async def _written(self, records: Iterable[KeyValue]) -> None:
        future = self._loop.create_future()

        def done(error: ErrorCode) -> None:
            if not future.done():
                future.set_result(error)

        self.append_all(list(records), done)
        await future

    @property
    def name(self) -> str:
        """Topic and index, for the log."""
        return f"{self.partition.topic}-{self.partition.index}"


def _tell(waiting: list[Done], error: ErrorCode) -> None:
    for done in waiting:
        done(error)


def _with(done: Done, own: ErrorCode) -> Done:
    """`done` with its own error, unless the log failed before its turn."""
    return lambda error: done(error or own)
