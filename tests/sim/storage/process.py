"""One life of a shard's storage: start, clients, and an end. The real code on the machine's disk.

A start does what a shard does: read the journal, open every partition, begin the journal anew. A
partition that cannot be opened is offline and the others serve; that is allowed only where the
machine has made one of its files fail in this life, or a byte of it has rotted.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from storage.committer import Committer
from storage.errors import CorruptRecord, StorageError
from storage.journal import open_journal, read_journals
from storage.log import Log
from storage.log_context import LogConfig, LogContext
from storage.open_log import open_log
from storage.open_many import Wanted, open_logs
from storage.queued_disk import QueuedDisk
from storage.record_buffer import RecordCache
from storage.recycle import SegmentPool, empty_directory
from tests.sim.storage.event_loop import SimLoop
from tests.sim.storage.kernel import SimPath
from tests.sim.storage.machine import DATA, Machine, SimQueue, Violation
from tests.sim.storage.model import Partition, State

LOCK_WAIT_S = 60.0
SHARED = {"journal", "recycle", "trash", "."}  # directories that concern every partition


@dataclass(frozen=True, slots=True)
class Settings:
    """Of a whole run."""

    block_bytes: int
    checkpoint_bytes: int
    cache_bytes: int
    pool_bytes: int
    pending_bytes_max: int
    files_max: int
    config: LogConfig
    has_journal: bool


class Serving:
    """An open log with its model; the log's owner."""

    def __init__(self, process: Process, partition: Partition, log: Log, state: State) -> None:
        self.process, self.partition, self.log, self.state = process, partition, log, state
        self.closing = False
        self.epoch = (log.epochs[-1][0] if log.epochs else 0) + 1
        self.moved = asyncio.Event()
        log.attach(self)

    def on_durable(self, durable_offset: int) -> None:
        self.partition.on_durable(durable_offset)
        self.moved.set()

    def on_log_failed(self, error: StorageError) -> None:
        if not self.closing:
            self.process.must_be_excused(self.partition, error)
        self.moved.set()


class Process:
    """From one start to its end."""

    def __init__(
        self, machine: Machine, loop: SimLoop, settings: Settings, partitions: list[Partition],
        deleted_ids: set[bytes], rng: random.Random,
    ) -> None:  # fmt: skip
        self.machine, self.settings, self.partitions = machine, settings, partitions
        self.deleted_ids, self.rng, self.wait = deleted_ids, rng, loop.wait
        self.serving: dict[str, Serving] = {}
        self.disk = QueuedDisk(loop, SimQueue(machine))
        self.data = cast(Path, SimPath(DATA))
        self.violation: Violation | None = None
        self.cleaning = asyncio.Lock()  # a shard cleans one log at a time
        self.replays_journal = True  # a planted bug: it does not
        committer = Committer(
            self.disk, loop, machine.time_s, pending_bytes_max=settings.pending_bytes_max
        )
        self.context = LogContext(
            disk=self.disk,
            committer=committer,
            cache=RecordCache(settings.cache_bytes),
            pool=SegmentPool(self.data / "recycle" / "0", settings.pool_bytes),
            block_bytes=settings.block_bytes,
            checkpoint_bytes=settings.checkpoint_bytes,
            lock_wait_s=LOCK_WAIT_S,
            now_ms=lambda: int(machine.time_s() * 1000),
            rng=random.Random(rng.getrandbits(64)),
            files_max=settings.files_max,
            report=lambda event, detail: machine.trace.note(f"report: {event}: {detail}"),
        )

    # -- verdicts --------------------------------------------------------------------------

    def fail(self, what: str) -> None:
        """An invariant does not hold: the run ends at its next step, whatever code we are in."""
        if self.violation is None and not self.machine.dead:
            self.violation = Violation(what)
            self.machine.dead = True
            raise self.violation

    def is_excused(self, partition: Partition) -> bool:
        concerned = {partition.name} | SHARED
        return not concerned.isdisjoint(self.machine.excuses | self.rotten())

    def must_be_excused(self, partition: Partition, error: BaseException) -> None:
        """Errors only where a fault was injected."""
        if isinstance(error, AssertionError):
            raise error
        if not self.is_excused(partition):
            self.fail(f"{partition.name}: an error without a fault: {error!r}")
        self.machine.counts["partitions that went offline"] += 1

    def rotten(self) -> set[str]:
        """Directories that have a file of which a byte has rotted."""
        return {path.split("/")[2] for path, inode in self.machine.files.files() if inode.rot}

    # -- start and end ---------------------------------------------------------------------

    async def start(self) -> bool:
        """Whether it got so far as to serve. What is recovered is compared with the model."""
        run = self.context.disk.run
        directory = self.data / "journal" / "0"
        try:
            await run(self.context.pool.load)
            journaled = await run(read_journals, [directory], LOCK_WAIT_S)
        except (OSError, StorageError) as error:
            if not self.machine.excuses and not self.rotten():
                self.fail(f"the start failed: {error!r}")
            return False
        if self.replays_journal:
            self.context.journaled = journaled
        await self._open_all()
        entries, self.context.journaled = self.context.journaled, {}
        offline = [one for one in self.partitions if one.name not in self.serving]
        needed = any(key[0] == one.topic_id for one in offline for key in entries)
        if self.settings.has_journal and not needed:
            begin = partial(
                open_journal, directory, self.disk, self.settings.block_bytes, LOCK_WAIT_S,
                self.machine.time_s, self.context.committer.observe_write, self.context.rng,
                self.context.report,
            )  # fmt: skip
            try:
                self.context.committer.use(await run(begin))
            except (OSError, StorageError) as error:
                if not self.machine.excuses and not self.rotten():
                    self.fail(f"the journal cannot be begun: {error!r}")
        return True

    async def _open_all(self) -> None:
        wanted = [
            Wanted(self.settings.config, self.data / one.name, one.topic_id, 0, State())
            for one in self.partitions
        ]
        trash, is_deleted = self.data / "trash", self.deleted_ids.__contains__
        logs = await open_logs(self.context, wanted, trash, is_deleted)
        for partition, one, log in zip(self.partitions, wanted, logs, strict=True):
            if isinstance(log, Log):
                self._opened(partition, log, cast(State, one.state))
            elif isinstance(log, OSError | StorageError):
                self._not_opened(partition, log)
            else:
                raise log

    async def open(self, partition: Partition) -> None:
        """Open one log; it serves, or is offline with an excuse."""
        state = State()
        try:
            log = await open_log(
                self.context, self.settings.config, self.data / partition.name,
                partition.topic_id, 0, state, self.data / "trash", self.deleted_ids.__contains__,
            )  # fmt: skip
        except (OSError, StorageError) as error:
            self._not_opened(partition, error)
        else:
            self._opened(partition, log, state)

    def _not_opened(self, partition: Partition, error: OSError | StorageError) -> None:
        self.machine.trace.note(f"offline {partition.name}: {error}")
        self.must_be_excused(partition, error)

    def _opened(self, partition: Partition, log: Log, state: State) -> None:
        self.machine.trace.note(
            f"opened {partition.name} {log.log_start_offset} {log.log_end_offset}"
        )
        if log.durable_offset != log.log_end_offset:
            self.fail(f"{partition.name}: opened, and not all of it is durable")
        partition.recovered(log.log_start_offset, log.log_end_offset, state)
        self.machine.counts["recoveries"] += 1
        self.serving[partition.name] = Serving(self, partition, log, state)

    async def close(self) -> None:
        """A clean stop."""
        journal = self.context.committer.journal
        for serving in list(self.serving.values()):
            await self.close_log(serving)
        await self.disk.close()
        if journal is not None:
            journal.close()
        self.machine.counts["clean stops"] += 1

    async def close_log(self, serving: Serving) -> None:
        serving.closing = True
        partition, log = serving.partition, serving.log
        del self.serving[partition.name]
        was_well = log.failed is None
        try:
            await log.close()
        except (OSError, StorageError) as error:
            self.must_be_excused(partition, error)
            return
        if was_well and log.failed is not None:
            self.must_be_excused(partition, log.failed)
        elif was_well and partition.durable != partition.end:
            self.fail(f"{partition.name}: closed, and durable only to {partition.durable}")

    async def delete(self, serving: Serving, topic_id: bytes) -> None:
        """Delete the topic, and make one of the same name."""
        partition = serving.partition
        serving.closing = True
        del self.serving[partition.name]
        self.deleted_ids.add(partition.topic_id)
        self.machine.trace.note(f"delete {partition.name}")
        partition.topic_id = topic_id
        partition.batches.clear()
        partition.bases.clear()
        partition.durable = partition.start = 0
        partition.asked.clear()
        partition.retained_ms = -1
        partition.forgets_producers = False
        try:
            discarded = await serving.log.delete(self.data / "trash")
            if discarded is not None:
                await self.context.disk.run(empty_directory, discarded, self.context.pool)
        except (OSError, StorageError) as error:
            self.must_be_excused(partition, error)
        else:
            await self.open(partition)

    # -- what clients do -------------------------------------------------------------------

    async def read(self, serving: Serving, offset: int, limit: int, max_bytes: int) -> int:
        """From memory, or from disk; the offset after what was read."""
        log, partition = serving.log, serving.partition
        found: tuple[list[Any], int] | None = log.read_cached(offset, limit, max_bytes, True)
        if found is None:
            if log.log_start_offset > offset:
                return log.log_start_offset
            try:
                found = await log.read(offset, limit, max_bytes)
            except (OSError, StorageError) as error:
                if not serving.closing and log.failed is None and isinstance(error, CorruptRecord):
                    self.fail(f"{partition.name}: damage, and the log goes on: {error}")
                if not serving.closing:
                    self.must_be_excused(partition, error)
                return limit
            if not found[0] and log.log_start_offset <= offset and not serving.closing:
                self.fail(f"{partition.name}: nothing at {offset}, before {limit}")
        if not serving.closing:
            self.machine.counts["reads checked"] += 1
            partition.check_read(offset, limit, max_bytes, *found)
        return max(found[1], offset) if found[0] else limit

    async def read_all(self, serving: Serving) -> None:
        """Everything that is durable, from disk where the cache has it not."""
        offset, limit = serving.log.log_start_offset, serving.log.durable_offset
        while offset < limit and not serving.closing and serving.log.failed is None:
            offset = await self.read(serving, offset, limit, self.rng.choice((1, 3000, 100_000)))
