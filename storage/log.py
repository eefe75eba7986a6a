"""Log: one partition's records, appended, made durable, kept in segments and read back.

Belongs to the shard that leads the partition; every state change is synchronous on its loop.
`append` copies and returns at once; `on_durable` of the owner tells when batches reached stable
storage. Reads of recent records come from memory (`read_cached`), others from disk (`read`),
where every record's CRC is checked again: damage takes the partition offline and is never served.

Offsets are exclusive ends, as the names say: log_start_offset <= durable_offset <= appended_offset.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_right
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kafka_protocol.record_batch import BatchHeader
from storage.appender import SegmentAppender
from storage.checkpoint import Checkpoint
from storage.cold_reader import ColdReader
from storage.compaction import Compactor
from storage.errors import CorruptRecord, DiskFailed, DiskFull, StorageError
from storage.log_context import LogConfig, LogContext, LogOwner, ProducerState
from storage.log_head import Deleted, LogHead
from storage.record_buffer import RecordBuffer, Spans
from storage.recycle import discard_directory
from storage.rewrite import Rewriter
from storage.rolling import SegmentRoller
from storage.segment import (
    CHECKPOINT_SUFFIX,
    Segment,
    file_name,
    remove_old_checkpoints,
)
from storage.space import NO_SPACE
from storage.timestamps import first_at_or_after, largest

T = TypeVar("T")


class Log:
    """One partition's log. Made by storage.open_log.open_log."""

    def __init__(
        self,
        context: LogContext,
        config: LogConfig,
        directory: Path,
        topic_id: bytes,
        partition: int,
        state: ProducerState,
        segments: list[Segment],
        epochs: list[tuple[int, int]],
        log_start_offset: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        """`checkpoint`: the one that recovery started from."""
        self._context = context
        self.config = config
        self.directory = directory
        self.topic_id = topic_id
        self.partition = partition
        self._state = state
        self._segments = segments
        self.epochs = epochs
        self.log_start_offset = log_start_offset
        self.looks_inside = context.looks_inside
        self._spans = Spans()
        active = segments[-1] if segments else None
        if active is not None and active.fd >= 0:
            context.files.add(active)
        self._appender = SegmentAppender(
            self,
            context.committer,
            context.cache,
            self._spans,
            active,
            active.next_offset if active else log_start_offset,
            context.block_bytes,
            topic_id,
            partition,
        )
        self._appender.checkpoint_bytes = context.checkpoint_bytes
        self._roller = SegmentRoller(self, context, segments, self._appender)
        self._apply(config)
        self._owner: LogOwner | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}  # a set takes 216 bytes, this 64
        checkpoint_base = checkpoint.segment_base_offset if checkpoint else -1
        self._head = LogHead(self, context, segments, checkpoint_base)
        self._checkpointed_offset = checkpoint.next_offset if checkpoint else -1  # on the disk
        self._unwritten: Checkpoint | None = None  # for want of space
        self._idle_waiters: list[asyncio.Future[None]] = []
        self.closing = self._closed = False
        self._cold_reader: ColdReader | None = None  # made when somebody reads from disk
        self.changing = asyncio.Lock()  # held while the start moves, or segments are replaced
        self._rewriter: Rewriter | None = None  # these are made when there is something for them
        self._compactor: Compactor | None = None

    @property
    def has_sealed(self) -> bool:
        """Whether there is anything to rewrite or compact."""
        return len(self._segments) > 1

    @property
    def rewriter(self) -> Rewriter:
        """Who replaces its segments."""
        if self._rewriter is None:
            self._rewriter = Rewriter(self, self._context, self._segments, self._spans)
        return self._rewriter

    @property
    def compactor(self) -> Compactor:
        """Who compacts it."""
        if self._compactor is None:
            self._compactor = Compactor(self.rewriter)
        return self._compactor

    def configure(self, config: LogConfig) -> None:
        """Go on with other settings.

        What write.caching has shown and not written is written now, so that without it nothing
        is acknowledged before all that precedes it is durable, and no old flush.ms is waited for.
        """
        if config == self.config:
            return
        self._apply(config)
        if self.failed is None and self.durable_offset < self.log_end_offset:
            self._appender.flush_now()

    def _apply(self, config: LogConfig) -> None:
        self.config = config
        self._roller.draw_roll_ms()
        self._appender.segment_bytes = config.segment_bytes
        self._appender.flush_ms = config.flush_ms
        self._appender.flush_bytes = config.flush_bytes
        self._appender.write_caching = config.write_caching

    # -- offsets ---------------------------------------------------------------------------

    @property
    def log_end_offset(self) -> int:
        """The offset of the next record; what was appended, durable or not."""
        return self._appender.appended_offset

    @property
    def durable_offset(self) -> int:
        """Everything before it is on stable storage."""
        return self._appender.durable_offset

    @property
    def visible_offset(self) -> int:
        """What one replica may show to consumers: durable records; with write.caching all, as
        long as little in the whole shard is not durable (Committer.may_cache)."""
        if self.config.write_caching and self._context.committer.may_cache:
            return self._appender.appended_offset
        return self._appender.durable_offset

    @property
    def write_caching(self) -> bool:
        """Whether an append counts as soon as it is in memory."""
        return self.config.write_caching

    @property
    def size_bytes(self) -> int:
        """Bytes of its segments up to their ends, without the space that is allocated ahead, and
        what is durable in the journal alone."""
        stored = sum(segment.write_pos for segment in self._segments)
        return stored + self._appender.unstored_bytes

    @property
    def writes(self) -> int:
        """Writes that became durable since the log was opened."""
        return self._appender.writes

    @property
    def write_seconds(self) -> float:
        """What these took, each from its submission to its durability."""
        return self._appender.write_seconds

    def fail(self, error: StorageError) -> None:
        """Take the log out of service; only the first failure counts."""
        self._appender.fail(error)

    @property
    def usable(self) -> bool:
        """Neither failed nor closing."""
        return self._appender.failed is None and not self.closing

    @property
    def checkpoint_base(self) -> int:
        """Base offset of the segment that the newest checkpoint points into, -1: there is none."""
        return self._head.checkpoint_base

    @property
    def stalled(self) -> DiskFull | None:
        """Why what was appended waits in memory, or None; see rolling.py."""
        return self._roller.stalled

    @property
    def waits_for_room(self) -> bool:
        """Whether there is something for `retry` to do."""
        return self._unwritten is not None or self._roller.waits_for_room

    async def retry(self) -> None:
        """Try again what the disk had no room for: what stalls, an index, a checkpoint."""
        await self._roller.retry()
        checkpoint, self._unwritten = self._unwritten, None
        if checkpoint is not None and not self.closing and self.failed is None:
            if checkpoint.next_offset > self._checkpointed_offset:
                await asyncio.shield(self.spawn(self.write_checkpoint(checkpoint)))

    @property
    def failed(self) -> StorageError | None:
        """Why this log is out of service, or None."""
        return self._appender.failed

    def attach(self, owner: LogOwner) -> None:
        """Say who is told of progress; once, before the first append."""
        self._owner = owner

    # -- append ----------------------------------------------------------------------------

    def append(self, batch: memoryview, header: BatchHeader, leader_epoch: int) -> int:
        """Queue one record batch; its durability is told by `on_durable`.

        Shapes:  batch   one whole RecordBatch v2, CRC already verified; the caller may reuse its
                         memory on return, since the bytes are copied; base offset and leader
                         epoch are patched in the copy
                 header  that batch's header
        Returns: the base offset it was given
        Raises:  StorageError where the log has failed
        Order:   offsets follow the order of calls. Home shard only.
        """
        failed = self._appender.failed
        if failed is not None:
            raise failed
        if not self.epochs or leader_epoch > self.epochs[-1][0]:
            self.start_epoch(leader_epoch)
        base_offset = self._appender.appended_offset
        next_offset = base_offset + header.last_offset_delta + 1
        self._appender.append(batch, base_offset, next_offset, leader_epoch, header.max_timestamp)
        return base_offset

    def start_epoch(self, leader_epoch: int) -> None:
        """Note that `leader_epoch` starts at the log end (KIP-101); a no-op for an old one."""
        epochs, start = self.epochs, self._appender.appended_offset
        if epochs and leader_epoch <= epochs[-1][0]:
            return
        while epochs and epochs[-1][1] >= start:
            epochs.pop()  # an epoch without a record
        epochs.append((leader_epoch, start))

    def epoch_for_offset(self, offset: int) -> int:
        """The leader epoch in which the record at `offset` was appended, -1 if unknown."""
        i = bisect_right(self.epochs, offset, key=lambda entry: entry[1]) - 1
        return self.epochs[i][0] if i >= 0 else -1

    def end_offset_for_epoch(self, leader_epoch: int) -> tuple[int, int]:
        """The largest known epoch <= `leader_epoch` and its exclusive end offset (KIP-101).

        (-1, -1) where `leader_epoch` is later than any known here.
        """
        epochs = self.epochs
        if epochs and leader_epoch == epochs[-1][0]:
            return leader_epoch, self.log_end_offset
        i = bisect_right(epochs, leader_epoch, key=lambda entry: entry[0])
        if leader_epoch < 0 or i == len(epochs):
            return -1, -1
        return (epochs[i - 1][0] if i else leader_epoch), epochs[i][1]

    # -- read ------------------------------------------------------------------------------

    def read_cached(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool
    ) -> tuple[list[memoryview], int] | None:
        """Batches from memory: (slices, next offset), or None where `offset` is not in memory.

        The slices are whole batches, contiguous from the batch that holds `offset`, all before
        `limit_offset`, together at most `max_bytes` (or one batch if `at_least_one`).
        """
        found = self._spans.read(offset, limit_offset, max_bytes, at_least_one)
        if found is None:
            self._context.cache.misses += 1
        else:
            self._context.cache.hits += 1
        return found

    async def read(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True
    ) -> tuple[list[memoryview], int]:
        """Like read_cached, but goes to disk where it must; `offset` is in the log and before
        `limit_offset`. Where it was deleted meanwhile the answer is empty.

        Raises StorageError; CorruptRecord also fails the log.
        """
        if self.failed is not None:
            raise self.failed
        if offset < self.log_start_offset:
            return [], offset
        found = self._spans.read(offset, limit_offset, max_bytes, at_least_one)
        if found is not None:
            return found
        reader = self._cold_reader
        if reader is None:
            reader = ColdReader(self.directory, self._context, self._spans, self.spawn)
            self._cold_reader = reader
        loaded = Spans()
        for record in await self.from_disk(reader.load(self._segments, offset)):
            loaded.add(record)
        found = loaded.read(offset, limit_offset, max_bytes, at_least_one)
        if found is None and offset < self.log_start_offset:
            return [], offset
        if found is None:
            damage = CorruptRecord(f"{self.directory}: no record holds offset {offset}")
            self._appender.fail(damage)
            raise damage
        return found

    async def from_disk(self, reading: Coroutine[Any, Any, T]) -> T:
        """What it reads. Raises StorageError; CorruptRecord also fails the log."""
        try:
            return await reading
        except CorruptRecord as error:
            self._appender.fail(error)
            raise
        except OSError as error:
            raise DiskFailed(f"cannot read {self.directory}: {error}") from error

    # -- timestamps ------------------------------------------------------------------------

    async def offset_for_timestamp(
        self, timestamp: int, limit_offset: int
    ) -> tuple[int, int] | None:
        """(offset, timestamp) of the first record before `limit_offset` that is not older than
        `timestamp` (milliseconds), or None."""
        facts = self, self._context.files, self._segments
        return await self.from_disk(first_at_or_after(*facts, timestamp, limit_offset))

    async def max_timestamp_offset(self, limit_offset: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the record with the largest timestamp, or None (KIP-734)."""
        facts = self, self._context.files, self._segments
        return await self.from_disk(largest(*facts, limit_offset))

    # -- the appender's owner --------------------------------------------------------------

    def on_durable(self, durable_offset: int) -> None:
        """AppenderOwner: pass it on; wake a close that waits for silence."""
        try:
            if self._owner is not None:
                self._owner.on_durable(durable_offset)
        finally:
            self.wake_idle()

    def on_failed(self, error: StorageError) -> None:
        """AppenderOwner: the log is out of service."""
        if not self._closed:
            self._context.report("a partition went offline", f"{self.directory.name}: {error}")
        if self._owner is not None:
            self._owner.on_log_failed(error)
        self.wake_idle()

    def on_stalled(self, error: DiskFull) -> None:
        """SegmentRoller: the disk has no room for what was appended."""
        if self._owner is not None:
            self._owner.on_log_stalled(error, self._appender.written_offset)

    def on_resumed(self) -> None:
        """SegmentRoller: it has."""
        if self._owner is not None:
            self._owner.on_log_resumed()

    def on_settled(self) -> None:
        """AppenderOwner: a write of a failed appender came back."""
        self.wake_idle()

    def on_checkpoint(self, record: RecordBuffer) -> None:
        """AppenderOwner: everything before `record` is durable."""
        segment, state = self._appender.segment, record.checkpoint_state
        assert segment is not None
        assert state is not None
        record.checkpoint_state = None
        checkpoint = self.checkpoint_at(
            segment, record.pos, record.prev_header_crc, record.base_offset, state
        )
        self.spawn(self.write_checkpoint(checkpoint))

    def producer_state(self) -> bytes:
        """AppenderOwner: a snapshot of the producer state as of the last append."""
        return self._state.snapshot()

    def prepare(self, record: RecordBuffer) -> None:
        """AppenderOwner: make room for `record` in the background."""
        self.spawn(self._roller.make_room(record))

    async def leave(self, segment: Segment) -> bool:
        """Go on behind the active segment in a new one; see SegmentRoller.leave."""
        return await self._roller.leave(segment, self._state.snapshot)

    # -- the start -------------------------------------------------------------------------

    async def delete_records(self, before_offset: int) -> None:
        """Move the log start to `before_offset`, at most the log end; durable on return.

        A start that is there already is left as it is. Segments wholly below it are retired once
        nobody reads them; the active one stays, as in Kafka (UnifiedLog.deleteOldSegments), and
        so does what recovery needs to know the producers of what is gone.
        Raises: StorageError; the log start is the old one, after a restart perhaps the new one
        """
        await self._head.delete_records(before_offset)

    async def enforce_retention(self, now_ms: int) -> list[Deleted]:
        """Delete the segments that have had their time by the settings: one entry for each.
        Raises: StorageError; what is not deleted is looked at again the next time"""
        return await self._head.enforce_retention(now_ms)

    async def trim(self, segment: Segment) -> list[Deleted]:
        """Delete a segment, and what is older, before its time; see LogHead.trim."""
        return await self._head.trim(segment)

    async def oldest_closed(self) -> tuple[int, Segment] | None:
        """The oldest segment that may be trimmed; see LogHead.oldest_closed."""
        return await self._head.oldest_closed()

    def roll_if_due(self, now_ms: int) -> None:
        """See SegmentRoller.roll_if_due."""
        self._roller.roll_if_due(now_ms)

    @property
    def waiting_timestamp(self) -> int | None:
        """The largest timestamp of what is in no segment yet, None where there is nothing."""
        return self._appender.waiting_timestamp

    async def store(self, end_offset: int) -> None:
        """Have everything before `end_offset` in segments, durably: what only memory or the
        shard's journal holds is not enough for what says that it was there. Raises StorageError."""
        while True:
            if self.failed or self.closing:
                raise self.failed or StorageError(f"{self.directory.name} is closed")
            if self._appender.stored_offset >= end_offset:
                return
            if self.stalled is not None:
                raise self.stalled
            self._appender.store()
            await self._wait_idle_change()

    # -- checkpoints -----------------------------------------------------------------------

    def checkpoint_at(
        self, segment: Segment, pos: int, prev_header_crc: int, next_offset: int, state: bytes
    ) -> Checkpoint:
        return Checkpoint(
            segment_base_offset=segment.base_offset,
            incarnation=segment.header.incarnation,
            pos=pos,
            prev_header_crc=prev_header_crc,
            next_offset=next_offset,
            log_start_offset=self.log_start_offset,
            high_watermark=next_offset,
            epochs=[entry for entry in self.epochs if entry[1] < next_offset],
            index=segment.index.encode_entries(pos),
            state=state,
        )

    async def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        path = self.directory / file_name(checkpoint.next_offset, CHECKPOINT_SUFFIX)
        remove_old = partial(remove_old_checkpoints, self.directory)
        try:
            await self._context.small_files.write(path, checkpoint.encode(), remove_old)
            self._checkpointed_offset = max(self._checkpointed_offset, checkpoint.next_offset)
            self._head.checkpoint_written(checkpoint.segment_base_offset)
        except OSError as error:  # an older one still serves; recovery scans further
            self._context.report("a checkpoint cannot be written", f"{path}: {error}")
            if error.errno in NO_SPACE:
                self._unwritten = checkpoint
                self._context.no_space(self)

    # -- the end ---------------------------------------------------------------------------

    async def close(self) -> None:
        """Make everything durable, write a checkpoint at the end and close the files.

        The preallocated space is given back, so that the next start finds nothing to scan.
        """
        self.closing = True
        if self.failed is None and not self._closed:
            self._appender.store()
            await self._roller.retry()  # without room now what waits for it is lost
        await self._until_idle()  # a failed log's too: a write in flight needs its descriptor
        try:
            if self.failed is None and not self._closed:
                await self.checkpoint_end()
        finally:
            self._close_files()

    async def checkpoint_end(self) -> None:
        """Write a checkpoint at the log's end, while nothing is appended; without one the next
        start scans a little more."""
        segment, run = self._appender.segment, self._context.disk.run
        if segment is None:
            return
        untouched = segment.allocated_bytes == segment.write_pos
        if untouched and self._checkpointed_offset == segment.next_offset:
            return  # nothing was appended since the last clean stop
        checkpoint = self.checkpoint_at(
            segment,
            segment.write_pos,
            segment.last_header_crc,
            segment.next_offset,
            self._state.snapshot(),
        )
        try:  # not synced: what is behind the end is no record, whether it comes back or not
            if not untouched:
                async with self._context.files.used(segment, self._segments):
                    await run(os.ftruncate, segment.fd, segment.write_pos)
                    segment.allocated_bytes = segment.write_pos
        except (OSError, StorageError) as error:
            self._context.report("a segment cannot be cut at its end", f"{segment.path}: {error}")
        await self.write_checkpoint(checkpoint)

    async def delete(self, trash: Path) -> Path | None:
        """Take the partition off the disk: its directory moves into `trash`, durably.

        Appends that were not acknowledged are forgotten. Returns where the files are now, for
        `empty_directory` (None: there were none). A file in which a write failed, or may still
        fail, is not used again.
        """
        may_have_failed = self.failed is not None or self._appender.in_flight_count > 0
        self.closing = self._closed = True
        self._appender.fail(StorageError(f"{self.directory.name} was deleted"))
        await self._until_idle()
        if self._context.committer.journal is not None:
            self._context.committer.journal.forget(self._appender)
        try:  # under the lock of the newest: afterwards the name may be another topic's
            for newest in self._segments[-1:]:
                async with self._context.files.used(newest, self._segments):
                    facts = self.directory, [(newest.path.name, newest.fd)], trash
                    discarded = await self._context.disk.run(discard_directory, *facts)
                    if discarded is not None and may_have_failed:  # too short for the pool
                        await self._context.disk.run(os.ftruncate, newest.fd, 0)
                    return discarded
        except (FileNotFoundError, CorruptRecord):
            pass  # it was closed meanwhile, and who made a topic of that name has moved it away
        finally:
            self._close_files()
        return None

    async def abandon(self) -> None:
        """Close the files of a log that nobody was given, as they are."""
        self.closing = True
        self._appender.fail(StorageError(f"{self.directory.name} was not opened"))
        await self._until_idle()
        self._close_files()

    def _close_files(self) -> None:
        self._closed = True
        self._spans.clear()
        for segment in self._segments:
            if segment.pins:  # a read under way does not hold up the end
                self.spawn(segment.close_unpinned())
            else:
                segment.close()

    async def _until_idle(self) -> None:
        if self._rewriter is not None:
            self._rewriter.stop()
        while not self._appender.idle and self.failed is None:
            await self._wait_idle_change()
        while self.failed is not None and self._appender.in_flight_count:
            await self._wait_idle_change()
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _wait_idle_change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle_waiters.append(waiter)
        await waiter

    def wake_idle(self) -> None:
        self._context.files.released()
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do what the log's end has to wait for. What it raises, unforeseen, fails the log."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._appender.fail(DiskFailed(f"{self.directory}: unexpected: {error!r}"))
