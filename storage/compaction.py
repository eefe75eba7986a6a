"""Compaction of one log: what may be cleaned, whether it pays, and having it done.

Of every key the newest record is kept (compact_job.py says what else). What may be cleaned is the
log from its start up to the first segment that is active, too young (min.compaction.lag.ms) or not
behind a checkpoint yet. Up to the *dirty offset* it has been cleaned before: that offset is
the name of an empty file, `<dirty offset>.cleaned`, as the log start is (log_start.py). If it is
lost, more is cleaned again.

It pays when the dirty part of what may be cleaned is larger than min.cleanable.dirty.ratio, or
when a record waits for longer than max.compaction.lag.ms. Then all of it is read, and replaced
group by group of segments that together have about segment.bytes left.

Source: LogCleanerManager and Cleaner of Apache Kafka. Runs on the log's shard.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from storage.compact_job import (
    CompactJob,
    Plan,
    PlanJob,
    SourcePlan,
    plan_compaction,
    write_compacted,
)
from storage.disk import fsync_dir
from storage.errors import Stopped, StorageError
from storage.replacement import Source
from storage.rewrite import Rewriter
from storage.segment import Segment, file_name
from storage.wal_format import SegmentHeader

CLEANED_SUFFIX = ".cleaned"


@dataclass(frozen=True, slots=True)
class CompactionConfig:
    """Kafka's topic configs of these names, and the memory that one compaction may take."""

    segment_bytes: int
    dirty_ratio_min: float = 0.5
    lag_ms_min: int = 0
    lag_ms_max: int = (1 << 63) - 1
    delete_retention_ms: int = 86_400_000
    buffer_bytes: int = 128 << 20


@dataclass(frozen=True, slots=True)
class Cleanable:
    """What may be cleaned now. `ratio`: the dirty share of its bytes; `due`: it pays."""

    segments: list[Segment]
    ratio: float
    due: bool


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did: records it looked at and dropped, bytes of segments before and
    after."""

    records: int
    dropped: int
    bytes_before: int
    bytes_after: int


def cleanable(
    segments: Iterable[Segment], dirty_offset: int, config: CompactionConfig, now_ms: int
) -> Cleanable:
    """What of a log's sealed segments, which were looked into, may be cleaned. Pure."""
    found: list[Segment] = []
    clean = dirty = 0
    overdue = False
    for segment in segments:
        is_dirty = segment.next_offset > dirty_offset
        if is_dirty and config.lag_ms_min > 0:
            largest_ms = segment.known_max_timestamp
            assert largest_ms is not None
            if largest_ms > now_ms - config.lag_ms_min:
                break
        found.append(segment)
        if is_dirty:
            dirty += segment.write_pos
            overdue = overdue or now_ms - segment.header.created_ms > config.lag_ms_max
        else:
            clean += segment.write_pos
    ratio = dirty / (clean + dirty) if dirty else 0.0
    due = dirty > 0 and (overdue or ratio > config.dirty_ratio_min)
    return Cleanable(found, ratio, due)


def grouped(sizes: Sequence[int], segment_bytes: int) -> list[tuple[int, int]]:
    """(first, exclusive last) of adjacent segments of these sizes that go into one. Pure."""
    groups: list[tuple[int, int]] = []
    total = 0
    for i, size in enumerate(sizes):
        if groups and total + size <= segment_bytes:
            groups[-1] = groups[-1][0], i + 1
            total += size
        else:
            groups.append((i, i + 1))
            total = size
    return groups


class Compactor:
    """Compacts one log."""

    def __init__(self, rewriter: Rewriter) -> None:
        """`rewriter`: of that log."""
        self._rewriter = rewriter
        self._log = rewriter.log
        self._context = rewriter.context
        self._dirty_offset = -1  # not looked up yet

    async def dirty_offset(self) -> int:
        """Everything before it was cleaned."""
        if self._dirty_offset < 0:
            names = await self._context.disk.run(os.listdir, self._log.directory)
            self._dirty_offset = max(_cleaned_in(names), default=0)
        return self._dirty_offset

    async def cleanable(self, config: CompactionConfig) -> Cleanable:
        """What may be cleaned now, and whether it pays. Raises OSError, StorageError."""
        segments = self._rewriter.sealed()
        if not segments:
            return Cleanable([], 0.0, False)
        dirty_offset = await self.dirty_offset()
        for segment in segments:
            await self._context.files.load(segment, self._rewriter.segments)
        return cleanable(segments, dirty_offset, config, self._context.now_ms())

    async def compact(
        self, found: Cleanable, config: CompactionConfig, last_batches: Iterable[int]
    ) -> Compacted | None:
        """Clean what was found.

        last_batches  base offsets of the last batch of each idempotent producer that is known
        Returns:      None where it was not done, or not all of it, which was reported
        """
        segments, now_ms = found.segments, self._context.now_ms()
        kept = frozenset(last_batches)
        bytes_before = sum(segment.write_pos for segment in segments)
        for segment in segments:
            segment.keep()
        try:
            sources = tuple(Source.of(segment) for segment in segments)
            job = PlanJob(sources, kept, now_ms, config.buffer_bytes)
            plan = await self._rewriter.background(plan_compaction, job)
        except Stopped:
            return None
        except (OSError, StorageError) as error:
            self._rewriter.failed(segments[0], error)
            return None
        finally:
            for segment in segments:
                segment.let_go()
        if plan is None:
            return None
        try:
            sizes = [source.left_bytes for source in plan.sources]
            for first, end in grouped(sizes, config.segment_bytes):
                if end - first == 1 and not plan.sources[first].changes:
                    continue
                horizon_ms = now_ms + config.delete_retention_ms
                make_job = partial(_compact_job, segments, plan, first, end, kept, horizon_ms)
                if not await self._rewriter.replace(segments[first:end], write_compacted, make_job):
                    return None
        finally:
            await self._remove(plan.path)
        end_offset = segments[-1].next_offset
        await self._cleaned(end_offset)
        after = [s for s in self._rewriter.segments if s.next_offset <= end_offset]
        return Compacted(
            plan.records,
            sum(source.dropped for source in plan.sources),
            bytes_before,
            sum(segment.write_pos for segment in after),
        )

    async def _remove(self, path: Path) -> None:
        try:
            await self._context.disk.run(partial(path.unlink, missing_ok=True))
        except OSError as error:  # the next start does
            self._context.report("a file cannot be removed", f"{path}: {error}")

    async def _cleaned(self, end_offset: int) -> None:
        """Remember what was cleaned."""
        try:
            await self._context.disk.run(_move_cleaned, self._log.directory, end_offset)
        except OSError as error:  # it is cleaned again after a restart
            detail = f"{self._log.directory.name}: {error}"
            self._context.report("a dirty offset cannot be written", detail)
        self._dirty_offset = end_offset


def _compact_job(
    segments: Sequence[Segment],
    plan: Plan,
    first: int,
    end: int,
    last_batches: frozenset[int],
    delete_horizon_ms: int,
    header: SegmentHeader,
) -> CompactJob:
    planned: Sequence[SourcePlan] = plan.sources[first:end]
    last = planned[-1]
    return CompactJob(
        tuple(Source.of(segment) for segment in segments[first:end]),
        header,
        plan.path,
        plan.records,
        (planned[0].first_number, last.first_number + last.records),
        plan.unreadable,
        last_batches,
        delete_horizon_ms,
    )


def _cleaned_in(names: Iterable[str]) -> list[int]:
    stems = [name.removesuffix(CLEANED_SUFFIX) for name in names if name.endswith(CLEANED_SUFFIX)]
    return [int(stem) for stem in stems if stem.isdecimal()]


def _move_cleaned(directory: Path, end_offset: int) -> None:
    """Name the new dirty offset, durably, and remove the names of older ones. Raises OSError."""
    path = directory / file_name(end_offset, CLEANED_SUFFIX)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    fsync_dir(directory)
    for offset in _cleaned_in(os.listdir(directory)):
        if offset != end_offset:
            (directory / file_name(offset, CLEANED_SUFFIX)).unlink(missing_ok=True)
