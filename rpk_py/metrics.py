"""What a shard counts, and the snapshot of it that the supervisor asks for.

Which process: a shard, whose hot path adds to plain ints (the supervisor times its commits with
a Histogram of its own). metric_table.py says what the names mean, exposition.py renders them.
Invariants: nothing here allocates for a request, except the first error of a kind; everything
starts at 0 with the process; a snapshot is JSON-able and comes in parts that take about a
millisecond each, however many partitions there are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from kafka_protocol.api import SUPPORTED
from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import ErrorCode
from rpk_py.groups.coordinator import GroupCoordinator
from rpk_py.metric_table import SHARD_VALUES
from rpk_py.metric_types import (
    BATCHES_BOUNDS,
    LAG_BOUNDS,
    REQUEST_BOUNDS,
    WAIT_BOUNDS,
    WRITE_BOUNDS,
    WRITE_BYTES_BOUNDS,
)
from storage.log_head import REASONS

if TYPE_CHECKING:
    from rpk_py.partition import Partition

LAG_INTERVAL_S: Final = 0.05
LAG_WINDOW_S: Final = 30.0  # longer than scrapes are apart, so that each pause is in one
SLICE_PARTITIONS: Final = 200  # of one part of a snapshot
# Why a connection was refused, and why an accepted one was closed for the sake of others.
REJECTED: Final = ("connections_max", "connections_per_address_max", "open_files", "stopping")
DROPPED: Final = ("idle", "partial_frames", "untaken_replies")


class Histogram:
    """Counts by upper bound, and the sum. `buckets` has one more entry than `bounds`: +Inf."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def snapshot(self) -> list[Any]:
        """[buckets, not cumulative; sum]"""
        return [self.buckets.copy(), self.sum]


class LoopLag:
    """How late the loop runs what is due."""

    __slots__ = ("_before_s", "_now_s", "_window_end_s", "histogram")

    def __init__(self) -> None:
        self.histogram = Histogram(LAG_BOUNDS)
        self._now_s = self._before_s = self._window_end_s = 0.0

    def observe(self, lag_s: float, now_s: float) -> None:
        """One timer was `lag_s` late; less than 0 is the clock's grain."""
        lag_s = max(lag_s, 0.0)
        self.histogram.observe(lag_s)
        if now_s >= self._window_end_s:
            self._before_s, self._now_s = self._now_s, 0.0
            self._window_end_s = now_s + LAG_WINDOW_S
        self._now_s = max(self._now_s, lag_s)

    @property
    def max_s(self) -> float:
        """The largest lag of this window and the one before."""
        return max(self._now_s, self._before_s)


class ShardMetrics:
    """Plain ints of one shard; add to them directly: `metrics.produced_records += 1`.

    Those that someone else keeps already are read at a snapshot, see `watch`.
    """

    __slots__ = (
        *SHARD_VALUES,
        "_commit_batches",
        "_commit_bytes",
        "_sources",
        "_write_seconds",
        "connections_dropped",
        "connections_rejected",
        "deleted_bytes",
        "deleted_segments",
        "errors",
        "fetch_wait_seconds",
        "loop_lag",
        "request_seconds",
        "requests",
    )

    decode_errors: int
    requests_too_large: int
    received_bytes: int
    sent_bytes: int
    reading_paused: int
    fetch_waiters: int
    connections: int
    connections_accepted: int
    produced_batches: int
    produced_records: int
    produced_bytes: int
    duplicate_batches: int
    retention_checks: int
    rewritten_segments: int
    rewriting_saved_bytes: int
    compactions: int
    compaction_seconds: float
    compaction_read_bytes: int
    compaction_dropped_records: int
    fetched_records: int
    fetched_bytes: int

    def __init__(self) -> None:
        for name in SHARD_VALUES:
            setattr(self, name, 0)
        self.requests = dict.fromkeys(map(int, SUPPORTED), 0)
        self.request_seconds = {int(key): Histogram(REQUEST_BOUNDS) for key in SUPPORTED}
        self.connections_rejected = dict.fromkeys(REJECTED, 0)  # by reason
        self.connections_dropped = dict.fromkeys(DROPPED, 0)
        self.deleted_segments = dict.fromkeys(REASONS, 0)
        self.deleted_bytes = dict.fromkeys(REASONS, 0)
        self.errors: dict[tuple[int, int], int] = {}  # by API and error code
        self.fetch_wait_seconds = Histogram(WAIT_BOUNDS)
        self.loop_lag = LoopLag()
        self._write_seconds = Histogram(WRITE_BOUNDS)
        self._commit_batches = Histogram(BATCHES_BOUNDS)
        self._commit_bytes = Histogram(WRITE_BYTES_BOUNDS)
        self._sources: dict[str, Callable[[], float]] = {
            "loop_lag_max_seconds": lambda: self.loop_lag.max_s
        }

    def observe_request(self, api_key: int, seconds: float) -> None:
        """A request's reply is handed over, `seconds` after its turn came."""
        histogram = self.request_seconds[api_key]
        histogram.buckets[bisect_left(REQUEST_BOUNDS, seconds)] += 1
        histogram.sum += seconds

    def count_error(self, api_key: int, error_code: int) -> None:
        """Count one error code sent to a client."""
        key = (api_key, error_code)
        self.errors[key] = self.errors.get(key, 0) + 1

    def observe_write(self, seconds: float, batches: int, size_bytes: int) -> None:
        """A group commit of so many batches is durable, `seconds` after its submission."""
        self._write_seconds.observe(seconds)
        self._commit_batches.observe(batches)
        self._commit_bytes.observe(size_bytes)

    def writes_slower_than(self, bucket: int) -> int:
        """Durable writes so far that were counted in this bucket of WRITE_BOUNDS or later."""
        return sum(self._write_seconds.buckets[bucket:])

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Read a value that someone else keeps (the disk's counters) when a snapshot is taken.

        `name` is one of SHARD_VALUES.
        """
        assert name in SHARD_VALUES
        self._sources[name] = read

    def snapshot(self) -> dict[str, list[list[Any]]]:
        """Metric -> rows of label values, without the shard's, and a value; JSON-able.

        A histogram's value is its `snapshot`.
        """
        rows = {full: [[getattr(self, name)]] for name, full in SHARD_VALUES.items()}
        for name, read in self._sources.items():
            rows[SHARD_VALUES[name]] = [[read()]]
        seen = [key for key, count in self.requests.items() if count]
        rows["rpk_requests_total"] = [[_api_name(key), self.requests[key]] for key in seen]
        rows["rpk_request_seconds"] = [
            [_api_name(key), self.request_seconds[key].snapshot()] for key in seen
        ]
        rows["rpk_errors_total"] = [
            [_api_name(key), _error_name(code), count] for (key, code), count in self.errors.items()
        ]
        for name, counts in (
            ("rpk_connections_rejected_total", self.connections_rejected),
            ("rpk_connections_dropped_total", self.connections_dropped),
            ("rpk_deleted_segments_total", self.deleted_segments),
            ("rpk_deleted_bytes_total", self.deleted_bytes),
        ):
            rows[name] = [[reason, count] for reason, count in counts.items()]
        for name, histogram in (
            ("rpk_fetch_wait_seconds", self.fetch_wait_seconds),
            ("rpk_loop_lag_seconds", self.loop_lag.histogram),
            ("rpk_write_seconds", self._write_seconds),
            ("rpk_group_commit_batches", self._commit_batches),
            ("rpk_group_commit_bytes", self._commit_bytes),
        ):
            rows[name] = [[histogram.snapshot()]]
        return rows


def snapshot_parts(
    metrics: ShardMetrics, partitions: Iterable[Partition]
) -> Iterator[dict[str, Any]]:
    """The snapshot of a shard in parts, to be taken one a turn of the loop.

    Shapes:  rows        as of ShardMetrics.snapshot
             partitions  columns of SLICE_PARTITIONS partitions at most: their topics, their
                         numbers, and PARTITION_COLUMNS
    """
    yield {"rows": metrics.snapshot()}
    present = list(partitions)
    for start in range(0, len(present), SLICE_PARTITIONS):
        some = present[start : start + SLICE_PARTITIONS]
        offline = [[p.topic, str(p.index), 1] for p in some if p.offline]
        yield {"rows": {"rpk_partition_offline": offline}, "partitions": _columns(some)}


def group_parts(coordinator: GroupCoordinator) -> Iterator[dict[str, Any]]:
    """What the shard's groups are and have committed, in parts.

    Shapes:  rows       of rpk_groups
             committed  [group, topic, partition, offset] of SLICE_PARTITIONS at most
    """
    counts: Counter[tuple[str, str]] = Counter()
    some: list[tuple[str, str, int, int]] = []
    for group in coordinator.groups():
        counts[group.type_name, group.state_name] += 1
        for topic, index, value in group.offsets.all():
            some.append((group.group_id, topic, index, value.committed_offset))
        if len(some) >= SLICE_PARTITIONS:
            yield {"committed": some}
            some = []
    yield {"committed": some, "rows": {"rpk_groups": [[*key, n] for key, n in counts.items()]}}


def _columns(partitions: list[Partition]) -> list[list[Any]]:
    logs = [p.log for p in partitions]
    return [
        [p.topic for p in partitions],
        [p.index for p in partitions],
        [p.bytes_in for p in partitions],
        [p.records_in for p in partitions],
        [p.bytes_out for p in partitions],
        [p.records_out for p in partitions],
        [round(log.write_seconds, 6) if log is not None else 0 for log in logs],
        [log.writes if log is not None else 0 for log in logs],
        [p.log_start_offset for p in partitions],
        [log.log_end_offset if log is not None else -1 for log in logs],
        [p.high_watermark for p in partitions],
        [log.size_bytes if log is not None else 0 for log in logs],
        [p.leader_epoch for p in partitions],
    ]


def _api_name(key: int) -> str:
    return ApiKey(key).name.title().replace("_", "")  # as in Kafka's guide: ListOffsets


def _error_name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)
