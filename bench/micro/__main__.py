"""Micro benchmarks of the hot paths: what a call allocates, then how long it takes.

Run: python -m bench.micro [options of pytest, as -k append]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import pytest

from bench.micro.paths import PATHS, measure


def main() -> int:
    print(f"{'allocations a call':45}{'held':>8}{'left':>7}{'peak bytes':>12}")
    for path in PATHS:
        loop = asyncio.new_event_loop()
        with tempfile.TemporaryDirectory() as directory:
            found = measure(path.make(Path(directory), loop))
        loop.close()
        print(f"{path.name:45}{found.held:8.0f}{found.left:7.1f}{found.peak_bytes:12}")
    options = ["--benchmark-columns=median,iqr,min,ops", "--benchmark-sort=fullname"]
    options += ["--benchmark-max-time=0.3", "--benchmark-disable-gc", "-q"]
    timed = str(Path(__file__).with_name("timed.py"))
    return int(pytest.main([timed, *options, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
