"""Short ways to build logs and segments in tests.

`Host` is one shard's storage below a directory: open logs, append, crash, start again. It runs on
any Disk; `HeldDisk` is the one for exact tests. For bytes without files: segment_image.py.

Fault model of HeldDisk: a write reaches the file only when the test lands it, in any order, and
its answer is the test's choice. A crash forgets what has not landed, or leaves any subset of its
sectors in the file, as a disk does that was cut off in the middle. Metadata calls (create,
rename, fsync, truncate) are real and take effect at once; they are lost by no crash here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import struct
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kafka_protocol.record_batch import (
    BatchHeader,
    Record,
    build_batch,
    iter_batches,
    parse_header,
    patch,
)
from storage.buffers import aligned_buffer
from storage.committer import Committer
from storage.disk import Disk, allocate
from storage.errors import DiskFailed, StorageError
from storage.journal import Journal, open_journal, read_journals
from storage.log import Log
from storage.log_context import LogConfig, LogContext
from storage.open_many import Wanted, open_logs
from storage.record_buffer import RecordCache
from storage.recycle import SegmentPool
from storage.segment import Segment

T = TypeVar("T")

BLOCK = 4096
TOPIC_ID = bytes(range(16))
OTHER_TOPIC_ID = bytes(range(16, 32))
NOW_MS = 1_700_000_000_000
SECTOR = 512


def drive(work: Coroutine[Any, Any, T], timeout_s: float = 60) -> T:
    """Run a test's coroutine in a loop of its own; what the loop's handler is told is an error."""
    reported: list[dict[str, Any]] = []

    async def run() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        return await asyncio.wait_for(work, timeout_s)

    result = asyncio.run(run())
    assert reported == []
    return result


def batch_of(*values: bytes, timestamp_ms: int = NOW_MS, **fields: int) -> bytearray:
    """One record batch with these values, no keys, the first timestamp as given and +1 each."""
    rows = [Record(i, timestamp_ms + i, None, value, ()) for i, value in enumerate(values)]
    return build_batch(rows, **fields)  # type: ignore[arg-type]


def batch_of_size(size: int, timestamp_ms: int = NOW_MS) -> bytearray:
    """One record batch of `size` bytes (at least 70) with a single record; one byte less for the
    few sizes at which the record's length begins to take one byte more."""
    value_bytes = size - len(batch_of(b""))
    while True:
        batch = batch_of(b"v" * value_bytes, timestamp_ms=timestamp_ms)
        if len(batch) <= size:
            assert len(batch) >= size - 1
            return batch
        value_bytes -= 1


@dataclass(frozen=True, slots=True)
class Stored:
    """A batch as a consumer must get it."""

    base_offset: int
    next_offset: int
    data: bytes


class Notes:
    """ProducerState of tests: the base offsets of all batches, so that replay can be checked."""

    def __init__(self) -> None:
        self.base_offsets: list[int] = []

    def load(self, snapshot: bytes) -> None:
        if len(snapshot) % 8:
            raise ValueError(f"{len(snapshot)} bytes are no snapshot")
        self.base_offsets = [base for (base,) in struct.iter_unpack(">q", snapshot)]

    def snapshot(self) -> bytes:
        return struct.pack(f">{len(self.base_offsets)}q", *self.base_offsets)

    def replay(self, batch: BatchHeader) -> None:
        self.base_offsets.append(batch.base_offset)


class Recorder:
    """LogOwner of tests: keeps what it is told and checks the order of the three offsets."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._moved = asyncio.Event()
        self.durable_offsets: list[int] = []
        self.errors: list[StorageError] = []
        self.stalls: list[str] = []

    def on_durable(self, durable_offset: int) -> None:
        appender = self._log._appender
        assert durable_offset == appender.durable_offset
        assert durable_offset <= appender.written_offset
        assert appender.written_offset <= appender.appended_offset
        assert durable_offset > (self.durable_offsets[-1] if self.durable_offsets else -1)
        assert not self.errors, "told of progress after the failure"
        self.durable_offsets.append(durable_offset)
        self._moved.set()

    def on_log_stalled(self, error: StorageError, from_offset: int) -> None:
        assert self._log.durable_offset <= from_offset <= self._log.log_end_offset
        self.stalls.append(str(error))

    def on_log_resumed(self) -> None:
        self.stalls.append("resumed")

    def on_log_failed(self, error: StorageError) -> None:
        self.errors.append(error)
        self._moved.set()

    async def until_durable(self, offset: int) -> None:
        """Wait until everything before `offset` is durable; raises what the log failed of."""
        while self._log.durable_offset < offset:
            if self.errors:
                raise self.errors[0]
            self._moved.clear()
            await self._moved.wait()


@dataclass(slots=True, eq=False)
class HeldWrite:
    """A write that the disk has been given and that has not landed."""

    fd: int
    view: memoryview
    pos: int
    done: Callable[[int], None]


class HeldDisk:
    """A Disk on real files whose writes happen when the test says so; see the fault model.

    `auto`: writes land by themselves, in order, in the tick after their submit.
    """

    name = "held"

    def __init__(self, *, auto: bool = True) -> None:
        self.auto = auto
        self.writes = self.write_bytes = self.reads = self.read_bytes = self.submits = 0
        self._queued: list[HeldWrite] = []
        self.held: list[HeldWrite] = []
        self.read_sizes: list[int] = []
        self.space_end_pos = 1 << 62  # of every file: behind it the device is full
        self.refused_fd = -1
        self.before_run: Callable[[Callable[..., Any]], None] | None = None
        self.dead = False

    @property
    def in_flight(self) -> int:
        return len(self._queued) + len(self.held)

    def write(self, fd: int, view: memoryview, pos: int, done: Callable[[int], None]) -> None:
        assert not (pos | len(view)) % BLOCK
        if fd == self.refused_fd:
            raise RuntimeError("as a bug would")
        self.writes += 1
        self.write_bytes += len(view)
        self._queued.append(HeldWrite(fd, view, pos, done))

    def submit(self) -> None:
        if self._queued:
            self.submits += 1
            self.held += self._queued
            self._queued = []
            if self.auto:
                asyncio.get_running_loop().call_soon(self.land)

    def land(self, *which: HeldWrite, res: int | None = None) -> None:
        """Carry out these held writes (none named: all), or answer them with `res` instead."""
        for write in which or list(self.held):
            if self.dead or write not in self.held:
                continue
            self.held.remove(write)
            answer = os.pwritev(write.fd, [write.view], write.pos) if res is None else res
            write.done(answer)

    def crash(self, rng: random.Random | None = None) -> None:
        """Nothing is answered any more. With `rng`, any sectors of held writes may have landed."""
        self.dead = True
        if rng is not None:
            self.tear(rng)

    def tear(self, rng: random.Random) -> None:
        """Have any sectors of held writes land."""
        for write in self.held:
            how = rng.choice(("nothing", "all", "prefix", "suffix", "sectors", "blocks"))
            unit = BLOCK if how == "blocks" else SECTOR
            count = len(write.view) // unit
            split = rng.randint(0, count)
            parts = {
                "nothing": [],
                "all": list(range(count)),
                "prefix": list(range(split)),
                "suffix": list(range(split, count)),
            }.get(how, [i for i in range(count) if rng.getrandbits(1)])
            poke(write.fd, write.pos, write.view, parts, unit)

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        self.reads += 1
        self.read_sizes.append(size)
        _memory, view = aligned_buffer(size, BLOCK)
        got = os.preadv(fd, [view], pos)
        self.read_bytes += got
        return view[:got].toreadonly()

    async def allocate(self, fd: int, pos: int, size: int) -> None:
        if pos + size > self.space_end_pos:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(fd, pos, size)

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        if self.before_run is not None:
            self.before_run(fn)
        return fn(*args)

    async def close(self) -> None:
        self.land()


def poke(fd: int, pos: int, view: memoryview, parts: list[int], unit: int) -> None:
    """Write only these `unit`-sized parts of `view`, buffered, so that any size goes."""
    plain = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    try:
        for i in parts:
            os.pwrite(plain, view[i * unit : (i + 1) * unit], pos + i * unit)
        os.fsync(plain)
    finally:
        os.close(plain)


def flip(path: Path, pos: int, mask: int = 0x01) -> None:
    """Flip bits of one byte of a file."""
    with path.open("r+b") as file:
        file.seek(pos)
        (old,) = file.read(1)
        file.seek(pos)
        file.write(bytes([old ^ mask]))


@dataclass(slots=True)
class Driven:
    """A log with its owner and the model of what was appended."""

    host: Host
    log: Log
    owner: Recorder
    notes: Notes
    appended: list[Stored] = field(default_factory=list)

    def append(self, *values: bytes, epoch: int = 1, timestamp_ms: int = NOW_MS) -> int:
        """Append one batch of these values; returns its base offset."""
        return self.append_batch(batch_of(*values, timestamp_ms=timestamp_ms), epoch)

    def append_batch(self, batch: bytearray, epoch: int = 1) -> int:
        header = parse_header(batch)
        base_offset = self.log.append(memoryview(batch), header, epoch)
        self.notes.base_offsets.append(base_offset)
        patch(batch, 0, base_offset, epoch)
        next_offset = base_offset + header.last_offset_delta + 1
        self.appended.append(Stored(base_offset, next_offset, bytes(batch)))
        return base_offset

    async def durable(self) -> None:
        """Wait until everything appended, also meanwhile, is durable."""
        while self.log.durable_offset < self.log.log_end_offset:
            await self.owner.until_durable(self.log.log_end_offset)

    async def append_durably(self, *values: bytes, epoch: int = 1) -> int:
        """Append one batch as a WAL record of its own and wait for it."""
        base_offset = self.append(*values, epoch=epoch)
        await self.durable()
        return base_offset

    @property
    def model(self) -> list[Stored]:
        """What of the appended batches must be there: from the one that holds the log start."""
        start = self.log.log_start_offset
        return [stored for stored in self.appended if stored.next_offset > start]

    @property
    def segments(self) -> list[Segment]:
        return self.log._segments

    @property
    def active(self) -> Segment:
        return self.segments[-1]

    def forget_cache(self) -> None:
        """Make every durable record cold."""
        assert self.log.durable_offset == self.log.log_end_offset
        self.log._spans.clear()

    async def read_all(self, max_bytes: int = 1 << 20, limit_offset: int | None = None) -> bytes:
        """Everything before `limit_offset` (the durable offset), by as many reads as it takes."""
        limit = self.log.durable_offset if limit_offset is None else limit_offset
        offset, parts = self.log.log_start_offset, []
        while offset < limit:
            slices, next_offset = await self.log.read(offset, limit, max_bytes)
            assert slices
            assert next_offset > offset
            parts += slices
            offset = next_offset
        return b"".join(parts)

    async def check(self) -> None:
        """Cached or cold, the log holds exactly what was appended, and its owner's state too."""
        await self.durable()
        assert self.log._appender._pending_bytes == 0
        everything = b"".join(stored.data for stored in self.model)
        assert await self.read_all() == everything
        self.forget_cache()
        assert await self.read_all() == everything
        notes, bases = self.notes.base_offsets, [stored.base_offset for stored in self.appended]
        assert notes == bases  # of records that were deleted, too

    async def close(self) -> None:
        self.host.open_logs.remove(self)
        await self.log.close()


class Host:
    """One shard's storage below a directory. `messages` is what an operator was told."""

    def __init__(
        self,
        path: Path,
        disk: Disk | None = None,
        *,
        cache_bytes: int = 1 << 24,
        block_bytes: int = BLOCK,
        checkpoint_bytes: int = 64 << 20,
        lock_wait_s: float = 5.0,
        files_max: int = 1000,
        life: int = 0,
        **config: Any,
    ) -> None:
        self.path = path
        self.disk: Disk = disk if disk is not None else HeldDisk()
        self._settings = {
            "cache_bytes": cache_bytes,
            "block_bytes": block_bytes,
            "checkpoint_bytes": checkpoint_bytes,
            "lock_wait_s": lock_wait_s,
            "files_max": files_max,
            **config,
        }
        self._life = life
        self.config = LogConfig(**config)
        self.messages: list[str] = []
        self.now_ms = NOW_MS
        self.pool = SegmentPool(path / "recycle", 1 << 28)
        self.open_logs: list[Driven] = []
        self.deleted_ids: set[bytes] = set()
        self.context = LogContext(
            disk=self.disk,
            committer=Committer(self.disk, asyncio.get_running_loop(), time.perf_counter),
            cache=RecordCache(cache_bytes),
            pool=self.pool,
            block_bytes=block_bytes,
            checkpoint_bytes=checkpoint_bytes,
            lock_wait_s=lock_wait_s,
            now_ms=lambda: self.now_ms,
            rng=random.Random(life),  # another life, other incarnations
            report=lambda event, detail: self.messages.append(f"{event}: {detail}"),
            files_max=files_max,
        )

    @property
    def held(self) -> HeldDisk:
        """The disk, where the test made it a HeldDisk."""
        assert isinstance(self.disk, HeldDisk)
        return self.disk

    def read_journal(self) -> None:
        """What an earlier life's journal holds, for the logs that are opened next."""
        self.context.journaled = read_journals([self.path / "journal" / "0"], 5.0)

    def begin_journal(self) -> Journal:
        """Share writes from now on."""
        journal = open_journal(
            self.path / "journal" / "0",
            self.disk,
            self.context.block_bytes,
            5.0,
            time.perf_counter,
            self.context.committer.observe_write,
            self.context.rng,
            self.context.report,
        )
        self.context.committer.use(journal)
        return journal

    async def open(
        self,
        name: str = "events-0",
        *,
        topic_id: bytes = TOPIC_ID,
        partition: int = 0,
        appended: list[Stored] | None = None,
    ) -> Driven:
        """Open or create a log. `appended` is what an earlier life of it wrote."""
        notes = Notes()
        wanted = Wanted(self.config, self.path / name, topic_id, partition, notes)
        deleted = self.deleted_ids.__contains__
        (log,) = await open_logs(self.context, [wanted], self.path / "trash", deleted)
        if isinstance(log, Exception):
            raise log
        owner = Recorder(log)
        log.attach(owner)
        driven = Driven(self, log, owner, notes, list(appended or ()))
        self.open_logs.append(driven)
        return driven

    async def crash(self, rng: random.Random | None = None) -> None:
        """The process is gone: nothing is closed, cut or written any more, and the locks go."""
        if isinstance(self.disk, HeldDisk):
            self.disk.crash(rng)
        logs, self.open_logs = self.open_logs, []
        for driven in logs:
            driven.log._closed = True  # a dead process reports nothing
            driven.log._appender.fail(DiskFailed("the process was killed"))
        if (working := self.context.small_files._working) is not None:
            working.cancel()
        while tasks := [task for driven in logs for task in driven.log._tasks]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not isinstance(self.disk, HeldDisk):
            await self.disk.close()
        if self.context.committer.journal is not None:
            self.context.committer.journal.close()
        for driven in logs:
            for segment in driven.segments:
                if segment.fd >= 0:
                    os.close(segment.fd)
                    segment.fd = -1

    def next_life(self, disk: Disk | None = None, **changes: Any) -> Host:
        """The host that starts after this one, with the same settings but for `changes`."""
        settings = self._settings | changes
        return Host(self.path, disk, life=self._life + 1, **settings)

    async def reopen(self, driven: Driven, disk: Disk | None = None, **changes: Any) -> Driven:
        """Crash this host and recover the log on the next one."""
        await self.crash()
        next_host = self.next_life(disk, **changes)
        return await next_host.open(driven.log.directory.name, appended=driven.appended)


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a directory tree."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


async def crashed(path: Path, record_count: int = 12, **config: Any) -> Driven:
    """A log of `record_count` records, each durable before the next was submitted; killed."""
    driven = await Host(path, **config).open()
    for i in range(record_count):
        await driven.append_durably(b"%d" % i * (1 + 700 * (i % 3)), b"second")
    await driven.host.crash()
    return driven


async def segmented(path: Path) -> Driven:
    """A crashed log of several sealed segments."""
    driven = await crashed(path, 40, segment_bytes=16 * BLOCK)
    assert len(driven.segments) > 4
    return driven


def records_of(driven: Driven) -> list[tuple[int, int, int]]:
    """(position, end of its body, offset behind it) of each record of a one-segment `crashed`."""
    found, pos = [], BLOCK
    for stored in driven.appended:
        body_end = pos + BLOCK + len(stored.data)
        found.append((pos, body_end, stored.next_offset))
        pos = (body_end + BLOCK - 1) & -BLOCK
    assert pos == driven.active.write_pos
    return found


def wal(driven: Driven) -> Path:
    """The file of the active segment."""
    return driven.active.path


def split_batches(data: bytes) -> Iterator[bytes]:
    """The batches that lie back to back in `data`."""
    for pos, batch in iter_batches(data, 0, len(data)):
        yield data[pos : pos + batch.size_bytes]
