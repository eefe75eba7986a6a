"""The cleaner of a shard: has sealed segments rewritten and logs compacted, in the background.

Which process: a shard. Every `log_cleaner_backoff_ms` it looks at all partitions, a slice at a
time. What it finds to do is done one after the other by another process (background_process.py),
which all shards of a broker take in turns; the shard itself only swaps files. Padding goes first,
since what a log holds of new records is measured without it; then logs are compacted, the
dirtiest first. Internal topics bound themselves (groups/group_log.py) and are not compacted.
Source: LogCleaner of Apache Kafka.
"""

from __future__ import annotations

import asyncio

from rpk_py.context import Broker
from rpk_py.partition import Partition
from rpk_py.topic_configs import log_settings
from storage.compaction import Cleanable, CompactionConfig
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

    async def round(self) -> None:
        """Look at every partition once, and do what is to be done. One that fails, or goes away
        meanwhile, does not end the round."""
        broker = self._broker
        dirty: list[tuple[float, Partition, Cleanable, CompactionConfig]] = []
        for partition in list(broker.partitions):
            await broker.turns.pause()
            if partition.log is None or not partition.log.has_sealed:
                continue
            try:
                await self._rewrite_padded(partition)
                config = self._compaction_config(partition)
                if config is None or partition.log is None:
                    continue
                found = await partition.log.compactor.cleanable(config)
                if found.due:
                    dirty.append((found.ratio, partition, found, config))
            except (StorageError, OSError) as error:
                self._failed(partition, error)
            except Exception:  # a bug of ours; the other partitions are cleaned all the same
                broker.log.exception("a log cannot be cleaned", partition=partition.name)
        for _, partition, found, config in sorted(dirty, key=lambda entry: -entry[0]):
            try:
                await self._compact(partition, found, config)
            except (StorageError, OSError) as error:
                self._failed(partition, error)
            except Exception:
                broker.log.exception("a log cannot be cleaned", partition=partition.name)

    async def _rewrite_padded(self, partition: Partition) -> None:
        log, broker = partition.log, self._broker
        if log is None or not broker.config.segment_rewrite:
            return
        saved, count = log.rewriter.saved_bytes, 0
        while await log.rewriter.rewrite_padded():
            count += 1
        if count:
            saved = log.rewriter.saved_bytes - saved
            broker.metrics.rewritten_segments += count
            broker.metrics.rewriting_saved_bytes += saved
            broker.log.debug("padding was removed", partition=partition.name, saved_bytes=saved)

    def _compaction_config(self, partition: Partition) -> CompactionConfig | None:
        """What a partition is compacted by; None: it is not."""
        broker = self._broker
        topic = broker.metadata.state.topics_by_id.get(partition.topic_id)
        if not broker.config.log_cleaner_enable or not partition.compacted or topic is None:
            return None
        if partition.internal or partition.log is None or not partition.log.rewriter.may_try:
            return None
        settings = log_settings(topic.configs, broker.config)
        return CompactionConfig(
            settings.segment_bytes,
            settings.dirty_ratio_min,
            settings.compaction_lag_ms_min,
            settings.compaction_lag_ms_max,
            settings.delete_retention_ms,
            broker.config.log_cleaner_dedupe_buffer_bytes,
        )

    async def _compact(
        self, partition: Partition, found: Cleanable, config: CompactionConfig
    ) -> None:
        log, broker = partition.log, self._broker
        if log is None or not log.usable:
            return
        began_s = broker.clock_s()
        done = await log.compactor.compact(found, config, partition.producers.last_batches())
        if done is None:
            return
        seconds = broker.clock_s() - began_s
        broker.metrics.compactions += 1
        broker.metrics.compaction_read_bytes += done.bytes_before
        broker.metrics.compaction_dropped_records += done.dropped
        broker.metrics.compaction_seconds += seconds
        broker.log.info(
            "a log was compacted",
            partition=partition.name,
            records=done.records,
            dropped=done.dropped,
            bytes_before=done.bytes_before,
            bytes_after=done.bytes_after,
            seconds=round(seconds, 3),
        )

    def _failed(self, partition: Partition, error: Exception) -> None:
        """A disk has failed, and so has the log, which has said so."""
        reason = str(error)
        self._broker.log.debug("a log cannot be cleaned", partition=partition.name, reason=reason)
