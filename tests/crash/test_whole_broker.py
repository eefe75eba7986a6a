"""What `make crash` does to whole brokers, in short; test_kill.py and test_power_cut.py do more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.crash import whole_broker
from tests.crash.checker import Verdict
from tests.crash.cycles import CYCLES, Outcome


def test_killed_brokers_lose_nothing_but_what_was_answered_from_memory(
    tmp_path: Path, seed: int
) -> None:
    result = whole_broker.run(tmp_path, seed, 2, cuts=False)
    assert result.lost is None
    assert result.cycles == 2
    assert result.records >= result.acknowledged > 0
    assert whole_broker.control(tmp_path, seed, cuts=False) is not None


@pytest.mark.parametrize(
    ("verdict", "errors"),
    [(Verdict(5, 4, lost=["record 4"]), []), (Verdict(5, 5), ["record 4 was given up"])],
)
def test_a_round_that_lost_something_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, errors: list[str]
) -> None:
    rounds = [
        Outcome(Verdict(7, 8), CYCLES, [], Counter(roll=3), 1.0),
        Outcome(verdict, 11, errors, Counter(roll=1, checkpoint=2), 1.0),
    ]
    monkeypatch.setattr(whole_broker, "_round", lambda *_args: rounds.pop(0))
    result = whole_broker.run(tmp_path, 1, 3 * CYCLES, cuts=True)
    assert (result.cycles, result.acknowledged) == (CYCLES + 11, 12)
    assert result.aimed == {"roll": 4, "checkpoint": 2}
    assert result.lost is not None
    assert "record 4" in result.lost
