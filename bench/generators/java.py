"""Kafka's own performance tools, from its jars, with the defaults of its clients and acks=all.

The JVM of a tool starts, connects and gets warm within its figures; that is the same for all.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from bench.generators.process import GENERATOR_S_MAX, GeneratorFailed, measured
from bench.peers.kafka import java
from bench.peers.server import Target

_TOOLS = "org.apache.kafka.tools."
_QUIET = ("-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
_PRODUCED = re.compile(
    r"(\d+) records sent, ([\d.]+) records/sec .*?([\d.]+) ms avg latency, ([\d.]+) ms max latency,"
    r" (\d+) ms 50th, (\d+) ms 95th, (\d+) ms 99th, (\d+) ms 99.9th"
)


class JavaTools:
    """The tools on `cores`."""

    def __init__(self, jars: Path, cores: list[int]) -> None:
        self._jars = jars
        self._cores = cores

    def _run(self, target: Target, tool: str, *arguments: str) -> tuple[str, dict[str, float]]:
        output = ""

        def work() -> dict[str, float]:
            nonlocal output
            before = os.times()
            start_s = time.perf_counter()
            done = subprocess.run(
                java(self._jars, _TOOLS + tool, *arguments, options=_QUIET),
                capture_output=True,
                text=True,
                timeout=GENERATOR_S_MAX,
                check=False,
                preexec_fn=lambda: os.sched_setaffinity(0, self._cores),
            )
            after = os.times()
            if done.returncode:
                raise GeneratorFailed(f"{tool}: {done.stdout[-300:]} {done.stderr[-300:]}")
            output = done.stdout
            used_s = after.children_user - before.children_user
            used_s += after.children_system - before.children_system
            return {"wall_s": time.perf_counter() - start_s, "generator_cpu_s": used_s}

        figures = measured(target, work)
        return output, figures

    def produce(
        self, target: Target, topic: str, count: int, size: int, *properties: str
    ) -> dict[str, float]:
        """ProducerPerformance without a limit of its rate."""
        output, figures = self._run(
            target, "ProducerPerformance",
            *("--topic", topic, "--num-records", str(count), "--record-size", str(size)),
            *("--throughput", "-1", "--producer-props"),
            *(f"bootstrap.servers={target.address}", "acks=all", *properties),
        )  # fmt: skip
        found = _PRODUCED.findall(output)
        if not found or int(found[-1][0]) != count:
            raise GeneratorFailed(f"ProducerPerformance: {output[-300:]}")
        _sent, per_s, _average, longest, p50, _p95, p99, p999 = map(float, found[-1])
        return figures | {
            "records": count, "per_s": per_s,
            "p50_ms": p50, "p99_ms": p99, "p99.9_ms": p999, "max_ms": longest,
        }  # fmt: skip

    def consume(self, target: Target, topic: str, count: int) -> dict[str, float]:
        """ConsumerPerformance: a group of one, from the beginning."""
        output, figures = self._run(
            target, "ConsumerPerformance",
            *("--bootstrap-server", target.address, "--topic", topic, "--messages", str(count)),
            *("--hide-header", "--timeout", "30000"),
        )  # fmt: skip
        rows = [line.split(", ") for line in output.splitlines() if line.count(", ") == 9]
        if not rows or int(rows[-1][4]) < count:
            raise GeneratorFailed(f"ConsumerPerformance: {output[-300:]}")
        return figures | {"records": int(rows[-1][4]), "per_s": float(rows[-1][9])}

    def end_to_end(self, target: Target, topic: str, count: int, size: int) -> dict[str, float]:
        """EndToEndLatency: a record at a time, produced (acks=all) and consumed."""
        output, figures = self._run(
            target, "EndToEndLatency", target.address, topic, str(count), "all", str(size)
        )
        average = re.search(r"Avg latency: ([\d.]+) ms", output)
        points = re.search(r"50th = (\d+), 99th = (\d+), 99.9th = (\d+)", output)
        if average is None or points is None:
            raise GeneratorFailed(f"EndToEndLatency: {output[-300:]}")
        p50, p99, p999 = map(float, points.groups())
        return figures | {
            "records": count, "mean_ms": float(average[1]),
            "p50_ms": p50, "p99_ms": p99, "p99.9_ms": p999,
        }  # fmt: skip
