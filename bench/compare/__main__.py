"""rpk-py and its peers on this machine, in one run, with the same clients.

    python -m bench.compare [--rounds N] [--seconds S] [--only ROW ...] [--peers NAME ...]

Brokers run on the core on which the disk's interrupts arrive, generators on another, and the
brokers take turns within every row, so that a slow spell of the machine hits all of them. Every
broker is warmed up first. Writes bench/results/results.json after every row, and bench/RESULTS.md
with its plot from it at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from bench.compare import columns, limits, report, starts
from bench.compare.bench import Bench
from bench.compare.rows import BY_NAME, ROWS, Figures, Row, fill, librdkafka_produce
from bench.generators.java import JavaTools
from bench.generators.process import GeneratorFailed
from bench.peers.kafka import resolve_jars
from bench.peers.server import Target

WARM_UP_S = 12.0
STARTS, UNPINNED, LIMITS = "starts", "unpinned", "limits"
PARTS = (LIMITS, *BY_NAME, UNPINNED, STARTS)


class Run:
    """One run: what was measured so far, and the clock of its progress."""

    def __init__(self, bench: Bench, rounds: int, kinds: list[columns.Kind]) -> None:
        self.bench = bench
        self.rounds = rounds
        self.kinds = kinds
        self.rows: dict[str, dict[str, list[Figures]]] = {}
        self.failures: dict[str, str] = {}
        self.limits: dict[str, float] = {}
        self._started_s = time.monotonic()

    def say(self, text: str) -> None:
        """Progress."""
        print(f"{time.monotonic() - self._started_s:5.0f} s  {text}", file=sys.stderr, flush=True)

    def take(self, name: str, column: str, figures: Figures) -> None:
        """Keep a round's figures."""
        records = figures.get("records", 0)
        if records:
            figures["cpu_us"] = figures["broker_cpu_s"] / records * 1e6
        self.rows.setdefault(name, {}).setdefault(column, []).append(figures)

    def measure(self, row: Row, targets: list[Target]) -> None:
        """All rounds of a row."""
        fitting = [one for one in targets if row.fits(one)]
        # Named after the column too: two columns may share a server.
        topics = {one.name: f"bench-{row.name}-{i}" for i, one in enumerate(fitting)}
        for target in fitting:
            target.create(topics[target.name], row.partitions)
            row.prepare(self.bench, target, topics[target.name])
        for number in range(self.rounds):
            self.say(f"{row.name}: round {number + 1} of {self.rounds}")
            self.bench.facts["round"] = str(number)
            for target in fitting:
                if f"{row.name}, {target.name}" in self.failures:
                    continue
                self.bench.settle()
                try:
                    figures = row.measure(self.bench, target, topics[target.name])
                except GeneratorFailed as error:
                    self.failures[f"{row.name}, {target.name}"] = str(error)
                    self.say(f"{row.name}, {target.name}: {error}")
                else:
                    self.take(row.name, target.name, figures)
        for target in fitting:
            target.delete(topics[target.name])

    def warm_up(self, bench: Bench, targets: list[Target]) -> None:
        """Bulk and single records for every broker."""
        row = BY_NAME["pipelined"]
        for target in targets:
            self.say(f"warm-up: {target.name}")
            until_s = time.monotonic() + WARM_UP_S
            target.create("warm-up")
            while time.monotonic() < until_s:
                fill(100_000)(bench, target, "warm-up")
                row.measure(bench, target, "warm-up")
            target.delete("warm-up")

    def unpinned(self, directory: Path) -> None:
        """The row in which brokers and generator share all cores."""
        cores = self.bench.broker_cores + self.bench.generator_cores
        wanted = [one for one in self.kinds if one.name != columns.RPK_PY and not one.same_as]
        bench = Bench(directory, self.bench.seconds, cores, cores, self.bench.java)
        with columns.running(wanted, directory, cores) as targets:
            self.warm_up(bench, targets)
            for target in targets:
                target.create("unpinned", 2)
            for number in range(self.rounds):
                self.say(f"{UNPINNED}: round {number + 1} of {self.rounds}")
                for target in targets:
                    bench.settle()
                    figures = librdkafka_produce(100, partitions=2)(bench, target, "unpinned")
                    self.take(UNPINNED, target.name, figures)

    def starts(self) -> None:
        """Scenario 6."""
        for number in range(self.rounds):
            self.say(f"{STARTS}: round {number + 1} of {self.rounds}")
            for kind in self.kinds:
                if kind.same_as or kind.only_growth:
                    continue
                figures = starts.measure(self.bench, kind.make, kind.durable, number == 0)
                self.take(STARTS, kind.name, figures)

    def save(self, versions: dict[str, str], complete: bool) -> None:
        """Write the JSON."""
        facts = machine_facts() | {"rounds": str(self.rounds), "complete": str(complete)}
        facts |= {"seconds a measurement": f"{self.bench.seconds:g}"}
        facts |= {"brokers on core": ", ".join(map(str, self.bench.broker_cores))}
        facts |= {"generators on core": ", ".join(map(str, self.bench.generator_cores))}
        data = {
            "facts": facts, "versions": versions, "limits": self.limits,
            "failures": self.failures, "rows": self.rows,
        }  # fmt: skip
        report.RESULTS.parent.mkdir(exist_ok=True)
        report.RESULTS.write_text(json.dumps(data, indent=1) + "\n")


def machine_facts() -> dict[str, str]:
    """What the figures depend on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": told.stdout.strip() or "unknown",
        "machine": f"{os.cpu_count()} cores, {cpu}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "librdkafka": f"confluent-kafka {version('confluent-kafka')}",
    }


def disk_core(cores: list[int]) -> int:
    """The core on which most interrupts of block devices arrive.

    A disk with a queue a core completes a write on the core that asked for it. One with a single
    queue, as virtual machines have it, does so on whichever core it likes, and a process that
    keeps that core busy delays every durable write of others by up to a tick (4 ms).
    """
    lines = Path("/proc/interrupts").read_text().splitlines()
    online = [int(name.removeprefix("CPU")) for name in lines[0].split()]
    counts = dict.fromkeys(cores, 0)
    for line in lines[1:]:
        fields = line.split()
        if re.search(r"virtio\d+-req|nvme\d+q|ahci", line):
            for core, count in zip(online, fields[1:], strict=False):
                if core in counts and count.isdigit():
                    counts[core] += int(count)
    return max(cores, key=lambda core: (counts[core], -core))


def run_parts(run: Run, parts: list[str], directory: Path) -> None:
    """Everything that was asked for, saved after every row."""
    versions: dict[str, str] = {}
    if LIMITS in parts:
        run.say(LIMITS)
        run.limits = limits.medians([limits.measure(run.bench) for _ in range(3)])
    if STARTS in parts:
        run.starts()
    rows = [row for row in ROWS if row.name in parts]
    if rows:
        growth = any(row.growth_of for row in rows)
        wanted = [one for one in run.kinds if growth or not one.only_growth]
        home = directory / "servers"
        home.mkdir()
        with columns.running(wanted, home, run.bench.broker_cores) as targets:
            versions = {one.name: one.server.version for one in targets}
            usual = [one for one in targets if one.name != columns.SHARDS_2]
            run.warm_up(run.bench, usual)
            for row in rows:
                run.measure(row, targets if row.growth_of else usual)
                run.save(versions, False)
    if UNPINNED in parts:
        home = directory / "unpinned"
        home.mkdir()
        run.unpinned(home)
        run.save(versions, False)
    run.save(versions, set(parts) == set(PARTS))


def main() -> None:
    """Measure, then write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds; default: 5")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement; default: 2")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="ROW", help=", ".join(PARTS))
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="columns; default: all there are"
    )
    parser.add_argument("--data-dir", type=Path, help="parent of the data directories")
    parser.add_argument("--report", action="store_true", help="only write the report anew")
    options = parser.parse_args()
    if options.report:
        report.write(json.loads(report.RESULTS.read_text()))
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("a broker and its generator need a core each")
    broker_core = disk_core(cores)
    generator_core = next(core for core in cores if core != broker_core)
    jars = resolve_jars()
    if jars is None:
        print("Apache Kafka is not there: it needs mvn, java and a network once", file=sys.stderr)
    kinds = columns.kinds(jars)
    if options.peers:
        if unknown := set(options.peers) - {one.name for one in kinds}:
            parser.error(f"not here: {', '.join(sorted(unknown))}; here are: "
                         f"{', '.join(one.name for one in kinds)}")  # fmt: skip
        kinds = [one for one in kinds if one.name in options.peers]
    directory = Path(tempfile.mkdtemp(prefix="rpk-bench-", dir=options.data_dir))
    java = JavaTools(jars, [generator_core]) if jars is not None else None
    bench = Bench(directory, options.seconds, [broker_core], [generator_core], java)
    os.sched_setaffinity(0, [generator_core])
    try:
        run_parts(Run(bench, options.rounds, kinds), options.only or list(PARTS), directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report.write(json.loads(report.RESULTS.read_text()))


if __name__ == "__main__":
    main()
