"""The cleaner of a shard: has sealed segments rewritten, one at a time, in the background.

Which process: a shard. Every `log_cleaner_backoff_ms` it looks at all partitions, a slice at a
time. What it finds to do is done by another process (background_process.py), which all shards of a
broker take in turns; the shard itself only swaps files.
"""

from __future__ import annotations

import asyncio
from typing import Any

from rpk_py.context import Broker
from storage.errors import StorageError


async def clean(broker: Broker) -> None:
    """Clean for ever."""
    cleaner = Cleaner(broker)
    while True:
        await asyncio.sleep(broker.config.log_cleaner_backoff_ms / 1000)
        await cleaner.round()


class Cleaner:
    """One a shard."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.rewritten = 0  # segments whose padding is gone
        self.saved_bytes = 0

    async def round(self) -> None:
        """Look at every partition once, and do what is to be done there."""
        for partition in list(self._broker.partitions):
            await self._broker.turns.pause()
            if self._broker.config.segment_rewrite and partition.log is not None:
                await self._rewrite_padded(partition.log, f"{partition.topic}-{partition.index}")

    async def _rewrite_padded(self, log: Any, name: str) -> None:
        saved = log.rewriter.saved_bytes
        try:
            while await log.rewriter.rewrite_padded():
                self.rewritten += 1
        except StorageError as error:  # the log has failed, and has said so
            self._broker.log.debug("a log cannot be rewritten", partition=name, reason=str(error))
        saved = log.rewriter.saved_bytes - saved
        if saved:
            self.saved_bytes += saved
            self._broker.log.debug("padding was removed", partition=name, saved_bytes=saved)
