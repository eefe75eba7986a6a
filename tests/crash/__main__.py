"""All crash tests in full, and their report.

    python -m tests.crash [--kinds power,points,failing,rot] [--seed N] [--report]
    python -m tests.crash --kinds points --step 4 --first 1 --report    # and 2, 3, 4: in four parts
    make crash ARGS='--kinds power --cycles 50'

power    the power fails under load on ext4 and XFS (power.py), and without syncs: the control
points   SIGKILL at every system call that changes a file (points.py)
failing  EIO, ENOSPC and short writes at every operation (failing.py)
rot      a flipped bit in every byte (rot.py)

With --report the figures go to docs/DURABILITY.md; parts of the same step and seed add up. Exit
code 1 where anything was lost, or where a control lost nothing.
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
SEEDS_OF_PART = 100_000

Facts = dict[str, Any]
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
    power_facts, killed = figures["power"], figures["points"]
    failed, rotten = figures["failing"], figures["rot"]
    faults, flips = sum(failed["faults"].values()), sum(rotten["flips"].values())
    table = [
        (
            f"power cut, {name}",
            f"{power_facts[name]['cycles']:,} cycles",
            power_facts[name],
            "power",
        )
        for name in ("ext4", "xfs")
    ]
    table += [
        ("SIGKILL", f"{killed['points']:,} system calls", killed, "points"),
        ("failing disk", f"{faults:,} faults", failed, "failing"),
        ("bit rot", f"{flips:,} flips", rotten, "rot"),
    ]
    rows = []
    for what, how_often, facts, kind in table:
        records = f"{facts['records']:,}" if "records" in facts else "all, after each"
        rows.append(f"| {what} | {how_often}{_part(figures[kind])} | {records} | {_lost(facts)} |")
    runs = [
        f"- `{figures[kind]['run']['command']}`: {figures[kind]['run']['seconds']:,} s, "
        f"{figures[kind]['run']['when']}, {figures[kind]['run']['machine']}"
        for kind in KINDS
    ]
    return TEMPLATE.read_text().format(
        rows="\n".join(rows), runs="\n".join(runs),
        control=", ".join(map(str, power_facts["control"])),
        kinds=", ".join(f"{name} {count:,}" for name, count in failed["faults"].items()),
        files=", ".join(f"{name} {count:,}" for name, count in rotten["flips"].items()),
        partitions=PARTITIONS, control_cycles=CONTROL_CYCLES, controls=CONTROLS,
        points_control=killed["control"], failing_control=failed["control"],
        rot_control=rotten["control"], offline=failed["offline"], served=failed["served"],
        told=rotten["told"], newest=rotten["newest"],
    )  # fmt: skip


def report(kind: str, facts: Facts) -> None:
    """Write the figures of a kind down, and the page where no kind is missing."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    figures[kind] = added(figures.get(kind), facts)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    if all(kind in figures for kind in KINDS):
        PAGE.write_text(page(figures))


def _part(facts: Facts) -> str:
    """What a run that did not take every point or byte says of that."""
    run = facts["run"]
    return "" if len(run["firsts"]) == run["step"] else f" ({len(run['firsts'])} in {run['step']})"


def _lost(facts: Facts) -> str:
    return "0" if facts["lost"] is None else f"**{facts['lost']}**"


def added(old: Facts | None, new: Facts) -> Facts:
    """The figures of a kind, with those of other parts of the same run."""
    if old is None or new["run"]["first"] in old["run"]["firsts"]:
        old = None
    if old is None or any(old["run"][name] != new["run"][name] for name in ("step", "seed")):
        return new | {"run": new["run"] | {"firsts": [new["run"]["first"]]}}
    found = {name: _sum(old[name], new[name]) for name in new if name not in ("run", "control")}
    found["control"] = old["control"] if old["control"] is not None else new["control"]
    both = {
        "firsts": [*old["run"]["firsts"], new["run"]["first"]],
        "seconds": old["run"]["seconds"] + new["run"]["seconds"],
    }
    return found | {"run": new["run"] | both}


def _sum(one: Any, other: Any) -> Any:
    """Numbers add up; of what was lost the first counts."""
    if isinstance(one, dict):
        return {key: _sum(one.get(key), other.get(key)) for key in one | other}
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return one if one is not None else other


def _facts_of_run(args: argparse.Namespace, kind: str, seconds: float) -> Facts:
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
        "step": args.step,
        "first": args.first,
        "seconds": round(seconds),
        "command": f"make crash ARGS='--kinds {kind} --cycles {args.cycles} --seed {args.seed}'",
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
    args = parser.parse_args()
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
        facts["run"] = _facts_of_run(args, kind, time.monotonic() - began_s)
        if args.report:
            report(kind, facts)
        print(f"   {facts}\n   {time.monotonic() - began_s:.0f} s", flush=True)
    print("LOST" if lost else "nothing acknowledged was lost")
    return int(lost)


if __name__ == "__main__":
    sys.exit(main())
