"""rpk-py itself: one shard with the settings of a fresh start, from this checkout.

With byte code, as every installation has it: pip compiles what it installs. Where Python is told
to write none (PYTHONDONTWRITEBYTECODE), each start would compile 200 files of the checkout.
"""

from __future__ import annotations

import compileall
import functools
import sys
from pathlib import Path

from bench.peers.server import end, start, wait_until_ready
from bench.process import free_ports
from rpk_py import __version__

_CHECKOUT = Path(__file__).resolve().parents[2]


@functools.cache
def _compile() -> None:
    for package in ("kafka_protocol", "storage", "rpk_py"):
        compileall.compile_dir(_CHECKOUT / package, quiet=1)


class RpkPyServer:
    """One `rpk-py start`. `options` are further options of it."""

    has_disk = True

    def __init__(self, directory: Path, options: tuple[str, ...] = (), shards: int = 1) -> None:
        _compile()
        port = free_ports(shards + 1)
        self.address = f"127.0.0.1:{port}"
        self.version = __version__
        self._log = directory / "rpk-py.log"
        command = [sys.executable, "-m", "rpk_py", "start", "--data-dir", str(directory / "data")]
        command += ["--kafka-addr", self.address, "--admin-addr", f"127.0.0.1:{port + shards}"]
        command += ["--smp", str(shards), "--log-level", "warning", *options]
        self._command = command

    def start(self) -> None:
        """See Server.start."""
        self._process = start(self._command, self._log)
        self.pid = self._process.pid
        wait_until_ready(self.address, self._process, self._log)

    def stop(self) -> None:
        """See Server.stop."""
        end(self._process)
