"""Consumer groups when shards or everything are killed with -9: no commit, no group is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.broker import RunningBroker
from tests.clients.group_members import KINDS, join, pump, share
from tests.clients.test_groups import PARTITIONS, QUICK, SHARDS, ends, fill, numbers
from tests.clients.topics import create_topic


@pytest.fixture
def two_shards(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker of the test's own."""
    running = RunningBroker(
        tmp_path / "data", tmp_path / "broker.log", settings=QUICK, shards=SHARDS
    )
    try:
        yield running.start()
    finally:
        running.close()


def kill_each_shard(broker: RunningBroker) -> None:
    for index in range(SHARDS):
        broker.kill_shard(index)


def kill_all(broker: RunningBroker) -> None:
    broker.kill()
    broker.start()


@pytest.mark.parametrize("crash", [kill_each_shard, kill_all, RunningBroker.restart])
def test_every_client_goes_on_as_a_member_and_from_its_commit_after(
    two_shards: RunningBroker, crash: Callable[[RunningBroker], None]
) -> None:
    broker = two_shards
    topic = create_topic(broker, partitions=PARTITIONS)
    fill(broker, topic, 0, 80)
    members = {kind: join(broker, kind, kind, topic) for kind in KINDS}
    try:
        for kind, member in members.items():
            pump([member], lambda member=member: len(member.got) >= 80, f"{kind} reads")
            member.commit(ends(80), kind)
        crash(broker)
        everything = set(range(120))
        fill(broker, topic, 80, 40)
        for kind, member in members.items():
            wanted = f"{kind} goes on"
            pump([member], lambda member=member: set(numbers(member)) == everything, wanted, 60)
            assert member.committed(1) == (20, kind)
            assert share([member], PARTITIONS)
    finally:
        for member in members.values():
            member.close()  # one that is left to the garbage collector may hold the interpreter
    for kind in KINDS:
        again = join(broker, kind, kind, topic)
        pump([again], lambda again=again: len(again.got) >= 40, f"{kind} starts at its commit")
        assert numbers(again) == list(range(80, 120))
        again.close()
