"""Open many partitions' logs: those that are plain by a few system calls each, many in one thread.

A partition is plain where nothing has to be decided: it has no files yet, or nobody else has locked
its newest segment, the newest checkpoint fits that, from there to its end stand whole records or
nothing at all, and older segments have their indexes. That is what a clean stop leaves, and mostly
what a kill leaves. Everything else is for `open_log`, which begins anew and says what is wrong.
Older segments are not opened before somebody reads them (segment_files.py).

Invariants:  here nothing is changed and nothing is reported
             records that were found behind the checkpoint may have landed without having been made
             durable: one sync makes all of them so, before any of them is served or appended to
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import BatchHeader, iter_batches
from storage.buffers import aligned_buffer
from storage.checkpoint import Checkpoint, decode_checkpoint
from storage.disk import FSYNCS_MAX, READ_ALIGNMENT, data_end, fsync_all, sync_names
from storage.errors import StorageError
from storage.index import SegmentIndex
from storage.load_segment import tell_end
from storage.log import Log
from storage.log_context import LogConfig, LogContext, ProducerState
from storage.log_start import START_SUFFIX, names_below, start_in, trim_epochs
from storage.open_log import append_journaled, file_names, open_log
from storage.recovery import Reads, ScanResult, scan_segment
from storage.segment import (
    CHECKPOINT_SUFFIX,
    INDEX_SUFFIX,
    SEGMENT_SUFFIX,
    Segment,
    open_existing,
)
from storage.wal_format import BLOCK_BYTES_MAX, RecordHeader, round_up

LOOKED_AT = 32  # partitions of one call in a thread, or of one turn of the loop
OPENED_MAX = 1024  # at the same time
RECOVERED_MAX = 32  # that take longer, or of which a journal has something, at the same time
START_BYTES = 128 << 10  # of a file, read together with its header
TICK_NS_MAX = 100_000_000  # of a file system's clock
SUFFIXES = CHECKPOINT_SUFFIX, INDEX_SUFFIX, SEGMENT_SUFFIX, START_SUFFIX
TAIL_BYTES_MAX = 1 << 20  # behind the checkpoint; more is no matter for a call that holds others up


class Wanted(NamedTuple):
    """A log to open; `state` is new, and is given what the log says. See `open_log`."""

    config: LogConfig
    directory: Path
    topic_id: bytes
    partition: int
    state: ProducerState


@dataclass(slots=True)
class _Plain:
    """What a plain partition holds. `scanned`: records that the checkpoint does not cover;
    `knows_names`: it was written by somebody who had synced the names that the log stands on."""

    segments: list[Segment] = field(default_factory=list)
    epochs: list[tuple[int, int]] = field(default_factory=list)
    log_start_offset: int = 0
    checkpoint: Checkpoint | None = None
    scanned: bool = False
    knows_names: bool = True

    @property
    def unsure(self) -> bool:
        """Whether something of it may not be durable yet."""
        return self.scanned or not self.knows_names

    def close(self) -> None:
        for segment in self.segments:
            segment.close()


class _NotPlain(Exception):
    """For `open_log`."""


async def open_logs(
    context: LogContext,
    wanted: Sequence[Wanted],
    trash: Path,
    is_deleted: Callable[[bytes], bool],
) -> list[Log | Exception]:
    """Open or create these logs. Returns, in their order, each log or why it cannot be opened.

    `trash`, `is_deleted` and the exceptions are those of `open_log`.
    """
    logs: list[Log | Exception] = []
    recovering = asyncio.Semaphore(RECOVERED_MAX)

    async def recover(number: int) -> None:
        """What is not plain, or in a journal."""
        log, one = logs[number], wanted[number]
        async with recovering:
            try:
                if isinstance(log, _NotPlain):
                    logs[number] = await open_log(context, *one, trash, is_deleted)
                elif isinstance(log, Log) and (one.topic_id, one.partition) in context.journaled:
                    await append_journaled(context, log, one.state)
            except Exception as error:
                logs[number] = error

    some = max(min(OPENED_MAX, context.files.files_max // 2), 1)
    try:
        for start in range(0, len(wanted), some):
            part = wanted[start : start + some]
            context.files.make_room(len(part))
            await _open_plain(context, part, logs)
            slow = [
                number
                for number in range(start, len(logs))
                if isinstance(logs[number], _NotPlain)
                or (wanted[number].topic_id, wanted[number].partition) in context.journaled
            ]
            await asyncio.gather(*map(recover, slow))
    except BaseException:
        for log in logs:
            if isinstance(log, Log):
                await log.abandon()
        raise
    return logs


async def _open_plain(
    context: LogContext, wanted: Sequence[Wanted], logs: list[Log | Exception]
) -> None:
    """Append to `logs` what these are, _NotPlain where `open_log` has to look."""
    run = context.disk.run
    parts = [wanted[i : i + LOOKED_AT] for i in range(0, len(wanted), LOOKED_AT)]
    looking = asyncio.gather(*(run(_look_at_all, context, part) for part in parts))
    cancelled: asyncio.CancelledError | None = None
    try:
        await asyncio.shield(looking)
    except asyncio.CancelledError as error:
        cancelled = error  # threads open files, which somebody must close
    plain = [one for some in await looking for one in some]
    try:
        if cancelled is not None:
            raise cancelled
        scanned = [one for one in plain if one is not None and one.unsure]
        errors = iter(await run(_sync, scanned))
        for i, one in enumerate(wanted):
            found, plain[i] = plain[i], None
            if found is None:
                logs.append(_NotPlain())
            elif found.unsure and (failed := next(errors)) is not None:
                found.close()
                logs.append(failed)
            else:
                facts = found.segments, found.epochs, found.log_start_offset, found.checkpoint
                logs.append(Log(context, *one, *facts))
            if i % LOOKED_AT == LOOKED_AT - 1:
                await asyncio.sleep(0)  # others are served
    except BaseException:
        for found in plain:
            if found is not None:
                found.close()
        raise


def _sync(scanned: list[_Plain]) -> list[OSError | None]:
    """Make what was found durable; why that failed, of each. Few are synced one by one, so that
    one that fails does not take the others along. Blocks."""
    size = len(scanned) if len(scanned) > FSYNCS_MAX else 1
    errors: list[OSError | None] = []
    for start in range(0, len(scanned), size or 1):
        some = scanned[start : start + size]
        segments = [one.segments[-1] for one in some]
        error: OSError | None = None
        try:
            fsync_all([segment.fd for segment in segments], all(one.direct for one in segments))
            for one in some:
                if not one.knows_names:
                    sync_names(one.segments[-1].path.parent)
        except OSError as found:
            error = found
        errors += [error] * len(some)
    return errors


def _look_at_all(context: LogContext, wanted: Sequence[Wanted]) -> list[_Plain | None]:
    """What these hold, None where that is not plain. Blocks."""
    found: list[_Plain | None] = []
    _memory, start = aligned_buffer(START_BYTES, BLOCK_BYTES_MAX)
    for one in wanted:
        plain = _Plain()
        try:
            _look(context, one, plain, start)
        except (_NotPlain, StorageError, OSError, ValueError, DecodeError):
            plain.close()
            found.append(None)  # open_log meets the same again and says so
        except BaseException:
            plain.close()
            raise
        else:
            found.append(plain)
    return found


def _look(context: LogContext, wanted: Wanted, plain: _Plain, start: memoryview) -> None:
    """Find what a partition holds. Raises _NotPlain, and whatever is met. Blocks."""
    changed = _changed(wanted.directory)
    names = file_names(wanted.directory)
    if not all(name.endswith(SUFFIXES) for name in names):
        raise _NotPlain
    plain.log_start_offset = start_in(names)
    bases = [name for name in names if name.endswith(SEGMENT_SUFFIX)]
    if not bases:
        if names:
            raise _NotPlain
        return
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if [os.path.splitext(n)[0] for n in indexes] != [os.path.splitext(n)[0] for n in bases[:-1]]:
        raise _NotPlain
    segment = open_existing(wanted.directory / bases[-1], 0.0, None, start)
    plain.segments.append(segment)
    header = segment.header
    if header.topic_id != wanted.topic_id or header.partition != wanted.partition:
        raise _NotPlain
    if header.replaced is not None or names_below(names, plain.log_start_offset):
        raise _NotPlain
    for name in reversed(bases[:-1]):
        _put_before(plain, wanted.directory / name)
    if plain.log_start_offset < plain.segments[0].base_offset:
        raise _NotPlain
    checkpoints = [name for name in names if name.endswith(CHECKPOINT_SUFFIX)]
    if len(bases) > 1 and not checkpoints:
        raise _NotPlain
    if checkpoints:
        plain.checkpoint = _fitting(wanted.directory / checkpoints[-1], plain, segment)
        wanted.state.load(plain.checkpoint.state)
    # It is locked now. Whoever had it until then may have gone on to another one.
    if changed is None or changed != _changed(wanted.directory):
        if file_names(wanted.directory) != names:
            raise _NotPlain
    _look_behind(context, wanted, plain, segment, start)
    trim_epochs(plain.epochs, plain.log_start_offset)


def _put_before(plain: _Plain, path: Path) -> None:
    """Add a sealed segment, which is not opened. Raises _NotPlain where it does not fit to the one
    behind it. Blocks."""
    size, behind = os.stat(path).st_size, plain.segments[0]
    segment = Segment.unopened(path, int(path.stem), behind.base_offset, size)
    if behind.loaded:
        tell_end(segment, behind)
    plain.segments.insert(0, segment)


def _changed(directory: Path) -> int | None:
    """When a file came or went here last, in ns; None: so lately that another one might have the
    same time. Blocks."""
    try:
        changed_ns = os.stat(directory).st_mtime_ns
    except FileNotFoundError:
        return None
    return changed_ns if abs(time.time_ns() - changed_ns) > TICK_NS_MAX else None


def _fitting(path: Path, plain: _Plain, segment: Segment) -> Checkpoint:
    """The newest checkpoint. Raises _NotPlain where it does not fit the segment."""
    checkpoint = decode_checkpoint(path.read_bytes())
    if (
        checkpoint is None
        or checkpoint.segment_base_offset != segment.base_offset
        or checkpoint.incarnation != segment.header.incarnation
        or checkpoint.pos > segment.allocated_bytes
        or checkpoint.log_start_offset > plain.log_start_offset
    ):
        raise _NotPlain
    plain.epochs = list(checkpoint.epochs)
    return checkpoint


def _look_behind(
    context: LogContext, wanted: Wanted, plain: _Plain, segment: Segment, start: memoryview
) -> None:
    """Take over the checkpoint, and the records behind it where these are whole. Blocks."""
    header, checkpoint, epochs = segment.header, plain.checkpoint, plain.epochs
    begin = header.block_bytes, header.base_offset, header.header_crc
    if checkpoint is not None:
        begin = checkpoint.pos, checkpoint.next_offset, checkpoint.prev_header_crc
        segment.index = SegmentIndex.from_entries(checkpoint.index)
    journaled = context.journaled.get((wanted.topic_id, wanted.partition))
    known_offset = max(plain.log_start_offset, journaled[0].base_offset if journaled else 0)
    end = segment.allocated_bytes
    if end > len(start):
        end = data_end(segment.fd, begin[0], end)
    if end - begin[0] > TAIL_BYTES_MAX:
        raise _NotPlain
    batches: list[BatchHeader] = []

    def on_record(record: RecordHeader, body: memoryview) -> None:
        if not epochs or record.leader_epoch > epochs[-1][0]:
            epochs.append((record.leader_epoch, record.base_offset))
        batches.extend(batch for _pos, batch in iter_batches(body, 0, len(body)))

    reads = scan_segment(header, end, *begin, segment.index, on_record, 0, known_offset)
    result = _drive(reads, segment.fd, end, start)
    if result.bad is not None or result.damage is not None or result.later:
        raise _NotPlain
    if result.end_pos > segment.allocated_bytes:  # its padding is cut
        raise _NotPlain
    for batch in batches:
        wanted.state.replay(batch)
    segment.write_pos = segment.durable_pos = result.end_pos
    segment.next_offset = result.next_offset
    segment.last_header_crc = result.last_header_crc
    plain.scanned = result.record_count > 0
    plain.knows_names = (
        checkpoint is not None and checkpoint.log_start_offset == plain.log_start_offset
    )


def _drive(reads: Reads, fd: int, end: int, start: memoryview) -> ScanResult:
    """Feed a scan of a file up to `end`, of which `start` holds the first bytes. Blocks."""
    try:
        pos, size = next(reads)
        while True:
            if end <= len(start):
                view = start[pos:end]
            else:
                _memory, view = aligned_buffer(
                    min(size, round_up(max(end - pos, 0), BLOCK_BYTES_MAX)), READ_ALIGNMENT
                )
                view = view[: os.preadv(fd, [view], pos)]
            pos, size = reads.send(view)
    except StopIteration as stop:
        result: ScanResult = stop.value
        return result
