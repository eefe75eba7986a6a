"""Leader epochs from before a restart, which every start raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from tests.clients.broker import RunningBroker
from tests.hostile.observe import observe
from tests.hostile.rows_data import ANSWERED, FETCHED, epoch_end, fetch, list_offsets
from tests.hostile.table import answer, ask
from tests.hostile.target import Target


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A target whose topic is older than its broker's process."""
    directory = tmp_path_factory.mktemp("restarted")
    broker = RunningBroker(directory / "data", directory / "broker.log")
    try:
        broker.start()
        name = Target("127.0.0.1", broker.port).topic.name
        broker.restart()
        target = Target("127.0.0.1", broker.port)
        old = target.look_up(name)
        assert old is not None
        target.topic = old
        yield target
        broker.stop()
    finally:
        broker.close()


@pytest.mark.parametrize(
    ("build", "version", "path"),
    [(fetch, 12, FETCHED), (list_offsets, 7, ANSWERED), (epoch_end, 4, ANSWERED)],
)
def test_an_epoch_from_before_a_restart_is_fenced(
    restarted: Target, build: Callable[..., Any], version: int, path: str
) -> None:
    epoch = restarted.topic.leader_epoch
    assert epoch > 0
    for asked, error in (
        (epoch - 1, ErrorCode.FENCED_LEADER_EPOCH),  # KIP-320
        (epoch, ErrorCode.NONE),
        (epoch + 1, ErrorCode.UNKNOWN_LEADER_EPOCH),
    ):
        seen = observe(restarted, ask(build(restarted, epoch=asked), version))
        assert seen.agrees_with(answer(path, error), restarted), (asked, seen.answers)
