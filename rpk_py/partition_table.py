"""PartitionTable: the partitions that this shard leads, kept as the cluster's metadata says.

One shard, one instance. The metadata replica calls `on_delta` after each revision, one at a
time, and acknowledges the revision when it returns: an answered CreateTopics is served, an
answered DeleteTopics is off the disk. A partition that cannot be opened stays in the table,
offline, so that clients get KAFKA_STORAGE_ERROR and the others are served.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Iterator
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
from rpk_py.topic_configs import log_settings
from storage.errors import StorageError
from storage.log import LogConfig, LogContext, discard_directory, empty_directory
from storage.open_log import open_log

OPENING_MAX = 16  # partitions that recover at the same time
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
        self._tasks: set[asyncio.Task[None]] = set()

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

    # -- following the metadata ------------------------------------------------------------

    async def on_delta(self, delta: Delta | None, state: ClusterState) -> None:
        """Open, move and close partitions as `delta` says; None: the whole state is new."""
        if delta is None:
            await self._reconcile(state)
            return
        for change in delta.changes:
            if isinstance(change, TopicCreated):
                await self._open_all(self._led(state.topics_by_id.get(change.topic.topic_id)))
            elif isinstance(change, TopicDeleted):
                await self._delete_topic(change.topic_id)
            elif isinstance(change, PartitionsChanged | TopicConfigsChanged):
                await self._update(state.topics_by_id.get(change.topic_id))

    async def _reconcile(self, state: ClusterState) -> None:
        run = self._context.disk.run
        await run(self._context.pool.load)
        for topic_id in {key[0] for key in self._by_id} - state.topics_by_id.keys():
            await self._delete_topic(topic_id)
        if self._node_id == min(state.nodes, default=self._node_id):
            self._discard(await run(self._deleted_directories, set(state.topics)))
        led = [pair for topic in state.topics.values() for pair in self._led(topic)]
        await self._open_all(led)

    def _deleted_directories(self, topics: set[str]) -> list[Path]:
        """Move directories of topics that are gone into the trash; all that is there. Blocks."""
        for path in self._config.data_dir.iterdir():
            named = _PARTITION_DIRECTORY.fullmatch(path.name)
            if named and path.is_dir() and named[1] not in topics and any(path.glob("*.wal")):
                discard_directory(path, self._trash)
        return list(self._trash.iterdir()) if self._trash.exists() else []

    def _led(self, topic: TopicState | None) -> list[tuple[TopicState, PartitionState]]:
        partitions = topic.partitions if topic is not None else []
        return [(topic, p) for p in partitions if topic is not None and p.leader == self._node_id]

    async def _open_all(self, wanted: list[tuple[TopicState, PartitionState]]) -> None:
        missing = [pair for pair in wanted if (pair[0].topic_id, pair[1].index) not in self._by_id]
        for start in range(0, len(missing), OPENING_MAX):
            batch = missing[start : start + OPENING_MAX]
            await asyncio.gather(*(self._open(topic, state) for topic, state in batch))

    async def _open(self, topic: TopicState, state: PartitionState) -> None:
        settings = log_settings(topic.configs, self._config)
        partition = Partition(
            topic.name,
            topic.topic_id,
            state.index,
            state.leader_epoch,
            settings.max_message_bytes,
            settings.log_append_time,
        )
        config = LogConfig(
            segment_bytes=settings.segment_bytes,
            checkpoint_bytes=self._config.checkpoint_bytes,
            write_caching=settings.write_caching,
            flush_ms=settings.flush_ms,
            flush_bytes=settings.flush_bytes,
            lock_wait_s=self._config.lock_wait_s,
        )
        directory = self._config.data_dir / f"{topic.name}-{state.index}"
        try:
            log = await open_log(
                self._context,
                config,
                directory,
                topic.topic_id,
                state.index,
                partition.producers,
                self._trash,
            )
        except (StorageError, OSError, ValueError) as error:
            self._log.error("partition is offline", partition=directory.name, reason=str(error))
            partition.fail(str(error), ErrorCode.KAFKA_STORAGE_ERROR)
        else:
            partition.open(log)
        self._by_name[topic.name, state.index] = partition
        self._by_id[topic.topic_id, state.index] = partition

    async def _update(self, topic: TopicState | None) -> None:
        """Leadership or configs of a topic changed."""
        if topic is None:
            return
        settings = log_settings(topic.configs, self._config)
        for state in topic.partitions:
            partition = self._by_id.get((topic.topic_id, state.index))
            if partition is None:
                continue
            if state.leader != self._node_id:
                await self._close(partition)
                continue
            if state.leader_epoch != partition.leader_epoch:
                partition.lead(state.leader_epoch)
            partition.max_message_bytes = settings.max_message_bytes
            partition.log_append_time = settings.log_append_time
        await self._open_all(self._led(topic))

    def _forget(self, partition: Partition, error: ErrorCode) -> None:
        del self._by_name[partition.topic, partition.index]
        del self._by_id[partition.topic_id, partition.index]
        partition.fail("the partition is no longer here", error)

    async def _close(self, partition: Partition) -> None:
        """Leadership went elsewhere: make it durable and let go of its files."""
        self._forget(partition, ErrorCode.NOT_LEADER_OR_FOLLOWER)
        if partition.log is not None:
            await partition.log.close()

    async def _delete_topic(self, topic_id: bytes) -> None:
        for partition in [p for key, p in self._by_id.items() if key[0] == topic_id]:
            self._forget(partition, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            if partition.log is not None:
                discarded = await partition.log.delete(self._trash)
            else:
                directory = self._config.data_dir / f"{partition.topic}-{partition.index}"
                discarded = await self._context.disk.run(discard_directory, directory, self._trash)
            self._discard([discarded] if discarded is not None else [])

    def _discard(self, directories: list[Path]) -> None:
        """Retire or delete the files of discarded partitions, in the background."""
        for directory in directories:
            self._spawn(self._context.disk.run(empty_directory, directory, self._context.pool))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.warning("cannot remove a deleted partition", reason=str(task.exception()))

    async def close(self) -> None:
        """Make every partition durable, checkpoint it and close its files."""
        for partition in self:
            if partition.log is not None:
                await partition.log.close()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
