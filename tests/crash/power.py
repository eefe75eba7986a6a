"""Power cuts by the thousand: the storage engine on ext4 or XFS that is shut down under load.

    python -m tests.crash.power --cycles 1000 --kind ext4 --seed 1

A cycle: a child opens the logs and writes as fast as it can; at a random moment the file system is
shut down without a log flush (cut_disk.py), the child is killed, the disk mounted again, and every
log recovered and read from start to end. The next cycle goes on with what is there. With
`--lying` the child acknowledges without a sync: then something must be lost soon.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import storage.ring
from storage.backend import Backend
from storage.errors import StorageError
from tests.clients.broker import runs, wait_until
from tests.crash.cut_disk import CutDisk
from tests.crash.engine import Engine, Ledger, Lost, Shared, end_child, start_life

LOAD_S_MAX = 0.06
RECOVERING = 0.25  # so many cuts are timed from the fork on, the others from when logs are open
FRESH_EVERY = 100  # cycles on one directory
BACKENDS: tuple[Backend, ...] = ("auto", "ring", "threads")  # drawn for each life
APPENDS = 4000  # of each partition: more than a cycle has time for


@dataclass(slots=True)
class Result:
    """What a run of cycles has seen. `lost` is what the judge said, None: nothing was lost."""

    cycles: int = 0
    records: int = 0  # read back and compared
    unacknowledged: int = 0  # that the cut left, whole
    compacted: int = 0  # that were looked for and found to be superseded
    torn: int = 0  # tails that recovery cut
    ended_s: float = 0.0
    lost: str | None = None


def lie() -> None:
    """Acknowledge what may still be in a cache: writes without RWF_DSYNC."""
    storage.ring.RWF_DSYNC = 0


def run(
    disk: CutDisk, seed: int, cycles: int, lying: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> Result:  # fmt: skip
    """Cut the power `cycles` times, or until something is lost."""
    rng, result, began_s = random.Random(seed), Result(), time.perf_counter()
    engine, ledger, shared = _fresh(disk, seed)
    told_s = began_s
    while result.cycles < cycles:
        life = result.cycles
        if life and life % FRESH_EVERY == 0:
            shutil.rmtree(engine.directory)
            engine, ledger, shared = _fresh(disk, seed + life)
        before = ledger.records, ledger.unacknowledged, ledger.compacted
        if not lying:
            engine.backend = rng.choice(BACKENDS)
        pid = start_life(engine, shared, ledger.seed, life, APPENDS, lie if lying else _honest)
        _wait_for_moment(shared, pid, rng)
        shared.hold_to_this()
        disk.cut_power()
        end_child(pid)
        disk.restore()
        result.cycles += 1
        engine.reported.clear()
        try:
            ledger.judge(engine, shared, life, gracefully=rng.random() < 0.5)
            shared.forget_promises()
        except (Lost, StorageError) as error:
            result.lost = str(error)
            break
        finally:
            result.records += ledger.records - before[0]
            result.unacknowledged += ledger.unacknowledged - before[1]
            result.compacted += ledger.compacted - before[2]
            result.torn += sum("torn tail" in text for text in engine.reported)
            result.ended_s = time.perf_counter() - began_s
        if time.perf_counter() - told_s > 5:
            told_s = time.perf_counter()
            left_s = result.ended_s / result.cycles * (cycles - result.cycles)
            say(
                f"{result.cycles} of {cycles} cycles, {result.records} records, {left_s:.0f} s left"
            )
    return result


def _wait_for_moment(shared: Shared, pid: int, rng: random.Random) -> None:
    """The moment is the test: while the process recovers, or later, while it writes."""
    if rng.random() >= RECOVERING:
        wait_until(lambda: shared.serving or not runs(pid), "a life has opened its logs")
    moment_s = time.perf_counter() + rng.uniform(0.0, LOAD_S_MAX)
    while (left_s := moment_s - time.perf_counter()) > 0:
        time.sleep(left_s)


def _honest() -> None:
    """Nothing to change."""


def _fresh(disk: CutDisk, seed: int) -> tuple[Engine, Ledger, Shared]:
    return Engine(disk.path / f"data-{seed}", "ring"), Ledger(seed), Shared()


def main() -> int:
    """The command; exit code 1 where something was lost (with --lying: where nothing was)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--kind", choices=("ext4", "xfs"), default="ext4")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--lying", action="store_true")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="power.") as folder:
        disk = CutDisk(Path(folder), args.kind)
        try:
            result = run(
                disk, args.seed, args.cycles, args.lying, lambda text: print(text, flush=True)
            )
        finally:
            disk.close()
    print(result)
    return int((result.lost is None) == args.lying)


if __name__ == "__main__":
    sys.exit(main())
