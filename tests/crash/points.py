"""SIGKILL at the n-th system call of each kind that changes a file, for n = 1, 2, ... to the last.

    python -m tests.crash.points [--step N] [--seed N]

A child lives on the thread-pool backend, whose writes are system calls, with everything in one
thread, so that its calls are in one row. First a life on an empty directory is killed at each
point, then the recovery of a directory that a kill left behind. After each kill every log is
recovered and held to what was acknowledged.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from storage.disk import BlockingPool
from storage.errors import StorageError
from storage.threaded import ThreadQueue
from tests.clients.broker import runs, wait_until
from tests.crash.engine import Engine, Ledger, Lost, Shared, end_child, start_life

CALLS = (
    *("pwritev2", "fsync", "rename", "fallocate", "pwrite64", "ftruncate", "unlink", "mkdir"),
    *("fdatasync", "rmdir"),
)
APPENDS = 25  # of each partition in one life
KILLED_AT = 30  # the write at which it dies whose recovery is killed at each point, too
ENDS_S_MAX = 60.0

T = TypeVar("T")


@dataclass(slots=True)
class Result:
    """`points` were killed at, `records` read back; `lost` is what the judge said first. `control`:
    at how many points an engine that acknowledges what it has not written was found out."""

    points: int = 0
    records: int = 0
    lost: str | None = None
    control: int | None = None


def run(
    folder: Path, seed: int, step: int = 1, first: int = 1,
    say: Callable[[str], None] = lambda _text: None,
) -> Result:  # fmt: skip
    """Every `step`-th point from `first` on, of a first life and of a recovery."""
    result = Result()
    for recovers in (False, True):
        for call in CALLS:
            for point in _points(folder, seed, call, range(first, 1 << 30, step), recovers, result):
                if result.points % 20 == 0:
                    what = "a recovery" if recovers else "a first life"
                    say(f"{result.points} points, now {call} {point} of {what}")
                if result.lost is not None:
                    return result
    liar = Result()
    for _point in _points(folder, seed, "pwritev2", range(2, 40, 9), False, liar, lying=True):
        if liar.lost is not None:
            result.control = liar.points
            break
    return result


def _points(
    folder: Path, seed: int, call: str, points: Iterable[int], recovers: bool, result: Result,
    lying: bool = False,
) -> Iterator[int]:  # fmt: skip
    for point in points:
        place = folder / f"{call}-{point}"
        place.mkdir()
        shared, ledger = Shared(place / "shared"), Ledger(seed)
        life = 0
        try:
            if recovers:
                _kill_at(place, seed, 0, "pwritev2", KILLED_AT)
                ledger.judge(Engine(_copy(place), "threads"), shared, 0)
                life = 1
            killed = _kill_at(place, seed, life, call, point, lying)
            ledger.judge(Engine(place / "data", "threads"), shared, life)
        except (Lost, StorageError) as error:
            result.lost = f"killed at {call} {point}, seed {seed}: {error}"
            killed = True
        result.records += ledger.records
        shutil.rmtree(place)
        if not killed:
            return  # it has fewer calls than that
        result.points += 1
        yield point


def _copy(place: Path) -> Path:
    """A copy to look at: the recovery that is killed must find what the kill left."""
    copy = place / "copy"
    shutil.copytree(place / "data", copy)
    return copy


def _kill_at(place: Path, seed: int, life: int, call: str, point: int, lying: bool = False) -> bool:
    """Have a child live, and die at its n-th call; whether it came to that."""
    engine, shared = Engine(place / "data", "threads"), Shared(place / "shared")
    pid = start_life(engine, shared, seed, life, APPENDS, _be_traced, lying)
    os.waitpid(pid, os.WUNTRACED)  # it has stopped itself
    trace = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-p", str(pid)]
    trace += ["-e", f"inject={call}:signal=SIGKILL:when={point}"]
    with subprocess.Popen(trace, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        try:
            said = strace.stderr.readline()
            assert "attached" in said, f"strace: {said}"
            os.kill(pid, signal.SIGCONT)
            wait_until(lambda: not runs(pid), "the life is over", ENDS_S_MAX)
        finally:
            code = end_child(pid)
    assert code in (0, -signal.SIGKILL), f"the life ended with code {code}"
    return code != 0


def _be_traced() -> None:
    """Have everything in one thread, since strace counts each thread's calls for itself, and wait
    for strace."""

    async def run_here(_pool: BlockingPool, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    def submit_here(queue: ThreadQueue) -> int:
        jobs = [*queue._queued, None]
        queue._queued.clear()
        for job in jobs:
            queue._jobs.put(job)
        queue._work()
        return len(jobs) - 1

    BlockingPool.run = run_here  # type: ignore[method-assign,assignment]
    ThreadQueue.submit = submit_here  # type: ignore[method-assign]
    os.kill(os.getpid(), signal.SIGSTOP)


def main() -> int:
    """The command; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="points.") as folder:
        result = run(Path(folder), args.seed, args.step, 1, lambda text: print(text, flush=True))
    print(result)
    return int(result.lost is not None or result.control is None)


if __name__ == "__main__":
    sys.exit(main())
