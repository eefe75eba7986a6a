"""Open a partition's log: wait for locks, recover, cut a torn tail, or say that it is damaged.

Recovery = checkpoint + scan. The newest checkpoint that fits the files gives the producer state
and the position from which records are scanned; without one the scan starts at the oldest
segment. Sealed segments are not scanned where their index file holds. What may be cut and what
must not is decided in storage/recovery.py. What the shard's journal held durably and no segment
has is appended then.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import iter_batches
from storage.checkpoint import Checkpoint, decode_checkpoint
from storage.disk import fsync_dir, sync_names
from storage.errors import CorruptRecord, DiskFull
from storage.index import SegmentIndex
from storage.load_segment import (
    ADVICE,
    check_own_end,
    ignore,
    load_index,
    scan_file,
    settle,
)
from storage.log import Log
from storage.log_context import LogConfig, LogContext, ProducerState
from storage.log_start import give_up, names_below, start_in, trim_epochs
from storage.recovery import OnRecord, ScanResult
from storage.recycle import discard_directory
from storage.replacement import told_end
from storage.segment import (
    CHECKPOINT_SUFFIX,
    INDEX_SUFFIX,
    SEGMENT_SUFFIX,
    TEMPORARY_SUFFIX,
    Segment,
    file_name,
    open_existing,
)
from storage.wal_format import RecordHeader

SCANNED_BYTES_MAX = 4 << 20  # of a log, without a new checkpoint behind them


async def open_log(
    context: LogContext,
    config: LogConfig,
    directory: Path,
    topic_id: bytes,
    partition: int,
    state: ProducerState,
    trash: Path,
    is_deleted: Callable[[bytes], bool],
) -> Log:
    """Open or create the log in `directory` (which need not exist: it is made at first write).

    A directory that holds a deleted topic's segments (one of the same name, deleted while this
    broker was down: `is_deleted(topic_id)` says so) is moved to `trash`. Segments of any other
    topic are left alone: with a lost or an old metadata file they are somebody's data.
    Raises: CorruptRecord where data that was durable is missing or damaged, or belongs to another
            topic; LockTimeout, OSError.
    """
    run = context.disk.run
    segments: list[Segment] = []
    try:
        found = await run(_lock_segments, context, directory, segments)
        names, unneeded, superseded = found
        for segment in segments[-1:]:
            context.files.add(segment)
        ids = {segment.header.topic_id for segment in segments}
        if ids and all(is_deleted(other) for other in ids):
            context.report("a partition of a deleted topic is discarded", directory.name)
            locked = [(s.path.name, s.fd) for s in segments if s.fd >= 0]
            await run(discard_directory, directory, locked, trash)
            for segment in segments:
                segment.close()
            segments.clear()
            names, unneeded, superseded = [], [], []
        epochs, log_start_offset, checkpoint = await _recover(
            context, directory, names, topic_id, partition, segments, state
        )
        if segments and not _knows_names(checkpoint, segments[-1], log_start_offset):
            await run(sync_names, directory)
        if superseded:  # before the log start can move in between them
            await run(give_up, directory, superseded, context.pool)
            await run(fsync_dir, directory)
        if unneeded:
            try:
                await run(give_up, directory, unneeded, context.pool)
            except OSError as error:  # the next start tries again
                context.report("a file cannot be removed", f"{directory.name}: {error}")
    except BaseException as error:
        for segment in segments:
            segment.close()
        if isinstance(error, CorruptRecord):
            raise CorruptRecord(f"{error}: {ADVICE}") from error
        raise
    log = Log(
        context, config, directory, topic_id, partition, state, segments, epochs,
        log_start_offset, checkpoint,
    )  # fmt: skip
    checked_pos = 0
    if checkpoint is not None and checkpoint.segment_base_offset == segments[-1].base_offset:
        checked_pos = checkpoint.pos
    if segments and segments[-1].write_pos - checked_pos >= SCANNED_BYTES_MAX:
        await log.checkpoint_end()  # a crash that follows soon must not scan all of it again
    await append_journaled(context, log, state)
    return log


def _knows_names(checkpoint: Checkpoint | None, last: Segment, log_start_offset: int) -> bool:
    """Whether whoever wrote the checkpoint had synced the names that the log stands on."""
    return (
        checkpoint is not None
        and checkpoint.segment_base_offset == last.base_offset
        and checkpoint.log_start_offset == log_start_offset
    )


async def append_journaled(context: LogContext, log: Log, state: ProducerState) -> None:
    """Append what is durable in the journal and not in a segment, and have it there; else the log
    is closed. Without room it stays open and stalls: what it has is served, and the journal is
    needed until there is some. Raises CorruptRecord, StorageError."""
    entries = context.journaled.get((log.topic_id, log.partition), [])
    try:
        for entry in entries:
            if entry.next_offset <= log.log_end_offset:
                continue
            for pos, batch in iter_batches(entry.data, 0, len(entry.data)):
                end = log.log_end_offset
                if batch.last_offset < end:
                    continue  # a start that was killed had stored a part of the entry
                if batch.base_offset != end:
                    raise CorruptRecord(
                        f"{log.directory}: the log ends at offset {end}, and what is durable in "
                        f"the journal goes on at {batch.base_offset}: {ADVICE}"
                    )
                log.append(entry.data[pos : pos + batch.size_bytes], batch, entry.leader_epoch)
                state.replay(batch)
        await log.store(log.log_end_offset)
    except BaseException as error:
        if isinstance(error, DiskFull) and log.failed is None:
            return
        await log.abandon()
        raise


def _lock_segments(
    context: LogContext, directory: Path, segments: list[Segment]
) -> tuple[list[str], list[str], list[str]]:
    """Find every segment that is needed, for `segments`; the newest one stays open and locked.
    Returns the directory's files, in order; those that nobody needs; and those that a rewritten
    segment stands for. Blocks.

    While a lock was waited for, its holder may have rolled, or put another file in its place: look
    again until nothing is new. What was rolled from was durable to its end before: no write to it
    is on its way.
    """
    locked: dict[str, os.stat_result] = {}
    on_lock_wait = partial(context.report, "a segment is locked by another process")
    while True:
        names = file_names(directory)
        unneeded = _unneeded(directory, names)
        skipped = {*locked, *unneeded}
        new = [name for name in names if name.endswith(SEGMENT_SUFFIX) and name not in skipped]
        gone = [segment for segment in segments if not _is(segment.path, locked)]
        for segment in gone:  # its holder has replaced or retired it
            segments.remove(segment)
            segment.close()
            del locked[segment.path.name]
        if gone:
            continue
        if not new:
            break
        for name in new:
            path = directory / name
            try:
                segments.append(open_existing(path, context.lock_wait_s, on_lock_wait))
            except FileNotFoundError:  # its holder has just given it up
                continue
            locked[name] = os.fstat(segments[-1].fd)
            if name != new[-1]:
                segments[-1].close()
    segments.sort(key=lambda segment: segment.base_offset)
    superseded = _superseded(segments)
    for segment in [s for s in segments if s.path.name in (*unneeded, *superseded)]:
        segments.remove(segment)
        segment.close()
    for segment in segments[:-1]:
        segment.close()
    for name in names:
        if name.endswith(TEMPORARY_SUFFIX):  # a crash left it
            (directory / name).unlink(missing_ok=True)
    names = [name for name in names if not name.endswith(TEMPORARY_SUFFIX)]
    return names, unneeded, superseded


def _is(path: Path, locked: dict[str, os.stat_result]) -> bool:
    """Whether a path still names the file that was found there."""
    try:
        return os.path.samestat(os.stat(path), locked[path.name])
    except FileNotFoundError:
        return False


def _superseded(segments: list[Segment]) -> list[str]:
    """Names of the segments, and of their indexes, for whose offsets a rewritten one stands: a
    crash came before they were removed."""
    end_offset, names = -1, []
    for segment in segments:
        if segment.base_offset < end_offset:
            names += [segment.path.with_suffix(INDEX_SUFFIX).name, segment.path.name]
        elif segment.header.replaced is not None:
            end_offset = segment.header.replaced.next_offset
    return names


def _unneeded(directory: Path, names: list[str]) -> list[str]:
    """What lies wholly below the log start and before the segment that the newest whole
    checkpoint points into. Blocks.

    Without a checkpoint no segment was ever given up, and all are scanned for their producers.
    """
    start_offset = start_in(names)
    checkpoints = [name for name in names if name.endswith(CHECKPOINT_SUFFIX)]
    if not names_below(names, start_offset) or not checkpoints:
        return []
    for name in reversed(checkpoints):
        try:
            checkpoint = decode_checkpoint((directory / name).read_bytes())
        except FileNotFoundError:  # whoever holds the locks has written newer ones
            continue
        if checkpoint is not None:
            return names_below(names, min(start_offset, checkpoint.segment_base_offset))
    return names_below(names, start_offset)


def file_names(directory: Path) -> list[str]:
    """What is in a partition's directory, in order; nothing where there is none. Blocks."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


async def _recover(
    context: LogContext,
    directory: Path,
    names: list[str],
    topic_id: bytes,
    partition: int,
    segments: list[Segment],
    state: ProducerState,
) -> tuple[list[tuple[int, int]], int, Checkpoint | None]:
    """Find where every segment ends and replay what the newest checkpoint does not cover.
    Returns (epochs, log start offset, the checkpoint that was used)."""
    _check_chain_of_segments(directory, topic_id, partition, segments)
    checkpoint = await _newest_checkpoint(context, directory, names, segments, state)
    epochs: list[tuple[int, int]] = []
    log_start_offset = start_in(names)
    journaled = context.journaled.get((topic_id, partition))
    known_offset = max(log_start_offset, journaled[0].base_offset if journaled else 0)
    if checkpoint is not None:
        epochs = list(checkpoint.epochs)
        if log_start_offset < checkpoint.log_start_offset:
            raise CorruptRecord(
                f"{directory}: the log started at offset {checkpoint.log_start_offset} when its "
                f"newest checkpoint was written, and no file says so"
            )
    first = segments[0] if segments else None
    if log_start_offset < first.base_offset if first else log_start_offset > 0:
        raise CorruptRecord(
            f"{directory}: the log starts at offset {log_start_offset}, and "
            f"{first.path.name if first else 'none'} is the first segment there is"
        )
    if checkpoint is None and any(name.endswith(CHECKPOINT_SUFFIX) for name in names):
        context.report("no checkpoint fits: the whole partition is scanned", directory.name)

    def on_record(record: RecordHeader, body: memoryview) -> None:
        try:
            for _pos, batch in iter_batches(body, 0, len(body)):
                if not epochs or batch.partition_leader_epoch > epochs[-1][0]:
                    # Its batch and not its record: the offsets before may be those of older
                    # epochs, gone by compaction.
                    epochs.append((batch.partition_leader_epoch, batch.base_offset))
                state.replay(batch)
        except DecodeError as error:
            raise CorruptRecord(
                f"{directory}: the record at position {record.pos} (offset {record.base_offset}) "
                f"is whole but holds no record batches: {error}"
            ) from error

    scanned: list[tuple[Segment, ScanResult]] = []
    for i, segment in enumerate(segments):
        successor = segments[i + 1] if i + 1 < len(segments) else None
        before_checkpoint = (
            checkpoint is not None and segment.base_offset < checkpoint.segment_base_offset
        )
        if before_checkpoint and await load_index(context.disk, context.report, segment):
            continue
        replay: OnRecord = ignore if before_checkpoint else on_record
        async with context.files.used(segment, segments):
            result = await _scan(context, segment, checkpoint, successor, known_offset, replay)
        scanned.append((segment, result))
    _check_ends(segments)
    # Only now, when all of it is known to be whole, is anything changed.
    for segment, result in scanned:
        async with context.files.used(segment, segments):
            facts = segment, result, segment is not segments[-1]
            await settle(context.disk, context.report, *facts)
    for segment in segments[:-1]:
        segment.sealed = True
        segment.close()
    trim_epochs(epochs, log_start_offset)
    return epochs, log_start_offset, checkpoint


def _check_ends(segments: list[Segment]) -> None:
    """Every segment ends where the one behind it was told, and where it says itself."""
    for segment in segments:
        check_own_end(segment)
    for segment, successor in itertools.pairwise(segments):
        if told_end(segment)[2] != successor.header.prev_header_crc:
            raise CorruptRecord(f"{successor.path} does not chain to the end of {segment.path}")


def _check_chain_of_segments(
    directory: Path, topic_id: bytes, partition: int, segments: list[Segment]
) -> None:
    for segment in segments:
        header = segment.header
        if header.topic_id != topic_id or header.partition != partition:
            raise CorruptRecord(
                f"{segment.path} belongs to topic id {header.topic_id.hex()}, partition "
                f"{header.partition}"
            )
    for segment, successor in itertools.pairwise(segments):
        if successor.header.prev_base_offset != told_end(segment)[0]:
            raise CorruptRecord(
                f"{directory}: a segment is missing between {segment.path.name} and "
                f"{successor.path.name}"
            )


async def _newest_checkpoint(
    context: LogContext,
    directory: Path,
    names: list[str],
    segments: list[Segment],
    state: ProducerState,
) -> Checkpoint | None:
    """The newest checkpoint that fits the segments and whose producer state was loaded."""
    by_base = {segment.base_offset: segment for segment in segments}
    for name in reversed(names):
        if not name.endswith(CHECKPOINT_SUFFIX):
            continue
        checkpoint = decode_checkpoint(await context.disk.run((directory / name).read_bytes))
        if checkpoint is None:
            context.report("a checkpoint is damaged", f"{directory.name}/{name}")
            continue
        segment = by_base.get(checkpoint.segment_base_offset)
        if segment is None or segment.header.incarnation != checkpoint.incarnation:
            newest = max(by_base, default=-1)
            if newest < checkpoint.segment_base_offset:
                raise CorruptRecord(
                    f"{directory}: {name} says that segment "
                    f"{file_name(checkpoint.segment_base_offset, SEGMENT_SUFFIX)} was durable, "
                    f"and it is missing"
                )
            continue
        try:
            state.load(checkpoint.state)
        except ValueError as error:
            context.report("a checkpoint is damaged", f"{directory.name}/{name}: {error}")
            continue
        return checkpoint
    return None


async def _scan(
    context: LogContext,
    segment: Segment,
    checkpoint: Checkpoint | None,
    successor: Segment | None,
    known_offset: int,
    on_record: OnRecord,
) -> ScanResult:
    """Find where a segment ends. Raises CorruptRecord where something durable is damaged."""
    header, size = segment.header, segment.allocated_bytes
    start = header.block_bytes, header.base_offset, header.header_crc
    index = SegmentIndex()
    if checkpoint is not None and checkpoint.segment_base_offset == segment.base_offset:
        start = checkpoint.pos, checkpoint.next_offset, checkpoint.prev_header_crc
        index = SegmentIndex.from_entries(checkpoint.index)
        if size < checkpoint.pos:
            raise CorruptRecord(
                f"{segment.path} has {size} bytes, and {checkpoint.pos} had been durable"
            )
    durable_pos = successor.header.prev_end_pos if successor else 0
    if header.replaced is not None:
        durable_pos = header.replaced.end_pos
    durable_offset = 0 if successor else known_offset
    facts = start, index, on_record, durable_pos, durable_offset
    return await scan_file(context.disk, context.progress, segment, *facts)
