"""A run of one seed: some partitions, and lives of a process that uses them, each with its end.

`simulate(seed)` raises Violation where something does not hold. What is checked: model.py. What can
happen to the disk: file_system.py. `plant`, where it is given, plants a bug for a negative control.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kafka_protocol.record_batch import parse_header
from rpk_py.producers import NEW, Duplicate
from storage.compaction import CompactionConfig
from storage.errors import StorageError
from storage.log_context import LogConfig
from tests.sim.storage.event_loop import SimLoop
from tests.sim.storage.file_system import Inode
from tests.sim.storage.kernel import Kernel, patched
from tests.sim.storage.machine import DATA, FAULTS, STEPS_FOREVER, Machine, Violation
from tests.sim.storage.model import BatchMaker, Partition, noted
from tests.sim.storage.process import Process, Serving, Settings

LIVES_MAX = 7
KILOBYTE = 1024
# Storage's constants, so small that all of it happens within kilobytes.
SMALL = {
    "ALLOCATE_BYTES_MIN": 8 * KILOBYTE,
    "DENSE_BYTES": 16 * KILOBYTE,
    "FILES_MIN": 2,
    "LOOKED_AT_MAX": 8,
    "RETRY_MS": 10,
    "SAMPLE_BYTES": 4 * KILOBYTE,
    "SAVED_BYTES_MIN": KILOBYTE,
    "START_BYTES": 8 * KILOBYTE,
    "FILE_BYTES": 64 * KILOBYTE,
    "INDEX_INTERVAL_BYTES": 4 * KILOBYTE,
    "PARTITIONS_MIN": 2,
    "READ_BYTES_MIN": 8 * KILOBYTE,
    "READ_BYTES_MAX": 32 * KILOBYTE,
    "RECORD_BYTES_MAX": 16 * KILOBYTE,
    "JOURNALED_BYTES_MAX": 8 * KILOBYTE,
    "RETIRED_BYTES_MIN": 4 * KILOBYTE,
    "SCAN_BYTES": 16 * KILOBYTE,
    "SCANNED_BYTES_MAX": 32 * KILOBYTE,
    "SLICE_BYTES_MAX": 4 * KILOBYTE,
    "SEARCH_BYTES": 16 * KILOBYTE,
}

Plant = Callable[["World"], None]


class World:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(f"world {seed}")
        self.machine = Machine(seed)
        self.kernel: Kernel = self.machine.kernel
        self.kernel.direct = rng.random() < 0.9
        self.kernel.links = rng.random() < 0.8
        block_bytes = rng.choice((512, 512, 4096))
        self.settings = Settings(
            block_bytes=block_bytes,
            checkpoint_bytes=rng.choice((6, 40)) * block_bytes,
            cache_bytes=rng.choice((0, 16, 4096)) * KILOBYTE,
            pool_bytes=rng.choice((0, 200)) * KILOBYTE,
            pending_bytes_max=rng.choice((0, 1000)) * KILOBYTE,
            files_max=rng.choice((2, 4, 1000)),
            config=LogConfig(
                segment_bytes=rng.choice((12, 30, 100)) * block_bytes,
                segment_ms=rng.choice((500, 1 << 40)),
                retention_ms=rng.choice((-1, 300, 5000)),
                retention_bytes=rng.choice((-1, -1, 50)) * block_bytes,
                write_caching=rng.random() < 0.25,
                flush_ms=rng.choice((1, 100)),
                flush_bytes=rng.choice((1000, 30_000)),
            ),
            has_journal=rng.random() < 0.7,
        )
        self.process: Process | None = None
        self.deleted_ids: set[bytes] = set()
        self.partitions = [
            Partition(f"t{i}-0", self._new_id(), self._fail, compacted=rng.random() < 0.3)
            for i in range(rng.randint(1, 5))
        ]
        config = self.settings.config
        if config.retention_bytes < 0:
            for partition in self.partitions:
                partition.deletes_at_ms = config.retention_ms
        self.maker = BatchMaker(rng, self._now_ms, rng.choice((500, 3000, 12_000)))
        self.replays_journal = True
        self.operations = 0
        self._builds_on = False

    def _new_id(self) -> bytes:
        return self.rng.randbytes(16)

    def _now_ms(self) -> int:
        return int(self.machine.time_s() * 1000)

    def _fail(self, what: str) -> None:
        assert self.process is not None
        self.process.fail(what)

    # -- lives -----------------------------------------------------------------------------

    def run(self) -> None:
        """All lives, and two last ones in which everything must be there."""
        self.kernel.mkdir(DATA)
        self.kernel.mkdir(f"{DATA}/recycle")
        self.machine.files.sync(self.machine.files.root)
        for inode in list(self.machine.files.root.entries.values()):
            self.machine.files.sync(inode)
        for _ in range(self.rng.randint(1, LIVES_MAX)):
            # What a death right behind a call has left is built upon before the power goes.
            self._builds_on = self.machine.died_behind_call
            size = (2.2, 3.0) if self._builds_on else (0.5, 4.0)
            self._life(steps=int(10 ** self.rng.uniform(*size)), main=self._serve)
        for _ in range(2):
            self._heal()
            self._life(steps=STEPS_FOREVER, main=self._check_everything, faults=False)

    def _life(self, steps: int, main: Callable[[Process], Any], *, faults: bool = True) -> None:
        rng, machine = self.rng, self.machine
        kinds = rng.choices(FAULTS, k=rng.randint(1, 4)) if faults and rng.random() < 0.5 else []
        loop = machine.begin_life(steps, kinds, 10 ** rng.uniform(-2.5, -0.5))
        machine.trace.note(f"life of {steps} steps")
        machine.counts["lives"] += 1
        process = Process(machine, loop, self.settings, self.partitions, self.deleted_ids, rng)
        process.replays_journal = self.replays_journal
        self.process = process
        try:
            task = loop.run(main(process))
            if process.violation is not None:
                raise process.violation
            if not machine.dead:
                self._check_end(loop, task)
            else:
                machine.counts["crashes"] += 1
        finally:
            chance = 0.1 if machine.died_behind_call else 0.9 if self._builds_on else 0.6
            machine.end_life(power_cut=rng.random() < chance)

    def _check_end(self, loop: SimLoop, task: asyncio.Task[None]) -> None:
        if loop.stuck:
            raise Violation("nothing goes on, and somebody waits")
        if loop.reported:
            raise Violation(f"an exception that nobody handled: {loop.reported[0]!r}")
        error = task.exception()
        if error is None:
            return
        if isinstance(error, Violation | AttributeError | NameError | TypeError):
            raise error
        raise Violation(f"nobody expects {error!r}") from error

    def _heal(self) -> None:
        """The operator restores what has rotted."""
        for _path, inode in self.machine.files.files():
            if inode.rot:
                self.machine.files.heal(inode)

    async def _check_everything(self, process: Process) -> None:
        if not await process.start():
            process.fail("nothing failed, and it does not start")
        for partition in self.partitions:
            serving = process.serving.get(partition.name)
            if serving is None:
                process.fail(f"{partition.name} is offline without a reason")
            else:
                await process.read_all(serving)
                self._append(serving, 3)
        if self.rng.random() < 0.8:
            await process.close()

    async def _serve(self, process: Process) -> None:
        """Start, let clients do what they like, and stop."""
        if not await process.start():
            self._heal()
            return
        if self.rng.random() < 0.5:
            for serving in list(process.serving.values()):
                await process.read_all(serving)
        clients = [self._client(process) for _ in range(self.rng.randint(1, 4))]
        await asyncio.gather(*clients)
        if self.rng.random() < (0.2 if self._builds_on else 0.6):
            await process.close()
            self._heal()

    # -- clients ---------------------------------------------------------------------------

    async def _client(self, process: Process) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, 80)):
            serving = process.serving.get(rng.choice(self.partitions).name)
            if serving is not None:
                await self._operation(process, serving)
                self.operations += 1
            if rng.random() < 0.5:
                await process.wait(rng.choice((0, 0, 0.0003, 0.003)))

    async def _operation(self, process: Process, serving: Serving) -> None:
        rng, log = self.rng, serving.log
        what = rng.random()
        if what < 0.45:
            self._append(serving, rng.choice((1, 1, 2, 8)))
        elif what < 0.55:
            for one in list(process.serving.values()):  # many in a tick: the journal's case
                self._append(one, 1)
        elif what < 0.62:
            await self._until_durable(serving)
        elif what < 0.85:
            if log.failed is None and log.visible_offset > log.log_start_offset:
                offset = rng.randrange(log.log_start_offset, log.visible_offset)
                max_bytes = int(10 ** rng.uniform(0, 5))
                await process.read(serving, offset, log.visible_offset, max_bytes)
        elif what < 0.88:
            await self._delete_records(process, serving)
        elif what < 0.90:
            await self._enforce_retention(process, serving)
        elif what < 0.92:
            async with process.cleaning:
                await self._clean(process, serving)
        elif what < 0.93:
            await self._find_timestamp(process, serving)
        elif what < 0.95:
            self._configure(serving)
        elif what < 0.97:
            if log.failed is None:
                await process.close_log(serving)
                if log.failed is None:
                    await process.open(serving.partition)
        elif what < 0.98:
            await process.delete(serving, self._new_id())
        else:
            self._rot()

    def _append(self, serving: Serving, count: int) -> None:
        log, partition, state = serving.log, serving.partition, serving.state
        if serving.closing or log.failed is not None:
            return
        if self.rng.random() < 0.03:
            serving.epoch += 1
        for _ in range(count):
            batch, rows = self.maker.make(partition)
            header = parse_header(batch)
            if header.producer_id >= 0:
                fields = header.producer_id, header.producer_epoch, header.base_sequence
                verdict = state.producers.check(*fields, header.last_offset_delta)
                if isinstance(verdict, Duplicate):
                    if verdict.base_offset != header.base_offset:
                        self._fail(f"{partition.name}: a retry is at {verdict.base_offset}")
                    continue
                if verdict is not NEW:
                    self._fail(f"{partition.name}: {fields} refused: {verdict!r}")
                if header.partition_leader_epoch >= 0 and not partition.forgets_producers:
                    self._fail(f"{partition.name}: a retry of {header.base_offset} is new")
            base_offset = log.append(memoryview(batch), header, serving.epoch)
            if base_offset != partition.end:
                self._fail(f"{partition.name}: {base_offset} was given after {partition.end}")
            partition.appended(noted(batch, base_offset, serving.epoch, rows))
            state.add(base_offset)
            if header.producer_id >= 0:
                state.producers.update(
                    *fields, header.last_offset_delta, base_offset, header.max_timestamp
                )

    async def _until_durable(self, serving: Serving) -> None:
        end = serving.log.log_end_offset
        while serving.partition.durable < end and not serving.closing:
            if serving.log.failed is not None:
                return
            serving.moved.clear()
            await serving.moved.wait()

    async def _delete_records(self, process: Process, serving: Serving) -> None:
        log, partition = serving.log, serving.partition
        if log.failed is not None or serving.closing:
            return
        before = self.rng.randint(log.log_start_offset, log.log_end_offset)
        topic_id = partition.topic_id
        partition.asked.add(before)
        try:
            await log.delete_records(before)
        except StorageError as error:
            if not serving.closing:
                process.must_be_excused(partition, error)
            return
        if partition.topic_id == topic_id:
            if not serving.closing and log.log_start_offset < before:
                self._fail(f"{partition.name}: deleted to {before}, not {log.log_start_offset}")
            partition.start = max(partition.start, before)
            self.machine.counts["deletions of records"] += 1

    async def _enforce_retention(self, process: Process, serving: Serving) -> None:
        """As the shard's housekeeping does."""
        await process.wait(self.rng.choice((0, 0.3)))
        log, partition, now_ms = serving.log, serving.partition, self._now_ms()
        if log.failed is not None or serving.closing:
            return
        partition.retained_ms = now_ms
        log.roll_if_due(now_ms)
        try:
            deleted = await log.enforce_retention(now_ms)
        except StorageError as error:
            if not serving.closing:
                process.must_be_excused(partition, error)
            return
        if deleted and not serving.closing and log.log_start_offset > partition.start:
            partition.started(log.log_start_offset)
            self.machine.counts["deletions by retention"] += 1

    async def _clean(self, process: Process, serving: Serving) -> None:
        """As the shard's cleaner does: padding goes, and compacted logs are compacted."""
        log, partition, machine = serving.log, serving.partition, self.machine
        if not log.has_sealed or not log.usable:
            return
        config = CompactionConfig(
            self.settings.config.segment_bytes,
            0.1,
            delete_retention_ms=1 << 40,
            buffer_bytes=1 << 16,
        )
        try:
            while await log.rewriter.rewrite_padded():
                machine.counts["segments rewritten"] += 1
            if partition.compacted and log.rewriter.may_try and not serving.closing:
                found = await log.compactor.cleanable(config)
                if found.due and log.usable:
                    kept = serving.state.producers.last_batches()
                    if await log.compactor.compact(found, config, kept) is not None:
                        machine.counts["compactions"] += 1
        except (OSError, StorageError) as error:
            if not serving.closing:
                process.must_be_excused(partition, error)

    async def _find_timestamp(self, process: Process, serving: Serving) -> None:
        log, partition = serving.log, serving.partition
        if log.failed is not None or serving.closing or not partition.batches:
            return
        if partition.compacted:
            return
        start, limit = log.log_start_offset, log.durable_offset
        timestamp = self.rng.choice(partition.batches).rows[0][0] + self.rng.randint(-1, 1)
        try:
            found = await log.offset_for_timestamp(timestamp, limit)
        except (OSError, StorageError) as error:
            if not serving.closing:
                process.must_be_excused(partition, error)
            return
        if serving.closing or log.log_start_offset != start or log.failed is not None:
            return
        if found != (expected := partition.at_or_after(timestamp, start, limit)):
            self._fail(f"{partition.name}: {timestamp} is at {found}, not {expected}")
        self.machine.counts["timestamps found"] += 1

    def _configure(self, serving: Serving) -> None:
        config, rng = self.settings.config, self.rng
        if not serving.closing:
            serving.log.configure(
                replace(
                    config,
                    segment_bytes=config.segment_bytes * rng.choice((1, 2)),
                    write_caching=rng.random() < 0.3,
                )
            )

    def _rot(self) -> None:
        """A byte flips that others prove to have been durable; now and then of an index too."""
        files = sorted(self.machine.files.files(), key=lambda one: one[0])
        if not files or any(inode.rot for _path, inode in files):
            return
        indexed = [one for one in files if _index_of(one[0]) in dict(files)]
        with_index = bool(indexed) and self.rng.random() < 0.4
        path, inode = self.rng.choice(indexed if with_index else files)
        self._rot_in(path, inode, self._provable(path, inode, dict(files)))
        if inode.rot and with_index:  # so that the segment's end has to be found again
            index = dict(files)[_index_of(path)]
            self._rot_in(_index_of(path), index, len(index.data))

    def _provable(self, path: str, inode: Inode, files: dict[str, Inode]) -> int:
        """How much of a file is known to have been durable by something else."""
        if path.endswith((".index", ".checkpoint")):
            return len(inode.data)
        if not path.endswith((".wal", ".journal")):
            return 0
        directory = path.rpartition("/")[0]
        newer = [
            other
            for name, other in files.items()
            if name.startswith(directory) and name.endswith(".wal") and name > path
        ]
        if path.endswith(".wal") and any(other.proven_end for other in newer):
            return inode.written_end
        return inode.proven_end

    def _rot_in(self, path: str, inode: Inode, end: int) -> None:
        if not end or inode.changes:
            return
        if path.endswith(".checkpoint"):
            for partition in self.partitions:
                partition.forgets_producers |= partition.name == path.split("/")[2]
        pos = (
            self.rng.randrange(end)
            if self.rng.random() < 0.7
            else end - 1 - self.rng.randrange(min(end, 2000))
        )
        self.machine.trace.note(f"rot {path} {pos}")
        self.machine.counts["rotten bytes"] += 1
        self.machine.files.flip(inode, pos)


def _index_of(path: str) -> str:
    return path.removesuffix(".wal") + ".index" if path.endswith(".wal") else ""


def simulate(seed: int, plant: Plant | None = None) -> World:
    """Run one seed. Raises Violation; its `world` attribute has the trace."""
    world = World(seed)
    if plant is not None:
        plant(world)
    try:
        with patched(world.kernel, world.machine.clock, SMALL):
            world.run()
    except Exception as error:
        error.world = world  # type: ignore[attr-defined]
        raise
    return world
