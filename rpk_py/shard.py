"""One shard: a process with a core, a loop, a ring and a listening socket of its own.

The composition root: everything that a shard consists of is built here, in order, and taken down
in reverse. The supervisor forks a process and calls `run`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import sys
import time
from functools import partial
from itertools import chain
from typing import Any, Protocol

from rpk_py.background_process import BackgroundProcess
from rpk_py.broker_configs import effective_config
from rpk_py.cleaner import clean
from rpk_py.config import Config
from rpk_py.context import Broker
from rpk_py.data_dir import LOCK_NAME, RECYCLE
from rpk_py.disk_space import DiskSpace
from rpk_py.disk_speed import DiskSpeed
from rpk_py.event_loop import new_event_loop
from rpk_py.file_limit import segment_files_max
from rpk_py.housekeeping import Housekeeping
from rpk_py.journal_life import JournalOfShard
from rpk_py.log_setup import Log, log_loop_problems, make_logger
from rpk_py.metadata.replica import MetadataReplica, OnDelta, open_replica
from rpk_py.metadata.state import BrokerConfigsChanged, ClusterState, Delta, Json
from rpk_py.metrics import LAG_INTERVAL_S, ShardMetrics, group_parts, snapshot_parts
from rpk_py.partition_table import PartitionTable
from rpk_py.producer_ids import ProducerIds
from rpk_py.server import Server
from storage.backend import open_disk
from storage.committer import Committer
from storage.disk import Disk, alignment, open_segment
from storage.log_context import LogContext
from storage.progress import Progress
from storage.queued_disk import QueuedDisk
from storage.record_buffer import RecordCache
from storage.recycle import SegmentPool
from storage.space import Level, read_usage

EXPIRE_INTERVAL_S = 60.0
WATERMARKS_INTERVAL_S = 1.0
WATERMARKS_SLICE = 200  # partitions between two looks at the clock
# A collection every 700 objects was 3% of the shard's CPU; one every 50,000 paused it for 8 ms.
RECOVERY_TOLD_S = 3.0
GC_THRESHOLDS = (10_000, 10, 50)


def run(
    config: Config,
    shard_index: int,
    node_id: int,
    listener: socket.socket,
    control: socket.socket,
    others_run: bool,
) -> int:
    """Serve until the supervisor says stop or is gone. Returns the process's exit code.

    others_run  the other shards use their journals: only its own is read
    """
    log = make_logger(config, shard=node_id)
    slow_loop = partial(log.report, "uvloop is not used")
    with asyncio.Runner(loop_factory=lambda: new_event_loop(slow_loop)) as runner:
        return runner.run(_serve(config, node_id, listener, control, others_run, log))


async def _serve(
    config: Config,
    node_id: int,
    listener: socket.socket,
    control: socket.socket,
    others_run: bool,
    log: Log,
) -> int:
    gc.set_threshold(*GC_THRESHOLDS)  # before the metadata makes its objects
    loop = asyncio.get_running_loop()
    log_loop_problems(loop, log)
    block_bytes, direct = _blocks_below(config)
    disk = open_disk(
        config.io_backend, loop, partial(log.report, "the best disk backend is not used")
    )
    metrics = ShardMetrics()
    context = _log_context(config, node_id, disk, block_bytes, metrics, log)
    await disk.run(context.pool.load)
    journal = JournalOfShard(config, node_id, context, log)
    await journal.read(others_run)
    replica = await _open_replica(config, node_id, control, log)
    stop = asyncio.Event()
    gone = asyncio.Event()
    replica.on_stop = lambda: _end_recovery(log)

    def lost() -> None:
        gone.set()
        stop.set()

    replica.on_lost = lost
    table = PartitionTable(config, node_id, context, log)
    broker = Broker(node_id, config, replica, table, ProducerIds(replica), metrics, loop, log)
    _watch(metrics, broker, context, disk)
    housekeeping = Housekeeping(broker, broker.clock_ms)
    space = _disk_space(broker, context, housekeeping, replica)
    background = context.background = _background(broker)
    replica.on_ask = partial(_answer, broker)
    replica.snapshot_metrics = lambda: chain(
        snapshot_parts(metrics, table), group_parts(broker.groups)
    )
    # The configs first: what a delta opens is opened with those in force.
    replica.on_delta += [_follow_configs(broker, housekeeping, log), table.on_delta]
    replica.on_delta.append(lambda delta, _state: broker.groups.on_delta(delta))
    await _recover(replica, context.progress, log)
    replica.on_stop = stop.set
    replica.on_all_ready = journal.begin
    journal.was_applied(table)
    server = Server(broker)
    await server.start(listener)
    gc.collect()
    gc.freeze()  # what start-up made lives as long as the process: never look at it again
    facts = {"backend": disk.name, "direct": direct, "block_bytes": block_bytes}
    replica.ready(**facts, journals_needed=journal.needed)
    broker.groups.start()
    housekeeping.start()
    space.start()
    periodic = (_expire_producers, _watch_loop, _watch_watermarks, clean)
    tasks = [loop.create_task(work(broker)) for work in periodic]
    tasks.append(loop.create_task(DiskSpeed(disk.slowest, metrics, log, broker.clock_s).run()))
    await stop.wait()
    await _end_work(tasks, space, housekeeping, background)
    await server.stop()
    await broker.groups.close()
    broker.turns.close()
    await table.close()
    await journal.settle()
    await disk.close()
    journal.close()
    await replica.close()
    return 1 if gone.is_set() else 0


class _Closes(Protocol):
    async def close(self) -> None:
        """End its work."""


async def _end_work(tasks: list[asyncio.Task[None]], *workers: _Closes) -> None:
    """End what goes on beside the requests."""
    for task in tasks:
        task.cancel()
    for worker in workers:
        await worker.close()


def _blocks_below(config: Config) -> tuple[int, bool]:
    """The block size of the data directory's file system, and whether I/O on it is direct."""
    fd, direct = open_segment(config.data_dir / LOCK_NAME)  # any regular file there tells
    try:
        return alignment(fd), direct
    finally:
        os.close(fd)


def _log_context(
    config: Config, node_id: int, disk: Disk, block_bytes: int, metrics: ShardMetrics, log: Log
) -> LogContext:
    loop, in_flight_max = asyncio.get_running_loop(), config.inflight_bytes_max
    return LogContext(
        disk=disk,
        committer=Committer(disk, loop, time.perf_counter, metrics.observe_write, in_flight_max),
        cache=RecordCache(config.cache_bytes),
        pool=SegmentPool(config.data_dir / RECYCLE / str(node_id), config.recycle_bytes),
        block_bytes=block_bytes,
        checkpoint_bytes=config.checkpoint_bytes,
        lock_wait_s=config.lock_wait_s,
        now_ms=lambda: time.time_ns() // 1_000_000,
        rng=random.SystemRandom(),
        report=log.report,
        files_max=segment_files_max(config),
    )


def _disk_space(
    broker: Broker, context: LogContext, housekeeping: Housekeeping, replica: MetadataReplica
) -> DiskSpace:
    def tell(level: Level) -> None:
        replica.tell({"type": "storage", "level": level.name.lower()})

    usage = partial(read_usage, broker.config.data_dir)
    space = DiskSpace(broker, context, housekeeping, usage, tell)
    watch = broker.metrics.watch
    watch("disk_free_bytes", lambda: space.usage.free_bytes)
    watch("disk_total_bytes", lambda: space.usage.total_bytes)
    watch("disk_level", lambda: space.level)
    watch("partitions_waiting_for_space", lambda: space.waiting_count)
    return space


def _background(broker: Broker) -> BackgroundProcess:
    return BackgroundProcess(
        broker.config.data_dir, lambda: broker.config.log_cleaner_io_max_bytes_per_second
    )


async def _open_replica(
    config: Config, node_id: int, control: socket.socket, log: Log
) -> MetadataReplica:
    return await open_replica(
        node_id,
        control,
        log,
        requests_max=config.control_requests_max,
        queue_max=config.control_queue_max,
        frame_bytes_max=config.control_frame_bytes_max,
        alive_interval_s=config.shard_silent_s_max / 10,
    )


async def _recover(replica: MetadataReplica, progress: Progress, log: Log) -> None:
    """Follow the metadata until this shard may serve; say meanwhile how far that is."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(RECOVERY_TOLD_S)
            facts = progress.facts()
            log.info(
                "recovering",
                partitions=facts["partitions"],
                partitions_open=facts["partitions_open"],
                scan_mib=facts["scan_mib"],
                scanned_mib=facts["scanned_mib"],
                remaining_s=facts["remaining_s"],
            )

    replica.progress = progress.facts
    telling = asyncio.ensure_future(tell())
    try:
        await replica.start()
    finally:
        telling.cancel()


def _end_recovery(log: Log) -> None:
    """Stop before anything was served: at once, as a kill would, which costs nothing.

    Nothing was acknowledged that is not on the disk, and a recovery may end anywhere: the next one
    begins anew.  To cancel it would close files under threads that still work on them.
    """
    log.info("stopped before it served")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _follow_configs(broker: Broker, housekeeping: Housekeeping, log: Log) -> OnDelta:
    """Keep `broker.config`, and what the log and open partitions take from it, as the metadata
    says."""

    async def on_delta(delta: Delta | None, state: ClusterState) -> None:
        changes = delta.changes if delta is not None else ()
        if delta is None or any(isinstance(change, BrokerConfigsChanged) for change in changes):
            broker.config = effective_config(
                broker.static_config,
                state.broker_configs,
                broker.node_id,
                partial(log.report, "a dynamic broker config is ignored"),
            )
            log.set_level(broker.config.log_level)
            broker.look_for_errors(log.debugs)
            await broker.partitions.configure(broker.config, state)
            housekeeping.configure()

    return on_delta


def _answer(broker: Broker, asked: Json) -> Any:
    """What the supervisor asks of this shard."""
    if asked["what"] == "group_history":
        return broker.groups.history(asked["group"])
    if asked["what"] == "ages":
        now_ms = broker.clock_ms()
        age_s = broker.watermarks.age_s
        return [age_s(topic, index, offset, now_ms) for topic, index, offset in asked["of"]]
    return None


async def _watch_watermarks(broker: Broker) -> None:
    """Remember when high watermarks were where, for the age of what groups have not consumed."""
    while True:
        await asyncio.sleep(WATERMARKS_INTERVAL_S)
        for number, partition in enumerate(list(broker.partitions)):
            broker.watermarks.note(
                partition.topic, partition.index, partition.high_watermark, broker.clock_ms()
            )
            if not number % WATERMARKS_SLICE:
                await broker.turns.pause()
        broker.watermarks.forget({(p.topic, p.index): None for p in broker.partitions})


async def _expire_producers(broker: Broker) -> None:
    """Forget idempotent producers that were silent for producer_id_expiration_ms."""
    while True:
        await asyncio.sleep(EXPIRE_INTERVAL_S)
        for partition in broker.partitions:
            partition.producers.expire(broker.clock_ms(), broker.config.producer_id_expiration_ms)


async def _watch_loop(broker: Broker) -> None:
    """Measure how late the loop is."""
    while True:
        due_s = broker.clock_s() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        now_s = broker.clock_s()
        broker.metrics.loop_lag.observe(now_s - due_s, now_s)


def _watch(metrics: ShardMetrics, broker: Broker, context: LogContext, disk: QueuedDisk) -> None:
    """Let the metrics read what their owners count already."""
    watch = metrics.watch
    watch("inflight_bytes", lambda: broker.inflight_bytes)
    watch("partial_frame_bytes", lambda: broker.partial_bytes)
    watch("reply_bytes", lambda: broker.unsent_bytes)
    watch("large_waiting", lambda: broker.turns.large_waiting)
    watch("log_lines_suppressed", lambda: broker.log_limit.suppressed)
    sessions = broker.fetch_sessions
    watch("fetch_sessions", lambda: len(sessions))
    watch("fetch_session_partitions", lambda: sessions.partitions)
    watch("fetch_sessions_evicted", lambda: sessions.evictions)
    watch("cache_bytes", lambda: context.cache.used_bytes)
    watch("cache_hits", lambda: context.cache.hits)
    watch("cache_misses", lambda: context.cache.misses)
    watch("group_commits", lambda: disk.writes)
    watch("write_bytes", lambda: disk.write_bytes)
    watch("disk_wait_seconds", lambda: round(disk.slowest()[0], 3))
    watch("journal_writes", lambda: context.committer.journal_writes)
    watch("journal_bytes", lambda: context.committer.journal_bytes)
    groups = broker.groups
    watch("group_members", lambda: groups.member_count)
    watch("group_rebalances", lambda: groups.rebalances)
    watch("offset_commits", lambda: groups.commits)
    watch("group_log_rewrites", lambda: sum(log.rewrites for log in groups.logs))
    watch("group_load_seconds", lambda: round(groups.load_seconds, 6))
    watch("partitions", lambda: len(broker.partitions))
    watch("partitions_offline", lambda: sum(p.offline for p in broker.partitions))
