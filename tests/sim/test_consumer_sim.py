"""Seeded runs of a consumer group (KIP-848), and planted bugs that the same runs have to find.

RPK_PY_SEED picks the first seed; it is printed first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from rpk_py.groups import consumer, consumer_members
from rpk_py.groups.assignors import ASSIGNORS
from rpk_py.groups.consumer import ConsumerGroup
from rpk_py.groups.consumer_members import ConsumerMember
from tests.sim.consumer_world import SESSION_MS, Violation, seen, simulate

SEED = int(os.environ.get("RPK_PY_SEED", "1"))
RUNS = 50
RUNS_TO_FIND_A_BUG = 200


def test_groups_keep_their_invariants_through_crashes_and_lies() -> None:
    print(f"RPK_PY_SEED={SEED}")
    epochs = crashes = lies = gained = 0
    for seed in range(SEED, SEED + RUNS):
        try:
            world = simulate(seed)
        except AssertionError as error:
            raise AssertionError(f"RPK_PY_SEED={seed}: {error!r}") from error
        epochs += world.epoch_durable
        crashes += world.crashes
        lies += world.lies
        gained += world.gained
    assert epochs > 20 * RUNS, "hardly any rebalance took place"
    assert gained > 20 * RUNS, "hardly any partition changed hands"
    assert crashes > 2 * RUNS
    assert lies > 5 * RUNS


def test_a_seed_gives_the_same_run_every_time() -> None:
    print(f"RPK_PY_SEED={SEED}")
    first, second = simulate(SEED), simulate(SEED)
    assert first.log == second.log
    assert (first.now_ms, first.batches) == (second.now_ms, second.batches)
    assert seen(first.group) == seen(second.group)


Make = Callable[[Any], Any]


def _takes_what_others_have(original: Any) -> Any:
    def reconcile(member: Any, target: Any, epoch: int, owned: Any, is_free: Any) -> bool:
        taken: bool = original(member, target, epoch, owned, lambda topic, index: True)
        return taken

    return reconcile


def _forgets(name: str) -> Make:
    """A member's record is read back without a part of it."""

    def make(original: Any) -> Any:
        def take_assignment(self: ConsumerMember, value: Any) -> None:
            original(self, value)
            setattr(self, name, {})

        return take_assignment

    return make


def _knows_no_epochs(original: Any) -> Any:
    return lambda self, request: self._find(request)


def _expects_too_much(original: Any) -> Any:
    def expect_heartbeat(self: ConsumerGroup, member: ConsumerMember) -> None:
        original(self, member)
        member.session_deadline_ms = self._now_ms + SESSION_MS // 2
        self._wake_by(member.session_deadline_ms)

    return expect_heartbeat


def _stays_in_epoch(original: Any) -> Any:
    def raise_epoch(self: ConsumerGroup, reason: str) -> Any:
        original(self, reason)
        self.epoch = max(self.epoch - (self.epoch % 5 == 0), 1)
        return [self._metadata()]

    return raise_epoch


BUGS: dict[str, tuple[Any, str, Make, str]] = {
    "assigned before it is given up": (
        consumer,
        "reconcile",
        _takes_what_others_have,
        "is held by",
    ),
    "given up without a word": (
        consumer_members,
        "_has",
        lambda _: lambda owned, wanted: False,
        "is held by",
    ),
    "what is to be given up is not loaded": (
        ConsumerMember,
        "take_assignment",
        _forgets("revoking"),
        "is held by|the log says",
    ),
    "what is assigned is not loaded": (
        ConsumerMember,
        "take_assignment",
        _forgets("assigned"),
        "is held by|the log says|settled with",
    ),
    "any epoch will do": (ConsumerGroup, "_known_member", _knows_no_epochs, "lie was accepted"),
    "commits of any epoch": (
        ConsumerGroup,
        "check_commit",
        lambda _: lambda *args: ErrorCode.NONE,
        "old epoch was accepted",
    ),
    "sessions end too early": (
        ConsumerGroup,
        "_expect_heartbeat",
        _expects_too_much,
        "was removed after",
    ),
    "deadlines that nobody meets": (
        ConsumerGroup,
        "_wake_by",
        lambda _: lambda self, deadline_ms: None,
        "settled",
    ),
    "an epoch twice": (ConsumerGroup, "_raise_epoch", _stays_in_epoch, "settled|is held by"),
    "topics that change are not seen": (
        ConsumerGroup,
        "_follow_topics",
        lambda original: (
            lambda self, state, resubscribes: original(self, state, True) if resubscribes else []
        ),
        "settled with",
    ),
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


def test_an_assignor_that_forgets_a_partition_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"RPK_PY_SEED={SEED}")
    original = ASSIGNORS["uniform"]

    def forgetful(members: Any, counts: dict[bytes, int]) -> Any:
        return original(members, {topic: count - 1 for topic, count in counts.items()})

    monkeypatch.setitem(ASSIGNORS, "uniform", forgetful)
    monkeypatch.setitem(ASSIGNORS, "range", forgetful)
    with pytest.raises(Violation, match="settled with"):
        _simulate_many()
