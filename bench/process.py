"""A broker of a measurement's own: started on free ports, watched through the kernel, stopped.

Process times, memory and ports are read from /proc and broker.json, so nothing that is measured
depends on what the broker says about itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
READY_S_MAX = 120.0
STOP_S_MAX = 60.0


class Broker:
    """A broker process; its ports stay the same when it is started again.

    Shapes:  data_dir  where it keeps its data
             options   further options of `rpk-py start`
    """

    def __init__(self, data_dir: Path, shards: int = 1, options: tuple[str, ...] = ()) -> None:
        self.data_dir = data_dir
        port = free_ports(shards + 1)
        self._command = [
            *(sys.executable, "-m", "rpk_py", "start", "--data-dir", str(data_dir)),
            *("--kafka-addr", f"127.0.0.1:{port}", "--admin-addr", f"127.0.0.1:{port + shards}"),
            *("--smp", str(shards), "--log-level", "warning", *options),
        ]
        self.addresses = [f"127.0.0.1:{port + index}" for index in range(shards)]
        self.admin_address = f"127.0.0.1:{port + shards}"
        self.start()

    def start(self) -> None:
        """Start it and wait until all shards serve; `ready_s` is the time from exec."""
        started_s = time.perf_counter()
        self.process = subprocess.Popen(self._command)
        while True:
            if self.process.poll() is not None:
                raise SystemExit("the broker did not start")
            if time.perf_counter() - started_s > READY_S_MAX:
                self.kill()
                raise SystemExit(f"the broker was not ready within {READY_S_MAX:g} s")
            facts = self._facts()
            if facts.get("pid") == self.process.pid:
                break
            time.sleep(0.002)
        self.ready_s = time.perf_counter() - started_s

    def _facts(self) -> dict[str, object]:
        try:
            facts: dict[str, object] = json.loads((self.data_dir / "broker.json").read_text())
        except FileNotFoundError:
            return {}
        return facts

    @property
    def address(self) -> str:
        """HOST:PORT of the first shard."""
        return self.addresses[0]

    @property
    def servers(self) -> str:
        """All shards, for bootstrap.servers."""
        return ",".join(self.addresses)

    @property
    def shards(self) -> list[int]:
        """The shards' process ids."""
        pids = self._facts().get("shards", [])
        assert isinstance(pids, list)
        return pids

    def metric(self, name: str) -> float:
        """A metric's value, summed over its labels."""
        with urllib.request.urlopen(f"http://{self.admin_address}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        values = [
            float(line.rpartition(" ")[2])
            for line in lines
            if line.partition("{")[0].partition(" ")[0] == name
        ]
        if not values:
            raise SystemExit(f"the broker has no metric {name}")
        return sum(values)

    def cpu_s(self) -> float:
        """User and system seconds of all shards so far."""
        return sum(process_cpu_s(pid) for pid in self.shards)

    def wakeups(self) -> int:
        """How often the shards' event loops slept and were woken so far."""
        return sum(_voluntary_switches(pid) for pid in self.shards)

    def pss_mb(self) -> tuple[float, float]:
        """Proportional memory: of all shards together, and of the supervisor."""
        return sum(process_pss_mb(pid) for pid in self.shards), process_pss_mb(self.process.pid)

    def stop(self) -> None:
        """Graceful stop."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemExit(f"the broker did not stop within {STOP_S_MAX:g} s") from None

    def kill(self) -> None:
        """SIGKILL to the supervisor and its shards at once."""
        pids = self.shards
        self.process.kill()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended with its supervisor
        self.process.wait()

    def close(self) -> None:
        """End it, however it stands."""
        if self.process.poll() is None:
            self.stop()


@contextmanager
def running(
    parent: Path | None, shards: int = 1, options: tuple[str, ...] = ()
) -> Iterator[Broker]:
    """A broker on a fresh data directory, gone afterwards."""
    data_dir = Path(tempfile.mkdtemp(prefix="rpk-bench-", dir=parent))
    broker = None
    try:
        broker = Broker(data_dir, shards, options)
        yield broker
    finally:
        if broker is not None:
            broker.close()
        shutil.rmtree(data_dir)


def free_ports(count: int) -> int:
    """The first of `count` adjacent free ports, below the kernel's ephemeral range."""
    first = 11_000 + os.getpid() % 10_000
    while not all(_is_free(first + index) for index in range(count)):
        first += count
    return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def process_cpu_s(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _voluntary_switches(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


def process_pss_mb(pid: int) -> float:
    """Proportional memory of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0
