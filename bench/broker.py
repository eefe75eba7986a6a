"""What one shard does on this machine, with real clients and a real disk.

    python -m bench.broker [--rounds N] [--data-dir DIR]

Starts a broker (default settings, a fresh data directory) and prints, as medians over the rounds:
time from exec to ready, proportional memory when idle, bulk produce of 100-byte records and one
record a request through librdkafka (acks=all), a sequential producer's requests a second and
acknowledgement latency, and latency at a fixed 1,000 records a second (open loop). CPU is the
shard process's own, user and system, from the kernel. The generator runs on the other core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from bench.process import Broker, running
from bench.wire import Connection, produce_frame
from kafka_protocol.record_batch import build_batch

VALUE = os.urandom(100)
PACED_PER_S = 1000


def produce(
    broker: Broker, topic: str, count: int, settings: dict[str, str], partitions: int = 1
) -> dict[str, float]:
    """`count` records through librdkafka, to each partition in turn; all must be acknowledged."""
    failed: list[Any] = []

    def delivered(error: Any, _message: Any) -> None:
        if error is not None:
            failed.append(error)

    base = {"bootstrap.servers": broker.address, "acks": "all", "linger.ms": "5"}
    base["queue.buffering.max.messages"] = "2000000"
    producer = Producer(base | settings)
    for partition in range(partitions):  # creates the topic, warms up
        producer.produce(topic, VALUE, partition=partition, on_delivery=delivered)
    producer.flush()
    cpu_s, start_s = broker.cpu_s(), time.perf_counter()
    for i in range(count):
        while True:
            try:
                producer.produce(topic, VALUE, partition=i % partitions, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.01)
        if i % 1000 == 0:
            producer.poll(0)
    producer.flush()
    wall_s, cpu_s = time.perf_counter() - start_s, broker.cpu_s() - cpu_s
    if failed:
        raise SystemExit(f"{len(failed)} records were not acknowledged: {failed[0]}")
    return {"per_s": count / wall_s, "cpu_us": cpu_s / count * 1e6}


class Probe:
    """A raw connection with one record a request, that measures every acknowledgement."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._connection = Connection(broker.address)
        self._frame = produce_frame(topic, 0, build_batch([(None, VALUE)]))

    def round_trip(self) -> None:
        """Send one record and wait for its acknowledgement."""
        self._connection.ask_frame(self._frame)


def sequential(broker: Broker, topic: str, count: int) -> dict[str, float]:
    """One record a request, one request in flight."""
    probe = Probe(broker, topic)
    latencies_s = []
    cpu_s, start_s = broker.cpu_s(), time.perf_counter()
    for _ in range(count):
        sent_s = time.perf_counter()
        probe.round_trip()
        latencies_s.append(time.perf_counter() - sent_s)
    wall_s, cpu_s = time.perf_counter() - start_s, broker.cpu_s() - cpu_s
    return {"per_s": count / wall_s, "cpu_us": cpu_s / count * 1e6} | quantiles(latencies_s)


def paced(broker: Broker, topic: str, seconds: float) -> dict[str, float]:
    """A fixed rate; latency counts from when a record was due, so a stall is not left out."""
    probe = Probe(broker, topic)
    latencies_s = []
    start_s = time.perf_counter()
    for i in range(int(seconds * PACED_PER_S)):
        due_s = start_s + i / PACED_PER_S
        while (wait_s := due_s - time.perf_counter()) > 0:
            time.sleep(wait_s)
        probe.round_trip()
        latencies_s.append(time.perf_counter() - due_s)
    return quantiles(latencies_s)


def quantiles(latencies_s: list[float]) -> dict[str, float]:
    """Median and 99th percentile in ms; sorts them."""
    latencies_s.sort()
    count = len(latencies_s)
    p99 = latencies_s[min(count * 99 // 100, count - 1)]
    return {"p50_ms": latencies_s[count // 2] * 1e3, "p99_ms": p99 * 1e3}


def main() -> None:
    """Run every measurement `--rounds` times, in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, help="parent of the data directory")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    one_record = {"batch.num.messages": "1", "linger.ms": "0", "max.in.flight": "1000"}
    runs: dict[str, list[dict[str, float]]] = {}

    def measure(name: str, work: Callable[[], dict[str, float]]) -> None:
        runs.setdefault(name, []).append(work())

    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
        os.sched_setaffinity(0, cores)
        with running(options.data_dir) as broker:
            os.sched_setaffinity(0, cores[1:] or cores)  # the shard took the first core
            shard_mb, supervisor_mb = broker.pss_mb()
            memory = {"shard_mb": shard_mb, "supervisor_mb": supervisor_mb}
            measure("start", lambda b=broker, m=memory: {"ready_s": b.ready_s} | m)  # type: ignore[misc]
            for name, work in (
                ("bulk 100 B", lambda b=broker: produce(b, "bulk", 1_000_000, {})),
                ("1 record a request", lambda b=broker: produce(b, "one", 100_000, one_record)),
                ("sequential", lambda b=broker: sequential(b, "one", 10_000)),
                ("1,000 records/s", lambda b=broker: paced(b, "one", 5.0)),
            ):
                measure(name, work)
    for name, rows in runs.items():
        figures = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        text = ", ".join(f"{key} {value:,.3g}" for key, value in figures.items())
        print(f"{name:20} {text}")


if __name__ == "__main__":
    main()
