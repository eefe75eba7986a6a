"""Whole brokers that are killed, or whose machine loses power, under a real client, in rounds.

    make crash ARGS='--kinds broker'

A round is what test_kill.py and test_power_cut.py do (cycles.py): an idempotent producer that never
gives up, a crash and a restart some twenty times, then everything is read and held to what was
acknowledged. Each round has a data directory and a disk backend of its own. The control is a topic
with write.caching, which is answered from memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.broker import RunningBroker
from tests.crash.cut_disk import CutDisk
from tests.crash.cycles import (
    AIMS,
    CYCLES,
    SETTINGS,
    Outcome,
    create_numbered_topic,
    retire_segments,
    run_cycles,
)
from tests.crash.power import BACKENDS

CACHED = {"write_caching": "true", "flush_ms": "60000", "flush_bytes": str(1 << 30)}


@dataclass(slots=True)
class Result:
    """`cycles` crashes; `acknowledged` records, all of them looked for among `records` read;
    `aimed`: how many crashes came while a segment or a checkpoint was being made; `lost` is what
    the checker or the producer said first."""

    cycles: int = 0
    acknowledged: int = 0
    records: int = 0
    aimed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(AIMS, 0))
    lost: str | None = None


def run(
    folder: Path, seed: int, cycles: int, cuts: bool,
    say: Callable[[str], None] = lambda _text: None,
) -> Result:  # fmt: skip
    """Crash brokers `cycles` times, or until something is lost. `cuts`: by power cuts, not kills.

    Raises CutDiskUnavailable."""
    result = Result()
    while result.cycles < cycles and result.lost is None:
        number = result.cycles // CYCLES
        outcome = _round(folder, seed + number, min(CYCLES, cycles - result.cycles), cuts, number)
        say(outcome.summary())
        result.cycles += outcome.cycles
        result.acknowledged += outcome.verdict.acked_count
        result.records += outcome.verdict.read_count
        for aim in AIMS:
            result.aimed[aim] += outcome.crashed_in[aim]
        if outcome.verdict.faults or outcome.producer_errors:
            said = [outcome.verdict.report(), *outcome.producer_errors]
            result.lost = f"seed {seed + number}: {'; '.join(said)}"
    return result


def control(folder: Path, seed: int, cuts: bool) -> int | None:
    """In which cycle records were lost that had been acknowledged in memory; None: in none."""
    outcome = _round(folder, seed, CYCLES, cuts, 0, lying=True)
    return outcome.cycles if outcome.verdict.lost else None


def _round(
    folder: Path, seed: int, cycles: int, cuts: bool, number: int, lying: bool = False
) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="round.", dir=folder) as name:
        place = Path(name)
        disk = CutDisk(place) if cuts else None
        settings = {**SETTINGS, "io_backend": BACKENDS[number % len(BACKENDS)]}
        data_dir = (disk.path if disk is not None else place) / "data"
        broker = RunningBroker(data_dir, place / "broker.log", settings)

        def crash() -> None:
            if disk is not None:
                disk.cut_power()
            broker.kill()
            if disk is not None:
                disk.restore()
            broker.start()

        try:
            broker.start()
            if not lying:
                retire_segments(broker, seed)
            create_numbered_topic(broker, **(CACHED if lying else {}))
            return run_cycles(broker, crash, seed, stop_at_loss=lying, cycles=cycles)
        finally:
            broker.close()
            if disk is not None:
                disk.close()
