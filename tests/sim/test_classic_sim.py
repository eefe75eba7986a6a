"""Seeded runs of a classic group, and planted bugs that the same runs have to find.

RPK_PY_SEED picks the first seed; it is printed first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from rpk_py.groups.classic import ClassicGroup
from rpk_py.groups.classic_core import GroupCore
from rpk_py.groups.classic_rebalance import Rebalance
from rpk_py.groups.classic_values import GroupState
from tests.sim.classic_world import Violation, simulate

SEED = int(os.environ.get("RPK_PY_SEED", "1"))
RUNS = 60
RUNS_TO_FIND_A_BUG = 30


def test_groups_keep_their_invariants_through_crashes_and_lies() -> None:
    print(f"RPK_PY_SEED={SEED}")
    generations = crashes = lies = 0
    for seed in range(SEED, SEED + RUNS):
        try:
            world = simulate(seed)
        except AssertionError as error:
            raise AssertionError(f"RPK_PY_SEED={seed}: {error!r}") from error
        generations += world.generation_seen
        crashes += world.crashes
        lies += world.lies
    assert generations > 10 * RUNS, "hardly any rebalance took place"
    assert crashes > 2 * RUNS
    assert lies > 5 * RUNS


def test_a_seed_gives_the_same_run_every_time() -> None:
    print(f"RPK_PY_SEED={SEED}")
    first, second = simulate(SEED), simulate(SEED)
    assert first.log == second.log
    assert first.owners == second.owners


def _any_generation_commits(*args: Any) -> ErrorCode:
    return ErrorCode.NONE


def _never_wakes(self: GroupCore, deadline_ms: int) -> None:
    """No deadline is ever met."""


def _stays_in_generation(original: Callable[[Rebalance], None]) -> Callable[[Rebalance], None]:
    def complete_join(self: Rebalance) -> None:
        original(self)
        if self._core.state is GroupState.COMPLETING_REBALANCE:
            self._core.generation -= 1

    return complete_join


def _assigns_all_to_all(original: Callable[..., None]) -> Callable[..., None]:
    def assigned(self: Rebalance, assignments: dict[str, bytes], *rest: Any) -> None:
        most = max(assignments.values(), key=len)
        original(self, dict.fromkeys(assignments, most), *rest)

    return assigned


BUGS: dict[str, tuple[type, str, Callable[[Any], Any], str]] = {
    "commits of any generation": (
        ClassicGroup,
        "check_commit",
        lambda _: _any_generation_commits,
        "went back",
    ),
    "deadlines that nobody meets": (GroupCore, "wake_by", lambda _: _never_wakes, "waits since"),
    "a generation twice": (Rebalance, "complete_join", _stays_in_generation, "of generation"),
    "one share for everybody": (Rebalance, "assigned", _assigns_all_to_all, "of generation"),
}


def _simulate_many() -> None:
    for seed in range(SEED, SEED + RUNS_TO_FIND_A_BUG):
        simulate(seed)


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"RPK_PY_SEED={SEED}")
    owner, name, make, tells = BUGS[bug]
    monkeypatch.setattr(owner, name, make(getattr(owner, name)))
    with pytest.raises(Violation, match=tells):
        _simulate_many()
