"""The text of GET /metrics, from the snapshots of all shards (Prometheus text format 0.0.4).

Which process: supervisor. prometheus_client writes it, one family at a time, except the series of
partitions: it takes 0.1 ms for the twelve of one, a second for 10,000 partitions, so those come as
columns, whose labels are made once and met again in every family. The text is made in pieces of
about a millisecond, and the loop runs on between them; it never exists as a whole.
prometheus_client is imported with the first scrape, which keeps it out of a start.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rpk_py.groups.lag import Lag
from rpk_py.lag_series import FAMILIES, lag_text
from rpk_py.metric_table import METRICS, PARTITION_COLUMNS
from rpk_py.metric_types import Metric
from rpk_py.process_stats import read_process

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

LINES_MAX: Final = 2000  # of one piece of partitions

Rows: TypeAlias = dict[str, list[list[Any]]]
"""Metric -> rows of label values and a value; a histogram's is [buckets, sum]."""
_Slices: TypeAlias = list[tuple[list[str], list[list[Any]]]]


def process_rows(pids: Mapping[str, int], rows: Rows) -> Iterator[None]:
    """Add what /proc knows of the supervisor ("") and of each shard (its node id) to `rows`.

    A generator that yields after each process, since that may take milliseconds.
    """
    total = 0
    for shard, pid in pids.items():
        stats = read_process(pid)
        if stats is not None:
            labels = ["shard" if shard else "supervisor", shard]
            total += stats.proportional_bytes
            for name, value in (
                ("rpk_process_resident_bytes", stats.resident_bytes),
                ("rpk_process_proportional_bytes", stats.proportional_bytes),
                ("rpk_process_open_fds", stats.open_fds),
                ("rpk_process_start_time_seconds", stats.started_s),
            ):
                rows.setdefault(name, []).append([*labels, value])
            for mode, seconds in (("user", stats.user_s), ("system", stats.system_s)):
                rows.setdefault("rpk_process_cpu_seconds_total", []).append(
                    [*labels, mode, seconds]
                )
        yield
    rows["rpk_resident_memory_bytes"] = [[total or os.sysconf("SC_PAGE_SIZE")]]


async def render(
    broker: Rows, shards: Mapping[int, Sequence[Mapping[str, Any]]], lags: Sequence[Lag] = ()
) -> AsyncIterator[bytes]:
    """The exposition, in pieces.

    Shapes:  broker  the supervisor's rows, with all label values that the metric has
             shards  node id -> the parts of that shard's snapshot (metrics.snapshot_parts)
             lags    of groups, by lag_series.gather_lags
    """
    rows = {name: list(of_broker) for name, of_broker in broker.items()}
    slices: _Slices = []
    for node_id, parts in shards.items():
        for part in parts:
            for name, of_shard in part.get("rows", {}).items():
                rows.setdefault(name, []).extend(
                    [*row[:-1], str(node_id), row[-1]] for row in of_shard
                )
            if "partitions" in part:
                topics, indexes, *columns = part["partitions"]
                slices.append((_partition_labels(topics, indexes, node_id), columns))
                await asyncio.sleep(0)
    for metric in METRICS.values():
        yield _family_text(metric, rows.get(metric.name, []))
        await asyncio.sleep(0)
        if metric.name in FAMILIES:
            async for piece in lag_text(metric.name, lags):
                yield piece
        lines: list[str] = []
        for labels, name, column in _columns_of(metric, slices):
            lines += [
                f"{name}{{{label}}} {value}\n" for label, value in zip(labels, column, strict=True)
            ]
            if len(lines) >= LINES_MAX:
                yield "".join(lines).encode()
                lines.clear()
                await asyncio.sleep(0)
        if lines:
            yield "".join(lines).encode()
            await asyncio.sleep(0)


class _Collected:
    """One family in the place of a registry."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> list[Family]:
        return [self._family]


def _family_text(metric: Metric, rows: Sequence[list[Any]]) -> bytes:
    """A family's head and the lines of its rows."""
    from prometheus_client import core
    from prometheus_client.exposition import generate_latest

    about = metric.name.removesuffix("_total"), metric.help
    family: Family
    if metric.kind == "counter":
        family = core.CounterMetricFamily(*about, labels=metric.labels)
    elif metric.kind == "gauge":
        family = core.GaugeMetricFamily(*about, labels=metric.labels)
    elif metric.kind == "histogram":
        family = core.HistogramMetricFamily(*about, labels=metric.labels)
    else:
        family = core.SummaryMetricFamily(*about, labels=metric.labels)
    for *labels, value in rows:
        if isinstance(family, core.HistogramMetricFamily):
            counts, total = value
            bounds = [*map(str, metric.bounds), "+Inf"]
            family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        else:
            assert isinstance(family, core.CounterMetricFamily | core.GaugeMetricFamily)
            family.add_metric(labels, value)
    return generate_latest(_Collected(family))


def _columns_of(metric: Metric, slices: _Slices) -> Iterator[tuple[list[str], str, list[Any]]]:
    """(labels, name of the series, values) of a family of partitions, slice by slice."""
    endings = ("_sum", "_count") if metric.kind == "summary" else ("",)
    for name in (metric.name + ending for ending in endings):
        if name in PARTITION_COLUMNS:
            position = PARTITION_COLUMNS.index(name)
            for labels, columns in slices:
                yield labels, name, columns[position]


def _partition_labels(topics: list[str], indexes: list[int], node_id: int) -> list[str]:
    # A topic's name needs no escape: Kafka's rules leave only letters, digits and "._-".
    return [
        f'topic="{topic}",partition="{index}",shard="{node_id}"'
        for topic, index in zip(topics, indexes, strict=True)
    ]
