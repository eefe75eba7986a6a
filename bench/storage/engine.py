"""The storage engine beside fio: appends with a sync a group, reads, appends beside a reader.

    python -m bench.storage.engine [--rounds N] [--mib N] [--data-dir DIR]

The engine runs in this process as in a shard: its log, its committer, its disk backend. fio takes
turns with it, on the same file system, with the bytes that the engine has on the disk, the same
sync mode (Direct I/O, O_DSYNC), allocation (fallocate, never written) and depth.

append   one group of record batches after the other, the next when the last one is durable; a group
         of N KiB has N KiB and one header block on the disk
bulk     1 MiB groups with as many in flight as fio has
read     a log from its start to its end with nothing in memory; fio reads as many bytes at once and
         ahead as the engine does
beside   4 KiB appends, and their latency while somebody reads another log from its start to its end
         again and again

Figures are medians of the rounds. CPU is the process's own, user and system, of all its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from kafka_protocol.record_batch import BatchHeader, build_batch, parse_header
from rpk_py.config import Config
from storage.backend import open_disk
from storage.committer import Committer
from storage.disk import alignment, open_segment
from storage.errors import StorageError
from storage.log import Log
from storage.log_context import LogConfig, LogContext
from storage.open_log import open_log
from storage.record_buffer import READ_BYTES_MAX, RecordCache
from storage.recycle import SegmentPool

KIB, MIB = 1 << 10, 1 << 20
SIZES = (4 * KIB, 64 * KIB, MIB)
BULK_DEPTH = 4
READ_DEPTH = 2  # what is being read, and what is read ahead of it
APPENDS_MAX = 4000  # a round
FETCH_BYTES = MIB

_DEFAULTS = Config()

Figures = dict[str, float]


class NoProducers:
    """A ProducerState that has none."""

    def load(self, snapshot: bytes) -> None:
        """Nothing to know."""

    def snapshot(self) -> bytes:
        """Nothing to keep."""
        return b""

    def replay(self, batch: BatchHeader) -> None:
        """Nothing to learn."""


class Waiter:
    """A LogOwner that calls `on_progress` when something became durable."""

    def __init__(self) -> None:
        self.on_progress: Callable[[int], None] = lambda _offset: None
        self.failed: StorageError | None = None

    def on_durable(self, durable_offset: int) -> None:
        """See LogOwner."""
        self.on_progress(durable_offset)

    def on_log_stalled(self, error: StorageError, from_offset: int) -> None:
        """Nobody makes room here."""
        self.on_log_failed(error)

    def on_log_resumed(self) -> None:
        """Does not happen."""

    def on_log_failed(self, error: StorageError) -> None:
        """See LogOwner."""
        raise SystemExit(f"the log failed: {error}")


@asynccontextmanager
async def engine(directory: Path, cache_bytes: int) -> AsyncIterator[LogContext]:
    """What a shard gives its logs, with the defaults of `Config`; nothing is recycled."""
    loop = asyncio.get_running_loop()
    probe = directory / "alignment"
    fd, direct = open_segment(probe, create=True)
    block_bytes = alignment(fd)
    os.close(fd)
    probe.unlink()
    if not direct:
        print(f"note: {directory} refuses Direct I/O; these figures are of buffered I/O")
    disk = open_disk("auto", loop, print)
    pool = SegmentPool(directory / "recycle", 0)
    await disk.run(pool.load)
    yield LogContext(
        disk=disk,
        committer=Committer(disk, loop, time.perf_counter),
        cache=RecordCache(cache_bytes),
        pool=pool,
        block_bytes=block_bytes,
        checkpoint_bytes=_DEFAULTS.checkpoint_bytes,
        lock_wait_s=5.0,
        now_ms=lambda: time.time_ns() // 1_000_000,
        rng=random.SystemRandom(),
        report=lambda event, detail: print(f"{event}: {detail}"),
    )
    await disk.close()


async def open_in(context: LogContext, directory: Path) -> tuple[Log, Waiter]:
    """A log, made where there is none."""
    log = await open_log(
        context, LogConfig(), directory, bytes(16), 0, NoProducers(), directory.parent / "trash",
        lambda _topic_id: False,
    )  # fmt: skip
    owner = Waiter()
    log.attach(owner)
    return log, owner


def batch_of(size: int) -> tuple[memoryview, BatchHeader]:
    """One batch of exactly `size` bytes."""
    empty = len(build_batch([(None, b"")]))
    value = size - empty
    while len(batch := build_batch([(None, bytes(value))])) > size:
        value -= len(batch) - size
    assert len(batch) == size
    return memoryview(batch), parse_header(batch)


async def append(log: Log, owner: Waiter, size: int, count: int, depth: int) -> list[float]:
    """`count` groups of `size` bytes, `depth` in flight; the seconds from each append until it was
    durable."""
    batch, header = batch_of(size)
    waits_s: list[float] = []
    starts_s: list[tuple[int, float]] = []  # by end offset, in order
    left, done = count, asyncio.get_running_loop().create_future()

    def more() -> None:
        nonlocal left
        left -= 1
        now_s = time.perf_counter()
        starts_s.append((log.append(batch, header, 1) + 1, now_s))

    def progress(offset: int) -> None:
        now_s = time.perf_counter()
        while starts_s and starts_s[0][0] <= offset:
            waits_s.append(now_s - starts_s.pop(0)[1])
            if left:
                more()
        if not starts_s and not done.done():
            done.set_result(None)

    owner.on_progress = progress
    for _ in range(min(depth, count)):
        more()
    await done
    return waits_s


async def read_all(log: Log) -> int:
    """Read a log from its start to its end; its bytes."""
    offset, end, total = log.log_start_offset, log.durable_offset, 0
    while offset < end:
        slices, offset = await log.read(offset, end, FETCH_BYTES)
        total += sum(map(len, slices))
    return total


async def measure_append(directory: Path, size: int, count: int, depth: int) -> Figures:
    """One round of appends to a new log."""
    async with engine(directory, MIB) as context:
        log, owner = await open_in(context, directory / "append-0")
        await append(log, owner, size, depth, depth)  # the segment is made, the record has its size
        gc.collect()
        cpu_s, start_s = time.process_time(), time.perf_counter()
        waits_s = await append(log, owner, size, count, depth)
        wall_s = time.perf_counter() - start_s
        cpu_s = time.process_time() - cpu_s
        await log.close()
    shutil.rmtree(directory / "append-0")
    gib = count * size / 2**30
    on_disk = count * (size + context.block_bytes)
    return {"mib_s": on_disk / MIB / wall_s, "cpu_s_gib": cpu_s / gib} | quantiles_ms(waits_s)


def quantiles_ms(waits_s: list[float]) -> Figures:
    """p50, p99 and p99.9."""
    waits = sorted(waits_s)
    points = {"p50_ms": 0.5, "p99_ms": 0.99, "p99.9_ms": 0.999}
    return {name: waits[int(len(waits) * at)] * 1000 for name, at in points.items()}


def fio(directory: Path, kind: str, block: int, depth: int, total: int) -> Figures:
    """The same by fio."""
    path = directory / "fio"
    command = ["fio", "--name=fio", f"--filename={path}", f"--rw={kind}", f"--bs={block}"]
    command += ["--direct=1", "--ioengine=io_uring", f"--iodepth={depth}", f"--size={total}"]
    if kind == "write":
        command += ["--sync=dsync", "--fallocate=native"]
    command += ["--output-format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)["jobs"][0][kind]
    if kind == "write":
        path.unlink()
    points = facts["clat_ns"]["percentile"]
    figures = {"mib_s": facts["bw_bytes"] / MIB}
    return figures | {
        "p50_ms": points["50.000000"] / 1e6,
        "p99_ms": points["99.000000"] / 1e6,
        "p99.9_ms": points["99.900000"] / 1e6,
    }


async def fill(directory: Path, name: str, mib: int) -> None:
    """A log of `mib` MiB, closed."""
    async with engine(directory, MIB) as context:
        log, owner = await open_in(context, directory / name)
        await append(log, owner, MIB, mib, BULK_DEPTH)
        await log.close()


async def measure_read(directory: Path, name: str) -> Figures:
    """One round of reading a log that is nowhere in memory."""
    async with engine(directory, _DEFAULTS.cache_bytes) as context:
        log, _owner = await open_in(context, directory / name)
        gc.collect()
        cpu_s, start_s = time.process_time(), time.perf_counter()
        total = await read_all(log)
        wall_s = time.perf_counter() - start_s
        cpu_s = time.process_time() - cpu_s
        await log.close()
    return {"mib_s": total / MIB / wall_s, "cpu_s_gib": cpu_s / (total / 2**30)}


async def measure_beside(directory: Path, name: str, count: int, reads: bool) -> Figures:
    """Appends of 4 KiB with and without somebody who reads another log."""
    async with engine(directory, _DEFAULTS.cache_bytes) as context:
        other, _ = await open_in(context, directory / name)
        log, owner = await open_in(context, directory / "beside-0")
        total = 0

        async def read_on() -> None:
            nonlocal total
            while True:
                total += await read_all(other)

        await append(log, owner, 4 * KIB, 50, 1)
        if reads:
            await read_all(other)  # the cache is full
        gc.collect()
        gc.freeze()
        reader = asyncio.ensure_future(read_on()) if reads else None
        start_s, before = time.perf_counter(), context.disk.read_bytes
        waits_s = await append(log, owner, 4 * KIB, count, 1)
        wall_s = time.perf_counter() - start_s
        read_mib = (context.disk.read_bytes - before) / MIB
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
        await log.close()
        await other.close()
    shutil.rmtree(directory / "beside-0")
    return quantiles_ms(waits_s) | {"read_mib_s": read_mib / wall_s}


def medians(rounds: list[Figures]) -> Figures:
    """Each figure's median."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def show_appends(directory: Path, rounds: int, mib: int) -> None:
    """append and bulk."""
    print("          KiB  depth   MiB/s    fio   share  p50 ms    fio  p99 ms    fio  CPU s/GiB")
    for size, depth in [(size, 1) for size in SIZES] + [(MIB, BULK_DEPTH)]:
        count = min(APPENDS_MAX, mib * MIB // size)
        block_bytes = 4 * KIB
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(uvloop.run(measure_append(directory, size, count, depth)))
            disk_bytes = count * (size + block_bytes)
            theirs.append(fio(directory, "write", size + block_bytes, depth, disk_bytes))
        mine, its = medians(ours), medians(theirs)
        print(
            f"{'append' if depth == 1 else 'bulk':8} {size // KIB:4} {depth:6} "
            f"{mine['mib_s']:7.0f} {its['mib_s']:6.0f} {mine['mib_s'] / its['mib_s']:7.0%} "
            f"{mine['p50_ms']:7.3f} {its['p50_ms']:6.3f} {mine['p99_ms']:7.3f} "
            f"{its['p99_ms']:6.3f} {mine['cpu_s_gib']:10.2f}"
        )


def show_reads(directory: Path, rounds: int, mib: int) -> None:
    """read."""
    ours, theirs = [], []
    fio(directory, "read", MIB, 1, mib * MIB)  # lays its file out
    for _ in range(rounds):
        ours.append(uvloop.run(measure_read(directory, "read-0")))
        theirs.append(fio(directory, "read", READ_BYTES_MAX, READ_DEPTH, mib * MIB))
    (directory / "fio").unlink()
    mine, its = medians(ours), medians(theirs)
    print(
        f"read     {mib:4} MiB: {mine['mib_s']:.0f} MiB/s, fio {its['mib_s']:.0f} "
        f"({mine['mib_s'] / its['mib_s']:.0%}); {mine['cpu_s_gib']:.2f} CPU s/GiB"
    )


def show_beside(directory: Path, rounds: int) -> None:
    """beside."""
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(uvloop.run(measure_beside(directory, "read-0", APPENDS_MAX, False)))
        beside.append(uvloop.run(measure_beside(directory, "read-0", APPENDS_MAX, True)))
    one, two = medians(alone), medians(beside)
    for name, figures in (("idle", one), (f"a reader ({two['read_mib_s']:.0f} MiB/s)", two)):
        print(
            f"beside   {name}: p50 {figures['p50_ms']:.3f}  p99 {figures['p99_ms']:.3f}  "
            f"p99.9 {figures['p99.9_ms']:.3f} ms"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024, help="bytes of the large ones")
    parser.add_argument("--data-dir", type=Path, default=Path(), help="where the files are made")
    args = parser.parse_args()
    print(f"the storage engine beside fio, medians of {args.rounds} rounds in turns")
    with tempfile.TemporaryDirectory(dir=args.data_dir, prefix="storage.") as name:
        directory = Path(name)
        show_appends(directory, args.rounds, args.mib)
        uvloop.run(fill(directory, "read-0", args.mib))
        show_reads(directory, args.rounds, args.mib)
        show_beside(directory, args.rounds)


if __name__ == "__main__":
    main()
