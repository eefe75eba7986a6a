"""What this machine can do at all: the loopback, the disk, memory, and an empty server.

fio writes as a broker that acknowledges durable records does: Direct I/O, O_DSYNC, into space that
is allocated and was never written, the bytes that a lone small record has on rpk-py's disk (two
blocks), and 1 MiB with four in flight.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time

from bench.compare.bench import Bench
from bench.generators.process import Work, run_generator
from bench.peers.server import RETRY_S, end, tree_cpu_s
from bench.process import free_ports

SECONDS = 2.0
CHUNK_BYTES = 1 << 20
FRAME_BYTES = 250  # about a produce request of one 100-byte record
_ECHO = """
import asyncio, sys, uvloop
class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(data)
async def serve():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve())
"""
_SINK = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    peer, buffer = listener.accept()[0], bytearray(1 << 20)
    while peer.recv_into(buffer): pass
"""


def measure(bench: Bench) -> dict[str, float]:
    """Every limit once."""
    return _memory() | _loopback(bench) | _echo(bench) | _disk(bench)


def _memory() -> dict[str, float]:
    source, target = bytes(64 << 20), bytearray(64 << 20)
    start_s = time.perf_counter()
    for _ in range(20):
        target[:] = source
    return {"memcpy_mb_s": 20 * 64 / (time.perf_counter() - start_s)}


def _server(bench: Bench, code: str) -> tuple[subprocess.Popen[bytes], tuple[str, int]]:
    """A Python program that listens, on the broker's core."""
    port = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(port)],
        preexec_fn=lambda: os.sched_setaffinity(0, bench.broker_cores),
    )
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, ("127.0.0.1", port)
        except OSError:
            if process.poll() is not None:
                raise SystemExit("a server of the limits did not start") from None
            time.sleep(RETRY_S)


def _loopback(bench: Bench) -> dict[str, float]:
    process, address = _server(bench, _SINK)
    try:
        with socket.create_connection(address) as link:
            chunk, sent = bytes(CHUNK_BYTES), 0
            start_s = now_s = time.perf_counter()
            while now_s < start_s + SECONDS:
                link.sendall(chunk)
                sent += 1
                now_s = time.perf_counter()
        return {"loopback_mb_s": sent / (now_s - start_s)}
    finally:
        end(process)


def _echo(bench: Bench) -> dict[str, float]:
    process, (host, port) = _server(bench, _ECHO)
    try:
        spent_s = 0.0

        def watch(work: Work) -> dict[str, float]:
            nonlocal spent_s
            spent_s = tree_cpu_s(process.pid)
            figures = work()
            spent_s = tree_cpu_s(process.pid) - spent_s
            return figures

        figures = run_generator(
            "probe", bench.generator_cores, watch,
            mode="echo", address=f"{host}:{port}", seconds=SECONDS, size=FRAME_BYTES,
        )  # fmt: skip
        known = {f"echo_{key}": figures[key] for key in ("per_s", "p50_ms", "p99_ms")}
        return known | {"echo_cpu_us": spent_s / figures["records"] * 1e6}
    finally:
        end(process)


def _disk(bench: Bench) -> dict[str, float]:
    if shutil.which("fio") is None:
        return {}
    figures: dict[str, float] = {}
    for name, size, depth in (("8k", 8192, 1), ("1m", CHUNK_BYTES, 4)):
        file = bench.directory / "fio"
        command = ["fio", f"--name={name}", f"--filename={file}", "--size=8g", f"--bs={size}"]
        command += ["--rw=write", "--direct=1", "--sync=dsync", "--ioengine=io_uring"]
        command += [f"--iodepth={depth}", "--fallocate=native", f"--runtime={SECONDS:g}"]
        command += [
            "--output-format=json"
        ]  # it ends before the file is full: nothing is overwritten
        done = subprocess.run(
            command, capture_output=True, text=True, check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, bench.broker_cores),
        )  # fmt: skip
        job = json.loads(done.stdout)["jobs"][0]
        write = job["write"]
        points = write["clat_ns"]["percentile"]
        figures[f"fio_{name}_mb_s"] = write["bw_bytes"] / 2**20
        figures[f"fio_{name}_p50_ms"] = points["50.000000"] / 1e6
        figures[f"fio_{name}_p99_ms"] = points["99.000000"] / 1e6
        system_us = (
            job["sys_cpu"] / 100 * job["job_runtime"] * 1000
        )  # what fio does itself is not in
        figures[f"fio_{name}_cpu_us"] = system_us / write["total_ios"]
        file.unlink()
    return figures


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
