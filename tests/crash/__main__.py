"""All crash tests in full, and their report.

    python -m tests.crash [--kinds power,points,failing,rot] [--seed N] [--report]
    make crash ARGS='--kinds power --cycles 50'

power    the power fails under load on ext4 and XFS (power.py), and without syncs: the control
points   SIGKILL at every system call that changes a file (points.py)
failing  EIO, ENOSPC and short writes at every operation (failing.py)
rot      a flipped bit in every byte (rot.py)

With --report the figures go to docs/DURABILITY.md. Exit code 1 where anything was lost, or where
a control lost nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.clients.broker import ROOT
from tests.crash import failing, points, power, rot
from tests.crash.cut_disk import CutDisk, CutDiskUnavailable
from tests.crash.engine import PARTITIONS
from tests.crash.fuse_disk import FuseUnavailable

KINDS = ("power", "points", "failing", "rot")
PAGE = ROOT / "docs" / "DURABILITY.md"
TEMPLATE = Path(__file__).parent / "durability.md"
FIGURES = Path(__file__).parent / "figures.json"
CONTROLS = 5
CONTROL_CYCLES = 20

Facts = dict[str, Any]
Say = Callable[[str], None]


def cut_power(args: argparse.Namespace, say: Say) -> Facts:
    """Both file systems, then the control."""
    facts: Facts = {}
    for kind, cycles in (("ext4", args.cycles), ("xfs", max(args.cycles // 5, 1))):
        with tempfile.TemporaryDirectory(prefix="power.", dir=args.directory) as folder:
            disk = CutDisk(Path(folder), kind)
            try:
                facts[kind] = asdict(power.run(disk, args.seed, cycles, say=say))
            finally:
                disk.close()
    bitten = []
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
        return asdict(points.run(Path(folder), args.seed, args.step, say=say))


def fail_operations(args: argparse.Namespace, say: Say) -> Facts:
    """Every operation, or every `step`-th."""
    with tempfile.TemporaryDirectory(prefix="failing.", dir=args.directory) as folder:
        return asdict(failing.run(Path(folder), args.seed, args.step, say=say))


def flip_bits(args: argparse.Namespace, say: Say) -> Facts:
    """Every byte, or every `step`-th."""
    with tempfile.TemporaryDirectory(prefix="rot.", dir="/dev/shm") as folder:
        return asdict(rot.run(Path(folder), args.seed, args.step, say=say))


RUNS: dict[str, Callable[[argparse.Namespace, Say], Facts]] = {
    "power": cut_power,
    "points": kill_at_points,
    "failing": fail_operations,
    "rot": flip_bits,
}


def is_lost(kind: str, facts: Facts) -> bool:
    """Whether anything acknowledged was lost, or a control was not found out."""
    if kind == "power":
        lost = [facts[name]["lost"] for name in ("ext4", "xfs")]
        return any(lost) or None in facts["control"]
    return facts["lost"] is not None or facts["control"] is None


def page(figures: Facts) -> str:
    """docs/DURABILITY.md."""
    power_facts, rows = figures["power"], []
    for name in ("ext4", "xfs"):
        one = power_facts[name]
        rows.append(
            f"| power cut, {name} | {one['cycles']:,} cycles | {one['records']:,} | {_lost(one)} |"
        )
    one = points_facts = figures["points"]
    rows.append(f"| SIGKILL | {one['points']:,} system calls | {one['records']:,} | {_lost(one)} |")
    one = figures["failing"]
    faults = sum(one["faults"].values())
    rows.append(f"| failing disk | {faults:,} faults | {one['records']:,} | {_lost(one)} |")
    rot_facts = figures["rot"]
    flips = sum(rot_facts["flips"].values())
    rows.append(f"| bit rot | {flips:,} flips | - | {_lost(rot_facts)} |")
    kinds = ", ".join(f"{name} {count:,}" for name, count in one["faults"].items())
    files = ", ".join(f"{name} {count:,}" for name, count in rot_facts["flips"].items())
    control = ", ".join(map(str, power_facts["control"]))
    return TEMPLATE.read_text().format(
        rows="\n".join(rows), control=control, kinds=kinds, files=files,
        partitions=PARTITIONS, control_cycles=CONTROL_CYCLES, controls=CONTROLS,
        points_control=points_facts["control"], failing_control=one["control"],
        rot_control=rot_facts["control"], offline=one["offline"], served=one["served"],
        told=rot_facts["told"], newest=rot_facts["newest"],
        **{key: figures[key] for key in ("when", "machine", "commit", "seed", "command")},
    )  # fmt: skip


def _lost(facts: Facts) -> str:
    return "0" if facts["lost"] is None else f"**{facts['lost']}**"


def _facts_of_run(args: argparse.Namespace) -> Facts:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    machine = (
        f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    return {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine,
        "commit": commit.stdout.strip() or "unknown",
        "seed": args.seed,
        "command": f"python -m tests.crash --cycles {args.cycles} --seed {args.seed} --report",
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, by commas")
    parser.add_argument("--cycles", type=int, default=1000, help="power cuts on ext4; XFS: a fifth")
    parser.add_argument("--step", type=int, default=1, help="every n-th point, operation and byte")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--directory", type=Path, help="where the disks are made")
    parser.add_argument("--report", action="store_true", help="write docs/DURABILITY.md")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
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
        figures[kind] = facts
        print(f"   {facts}\n   {time.monotonic() - began_s:.0f} s", flush=True)
    if args.report:
        figures |= _facts_of_run(args)
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        if all(kind in figures for kind in KINDS):
            PAGE.write_text(page(figures))
    print("LOST" if lost else "nothing acknowledged was lost")
    return int(lost)


if __name__ == "__main__":
    sys.exit(main())
