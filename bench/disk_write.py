"""What one durable write costs: CPU and latency of each disk backend, as the broker writes.

A tick writes one record buffer to each dirty partition (a file of its own) and hands them over by
one submit, as the broker's committer does; the next tick starts when all are durable. Writes go
over blocks that were written before, as into a recycled segment. The backends take turns, so that a
slow spell of the disk hits all; the median of the rounds is printed. CPU is the process's, system
time and worker threads included. Run: python -m bench.disk_write [directory]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from storage.backend import BACKENDS, open_disk
from storage.buffers import aligned_buffer
from storage.disk import Disk, open_segment
from storage.errors import DiskUnavailable

SIZES = (4096, 65536, 1 << 20)
PARTITIONS = (1, 200)
FILE_BYTES_MIN = 2 << 20
TOTAL_BYTES_MIN = 64 << 20


@dataclass(slots=True)
class Round:
    cpu_us: float  # a write
    p50_us: float
    p99_us: float
    writes_per_s: float


class Writer:
    """Writes `size` bytes to every one of `fds` a tick, `ticks` times."""

    def __init__(self, disk: Disk, fds: list[int], file_bytes: int, size: int, ticks: int) -> None:
        self.disk = disk
        self.fds = fds
        self.file_bytes = file_bytes
        self.view = aligned_buffer(size, 4096)[1]
        self.ticks_left = ticks
        self.pending = 0
        self.pos = 0
        self.started_ns = 0
        self.latencies_ns: list[int] = []
        self.loop = asyncio.get_running_loop()
        self.finished = self.loop.create_future()

    def tick(self) -> None:
        self.ticks_left -= 1
        self.pending = len(self.fds)
        self.started_ns = time.perf_counter_ns()
        for fd in self.fds:
            self.disk.write(fd, self.view, self.pos, self.done)
        self.disk.submit()
        self.pos = (self.pos + len(self.view)) % self.file_bytes

    def done(self, res: int) -> None:
        assert res == len(self.view), res
        self.latencies_ns.append(time.perf_counter_ns() - self.started_ns)
        self.pending -= 1
        if not self.pending:
            if self.ticks_left:
                self.loop.call_soon(self.tick)
            else:
                self.finished.set_result(None)

    async def run(self) -> Round:
        started_s, cpu_s = time.perf_counter(), time.process_time()
        self.tick()
        await self.finished
        cpu_s = time.process_time() - cpu_s
        wall_s = time.perf_counter() - started_s
        sorted_ns = sorted(self.latencies_ns)
        count = len(sorted_ns)
        return Round(
            cpu_us=cpu_s / count * 1e6,
            p50_us=sorted_ns[count // 2] / 1e3,
            p99_us=sorted_ns[count * 99 // 100] / 1e3,
            writes_per_s=count / wall_s,
        )


async def measure(paths: list[Path], args: argparse.Namespace, size: int) -> dict[str, list[Round]]:
    """`rounds` rounds of each backend, in turns."""
    loop = asyncio.get_running_loop()
    opened = [open_segment(path) for path in paths]
    if not all(direct for _fd, direct in opened):
        print(f"note: {paths[0].parent} refuses O_DIRECT; these figures are of buffered I/O")
    disks: list[Disk] = []
    for backend in BACKENDS[1:]:
        try:
            disks.append(open_disk(backend, loop, print))
        except DiskUnavailable as error:
            print(f"left out: {error}")
    fds = [fd for fd, _direct in opened]
    ticks = max(args.bytes // size // len(fds), 2)
    ticks = min(ticks, max(args.writes // len(fds), 2))
    rounds: dict[str, list[Round]] = {disk.name: [] for disk in disks}
    for _ in range(args.rounds):
        for disk in disks:
            writer = Writer(disk, fds, paths[0].stat().st_size, size, ticks)
            rounds[disk.name].append(await writer.run())
    for disk in disks:
        await disk.close()
    for fd in fds:
        os.close(fd)
    return rounds


def median(rounds: list[Round], name: str) -> float:
    values: list[float] = [getattr(one, name) for one in rounds]
    return statistics.median(values)


def make_files(directory: Path, count: int) -> list[Path]:
    """`count` files whose blocks are all written and on the disk."""
    paths = [directory / f"{index}.wal" for index in range(count)]
    size = max(FILE_BYTES_MIN, TOTAL_BYTES_MIN // count)
    for path in paths:
        with path.open("wb") as file:
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", default=".", help="where the files are made")
    parser.add_argument("--writes", type=int, default=2000, help="writes a round, at most")
    parser.add_argument("--bytes", type=int, default=400 << 20, help="bytes a round, at most")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"durable writes, medians of {args.rounds} rounds in turns")
    print(" KiB  partitions a tick  backend    CPU us   p50 us   p99 us  writes/s")
    for partitions in PARTITIONS:
        with tempfile.TemporaryDirectory(dir=args.directory, prefix="disk_write.") as directory:
            paths = make_files(Path(directory), partitions)
            for size in SIZES:
                for backend, rounds in uvloop.run(measure(paths, args, size)).items():
                    print(
                        f"{size >> 10:4}  {partitions:17}  {backend:9}"
                        f"{median(rounds, 'cpu_us'):8.1f} {median(rounds, 'p50_us'):8.0f}"
                        f" {median(rounds, 'p99_us'):8.0f} {median(rounds, 'writes_per_s'):9.0f}"
                    )


if __name__ == "__main__":
    main()
