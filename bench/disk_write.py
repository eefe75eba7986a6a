"""What one durable write costs: CPU and latency of each disk backend, one file, one loop.

Writes go over blocks that were written before, as into a recycled segment. "depth" is how many are
kept in flight: a callback writes the next one, and one submit a tick hands them over, as the
broker's committer does. The backends take turns, so that a slow spell of the disk hits both; the
median of the rounds is printed. Run: python -m bench.disk_write [directory]
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

from storage.backend import open_disk
from storage.buffers import aligned_buffer
from storage.disk import Disk, open_segment
from storage.errors import DiskUnavailable

FILE_BYTES = 64 << 20
BACKENDS = ("liburing", "threads")


@dataclass(slots=True)
class Round:
    cpu_us: float  # process CPU a write, system time and worker threads included
    p50_us: float
    p99_us: float
    writes_per_s: float


class Writer:
    """Keeps `depth` writes in flight until `count` are done."""

    def __init__(self, disk: Disk, fd: int, write_bytes: int, depth: int, count: int) -> None:
        self.disk = disk
        self.fd = fd
        self.view = aligned_buffer(write_bytes, 4096)[1]
        self.left = count
        self.depth = depth
        self.next_pos = 0
        self.latencies_ns: list[int] = []
        self.loop = asyncio.get_running_loop()
        self.finished = self.loop.create_future()
        self.submit_scheduled = False

    def write_next(self) -> None:
        started_ns = time.perf_counter_ns()

        def done(res: int) -> None:
            assert res == len(self.view), res
            self.latencies_ns.append(time.perf_counter_ns() - started_ns)
            if self.left:
                self.write_next()
            elif not self.disk.in_flight and not self.finished.done():
                self.finished.set_result(None)

        self.left -= 1
        self.disk.write(self.fd, self.view, self.next_pos, done)
        self.next_pos = (self.next_pos + len(self.view)) % FILE_BYTES
        if not self.submit_scheduled:
            self.submit_scheduled = True
            self.loop.call_soon(self.submit)

    def submit(self) -> None:
        self.submit_scheduled = False
        self.disk.submit()

    async def run(self) -> Round:
        count = self.left
        started_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(self.depth):
            self.write_next()
        await self.finished
        cpu_s = time.process_time() - cpu_s
        wall_s = time.perf_counter() - started_s
        sorted_ns = sorted(self.latencies_ns)
        return Round(
            cpu_us=cpu_s / count * 1e6,
            p50_us=sorted_ns[count // 2] / 1e3,
            p99_us=sorted_ns[count * 99 // 100] / 1e3,
            writes_per_s=count / wall_s,
        )


async def measure(path: Path, args: argparse.Namespace, depth: int) -> dict[str, list[Round]]:
    """`rounds` rounds of each backend, in turns."""
    loop = asyncio.get_running_loop()
    fd, direct = open_segment(path)
    if not direct:
        print(f"note: {path} refuses O_DIRECT; these figures are of buffered I/O")
    disks: list[Disk] = []
    for backend in BACKENDS:
        try:
            disks.append(open_disk(backend, loop, print))
        except DiskUnavailable as error:
            print(f"left out: {error}")
    rounds: dict[str, list[Round]] = {disk.name: [] for disk in disks}
    for _ in range(args.rounds):
        for disk in disks:
            writer = Writer(disk, fd, args.bytes, depth, args.count)
            rounds[disk.name].append(await writer.run())
    for disk in disks:
        await disk.close()
    os.close(fd)
    return rounds


def median(rounds: list[Round], name: str) -> float:
    values: list[float] = [getattr(one, name) for one in rounds]
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", default=".", help="where the file is made")
    parser.add_argument("--bytes", type=int, default=8192, help="size of a write")
    parser.add_argument("--count", type=int, default=2000, help="writes a round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory, prefix="disk_write.") as directory:
        path = Path(directory, "blocks.wal")
        with path.open("wb") as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(bytes(1 << 20))
            os.fsync(file.fileno())
        print(f"{args.bytes} bytes a durable write, {args.count} x {args.rounds}, medians")
        print("depth  backend    CPU us   p50 us   p99 us  writes/s")
        for depth in (1, 16, 128):
            for backend, rounds in uvloop.run(measure(path, args, depth)).items():
                print(
                    f"{depth:5}  {backend:9}"
                    f"{median(rounds, 'cpu_us'):8.1f} {median(rounds, 'p50_us'):8.0f}"
                    f" {median(rounds, 'p99_us'):8.0f} {median(rounds, 'writes_per_s'):9.0f}"
                )


if __name__ == "__main__":
    main()
