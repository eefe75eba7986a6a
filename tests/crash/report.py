"""What `make crash` found, as figures that add up over the parts of a run, and as a page."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.clients.broker import ROOT
from tests.crash.cycles import CYCLES
from tests.crash.engine import PARTITIONS
from tests.crash.rot import PADDING_STEP

KINDS = ("power", "points", "failing", "rot", "broker")
PAIRS = {"power": ("ext4", "xfs"), "broker": ("killed", "cut")}  # kinds that are two
CODE = {"broker": ("storage", "rpk_py")}  # under test, else storage alone
BY_CYCLES = ("power", "broker")
PAGE = ROOT / "docs" / "DURABILITY.md"
TEMPLATE = Path(__file__).parent / "durability.md"
FIGURES = Path(__file__).parent / "figures.json"
CONTROLS = 5
CONTROL_CYCLES = 20

Facts = dict[str, Any]


def is_lost(kind: str, facts: Facts) -> bool:
    """Whether anything acknowledged was lost, or a control was not found out."""
    if kind in PAIRS:
        lost = [facts[name]["lost"] for name in PAIRS[kind]]
        return any(lost) or None in facts["control"]
    return facts["lost"] is not None or facts["control"] is None


def page(figures: Facts) -> str:
    """docs/DURABILITY.md."""
    power_facts, killed = figures["power"], figures["points"]
    failed, rotten, brokers = figures["failing"], figures["rot"], figures["broker"]
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
        (
            "kill -9 of a broker",
            f"{brokers['killed']['cycles']:,} cycles",
            brokers["killed"],
            "broker",
        ),
        ("power cut of a broker", f"{brokers['cut']['cycles']:,} cycles", brokers["cut"], "broker"),
    ]
    rows = []
    for what, how_often, facts, kind in table:
        records = f"{facts['records']:,}" if "records" in facts else "all, after each"
        rows.append(f"| {what} | {how_often}{_part(figures[kind])} | {records} | {_lost(facts)} |")
    runs = [_how(kind, figures[kind]["run"]) for kind in KINDS]
    return TEMPLATE.read_text().format(
        rows="\n".join(rows), runs="\n".join(runs),
        control=", ".join(map(str, power_facts["control"])),
        kinds=", ".join(f"{name} {count:,}" for name, count in failed["faults"].items()),
        files=", ".join(f"{name} {count:,}" for name, count in rotten["flips"].items()),
        partitions=PARTITIONS, control_cycles=CONTROL_CYCLES, controls=CONTROLS,
        points_control=killed["control"], failing_control=failed["control"],
        rot_control=rotten["control"], offline=failed["offline"], served=failed["served"],
        broker_cycles=CYCLES, broker_control=" and ".join(map(str, brokers["control"])),
        rolling=sum(brokers[name]["aimed"]["roll"] for name in PAIRS["broker"]),
        saving=sum(brokers[name]["aimed"]["checkpoint"] for name in PAIRS["broker"]),
        padding_step=PADDING_STEP, told=rotten["told"], newest=rotten["newest"],
    )  # fmt: skip


def report(kind: str, facts: Facts) -> None:
    """Write the figures of a kind down, and the page."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    figures[kind] = added(figures.get(kind), facts)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    write_page()


def write_page() -> None:
    """The page of the figures that there are, where no kind is missing."""
    figures = json.loads(FIGURES.read_text())
    if all(kind in figures for kind in KINDS):
        PAGE.write_text(page(figures))


def _how(kind: str, run: Facts) -> str:
    """The line that says how a run was made, on what, of which code."""
    words = f"--kinds {kind} --seed {run['seed']}"
    if kind in BY_CYCLES:
        words += f" --cycles {run['cycles']}"
    parts = ""
    if run["step"] > 1:
        words += f" --step {run['step']} --first N"
        firsts, every = sorted(run["firsts"]), list(range(1, run["step"] + 1))
        parts = f"1 to {len(every)}" if firsts == every else ", ".join(map(str, firsts))
        parts = f", N = {parts}"
    command = f"`make crash ARGS='{words}'`{parts}"
    facts = f"{run['seconds']:,} s, {run['when']}, {run['machine']}, {', '.join(run['trees'])}"
    return f"- {command}: {facts}"


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
    found["control"] = old["control"] or new["control"]
    both = {
        "trees": list(dict.fromkeys(old["run"]["trees"] + new["run"]["trees"])),
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


def facts_of_run(args: argparse.Namespace, kind: str, seconds: float) -> Facts:
    """What is to be told of how a run was made."""
    machine = (
        f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    return {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine,
        "trees": [_tree(name) for name in CODE.get(kind, ("storage",))],
        "seed": args.seed,
        "cycles": args.cycles,
        "step": args.step,
        "first": args.first,
        "seconds": round(seconds),
    }


def _tree(directory: str) -> str:
    """The code in a directory, named as git does: a rebase does not change that."""
    named = _git("rev-parse", "--short", f"HEAD:{directory}") or "unknown"
    return f"{directory} {named}{', changed' if _git('status', '--porcelain', directory) else ''}"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
