"""The figures of `make crash`: parts of a run add up, and the page hides no loss."""

from __future__ import annotations

import json
from typing import Any

from tests.crash.report import FIGURES, PAGE, _sum, added, is_lost, page


def part(first: int, **facts: Any) -> dict[str, Any]:
    run = {"step": 2, "seed": 7, "first": first, "seconds": 10, "when": "a day"}
    run |= {"machine": "a machine", "trees": [f"storage {first}"], "cycles": 1000}
    return {"lost": None, "control": 3, "run": run, **facts}


def figures() -> dict[str, Any]:
    """Of a run in which nothing was lost."""
    disk = {"cycles": 1000, "records": 5000, "lost": None}
    broker = {"cycles": 100, "records": 900, "aimed": {"roll": 3, "checkpoint": 4}, "lost": None}
    kinds = {
        "power": part(1, ext4=disk, xfs=disk | {"cycles": 200}, control=[2, 4]),
        "points": part(1, points=50, records=70),
        "failing": part(1, faults={"write EIO": 9}, records=80, offline=4, served=5),
        "rot": part(1, flips={"wal": 30, "index": 4}, told=20, newest=2),
        "broker": part(1, killed=broker, cut=broker, control=[1, 2]),
    }
    return {kind: added(None, facts) for kind, facts in kinds.items()}


def test_parts_of_a_run_add_up() -> None:
    first = added(None, part(1, points=10, faults={"a": 1}, ended_s=1.5))
    disk = {"cycles": 2, "lost": None}
    cuts = _sum(disk, disk | {"lost": "a record"})
    assert cuts == {"cycles": 4, "lost": "a record"}
    other = part(2, points=5, faults={"a": 2, "b": 3}, ended_s=2.0, lost="something")
    both = added(first, other)
    assert (both["points"], both["faults"]) == (15, {"a": 3, "b": 3})
    assert both["ended_s"] == 3.5
    assert (both["lost"], both["control"]) == ("something", 3)
    assert both["run"]["trees"] == ["storage 1", "storage 2"]
    assert added(added(None, part(2, control=[])), part(1, control=[4]))["control"] == [4]
    assert (both["run"]["firsts"], both["run"]["seconds"]) == ([1, 2], 20)


def test_another_run_begins_anew() -> None:
    first = added(None, part(1, points=10))
    assert added(first, part(1, points=4))["points"] == 4
    other_seed = part(2, points=4)
    other_seed["run"]["seed"] = 8
    assert added(first, other_seed)["points"] == 4


def test_the_page_says_what_was_lost_and_what_was_left_out() -> None:
    facts = figures()
    assert "| power cut, xfs | 200 cycles (1 in 2) | 5,000 | 0 |" in page(facts)
    assert "| bit rot | 34 flips (1 in 2) | all, after each | 0 |" in page(facts)
    how = (
        "ARGS='--kinds rot --seed 7 --step 2 --first N'`, N = 1: 10 s, a day, a machine, storage 1"
    )
    assert how in page(facts)
    facts["points"]["lost"] = "offset 3"
    assert "| SIGKILL | 50 system calls (1 in 2) | 70 | **offset 3** |" in page(facts)


def test_a_control_that_is_not_found_out_is_no_success() -> None:
    facts = figures()
    assert not any(is_lost(kind, facts[kind]) for kind in facts)
    facts["rot"]["control"] = None
    facts["power"]["control"] = [2, None]
    facts["points"]["lost"] = "offset 3"
    facts["broker"]["cut"]["lost"] = "a record"
    assert [kind for kind in facts if is_lost(kind, facts[kind])] == [
        "power",
        "points",
        "rot",
        "broker",
    ]


def test_the_page_is_that_of_the_figures_and_nothing_was_lost() -> None:
    kept = json.loads(FIGURES.read_text())
    assert PAGE.read_text() == page(kept), "run: make crash ARGS=--page"
    assert not any(is_lost(kind, facts) for kind, facts in kept.items())
