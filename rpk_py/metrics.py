"""Counters of a shard, and their Prometheus form.

Which process: ShardMetrics lives in a shard, where the hot path adds to plain ints; `render`
runs in the supervisor, which collects the snapshots of all shards for one scrape.
Invariants: nothing in ShardMetrics allocates on the hot path except a new API key's first count;
a snapshot is JSON-able; prometheus_client is imported here only, on the first scrape.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import ErrorCode

# Upper bounds in seconds: a consumer NVMe drive flushes in 0.5 to 5 ms, a cloud volume in tens.
WRITE_SECONDS_BUCKETS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    1.0,
    2.5,
)

_COUNTERS = {
    "connections_accepted": "Client connections accepted since the start.",
    "connections_rejected": "Client connections closed at once at connections_max.",
    "decode_errors": "Connections closed because the client broke the protocol.",
    "received_bytes": "Bytes of requests received.",
    "sent_bytes": "Bytes of replies handed to the kernel.",
    "produced_batches": "Record batches appended.",
    "produced_records": "Records appended.",
    "produced_bytes": "Bytes of record batches appended.",
    "duplicate_batches": "Batches of idempotent producers answered with their original offset.",
    "fetched_bytes": "Bytes of record batches sent to consumers.",
    "cache_hits": "Reads served from record buffers in memory.",
    "cache_misses": "Reads that had to go to disk.",
    "group_commits": "Durable writes of a partition, each serving all batches that waited.",
    "group_commit_batches": "Record batches made durable by group commits.",
    "write_bytes": "Bytes written to disk by group commits, padding included.",
    "reading_paused": "Times that a connection's reading was paused at a byte budget.",
}
_GAUGES = {
    "connections": "Client connections open now.",
    "inflight_bytes": "Bytes of requests being handled now.",
    "partial_frame_bytes": "Bytes of buffers for frames that are still arriving.",
    "reply_bytes": "Bytes of replies that the kernel has not taken yet.",
    "cache_bytes": "Bytes of record buffers held in memory.",
    "partitions": "Partitions that this shard leads.",
    "partitions_offline": "Partitions that this shard leads but cannot serve.",
    "fetch_waiters": "Fetch requests waiting for data.",
}


class ShardMetrics:
    """Plain ints of one shard; add to them directly: `metrics.cache_hits += 1`."""

    __slots__ = (
        *_COUNTERS,
        *_GAUGES,
        "_sources",
        "errors",
        "requests",
        "write_seconds_buckets",
        "write_seconds_sum",
    )

    connections_accepted: int
    connections_rejected: int
    decode_errors: int
    received_bytes: int
    sent_bytes: int
    produced_batches: int
    produced_records: int
    produced_bytes: int
    duplicate_batches: int
    fetched_bytes: int
    cache_hits: int
    cache_misses: int
    group_commits: int
    group_commit_batches: int
    write_bytes: int
    reading_paused: int
    connections: int
    inflight_bytes: int
    partial_frame_bytes: int
    reply_bytes: int
    cache_bytes: int
    partitions: int
    partitions_offline: int
    fetch_waiters: int

    def __init__(self) -> None:
        for name in (*_COUNTERS, *_GAUGES):
            setattr(self, name, 0)
        self.requests: dict[int, int] = {}  # by api key
        self.errors: dict[int, int] = {}  # by error code, as partitions or replies carry it
        self.write_seconds_buckets = [0] * (len(WRITE_SECONDS_BUCKETS) + 1)
        self.write_seconds_sum = 0.0
        self._sources: dict[str, Callable[[], int]] = {}

    def count_request(self, api_key: int) -> None:
        """Count one request of an API."""
        self.requests[api_key] = self.requests.get(api_key, 0) + 1

    def count_error(self, error_code: int) -> None:
        """Count one error code sent to a client."""
        self.errors[error_code] = self.errors.get(error_code, 0) + 1

    def observe_write(self, seconds: float) -> None:
        """Count the time from a group commit's submission to its durability."""
        self.write_seconds_buckets[bisect_left(WRITE_SECONDS_BUCKETS, seconds)] += 1
        self.write_seconds_sum += seconds

    def watch(self, name: str, read: Callable[[], int]) -> None:
        """Read a value that someone else keeps (the disk's counters) when a snapshot is taken.

        `name` is one of the names above, or a new gauge of this shard.
        """
        self._sources[name] = read

    def snapshot(self) -> dict[str, Any]:
        """All values now, JSON-able."""
        values = {name: getattr(self, name) for name in (*_COUNTERS, *_GAUGES)}
        for name, read in self._sources.items():
            values[name] = read()
        return {
            "values": values,
            "requests": {str(key): count for key, count in self.requests.items()},
            "errors": {str(code): count for code, count in self.errors.items()},
            "write_seconds_buckets": list(self.write_seconds_buckets),
            "write_seconds_sum": self.write_seconds_sum,
        }


def render(shards: Mapping[int, Mapping[str, Any]], broker: Mapping[str, float]) -> bytes:
    """The exposition text of all shards.

    shards  node id -> what that shard's `snapshot` returned
    broker  values of the supervisor, by name without prefix
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )

    class Collector:
        def collect(self) -> Iterator[Metric]:
            for name, value in broker.items():
                yield GaugeMetricFamily(f"rpk_{name}", _BROKER_HELP[name], value=value)
            yield from self.shard_values()
            yield self.by_label("rpk_requests", "Requests by API.", "requests", "api", _api_name)
            yield self.by_label(
                "rpk_errors",
                "Error codes that Produce and Fetch sent to clients.",
                "errors",
                "error",
                _error_name,
            )
            yield self.write_seconds()

        def shard_values(self) -> Iterator[Metric]:
            extra = {name for shot in shards.values() for name in shot["values"]}
            extra -= _COUNTERS.keys() | _GAUGES.keys()
            gauges = _GAUGES | {name: f"{name} of the shard." for name in sorted(extra)}
            family: CounterMetricFamily | GaugeMetricFamily
            for name, text in (_COUNTERS | gauges).items():
                kind = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
                family = kind(f"rpk_{name}", text, labels=["shard"])
                for node_id, shot in shards.items():
                    if name in shot["values"]:
                        family.add_metric([str(node_id)], shot["values"][name])
                yield family

        def by_label(
            self, name: str, text: str, key: str, label: str, label_of: Callable[[int], str]
        ) -> Metric:
            family = CounterMetricFamily(name, text, labels=["shard", label])
            for node_id, shot in shards.items():
                for number, count in shot[key].items():
                    family.add_metric([str(node_id), label_of(int(number))], count)
            return family

        def write_seconds(self) -> Metric:
            family = HistogramMetricFamily(
                "rpk_write_seconds", "Time of one durable group commit.", labels=["shard"]
            )
            for node_id, shot in shards.items():
                bounds = [str(bound) for bound in WRITE_SECONDS_BUCKETS] + ["+Inf"]
                total = 0
                buckets: list[tuple[str, float]] = []
                for bound, count in zip(bounds, shot["write_seconds_buckets"], strict=True):
                    total += count
                    buckets.append((bound, total))
                family.add_metric([str(node_id)], buckets, shot["write_seconds_sum"])
            return family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return generate_latest(registry)


_BROKER_HELP = {
    "up": "1 while all shards serve.",
    "shards": "Shards that this broker runs.",
    "shards_ready": "Shards that serve now.",
    "shard_restarts": "Shards that died and were started again.",
    "topics": "Topics of the cluster.",
    "metadata_revision": "Revision of the cluster's metadata.",
    "uptime_seconds": "Time since the supervisor started.",
    "resident_memory_bytes": "Proportional memory of the supervisor and all shards.",
}


def _api_name(key: int) -> str:
    try:
        return ApiKey(key).name.title().replace("_", "")  # as in Kafka's guide: ListOffsets
    except ValueError:
        return str(key)


def _error_name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)


def proportional_memory_bytes(pids: list[int]) -> int:
    """Memory of processes with shared pages counted once (PSS), of those that still exist."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
                lines = [line.split() for line in rollup if line.startswith("Pss:")]
        except OSError:
            continue
        total += sum(int(line[1]) for line in lines) * 1024
    return total or os.sysconf("SC_PAGE_SIZE")
