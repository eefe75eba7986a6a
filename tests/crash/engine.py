"""A life of the storage engine in a process of its own, with a numbered workload, and its judge.

The child runs what a shard runs, without the broker around it: the disk backend, the committer,
the journal, the logs of some partitions, recovery. It appends batches whose bytes say who wrote
them, deletes old records, has segments rewritten, reads, closes, and tells the parent through
shared memory what was acknowledged. The parent kills it, cuts the power, fails its disk: whatever
the test is about. Then `Ledger.judge` opens the logs anew and holds them to what was acknowledged.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import signal
import struct
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from kafka_protocol.record_batch import (
    BatchHeader,
    build_batch,
    iter_batches,
    iter_records,
    parse_header,
    verify_crc,
)
from storage.backend import Backend, open_disk
from storage.committer import Committer
from storage.compaction import CompactionConfig
from storage.disk import alignment, open_segment
from storage.errors import StorageError
from storage.journal import open_journal, read_journals
from storage.log import Log
from storage.log_context import LogConfig, LogContext
from storage.open_many import Wanted, open_logs
from storage.record_buffer import RecordCache
from storage.recycle import SegmentPool

PARTITIONS = 6
SETTINGS = LogConfig(segment_bytes=256 << 10, retention_ms=-1, retention_bytes=1 << 20)
TOPIC_ID = bytes(range(16))
SHARED_BYTES = 4096
IN_FLIGHT = 4  # groups a partition
RECORD = struct.Struct(">III")  # life, partition, number of the append in its life
_SEEN = struct.Struct("<qqqq")  # acknowledged end, appended end, acknowledged start, asked start
RETAINED = {0, 1}  # partitions whose oldest segments go by size; of others records are deleted
COMPACTED = PARTITIONS - 1  # of this one the newest record of each key is kept
KEYS = 16
COMPACTION = CompactionConfig(SETTINGS.segment_bytes, dirty_ratio_min=0.0)
_SERVING_AT = SHARED_BYTES - 1


class LastBatch:
    """A ProducerState that knows where the last batch ended: recovery must find that again, from
    checkpoints and records, also where the records are deleted."""

    def __init__(self) -> None:
        self.next_offset = 0

    def load(self, snapshot: bytes) -> None:
        """See ProducerState."""
        if len(snapshot) != 8:
            raise ValueError(f"{len(snapshot)} bytes are no offset")
        self.next_offset = int.from_bytes(snapshot, "big")

    def snapshot(self) -> bytes:
        """See ProducerState."""
        return self.next_offset.to_bytes(8, "big")

    def replay(self, batch: BatchHeader) -> None:
        """See ProducerState."""
        self.next_offset = batch.last_offset + 1


def settings_of(partition: int) -> LogConfig:
    """What a partition's log is opened with."""
    return replace(SETTINGS, deletes=partition in RETAINED)


def state_of(log: Log) -> LastBatch:
    """The state that the log was opened with."""
    assert isinstance(log._state, LastBatch)
    return log._state


class Shared:
    """What a life tells: of each partition what it was promised. Survives the child; in a file
    where the child is no fork."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._memory = mmap.mmap(-1, SHARED_BYTES)
        else:
            with path.open("a+b") as file:
                file.truncate(SHARED_BYTES)
                self._memory = mmap.mmap(file.fileno(), SHARED_BYTES)

        self._promised: list[tuple[int, int]] | None = None

    def hold_to_this(self) -> None:
        """What is acknowledged now has to be kept. An answer that comes while a file system is
        being shut down was not given before the power was gone: XFS tells some writes then that
        they are durable, and drops its log."""
        seen = [self.get(partition) for partition in range(PARTITIONS)]
        self._promised = [(end, start) for end, _, start, _ in seen]

    def promised(self, partition: int) -> tuple[int, int]:
        """(end, start) that were acknowledged, up to `hold_to_this` where that was called."""
        if self._promised is not None:
            return self._promised[partition]
        end, _, start, _ = self.get(partition)
        return end, start

    def forget_promises(self) -> None:
        """A new life."""
        self._promised = None

    def put(self, partition: int, *seen: int) -> None:
        """Written by the child; whole, since a struct of four words is copied at once."""
        _SEEN.pack_into(self._memory, partition * _SEEN.size, *seen)

    def get(self, partition: int) -> tuple[int, int, int, int]:
        """(acknowledged end, appended end, acknowledged start, asked start)."""
        end, appended, start, asked = _SEEN.unpack_from(self._memory, partition * _SEEN.size)
        return end, appended, start, asked

    @property
    def serving(self) -> bool:
        """Whether the life has opened its logs; until `begin`."""
        return bool(self._memory[_SERVING_AT])

    def begin(self) -> None:
        """Another life begins."""
        self._memory[_SERVING_AT] = 0

    def serve(self) -> None:
        """Its logs are open."""
        self._memory[_SERVING_AT] = 1


@dataclass(slots=True)
class Held:
    """What the parent knows of one partition: runs of offsets, each with the life that wrote them
    and the number of its first append, and where the log starts."""

    runs: list[tuple[int, int, int]] = field(default_factory=list)  # offset, life, number
    end: int = 0
    start: int = 0

    def writer_of(self, offset: int) -> tuple[int, int]:
        """(life, number) of the record at an offset."""
        base, life, number = next(run for run in reversed(self.runs) if run[0] <= offset)
        return life, number + offset - base


class Lost(AssertionError):
    """An acknowledged record is not there, or something is there that nobody wrote."""


def key_of(partition: int, number: int) -> bytes | None:
    """The key of the record that this append writes."""
    return b"%d" % (number * number % KEYS) if partition == COMPACTED else None


def batch_for(seed: int, life: int, partition: int, number: int) -> bytes:
    """The batch of one record that this append writes: its size and bytes follow from its name."""
    rng = random.Random(seed << 64 ^ life << 40 ^ partition << 32 ^ number)
    size = rng.choice((20, 100, 700, 3000, 9000, 40_000)) if rng.random() < 0.9 else 150_000
    value = RECORD.pack(life, partition, number) + rng.randbytes(size)
    return bytes(build_batch([(key_of(partition, number), value)]))


@dataclass(slots=True)
class Engine:
    """The engine on a directory. `reported` is what it told the operator."""

    directory: Path
    backend: Backend = "auto"
    reported: list[str] = field(default_factory=list)

    async def open(self) -> tuple[LogContext, list[Log]]:
        """Recover every partition, then begin the journal. Raises what opening raises."""
        directory, loop = self.directory, asyncio.get_running_loop()
        directory.mkdir(parents=True, exist_ok=True)
        fd, _direct = open_segment(directory / ".lock", create=not (directory / ".lock").exists())
        block_bytes = alignment(fd)
        os.close(fd)
        disk = open_disk(self.backend, loop, self.reported.append)
        pool = SegmentPool(directory / "recycle", 2 << 20)
        await disk.run(pool.load)
        context = LogContext(
            disk=disk,
            committer=Committer(disk, loop, time.perf_counter),
            cache=RecordCache(1 << 20),
            pool=pool,
            block_bytes=block_bytes,
            checkpoint_bytes=300 << 10,
            lock_wait_s=10.0,
            now_ms=lambda: time.time_ns() // 1_000_000,
            rng=random.SystemRandom(),
            report=lambda event, detail: self.reported.append(f"{event}: {detail}"),
        )
        journals = directory / "journal" / "0"
        context.journaled = await disk.run(read_journals, [journals], 10.0)
        wanted = [
            Wanted(settings_of(i), directory / f"t-{i}", TOPIC_ID, i, LastBatch())
            for i in range(PARTITIONS)
        ]
        opened = await open_logs(context, wanted, directory / "trash", lambda _id: False)
        logs = [log for log in opened if isinstance(log, Log)]
        for log in opened:
            if isinstance(log, Exception):
                await self.abandon(context, logs)
                raise log
        for log in logs:
            log.attach(Waiter())
        journal = await disk.run(
            open_journal, journals, disk, block_bytes, 10.0, time.perf_counter,
            context.committer.observe_write, context.rng, context.report,
        )  # fmt: skip
        context.committer.use(journal)
        return context, logs

    async def abandon(self, context: LogContext, logs: list[Log]) -> None:
        """Let go of all files as they are."""
        for log in logs:
            await log.abandon()
        await self._let_go(context)

    async def close(self, context: LogContext, logs: list[Log]) -> None:
        """A graceful stop."""
        for log in logs:
            await log.close()
        await self._let_go(context)

    async def _let_go(self, context: LogContext) -> None:
        await context.disk.close()
        if context.committer.journal is not None:
            context.committer.journal.close()


class Waiter:
    """A LogOwner that calls `on_progress`."""

    def __init__(self) -> None:
        self.on_progress: Callable[[int], None] = lambda _offset: None

    def on_durable(self, durable_offset: int) -> None:
        """See LogOwner."""
        self.on_progress(durable_offset)

    def on_log_stalled(self, error: StorageError, from_offset: int) -> None:
        """Nobody makes room here."""
        self.on_log_failed(error)

    def on_log_resumed(self) -> None:
        """Does not happen."""

    def on_log_failed(self, error: StorageError) -> None:
        """See LogOwner: what failed acknowledges nothing more."""
        self.on_progress = lambda _offset: None


# --- the child -----------------------------------------------------------------------------------


async def live(
    engine: Engine, shared: Shared, seed: int, life: int, appends: int, lying: bool = False
) -> None:
    """One life from the opening to a graceful stop. `lying`: what is appended is acknowledged at
    once, as the controls want it."""
    context, logs = await engine.open()
    shared.serve()
    rng = random.Random(seed ^ life)
    tasks = [
        asyncio.ensure_future(_feed(log, i, shared, seed, life, appends, lying))
        for i, log in enumerate(logs)
    ]
    others = [
        asyncio.ensure_future(_disturb(logs, shared, rng)),
        asyncio.ensure_future(_rewrite(logs)),
        asyncio.ensure_future(_compact(logs[COMPACTED])),
    ]
    await asyncio.gather(*tasks)
    for task in others:
        task.cancel()
    for done in await asyncio.gather(*others, return_exceptions=True):
        if isinstance(done, Exception):  # else it was cancelled
            raise done
    await engine.close(context, logs)


async def _feed(
    log: Log, partition: int, shared: Shared, seed: int, life: int, appends: int, lying: bool
) -> None:
    """Append `appends` batches, some at a time, and say what is acknowledged."""
    owner = Waiter()
    log._owner = owner  # instead of the one that it was opened with
    woken = asyncio.Event()
    acknowledged = log.durable_offset

    def tell() -> None:
        _, _, start, asked = shared.get(partition)
        start = max(start, log.log_start_offset)
        shared.put(partition, acknowledged, log.log_end_offset, start, max(asked, start))

    def progress(offset: int) -> None:
        nonlocal acknowledged
        acknowledged = max(acknowledged, offset)
        tell()
        woken.set()

    owner.on_progress = progress
    tell()
    for number in range(appends):
        batch = memoryview(batch_for(seed, life, partition, number))
        while log.log_end_offset - acknowledged >= IN_FLIGHT and not (log.failed or log.stalled):
            woken.clear()
            waiting = asyncio.ensure_future(woken.wait())
            await asyncio.wait([waiting], timeout=0.2)
            waiting.cancel()
        if log.failed is not None or log.stalled is not None:  # nobody makes room here
            return
        # Before the append: what is written without having been told would be nobody's.
        _, _, start, asked = shared.get(partition)
        shared.put(partition, acknowledged, log.log_end_offset + 1, start, asked)
        log.append(batch, parse_header(batch), life + 1)
        state_of(log).next_offset = log.log_end_offset
        if lying:
            acknowledged = log.log_end_offset
            tell()
        if number % 3 == 2:
            await asyncio.sleep(0)


async def _disturb(logs: list[Log], shared: Shared, rng: random.Random) -> None:
    """Delete old records and read some, now and then."""
    while True:
        await asyncio.sleep(rng.uniform(0, 0.01))
        partition = rng.randrange(len(logs))
        log = logs[partition]
        low, high = log.log_start_offset, log.durable_offset
        try:
            if partition in RETAINED:
                await _expire(log, shared, partition)
            elif partition != COMPACTED and rng.random() < 0.5 and high - low > 60:
                target = rng.randint(low, high)
                end, appended, start, _ = shared.get(partition)
                shared.put(partition, end, appended, start, target)
                await log.delete_records(target)
                end, appended, _, asked = shared.get(partition)
                shared.put(partition, end, appended, target, asked)
            elif high > low:
                await log.read(rng.randrange(low, high), high, 100_000)
        except StorageError:
            if log.failed is None:
                continue
            return


async def _expire(log: Log, shared: Shared, partition: int) -> None:
    """Delete old segments by size."""
    end, appended, start, _ = shared.get(partition)
    shared.put(partition, end, appended, start, log.log_end_offset)
    await log.enforce_retention(log.log_end_offset)
    end, appended, _, _ = shared.get(partition)
    start = log.log_start_offset
    shared.put(partition, end, appended, start, start)


async def _rewrite(logs: list[Log]) -> None:
    """Replace sealed segments by dense ones, as a shard does in its spare time."""
    while True:
        for log in logs:
            await asyncio.sleep(0.002)
            try:
                await log.rewriter.rewrite_padded()
            except StorageError:
                if log.failed is None:
                    raise


async def _compact(log: Log) -> None:
    """Likewise by such as have the newest record of each key."""
    while True:
        await asyncio.sleep(0.002)
        found = await log.compactor.cleanable(COMPACTION)
        if found.due and log.rewriter.may_try:
            await log.compactor.compact(found, COMPACTION, [])


def start_life(
    engine: Engine, shared: Shared, seed: int, life: int, appends: int,
    before: Callable[[], None] = lambda: None, lying: bool = False,
) -> int:  # fmt: skip
    """Fork the child; its process id. It ends with code 0 after a graceful stop, 1 where it could
    not open its logs, 2 where anything else went wrong. `before` is called in it first."""
    shared.begin()
    pid = os.fork()
    if pid:
        return pid
    code = 2
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        before()
        try:
            asyncio.run(live(engine, shared, seed, life, appends, lying))
            code = 0
        except (StorageError, OSError):
            code = 1
        except Exception:
            traceback.print_exc()
    finally:
        os._exit(code)


# --- the judge -----------------------------------------------------------------------------------


class Ledger:
    """What was acknowledged over all lives, and whether it is there."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.held = [Held() for _ in range(PARTITIONS)]
        self.records = 0  # acknowledged ones that were read back, again and again
        self.unacknowledged = 0  # that were there all the same
        self.compacted = 0  # that were not there, and a newer one of their keys was

    def judge(self, engine: Engine, shared: Shared, life: int, gracefully: bool = True) -> None:
        """Recover, read everything, and take over what is there for the next life.

        `gracefully`: as the broker stops; else the next life finds what recovery left.
        Raises Lost, or what the opening raises."""
        asyncio.run(self._judge(engine, shared, life, gracefully))

    async def _judge(self, engine: Engine, shared: Shared, life: int, gracefully: bool) -> None:
        context, logs = await engine.open()
        try:
            for partition, log in enumerate(logs):
                await self._judge_one(log, partition, shared, life)
        except BaseException:
            await engine.abandon(context, logs)
            raise
        await (engine.close if gracefully else engine.abandon)(context, logs)

    async def _judge_one(self, log: Log, partition: int, shared: Shared, life: int) -> None:
        held = self.held[partition]
        (acknowledged, start), (_, appended, _, asked) = (
            shared.promised(partition),
            shared.get(partition),
        )
        acknowledged, appended = max(acknowledged, held.end), max(appended, held.end)
        where = f"seed {self.seed}, life {life}, partition {partition}"
        if not acknowledged <= log.log_end_offset <= appended:
            raise Lost(
                f"{where}: the log ends at {log.log_end_offset}; {acknowledged} was acknowledged, "
                f"{appended} was appended"
            )
        if not max(start, held.start) <= log.log_start_offset <= max(asked, start, held.start):
            raise Lost(f"{where}: the log starts at {log.log_start_offset}: {start} or {asked}?")
        if state_of(log).next_offset != log.log_end_offset:
            raise Lost(
                f"{where}: the log ends at {log.log_end_offset}, and the producers' state is that "
                f"of offset {state_of(log).next_offset}"
            )
        if log.log_end_offset > held.end:
            held.runs.append((held.end, life, 0))
        self.unacknowledged += log.log_end_offset - acknowledged
        held.end, held.start = log.log_end_offset, log.log_start_offset
        offset = expected = held.start
        newest: dict[bytes | None, int] = {}
        gone: list[int] = []
        while offset < held.end:
            slices, next_offset = await log.read(offset, held.end, 1 << 20)
            for part in slices:
                for pos, batch in iter_batches(part, 0, len(part)):
                    data = part[pos : pos + batch.size_bytes]
                    if batch.record_count:  # else compaction has kept the batch, and not its record
                        newest[self._compare(held, partition, data, batch)] = batch.base_offset
                        gone += range(expected, batch.base_offset)
                        expected = batch.last_offset + 1
            if next_offset <= offset:
                raise Lost(f"{where}: nothing is read at offset {offset}")
            offset = next_offset
        for offset in [*gone, *range(expected, held.end)]:
            key = key_of(partition, held.writer_of(offset)[1])
            if partition != COMPACTED or newest.get(key, -1) < offset:
                raise Lost(f"{where}: a hole at offset {offset}")
        self.compacted += len(gone)
        shared.put(partition, held.end, held.end, held.start, held.start)

    def _compare(
        self, held: Held, partition: int, data: memoryview, batch: BatchHeader
    ) -> bytes | None:
        """Hold a batch to what was written there; its key."""
        if not verify_crc(data, 0, batch.size_bytes, batch.crc):
            raise Lost(f"the batch at offset {batch.base_offset} has another CRC")
        life, number = held.writer_of(batch.base_offset)
        [record] = iter_records(data, 1 << 20)
        assert record.value is not None
        wrote = RECORD.unpack_from(record.value)
        if wrote != (life, partition, number):
            raise Lost(
                f"offset {batch.base_offset} should be {(life, partition, number)} and is {wrote}"
            )
        expected = batch_for(self.seed, life, partition, number)
        if bytes(data[61:]) != expected[61:]:
            raise Lost(f"offset {batch.base_offset} has other bytes than were written")
        self.records += 1
        return record.key


def end_child(pid: int) -> int:
    """Kill it and wait; its exit code, negative for a signal."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
