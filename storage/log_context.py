"""What a log is given: its settings, what all logs of a shard share, its state and its owner."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kafka_protocol.record_batch import BatchHeader
from storage.background import Background
from storage.committer import Committer
from storage.disk import Disk
from storage.errors import StorageError
from storage.journal import Entries
from storage.progress import Progress
from storage.record_buffer import RecordCache
from storage.recycle import SegmentPool
from storage.segment_files import SegmentFiles
from storage.small_files import SmallFiles

if TYPE_CHECKING:
    from storage.log import Log


class ProducerState(Protocol):
    """The partition's producer state, which a log replays at recovery and keeps in checkpoints."""

    def load(self, snapshot: bytes) -> None:
        """Start from a snapshot. Raises ValueError if it is nonsense."""

    def snapshot(self) -> bytes:
        """The state as of the last append."""

    def replay(self, batch: BatchHeader) -> None:
        """Note a batch of the log during recovery; never raises."""


class LogOwner(Protocol):
    """Who is told of a log's progress: its partition."""

    def on_durable(self, durable_offset: int) -> None:
        """Everything before `durable_offset` is on stable storage."""

    def on_log_failed(self, error: StorageError) -> None:
        """The log takes no more appends and serves no more reads until restart."""

    def on_log_stalled(self, error: StorageError, from_offset: int) -> None:
        """There is no room for what was appended from that offset on: it waits in memory, and more
        should not come. What is durable is served."""

    def on_log_resumed(self) -> None:
        """There is room again, and what waited is being written."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """A log's settings, which may change while it is open; Kafka's and Redpanda's topic configs
    of the same names. `deletes`: cleanup.policy contains delete."""

    segment_bytes: int = 1 << 30
    segment_ms: int = 604_800_000
    segment_jitter_ms: int = 0
    deletes: bool = True
    retention_ms: int = 604_800_000
    retention_bytes: int = -1
    write_caching: bool = False
    flush_ms: int = 100
    flush_bytes: int = 256 << 10


def _nothing(_log: Log) -> None:
    """Nobody minds."""


@dataclass(slots=True)
class LogContext:
    """What all logs of one shard share, for as long as it runs.

    `checkpoint_bytes`: a checkpoint each so many bytes of appends
    `lock_wait_s`: how long a segment that another process has locked is waited for
    `report`: tells the operator, given the event's name, which never changes, and a sentence
    `journaled`: what journals hold of partitions that are not open yet
    `background`: who rewrites segments; None: a thread of the disk
    `files_max`: how many segments are open at a time, see `files`
    `no_space`: told of a log that waits for room: for what was appended to it, or a file it needs
    `disk_full`: nothing may be written that can wait
    `looks_inside`: held by the search that looks into a batch, see timestamps.py
    `progress`: how far the opening of logs is
    """

    disk: Disk
    committer: Committer
    cache: RecordCache
    pool: SegmentPool
    block_bytes: int
    checkpoint_bytes: int
    lock_wait_s: float
    now_ms: Callable[[], int]
    rng: random.Random
    report: Callable[[str, str], None]
    journaled: Entries = field(default_factory=dict)
    background: Background | None = None
    files_max: int = 1000
    no_space: Callable[[Log], None] = _nothing
    disk_full: bool = False
    looks_inside: asyncio.Lock = field(default_factory=asyncio.Lock)
    progress: Progress = field(default_factory=Progress)
    files: SegmentFiles = field(init=False)
    small_files: SmallFiles = field(init=False)

    def __post_init__(self) -> None:
        self.small_files = SmallFiles(self.disk)
        self.files = SegmentFiles(self.disk, self.files_max, self.lock_wait_s, self.report)
