"""PartitionTable: the partitions that this shard leads, kept as the cluster's metadata says.

One shard, one instance. The metadata replica calls `on_delta` after each revision, one at a
time, and acknowledges the revision when it returns: an answered CreateTopics is served, an
answered DeleteTopics is off the disk. A partition that cannot be opened stays in the table,
offline, so that clients get KAFKA_STORAGE_ERROR and the others are served.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kafka_protocol.errors import ErrorCode
from rpk_py.config import Config
from rpk_py.metadata.state import (
    ClusterState,
    Delta,
    PartitionsChanged,
    PartitionState,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
    TopicState,
)
from rpk_py.partition import Partition
from rpk_py.tasks import Tasks
from rpk_py.topic_configs import LogSettings, log_settings
from storage.errors import ForeignDirectory, StorageError
from storage.log_context import LogConfig, LogContext
from storage.open_many import Wanted, open_logs
from storage.recycle import discard_unopened, empty_directory

OPENING_MAX = 1024  # partitions at the same time
SLICE_PARTITIONS = 200  # that are changed in one turn of the loop
TRASH = "trash"
_PARTITION_DIRECTORY = re.compile(r"(.+)-(\d+)")


class PartitionTable:
    """Partitions by (topic, index) and by (topic id, index)."""

    def __init__(self, config: Config, node_id: int, context: LogContext, log: Any) -> None:
        self._config = config
        self._node_id = node_id
        self._context = context
        self._log = log
        self._trash = config.data_dir / TRASH
        self._by_name: dict[tuple[str, int], Partition] = {}
        self._by_id: dict[tuple[bytes, int], Partition] = {}
        self._tasks = Tasks(
            lambda error: log.warning("cannot remove a deleted partition", reason=str(error))
        )
        self.any_compacted = False  # there was one, at least
        self._disk_full: str | None = None
        self._changing = asyncio.Lock()  # one delta, or the close, at a time
        self._cleaned = False
        self._closed = False

    def get(self, topic: str, index: int) -> Partition | None:
        """The partition, if this shard leads it."""
        return self._by_name.get((topic, index))

    def get_by_id(self, topic_id: bytes, index: int) -> Partition | None:
        """The partition, if this shard leads it."""
        return self._by_id.get((topic_id, index))

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def why_missing(
        self, state: ClusterState, topic: str, topic_id: bytes | None, index: int
    ) -> tuple[ErrorCode, PartitionState | None]:
        """Why `get` gave None: the error for the client, and the partition as it stands in the
        metadata where another node leads it (for `current_leader`)."""
        found = state.topics.get(topic) if topic_id is None else state.topics_by_id.get(topic_id)
        if found is None:
            unknown = ErrorCode.UNKNOWN_TOPIC_ID if topic_id else None
            return unknown or ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None
        if not 0 <= index < len(found.partitions):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None
        return ErrorCode.NOT_LEADER_OR_FOLLOWER, found.partitions[index]

    async def refuse_produce(self, message: str | None) -> None:
        """Have producers of every partition, also of those that are opened later, told that the
        disk is full; None: no more."""
        self._disk_full = message
        for i, partition in enumerate(list(self), 1):
            partition.refuse_produce(self._disk_full)
            if i % SLICE_PARTITIONS == 0:
                await asyncio.sleep(0)

    # -- following the metadata ------------------------------------------------------------

    async def on_delta(self, delta: Delta | None, state: ClusterState) -> None:
        """Open, move and close partitions as `delta` says; None: the whole state is new."""
        async with self._changing:
            if self._closed:
                return
            if delta is None:
                await self._reconcile(state)
                return
            for change in delta.changes:
                if isinstance(change, TopicCreated):
                    topic = state.topics_by_id.get(change.topic.topic_id)
                    await self._open_all(self._led(topic), state)
                elif isinstance(change, TopicDeleted):
                    await self._delete_topic(change.topic_id)
                elif isinstance(change, PartitionsChanged | TopicConfigsChanged):
                    await self._update(state.topics_by_id.get(change.topic_id), state)

    async def configure(self, config: Config, state: ClusterState) -> None:
        """Go on with changed broker settings, which open partitions follow, too."""
        async with self._changing:
            if self._closed:
                return
            self._config = config
            known: dict[bytes, tuple[LogSettings, LogConfig]] = {}
            for i, partition in enumerate(list(self)):
                topic = state.topics_by_id.get(partition.topic_id)
                if topic is None:
                    continue  # its deletion is on the way
                settings = known.get(topic.topic_id)
                if settings is None:
                    settings = known[topic.topic_id] = self._settings(topic)
                self._apply(partition, *settings)
                if i % SLICE_PARTITIONS == SLICE_PARTITIONS - 1:
                    await asyncio.sleep(0)

    async def _reconcile(self, state: ClusterState) -> None:
        for topic_id in {key[0] for key in self._by_id} - state.topics_by_id.keys():
            await self._delete_topic(topic_id)
        if not self._cleaned:
            self._cleaned = True
            self._discard(await self._context.disk.run(self._deleted_directories, state))
        topics = list(state.topics.values())
        for topic in topics:
            await self._adjust(topic)
        await self._open_all([pair for topic in topics for pair in self._led(topic)], state)

    def _deleted_directories(self, state: ClusterState) -> list[Path]:
        """Move what deleted topics left behind into the trash; all that is there. Blocks.

        Only a topic that the metadata knows to be deleted counts: a directory that it does not
        know at all may be all that is left after the metadata file was lost.
        """
        for path in sorted(self._config.data_dir.iterdir()):
            named = _PARTITION_DIRECTORY.fullmatch(path.name)
            if not named or named[1] in state.topics or not path.is_dir():
                continue
            try:
                discard_unopened(path, state.deleted_topic_ids, self._trash)
            except OSError as error:  # not ours to read
                self._log.warning("cannot look at a directory", reason=str(error))
            except ForeignDirectory:
                self._log.warning(
                    "a directory of no known topic is left alone",
                    directory=str(path),
                    fix="if metadata.db was lost, restore it, else remove the directory",
                )
        return list(self._trash.iterdir()) if self._trash.exists() else []

    def _led(self, topic: TopicState | None) -> list[tuple[TopicState, PartitionState]]:
        partitions = topic.partitions if topic is not None else []
        return [(topic, p) for p in partitions if topic is not None and p.leader == self._node_id]

    async def _open_all(
        self, wanted: list[tuple[TopicState, PartitionState]], state: ClusterState
    ) -> None:
        """Open those that are not open yet."""
        missing = [pair for pair in wanted if (pair[0].topic_id, pair[1].index) not in self._by_id]
        progress = self._context.progress
        progress.partitions += len(missing)
        for start in range(0, len(missing), OPENING_MAX):
            some = missing[start : start + OPENING_MAX]
            await self._open(some, state)
            progress.open += len(some)

    async def _open(
        self, missing: list[tuple[TopicState, PartitionState]], state: ClusterState
    ) -> None:
        known: dict[bytes, tuple[LogSettings, LogConfig]] = {}
        partitions: list[Partition] = []
        wanted: list[Wanted] = []
        for topic, led in missing:
            if topic.topic_id not in known:
                known[topic.topic_id] = self._settings(topic)
            settings, log_config = known[topic.topic_id]
            partition = Partition(
                topic.name,
                topic.topic_id,
                led.index,
                led.leader_epoch,
                settings.max_message_bytes,
                settings.log_append_time,
            )
            self._apply(partition, settings, log_config)
            directory = self._config.data_dir / f"{topic.name}-{led.index}"
            partitions.append(partition)
            wanted.append(
                Wanted(log_config, directory, topic.topic_id, led.index, partition.producers)
            )
        is_deleted = state.deleted_topic_ids.__contains__
        logs = await open_logs(self._context, wanted, self._trash, is_deleted)
        for partition, one, log in zip(partitions, wanted, logs, strict=True):
            if isinstance(log, Exception):
                self._offline(partition, one.directory.name, log)
            else:
                partition.open(log)
            partition.refuse_produce(self._disk_full)  # it may have changed while logs were opened
            self._by_name[partition.topic, partition.index] = partition
            self._by_id[partition.topic_id, partition.index] = partition

    def _offline(self, partition: Partition, name: str, error: Exception) -> None:
        """It cannot be opened; the others are, all the same."""
        if isinstance(error, StorageError | OSError):
            self._log.error("partition is offline", partition=name, reason=str(error))
        else:  # a bug of ours
            self._log.error("partition is offline", partition=name, exc_info=error)
        partition.fail(str(error), ErrorCode.KAFKA_STORAGE_ERROR)

    def _settings(self, topic: TopicState) -> tuple[LogSettings, LogConfig]:
        """What a topic's partitions and their logs go by."""
        settings = log_settings(topic.configs, self._config)
        return settings, LogConfig(
            segment_bytes=settings.segment_bytes,
            write_caching=settings.write_caching,
            flush_ms=settings.flush_ms,
            flush_bytes=settings.flush_bytes,
            segment_ms=settings.segment_ms,
            segment_jitter_ms=settings.segment_jitter_ms,
            deletes=settings.deletes,
            retention_ms=settings.retention_ms,
            retention_bytes=settings.retention_bytes,
        )

    async def _update(self, topic: TopicState | None, state: ClusterState) -> None:
        """Leadership or configs of a topic may have changed, or it is new."""
        if topic is not None:
            await self._adjust(topic)
            await self._open_all(self._led(topic), state)

    async def _adjust(self, topic: TopicState) -> None:
        """Bring the partitions that are open here to what the metadata says of them."""
        settings = self._settings(topic)
        for i, now in enumerate(list(topic.partitions), 1):
            if i % SLICE_PARTITIONS == 0:
                await asyncio.sleep(0)
            partition = self._by_id.get((topic.topic_id, now.index))
            if partition is None:
                continue
            if now.leader != self._node_id:
                await self._close(partition)
                continue
            if now.leader_epoch != partition.leader_epoch:
                partition.lead(now.leader_epoch)
            self._apply(partition, *settings)

    def _apply(self, partition: Partition, settings: LogSettings, log_config: LogConfig) -> None:
        partition.max_message_bytes = settings.max_message_bytes
        partition.log_append_time = settings.log_append_time
        partition.compacted = settings.compacts
        self.any_compacted = self.any_compacted or settings.compacts
        if partition.log is not None:
            partition.log.configure(log_config)

    def _forget(self, partition: Partition, error: ErrorCode) -> None:
        del self._by_name[partition.topic, partition.index]
        del self._by_id[partition.topic_id, partition.index]
        partition.fail("the partition is no longer here", error)

    async def _close(self, partition: Partition) -> None:
        """Leadership went elsewhere: make it durable and let go of its files."""
        self._forget(partition, ErrorCode.NOT_LEADER_OR_FOLLOWER)
        if partition.log is not None:
            try:
                await partition.log.close()
            except OSError as error:
                self._log.error("a partition did not close cleanly", reason=str(error))

    async def _delete_topic(self, topic_id: bytes) -> None:
        deleted = [p for key, p in self._by_id.items() if key[0] == topic_id]
        for partition in deleted:
            self._forget(partition, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        for partition in deleted:
            try:
                if partition.log is not None:
                    discarded = await partition.log.delete(self._trash)
                else:
                    discarded = await self._context.disk.run(self._discard_unopened, partition)
            except OSError as error:  # the next start tries again
                self._log.error("cannot remove a deleted partition", reason=str(error))
            else:
                self._discard([discarded] if discarded is not None else [])

    def _discard_unopened(self, partition: Partition) -> Path | None:
        """Discard a partition that could not be opened, where its files are its own. Blocks."""
        directory = self._config.data_dir / f"{partition.topic}-{partition.index}"
        try:
            return discard_unopened(directory, {partition.topic_id}, self._trash)
        except ForeignDirectory:
            self._log.warning(
                "the directory of a deleted partition is left alone",
                directory=str(directory),
                reason="it holds files that are not known to be its own",
                fix="remove it by hand",
            )
            return None

    def _discard(self, directories: list[Path]) -> None:
        """Retire or delete the files of discarded partitions, in the background."""
        for directory in directories:
            self._tasks.spawn(
                self._context.disk.run(empty_directory, directory, self._context.pool)
            )

    async def close(self) -> None:
        """Make every partition durable, checkpoint it and close its files; then take no delta."""
        async with self._changing:
            self._closed = True
            logs = [partition.log for partition in self if partition.log is not None]
            for outcome in await asyncio.gather(
                *(log.close() for log in logs), return_exceptions=True
            ):
                if isinstance(outcome, BaseException):
                    self._log.error("a partition did not close cleanly", reason=str(outcome))
        await self._tasks.join()
