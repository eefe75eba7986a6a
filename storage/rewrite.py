"""Rewriting: sealed segments of one log are replaced by better ones, while it is read and written.

A lone small batch costs two blocks. When its segment is sealed nobody waits for it any more, so the
segment is written again with its batches packed into large records (replacement.py), and put in
the place of the old one. Compaction (compaction.py) replaces segments in the same way.

What takes long is done in the background (background.py): the shard only chooses, swaps and gives
up the old files.

Invariants:  only sealed segments below the one that the newest checkpoint points into
             old segments are kept while they are read, and given up when no reader has them pinned
             the log start does not move while names change (`changing`)
Runs on the log's shard.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from storage.background import Background, InThread, Pace
from storage.errors import CorruptRecord, DiskFailed, Stopped, StorageError
from storage.log_context import LogContext
from storage.record_buffer import Spans
from storage.replacement import (
    DenseJob,
    Source,
    Written,
    open_replacement,
    put_in_place,
    replaced_path,
    write_dense,
)
from storage.segment import INDEX_SUFFIX, Segment, file_name
from storage.wal_format import SegmentHeader, decode_record_header, record_bytes

J = TypeVar("J")
T = TypeVar("T")

SAVING_MIN = 0.25  # of a segment: less is not worth the writing
SAVED_BYTES_MIN = 64 * 1024
SAMPLES = 8  # places of a segment that are looked at to know how much is padding
SAMPLE_BYTES = 64 * 1024
RETRY_MS = 600_000  # after a failure


class RewritableLog(Protocol):
    """The part of a log that its rewriter needs."""

    directory: Path
    log_start_offset: int
    changing: asyncio.Lock
    """Held while the log start moves, and while names of segments change."""

    @property
    def checkpoint_base(self) -> int:
        """Base offset of the segment that the newest checkpoint on the disk points into."""

    @property
    def usable(self) -> bool:
        """Neither failed nor closing."""

    def fail(self, error: StorageError) -> None:
        """Go out of service."""

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run what the log waits for at its end."""


class Rewriter:
    """Replaces sealed segments of one log."""

    def __init__(
        self, log: RewritableLog, context: LogContext, segments: list[Segment], spans: Spans
    ) -> None:
        """`segments` and `spans` are the log's own."""
        self.log = log
        self.context = context
        self.segments = segments
        self._spans = spans
        self._background: Background = context.background or InThread(context.disk)
        self._one = asyncio.Lock()
        self._working: asyncio.Task[Any] | None = None
        self._stopped = False
        self._retry_at_ms = 0
        self.saved_bytes = 0  # since the log was opened

    def _is_stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """End what is under way, unless it is swapping: the log is being closed."""
        self._stopped = True
        if self._working is not None:
            self._working.cancel()

    @property
    def may_try(self) -> bool:
        """Whether the last failure is long enough ago, and there is room."""
        if self.context.disk_full:  # it would take the last of the space first
            return False
        return self.log.usable and self.context.now_ms() >= self._retry_at_ms

    def sealed(self) -> list[Segment]:
        """The segments that may be replaced, in order: sealed, their space given back, wholly
        before the newest checkpoint, not wholly before the log start."""
        segments, log = self.segments, self.log
        return [
            segment
            for segment, behind in itertools.pairwise(segments)
            if segment.allocated_bytes == segment.write_pos
            and log.log_start_offset < behind.base_offset <= log.checkpoint_base
        ]

    async def rewrite_padded(self) -> bool:
        """Rewrite the oldest sealed segment much of which is padding. False where there is none,
        or it did not work, which is reported."""
        for segment in self.sealed():
            if not self.may_try:
                return False
            if segment.dense:
                continue
            if await self._saving(segment) < SAVING_MIN * segment.write_pos:
                segment.dense = True
                continue
            return await self.rewrite_dense([segment])
        return False

    async def rewrite_dense(self, olds: list[Segment]) -> bool:
        """Put one segment of large records in the place of adjacent sealed ones; see `replace`."""
        return await self.replace(olds, write_dense, partial(_dense_job, olds))

    async def _saving(self, segment: Segment) -> int:
        """About how many bytes of a segment are padding and headers of small records."""
        seen = used = 0
        try:
            async with self.context.files.used(segment, self.segments):
                positions = segment.index.positions
                step = max(len(positions) // SAMPLES, 1)
                for pos in positions[::step][:SAMPLES]:
                    size = min(SAMPLE_BYTES, segment.write_pos - pos)
                    chunk = await self.context.disk.read(segment.fd, pos, size)
                    total, bodies = _measure(segment, chunk, pos)
                    seen += total
                    used += bodies
        except (OSError, StorageError) as error:
            self._report(segment, error)
            return 0
        saving = segment.write_pos * (seen - used) // max(seen, 1)
        return saving if saving >= SAVED_BYTES_MIN else 0

    async def replace(
        self,
        olds: list[Segment],
        work: Callable[[J, Pace], Written],
        make_job: Callable[[SegmentHeader], J],
    ) -> bool:
        """Have `work` write a replacement of adjacent sealed segments and put it in their place.

        make_job  the job for `work`, given the new segment's header
        Returns:  whether it was done; what went wrong was reported, or has failed the log
        """
        done: asyncio.Task[bool] = self.log.spawn(self._replace(olds, work, make_job))
        return await asyncio.shield(done)

    async def _replace(
        self,
        olds: list[Segment],
        work: Callable[[J, Pace], Written],
        make_job: Callable[[SegmentHeader], J],
    ) -> bool:
        async with self._one:
            if not self._may_replace(olds):
                return False
            for old in olds:
                old.keep()
            new: Segment | None = None
            try:
                for old in olds:
                    await self.context.files.load(old, self.segments)
                written = await self.background(work, make_job(self._header(olds[0])))
                if written is not None:
                    new = await self._swap(olds, written)
            except CorruptRecord as error:  # a reader that gets there takes the log offline
                for old in olds:
                    old.dense = True
                self._report(olds[0], error)
            except Stopped:
                return False
            except DiskFailed as error:
                self.log.fail(error)
            except (OSError, StorageError) as error:
                self.failed(olds[0], error)
            finally:
                for old in olds:
                    old.let_go()
            if new is None:
                return False
            self.saved_bytes += sum(old.write_pos for old in olds) - new.write_pos
            await self._save_index(new)
        self.log.spawn(self._give_up(olds))
        return True

    def _header(self, first: Segment) -> SegmentHeader:
        """That of a segment which begins where `first` does."""
        incarnation = self.context.rng.getrandbits(64)
        blocks = max(self.context.block_bytes, first.header.block_bytes)
        return first.header._replace(
            block_bytes=blocks, incarnation=incarnation, header_crc=0, replaced=None
        )

    def _may_replace(self, olds: list[Segment]) -> bool:
        """Whether they still stand there side by side, and the log start not beyond the first."""
        if not self.log.usable or olds[0] not in self.segments:
            return False
        i = self.segments.index(olds[0])
        behind = self.segments[i + 1 : i + len(olds) + 1]
        return (
            behind[:-1] == olds[1:]
            and len(behind) == len(olds)
            and behind[-1].base_offset <= self.log.checkpoint_base
            and self.log.log_start_offset < behind[0].base_offset
        )

    async def background(self, work: Callable[[J, Pace], T], job: J) -> T | None:
        """Have work done that ends with the log; None where it was stopped. Raises what it
        raises."""
        if self._stopped:
            return None
        working: asyncio.Task[T]
        working = self._working = asyncio.ensure_future(self._background.run(work, job))
        try:
            return await working
        except asyncio.CancelledError:
            if self._is_stopped():
                return None
            raise
        finally:
            self._working = None

    async def _swap(self, olds: list[Segment], written: Written) -> Segment | None:
        run, directory = self.context.disk.run, self.log.directory
        async with self.log.changing:
            if not self._may_replace(olds):
                await run(partial(written.path.unlink, missing_ok=True))
                return None
            new = await run(open_replacement, written, self.context.lock_wait_s)
            moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            for old in olds:
                old.moving = moved  # who finds another file there waits until it is known why
            try:
                bases = [old.base_offset for old in olds]
                await run(put_in_place, directory, written.path, bases)
                i = self.segments.index(olds[0])
                self.segments[i : i + len(olds)] = [new]
                for old in olds:
                    old.replaced = True
            except BaseException:
                await new.close_unpinned()
                raise
            finally:
                for old in olds:
                    old.moving = None
                moved.set_result(None)
            self._spans.drop_between(new.base_offset, new.next_offset)
            new.pin()  # it keeps its index until that is saved
            self.context.files.add(new)
            return new

    async def _save_index(self, segment: Segment) -> None:
        path = self.log.directory / file_name(segment.base_offset, INDEX_SUFFIX)
        data = segment.index.encode(
            segment.header, segment.write_pos, segment.next_offset, segment.last_header_crc
        )
        try:
            await self.context.small_files.write(path, data)
        except OSError as error:  # it is rebuilt from the records when it is needed
            self.context.report("an index cannot be written", f"{path}: {error}")
        finally:
            segment.unpin()

    async def _give_up(self, olds: list[Segment]) -> None:
        """Retire replaced files, each when nobody reads it any more."""
        for old in olds:
            await old.close_unpinned()
            path = replaced_path(self.log.directory, old.base_offset)
            try:
                await self.context.disk.run(self.context.pool.retire, path)
            except FileNotFoundError:  # see NO_LINKS
                continue
            except OSError as error:  # the next start removes it
                self.context.report("a file cannot be removed", f"{path}: {error}")

    def failed(self, segment: Segment, error: Exception) -> None:
        """Tell what went wrong, and do not try again for a while."""
        self._retry_at_ms = self.context.now_ms() + RETRY_MS
        self._report(segment, error)

    def _report(self, segment: Segment, error: Exception) -> None:
        self.context.report("a segment cannot be rewritten", f"{segment.path}: {error}")


def _dense_job(olds: list[Segment], header: SegmentHeader) -> DenseJob:
    return DenseJob(tuple(Source.of(old) for old in olds), header)


def _measure(segment: Segment, chunk: memoryview, pos: int) -> tuple[int, int]:
    """Bytes of the records that begin in `chunk`, which starts with one, and of their bodies."""
    block_bytes = segment.header.block_bytes
    at = bodies = 0
    while len(chunk) - at >= block_bytes:
        record = decode_record_header(chunk[at:], segment.header, pos + at)
        if record is None:
            break
        at += record_bytes(record.body_length, block_bytes)
        bodies += record.body_length
    return at, bodies
