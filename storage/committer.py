"""The shard's group commit: which dirty partitions are written and synced how, once a tick.

Appenders mark themselves dirty; at the end of the loop's tick the committer lets each hand its
records to the disk and submits all of them in one system call. Syncing belongs to the shard and
not to the partition: where many partitions are dirty and have little to write, their new batches
share one write to the shard's journal (journal.py); otherwise a flush is one durable write
(RWF_DSYNC) of a record to its segment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from storage.disk import Disk
from storage.errors import DiskFailed
from storage.journal import PARTITIONS_MIN, Flushable, Journal


def _ignore(_seconds: float, _batches: int, _size_bytes: int) -> None:
    """Nobody measures."""


class Committer:
    """Once a tick: flush every dirty appender, then one submit. One shard, one instance."""

    __slots__ = (
        "_dirty",
        "_loop",
        "_scheduled",
        "clock_s",
        "disk",
        "journal",
        "observe_write",
        "pending_bytes",
        "pending_bytes_max",
    )

    def __init__(
        self,
        disk: Disk,
        loop: asyncio.AbstractEventLoop,
        clock_s: Callable[[], float],
        observe_write: Callable[[float, int, int], None] = _ignore,
        pending_bytes_max: int = 256 << 20,
    ) -> None:
        self.disk = disk
        self.clock_s = clock_s  # not the loop's, which stands still within a tick
        # Told of each durable write: seconds from its submit, record batches, bytes.
        self.observe_write = observe_write
        self.pending_bytes = 0  # of batches that are appended and not durable
        self.pending_bytes_max = pending_bytes_max  # beyond it write.caching is suspended
        self.journal: Journal | None = None  # there is none before all shards serve
        self._loop = loop
        self._dirty: list[Flushable] = []
        self._scheduled = False

    @property
    def may_cache(self) -> bool:
        """Whether write.caching may show what is not durable: the shard holds little of it."""
        return self.pending_bytes <= self.pending_bytes_max

    def mark_dirty(self, appender: Flushable) -> None:
        """Have `appender` flushed at the end of this tick."""
        if not appender.dirty:
            appender.dirty = True
            self._dirty.append(appender)
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self.commit)

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Run `callback` in `delay_ms` (delayed flushes with write.caching)."""
        return self._loop.call_later(delay_ms / 1000, callback)

    @property
    def journal_writes(self) -> int:
        """Durable writes to the journal so far."""
        return self.journal.writes if self.journal is not None else 0

    @property
    def journal_bytes(self) -> int:
        """And their bytes."""
        return self.journal.write_bytes if self.journal is not None else 0

    def use(self, journal: Journal) -> None:
        """From now on share writes where that pays."""
        self.journal = journal
        journal.resume = self._resume

    def _resume(self, waiting: list[Flushable]) -> None:
        """What waited for the journal is committed in this tick."""
        self._dirty += waiting
        if self._dirty and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.commit)

    def commit(self) -> None:
        """Flush what is dirty now; what gets dirty meanwhile waits for the next tick."""
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        if self.journal is not None and len(dirty) >= PARTITIONS_MIN:
            dirty = self.journal.take(dirty)
        for appender in dirty:
            appender.dirty = False
            try:
                appender.flush()
            except Exception as error:  # one partition's trouble must not hold up the others
                appender.fail(DiskFailed(f"a flush failed unexpectedly: {error!r}"))
        self.disk.submit()
