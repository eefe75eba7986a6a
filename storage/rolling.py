"""SegmentRoller: room for what an appender writes, in its segment or in the next one.

Space is reserved ahead of the writes. A segment is left when it is full, or too old for what
comes; the next one is made, with a durable header, when the last one is durable to its end, and
that is sealed: its index is saved and the space behind its end given back. Where the disk refuses
room before anything was written, the log stalls: what was appended stays in memory until `retry`
finds room, nothing is lost, and readers do not notice. Every other failure is final. One instance
a log, on its shard. Source: LogSegment.shouldRoll of Apache Kafka 4.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from storage.errors import DiskFailed, DiskFull, StorageError
from storage.record_buffer import RecordBuffer
from storage.replacement import told_end
from storage.retention import jittered, rolls_by_clock
from storage.segment import INDEX_SUFFIX, Segment, create_segment, cut, file_name
from storage.space import NO_SPACE
from storage.wal_format import SegmentHeader, record_bytes

if TYPE_CHECKING:
    from storage.appender import SegmentAppender
    from storage.log import Log
    from storage.log_context import LogContext

ROOM_BYTES_MIN = 15 * 4096  # behind the header of a new segment: 64 KiB with it


class SegmentRoller:
    """See the module. `segments` is the log's own list, oldest first."""

    __slots__ = ("_appender", "_context", "_log", "_segments", "_waiting", "stalled")

    def __init__(
        self, log: Log, context: LogContext, segments: list[Segment], appender: SegmentAppender
    ) -> None:
        self._log = log
        self._context = context
        self._segments = segments
        self._appender = appender
        self._waiting: RecordBuffer | None = None  # for room, where the log stalls
        self.stalled: DiskFull | None = None

    # -- when a segment is left ------------------------------------------------------------

    def draw_roll_ms(self) -> None:
        """How old this segment may get: each draws anew, so that they do not roll all at once."""
        config = self._log.config
        random = self._context.rng.random() if config.segment_jitter_ms else 0.0
        self._appender.roll_ms = jittered(config.segment_ms, config.segment_jitter_ms, random)

    def roll_if_due(self, now_ms: int) -> None:
        """Do what the appender, which looks at a segment's age when it opens a record, cannot.

        A segment whose batches have no timestamps is left by the clock; and a record that the
        journal keeps open is closed, so that the next batch comes where its age is looked at.
        """
        appender = self._appender
        segment, first_ms = appender.segment, appender.first_timestamp
        if segment is None or first_ms is None:
            return
        if rolls_by_clock(first_ms, segment.header.created_ms, appender.roll_ms, now_ms):
            appender.roll_next()
        elif now_ms - first_ms > appender.roll_ms and appender.waiting_timestamp is not None:
            appender.store()

    # -- room ------------------------------------------------------------------------------

    async def make_room(self, record: RecordBuffer) -> None:
        """Have room for `record`; then the appender is told."""
        log, appender = self._log, self._appender
        segment = appender.segment
        needed = record_bytes(record.size, appender.block_bytes)
        try:
            if segment is None or record.rolls:
                segment = await self._roll(record.base_offset, needed)
            else:
                async with self._context.files.used(segment, self._segments):
                    if segment.write_pos + needed > segment.allocated_bytes:
                        await self._allocate(segment, needed)
        except OSError as error:
            text = f"cannot make room in {log.directory}: {error}"
            if error.errno not in NO_SPACE:
                appender.fail(DiskFailed(text))
            elif log.closing:
                appender.fail(DiskFull(text))
            else:
                self._stall(record, DiskFull(text))
        except StorageError as error:
            appender.fail(error)
        else:
            appender.prepared(segment)
            self._go_on()
        log.wake_idle()

    def _stall(self, record: RecordBuffer, why: DiskFull) -> None:
        self._waiting = record
        if self.stalled is None:
            self.stalled = why
            self._log.on_stalled(why)
            self._context.no_space(self._log)

    def _go_on(self) -> None:
        if self.stalled is not None:
            self.stalled = None
            self._log.on_resumed()

    @property
    def waits_for_room(self) -> bool:
        """Whether there is something for `retry` to do."""
        return self._waiting is not None

    async def retry(self) -> None:
        """Look for room again, if the log stalls."""
        record, self._waiting = self._waiting, None
        if record is not None and self._appender.failed is None:
            await asyncio.shield(self._log.spawn(self.make_room(record)))

    async def _allocate(self, segment: Segment, needed_bytes: int) -> None:
        """Reserve space behind the segment's end: ahead, or on a full disk what is needed."""
        allocate, start = self._context.disk.allocate, segment.allocated_bytes
        target = segment.next_allocation(needed_bytes, self._log.config.segment_bytes)
        try:
            await allocate(segment.fd, start, target - start)
        except OSError as error:
            exact = segment.write_pos + needed_bytes
            if error.errno not in NO_SPACE or exact >= target:
                raise
            await allocate(segment.fd, start, exact - start)
            target = exact
        segment.allocated_bytes = target

    # -- rolling ---------------------------------------------------------------------------

    async def leave(self, segment: Segment, snapshot: Callable[[], bytes]) -> bool:
        """Go on behind the active segment, which holds all there is, in a new and empty one, with
        a checkpoint, so that it can be given up.

        snapshot  of the producer state, as of the last append
        Returns: False where something else is on its way, or there is no room
        """
        log, appender = self._log, self._appender
        if segment is not appender.segment or log.closing or not appender.begin_roll():
            return False
        work = self._leave(appender.appended_offset, snapshot())
        return await asyncio.shield(log.spawn(work))

    async def _leave(self, base_offset: int, state: bytes) -> bool:
        log, appender = self._log, self._appender
        try:
            new = await self._roll(base_offset, 0)
        except (OSError, StorageError) as error:
            self._context.report("a segment cannot be left", f"{log.directory.name}: {error}")
            appender.roll_refused(state)
            return False
        else:
            appender.prepared(new)
        finally:
            log.wake_idle()
        start = new, new.header.block_bytes, new.header.header_crc, base_offset, state
        await log.write_checkpoint(log.checkpoint_at(*start))
        return True

    async def _roll(self, base_offset: int, needed_bytes: int) -> Segment:
        """Make the next active segment; seal the one before it in the background."""
        old, context, log = self._appender.segment, self._context, self._log
        block_bytes = self._appender.block_bytes
        before = told_end(old) if old is not None else (-1, 0, 0)
        # An empty one whose blocks are too small is replaced, place and name.
        replaced = old if old is not None and old.base_offset == base_offset else None
        if replaced is not None:
            header = replaced.header
            before = header.prev_base_offset, header.prev_end_pos, header.prev_header_crc
        named = context.rng.getrandbits(64), log.topic_id, log.partition, base_offset
        header = SegmentHeader(block_bytes, *named, *before, created_ms=context.now_ms())
        room_bytes = block_bytes + max(needed_bytes, ROOM_BYTES_MIN)
        # Not all that a retired file has, if this partition has little: it would keep it.
        likely_bytes = max(2 * old.write_pos if old else 0, room_bytes)
        new = await self._create(header, room_bytes, likely_bytes, replaced)
        context.files.add(new)
        self.draw_roll_ms()
        if replaced is not None:
            replaced.close()
            self._segments[-1] = new
            return new
        self._segments.append(new)
        if old is not None:
            assert old.durable_pos == old.write_pos
            old.writer = None
            old.pin()  # it keeps its index until that is saved
            old.sealed = True
            if old.fd >= 0:
                context.files.add(old)
            log.spawn(self._seal(old))
        return new

    async def _create(
        self,
        header: SegmentHeader,
        allocate_bytes: int,
        recycled_bytes_max: int,
        replaced: Segment | None,
    ) -> Segment:
        """The file of a new segment: a recycled one where there is one and it can be used."""
        run, pool, log = self._context.disk.run, self._context.pool, self._log
        recycled = await run(pool.take, min(recycled_bytes_max, log.config.segment_bytes))
        facts = (log.directory, header, allocate_bytes)
        rest = (self._context.lock_wait_s, replaced is not None)
        if recycled is not None:
            try:
                return await run(create_segment, *facts, recycled, *rest)
            except (OSError, StorageError) as error:
                self._context.report("a retired file cannot be reused", f"{recycled}: {error}")
        return await run(create_segment, *facts, None, *rest)

    async def _seal(self, segment: Segment) -> None:
        """Save a full segment's index and give back the space behind its end."""
        data = segment.index.encode(
            segment.header, segment.write_pos, segment.next_offset, segment.last_header_crc
        )
        path = self._log.directory / file_name(segment.base_offset, INDEX_SUFFIX)
        run, files, report = self._context.disk.run, self._context.files, self._context.report
        try:
            await self._context.small_files.write(path, data)
        except OSError as error:  # it is made anew when it is needed
            report("an index cannot be written", f"{path}: {error}")
        try:  # in any case: on a full disk that makes room
            await files.use(segment, self._segments)
            await run(cut, segment.fd, segment.write_pos)
            segment.allocated_bytes = segment.write_pos
        except (OSError, StorageError) as error:  # it takes more than it needs
            report("a segment cannot be cut at its end", f"{segment.path}: {error}")
        finally:
            segment.unpin()
