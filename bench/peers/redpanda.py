"""Redpanda, where its binary is in PATH: one core, one node, developer mode off.

Its defaults: an acknowledgement follows the fsync (`write_caching_default=false`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.peers.server import end, start, wait_until_ready
from bench.process import free_ports

_YAML = """
redpanda:
  data_directory: {data}
  node_id: 0
  seed_servers: []
  empty_seed_starts_cluster: true
  kafka_api: [{{address: 127.0.0.1, port: {port}}}]
  advertised_kafka_api: [{{address: 127.0.0.1, port: {port}}}]
  rpc_server: {{address: 127.0.0.1, port: {rpc}}}
  admin: [{{address: 127.0.0.1, port: {admin}}}]
"""


def find_binary() -> Path | None:
    """The `redpanda` in PATH, or None."""
    found = shutil.which("redpanda")
    return Path(found) if found else None


class RedpandaServer:
    """One `redpanda --smp 1` on the first core that this process may use."""

    has_disk = True

    def __init__(self, directory: Path, binary: Path) -> None:
        port = free_ports(3)
        self.address = f"127.0.0.1:{port}"
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
        self.version = told.stdout.strip()
        settings = directory / "redpanda.yaml"
        data = directory / "data"
        data.mkdir()
        settings.write_text(
            _YAML.format(data=data, port=port, rpc=port + 1, admin=port + 2).lstrip()
        )
        core = min(os.sched_getaffinity(0))
        command = [str(binary), "--redpanda-cfg", str(settings), "--smp", "1"]
        command += ["--memory", "1G", "--reserve-memory", "0M", "--cpuset", str(core)]
        self._command = command
        self._log = directory / "redpanda.log"

    def start(self) -> None:
        """See Server.start."""
        self._process = start(self._command, self._log)
        self.pid = self._process.pid
        wait_until_ready(self.address, self._process, self._log)

    def stop(self) -> None:
        """See Server.stop."""
        end(self._process)
