"""A real broker process for tests: started, killed in every way, restarted on the same ports.

The process leads a session of its own, so that `kill` takes the supervisor and its shards at once,
as a machine that loses power takes them; everything else goes by its own process id. The log is
kept in a file beside the data directory and shown when a test fails (conftest.py).
Ports lie below the kernel's ephemeral range: a client that keeps connecting to a dead port inside
that range may be given the very same port as its source, talk to itself, and so take the port.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PORTS = range(11_000, 32_000)
START_S_MAX = 30.0
STOP_S_MAX = 20.0
LOG_SHOWN_BYTES = 12_000

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """The first true value of `condition`, looked at every few milliseconds.

    Raises: AssertionError  naming `what` that did not happen in time
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.005)


def show_broker_logs(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the end of the log of every broker that a failed test used to its report."""
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, RunningBroker):
                report.sections.append((f"log of {name}", value.log_text()))


def runs(pid: int) -> bool:
    """Whether a process exists and is not just waiting for its parent to note its end."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _die_with_the_tests() -> None:
    """In the child: SIGKILL when the thread that started it is gone, however the tests end."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def free_ports(count: int = 1) -> int:
    """The first of `count` adjacent TCP ports of 127.0.0.1 that nobody uses now."""
    while True:
        first = random.choice(PORTS[:-count])
        if all(_is_free(port) for port in range(first, first + count)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class RunningBroker:
    """One broker: its process, its addresses, and what can happen to it.

    Shapes:  data_dir  where it keeps its data; on a real file system, so that Direct I/O works
             settings  --set NAME=VALUE
             pinned    False: --overprovisioned, so that tests share their cores
             shards    --smp; may be set to less, and back, between two starts
             command   what is called with "start" and its options
             data_dir_argument  the data directory as that command sees it, in a chroot
    """

    def __init__(
        self,
        data_dir: Path,
        log_path: Path,
        settings: Mapping[str, object] | None = None,
        pinned: bool = False,
        shards: int = 1,
        command: Sequence[str] = (sys.executable, "-m", "rpk_py"),
        data_dir_argument: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self._data_dir_argument = data_dir_argument or data_dir
        self.log_path = log_path
        self.shards = shards
        self.port = free_ports(shards + 1)
        self.admin_port = self.port + shards
        # Tests write records of long ago, which would expire under them.
        self._settings = {
            "log_retention_ms": -1,
            "storage_reserve_bytes": 1 << 20,  # of which a kill leaves a file for each test
            **(settings or {}),
        }
        self._pinned = pinned
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None

    # -- addresses and processes -----------------------------------------------------------

    @property
    def address(self) -> str:
        """HOST:PORT of the first shard, for bootstrap.servers."""
        return self.addresses[0]

    @property
    def ports(self) -> range:
        """The Kafka port of each shard."""
        return range(self.port, self.port + self.shards)

    @property
    def addresses(self) -> list[str]:
        """HOST:PORT of each shard."""
        return [f"127.0.0.1:{port}" for port in self.ports]

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None, "the broker does not run"
        return self._process.pid

    @property
    def shard_pids(self) -> list[int]:
        """The shards' process ids, as broker.json names them."""
        return list(self.status_file()["shards"])

    def status_file(self) -> dict[str, Any]:
        """What broker.json says."""
        status: dict[str, Any] = json.loads((self.data_dir / "broker.json").read_text())
        return status

    # -- start and stop --------------------------------------------------------------------

    def start(self) -> RunningBroker:
        """Start it and return when it is ready."""
        assert self._process is None, "the broker runs already"
        command = [*self._command, "start", "--log-format", "json"]
        command += ["--data-dir", str(self._data_dir_argument), "--kafka-addr", self.address]
        command += ["--admin-addr", f"127.0.0.1:{self.admin_port}"]
        command += ["--smp", str(self.shards)]
        command += [] if self._pinned else ["--overprovisioned"]
        for name, value in self._settings.items():
            command += ["--set", f"{name}={value}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_the_tests,
            )
        try:
            wait_until(self._is_ready, "the broker is ready", START_S_MAX)
        except AssertionError:
            self.kill()
            raise AssertionError(f"the broker did not get ready:\n{self.log_text()}") from None
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            raise AssertionError(f"the broker ended with exit code {code}")
        try:
            return bool(self.status_file()["pid"] == self._process.pid)
        except FileNotFoundError:
            return False

    def stop(self) -> None:
        """Stop it gracefully; it must say that all went well."""
        self.signal(signal.SIGTERM)
        code = self.wait_end()
        assert code == 0, f"a graceful stop ended with exit code {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait_end(self, timeout_s: float = STOP_S_MAX) -> int:
        """Wait for the supervisor's end; its exit code."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end within {timeout_s:g} s") from None
        self._process = None
        return code

    def kill(self) -> None:
        """SIGKILL to the supervisor and all shards at once; returns when the supervisor is gone.

        Writes of the shards may still be under way then, as the broker must cope with them.
        """
        assert self._process is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself
        self._process.wait(STOP_S_MAX)
        self._process = None

    def kill_supervisor(self) -> None:
        """SIGKILL to the supervisor alone: its shards must not outlive it."""
        assert self._process is not None
        shards = self.shard_pids
        self._process.kill()
        self._process.wait(STOP_S_MAX)
        self._process = None
        wait_until(lambda: not any(map(runs, shards)), "the shards are gone")

    def kill_shard(self, index: int = 0) -> None:
        """SIGKILL to a shard; returns when the supervisor has replaced it and all are ready."""
        before = self.shard_pids[index]
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: self.shard_pids[index] != before, "a new shard is ready")

    def restart(self) -> None:
        """Graceful stop and start on the same ports."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it, however it stands; for clean-up."""
        if self._process is not None:
            self.kill()

    # -- what it says ----------------------------------------------------------------------

    def http_get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Ask the admin server: (status, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """The values of /metrics, by name; those with labels are summed up."""
        status, text = self.http_get("/metrics")
        assert status == 200, text
        values: dict[str, float] = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                values[name] = values.get(name, 0.0) + float(value)
        return values

    def log_text(self) -> str:
        """The end of its log."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace")

    def log_events(self, *levels: str) -> list[dict[str, Any]]:
        """The log's lines of these levels (all without any), each a JSON object."""
        events = []
        for line in self.log_path.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {"level": "raw", "message": line}
            if not levels or event["level"] in levels:
                events.append(event)
        return events


@contextlib.contextmanager
def shared_broker(directory: Path, shards: int = 1) -> Iterator[RunningBroker]:
    """A broker that runs, for all tests of a file; at the end it must stop gracefully."""
    running = RunningBroker(directory / "data", directory / "broker.log", shards=shards)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()
