"""All crash tests in full, and their report.

    python -m tests.crash [--kinds power,points,failing,rot,broker] [--seed N] [--report]
    python -m tests.crash --kinds points --step 4 --first 1 --report    # and 2, 3, 4: in four parts
    make crash ARGS='--kinds power --cycles 50'

power    the power fails under load on ext4 and XFS (power.py), and without syncs: the control
points   SIGKILL at every system call that changes a file (points.py)
failing  EIO, ENOSPC and short writes at every operation (failing.py)
rot      a flipped bit in every byte (rot.py)
broker   kill -9 and power cuts of whole brokers under a client (whole_broker.py), a tenth of the
         cycles each

With --report the figures go to docs/DURABILITY.md; parts of the same step and seed add up. Exit
code 1 where anything was lost, or where a control lost nothing.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.crash import failing, points, power, rot, whole_broker
from tests.crash.cut_disk import CutDisk, CutDiskUnavailable
from tests.crash.fuse_disk import FuseUnavailable
from tests.crash.report import (
    CONTROL_CYCLES,
    CONTROLS,
    KINDS,
    Facts,
    facts_of_run,
    is_lost,
    report,
    write_page,
)

SEEDS_OF_PART = 100_000

Say = Callable[[str], None]


def cut_power(args: argparse.Namespace, say: Say) -> Facts:
    """Both file systems, or a part of their cycles with moments of its own; then the control."""
    number, parts = args.first - 1, args.step
    seed = args.seed + number * SEEDS_OF_PART
    facts: Facts = {}
    for kind, cycles in (("ext4", args.cycles), ("xfs", max(args.cycles // 5, 1))):
        with tempfile.TemporaryDirectory(prefix="power.", dir=args.directory) as folder:
            disk = CutDisk(Path(folder), kind)
            try:
                share = (cycles + parts - 1 - number) // parts
                facts[kind] = asdict(power.run(disk, seed, share, say=say))
            finally:
                disk.close()
    bitten: list[int | None] = []
    if number:
        return facts | {"control": bitten}
    with tempfile.TemporaryDirectory(prefix="power.", dir=args.directory) as folder:
        disk = CutDisk(Path(folder))
        try:
            for seed in range(CONTROLS):
                result = power.run(disk, args.seed + seed, CONTROL_CYCLES, lying=True)
                bitten.append(result.cycles if result.lost is not None else None)
        finally:
            disk.close()
    return facts | {"control": bitten}


def kill_at_points(args: argparse.Namespace, say: Say) -> Facts:
    """Every point, or every `step`-th."""
    with tempfile.TemporaryDirectory(prefix="points.", dir=args.directory) as folder:
        return asdict(points.run(Path(folder), args.seed, args.step, args.first, say=say))


def fail_operations(args: argparse.Namespace, say: Say) -> Facts:
    """Every operation, or every `step`-th."""
    with tempfile.TemporaryDirectory(prefix="failing.", dir=args.directory) as folder:
        return asdict(failing.run(Path(folder), args.seed, args.step, first=args.first, say=say))


def flip_bits(args: argparse.Namespace, say: Say) -> Facts:
    """Every byte, or every `step`-th."""
    with tempfile.TemporaryDirectory(prefix="rot.", dir="/dev/shm") as folder:
        return asdict(rot.run(Path(folder), args.seed, args.step, first=args.first, say=say))


def crash_brokers(args: argparse.Namespace, say: Say) -> Facts:
    """Kills and power cuts, or a part of their cycles; then the controls."""
    number, parts = args.first - 1, args.step
    seed = args.seed + number * SEEDS_OF_PART
    share = (max(args.cycles // 10, 1) + parts - 1 - number) // parts
    facts: Facts = {"control": []}
    with tempfile.TemporaryDirectory(prefix="broker.", dir=args.directory) as folder:
        for kind, cuts in (("killed", False), ("cut", True)):
            facts[kind] = asdict(whole_broker.run(Path(folder), seed, share, cuts, say))
            if not number:
                facts["control"].append(whole_broker.control(Path(folder), seed, cuts))
    return facts


RUNS: dict[str, Callable[[argparse.Namespace, Say], Facts]] = {
    "power": cut_power,
    "points": kill_at_points,
    "failing": fail_operations,
    "rot": flip_bits,
    "broker": crash_brokers,
}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, by commas")
    parser.add_argument("--cycles", type=int, default=1000, help="power cuts on ext4; XFS: a fifth")
    parser.add_argument(
        "--step",
        type=int,
        default=1,
        help="every n-th point, operation, byte; an n-th of the cycles",
    )
    parser.add_argument(
        "--first", type=int, default=1, help="which of them is the first: a run in parts has 1 to n"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--directory", type=Path, help="where the disks are made")
    parser.add_argument("--report", action="store_true", help="write docs/DURABILITY.md")
    parser.add_argument(
        "--page", action="store_true", help="run nothing: docs/DURABILITY.md from known figures"
    )
    args = parser.parse_args()
    if args.page:
        write_page()
        return 0
    print(f"seed {args.seed}", flush=True)
    lost = False
    for kind in args.kinds.split(","):
        began_s = time.monotonic()
        print(f"== {kind}", flush=True)
        try:
            facts = RUNS[kind](args, lambda text: print(f"   {text}", flush=True))
        except (CutDiskUnavailable, FuseUnavailable) as error:
            print(f"   not possible here: {error}", flush=True)
            lost = True
            continue
        lost = lost or is_lost(kind, facts)
        facts["run"] = facts_of_run(args, kind, time.monotonic() - began_s)
        if args.report:
            report(kind, facts)
        print(f"   {facts}\n   {time.monotonic() - began_s:.0f} s", flush=True)
    print("LOST" if lost else "nothing acknowledged was lost")
    return int(lost)


if __name__ == "__main__":
    sys.exit(main())
