"""What a metric is, and a table of some; the bounds of histograms that several share.

Pure data; no process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram", "summary"]

# Upper bounds in seconds: a consumer NVMe drive flushes in 0.5 to 5 ms, a cloud volume in tens.
WRITE_BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5),
)
REQUEST_BOUNDS: Final = (*WRITE_BOUNDS, 5.0, 10.0, 30.0)
WAIT_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# The timer that measures counts in whole milliseconds.
LAG_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
BATCHES_BOUNDS: Final = tuple(1 << n for n in range(11))
WRITE_BYTES_BOUNDS: Final = tuple(4096 << n for n in range(10))  # to 2 MiB: a full record and more


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. `advice`: what a high (or the named) value means to an operator. `bounds`: the
    upper bounds of a histogram's buckets, ascending, without +Inf."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    advice: str
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics that have their source in common; a section of docs/METRICS.md."""

    title: str
    text: str
    metrics: tuple[Metric, ...]


def rows(labels: tuple[str, ...], *lines: tuple[str, Kind, str, str]) -> tuple[Metric, ...]:
    return tuple(Metric(name, kind, labels, text, advice) for name, kind, text, advice in lines)
