"""An acknowledged record survives kill -9 of the whole broker, and so does the producer's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.broker import RunningBroker
from tests.crash.cycles import (
    CYCLES,
    CYCLES_OF_A_BACKEND,
    PARTITIONS,
    SETTINGS,
    TOPIC,
    create_numbered_topic,
    retire_segments,
    run_cycles,
)

ROLLS_MIN = 200
Note = Callable[[str], None]


@pytest.fixture
def broker(tmp_path: Path, io_backend: str) -> Iterator[RunningBroker]:
    """The broker that is killed."""
    settings = {**SETTINGS, "io_backend": io_backend}
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", settings)
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def kill_and_restart(broker: RunningBroker) -> Callable[[], None]:
    """SIGKILL under load, then start again at once."""

    def crash() -> None:
        broker.kill()
        broker.start()

    return crash


def test_acknowledged_records_survive_twenty_kills(
    broker: RunningBroker, kill_and_restart: Callable[[], None], seed: int, note: Note
) -> None:
    retire_segments(broker, seed)
    create_numbered_topic(broker)
    outcome = run_cycles(broker, kill_and_restart, seed)
    note(outcome.summary())
    outcome.assert_kept()
    segments = len(list(broker.data_dir.glob(f"{TOPIC}-*/*.wal")))
    assert segments - PARTITIONS >= ROLLS_MIN, "each roll also writes a checkpoint"


@pytest.mark.parametrize("io_backend", ["ring", "threads"], indirect=True)
def test_acknowledged_records_survive_kills_on_the_other_backends(
    broker: RunningBroker, kill_and_restart: Callable[[], None], seed: int, note: Note
) -> None:
    retire_segments(broker, seed)
    create_numbered_topic(broker)
    outcome = run_cycles(broker, kill_and_restart, seed, cycles=CYCLES_OF_A_BACKEND)
    note(outcome.summary())
    outcome.assert_kept(CYCLES_OF_A_BACKEND)


def test_kills_lose_records_that_were_acknowledged_in_memory(
    broker: RunningBroker, kill_and_restart: Callable[[], None], seed: int, note: Note
) -> None:
    create_numbered_topic(broker, write_caching="true", flush_ms="60000", flush_bytes=str(1 << 30))
    outcome = run_cycles(broker, kill_and_restart, seed, stop_at_loss=True)
    note(outcome.summary())
    assert outcome.verdict.lost, f"{CYCLES} kills lost nothing: this test proves nothing"
