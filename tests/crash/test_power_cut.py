"""An acknowledged record survives a power cut; and the test that says so can fail.

The broker's disk is an ext4 file system that loses power under load, 20 times (cut_disk.py). The
negative control is the same run on a topic that acknowledges before the sync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.broker import RunningBroker
from tests.crash.cut_disk import CutDisk
from tests.crash.cycles import (
    CYCLES,
    CYCLES_OF_A_BACKEND,
    SETTINGS,
    create_numbered_topic,
    retire_segments,
    run_cycles,
)

Note = Callable[[str], None]


@pytest.fixture
def broker(cut_disk: CutDisk, tmp_path: Path, io_backend: str) -> Iterator[RunningBroker]:
    """A broker whose data lies on the disk that loses power."""
    settings = {**SETTINGS, "io_backend": io_backend}
    running = RunningBroker(cut_disk.path / "data", tmp_path / "broker.log", settings)
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def cut_and_restart(broker: RunningBroker, cut_disk: CutDisk) -> Callable[[], None]:
    """Power off under load, power on, broker on."""

    def crash() -> None:
        cut_disk.cut_power()
        broker.kill()
        cut_disk.restore()
        broker.start()

    return crash


def test_acknowledged_records_survive_twenty_power_cuts(
    broker: RunningBroker, cut_and_restart: Callable[[], None], seed: int, note: Note
) -> None:
    retire_segments(broker, seed)
    create_numbered_topic(broker)
    outcome = run_cycles(broker, cut_and_restart, seed)
    note(outcome.summary())
    outcome.assert_kept()


@pytest.mark.parametrize("io_backend", ["ring", "threads"], indirect=True)
def test_acknowledged_records_survive_power_cuts_on_the_other_backends(
    broker: RunningBroker, cut_and_restart: Callable[[], None], seed: int, note: Note
) -> None:
    retire_segments(broker, seed)
    create_numbered_topic(broker)
    outcome = run_cycles(broker, cut_and_restart, seed, cycles=CYCLES_OF_A_BACKEND)
    note(outcome.summary())
    outcome.assert_kept(CYCLES_OF_A_BACKEND)


@pytest.mark.parametrize("flush_ms", ["60000", "20"])
def test_power_cuts_lose_records_that_were_acknowledged_before_the_sync(
    broker: RunningBroker,
    cut_and_restart: Callable[[], None],
    seed: int,
    note: Note,
    flush_ms: str,
) -> None:
    create_numbered_topic(broker, write_caching="true", flush_ms=flush_ms, flush_bytes=str(1 << 30))
    outcome = run_cycles(broker, cut_and_restart, seed, stop_at_loss=True)
    note(outcome.summary())
    assert outcome.verdict.lost, f"{CYCLES} power cuts lost nothing: this test proves nothing"
