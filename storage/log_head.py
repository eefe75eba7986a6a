"""LogHead: the old end of a log. It moves the log start and gives up the segments below it.

DeleteRecords and retention cause it. The start is durable before anything below it goes; what goes
is taken out of the log's list at once, so that nobody new gets there, and its file stays until
nobody has it pinned. The newest segment never goes: where all of it has had its time, the log goes
on in a new one first. One instance a log, on its shard.
Source: UnifiedLog.deleteOldSegments of Apache Kafka 4.1.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.errors import DiskFailed, StorageError
from storage.log_start import give_up, move_start, remove_superseded, trim_epochs
from storage.retention import FUTURE_MS, is_old
from storage.segment import INDEX_SUFFIX, SEGMENT_SUFFIX, Segment, file_name

if TYPE_CHECKING:
    from storage.log import Log
    from storage.log_context import LogContext

BY_SIZE: Final = "retention.bytes"  # why segments go
BY_TIME: Final = "retention.ms"
BY_SPACE: Final = "storage.space.trim"
REASONS: Final = (BY_TIME, BY_SIZE, BY_SPACE)


class Deleted(NamedTuple):
    """A segment that went, and which config wanted that."""

    reason: str
    size_bytes: int


class LogHead:
    """See the module. `segments` is the log's own list, oldest first."""

    __slots__ = ("_context", "_future_told", "_log", "_segments", "checkpoint_base")

    def __init__(
        self, log: Log, context: LogContext, segments: list[Segment], checkpoint_base: int
    ) -> None:
        """`checkpoint_base`: base offset of the segment that the newest checkpoint points into."""
        self._log = log
        self._context = context
        self._segments = segments
        self.checkpoint_base = checkpoint_base
        self._future_told = -1  # base offset of the segment that the operator was told of

    # -- retention -------------------------------------------------------------------------

    async def enforce_retention(self, now_ms: int) -> list[Deleted]:
        """Delete what has had its time by the log's settings, and say what that was.

        Raises: StorageError; what is not deleted is looked at again the next time
        """
        log, config = self._log, self._log.config
        if not config.deletes or (config.retention_ms < 0 and config.retention_bytes < 0):
            return []
        waiting_ms = log.waiting_timestamp if log.stalled is None else None
        if waiting_ms is not None and is_old(waiting_ms, config.retention_ms, now_ms):
            await log.store(log.log_end_offset)
        deleted: list[Deleted] = []
        end_offset = log.log_start_offset
        start = bisect_right(self._segments, end_offset, key=_base_offset) - 1
        live = self._segments[max(start, 0) :]
        excess = -1
        if config.retention_bytes >= 0:
            excess = sum(segment.write_pos for segment in live) - config.retention_bytes
        for segment in live:
            if segment.next_offset == segment.base_offset:
                break  # the newest one, empty
            size_bytes, reason = segment.write_pos, BY_SIZE
            if excess < size_bytes:
                excess, reason = -1, BY_TIME
                if not await self._is_old(segment, now_ms):
                    break
            if not segment.sealed and not await log.leave(segment):
                break
            excess -= size_bytes
            end_offset = segment.next_offset
            deleted.append(Deleted(reason, size_bytes))
        if deleted:
            await self.delete_records(end_offset)
        return deleted

    async def oldest_closed(self) -> tuple[int, Segment] | None:
        """The oldest segment that a disk without room may have before its time, and its largest
        timestamp: it is not written any more, and its records are to go one day, by time or by
        size. None: there is none. Raises StorageError."""
        log, config = self._log, self._log.config
        if not config.deletes or (config.retention_ms < 0 and config.retention_bytes < 0):
            return None
        for segment in self._segments[:-1]:
            if segment.next_offset > log.log_start_offset:
                largest = self._context.files.max_timestamp(segment, self._segments)
                largest_ms = await log.from_disk(largest)
                return None if largest_ms is None else (largest_ms, segment)
        return None

    async def trim(self, segment: Segment) -> list[Deleted]:
        """Delete a closed segment before its time; nothing where it is gone already.
        Raises StorageError."""
        if segment not in self._segments[:-1] or segment.next_offset <= self._log.log_start_offset:
            return []
        await self.delete_records(segment.next_offset)
        return [Deleted(BY_SPACE, segment.write_pos)]

    async def _is_old(self, segment: Segment, now_ms: int) -> bool:
        largest = self._context.files.max_timestamp(segment, self._segments)
        largest_ms = await self._log.from_disk(largest)
        if largest_ms is None:
            return False  # it was replaced just now: the next time
        if largest_ms < 0:  # no record has one: when it was written last, as in Kafka
            largest_ms = await self._context.disk.run(_written_ms, segment.path)
        if largest_ms > now_ms + FUTURE_MS and segment.base_offset > self._future_told:
            self._future_told = segment.base_offset
            self._context.report(
                "a segment has timestamps in the future",
                f"{segment.path}: up to {largest_ms}, and it is {now_ms}; neither it nor what is "
                "behind it expires before that",
            )
        return is_old(largest_ms, self._log.config.retention_ms, now_ms)

    # -- the start -------------------------------------------------------------------------

    async def delete_records(self, before_offset: int) -> None:
        """Move the log start; see Log.delete_records."""
        log = self._log
        assert before_offset <= log.log_end_offset
        await log.store(before_offset)
        if before_offset <= log.log_start_offset:
            return
        await asyncio.shield(log.spawn(self._move_start(before_offset)))
        if before_offset > log.log_start_offset:
            raise log.failed or StorageError(f"{log.directory}: the log start was not moved")

    async def _move_start(self, start_offset: int) -> None:
        log, run, report = self._log, self._context.disk.run, self._context.report
        try:
            async with log.changing:
                await run(move_start, log.directory, start_offset)
                if start_offset > log.log_start_offset:  # else another call was faster
                    log.log_start_offset = start_offset
                    trim_epochs(log.epochs, start_offset)
                    self._retire_unneeded()
        except DiskFailed as error:
            return log.fail(error)
        except OSError as error:
            return report("a log start cannot be written", f"{log.directory.name}: {error}")
        try:
            await run(remove_superseded, log.directory, start_offset)
        except OSError as error:  # the largest one counts
            report("a file cannot be removed", f"{log.directory.name}: {error}")

    def checkpoint_written(self, segment_base_offset: int) -> None:
        """A checkpoint that points into that segment is on the disk."""
        self.checkpoint_base = max(self.checkpoint_base, segment_base_offset)
        self._retire_unneeded()

    def _retire_unneeded(self) -> None:
        """Retire what lies wholly below the start and before the segment from which recovery
        would replay the producers."""
        log, segments = self._log, self._segments
        needed = min(log.log_start_offset, self.checkpoint_base)
        count = bisect_right(segments, needed, key=_base_offset) - 1
        if count > 0 and not log.closing:  # the next start removes it as well
            retired, segments[:count] = segments[:count], []
            log.spawn(self._retire(retired))

    async def _retire(self, segments: list[Segment]) -> None:
        """Give up segments below the log start, oldest first."""
        directory, context = self._log.directory, self._context
        suffixes = INDEX_SUFFIX, SEGMENT_SUFFIX
        for segment in segments:
            await segment.close_unpinned()
            names = [file_name(segment.base_offset, suffix) for suffix in suffixes]
            try:
                await context.disk.run(give_up, directory, names, context.pool)
            except OSError as error:  # the next start tries again
                context.report("a file cannot be removed", f"{segment.path}: {error}")


def _base_offset(segment: Segment) -> int:
    return segment.base_offset


def _written_ms(path: Path) -> int:
    """When a file was written last."""
    return os.stat(path).st_mtime_ns // 1_000_000
