"""Compaction of a log with many keys: how fast, how much CPU, how much memory.

Writes a record for each of KEYS keys and then one more for every tenth of them, in segments as the
broker makes them, and has all of it compacted by the broker's background process; tells the time,
the CPU and the peak of resident memory of that process.
Run: python -m bench.storage.compaction [--keys N] [--value-bytes N] [--codec NAME] [directory]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

from bench.storage.sealing import Waiter, open_log_in
from kafka_protocol.compression import CODEC_NAMES
from kafka_protocol.record_batch import build_batch, frame_batch, parse_header
from rpk_py.background_process import BackgroundProcess
from storage.compaction import CompactionConfig, Compactor
from storage.log import Log
from storage.log_context import LogConfig

BATCH_RECORDS = 500
SEGMENT_BYTES = 256 << 20
IN_FLIGHT = 64  # batches


class Batches:
    """Makes batches of records whose keys are numbers of 20 digits, quickly."""

    def __init__(self, value_bytes: int, codec: int) -> None:
        self._codec = codec
        value = os.urandom(value_bytes // 2).ljust(value_bytes, b"x")
        rows = [(b"%020d" % i, value) for i in range(BATCH_RECORDS)]
        self._records = bytearray(build_batch(rows)[61:])
        self._places = [self._records.index(key) for key, _ in rows]

    def make(self, numbers: list[int]) -> memoryview:
        """One batch with these keys, BATCH_RECORDS of them."""
        for at, number in zip(self._places, numbers, strict=True):
            self._records[at : at + 20] = b"%020d" % number
        last, now_ms = len(numbers) - 1, time.time_ns() // 1_000_000
        return memoryview(
            frame_batch(
                self._records,
                len(numbers),
                last_offset_delta=last,
                base_timestamp=now_ms,
                max_timestamp=now_ms,
                compression=self._codec,
            )
        )


async def _fill(log: Log, batches: Batches, keys: int) -> None:
    waiter = Waiter()
    log.attach(waiter)
    numbers = list(range(keys)) + list(range(0, keys, 10))
    for start in range(0, len(numbers) - BATCH_RECORDS + 1, BATCH_RECORDS):
        batch = batches.make(numbers[start : start + BATCH_RECORDS])
        log.append(batch, parse_header(batch), 1)
        if start // BATCH_RECORDS % IN_FLIGHT == 0:
            waiter.durable = asyncio.get_running_loop().create_future()
            await waiter.durable
    await _until_durable(log, waiter)
    log.configure(LogConfig(segment_bytes=1))  # the next append begins a segment
    batch = batches.make(list(range(BATCH_RECORDS)))
    log.append(batch, parse_header(batch), 1)
    await _until_durable(log, waiter)


async def _until_durable(log: Log, waiter: Waiter) -> None:
    while log.durable_offset < log.log_end_offset:
        waiter.durable = asyncio.get_running_loop().create_future()
        await waiter.durable


async def measure(directory: Path, keys: int, value_bytes: int, codec: int) -> None:
    """Fill, compact and print."""
    background = BackgroundProcess(directory, lambda: 0.0)
    log = await open_log_in(directory, background, SEGMENT_BYTES)
    await _fill(log, Batches(value_bytes, codec), keys)
    compactor = Compactor(log.rewriter)
    found = await compactor.cleanable(CompactionConfig(SEGMENT_BYTES))
    while len(found.segments) < len(log.rewriter.segments) - 1:  # until all are sealed
        await asyncio.sleep(0.05)
        found = await compactor.cleanable(CompactionConfig(SEGMENT_BYTES))
    began_s = time.perf_counter()
    done = await compactor.compact(found, CompactionConfig(SEGMENT_BYTES), ())
    took_s = time.perf_counter() - began_s
    assert done is not None
    cpu_s, peak_mib = _cost(background.pid)
    print(f"{done.records} records of {keys} keys, {CODEC_NAMES[codec]}, {value_bytes} bytes each")
    print(f"  {done.bytes_before} bytes before, {done.bytes_after} after, {done.dropped} dropped")
    rate, records = done.bytes_before / took_s / 1e6, done.records / took_s
    print(f"  {took_s:.1f} s: {rate:.0f} MB/s, {records:.0f} records/s; CPU {cpu_s:.1f} s")
    print(f"  peak memory {peak_mib:.0f} MiB")
    await log.close()
    await background.close()


def _cost(pid: int | None) -> tuple[float, float]:
    """CPU seconds of a process, and its peak of resident memory in MiB."""
    peak = Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), int(peak) / 1024


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--codec", choices=CODEC_NAMES, default="none")
    arguments = parser.parse_args()
    codec = CODEC_NAMES.index(arguments.codec)
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="compaction-") as directory:
        asyncio.run(measure(Path(directory), arguments.keys, arguments.value_bytes, codec))


if __name__ == "__main__":
    main()
