"""Bit rot: every byte of every file of a partition and of the journal, one flipped bit at a time.

    python -m tests.crash.rot [--step N] [--seed N]

A log with sealed segments, indexes, checkpoints, a log start and a journal is made, once closed and
once killed. For each byte a copy gets one flipped bit, and is opened and read from its start to
its end. Allowed is that the damage is told (the partition is offline, or the read is refused), or
that nothing of it is to be seen: every record that was acknowledged, and no other. After the damage
was told, all files but the flipped one must be as they were: nothing is cut or taken along.

One thing cannot be told apart: the newest record of a log that was killed. Nothing on the disk is
later and says that it had been durable, so rot in it looks like the torn write that it could be.
It is counted by itself.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import StorageError
from tests.storage.builder import BLOCK, Driven, Host, batch_of_size, drive, flip

LOGS = 3  # in the killed one; the journal needs several
SETTINGS = {"segment_bytes": 48 * 1024, "checkpoint_bytes": 40 * 1024}
SIZES = (30, 200, 1500, 5000, 60, 9000, 1, 700, 2500, 50, 900, 90)
PADDING_STEP = 64  # of the bytes between records: they are all alike


@dataclass(slots=True)
class Result:
    """How many flips, by kind of file; what became of them; `lost` is the first that was neither
    told nor harmless."""

    flips: dict[str, int] = field(default_factory=dict)
    told: int = 0
    harmless: int = 0
    newest: int = 0  # in the newest record of a killed log: taken for a torn write
    lost: str | None = None


@dataclass(slots=True)
class _Made:
    """A directory and what was acknowledged: per log the batches, and the log start."""

    path: Path
    batches: list[list[bytes]]
    starts: list[int]
    closed: bool


async def _make(path: Path, closed: bool) -> _Made:
    host = Host(path, **SETTINGS)
    if not closed:
        host.begin_journal()
    logs = [await host.open(f"events-{i}", partition=i) for i in range(1 if closed else LOGS)]
    for number, size in enumerate(SIZES * 2):
        for log in logs:
            log.append_batch(batch_of_size(size + 100 + number))
        for log in logs:
            await log.durable()
    await logs[0].log.delete_records(3)
    if not closed:
        for log in logs:  # what is in the journal alone
            log.append_batch(batch_of_size(333))
        for log in logs:
            await log.durable()
    made = _Made(
        path,
        [[bytes(stored.data) for stored in log.appended] for log in logs],
        [log.log.log_start_offset for log in logs],
        closed,
    )
    if closed:
        for log in logs:
            await log.close()
    else:
        await host.crash()
    return made


def run(
    folder: Path, seed: int, step: int = 1, say: Callable[[str], None] = lambda _text: None
) -> Result:
    """Flip a bit of every `step`-th byte of every file."""
    rng, result = random.Random(seed), Result()
    for closed in (True, False):
        source = folder / f"made-{closed}"
        source.mkdir()
        made = drive(_make(source, closed))
        # One log stands for all; the others are there so that the journal is used.
        folders = (source / "events-0", *source.glob("journal/*"))
        files = sorted(path for folder in folders for path in folder.iterdir())
        for path in files:
            name = path.relative_to(source)
            for pos in _positions(path)[rng.randrange(step) :: step]:
                _flip_one(folder / "work", made, name, pos, 1 << rng.randrange(8), result)
                if result.lost is not None:
                    return result
            say(f"{'closed' if closed else 'killed'} {name}: {sum(result.flips.values())} flips")
    return result


def _positions(path: Path) -> list[int]:
    """Every byte that is not zero or stands beside one that is not; of others some."""
    data = path.read_bytes()
    end = len(data.rstrip(b"\0")) + BLOCK
    return [
        pos
        for pos in range(min(len(data), end))
        if pos % PADDING_STEP == 0 or any(data[max(pos - 8, 0) : pos + 9])
    ]


def _flip_one(work: Path, made: _Made, name: Path, pos: int, mask: int, result: Result) -> None:
    shutil.rmtree(work, ignore_errors=True)
    in_journal = name.parts[0] == "journal"
    for part in ("journal", *(f"events-{i}" for i in range(len(made.batches)))):
        if (made.path / part).exists() and (in_journal or part in ("journal", "events-0")):
            shutil.copytree(made.path / part, work / part)
    flip(work / name, pos, mask)
    before = _contents(work)
    kind = name.suffix.lstrip(".")
    result.flips[kind] = result.flips.get(kind, 0) + 1
    told: list[str] = []

    async def scenario() -> None:
        host = Host(work, life=9, **SETTINGS)
        try:
            if (work / "journal").exists():
                host.read_journal()
        except StorageError as error:
            told.append(str(error))
            return
        for i, batches in enumerate(made.batches if in_journal else made.batches[:1]):
            try:
                driven = await host.open(f"events-{i}", partition=i)
            except StorageError as error:
                told.append(str(error))
                continue
            short = driven.log.durable_offset == len(batches) - 1
            if short and not made.closed and name == _newest(made.path, i):
                result.newest += 1
                batches = batches[:-1]
            wrong = await _wrong(driven, batches, made.starts[i], told)
            if wrong:
                raise AssertionError(f"log {i}: {wrong}")
        await host.crash()

    try:
        drive(scenario())
        if told and _changed(before, _contents(work), told):
            raise AssertionError(f"files changed though damage was told: {told[0]}")
    except AssertionError as error:
        result.lost = f"{name} byte {pos} mask {mask:#x}: {error}"
    if told:
        result.told += 1
    else:
        result.harmless += 1


def _newest(path: Path, index: int) -> Path:
    """The active segment of a log."""
    return max((path / f"events-{index}").glob("*.wal")).relative_to(path)


async def _wrong(driven: Driven, batches: list[bytes], start: int, told: list[str]) -> str:
    """What is wrong with what a log serves; nothing where it refuses."""
    log = driven.log
    if log.log_start_offset > start:
        return f"it starts at {log.log_start_offset}, not {start}"
    if log.durable_offset < len(batches):
        return f"it ends at {log.durable_offset}, and {len(batches)} was acknowledged"
    if log.durable_offset > len(batches):
        return f"it ends at {log.durable_offset}, and only {len(batches)} was ever appended"
    offset = max(start, log.log_start_offset)
    while offset < len(batches):
        try:
            slices, next_offset = await log.read(offset, len(batches), 1 << 20)
        except StorageError as error:
            told.append(str(error))
            return ""
        data = b"".join(map(bytes, slices))
        if data != b"".join(batches[offset:next_offset]):
            return f"other bytes are served from offset {offset} on"
        offset = next_offset
    return ""


def _contents(work: Path) -> dict[str, bytes]:
    return {str(p.relative_to(work)): p.read_bytes() for p in work.rglob("*.wal") if p.is_file()}


def _changed(before: dict[str, bytes], after: dict[str, bytes], told: list[str]) -> bool:
    """Whether a segment of the partition that told damage is gone or shorter in its records."""
    named = {text.split("/events-")[1].split("/")[0] for text in told if "/events-" in text}
    for path, data in before.items():
        if path.split("/")[0].removeprefix("events-") in {each.split(":")[0] for each in named}:
            left = after.get(path)
            if left is None or left.rstrip(b"\0") != data.rstrip(b"\0"):
                return True
    return False


def main() -> int:
    """The command; exit code 1 where a flip was neither told nor harmless."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="rot.", dir=where) as folder:
        result = run(Path(folder), args.seed, args.step, lambda text: print(text, flush=True))
    print(result)
    return int(result.lost is not None)


if __name__ == "__main__":
    sys.exit(main())
