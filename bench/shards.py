"""What more shards cost and bring on this machine: CPU, memory, topics, kills and starts.

    python -m bench.shards [--rounds N] [--parts cpu,topics,kills,memory,starts] [--data-dir DIR]

Every broker is started with default settings and --overprovisioned on a fresh data directory; the
numbers of shards take turns within a round, so that a slow spell of the machine hits all of them.

cpu     librdkafka, acks=all, over 8 partitions: one record a request, pipelined, and 1,000,000
        records of 100 bytes. CPU is user and system of all shards together, from the kernel.
        "records a batch" is the client's doing, "batches a write" the size of a group commit. The
        one client is what limits the bulk: the more shards share its load, the more each of them
        sleeps, and the fewer batches one wake-up finds, which is what a batch then costs more.
topics  CreateTopics with 1 and with 100 partitions, asked of the first shard, until its answer,
        which comes when every live shard serves the topic.
kills   SIGKILL to a shard of 4 until its next record is acknowledged. The producer sends at once
        and retries every millisecond, so this is the broker's time: noticing, new leader epochs,
        fork, recovery. Between kills is time enough that no back-off is due.
memory  proportional set size from the kernel, sockets' buffers not included: idle, then what
        2,000 partitions add (idle, and after a record each), and 2,000 connections.
starts  exec to ready with 2,000 partitions that hold a record each: after a clean stop, and after
        kill -9 of all.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.broker import VALUE, produce
from bench.process import Broker, running
from bench.wire import (
    Connection,
    SequentialProducer,
    create_topic,
    delete_topic,
    leaders,
    produce_frame,
)
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.record_batch import build_batch

SHARDS = (1, 2, 4)
OVERPROVISIONED = ("--overprovisioned",)
QUIET = (*OVERPROVISIONED, "--log-level", "critical")  # where shards are killed on purpose
CPU_PARTITIONS = 8
ONE_RECORD = {"batch.num.messages": "1", "linger.ms": "0", "max.in.flight": "1000"}
TOPICS = 40  # created of each size, a round
KILLS = 20
KILL_PAUSE_S = 1.5  # so that a shard has lived for 5 s when its turn comes: no back-off
PARTITIONS = 2_000
TOPIC_PARTITIONS = 100
CONNECTIONS = 2_000


class Table:
    """Measured values by row and number of shards."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, list[float]]] = {}
        self._spreads: set[str] = set()

    def add(self, row: str, shards: int, value: float) -> None:
        """Add a round's value, of which the median is printed."""
        self._rows.setdefault(row, {}).setdefault(shards, []).append(value)

    def add_spread(self, row: str, shards: int, values: list[float]) -> None:
        """Add a series; median, 99th percentile and maximum of all rounds together are printed."""
        self._rows.setdefault(row, {}).setdefault(shards, []).extend(values)
        self._spreads.add(row)

    def print(self) -> None:
        """One line a row, three for a spread."""
        print(f"{'':58}" + "".join(f"{n:>4} shard{'s' if n > 1 else ' '}" for n in SHARDS))
        for row, cells in self._rows.items():
            if row in self._spreads:
                for name, index in (("median", 50), ("p99", 99), ("max", 100)):
                    self._print(f"{row}, {name}", {n: _at(v, index) for n, v in cells.items()})
            else:
                self._print(row, {n: statistics.median(v) for n, v in cells.items()})

    def _print(self, row: str, cells: dict[int, float]) -> None:
        texts = [f"{cells[n]:11,.4g}" if n in cells else f"{'':11}" for n in SHARDS]
        print(f"{row:58}" + "".join(texts))


def _at(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


def measure_cpu(table: Table, parent: Path | None) -> None:
    """CPU a request and a million records, and the size of a group commit."""
    for shards in SHARDS:
        with running(parent, shards, OVERPROVISIONED) as broker:
            connection = Connection(broker.address)
            create_topic(connection, "cpu", CPU_PARTITIONS)
            connection.close()
            for name, count, settings, cpu in (
                ("1 record a request", 100_000, ONE_RECORD, "CPU us a request"),
                ("bulk 100 B", 1_000_000, {}, "CPU s a million records"),
            ):
                before = _work_done(broker)
                row = produce(broker, "cpu", count, settings, CPU_PARTITIONS)
                batches, writes, wakeups = (
                    now - then for now, then in zip(_work_done(broker), before, strict=True)
                )
                table.add(f"{name}: {cpu}", shards, row["cpu_us"])  # us each = s a million
                table.add(f"{name}: records a batch", shards, count / batches)
                table.add(f"{name}: batches a write", shards, batches / writes)
                table.add(f"{name}: wake-ups a batch", shards, wakeups / batches)
                table.add(f"{name}: records/s", shards, row["per_s"])


def _work_done(broker: Broker) -> tuple[float, float, float]:
    """(record batches written, disk writes, wake-ups) of all shards so far."""
    return (
        broker.metric("rpk_group_commit_batches_sum"),
        broker.metric("rpk_group_commit_batches_count"),
        broker.wakeups(),
    )


def measure_topics(table: Table, parent: Path | None) -> None:
    """Time to create a topic."""
    for shards in (1, 4):
        with running(parent, shards, OVERPROVISIONED) as broker:
            connection = Connection(broker.address)
            for partitions in (1, TOPIC_PARTITIONS):
                times_ms = []
                for number in range(TOPICS):
                    name = f"topic-{partitions}-{number}"
                    start_s = time.perf_counter()
                    create_topic(connection, name, partitions)
                    times_ms.append((time.perf_counter() - start_s) * 1e3)
                    delete_topic(connection, name)
                table.add_spread(
                    f"create a topic with {partitions} partitions: ms", shards, times_ms
                )
            connection.close()


def measure_kills(table: Table, parent: Path | None) -> None:
    """Time from a shard's kill to its first new acknowledgement."""
    shards = 4
    with running(parent, shards, QUIET) as broker:
        connection = Connection(broker.address)
        create_topic(connection, "kills", shards)
        addresses = leaders(connection, "kills")
        connection.close()
        producers = [
            SequentialProducer(address, "kills", partition)
            for partition, address in enumerate(addresses)
        ]
        times_ms = []
        for number in range(KILLS):
            until_s = time.monotonic() + KILL_PAUSE_S
            while time.monotonic() < until_s:
                for producer in producers:
                    producer.produce(VALUE)
            shard = number % shards
            pid = broker.shards[shard]
            victim = producers[addresses.index(broker.addresses[shard])]
            start_s = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            victim.produce(VALUE)
            times_ms.append((time.perf_counter() - start_s) * 1e3)
            while broker.shards[shard] == pid:
                time.sleep(0.01)
        for producer in producers:
            producer.close()
    table.add_spread("kill -9 of a shard to its next acknowledgement: ms", shards, times_ms)


def fill(broker: Broker) -> Callable[[], None]:
    """Create 2,000 partitions; returns a function that writes a record to each."""
    connection = Connection(broker.address)
    topics = [f"fill-{number}" for number in range(PARTITIONS // TOPIC_PARTITIONS)]
    for topic in topics:
        create_topic(connection, topic, TOPIC_PARTITIONS)
    led_by = {topic: leaders(connection, topic) for topic in topics}
    connection.close()

    def write() -> None:
        batch = build_batch([(None, VALUE)])
        for address in broker.addresses:
            leader = Connection(address)
            for topic in topics:
                for partition, led in enumerate(led_by[topic]):
                    if led == address:
                        leader.ask_frame(produce_frame(topic, partition, batch))
            leader.close()

    return write


def measure_memory(table: Table, parent: Path | None) -> None:
    """Memory of a shard, a partition and a connection."""
    for shards in SHARDS:
        with running(parent, shards, OVERPROVISIONED) as broker:
            all_mb, supervisor_mb = broker.pss_mb()
            table.add("memory: MB a shard, idle", shards, all_mb / shards)
            table.add("memory: MB of the supervisor, idle", shards, supervisor_mb)
            connections = []
            for number in range(CONNECTIONS):
                connection = Connection(broker.addresses[number % shards])
                connection.ask(ApiVersionsRequest(), 3)
                connections.append(connection)
            kib = (broker.pss_mb()[0] - all_mb) * 1024
            table.add("memory: KiB an idle connection", shards, kib / CONNECTIONS)
            for connection in connections:
                connection.close()
        with running(parent, shards, OVERPROVISIONED) as broker:
            before_mb = sum(broker.pss_mb())
            write = fill(broker)
            idle_mb = sum(broker.pss_mb())
            write()
            written_mb = sum(broker.pss_mb())
            kib = (idle_mb - before_mb) * 1024
            table.add("memory: KiB a partition, never written", shards, kib / PARTITIONS)
            kib = (written_mb - before_mb) * 1024
            table.add("memory: KiB a partition, a record each", shards, kib / PARTITIONS)


def measure_starts(table: Table, parent: Path | None) -> None:
    """Time to ready with many partitions."""
    for shards in SHARDS:
        with running(parent, shards, OVERPROVISIONED) as broker:
            fill(broker)()
            broker.stop()
            broker.start()
            row = f"start with {PARTITIONS:,} partitions"
            table.add(f"{row} after a clean stop: s", shards, broker.ready_s)
            broker.kill()
            broker.start()
            table.add(f"{row} after kill -9: s", shards, broker.ready_s)


PARTS: dict[str, Callable[[Table, Path | None], None]] = {
    "cpu": measure_cpu,
    "topics": measure_topics,
    "kills": measure_kills,
    "memory": measure_memory,
    "starts": measure_starts,
}
ONCE = ("kills",)  # has enough of its own, and takes a while


def main() -> None:
    """Run the parts `--rounds` times and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, by commas")
    parser.add_argument("--data-dir", type=Path, help="parent of the data directories")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    table = Table()
    started_s = time.monotonic()
    for number in range(options.rounds):
        for part in parts:
            if number == 0 or part not in ONCE:
                elapsed_s = time.monotonic() - started_s
                print(f"{elapsed_s:4.0f} s  round {number + 1}: {part}", file=sys.stderr)
                PARTS[part](table, options.data_dir)
    table.print()


if __name__ == "__main__":
    main()
