"""bench/RESULTS.md and its plot from bench/results/results.json.

Everything but the notes (bench/results/notes.md: causes and next ideas, by hand) is computed, the
verdicts too: who is behind whom is not written by anybody.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.compare.columns import (
    CACHING,
    KAFKA,
    KAFKA_FLUSH,
    REDPANDA,
    RPK_PY,
    SHARDS_2,
    TANSU,
)
from bench.compare.rows import BY_NAME, ROWS, Row

RESULTS = Path("bench/results/results.json")
PAGE = Path("bench/RESULTS.md")
PLOT = Path("bench/results/results.png")
NOTES = Path("bench/results/notes.md")
COLUMNS = (RPK_PY, CACHING, SHARDS_2, KAFKA_FLUSH, KAFKA, TANSU, REDPANDA)
EVEN = 0.05  # medians that differ by less are called even
GENERATOR_LIMIT = 0.9  # of its core: then it, and not the broker, is measured
CPU_GOAL = 0.5  # of Kafka's CPU a record
GROWTH_GOAL = 1.5  # the most expensive step of a series, in the cheapest
SEQUENTIAL_GOAL = 1.3  # times fio's write and the empty echo
UNITS = {
    "per_s": "records/s", "cpu_us": "CPU us a record", "p50_ms": "p50 ms", "p99_ms": "p99 ms",
    "p99.9_ms": "p99.9 ms", "max_ms": "max ms", "mean_ms": "mean ms", "peak_mb": "peak MB",
}  # fmt: skip
SCENARIOS = {
    1: "Bulk produce, acks=all",
    2: "One record a request, acks=all",
    3: "End-to-end latency",
    4: "Consume",
    5: "At the tail",
    7: "Growth",
    8: "Many partitions",
}
STARTS = {
    "first_ack_s": "exec to the first acknowledged record, s",
    "idle_mb": "memory idle (PSS), MB",
    "idle_cpu_percent": "CPU idle, % of a core",
    "filled_mb": "memory after 1 GiB (PSS), MB",
    "filled_peak_mb": "its peak meanwhile (RSS), MB",
}
LIMITS = {
    "memcpy_mb_s": "memcpy, MiB/s",
    "loopback_mb_s": "loopback TCP, one connection, MiB/s",
    "echo_p50_ms": "an empty uvloop echo of a frame, p50 ms",
    "echo_per_s": "the same, one in flight, a second",
    "echo_cpu_us": "the same, CPU us a frame",
    "fio_8k_p50_ms": "fio, 8 KiB, Direct I/O, O_DSYNC, one in flight, p50 ms",
    "fio_8k_p99_ms": "the same, p99 ms",
    "fio_8k_cpu_us": "the same, CPU us a write in the kernel alone",
    "fio_1m_mb_s": "fio, 1 MiB, Direct I/O, O_DSYNC, 4 in flight, MiB/s",
}
HIGHER_IS_BETTER = {"per_s"}
_PUBLISHED = "https://redpanda.com/blog/"
_DOUBTED = "https://jack-vanlightly.com/blog/2023/5/15/"
REDPANDA_ABSENT = f"""

Redpanda: not measured here, since there is no binary of it (`bench/peers/redpanda.py` runs one that
is in PATH). What it has published of itself, of three nodes on other machines, so that nothing
here can be set beside it: 1,250,000 records/s of 1 KB with acks=all and an fsync after every batch
([2021]({_PUBLISHED}redpanda-faster-safer-than-kafka)); a p99.99 at least ten times lower than that
of Kafka 3.2 at up to 1 GB/s ([2022]({_PUBLISHED}redpanda-vs-kafka-performance-benchmark)). Others
[did not find the same]({_DOUBTED}kafka-vs-redpanda-performance-do-the-claims-add-up)."""


@dataclass
class Verdict:
    """One comparison: `ratio` is how many times better ours is."""

    row: str
    figure: str
    ours: str
    peer: str
    ratio: float

    @property
    def behind(self) -> bool:
        """Whether we lost it."""
        return self.ratio < 1 - EVEN


class Results:
    """What a run has measured, by row and column."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.rows: dict[str, dict[str, list[dict[str, float]]]] = data["rows"]

    def median(self, row: str, column: str, figure: str) -> float | None:
        """The median over the rounds, None where it was not measured."""
        values = self.values(row, column, figure)
        return statistics.median(values) if values else None

    def values(self, row: str, column: str, figure: str) -> list[float]:
        """The rounds."""
        rounds = self.rows.get(row, {}).get(column, [])
        return [one[figure] for one in rounds if figure in one]

    def columns(self, rows: list[str]) -> list[str]:
        """Those that any of the rows has."""
        return [one for one in COLUMNS if any(one in self.rows.get(row, {}) for row in rows)]

    def generator_limited(self, row: str, column: str) -> bool:
        """Whether the generator's core was full and the broker's was not."""
        shares = [
            (one["generator_cpu_s"] / one["wall_s"], one["broker_cpu_s"] / one["wall_s"])
            for one in self.rows.get(row, {}).get(column, [])
            if "generator_cpu_s" in one
        ]
        if not shares or BY_NAME.get(row) is None or BY_NAME[row].generator == "probe":
            return False  # the probe polls without sleeping: its core is always full
        generator = statistics.median(share for share, _ in shares)
        broker = statistics.median(share for _, share in shares)
        return generator >= GENERATOR_LIMIT > broker

    def verdicts(self) -> Iterator[Verdict]:
        """Durable against durable by all that counts; against those that do not sync by
        throughput and CPU, and with write.caching by latency."""
        for row in ROWS:
            if row.growth_of:
                continue
            for figure in row.counts:
                latency = figure.endswith("_ms") or (row.one_in_flight and figure == "per_s")
                pairs = [(RPK_PY, KAFKA_FLUSH), (RPK_PY, REDPANDA)]
                pairs += [(CACHING if latency else RPK_PY, peer) for peer in (KAFKA, TANSU)]
                for ours, peer in pairs:
                    mine, theirs = (self.median(row.name, one, figure) for one in (ours, peer))
                    if mine is None or theirs is None:
                        continue
                    if figure == "per_s" and self.generator_limited(row.name, ours):
                        continue  # judged by CPU
                    ratio = mine / theirs if figure in HIGHER_IS_BETTER else theirs / mine
                    yield Verdict(row.name, figure, ours, peer, ratio)


def write(data: dict[str, Any]) -> None:
    """Write the page and the plot."""
    draw(Results(data))
    PAGE.write_text(page(data))


def page(data: dict[str, Any]) -> str:
    """What RESULTS.md says of these results."""
    results = Results(data)
    notes = NOTES.read_text().replace("# ", "## ", 1) if NOTES.exists() else ""
    parts = [_head(results), _goals(results), _behind(results), notes, _limits(results)]
    for scenario, title in SCENARIOS.items():
        rows = [row for row in ROWS if row.scenario == scenario and row.name in results.rows]
        if rows:
            parts.append(f"## ({scenario}) {title}\n\n" + "\n\n".join(_tables(results, rows)))
        if scenario == 5:
            parts.append(_starts(results))
    parts += [_unpinned(results), _failures(results)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _table(rows: list[list[str]], headers: list[str]) -> str:
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cell(results: Results, row: str, column: str, figure: str) -> str:
    """Median, and how far the rounds spread around it."""
    values = results.values(row, column, figure)
    if not values:
        return ""
    middle = statistics.median(values)
    mark = " G" if figure == "per_s" and results.generator_limited(row, column) else ""
    return f"{_number(middle)} ({_number(min(values))}-{_number(max(values))}){mark}"


def _tables(results: Results, rows: list[Row]) -> list[str]:
    """One table a figure, a line a row."""
    figures: list[str] = []
    for row in rows:
        figures += [one for one in row.counts if one not in figures]
    if any("p50_ms" in row.counts for row in rows):
        figures.append("max_ms")
    tables = []
    for figure in figures:
        lines = [
            row for row in rows
            if any(results.values(row.name, column, figure) for column in COLUMNS)
            and (figure in row.counts or figure == "max_ms")
        ]  # fmt: skip
        if not lines:
            continue
        columns = results.columns([row.name for row in lines])
        table = [
            [f"{row.title} ({row.generator})"]
            + [_cell(results, row.name, column, figure) for column in columns]
            for row in lines
        ]
        tables.append(_table(table, [UNITS[figure], *columns]))
    return tables


def _head(results: Results) -> str:
    facts = results.data["facts"]
    versions = results.data["versions"]
    rows = [[key, value] for key, value in facts.items()]
    rows += [[f"version of {name}", value] for name, value in versions.items()]
    absent = "" if REDPANDA in versions else REDPANDA_ABSENT
    return f"""# rpk-py and its peers, side by side

One run of `make bench` on one machine: the same clients against each broker, in turns. The broker
has one core, the one on which the disk's interrupts arrive, and the generator the other. Figures
are medians of the rounds, in brackets the lowest and the highest. CPU is that of the broker's
process tree from the kernel, a record. **G**: the generator was the limit there, so that the
brokers are told apart by their CPU. This page is written by `python -m bench.compare`.

- **rpk-py**: default settings, every acknowledged record is on stable storage.
- **rpk-py, write.caching**: the same process, topics with `write.caching=true`.
- **Kafka, flush a message**: `log.flush.interval.messages=1`, durable as rpk-py is.
- **Kafka**: its defaults: acknowledged records are in the page cache.
- **Tansu**: its memory engine; nothing is on a disk.

![CPU and latency beside the peers](results/results.png)

{_table(rows, ["run", ""])}{absent}"""


def _goals(results: Results) -> str:
    """The goals that are one number."""
    lines = []

    def goal(text: str, value: float | None, most: float, unit: str = "") -> None:
        if value is not None:
            met = "met" if value <= most else "**missed**"
            lines.append([text, f"{_number(value)}{unit}", f"{_number(most)}{unit}", met])

    goal("start to the first acknowledged record", results.median("starts", RPK_PY, "first_ack_s"),
         0.5, " s")  # fmt: skip
    goal("memory of an idle broker (supervisor and one shard)",
         results.median("starts", RPK_PY, "idle_mb"), 50, " MB")  # fmt: skip
    limits = results.data["limits"]
    sequential = results.median("sequential", RPK_PY, "p50_ms")
    if sequential is not None and "fio_8k_p50_ms" in limits:
        floor = limits["fio_8k_p50_ms"] + limits["echo_p50_ms"]
        goal("sequential durable p50, beside fio's write and an empty echo", sequential / floor,
             SEQUENTIAL_GOAL, "x")  # fmt: skip
    for series, column in (
        ("partitions", RPK_PY), ("partitions", SHARDS_2),
        ("connections", RPK_PY), ("connections", SHARDS_2),
    ):  # fmt: skip
        steps = [results.median(row.name, column, "cpu_us") for row in ROWS
                 if row.growth_of == series]  # fmt: skip
        known = [one for one in steps if one is not None]
        if known:
            first = known[0]
            goal(f"CPU a request, the dearest step of {series} in the first ({column})",
                 max(known) / first, GROWTH_GOAL, "x")  # fmt: skip
    bulk = results.median("bulk-100KiB-none", RPK_PY, "per_s")
    if bulk is not None and "fio_1m_mb_s" in limits:
        most = min(limits["fio_1m_mb_s"], limits["loopback_mb_s"])
        lines.append([
            "large batches (100 KiB records), MiB/s, in the smaller of loopback and disk",
            f"{bulk * 100 / 1024 / most:.0%}", "80% or more",
            "met" if bulk * 100 / 1024 >= 0.8 * most else "**missed**",
        ])  # fmt: skip
    for peer in (KAFKA_FLUSH, KAFKA):
        ratios = [1 / one.ratio for one in results.verdicts()
                  if one.figure == "cpu_us" and one.peer == peer]  # fmt: skip
        if ratios:
            met = sum(one <= CPU_GOAL for one in ratios)
            lines.append([
                f"CPU a record in that of {peer}: rows at most {CPU_GOAL:g}x",
                f"{met} of {len(ratios)} (median {statistics.median(ratios):.2f}x)", "all",
                "met" if met == len(ratios) else "**missed**",
            ])  # fmt: skip
    return "## Goals\n\n" + _table(lines, ["goal", "measured", "at most", ""])


def _behind(results: Results) -> str:
    verdicts = list(results.verdicts())
    lost = sorted((one for one in verdicts if one.behind), key=lambda one: one.ratio)
    even = sum(abs(1 - one.ratio) <= EVEN for one in verdicts)
    text = (
        f"## Where rpk-py is behind\n\n{len(verdicts)} comparisons: durable against durable by "
        f"throughput, CPU a record and latency; against brokers that do not sync by throughput and "
        f"CPU, and with write.caching by latency. "
        f"{len(verdicts) - len(lost) - even} won, {even} even (within {EVEN:.0%}), "
        f"{len(lost)} lost."
    )
    if not lost:
        return text
    table = [
        [BY_NAME[one.row].title + f" ({BY_NAME[one.row].generator})", UNITS[one.figure],
         f"{one.ours}: {_number(results.median(one.row, one.ours, one.figure))}",
         f"{one.peer}: {_number(results.median(one.row, one.peer, one.figure))}",
         f"{1 / one.ratio:.2f}x"]
        for one in lost
    ]  # fmt: skip
    shown = _table(table, ["row", "figure", "ours", "theirs", "behind by"])
    return text + "\n\n" + shown + _floor(results)


def _floor(results: Results) -> str:
    """What one durable record costs any broker here, where a peer that does not sync costs less."""
    limits = results.data["limits"]
    if "fio_8k_cpu_us" not in limits or "echo_cpu_us" not in limits:
        return ""
    floor = limits["fio_8k_cpu_us"] + limits["echo_cpu_us"]
    below = [
        f"{peer} ({_number(cpu)} us)"
        for peer in (KAFKA, TANSU)
        if (cpu := results.median("sequential", peer, "cpu_us")) is not None and cpu < floor
    ]
    text = (
        f"\n\nOne in flight, a durable record costs any broker on this machine at least "
        f"{_number(floor)} us of CPU: {_number(limits['fio_8k_cpu_us'])} us in the kernel for the "
        f"write, as fio has it, and {_number(limits['echo_cpu_us'])} us for its frame through an "
        f"empty server."
    )
    if below:
        text += f" {' and '.join(below)} stay below that because they do not sync."
    return text


def _limits(results: Results) -> str:
    limits = results.data["limits"]
    rows = [[text, _number(limits[key])] for key, text in LIMITS.items() if key in limits]
    return "## What the machine can do\n\n" + _table(rows, ["limit", ""]) if rows else ""


def _starts(results: Results) -> str:
    columns = results.columns(["starts"])
    if not columns:
        return ""
    rows = [
        [text] + [_cell(results, "starts", column, figure) for column in columns]
        for figure, text in STARTS.items()
    ]
    return "## (6) Start and memory\n\n" + _table(rows, ["", *columns])


def _unpinned(results: Results) -> str:
    columns = results.columns(["unpinned"])
    if not columns:
        return ""
    rows = [
        [f"bulk, 100 B, 2 partitions: {UNITS[figure]}"]
        + [_cell(results, "unpinned", column, figure) for column in columns]
        for figure in ("per_s", "cpu_us")
    ]
    return "## Nothing pinned\n\nBroker and generator share both cores.\n\n" + _table(
        rows, ["", *columns]
    )


def _failures(results: Results) -> str:
    failures = results.data["failures"]
    if not failures:
        return ""
    rows = [[where, text.strip().splitlines()[0][:120]] for where, text in failures.items()]
    return "## What a peer could not do\n\n" + _table(rows, ["row, broker", "what was said"])


def draw(results: Results) -> None:
    """CPU a record and p99 latency, relative to rpk-py."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 7.5), layout="constrained")
    peers = ((KAFKA_FLUSH, "#b2452c"), (KAFKA, "#e39d6b"), (TANSU, "#7a869a"))
    panels = (
        ("cpu_us", RPK_PY, "Broker CPU a record: times rpk-py's (durable)",
         [row for row in ROWS if "cpu_us" in row.counts and not row.growth_of]),
        ("p99_ms", CACHING, "p99 latency: times rpk-py's",
         [row for row in ROWS if "p99_ms" in row.counts]),
    )  # fmt: skip
    for axis, (name, _ours, title, rows) in zip(axes, panels, strict=True):
        rows = [row for row in rows if row.name in results.rows][::-1]
        for shift, (peer, color) in enumerate(peers):
            # Latency of a peer that does not sync stands beside ours without a sync.
            ours = CACHING if name == "p99_ms" and peer != KAFKA_FLUSH else RPK_PY
            ratios = []
            for row in rows:
                mine, theirs = (results.median(row.name, one, name) for one in (ours, peer))
                ratios.append(theirs / mine if mine and theirs else 0.0)
            places = [i + 0.27 * (1 - shift) for i in range(len(rows))]
            axis.barh(places, ratios, 0.25, label=peer, color=color)
        axis.set_yticks(range(len(rows)), [f"{row.title}\n{row.generator}" for row in rows],
                        fontsize=7)  # fmt: skip
        axis.axvline(1, color="black", linewidth=1)
        axis.set_xscale("log")
        axis.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
        axis.set_title(title + "  (right of 1: rpk-py is better)", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[0].legend(fontsize=8)
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=110)
    plt.close(figure)
