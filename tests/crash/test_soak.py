"""The soak (soak.py) in short: every kind of crash once under real clients; and its own control.

The long one is a command: python -m tests.crash.soak --seconds 300
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.crash.soak import Options, run

SHARDS = 4


def test_clients_go_on_and_nothing_is_lost_whatever_is_killed(
    tmp_path: Path, seed: int, note: Callable[[str], None]
) -> None:
    result = run(
        Options(seconds=15, shards=SHARDS, seed=seed, directory=tmp_path, per_s=200), print
    )
    note(f"{len(result.crashes)} crashes under real clients: {result.verdict.report()}")
    assert result.kept, result.report()
    kinds = {crash.kind for crash in result.crashes}
    assert kinds >= {"kill shard 3", "freeze shard", "kill supervisor", "kill all"}
    assert result.verdict.acked_count > 1_000


def test_a_topic_that_acknowledges_in_memory_does_not_pass(
    tmp_path: Path, seed: int, note: Callable[[str], None]
) -> None:
    in_memory = {"write.caching": "true", "flush.ms": "60000", "flush.bytes": str(1 << 30)}
    options = Options(
        seconds=0,
        shards=SHARDS,
        seed=seed,
        directory=tmp_path,
        per_s=200,
        go_on_s_max=2,  # idempotent producers rightly stop when the log lost their records
        flush_s_max=2,
        configs=in_memory,
        crashes=("kill all",),
    )
    result = run(options, print)
    note(f"acknowledged in memory: {result.verdict.faults}")
    assert result.verdict.lost, "a kill of everything lost nothing: this test proves nothing"
    assert result.verdict.misread, "consumers had been given what is lost now"
    assert not result.kept
