"""When a shard reads journals, and when it begins its own.

Which process: a shard.  What a killed shard acknowledged may be only in its journal, and at a start
with another --smp its partitions may be led by another shard. So at the start of a broker every
shard reads all the journals there are, opens its partitions with them, and no shard begins its own
before the supervisor says that all serve. A shard that dies when journals are in use reads its own.
"""

from __future__ import annotations

import time
from functools import partial

from rpk_py.config import Config
from rpk_py.data_dir import JOURNAL
from rpk_py.log_setup import Log
from rpk_py.partition_table import PartitionTable
from rpk_py.tasks import Tasks
from storage.errors import StorageError
from storage.journal import open_journal, read_journals
from storage.log_context import LogContext


class JournalOfShard:
    """One shard's journal over its life."""

    def __init__(self, config: Config, node_id: int, context: LogContext, log: Log) -> None:
        self._all = config.data_dir / JOURNAL
        self._mine = self._all / str(node_id)
        self._lock_wait_s = config.lock_wait_s
        self._context = context
        self._log = log
        self.needed = False  # a partition is offline of which journals hold something
        self._begun = False
        self._tasks = Tasks(lambda error: log.report("the journal is not used", repr(error)))

    async def read(self, others_run: bool) -> None:
        """Read what no segment may have, for the partitions that are opened next.

        Raises: StorageError, OSError  a journal cannot be read or is damaged: nothing is served
        """
        directories = [self._mine] if others_run else sorted(self._all.glob("[0-9]*"))
        self._context.journaled = await self._context.disk.run(
            read_journals, directories, self._lock_wait_s
        )

    def was_applied(self, table: PartitionTable) -> None:
        """The partitions are open: what was read is in segments, but for those that are offline,
        or wait for room on the disk."""
        journaled, self._context.journaled = self._context.journaled, {}
        for key in journaled:
            partition = table.get_by_id(*key)
            log = partition.log if partition is not None else None
            if partition is not None and (partition.offline or (log and log.stalled)):
                self.needed = True
        if self.needed:
            self._log.report(
                "journals are kept and not used",
                "a partition is offline, or without room, of which they hold acknowledged records",
            )

    def begin(self) -> None:
        """All shards serve: begin the journal anew. Once; later calls are for other shards."""
        if not (self._begun or self.needed):
            self._begun = True
            self._tasks.spawn(self._begin())

    async def _begin(self) -> None:
        context, committer = self._context, self._context.committer
        try:
            journal = await context.disk.run(
                partial(
                    open_journal,
                    self._mine,
                    context.disk,
                    context.block_bytes,
                    self._lock_wait_s,
                    time.perf_counter,
                    committer.observe_write,
                    context.rng,
                    context.report,
                )
            )
        except (OSError, StorageError) as error:  # every partition is written by itself
            self._log.report("the journal is not used", str(error))
        else:
            committer.use(journal)

    async def settle(self) -> None:
        """The partitions are closed: wait for a beginning that is under way."""
        await self._tasks.join()

    def close(self) -> None:
        """The disk is closed too."""
        journal = self._context.committer.journal
        if journal is not None:
            journal.close()
