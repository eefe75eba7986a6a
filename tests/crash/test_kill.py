"""An acknowledged record survives kill -9 of the whole broker, and so does the producer's state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.broker import RunningBroker
from tests.crash.cycles import (
    PARTITIONS,
    SETTINGS,
    TOPIC,
    create_numbered_topic,
    retire_segments,
    run_cycles,
)

ROLLS_MIN = 200


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """The broker that is killed."""
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", SETTINGS)
    try:
        yield running.start()
    finally:
        running.close()


def test_acknowledged_records_survive_twenty_kills(broker: RunningBroker, seed: int) -> None:
    retire_segments(broker, seed)
    create_numbered_topic(broker)

    def crash() -> None:
        broker.kill()
        broker.start()

    outcome = run_cycles(broker, crash, seed)
    outcome.assert_kept()
    segments = len(list(broker.data_dir.glob(f"{TOPIC}-*/*.wal")))
    assert segments - PARTITIONS >= ROLLS_MIN, "each roll also writes a checkpoint"
