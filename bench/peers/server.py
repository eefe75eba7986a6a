"""A broker's processes as the kernel sees them: CPU, memory, life.

Nothing here depends on what a broker says about itself. CPU is that of the whole process tree with
the kernel's work in its name; what the kernel does later for nobody in particular (writing dirty
pages back) is in no figure.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.wire import (
    FETCH_VERSION,
    Connection,
    create_topic,
    delete_topic,
    leaders,
)
from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic

READY_S_MAX = 60.0
STOP_S_MAX = 60.0
RETRY_S = 0.002
_CPU_CLOCK = 2  # clock_getcpuclockid(3): CPUCLOCK_SCHED of a process, all threads, in nanoseconds


class Server(Protocol):
    """A broker that can be measured."""

    address: str
    version: str
    pid: int
    has_disk: bool

    def start(self) -> None:
        """Start it and wait until it accepts connections."""

    def stop(self) -> None:
        """End it; its data stays."""


@dataclass
class Target:
    """A server as one column of the results. Two columns may share a server.

    `durable`: an acknowledged record survives a power cut. `configs`: of the topics made for it.
    """

    name: str
    server: Server
    durable: bool
    configs: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return self.server.address

    def create(self, topic: str, partitions: int = 1) -> None:
        """Create a topic with this column's configs, and wait until it takes records."""
        connection = Connection(self.address)
        create_topic(connection, topic, partitions, self.configs)
        led: dict[str, list[FetchPartition]] = {}
        for index, address in enumerate(leaders(connection, topic)):
            wanted = FetchPartition(index, fetch_offset=0, partition_max_bytes=1)
            led.setdefault(address, []).append(wanted)
        for address, there in led.items():
            _wait_until_served(address, FetchTopic(topic=topic, partitions=there))
        connection.close()

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        connection = Connection(self.address)
        delete_topic(connection, topic)
        connection.close()


def _wait_until_served(address: str, topic: FetchTopic) -> None:
    """Until the leader answers for all of these partitions; a node may know of them later."""
    connection = Connection(address)
    request = FetchRequest(max_wait_ms=0, topics=[topic])
    while any(
        one.error_code
        for answered in connection.ask(request, FETCH_VERSION).responses
        for one in answered.partitions
    ):
        time.sleep(RETRY_S)
    connection.close()


def process_tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    pids = [pid]
    for parent in pids:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids += map(int, children.read_text().split())
            except OSError:
                pass  # the thread has ended
    return pids


def tree_cpu_s(pid: int) -> float:
    """User and system seconds of a process tree so far."""
    total_s = 0.0
    for one in process_tree(pid):
        try:
            total_s += time.clock_gettime(~one << 3 | _CPU_CLOCK)
        except OSError:
            pass  # it has ended
    return total_s


def tree_memory_mb(pid: int) -> float:
    """Proportional memory (PSS) of a process tree, in MB of 2**20 bytes."""
    return sum(_field_kib(one, "smaps_rollup", "Pss:") for one in process_tree(pid)) / 1024


def tree_peak_mb(pid: int) -> float:
    """The sum of the processes' peaks of resident memory since `reset_peak`. Pages that they
    share count for each."""
    return sum(_field_kib(one, "status", "VmHWM:") for one in process_tree(pid)) / 1024


def reset_peak(pid: int) -> None:
    """Have peaks count from now (proc(5), clear_refs)."""
    for one in process_tree(pid):
        try:
            Path(f"/proc/{one}/clear_refs").write_text("5")
        except OSError:
            pass


def _field_kib(pid: int, file: str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a broker that writes what it says to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it accepts a connection. Exits where the process ends or takes too long."""
    host, port = address.rsplit(":", 1)
    deadline_s = time.monotonic() + READY_S_MAX
    while True:
        try:
            socket.create_connection((host, int(port))).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline_s:
                end(process)
                tail = log.read_text()[-500:] if log.exists() else ""
                raise SystemExit(f"{process.args!r} did not start: {tail}") from None
            time.sleep(RETRY_S)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to one that takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
