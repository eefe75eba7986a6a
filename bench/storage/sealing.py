"""What lone small records take on disk while their segment is written, and when it is sealed.

Appends records one at a time, each durable before the next and so each a write of its own, to a log
of segments as the broker makes them; then has every sealed segment rewritten, and tells the sizes,
the time and the CPU of it. Run: python -m bench.storage.sealing [--appends N] [directory]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from kafka_protocol.record_batch import build_batch, parse_header
from storage.backend import open_disk
from storage.background import Background
from storage.committer import Committer
from storage.disk import alignment
from storage.log import Log
from storage.log_context import LogConfig, LogContext
from storage.open_log import open_log
from storage.record_buffer import RecordCache
from storage.recycle import SegmentPool

RECORD_BYTES = 100
SEGMENT_BYTES = 1 << 30


class NoProducers:
    """A ProducerState of producers that are not idempotent."""

    def load(self, snapshot: bytes) -> None:
        """There is nothing to know."""

    def snapshot(self) -> bytes:
        """Nor to keep."""
        return b""

    def replay(self, batch: object) -> None:
        """Nor to note."""


class Waiter:
    """The LogOwner: wakes who waits for the next record."""

    def __init__(self) -> None:
        self.durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_durable(self, _durable_offset: int) -> None:
        """The record is durable."""
        if not self.durable.done():
            self.durable.set_result(None)

    def on_log_stalled(self, error: Exception, from_offset: int) -> None:
        """Nobody makes room here."""
        self.on_log_failed(error)

    def on_log_resumed(self) -> None:
        """Does not happen."""

    def on_log_failed(self, error: Exception) -> None:
        """So is nothing more."""
        self.durable.set_exception(error)


async def open_log_in(
    directory: Path, background: Background | None = None, segment_bytes: int = SEGMENT_BYTES
) -> Log:
    """A log with the broker's settings, new."""
    loop = asyncio.get_running_loop()
    disk = open_disk("auto", loop, lambda text: print(text, file=sys.stderr))
    context = LogContext(
        disk=disk,
        committer=Committer(disk, loop, time.perf_counter),
        cache=RecordCache(64 << 20),
        pool=SegmentPool(directory / "recycle", 1 << 30),
        block_bytes=alignment(directory),
        checkpoint_bytes=64 << 20,
        lock_wait_s=5.0,
        now_ms=lambda: time.time_ns() // 1_000_000,
        rng=random.SystemRandom(),
        report=lambda event, detail: print(event, detail, file=sys.stderr),
        background=background,
    )
    context.pool.load()
    config = LogConfig(segment_bytes=segment_bytes)
    return await open_log(
        context, config, directory / "t-0", bytes(16), 0, NoProducers(), directory / "trash",
        lambda _topic_id: False,
    )  # fmt: skip


async def measure(directory: Path, appends: int) -> None:
    """Append, seal, rewrite and print."""
    log = await open_log_in(directory)
    waiter = Waiter()
    log.attach(waiter)
    batch = memoryview(build_batch([(None, b"x" * RECORD_BYTES)], timestamp_ms=1))
    header = parse_header(batch)
    began_s = time.perf_counter()
    for _ in range(appends):
        waiter.durable = asyncio.get_running_loop().create_future()
        log.append(batch, header, 1)
        await waiter.durable
    append_s = time.perf_counter() - began_s
    before = log.size_bytes
    print(f"{appends} appends of one record of {RECORD_BYTES} bytes ({len(batch)} as a batch)")
    print(f"  as written: {before} bytes, {before / appends:.0f} a record, in {append_s:.1f} s")
    log.configure(LogConfig(segment_bytes=1))  # so that the next append seals the last segment
    waiter.durable = asyncio.get_running_loop().create_future()
    log.append(batch, header, 1)
    await waiter.durable
    while any(s.allocated_bytes != s.write_pos for s in log.rewriter.segments[:-1]):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    began_s, cpu_s = time.perf_counter(), _cpu_s()
    count = 0
    while await log.rewriter.rewrite_padded():
        count += 1
    took_s, cpu_s = time.perf_counter() - began_s, _cpu_s() - cpu_s
    after = sum(s.write_pos for s in log.rewriter.segments[:-1])
    print(f"  sealed:     {after} bytes, {after / appends:.0f} a record, {after / before:.2%}")
    rate = before / took_s / 1e6
    print(f"  {count} segments rewritten in {took_s:.1f} s ({rate:.0f} MB/s), CPU {cpu_s:.1f} s")
    await log.close()


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--appends", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="sealing-") as directory:
        asyncio.run(measure(Path(directory), arguments.appends))


if __name__ == "__main__":
    main()
