"""Scenario 6: from exec to the first acknowledged record, and memory before and after 1 GiB.

Each time a broker of its own on a fresh data directory, nobody else beside it on its core.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.compare.bench import Bench
from bench.compare.rows import DATA_RECORDS, fill
from bench.peers.server import (
    RETRY_S,
    Server,
    Target,
    reset_peak,
    tree_cpu_s,
    tree_memory_mb,
    tree_peak_mb,
)
from bench.wire import Connection, Refused, create_topic, error_pos, produce_frame
from kafka_protocol.record_batch import build_batch

SETTLE_S = 1.0
IDLE_S = 3.0
TOPIC = "first"


def measure(
    bench: Bench, make: Callable[[Path], Server], durable: bool, fill_it: bool
) -> dict[str, float]:
    """Start, acknowledge a record, idle, and with `fill_it` 1 GiB."""
    directory = Path(tempfile.mkdtemp(prefix="start-", dir=bench.directory))
    server = make(directory)
    try:
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, bench.broker_cores)  # what it starts inherits it
        start_s = time.perf_counter()
        try:
            server.start()
        finally:
            os.sched_setaffinity(0, mine)
        _first_record(server.address)
        figures = {"first_ack_s": time.perf_counter() - start_s}
        _idle(SETTLE_S)
        cpu_s = tree_cpu_s(server.pid)
        _idle(IDLE_S)
        figures["idle_cpu_percent"] = (tree_cpu_s(server.pid) - cpu_s) / IDLE_S * 100
        figures["idle_mb"] = tree_memory_mb(server.pid)
        if fill_it:
            reset_peak(server.pid)
            target = Target("", server, durable)
            target.create("fill")
            fill(DATA_RECORDS)(bench, target, "fill")
            figures["filled_mb"] = tree_memory_mb(server.pid)
            figures["filled_peak_mb"] = tree_peak_mb(server.pid)
        return figures
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _idle(seconds: float) -> None:
    """Leave it alone."""
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        time.sleep(left_s)


def _first_record(address: str) -> None:
    """Until a record is acknowledged."""
    frame = produce_frame(TOPIC, 0, build_batch([(None, b"x" * 100)]))
    at, created = error_pos(TOPIC), False
    while True:
        try:
            connection = Connection(address)
            if not created:
                create_topic(connection, TOPIC, 1)
                created = True
            while True:
                answer = connection.ask_frame(frame)
                if not int.from_bytes(answer[at : at + 2], "big"):
                    return
                time.sleep(RETRY_S)
        except (OSError, Refused):
            time.sleep(RETRY_S)
