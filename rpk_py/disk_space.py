"""What a shard does when its disk fills up: a normal state, with a way out of it.

Which process: a shard; one task, which looks at the file system every second, and at once when a
log waits for room. Three levels (storage/space.py):

LOW   what has had its time is deleted now, and no file is kept for reuse. With storage_space_trim
      the oldest closed segments go before their time, of topics whose records go one day anyway
FULL  producers are refused with KAFKA_STORAGE_ERROR, which they try again, and nothing is written
      that can wait. Fetches, deletions, metadata and groups go on, with what the reserve gives back
OK    again, when a little more than the limit is free: producers go on by themselves

What logs could not write is tried again with every look. Every shard looks by itself: they see the
same file system, and each deletes its share.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable
from typing import Final

from rpk_py.context import Broker
from rpk_py.housekeeping import Housekeeping
from rpk_py.partition import Partition
from storage.errors import StorageError
from storage.log import Log
from storage.log_context import LogContext
from storage.segment import Segment
from storage.space import RESERVE_SUFFIX, Level, Limits, Reserve, Usage, bytes_until_ok, judge

CHECK_S: Final = 1.0
REFUSED: Final = "the disk is full; the broker takes records again when there is room"
FIX: Final = "delete topics or records, shorten retention, or give the file system more space"


class DiskSpace:
    """See the module. `start` once the shard serves, `close` before its partitions are closed."""

    def __init__(
        self,
        broker: Broker,
        context: LogContext,
        housekeeping: Housekeeping,
        usage: Callable[[], Usage],
        on_level: Callable[[Level], None],
    ) -> None:
        """
        usage     what the file system says; blocks; raises OSError
        on_level  told of every change
        """
        self._broker = broker
        self._context = context
        self._housekeeping = housekeeping
        self._usage = usage
        self._on_level = on_level
        config = broker.config
        path = config.data_dir / f"{broker.node_id}{RESERVE_SUFFIX}"
        self._reserve = Reserve(path, config.storage_reserve_bytes, config.smp)
        self._waiting: dict[Log, None] = {}  # for room
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.level = Level.OK
        self.usage = Usage(0, 0)
        context.no_space = self._no_space

    @property
    def waiting_count(self) -> int:
        """Partitions that wait for room."""
        return len(self._waiting)

    def start(self) -> None:
        """Look from now on."""
        self._task = self._broker.loop.create_task(self._run())

    async def close(self) -> None:
        """Look no more; a stop needs room as well."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        with contextlib.suppress(OSError):  # the next start tries again
            await self._context.disk.run(self._reserve.release)

    def _no_space(self, log: Log) -> None:
        if not self._waiting:  # the first of many, mostly
            reason = str(log.stalled or "it has a file to write")
            self._broker.log.warning(
                "a partition waits for disk space", partition=log.directory.name, reason=reason
            )
        self._waiting[log] = None
        self._wanted.set()

    async def _run(self) -> None:
        known = True
        while True:
            try:
                await self.check()
                known = True
            except OSError as error:
                if known:
                    self._broker.log.warning("the disk's space is not known", reason=str(error))
                known = False
            except Exception:  # a bug of ours: the disk must be looked at all the same
                self._broker.log.exception("looking at the disk's space failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    await self._wanted.wait()
            self._wanted.clear()

    async def check(self) -> None:
        """Look once, and do what the level asks for. Raises OSError where it cannot look."""
        run, config = self._context.disk.run, self._broker.config
        self.usage = await run(self._usage)
        limits = Limits(
            config.storage_min_free_bytes,
            config.storage_space_alert_free_threshold_bytes,
            config.storage_space_alert_free_threshold_percent,
        )
        beside_reserve = self._reserve.without(self.usage)
        level = judge(self.level, beside_reserve, limits)
        if level is not self.level:
            await self._enter(level)
        if level is not Level.OK and config.storage_space_trim:
            await self._trim(bytes_until_ok(beside_reserve, limits) // config.smp)
        if level is Level.FULL or self._waiting:
            await self._give_reserve()
        elif not self._reserve.held_bytes:
            with contextlib.suppress(OSError):  # the next look tries again
                await run(self._reserve.claim, beside_reserve)
        await self._retry()

    async def _enter(self, level: Level) -> None:
        before, self.level = self.level, level
        log, free_bytes = self._broker.log, self.usage.free_bytes
        self._context.disk_full = level is Level.FULL
        if level is Level.FULL:
            log.error("the disk is full: producers are refused", free_bytes=free_bytes, fix=FIX)
        elif level > before:
            log.warning("the disk is nearly full", free_bytes=free_bytes, fix=FIX)
        elif before is Level.FULL:
            log.info("the disk has room: producers are served again", free_bytes=free_bytes)
        else:
            log.info("the disk has room", free_bytes=free_bytes)
        self._on_level(level)
        if Level.FULL in (before, level):
            await self._broker.partitions.refuse_produce(REFUSED if level is Level.FULL else None)
        # What cannot be removed takes space until the next start.
        with contextlib.suppress(OSError):
            await self._context.disk.run(self._context.pool.keep, level is Level.OK)
        if level > before:
            self._housekeeping.walk_soon()

    async def _give_reserve(self) -> None:
        with contextlib.suppress(OSError):
            await self._context.disk.run(self._reserve.release)

    async def _retry(self) -> None:
        """Have logs do what there was no room for, until there is none for the next one."""
        for log in list(self._waiting):
            if log.usable and log.waits_for_room:
                await log.retry()
                if log.waits_for_room:
                    return
            self._waiting.pop(log, None)
            await self._broker.turns.pause()

    async def _trim(self, wanted_bytes: int) -> None:
        """Delete closed segments, those whose newest record is the oldest first."""
        broker, order = self._broker, itertools.count()
        oldest: list[tuple[int, int, Partition, Segment]] = []

        async def note(partition: Partition) -> None:
            log = partition.log
            if log is None or partition.offline or partition.internal:
                return
            found = await log.oldest_closed()
            if found is not None:
                heapq.heappush(oldest, (found[0], next(order), partition, found[1]))

        for partition in list(broker.partitions):
            await broker.turns.pause()
            with contextlib.suppress(StorageError):  # who reads it is told
                await note(partition)
        while wanted_bytes > 0 and oldest:
            _, _, partition, segment = heapq.heappop(oldest)
            assert partition.log is not None
            try:
                deleted = await partition.log.trim(segment)
                self._housekeeping.note_deleted(partition, deleted)
                wanted_bytes -= sum(one.size_bytes for one in deleted)
                await note(partition)
            except StorageError as error:  # of a disk it is told already
                broker.log.debug("a segment cannot be trimmed", reason=str(error))
