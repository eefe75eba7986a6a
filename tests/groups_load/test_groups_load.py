"""The mixed load in short, on two shards that are killed; and that its checker bites on it.

The long one is a command: python -m tests.groups_load --seconds 300 --members 20
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.groups_load import history
from tests.groups_load.load import Options, run
from tests.groups_load.members import CLIENTS


def test_mixed_groups_lose_nothing_and_share_nothing_while_members_and_shards_die(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("RPK_PY_SEED", random.SystemRandom().randrange(2**32)))
    print(f"RPK_PY_SEED={seed}")
    result = run(
        Options(
            seconds=16,
            seed=seed,
            directory=tmp_path,
            members=12,
            per_s=2000,
            step_s=0.8,
            shard_kill_s=5.0,
        ),
        print,
    )
    assert not result.all_faults, result.report()
    assert len(result.shard_back_s) >= 2, "both shards were to be killed"
    assert result.written > 10_000
    for client in CLIENTS:
        verdict = result.groups[client]
        assert verdict.records == result.written
        assert verdict.intervals > 12, f"{client}: too little ownership is proven to say anything"
    _assert_that_forged_histories_are_found(tmp_path, result.written)


def _assert_that_forged_histories_are_found(directory: Path, written: int) -> None:
    """The same lives, once as if another member had lived one of them as well, once with one
    member's reads left out: the checker must see both."""
    for client in CLIENTS:
        paths = sorted(directory.glob(f"{client}-[0-9]*.life"))
        lives = {path.stem: path.read_text().splitlines() for path in paths}
        longest = max(lives, key=lambda name: len(lives[name]))
        counts = dict(enumerate(map(int, (directory / "producer.life").read_text().split())))
        assert sum(counts.values()) == written
        members = [history.parse(name, lines) for name, lines in lives.items()]
        doubled = [*members, history.parse("forged", lives[longest])]
        assert any("both owned" in text for text in history.check_group(doubled, counts).faults)
        unread = [line for line in lives[longest] if not line.startswith("read")]
        robbed = [member for member in members if member.name != longest]
        robbed.append(history.parse(longest, unread))
        assert any("nobody" in text for text in history.check_group(robbed, counts).faults)
