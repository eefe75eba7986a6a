"""What a shard does for its partitions from time to time: retention, and rolling by age.

Which process: a shard; one task. Every log.retention.check.interval.ms, at first after half a
minute, it walks the partitions one after the other and gives way between them, so that neither the
number of partitions nor how much there is to delete holds up a client. A partition that fails, or
goes away meanwhile, does not end the walk.
Source: LogManager.cleanupLogs of Apache Kafka 4.1.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

from rpk_py.context import Broker
from rpk_py.partition import Partition
from storage.errors import StorageError
from storage.log_head import Deleted

FIRST_CHECK_S: Final = 30.0


class Housekeeping:
    """See the module. `start` once the shard serves, `close` before its partitions are closed."""

    def __init__(self, broker: Broker, now_ms: Callable[[], int]) -> None:
        self._broker = broker
        self._now_ms = now_ms
        self._changed = asyncio.Event()
        self._hurry = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Walk from now on."""
        self._task = self._broker.loop.create_task(self._run())

    def configure(self) -> None:
        """The broker's configs have changed: what was waited for may be due."""
        self._changed.set()

    def walk_soon(self) -> None:
        """Walk as soon as no other walk is under way: what has had its time is wanted gone."""
        self._hurry = True
        self._changed.set()

    async def close(self) -> None:
        """Walk no more; what a log has begun for a walk, it ends by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        await self._until_due(self._broker.loop.time(), FIRST_CHECK_S)
        while True:
            self._hurry, began_s = False, self._broker.loop.time()
            await self.walk()
            await self._until_due(began_s)

    async def _until_due(self, since_s: float, at_most_s: float | None = None) -> None:
        """Wait until a check interval after `since_s` is over, as long as that is by then."""

        def due_s() -> float:
            wait_s = self._broker.config.log_retention_check_interval_ms / 1000
            return since_s + (wait_s if at_most_s is None else min(wait_s, at_most_s))

        while self._broker.loop.time() < due_s() and not self._hurry:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_s()):
                    await self._changed.wait()

    async def walk(self) -> None:
        """Look at every partition once."""
        broker = self._broker
        for partition in list(broker.partitions):
            await broker.turns.pause()
            try:
                await self._enforce_retention(partition)
            except StorageError as error:  # of a disk it is told already, and the partition offline
                if broker.partitions.get(partition.topic, partition.index) is partition:
                    broker.log.warning(
                        "retention was not enforced", partition=_name(partition), reason=str(error)
                    )
            except Exception:  # a bug of ours; the other partitions' disk space must not run out
                broker.log.exception("retention was not enforced", partition=_name(partition))
        broker.metrics.retention_checks += 1

    async def _enforce_retention(self, partition: Partition) -> None:
        log = partition.log
        if log is None or partition.offline:
            return
        now_ms = self._now_ms()
        log.roll_if_due(now_ms)
        self.note_deleted(partition, await log.enforce_retention(now_ms))

    def note_deleted(self, partition: Partition, deleted: list[Deleted]) -> None:
        """Count and log segments that went, and answer fetches that waited in them."""
        log, broker = partition.log, self._broker
        if not deleted or log is None:
            return
        partition.wake_fetches()
        counts = Counter(one.reason for one in deleted)
        for reason, size_bytes in deleted:
            broker.metrics.deleted_bytes[reason] += size_bytes
        for reason, count in counts.items():
            broker.metrics.deleted_segments[reason] += count
        broker.log.info(
            "old segments are deleted",
            partition=_name(partition),
            segments=len(deleted),
            size_bytes=sum(one.size_bytes for one in deleted),
            because_of=sorted(counts),
            log_start_offset=log.log_start_offset,
        )


def _name(partition: Partition) -> str:
    return f"{partition.topic}-{partition.index}"
